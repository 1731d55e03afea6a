//! Who calls: the one place where a certificate becomes a peer.
//!
//! ```text
//! exactly one CN ─▶ the peer's row, if it may call ─▶ path to *that row's* anchors, clientAuth ─▶ URI of its site
//! ```
//!
//! Nothing else is identity: no header, no address, no union of anchors. Whatever fails, the caller hears the same. Of all
//! this only the signatures are remembered ([`Proofs`]): the row is looked at each time.

mod proofs;

use std::sync::Arc;

pub use proofs::Proofs;
use proofs::{ChainDigest, Grounds};
use rustls::pki_types::CertificateDer;

use super::ledger::Book;
use super::moment::Moment;
use super::peer::{Peer, PeerId};
use super::pki::verify::{Purpose, names_of, verify_path};
use super::pki::{PkiError, certificates_of};

/// Why a caller isn't a peer: for our own log. The caller is told [`Stranger::PUBLIC`].
#[derive(Debug, thiserror::Error)]
pub enum Stranger {
    /// It shows no certificate.
    #[error("no client certificate")]
    Bare,
    /// What it shows can't be read.
    #[error("its certificate can't be read")]
    Unreadable(#[source] PkiError),
    /// Its name isn't one that we gave out.
    #[error("the name {0:?} is no peer's")]
    Unnamed(String),
    /// There is no such peer, or it may not call.
    #[error("peer {0} is unknown or may not call")]
    NotNow(PeerId),
    /// Its certificate doesn't lead to the peer's anchors.
    #[error("peer {peer}: its certificate doesn't lead to its anchor {anchors}")]
    Path {
        /// Which peer.
        peer: PeerId,
        /// The fingerprints of its anchors.
        anchors: String,
        /// Why.
        #[source]
        source: PkiError,
    },
    /// Its certificate names another site.
    #[error("peer {0}: its certificate doesn't name its site")]
    Site(PeerId),
}

impl Stranger {
    /// What every stranger hears.
    pub const PUBLIC: &'static str = "a client certificate of an enrolled peer is required";

    /// The word for our own audit: nothing of what the caller said of itself.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Bare => "no_certificate",
            Self::Unreadable(_) => "unreadable",
            Self::Unnamed(_) => "unnamed",
            Self::NotNow(_) => "unknown_or_stopped",
            Self::Path { .. } => "foreign_ca",
            Self::Site(_) => "foreign_site",
        }
    }
}

/// Finds the peer whose certificate this is.
///
/// # Errors
/// It is nobody's who may call now.
pub fn identify(
    chain: &[CertificateDer<'_>],
    book: &Book,
    now: Moment,
    proofs: &Proofs,
) -> Result<Arc<Peer>, Stranger> {
    let trust_of = |id: PeerId| book.peer(&id).and_then(|peer| peer.trust.as_ref());
    if let Some(id) = proofs.peer_of(ChainDigest::of(chain), now, trust_of) {
        let peer = book.peer(&id).filter(|peer| peer.status.may_call());
        return peer.cloned().ok_or(Stranger::NotNow(id));
    }
    let leaf = chain.first().ok_or(Stranger::Bare)?;
    let names = names_of(leaf).map_err(Stranger::Unreadable)?;
    let id = PeerId::of_subject(&names.subject).ok_or(Stranger::Unnamed(names.subject))?;
    let peer = book.peer(&id).filter(|peer| peer.status.may_call());
    let (Some(peer), Some(trust)) = (peer, peer.and_then(|peer| peer.trust.as_ref())) else {
        return Err(Stranger::NotNow(id));
    };
    let mut anchors = Vec::new();
    for anchor in trust.callers_at(now) {
        anchors.extend(certificates_of(&anchor.pem).map_err(Stranger::Unreadable)?);
    }
    verify_path(chain, &anchors, Purpose::Client, now).map_err(|source| {
        let anchors: Vec<String> = trust
            .callers_at(now)
            .map(|anchor| anchor.fingerprint.to_string())
            .collect();
        Stranger::Path {
            peer: id,
            anchors: anchors.join(", "),
            source,
        }
    })?;
    if !names.uris.iter().any(|uri| trust.site.owns_uri(uri)) {
        return Err(Stranger::Site(id));
    }
    proofs.keep(chain, id, Grounds::of(trust, now));
    Ok(Arc::clone(peer))
}

#[cfg(test)]
mod tests;
