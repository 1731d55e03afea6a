//! The driver of the bridges: makes the rows what the fleet wants, hands what is agreed to `sdwand run`, and calls the peers
//! that have to hear something. Woken at once by the fleet, a peer or an answer; else it looks once a second.
//!
//! ```text
//! news ─▶ settle ─▶ agreements.json, posts ─▶ calls, each with its own patience ─▶ answers ─▶ news
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};

use super::agreements::AgreementsFile;
use super::overlay::Posts;
use super::pace::Pace;
use super::{monotonic, random, unwritten, wall};
use crate::federation::dial::DialError;
use crate::federation::gateway::{DueCall, Gateway};
use crate::log::Event;

/// How often it is looked whether anything is due.
const LOOK: Duration = Duration::from_secs(1);
/// The wait after a call that failed; it doubles up to the time between beats.
const RETRY: Duration = Duration::from_millis(250);
/// The wait after one that was answered: whatever the peer says next, it isn't called more often.
const PACE: Duration = Duration::from_secs(1);
/// The least time between two looks: whoever has news all the time keeps nobody busy.
const SPACING: Duration = Duration::from_millis(10);
/// How many calls are under way at a time.
const CALLS: usize = 32;

type Key = (
    crate::federation::peer::PeerId,
    crate::federation::bridge::BridgeId,
);

/// A bridge about which a peer was called.
#[derive(Debug)]
struct Try {
    /// What it was told.
    said: u64,
    pace: Pace,
}

/// When which call may be made. Pure: the clock is an argument.
#[derive(Debug, Default)]
struct Tries(BTreeMap<Key, Try>);

impl Tries {
    /// Which of these calls are to be made now; they count as out until [`Tries::ended`]. What isn't due any more is
    /// forgotten.
    fn begin(&mut self, due: &[DueCall], now: Instant) -> Vec<DueCall> {
        let keys: std::collections::BTreeSet<Key> = due.iter().map(|call| (call.peer, call.id)).collect();
        self.0
            .retain(|key, tried| tried.pace.is_out() || tried.pace.is_waiting(now) || keys.contains(key));
        let mut begun = Vec::new();
        for call in due {
            let tried = self.0.entry((call.peer, call.id)).or_insert(Try {
                said: 0,
                pace: Pace::new(now),
            });
            if tried.pace.begin(tried.said != call.said, now) {
                tried.said = call.said;
                begun.push(*call);
            }
        }
        begun
    }

    fn ended(&mut self, key: Key, is_answered: bool, most: Duration, now: Instant) {
        if let Some(tried) = self.0.get_mut(&key) {
            tried.pace.ended(is_answered, [PACE, RETRY, most], now);
        }
    }
}

/// Goes on until it is dropped.
pub(super) async fn follow(gateway: Arc<Gateway>, mut file: AgreementsFile, posts: watch::Sender<Posts>) {
    let (done, mut ended) = mpsc::unbounded_channel::<(Key, Result<(), DialError>)>();
    let gate = Arc::new(Semaphore::new(CALLS));
    let mut tries = Tries::default();
    let mut is_written = true;
    loop {
        round(&gateway, &mut file, &mut is_written);
        tell_posts(&posts, gateway.overlay_posts());
        for call in tries.begin(&gateway.bridge_calls(), monotonic()) {
            let (gateway, done, gate) = (Arc::clone(&gateway), done.clone(), Arc::clone(&gate));
            tokio::spawn(async move {
                let _turn = gate.acquire().await;
                let outcome = Box::pin(made(&gateway, call)).await;
                let _ = done.send(((call.peer, call.id), outcome));
            });
        }
        tokio::select! {
            () = gateway.bridge_news() => {}
            Some((key, outcome)) = ended.recv() => {
                if let Err(error) = &outcome {
                    tracing::debug!(peer = %key.0, bridge = %key.1, %error, "a call about a bridge came to nothing");
                }
                tries.ended(key, outcome.is_ok(), gateway.settings.heartbeat, monotonic());
            }
            () = tokio::time::sleep(file.due(monotonic()).map_or(LOOK, |due| due.min(LOOK))) => {}
        }
        // Much news at a time is looked at once.
        tokio::time::sleep(SPACING).await;
    }
}

async fn made(gateway: &Gateway, call: DueCall) -> Result<(), DialError> {
    if call.is_to_resolve {
        gateway.resolve_bridge(call.peer, call.id, wall()).await
    } else {
        gateway.exchange_bridge(call.peer, call.id, random, wall()).await
    }
}

/// Tells the listeners inside the overlays where they are wanted, if that is news.
fn tell_posts(posts: &watch::Sender<Posts>, wanted: Posts) {
    posts.send_if_modified(|known| {
        let is_news = *known != wanted;
        *known = wanted;
        is_news
    });
}

/// The ledger first, then the file: a revocation that was cut off between them is in the file with the next start.
fn round(gateway: &Gateway, file: &mut AgreementsFile, is_written: &mut bool) {
    if let Err(error) = gateway.settle_bridges(random, wall()) {
        unwritten("what is agreed about bridges", &error);
    }
    match file.keep(gateway.agreements(wall()), monotonic()) {
        Ok(_) => *is_written = true,
        // Said once, and tried again with each look.
        Err(error) if *is_written => {
            *is_written = false;
            let (path, error) = (file.path().display().to_string(), crate::report::chain(&error));
            Event::AgreementsNotWritten { path, error }.emit();
        }
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::bridge::BridgeId;
    use crate::federation::peer::PeerId;
    use uuid::Uuid;

    /// A peer that answers 409 has us say the next number each time: that is no news which it must hear at once.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a point to count from")]
    fn who_refuses_every_number_is_called_less_and_less() {
        let began = Instant::now();
        let minute = Duration::from_secs(60);
        let mut tries = Tries::default();
        let (mut said, mut calls, mut at) = (0, Vec::new(), began);
        while at < began + minute {
            let call = DueCall {
                peer: PeerId(Uuid::from_u128(1)),
                id: BridgeId(Uuid::from_u128(2)),
                said,
                is_to_resolve: false,
            };
            for begun in tries.begin(&[call], at) {
                calls.push(at.duration_since(began));
                said += 1;
                tries.ended((begun.peer, begun.id), false, minute, at);
            }
            at += SPACING;
        }
        assert!(calls.len() < 10, "{calls:?}");
        let gaps: Vec<Duration> = calls
            .windows(2)
            .map(|pair| pair[1].saturating_sub(pair[0]))
            .collect();
        assert!(gaps.is_sorted() && gaps[0] >= RETRY, "{gaps:?}");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a point to count from")]
    fn a_peer_is_called_at_once_about_news_and_patiently_about_the_rest() {
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        let call = |said| DueCall {
            peer: PeerId(Uuid::from_u128(1)),
            id: BridgeId(Uuid::from_u128(2)),
            said,
            is_to_resolve: false,
        };
        let key = (call(1).peer, call(1).id);
        let mut tries = Tries::default();
        assert_eq!(tries.begin(&[call(1)], now), [call(1)]);
        assert_eq!(tries.begin(&[call(2)], now), [], "it is out");
        for failures in 1..20 {
            tries.ended(key, false, minute, now);
            let wait = (RETRY * 2_u32.pow(failures - 1)).min(minute);
            let early = now + wait.saturating_sub(Duration::from_millis(1));
            assert_eq!(tries.begin(&[call(1)], early), []);
            assert_eq!(tries.begin(&[call(1)], now + wait), [call(1)]);
        }
        tries.ended(key, true, minute, now);
        assert_eq!(tries.begin(&[call(1)], now), [], "whatever the peer says");
        assert_eq!(tries.begin(&[call(2)], now), [call(2)], "news of ours");
        tries.ended(key, true, minute, now);
        assert_eq!(tries.begin(&[], now + PACE), []);
        assert!(tries.0.is_empty(), "forgotten");
    }
}
