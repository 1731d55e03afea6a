//! Whose order a change was: in the audit, and nowhere that a peer sees.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests look at the clock, and say so when they fail"
)]

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use sdwand::api::operator::{Arrival, Listing, Operating, router};
use sdwand::federation::gateway::{ExcerptsAsked, Gateway, Settings};
use sdwand::federation::ledger::Ledger;
use sdwand::federation::moment::Moment;
use sdwand::federation::operators::{Issue, OperatorKey, Operators, Permission, Principal};
use sdwand::federation::peer::PeerId;
use sdwand::federation::pki::{SiteCa, Usage};
use sdwand::federation::site::SiteId;
use sdwand::federation::wire::{AcceptRequest, HeartbeatRequest};
use sdwand::model::Name;
use serde_json::{Value, json};
use tower::ServiceExt as _;

const PEERS: &str = "/api/v1/system/platform/peers";

fn wall() -> Moment {
    SystemTime::now().into()
}

fn random(bytes: &mut [u8]) {
    getrandom::fill(bytes).unwrap();
}

fn site_id(name: &str, number: u16) -> SiteId {
    let prefix = format!("fd00:0:{number:x}::/48").parse().unwrap();
    SiteId::of(&Name::new(name).unwrap(), prefix)
}

fn node() -> Name {
    Name::new("hub-1").unwrap()
}

struct Site {
    gateway: Arc<Gateway>,
    router: Router,
    arrival: Arrival,
    token: String,
    _folder: tempfile::TempDir,
}

impl Site {
    /// One whose operator comes by this way: over the network as alice.
    fn asked_by(arrival: Arrival) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = site_id("site-a", 1);
        let (ca, _) = SiteCa::generate(&site, wall()).unwrap();
        let ledger = Arc::new(Ledger::open(&folder.path().join("ledger.db"), wall()).unwrap());
        let (key, _) = OperatorKey::generate().unwrap();
        let operators = Arc::new(Operators::new(site.clone(), key, Arc::clone(&ledger)));
        let asked = Issue {
            sub: "alice".to_owned(),
            permissions: Permission::ALL.into(),
            life: None,
        };
        let (_, token) = operators
            .issue(asked, &Principal::Uid(0), [1; 10], wall())
            .unwrap();
        let gateway = Arc::new(Gateway::new(site, node(), ca, ledger, Settings::default()));
        let router = router(Operating {
            gateway: Arc::clone(&gateway),
            operators,
            wall,
            random,
            listing: Listing::default(),
        });
        Self {
            gateway,
            router,
            arrival,
            token: token.to_string(),
            _folder: folder,
        }
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.token))
            .extension(self.arrival)
            .body(Body::from(body.to_string()))
            .unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let status = answer.status();
        let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX)
            .await
            .unwrap();
        assert!(
            status.is_success(),
            "{method} {path}: {}",
            String::from_utf8_lossy(&bytes)
        );
        serde_json::from_slice(&bytes).unwrap()
    }

    /// Everything that an operator changes about a peer and its grants; what the peer itself is told of it.
    async fn everything(&self) -> String {
        let proposal = json!({ "remote_instance_url": "https://b.example" });
        let proposed = self.ask("POST", PEERS, proposal).await;
        let id = proposed["data"]["peer"]["id"].as_str().unwrap().to_owned();
        let of = |rest: &str| format!("{PEERS}/{id}{rest}");
        let drawn = self.ask("POST", &of("/rotate-token"), json!({})).await;
        let site = site_id("site-b", 2);
        let (ca, _) = SiteCa::generate(&site, wall()).unwrap();
        let leaf = |subject: &str| ca.issue(&site, &node(), Usage::Call { subject }, wall()).unwrap();
        let request = AcceptRequest {
            acceptance_token: drawn["data"]["acceptance_token"].as_str().map(str::to_owned),
            contract_version: Some(json!(1)),
            peer_ca_bundle_pem: Some(ca.pem().to_owned()),
            caller_inbound_subject: Some("fed:00000000-0000-7000-8000-000000000001".to_owned()),
            ..AcceptRequest::default()
        };
        let shown = leaf("accept").chain;
        self.gateway.accept(request, &shown, [0; 32], wall()).unwrap();
        for verb in ["/verify", "/suspend", "/resume"] {
            self.ask("POST", &of(verb), json!({})).await;
        }
        for change in [
            json!({ "data_residency": "JP" }),
            json!({ "remote_instance_url": "https://b2.example" }),
            json!({ "status": "suspended" }),
            json!({ "status": "accepted" }),
        ] {
            self.ask("PATCH", &of(""), change).await;
        }
        let grant = json!({ "remote_subject": "x", "resource_kind": "network" });
        let grant = self.ask("POST", &of("/grants"), grant).await;
        let grant = grant["data"]["id"].as_str().unwrap();
        self.ask("POST", &of(&format!("/grants/{grant}/revoke")), json!({}))
            .await;
        let agreed = json!({ "resource_kind": "network", "direction": "bidirectional" });
        let agreed = self.ask("POST", &of("/capabilities"), agreed).await;
        let agreed = agreed["data"]["id"].as_str().unwrap();
        self.ask("DELETE", &of(&format!("/capabilities/{agreed}")), json!({}))
            .await;

        let id: PeerId = PeerId(uuid::Uuid::try_parse(&id).unwrap());
        let chain = leaf(&id.subject()).chain;
        self.gateway
            .beaten(&chain, HeartbeatRequest::default(), wall())
            .unwrap();
        let later = wall().after(std::time::Duration::from_secs(1));
        let excerpts = self
            .gateway
            .excerpts(&chain, &ExcerptsAsked::default(), later)
            .unwrap();
        assert!(excerpts.count > 8, "{}", excerpts.count);
        self.ask("POST", &of("/revoke"), json!({})).await;
        json!(excerpts).to_string()
    }

    /// What the audit has of whom, as `kind by`.
    fn orders(&self) -> Vec<String> {
        let records = self.gateway.ledger.audit_tail(100).unwrap();
        let by = records.iter().filter_map(|record| {
            let by = record.payload["by"].as_str()?;
            Some(format!("{} {by}", record.kind))
        });
        by.filter(|order| !order.starts_with("federation.operator_token"))
            .collect()
    }
}

fn expected(by: &str) -> Vec<String> {
    [
        "peer.proposed",
        "peer.token_rotated",
        "peer.enrolled",
        "peer.suspended",
        "peer.enrolled",
        "peer.data_residency_changed",
        "peer.moved",
        "peer.suspended",
        "peer.enrolled",
        "grant.created",
        "grant.revoked",
        "capability.created",
        "capability.removed",
        "peer.revoked",
    ]
    .map(|kind| format!("federation.{kind} {by}"))
    .into()
}

#[tokio::test]
async fn a_change_over_the_network_is_audited_under_its_operators_name() {
    let site = Site::asked_by(Arrival::Tcp);
    let told = site.everything().await;
    assert_eq!(site.orders(), expected("sub:alice"));
    assert!(!told.contains("alice"), "{told}");
}

#[tokio::test]
async fn a_change_on_the_gateway_is_its_operators() {
    let site = Site::asked_by(Arrival::Api { uid: 1_000 });
    site.everything().await;
    assert_eq!(site.orders(), expected("operator"));
}
