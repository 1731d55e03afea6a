//! What systemd is told of either daemon (`sd_notify(3)`): ready, alive, stopping, and a line for `systemctl status`.
//! Without a service manager nothing is told to anybody.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The service manager, and what it was last told.
#[derive(Debug)]
pub(crate) struct Manager {
    /// How often it wants to hear that the loop goes round; none if it doesn't.
    every: Option<Duration>,
    told: Instant,
    status: String,
}

impl Manager {
    /// Says that the daemon does what it is there for.
    pub(crate) fn ready(now: Instant) -> Self {
        tell(&[NotifyState::Ready]);
        Self {
            // Half of its patience, as sd_watchdog_enabled(3) recommends.
            every: sd_notify::watchdog_enabled().map(|patience| patience / 2),
            told: now,
            status: String::new(),
        }
    }

    /// When it wants to hear next that the loop goes round.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.every.map(|every| self.told + every)
    }

    /// Says that the loop has gone round once more, and how things are. Only the loop calls this: when it hangs, the
    /// watchdog bites.
    pub(crate) fn alive(&mut self, status: String, now: Instant) {
        if self.due().is_some_and(|due| now >= due) {
            self.told = now;
            tell(&[NotifyState::Watchdog]);
        }
        if status != self.status {
            tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }
}

/// Says that the start takes longer, and why.
pub(crate) fn waiting(why: &str) {
    // Longer than it takes until it is said again.
    tell(&[
        NotifyState::ExtendTimeoutUsec(10_000_000),
        NotifyState::Status(why),
    ]);
}

/// Says that the daemon ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}
