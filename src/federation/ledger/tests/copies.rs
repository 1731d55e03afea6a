//! Copies that are made, put back or restored, and what becomes of what they hold.

use super::*;
use crate::federation::grant::Grant;
use crate::federation::operators::IssuedToken;

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
