//! What may be left of a parent's authority over its child, and what a child may make its parent spend.

use std::sync::Arc;
use std::time::Duration;

use sdwand::federation::anchors::OVERLAP;
use sdwand::federation::gateway::{Gateway, RenewError, Settings};
use sdwand::federation::governance::Kind;
use sdwand::federation::ledger::{Ledger, backup, restore};
use sdwand::federation::moment::Moment;
use sdwand::federation::peer::{PeerId, SpawnMode, SpawnRole, Status};
use sdwand::federation::pki::SiteCa;
use sdwand::federation::url::PeerUrl;
use sdwand::federation::wire::Notice;
use serde_json::json;

use crate::children::{Foreign, authority, beats, post, spawned};
use crate::site::{Site, beat, node, wall};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_token_dies_with_the_parents_authority() {
    let a = Site::new("site-a", 1).await;
    for (n, who) in [(20_u8, "the parent's operator"), (21, "the child")] {
        let url = PeerUrl::new(&format!("https://x{n}.example")).unwrap();
        let proposed = a.propose_as(&url, SpawnRole::Parent, SpawnMode::ManagedChild, n);
        let child = Foreign::new(n.into());
        let acceptance = json!({
            "acceptance_token": proposed.token.reveal(), "contract_version": 1, "csr_pem": child.csr,
        });
        let (status, body) = post(&a, None, "accept", &acceptance).await;
        assert_eq!(status, 200, "{body}");
        let token = body["data"]["node_enrollment"]["bootstrap_token"].clone();
        assert!(token.is_string());
        if who == "the child" {
            let leaf = child.leaf(&body["data"]["federation_certificate"]);
            let free = json!({ "spawn_mode": "autonomous_peer" });
            assert_eq!(post(&a, Some(&leaf), "heartbeat", &free).await.0, 200);
        } else {
            let grant = authority(&a, proposed.peer.id).remove(0).id;
            a.gateway
                .revoke_grant(proposed.peer.id, grant, "on its own", wall())
                .unwrap();
        }
        assert_eq!(a.peer(proposed.peer.id).mode, SpawnMode::AutonomousPeer, "{who}");
        let node = json!({ "csr_pem": child.csr, "bootstrap_token": token });
        assert_eq!(post(&a, None, "renew", &node).await.0, 401, "{who}");
        // Nor is there another one where the answer is told again.
        let (status, again) = post(&a, None, "accept", &acceptance).await;
        assert_eq!(status, 200, "{who}");
        assert!(again["data"]["node_enrollment"].is_null(), "{who}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_that_calls_its_managed_child_an_equal_hears_of_its_emancipation() {
    let a = Site::new("site-a", 1).await;
    let url = PeerUrl::new("https://x.example").unwrap();
    let proposed = a.propose_as(&url, SpawnRole::Symmetric, SpawnMode::ManagedChild, 1);
    let child = Foreign::new(7);
    let acceptance = json!({
        "acceptance_token": proposed.token.reveal(), "contract_version": 1, "csr_pem": child.csr,
    });
    let (_, body) = post(&a, None, "accept", &acceptance).await;
    let leaf = child.leaf(&body["data"]["federation_certificate"]);
    let free = json!({ "spawn_mode": "autonomous_peer" });
    assert_eq!(post(&a, Some(&leaf), "heartbeat", &free).await.0, 200);
    assert_eq!(a.peer(proposed.peer.id).mode, SpawnMode::AutonomousPeer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_cant_fill_its_parents_ledger_with_renewals() {
    let a = Site::new("site-a", 1).await;
    let url = PeerUrl::new("https://x.example").unwrap();
    let (proposed, child) = (a.propose(&url, 1), Foreign::new(7));
    let acceptance = json!({
        "acceptance_token": proposed.token.reveal(), "contract_version": 1, "csr_pem": child.csr,
    });
    let (_, body) = post(&a, None, "accept", &acceptance).await;
    let leaf = child.leaf(&body["data"]["federation_certificate"]);
    let before = a.gateway.ledger.head().sequence;
    let mut refused = 0;
    for _ in 0..100 {
        let (status, body) = post(&a, Some(&leaf), "renew", &json!({ "csr_pem": child.csr })).await;
        if status != 200 {
            assert_eq!((status, &body["code"]), (429, &json!("too_many")), "{body}");
            refused += 1;
        }
    }
    let written = a.gateway.ledger.head().sequence - before;
    assert!(
        refused > 0 && written < 100,
        "{refused} refused, {written} written"
    );
    // It lives all the same.
    assert_eq!(beat(&a, Some(&leaf)).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_was_restored_can_still_be_emancipated() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = spawned(&a, &b, SpawnMode::ManagedChild, 1).await;
    beats(&b, a_at_b.id, 1).await;
    let copy = b.folder.path().join("copy.db");
    backup(&b.folder.path().join("ledger.db"), &copy).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    restore(&copy, &path, wall()).unwrap();
    let site = b.gateway.site.clone();
    let (ca, _) = SiteCa::generate(&site, wall()).unwrap();
    let ledger = Arc::new(Ledger::open(&path, wall()).unwrap());
    let restored = Gateway::new(site, node(), ca, ledger, Settings::default());
    let peer = |status: Status, mode: SpawnMode| {
        let peer = restored
            .ledger
            .read(|book| (**book.peer(&a_at_b.id).unwrap()).clone());
        assert_eq!((peer.status, peer.mode), (status, mode));
    };
    peer(Status::Suspended, SpawnMode::ManagedChild);
    let managed = |gateway: &Gateway, id: PeerId, at: Moment| {
        let findings = gateway.governance(Some(id), at);
        findings
            .iter()
            .any(|finding| finding.kind == Kind::ManagedAuthorityEnded)
    };
    assert!(managed(&restored, a_at_b.id, wall()), "the restore has ended it");
    for (site, id) in [(&a, b_at_a.id), (&b, a_at_b.id)] {
        assert!(!managed(&site.gateway, id, wall().after(DAY * 364)));
        assert!(managed(&site.gateway, id, wall().after(DAY * 365)));
    }
    restored.resume(a_at_b.id, wall()).unwrap();
    // Nothing is opened by that: what the parent had is over.
    let grant = restored.ledger.read(|book| {
        let grants: Vec<_> = book.grants().filter(|grant| grant.peer == a_at_b.id).collect();
        assert!(
            grants
                .iter()
                .all(|grant| !grant.is_authority_of(a_at_b.id, wall()))
        );
        grants[0].id
    });
    restored
        .revoke_grant(a_at_b.id, grant, "on our own", wall())
        .unwrap();
    peer(Status::Enrolled, SpawnMode::AutonomousPeer);
    assert!(!managed(&restored, a_at_b.id, wall()), "it is on its own");
    assert!(restored.revoke_grant(a_at_b.id, grant, "twice", wall()).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_on_its_own_isnt_signed_for_any_more() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = spawned(&a, &b, SpawnMode::ManagedChild, 1).await;
    let subject = b_at_a.id.subject();
    beats(&b, a_at_b.id, 2).await;
    let signed = b.gateway.call_leaf(a_at_b.id, &subject, wall()).unwrap();
    let request = || b.gateway.renewing(a_at_b.id).unwrap();
    assert!(a.gateway.renewed(&signed.chain, request(), wall()).is_ok());
    let grant = authority(&b, a_at_b.id).remove(0).id;
    b.gateway
        .revoke_grant(a_at_b.id, grant, "on our own", wall())
        .unwrap();
    beats(&b, a_at_b.id, 1).await;
    // What was signed, or stolen, is good for another week, and for no other certificate.
    assert_eq!(beat(&a, Some(&signed)).await, 200);
    let refused = a.gateway.renewed(&signed.chain, request(), wall());
    assert!(matches!(refused, Err(RenewError::Sovereign)), "{refused:?}");
    let later = wall().after(OVERLAP);
    assert!(a.gateway.identify(&signed.chain, later).is_err());
    let own = b.gateway.call_leaf(a_at_b.id, &subject, wall()).unwrap();
    assert!(a.gateway.identify(&own.chain, later).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_that_has_lost_its_childrens_ca_signs_anew_and_the_old_one_lasts_a_week() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = spawned(&a, &b, SpawnMode::ManagedChild, 1).await;
    beats(&b, a_at_b.id, 1).await;
    let subject = b_at_a.id.subject();
    let signed = b.gateway.call_leaf(a_at_b.id, &subject, wall()).unwrap();
    // Another start, without children.pem and children.key.
    let ledger = Arc::clone(&a.gateway.ledger);
    let ca = SiteCa::generate(&a.gateway.site, wall()).unwrap().0;
    let again = Gateway::new(
        a.gateway.site.clone(),
        a.gateway.node.clone(),
        ca,
        ledger,
        a.gateway.settings.clone(),
    );
    let request = b.gateway.renewing(a_at_b.id).unwrap();
    let answer = again.renewed(&signed.chain, request, wall()).unwrap();
    // The answer was lost: what the child has is as good as before, for a week.
    assert!(again.identify(&signed.chain, wall()).is_ok());
    assert!(again.identify(&signed.chain, wall().after(OVERLAP)).is_err());
    b.gateway
        .take_renewed(a_at_b.id, &answer.federation_certificate, wall())
        .unwrap();
    let renewed = b.gateway.call_leaf(a_at_b.id, &subject, wall()).unwrap();
    assert!(again.identify(&renewed.chain, wall().after(OVERLAP)).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_that_gives_its_authority_up_tells_its_child_with_the_next_beat() {
    let a = Site::new("site-a", 1).await;
    for (n, calls) in [(2, "the child"), (3, "the parent")] {
        let b = Site::new("site-b", n).await;
        let number = u8::try_from(n).unwrap();
        let (b_at_a, a_at_b) = spawned(&a, &b, SpawnMode::ManagedChild, number).await;
        beats(&b, a_at_b.id, 2).await;
        let grant = authority(&a, b_at_a.id).remove(0).id;
        a.gateway
            .revoke_grant(b_at_a.id, grant, "grown up", wall())
            .unwrap();
        assert_eq!(b.peer(a_at_b.id).mode, SpawnMode::ManagedChild, "{calls}");
        match calls {
            "the child" => beats(&b, a_at_b.id, 1).await,
            _ => beats(&a, b_at_a.id, 1).await,
        }
        assert_eq!(b.peer(a_at_b.id).mode, SpawnMode::AutonomousPeer, "{calls}");
        let ended = authority(&b, a_at_b.id).remove(0);
        assert_eq!(ended.revoke_reason.as_deref(), Some("emancipated_by_peer"));
        // It vouches for itself from here on, and nobody waits for a signature that won't come.
        let subject = b_at_a.id.subject();
        let shown = b.gateway.call_leaf(a_at_b.id, &subject, wall()).unwrap();
        assert_eq!(shown.issuer, b.gateway.ca.fingerprint());
        assert!(b.gateway.renewals(wall().after(DAY * 80)).is_empty());
        beats(&b, a_at_b.id, 1).await;
        for (site, id) in [(&a, b_at_a.id), (&b, a_at_b.id)] {
            assert_eq!(site.peer(id).status, Status::Active);
            let audit = site.gateway.ledger.audit_tail(1_000).unwrap();
            let told = audit.iter().filter(|record| {
                record.kind == "federation.peer.emancipated" && record.peer == Some(id.to_string())
            });
            assert_eq!(told.count(), 1, "{calls}");
        }
    }
}

/// Whichever of the two ends it: the other knows at once, by a notice, and not only by refusals.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parent_and_child_are_told_when_the_other_revokes_them() {
    let a = Site::new("site-a", 1).await;
    for (n, mode) in [
        (2, SpawnMode::ManagedChild),
        (3, SpawnMode::ManagedChild),
        (4, SpawnMode::AutonomousPeer),
        (5, SpawnMode::ClusterMember),
    ] {
        let b = Site::new("site-b", n).await;
        let (b_at_a, a_at_b) = spawned(&a, &b, mode, u8::try_from(n).unwrap()).await;
        beats(&b, a_at_b.id, 1).await;
        let (by, here, told, there) = if n == 3 {
            (&b, a_at_b.id, &a, b_at_a.id)
        } else {
            (&a, b_at_a.id, &b, a_at_b.id)
        };
        assert_eq!(told.peer(there).status, Status::Active);
        let revoked = by.gateway.revoke(here, "over", wall()).unwrap();
        by.gateway
            .notify(&revoked, Notice::Revoked, wall())
            .await
            .unwrap();
        let peer = told.peer(there);
        assert_eq!(
            (peer.status, peer.reason.as_deref()),
            (Status::Degraded, Some("revoked_by_peer")),
            "{mode:?}"
        );
    }
}
