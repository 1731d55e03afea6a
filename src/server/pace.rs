//! When one call may be made again. Pure: the clock is an argument.

use std::time::{Duration, Instant};

/// The pace of one call that is made again and again.
#[derive(Debug)]
pub(super) struct Pace {
    due: Instant,
    failures: u32,
    is_out: bool,
}

impl Pace {
    /// One that may be made at once.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            due: now,
            failures: 0,
            is_out: false,
        }
    }

    /// Whether it is under way.
    pub(super) const fn is_out(&self) -> bool {
        self.is_out
    }

    /// Whether it waits for its time.
    pub(super) fn is_waiting(&self, now: Instant) -> bool {
        now < self.due
    }

    /// Begins it, if it is due: it counts as out then, until [`Pace::ended`]. Something new to say waits for nothing, but for a
    /// peer that fails.
    pub(super) fn begin(&mut self, is_new: bool, now: Instant) -> bool {
        let may = !self.is_out && ((is_new && self.failures == 0) || self.due <= now);
        self.is_out |= may;
        may
    }

    /// It has ended. After one that was answered it waits for `rest`, after one that failed for `retry`, which doubles up to
    /// `most`.
    pub(super) fn ended(&mut self, is_answered: bool, [rest, retry, most]: [Duration; 3], now: Instant) {
        self.is_out = false;
        let wait = if is_answered {
            self.failures = 0;
            rest
        } else {
            self.failures = self.failures.saturating_add(1);
            (retry * 2_u32.saturating_pow(self.failures.min(16) - 1)).min(most)
        };
        self.due = now + wait;
    }
}
