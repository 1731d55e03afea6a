//! From a token to an active peering, and everyone who must stay out.

use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sdwand::federation::dial::DialError;
use sdwand::federation::peer::{PeerId, Status};
use sdwand::federation::pki::{Leaf, SiteCa, Usage};
use sdwand::federation::site::SiteId;
use sdwand::federation::token::{AcceptanceToken, Fingerprint};
use sdwand::federation::url::PeerUrl;
use sdwand::federation::wire::AcceptRequest;
use sdwand::model::Name;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::site::{Connection, Site, ask, beat, enrolled, node, wall};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_token_to_an_active_peering() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (at_a, at_b) = enrolled(&a, &b).await;
    assert_eq!((at_a.status, at_b.status), (Status::Enrolled, Status::Enrolled));
    assert_eq!(at_a.words, at_b.words);
    assert_eq!(at_a.words.unwrap().split(' ').count(), 6);
    assert_eq!(at_a.trust.as_ref().unwrap().site, b.gateway.site);
    assert_eq!(at_b.trust.as_ref().unwrap().site, a.gateway.site);
    assert!(at_a.offer.is_none(), "the token is used");

    // One verified exchange proves both ends.
    b.gateway.beat_to(&at_b, [7; 16], 1, wall()).await.unwrap();
    assert_eq!(a.peer(at_a.id).status, Status::Active);
    assert_eq!(b.peer(at_b.id).status, Status::Active);
    assert_eq!(a.peer(at_a.id).declared.data_residency.as_deref(), Some("JP"));
    a.gateway
        .beat_to(&a.peer(at_a.id), [8; 16], 1, wall())
        .await
        .unwrap();

    // A beat that is no news isn't written, and still known.
    let before = a.gateway.ledger.head();
    b.gateway
        .beat_to(&b.peer(at_b.id), [9; 16], 2, wall())
        .await
        .unwrap();
    assert_eq!(a.gateway.ledger.head(), before);
    assert!(a.gateway.heard.last(&a.peer(at_a.id)) >= a.peer(at_a.id).last_heartbeat_at);
    a.gateway.flush(wall()).unwrap();
    for site in [&a, &b] {
        assert_eq!(
            site.gateway.ledger.audit_verify().unwrap(),
            site.gateway.ledger.head()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_shown_only_to_who_made_it() {
    let (a, b, c) = (
        Site::new("site-a", 1).await,
        Site::new("site-b", 2).await,
        Site::new("site-c", 3).await,
    );
    let proposed = a.propose(&b.url, 1);
    // The operator was given c's URL, or somebody answers at a's.
    let registered = b.propose(&c.url, 2);
    let refused = b
        .gateway
        .take(registered.peer.id, &proposed.token.reveal(), wall())
        .await
        .unwrap_err();
    assert!(matches!(refused, DialError::Call(_)), "{refused}");
    assert_eq!(b.peer(registered.peer.id).status, Status::Proposed);
    assert!(a.peer(proposed.peer.id).offer.is_some(), "as good as before");
    // A damaged one is refused before anything is dialled, and our own, too.
    let mut damaged = proposed.token.reveal();
    damaged.pop();
    for token in [damaged, registered.token.reveal()] {
        let refused = b
            .gateway
            .take(registered.peer.id, &token, wall())
            .await
            .unwrap_err();
        assert!(matches!(refused, DialError::Take(_)), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_is_the_peer() {
    let (a, b, c) = (
        Site::new("site-a", 1).await,
        Site::new("site-b", 2).await,
        Site::new("site-c", 3).await,
    );
    let (b_at_a, _) = enrolled(&a, &b).await;
    let proposed = a.propose(&c.url, 3);
    let registered = c.propose(&a.url, 4);
    c.gateway
        .take(registered.peer.id, &proposed.token.reveal(), wall())
        .await
        .unwrap();
    let c_at_a = a.peer(proposed.peer.id);
    let (b_name, c_name) = (b_at_a.id.subject(), c_at_a.id.subject());
    assert_eq!(beat(&a, Some(&b.leaf(&b_name))).await, 200);
    assert_eq!(beat(&a, Some(&c.leaf(&c_name))).await, 200);

    assert_eq!(beat(&a, None).await, 401, "no certificate");
    // An anchor vouches for its own peer alone: there is no union.
    assert_eq!(
        beat(&a, Some(&c.leaf(&b_name))).await,
        401,
        "another peer's CA, this one's name"
    );
    assert_eq!(
        beat(&a, Some(&b.leaf(&c_name))).await,
        401,
        "and the other way round"
    );
    assert_eq!(
        beat(&a, Some(&a.leaf(&b_name))).await,
        401,
        "our own CA vouches for nobody"
    );
    assert_eq!(beat(&a, Some(&b.leaf("fed:nobody"))).await, 401);
    let unknown = PeerId(Uuid::from_u128(42)).subject();
    assert_eq!(beat(&a, Some(&b.leaf(&unknown))).await, 401);
    // A CA that is called like b's, with another key.
    let (twin, _) = SiteCa::generate(&b.gateway.site, wall()).unwrap();
    let forged = twin
        .issue(&b.gateway.site, &node(), Usage::Call { subject: &b_name }, wall())
        .unwrap();
    assert_eq!(beat(&a, Some(&forged)).await, 401, "same name, other key");
    // b's CA, and a certificate that isn't for calls, or names another site.
    let server = b
        .gateway
        .ca
        .issue(&b.gateway.site, &node(), Usage::Serve, wall())
        .unwrap();
    assert_eq!(beat(&a, Some(&server)).await, 401, "serverAuth");
    let elsewhere = b
        .gateway
        .ca
        .issue(&c.gateway.site, &node(), Usage::Call { subject: &b_name }, wall())
        .unwrap();
    assert_eq!(beat(&a, Some(&elsewhere)).await, 401, "another site's URI");
    let day = Duration::from_secs(86_400);
    let old = b
        .gateway
        .ca
        .issue(
            &b.gateway.site,
            &node(),
            Usage::Call { subject: &b_name },
            wall().before(day * 91),
        )
        .unwrap();
    assert_eq!(beat(&a, Some(&old)).await, 401, "expired");
    let early = b
        .gateway
        .ca
        .issue(
            &b.gateway.site,
            &node(),
            Usage::Call { subject: &b_name },
            wall().after(day),
        )
        .unwrap();
    assert_eq!(beat(&a, Some(&early)).await, 401, "not yet valid");
    let bundle = ask(&a, None, &[("trust_bundle", Vec::new())]).await.unwrap();
    assert_eq!(bundle[0].0, 405, "it is read, not posted");
    assert_eq!(beat(&a, Some(&b.leaf(&b_name))).await, 200, "and b is still b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_stopped_is_stopped_in_the_middle_of_a_connection() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    let leaf = b.leaf(&b_at_a.id.subject());
    let mut connection = Connection::open(&a, Some(&leaf)).await.unwrap();
    assert_eq!(connection.post("heartbeat", b"{}".to_vec()).await.unwrap().0, 200);
    a.gateway.suspend(b_at_a.id, "maintenance", wall()).unwrap();
    assert_eq!(connection.post("heartbeat", b"{}".to_vec()).await.unwrap().0, 401);
    let refused = b.gateway.beat_to(&a_at_b, [1; 16], 1, wall()).await.unwrap_err();
    assert!(refused.is_refusal(), "{refused}");
    // The anchors are still good: enrolled at once, active with the next beat.
    assert_eq!(
        a.gateway.resume(b_at_a.id, wall()).unwrap().status,
        Status::Enrolled
    );
    assert_eq!(connection.post("heartbeat", b"{}".to_vec()).await.unwrap().0, 200);
    assert_eq!(a.peer(b_at_a.id).status, Status::Active);
    a.gateway.revoke(b_at_a.id, "for good", wall()).unwrap();
    assert_eq!(connection.post("heartbeat", b"{}".to_vec()).await.unwrap().0, 401);
    assert!(a.gateway.resume(b_at_a.id, wall()).is_err());
    assert_eq!(a.peer(b_at_a.id).status, Status::Revoked, "the row stays");
    // The same two sites may begin anew.
    let proposed = a.propose(&b.url, 5);
    b.gateway.revoke(a_at_b.id, "for good", wall()).unwrap();
    let registered = b.propose(&a.url, 6);
    let again = b
        .gateway
        .take(registered.peer.id, &proposed.token.reveal(), wall())
        .await
        .unwrap();
    assert_eq!((again.status, again.generation), (Status::Enrolled, 2));
    assert_eq!(
        beat(&a, Some(&leaf)).await,
        401,
        "what was issued for the old row is dead"
    );
}

/// An acceptance by a site of its own, as it would be sent.
fn acceptance(token: &AcceptanceToken, ca: &SiteCa) -> AcceptRequest {
    AcceptRequest {
        acceptance_token: Some(token.reveal()),
        contract_version: Some(json!(1)),
        peer_ca_bundle_pem: Some(ca.pem().to_owned()),
        caller_inbound_subject: Some(PeerId(Uuid::from_u128(7)).subject()),
        ..AcceptRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_64_sites_that_take_one_token_at_once_one_gets_it() {
    let a = Site::new("site-a", 1).await;
    let proposed = a.propose(&PeerUrl::new("https://b.example").unwrap(), 1);
    let sites: Vec<(SiteCa, Vec<CertificateDer<'static>>)> = (10..74)
        .map(|n| {
            let site = SiteId::of(
                &Name::new("site-b").unwrap(),
                format!("fd00:0:{n:x}::/48").parse().unwrap(),
            );
            let (ca, _) = SiteCa::generate(&site, wall()).unwrap();
            let leaf = ca
                .issue(&site, &node(), Usage::Call { subject: "accept" }, wall())
                .unwrap();
            (ca, leaf.chain)
        })
        .collect();
    let accept = |(ca, chain): &(SiteCa, Vec<CertificateDer<'static>>)| {
        a.gateway
            .accept(acceptance(&proposed.token, ca), chain, [0; 32], wall())
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let racers: Vec<_> = sites.iter().map(|site| scope.spawn(|| accept(site))).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    let winners: Vec<usize> = (0..64).filter(|n| answers[*n].is_ok()).collect();
    assert_eq!(winners.len(), 1);
    assert!(
        answers
            .iter()
            .filter_map(|answer| answer.as_ref().err())
            .all(|error| error.status().0 == 401)
    );
    // Its answer may have been lost: it is told again. Nobody else is.
    let winner = winners[0];
    assert_eq!(
        accept(&sites[winner]).unwrap(),
        *answers[winner].as_ref().unwrap()
    );
    assert_eq!(accept(&sites[(winner + 1) % 64]).unwrap_err().status().0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_acceptance_must_bring() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let proposed = a.propose(&b.url, 1);
    let leaf = b.leaf("accept");
    let sound = acceptance(&proposed.token, &b.gateway.ca.current());
    let with = |change: fn(&mut AcceptRequest)| {
        let mut request = acceptance(&proposed.token, &b.gateway.ca.current());
        change(&mut request);
        serde_json::to_vec(&request).unwrap()
    };
    let status = async |leaf: Option<&Leaf>, body: Vec<u8>| {
        let (status, body) = ask(&a, leaf, &[("accept", body)]).await.unwrap().remove(0);
        assert_eq!(body["success"], false, "{status} {body}");
        (status, body["error"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(
        status(Some(&leaf), with(|r| r.acceptance_token = None)).await.0,
        422
    );
    assert_eq!(
        status(Some(&leaf), with(|r| r.acceptance_token = Some(String::new())))
            .await
            .0,
        422
    );
    for version in [None, Some(json!(99)), Some(json!("x"))] {
        let mut request = acceptance(&proposed.token, &b.gateway.ca.current());
        // The version is judged before the token.
        request.acceptance_token = Some("unknown".to_owned());
        request.contract_version = version;
        let (code, error) = status(Some(&leaf), serde_json::to_vec(&request).unwrap()).await;
        assert!(code == 422 && error.contains("contract_version"), "{error}");
    }
    let unknown = AcceptanceToken::new([99; 32], Fingerprint([0; 32])).reveal();
    let mut request = acceptance(&proposed.token, &b.gateway.ca.current());
    request.acceptance_token = Some(unknown);
    assert_eq!(
        status(Some(&leaf), serde_json::to_vec(&request).unwrap()).await.0,
        401
    );
    // Whoever submits a CA must have it.
    assert_eq!(status(None, serde_json::to_vec(&sound).unwrap()).await.0, 422);
    assert_eq!(
        status(Some(&a.leaf("accept")), serde_json::to_vec(&sound).unwrap())
            .await
            .0,
        422
    );
    let ours = serde_json::to_vec(&acceptance(&proposed.token, &a.gateway.ca.current())).unwrap();
    assert_eq!(status(Some(&a.leaf("accept")), ours).await.0, 422, "a's own CA");
    assert_eq!(
        status(Some(&leaf), with(|r| r.caller_inbound_subject = None))
            .await
            .0,
        422
    );
    assert_eq!(
        status(
            Some(&leaf),
            with(|r| r.peer_ca_bundle_pem = Some("nonsense".to_owned()))
        )
        .await
        .0,
        422
    );
    for (body, code) in [
        (b"{".to_vec(), 400),
        (b"[]".to_vec(), 400),
        (vec![b' '; 70_000], 413),
    ] {
        let (found, _) = ask(&a, Some(&leaf), &[("accept", body)]).await.unwrap().remove(0);
        assert_eq!(found, code);
    }
    // Nothing of all that has used the token.
    let (found, answer) = ask(
        &a,
        Some(&leaf),
        &[("accept", serde_json::to_vec(&sound).unwrap())],
    )
    .await
    .unwrap()
    .remove(0);
    assert_eq!(
        (found, &answer["data"]["status"]),
        (200, &json!("enrolled")),
        "{answer}"
    );
    // A second site with an anchor that is in use.
    let other = a.propose(&PeerUrl::new("https://c.example").unwrap(), 9);
    let again = serde_json::to_vec(&acceptance(&other.token, &b.gateway.ca.current())).unwrap();
    let (found, _) = status(Some(&leaf), again).await;
    assert!([409, 422].contains(&found), "{found}");
}

/// A certificate under `depth` intermediates of a root of its own.
fn deep_chain(depth: usize) -> Leaf {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
    };
    let root_key = KeyPair::generate().unwrap();
    let root = authority("root");
    let mut chain = vec![root.self_signed(&root_key).unwrap().der().clone()];
    let mut issuer = Issuer::new(root, root_key);
    for level in 0..depth {
        let (params, key) = (authority(&format!("level {level}")), KeyPair::generate().unwrap());
        chain.push(params.signed_by(&key, &issuer).unwrap().der().clone());
        issuer = Issuer::new(params, key);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "fed:x");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI("spiffe://x/y".try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    chain.push(params.signed_by(&key, &issuer).unwrap().der().clone());
    chain.reverse();
    Leaf {
        chain,
        key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        renew_at: wall(),
        not_after: wall(),
        issuer: Fingerprint([0; 32]),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_chains_and_mute_callers_are_turned_away() {
    let a = Site::new("site-a", 1).await;
    assert_eq!(
        beat(&a, Some(&deep_chain(1))).await,
        401,
        "three certificates are read"
    );
    let outcome = ask(&a, Some(&deep_chain(2)), &[("heartbeat", b"{}".to_vec())]).await;
    assert!(outcome.is_err(), "four aren't: {outcome:?}");

    // Who says nothing, or speaks too slowly, is gone after a few seconds; others aren't kept waiting.
    let start = Instant::now();
    let mut mute = TcpStream::connect(a.address).await.unwrap();
    let mut slow = TcpStream::connect(a.address).await.unwrap();
    slow.write_all(&[0x16, 0x03]).await.unwrap();
    assert_eq!(beat(&a, None).await, 401);
    assert!(start.elapsed() < Duration::from_secs(3));
    for stream in [&mut mute, &mut slow] {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "still open after 20 s");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_source_has_a_few_connections_only() {
    let a = Site::new("site-a", 1).await;
    let mut connections = Vec::new();
    for _ in 0..30 {
        connections.extend(TcpStream::connect(a.address).await);
    }
    // Of those that say nothing, eight stay: the next is closed without a word.
    let mut closed = 0;
    for stream in &mut connections {
        let mut byte = [0];
        let ended = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut byte)).await;
        closed += usize::from(ended.is_ok());
    }
    assert!(closed >= 22, "{closed}");
}
