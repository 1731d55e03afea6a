//! How often a peer may make this site write: whoever is known may call as often as it likes, but not fill the disk.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::federation::moment::Moment;
use crate::federation::peer::PeerId;

/// How many pieces of news are taken from a peer in a span, and how long that is: a burst, and what a day may bring.
const NEWS: [(u32, Duration); 2] = [
    (30, Duration::from_secs(60)),
    (1_000, Duration::from_secs(86_400)),
];

/// What each peer has had written of late: per span, since when and how much.
#[derive(Debug, Default)]
pub(super) struct Quota(Mutex<BTreeMap<PeerId, [(Moment, u32); 2]>>);

impl Quota {
    /// Counts a piece of news; says whether it may be written. `now` never goes back.
    pub(super) fn take(&self, id: PeerId, now: Moment) -> bool {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let spans = taken.entry(id).or_insert([(now, 0); 2]);
        for ((since, count), (_, span)) in spans.iter_mut().zip(NEWS) {
            if now.since(*since) >= span {
                (*since, *count) = (now, 0);
            }
        }
        let has_room = spans
            .iter()
            .zip(NEWS)
            .all(|((_, count), (most, _))| *count < most);
        if has_room {
            for (_, count) in spans.iter_mut() {
                *count += 1;
            }
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn one_peers_flood_of_news_is_its_alone_and_ends_with_the_minute() {
        let quota = Quota::default();
        let (loud, quiet) = (PeerId(Uuid::from_u128(1)), PeerId(Uuid::from_u128(2)));
        let taken = |at| (0..1_000).filter(|_| quota.take(loud, at)).count();
        let now = Moment::EPOCH;
        let minute = Duration::from_secs(60);
        assert_eq!(taken(now), 30);
        assert!(quota.take(quiet, now));
        assert_eq!(taken(now.after(minute).before(Duration::from_millis(1))), 0);
        assert_eq!(taken(now.after(minute)), 30);
        let day: usize = (2..1_440).map(|n| taken(now.after(minute * n))).sum();
        assert_eq!(day, 1_000 - 60, "and not more than that a day");
        assert_eq!(taken(now.after(minute * 1_440)), 30);
    }
}
