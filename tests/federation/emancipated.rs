//! What may be left of a parent's authority over its child, and what a child may make its parent spend.

use sdwand::federation::peer::{SpawnMode, SpawnRole};
use sdwand::federation::url::PeerUrl;
use serde_json::json;

use crate::children::{Foreign, authority, post, propose};
use crate::site::{Site, beat, wall};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_token_dies_with_the_parents_authority() {
    let a = Site::new("site-a", 1).await;
    for (n, who) in [(20_u8, "the parent's operator"), (21, "the child")] {
        let url = PeerUrl::new(&format!("https://x{n}.example")).unwrap();
        let proposed = propose(&a, &url, SpawnRole::Parent, SpawnMode::ManagedChild, n);
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
    let proposed = propose(&a, &url, SpawnRole::Symmetric, SpawnMode::ManagedChild, 1);
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
