//! What stands in the contract with peers and isn't shown elsewhere. Numbers are its lines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use rustls::HandshakeKind;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use sdwand::federation::gateway::{Granted, Granting};
use sdwand::federation::grant::{Grant, Terms};
use sdwand::federation::moment::Moment;
use sdwand::federation::peer::{Peer, PeerId, Status};
use sdwand::federation::pki::tls::{Callee, client_config};
use sdwand::federation::pki::verify::names_of;
use sdwand::federation::pki::{Leaf, pem_of};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::site::{Connection, Site, beat, enrolled, wall};

const SUBJECT: &str = "fed:00000000-0000-7000-8000-000000000001";

async fn send(site: &Site, leaf: Option<&Leaf>, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let mut connection = Connection::open(site, leaf).await.unwrap();
    let body = if body.is_null() {
        Vec::new()
    } else {
        serde_json::to_vec(body).unwrap()
    };
    connection.send(method, path, &[], body).await.unwrap()
}

async fn post(site: &Site, leaf: Option<&Leaf>, path: &str, body: &Value) -> (u16, Value) {
    send(site, leaf, Method::POST, path, body).await
}

/// Changes what `site` has of a peer.
fn change(site: &Site, id: PeerId, change: impl FnOnce(&mut Peer)) {
    let changed = site.gateway.ledger.transact(wall(), |draft| {
        let mut peer = draft.peer(&id).cloned().unwrap();
        change(&mut peer);
        draft.put_peer(peer)
    });
    changed.unwrap();
}

fn acceptance(token: &str, b: &Site) -> Value {
    json!({
        "acceptance_token": token, "contract_version": 1, "peer_ca_bundle_pem": b.gateway.ca.pem(),
        "caller_inbound_subject": SUBJECT,
    })
}

/// 2, 3, 6, 9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_until_it_is_used_or_its_time_is_over() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let proposed = a.propose(&b.url, 1);
    let (id, token) = (proposed.peer.id, proposed.token.reveal());
    let leaf = b.leaf("accept");
    for version in [json!(99), json!(0), Value::Null] {
        let mut request = acceptance(&token, &b);
        request["contract_version"] = version;
        let (status, body) = post(&a, Some(&leaf), "accept", &request).await;
        assert_eq!((status, &body["success"]), (422, &json!(false)));
        assert!(
            body["error"].as_str().unwrap().contains("contract_version"),
            "{body}"
        );
    }
    let expires = |at: Moment| change(&a, id, |peer| peer.offer.as_mut().unwrap().expires_at = at);
    expires(wall().before(Duration::from_secs(1)));
    let request = acceptance(&token, &b);
    assert_eq!(post(&a, Some(&leaf), "accept", &request).await.0, 401, "expired");
    assert_eq!(a.peer(id).status, Status::Proposed);
    expires(wall().after(Duration::from_secs(60)));
    assert_eq!(post(&a, Some(&leaf), "accept", &request).await.0, 200);
    assert!(a.peer(id).offer.is_none());
    let c = Site::new("site-c", 3).await;
    let again = acceptance(&token, &c);
    assert_eq!(
        post(&a, Some(&c.leaf("accept")), "accept", &again).await.0,
        401,
        "used"
    );
}

/// 7, 10, 18.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acceptance_is_written_down_as_it_came() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let proposed = a.propose(&b.url, 1);
    let id = proposed.peer.id;
    let endpoints = json!([{ "url": "https://b2.example", "scope": "lan", "priority": 7 }]);
    let mut request = acceptance(&proposed.token.reveal(), &b);
    request["extension_slugs"] = json!(["trading"]);
    request["capabilities"] = json!({ "push": true });
    request["endpoints"] = endpoints.clone();
    let began = wall();
    let (status, body) = post(&a, Some(&b.leaf("accept")), "accept", &request).await;
    assert_eq!((status, &body["success"]), (200, &json!(true)), "{body}");
    let data = &body["data"];
    assert_eq!(data["peer_id"], json!(id));
    assert_eq!(
        (&data["status"], &data["peer_kind"]),
        (&json!("enrolled"), &json!("platform"))
    );
    assert_eq!(data["contract_version_agreed"], 1);
    assert_eq!(data["trust_exchange"]["ca_bundle_pem"], a.gateway.ca.pem());
    assert_eq!(
        data["trust_exchange"]["assigned_inbound_subject"],
        format!("fed:{id}")
    );
    let peer = a.peer(id);
    assert_eq!(peer.contract_version, Some(1));
    assert!(peer.signed_at >= Some(began) && peer.last_handshake_at >= Some(began));
    assert_eq!(peer.declared.extension_slugs, ["trading"]);
    assert_eq!(json!(peer.declared.capabilities), request["capabilities"]);
    assert_eq!(peer.declared.endpoints[0].url, endpoints[0]["url"]);
    let trust = peer.trust.unwrap();
    assert_eq!(trust.anchors[0].pem, b.gateway.ca.pem());
    let shown = a.gateway.call_leaf(id, &trust.outbound_subject, wall()).unwrap();
    assert_eq!(names_of(&shown.chain[0]).unwrap().subject, SUBJECT);
}

/// 11, 20, 32, 116; and a row whose token is gone takes nobody, whatever is shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_without_a_token_takes_nobody_and_one_without_trust_goes_no_further() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let leaf = b.leaf("accept");
    let proposed = a.propose(&b.url, 1);
    let (id, token) = (proposed.peer.id, proposed.token.reveal());
    change(&a, id, |peer| peer.offer = None);
    for (shown, status) in [(token.as_str(), 401), ("", 422), (" ", 422), ("null", 401)] {
        let found = post(&a, Some(&leaf), "accept", &acceptance(shown, &b)).await.0;
        assert_eq!(
            (found, a.peer(id).status),
            (status, Status::Proposed),
            "{shown:?}"
        );
    }
    a.gateway.revoke(id, "over", wall()).unwrap();

    let proposed = a.propose(&b.url, 2);
    let (id, token) = (proposed.peer.id, proposed.token.reveal());
    let called = b.leaf(&id.subject());
    assert_eq!(beat(&a, Some(&called)).await, 401, "proposed");
    a.gateway.revoke(id, "over", wall()).unwrap();
    let found = post(&a, Some(&leaf), "accept", &acceptance(&token, &b)).await;
    assert_eq!(
        (found.0, a.peer(id).status),
        (401, Status::Revoked),
        "its token is dead"
    );

    let proposed = a.propose(&b.url, 3);
    let id = proposed.peer.id;
    let bare = json!({ "acceptance_token": proposed.token.reveal(), "contract_version": 1 });
    let (status, body) = post(&a, Some(&leaf), "accept", &bare).await;
    assert_eq!(
        (status, &body["data"]["status"]),
        (200, &json!("accepted")),
        "{body}"
    );
    for key in ["federation_certificate", "trust_exchange", "node_enrollment"] {
        assert!(body["data"].get(key).is_none(), "{key}");
    }
    assert_eq!(beat(&a, Some(&b.leaf(&id.subject()))).await, 401, "accepted");
    assert_eq!(
        body["data"]["governance"]["peer_findings"][0]["kind"],
        "stale_accepted_without_handshake"
    );
    let peer = a.peer(id);
    assert_eq!((peer.status, peer.last_handshake_at), (Status::Accepted, None));
    assert!(
        peer.reason.unwrap().contains("no trust was exchanged"),
        "and says why"
    );
}

/// 29.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_token_only_its_digest_is_kept() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let token = a.propose(&b.url, 1).token.reveal();
    let secret = token.split('.').nth(1).unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(a.folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        files += 1;
        assert!(
            !bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes())
        );
    }
    assert!(files > 0);
    assert!(
        !a.gateway
            .ledger
            .audit_tail(100)
            .unwrap()
            .iter()
            .any(|record| record.payload.to_string().contains(secret))
    );
}

/// 30, 37, and the old weakness that a proxy's word was identity.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_says_who_calls_says_nothing_and_plain_http_isnt_spoken() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let leaf = b.leaf(&b_at_a.id.subject());
    let info = format!("Subject=\"CN={}\"", b_at_a.id.subject());
    let pem = pem_of(&leaf.chain[0]).replace('\n', "");
    let headers = [
        ("x-forwarded-tls-client-cert-info", info.as_str()),
        ("x-forwarded-tls-client-cert", pem.as_str()),
        ("x-ssl-client-verify", "SUCCESS"),
        ("x-forwarded-for", "127.0.0.1"),
    ];
    for (method, path) in [
        (Method::POST, "heartbeat"),
        (Method::POST, "notices"),
        (Method::POST, "renew"),
        (Method::GET, "trust_bundle"),
        (Method::GET, "audit_excerpts"),
        (Method::GET, "resources/network"),
        (Method::GET, "resources/network/prod"),
    ] {
        let mut connection = Connection::open(&a, None).await.unwrap();
        let (status, body) = connection
            .send(method, path, &headers, b"{}".to_vec())
            .await
            .unwrap();
        assert_eq!((status, &body["code"]), (401, &json!("UNAUTHORIZED")), "{path}");
    }
    assert_eq!(a.peer(b_at_a.id).status, Status::Enrolled);

    let mut plain = TcpStream::connect(a.address).await.unwrap();
    let head =
        "POST /api/v1/system/federation_api/heartbeat HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}";
    plain.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), plain.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "it is cut off");
    assert!(
        !answer.starts_with(b"HTTP/"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

/// A stranger hears one thing, whatever else is wrong with what it sends; a peer hears in JSON what is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_is_json_and_strangers_are_told_nothing() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let leaf = b.leaf(&b_at_a.id.subject());
    let (large, cut) = (vec![b' '; 70_000], b"{".to_vec());
    for (method, path, body, status) in [
        (Method::POST, "heartbeat", &large, 413),
        (Method::POST, "heartbeat", &cut, 400),
        (Method::POST, "notices", &large, 413),
        (Method::POST, "notices", &cut, 400),
        (Method::GET, "resources/network?after=a&after=b", &Vec::new(), 400),
        (Method::GET, "resources/%ff", &Vec::new(), 400),
        (Method::GET, "resources/network/%ff", &Vec::new(), 400),
    ] {
        for (shown, is) in [(Some(&leaf), status), (None, 401)] {
            let mut connection = Connection::open(&a, shown).await.unwrap();
            let (found, answer) = connection
                .send(method.clone(), path, &[], body.clone())
                .await
                .unwrap();
            assert_eq!(
                (found, &answer["success"]),
                (is, &json!(false)),
                "{path}: {answer}"
            );
            assert!(
                answer["error"].is_string() && answer["code"].is_string(),
                "{answer}"
            );
        }
    }
    let (status, answer) = {
        let mut connection = Connection::open(&a, Some(&leaf)).await.unwrap();
        connection.post("accept", large).await.unwrap()
    };
    assert_eq!((status, &answer["success"]), (413, &json!(false)));
    assert_eq!(beat(&a, Some(&leaf)).await, 200, "and the peer is as it was");
}

/// 38 to 44, 46, 47.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_beat_changes_and_what_it_answers() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let leaf = b.leaf(&b_at_a.id.subject());
    let peer = || a.peer(b_at_a.id);
    let mut connection = Connection::open(&a, Some(&leaf)).await.unwrap();
    let mut beat = async |body: &Value| {
        let body = serde_json::to_vec(body).unwrap();
        connection.post("heartbeat", body).await.unwrap()
    };
    assert_eq!(
        (peer().status, peer().last_heartbeat_at),
        (Status::Enrolled, None)
    );
    let endpoints = json!([{ "url": "https://b.example", "scope": "wan", "priority": 1 }]);
    let full = json!({
        "capabilities": { "x": 1 }, "extension_slugs": ["one"], "endpoints": endpoints, "platform_version": "0.1.0",
        "data_residency": "JP", "nonce": "n-1", "sequence": 7,
    });
    let (status, body) = beat(&full).await;
    let data = &body["data"];
    assert_eq!(
        (status, &data["status"]),
        (200, &json!("active")),
        "enrolled: {body}"
    );
    assert_eq!((&data["nonce"], &data["sequence"]), (&json!("n-1"), &json!(7)));
    assert_eq!(data["our_endpoints"][0]["url"], a.url.to_string(), "ours");
    let first = a.gateway.heard.last(&peer()).unwrap();
    let declared = peer().declared;
    assert_eq!(json!(declared.capabilities), full["capabilities"]);
    assert_eq!(declared.endpoints[0].url, "https://b.example");

    // What isn't said stays, what is said again is no news, and the time moves.
    let audit = a.gateway.ledger.head();
    let deadline = Instant::now() + Duration::from_secs(5);
    while a.gateway.heard.last(&peer()).unwrap() <= first {
        assert!(Instant::now() < deadline, "its time doesn't move");
        for body in [&json!({}), &json!({ "data_residency": "JP" })] {
            assert_eq!(beat(body).await.0, 200);
        }
    }
    assert_eq!((peer().status, peer().declared), (Status::Active, declared));
    assert_eq!(a.gateway.ledger.head(), audit);
    assert!(a.gateway.degrade(b_at_a.id, "heartbeat_stale", wall()).unwrap());
    assert_eq!(beat(&json!({})).await.0, 200);
    assert_eq!(peer().status, Status::Active, "degraded");

    for (version, is) in [
        ("0.1.9", "compatible"),
        ("0.2.0", "compatible"),
        ("0.3.0", "incompatible"),
        ("1.1.0", "incompatible"),
        ("", "incompatible"),
        ("7", "incompatible"),
    ] {
        let (status, body) = beat(&json!({ "platform_version": version })).await;
        let judged = &body["data"]["schema_compatibility"];
        assert_eq!(
            (status, &judged["status"]),
            (200, &json!(is)),
            "{version:?}: {judged}"
        );
        assert_eq!(judged["source"], "implicit");
        assert_eq!(judged["remote_version"], version);
        assert_eq!(judged["notes"].is_string(), is == "incompatible", "{judged}");
    }
}

/// 48.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_reads_our_anchors_and_a_stranger_doesnt() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let leaf = b.leaf(&b_at_a.id.subject());
    let (status, body) = send(&a, Some(&leaf), Method::GET, "trust_bundle", &Value::Null).await;
    assert_eq!(status, 200);
    assert_eq!(body["data"]["ca_bundle_pem"], a.gateway.ca.pem());
    let at: Moment = body["data"]["generated_at"].as_str().unwrap().parse().unwrap();
    assert!(at > Moment::EPOCH);
    let forged = b.leaf("fed:nobody");
    for leaf in [None, Some(&forged)] {
        let (status, body) = send(&a, leaf, Method::GET, "trust_bundle", &Value::Null).await;
        assert_eq!((status, &body["code"]), (401, &json!("UNAUTHORIZED")));
    }
}

/// 63, 67, 70: what is told, and that no grant can be guessed or used when it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_is_its_secret_and_ends_with_its_time() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    a.tell_fleet();
    let (b_at_a, _) = enrolled(&a, &b).await;
    let granting = Granting {
        peer: b_at_a.id,
        terms: Terms {
            remote_subject: "operator@site-b".to_owned(),
            resource_kind: "network".to_owned(),
            ..Terms::default()
        },
        days: None,
    };
    let Granted { grant, token } = a.gateway.grant(granting, [1; 32], [1; 10], wall()).unwrap();
    let leaf = b.leaf(&b_at_a.id.subject());
    let mut connection = Connection::open(&a, Some(&leaf)).await.unwrap();
    let mut read = async |token: &str| {
        let header = format!("Bearer {token}");
        let headers = [("authorization", header.as_str())];
        let path = "resources/network/prod";
        connection
            .send(Method::GET, path, &headers, Vec::new())
            .await
            .unwrap()
    };
    let (status, body) = read(&token.reveal()).await;
    assert_eq!(
        (status, &body["data"]["kind"]),
        (200, &json!("network")),
        "{body}"
    );
    assert_eq!(body["data"]["grant_id"], json!(grant.id));
    let told = body["data"].as_object().unwrap();
    for key in ["kind", "id", "exists", "account_id", "grant_id", "fetched_at"] {
        assert!(told.contains_key(key), "{key}: {body}");
    }
    for guess in [
        format!("fg-{}", grant.id),
        format!("fg-{}.", grant.id),
        format!("fgs.{}.{}", grant.id, "0".repeat(64)),
        grant.id.to_string(),
    ] {
        let (status, body) = read(&guess).await;
        assert_eq!((status, &body["code"]), (401, &json!("UNAUTHORIZED")), "{guess}");
    }
    for end in [
        |grant: &mut Grant| grant.expires_at = wall().before(Duration::from_secs(1)),
        |grant: &mut Grant| grant.archived_at = Some(wall()),
    ] {
        let mut ended = grant.clone();
        end(&mut ended);
        let put = a.gateway.ledger.transact(wall(), |draft| {
            draft.put_grant(ended);
            Ok::<_, ()>(())
        });
        put.unwrap();
        let (status, body) = read(&token.reveal()).await;
        assert_eq!((status, &body["code"]), (401, &json!("UNAUTHORIZED")), "{body}");
    }
}

/// 107.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_of_status_is_told_by_its_weight() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let leaf = b.leaf(&b_at_a.id.subject());
    assert_eq!(beat(&a, Some(&leaf)).await, 200);
    a.gateway.degrade(b_at_a.id, "refused_by_peer", wall()).unwrap();
    a.gateway.suspend(b_at_a.id, "test", wall()).unwrap();
    a.gateway.resume(b_at_a.id, wall()).unwrap();
    a.gateway.revoke(b_at_a.id, "test", wall()).unwrap();
    let records = a.gateway.ledger.audit_tail(100).unwrap();
    let told: Vec<_> = records
        .iter()
        .filter(|record| record.peer == Some(b_at_a.id.to_string()))
        .filter_map(|record| {
            Some((
                record.kind.strip_prefix("federation.peer.")?,
                record.severity.as_str(),
            ))
        })
        .collect();
    assert_eq!(
        told,
        [
            ("proposed", "low"),
            ("enrolled", "low"),
            ("active", "low"),
            ("degraded", "medium"),
            ("suspended", "medium"),
            ("enrolled", "low"),
            ("revoked", "high"),
        ]
    );
}

/// No session is resumed: a caller that remembers all it can is asked for its certificate each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_is_resumed_and_no_ticket_given() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let leaf = b.leaf(&b_at_a.id.subject());
    let callee = Callee::Known {
        anchors: vec![a.gateway.ca.der()],
        site: a.gateway.site.clone(),
    };
    let mut config = client_config(callee, Some(&leaf)).unwrap();
    config.resumption = Resumption::in_memory_sessions(16);
    config.enable_early_data = true;
    let tls = TlsConnector::from(Arc::new(config));
    let head = "POST /api/v1/system/federation_api/heartbeat HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    for is in ["HTTP/1.1 200", "HTTP/1.1 200", "HTTP/1.1 401"] {
        if is.ends_with("401") {
            a.gateway.suspend(b_at_a.id, "test", wall()).unwrap();
        }
        let stream = TcpStream::connect(a.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = tls.connect(name, stream).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Some end a connection without a word of TLS: what came before counts.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.starts_with(is.as_bytes()), "{is}");
        let session = stream.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
    }
}
