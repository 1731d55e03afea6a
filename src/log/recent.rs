//! The last events, for whoever asks.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tracing::Subscriber;
use tracing::field::Visit;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::{Kind, Severity};

/// How many events are kept; the oldest goes first.
pub const MOST: usize = 256;

/// The field that an event is known by.
pub(super) const ID: &str = "event";
/// The field that its sentence is in.
const MESSAGE: &str = "message";

/// An event that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// When, RFC 3339 in UTC, to the millisecond.
    pub time: String,
    /// Whether someone should look.
    pub severity: Severity,
    /// Its id.
    pub event: String,
    /// Its sentence.
    pub message: String,
    /// What it says besides, by name; absent ones aren't there.
    pub fields: Map<String, Value>,
}

impl fmt::Display for Record {
    /// A line; texts of others are quoted, as JSON quotes them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {:<7} {}: {}",
            self.time, self.severity, self.event, self.message
        )?;
        self.fields
            .iter()
            .try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

/// The last [`MOST`] events; its copies are the same.
#[derive(Clone, Debug)]
pub struct Recent {
    clock: fn() -> SystemTime,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    last: VecDeque<Record>,
    /// How often each was said.
    counts: BTreeMap<String, u64>,
}

impl Recent {
    /// Nothing has happened yet; `clock` says when things do.
    #[must_use]
    pub fn new(clock: fn() -> SystemTime) -> Self {
        Self {
            clock,
            kept: Arc::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened, the oldest first.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.lock().last.iter().cloned().collect()
    }

    /// How often each event that `command` can say was said, since the start.
    #[must_use]
    pub fn counts(&self, command: &str) -> Vec<(&'static str, u64)> {
        let kept = self.lock();
        let count = |kind: &Kind| kept.counts.get(kind.id).copied().unwrap_or_default();
        super::catalogue()
            .filter(|kind| kind.commands.contains(&command))
            .map(|kind| (kind.id, count(kind)))
            .collect()
    }
}

impl<S: Subscriber> Layer<S> for Recent {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut said = Said::default();
        event.record(&mut said);
        let mut text = |name: &str| match said.0.remove(name) {
            Some(Value::String(text)) => text,
            Some(_) | None => String::new(),
        };
        let (id, message) = (text(ID), text(MESSAGE));
        let record = Record {
            time: stamp((self.clock)()),
            severity: (*event.metadata().level()).into(),
            event: id,
            message,
            fields: said.0,
        };
        let mut kept = self.lock();
        *kept.counts.entry(record.event.clone()).or_default() += 1;
        if kept.last.len() >= MOST {
            kept.last.pop_front();
        }
        kept.last.push_back(record);
    }
}

/// Always as long, so that the order of the texts is that of the times.
fn stamp(at: SystemTime) -> String {
    const STAMP: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    // A year that RFC 3339 can't say is a clock that nobody has set.
    OffsetDateTime::from(at).format(STAMP).unwrap_or_default()
}

/// What an event says, by name.
#[derive(Default)]
struct Said(Map<String, Value>);

impl Said {
    fn put(&mut self, field: &tracing::field::Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &tracing::field::Field, value: bool) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_order_of_the_texts_is_that_of_the_times() {
        let at = |millis| stamp(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(at(1_700_000_000_000), "2023-11-14T22:13:20.000Z");
        let times = [0, 850, 900, 1_000, 1_001, 1_010, 60_000].map(at);
        assert!(times.is_sorted(), "{times:?}");
    }
}
