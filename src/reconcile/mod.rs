//! From what should be and what is to a plan, and from the plan to a host that has it.
//!
//! ```text
//! Target ──┐
//!          ├─ plan (pure: diff ▶ guard ▶ order) ─▶ Plan ─ execute ─▶ Execution ─ observe again ─▶ what is left
//! Host ────┘                                                                                       │
//!   ▲                                                              conditions (pure) ◀─────────────┘
//!   └── the real one reads and writes the kernel; tests have one in memory
//! ```
//!
//! The plan holds every choice; execution makes none. What can't be read is never taken for empty, and a step that
//! fails leaves the host no more open than it was.

mod conditions;
mod execute;
mod fib;
mod guard;
pub mod holes;
mod order;
mod plan;
mod target;
#[cfg(test)]
#[allow(
    clippy::format_collect,
    clippy::format_push_string,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]
mod tests;
pub mod uplinks;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use crate::model::{LinkName, NetworkId};
use crate::planes::{Phase, PlaneName, Ways, firewall, l3, wireguard};

pub use conditions::{Condition, ConditionState, Conditions, conditions};
pub use execute::{Execution, Failure, Round, converge, converge_seen, execute};
pub use plan::{Plan, Step, Unreadable, notices, plan};
pub use target::Target;

/// One change of one plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Change {
    /// Of the l3 plane.
    L3(l3::Change),
    /// Of the WireGuard plane.
    Wireguard(wireguard::Change),
    /// Of the firewall.
    Firewall(firewall::Change),
}

impl Change {
    /// Whose it is.
    #[must_use]
    pub const fn plane(&self) -> PlaneName {
        match self {
            Self::L3(_) => PlaneName::L3,
            Self::Wireguard(_) => PlaneName::Wireguard,
            Self::Firewall(_) => PlaneName::Firewall,
        }
    }

    /// When it is due.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self {
            Self::L3(change) => change.phase(),
            Self::Wireguard(change) => change.phase(),
            Self::Firewall(change) => change.phase(),
        }
    }

    /// Whether it lets something in that wasn't, or builds towards it.
    fn opens(&self) -> bool {
        match self.phase() {
            Phase::Narrow | Phase::Disconnect | Phase::Cut => false,
            Phase::Vrf | Phase::Links | Phase::Routes | Phase::Widen | Phase::Up => true,
        }
    }

    /// Whether it is this daemon's own next attempt, due by time alone: nobody has changed anything.
    fn is_attempt(&self) -> bool {
        matches!(self, Self::Wireguard(wireguard::Change::UpdatePeer { delta, .. }) if delta.calls_only())
    }

    /// Whether LAN interfaces go back to the main table by it.
    fn releases(&self) -> bool {
        match self {
            Self::L3(change) => change.releases_lans(),
            Self::Wireguard(_) | Self::Firewall(_) => false,
        }
    }

    /// The network it concerns; none for the whole host.
    #[must_use]
    pub fn network(&self) -> Option<NetworkId> {
        match self {
            Self::L3(change) => change.network(),
            Self::Wireguard(change) => change.network(),
            Self::Firewall(change) => change.network(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::L3(change) => change.fmt(f),
            Self::Wireguard(change) => change.fmt(f),
            Self::Firewall(change) => change.fmt(f),
        }
    }
}

/// What a host is like, plane by plane. A plane that can't be read says why; it never looks empty.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Links, addresses, routes, rules, sysctls.
    pub l3: Result<l3::Actual, String>,
    /// WireGuard devices.
    pub wireguard: Result<wireguard::Actual, String>,
    /// Our table.
    pub firewall: Result<Arc<firewall::Actual>, String>,
    /// What the names of stale endpoints resolved to.
    pub names: wireguard::Names,
    /// The ways to addresses on the underlay that a plan depends on.
    pub ways: Ways,
    /// How long peers have been called in vain where they are called now.
    pub calls: wireguard::Calls,
    /// Interfaces that must not join a network: someone's session comes through them.
    pub protected: BTreeSet<LinkName>,
    /// The firewall as it was last seen with nothing left to do; none at first.
    pub verified: Option<firewall::Verified>,
    /// Which uplink carries in each network with a choice, as the host was seen.
    pub uplinks: uplinks::Choices,
    /// The ways that swallow large packets, as far as they were looked for.
    pub holes: holes::Holes,
    /// When it was read.
    pub now: SystemTime,
}

/// A host that can be read and changed.
pub trait Host {
    /// Reads everything that `target` concerns.
    fn observe(&mut self, target: &Target) -> impl Future<Output = Observation>;

    /// Reads back after changes of `touched`. What the other planes said `before`, in the same round, still stands.
    fn observe_again(
        &mut self,
        target: &Target,
        before: Observation,
        touched: &BTreeSet<PlaneName>,
    ) -> impl Future<Output = Observation> {
        let _ = (before, touched);
        self.observe(target)
    }

    /// Makes changes of one plane and phase, in order. The answers are as many as the changes; each is what the host
    /// said of that one, in words for an operator. A change whose predecessor failed may still be tried.
    fn apply(&mut self, changes: &[&Change]) -> impl Future<Output = Vec<Result<(), String>>>;

    /// Remembers that the host was seen like this with nothing left to do in the firewall: what differs from it later
    /// was changed by someone, whatever the comments say.
    fn verified(&mut self, observation: &Observation) {
        let _ = observation;
    }
}
