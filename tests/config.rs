//! Bad configurations and what is said about them, word for word: `tests/data/config/<case>/`.
//!
//! A case is a folder as `/etc/sdwand` would be: `fleet.d/*.toml`, and `sdwand.toml` with `node.key` where the host
//! matters. `expected.txt` is what `check` prints. `UPDATE_GOLDEN=1` records it anew; CI refuses that.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sdwand::config::{self, DiagnosticKind, Diagnostics, Notice};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    cases
}

/// A copy of the case, where files have the modes that git doesn't keep.
fn copy(case: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let fleet = folder.path().join("fleet.d");
    fs::create_dir(&fleet).unwrap();
    for (from, to) in [(case.to_owned(), folder.path()), (case.join("fleet.d"), &fleet)] {
        for entry in fs::read_dir(&from).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    let key = folder.path().join("node.key");
    if key.exists() {
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let readable = folder.path().join("readable.key");
    if readable.exists() {
        fs::set_permissions(&readable, fs::Permissions::from_mode(0o640)).unwrap();
    }
    folder
}

fn check(folder: &Path) -> Result<Vec<Notice>, Diagnostics> {
    let host = folder.join("sdwand.toml");
    if host.exists() {
        Ok(config::load(&host)?.notices)
    } else {
        Ok(config::load_fleet(&folder.join("fleet.d"))?.notices)
    }
}

fn outcome(case: &Path) -> String {
    let folder = copy(case);
    let text = match check(folder.path()) {
        Ok(notices) => {
            let mut text = "sound\n".to_owned();
            for notice in notices {
                writeln!(text, "note: {notice}").unwrap();
            }
            text
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            let json = serde_json::to_value(&errors).unwrap();
            assert_eq!(json.as_array().unwrap().len(), errors.len());
            errors.to_string()
        }
    };
    text.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn every_case_says_what_it_should() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    assert!(
        !(update && std::env::var_os("CI").is_some()),
        "CI doesn't record expectations"
    );
    let mut wrong = String::new();
    let cases = cases();
    assert!(cases.len() > 40, "the cases are gone");
    for case in &cases {
        let (expected, found) = (case.join("expected.txt"), outcome(case));
        if update {
            fs::write(&expected, &found).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != found {
            writeln!(wrong, "--- {} ---\n{found}", case.display()).unwrap();
        }
    }
    assert!(
        wrong.is_empty(),
        "not as expected (UPDATE_GOLDEN=1 records it):\n{wrong}"
    );
}

/// A folder with a sound fleet, to which a test adds what it is about.
fn sound_fleet() -> (tempfile::TempDir, PathBuf) {
    let folder = copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config/sound"));
    let fleet = folder.path().join("fleet.d");
    (folder, fleet)
}

fn only_error(fleet: &Path) -> config::Diagnostic {
    let errors = config::load_fleet(fleet).expect_err("it can't be sound");
    assert_eq!(errors.len(), 1, "{errors}");
    errors.iter().next().unwrap().clone()
}

#[test]
fn a_huge_file_is_refused_unread() {
    let (_folder, fleet) = sound_fleet();
    let file = fs::File::create(fleet.join("99-huge.toml")).unwrap();
    // Sparse: nobody could read this much of it here.
    file.set_len(1 << 40).unwrap();
    let error = only_error(&fleet);
    assert_eq!(error.kind, DiagnosticKind::Limit);
    assert!(error.message.contains("larger than"), "{error}");
}

#[test]
fn many_large_fragments_are_refused() {
    let (_folder, fleet) = sound_fleet();
    let text = "#".repeat(config::MAX_FILE_BYTES - 1);
    for n in 0..5 {
        fs::write(fleet.join(format!("9{n}.toml")), &text).unwrap();
    }
    assert_eq!(only_error(&fleet).kind, DiagnosticKind::Limit);
}

#[test]
fn too_many_fragments_are_refused() {
    let (_folder, fleet) = sound_fleet();
    for n in 0..=config::MAX_FRAGMENTS {
        fs::write(fleet.join(format!("x{n}.toml")), "").unwrap();
    }
    assert_eq!(only_error(&fleet).kind, DiagnosticKind::Limit);
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    for what in ["folder", "pipe", "loop", "dangling", "device"] {
        let (_folder, fleet) = sound_fleet();
        let path = fleet.join("99.toml");
        match what {
            "folder" => fs::create_dir(&path).unwrap(),
            "pipe" => {
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            }
            "loop" => std::os::unix::fs::symlink("99.toml", &path).unwrap(),
            "dangling" => std::os::unix::fs::symlink("nothing", &path).unwrap(),
            _ => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
        }
        assert_eq!(only_error(&fleet).kind, DiagnosticKind::Unreadable, "{what}");
    }
}

#[test]
fn a_link_to_a_regular_file_is_followed() {
    let (folder, fleet) = sound_fleet();
    fs::rename(fleet.join("00-site.toml"), folder.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", fleet.join("00-site.toml")).unwrap();
    assert!(config::load_fleet(&fleet).is_ok());
}

#[test]
fn what_is_no_text_is_refused() {
    let (_folder, fleet) = sound_fleet();
    fs::write(fleet.join("99.toml"), b"a = \"\xff\xfe\"\n").unwrap();
    let error = only_error(&fleet);
    assert_eq!(error.kind, DiagnosticKind::Unreadable);
    assert!(error.message.contains("byte 6"), "{error}");
}

#[test]
fn hostile_texts_end_soon_and_in_errors() {
    let texts = [
        "[".repeat(1 << 20),
        "a.".repeat(1 << 20),
        format!("a = {}", "{ b = ".repeat(1 << 20)),
        format!("a = [{}]", "[],".repeat(1 << 20)),
        format!("a = [{}]", "{},".repeat(300_000)),
        "[a]\n".repeat(1 << 20),
        "[[nodes]]\n".repeat(200_000),
        "= ".repeat(45_000),
        "\"\"\"".repeat(1 << 20),
        "\u{0}".repeat(1 << 20),
        "名".repeat(1 << 20),
        format!("a = \"{}", "x".repeat(3 << 20)),
        (0..200_000).fold(String::new(), |mut text, n| {
            writeln!(text, "key{n} = 1").unwrap();
            text
        }),
    ];
    for text in texts {
        let shown: String = text.chars().take(20).collect();
        let fragments = [(PathBuf::from("x.toml"), text)];
        let errors = config::parse_fleet(&fragments).expect_err(&shown);
        assert!(errors.len() <= config::MAX_DIAGNOSTICS + 1);
        assert!(errors.to_string().len() < 2 << 20, "{shown}");
    }
}

/// The fleet that the limits are made for: 10,000 nodes in one network, in one fragment.
fn large_fleet(nodes: u32) -> String {
    let mut text = "[site]\nname = \"site-a\"\nprefix = \"fd12:34ab:cd42::/48\"\n".to_owned();
    for n in 1..=nodes {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        let key = sdwand::model::PublicKey(key);
        let endpoints = if n == 1 {
            "endpoints = [\"203.0.113.5\"]\n"
        } else {
            ""
        };
        writeln!(text, "\n[[nodes]]\nname = \"node-{n}\"\npublic_key = \"{key}\"\n{endpoints}tags = [\"t{}\", \"all\"]\nhost_id = {n}", n % 50).unwrap();
    }
    text.push_str("\n[[networks]]\nname = \"prod\"\nid = 1\nrouting = \"static\"\nprefix_v4 = \"100.64.0.0/16\"\nmembers = [\n");
    for n in 1..=nodes {
        let role = if n == 1 { "hub" } else { "spoke" };
        let (a, b) = (n >> 8, n & 0xff);
        writeln!(text, "  {{ node = \"node-{n}\", role = \"{role}\", lans = [{{ subnet = \"10.{a}.{b}.0/24\", interface = \"eth1\" }}] }},").unwrap();
    }
    text.push_str("]\n");
    for n in 0..nodes / 10 {
        writeln!(text, "\n[[networks.rules]]\nname = \"r{n}\"\npriority = {n}\naction = \"accept\"\nfrom = {{ tag = \"t{}\" }}\nto = {{ node = \"node-{}\" }}\nprotocol = \"tcp\"\nports = [\"443\", \"8000-8010\"]", n % 50, n + 1).unwrap();
    }
    text
}

#[test]
fn ten_thousand_nodes_fit_into_one_fragment() {
    let text = large_fleet(10_000);
    assert!(text.len() < config::MAX_FILE_BYTES / 2, "{} bytes", text.len());
    let parsed =
        config::parse_fleet(&[(PathBuf::from("x.toml"), text)]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(parsed.fleet.nodes.len(), 10_000);
    assert_eq!(parsed.notices, []);
}

#[test]
fn a_mismatch_of_keys_alone_is_told_apart() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config");
    let errors = |case: &str| {
        let folder = copy(&data.join(case));
        config::load(&folder.path().join("sdwand.toml")).expect_err("it can't be sound")
    };
    assert!(errors("host-key-mismatch").is_key_mismatch());
    assert!(!errors("host-unknown").is_key_mismatch());
}

#[test]
fn the_order_of_fragments_is_that_of_their_names() {
    let (_folder, fleet) = sound_fleet();
    let digest = || config::load_fleet(&fleet).unwrap().fleet.digest;
    let before = digest();
    assert_eq!(before, digest());
    fs::write(fleet.join("50-notes.toml"), "# nothing\n").unwrap();
    let after = digest();
    assert_ne!(before, after);
    fs::rename(fleet.join("50-notes.toml"), fleet.join("60-notes.toml")).unwrap();
    assert_eq!(after, digest());
}

/// Any cut or change of a sound fragment is read without a panic, and what it says has a place in the text.
mod random {
    use proptest::prelude::*;

    use super::*;

    fn fragment() -> String {
        sdwand::config::defaults::fleet_document().to_owned()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn half_written(cut in 0..fragment().len()) {
            let text: String = fragment().chars().take(cut).collect();
            check(&text);
        }

        #[test]
        fn changed(at in 0..fragment().len(), with in "[\\[\\]{}\"'=.,#\n\\\\a0名 ]{1,4}", drop in 0..8_usize) {
            let text: Vec<char> = fragment().chars().collect();
            let at = at.min(text.len());
            let mut changed: String = text[..at].iter().collect();
            changed.push_str(&with);
            changed.extend(text.iter().skip(at + drop));
            check(&changed);
        }

        #[test]
        fn anything(text in "(\\PC|\n|\t|\\[|\\]|=|\"){0,200}") {
            check(&text);
        }
    }

    fn check(text: &str) {
        let fragments = [(PathBuf::from("x.toml"), text.to_owned())];
        if let Err(errors) = sdwand::config::parse_fleet(&fragments) {
            assert!(!errors.is_empty());
            for error in &errors {
                let lines = u32::try_from(text.lines().count().max(1)).unwrap();
                assert!(error.line <= lines, "line {} of {lines}: {error}", error.line);
                assert!(!error.to_string().is_empty());
            }
        }
    }
}
