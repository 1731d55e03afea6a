mod bridges;
mod copies;

use std::collections::BTreeSet;

use super::rows::put_peer;
use super::*;
use crate::federation::peer::Peer;
use crate::federation::peer::tests::proposed;
use crate::federation::peer::{Event, PeerId, Status};
use crate::federation::token::Fingerprint;
use crate::federation::token::TokenDigest;
use uuid::Uuid;

const WALL: Moment = Moment::EPOCH;

fn ledger(folder: &tempfile::TempDir) -> Ledger {
    Ledger::open(&folder.path().join("ledger.db"), WALL).unwrap()
}

fn put(ledger: &Ledger, peer: Peer) -> Result<(), Aborted<Conflict>> {
    ledger.transact(WALL, |draft| {
        draft.note(Happening {
            kind: "federation.peer.proposed".to_owned(),
            severity: "low",
            peer: Some(peer.id),
            payload: serde_json::json!({ "url": peer.url }),
        });
        draft.put_peer(peer)
    })
}

fn at(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

#[test]
fn where_everybody_stands_is_told_in_order_and_who_is_stopped_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(&folder);
    let stops = ledger.stops();
    let stand = |n: u128, status| {
        let peer = Peer {
            id: PeerId(Uuid::from_u128(n)),
            alias: crate::model::Name::new(&format!("site-{n}")).unwrap(),
            url: format!("https://site-{n}.example"),
            status,
            offer: None,
            ..proposed()
        };
        put(&ledger, peer).unwrap();
        let peers = ledger.read(|book| {
            let peers: Vec<_> = book.peers().map(|peer| (peer.id, peer.status)).collect();
            assert_eq!(peers, **book.standing());
            peers.len()
        });
        (peers, stops.has_changed().unwrap())
    };
    for (n, count) in [(5, 1), (3, 2), (9, 3), (4, 4)] {
        assert_eq!(stand(n, Status::Enrolled), (count, false));
    }
    for status in [Status::Active, Status::Degraded, Status::Active] {
        assert_eq!(stand(3, status), (4, false), "{status}");
    }
    assert_eq!(stand(3, Status::Suspended), (4, true));
    drop(ledger);
    let again = self::ledger(&folder);
    again.read(|book| {
        let peers: Vec<_> = book.peers().map(|peer| (peer.id, peer.status)).collect();
        assert_eq!(peers, **book.standing());
    });
}

/// The acceptance in one transaction: the peer moves on, its token dies, the answer is kept.
fn accept(ledger: &Ledger) -> Result<(), Aborted<&'static str>> {
    let token = TokenDigest([1; 32]);
    ledger.transact(WALL, |draft| {
        let mut peer = draft.offered(&token).cloned().ok_or("unknown token")?;
        let now = draft.now();
        peer.happen(Event::Accept, None, now).map_err(|_| "transition")?;
        peer.happen(Event::Enroll, None, now).map_err(|_| "transition")?;
        draft.note(Happening {
            kind: "federation.peer.enrolled".to_owned(),
            severity: "low",
            peer: Some(peer.id),
            payload: serde_json::Value::Null,
        });
        draft.keep_answer(KeptAnswer {
            token,
            client: Fingerprint([3; 32]),
            body: serde_json::json!({ "status": "enrolled" }),
            until: now.after(std::time::Duration::from_secs(900)),
        });
        draft.put_peer(peer).map_err(|_| "conflict")
    })
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    put(&ledger(&folder), proposed()).unwrap();
    let again = ledger(&folder);
    assert_eq!(again.starts(), 2);
    assert_eq!(
        again.read(|book| book.peers().map(|peer| (**peer).clone()).collect::<Vec<_>>()),
        [proposed()]
    );
    assert!(again.read(|book| book.offered(&TokenDigest([1; 32])).is_some()));
    assert_eq!(again.audit_verify().unwrap(), again.head());
    assert_eq!(again.head().sequence, 1);
}

#[test]
fn a_token_is_used_once() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(&folder);
    put(&ledger, proposed()).unwrap();
    let open = |wall| ledger.read(|book| book.open_offers(wall));
    let end = proposed().offer.unwrap().expires_at;
    assert_eq!((open(WALL), open(end)), (1, 0), "until its time is over");
    accept(&ledger).unwrap();
    assert_eq!(open(WALL), 0);
    assert!(matches!(accept(&ledger), Err(Aborted::ByCaller("unknown token"))));
    assert!(!ledger.read(|book| book.has_offers(WALL)));
}

#[test]
fn of_many_at_once_one_gets_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(&folder);
    put(&ledger, proposed()).unwrap();
    let won = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..64).map(|_| scope.spawn(|| accept(&ledger).is_ok())).collect();
        racers
            .into_iter()
            .filter_map(|racer| racer.join().ok())
            .filter(|won| *won)
            .count()
    });
    assert_eq!(won, 1);
}

#[test]
fn wherever_the_power_goes_the_step_is_whole_or_not_there() {
    let mut ended = BTreeSet::new();
    for at in 0.. {
        let folder = tempfile::tempdir().unwrap();
        {
            let ledger = ledger(&folder);
            put(&ledger, proposed()).unwrap();
            ledger.writer.lock().unwrap().fuse = Fuse(Some(at));
            let outcome = accept(&ledger);
            // What is answered from memory is what the disk has, also before any restart.
            let status = ledger.read(|book| book.peers().next().unwrap().status);
            let offered = ledger.read(|book| book.has_offers(WALL));
            assert_eq!(offered, status == Status::Proposed);
            if outcome.is_ok() {
                break;
            }
        }
        let ledger = ledger(&folder);
        let peer = ledger.read(|book| (**book.peers().next().unwrap()).clone());
        let kept = ledger.read(|book| book.answered(&TokenDigest([1; 32])).is_some());
        match peer.status {
            Status::Proposed => {
                assert!(peer.offer.is_some() && !kept);
                assert_eq!(ledger.head().sequence, 1);
                accept(&ledger).unwrap();
            }
            Status::Enrolled => {
                assert!(peer.offer.is_none() && kept);
                assert_eq!(ledger.head().sequence, 2);
                assert!(accept(&ledger).is_err(), "the token is used");
            }
            Status::Accepted | Status::Active | Status::Degraded | Status::Suspended | Status::Revoked => {
                panic!("half a transition: {}", peer.status)
            }
        }
        assert_eq!(ledger.audit_verify().unwrap(), ledger.head());
        ended.insert(peer.status);
        assert!(at < 100);
    }
    assert_eq!(ended, BTreeSet::from([Status::Proposed, Status::Enrolled]));
}

#[test]
fn two_live_peers_never_claim_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(&folder);
    put(&ledger, proposed()).unwrap();
    let other = Peer {
        id: PeerId(Uuid::from_u128(2)),
        ..proposed()
    };
    assert!(matches!(
        put(&ledger, other.clone()),
        Err(Aborted::ByCaller(Conflict::Url(_)))
    ));
    let elsewhere = Peer {
        url: "https://elsewhere.example".to_owned(),
        ..other.clone()
    };
    assert!(matches!(
        put(&ledger, elsewhere),
        Err(Aborted::ByCaller(Conflict::Alias(_)))
    ));
    let mut gone = proposed();
    gone.happen(Event::Revoke, Some("test"), WALL).unwrap();
    put(&ledger, gone).unwrap();
    put(&ledger, other).unwrap();
    assert_eq!(
        ledger.read(|book| book.peers().count()),
        2,
        "the revoked one stays"
    );
}

#[test]
fn a_changed_or_missing_record_is_found() {
    for (tampering, expected) in [
        (
            "UPDATE audit SET payload = '{}' WHERE sequence = 2",
            ChainError::Changed(2),
        ),
        (
            "UPDATE audit SET at = 1 WHERE sequence = 1",
            ChainError::Changed(1),
        ),
        ("DELETE FROM audit WHERE sequence = 2", ChainError::Missing(2)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let ledger = ledger(&folder);
        for n in 0..3 {
            ledger
                .transact(WALL, |draft| -> Result<(), ()> {
                    draft.note(Happening {
                        kind: format!("test.{n}"),
                        severity: "low",
                        peer: None,
                        payload: serde_json::json!({ "n": n }),
                    });
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(ledger.audit_verify().unwrap().sequence, 3);
        ledger
            .writer
            .lock()
            .unwrap()
            .connection
            .execute_batch(tampering)
            .unwrap();
        match ledger.audit_verify() {
            Err(LedgerError::Chain { source, .. }) => assert_eq!(source, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_ledger_is_its_users_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(&folder);
    put(&ledger, proposed()).unwrap();
    let names = ["ledger.db", "ledger.db-wal", "ledger.db-shm", "epoch"];
    for name in names {
        let mode = std::fs::metadata(at(&folder, name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_newer_ledger_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(ledger(&folder));
    let path = folder.path().join("ledger.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .pragma_update(None, "user_version", SCHEMA + 1)
        .unwrap();
    drop(connection);
    assert!(matches!(
        Ledger::open(&path, WALL),
        Err(LedgerError::Newer { .. })
    ));
}

#[test]
fn a_clock_that_goes_back_wakes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let late = WALL.after(std::time::Duration::from_secs(1_000));
    let ledger = ledger(&folder);
    ledger.transact(late, |_| Ok::<_, ()>(())).unwrap();
    assert_eq!(ledger.read(|book| book.now(WALL)), late);
    drop(ledger);
    let again = Ledger::open(&folder.path().join("ledger.db"), WALL).unwrap();
    assert_eq!(
        again.transact(WALL, |draft| Ok::<_, ()>(draft.now())).unwrap(),
        late
    );
}

#[test]
fn every_older_ledger_is_carried_over_whole() {
    for old in 0..SCHEMA {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        let connection = Connection::open(&path).unwrap();
        for step in &STEPS[..usize::try_from(old).unwrap()] {
            connection.execute_batch(step).unwrap();
        }
        connection.pragma_update(None, "user_version", old).unwrap();
        let peer = proposed();
        if old > 0 {
            put_peer(&connection, &peer).unwrap();
        }
        drop(connection);
        let again = Ledger::open(&path, WALL).unwrap();
        let found = again.read(|book| book.peer(&peer.id).map(|peer| (**peer).clone()));
        assert_eq!(found, (old > 0).then_some(peer), "from {old}");
        put(&again, proposed()).unwrap();
        drop(again);
        Ledger::open(&path, WALL).unwrap();
    }
}

#[test]
fn who_is_told_hears_what_is_in_force_and_nothing_else() {
    static HEARD: Mutex<Vec<(String, Option<String>)>> = Mutex::new(Vec::new());
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(&folder);
    let peer = proposed();
    let alias = peer.alias.to_string();
    put(&ledger, peer.clone()).unwrap();
    ledger.tell(|happening, peer| {
        let alias = peer.map(|peer| peer.alias.to_string());
        HEARD.lock().unwrap().push((happening.kind.clone(), alias));
    });
    let note = |kind: &str| Happening {
        kind: kind.to_owned(),
        severity: "low",
        peer: Some(peer.id),
        payload: serde_json::json!({}),
    };
    let refused = ledger.transact(WALL, |draft| {
        draft.note(note("refused"));
        Err::<(), _>("no")
    });
    assert!(matches!(refused, Err(Aborted::ByCaller("no"))));
    let done = ledger.transact(WALL, |draft| {
        draft.note(note("first"));
        draft.note(note("second"));
        Ok::<_, ()>(())
    });
    done.unwrap();
    let heard = HEARD.lock().unwrap().clone();
    assert_eq!(
        heard,
        [
            ("first".to_owned(), Some(alias.clone())),
            ("second".to_owned(), Some(alias))
        ]
    );
}
