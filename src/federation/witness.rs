//! What peers have shown of their ledgers, and what they have seen of ours. Pure.
//!
//! With its beats and their answers a peer shows how often its ledger was restored (`epoch`) and where its audit ends
//! (`head`). Both only ever rise, but for what is late on its way: nothing is longer than [`STRAYS`]. So a ledger that was put
//! back is found out by its peers, and an audit that was cut or rewritten by whoever has seen more of it.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ledger::Head;
use super::moment::Moment;

/// How late something may arrive: a call takes 10 s at most, a request 15 s.
pub const STRAYS: Duration = Duration::from_secs(30);
/// How often in a row a ledger must be seen to have gone back: a clock that is set may make what is late look old.
const CERTAIN: u32 = 3;
/// How often what a peer shows is written into our own audit.
pub const NOTED: Duration = Duration::from_secs(3_600);

/// Where a ledger was. Reads `<epoch>/<records>:<hash of the last>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// How often it was restored.
    pub epoch: u64,
    /// Where its audit ended.
    pub head: Head,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.head)
    }
}

impl FromStr for Mark {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, head) = text.split_once('/').ok_or("a mark reads <epoch>/<head>")?;
        Ok(Self {
            epoch: epoch.parse().map_err(|_| "an epoch is a number")?,
            head: head.parse()?,
        })
    }
}

/// What a peer has shown last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// How often its ledger was restored.
    pub epoch: u64,
    /// Where its audit ended.
    pub head: Head,
    /// When that was last seen.
    pub at: Moment,
    /// When it was last written into our audit.
    #[serde(default)]
    pub noted: Option<Moment>,
    /// How often in a row something earlier has been seen since.
    #[serde(default)]
    pub backward: u32,
}

impl Shown {
    /// Without the times.
    #[must_use]
    pub const fn mark(&self) -> Mark {
        Mark {
            epoch: self.epoch,
            head: self.head,
        }
    }

    /// Whether it should be written into our audit.
    #[must_use]
    pub fn is_due(&self, now: Moment) -> bool {
        self.noted.is_none_or(|noted| now.since(noted) >= NOTED)
    }
}

/// What comes of something that a peer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing has gone back.
    Forward,
    /// It was late on its way, and says nothing.
    Stray,
    /// The peer says that its ledger was restored.
    Restored,
    /// Its ledger has gone back, or is another one, and it doesn't say so.
    Regressed,
}

/// Judges what a peer shows now by what it has shown before.
#[must_use]
pub fn judge(before: Option<&Shown>, now_shown: Mark, now: Moment) -> Verdict {
    let Some(before) = before else {
        return Verdict::Forward;
    };
    let is_back = match now_shown.epoch.cmp(&before.epoch) {
        Ordering::Greater => return Verdict::Restored,
        Ordering::Less => true,
        Ordering::Equal => {
            if before.head.sequence == now_shown.head.sequence && before.head != now_shown.head {
                // The same place and another record: no delay explains that.
                return Verdict::Regressed;
            }
            now_shown.head.sequence < before.head.sequence
        }
    };
    let is_late = now.since(before.at) <= STRAYS || before.backward + 1 < CERTAIN;
    match (is_back, is_late) {
        (false, _) => Verdict::Forward,
        (true, true) => Verdict::Stray,
        (true, false) => Verdict::Regressed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Moment = Moment::EPOCH;

    fn mark(epoch: u64, sequence: i64, hash: u8) -> Mark {
        Mark {
            epoch,
            head: Head {
                sequence,
                hash: [hash; 32],
            },
        }
    }

    fn shown(mark: Mark, at: Moment) -> Shown {
        Shown {
            epoch: mark.epoch,
            head: mark.head,
            at,
            noted: None,
            backward: CERTAIN - 1,
        }
    }

    #[test]
    fn marks_read_back() {
        let one = mark(3, 42, 0xab);
        assert_eq!(one.to_string().parse(), Ok(one));
        for bad in ["", "3", "3/", "/42:ab", "x/42:ab", "3/42", &"9".repeat(10_000)] {
            assert!(bad.parse::<Mark>().is_err(), "{bad:.20}");
        }
    }

    #[test]
    fn forward_late_back_and_another() {
        let before = shown(mark(2, 100, 1), NOW);
        let (soon, later) = (NOW.after(STRAYS), NOW.after(STRAYS + Duration::from_millis(1)));
        for (now_shown, at, verdict) in [
            (mark(2, 100, 1), later, Verdict::Forward),
            (mark(2, 101, 2), soon, Verdict::Forward),
            (mark(2, 99, 2), soon, Verdict::Stray),
            (mark(2, 99, 2), later, Verdict::Regressed),
            (mark(2, 100, 2), soon, Verdict::Regressed),
            (mark(3, 1, 2), soon, Verdict::Restored),
            (mark(1, 900, 2), soon, Verdict::Stray),
            (mark(1, 900, 2), later, Verdict::Regressed),
        ] {
            assert_eq!(
                judge(Some(&before), now_shown, at),
                verdict,
                "{now_shown} at {at}"
            );
            assert_eq!(judge(None, now_shown, at), Verdict::Forward);
        }
        // Once or twice is no proof, however long ago.
        for backward in 0..CERTAIN - 1 {
            let before = Shown { backward, ..before };
            assert_eq!(judge(Some(&before), mark(2, 99, 2), later), Verdict::Stray);
        }
    }

    proptest! {
        /// Beats every few seconds, each up to 25 s late, some twice: an honest ledger never regresses. One that was put back
        /// does, as soon as nothing can be late any more, unless it has grown beyond what was seen.
        #[test]
        fn what_is_late_isnt_taken_for_a_ledger_that_went_back(
            grows in proptest::collection::vec((0_i64..3, 0_u64..25_000, 1_u64..20_000), 1..60),
            lost in 1_i64..50,
        ) {
            let (mut arrivals, mut sequence, mut sent) = (Vec::new(), 100, NOW);
            for (by, delay, pause) in grows {
                sequence += by;
                let delay = Duration::from_millis(delay);
                arrivals.push((sent.after(delay), sequence));
                arrivals.push((sent.after(delay / 2), sequence));
                sent = sent.after(Duration::from_millis(pause));
            }
            arrivals.sort();
            let mut before: Option<Shown> = None;
            let mut last = NOW;
            for (at, sequence) in arrivals {
                // The hash follows from the place, as in one chain.
                let one = mark(1, sequence, u8::try_from(sequence % 251).unwrap());
                let verdict = judge(before.as_ref(), one, at);
                prop_assert!(verdict != Verdict::Regressed && verdict != Verdict::Restored);
                if verdict == Verdict::Forward {
                    before = Some(shown(one, at));
                }
                last = at;
            }
            let back = mark(1, before.unwrap().head.sequence - lost, 252);
            let verdict = judge(before.as_ref(), back, last.after(STRAYS + Duration::from_secs(1)));
            prop_assert_eq!(verdict, Verdict::Regressed);
        }
    }
}
