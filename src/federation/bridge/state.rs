//! Where a bridge stands, what can happen to it, and where that leads: the table of the states.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a bridge of ours stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = BridgeState)]
pub enum State {
    /// The fleet wants it, and it isn't agreed.
    Proposed,
    /// Both sites have agreed: it may carry traffic.
    Active,
    /// It was agreed, and doesn't count for the time being.
    Suspended,
    /// It is over; what is wanted again is a new row.
    Revoked,
}

/// What can happen to a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Both halves are there, and nothing stands against it.
    Agree,
    /// The peer was suspended, or something else stands against it now.
    Suspend,
    /// Nothing stands against it any more.
    Resume,
    /// One of the two doesn't want it any more, or the peer was revoked.
    Revoke,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Proposed, Self::Active, Self::Suspended, Self::Revoked];

    /// What it becomes by `event`; none if that can't happen to it.
    #[must_use]
    pub const fn after(self, event: Event) -> Option<Self> {
        match (event, self) {
            (Event::Agree, Self::Proposed) | (Event::Resume, Self::Suspended) => Some(Self::Active),
            (Event::Suspend, Self::Active) => Some(Self::Suspended),
            (Event::Revoke, Self::Proposed | Self::Active | Self::Suspended) => Some(Self::Revoked),
            (Event::Agree, Self::Active | Self::Suspended | Self::Revoked)
            | (Event::Resume, Self::Proposed | Self::Active | Self::Revoked)
            | (Event::Suspend, Self::Proposed | Self::Suspended | Self::Revoked)
            | (Event::Revoke, Self::Revoked) => None,
        }
    }

    /// The word that stands in answers and in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }

    /// How bad a change to this state is, for whoever watches.
    #[must_use]
    pub const fn severity(self) -> &'static str {
        match self {
            Self::Revoked => "high",
            Self::Suspended => "medium",
            Self::Proposed | Self::Active => "low",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a bridge that isn't active waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = BridgeWaitsFor)]
pub enum WaitsFor {
    /// A peer of this alias with which trust was exchanged: `sdwand peer accept`.
    Trust,
    /// The peer to be resumed: `sdwand peer resume`.
    Resume,
    /// The peer's operator, who has ended or stopped the peering at that end.
    PeerOperator,
    /// The operators to compare the words: `sdwand peer verify`.
    Verification,
    /// The peer's data to reside here, or the operator to allow that it doesn't.
    Residency,
    /// What the fleet exports to be fit for another site.
    Export,
    /// The peer's gateway to have a WireGuard key that is nobody else's here.
    Key,
    /// Another bridge of the fleet for the same peer and network to go.
    Duplicate,
    /// The peer to have the bridge in its fleet, too.
    Peer,
    /// An operator to go on with what was paused.
    Pause,
    /// A second operator to approve what the fleet wants: `sdwand approvals`.
    Approval,
    /// The fleet to want something else: an operator said no to this.
    Denied,
}

impl WaitsFor {
    /// For operators: what to do.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Trust => {
                "no trust was exchanged with a peer of this alias: `sdwand peer accept`, or `sdwand peer propose`"
            }
            Self::Resume => "the peer is suspended: `sdwand peer resume`",
            Self::PeerOperator => "the peer's operator has ended or stopped the peering: ask",
            Self::Verification => "compare the six words with the peer's operator, then `sdwand peer verify`",
            Self::Residency => "the peer's data resides elsewhere, and [federation] residency refuses that",
            Self::Export => "the gateway is no member of the network, or the bridge exports what no site may",
            Self::Key => {
                "the peer's gateway names a WireGuard key that is a node's here, or that another peer named before: of two peers, revoke the one whose key it isn't"
            }
            Self::Duplicate => {
                "another bridge of the fleet leads the same peer into the same network: remove one"
            }
            Self::Peer => "the peer's fleet has no such bridge yet: its operator runs `sdwand peer bridge`",
            Self::Pause => "what is new between sites is paused: `sdwand federation resume`",
            Self::Approval => "a second operator must approve what is new: `sdwand approvals list`",
            Self::Denied => {
                "an operator denied what is new: change the bridge in the fleet, or remove it and add it again"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        use Event::{Agree, Resume, Revoke, Suspend};
        use State::{Active, Proposed, Revoked, Suspended};
        for (from, event, to) in [
            (Proposed, Agree, Some(Active)),
            (Proposed, Suspend, None),
            (Proposed, Resume, None),
            (Proposed, Revoke, Some(Revoked)),
            (Active, Agree, None),
            (Active, Suspend, Some(Suspended)),
            (Active, Resume, None),
            (Active, Revoke, Some(Revoked)),
            (Suspended, Agree, None),
            (Suspended, Suspend, None),
            (Suspended, Resume, Some(Active)),
            (Suspended, Revoke, Some(Revoked)),
            (Revoked, Agree, None),
            (Revoked, Suspend, None),
            (Revoked, Resume, None),
            (Revoked, Revoke, None),
        ] {
            assert_eq!(from.after(event), to, "{from} {event:?}");
        }
        let allowed = |from: State| -> Vec<State> {
            let events = [Agree, Suspend, Resume, Revoke].into_iter();
            events.filter_map(|event| from.after(event)).collect()
        };
        assert_eq!(allowed(Proposed), [Active, Revoked]);
        assert_eq!(allowed(Active), [Suspended, Revoked]);
        assert_eq!(allowed(Suspended), [Active, Revoked]);
        assert_eq!(allowed(Revoked), []);
    }
}
