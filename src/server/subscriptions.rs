//! The driver of the subscriptions: forgets those of peers that lost what they rest on, and tells peers which of their services
//! this site's fleet uses.
//!
//! ```text
//! each look: settle ─▶ who doesn't know what our fleet wants ─▶ one call to each, with its own patience
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::pace::Pace;
use super::{monotonic, unwritten, wall};
use crate::federation::gateway::Gateway;
use crate::federation::peer::PeerId;
use crate::model::Name;

/// How often it is looked whether anything is due.
const LOOK: Duration = Duration::from_secs(1);
/// The wait after a call that failed; it doubles up to the most.
const RETRY: Duration = Duration::from_secs(1);
/// The longest wait after calls that failed: a grant may come at any time.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often a peer is asked what it knows: it may have been restored from a backup.
const REFRESH: Duration = Duration::from_secs(3_600);

/// What a peer was told.
#[derive(Debug)]
struct Told {
    services: BTreeSet<Name>,
    pace: Pace,
}

/// Who was told what, and when to call again. Pure: the clock is an argument.
#[derive(Debug, Default)]
struct Tellings(BTreeMap<PeerId, Told>);

impl Tellings {
    /// Who is to be called now; they count as out until [`Tellings::ended`]. Who can't be called any more is forgotten.
    fn begin(&mut self, wanted: BTreeMap<PeerId, BTreeSet<Name>>, now: Instant) -> Vec<PeerId> {
        self.0
            .retain(|peer, told| told.pace.is_out() || wanted.contains_key(peer));
        let mut begun = Vec::new();
        for (peer, services) in wanted {
            let told = self.0.entry(peer).or_insert(Told {
                services: services.clone(),
                pace: Pace::new(now),
            });
            if told.pace.begin(told.services != services, now) {
                told.services = services;
                begun.push(peer);
            }
        }
        begun
    }

    fn ended(&mut self, peer: PeerId, is_told: bool, now: Instant) {
        if let Some(told) = self.0.get_mut(&peer) {
            told.pace.ended(is_told, [REFRESH, RETRY, PATIENCE], now);
        }
    }
}

/// Goes on until it is dropped.
pub(super) async fn follow(gateway: Arc<Gateway>) {
    let (done, mut ended) = mpsc::unbounded_channel();
    let mut tellings = Tellings::default();
    loop {
        if let Err(error) = gateway.settle_subscriptions(wall()) {
            unwritten("which subscriptions are withdrawn", &error);
        }
        for peer in tellings.begin(gateway.subscription_calls(), monotonic()) {
            let (gateway, done) = (Arc::clone(&gateway), done.clone());
            tokio::spawn(async move {
                let outcome = Box::pin(gateway.tell_subscriptions(peer, wall())).await;
                let _ = done.send((peer, outcome));
            });
        }
        tokio::select! {
            Some((peer, outcome)) = ended.recv() => {
                if let Err(error) = &outcome {
                    tracing::debug!(%peer, %error, "a peer wasn't told all of our subscriptions");
                }
                tellings.ended(peer, outcome.is_ok(), monotonic());
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a point to count from")]
    fn news_are_told_at_once_failures_patiently_and_all_of_it_now_and_then() {
        let now = Instant::now();
        let peer = PeerId(Uuid::from_u128(1));
        let wanted = |names: &[&str]| {
            let names = names.iter().map(|name| Name::new(name).unwrap());
            BTreeMap::from([(peer, names.collect())])
        };
        let mut tellings = Tellings::default();
        assert_eq!(
            tellings.begin(wanted(&[]), now),
            [peer],
            "it may know of older ones"
        );
        assert_eq!(tellings.begin(wanted(&["a"]), now), [], "it is being called");
        tellings.ended(peer, true, now);
        assert_eq!(tellings.begin(wanted(&["a"]), now), [peer]);
        for failures in 1..20 {
            tellings.ended(peer, false, now);
            let wait = (RETRY * 2_u32.pow(failures - 1)).min(PATIENCE);
            let early = now + wait.saturating_sub(Duration::from_millis(1));
            assert_eq!(tellings.begin(wanted(&["a", "b"]), early), []);
            assert_eq!(tellings.begin(wanted(&["a"]), now + wait), [peer]);
        }
        tellings.ended(peer, true, now);
        assert_eq!(tellings.begin(wanted(&["a"]), now), []);
        assert_eq!(tellings.begin(wanted(&["a"]), now + REFRESH), [peer]);
        tellings.ended(peer, true, now);
        assert_eq!(tellings.begin(BTreeMap::new(), now), []);
        assert!(tellings.0.is_empty(), "forgotten");
    }
}
