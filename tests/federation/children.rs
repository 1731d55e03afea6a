//! Sites that another one spawned: what it signs for them, what its operator may do there, and how they come to be on
//! their own.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use sdwand::federation::dial::{DialError, Wanted};
use sdwand::federation::grant::{Grant, Origin, Scope, State};
use sdwand::federation::moment::Moment;
use sdwand::federation::peer::{Peer, PeerId, SpawnMode, SpawnRole, Status};
use sdwand::federation::pki::request::{Request, draw_key, request_of};
use sdwand::federation::pki::verify::names_of;
use sdwand::federation::pki::{Leaf, SiteCa, certificates_of};
use sdwand::federation::site::SiteId;
use sdwand::federation::url::PeerUrl;
use sdwand::model::Name;
use sdwand::model::host::{Cluster, ClusterKind};
use serde_json::{Value, json};

use crate::site::{Site, ask, beat, node, wall};

/// `a` has spawned `b`: both rows.
pub(crate) async fn spawned(a: &Site, b: &Site, mode: SpawnMode, n: u8) -> (Peer, Peer) {
    let proposed = a.propose_as(&b.url, SpawnRole::Parent, mode, n);
    let registered = b.propose_as(&a.url, SpawnRole::Child, mode, n + 100);
    let taken = b
        .gateway
        .take(registered.peer.id, &proposed.token.reveal(), wall())
        .await
        .unwrap();
    (a.peer(proposed.peer.id), taken)
}

pub(crate) async fn beats(from: &Site, to: PeerId, times: u8) {
    for n in 0..times {
        let peer = from.peer(to);
        let sequence = u64::try_from(wall().millis()).unwrap() + u64::from(n);
        from.gateway
            .beat_to(&peer, [n; 16], sequence, wall())
            .await
            .unwrap();
    }
}

/// A child that is no gateway of ours: a key, its request, and what it shows once that is signed.
pub(crate) struct Foreign {
    pub(crate) key: String,
    pub(crate) csr: String,
}

impl Foreign {
    pub(crate) fn new(n: u16) -> Self {
        let site = SiteId::of(
            &Name::new("site-x").unwrap(),
            format!("fd00:0:{n:x}::/48").parse().unwrap(),
        );
        let key = draw_key().unwrap();
        Self {
            csr: request_of(&key, &site, &node()).unwrap(),
            key: key.to_string(),
        }
    }

    pub(crate) fn leaf(&self, certificate: &Value) -> Leaf {
        let text = |key: &str| certificate[key].as_str().unwrap().to_owned();
        let mut chain = certificates_of(&text("cert_pem")).unwrap();
        chain.extend(certificates_of(&text("ca_chain_pem")).unwrap());
        Leaf {
            chain,
            key: PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap(),
            renew_at: wall(),
            not_after: wall(),
            issuer: Request::parse(&self.csr).unwrap().fingerprint,
        }
    }
}

pub(crate) async fn post(site: &Site, leaf: Option<&Leaf>, path: &str, body: &Value) -> (u16, Value) {
    let body = serde_json::to_vec(body).unwrap();
    ask(site, leaf, &[(path, body)]).await.unwrap().remove(0)
}

pub(crate) fn authority(site: &Site, peer: PeerId) -> Vec<Grant> {
    site.gateway.ledger.read(|book| {
        let mine = book.grants().filter(|grant| grant.peer == peer);
        mine.map(|grant| (**grant).clone()).collect()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_signed_under_the_name_that_is_given_and_judged_before_the_token() {
    let a = Site::new("site-a", 1).await;
    let proposed = a.propose(&PeerUrl::new("https://x.example").unwrap(), 1);
    let (child, other) = (Foreign::new(7), Foreign::new(8));
    let acceptance = |csr: &str, bundle: Option<&str>| {
        json!({
            "acceptance_token": proposed.token.reveal(), "contract_version": "v1", "csr_pem": csr,
            "peer_ca_bundle_pem": bundle,
        })
    };
    // No request, one of this very site, one that another key has signed: the token is as good as before.
    let own = request_of(&child.key, &a.gateway.site, &node()).unwrap();
    for bad in ["garbage", "", &own, a.gateway.ca.current().pem()] {
        let (status, body) = post(&a, None, "accept", &acceptance(bad, None)).await;
        assert_eq!((status, &body["code"]), (422, &json!("trust_refused")), "{body}");
        assert_eq!(a.peer(proposed.peer.id).status, Status::Proposed);
    }
    // With both, the request counts: the bundle isn't even looked at.
    let (status, body) = post(&a, None, "accept", &acceptance(&child.csr, Some("garbage"))).await;
    assert_eq!(status, 200, "{body}");
    let data = &body["data"];
    assert_eq!(data["status"], "enrolled");
    assert!(data.get("trust_exchange").is_none() && data.get("node_enrollment").is_none());
    let certificate = &data["federation_certificate"];
    let leaf = child.leaf(certificate);
    let names = names_of(&leaf.chain[0]).unwrap();
    assert_eq!(names.subject, format!("fed:{}", proposed.peer.id));
    assert_eq!(certificate["serial"].as_str().unwrap().len(), 32);
    assert_eq!(beat(&a, Some(&leaf)).await, 200);
    assert_eq!(a.peer(proposed.peer.id).status, Status::Active);
    // Lost on the way: the same request gets the same answer, another one nothing.
    let (status, again) = post(&a, None, "accept", &acceptance(&child.csr, None)).await;
    assert_eq!((status, &again["data"]), (200, data));
    assert_eq!(
        post(&a, None, "accept", &acceptance(&other.csr, None)).await.0,
        401
    );
    // Nothing is known yet of its listener.
    let peer = a.peer(proposed.peer.id);
    let dialled = a.gateway.beat_to(&peer, [1; 16], 1, wall()).await;
    assert!(matches!(dialled, Err(DialError::NoAnchor(id)) if id == peer.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_childs_certificate_is_no_others_and_dies_with_its_row() {
    let a = Site::new("site-a", 1).await;
    let mut children = Vec::new();
    for n in [7_u8, 8] {
        let url = PeerUrl::new(&format!("https://x{n}.example")).unwrap();
        let (proposed, child) = (a.propose(&url, n), Foreign::new(n.into()));
        let body = json!({
            "acceptance_token": proposed.token.reveal(), "contract_version": 1, "csr_pem": child.csr,
        });
        let (status, body) = post(&a, None, "accept", &body).await;
        assert_eq!(status, 200, "{body}");
        let leaf = child.leaf(&body["data"]["federation_certificate"]);
        children.push((proposed.peer.id, child, leaf));
    }
    let [(first, b, b_leaf), (second, _, c_leaf)] = children.as_slice() else {
        panic!("two")
    };
    // Both lead to the same CA, and each is who it is.
    assert_eq!(b_leaf.chain[1], c_leaf.chain[1]);
    assert_eq!(beat(&a, Some(c_leaf)).await, 200);
    assert_eq!(
        [a.peer(*first).status, a.peer(*second).status],
        [Status::Enrolled, Status::Active]
    );
    // A child can't have another's site signed for.
    let theft = json!({ "csr_pem": b.csr });
    let (status, body) = post(&a, Some(c_leaf), "renew", &theft).await;
    assert_eq!((status, &body["code"]), (422, &json!("csr_refused")), "{body}");
    // What signs for children vouches for nobody's listener and for no site of its own.
    let pem = certificates_of(&sdwand::federation::pki::pem_of(&b_leaf.chain[1])).unwrap();
    let bundle = sdwand::federation::pki::pem_of(&pem[0]);
    let third = a.propose(&PeerUrl::new("https://y.example").unwrap(), 9);
    let posing = json!({
        "acceptance_token": third.token.reveal(), "contract_version": 1, "peer_ca_bundle_pem": bundle,
        "caller_inbound_subject": format!("fed:{second}"),
    });
    let (status, body) = post(&a, Some(c_leaf), "accept", &posing).await;
    assert_eq!((status, &body["code"]), (422, &json!("anchor_in_use")), "{body}");
    let news = json!({ "trust_sequence": 5, "ca_bundle_pem": bundle });
    assert_eq!(post(&a, Some(c_leaf), "heartbeat", &news).await.0, 200);
    assert!(
        a.peer(*second).trust.unwrap().anchors.is_empty(),
        "not taken over"
    );
    for stop in ["suspend", "revoke"] {
        match stop {
            "suspend" => drop(a.gateway.suspend(*second, "x", wall()).unwrap()),
            _ => drop(a.gateway.revoke(*second, "x", wall()).unwrap()),
        }
        assert_eq!(beat(&a, Some(c_leaf)).await, 401, "{stop}");
        assert_eq!(post(&a, Some(c_leaf), "renew", &theft).await.0, 401, "{stop}");
    }
    assert_eq!(beat(&a, Some(b_leaf)).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_managed_child_lets_its_parent_in_until_it_is_emancipated() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    b.tell_fleet();
    let (b_at_a, a_at_b) = spawned(&a, &b, SpawnMode::ManagedChild, 1).await;
    assert_eq!(
        [b_at_a.status, a_at_b.status],
        [Status::Enrolled, Status::Enrolled]
    );
    assert_eq!(b_at_a.words, a_at_b.words);
    assert!(b_at_a.words.is_some());
    // For a year, for everything, once; for the record at the parent, in force at the child.
    for (site, peer) in [(&a, b_at_a.id), (&b, a_at_b.id)] {
        let grants = authority(site, peer);
        let [grant] = grants.as_slice() else {
            panic!("{grants:?}")
        };
        assert_eq!(grant.origin, Origin::ManagedChildOperator);
        assert_eq!(grant.remote_subject, format!("parent-operator@{}", b_at_a.id));
        assert_eq!(grant.resource_kind, "managed_child_operator");
        assert_eq!(grant.scopes, [Scope::Read, Scope::Write, Scope::Admin].into());
        let life = grant.expires_at.since(grant.issued_at);
        assert_eq!(life, Duration::from_secs(365 * 86_400));
    }
    // The first beat shows what the parent signed; with it the parent hears of the child's own CA.
    beats(&b, a_at_b.id, 2).await;
    assert_eq!(a.peer(b_at_a.id).status, Status::Active);
    let anchors = a.peer(b_at_a.id).trust.unwrap().anchors;
    assert_eq!(anchors.len(), 1);
    assert_eq!(anchors[0].fingerprint, b.gateway.ca.fingerprint());
    beats(&a, b_at_a.id, 1).await;
    let wanted = Wanted {
        kind: "network".to_owned(),
        id: None,
        after: None,
        bearer: None,
        network: None,
    };
    let told = a.gateway.fetch(b_at_a.id, &wanted, wall()).await.unwrap();
    assert_eq!(told.resources.len(), 2);
    // The child has no such authority over its parent, though there is a record of it.
    a.tell_fleet();
    let refused = b.gateway.fetch(a_at_b.id, &wanted, wall()).await;
    assert!(
        matches!(refused, Err(DialError::Refused { status: 401, .. })),
        "{refused:?}"
    );

    // The child's operator takes it back. The peering stays, and the parent hears of it with the next beat.
    let grant = authority(&b, a_at_b.id).remove(0).id;
    b.gateway
        .revoke_grant(a_at_b.id, grant, "on our own", wall())
        .unwrap();
    assert_eq!(b.peer(a_at_b.id).mode, SpawnMode::AutonomousPeer);
    let refused = a.gateway.fetch(b_at_a.id, &wanted, wall()).await;
    assert!(
        matches!(refused, Err(DialError::Refused { status: 401, .. })),
        "{refused:?}"
    );
    assert_eq!(a.peer(b_at_a.id).mode, SpawnMode::ManagedChild);
    beats(&b, a_at_b.id, 1).await;
    assert_eq!(a.peer(b_at_a.id).mode, SpawnMode::AutonomousPeer);
    let record = authority(&a, b_at_a.id).remove(0);
    assert_eq!(record.state(wall()), State::Revoked);
    // From here on the child shows its own certificates.
    let subject = b_at_a.id.subject();
    let shown = b.gateway.call_leaf(a_at_b.id, &subject, wall()).unwrap();
    assert_eq!(shown.issuer, b.gateway.ca.fingerprint());
    beats(&a, b_at_a.id, 1).await;
    assert_eq!(a.peer(b_at_a.id).status, Status::Active);
    for site in [&a, &b] {
        let audit = site.gateway.ledger.audit_tail(100).unwrap();
        let told = audit
            .iter()
            .filter(|record| record.kind == "federation.peer.emancipated");
        assert_eq!(told.count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_asks_for_its_first_certificate_once() {
    let a = Site::new("site-a", 1).await;
    let url = PeerUrl::new("https://x.example").unwrap();
    let proposed = a.propose_as(&url, SpawnRole::Parent, SpawnMode::ManagedChild, 1);
    let acceptance = json!({ "acceptance_token": proposed.token.reveal(), "contract_version": "v1" });
    let (status, body) = post(&a, None, "accept", &acceptance).await;
    assert_eq!(
        (status, &body["data"]["status"]),
        (200, &json!("accepted")),
        "{body}"
    );
    let enrollment = &body["data"]["node_enrollment"];
    assert_eq!(
        enrollment["intended_subject"],
        format!("fed:{}", proposed.peer.id)
    );
    assert_eq!(enrollment["platform_url"], a.url.to_string());
    let expires: Moment = enrollment["expires_at"].as_str().unwrap().parse().unwrap();
    assert!(expires > wall().after(Duration::from_secs(3_500)));
    let token = enrollment["bootstrap_token"].as_str().unwrap().to_owned();
    // Only its digest is kept.
    for entry in std::fs::read_dir(a.folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let secret = &token.as_bytes()["sdwn1.".len()..];
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
    let (child, other) = (Foreign::new(7), Foreign::new(8));
    let ask = |csr: &str, token: &str| json!({ "csr_pem": csr, "bootstrap_token": token });
    for nonsense in [
        "sdwn1.x",
        "x",
        &token[..token.len() - 1],
        &proposed.token.reveal(),
    ] {
        let (status, body) = post(&a, None, "renew", &ask(&child.csr, nonsense)).await;
        assert_eq!((status, &body["code"]), (401, &json!("UNAUTHORIZED")), "{body}");
    }
    assert_eq!(post(&a, None, "renew", &ask("garbage", &token)).await.0, 422);
    assert_eq!(
        post(&a, None, "renew", &json!({ "csr_pem": child.csr })).await.0,
        401
    );
    let (status, signed) = post(&a, None, "renew", &ask(&child.csr, &token)).await;
    assert_eq!(
        (status, &signed["data"]["status"]),
        (200, &json!("enrolled")),
        "{signed}"
    );
    let leaf = child.leaf(&signed["data"]["federation_certificate"]);
    assert_eq!(beat(&a, Some(&leaf)).await, 200);
    // Used: for the same key its answer, for another one nothing.
    let (status, again) = post(&a, None, "renew", &ask(&child.csr, &token)).await;
    assert_eq!((status, again), (200, signed));
    assert_eq!(post(&a, None, "renew", &ask(&other.csr, &token)).await.0, 401);
    // And with its certificate it goes on: another key, the same name.
    let next = draw_key().unwrap();
    let site = Request::parse(&child.csr).unwrap().site;
    let renewal = json!({ "csr_pem": request_of(&next, &site, &node()).unwrap() });
    let (status, renewed) = post(&a, Some(&leaf), "renew", &renewal).await;
    assert_eq!(status, 200, "{renewed}");
    let next = Foreign {
        csr: child.csr.clone(),
        key: next.to_string(),
    };
    let leaf = next.leaf(&renewed["data"]["federation_certificate"]);
    assert_eq!(beat(&a, Some(&leaf)).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_token_dies_with_time_and_with_its_row_and_isnt_kept_for_a_lost_answer() {
    let a = Site::new("site-a", 1).await;
    let child = Foreign::new(7);
    let spawn = async |n: u8| {
        let url = PeerUrl::new(&format!("https://x{n}.example")).unwrap();
        let proposed = a.propose_as(&url, SpawnRole::Parent, SpawnMode::ManagedChild, n);
        let csr = Foreign::new(n.into()).csr;
        let acceptance = json!({
            "acceptance_token": proposed.token.reveal(), "contract_version": 1, "csr_pem": csr,
        });
        let (_, first) = post(&a, None, "accept", &acceptance).await;
        let (_, again) = post(&a, None, "accept", &acceptance).await;
        let token = |body: &Value| {
            let token = &body["data"]["node_enrollment"]["bootstrap_token"];
            token.as_str().unwrap().to_owned()
        };
        (proposed.peer.id, csr, token(&first), token(&again))
    };
    let redeem = async |csr: &str, token: &str| {
        let body = json!({ "csr_pem": csr, "bootstrap_token": token });
        post(&a, None, "renew", &body).await.0
    };
    let (_, csr, first, again) = spawn(20).await;
    assert_ne!(first, again);
    assert_eq!(redeem(&csr, &first).await, 401, "another took its place");
    assert_eq!(redeem(&child.csr, &again).await, 422, "another site's");
    assert_eq!(redeem(&csr, &again).await, 200);
    let (id, csr, _, token) = spawn(21).await;
    a.gateway.revoke(id, "x", wall()).unwrap();
    assert_eq!(redeem(&csr, &token).await, 401);
    let (_, csr, _, token) = spawn(22).await;
    let later = wall().after(Duration::from_secs(3_601));
    let request = serde_json::from_value(json!({ "csr_pem": csr, "bootstrap_token": token })).unwrap();
    let late = a.gateway.renewed(&[], request, later);
    assert_eq!(
        late.unwrap_err().to_string(),
        "bootstrap_token is unknown or expired"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_nodes_with_one_bootstrap_token_one_gets_it() {
    let a = Site::new("site-a", 1).await;
    let url = PeerUrl::new("https://x.example").unwrap();
    let proposed = a.propose_as(&url, SpawnRole::Parent, SpawnMode::ManagedChild, 1);
    let acceptance = json!({ "acceptance_token": proposed.token.reveal(), "contract_version": 1 });
    let (_, body) = post(&a, None, "accept", &acceptance).await;
    let token = &body["data"]["node_enrollment"]["bootstrap_token"];
    let outcomes: Vec<bool> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..64)
            .map(|n| {
                let request = json!({ "csr_pem": Foreign::new(n + 100).csr, "bootstrap_token": token });
                let gateway = Arc::clone(&a.gateway);
                scope.spawn(move || {
                    gateway
                        .renewed(&[], serde_json::from_value(request).unwrap(), wall())
                        .is_ok()
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|is_ok| **is_ok).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_renews_by_itself_and_a_sovereign_peer_isnt_signed_for() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = spawned(&a, &b, SpawnMode::ManagedChild, 1).await;
    beats(&b, a_at_b.id, 1).await;
    let subject = b_at_a.id.subject();
    let shown = |at: Moment| b.gateway.call_leaf(a_at_b.id, &subject, at).unwrap();
    let first = shown(wall());
    assert_ne!(first.issuer, b.gateway.ca.fingerprint(), "the parent signed it");
    let due = |at: Moment| -> Vec<PeerId> { b.gateway.renewals(at).iter().map(|peer| peer.id).collect() };
    assert!(due(first.renew_at.before(Duration::from_secs(1))).is_empty());
    assert_eq!(due(first.renew_at), [a_at_b.id]);
    assert!(
        due(first.renew_at.after(Duration::from_secs(599))).is_empty(),
        "not all the time"
    );
    assert_eq!(due(first.renew_at.after(Duration::from_secs(600))), [a_at_b.id]);
    b.gateway.renew_with(&b.peer(a_at_b.id), wall()).await.unwrap();
    let second = shown(wall());
    assert_ne!(second.chain[0], first.chain[0]);
    assert!(second.key.secret_der() != first.key.secret_der(), "another key");
    beats(&b, a_at_b.id, 1).await;
    // The end is told of as long as nobody renews it.
    let late = second.not_after.before(Duration::from_secs(3 * 86_400));
    let findings = b.gateway.governance(None, late);
    let told = findings
        .iter()
        .find(|finding| finding.federation_peer_id == Some(a_at_b.id));
    assert_eq!(told.unwrap().kind.as_str(), "own_cert_expiring");

    let c = Site::new("site-c", 3).await;
    let (_, a_at_c) = crate::site::enrolled(&a, &c).await;
    let refused = c.gateway.renew_with(&c.peer(a_at_c.id), wall()).await;
    assert!(
        matches!(refused, Err(DialError::Refused { status: 422, .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_modes_are_sovereign_and_a_cluster_is_told_where_it_is() {
    let cluster = |address: &str| Cluster {
        kind: ClusterKind::Etcd,
        address: address.to_owned(),
        credential: Some("vault:sdwan/etcd".to_owned()),
    };
    let first = cluster("etcd.site-a.example:2379");
    let a = Site::with("site-a", 1, |settings| settings.cluster = Some(first.clone())).await;
    let (b, c) = (Site::new("site-b", 2).await, Site::new("site-c", 3).await);
    let (b_at_a, a_at_b) = spawned(&a, &b, SpawnMode::ClusterMember, 1).await;
    let (c_at_a, a_at_c) = spawned(&a, &c, SpawnMode::AutonomousPeer, 2).await;
    assert_eq!(a_at_b.cluster, Some(first.clone()));
    assert_eq!(
        (&a_at_c.cluster, &c_at_a.cluster, &b_at_a.cluster),
        (&None, &None, &None)
    );
    for (site, peer) in [(&a, &b_at_a), (&b, &a_at_b), (&a, &c_at_a), (&c, &a_at_c)] {
        assert!(authority(site, peer.id).is_empty());
        let trust = peer.trust.as_ref().unwrap();
        assert!(trust.signed_here.is_empty() && trust.anchors.len() == 1);
    }
    // A site whose cluster has moved: as after a start with another setting.
    let moved = cluster("etcd.site-a.example:2380");
    let mut answer = json!({});
    {
        let leaf = b
            .gateway
            .call_leaf(a_at_b.id, &b_at_a.id.subject(), wall())
            .unwrap();
        let (status, body) = post(&a, Some(&leaf), "heartbeat", &json!({ "nonce": "x" })).await;
        assert_eq!(
            (status, &body["data"]["cluster"]["address"]),
            (200, &json!(first.address))
        );
        answer["data"] = body["data"].clone();
    }
    let mut told: sdwand::federation::wire::HeartbeatAnswer =
        serde_json::from_value(answer["data"].clone()).unwrap();
    told.cluster = Some(json!(moved));
    b.gateway.answered(a_at_b.id, &told, wall()).unwrap();
    assert_eq!(b.peer(a_at_b.id).cluster, Some(moved.clone()));
    // Nonsense, or nothing, changes nothing; to who isn't to join, nothing is told.
    for nonsense in [
        None,
        Some(json!("x")),
        Some(json!({ "kind": "redis", "address": "x:1" })),
        Some(json!({ "kind": "etcd", "address": "x" })),
        Some(json!({ "kind": "etcd", "address": format!("{}:1", "x".repeat(300)) })),
    ] {
        told.cluster = nonsense;
        b.gateway.answered(a_at_b.id, &told, wall()).unwrap();
        assert_eq!(b.peer(a_at_b.id).cluster, Some(moved.clone()));
    }
    told.cluster = Some(json!(moved));
    c.gateway.answered(a_at_c.id, &told, wall()).unwrap();
    assert_eq!(c.peer(a_at_c.id).cluster, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_isnt_signed_for_or_by_another_takes_nothing_over() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let proposed = a.propose_as(&b.url, SpawnRole::Parent, SpawnMode::ManagedChild, 1);
    let registered = b.propose_as(&a.url, SpawnRole::Child, SpawnMode::ManagedChild, 2);
    let token = proposed.token.reveal();
    let accepting = b.gateway.accepting(registered.peer.id, &token).unwrap();
    assert!(accepting.request.csr_pem.is_some() && accepting.request.peer_ca_bundle_pem.is_none());
    let again = b.gateway.accepting(registered.peer.id, &token).unwrap();
    let key = |csr: &Option<String>| Request::parse(csr.as_deref().unwrap()).unwrap().fingerprint;
    assert_eq!(
        key(&accepting.request.csr_pem),
        key(&again.request.csr_pem),
        "an answer may be lost"
    );
    let told = a
        .gateway
        .accept(accepting.request.clone(), &[], [9; 32], wall())
        .unwrap();
    let served = a
        .gateway
        .ca
        .issue(
            &a.gateway.site,
            &node(),
            sdwand::federation::pki::Usage::Serve,
            wall(),
        )
        .unwrap()
        .chain;
    let other = SiteCa::for_children(&a.gateway.site, wall()).unwrap().0;
    let forged = other
        .sign(
            &Request::parse(accepting.request.csr_pem.as_deref().unwrap()).unwrap(),
            "fed:x",
            wall(),
        )
        .unwrap();
    let changes: [(&str, Value); 4] = [
        ("federation_certificate", Value::Null),
        ("federation_certificate", json!(forged)),
        (
            "federation_certificate",
            json!({ "cert_pem": "x", "ca_chain_pem": "x", "serial": "1", "not_after": wall() }),
        ),
        ("federation_certificate", {
            let mut certificate = told["federation_certificate"].clone();
            certificate["ca_chain_pem"] = json!(other.pem());
            certificate
        }),
    ];
    for (field, value) in changes {
        let mut bad = told.clone();
        bad[field] = value;
        let bad = serde_json::from_value(bad).unwrap();
        assert!(b.gateway.accepted(&accepting, &bad, &served, wall()).is_err());
        assert_eq!(b.peer(registered.peer.id).status, Status::Proposed);
        assert!(authority(&b, registered.peer.id).is_empty());
    }
    let sound = serde_json::from_value(told).unwrap();
    let peer = b.gateway.accepted(&accepting, &sound, &served, wall()).unwrap();
    assert_eq!(peer.status, Status::Enrolled);
    beats(&b, registered.peer.id, 1).await;
}
