//! What is agreed with a peer about a kind of resources: which way it goes, when, and who wins.
//!
//! An agreement is a record that both operators can read. Nothing is copied by it: this program moves traffic, and
//! reads what a grant allows.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::moment::Moment;
use super::peer::PeerId;

/// The id of an agreement: a UUID of version 7 (RFC 9562).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CapabilityId(pub Uuid);

impl fmt::Display for CapabilityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl CapabilityId {
    /// A new one, of this time.
    #[must_use]
    pub fn new(wall: Moment, random: [u8; 10]) -> Self {
        Self(wall.uuid(random))
    }
}

/// Which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CapabilityDirection)]
pub enum Direction {
    /// From us to the peer.
    PushLocalToRemote,
    /// From the peer to us.
    PullRemoteToLocal,
    /// Both ways.
    Bidirectional,
    /// Only when something moves for good.
    MigrationOnly,
}

/// When it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CapabilityPolicy)]
pub enum Policy {
    /// When an operator says so.
    #[default]
    Manual,
    /// When something changes.
    AutoOnChange,
    /// From time to time.
    AutoPeriodic,
    /// When a filter matches.
    OnMatchFilter,
}

/// Who wins where both have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConflictRule {
    /// The newer one, by a logical clock.
    NewerWinsLogicalClock,
    /// We do.
    #[default]
    LocalWins,
    /// The peer does.
    RemoteWins,
    /// An operator is asked.
    Prompt,
}

/// An agreement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Capability {
    /// Its id.
    pub id: CapabilityId,
    /// With whom.
    pub peer: PeerId,
    /// About which kind of resources.
    pub resource_kind: String,
    /// Which way it goes.
    pub direction: Direction,
    /// When it goes.
    pub policy: Policy,
    /// Who wins.
    pub conflict: ConflictRule,
}
