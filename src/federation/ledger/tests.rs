use std::collections::BTreeSet;

use super::rows::put_peer;
use super::*;
use crate::federation::grant::Grant;
use crate::federation::operators::IssuedToken;
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
    accept(&ledger).unwrap();
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

fn at(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

/// What one who holds a copy of the files puts back, as `cp` would.
fn put_back(folder: &tempfile::TempDir, copy: &Path) {
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(at(folder, &format!("ledger.db{suffix}")));
    }
    std::fs::copy(copy, at(folder, "ledger.db")).unwrap();
}

fn only_peer(ledger: &Ledger) -> Peer {
    ledger.read(|book| (**book.peers().next().unwrap()).clone())
}

/// Nothing is active, no token and no kept answer is good for anything.
fn assert_distrusted(ledger: &Ledger) {
    ledger.read(|book| {
        assert!(
            book.peers()
                .all(|peer| matches!(peer.status, Status::Suspended | Status::Revoked))
        );
        assert!(!book.has_offers(WALL));
        assert!(book.answered(&TokenDigest([1; 32])).is_none());
    });
    assert!(accept(ledger).is_err(), "the token is dead");
    assert_eq!(ledger.audit_verify().unwrap(), ledger.head());
    let last = ledger.audit_tail(1).unwrap().remove(0);
    assert_eq!(
        (last.kind.as_str(), last.severity.as_str()),
        ("federation.ledger.restored", "high")
    );
}

fn grant_to(ledger: &Ledger) -> Grant {
    let terms = crate::federation::grant::Terms {
        remote_subject: "x".to_owned(),
        resource_kind: "network".to_owned(),
        ..crate::federation::grant::Terms::default()
    };
    let (id, peer) = (
        crate::federation::grant::GrantId(Uuid::from_u128(7)),
        only_peer(ledger).id,
    );
    let digest = TokenDigest([7; 32]);
    let grant = Grant::new(
        id,
        peer,
        terms,
        digest,
        WALL,
        crate::federation::grant::life(None),
    )
    .unwrap();
    ledger
        .transact(WALL, |draft| {
            draft.put_grant(grant.clone());
            draft.put_operator_token(IssuedToken {
                jti: Uuid::from_u128(8),
                sub: "alice".to_owned(),
                permissions: std::collections::BTreeSet::new(),
                issued_at: WALL,
                expires_at: WALL.after(std::time::Duration::from_secs(3_600)),
                revoked_at: None,
            });
            Ok::<_, ()>(())
        })
        .unwrap();
    grant
}

#[test]
fn a_copy_that_is_put_back_is_found_out() {
    for used in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let copy = at(&folder, "copy");
        {
            let ledger = ledger(&folder);
            put(&ledger, proposed()).unwrap();
            if !used {
                accept(&ledger).unwrap();
            }
            let grant = grant_to(&ledger);
            ledger
                .transact(WALL, |draft| {
                    let mut trust = draft.own_trust().clone();
                    trust.signs = Some(Fingerprint([5; 32]));
                    trust.rotation = Some(Rotation {
                        since: WALL,
                        next: Fingerprint([6; 32]),
                    });
                    draft.put_own_trust(trust);
                    Ok::<_, ()>(())
                })
                .unwrap();
            backup(&at(&folder, "ledger.db"), &copy).unwrap();
            ledger
                .transact(WALL, |draft| {
                    let mut grant = grant.clone();
                    grant.revoked_at = Some(draft.now());
                    draft.put_grant(grant);
                    Ok::<_, ()>(())
                })
                .unwrap();
            if used {
                accept(&ledger).unwrap();
            } else {
                let mut peer = only_peer(&ledger);
                peer.happen(Event::Revoke, Some("over"), WALL).unwrap();
                put(&ledger, peer).unwrap();
            }
        }
        put_back(&folder, &copy);
        let ledger = ledger(&folder);
        assert_distrusted(&ledger);
        assert_eq!((ledger.read(Book::epoch), ledger.doubt().is_some()), (2, true));
        assert!(ledger.read(|book| book.operator_tokens().all(|issued| issued.revoked_at.is_some())));
        // Grants don't come back either, and what peers are told of our anchors is later than what they know.
        assert!(
            ledger
                .read(|book| book.grants().all(|grant| grant.revoked_at.is_some())
                    && book.grants().count() == 1)
        );
        assert!(ledger.read(|book| book.own_trust().sequence) > 1);
        // Which CA signs, and whether another is on its way, a copy doesn't decide.
        let trust = ledger.read(|book| book.own_trust().clone());
        assert_eq!((trust.signs, trust.rotation), (None, None));
        let expected = if used { Status::Revoked } else { Status::Suspended };
        assert_eq!(only_peer(&ledger).status, expected);
        drop(ledger);
        // Once: the operator who resumes a peer is believed.
        let ledger = self::ledger(&folder);
        assert_eq!((ledger.read(Book::epoch), ledger.doubt()), (2, None));
        // A second time, too, and without the mark.
        drop(ledger);
        put_back(&folder, &copy);
        std::fs::remove_file(at(&folder, "epoch")).unwrap();
        assert_distrusted(&self::ledger(&folder));
    }
}

#[test]
fn wherever_the_power_goes_a_copy_that_is_put_back_wakes_no_used_token() {
    let mut outcomes = BTreeSet::new();
    for blow in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let copy = at(&folder, "copy");
        let told = {
            let ledger = ledger(&folder);
            put(&ledger, proposed()).unwrap();
            backup(&at(&folder, "ledger.db"), &copy).unwrap();
            ledger.writer.lock().unwrap().fuse = Fuse(Some(blow));
            let first = accept(&ledger).is_ok();
            // Whoever asks again is told nothing either before it is marked.
            let again = ledger.transact(WALL, |_| Ok::<_, ()>(())).is_ok();
            assert!(first || !again || ledger.read(|book| book.has_offers(WALL)));
            first
        };
        put_back(&folder, &copy);
        let ledger = ledger(&folder);
        if told {
            assert_distrusted(&ledger);
        } else if ledger.read(|book| book.has_offers(WALL)) {
            // Nobody was told that it had been used.
            accept(&ledger).unwrap();
            assert!(accept(&ledger).is_err());
        } else {
            assert_distrusted(&ledger);
        }
        outcomes.insert((told, ledger.read(Book::epoch)));
        if told {
            break;
        }
        assert!(blow < 100);
    }
    assert_eq!(outcomes, BTreeSet::from([(false, 1), (false, 2), (true, 2)]));
}

#[test]
fn wherever_the_power_goes_while_a_copy_is_distrusted_nothing_wakes() {
    for blow in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (at(&folder, "ledger.db"), at(&folder, "copy"));
        {
            let ledger = ledger(&folder);
            put(&ledger, proposed()).unwrap();
            backup(&path, &copy).unwrap();
            accept(&ledger).unwrap();
        }
        put_back(&folder, &copy);
        let cut = Ledger::open_with(&path, WALL, Fuse(Some(blow))).is_err();
        let ledger = ledger(&folder);
        assert_distrusted(&ledger);
        assert!(ledger.read(Book::epoch) >= 2);
        if !cut {
            break;
        }
        assert!(blow < 100);
    }
}

#[test]
fn a_power_cut_alone_is_no_copy_put_back() {
    for blow in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let told = {
            let ledger = ledger(&folder);
            put(&ledger, proposed()).unwrap();
            ledger.writer.lock().unwrap().fuse = Fuse(Some(blow));
            accept(&ledger).is_ok()
        };
        assert_eq!(ledger(&folder).read(Book::epoch), 1, "{blow}");
        if told {
            break;
        }
    }
}

#[test]
fn wherever_the_power_goes_a_restore_leaves_the_old_ledger_or_a_sleeping_one() {
    let mut ended = BTreeSet::new();
    for blow in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (at(&folder, "ledger.db"), at(&folder, "copy"));
        {
            let ledger = ledger(&folder);
            put(&ledger, proposed()).unwrap();
            accept(&ledger).unwrap();
            let held = backup(&path, &copy).unwrap();
            assert_eq!((held.peers, held.audit_head, held.epoch), (1, ledger.head(), 1));
            let mut peer = only_peer(&ledger);
            peer.happen(Event::Beat, None, WALL).unwrap();
            put(&ledger, peer).unwrap();
        }
        let restored = copy::restore_with(&copy, &path, WALL, &mut Fuse(Some(blow)));
        let ledger = ledger(&folder);
        let status = only_peer(&ledger).status;
        ended.insert(status);
        if status == Status::Active {
            assert!(restored.is_err() && ledger.read(Book::epoch) == 1);
        } else {
            assert_distrusted(&ledger);
        }
        if let Ok(holding) = restored {
            assert_eq!((holding.epoch, holding.audit_head), (2, ledger.head()));
            assert_eq!(ledger.read(Book::epoch), 2, "one epoch is enough");
            let kept = inspect(&at(&folder, "ledger.db.replaced")).unwrap();
            assert_eq!((kept.audit_head.sequence, kept.epoch), (3, 1));
            break;
        }
        assert!(blow < 100);
    }
    assert_eq!(ended, BTreeSet::from([Status::Active, Status::Suspended]));
}

#[test]
fn what_is_no_sound_copy_is_refused_and_the_ledger_left_alone() {
    let cases: [(&str, &str); 5] = [
        ("garbage", "is no ledger"),
        ("another database", "other tables"),
        ("newer", "schema 99"),
        ("broken chain", "the ledger"),
        ("not there", "reading"),
    ];
    for (case, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (at(&folder, "ledger.db"), at(&folder, "copy"));
        let head = {
            let ledger = ledger(&folder);
            put(&ledger, proposed()).unwrap();
            accept(&ledger).unwrap();
            backup(&path, &copy).unwrap();
            ledger.head()
        };
        let sql = |text: &str| Connection::open(&copy).unwrap().execute_batch(text).unwrap();
        match case {
            "garbage" => std::fs::write(&copy, [7; 10_000]).unwrap(),
            "another database" => {
                std::fs::remove_file(&copy).unwrap();
                sql("CREATE TABLE other (x)");
            }
            "newer" => sql("PRAGMA user_version = 99"),
            "broken chain" => sql("UPDATE audit SET payload = '{}' WHERE sequence = 1"),
            _ => std::fs::remove_file(&copy).unwrap(),
        }
        let error = restore(&copy, &path, WALL).unwrap_err();
        assert!(error.to_string().contains(words), "{case}: {error}");
        let left: BTreeSet<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains(".new") || name.contains(".replaced"))
            .collect();
        assert_eq!(left, BTreeSet::new());
        let ledger = ledger(&folder);
        assert_eq!((ledger.head(), ledger.read(Book::epoch)), (head, 1), "{case}");
        assert_eq!(only_peer(&ledger).status, Status::Enrolled);
    }
}

#[test]
fn a_copy_is_made_while_others_write() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(&folder);
    put(&ledger, proposed()).unwrap();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for _ in 0..50 {
                ledger
                    .transact(WALL, |draft| -> Result<(), ()> {
                        draft.note(Happening {
                            kind: "test".to_owned(),
                            severity: "low",
                            peer: None,
                            payload: serde_json::Value::Null,
                        });
                        Ok(())
                    })
                    .unwrap();
            }
        });
        for _ in 0..10 {
            let (file, holding) = ledger.backup().unwrap();
            assert!(file.metadata().unwrap().len() > 0 && holding.peers == 1);
        }
        writing.join().unwrap();
    });
    assert!(!at(&folder, "ledger.db.copy").exists());
}
