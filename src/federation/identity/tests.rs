use std::time::Duration;

use super::*;
use crate::federation::ledger::Ledger;
use crate::federation::peer::tests::proposed;
use crate::federation::peer::{Anchor, Status, Trust};
use crate::federation::pki::{LEAF_LIFE, SiteCa, Usage};
use crate::federation::site::SiteId;
use crate::model::Name;

fn wall() -> Moment {
    Moment::from_millis(1_800_000_000_000)
}

/// A ledger with one active peer, and the CA that its certificates lead to.
struct Scene {
    _folder: tempfile::TempDir,
    ledger: Ledger,
    ca: SiteCa,
    id: PeerId,
    chain: Vec<CertificateDer<'static>>,
    proofs: Proofs,
}

fn site() -> SiteId {
    SiteId::new("site-b.fd1234abcd42").unwrap()
}

fn anchor(ca: &SiteCa) -> Anchor {
    Anchor {
        pem: ca.pem().to_owned(),
        fingerprint: ca.fingerprint(),
        since: wall(),
        until: None,
        proven: true,
    }
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("ledger.db"), wall()).unwrap();
        let ca = SiteCa::generate(&site(), wall()).unwrap().0;
        let mut peer = proposed();
        peer.offer = None;
        peer.status = Status::Active;
        peer.trust = Some(Trust {
            site: site(),
            anchors: vec![anchor(&ca)],
            sequence: 1,
            outbound_subject: "fed:x".to_owned(),
            signed_here: Vec::new(),
        });
        let (id, node) = (peer.id, Name::new("hub-1").unwrap());
        ledger.transact(wall(), |draft| draft.put_peer(peer)).unwrap();
        let usage = Usage::Call {
            subject: &id.subject(),
        };
        let chain = ca.issue(&site(), &node, usage, wall()).unwrap().chain;
        Self {
            _folder: folder,
            ledger,
            ca,
            id,
            chain,
            proofs: Proofs::default(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Peer)) {
        let changed = self.ledger.transact(wall(), |draft| {
            let mut peer = draft.peer(&self.id).cloned().unwrap();
            change(&mut peer);
            draft.put_peer(peer)
        });
        changed.map_err(|_| "it conflicts").unwrap();
    }

    fn who(&self, chain: &[CertificateDer<'_>], now: Moment) -> Result<PeerId, &'static str> {
        let found = self.ledger.read(|book| identify(chain, book, now, &self.proofs));
        found.map(|peer| peer.id).map_err(|stranger| stranger.code())
    }

    fn is_proven(&self, now: Moment) -> bool {
        let proven = self.ledger.read(|book| {
            let trust = |id: PeerId| book.peer(&id).and_then(|peer| peer.trust.as_ref());
            self.proofs.peer_of(ChainDigest::of(&self.chain), now, trust)
        });
        proven == Some(self.id)
    }
}

#[test]
fn a_signature_is_looked_at_once_and_the_row_each_time() {
    let scene = Scene::new();
    assert!(!scene.is_proven(wall()));
    assert_eq!(scene.who(&scene.chain, wall()), Ok(scene.id));
    assert!(scene.is_proven(wall()));
    for status in Status::ALL {
        scene.change(|peer| peer.status = status);
        let expected = if status.may_call() {
            Ok(scene.id)
        } else {
            Err("unknown_or_stopped")
        };
        assert_eq!(scene.who(&scene.chain, wall()), expected, "{status}");
    }
}

#[test]
fn what_was_proven_by_other_anchors_or_another_site_is_proven_no_longer() {
    type Change = fn(&mut Trust, &SiteCa);
    let cases: [(&str, Change, &str); 4] = [
        (
            "another anchor",
            |trust, other| trust.anchors = vec![anchor(other)],
            "foreign_ca",
        ),
        (
            "the anchor has ended",
            |trust, _| trust.anchors[0].end_at(wall()),
            "foreign_ca",
        ),
        ("no anchor", |trust, _| trust.anchors.clear(), "foreign_ca"),
        (
            "another site",
            |trust, _| trust.site = SiteId::new("site-c.fd1234abcd43").unwrap(),
            "foreign_site",
        ),
    ];
    for (what, change, expected) in cases {
        let scene = Scene::new();
        let other = SiteCa::generate(&site(), wall()).unwrap().0;
        assert_eq!(scene.who(&scene.chain, wall()), Ok(scene.id));
        scene.change(|peer| change(peer.trust.as_mut().unwrap(), &other));
        assert!(!scene.is_proven(wall()), "{what}");
        assert_eq!(scene.who(&scene.chain, wall()), Err(expected), "{what}");
        scene.change(|peer| peer.trust = None);
        assert_eq!(
            scene.who(&scene.chain, wall()),
            Err("unknown_or_stopped"),
            "{what}"
        );
        scene.change(|peer| {
            peer.trust = Some(Trust {
                site: site(),
                anchors: vec![anchor(&other), anchor(&scene.ca)],
                sequence: 2,
                outbound_subject: String::new(),
                signed_here: Vec::new(),
            });
        });
        assert_eq!(
            scene.who(&scene.chain, wall()),
            Ok(scene.id),
            "{what}: found out anew"
        );
    }
}

#[test]
fn nothing_is_proven_outside_of_the_certificates_time() {
    let scene = Scene::new();
    assert_eq!(scene.who(&scene.chain, wall()), Ok(scene.id));
    let end = wall().after(LEAF_LIFE);
    let (late, early) = (
        end.after(Duration::from_secs(1)),
        wall().before(Duration::from_secs(86_400)),
    );
    assert_eq!(scene.who(&scene.chain, end), Ok(scene.id));
    for now in [late, early] {
        assert!(!scene.is_proven(now), "{now}");
        assert_eq!(scene.who(&scene.chain, now), Err("foreign_ca"), "{now}");
    }
    assert!(scene.is_proven(wall()), "nothing was kept of what failed");
}

#[test]
fn another_chain_has_no_part_in_a_proof() {
    let scene = Scene::new();
    assert_eq!(scene.who(&scene.chain, wall()), Ok(scene.id));
    let leaf = scene.chain[0].as_ref();
    // Every byte counts, those of the signature too.
    for at in (0..leaf.len()).step_by(7).chain([leaf.len() - 1]) {
        let mut bytes = leaf.to_vec();
        bytes[at] ^= 1;
        let forged = [CertificateDer::from(bytes), scene.chain[1].clone()];
        assert!(scene.who(&forged, wall()).is_err(), "byte {at}");
    }
    // Cut elsewhere, the same bytes are another chain.
    let joined = [CertificateDer::from([leaf, scene.chain[1].as_ref()].concat())];
    assert_ne!(ChainDigest::of(&joined), ChainDigest::of(&scene.chain));
    assert_eq!(scene.who(&joined, wall()), Err("unreadable"));
    assert_eq!(scene.who(&[], wall()), Err("no_certificate"));
}
