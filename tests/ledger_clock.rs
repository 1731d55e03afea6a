//! `sdwand ledger reset-clock`: who may, when, and what it says.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test starts the program, looks at the clock, and says so when it fails"
)]

use std::path::Path;
use std::process::{Command, Output};
use std::time::SystemTime;

use sdwand::federation::ledger::Ledger;
use sdwand::federation::moment::Moment;
use serde_json::Value;

fn sdwand(config: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sdwand"))
        .arg("--config")
        .arg(config)
        .args(arguments)
        .output()
        .unwrap()
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    answer["error"].as_str().unwrap().to_owned()
}

#[test]
fn the_ledgers_time_is_put_back_by_who_knows_the_date() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("sdwand.toml");
    std::fs::write(
        &config,
        "format = 1\nnode = \"gw\"\nstate_dir = \"state\"\nrun_dir = \"run\"\n[fleet]\ndir = \"fleet.d\"\n\
         [federation]\nlisten = \"127.0.0.1:1\"\nurl = \"https://127.0.0.1:1\"\n",
    )
    .unwrap();
    let serve = folder.path().join("state-serve");
    std::fs::create_dir(&serve).unwrap();
    let wall: Moment = SystemTime::now().into();
    let today = wall.to_string()[..10].to_owned();
    let reset = |today: &str| sdwand(&config, &["--json", "ledger", "reset-clock", "--today", today]);
    assert!(refused(&reset(&today)).contains("there is no ledger"));

    let path = serve.join("ledger.db");
    let ahead: Moment = "2040-01-01T00:00:00Z".parse().unwrap();
    let ledger = Ledger::open(&path, wall).unwrap();
    ledger.transact(ahead, |_| Ok::<_, ()>(())).unwrap();
    drop(ledger);
    // A host whose clock is wrong again would only move the wrong date.
    for wrong in ["2040-01-01", "", "tomorrow"] {
        let said = refused(&reset(wrong));
        assert!(said.contains("set the clock first"), "{said}");
    }
    let lock = std::fs::File::create(serve.join("lock")).unwrap();
    lock.lock().unwrap();
    let said = refused(&reset(&today));
    assert!(said.contains("stop the gateway first"), "{said}");
    drop(lock);

    let done = reset(&today);
    assert!(done.status.success(), "{done:?}");
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(
        (&answer["from"], &answer["epoch"]),
        (&"2040-01-01T00:00:00Z".into(), &2.into())
    );
    assert!(answer["to"].as_str().unwrap().starts_with(&today));
    assert!(refused(&reset(&today)).contains("nothing to put back"));
    let ledger = Ledger::open(&path, wall).unwrap();
    assert_eq!(ledger.read(|book| book.ahead(wall)), None);
    assert_eq!(ledger.head().to_string(), answer["audit_head"]);
}
