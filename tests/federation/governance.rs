//! What an acceptance warns of, and what the operator's scan finds of two real sites.

use sdwand::federation::gateway::{GrantError, Granting, SoftStep};
use sdwand::federation::governance::Kind;
use sdwand::federation::grant::Terms;
use sdwand::federation::peer::PeerId;
use sdwand::federation::wire::AcceptRequest;
use sdwand::model::host::Residency;
use serde_json::{Value, json};

use crate::site::{Site, ask, enrolled, wall};

/// `b` takes the token of `a` by hand: what `a` answers.
async fn accepted(a: &Site, b: &Site) -> Value {
    let proposed = a.propose(&b.url, 1);
    let request = AcceptRequest {
        acceptance_token: Some(proposed.token.reveal()),
        contract_version: Some(json!(1)),
        peer_ca_bundle_pem: Some(b.gateway.ca.pem()),
        caller_inbound_subject: Some("fed:00000000-0000-7000-8000-000000000001".to_owned()),
        said: b.gateway.said(),
        ..AcceptRequest::default()
    };
    let body = serde_json::to_vec(&request).unwrap();
    let answers = ask(a, Some(&b.leaf("accept")), &[("accept", body)])
        .await
        .unwrap();
    assert_eq!(answers[0].0, 200, "{}", answers[0].1);
    answers[0].1["data"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acceptance_is_scanned_and_warns_and_stands() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let answer = accepted(&a, &b).await;
    assert_eq!(
        answer["governance"],
        json!({ "status": "scanned", "peer_finding_count": 0, "peer_findings": [] })
    );
    assert_eq!(answer["warnings"], Value::Null, "none");
    assert_eq!(
        answer["sdwan_attach"],
        json!({ "status": "skipped", "reason": "no_overlay_network" })
    );

    // The same /48 as ours, and then as another peer's: told to the peer as far as it is about it alone.
    let (a, b, c) = (
        Site::new("site-a", 1).await,
        Site::new("site-b", 1).await,
        Site::new("site-c", 1).await,
    );
    a.tell_fleet();
    let answer = accepted(&a, &b).await;
    assert_eq!(answer["status"], "enrolled", "a soft step stops nothing");
    assert_eq!(
        answer["governance"]["peer_findings"][0]["kind"],
        "prefix_overlap_with_install"
    );
    assert_eq!(answer["governance"]["peer_findings"][0]["severity"], "critical");
    assert!(
        answer["warnings"][0]
            .as_str()
            .unwrap()
            .starts_with("prefix_overlap_with_install: ")
    );
    assert_eq!(answer["sdwan_attach"]["reason"], "no_bound_instance");
    let (c_at_a, a_at_c) = enrolled(&a, &c).await;
    let kinds = |site: &Site, id: Option<PeerId>| -> Vec<Kind> {
        site.gateway
            .governance(id, wall())
            .iter()
            .map(|finding| finding.kind)
            .collect()
    };
    assert_eq!(
        kinds(&a, Some(c_at_a.id)),
        [Kind::PrefixOverlapWithInstall, Kind::PrefixOverlapWithOtherPeer]
    );
    assert_eq!(
        kinds(&c, Some(a_at_c.id)),
        [
            Kind::PrefixOverlapWithInstall,
            Kind::PeerSchemaVersionMissing,
            Kind::PeerResidencyMissing
        ],
        "before a word of it"
    );
    assert_eq!(kinds(&a, None).len(), 3);
    let again = a.gateway.retry(c_at_a.id, SoftStep::Governance, wall()).unwrap();
    assert_eq!(again.outcome["peer_finding_count"], 2);
    assert_eq!(again.warnings.len(), 2);
    a.gateway.revoke(c_at_a.id, "test", wall()).unwrap();
    assert_eq!(kinds(&a, Some(c_at_a.id)), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_border_that_is_refused_stops_grants_that_were_given_too() {
    let strict = |settings: &mut sdwand::federation::gateway::Settings| {
        settings.policy.residency = Residency::Refuse;
    };
    let (a, b) = (
        Site::with("site-a", 1, strict).await,
        Site::new("site-b", 2).await,
    );
    a.tell_fleet();
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    let granting = |n: u8| Granting {
        peer: b_at_a.id,
        terms: Terms {
            remote_subject: format!("subject-{n}"),
            resource_kind: "network".to_owned(),
            ..Terms::default()
        },
        days: None,
    };
    let granted = a.gateway.grant(granting(1), [1; 32], [1; 10], wall()).unwrap();
    let wanted = sdwand::federation::dial::Wanted {
        kind: "network".to_owned(),
        id: None,
        after: None,
        bearer: Some(granted.token.reveal()),
        network: None,
    };
    b.gateway.fetch(a_at_b.id, &wanted, wall()).await.unwrap();

    // Its data moves elsewhere: audited, flagged, and nothing goes there any more.
    let leaf = b.leaf(&b_at_a.id.subject());
    let body = json!({ "data_residency": "DE" }).to_string().into_bytes();
    let answers = ask(&a, Some(&leaf), &[("heartbeat", body)]).await.unwrap();
    assert_eq!(answers[0].0, 200, "a beat is a beat");
    let refused = b.gateway.fetch(a_at_b.id, &wanted, wall()).await.unwrap_err();
    assert!(refused.to_string().contains("resides elsewhere"), "{refused}");
    assert!(matches!(
        a.gateway.grant(granting(2), [2; 32], [2; 10], wall()),
        Err(GrantError::Border(_))
    ));
    let findings = a.gateway.governance(Some(b_at_a.id), wall());
    assert_eq!(findings[0].kind, Kind::PeerResidencyCrossing);
    let changed = a.gateway.ledger.audit_tail(10).unwrap();
    let changed = changed
        .iter()
        .find(|record| record.kind == "federation.peer.data_residency_changed")
        .unwrap();
    assert_eq!(
        changed.payload,
        json!({ "previous": "JP", "new": "DE", "declared_by": "remote_peer" })
    );
}
