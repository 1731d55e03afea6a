//! How the daemon logs: text on a terminal, JSON elsewhere. WARN means that someone should look, ERROR that someone
//! must act; addresses of peers stay at DEBUG.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::{fmt, util::SubscriberInitExt as _};

use crate::model::host::{Log, LogFormat, LogLevel};

/// Starts logging to standard error. A second call changes nothing.
pub fn start(log: &Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let terminal = std::io::stderr().is_terminal();
    let text = match log.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    // Others' crates speak only when something is wrong; the embedded device reports every packet that it can't send
    // as an error, and netlink's codec prints whole messages.
    let filter = Targets::new()
        .with_target("sdwand", level)
        .with_target("gotatun", LevelFilter::OFF)
        .with_default(level.min(LevelFilter::WARN));
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = if text {
        lines.with_ansi(terminal).boxed()
    } else {
        lines.json().flatten_event(true).boxed()
    };
    let lines = tracing_subscriber::registry().with(lines.with_filter(filter));
    // Another subscriber may be there already: then it stays.
    let _ = lines.try_init();
}
