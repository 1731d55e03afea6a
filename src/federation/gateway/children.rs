//! Sites that we spawned: what we sign for them, what their operators let us do, and how they come to be on their own.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::accept::generations;
use super::grants::GrantError;
use super::{ANSWER_LIFE, Gateway, note_status};
use crate::federation::anchors::OVERLAP;
use crate::federation::grant::{Grant, GrantId, Origin, Scope, State, Terms};
use crate::federation::identity::Stranger;
use crate::federation::ledger::{Aborted, Conflict, Draft, Happening, KeptAnswer, LedgerError};
use crate::federation::moment::Moment;
use crate::federation::peer::{
    Anchor, Enrolment, Event, Peer, PeerId, SpawnMode, SpawnRole, Status, TransitionError, Trust,
};
use crate::federation::pki::authority::StoreError;
use crate::federation::pki::request::{Request, Signed};
use crate::federation::pki::{PkiError, SiteCa};
use crate::federation::token::{BootstrapToken, Fingerprint, TokenDigest, verification_words};
use crate::federation::wire::{NodeEnrollment, RenewAnswer, RenewRequest};

/// How long a node of a managed child may ask for its first certificate.
const ENROLMENT: Duration = Duration::from_secs(3_600);
/// How long a parent's authority over a managed child lasts.
const MANAGED: Duration = Duration::from_secs(365 * 86_400);
/// What kind of thing that authority is of.
const MANAGED_KIND: &str = "managed_child_operator";
/// What nothing hashes to: who has the grant shows its certificate, and no token.
const NO_TOKEN: TokenDigest = TokenDigest([0; 32]);

/// A certificate isn't signed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// Nobody whom we know.
    #[error(transparent)]
    Stranger(#[from] Stranger),
    /// The bootstrap token is unknown, used or expired: which one, nobody is told.
    #[error("bootstrap_token is unknown or expired")]
    Token,
    /// The request isn't sound, or isn't the caller's.
    #[error("{0}")]
    Request(String),
    /// It has had too much written of late.
    #[error("too many certificates or too much news in a minute or a day: ask again later")]
    TooMuch,
    /// The caller's certificates are its own CA's.
    #[error("your certificates are signed by your own CA: renew them there")]
    Sovereign,
    /// Another live peer is this site.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The peer has been stopped meanwhile.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// The CA that signs for children can't be used.
    #[error("the CA that signs for children")]
    Children(#[from] ChildrenError),
    /// An answer can't be put into words: a fault of ours.
    #[error("the answer can't be written")]
    Answer(#[from] serde_json::Error),
    /// The ledger can't be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl From<Aborted<Self>> for RenewError {
    fn from(aborted: Aborted<Self>) -> Self {
        match aborted {
            Aborted::ByCaller(error) => error,
            Aborted::ByLedger(error) => Self::Ledger(error),
        }
    }
}

/// The CA that signs for children can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ChildrenError {
    /// Its files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its key.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

impl Gateway {
    /// The CA that signs for children, drawn when the first one asks.
    pub(super) fn children_ca(&self, now: Moment) -> Result<Arc<SiteCa>, ChildrenError> {
        let mut known = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ca) = &*known {
            return Ok(Arc::clone(ca));
        }
        let kept = match &self.store {
            Some(store) => store.children(&self.site, Some(now))?,
            None => None,
        };
        let ca = match kept {
            Some(ca) => ca,
            None => SiteCa::for_children(&self.site, now)?.0,
        };
        Ok(Arc::clone(known.insert(Arc::new(ca))))
    }

    /// Whether a CA is ours, the one that signs for children included: nobody else may vouch with it.
    pub(super) fn is_ours(&self, fingerprint: Fingerprint, peers: impl Iterator<Item = Fingerprint>) -> bool {
        self.ca.is_own(fingerprint) || peers.into_iter().any(|ours| ours == fingerprint)
    }

    /// Takes over what a child has asked for, and signs it.
    pub(super) fn sign_in(
        &self,
        draft: &Draft<'_>,
        peer: &mut Peer,
        request: &Request,
        outbound_subject: String,
        children: &SiteCa,
    ) -> Result<Signed, PkiError> {
        let now = draft.now();
        let mut signed = children.sign(request, &peer.id.subject(), now)?;
        signed.ca_chain_pem.push_str(&self.ca.pem());
        if let Some(trust) = &mut peer.trust {
            signs_now(trust, children, now);
        } else {
            peer.generation = 1 + generations(draft, &request.site);
            peer.trust = Some(Trust {
                site: request.site.clone(),
                // It tells us of its own CA with its beats: then its listener can be known, too.
                anchors: Vec::new(),
                sequence: 0,
                outbound_subject,
                signed_here: vec![anchor(children, now)],
            });
        }
        Ok(signed)
    }

    /// What a node of a managed child asks for its certificate with. What was drawn before is void.
    pub(super) fn enrolment_in(
        &self,
        peer: &mut Peer,
        secret: [u8; 32],
        now: Moment,
    ) -> Option<NodeEnrollment> {
        if !is_managed_here(peer) {
            return None;
        }
        let (token, expires_at) = (BootstrapToken::new(secret), now.after(ENROLMENT));
        peer.enrolment = Some(Enrolment {
            digest: token.digest(),
            expires_at,
        });
        Some(NodeEnrollment {
            bootstrap_token: token.reveal(),
            platform_url: self.settings.url.as_ref().map(ToString::to_string),
            intended_subject: peer.id.subject(),
            expires_at,
        })
    }

    /// Signs another certificate for a child that is known by its present one; or the first one for a node that has the
    /// bootstrap token of its site.
    ///
    /// # Errors
    /// It is nobody's whom we sign for, or the request isn't sound.
    pub fn renewed(
        &self,
        chain: &[CertificateDer<'_>],
        request: RenewRequest,
        wall: Moment,
    ) -> Result<RenewAnswer, RenewError> {
        let RenewRequest {
            csr_pem,
            bootstrap_token,
            caller_inbound_subject,
        } = request;
        let asked = |csr_pem: Option<String>| {
            let csr_pem = csr_pem.ok_or_else(|| RenewError::Request("csr_pem is missing".to_owned()))?;
            self.asked_for(&csr_pem).map_err(RenewError::Request)
        };
        let now = self.ledger.read(|book| book.now(wall));
        if let Some(token) = bootstrap_token.filter(|token| !token.trim().is_empty()) {
            let token = BootstrapToken::parse(&token).ok_or(RenewError::Token)?.digest();
            // Strangers cost us no more than this.
            if self
                .ledger
                .read(|book| book.enrolling(&token).is_none() && book.answered(&token).is_none())
            {
                return Err(RenewError::Token);
            }
            let request = asked(csr_pem)?;
            let children = self.children_ca(now)?;
            return Ok(self.ledger.transact(wall, |draft| {
                self.enrol_in(draft, &token, &request, caller_inbound_subject, &children)
            })?);
        }
        let peer = self.identify(chain, wall)?;
        if !is_signed_for(&peer, now) {
            return Err(RenewError::Sovereign);
        }
        let request = asked(csr_pem)?;
        if !self.quota.take(peer.id, now) {
            return Err(RenewError::TooMuch);
        }
        let children = self.children_ca(now)?;
        let answer = self.ledger.transact(wall, |draft| {
            // The row may have moved since the caller was known: judged again where it counts.
            let found = draft.peer(&peer.id).filter(|peer| peer.status.may_call());
            let mut peer = found.cloned().ok_or(Stranger::NotNow(peer.id))?;
            if !is_signed_for(&peer, now) {
                return Err(RenewError::Sovereign);
            }
            self.another_in(draft, &mut peer, &request, &children)
        })?;
        Ok(answer)
    }

    /// A sound request, of another site than this one.
    pub(super) fn asked_for(&self, csr_pem: &str) -> Result<Request, String> {
        let request = Request::parse(csr_pem).map_err(|error| error.to_string())?;
        if request.site == self.site {
            return Err("csr_pem names this very site".to_owned());
        }
        Ok(request)
    }

    fn another_in(
        &self,
        draft: &mut Draft<'_>,
        peer: &mut Peer,
        request: &Request,
        children: &SiteCa,
    ) -> Result<RenewAnswer, RenewError> {
        if peer
            .trust
            .as_ref()
            .is_some_and(|trust| trust.site != request.site)
        {
            return Err(RenewError::Request(
                "csr_pem names another site than yours".to_owned(),
            ));
        }
        let outbound = peer.id.subject();
        let signed = self
            .sign_in(draft, peer, request, outbound, children)
            .map_err(ChildrenError::Pki)?;
        draft.note(Happening {
            kind: "federation.peer.certificate_issued".to_owned(),
            severity: "low",
            peer: Some(peer.id),
            payload: json!({ "serial": signed.serial, "not_after": signed.not_after }),
        });
        draft.put_peer(peer.clone())?;
        Ok(RenewAnswer {
            peer_id: peer.id,
            status: peer.status,
            federation_certificate: signed,
        })
    }

    fn enrol_in(
        &self,
        draft: &mut Draft<'_>,
        token: &TokenDigest,
        request: &Request,
        outbound_subject: Option<String>,
        children: &SiteCa,
    ) -> Result<RenewAnswer, RenewError> {
        let now = draft.now();
        if let Some(kept) = draft.answered(token) {
            // Its answer was lost on the way; to anyone else the token is as unknown as any.
            return if kept.client == request.fingerprint {
                Ok(serde_json::from_value(kept.body.clone())?)
            } else {
                Err(RenewError::Token)
            };
        }
        let mut peer = draft.enrolling(token).cloned().ok_or(RenewError::Token)?;
        peer.enrolment = None;
        if peer.words.is_none() {
            let words = verification_words(self.ca.fingerprint(), request.fingerprint, token);
            peer.words = Some(words.join(" "));
        }
        if peer.trust.is_none() {
            let outbound = outbound_subject.filter(|subject| super::accept::is_subject(subject));
            peer.trust = Some(Trust {
                site: request.site.clone(),
                anchors: Vec::new(),
                sequence: 0,
                outbound_subject: outbound.unwrap_or_else(|| peer.id.subject()),
                signed_here: Vec::new(),
            });
            peer.generation = 1 + generations(draft, &request.site);
        }
        if peer.status == Status::Accepted {
            peer.happen(Event::Enroll, None, now)?;
            note_status(
                draft,
                &peer,
                json!({ "site": request.site, "by": "node_enrollment" }),
            );
        }
        let answer = self.another_in(draft, &mut peer, request, children)?;
        draft.keep_answer(KeptAnswer {
            token: *token,
            client: request.fingerprint,
            body: serde_json::to_value(&answer)?,
            until: now.after(ANSWER_LIFE),
        });
        Ok(answer)
    }

    /// A managed child, or its parent, says what the child is: whether it is on its own now. Each may end the parent's
    /// authority, and neither can begin it by a word.
    pub(super) fn hear_emancipation(
        &self,
        peer: &Peer,
        said: Option<&str>,
        wall: Moment,
    ) -> Result<(), LedgerError> {
        if is_managed(peer) && said == Some(SpawnMode::AutonomousPeer.as_str()) {
            self.released(peer.id, wall)?;
        }
        Ok(())
    }

    /// The child is on its own now: its operator has taken the parent's authority back, or the parent's has given it up.
    fn released(&self, id: PeerId, wall: Moment) -> Result<(), LedgerError> {
        let released = self.ledger.transact(wall, |draft| {
            let found = draft.peer(&id).filter(|peer| is_managed(peer));
            if let Some(mut peer) = found.cloned() {
                let now = draft.now();
                let given: Vec<Grant> = authority_of(draft, id, now).cloned().collect();
                for mut grant in given {
                    grant.revoked_at = Some(now);
                    grant.revoke_reason = Some("emancipated_by_peer".to_owned());
                    draft.note(Happening {
                        kind: "federation.grant.revoked".to_owned(),
                        severity: "medium",
                        peer: Some(id),
                        payload: json!({ "grant": grant.id, "reason": "emancipated_by_peer" }),
                    });
                    draft.put_grant(grant);
                }
                emancipate_in(draft, &mut peer, "peer");
                draft.put_peer(peer)?;
            }
            Ok::<_, Conflict>(())
        });
        match released {
            Err(Aborted::ByLedger(error)) => Err(error),
            Ok(()) | Err(Aborted::ByCaller(_)) => Ok(()),
        }
    }
}

fn anchor(ca: &SiteCa, now: Moment) -> Anchor {
    Anchor {
        pem: ca.pem().to_owned(),
        fingerprint: ca.fingerprint(),
        since: now,
        until: None,
        proven: true,
    }
}

/// Whether we sign for a peer: not for one that is on its own, and whose own CA we know.
fn is_signed_for(peer: &Peer, now: Moment) -> bool {
    let is_on_its_own = |trust: &Trust| !is_managed(peer) && trust.anchors_at(now).next().is_some();
    let trust = peer.trust.as_ref();
    trust.is_some_and(|trust| trust.is_signed_here(now) && !is_on_its_own(trust))
}

/// This CA of ours signs for the peer from now on.
fn signs_now(trust: &mut Trust, children: &SiteCa, now: Moment) {
    let signs = children.fingerprint();
    trust.signed_here.retain(|anchor| anchor.is_good(now));
    for anchor in &mut trust.signed_here {
        if anchor.fingerprint == signs {
            anchor.until = None;
        } else {
            anchor.end_at(now.after(OVERLAP));
        }
    }
    if trust.signed_here.iter().all(|anchor| anchor.fingerprint != signs) {
        trust.signed_here.push(anchor(children, now));
    }
}

/// The CAs of ours that some peer's calls may lead to.
pub(super) fn signed_here<'a>(peers: impl Iterator<Item = &'a Peer>) -> impl Iterator<Item = Fingerprint> {
    let trusts = peers.filter_map(|peer| peer.trust.as_ref());
    trusts.flat_map(|trust| trust.signed_here.iter().map(|anchor| anchor.fingerprint))
}

/// Whether it is a managed child of this site.
const fn is_managed_here(peer: &Peer) -> bool {
    match peer.role {
        SpawnRole::Parent | SpawnRole::Symmetric => is_managed(peer),
        SpawnRole::Child => false,
    }
}

pub(super) const fn is_managed(peer: &Peer) -> bool {
    matches!(peer.mode, SpawnMode::ManagedChild)
}

/// The parent's authority over a managed child that is in force.
fn authority_of<'a>(draft: &'a Draft<'_>, id: PeerId, now: Moment) -> impl Iterator<Item = &'a Grant> {
    draft.grants().filter(move |grant| {
        grant.peer == id && grant.origin == Origin::ManagedChildOperator && grant.state(now) == State::Active
    })
}

/// Writes the authority of a parent over its managed child, for a year: at the parent, for the record; at the child, where
/// it is what the parent's calls are judged by. Once, however often it is asked for.
pub(super) fn manage_in(draft: &mut Draft<'_>, peer: &Peer, parents_name: &str) {
    let now = draft.now();
    if !is_managed(peer) || authority_of(draft, peer.id, now).next().is_some() {
        return;
    }
    let id = Sha256::new()
        .chain_update(b"sdwand managed child")
        .chain_update(peer.id.0.as_bytes())
        .chain_update(now.millis().to_be_bytes())
        .finalize();
    let mut random = [0; 10];
    random.copy_from_slice(&id[..10]);
    let terms = Terms {
        remote_subject: format!("parent-operator@{parents_name}"),
        resource_kind: MANAGED_KIND.to_owned(),
        scopes: [Scope::Read, Scope::Write, Scope::Admin].into(),
        ..Terms::default()
    };
    let given = Grant::new(GrantId(now.uuid(random)), peer.id, terms, NO_TOKEN, now, MANAGED)
        .map_err(GrantError::from)
        .and_then(|mut grant| {
            grant.origin = Origin::ManagedChildOperator;
            super::grants::put(draft, grant, None)
        });
    if let Err(error) = given {
        // The peering stands without: as after a year, the child is managed by name only.
        tracing::error!(peer = %peer.id, %error, "a parent's authority over its child can't be written");
    }
}

/// A managed child is on its own from now on.
pub(super) fn emancipate_in(draft: &mut Draft<'_>, peer: &mut Peer, by: &str) {
    if !is_managed(peer) {
        return;
    }
    peer.mode = SpawnMode::AutonomousPeer;
    let now = draft.now();
    // What we signed is good until it has moved on to its own, if we know that.
    if let Some(trust) = &mut peer.trust
        && trust.anchors_at(now).next().is_some()
    {
        for anchor in &mut trust.signed_here {
            anchor.end_at(now.after(OVERLAP));
        }
    }
    // Who still has its node's token has it from the parent.
    peer.enrolment = None;
    draft.note(Happening {
        kind: "federation.peer.emancipated".to_owned(),
        severity: "high",
        peer: Some(peer.id),
        payload: json!({ "by": by, "spawn_role": peer.role }),
    });
}
