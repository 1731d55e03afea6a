//! A site whose wall clock was once far ahead: what its operator meets, and how it goes on.

use std::sync::Arc;
use std::time::Duration;

use sdwand::federation::gateway::{Gateway, Granting, Settings};
use sdwand::federation::governance::Kind;
use sdwand::federation::grant::{State, Terms};
use sdwand::federation::ledger::{Ledger, reset_clock};
use sdwand::federation::moment::Moment;
use sdwand::federation::peer::{PeerId, Status};
use sdwand::federation::pki::SiteCa;
use sdwand::federation::wire::HeartbeatRequest;

use crate::site::{Site, beat, enrolled, node, wall};

fn kinds(gateway: &Gateway) -> Vec<Kind> {
    let findings = gateway.governance(None, wall());
    findings.iter().map(|finding| finding.kind).collect()
}

fn status(gateway: &Gateway, id: PeerId) -> Status {
    gateway.ledger.read(|book| book.peer(&id).unwrap().status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_whose_clock_was_once_ahead_goes_on_when_its_operator_says_so() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let leaf = b.leaf(&b_at_a.id.subject());
    assert_eq!(beat(&a, Some(&leaf)).await, 200);
    let granting = Granting {
        peer: b_at_a.id,
        terms: Terms {
            remote_subject: "x".to_owned(),
            resource_kind: "network".to_owned(),
            ..Terms::default()
        },
        days: None,
    };
    let granted = a.gateway.grant(granting, [1; 32], [1; 10], wall()).unwrap();
    assert!(!kinds(&a.gateway).contains(&Kind::OwnClockBehind));

    // For a moment the clock is in 2040, and something is written down.
    let ahead: Moment = "2040-01-01T00:00:00Z".parse().unwrap();
    a.gateway.ledger.transact(ahead, |_| Ok::<_, ()>(())).unwrap();
    assert_eq!(beat(&a, Some(&leaf)).await, 401, "its certificate looks expired");
    let found = kinds(&a.gateway);
    assert_eq!(found[0], Kind::OwnClockBehind);
    assert!(
        !found.contains(&Kind::OwnCaExpiring),
        "nobody shall draw another by that time"
    );
    let granted_is = |gateway: &Gateway| {
        gateway.ledger.read(|book| {
            let grant = book.grant(&granted.grant.id).unwrap();
            grant.state(book.now(wall()))
        })
    };
    assert_eq!(granted_is(&a.gateway), State::Expired);

    // The gateway is stopped, and starts again on what was put back.
    let path = a.folder.path().join("ledger.db");
    reset_clock(&path, wall()).unwrap();
    let ledger = Arc::new(Ledger::open(&path, wall()).unwrap());
    let ca = SiteCa::generate(&a.gateway.site, wall()).unwrap().0;
    let again = Gateway::new(a.gateway.site.clone(), node(), ca, ledger, Settings::default());
    assert_eq!(status(&again, b_at_a.id), Status::Suspended);
    assert!(
        again.identify(&leaf.chain, wall()).is_err(),
        "nobody is let in by it"
    );
    assert_eq!(granted_is(&again), State::Revoked, "nor is it given anything");
    assert!(!kinds(&again).contains(&Kind::OwnClockBehind));
    again.resume(b_at_a.id, wall()).unwrap();
    let beat = again.beaten(&leaf.chain, HeartbeatRequest::default(), wall());
    assert_eq!(beat.unwrap().1.status, Status::Active);
    // And time goes on: it is seen when a peer falls silent.
    let late = wall().after(Duration::from_secs(200));
    let swept = again.sweep(true, None, late).await.unwrap();
    assert_eq!(swept.silent.len(), 1);
    assert_eq!(again.ledger.audit_verify().unwrap(), again.ledger.head());
}
