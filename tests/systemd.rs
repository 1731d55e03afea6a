//! The units: that systemd understands them, how much they expose, and who they run as.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that fails says so, and waits for a process"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

/// What `systemd-analyze` says, with its exit status.
fn analyze(args: &[&str], unit: &Path) -> (bool, String) {
    let output = Command::new("systemd-analyze")
        .args(args)
        .arg(unit)
        .output()
        .expect("systemd-analyze is installed");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// The units, and how much they may expose.
const UNITS: [(&str, f64); 2] = [("sdwand.service", 3.0), ("sdwand-serve.service", 2.0)];

#[test]
fn the_units_are_understood() {
    for (name, _) in UNITS {
        // The binary isn't installed where the unit expects it: another that is there stands for it.
        let folder = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(unit(name)).unwrap();
        let there = folder.path().join(name);
        std::fs::write(&there, text.replace("/usr/bin/sdwand ", "/bin/true ")).unwrap();
        let (ok, text) = analyze(&["verify", "--man=no", "--recursive-errors=no"], &there);
        assert!(ok && text.is_empty(), "{name}: {text}");
    }
}

#[test]
fn the_units_expose_little() {
    for (name, most) in UNITS {
        let exposure = exposure(name);
        assert!(exposure <= most, "{name}: {exposure}");
    }
}

fn exposure(name: &str) -> f64 {
    let (_, text) = analyze(&["security", "--offline=true", "--no-pager"], &unit(name));
    let line = text
        .lines()
        .find(|line| line.contains("Overall exposure level"))
        .unwrap_or_else(|| panic!("{text}"));
    line.split(':')
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn users_and_groups_come_into_being() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("etc")).unwrap();
    let made = Command::new("systemd-sysusers")
        .arg(format!("--root={}", root.path().display()))
        .arg(unit("sdwand.sysusers"))
        .output();
    let made = made.expect("systemd-sysusers is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |name: &str| std::fs::read_to_string(root.path().join("etc").join(name)).unwrap();
    assert!(read("passwd").contains(":/var/lib/sdwand-serve:/usr/sbin/nologin"));
    let groups = read("group");
    let of = |name: &str| {
        groups
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))
            .unwrap()
    };
    assert!(of("sdwand-read").ends_with(":sdwand"), "{groups}");
    assert!(
        of("sdwand").ends_with(':'),
        "nobody is an operator by default: {groups}"
    );
}

#[test]
fn folders_come_into_being() {
    let root = tempfile::tempdir().unwrap();
    // Names of users are looked up in the root's files.
    std::fs::create_dir(root.path().join("etc")).unwrap();
    std::fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    std::fs::write(root.path().join("etc/group"), "root:x:0:\nsdwand:x:990:\n").unwrap();
    let made = Command::new("systemd-tmpfiles")
        .arg("--create")
        .arg(format!("--root={}", root.path().display()))
        .arg(unit("sdwand.tmpfiles"))
        .output();
    let made = made.expect("systemd-tmpfiles is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for folder in ["run/sdwand", "var/lib/sdwand", "etc/sdwand/fleet.d"] {
        assert!(root.path().join(folder).is_dir(), "{folder}");
    }
}
