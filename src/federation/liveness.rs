//! What is asked of a silent peer before it is degraded, and what becomes of it. Pure: the clock is an argument.
//!
//! ```text
//! silent ─ probe: a read over mTLS ─┬─ answers ──────▶ rehandshaked; still silent a stale period later: degraded
//!                                   └─ else ─────────▶ degraded, with what was seen as the reason
//! ```
//!
//! A probe is no heartbeat: whoever only answers it isn't active by that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::client::{CallError, PATIENCE};
use super::dial::DialError;
use super::peer::PeerId;

/// How a peer is called when it is silent.
pub const STALE: &str = "heartbeat_stale";

/// What a probe has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// It answers, as who it is.
    Answers,
    /// It answers, and doesn't know us, or doesn't want to.
    RefusedByPeer,
    /// Whoever answers there isn't it, or doesn't take us for who we are.
    Tls,
    /// Nobody answers, or nothing that makes sense.
    Unreachable,
}

impl Probe {
    /// What the outcome of a read says.
    #[must_use]
    pub fn of(outcome: &Result<Value, DialError>) -> Self {
        match outcome {
            Ok(_) => Self::Answers,
            Err(DialError::Refused { status, .. }) if *status < 500 => Self::RefusedByPeer,
            // Without trust there is nobody who could be told from others.
            Err(DialError::Pki(_) | DialError::NoTrust(_) | DialError::NoAnchor(_)) => Self::Tls,
            Err(DialError::Call(error)) => Self::of_call(error),
            Err(
                DialError::Refused { .. }
                | DialError::Take(_)
                | DialError::Unsound(_)
                | DialError::Url(_)
                | DialError::Beat(_)
                | DialError::Bridge(_)
                | DialError::Overlay(_)
                | DialError::Body(_)
                | DialError::Store(_)
                | DialError::Standing(_)
                | DialError::Undialable(_),
            ) => Self::Unreachable,
        }
    }

    fn of_call(error: &CallError) -> Self {
        match error {
            CallError::Tls { .. } => Self::Tls,
            CallError::Everywhere { first, .. } => Self::of_call(first),
            CallError::Resolve { .. }
            | CallError::Connect { .. }
            | CallError::Http { .. }
            | CallError::Answer { .. }
            | CallError::Timeout { .. }
            | CallError::Barred { .. }
            | CallError::NoPlace { .. }
            | CallError::Own(_) => Self::Unreachable,
        }
    }

    /// The word that stands in answers and reasons.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Tls => "tls",
            Self::Unreachable => "unreachable",
        }
    }

    /// Why the peer is degraded.
    #[must_use]
    pub fn reason(self) -> String {
        format!("{STALE}: {self}")
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What becomes of a silent peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Certificates were exchanged with it: it is given another stale period.
    Rehandshake,
    /// It is degraded.
    Degrade,
}

/// How long a probe may take: a short stale period isn't doubled by it.
#[must_use]
pub fn patience(stale_after: Duration) -> Duration {
    PATIENCE.min(stale_after / 4)
}

/// Which silent peers are being asked.
#[derive(Debug)]
pub struct Probes {
    again: Duration,
    grace: Duration,
    asked: BTreeMap<PeerId, Asked>,
}

#[derive(Debug)]
struct Asked {
    /// Since when it counts as silent.
    since: Instant,
    /// When it is asked next; none while a probe is out.
    due: Option<Instant>,
}

impl Probes {
    /// Nobody is silent. One that answers is asked again after `again`, and degraded after `grace`.
    #[must_use]
    pub const fn new(again: Duration, grace: Duration) -> Self {
        Self {
            again,
            grace,
            asked: BTreeMap::new(),
        }
    }

    /// Of those that are silent now, who is to be asked. They count as being asked until [`Probes::ended`].
    pub fn due(&mut self, silent: &[PeerId], now: Instant) -> Vec<PeerId> {
        let still: BTreeSet<PeerId> = silent.iter().copied().collect();
        self.asked.retain(|id, _| still.contains(id));
        let mut due = Vec::new();
        for id in still {
            let asked = self.asked.entry(id).or_insert(Asked {
                since: now,
                due: Some(now),
            });
            if asked.due.is_some_and(|at| at <= now) {
                asked.due = None;
                due.push(id);
            }
        }
        due
    }

    /// A probe has ended. None where the peer has been heard of meanwhile.
    pub fn ended(&mut self, id: PeerId, probe: Probe, is_silent: bool, now: Instant) -> Option<Remedy> {
        if !is_silent {
            self.asked.remove(&id);
        }
        let asked = self.asked.get_mut(&id)?;
        asked.due = Some(now + self.again);
        match probe {
            Probe::Answers if now.duration_since(asked.since) < self.grace => Some(Remedy::Rehandshake),
            Probe::Answers | Probe::RefusedByPeer | Probe::Tls | Probe::Unreachable => Some(Remedy::Degrade),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::url::PeerUrl;
    use uuid::Uuid;

    const MINUTE: Duration = Duration::from_secs(60);

    #[expect(clippy::disallowed_methods, reason = "a point to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    fn id(n: u128) -> PeerId {
        PeerId(Uuid::from_u128(n))
    }

    #[test]
    fn what_a_probe_says() {
        let refused = |status| {
            Err(DialError::Refused {
                status,
                error: String::new(),
            })
        };
        let address = "127.0.0.1:1".parse().unwrap();
        let tls = || CallError::Tls {
            address,
            source: std::io::ErrorKind::InvalidData.into(),
        };
        let timeout = || CallError::Timeout {
            url: PeerUrl::new("https://b.example").unwrap(),
            within: MINUTE,
        };
        let everywhere = |first| CallError::Everywhere {
            first: Box::new(first),
            others: String::new(),
        };
        for (outcome, expected) in [
            (Ok(Value::Null), "heartbeat_stale: answers"),
            (refused(401), "heartbeat_stale: refused_by_peer"),
            (refused(403), "heartbeat_stale: refused_by_peer"),
            (refused(404), "heartbeat_stale: refused_by_peer"),
            (refused(500), "heartbeat_stale: unreachable"),
            (refused(503), "heartbeat_stale: unreachable"),
            (Err(tls().into()), "heartbeat_stale: tls"),
            (Err(everywhere(tls()).into()), "heartbeat_stale: tls"),
            (Err(everywhere(timeout()).into()), "heartbeat_stale: unreachable"),
            (Err(timeout().into()), "heartbeat_stale: unreachable"),
            (Err(DialError::NoTrust(id(1))), "heartbeat_stale: tls"),
        ] {
            assert_eq!(Probe::of(&outcome).reason(), expected, "{outcome:?}");
        }
    }

    #[test]
    fn a_silent_peer_is_asked_once_and_degraded_by_what_is_seen() {
        for (probe, remedy) in [
            (Probe::Answers, Remedy::Rehandshake),
            (Probe::RefusedByPeer, Remedy::Degrade),
            (Probe::Tls, Remedy::Degrade),
            (Probe::Unreachable, Remedy::Degrade),
        ] {
            let (now, mut probes) = (start(), Probes::new(MINUTE, MINUTE * 2));
            assert_eq!(probes.due(&[], now), []);
            assert_eq!(probes.due(&[id(1), id(2)], now), [id(1), id(2)]);
            assert_eq!(probes.due(&[id(1), id(2)], now + MINUTE * 9), [], "they are out");
            assert_eq!(probes.ended(id(1), probe, true, now), Some(remedy), "{probe}");
        }
    }

    #[test]
    fn who_only_answers_is_degraded_in_the_end() {
        let (now, mut probes) = (start(), Probes::new(MINUTE, MINUTE * 2));
        let silent = [id(1)];
        assert_eq!(probes.due(&silent, now), silent);
        assert_eq!(
            probes.ended(id(1), Probe::Answers, true, now),
            Some(Remedy::Rehandshake)
        );
        assert_eq!(probes.due(&silent, now + MINUTE / 2), []);
        assert_eq!(probes.due(&silent, now + MINUTE), silent);
        let late = now + MINUTE * 2;
        assert_eq!(
            probes.ended(id(1), Probe::Answers, true, late),
            Some(Remedy::Degrade)
        );
    }

    #[test]
    fn who_is_heard_of_meanwhile_is_left_alone() {
        let (now, mut probes) = (start(), Probes::new(MINUTE, MINUTE * 2));
        assert_eq!(probes.due(&[id(1)], now), [id(1)]);
        assert_eq!(
            probes.ended(id(1), Probe::Unreachable, false, now),
            None,
            "just now"
        );
        assert_eq!(probes.due(&[id(1)], now), [id(1)]);
        assert_eq!(probes.due(&[], now), []);
        assert_eq!(
            probes.ended(id(1), Probe::Unreachable, true, now),
            None,
            "since a while"
        );
        assert_eq!(probes.ended(id(3), Probe::Tls, true, now), None);
        // Its next silence begins anew.
        assert_eq!(probes.due(&[id(1)], now + MINUTE * 9), [id(1)]);
        let remedy = probes.ended(id(1), Probe::Answers, true, now + MINUTE * 9);
        assert_eq!(remedy, Some(Remedy::Rehandshake));
    }

    #[test]
    fn a_probe_never_takes_long() {
        assert_eq!(patience(Duration::from_secs(150)), PATIENCE);
        assert_eq!(patience(Duration::from_secs(4)), Duration::from_secs(1));
    }
}
