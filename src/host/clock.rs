//! What time it is, by the wall and by the steady clock.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::reconcile::uplinks::Moment;

/// The time of day.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that asks for the wall clock"
)]
pub fn system_now() -> SystemTime {
    SystemTime::now()
}

/// Now, by both clocks.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that asks the steady clock"
)]
pub(super) fn moment() -> Moment {
    Moment {
        wall: system_now(),
        steady: std::time::Instant::now(),
    }
}

/// The time of day in seconds since 1970.
#[must_use]
pub fn unix_now() -> u64 {
    system_now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The monotonic clock.
pub(super) fn instant() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}
