//! The events' ids stay what they are, and none is missing. `UPDATE_GOLDEN=1` records the catalogue anew; CI refuses that.

#![allow(clippy::unwrap_used, reason = "a test that fails says so")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sdwand::federation::bridge;
use sdwand::federation::peer::Status;
use sdwand::log::{HAPPENINGS, catalogue};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_catalogue_is_what_was_recorded() {
    let told: Vec<String> = catalogue().map(ToString::to_string).collect();
    let told = told.join("\n");
    let golden = root().join("tests/data/events/catalogue.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(golden.parent().unwrap()).unwrap();
        fs::write(&golden, &told).unwrap();
    }
    let recorded = fs::read_to_string(&golden).unwrap();
    assert!(
        told == recorded,
        "not as recorded (UPDATE_GOLDEN=1 records it; an id that operators know must stay):\n{told}"
    );
}

#[test]
fn ids_and_sentences_follow_the_rules() {
    let mut ids = BTreeSet::new();
    for kind in catalogue() {
        assert!(ids.insert(kind.id), "{} is there twice", kind.id);
        let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
        let parts: Vec<&str> = kind.id.split('.').collect();
        assert!(
            parts.len() >= 2
                && parts
                    .iter()
                    .all(|part| !part.is_empty() && part.chars().all(is_plain)),
            "{}",
            kind.id
        );
        assert!(
            !kind.message.ends_with('.') && !kind.message.is_empty(),
            "{}",
            kind.id
        );
        assert!(kind.advice.ends_with('.'), "{}: {}", kind.id, kind.advice);
        // What every line has already.
        for taken in ["event", "message", "level", "timestamp"] {
            assert!(kind.fields.iter().all(|field| field.name != taken), "{}", kind.id);
        }
    }
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What the audit has and no event tells: what comes too often, or is told by another event.
const NOT_TOLD: [&str; 6] = [
    "federation.accept.refused",
    "federation.stranger.refused",
    "federation.peer.audit_head",
    "federation.grant.archived",
    // At the start, before anybody listens: `ledger.put_back`, and the command that does the other.
    "federation.ledger.restored",
    "federation.ledger.clock_reset",
];

#[test]
fn what_the_audit_says_is_an_event_or_left_out_by_name() {
    let mut files = Vec::new();
    rust_files(&root().join("src/federation"), &mut files);
    let mut audited = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        for line in text
            .lines()
            .filter(|line| line.contains("kind: ") || line.contains("const ANCHOR"))
        {
            let word = line
                .split('"')
                .nth(1)
                .filter(|word| word.starts_with("federation."));
            audited.extend(word.map(str::to_owned));
        }
        // Those that are handed on by name.
        for word in text.split('"').filter(|word| word.starts_with("federation.pki.")) {
            audited.insert(word.to_owned());
        }
    }
    let formatted: BTreeSet<String> = audited
        .iter()
        .filter(|kind| kind.contains('{'))
        .cloned()
        .collect();
    audited.retain(|kind| !kind.contains('{'));
    for kind in formatted {
        let (start, name) = kind.split_once('{').unwrap();
        match start {
            "federation.peer." => audited.extend(Status::ALL.map(|status| format!("{start}{status}"))),
            "federation.operator_token." => {
                audited.extend(["issued", "revoked"].map(|what| format!("{start}{what}")));
            }
            "federation.approval." => {
                let all = ["requested", "approved", "denied", "expired", "failed", "voided"];
                audited.extend(all.map(|what| format!("{start}{what}")));
            }
            "federation.subscription." => {
                let all = ["subscribed", "unsubscribed", "withdrawn"];
                audited.extend(all.map(|what| format!("{start}{what}")));
            }
            "federation.bridge." => {
                audited.extend(bridge::State::ALL.map(|state| format!("{start}{state}")));
            }
            // What a peer may read of which kind: `grant` tells of what follows from it.
            "federation.capability." => {}
            _ => panic!("{start}{{{name}: say which there are"),
        }
    }
    assert!(
        audited.len() > 20,
        "the audit's words were not found: {audited:?}"
    );
    let told: BTreeSet<String> = HAPPENINGS.iter().map(|kind| kind.id.to_owned()).collect();
    let left_out: BTreeSet<String> = NOT_TOLD.map(str::to_owned).into();
    let missing: Vec<_> = audited
        .difference(&told)
        .filter(|kind| !left_out.contains(*kind))
        .collect();
    assert!(missing.is_empty(), "neither told nor left out: {missing:?}");
    let unknown: Vec<_> = told.difference(&audited).collect();
    assert!(unknown.is_empty(), "told, and never in the audit: {unknown:?}");
}
