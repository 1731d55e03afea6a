//! What was found out about callers' chains: a signature that was good once is good again, and isn't computed anew.
//!
//! A proof says no more than that some bytes lead to some anchors, and name some site, at any time within a span. Whether
//! those are the peer's anchors now, whether now is in that span, and whether the peer may call, is asked each time.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use crate::federation::moment::Moment;
use crate::federation::peer::{PeerId, Trust};
use crate::federation::pki::verify::validity;

/// How many are kept; beyond, all are found out anew. Only peers have any, and each mostly one.
const MOST: usize = 16_384;

/// SHA-256 over all bytes of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChainDigest([u8; 32]);

impl ChainDigest {
    pub(super) fn of(chain: &[CertificateDer<'_>]) -> Self {
        Self(digest(chain.iter().map(AsRef::as_ref)))
    }
}

/// SHA-256 over a site and the anchors that its calls may lead to at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grounds([u8; 32]);

impl Grounds {
    pub(super) fn of(trust: &Trust, now: Moment) -> Self {
        let anchors = trust.callers_at(now).map(|anchor| anchor.pem.as_bytes());
        Self(digest(
            std::iter::once(trust.site.as_str().as_bytes()).chain(anchors),
        ))
    }
}

/// Each part with its length: no two lists of parts are the same bytes.
fn digest<'a>(parts: impl Iterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[derive(Clone, Copy)]
struct Proof {
    id: PeerId,
    grounds: Grounds,
    from: Moment,
    until: Moment,
}

/// The proofs.
#[derive(Default)]
pub struct Proofs(Mutex<BTreeMap<ChainDigest, Proof>>);

impl std::fmt::Debug for Proofs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proofs")
    }
}

impl Proofs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ChainDigest, Proof>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose chain this is, if that was found out, and what of `trust` it was found out by still stands.
    pub(super) fn peer_of<'t>(
        &self,
        chain: ChainDigest,
        now: Moment,
        trust_of: impl FnOnce(PeerId) -> Option<&'t Trust>,
    ) -> Option<PeerId> {
        let proof = self.lock().get(&chain).copied()?;
        let is_in_time = proof.from <= now && now <= proof.until;
        let trust = trust_of(proof.id).filter(|_| is_in_time)?;
        (Grounds::of(trust, now) == proof.grounds).then_some(proof.id)
    }

    /// Keeps what was found out: that all of it holds as long as every certificate of the chain is good.
    pub(super) fn keep(&self, chain: &[CertificateDer<'_>], id: PeerId, grounds: Grounds) {
        let (mut from, mut until) = (Moment::from_millis(i64::MIN), Moment::from_millis(i64::MAX));
        for der in chain {
            let Ok((begins, ends)) = validity(der) else { return };
            (from, until) = (from.max(begins), until.min(ends));
        }
        let proof = Proof {
            id,
            grounds,
            from,
            until,
        };
        let mut proofs = self.lock();
        if proofs.len() >= MOST {
            proofs.clear();
        }
        proofs.insert(ChainDigest::of(chain), proof);
    }
}
