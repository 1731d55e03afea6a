//! Where a peer stands, what can happen to it, and where that leads: the table of the states.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a peer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PeerStatus)]
pub enum Status {
    /// One operator has proposed; nobody has answered.
    Proposed,
    /// The token was presented; no trust has been exchanged.
    Accepted,
    /// Trust has been exchanged; no beat has come through.
    Enrolled,
    /// Beats come through, both ways.
    Active,
    /// They came through once, and don't now.
    Degraded,
    /// An operator has stopped it for the time being.
    Suspended,
    /// An operator has ended it.
    Revoked,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Proposed,
        Self::Accepted,
        Self::Enrolled,
        Self::Active,
        Self::Degraded,
        Self::Suspended,
        Self::Revoked,
    ];

    /// What it may become.
    #[must_use]
    pub const fn allowed(self) -> &'static [Self] {
        match self {
            Self::Proposed | Self::Suspended => &[Self::Accepted, Self::Revoked],
            Self::Accepted => &[Self::Enrolled, Self::Suspended, Self::Revoked],
            Self::Enrolled | Self::Degraded => &[Self::Active, Self::Suspended, Self::Revoked],
            Self::Active => &[Self::Degraded, Self::Suspended, Self::Revoked],
            Self::Revoked => &[],
        }
    }

    /// What it becomes by `event`; none if that can't happen to it.
    #[must_use]
    pub const fn after(self, event: Event) -> Option<Self> {
        match (event, self) {
            (Event::Accept, Self::Proposed) | (Event::Resume, Self::Suspended) => Some(Self::Accepted),
            (Event::Enroll, Self::Accepted) => Some(Self::Enrolled),
            (Event::Beat, Self::Enrolled | Self::Active | Self::Degraded) => Some(Self::Active),
            (Event::Degrade, Self::Active | Self::Degraded) => Some(Self::Degraded),
            (Event::Suspend, Self::Accepted | Self::Enrolled | Self::Active | Self::Degraded) => {
                Some(Self::Suspended)
            }
            (
                Event::Revoke,
                Self::Proposed
                | Self::Accepted
                | Self::Enrolled
                | Self::Active
                | Self::Degraded
                | Self::Suspended,
            ) => Some(Self::Revoked),
            (
                Event::Accept,
                Self::Accepted
                | Self::Enrolled
                | Self::Active
                | Self::Degraded
                | Self::Suspended
                | Self::Revoked,
            )
            | (
                Event::Resume,
                Self::Proposed
                | Self::Accepted
                | Self::Enrolled
                | Self::Active
                | Self::Degraded
                | Self::Revoked,
            )
            | (
                Event::Enroll,
                Self::Proposed
                | Self::Enrolled
                | Self::Active
                | Self::Degraded
                | Self::Suspended
                | Self::Revoked,
            )
            | (Event::Beat, Self::Proposed | Self::Accepted | Self::Suspended | Self::Revoked)
            | (
                Event::Degrade,
                Self::Proposed | Self::Accepted | Self::Enrolled | Self::Suspended | Self::Revoked,
            )
            | (Event::Suspend, Self::Proposed | Self::Suspended | Self::Revoked)
            | (Event::Revoke, Self::Revoked) => None,
        }
    }

    /// Whether its certificates are good for anything here.
    #[must_use]
    pub const fn may_call(self) -> bool {
        match self {
            Self::Enrolled | Self::Active | Self::Degraded => true,
            Self::Proposed | Self::Accepted | Self::Suspended | Self::Revoked => false,
        }
    }

    /// Whether it holds its URL, site and anchors against another peer.
    #[must_use]
    pub const fn is_live(self) -> bool {
        match self {
            Self::Proposed
            | Self::Accepted
            | Self::Enrolled
            | Self::Active
            | Self::Degraded
            | Self::Suspended => true,
            Self::Revoked => false,
        }
    }

    /// The word that stands in answers and in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Accepted => "accepted",
            Self::Enrolled => "enrolled",
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What can happen to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The token was presented, or taken.
    Accept,
    /// Trust was exchanged.
    Enroll,
    /// A verified exchange, whoever began it.
    Beat,
    /// Silence for too long, or a refusal.
    Degrade,
    /// An operator stops it.
    Suspend,
    /// An operator lets it go on.
    Resume,
    /// An operator ends it.
    Revoke,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Accept,
        Self::Enroll,
        Self::Beat,
        Self::Degrade,
        Self::Suspend,
        Self::Resume,
        Self::Revoke,
    ];

    /// The word for messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accepted",
            Self::Enroll => "enrolled",
            Self::Beat => "beaten for",
            Self::Degrade => "degraded",
            Self::Suspend => "suspended",
            Self::Resume => "resumed",
            Self::Revoke => "revoked",
        }
    }
}

/// Something can't happen to a peer as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a peer that is {from} can't be {}", event.as_str())]
pub struct TransitionError {
    /// Where it stands.
    pub from: Status,
    /// What should have happened.
    pub event: Event,
}
