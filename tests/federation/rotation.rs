//! A site draws another CA, and its peers go on without noticing.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use sdwand::federation::gateway::RotateError;
use sdwand::federation::ledger::Rotation;
use sdwand::federation::peer::Status;
use sdwand::federation::pki::tls::{CurrentLeaf, PossessionOnly, server_config};
use sdwand::federation::pki::{SiteCa, Usage};
use sdwand::federation::url::PeerUrl;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::site::{Site, beat, enrolled, node, wall};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_ca_signs_once_everyone_knows_it_and_the_old_one_goes_after_a_week() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    let anchors = || b.peer(a_at_b.id).trust.unwrap().anchors;
    // Only b calls, as if a couldn't dial: all of it rides in b's beats and their answers.
    let mut n = 0;
    let mut beat_from_b = async || {
        n += 1;
        b.gateway
            .beat_to(&b.peer(a_at_b.id), [n; 16], u64::from(n), wall())
            .await
            .unwrap();
    };
    beat_from_b().await;
    let old = a.gateway.ca.fingerprint();
    let rotation = a.gateway.rotate(wall()).unwrap();
    assert_eq!(
        (rotation.trust_sequence, rotation.waits_for.as_slice()),
        (2, &["127-0-0-1".to_owned()][..])
    );
    assert!(matches!(a.gateway.rotate(wall()), Err(RotateError::UnderWay(_))));
    assert!(!a.gateway.promote(wall()).unwrap(), "b doesn't know it yet");
    assert_eq!(anchors().len(), 1);

    // The answer to this beat brings the new anchor; the next one says that it has come.
    beat_from_b().await;
    assert_eq!(anchors().len(), 2);
    assert!(
        anchors().iter().all(|anchor| anchor.until.is_none()),
        "both, for good"
    );
    assert!(!a.gateway.promote(wall()).unwrap());
    beat_from_b().await;
    assert_eq!(a.gateway.rotation(wall()).waits_for, Vec::<String>::new());
    assert!(a.gateway.promote(wall()).unwrap());
    let new = a.gateway.ca.fingerprint();
    assert_ne!(new, old);

    // a calls with a leaf of the new one, and still serves one of the old: both are good.
    a.gateway
        .beat_to(&a.peer(b_at_a.id), [200; 16], 1, wall())
        .await
        .unwrap();
    beat_from_b().await;
    beat_from_b().await;
    let found: Vec<_> = anchors()
        .iter()
        .map(|anchor| (anchor.fingerprint, anchor.until.is_some()))
        .collect();
    assert_eq!(found, [(old, true), (new, false)]);
    let ends = anchors()[0].until.unwrap();
    let (week, nearly) = (
        Duration::from_secs(7 * 86_400),
        Duration::from_secs(7 * 86_400 - 60),
    );
    assert!(ends.since(wall()) <= week && ends.since(wall()) > nearly);
    assert_eq!(b.peer(a_at_b.id).status, Status::Active);
    let kinds: Vec<String> = b
        .gateway
        .ledger
        .audit_tail(100)
        .unwrap()
        .into_iter()
        .map(|record| record.kind)
        .collect();
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| *kind == "federation.peer.anchor_changed")
            .count(),
        2,
        "{kinds:?}"
    );
    for site in [&a, &b] {
        assert_eq!(
            site.gateway.ledger.audit_verify().unwrap(),
            site.gateway.ledger.head()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_longer_than_a_week_and_no_stranger_moves_anchors() {
    let (a, b, c) = (
        Site::new("site-a", 1).await,
        Site::new("site-b", 2).await,
        Site::new("site-c", 3).await,
    );
    let (b_at_a, _) = enrolled(&a, &b).await;
    // Ours, or none: b goes on with the anchors that it has.
    let before = a.peer(b_at_a.id).trust.unwrap().anchors;
    let named = |bundle: String| format!("{}{bundle}", b.gateway.ca.pem());
    assert!(
        a.gateway
            .learn(b_at_a.id, &named(a.gateway.ca.pem()), 2, wall())
            .is_err()
    );
    assert!(a.gateway.learn(b_at_a.id, "nonsense", 2, wall()).is_err());
    assert!(
        !a.gateway
            .learn(b_at_a.id, &named(c.gateway.ca.pem()), 1, wall())
            .unwrap()
    );
    assert_eq!(a.peer(b_at_a.id).trust.unwrap().anchors, before);
    // Another site's root: b harms itself alone. That site isn't kept out, and isn't b.
    assert!(
        a.gateway
            .learn(b_at_a.id, &named(c.gateway.ca.pem()), 3, wall())
            .unwrap()
    );
    let (c_at_a, _) = enrolled(&a, &c).await;
    assert_eq!(beat(&a, Some(&c.leaf(&c_at_a.id.subject()))).await, 200);
    assert_eq!(beat(&a, Some(&c.leaf(&b_at_a.id.subject()))).await, 401);
    // What it has shown to be its own is held against others as before.
    let at_a = a.gateway.ledger.transact(wall(), |draft| {
        let mut other = draft.peer(&c_at_a.id).cloned().unwrap();
        other.trust.as_mut().unwrap().anchors.clone_from(&before);
        draft.put_peer(other)
    });
    assert!(at_a.is_err());
    assert_eq!(beat(&a, Some(&b.leaf(&b_at_a.id.subject()))).await, 200);

    let later = a.gateway.rotate(wall()).unwrap().at_the_latest.unwrap();
    a.propose(&PeerUrl::new("https://192.0.2.9:8443").unwrap(), 99);
    assert_eq!(a.gateway.rotation(wall()).open_tokens, 1);
    assert!(!a.gateway.promote(later.before(Duration::from_secs(60))).unwrap());
    assert!(a.gateway.promote(later).unwrap());
    assert!(!a.gateway.promote(later).unwrap(), "once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_suspended_is_waited_for_and_a_ca_that_is_gone_never_signs() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    a.gateway.suspend(b_at_a.id, "test", wall()).unwrap();
    a.gateway.rotate(wall()).unwrap();
    assert_eq!(a.gateway.rotation(wall()).waits_for.len(), 1);
    assert!(!a.gateway.promote(wall()).unwrap());
    a.gateway.resume(b_at_a.id, wall()).unwrap();
    for n in 1..4 {
        let at_b = b.peer(a_at_b.id);
        b.gateway
            .beat_to(&at_b, [n; 16], u64::from(n), wall())
            .await
            .unwrap();
    }
    assert!(a.gateway.promote(wall()).unwrap());

    // A ledger that speaks of a next CA whose files aren't there, as after a restore without them.
    let signs = a.gateway.ca.fingerprint();
    let (gone, _) = SiteCa::generate(&a.gateway.site, wall()).unwrap();
    let rotation = Rotation {
        since: wall(),
        next: gone.fingerprint(),
    };
    let begun = a.gateway.ledger.transact(wall(), |draft| {
        let mut trust = draft.own_trust().clone();
        trust.rotation = Some(rotation);
        draft.put_own_trust(trust);
        Ok::<_, ()>(())
    });
    begun.unwrap();
    a.gateway.revoke(b_at_a.id, "test", wall()).unwrap();
    assert!(!a.gateway.promote(wall()).unwrap());
    assert_eq!(a.gateway.ca.fingerprint(), signs);
    let trust = a.gateway.ledger.read(|book| book.own_trust().clone());
    assert_eq!(
        (trust.signs, trust.rotation),
        (Some(signs), None),
        "the next start finds it"
    );
}

/// Answers one call with silence: only what the caller shows is of interest.
async fn shown(listener: &TcpListener, acceptor: &TlsAcceptor) -> Vec<CertificateDer<'static>> {
    let (stream, _) = listener.accept().await.unwrap();
    let stream = acceptor.accept(stream).await.unwrap();
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    chain.iter().map(|one| one.clone().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_shown_the_same_leaf_until_another_ca_signs() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    // a calls b here.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = PeerUrl::new(&format!("https://{}", listener.local_addr().unwrap())).unwrap();
    let served = b
        .gateway
        .ca
        .issue(&b.gateway.site, &node(), Usage::Serve, wall())
        .unwrap();
    let current = Arc::new(CurrentLeaf::new(&served).unwrap());
    let tls = server_config(current, Arc::new(PossessionOnly::default())).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let proposed = a.propose(&url, 1);
    let registered = b.propose(&a.url, 2);
    let token = proposed.token.reveal();
    b.gateway.take(registered.peer.id, &token, wall()).await.unwrap();
    let call = async |n: u8| {
        let peer = a.peer(proposed.peer.id);
        let beat = a.gateway.beat_to(&peer, [n; 16], u64::from(n), wall());
        let (outcome, chain) = tokio::join!(beat, shown(&listener, &acceptor));
        assert!(outcome.is_err(), "nobody answers there");
        chain
    };
    let (first, second) = (call(1).await, call(2).await);
    assert_eq!(first, second);
    let later = a.gateway.rotate(wall()).unwrap().at_the_latest.unwrap();
    assert_eq!(call(3).await, first, "the old CA signs on");
    assert!(a.gateway.promote(later).unwrap());
    let third = call(4).await;
    assert_ne!(third[0], first[0]);
    assert_eq!(third[1], a.gateway.ca.der(), "under the new CA");
    assert_eq!(call(5).await, third);
}
