//! What a peer is told of what the other operator did.

use std::time::Duration;

use sdwand::federation::peer::Status;
use sdwand::federation::wire::{HeartbeatRequest, Notice};
use serde_json::json;

use crate::site::{Site, ask, enrolled, wall};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_side_knows_at_once_and_decides_for_itself() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    let at_b = || b.peer(a_at_b.id);
    let reason = || at_b().reason;

    // Nothing has come through yet: it is noted, and nothing moves.
    a.gateway
        .notify(&b_at_a, Notice::Suspended, wall())
        .await
        .unwrap();
    assert_eq!(
        (at_b().status, reason().as_deref()),
        (Status::Enrolled, Some("suspended_by_peer"))
    );
    b.gateway.beat_to(&at_b(), [1; 16], 1, wall()).await.unwrap();
    assert_eq!(
        (at_b().status, reason()),
        (Status::Active, None),
        "a verified exchange says more"
    );

    let suspended = a.gateway.suspend(b_at_a.id, "test", wall()).unwrap();
    a.gateway
        .notify(&suspended, Notice::Suspended, wall())
        .await
        .unwrap();
    assert_eq!(
        (at_b().status, reason().as_deref()),
        (Status::Degraded, Some("suspended_by_peer"))
    );
    // Said again it is no news, and the refusals that follow say less.
    let head = b.gateway.ledger.head();
    a.gateway
        .notify(&suspended, Notice::Suspended, wall())
        .await
        .unwrap();
    assert!(!b.gateway.degrade(a_at_b.id, "refused_by_peer", wall()).unwrap());
    assert_eq!(b.gateway.ledger.head(), head);

    let resumed = a.gateway.resume(b_at_a.id, wall()).unwrap();
    a.gateway.notify(&resumed, Notice::Resumed, wall()).await.unwrap();
    assert_eq!((at_b().status, reason()), (Status::Degraded, None));
    b.gateway.beat_to(&at_b(), [2; 16], 2, wall()).await.unwrap();
    assert_eq!(at_b().status, Status::Active);

    let revoked = a.gateway.revoke(b_at_a.id, "test", wall()).unwrap();
    a.gateway.notify(&revoked, Notice::Revoked, wall()).await.unwrap();
    assert_eq!(
        (at_b().status, reason().as_deref()),
        (Status::Degraded, Some("revoked_by_peer"))
    );
    assert!(
        b.gateway
            .beat_to(&at_b(), [3; 16], 3, wall())
            .await
            .unwrap_err()
            .is_refusal()
    );

    // Who isn't known tells nothing, and isn't told what a notice looks like.
    let leaf = b.leaf(&b_at_a.id.subject());
    for body in [
        json!({ "notice": "revoked" }),
        json!({ "notice": "burnt" }),
        json!(7),
    ] {
        let answers = ask(&a, Some(&leaf), &[("notices", body.to_string().into_bytes())])
            .await
            .unwrap();
        assert_eq!(answers[0].0, 401, "{body}");
    }
    let leaf = a.leaf(&a_at_b.id.subject());
    let answers = ask(
        &b,
        Some(&leaf),
        &[("notices", b"{\"notice\":\"burnt\"}".to_vec())],
    )
    .await
    .unwrap();
    assert_eq!(answers[0].0, 400);
    for site in [&a, &b] {
        assert_eq!(
            site.gateway.ledger.audit_verify().unwrap(),
            site.gateway.ledger.head()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_has_news_all_the_time_lives_and_fills_nothing() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let leaf = b.leaf(&b_at_a.id.subject());
    let mut requests = Vec::new();
    for n in 0..200 {
        let residency = if n % 2 == 0 { "DE" } else { "FR" };
        requests.push((
            "heartbeat",
            json!({ "data_residency": residency }).to_string().into_bytes(),
        ));
    }
    let answers = ask(&a, Some(&leaf), &requests).await.unwrap();
    assert!(answers.iter().all(|(status, _)| *status == 200), "each is a beat");
    let written = a.gateway.ledger.head().sequence;
    assert!(written < 50, "{written}");
    let notices: Vec<_> = (0..40)
        .map(|n| if n % 2 == 0 { "suspended" } else { "resumed" })
        .map(|notice| ("notices", json!({ "notice": notice }).to_string().into_bytes()))
        .collect();
    let answers = ask(&a, Some(&leaf), &notices).await.unwrap();
    assert_eq!(answers.last().unwrap().0, 200, "what is known already is no news");
    assert!(answers.iter().any(|(status, _)| *status == 429));
    assert!(a.gateway.ledger.head().sequence < written + 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_under_way_before_a_notice_heals_nothing() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    let at_b = || b.peer(a_at_b.id);
    b.gateway.beat_to(&at_b(), [1; 16], 1, wall()).await.unwrap();
    assert_eq!(at_b().status, Status::Active);
    // Both ways: an answer that comes late, and a beat.
    let request = b.gateway.beating(a_at_b.id, [2; 16], 2);
    let chain = b.leaf(&b_at_a.id.subject()).chain;
    let (_, answer) = a.gateway.beaten(&chain, request.clone(), wall()).unwrap();
    let revoked = a.gateway.revoke(b_at_a.id, "test", wall()).unwrap();
    a.gateway.notify(&revoked, Notice::Revoked, wall()).await.unwrap();
    let at = wall();
    let late = |at| {
        let answered = b.gateway.beat_answered(a_at_b.id, &request, json!(answer), at);
        answered.unwrap();
        let of_a = a.leaf(&a_at_b.id.subject()).chain;
        b.gateway.beaten(&of_a, HeartbeatRequest::default(), at).unwrap();
        (at_b().status, at_b().reason)
    };
    assert_eq!(late(at), (Status::Degraded, Some("revoked_by_peer".to_owned())));
    // Whoever goes on for longer than any call takes, has thought better of it, and its word of that was lost.
    assert_eq!(late(at.after(Duration::from_secs(16))), (Status::Active, None));
}
