//! The rooms of `src/` and who may use whom, read from the `use crate::` lines and `crate::` paths.

#![allow(clippy::unwrap_used, reason = "a test that fails says so")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// room → the rooms that it may use. A room that isn't listed may use everything (the composition roots and the CLI).
const RULES: [(&str, &[&str]); 10] = [
    ("model", &[]),
    ("config", &["model"]),
    ("intent", &["model"]),
    ("planes", &["model", "intent", "sys"]),
    ("reconcile", &["model", "intent", "planes"]),
    ("sys", &[]),
    ("report", &["model", "intent", "planes", "reconcile"]),
    ("api", &["model", "report", "reconcile", "federation", "log"]),
    ("federation", &["model"]),
    ("log", &["model"]),
];

const ROOTS: [&str; 6] = ["main", "cli", "daemon", "host", "notify", "server"];

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

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The room of a file, and for a plane the plane: `planes/l3`.
fn room(path: &Path) -> (String, Option<String>) {
    let inside = path.strip_prefix(src()).unwrap();
    let mut parts = inside.iter().map(|part| part.to_str().unwrap());
    let room = parts.next().unwrap().trim_end_matches(".rs").to_owned();
    let next = parts.next().map(|part| part.trim_end_matches(".rs").to_owned());
    (room, next.filter(|part| part != "mod"))
}

/// Every `crate::a::b` of a file as (a, b); comments don't count.
fn uses(text: &str) -> BTreeSet<(String, String)> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let word = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let group = group.split_once("};").map_or(group, |(group, _)| group);
            for item in group.split(',') {
                found.insert((word(item.trim()), String::new()));
            }
            continue;
        }
        let first = word(rest);
        let second = rest[first.len()..]
            .strip_prefix("::")
            .map(word)
            .unwrap_or_default();
        found.insert((first, second));
    }
    found
}

#[test]
fn rooms_use_only_what_they_may() {
    let rules: BTreeMap<&str, &[&str]> = RULES.into_iter().collect();
    let mut files = Vec::new();
    rust_files(&src(), &mut files);
    assert!(files.len() > 20, "the sources were not found");
    let mut wrong = Vec::new();
    for file in &files {
        let (own, part) = room(file);
        // Tests of a room may build what they need out of any other.
        let is_test =
            |part: std::path::Component<'_>| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs"));
        if file.strip_prefix(src()).unwrap().components().any(is_test) {
            continue;
        }
        let text = fs::read_to_string(file).unwrap();
        for (used, second) in uses(&text) {
            if used == own {
                let planes = ["l3", "wireguard", "firewall"];
                let other_plane =
                    own == "planes" && planes.contains(&second.as_str()) && part.as_ref() != Some(&second);
                if other_plane && part.is_some() {
                    wrong.push(format!("{}: plane uses plane {second}", file.display()));
                }
                continue;
            }
            if ROOTS.contains(&used.as_str()) && !ROOTS.contains(&own.as_str()) {
                wrong.push(format!("{}: uses composition root {used}", file.display()));
            }
            if let Some(may) = rules.get(own.as_str())
                && !may.contains(&used.as_str())
            {
                wrong.push(format!("{}: {own} may not use {used}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_has_a_rule() {
    let listed: BTreeSet<&str> = RULES
        .iter()
        .map(|(room, _)| *room)
        .chain(ROOTS)
        .chain(["lib"])
        .collect();
    for entry in fs::read_dir(src()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let room = name.trim_end_matches(".rs");
        assert!(listed.contains(room), "src/{name} has no rule in this test");
    }
}

#[test]
fn only_exec_starts_processes() {
    let mut files = Vec::new();
    rust_files(&src(), &mut files);
    for file in files {
        if file.ends_with("sys/exec.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            assert!(!line.contains("Command::new("), "{}: {line}", file.display());
        }
    }
}

#[test]
fn every_plane_has_the_same_five_files() {
    for plane in ["l3", "wireguard", "firewall"] {
        for file in ["state", "compile", "observe", "diff", "apply"] {
            let path = src().join("planes").join(plane).join(format!("{file}.rs"));
            let folder = path.with_extension("");
            assert!(path.is_file() || folder.is_dir(), "{} is missing", path.display());
        }
    }
}
