//! One condition per plane and network: whether it is as it should be, and why not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Plan, Round, Target};
use crate::model::NetworkId;
use crate::planes::PlaneName;

/// How a plane of a network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionState {
    /// The host is as the fleet says.
    Converged,
    /// The host differs, and nothing is known to be in the way.
    Drifted,
    /// Something an operator must see to is in the way.
    Blocked,
    /// A step failed; it is tried again.
    Failed,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// How it is.
    pub state: ConditionState,
    /// Why; empty when converged.
    pub reason: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

/// Conditions by plane and network; the network is none for what concerns the whole host.
pub type Conditions = BTreeMap<(PlaneName, Option<NetworkId>), Condition>;

/// The conditions after a round. A state that didn't change keeps its `since`.
#[must_use]
pub fn conditions(target: &Target, round: &Round, before: &Conditions, now: u64) -> Conditions {
    let mut found: BTreeMap<(PlaneName, Option<NetworkId>), (ConditionState, String)> = BTreeMap::new();
    for plane in PlaneName::ALL {
        for network in target.intent.networks.keys() {
            found.insert(
                (plane, Some(*network)),
                (ConditionState::Converged, String::new()),
            );
        }
    }
    pending(&round.left, &mut found);
    for failure in &round.execution.failures {
        let reason = format!("{}: {}", failure.step, failure.error);
        found.insert((failure.plane, failure.network), (ConditionState::Failed, reason));
    }
    for unreadable in &round.left.unreadable {
        let keys: Vec<_> = found
            .keys()
            .filter(|(plane, _)| *plane == unreadable.plane)
            .copied()
            .collect();
        for key in keys.into_iter().chain([(unreadable.plane, None)]) {
            found.insert(
                key,
                (
                    ConditionState::Failed,
                    format!("can't be read: {}", unreadable.reason),
                ),
            );
        }
    }
    let keep_since = |key, state, reason: String| {
        let since = match before.get(&key) {
            Some(old) if old.state == state => old.since,
            Some(_) | None => now,
        };
        (key, Condition { state, reason, since })
    };
    found
        .into_iter()
        .map(|(key, (state, reason))| keep_since(key, state, reason))
        .collect()
}

fn pending(left: &Plan, found: &mut BTreeMap<(PlaneName, Option<NetworkId>), (ConditionState, String)>) {
    for step in &left.steps {
        let entry = found
            .entry((step.plane, step.network))
            .or_insert((ConditionState::Converged, String::new()));
        if entry.0 == ConditionState::Converged {
            let first = step.text.lines().next().unwrap_or_default();
            *entry = (ConditionState::Drifted, format!("to do: {first}"));
        }
    }
    for blocked in &left.blocked {
        let reason = format!("{}; {}", blocked.blocked.reason, blocked.blocked.fix);
        let entry = found
            .entry((blocked.plane, blocked.blocked.network))
            .or_insert((ConditionState::Converged, String::new()));
        if entry.0 == ConditionState::Blocked {
            entry.1 = format!("{}; and {reason}", entry.1);
        } else {
            *entry = (ConditionState::Blocked, reason);
        }
    }
}
