//! What may need a second operator.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::federation::bridge::{BridgeId, Scope};
use crate::federation::gateway::Proposal;
use crate::federation::peer::PeerId;
use crate::federation::wire::Said;
use crate::model::Name;
use crate::model::host::Approvals;

/// Which key of `[approvals]` it falls under. To revoke isn't among them: it needs no approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ApprovalAction)]
pub enum Action {
    /// Propose a peer, or draw its token anew.
    Propose,
    /// Accept a peer.
    Accept,
    /// Bridge a network.
    Bridge,
    /// Rotate a trust anchor.
    Anchor,
    /// Create or delete a tenant.
    Tenant,
    /// Compose a topology.
    Compose,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Propose,
        Self::Accept,
        Self::Bridge,
        Self::Anchor,
        Self::Tenant,
        Self::Compose,
    ];

    /// The word that stands in `[approvals]`, and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Propose => "propose",
            Self::Accept => "accept",
            Self::Bridge => "bridge",
            Self::Anchor => "anchor",
            Self::Tenant => "tenant",
            Self::Compose => "compose",
        }
    }

    /// Whether it begins something new with another site: then it isn't done while federation is paused.
    #[must_use]
    pub const fn is_new(self) -> bool {
        match self {
            Self::Propose | Self::Accept | Self::Bridge => true,
            Self::Anchor | Self::Tenant | Self::Compose => false,
        }
    }

    /// Whether it waits for a second operator here.
    #[must_use]
    pub const fn is_gated(self, approvals: &Approvals) -> bool {
        match self {
            Self::Propose => approvals.propose,
            Self::Accept => approvals.accept,
            Self::Bridge => approvals.bridge,
            Self::Anchor => approvals.anchor,
            Self::Tenant => approvals.tenant,
            Self::Compose => approvals.compose,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What an operator asks for, as it is kept until another approves it: never a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Deed {
    /// Propose a peer.
    Propose(Proposal),
    /// Draw a proposed peer's token anew: whoever has it is as good as proposed.
    RotateToken {
        /// Which.
        peer: PeerId,
        /// How long the token lives, in seconds; none or 0 is 7 days.
        token_ttl_seconds: Option<u64>,
    },
    /// Take a token to the peer that issued it.
    Accept {
        /// Which.
        peer: PeerId,
    },
    /// Register another site as a peer, and take its token there.
    Join(Proposal),
    /// Redeem a token of our own, as the other site's call would.
    Redeem {
        /// The peer that it was drawn for.
        peer: PeerId,
        /// The version of the contract that both keep.
        contract_version: u32,
        /// What is known of the peer.
        said: Box<Said>,
    },
    /// Draw another CA.
    RotateCa,
    /// Let a bridge open what the fleet wants of it.
    Bridge(Box<Opening>),
}

/// What the fleet wants a bridge to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// With whom.
    pub peer: PeerId,
    /// Which.
    pub id: BridgeId,
    /// What the fleet calls it.
    pub name: Name,
    /// The network it leads into.
    pub network: Name,
    /// What the peer calls its own.
    pub remote_network: Name,
    /// All that it is to open.
    pub all: Scope,
    /// What of that is new.
    pub new: Scope,
}

impl Deed {
    /// Which key of `[approvals]` it falls under.
    #[must_use]
    pub const fn action(&self) -> Action {
        match self {
            Self::Propose(_) | Self::RotateToken { .. } => Action::Propose,
            Self::Accept { .. } | Self::Join(_) | Self::Redeem { .. } => Action::Accept,
            Self::RotateCa => Action::Anchor,
            Self::Bridge(_) => Action::Bridge,
        }
    }

    /// Whether it waits for a second operator here.
    #[must_use]
    pub const fn is_gated(&self, approvals: &Approvals) -> bool {
        match self {
            // Who may not register a peer alone may not do so on the way, either.
            Self::Join(_) => Action::Propose.is_gated(approvals) || Action::Accept.is_gated(approvals),
            Self::Propose(_)
            | Self::RotateToken { .. }
            | Self::Accept { .. }
            | Self::Redeem { .. }
            | Self::Bridge(_)
            | Self::RotateCa => self.action().is_gated(approvals),
        }
    }

    /// The peer that it is about, where there is one yet.
    #[must_use]
    pub fn peer(&self) -> Option<PeerId> {
        match self {
            Self::RotateToken { peer, .. } | Self::Accept { peer } | Self::Redeem { peer, .. } => Some(*peer),
            Self::Bridge(opening) => Some(opening.peer),
            Self::Propose(_) | Self::Join(_) | Self::RotateCa => None,
        }
    }

    /// What it would open that isn't open: of a bridge.
    #[must_use]
    pub const fn opens(&self) -> Option<&Scope> {
        match self {
            Self::Bridge(opening) => Some(&opening.new),
            Self::Propose(_)
            | Self::RotateToken { .. }
            | Self::Accept { .. }
            | Self::Join(_)
            | Self::Redeem { .. }
            | Self::RotateCa => None,
        }
    }
}
