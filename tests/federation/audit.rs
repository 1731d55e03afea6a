//! What the audit keeps of those who were refused, and what of it a peer is told.

use std::time::Duration;

use hyper::Method;
use sdwand::federation::ledger::{Aborted, Happening};
use sdwand::federation::moment::Moment;
use sdwand::federation::peer::{PeerId, Status};
use serde_json::{Value, json};

use crate::site::{Connection, Site, ask, beat, enrolled, wall};

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
    let mut connection = Connection::open(&a, Some(&leaf)).await.unwrap();
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

async fn excerpts(connection: &mut Connection, query: &str) -> (u16, Value) {
    let path = format!("audit_excerpts{query}");
    let (status, mut answer) = connection
        .send(Method::GET, &path, &[], Vec::new())
        .await
        .unwrap();
    if status == 200 {
        assert!(answer.to_string().len() <= 64 * 1024);
        return (status, answer["data"].take());
    }
    assert_eq!(answer["success"], false);
    (status, answer)
}

/// Notes happenings about a peer.
fn note(site: &Site, peer: Option<PeerId>, kind: &str, payload: &Value, times: usize) {
    let noted = site.gateway.ledger.transact(wall(), |draft| {
        for _ in 0..times {
            draft.note(Happening {
                kind: kind.to_owned(),
                severity: "low",
                peer,
                payload: payload.clone(),
            });
        }
        Ok::<_, ()>(())
    });
    assert!(!matches!(
        noted,
        Err(Aborted::ByLedger(_) | Aborted::ByCaller(()))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_told_what_the_audit_has_about_it() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let c = Site::new("site-c", 3).await;
    let (b_at_a, _) = enrolled(&a, &b).await;
    let (c_at_a, _) = enrolled(&a, &c).await;
    let leaf = b.leaf(&b_at_a.id.subject());
    let mut from_b = Connection::open(&a, Some(&leaf)).await.unwrap();
    let (status, answer) = excerpts(&mut from_b, "").await;
    assert_eq!(
        (status, answer["code"].as_str()),
        (403, Some("peer_not_active")),
        "enrolled"
    );
    assert_eq!(beat(&a, Some(&leaf)).await, 200);
    assert!(a.gateway.degrade(b_at_a.id, "heartbeat_stale", wall()).unwrap());
    assert_eq!(a.peer(b_at_a.id).status, Status::Degraded);
    assert_eq!(excerpts(&mut from_b, "").await.0, 403, "degraded");
    a.gateway.suspend(b_at_a.id, "they owe us money", wall()).unwrap();
    assert_eq!(excerpts(&mut from_b, "").await.0, 401, "suspended");
    a.gateway.resume(b_at_a.id, wall()).unwrap();
    assert_eq!(beat(&a, Some(&leaf)).await, 200);
    note(&a, None, "federation.pki.rotated", &json!({ "by": "alice" }), 1);
    let records = a.gateway.ledger.audit_tail(1_000).unwrap();
    let of = |peer: PeerId| {
        let of_peer = records
            .iter()
            .filter(move |record| record.peer == Some(peer.to_string()));
        of_peer
            .map(|record| json!([record.at, record.kind, record.severity]))
            .collect::<Vec<_>>()
    };
    assert!(!of(c_at_a.id).is_empty(), "there is something about another peer");

    let (status, answer) = excerpts(&mut from_b, "").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["peer_id"], json!(b_at_a.id));
    assert_eq!(answer["shipments"], json!([]));
    assert_eq!(answer.get("truncated"), None);
    assert_eq!(answer.get("next"), None);
    let moment = |at: &Value| at.as_str().unwrap().parse::<Moment>().unwrap();
    let window = &answer["window"];
    assert_eq!(
        moment(&window["until"]).since(moment(&window["since"])),
        Duration::from_secs(90 * 86_400)
    );
    let events = answer["events"].as_array().unwrap();
    assert_eq!(answer["count"], events.len());
    let own = of(b_at_a.id);
    let told: Vec<_> = events
        .iter()
        .map(|event| json!([event["at"], event["kind"], event["severity"]]))
        .collect();
    assert_eq!(told, own, "all of its own, in their order");
    assert!(own.iter().any(|event| event[1] == "federation.peer.suspended"));
    for event in events {
        let fields: Vec<_> = event.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["at", "kind", "payload", "severity"]);
    }
    let text = answer["events"].to_string();
    for secret in [
        "they owe us money",
        "\"reason\"",
        "\"by\"",
        "alice",
        "site-c",
        "fd00:",
        "https:",
        &c_at_a.id.to_string(),
    ] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }

    // Nobody else is told anything, nor how to ask.
    let forged = c.leaf(&b_at_a.id.subject());
    for leaf in [None, Some(&forged)] {
        let mut stranger = Connection::open(&a, leaf).await.unwrap();
        for query in ["", "?limit=0", "?limit=1&limit=2"] {
            assert_eq!(excerpts(&mut stranger, query).await.0, 401, "{query}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn excerpts_are_cut_and_go_on() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let leaf = b.leaf(&b_at_a.id.subject());
    assert_eq!(beat(&a, Some(&leaf)).await, 200);
    let payload = json!({ "grant": "00000000-0000-7000-8000-000000000001", "reason": "x".repeat(200) });
    note(&a, Some(b_at_a.id), "federation.grant.revoked", &payload, 1_200);
    note(&a, None, "federation.grant.revoked", &payload, 10);
    let all = a.gateway.ledger.audit_tail(5_000).unwrap();
    let own = all
        .iter()
        .filter(|record| record.peer == Some(b_at_a.id.to_string()))
        .count();

    let mut from_b = Connection::open(&a, Some(&leaf)).await.unwrap();
    for limit in ["", "&limit=100", "&limit=9999"] {
        let (mut seen, mut answers, mut after) = (0, 0, String::new());
        loop {
            let (status, answer) = excerpts(&mut from_b, &format!("?{after}{limit}")).await;
            assert_eq!(status, 200, "{answer}");
            seen += answer["events"].as_array().unwrap().len();
            answers += 1;
            let Some(next) = answer["next"].as_str() else {
                assert_eq!(answer.get("truncated"), None);
                break;
            };
            assert_eq!(answer["truncated"], true);
            after = format!("after={next}");
        }
        assert_eq!(seen, own, "{limit}");
        assert!(answers >= if limit == "&limit=100" { 13 } else { 2 }, "{answers}");
    }
    for (query, is) in [
        ("?since=2026-05-02T00:00:00Z&until=2026-05-01T00:00:00Z", 422),
        ("?since=2026-05-02T00:00:00Z&until=2026-05-02T00:00:00Z", 422),
        ("?since=yesterday", 422),
        ("?limit=0", 422),
        ("?limit=many", 422),
        ("?after=7", 422),
        ("?limit=1&limit=2", 400),
        ("?limit=5001", 200),
        ("?unknown=1", 200),
    ] {
        assert_eq!(excerpts(&mut from_b, query).await.0, is, "{query}");
    }
    let (_, before) = excerpts(
        &mut from_b,
        "?since=1999-01-01T00:00:00Z&until=2000-01-01T00:00:00Z",
    )
    .await;
    assert_eq!(before["count"], 0);
}
