//! What a round has to say.

use crate::config::Diagnostics;
use crate::log::Event;
use crate::model::NetworkId;
use crate::planes::PlaneName;
use crate::reconcile::{ConditionState, Conditions, Round, Target};

/// Says that the files are bad.
pub(super) fn of_bad_config(errors: &Diagnostics) {
    let (count, first) = (errors.len() as u64, errors.first());
    Event::ConfigBad { count, first }.emit();
}

/// Says what a round did. `was_settled` says that the one before left nothing to do, and that nothing else is wanted since:
/// what this one changed, others had changed before.
pub(super) fn of_round(round: &Round, was_settled: bool) {
    for plane in PlaneName::ALL {
        if was_settled && round.put_right(plane) {
            let plane = plane.to_string();
            Event::DriftHealed { plane }.emit();
        }
    }
    if !round.plan.is_empty() {
        Event::PlanApplied {
            changes: round.execution.done as u64,
            left: round.left.steps.len() as u64,
        }
        .emit();
    }
    for failure in &round.execution.failures {
        Event::StepFailed {
            plane: failure.plane.to_string(),
            phase: failure.phase.to_string(),
            step: failure.step.clone(),
            error: failure.error.clone(),
        }
        .emit();
    }
}

/// Says which conditions are others than before.
pub(super) fn of_conditions(target: &Target, before: &Conditions, after: &Conditions) {
    for ((plane, id), condition) in after {
        let old = before.get(&(*plane, *id)).map(|condition| condition.state);
        if old == Some(condition.state) {
            continue;
        }
        let plane = plane.to_string();
        let network = id.and_then(|id| name_of(target, id));
        let reason = condition.reason.clone();
        match condition.state {
            ConditionState::Converged => Event::PlaneConverged { plane, network },
            ConditionState::Drifted => Event::PlaneDrifted {
                plane,
                network,
                reason,
            },
            ConditionState::Blocked => Event::PlaneBlocked {
                plane,
                network,
                reason,
            },
            ConditionState::Failed => Event::PlaneFailed {
                plane,
                network,
                reason,
            },
        }
        .emit();
    }
}

/// What the fleet calls a network.
pub(super) fn name_of(target: &Target, id: NetworkId) -> Option<String> {
    let network = target.intent.networks.get(&id);
    network.map(|network| network.name.to_string())
}
