//! Peers that change keys: looked for often while somebody has announced a next key.

use std::time::Duration;

use super::{RealHost, instant, system_now};
use crate::log::Event;
use crate::planes::wireguard;
use crate::reconcile::Target;
use crate::report::chain;

/// How often peers with an announced key are looked at. What a node sends meanwhile waits there, 128 packets in the kernel
/// (`MAX_STAGED_PACKETS`): at most 10,000 a second are waited for.
const LOOK: Duration = Duration::from_millis(10);

/// How often once all of them use the keys that they announced: one may go back to its former key.
const SLOW_LOOK: Duration = Duration::from_secs(1);

/// How many times longer than a look took nothing is looked at: a device with ten thousand peers is read in 20 ms.
const REST: u32 = 25;

/// What the last looks took. The least of it is what a look costs: a busy machine makes single ones last, and looking less
/// often then would make peers wait for longer than they can.
#[derive(Debug, Default)]
pub(super) struct Looks {
    took: [Option<Duration>; 8],
    count: usize,
}

impl Looks {
    fn note(&mut self, took: Duration) {
        self.took[self.count % self.took.len()] = Some(took);
        self.count += 1;
    }

    fn rest(&self, look: Duration) -> Duration {
        let least = self.took.iter().flatten().min();
        least.map_or(look, |least| look.max(*least * REST))
    }
}

/// What came of a look at peers with an announced key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Whether something moved: a round has the rest to do.
    pub moved: bool,
    /// How long until the next look.
    pub rest: Duration,
}

impl RealHost {
    /// Looks whether a node has begun to use the key that it announced, and if so moves what it carries there at once.
    /// None where nobody announced one.
    pub async fn follow_keys(&mut self, target: &Target) -> Option<Followed> {
        let links = wireguard::turning_links(&target.wireguard);
        if links.is_empty() || !target.key_matches() {
            return None;
        }
        let start = instant();
        let (mut has_moved, mut look) = (false, LOOK);
        let mut has_failed = false;
        match wireguard::observe(&self.wg, &links).await {
            Ok(actual) => {
                let moves = wireguard::key_moves(&target.wireguard, &actual, system_now());
                has_moved = !moves.is_empty();
                if !has_moved && !wireguard::awaits_keys(&target.wireguard, &actual) {
                    look = SLOW_LOOK;
                }
                for (change, result) in moves.iter().zip(self.apply_wireguard(&moves).await) {
                    match result {
                        Ok(()) => Event::KeyTurned {
                            change: change.to_string(),
                        },
                        Err(error) => {
                            has_failed = true;
                            Event::KeyTurnFailed {
                                change: change.to_string(),
                                error,
                            }
                        }
                    }
                    .emit();
                }
            }
            Err(error) => {
                has_failed = true;
                tracing::warn!(error = chain(&error), "peers that change keys can't be looked at");
            }
        }
        if has_failed {
            look = SLOW_LOOK;
        }
        self.key_looks.note(instant().saturating_duration_since(start));
        Some(Followed {
            moved: has_moved,
            rest: self.key_looks.rest(look),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_took_long_once_puts_none_off() {
        let mut looks = Looks::default();
        assert_eq!(looks.rest(LOOK), LOOK);
        let took = |looks: &mut Looks, millis| looks.note(Duration::from_millis(millis));
        took(&mut looks, 20);
        assert_eq!(looks.rest(LOOK), 20 * Duration::from_millis(REST.into()));
        took(&mut looks, 0);
        took(&mut looks, 300);
        assert_eq!(looks.rest(LOOK), LOOK);
        for _ in 0..8 {
            took(&mut looks, 4);
        }
        assert_eq!(looks.rest(LOOK), Duration::from_millis(100));
        assert_eq!(looks.rest(SLOW_LOOK), SLOW_LOOK);
    }
}
