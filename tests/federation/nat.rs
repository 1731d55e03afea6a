//! A site that can't be dialled: it calls, and is never called.

use sdwand::federation::dial::DialError;
use sdwand::federation::liveness::Probe;
use sdwand::federation::peer::Status;
use serde_json::json;

use crate::site::{Site, beat, enrolled, wall};

async fn hidden(name: &str, number: u16) -> Site {
    Site::with(name, number, |settings| settings.url = None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cant_be_dialled_keeps_both_active_and_is_never_called() {
    let (a, b) = (Site::new("site-a", 1).await, hidden("site-b", 2).await);
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    assert_eq!(b_at_a.declared.dialable, Some(false));
    // Its listener is there, and isn't asked.
    let called = a.gateway.beat_to(&b_at_a, [1; 16], 1, wall()).await;
    assert!(matches!(called, Err(DialError::Undialable(id)) if id == b_at_a.id));
    assert_eq!(a.gateway.probe(&b_at_a, wall()).await, Probe::Unreachable);
    b.gateway
        .beat_to(&b.peer(a_at_b.id), [1; 16], 1, wall())
        .await
        .unwrap();
    assert_eq!(
        [a.peer(b_at_a.id).status, b.peer(a_at_b.id).status],
        [Status::Active, Status::Active]
    );
    // It says so with each beat, and may come out of hiding.
    let leaf = b.leaf(&b_at_a.id.subject());
    assert_eq!(beat(&a, Some(&leaf)).await, 200);
    assert_eq!(
        a.peer(b_at_a.id).declared.dialable,
        Some(false),
        "absent is unchanged"
    );
    let body = serde_json::to_vec(&json!({ "dialable": true })).unwrap();
    let answers = crate::site::ask(&a, Some(&leaf), &[("heartbeat", body)])
        .await
        .unwrap();
    assert_eq!(answers[0].0, 200);
    a.gateway
        .beat_to(&a.peer(b_at_a.id), [2; 16], 2, wall())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sites_that_cant_be_dialled_are_told_before_the_token_is_used() {
    let (a, b) = (hidden("site-a", 1).await, hidden("site-b", 2).await);
    let proposed = a.propose(&b.url, 1);
    let registered = b.propose(&a.url, 2);
    let taken = b
        .gateway
        .take(registered.peer.id, &proposed.token.reveal(), wall())
        .await;
    let Err(DialError::Refused { status: 422, error }) = taken else {
        panic!("{taken:?}")
    };
    assert!(
        error.contains("neither of the two sites can be dialled"),
        "{error}"
    );
    assert_eq!(a.peer(proposed.peer.id).status, Status::Proposed);
    assert!(
        a.peer(proposed.peer.id).offer.is_some(),
        "the token is as good as before"
    );
}
