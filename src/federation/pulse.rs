//! When peers are beaten for, and when their silence has lasted too long. Pure: the clock is an argument.
//!
//! By monotonic time: a wall clock that is set neither degrades nor heals anyone. A peer that is first seen active, after a
//! start as after a partition, has one stale period of grace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::peer::{PeerId, Status};

/// For how many intervals the beats of a peer may stand in for ours: only ours show that we can call it.
const STAND_IN: u32 = 10;
/// The wait after a beat that wasn't answered; it doubles up to the interval.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of the peers' pulses.
#[derive(Debug)]
pub struct Pulse {
    heartbeat: Duration,
    stale_after: Duration,
    /// What beats are numbered after.
    before: u64,
    beats: BTreeMap<PeerId, Beat>,
}

#[derive(Debug, Default)]
struct Beat {
    due: Option<Instant>,
    heard: Option<Instant>,
    /// Since when it is seen to be active: the ledger says so before the driver is told of the beat that made it so.
    active: Option<Instant>,
    /// When a beat of ours was last answered.
    answered: Option<Instant>,
    failures: u32,
    is_out: bool,
    sequence: u64,
}

impl Pulse {
    /// Nobody was heard of yet.
    #[must_use]
    pub const fn new(heartbeat: Duration, stale_after: Duration) -> Self {
        Self {
            heartbeat,
            stale_after,
            before: 0,
            beats: BTreeMap::new(),
        }
    }

    /// Numbers the beats of this start of the ledger, the first is 1, after those of all earlier ones.
    #[must_use]
    pub const fn of_start(mut self, start: u64) -> Self {
        self.before = start << 32;
        self
    }

    /// Which of these peers are due now, each with the number of its beat; they are in the order of their ids. They count as
    /// out until [`Pulse::ended`].
    pub fn due(&mut self, peers: &[(PeerId, Status)], now: Instant) -> Vec<(PeerId, u64)> {
        let (mut due, before) = (Vec::new(), self.before);
        self.walk(peers, |id, status, beat| {
            // Who was just enrolled is called at once: that makes both active.
            let is_due = beat.due.is_none_or(|due| due <= now)
                || (status == Status::Enrolled && beat.failures == 0 && beat.heard.is_none());
            if status.may_call() && is_due && !beat.is_out {
                beat.is_out = true;
                beat.sequence += 1;
                due.push((id, before + beat.sequence));
            }
        });
        due
    }

    /// Looks at each of these peers beside its beat, of which there is one for each and none besides. `look` may see a peer
    /// twice: this is asked several times a second, hardly ever has anyone come or gone, and that is noticed on the way.
    fn walk(&mut self, peers: &[(PeerId, Status)], mut look: impl FnMut(PeerId, Status, &mut Beat)) {
        debug_assert!(peers.is_sorted_by_key(|(id, _)| *id), "in the order of their ids");
        let mut is_in_step = self.beats.len() == peers.len();
        for ((id, status), (of, beat)) in peers.iter().zip(&mut self.beats) {
            is_in_step &= id == of;
            if !is_in_step {
                break;
            }
            look(*id, *status, beat);
        }
        if is_in_step {
            return;
        }
        let standing: BTreeSet<PeerId> = peers.iter().map(|(id, _)| *id).collect();
        self.beats.retain(|id, _| standing.contains(id));
        for (id, status) in peers {
            look(*id, *status, self.beats.entry(*id).or_default());
        }
    }

    /// A beat of ours has ended. `jitter`, below 1, spreads the next ones over a tenth of the interval.
    pub fn ended(&mut self, id: PeerId, answered: bool, jitter: f64, now: Instant) {
        let Some(beat) = self.beats.get_mut(&id) else {
            return;
        };
        beat.is_out = false;
        let wait = if answered {
            beat.failures = 0;
            (beat.heard, beat.answered) = (Some(now), Some(now));
            self.heartbeat.mul_f64(0.9 + jitter.clamp(0.0, 1.0) / 10.0)
        } else {
            beat.failures = beat.failures.saturating_add(1);
            (RETRY * 2_u32.saturating_pow(beat.failures.min(16) - 1)).min(self.heartbeat)
        };
        beat.due = Some(now + wait);
    }

    /// A peer has beaten for us. One exchange proves both ends, so ours can wait: until the peer's next one is late, and no
    /// longer than [`STAND_IN`] intervals after the last one of ours that was answered.
    pub fn heard(&mut self, id: PeerId, now: Instant) {
        let heartbeat = self.heartbeat;
        let beat = self.beats.entry(id).or_default();
        // Told a little late, it may be older than an answer.
        beat.heard = beat.heard.max(Some(now));
        let stands_in = |answered: Instant| now.duration_since(answered) < heartbeat * STAND_IN;
        if beat.failures == 0 && !beat.is_out && beat.answered.is_some_and(stands_in) {
            beat.due = beat.due.map(|due| due.max(now + heartbeat * 5 / 4));
        }
    }

    /// Which active peers have been silent for too long. All of them are asked about, in the order of their ids.
    #[must_use]
    pub fn silent(&mut self, peers: &[(PeerId, Status)], now: Instant) -> Vec<PeerId> {
        let (mut silent, stale_after) = (BTreeSet::new(), self.stale_after);
        self.walk(peers, |id, status, beat| {
            if status != Status::Active {
                beat.active = None;
                return;
            }
            let active = *beat.active.get_or_insert(now);
            let heard = beat.heard.map_or(active, |heard| heard.max(active));
            if now.duration_since(heard) > stale_after {
                silent.insert(id);
            }
        });
        silent.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const MINUTE: Duration = Duration::from_secs(60);
    /// A minute, but for a millisecond.
    const NEARLY: Duration = Duration::from_millis(59_999);

    #[expect(clippy::disallowed_methods, reason = "a point to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    fn id(n: u128) -> PeerId {
        PeerId(Uuid::from_u128(n))
    }

    #[test]
    fn a_peer_is_beaten_for_once_an_interval_and_again_soon_after_a_failure() {
        let now = start();
        let mut pulse = Pulse::new(MINUTE, MINUTE * 5 / 2);
        let peers = [(id(1), Status::Enrolled), (id(2), Status::Suspended)];
        assert_eq!(
            pulse.due(&peers, now),
            [(id(1), 1)],
            "at once, and only who may call"
        );
        assert_eq!(pulse.due(&peers, now), [], "it is out");
        pulse.ended(id(1), false, 0.5, now);
        assert_eq!(pulse.due(&peers, now), []);
        assert_eq!(pulse.due(&peers, now + RETRY), [(id(1), 2)]);
        for failures in 2..20 {
            pulse.ended(id(1), false, 0.5, now);
            let wait = (RETRY * 2_u32.pow(failures - 1)).min(MINUTE);
            assert_eq!(
                pulse.due(&peers, now + wait.saturating_sub(Duration::from_millis(1))),
                []
            );
            assert_eq!(pulse.due(&peers, now + wait).len(), 1);
        }
        let peers = [(id(1), Status::Active)];
        pulse.ended(id(1), true, 1.0, now);
        assert_eq!(pulse.due(&peers, now + NEARLY), []);
        assert_eq!(pulse.due(&peers, now + MINUTE).len(), 1);
    }

    #[test]
    fn a_peers_beats_stand_in_for_ours_but_not_for_ever() {
        let mut now = start();
        let mut pulse = Pulse::new(MINUTE, MINUTE * 5 / 2);
        let peers = [(id(1), Status::Active)];
        pulse.heard(id(1), now);
        assert_eq!(pulse.due(&peers, now).len(), 1, "it was never called yet");
        pulse.ended(id(1), true, 1.0, now);
        let mut ours = 0;
        for _ in 0..100 {
            now += MINUTE;
            pulse.heard(id(1), now);
            if !pulse.due(&peers, now).is_empty() {
                ours += 1;
                pulse.ended(id(1), true, 1.0, now);
            }
        }
        assert_eq!(ours, 100 / (STAND_IN + 1), "once in a while, whoever calls");
        // Its beats stay away: ours come before it counts as silent.
        assert_eq!(pulse.due(&peers, now + MINUTE), []);
        assert_eq!(pulse.due(&peers, now + MINUTE * 5 / 4).len(), 1);
        assert_eq!(pulse.silent(&peers, now + MINUTE * 5 / 4), []);
        // One of ours that fails isn't put off.
        pulse.ended(id(1), false, 1.0, now);
        pulse.heard(id(1), now);
        assert_eq!(pulse.due(&peers, now + RETRY).len(), 1);
    }

    #[test]
    fn beats_are_numbered_on_over_restarts() {
        let (now, peers) = (start(), [(id(1), Status::Active)]);
        let mut last = 0;
        for started in 1..4 {
            let mut pulse = Pulse::new(MINUTE, MINUTE).of_start(started);
            for n in 0..3_u32 {
                let due = pulse.due(&peers, now + MINUTE * n);
                assert!(due[0].1 > last, "whatever the clock says");
                last = due[0].1;
                pulse.ended(id(1), true, 0.0, now + MINUTE * n);
            }
        }
    }

    #[test]
    fn silence_counts_from_the_last_word_or_the_start() {
        let now = start();
        let mut pulse = Pulse::new(MINUTE, MINUTE);
        let peers = [
            (id(1), Status::Active),
            (id(2), Status::Active),
            (id(3), Status::Enrolled),
        ];
        assert_eq!(pulse.silent(&peers, now), []);
        assert_eq!(pulse.silent(&peers, now + MINUTE), [], "grace after a start");
        let late = now + MINUTE + Duration::from_secs(1);
        pulse.heard(id(2), now + MINUTE);
        assert_eq!(pulse.silent(&peers, late), [id(1)], "and only who is active");
        assert_eq!(pulse.silent(&peers, late + MINUTE), [id(1), id(2)]);
    }

    #[test]
    fn who_comes_back_is_not_degraded_for_its_old_silence() {
        let now = start();
        let mut pulse = Pulse::new(MINUTE, MINUTE);
        let at = |status| [(id(1), status)];
        pulse.heard(id(1), now);
        assert_eq!(pulse.silent(&at(Status::Active), now), []);
        let late = now + MINUTE * 2;
        assert_eq!(pulse.silent(&at(Status::Active), late), [id(1)]);
        assert_eq!(pulse.silent(&at(Status::Degraded), late), []);
        // Its beat is in the ledger already, but the driver is told of it only after this look.
        assert_eq!(pulse.silent(&at(Status::Active), late + MINUTE), []);
        assert_eq!(pulse.silent(&at(Status::Active), late + MINUTE * 2), []);
        let silent = pulse.silent(&at(Status::Active), late + MINUTE * 2 + Duration::from_millis(1));
        assert_eq!(silent, [id(1)]);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let now = start();
        let mut pulse = Pulse::new(MINUTE, MINUTE);
        pulse.heard(id(1), now);
        let _ = pulse.due(&[(id(2), Status::Active)], now);
        assert_eq!(pulse.beats.keys().collect::<Vec<_>>(), [&id(2)]);
        // As many others as there are peers that were never beaten for: they go all the same.
        for n in 3..6 {
            pulse.heard(id(n), now);
        }
        let stopped = [(id(2), Status::Active), (id(7), Status::Revoked)];
        let _ = pulse.silent(&stopped, now);
        let _ = pulse.due(&stopped, now);
        assert_eq!(pulse.beats.keys().collect::<Vec<_>>(), [&id(2), &id(7)]);
    }
}
