//! A line for whoever reads standard error.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// `inner`, after the priority where the journal reads it: `SyslogLevelPrefix=`, on by default, takes it off again.
pub(super) struct Line<F> {
    pub(super) inner: F,
    pub(super) is_journal: bool,
}

impl<S, N, F> FormatEvent<S, N> for Line<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.is_journal {
            write!(writer, "<{}>", priority(*event.metadata().level()))?;
        }
        self.inner.format_event(context, writer, event)
    }
}

/// By syslog(3), as sd-daemon(3) takes them.
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Whether standard error is the stream that systemd says goes to the journal: `<device>:<inode>`, systemd.exec(5).
/// Somebody may have led it elsewhere since.
pub(super) fn is_journal(stream: Option<&OsStr>) -> bool {
    let Some((device, inode)) = stream
        .and_then(OsStr::to_str)
        .and_then(|text| text.split_once(':'))
    else {
        return false;
    };
    let ours = std::io::stderr().as_fd().try_clone_to_owned();
    let Ok(metadata) = ours.and_then(|ours| std::fs::File::from(ours).metadata()) else {
        return false;
    };
    (device.parse(), inode.parse()) == (Ok(metadata.dev()), Ok(metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_known_by_its_stream_alone() {
        let own = std::fs::File::from(std::io::stderr().as_fd().try_clone_to_owned().unwrap());
        let own = own.metadata().unwrap();
        let is = |text: String| is_journal(Some(OsStr::new(&text)));
        assert!(is(format!("{}:{}", own.dev(), own.ino())));
        assert!(!is(format!("{}:{}", own.dev(), own.ino() + 1)), "another file");
        for wrong in ["", ":", "1", "1:", "a:b"] {
            assert!(!is(wrong.to_owned()), "{wrong:?}");
        }
        assert!(!is_journal(None));
    }
}
