//! The beats that peers have made, until the driver looks: it goes round several times a second, and isn't woken for each.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::federation::peer::PeerId;
use crate::federation::pulse::Pulse;

/// Whose, and when.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<Vec<(PeerId, Instant)>>);

impl Calls {
    /// A peer has beaten for us.
    pub(super) fn note(&self, id: PeerId, at: Instant) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((id, at));
    }

    /// Tells of all that came since the last time; says how many.
    pub(super) fn tell(&self, pulse: &mut Pulse) -> usize {
        let calls = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (id, at) in &calls {
            pulse.heard(*id, *at);
        }
        calls.len()
    }
}
