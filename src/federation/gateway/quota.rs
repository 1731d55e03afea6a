//! How often a peer may make this site write: whoever is known may call as often as it likes, but not fill the disk.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::federation::moment::Moment;
use crate::federation::peer::PeerId;

/// How many pieces of news are taken from a peer in [`WINDOW`].
const NEWS: u32 = 30;
/// For how long they count.
const WINDOW: Duration = Duration::from_secs(60);

/// What each peer has had written of late.
#[derive(Debug, Default)]
pub(super) struct Quota(Mutex<BTreeMap<PeerId, (Moment, u32)>>);

impl Quota {
    /// Counts a piece of news; says whether it may be written. `now` never goes back.
    pub(super) fn take(&self, id: PeerId, now: Moment) -> bool {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = taken.entry(id).or_insert((now, 0));
        if now.since(*since) >= WINDOW {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= NEWS
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
        assert_eq!(taken(now), 30);
        assert!(quota.take(quiet, now));
        assert_eq!(taken(now.after(WINDOW).before(Duration::from_millis(1))), 0);
        assert_eq!(taken(now.after(WINDOW)), 30);
    }
}
