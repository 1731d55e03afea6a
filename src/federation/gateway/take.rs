//! Taking a token to its site, and what came back.

use rustls::pki_types::CertificateDer;
use serde_json::json;

use super::accept::generations;
use super::children::manage_in;
use super::cluster::cluster_of;
use super::spawned::is_signed_for;
use super::{Gateway, Paused, VERSION, note_status};
use crate::federation::ledger::{Aborted, Conflict, LedgerError};
use crate::federation::moment::Moment;
use crate::federation::peer::{Anchor, Event, Peer, PeerId, SpawnRole, TransitionError, Trust};
use crate::federation::pki::authority::StoreError;
use crate::federation::pki::issued::Issued;
use crate::federation::pki::request::Request;
use crate::federation::pki::verify::{check_root, names_of};
use crate::federation::pki::{PkiError, certificates_of, pem_of};
use crate::federation::site::SiteId;
use crate::federation::token::{AcceptanceToken, Fingerprint, TokenDigest, TokenError, verification_words};
use crate::federation::wire::{self, AcceptAnswer, AcceptRequest};

/// What a token holder is about to do.
#[derive(Debug)]
pub struct Accepting {
    /// The peer here that it is about.
    pub peer: Peer,
    /// Whom alone it may talk to.
    pub pinned: Fingerprint,
    /// What it sends.
    pub request: AcceptRequest,
    digest: TokenDigest,
}

/// A token can't be taken to its site, or what came back isn't sound.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The token is none.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token is one of ours.
    #[error("this token is of this very site: it is for the other operator")]
    Own,
    /// No such peer.
    #[error("there is no peer {0}")]
    Unknown(PeerId),
    /// The peer can't be accepted as it stands.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// Nothing new is begun.
    #[error(transparent)]
    Paused(#[from] Paused),
    /// What the other side answered makes no sense.
    #[error("the answer of the other site makes no sense: {0}")]
    Answer(String),
    /// Another live peer is this site.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The key that the parent shall sign can't be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger can't be written.
    #[error("the ledger can't be written")]
    Ledger(#[source] LedgerError),
}

/// What a token holder has been given to be known by.
struct Given {
    root: CertificateDer<'static>,
    site: SiteId,
    /// The name that its certificates carry at the other site.
    subject: String,
    /// What the other site has signed, where it does.
    issued: Option<Issued>,
    /// What of ours the words are over.
    own: Fingerprint,
}

impl Gateway {
    /// The peer to which a token can be taken as things stand here.
    ///
    /// # Errors
    /// The token is our own, or the peer isn't one that can be accepted.
    pub(super) fn takeable(&self, id: PeerId, token: &AcceptanceToken) -> Result<Peer, TakeError> {
        if self.ca.is_own(token.ca()) {
            return Err(TakeError::Own);
        }
        if let Some(pause) = self.paused() {
            return Err(Paused(pause).into());
        }
        let peer = self
            .ledger
            .read(|book| book.peer(&id).map(|peer| (**peer).clone()));
        let peer = peer.ok_or(TakeError::Unknown(id))?;
        peer.clone().happen(Event::Accept, None, peer.since)?;
        Ok(peer)
    }

    /// Prepares the call by which a token is taken to its site. Nothing changes yet.
    ///
    /// # Errors
    /// The token is damaged or our own, or the peer isn't one that can be accepted.
    pub fn accepting(&self, id: PeerId, token: &str) -> Result<Accepting, TakeError> {
        let token = AcceptanceToken::parse(token)?;
        let peer = self.takeable(id, &token)?;
        let csr_pem = is_signed_for(&peer).then(|| self.asking(id)).transpose()?;
        let request = AcceptRequest {
            acceptance_token: Some(token.reveal()),
            contract_version: Some(json!(wire::CONTRACT_VERSIONS[0])),
            peer_ca_bundle_pem: csr_pem.is_none().then(|| self.ca.pem()),
            csr_pem,
            caller_inbound_subject: Some(id.subject()),
            caller_url: self.settings.url.as_ref().map(ToString::to_string),
            said: self.said(),
        };
        Ok(Accepting {
            peer,
            pinned: token.ca(),
            request,
            digest: token.digest(),
        })
    }

    /// Takes over what the other site answered. `served` is the chain that its listener showed.
    ///
    /// # Errors
    /// The answer isn't sound: nothing has changed, and the same call may be made again.
    pub fn accepted(
        &self,
        accepting: &Accepting,
        answer: &AcceptAnswer,
        served: &[CertificateDer<'_>],
        wall: Moment,
    ) -> Result<Peer, TakeError> {
        let now = self.ledger.read(|book| book.now(wall));
        let Given {
            root,
            site,
            subject,
            issued,
            own,
        } = self.given(accepting, answer, served, now)?;
        if let Some(issued) = issued {
            // Ahead of the ledger, and the key still waits: one that it doesn't speak of is asked for again.
            self.keep_signed(accepting.peer.id, issued)?;
        }
        let taken = self.ledger.transact(wall, |draft| {
            let now = draft.now();
            let mut peer = draft
                .peer(&accepting.peer.id)
                .cloned()
                .ok_or(TakeError::Unknown(accepting.peer.id))?;
            peer.happen(Event::Accept, None, now)?;
            let words = verification_words(accepting.pinned, own, &accepting.digest);
            peer.words = Some(words.join(" "));
            peer.contract_version = Some(answer.contract_version_agreed);
            peer.generation = 1 + generations(draft, &site);
            peer.taken = Some(accepting.digest);
            peer.cluster = answer.cluster.as_ref().and_then(|said| cluster_of(&peer, said));
            peer.trust = Some(Trust {
                site: site.clone(),
                anchors: vec![Anchor {
                    pem: pem_of(&root),
                    fingerprint: accepting.pinned,
                    since: now,
                    until: None,
                    proven: true,
                }],
                sequence: 1,
                outbound_subject: subject.clone(),
                signed_here: Vec::new(),
            });
            peer.happen(Event::Enroll, None, now)?;
            if peer.role == SpawnRole::Child {
                manage_in(draft, &peer, subject.trim_start_matches("fed:"));
            }
            note_status(
                draft,
                &peer,
                json!({ "site": site.to_string(), "platform_version": VERSION }),
            );
            draft.put_peer(peer.clone())?;
            Ok(peer)
        });
        let peer = taken.map_err(|aborted| {
            self.erase_if_revoked(accepting.peer.id);
            match aborted {
                Aborted::ByCaller(error) => error,
                Aborted::ByLedger(error) => TakeError::Ledger(error),
            }
        })?;
        self.bridges_changed();
        self.forget_waiting(peer.id);
        if accepting.request.csr_pem.is_some() {
            self.lacks_us(peer.id);
        }
        Ok(peer)
    }

    /// What of an answer is sound.
    fn given(
        &self,
        accepting: &Accepting,
        answer: &AcceptAnswer,
        served: &[CertificateDer<'_>],
        now: Moment,
    ) -> Result<Given, TakeError> {
        let unsound = |text: &str| TakeError::Answer(text.to_owned());
        let foreign = |error: PkiError| TakeError::Answer(error.to_string());
        let asked = accepting.request.csr_pem.as_deref();
        let (roots, subject, issued) = match (asked, &answer.federation_certificate, &answer.trust_exchange) {
            (Some(_), Some(signed), _) => {
                let issued = self
                    .read_signed(accepting.peer.id, signed, now)
                    .map_err(|error| TakeError::Answer(error.to_string()))?;
                let roots = certificates_of(&signed.ca_chain_pem).map_err(foreign)?;
                (roots, issued.subject.clone(), Some(issued))
            }
            (Some(_), None, _) => return Err(unsound("it signed no certificate")),
            (None, _, Some(exchange)) => {
                let roots = certificates_of(&exchange.ca_bundle_pem).map_err(foreign)?;
                if roots.len() != 1 {
                    return Err(unsound("its CA bundle isn't one root"));
                }
                (roots, exchange.assigned_inbound_subject.clone(), None)
            }
            (None, _, None) => return Err(unsound("it exchanged no trust")),
        };
        let is_pinned = |root: &CertificateDer<'static>| {
            check_root(root, now).is_ok_and(|fingerprint| fingerprint == accepting.pinned)
        };
        let root = roots
            .into_iter()
            .find(is_pinned)
            .ok_or_else(|| unsound("its CA isn't the one that the token names"))?;
        let leaf = served
            .first()
            .ok_or_else(|| unsound("it showed no certificate"))?;
        let names = names_of(leaf).map_err(foreign)?;
        let site = names.uris.iter().find_map(|uri| SiteId::of_uri(uri));
        let site = site
            .filter(|site| *site != self.site)
            .ok_or_else(|| unsound("its certificate names no site, or this one"))?;
        if PeerId::of_subject(&subject).is_none() {
            return Err(unsound("the name that it assigned reads not fed:<id>"));
        }
        let own = match asked {
            Some(csr) => Request::parse(csr).map_err(foreign)?.fingerprint,
            None => self.ca.fingerprint(),
        };
        Ok(Given {
            root,
            site,
            subject,
            issued,
            own,
        })
    }
}
