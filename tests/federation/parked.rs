//! What waits for a second operator while the other site's token runs out.

use sdwand::federation::approval::{ApprovalId, Deed, State};
use sdwand::federation::gateway::{Gate, Settings};
use sdwand::federation::operators::Principal;
use sdwand::federation::peer::{PeerId, Status};
use sdwand::federation::token::AcceptanceToken;
use sdwand::model::host::Approvals;

use crate::site::{Site, wall};

fn gated(settings: &mut Settings) {
    settings.approvals = Approvals {
        accept: true,
        ..Approvals::default()
    };
}

fn parked(site: &Site, peer: PeerId, token: &AcceptanceToken, n: u8) -> ApprovalId {
    let alice = Principal::Uid(1_000);
    let gate = site
        .gateway
        .gate(&Deed::Accept { peer }, Some(token), &alice, [n; 10], wall());
    let Gate::Parked(approval) = gate.unwrap() else {
        panic!("it needs approval here");
    };
    approval.id
}

/// Bob approves, and it is performed: what it came to.
async fn approved(site: &Site, id: ApprovalId) -> Result<Status, String> {
    let bob = Principal::Uid(1_001);
    let approved = site.gateway.approve(id, &bob, wall()).unwrap();
    let (peer, token) = (approved.approval.deed.peer().unwrap(), approved.token.unwrap());
    let outcome = site.gateway.take(peer, &token.reveal(), wall()).await;
    let outcome = outcome.map(|peer| peer.status).map_err(|error| error.to_string());
    let told = outcome.as_ref().map(|_| ()).map_err(String::clone);
    site.gateway.performed(id, told, wall()).unwrap();
    outcome
}

fn standing(site: &Site, id: ApprovalId) -> State {
    site.gateway.ledger.read(|book| {
        let now = book.now(wall());
        book.approval(&id).unwrap().state(now)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_runs_out_while_it_waits_accepts_nobody_and_another_one_does() {
    let (a, b) = (Site::new("site-a", 1).await, Site::with("site-b", 2, gated).await);
    let proposed = a.propose(&b.url, 1);
    let registered = b.propose(&a.url, 2).peer.id;
    let id = parked(&b, registered, &proposed.token, 3);
    a.change(proposed.peer.id, |peer| {
        peer.offer.as_mut().unwrap().expires_at = wall();
    });
    let failed = approved(&b, id).await.unwrap_err();
    assert!(failed.contains("401"), "{failed}");
    assert!(!failed.contains(&proposed.token.reveal()));
    assert_eq!(standing(&b, id), State::Failed);
    for (site, peer) in [(&a, proposed.peer.id), (&b, registered)] {
        let peer = site.peer(peer);
        assert_eq!((peer.status, peer.trust.is_none()), (Status::Proposed, true));
    }

    let again = a
        .gateway
        .rotate_token(proposed.peer.id, None, [9; 32], wall())
        .unwrap();
    let id = parked(&b, registered, &again.token, 4);
    assert_eq!(approved(&b, id).await, Ok(Status::Enrolled));
    assert_eq!(standing(&b, id), State::Approved);
    assert_eq!(a.peer(proposed.peer.id).status, Status::Enrolled);
}
