//! Ledgers that go back, audits that are cut, and the peers who have seen more.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sdwand::federation::gateway::REGRESSED;
use sdwand::federation::moment::Moment;
use sdwand::federation::peer::{PeerId, Status};
use sdwand::federation::wire::HeartbeatRequest;

use crate::site::{Site, enrolled, wall};

/// What is said of a ledger with so many records.
fn saying(epoch: u64, sequence: i64, hash: u8) -> HeartbeatRequest {
    HeartbeatRequest {
        ledger_epoch: Some(epoch),
        audit_head: Some(format!("{sequence}:{}", format!("{hash:02x}").repeat(32))),
        ..HeartbeatRequest::default()
    }
}

fn told(site: &Site, kind: &str) -> usize {
    let audit = site.gateway.ledger.audit_tail(1_000).unwrap();
    audit.iter().filter(|record| record.kind == kind).count()
}

async fn beats(from: &Site, to: PeerId, n: u8) {
    let sequence = u64::try_from(wall().millis()).unwrap();
    from.gateway
        .beat_to(&from.peer(to), [n; 16], sequence, wall())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_goes_back_is_degraded_until_an_operator_or_its_own_word_says_why() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let chain = b.leaf(&b_at_a.id.subject()).chain;
    let start = wall();
    let say = |request: HeartbeatRequest, after: u64| {
        let at = start.after(Duration::from_secs(after));
        a.gateway.beaten(&chain, request, at).unwrap().1.status
    };
    assert_eq!(say(saying(1, 100, 1), 0), Status::Active);
    assert_eq!(say(saying(1, 120, 2), 60), Status::Active);
    // Told to the ledger, and found there after a start.
    a.gateway.flush(start.after(Duration::from_secs(61))).unwrap();
    assert_eq!(a.peer(b_at_a.id).shown.unwrap().head.sequence, 120);
    assert_eq!(told(&a, "federation.peer.audit_head"), 1);
    // Late on its way; and an old peer that says nothing of its ledger.
    assert_eq!(say(saying(1, 119, 3), 62), Status::Active);
    assert_eq!(say(HeartbeatRequest::default(), 63), Status::Active);
    assert_eq!(say(saying(1, 120, 2), 64), Status::Active);
    // Gone back for good.
    assert_eq!(say(saying(1, 110, 4), 124), Status::Active);
    assert_eq!(say(saying(1, 111, 4), 184), Status::Active);
    assert_eq!(say(saying(1, 112, 4), 244), Status::Degraded);
    assert_eq!(a.peer(b_at_a.id).reason.as_deref(), Some(REGRESSED));
    assert_eq!(told(&a, "federation.peer.ledger_regressed"), 1);
    // No beat heals that, no silence covers it, and it is told once.
    assert_eq!(say(saying(1, 113, 4), 304), Status::Degraded);
    assert_eq!(say(saying(1, 500, 5), 364), Status::Degraded);
    let later = start.after(Duration::from_secs(400));
    assert!(!a.gateway.degrade(b_at_a.id, "heartbeat_stale: x", later).unwrap());
    assert_eq!(a.peer(b_at_a.id).reason.as_deref(), Some(REGRESSED));
    assert_eq!(told(&a, "federation.peer.ledger_regressed"), 1);
    let findings = a.gateway.governance(Some(b_at_a.id), later);
    assert!(
        findings
            .iter()
            .any(|finding| finding.kind.as_str() == "peer_ledger_regressed")
    );
    // It says that it was restored: that explains it.
    assert_eq!(say(saying(2, 50, 6), 424), Status::Active);
    assert_eq!(told(&a, "federation.peer.restored"), 1);
    // Another record at the same place is no delay: at once.
    assert_eq!(say(saying(2, 50, 7), 425), Status::Degraded);
    a.gateway
        .suspend(
            b_at_a.id,
            "asked its operator",
            start.after(Duration::from_secs(430)),
        )
        .unwrap();
    a.gateway
        .resume(b_at_a.id, start.after(Duration::from_secs(431)))
        .unwrap();
    assert_eq!(say(saying(2, 40, 8), 432), Status::Active, "it begins anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_have_seen_what_was_cut_off() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    let verified = a.gateway.verify_audit().unwrap();
    assert!(verified.witnessed.is_empty() && verified.contradicted.is_empty());
    // What the one shows, the other keeps, and says so with its next beat.
    for n in 1..4 {
        beats(&a, b_at_a.id, n).await;
        beats(&b, a_at_b.id, n).await;
    }
    let verified = a.gateway.verify_audit().unwrap();
    assert_eq!(verified.witnessed.len(), 1);
    let seen = &verified.witnessed[0];
    assert_eq!(
        (seen.peer_id, seen.sequence),
        (b_at_a.id, a.gateway.ledger.head().sequence)
    );
    assert!(verified.contradicted.is_empty());
    // Whoever has the file cuts off the last record. What is left is consistent with itself.
    let file = a.folder.path().join("ledger.db");
    let cut = rusqlite::Connection::open(file).unwrap();
    cut.execute(
        "DELETE FROM audit WHERE sequence = (SELECT max(sequence) FROM audit)",
        [],
    )
    .unwrap();
    assert!(a.gateway.ledger.audit_verify().is_ok());
    let verified = a.gateway.verify_audit().unwrap();
    assert!(verified.witnessed.is_empty());
    assert_eq!(verified.contradicted.len(), 1);
    assert_eq!(verified.contradicted[0].alias, b_at_a.alias.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_about_ledgers_is_no_news() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let chain = b.leaf(&b_at_a.id.subject()).chain;
    for (head, witnessed) in [
        ("", ""),
        ("x", "1/x"),
        ("-1:00", "1/-1:00"),
        (&*"9".repeat(60_000), &*"9".repeat(1_000)),
    ] {
        let request = HeartbeatRequest {
            ledger_epoch: Some(1),
            audit_head: Some(head.to_owned()),
            witnessed: Some(witnessed.to_owned()),
            ..HeartbeatRequest::default()
        };
        let (_, answer) = a.gateway.beaten(&chain, request, wall()).unwrap();
        assert_eq!((answer.status, answer.witnessed), (Status::Active, None));
    }
    let far = Moment::EPOCH;
    assert!(
        a.gateway
            .verify_audit()
            .unwrap()
            .witnessed
            .iter()
            .all(|seen| seen.at > far)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_cant_fill_our_ledger_by_saying_that_its_own_was_restored() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let chain = b.leaf(&b_at_a.id.subject()).chain;
    let start = wall();
    let before = a.gateway.ledger.head().sequence;
    for epoch in 1..200 {
        let (_, answer) = a.gateway.beaten(&chain, saying(epoch, 1, 1), start).unwrap();
        assert_eq!(answer.status, Status::Active, "it lives all the same");
    }
    let written = a.gateway.ledger.head().sequence - before;
    assert!(written < 40, "{written} records in one minute");
    // What was too much is told again, and taken when there is room.
    let later = start.after(Duration::from_secs(61));
    a.gateway.beaten(&chain, saying(200, 1, 1), later).unwrap();
    a.gateway.flush(later).unwrap();
    assert_eq!(a.peer(b_at_a.id).shown.unwrap().epoch, 200);
}

/// What is logged, kept.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_cant_fill_our_log_by_saying_that_it_has_seen_more() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let chain = b.leaf(&b_at_a.id.subject()).chain;
    let start = wall();
    let seen = |sequence: i64, hash: &str| HeartbeatRequest {
        witnessed: Some(format!("1/{sequence}:{}", hash.repeat(32))),
        ..HeartbeatRequest::default()
    };
    let kept = Kept::default();
    let writer = kept.clone();
    let logged = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(logged, || {
        for _ in 0..200 {
            a.gateway.beaten(&chain, seen(999_999, "aa"), start).unwrap();
            a.gateway.beaten(&chain, seen(1, "bb"), start).unwrap();
        }
    });
    let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    let lines = text.matches("a peer has seen more of our audit").count();
    assert!((1..40).contains(&lines), "{lines} lines in one minute");
}
