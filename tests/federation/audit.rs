//! What the audit keeps of those who were refused.

use std::time::Duration;

use serde_json::{Value, json};

use crate::site::{Site, ask, beat, enrolled, wall};

/// The records of refusals: kinds and payloads.
fn refusals(site: &Site) -> Vec<(String, Value)> {
    let records = site.gateway.ledger.audit_tail(1_000).unwrap().into_iter();
    records
        .filter(|record| record.kind.ends_with(".refused"))
        .map(|record| {
            assert_eq!(record.peer, None);
            (record.kind, record.payload)
        })
        .collect()
}

fn accept(token: &str) -> (&'static str, Vec<u8>) {
    let body = json!({ "acceptance_token": token, "contract_version": 1 });
    ("accept", body.to_string().into_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_a_record_a_minute() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let token = a.propose(&b.url, 1).token.reveal();
    let head = a.gateway.ledger.head();
    // All but the first can't be right: 30 acceptances a minute are judged.
    let guess = format!("{}{}", &token[..token.len() - 4], "AAAA");
    let mut flood: Vec<_> = (0..49).map(|_| accept(&guess)).collect();
    flood.insert(0, ("accept", b"{\"acceptance_token\": 7".to_vec()));
    let answers = ask(&a, None, &flood).await.unwrap();
    assert!(answers.iter().all(|(status, _)| *status >= 400), "{answers:?}");
    assert_eq!(beat(&a, None).await, 401);
    assert_eq!(
        a.gateway.ledger.head(),
        head,
        "nothing is written while it goes on"
    );

    let later = wall().after(Duration::from_secs(120));
    a.gateway.tell_refusals(later, false).unwrap();
    let told = refusals(&a);
    // The minute may have turned meanwhile.
    let of = |kind: &str, reason: Option<&str>| -> u64 {
        let of_kind = told.iter().filter(|(told, _)| told == kind);
        let count = |payload: &Value| match reason {
            Some(reason) => payload["reasons"][reason].as_u64().unwrap_or(0),
            None => payload["count"].as_u64().unwrap(),
        };
        of_kind.map(|(_, payload)| count(payload)).sum()
    };
    assert!(told.len() <= 4, "{told:?}");
    assert!(told.iter().all(|(_, payload)| payload["source"] == "127.0.0.1"));
    let accepts = "federation.accept.refused";
    assert_eq!(of(accepts, None), 50);
    assert_eq!(of(accepts, Some("malformed")), 1);
    assert_eq!(of(accepts, Some("too_many")), 20);
    assert_eq!(of(accepts, Some("UNAUTHORIZED")), 29);
    assert_eq!(of("federation.stranger.refused", Some("no_certificate")), 1);
    assert!(
        !json!(told).to_string().contains("sdw1."),
        "no token is in the audit"
    );
    // What was told isn't told again.
    a.gateway.tell_refusals(later, true).unwrap();
    assert_eq!(refusals(&a), told);
    assert_eq!(a.gateway.ledger.audit_verify().unwrap(), a.gateway.ledger.head());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_counted_on_every_path() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let leaf = b.leaf(&b_at_a.id.subject());
    assert_eq!(beat(&a, Some(&leaf)).await, 200);
    a.gateway.suspend(b_at_a.id, "test", wall()).unwrap();
    let mut connection = crate::site::Connection::open(&a, Some(&leaf)).await.unwrap();
    let bearer = format!("Bearer fg-{}.{}", b_at_a.id, "A".repeat(43));
    for (method, path) in [
        ("POST", "heartbeat"),
        ("POST", "notices"),
        ("GET", "trust_bundle"),
        ("GET", "resources/network"),
        ("GET", "resources/network/prod"),
    ] {
        let answer = connection
            .send(
                method.parse().unwrap(),
                path,
                &[("authorization", &bearer)],
                b"{}".to_vec(),
            )
            .await
            .unwrap();
        assert_eq!(answer.0, 401, "{path}: {answer:?}");
    }
    a.gateway.tell_refusals(wall(), true).unwrap();
    let told = refusals(&a);
    let counted: u64 = told
        .iter()
        .map(|(_, payload)| payload["reasons"]["unknown_or_stopped"].as_u64().unwrap())
        .sum();
    assert_eq!(counted, 5, "{told:?}");
    assert!(
        !json!(told).to_string().contains(&b_at_a.id.to_string()),
        "nothing of what the caller calls itself"
    );
}
