use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

/// What was written.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn clock() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_800_000_000_123)
}

/// What `say` leaves on standard error, and what is kept of it.
fn said(format: Format, level: LogLevel, say: impl FnOnce()) -> (String, Recent) {
    let paper = Paper::default();
    let recent = Recent::new(clock);
    let writer = paper.clone();
    let layers = tracing_subscriber::registry()
        .with(lines(format, level, move || writer.clone()))
        .with(kept(&recent));
    tracing::subscriber::with_default(layers, say);
    let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
    (text, recent)
}

const JSON: Format = Format {
    is_text: false,
    is_coloured: false,
    is_journal: false,
};
const TEXT: Format = Format {
    is_text: true,
    ..JSON
};
const JOURNAL: Format = Format {
    is_journal: true,
    ..JSON
};

fn bad() -> Event {
    Event::ConfigBad {
        count: 2,
        first: "a.toml:3: \"x\"\nisn't a key \u{1b}[2J".to_owned(),
    }
}

#[test]
fn an_event_is_a_line_of_json_with_its_id_and_typed_fields() {
    let (text, _) = said(JSON, LogLevel::Info, || {
        bad().emit();
        Event::PlaneConverged {
            plane: "l3".to_owned(),
            network: None,
        }
        .emit();
        tracing::info!("no event");
    });
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [bad, converged, other] = &*lines else {
        panic!("{text}");
    };
    assert_eq!(bad["event"], "config.bad");
    assert_eq!(bad["level"], "ERROR");
    assert_eq!(bad["count"], 2);
    assert_eq!(bad["first"], "a.toml:3: \"x\"\nisn't a key \u{1b}[2J");
    assert!(
        bad["message"]
            .as_str()
            .unwrap()
            .starts_with("the configuration is bad")
    );
    assert!(bad["timestamp"].is_string());
    assert_eq!(converged["plane"], "l3");
    assert_eq!(converged.get("network"), None, "what is absent isn't there");
    assert_eq!(other.get("event"), None);
}

#[test]
fn the_journal_hears_the_priority_first() {
    let (text, _) = said(JOURNAL, LogLevel::Debug, || {
        bad().emit();
        Event::ConfigAtNextStart.emit();
        Event::ConfigGoodAgain.emit();
        tracing::debug!("no event");
    });
    let starts: Vec<&str> = text.lines().map(|line| &line[..4]).collect();
    assert_eq!(starts, ["<3>{", "<4>{", "<6>{", "<7>{"]);
}

#[test]
fn a_line_of_text_is_one_line_and_does_nothing_to_a_terminal() {
    let (text, _) = said(TEXT, LogLevel::Info, || bad().emit());
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("ERROR the configuration is bad"), "{text}");
    assert!(text.contains("event=\"config.bad\""), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn the_last_are_kept_whatever_the_log_leaves_out() {
    let (text, kept) = said(JSON, LogLevel::Error, || {
        tracing::error!("no event");
        for changes in 0..MOST as u64 + 10 {
            Event::PlanApplied { changes, left: 0 }.emit();
        }
        let mut revoked = Happened::new("federation.grant.revoked").unwrap();
        revoked.by = Some("uid:0".to_owned());
        revoked.emit();
    });
    assert_eq!(
        text.lines().count(),
        1,
        "what is kept isn't always logged: {text}"
    );
    let counts = kept.counts("run");
    assert!(counts.contains(&("plan.applied", MOST as u64 + 10)), "{counts:?}");
    assert!(
        counts.contains(&("config.bad", 0)),
        "what never was counts as nothing"
    );
    assert!(
        !counts.iter().any(|(id, _)| id.starts_with("federation.")),
        "{counts:?}"
    );
    let kept = kept.records();
    assert_eq!(kept.len(), MOST);
    assert_eq!(kept[0].fields["changes"], 11, "the oldest have gone");
    let last = kept.last().unwrap();
    assert_eq!(
        json!(last),
        json!({
            "time": "2027-01-15T08:00:00.123Z", "severity": "info", "event": "federation.grant.revoked",
            "message": "a grant was revoked", "fields": { "by": "uid:0" },
        })
    );
    assert_eq!(
        last.to_string(),
        "2027-01-15T08:00:00.123Z info    federation.grant.revoked: a grant was revoked by=\"uid:0\""
    );
}
