//! The alert rules and the dashboard in `config/` name metrics that there are, and say all that an operator reads.

#![allow(clippy::unwrap_used, reason = "a test that fails says so")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sdwand::log::catalogue;
use sdwand::report::metrics::{GATEWAY_METRICS, Kind, METRICS, Metric, SHARED_METRICS};

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap()
}

/// The words of a text that look like one of our metrics; a file's name isn't one.
fn named(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("sdwand_"))
        .map(str::to_owned)
        .collect()
}

fn metrics() -> impl Iterator<Item = &'static Metric> {
    SHARED_METRICS.iter().chain(METRICS).chain(GATEWAY_METRICS)
}

/// Every series that a scrape can have.
fn series() -> BTreeSet<String> {
    let of = |metric: &Metric| match metric.kind {
        Kind::Gauge | Kind::Counter => vec![metric.name.to_owned()],
        Kind::Histogram => ["bucket", "sum", "count"]
            .map(|part| format!("{}_{part}", metric.name))
            .to_vec(),
    };
    metrics().flat_map(of).collect()
}

#[test]
fn what_they_name_is_there() {
    for file in ["sdwand.alerts.yaml", "sdwand.dashboard.json"] {
        let named = named(&read(file));
        assert!(
            named.len() >= 9,
            "{file} names too little to be what it is: {named:?}"
        );
        let unknown: Vec<_> = named.difference(&series()).cloned().collect();
        assert_eq!(unknown, Vec::<String>::new(), "{file}");
    }
}

#[test]
fn the_events_that_they_name_are_there() {
    let ids: BTreeSet<&str> = catalogue().map(|kind| kind.id).collect();
    let text = read("sdwand.alerts.yaml");
    let named: BTreeSet<&str> = text
        .split("event=~\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .flat_map(|alternatives| alternatives.split('|'))
        .collect();
    assert!(named.len() >= 3, "{named:?}");
    let unknown: Vec<_> = named.iter().filter(|id| !ids.contains(*id)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn every_panel_asks_for_something_of_ours() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("sdwand.dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 10);
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        for target in panel["targets"].as_array().unwrap() {
            assert!(!named(target["expr"].as_str().unwrap()).is_empty(), "{target}");
        }
    }
}

#[test]
fn names_follow_the_conventions() {
    let mut names = BTreeSet::new();
    for metric in metrics() {
        assert!(names.insert(metric.name), "{} is there twice", metric.name);
        assert!(
            metric.name.starts_with("sdwand_") && metric.help.ends_with('.'),
            "{metric:?}"
        );
        let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(metric.name.chars().all(is_plain), "{}", metric.name);
    }
}
