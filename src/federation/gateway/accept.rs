//! Accepting, on both sides: of who proposed and is called, and of who holds the token and calls.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use super::children::{ChildrenError, manage_in, signed_here};
use super::pause::may_begin;
use super::{ANSWER_LIFE, Gateway, note_status};
use crate::federation::ledger::{Aborted, Conflict, Draft, KeptAnswer, LedgerError};
use crate::federation::moment::Moment;
use crate::federation::peer::{Anchor, Event, Peer, PeerId, SpawnMode, SpawnRole, TransitionError, Trust};
use crate::federation::pki::request::{Request, Signed};
use crate::federation::pki::verify::{Purpose, check_root, names_of, verify_path};
use crate::federation::pki::{PkiError, SiteCa, certificates_of, pem_of};
use crate::federation::site::SiteId;
use crate::federation::token::{AcceptanceToken, Fingerprint, TokenDigest, verification_words};
use crate::federation::wire::{self, AcceptAnswer, AcceptRequest, TooLong, TrustExchange, contract_version};

/// The longest name that a caller may ask us to carry.
const MAX_SUBJECT: usize = 128;

/// An acceptance is refused. In the order in which it is judged.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// There is no token.
    #[error("acceptance_token is missing")]
    NoToken,
    /// The contract is none that we keep.
    #[error(
        "contract_version is missing or unsupported: we keep {:?}",
        wire::CONTRACT_VERSIONS
    )]
    Version,
    /// The token is unknown, used or expired: which one, nobody is told.
    #[error("acceptance_token is unknown or expired")]
    Token,
    /// A field is too long.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// What the caller vouches with isn't sound, or isn't its own.
    #[error("{0}")]
    Trust(String),
    /// Neither site can be dialled by the other.
    #[error(
        "neither of the two sites can be dialled: one of them needs a `url` in [federation] that the other reaches"
    )]
    Undialable,
    /// Its anchor is ours, or another live peer's.
    #[error("this trust anchor is in use here: every site has a CA of its own")]
    AnchorInUse,
    /// Another live peer is this site.
    #[error(transparent)]
    Conflict(Conflict),
    /// The peer has been stopped meanwhile.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// Nothing new is begun here. Who paused and why, is nobody else's business.
    #[error("this site takes no new peers for now: try again later; the token stays good")]
    Paused,
    /// The CA that signs for children can't be used.
    #[error("the CA that signs for children")]
    Children(#[from] ChildrenError),
    /// The ledger can't be written.
    #[error("the ledger can't be written")]
    Ledger(#[source] LedgerError),
    /// An answer can't be put into words: a fault of ours.
    #[error("the answer can't be written")]
    Answer(#[source] serde_json::Error),
}

impl AcceptError {
    /// The HTTP status, and the word for programs.
    #[must_use]
    pub const fn status(&self) -> (u16, &'static str) {
        match self {
            Self::NoToken => (422, "token_missing"),
            Self::Version => (422, "contract_version_unsupported"),
            Self::Token => (401, "UNAUTHORIZED"),
            Self::TooLong(_) => (422, "too_long"),
            Self::Trust(_) => (422, "trust_refused"),
            Self::Undialable => (422, "neither_dialable"),
            Self::AnchorInUse => (422, "anchor_in_use"),
            Self::Conflict(_) => (409, "conflict"),
            Self::Transition(_) => (422, "transition_refused"),
            Self::Paused => (503, "paused"),
            Self::Children(_) | Self::Ledger(_) | Self::Answer(_) => (500, "internal"),
        }
    }
}

/// What a caller has shown to be its own.
struct Proof {
    root_pem: String,
    root: Fingerprint,
    site: SiteId,
}

/// What a caller vouches with.
enum Shown {
    /// Its own CA, and the name that our certificate shall carry.
    Root(Proof, String),
    /// A key for us to sign, the CA that does, and the name that our certificate shall carry.
    Request(Box<Request>, Arc<SiteCa>, Option<String>),
    /// Nothing.
    Nothing,
}

impl Shown {
    /// What tells this caller from others.
    const fn fingerprint(&self) -> Option<Fingerprint> {
        match self {
            Self::Root(proof, _) => Some(proof.root),
            Self::Request(request, ..) => Some(request.fingerprint),
            Self::Nothing => None,
        }
    }
}

/// Whether a text can be the name that our certificate carries.
pub(super) const fn is_subject(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_SUBJECT
}

impl Gateway {
    /// Takes an acceptance: of a peer that we proposed. `secret` is random: a managed child's node is given it.
    ///
    /// # Errors
    /// It is refused, and nothing has changed: the token is as good as before.
    pub fn accept(
        &self,
        request: AcceptRequest,
        chain: &[CertificateDer<'_>],
        secret: [u8; 32],
        wall: Moment,
    ) -> Result<Value, AcceptError> {
        let token = request
            .acceptance_token
            .as_deref()
            .map(str::trim)
            .unwrap_or_default();
        if token.is_empty() {
            return Err(AcceptError::NoToken);
        }
        let version = contract_version(request.contract_version.as_ref()).ok_or(AcceptError::Version)?;
        let token = AcceptanceToken::parse(token)
            .map_err(|_| AcceptError::Token)?
            .digest();
        // Strangers cost us no more than this.
        if self
            .ledger
            .read(|book| book.offered(&token).is_none() && book.answered(&token).is_none())
        {
            return Err(AcceptError::Token);
        }
        request.said.check()?;
        if request.said.dialable == Some(false) && self.settings.url.is_none() {
            return Err(AcceptError::Undialable);
        }
        let subject = request
            .caller_inbound_subject
            .clone()
            .filter(|subject| !subject.is_empty());
        if subject.as_deref().is_some_and(|subject| !is_subject(subject)) {
            return Err(TooLong {
                field: "caller_inbound_subject",
                most: MAX_SUBJECT,
            }
            .into());
        }
        let now = self.ledger.read(|book| book.now(wall));
        let shown = match (&request.csr_pem, &request.peer_ca_bundle_pem, subject) {
            // Of both, the request counts.
            (Some(csr), _, subject) => {
                let request = self.asked_for(csr).map_err(AcceptError::Trust)?;
                Shown::Request(Box::new(request), self.children_ca(now)?, subject)
            }
            (None, Some(pem), Some(subject)) => Shown::Root(self.prove(pem, chain, now)?, subject),
            (None, Some(_), None) => {
                return Err(AcceptError::Trust(
                    "caller_inbound_subject is missing: peer_ca_bundle_pem needs it".to_owned(),
                ));
            }
            (None, None, _) => Shown::Nothing,
        };
        let accepted = self.ledger.transact(wall, |draft| {
            self.accept_in(draft, &token, version, shown, request.said, secret)
        });
        self.bridges_changed();
        accepted.map_err(|aborted| match aborted {
            Aborted::ByCaller(error) => error,
            Aborted::ByLedger(error) => AcceptError::Ledger(error),
        })
    }

    /// The caller must have the key of a certificate under the one root that it submits, and that root must be neither
    /// ours nor a child's.
    fn prove(&self, pem: &str, chain: &[CertificateDer<'_>], now: Moment) -> Result<Proof, AcceptError> {
        let refused = |error: PkiError| AcceptError::Trust(format!("peer_ca_bundle_pem: {error}"));
        let roots = certificates_of(pem).map_err(refused)?;
        let [root] = roots.as_slice() else {
            return Err(AcceptError::Trust(
                "peer_ca_bundle_pem has more than one certificate".to_owned(),
            ));
        };
        let fingerprint = check_root(root, now).map_err(refused)?;
        let ours: Vec<Fingerprint> = self
            .ledger
            .read(|book| signed_here(book.peers().map(AsRef::as_ref)).collect());
        if self.is_ours(fingerprint, ours.into_iter()) {
            return Err(AcceptError::AnchorInUse);
        }
        let leaf = chain.first().ok_or_else(|| {
            AcceptError::Trust(
                "a client certificate under peer_ca_bundle_pem is required: it proves that the CA is yours"
                    .to_owned(),
            )
        })?;
        verify_path(chain, std::slice::from_ref(root), Purpose::Client, now).map_err(|error| {
            AcceptError::Trust(format!(
                "the client certificate doesn't lead to peer_ca_bundle_pem: {error}"
            ))
        })?;
        let names = names_of(leaf).map_err(refused)?;
        let site = names
            .uris
            .iter()
            .find_map(|uri| SiteId::of_uri(uri))
            .ok_or_else(|| {
                AcceptError::Trust(
                    "the client certificate names no site: its URI reads spiffe://<site id>/gateway/<node>"
                        .to_owned(),
                )
            })?;
        if site == self.site {
            return Err(AcceptError::Trust(
                "the client certificate names this very site".to_owned(),
            ));
        }
        Ok(Proof {
            root_pem: pem_of(root),
            root: fingerprint,
            site,
        })
    }

    fn accept_in(
        &self,
        draft: &mut Draft<'_>,
        token: &TokenDigest,
        version: u32,
        shown: Shown,
        said: wire::Said,
        secret: [u8; 32],
    ) -> Result<Value, AcceptError> {
        let now = draft.now();
        let client = shown.fingerprint();
        if let Some(answer) = draft.answered(token) {
            // Its answer was lost on the way; to anyone else the token is as unknown as any.
            return if client == Some(answer.client) {
                let body = answer.body.clone();
                self.tell_again(draft, body, secret)
            } else {
                Err(AcceptError::Token)
            };
        }
        let mut peer = draft.offered(token).cloned().ok_or(AcceptError::Token)?;
        let offer = peer
            .offer
            .clone()
            .filter(|offer| now < offer.expires_at)
            .ok_or(AcceptError::Token)?;
        if offer.expect_ca.is_some_and(|expected| client != Some(expected)) {
            return Err(AcceptError::Token);
        }
        // Strangers don't hear of it; whose answer was lost has been accepted.
        may_begin(draft).map_err(|_| AcceptError::Paused)?;
        peer.happen(Event::Accept, None, now)?;
        peer.contract_version = Some(version);
        said.update(&mut peer.declared);
        let node_enrollment = self.enrolment_in(&mut peer, secret, now);
        let (trust_exchange, federation_certificate) =
            self.trust_in(draft, &mut peer, shown, token, node_enrollment.is_some())?;
        if peer.role == SpawnRole::Parent {
            manage_in(draft, &peer, &peer.id.to_string());
        }
        let payload = json!({ "site": peer.trust.as_ref().map(|trust| trust.site.to_string()), "contract_version": version });
        note_status(draft, &peer, payload);
        let scan = self.scan_in(draft, &peer);
        let mut warnings = scan.warnings;
        let cluster = self.cluster_for(&peer);
        if peer.mode == SpawnMode::ClusterMember && cluster.is_none() {
            warnings.push("the proposing site names no cluster yet: [federation.cluster]".to_owned());
        }
        let mut answer = AcceptAnswer {
            peer_id: peer.id,
            status: peer.status,
            peer_kind: "platform".to_owned(),
            contract_version_agreed: version,
            accepted_at: now,
            handshake_at: peer.last_handshake_at,
            trust_exchange,
            federation_certificate,
            node_enrollment: None,
            cluster,
            // Its rows begin as soon as this is written.
            sdwan_attach: self.attachment_with(&peer, &[]),
            governance: scan.outcome,
            warnings,
        };
        let body = serde_json::to_value(&answer).map_err(AcceptError::Answer)?;
        answer.node_enrollment = node_enrollment;
        let told = serde_json::to_value(&answer).map_err(AcceptError::Answer)?;
        if let Some(client) = client {
            draft.keep_answer(KeptAnswer {
                token: *token,
                client,
                // Without the node's token: that is kept nowhere.
                body,
                until: now.after(ANSWER_LIFE),
            });
        }
        draft.put_peer(peer).map_err(|conflict| match conflict {
            Conflict::Anchor(_) => AcceptError::AnchorInUse,
            Conflict::Url(_) | Conflict::Alias(_) | Conflict::Site(_) => AcceptError::Conflict(conflict),
        })?;
        Ok(told)
    }

    /// An answer that was lost is told again. The node's token in it was kept nowhere: another one takes its place, unless
    /// it was used.
    fn tell_again(
        &self,
        draft: &mut Draft<'_>,
        mut body: Value,
        secret: [u8; 32],
    ) -> Result<Value, AcceptError> {
        let id = body["peer_id"]
            .as_str()
            .and_then(|id| id.parse().ok())
            .map(PeerId);
        let found = id.and_then(|id| draft.peer(&id));
        if let Some(mut peer) = found.filter(|peer| peer.enrolment.is_some()).cloned() {
            let enrollment = self.enrolment_in(&mut peer, secret, draft.now());
            body["node_enrollment"] = serde_json::to_value(enrollment).map_err(AcceptError::Answer)?;
            draft.put_peer(peer).map_err(AcceptError::Conflict)?;
        }
        Ok(body)
    }

    /// Takes over what the caller vouches with; says what it gets for it: our root, or its certificate.
    fn trust_in(
        &self,
        draft: &Draft<'_>,
        peer: &mut Peer,
        shown: Shown,
        token: &TokenDigest,
        has_node: bool,
    ) -> Result<(Option<TrustExchange>, Option<Signed>), AcceptError> {
        match shown {
            Shown::Root(proof, subject) => {
                let exchange = self.enroll_in(draft, peer, proof, subject, token)?;
                Ok((Some(exchange), None))
            }
            Shown::Request(request, children, subject) => {
                let words = verification_words(self.ca.fingerprint(), request.fingerprint, token);
                peer.words = Some(words.join(" "));
                let subject = subject.unwrap_or_else(|| peer.id.subject());
                let signed = self
                    .sign_in(draft, peer, &request, subject, &children)
                    .map_err(ChildrenError::Pki)?;
                peer.happen(Event::Enroll, None, draft.now())?;
                Ok((None, Some(signed)))
            }
            Shown::Nothing => {
                let reason = if has_node {
                    "its node hasn't asked for its certificate yet"
                } else {
                    "no trust was exchanged: the caller sent neither peer_ca_bundle_pem nor csr_pem; revoke it and propose anew"
                };
                peer.reason = Some(reason.to_owned());
                Ok((None, None))
            }
        }
    }

    /// Takes over what the caller has shown to be its own; says what it gets for it.
    fn enroll_in(
        &self,
        draft: &Draft<'_>,
        peer: &mut Peer,
        proof: Proof,
        subject: String,
        token: &TokenDigest,
    ) -> Result<TrustExchange, AcceptError> {
        let now = draft.now();
        let words = verification_words(self.ca.fingerprint(), proof.root, token);
        peer.words = Some(words.join(" "));
        peer.generation = 1 + generations(draft, &proof.site);
        peer.trust = Some(Trust {
            site: proof.site,
            anchors: vec![Anchor {
                pem: proof.root_pem,
                fingerprint: proof.root,
                since: now,
                until: None,
                proven: true,
            }],
            sequence: 1,
            outbound_subject: subject,
            signed_here: Vec::new(),
        });
        peer.happen(Event::Enroll, None, now)?;
        Ok(TrustExchange {
            ca_bundle_pem: self.ca.pem(),
            assigned_inbound_subject: peer.id.subject(),
        })
    }
}

/// How often this site was a peer before.
pub(super) fn generations(draft: &Draft<'_>, site: &SiteId) -> u32 {
    let same = |peer: &&Peer| peer.trust.as_ref().is_some_and(|trust| trust.site == *site);
    let before = draft.peers().filter(|peer| !peer.status.is_live()).filter(same);
    before.map(|peer| peer.generation).max().unwrap_or(0)
}
