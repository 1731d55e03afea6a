use std::collections::BTreeSet;

use super::*;
use crate::federation::grant::{GrantId, Terms, life};
use crate::federation::ledger::{Aborted, Conflict, Happening, KeptAnswer, backup};
use crate::federation::peer::tests::proposed;
use crate::federation::peer::{Anchor, Event, Offer, PeerId, Status};
use crate::federation::site::SiteId;
use crate::federation::token::{Fingerprint, TokenDigest};
use crate::model::Name;
use uuid::Uuid;

const USED: TokenDigest = TokenDigest([1; 32]);
const OPEN: TokenDigest = TokenDigest([2; 32]);
const DAY: Duration = Duration::from_secs(86_400);

fn today() -> Moment {
    "2027-01-15T08:00:00Z".parse().unwrap()
}

fn ahead() -> Moment {
    "2040-01-01T00:00:00Z".parse().unwrap()
}

fn put(ledger: &Ledger, wall: Moment, peer: Peer) {
    let put: Result<(), Aborted<Conflict>> = ledger.transact(wall, |draft| draft.put_peer(peer));
    put.unwrap();
}

fn anchor(n: u8, until: Option<Moment>) -> Anchor {
    Anchor {
        pem: "x".to_owned(),
        fingerprint: Fingerprint([n; 32]),
        since: today(),
        until,
        proven: true,
    }
}

/// An active peer, an offer whose token nobody has taken, and a grant: of today. Then the clock is in 2040 for a while.
fn once_ahead(path: &Path) -> Ledger {
    let ledger = Ledger::open(path, today()).unwrap();
    let mut active = Peer {
        since: today(),
        trust: Some(Trust {
            site: SiteId::new("site-b.fd0000000002").unwrap(),
            anchors: vec![
                anchor(1, Some(today().after(DAY))),
                anchor(2, Some(ahead().after(DAY * 365))),
                anchor(3, None),
            ],
            sequence: 1,
            outbound_subject: "fed:x".to_owned(),
            signed_here: Vec::new(),
        }),
        ..proposed()
    };
    for event in [Event::Accept, Event::Enroll, Event::Beat] {
        active.happen(event, None, today()).unwrap();
    }
    let open = Peer {
        id: PeerId(Uuid::from_u128(2)),
        alias: Name::new("site-c").unwrap(),
        url: "https://c.example".to_owned(),
        offer: Some(Offer {
            digest: OPEN,
            expires_at: today().after(DAY * 7),
            expect_ca: None,
        }),
        ..proposed()
    };
    let terms = Terms {
        remote_subject: "x".to_owned(),
        resource_kind: "network".to_owned(),
        ..Terms::default()
    };
    let id = GrantId(Uuid::from_u128(7));
    let grant = Grant::new(id, active.id, terms, USED, today(), life(None)).unwrap();
    put(&ledger, today(), active.clone());
    put(&ledger, today(), open);
    let kept = ledger.transact(today(), |draft| {
        draft.put_grant(grant);
        draft.keep_answer(KeptAnswer {
            token: USED,
            client: Fingerprint([3; 32]),
            body: serde_json::Value::Null,
            until: today().after(Duration::from_secs(900)),
        });
        Ok::<_, ()>(())
    });
    kept.unwrap();
    let noted = ledger.transact(ahead(), |draft| {
        let mut peer = draft.peer(&active.id).cloned().unwrap();
        let now = draft.now();
        peer.happen(Event::Beat, None, now).map_err(|_| ())?;
        draft.note(Happening {
            kind: "test".to_owned(),
            severity: "low",
            peer: None,
            payload: serde_json::Value::Null,
        });
        draft.put_peer(peer).map_err(|_| ())
    });
    noted.unwrap();
    ledger
}

fn statuses(ledger: &Ledger) -> Vec<Status> {
    ledger.read(|book| book.peers().map(|peer| peer.status).collect())
}

#[test]
fn a_clock_far_ahead_holds_the_ledgers_time_until_an_operator_puts_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let ledger = once_ahead(&path);
    // What is met: time stands still, everything of today is over, and nothing new ever ends.
    assert_eq!(ledger.read(|book| book.ahead(today())), Some(ahead()));
    assert_eq!(ledger.read(|book| book.now(today().after(DAY * 365))), ahead());
    assert!(!ledger.read(|book| book.has_offers(today())));
    let head = ledger.head();
    drop(ledger);

    let reset = reset_clock(&path, today()).unwrap();
    assert_eq!((reset.from, reset.to, reset.epoch), (ahead(), today(), 2));
    let ledger = Ledger::open(&path, today()).unwrap();
    assert_eq!(ledger.doubt(), None, "the mark has followed");
    assert_eq!(ledger.read(|book| book.ahead(today())), None);
    let later = today().after(DAY);
    assert_eq!(ledger.read(|book| book.now(later)), later, "time goes on");
    // What was used is used, and what was over by the ledger's time is over.
    assert_eq!(statuses(&ledger), [Status::Suspended, Status::Revoked]);
    ledger.read(|book| {
        assert!(book.offered(&USED).is_none() && book.offered(&OPEN).is_none());
        assert!(book.answered(&USED).is_none());
        assert!(book.grants().all(|grant| grant.revoked_at == Some(today())));
        let peer = book.peers().next().unwrap();
        assert_eq!(
            (peer.since, peer.last_heartbeat_at),
            (today(), Some(today())),
            "or it would never be silent"
        );
        let anchors = &peer.trust.as_ref().unwrap().anchors;
        let left: Vec<_> = anchors
            .iter()
            .map(|anchor| (anchor.fingerprint.0[0], anchor.until))
            .collect();
        assert_eq!(left, [(2, Some(today().after(OVERLAP))), (3, None)]);
    });
    // The chain goes on from where it was, and says what was done.
    assert_eq!(ledger.audit_verify().unwrap(), reset.audit_head);
    assert_eq!(ledger.audit_hash(head.sequence).unwrap(), Some(head.hash));
    let last = ledger.audit_tail(1).unwrap().remove(0);
    assert_eq!(
        (last.kind.as_str(), last.at),
        ("federation.ledger.clock_reset", ahead())
    );
    assert_eq!(last.payload["from"], "2040-01-01T00:00:00Z");
    assert_eq!(last.payload["to"], "2027-01-15T08:00:00Z");
}

#[test]
fn a_time_that_isnt_ahead_isnt_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    assert!(matches!(reset_clock(&path, today()), Err(ClockError::Missing(_))));
    assert!(!path.exists(), "nothing is made");
    let ledger = once_ahead(&path);
    let (before, head) = (statuses(&ledger), ledger.head());
    drop(ledger);
    for (wall, words) in [
        (ahead(), "nothing to put back"),
        (ahead().after(DAY), "nothing to put back"),
        (Moment::EPOCH, "isn't set"),
    ] {
        let error = reset_clock(&path, wall).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let ledger = Ledger::open(&path, ahead()).unwrap();
    assert_eq!((statuses(&ledger), ledger.head()), (before, head));
    let nearly = Duration::from_secs(3_600);
    for (wall, is_told) in [
        (ahead().before(nearly), false),
        (ahead().before(nearly + Duration::from_millis(1)), true),
    ] {
        assert_eq!(ledger.read(|book| book.ahead(wall)).is_some(), is_told);
    }
}

#[test]
fn a_copy_of_before_that_is_put_back_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let ledger = once_ahead(&path);
    let copy = folder.path().join("copy");
    backup(&path, &copy).unwrap();
    drop(ledger);
    reset_clock(&path, today()).unwrap();
    std::fs::copy(&copy, &path).unwrap();
    let ledger = Ledger::open(&path, today()).unwrap();
    assert!(ledger.doubt().is_some());
    assert_eq!(statuses(&ledger), [Status::Suspended, Status::Revoked]);
}

#[test]
fn wherever_the_power_goes_the_time_is_put_back_with_nothing_active_or_not_at_all() {
    let mut ended = BTreeSet::new();
    for blow in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        drop(once_ahead(&path));
        let outcome = reset_with(&path, today(), Fuse(Some(blow)));
        let ledger = Ledger::open(&path, today()).unwrap();
        let is_put_back = ledger.read(|book| book.ahead(today())).is_none();
        let expected = if is_put_back {
            [Status::Suspended, Status::Revoked]
        } else {
            [Status::Active, Status::Proposed]
        };
        assert_eq!(statuses(&ledger), expected, "{blow}");
        assert_eq!(ledger.audit_verify().unwrap(), ledger.head());
        ended.insert(is_put_back);
        if outcome.is_ok() {
            assert!(is_put_back);
            break;
        }
        assert!(blow < 100);
    }
    assert_eq!(ended, BTreeSet::from([false, true]));
}
