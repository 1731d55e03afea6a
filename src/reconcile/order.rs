//! The order of a plan's steps.

use super::Change;
use crate::planes::{Phase, PlaneName};

/// Orders the changes by phase, and keeps each plane's own order within a phase.
///
/// Within a phase the planes follow each other as their objects need each other: links exist before they get keys,
/// and peers are gone before their link is.
pub(super) fn order(changes: &mut [Change]) {
    changes.sort_by_key(|change| {
        let phase = change.phase();
        (phase, rank(phase, change.plane()))
    });
}

const fn rank(phase: Phase, plane: PlaneName) -> u8 {
    match (phase, plane) {
        (Phase::Disconnect, PlaneName::Wireguard) => 0,
        (Phase::Disconnect, PlaneName::L3) => 1,
        (_, PlaneName::Firewall) => 2,
        (_, PlaneName::L3) => 3,
        (_, PlaneName::Wireguard) => 4,
    }
}
