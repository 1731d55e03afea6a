//! Who was refused, for the audit: one record per source and minute, however often it tried.
//!
//! ```text
//! refused ─▶ count per minute, kind and source (at most SOURCES a minute, then "others") ─▶ minute over ─▶ the audit
//! ```

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use serde_json::json;

use super::Gateway;
use crate::federation::ledger::{Aborted, Happening, LedgerError};
use crate::federation::moment::Moment;

/// How many sources of a minute have a record of their own.
const SOURCES: usize = 64;

/// How many minutes wait for a ledger that can't be written; beyond, the oldest are told as one.
const MINUTES: usize = 10;

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// An acceptance.
    Accept,
    /// A call of somebody who isn't a peer, or isn't one now.
    Stranger,
}

impl Refused {
    /// What was asked.
    const fn asked(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Stranger => "call",
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::Accept => "federation.accept.refused",
            Self::Stranger => "federation.stranger.refused",
        }
    }

    const fn severity(self) -> &'static str {
        match self {
            Self::Accept => "medium",
            Self::Stranger => "low",
        }
    }
}

/// How often, by reason: a word of ours, never what the caller sent.
type Reasons = BTreeMap<&'static str, u64>;

/// The counts of a minute; no source is all the others.
type Minute = BTreeMap<(Refused, Option<IpNet>), Reasons>;

/// What was refused.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// And isn't in the audit yet, by minutes since 1970.
    minutes: Mutex<BTreeMap<i64, Minute>>,
    /// Since the start.
    totals: Mutex<BTreeMap<(Refused, &'static str), u64>>,
}

impl Refusals {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<i64, Minute>> {
        self.minutes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn totals(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Refused, &'static str), u64>> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, what: Refused, source: IpNet, reason: &'static str, now: Moment) {
        *self.totals().entry((what, reason)).or_default() += 1;
        let mut minutes = self.lock();
        add(
            minutes.entry(minute(now)).or_default(),
            (what, Some(source)),
            reason,
            1,
        );
        while minutes.len() > MINUTES {
            let Some((_, oldest)) = minutes.pop_first() else {
                return;
            };
            let Some(mut next) = minutes.first_entry() else {
                return;
            };
            for ((what, _), reasons) in oldest {
                for (reason, count) in reasons {
                    add(next.get_mut(), (what, None), reason, count);
                }
            }
        }
    }

    /// Takes out the minutes that are over, or all.
    fn take(&self, now: Moment, all: bool) -> BTreeMap<i64, Minute> {
        let mut minutes = self.lock();
        let present = (!all)
            .then(|| minutes.remove_entry(&minute(now)))
            .flatten()
            .into_iter()
            .collect();
        std::mem::replace(&mut *minutes, present)
    }

    /// Puts back what couldn't be told.
    fn put_back(&self, untold: BTreeMap<i64, Minute>) {
        let mut minutes = self.lock();
        for (at, counts) in untold {
            let here = minutes.entry(at).or_default();
            for (key, reasons) in counts {
                for (reason, count) in reasons {
                    add(here, key, reason, count);
                }
            }
        }
    }
}

const fn minute(now: Moment) -> i64 {
    now.millis().div_euclid(60_000)
}

fn add(minute: &mut Minute, (what, source): (Refused, Option<IpNet>), reason: &'static str, more: u64) {
    let is_full = minute.len() >= SOURCES && !minute.contains_key(&(what, source));
    let key = (what, source.filter(|_| !is_full));
    let count = minute.entry(key).or_default().entry(reason).or_default();
    *count = count.saturating_add(more);
}

/// The records of a minute.
fn happenings(at: i64, minute: &Minute) -> impl Iterator<Item = Happening> + '_ {
    let minute_of = Moment::from_millis(at.saturating_mul(60_000));
    minute.iter().map(move |((what, source), reasons)| Happening {
        kind: what.kind().to_owned(),
        severity: what.severity(),
        peer: None,
        payload: json!({
            "source": source.map_or_else(|| "others".to_owned(), words),
            "minute": minute_of,
            "count": reasons.values().fold(0_u64, |all, count| all.saturating_add(*count)),
            "reasons": reasons,
        }),
    })
}

/// An address alone, or a network with its length.
fn words(source: IpNet) -> String {
    if source.prefix_len() == source.max_prefix_len() {
        source.addr().to_string()
    } else {
        source.to_string()
    }
}

impl Gateway {
    /// Counts a refusal: it costs no write. `source` is what counts as one place: an IPv4
    /// address, or an IPv6 /64. `reason` is a word of ours for programs.
    pub fn refused(&self, what: Refused, source: IpNet, reason: &'static str, wall: Moment) {
        self.refusals.count(what, source, reason, wall);
    }

    /// How often something was refused since the start, by what was asked (`accept`, `call`) and why.
    #[must_use]
    pub fn refusals(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let totals = self.refusals.totals();
        let counts = totals
            .iter()
            .map(|((what, reason), count)| ((what.asked(), *reason), *count));
        counts.collect()
    }

    /// Tells the audit who was refused in the minutes that are over, in one transaction; of all minutes with `all`.
    ///
    /// # Errors
    /// The ledger can't be written: it is told another time.
    pub fn tell_refusals(&self, wall: Moment, all: bool) -> Result<(), LedgerError> {
        let minutes = self.refusals.take(wall, all);
        if minutes.is_empty() {
            return Ok(());
        }
        let told = self.ledger.transact(wall, |draft| {
            for (at, minute) in &minutes {
                happenings(*at, minute).for_each(|happening| draft.note(happening));
            }
            Ok::<_, std::convert::Infallible>(())
        });
        match told {
            Ok(()) => Ok(()),
            Err(Aborted::ByCaller(never)) => match never {},
            Err(Aborted::ByLedger(error)) => {
                self.refusals.put_back(minutes);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Moment {
        Moment::from_millis(seconds * 1_000)
    }

    fn v4(n: u32) -> IpNet {
        IpNet::from(std::net::IpAddr::V4(n.into()))
    }

    fn records(minutes: &BTreeMap<i64, Minute>) -> Vec<Happening> {
        let records = minutes.iter().flat_map(|(at, minute)| happenings(*at, minute));
        records.collect()
    }

    #[test]
    fn a_source_has_one_record_a_minute_however_often_it_tries() {
        let refusals = Refusals::default();
        let source = "2001:db8:0:1::/64".parse().unwrap();
        for n in 0..100_000 {
            let reason = if n % 4 == 0 { "malformed" } else { "UNAUTHORIZED" };
            refusals.count(Refused::Accept, source, reason, at(60 + n % 60));
        }
        assert!(refusals.take(at(119), false).is_empty(), "its minute isn't over");
        let over = records(&refusals.take(at(120), false));
        assert_eq!(
            over,
            [Happening {
                kind: "federation.accept.refused".to_owned(),
                severity: "medium",
                peer: None,
                payload: json!({
                    "source": "2001:db8:0:1::/64",
                    "minute": "1970-01-01T00:01:00Z",
                    "count": 100_000,
                    "reasons": { "malformed": 25_000, "UNAUTHORIZED": 75_000 },
                }),
            }]
        );
        assert!(refusals.take(at(600), true).is_empty(), "it is told once");
        let all = [("malformed", 25_000), ("UNAUTHORIZED", 75_000)];
        let all = all.map(|(reason, count)| ((Refused::Accept, reason), count));
        assert_eq!(*refusals.totals(), all.into(), "what was told counts on");
    }

    #[test]
    fn an_address_is_written_without_a_length() {
        let words_of = |text: &str| words(text.parse().unwrap());
        assert_eq!(words_of("192.0.2.1/32"), "192.0.2.1");
        assert_eq!(words_of("2001:db8:0:1::/64"), "2001:db8:0:1::/64");
    }

    #[test]
    fn beyond_many_sources_the_others_are_counted_together() {
        let refusals = Refusals::default();
        for n in 0..50_000 {
            refusals.count(Refused::Stranger, v4(n), "bare", at(0));
            refusals.count(Refused::Accept, v4(n), "UNAUTHORIZED", at(0));
        }
        refusals.count(Refused::Stranger, v4(0), "bare", at(1));
        let over = records(&refusals.take(at(60), false));
        assert_eq!(over.len(), SOURCES + 2);
        let of = |kind: &str| -> u64 {
            let of_kind = over.iter().filter(|record| record.kind == kind);
            of_kind
                .map(|record| record.payload["count"].as_u64().unwrap())
                .sum()
        };
        assert_eq!(of("federation.stranger.refused"), 50_001);
        assert_eq!(of("federation.accept.refused"), 50_000);
        let first = over.iter().find(|record| {
            record.kind == "federation.stranger.refused" && record.payload["source"] == "0.0.0.0"
        });
        assert_eq!(
            first.unwrap().payload["count"],
            2,
            "who is known goes on being counted"
        );
        assert_eq!(
            over.iter()
                .filter(|record| record.payload["source"] == "others")
                .count(),
            2
        );
    }

    #[test]
    fn a_ledger_that_is_full_loses_no_count_and_costs_no_memory() {
        let refusals = Refusals::default();
        for minute in 0..1_000 {
            for n in 0..5 {
                refusals.count(Refused::Accept, v4(n), "UNAUTHORIZED", at(minute * 60));
            }
            // The ledger refuses.
            let untold = refusals.take(at(minute * 60), false);
            refusals.put_back(untold);
            assert!(refusals.lock().len() <= MINUTES);
        }
        let over = refusals.take(at(1_000 * 60), false);
        assert_eq!(over.len(), MINUTES);
        let counts = records(&over);
        let all: u64 = counts
            .iter()
            .map(|record| record.payload["count"].as_u64().unwrap())
            .sum();
        assert_eq!(all, 5_000);
        assert!(counts.len() <= MINUTES * 5 + 1);
    }

    #[test]
    fn a_clock_that_is_put_back_holds_nothing_back() {
        let refusals = Refusals::default();
        refusals.count(Refused::Accept, v4(1), "UNAUTHORIZED", at(6_000));
        assert_eq!(refusals.take(at(60), false).len(), 1);
    }
}
