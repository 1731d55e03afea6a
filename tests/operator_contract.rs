//! What stands in the contract with operators, asked over `api.sock`. Numbers are its lines; who may what is shown in
//! `operator_http`.

#![expect(
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "tests look at the clock, say so when they fail, and are lists of cases"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::Ipv6Net;
use sdwand::api::operator::{Arrival, Listing, Operating, listen, router};
use sdwand::federation::gateway::{Gateway, Settings};
use sdwand::federation::grant::GrantId;
use sdwand::federation::ledger::Ledger;
use sdwand::federation::moment::Moment;
use sdwand::federation::operators::{OperatorKey, Operators};
use sdwand::federation::pki::{SiteCa, Usage};
use sdwand::federation::site::SiteId;
use sdwand::federation::url::PeerUrl;
use sdwand::federation::wire::{AcceptRequest, Said};
use sdwand::model::Name;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

const PEERS: &str = "/api/v1/system/platform/peers";
const WEEK: Duration = Duration::from_secs(7 * 86_400);
const DAY: Duration = Duration::from_secs(86_400);

fn wall() -> Moment {
    SystemTime::now().into()
}

fn random(bytes: &mut [u8]) {
    getrandom::fill(bytes).unwrap();
}

fn node() -> Name {
    Name::new("hub-1").unwrap()
}

fn site_id(name: &str, number: u16) -> SiteId {
    let prefix: Ipv6Net = format!("fd00:0:{number:x}::/48").parse().unwrap();
    SiteId::of(&Name::new(name).unwrap(), prefix)
}

struct Site {
    gateway: Arc<Gateway>,
    socket: PathBuf,
    _folder: tempfile::TempDir,
    _stop: watch::Sender<bool>,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = site_id("site-a", 1);
        let (ca, _) = SiteCa::generate(&site, wall()).unwrap();
        let ledger = Arc::new(Ledger::open(&folder.path().join("ledger.db"), wall()).unwrap());
        let (key, _) = OperatorKey::generate().unwrap();
        let operators = Arc::new(Operators::new(site.clone(), key, Arc::clone(&ledger)));
        let settings = Settings {
            url: Some(PeerUrl::new("https://a.example").unwrap()),
            ..Settings::default()
        };
        let gateway = Arc::new(Gateway::new(site, node(), ca, ledger, settings));
        let router = router(Operating {
            gateway: Arc::clone(&gateway),
            operators,
            wall,
            random,
            listing: Listing::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let socket = folder.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(listen::unix(
            listener,
            |uid| Arrival::Api { uid },
            router,
            stopped,
        ));
        Self {
            gateway,
            socket,
            _folder: folder,
            _stop: stop,
        }
    }

    /// The status of an answer, and what it is in JSON: every one is. By HTTP/1.0, which knows no chunks.
    async fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let json: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{method} {path}: {answer}"));
        if status >= 400 {
            assert_eq!(json["success"], false, "{path}: {json}");
            assert!(json["error"].is_string() && json["code"].is_string(), "{json}");
        }
        (status, json)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, &Value::Null).await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.ask("POST", path, body).await
    }

    /// A peer that has exchanged trust: its id.
    async fn enrolled(&self, number: u16) -> String {
        let url = format!("https://peer-{number}.example");
        let (_, proposed) = self.post(PEERS, &json!({ "remote_instance_url": url })).await;
        let site = site_id("site-b", number);
        let (ca, _) = SiteCa::generate(&site, wall()).unwrap();
        let leaf = ca.issue(&site, &node(), Usage::Call { subject: "accept" }, wall());
        let request = AcceptRequest {
            acceptance_token: proposed["data"]["acceptance_token"].as_str().map(str::to_owned),
            contract_version: Some(json!(1)),
            peer_ca_bundle_pem: Some(ca.pem().to_owned()),
            caller_inbound_subject: Some("fed:00000000-0000-7000-8000-000000000001".to_owned()),
            said: Said {
                capabilities: json!({ "push": true }).as_object().cloned(),
                ..Said::default()
            },
            ..AcceptRequest::default()
        };
        let accepted = self
            .gateway
            .accept(request, &leaf.unwrap().chain, [0; 32], wall());
        assert_eq!(accepted.unwrap()["status"], "enrolled");
        proposed["data"]["peer"]["id"].as_str().unwrap().to_owned()
    }
}

fn moment(value: &Value) -> Moment {
    value.as_str().unwrap().parse().unwrap()
}

/// 87, 88, 89, 103.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_is_judged_and_its_token_shown_once() {
    let site = Site::new();
    let url = "https://b.example";
    for (body, status) in [
        (json!({}), 400),
        (json!({ "remote_instance_url": " " }), 400),
        (json!({ "remote_instance_url": url, "spawn_role": "boss" }), 400),
        (json!({ "remote_instance_url": url, "spawn_mode": "feral" }), 400),
        (
            json!({ "remote_instance_url": url, "token_ttl_seconds": "long" }),
            400,
        ),
        (json!({ "remote_instance_url": "http://b.example" }), 422),
        (json!({ "remote_instance_url": "gopher://b.example" }), 422),
        (json!({ "remote_instance_url": url, "expect_ca": "x" }), 422),
    ] {
        let (found, answer) = site.post(PEERS, &body).await;
        assert_eq!(found, status, "{body}: {answer}");
    }
    assert_eq!(
        site.get(PEERS).await.1["data"],
        json!([]),
        "nothing is left of them"
    );
    for (n, ttl, life) in [
        (1, Value::Null, WEEK),
        (2, json!(0), WEEK),
        (3, json!(-5), WEEK),
        (4, json!(3_600), Duration::from_secs(3_600)),
    ] {
        let began = wall();
        let mut body = json!({ "remote_instance_url": format!("https://b{n}.example") });
        if !ttl.is_null() {
            body["token_ttl_seconds"] = ttl.clone();
        }
        let (status, answer) = site.post(PEERS, &body).await;
        let peer = &answer["data"]["peer"];
        assert_eq!((status, &peer["status"]), (201, &json!("proposed")), "{answer}");
        assert_eq!(
            (&peer["spawn_role"], &peer["spawn_mode"]),
            (&json!("symmetric"), &json!("out_of_band"))
        );
        let expires = moment(&peer["acceptance_token_expires_at"]);
        let lives = expires.since(began);
        assert!(
            lives + Duration::from_secs(1) >= life && lives < life + Duration::from_secs(30),
            "{ttl}"
        );
        let token = answer["data"]["acceptance_token"].as_str().unwrap();
        let secret = token.split('.').nth(1).unwrap();
        let id = peer["id"].as_str().unwrap();
        for path in [PEERS.to_owned(), format!("{PEERS}/{id}")] {
            let (_, shown) = site.get(&path).await;
            assert!(!shown.to_string().contains(secret), "shown once");
            assert!(shown.to_string().contains(id));
        }
        let (status, again) = site.post(PEERS, &body).await;
        assert_eq!(status, 409, "the same site twice: {again}");
    }
    // How others reach us: what a peer is told.
    let told = &site.gateway.endpoints()[0];
    assert_eq!((told.scope.as_str(), told.priority), ("wan", 100));
}

/// 84, 85, 86, 91, 92.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_are_listed_shown_and_revoked() {
    let site = Site::new();
    let (b, c) = (site.enrolled(2).await, site.enrolled(3).await);
    let body = json!({
        "remote_instance_url": "https://child.example", "spawn_role": "parent", "spawn_mode": "autonomous_peer",
    });
    assert_eq!(site.post(PEERS, &body).await.0, 201);
    let listed = async |query: &str| {
        let (status, answer) = site.get(&format!("{PEERS}{query}")).await;
        let count = answer["data"].as_array().map(Vec::len);
        (status, count)
    };
    for (query, is) in [
        ("", (200, Some(3))),
        ("?status=enrolled", (200, Some(2))),
        ("?status=enrolled,proposed", (200, Some(3))),
        ("?status=active,degraded", (200, Some(0))),
        ("?spawn_mode=autonomous_peer", (200, Some(1))),
        ("?status=enrolled&spawn_mode=autonomous_peer", (200, Some(0))),
        ("?status=gone", (400, None)),
        ("?spawn_mode=feral", (400, None)),
        ("?status=active&status=enrolled", (400, None)),
    ] {
        assert_eq!(listed(query).await, is, "{query}");
    }

    let path = format!("{PEERS}/{b}");
    let terms = json!({ "resource_kind": "network", "remote_subject": "operator@site-b" });
    assert_eq!(site.post(&format!("{path}/grants"), &terms).await.0, 201);
    let (status, shown) = site.get(&path).await;
    let data = &shown["data"];
    assert_eq!(status, 200);
    assert_eq!(data["capabilities"], json!({ "push": true }));
    assert_eq!(data["endpoints"], json!([]));
    assert_eq!(
        data["allowed_transitions"],
        json!(["active", "suspended", "revoked"])
    );
    assert_eq!(
        (&data["grants_count"], &data["capabilities_count"]),
        (&json!(1), &json!(0))
    );
    assert!(data.as_object().unwrap().contains_key("bridges_count"));

    let unknown = "00000000-0000-7000-8000-00000000dead";
    for (method, rest) in [
        ("GET", ""),
        ("POST", "/revoke"),
        ("GET", "/grants"),
        ("POST", "/suspend"),
    ] {
        for id in [unknown, "nobody", "%20"] {
            let (status, _) = site
                .ask(method, &format!("{PEERS}/{id}{rest}"), &Value::Null)
                .await;
            assert_eq!(status, 404, "{method} {id}{rest}");
        }
    }
    let revoke = format!("{PEERS}/{c}/revoke");
    let (status, answer) = site.post(&revoke, &json!({ "reason": "over" })).await;
    assert_eq!(
        (status, &answer["data"]["peer"]["status"]),
        (200, &json!("revoked"))
    );
    assert_eq!(answer["data"]["peer"]["reason"], "over");
    assert_eq!(site.post(&revoke, &Value::Null).await.0, 409);
    let (status, kept) = site.get(&format!("{PEERS}/{c}")).await;
    assert_eq!(
        (status, &kept["data"]["allowed_transitions"]),
        (200, &json!([])),
        "the row stays"
    );
}

/// 52, 58, 93 to 96.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_are_given_listed_and_revoked() {
    let site = Site::new();
    let (b, c) = (site.enrolled(2).await, site.enrolled(3).await);
    let path = format!("{PEERS}/{b}/grants");
    let terms = |kind: &str, change: Value| {
        let mut terms = json!({ "resource_kind": kind, "remote_subject": "operator@site-b" });
        for (key, value) in change.as_object().unwrap() {
            terms[key] = value.clone();
        }
        terms
    };
    for (body, status) in [
        (terms("network", json!({ "permission_scopes": ["fly"] })), 400),
        (terms("network", json!({ "permission_scopes": [] })), 400),
        (json!({ "remote_subject": "operator@site-b" }), 400),
        (json!({ "resource_kind": "network" }), 400),
        (terms("network", json!({ "source_cidrs": ["10.0.0.0/33"] })), 422),
        (
            terms("network", json!({ "node_instance_ids": ["x".repeat(65)] })),
            422,
        ),
        (terms("network", json!({ "node_instance_ids": [7] })), 400),
        (terms(&"x".repeat(65), json!({})), 422),
        (
            terms("network", json!({ "remote_subject": "x".repeat(257) })),
            422,
        ),
    ] {
        let (found, answer) = site.post(&path, &body).await;
        assert_eq!(found, status, "{body}: {answer}");
    }
    assert_eq!(
        site.get(&path).await.1["data"],
        json!([]),
        "nothing is left of them"
    );

    let mut given = Vec::new();
    for (kind, ttl, days) in [
        ("network", Value::Null, 30),
        ("node", json!(3), 7),
        ("service", json!(1_000), 365),
        ("virtual_ip", json!(-1), 7),
    ] {
        let change = if ttl.is_null() {
            json!({})
        } else {
            json!({ "ttl_days": ttl })
        };
        let (status, answer) = site.post(&path, &terms(kind, change)).await;
        let data = &answer["data"];
        assert_eq!(
            (status, &data["permission_scopes"]),
            (201, &json!(["read"])),
            "{answer}"
        );
        let life = moment(&data["expires_at"]).since(moment(&data["issued_at"]));
        assert_eq!(life, DAY * days, "{kind}");
        let id = data["id"].as_str().unwrap().to_owned();
        let token = data["bearer_token"].as_str().unwrap().to_owned();
        assert!(token.starts_with(&format!("fg-{id}.")));
        given.push((id, token));
    }
    let (status, _) = site.post(&path, &terms("network", json!({}))).await;
    assert_eq!(status, 409, "of a whole kind there is one");

    // One is over by its time, one was ended, one was put away.
    let aged = site.gateway.ledger.transact(wall(), |draft| {
        let of = |n: usize| {
            let id = GrantId(given[n].0.parse().unwrap());
            draft.grant(&id).cloned().unwrap()
        };
        let (mut expired, mut archived) = (of(1), of(3));
        expired.expires_at = wall().before(DAY);
        archived.revoked_at = Some(wall().before(DAY * 91));
        archived.archived_at = Some(wall());
        draft.put_grant(expired);
        draft.put_grant(archived);
        Ok::<_, ()>(())
    });
    aged.unwrap();
    let revoke = |peer: &str, grant: &str| format!("{PEERS}/{peer}/grants/{grant}/revoke");
    let reason = json!({ "reason": "over" });
    for (peer, grant) in [
        (c.as_str(), given[2].0.as_str()),
        (b.as_str(), "00000000-0000-7000-8000-00000000dead"),
        (b.as_str(), "none"),
    ] {
        assert_eq!(site.post(&revoke(peer, grant), &reason).await.0, 404, "{grant}");
    }
    let (status, answer) = site.post(&revoke(&b, &given[2].0), &reason).await;
    assert_eq!((status, &answer["data"]["revoke_reason"]), (200, &json!("over")));
    assert!(answer["data"]["revoked_at"].is_string() && answer["data"].get("bearer_token").is_none());
    assert_eq!(site.post(&revoke(&b, &given[2].0), &reason).await.0, 409);

    for (state, is) in [("active", 0), ("expired", 1), ("revoked", 2), ("archived", 3)] {
        let (_, found) = site.get(&format!("{path}?state={state}")).await;
        let found = found["data"].as_array().unwrap();
        assert_eq!(found.len(), 1, "{state}");
        assert_eq!(
            (&found[0]["id"], &found[0]["state"]),
            (&json!(given[is].0), &json!(state))
        );
    }
    assert_eq!(site.get(&format!("{path}?state=good")).await.0, 400);
    let (_, all) = site.get(&path).await;
    assert_eq!(all["data"].as_array().unwrap().len(), 4);
    for (_, token) in &given {
        let secret = token.split_once('.').unwrap().1;
        assert!(!all.to_string().contains(secret), "shown once");
    }
}

/// 97.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capabilities_are_agreed_and_gone_when_they_are_deleted() {
    let site = Site::new();
    let path = format!("{PEERS}/{}/capabilities", site.enrolled(2).await);
    for body in [
        json!({ "resource_kind": "network" }),
        json!({ "direction": "bidirectional" }),
        json!({ "resource_kind": "network", "direction": "sideways" }),
        json!({ "resource_kind": "network", "direction": "bidirectional", "policy": "never" }),
        json!({ "resource_kind": "network", "direction": "bidirectional", "conflict": "fight" }),
    ] {
        let (status, answer) = site.post(&path, &body).await;
        assert_eq!(status, 400, "{body}: {answer}");
    }
    for direction in [
        "push_local_to_remote",
        "pull_remote_to_local",
        "bidirectional",
        "migration_only",
    ] {
        let body = json!({ "resource_kind": "network", "direction": direction });
        let (status, answer) = site.post(&path, &body).await;
        let data = &answer["data"];
        assert_eq!((status, &data["direction"]), (201, &json!(direction)), "{answer}");
        assert_eq!(
            (&data["conflict"], &data["policy"]),
            (&json!("local_wins"), &json!("manual"))
        );
        let id = data["id"].as_str().unwrap();
        let listed = site.get(&path).await.1;
        assert_eq!(listed["data"].as_array().unwrap().len(), 1);
        let one = format!("{path}/{id}");
        assert_eq!(site.ask("DELETE", &one, &Value::Null).await.0, 200);
        assert_eq!(site.get(&path).await.1["data"], json!([]));
        assert_eq!(site.ask("DELETE", &one, &Value::Null).await.0, 404);
    }
}

/// A body that is too large or no JSON is refused as everything else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_is_json() {
    let site = Site::new();
    let long = json!({ "remote_instance_url": "x".repeat(70_000) });
    assert_eq!(site.post(PEERS, &long).await.0, 413);
    assert_eq!(site.post(PEERS, &json!([])).await.0, 400);
    assert_eq!(site.get(&format!("{PEERS}/%ff")).await.0, 400);
    assert_eq!(site.get("/api/v1/nothing").await.0, 404);
    assert_eq!(site.ask("PUT", PEERS, &Value::Null).await.0, 405);
    let audit = "/api/v1/system/federation/audit";
    assert_eq!(site.get(&format!("{audit}?count=many")).await.0, 400);
}
