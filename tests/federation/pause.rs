//! While federation is paused nothing new begins, on either side, and what is there goes on.

use sdwand::federation::approval::{Action, Deed};
use sdwand::federation::dial::DialError;
use sdwand::federation::gateway::{ApprovalError, Gate, OperatorError, TakeError};
use sdwand::federation::ledger::Ledger;
use sdwand::federation::operators::Principal;
use sdwand::federation::peer::Status;
use serde_json::json;

use crate::site::{Site, ask, beat, enrolled, wall};

const ROOT: Principal = Principal::Uid(0);

fn pause(site: &Site) {
    let paused = site
        .gateway
        .pause(Some("maintenance".to_owned()), &ROOT, wall())
        .unwrap();
    assert_eq!(paused.by, "uid:0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_brings_a_token_is_told_to_come_again_and_the_token_stays_good() {
    let a = Site::new("site-a", 1).await;
    let b = Site::new("site-b", 2).await;
    let proposed = a.propose(&b.url, 1);
    let registered = b.propose(&a.url, 2);
    let token = proposed.token.reveal();
    pause(&a);
    let body = |token: &str| json!({ "acceptance_token": token, "contract_version": 1 }).to_string();
    let unknown = token.replace("sdw1.", "sdw1.x");
    let answers = [
        ("accept", body(&token).into_bytes()),
        ("accept", body(&unknown).into_bytes()),
    ];
    let answers = ask(&a, None, &answers).await.unwrap();
    assert_eq!((answers[0].0, &answers[0].1["code"]), (503, &json!("paused")));
    let words = answers[0].1["error"].as_str().unwrap();
    assert!(
        !words.contains("uid:0") && !words.contains("maintenance"),
        "{words}"
    );
    assert_eq!(answers[1].0, 401, "strangers don't hear of it");
    let refused = b
        .gateway
        .take(registered.peer.id, &token, wall())
        .await
        .unwrap_err();
    assert!(
        matches!(refused, DialError::Refused { status: 503, .. }),
        "{refused}"
    );
    assert_eq!(a.peer(proposed.peer.id).status, Status::Proposed);
    a.gateway.unpause(&ROOT, wall()).unwrap();
    let peer = b.gateway.take(registered.peer.id, &token, wall()).await.unwrap();
    assert_eq!(peer.status, Status::Enrolled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_new_begins_here_and_what_is_there_goes_on() {
    let gated = |settings: &mut sdwand::federation::gateway::Settings| settings.approvals.propose = true;
    let a = Site::new("site-a", 1).await;
    let b = Site::with("site-b", 2, gated).await;
    let c = Site::new("site-c", 3).await;
    let (of_a, of_b) = enrolled(&a, &b).await;
    let offered = c.propose(&b.url, 3);
    let registered = b.propose(&c.url, 4);
    let deed = Deed::RotateToken {
        peer: registered.peer.id,
        token_ttl_seconds: None,
    };
    let alice = Principal::Subject("alice".to_owned());
    let gate = b.gateway.gate(&deed, None, &alice, [1; 10], wall()).unwrap();
    let Gate::Parked(parked) = gate else {
        panic!("it isn't parked");
    };
    pause(&b);
    assert!(b.gateway.is_paused());
    let again = b.gateway.pause(None, &ROOT, wall()).unwrap_err();
    assert!(
        again.to_string().contains("uid:0") && again.to_string().contains("maintenance"),
        "{again}"
    );
    let refused = b
        .gateway
        .take(registered.peer.id, &offered.token.reveal(), wall())
        .await
        .unwrap_err();
    assert!(
        matches!(refused, DialError::Take(TakeError::Paused(_))),
        "{refused}"
    );
    let drawn = b.gateway.rotate_token(registered.peer.id, None, [9; 32], wall());
    assert!(matches!(drawn, Err(OperatorError::Paused(_))));
    let parked_anew = b.gateway.gate(&deed, None, &ROOT, [2; 10], wall());
    assert!(parked_anew.is_err(), "it isn't even parked");
    let approved = b.gateway.approve(parked.id, &ROOT, wall()).unwrap_err();
    assert!(matches!(approved, ApprovalError::Paused(_)), "{approved}");
    assert_eq!(parked.deed.action(), Action::Propose);
    assert_eq!(b.gateway.pending_approvals(wall()), 1, "what waits, waits on");

    let leaf = a.leaf(&of_a.trust.as_ref().unwrap().outbound_subject);
    assert_eq!(beat(&b, Some(&leaf)).await, 200);
    b.gateway.suspend(of_b.id, "test", wall()).unwrap();
    b.gateway.resume(of_b.id, wall()).unwrap();
    assert_eq!(beat(&b, Some(&leaf)).await, 200);
    b.gateway.revoke(of_b.id, "test", wall()).unwrap();
    assert_eq!(beat(&b, Some(&leaf)).await, 401);

    let kept = Ledger::open(&b.folder.path().join("ledger.db"), wall()).unwrap();
    let kept = kept.read(|book| book.pause().cloned());
    assert_eq!(kept, b.gateway.paused(), "after a restart, too");
    assert!(kept.is_some());
    b.gateway.unpause(&alice, wall()).unwrap();
    assert!(b.gateway.unpause(&alice, wall()).is_err());
    b.gateway.approve(parked.id, &ROOT, wall()).unwrap();
    let told: Vec<String> = { b.gateway.ledger.audit_tail(100).unwrap() }
        .into_iter()
        .filter(|record| matches!(record.kind.as_str(), "federation.paused" | "federation.resumed"))
        .map(|record| format!("{} {}", record.kind, record.payload["by"].as_str().unwrap()))
        .collect();
    assert_eq!(told, ["federation.paused uid:0", "federation.resumed sub:alice"]);
}
