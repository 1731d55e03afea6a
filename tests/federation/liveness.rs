//! Silent peers: asked before they are degraded, and never made active by an answer alone.

use std::time::Duration;

use sdwand::federation::liveness::Probe;
use sdwand::federation::moment::Moment;
use sdwand::federation::peer::{PeerId, Status};
use tokio::net::TcpListener;

use crate::site::{Site, enrolled, wall};

/// `a` and `b`, both active; what each has of the other.
async fn active(a: &Site, b: &Site) -> (PeerId, PeerId) {
    let (b_at_a, a_at_b) = enrolled(a, b).await;
    b.gateway.beat_to(&a_at_b, [1; 16], 1, wall()).await.unwrap();
    (b_at_a.id, a_at_b.id)
}

/// Later than a silence may last; less than clocks may differ, for the other side is asked at its own time.
fn late() -> Moment {
    wall().after(Duration::from_secs(200))
}

fn kinds(site: &Site) -> Vec<String> {
    let records = site.gateway.ledger.audit_tail(100).unwrap();
    records.into_iter().map(|record| record.kind).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_is_left_active_and_its_heartbeat_isnt_forged() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = active(&a, &b).await;
    let (before, its, other) = (a.peer(b_at_a), b.peer(a_at_b), b.gateway.ledger.head());
    let swept = a.gateway.sweep(false, None, wall()).await.unwrap();
    assert_eq!((swept.swept, swept.silent.len()), (1, 0), "heard of a moment ago");

    let head = a.gateway.ledger.head();
    let dry = a.gateway.sweep(true, None, late()).await.unwrap();
    assert_eq!((dry.silent.len(), dry.silent[0].probe), (1, None));
    assert_eq!(a.gateway.ledger.head(), head, "a dry run writes nothing");
    assert!(dry.degraded_ids.is_empty() && dry.rehandshaked_ids.is_empty());

    let swept = a.gateway.sweep(false, None, late()).await.unwrap();
    assert_eq!(swept.silent[0].probe, Some(Probe::Answers));
    assert_eq!(
        (swept.rehandshaked_ids, swept.degraded_ids),
        (vec![b_at_a], vec![])
    );
    let after = a.peer(b_at_a);
    assert_eq!(after.status, Status::Active);
    assert_eq!(after.last_heartbeat_at, before.last_heartbeat_at);
    assert!(after.last_handshake_at > before.last_handshake_at);
    assert_eq!(kinds(&a).last().unwrap(), "federation.peer.rehandshaked");
    assert_eq!(b.gateway.ledger.head(), other, "the read has no effect there");
    assert_eq!(b.peer(a_at_b), its);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_gone_refuses_or_is_another_is_degraded_and_why_is_told() {
    let (a, b, c) = (
        Site::new("site-a", 1).await,
        Site::new("site-b", 2).await,
        Site::new("site-c", 3).await,
    );
    let (b_at_a, a_at_b) = active(&a, &b).await;
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let (b_url, c_url) = (b.url.to_string(), c.url.to_string());
    let degraded = async |url: String, reason: &str| {
        a.change(b_at_a, |peer| {
            peer.url = url;
            peer.declared.endpoints.clear();
            peer.status = Status::Active;
        });
        let swept = a.gateway.sweep(false, None, late()).await.unwrap();
        assert_eq!(swept.degraded_ids, [b_at_a], "{reason}");
        let peer = a.peer(b_at_a);
        assert_eq!(peer.status, Status::Degraded);
        assert_eq!(peer.reason.as_deref(), Some(reason));
        let kinds = kinds(&a);
        assert!(kinds.ends_with(&[
            "federation.peer.heartbeat_stale".to_owned(),
            "federation.peer.degraded".to_owned()
        ]));
    };
    degraded(format!("https://{gone}"), "heartbeat_stale: unreachable").await;
    degraded(c_url, "heartbeat_stale: tls").await;
    b.gateway.suspend(a_at_b, "maintenance", wall()).unwrap();
    degraded(b_url, "heartbeat_stale: refused_by_peer").await;
    let swept = a.gateway.sweep(false, None, late()).await.unwrap();
    assert_eq!(
        (swept.swept, swept.degraded_ids),
        (0, vec![]),
        "only who is active"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_active_are_swept_by_the_limit_that_was_asked_for() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let empty = a.gateway.sweep(false, None, wall()).await.unwrap();
    assert_eq!((empty.swept, empty.silent.len()), (0, 0));
    assert!(empty.ran_at > Moment::EPOCH);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let swept = a.gateway.sweep(false, None, late()).await.unwrap();
    assert_eq!(swept.swept, 0, "enrolled");
    a.change(b_at_a.id, |peer| {
        peer.status = Status::Active;
        peer.last_heartbeat_at = None;
    });
    let dry = a.gateway.sweep(true, None, wall()).await.unwrap();
    assert_eq!(dry.silent.len(), 1, "never heard of");
    a.change(b_at_a.id, |peer| peer.last_heartbeat_at = Some(wall()));
    let minute = Some(Duration::from_secs(60));
    let soon = wall().after(Duration::from_secs(100));
    assert_eq!(a.gateway.sweep(true, None, soon).await.unwrap().silent.len(), 0);
    assert_eq!(a.gateway.sweep(true, minute, soon).await.unwrap().silent.len(), 1);
}

/// Line 47 of the contract: what can't be written down doesn't make a peer silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_cant_be_written_fails_no_beat_of_who_is_active() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = active(&a, &b).await;
    let before = a.gateway.heard.last(&a.peer(b_at_a));
    let file = rusqlite::Connection::open(a.folder.path().join("ledger.db")).unwrap();
    file.execute_batch("DROP TABLE audit").unwrap();
    let leaf = b.leaf(&b_at_a.subject());
    let body = serde_json::to_vec(&serde_json::json!({ "data_residency": "DE" })).unwrap();
    let answers = crate::site::ask(&a, Some(&leaf), &[("heartbeat", body)])
        .await
        .unwrap();
    assert_eq!(
        (answers[0].0, &answers[0].1["data"]["status"]),
        (200, &serde_json::json!("active"))
    );
    assert!(a.gateway.heard.last(&a.peer(b_at_a)) > before);
    assert_ne!(a.peer(b_at_a).declared.data_residency.as_deref(), Some("DE"));
}
