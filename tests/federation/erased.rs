//! What a parent has signed, on the disk: it goes with the parent.

use std::path::Path;
use std::sync::Arc;

use sdwand::federation::gateway::{Gateway, Proposal, Settings};
use sdwand::federation::ledger::Ledger;
use sdwand::federation::peer::{Event, PeerId, SpawnMode, SpawnRole};
use sdwand::federation::pki::SiteCa;
use sdwand::federation::pki::authority::Store;
use sdwand::federation::site::SiteId;
use sdwand::federation::wire::Notice;
use sdwand::model::Name;

use crate::site::{Site, node, wall};

/// A child's gateway that keeps what is signed in this folder.
fn child(folder: &Path) -> Gateway {
    let site = SiteId::of(&Name::new("site-b").unwrap(), "fd00:0:2::/48".parse().unwrap());
    let ledger = Arc::new(Ledger::open(&folder.join("ledger.db"), wall()).unwrap());
    let (ca, _) = SiteCa::generate(&site, wall()).unwrap();
    Gateway::new(site, node(), ca, ledger, Settings::default()).kept_in(Store::new(folder))
}

/// `parent` spawns the child: what the child has of it.
async fn taken_up(gateway: &Gateway, parent: &Site, n: u8) -> PeerId {
    let url = sdwand::federation::url::PeerUrl::new("https://b.example").unwrap();
    let proposed = parent.propose_as(&url, SpawnRole::Parent, SpawnMode::ManagedChild, n);
    let proposal = Proposal {
        url: parent.url.clone(),
        alias: None,
        role: SpawnRole::Child,
        mode: SpawnMode::ManagedChild,
        token_ttl_seconds: None,
        expect_ca: None,
    };
    let registered = gateway.propose(&proposal, [n; 32], [n; 10], wall()).unwrap();
    let token = proposed.token.reveal();
    gateway.take(registered.peer.id, &token, wall()).await.unwrap().id
}

/// What is kept of parents, by the names of the files.
fn kept(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("issued-")).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_parent_signed_goes_with_it_and_it_is_told_all_the_same() {
    let (a, c) = (Site::new("site-a", 1).await, Site::new("site-c", 3).await);
    let folder = tempfile::tempdir().unwrap();
    let gateway = child(folder.path());
    let (at_a, at_c) = (taken_up(&gateway, &a, 1).await, taken_up(&gateway, &c, 2).await);
    let certificate = |id: PeerId| format!("issued-{id}.pem");
    assert_eq!(kept(folder.path()), [certificate(at_a), certificate(at_c)]);
    drop(gateway);

    // Another start: nothing of them was read yet.
    let gateway = child(folder.path());
    gateway.suspend(at_a, "test", wall()).unwrap();
    assert_eq!(kept(folder.path()).len(), 2, "it may go on");
    drop(gateway.asking(at_a).unwrap());
    assert_eq!(kept(folder.path()).len(), 3, "a key that waits");
    let revoked = gateway.revoke(at_a, "test", wall()).unwrap();
    assert_eq!(kept(folder.path()), [certificate(at_c)]);
    // The parent knows the child by that certificate alone.
    gateway.notify(&revoked, Notice::Revoked, wall()).await.unwrap();
    let told = a
        .gateway
        .ledger
        .read(|book| book.peers().next().unwrap().reason.clone());
    assert_eq!(told.as_deref(), Some("revoked_by_peer"));
    assert!(gateway.renewals(wall()).is_empty());
    assert!(
        gateway.notify(&revoked, Notice::Revoked, wall()).await.is_err(),
        "forgotten"
    );

    // The other one goes on; one that is revoked while nobody serves is erased at the next start.
    let peer = gateway.ledger.read(|book| (**book.peer(&at_c).unwrap()).clone());
    gateway.beat_to(&peer, [1; 16], 1, wall()).await.unwrap();
    let stopped = gateway.ledger.transact(wall(), |draft| {
        let mut peer = draft.peer(&at_c).cloned().unwrap();
        peer.happen(Event::Revoke, Some("test"), wall()).unwrap();
        draft.put_peer(peer)
    });
    stopped.unwrap();
    let stranger = certificate(PeerId(uuid::Uuid::from_u128(7)));
    std::fs::write(folder.path().join(&stranger), "x").unwrap();
    drop(gateway);
    let gateway = child(folder.path());
    assert_eq!(kept(folder.path()).len(), 2);
    gateway.erase_revoked();
    assert_eq!(
        kept(folder.path()),
        [stranger],
        "the ledger that knows it may be put back"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_while_the_parent_signs_keeps_nothing_of_it() {
    let a = Site::new("site-a", 1).await;
    let folder = tempfile::tempdir().unwrap();
    let gateway = child(folder.path());
    let at_a = taken_up(&gateway, &a, 1).await;
    let id = a.gateway.ledger.read(|book| book.peers().next().unwrap().id);
    let shown = gateway.call_leaf(at_a, &id.subject(), wall()).unwrap();
    let request = gateway.renewing(at_a).unwrap();
    let answer = a.gateway.renewed(&shown.chain, request, wall()).unwrap();
    let waiting = folder.path().join(format!("issued-{at_a}.next"));
    let key = std::fs::read_to_string(&waiting).unwrap();
    gateway.revoke(at_a, "test", wall()).unwrap();
    std::fs::write(&waiting, key).unwrap();
    let late = gateway.take_renewed(at_a, &answer.federation_certificate, wall());
    assert!(late.is_ok(), "it is what was asked for");
    assert_eq!(kept(folder.path()), Vec::<String>::new());
}
