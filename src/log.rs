//! How the daemons log: text on a terminal, a JSON object a line elsewhere, to the journal with the priority that it sorts by.
//!
//! ```text
//! Event ─ emit ─▶ tracing ─┬─▶ lines on standard error: as `[log]` says
//!                          └─▶ Recent: the last events, for `sdwand events`
//! ```
//!
//! What an operator acts on is an [`Event`], or [`Happened`] between sites: it has an id that stays, fields with types, and its place in the [`catalogue`].
//! Other lines have no id, and may change. WARN means that someone should look, ERROR that someone must act; addresses of
//! peers stay at DEBUG.

mod event;
mod happened;
mod lap;
mod line;
mod recent;
#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;
use std::time::SystemTime;

use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::{fmt, util::SubscriberInitExt as _};

pub use event::{EVENTS, Event, Field, Kind, Severity};
pub use happened::{HAPPENINGS, Happened};
pub use lap::{Lap, lap};
pub use recent::{MOST, Recent, Record};

use crate::model::host::{Log, LogFormat, LogLevel};
use line::Line;

/// Every event that there is.
pub fn catalogue() -> impl Iterator<Item = &'static Kind> {
    EVENTS.iter().chain(HAPPENINGS)
}

/// Starts logging to standard error, and gives the last events, which `clock` dates. A second call changes nothing, and
/// hears of none.
pub fn start(log: &Log, clock: fn() -> SystemTime) -> Recent {
    let terminal = std::io::stderr().is_terminal();
    let is_text = match log.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    let format = Format {
        is_text,
        is_coloured: is_text && terminal,
        is_journal: line::is_journal(std::env::var_os("JOURNAL_STREAM").as_deref()),
    };
    let recent = Recent::new(clock);
    let layers = tracing_subscriber::registry()
        .with(lines(format, log.level, std::io::stderr))
        .with(kept(&recent));
    // Another subscriber may be there already: then it stays.
    let _ = layers.try_init();
    recent
}

/// What a line is like.
#[derive(Clone, Copy)]
struct Format {
    is_text: bool,
    is_coloured: bool,
    /// Whether it goes to the journal, which takes its priority from the line.
    is_journal: bool,
}

type Boxed<S> = Box<dyn tracing_subscriber::Layer<S> + Send + Sync>;

fn lines<W>(format: Format, level: LogLevel, writer: W) -> Boxed<Registry>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Others' crates speak only when something is wrong; the embedded device reports every packet that it can't send
    // as an error, and netlink's codec prints whole messages.
    let filter = Targets::new()
        .with_target("sdwand", level)
        .with_target("gotatun", LevelFilter::OFF)
        .with_default(level.min(LevelFilter::WARN));
    let is_journal = format.is_journal;
    let lines = fmt::layer().with_writer(writer).with_target(false);
    let lines = if format.is_text {
        lines
            .with_ansi(format.is_coloured)
            .map_event_format(|inner| Line { inner, is_journal })
            .boxed()
    } else {
        lines
            .json()
            .flatten_event(true)
            .map_event_format(|inner| Line { inner, is_journal })
            .boxed()
    };
    lines.with_filter(filter).boxed()
}

/// Only what has an id is kept, whatever level the log has.
fn kept<S>(recent: &Recent) -> Boxed<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let is_ours = |metadata: &tracing::Metadata<'_>| {
        metadata.target().starts_with("sdwand") && metadata.fields().field(recent::ID).is_some()
    };
    recent.clone().with_filter(filter_fn(is_ours)).boxed()
}
