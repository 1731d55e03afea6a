//! Accepting, on both sides: of who proposed and is called, and of who holds the token and calls.

use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use super::{ANSWER_LIFE, Gateway, VERSION, note_status};
use crate::federation::ledger::{Aborted, Conflict, Draft, KeptAnswer, LedgerError};
use crate::federation::moment::Moment;
use crate::federation::peer::{Anchor, Event, Peer, PeerId, TransitionError, Trust};
use crate::federation::pki::verify::{Purpose, check_root, names_of, verify_path};
use crate::federation::pki::{PkiError, certificates_of, pem_of};
use crate::federation::site::SiteId;
use crate::federation::token::{AcceptanceToken, Fingerprint, TokenDigest, TokenError, verification_words};
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
    /// Its anchor is ours, or another live peer's.
    #[error("this trust anchor is in use here: every site has a CA of its own")]
    AnchorInUse,
    /// Another live peer is this site.
    #[error(transparent)]
    Conflict(Conflict),
    /// The peer has been stopped meanwhile.
    #[error(transparent)]
    Transition(#[from] TransitionError),
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
            Self::AnchorInUse => (422, "anchor_in_use"),
            Self::Conflict(_) => (409, "conflict"),
            Self::Transition(_) => (422, "transition_refused"),
            Self::Ledger(_) | Self::Answer(_) => (500, "internal"),
        }
    }
}

/// What a caller has shown to be its own.
struct Proof {
    root_pem: String,
    root: Fingerprint,
    site: SiteId,
}

impl Gateway {
    /// Takes an acceptance: of a peer that we proposed.
    ///
    /// # Errors
    /// It is refused, and nothing has changed: the token is as good as before.
    pub fn accept(
        &self,
        request: AcceptRequest,
        chain: &[CertificateDer<'_>],
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
        let subject = request
            .caller_inbound_subject
            .clone()
            .filter(|subject| !subject.is_empty());
        if subject
            .as_ref()
            .is_some_and(|subject| subject.len() > MAX_SUBJECT)
        {
            return Err(TooLong {
                field: "caller_inbound_subject",
                most: MAX_SUBJECT,
            }
            .into());
        }
        let now = self.ledger.read(|book| book.now(wall));
        let proof = match (&request.peer_ca_bundle_pem, subject) {
            (Some(pem), Some(subject)) => Some((self.prove(pem, chain, now)?, subject)),
            (Some(_), None) => {
                return Err(AcceptError::Trust(
                    "caller_inbound_subject is missing: peer_ca_bundle_pem needs it".to_owned(),
                ));
            }
            (None, _) => None,
        };
        let accepted = self.ledger.transact(wall, |draft| {
            self.accept_in(draft, &token, version, proof, request.said)
        });
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
        if self.ca.is_own(fingerprint) {
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
        proof: Option<(Proof, String)>,
        said: wire::Said,
    ) -> Result<Value, AcceptError> {
        let now = draft.now();
        let client = proof.as_ref().map(|(proof, _)| proof.root);
        if let Some(answer) = draft.answered(token) {
            // Its answer was lost on the way; to anyone else the token is as unknown as any.
            return if client == Some(answer.client) {
                Ok(answer.body.clone())
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
        peer.happen(Event::Accept, None, now)?;
        peer.contract_version = Some(version);
        said.update(&mut peer.declared);
        let trust_exchange = if let Some((proof, subject)) = proof {
            Some(self.enroll_in(draft, &mut peer, proof, subject, token)?)
        } else {
            let reason =
                "no trust was exchanged: the caller sent no peer_ca_bundle_pem; revoke it and propose anew";
            peer.reason = Some(reason.to_owned());
            None
        };
        let payload = json!({ "site": peer.trust.as_ref().map(|trust| trust.site.to_string()), "contract_version": version });
        note_status(draft, &peer, payload);
        let scan = self.scan_in(draft, &peer);
        let answer = AcceptAnswer {
            peer_id: peer.id,
            status: peer.status,
            peer_kind: "platform".to_owned(),
            contract_version_agreed: version,
            accepted_at: now,
            handshake_at: peer.last_handshake_at,
            trust_exchange,
            sdwan_attach: self.attachment(&peer),
            governance: scan.outcome,
            warnings: scan.warnings,
        };
        let body = serde_json::to_value(&answer).map_err(AcceptError::Answer)?;
        if let Some(client) = client {
            draft.keep_answer(KeptAnswer {
                token: *token,
                client,
                body: body.clone(),
                until: now.after(ANSWER_LIFE),
            });
        }
        draft.put_peer(peer).map_err(|conflict| match conflict {
            Conflict::Anchor(_) => AcceptError::AnchorInUse,
            Conflict::Url(_) | Conflict::Alias(_) | Conflict::Site(_) => AcceptError::Conflict(conflict),
        })?;
        Ok(body)
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
        });
        peer.happen(Event::Enroll, None, now)?;
        Ok(TrustExchange {
            ca_bundle_pem: self.ca.pem(),
            assigned_inbound_subject: peer.id.subject(),
        })
    }
}

/// How often this site was a peer before.
fn generations(draft: &Draft<'_>, site: &SiteId) -> u32 {
    let same = |peer: &&Peer| peer.trust.as_ref().is_some_and(|trust| trust.site == *site);
    let before = draft.peers().filter(|peer| !peer.status.is_live()).filter(same);
    before.map(|peer| peer.generation).max().unwrap_or(0)
}

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
    /// What the other side answered makes no sense.
    #[error("the answer of the other site makes no sense: {0}")]
    Answer(String),
    /// Another live peer is this site.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The ledger can't be written.
    #[error("the ledger can't be written")]
    Ledger(#[source] LedgerError),
}

impl Gateway {
    /// Prepares the call by which a token is taken to its site. Nothing changes yet.
    ///
    /// # Errors
    /// The token is damaged or our own, or the peer isn't one that can be accepted.
    pub fn accepting(&self, id: PeerId, token: &str) -> Result<Accepting, TakeError> {
        let token = AcceptanceToken::parse(token)?;
        if self.ca.is_own(token.ca()) {
            return Err(TakeError::Own);
        }
        let peer = self
            .ledger
            .read(|book| book.peer(&id).map(|peer| (**peer).clone()));
        let peer = peer.ok_or(TakeError::Unknown(id))?;
        peer.clone().happen(Event::Accept, None, peer.since)?;
        let request = AcceptRequest {
            acceptance_token: Some(token.reveal()),
            contract_version: Some(json!(wire::CONTRACT_VERSIONS[0])),
            peer_ca_bundle_pem: Some(self.ca.pem()),
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
        answer: AcceptAnswer,
        served: &[CertificateDer<'_>],
        wall: Moment,
    ) -> Result<Peer, TakeError> {
        let unsound = |text: &str| TakeError::Answer(text.to_owned());
        let exchange = answer
            .trust_exchange
            .ok_or_else(|| unsound("it exchanged no trust"))?;
        let roots =
            certificates_of(&exchange.ca_bundle_pem).map_err(|error| TakeError::Answer(error.to_string()))?;
        let now = self.ledger.read(|book| book.now(wall));
        let root = roots
            .first()
            .filter(|_| roots.len() == 1)
            .ok_or_else(|| unsound("its CA bundle isn't one root"))?;
        let found = check_root(root, now).map_err(|error| TakeError::Answer(error.to_string()))?;
        if found != accepting.pinned {
            return Err(unsound("its CA isn't the one that the token names"));
        }
        let leaf = served
            .first()
            .ok_or_else(|| unsound("it showed no certificate"))?;
        let names = names_of(leaf).map_err(|error| TakeError::Answer(error.to_string()))?;
        let site = names.uris.iter().find_map(|uri| SiteId::of_uri(uri));
        let site = site
            .filter(|site| *site != self.site)
            .ok_or_else(|| unsound("its certificate names no site, or this one"))?;
        if PeerId::of_subject(&exchange.assigned_inbound_subject).is_none() {
            return Err(unsound("the name that it assigned reads not fed:<id>"));
        }
        let taken = self.ledger.transact(wall, |draft| {
            let now = draft.now();
            let mut peer = draft
                .peer(&accepting.peer.id)
                .cloned()
                .ok_or(TakeError::Unknown(accepting.peer.id))?;
            peer.happen(Event::Accept, None, now)?;
            let words = verification_words(accepting.pinned, self.ca.fingerprint(), &accepting.digest);
            peer.words = Some(words.join(" "));
            peer.contract_version = Some(answer.contract_version_agreed);
            peer.generation = 1 + generations(draft, &site);
            peer.trust = Some(Trust {
                site: site.clone(),
                anchors: vec![Anchor {
                    pem: pem_of(root),
                    fingerprint: found,
                    since: now,
                    until: None,
                    proven: true,
                }],
                sequence: 1,
                outbound_subject: exchange.assigned_inbound_subject.clone(),
            });
            peer.happen(Event::Enroll, None, now)?;
            note_status(
                draft,
                &peer,
                json!({ "site": site.to_string(), "platform_version": VERSION }),
            );
            draft.put_peer(peer.clone())?;
            Ok(peer)
        });
        taken.map_err(|aborted| match aborted {
            Aborted::ByCaller(error) => error,
            Aborted::ByLedger(error) => TakeError::Ledger(error),
        })
    }
}
