//! An acceptance that is asked for again, as after an answer that was lost: whatever has come between the two.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sdwand::federation::gateway::{Gateway, Proposal, Settings};
use sdwand::federation::ledger::Ledger;
use sdwand::federation::peer::{Peer, PeerId, SpawnMode, SpawnRole, Status};
use sdwand::federation::pki::{Leaf, SiteCa, Usage};
use sdwand::federation::site::SiteId;
use sdwand::federation::url::PeerUrl;
use sdwand::federation::wire::{AcceptRequest, HeartbeatRequest};
use sdwand::model::Name;
use serde_json::json;

use crate::site::{node, wall};

fn site(name: &str, number: u16) -> SiteId {
    let prefix = format!("fd00:0:{number:x}::/48").parse().unwrap();
    SiteId::of(&Name::new(name).unwrap(), prefix)
}

/// The gateway as it is after a start, over what is on the disk.
fn start(folder: &Path, ca: &(SiteCa, zeroize::Zeroizing<String>)) -> Gateway {
    let ledger = Arc::new(Ledger::open(&folder.join("ledger.db"), wall()).unwrap());
    let ca = SiteCa::load(ca.0.pem(), &ca.1).unwrap();
    Gateway::new(site("site-a", 1), node(), ca, ledger, Settings::default())
}

fn leaf(ca: &SiteCa, site: &SiteId, subject: &str) -> Leaf {
    ca.issue(site, &node(), Usage::Call { subject }, wall()).unwrap()
}

fn only(gateway: &Gateway) -> Peer {
    gateway.ledger.read(|book| {
        let mut peers = book.peers();
        let peer = (**peers.next().unwrap()).clone();
        assert!(peers.next().is_none());
        peer
    })
}

#[test]
fn the_same_key_gets_the_same_answer_after_a_restart_and_while_it_is_active() {
    let folder = tempfile::tempdir().unwrap();
    let own = SiteCa::generate(&site("site-a", 1), wall()).unwrap();
    let b = site("site-b", 2);
    let (b_ca, _) = SiteCa::generate(&b, wall()).unwrap();
    let (other_ca, _) = SiteCa::generate(&b, wall()).unwrap();
    let gateway = start(folder.path(), &own);
    let proposal = Proposal {
        url: PeerUrl::new("https://b.example").unwrap(),
        alias: None,
        role: SpawnRole::Symmetric,
        mode: SpawnMode::OutOfBand,
        token_ttl_seconds: None,
        expect_ca: None,
    };
    let proposed = gateway.propose(&proposal, [1; 32], [1; 10], wall()).unwrap();
    let accept = |gateway: &Gateway, ca: &SiteCa, later: Duration| {
        let request = AcceptRequest {
            acceptance_token: Some(proposed.token.reveal()),
            contract_version: Some(json!(1)),
            peer_ca_bundle_pem: Some(ca.pem().to_owned()),
            caller_inbound_subject: Some(PeerId(uuid::Uuid::from_u128(7)).subject()),
            ..AcceptRequest::default()
        };
        let shown = leaf(ca, &b, "accept").chain;
        gateway.accept(request, &shown, [0; 32], wall().after(later))
    };
    let now = Duration::ZERO;
    let first = accept(&gateway, &b_ca, now).unwrap();
    drop(gateway);

    let gateway = start(folder.path(), &own);
    let (enrolled, head) = (only(&gateway), gateway.ledger.head());
    assert_eq!(enrolled.status, Status::Enrolled);
    assert_eq!(accept(&gateway, &b_ca, now).unwrap(), first);
    let other = accept(&gateway, &other_ca, now).unwrap_err();
    assert_eq!(other.status().0, 401, "another key");
    assert_eq!((only(&gateway), gateway.ledger.head()), (enrolled, head));

    // It goes on meanwhile, and what it once was told it is told again: nothing of it moves back.
    let called = leaf(&b_ca, &b, &proposed.peer.id.subject());
    let beat = gateway.beaten(&called.chain, HeartbeatRequest::default(), wall());
    assert_eq!(beat.unwrap().1.status, Status::Active);
    let asked_again = |gateway: &Gateway| {
        let (active, head) = (only(gateway), gateway.ledger.head());
        assert_eq!(active.status, Status::Active);
        assert_eq!(accept(gateway, &b_ca, now).unwrap(), first);
        assert_eq!(accept(gateway, &other_ca, now).unwrap_err().status().0, 401);
        assert_eq!((only(gateway), gateway.ledger.head()), (active, head));
    };
    asked_again(&gateway);
    drop(gateway);
    let gateway = start(folder.path(), &own);
    asked_again(&gateway);

    // For a quarter of an hour.
    let late = accept(&gateway, &b_ca, Duration::from_secs(900));
    assert_eq!(late.unwrap_err().status().0, 401);
}
