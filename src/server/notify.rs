//! What systemd is told of the gateway (`sd_notify(3)`): ready, alive, stopping, and a line for `systemctl status`.
//! Without a service manager nothing is told to anybody.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::federation::peer::{PeerId, Status};

/// The service manager, and what it was last told.
#[derive(Debug)]
pub(super) struct Manager {
    /// How often it wants to hear that the driver goes round; none if it doesn't.
    every: Option<Duration>,
    told: Instant,
    status: String,
}

impl Manager {
    /// Says that every socket listens.
    pub(super) fn ready(now: Instant) -> Self {
        tell(&[NotifyState::Ready]);
        Self {
            // Half of its patience, as sd_watchdog_enabled(3) recommends.
            every: sd_notify::watchdog_enabled().map(|patience| patience / 2),
            told: now,
            status: String::new(),
        }
    }

    /// Says that the driver has gone round once more. Only the driver calls this: when it hangs, the watchdog bites.
    pub(super) fn alive(&mut self, peers: &[(PeerId, Status)], now: Instant) {
        if let Some(every) = self.every
            && now.duration_since(self.told) >= every
        {
            self.told = now;
            tell(&[NotifyState::Watchdog]);
        }
        let status = status_line(peers);
        if status != self.status {
            tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }
}

/// Says that the start takes longer, and why.
pub(super) fn waiting(why: &str) {
    // Longer than it takes until it is said again.
    tell(&[
        NotifyState::ExtendTimeoutUsec(10_000_000),
        NotifyState::Status(why),
    ]);
}

/// Says that the gateway ends.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}

fn status_line(peers: &[(PeerId, Status)]) -> String {
    let of = |wanted: Status| peers.iter().filter(|(_, status)| *status == wanted).count();
    let live = peers.iter().filter(|(_, status)| status.is_live()).count();
    format!(
        "{live} peers: {} active, {} degraded",
        of(Status::Active),
        of(Status::Degraded)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn the_line_counts_who_is_live() {
        let at = |status| (PeerId(Uuid::nil()), status);
        let peers = [
            Status::Active,
            Status::Degraded,
            Status::Enrolled,
            Status::Revoked,
        ]
        .map(at);
        assert_eq!(status_line(&peers), "3 peers: 1 active, 1 degraded");
        assert_eq!(status_line(&[]), "0 peers: 0 active, 0 degraded");
    }
}
