//! What a gateway asks of its peers: each call under that peer's anchors alone, with the certificate that it expects.

mod bridge;
mod subscription;

use std::net::IpAddr;
use std::sync::Arc;

use hyper::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::CertificateDer;
use serde_json::Value;

use super::client::{Call, CallError, Reply, Ways, call, call_by, call_over, call_within};
use super::endpoints::{self, Bounds};
use super::gateway::{Basis, BeatError, BridgeError, Gateway, TakeError};
use super::moment::Moment;
use super::overlay::OverlayError;
use super::peer::{Peer, PeerId, SpawnMode, SpawnRole, Status};
use super::pki::authority::StoreError;
use super::pki::tls::{Callee, client_config};
use super::pki::{PkiError, Usage, certificates_of};
use super::policy::Policy;
use super::url::{PeerUrl, UrlError};
use super::wire::{
    AcceptAnswer, HeartbeatAnswer, HeartbeatRequest, Notice, NoticeRequest, RenewAnswer, ResourceAnswer,
};
use crate::model::Name;

/// A peer couldn't be asked, or didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The token isn't sound, or what came back isn't.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// It wasn't reached.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It refused.
    #[error("the other site refused ({status}): {error}")]
    Refused {
        /// Its HTTP status.
        status: u16,
        /// Its words.
        error: String,
    },
    /// It answered something else than it was asked.
    #[error("the answer isn't to this call: {0}")]
    Unsound(&'static str),
    /// Our certificate can't be made.
    #[error("our own certificate")]
    Pki(#[from] PkiError),
    /// Its URL is none: an old row.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// What it said can't be taken over.
    #[error(transparent)]
    Beat(#[from] BeatError),
    /// What it said of a bridge can't be taken.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    /// No bridge leads to it.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// A call can't be written.
    #[error("the call can't be written")]
    Body(#[from] serde_json::Error),
    /// It may not be called as it stands.
    #[error("a peer that is {0} isn't called")]
    Standing(Status),
    /// What a parent signs can't be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A child that hasn't said yet what its listener vouches with.
    #[error("peer {0} hasn't told yet which CA its listener has: its heartbeats do")]
    NoAnchor(PeerId),
    /// It says itself that it can't be dialled.
    #[error("peer {0} says that it can't be dialled: it calls us")]
    Undialable(PeerId),
    /// There is no trust with it.
    #[error("no trust was exchanged with peer {0}")]
    NoTrust(PeerId),
}

impl DialError {
    /// Whether the peer itself turned us away: it doesn't know us any more.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: 401 | 403,
                ..
            }
        )
    }
}

impl Gateway {
    /// Takes a token to its site, for a peer that is registered here. The secret is shown only to who has the CA that the
    /// token names.
    ///
    /// # Errors
    /// At the step that the error names; the same call may be made again.
    pub async fn take(&self, id: PeerId, token: &str, wall: Moment) -> Result<Peer, DialError> {
        let accepting = self.accepting(id, token)?;
        let url = PeerUrl::new(&accepting.peer.url)?;
        let leaf = self
            .ca
            .issue(&self.site, &self.node, Usage::Call { subject: "accept" }, wall)?;
        let tls = client_config(Callee::Pinned(accepting.pinned), Some(&leaf))?;
        let body = serde_json::to_vec(&accepting.request)?;
        let reply = call(Arc::new(tls), &url, posted("accept", body)).await?;
        let (data, chain) = accepted(reply)?;
        let answer: AcceptAnswer =
            serde_json::from_value(data).map_err(|error| TakeError::Answer(error.to_string()))?;
        Ok(self.accepted(&accepting, &answer, &chain, wall)?)
    }

    /// One beat: both know of each other when it is answered. `nonce` is random.
    ///
    /// # Errors
    /// It wasn't answered, or not by who was asked.
    pub async fn beat_to(
        &self,
        peer: &Peer,
        nonce: [u8; 16],
        sequence: u64,
        wall: Moment,
    ) -> Result<(), DialError> {
        let request = self.beating(peer.id, nonce, sequence);
        let body = serde_json::to_vec(&request)?;
        let data = self.beat_peer(peer, posted("heartbeat", body), wall).await?;
        let answered = self.beat_answered(peer.id, &request, data, wall);
        if answered.is_err() {
            self.hang_up(peer.id);
        }
        answered
    }

    /// What a beat to a peer says. `nonce` is random.
    #[must_use]
    pub fn beating(&self, id: PeerId, nonce: [u8; 16], sequence: u64) -> HeartbeatRequest {
        let mark = self.mark();
        HeartbeatRequest {
            nonce: Some(format!("{:032x}", u128::from_be_bytes(nonce))),
            sequence: Some(sequence),
            ledger_epoch: Some(mark.epoch),
            audit_head: Some(mark.head.to_string()),
            witnessed: self.seen_of(id).map(|mark| mark.to_string()),
            trust: self.tell_trust(id),
            spawn_mode: self.spawned_as(id),
            bridges: self.tell_bridges(id),
            said: self.said(),
        }
    }

    /// Takes over what a peer answered to `request`, over a connection that has proved who it is.
    ///
    /// # Errors
    /// It is no answer to this beat, and nothing has changed; or what it says can't be taken over.
    pub fn beat_answered(
        &self,
        id: PeerId,
        request: &HeartbeatRequest,
        data: Value,
        wall: Moment,
    ) -> Result<(), DialError> {
        let answer: HeartbeatAnswer =
            serde_json::from_value(data).map_err(|_| DialError::Unsound("it isn't the answer to a beat"))?;
        if answer.nonce != request.nonce || answer.sequence != request.sequence {
            return Err(DialError::Unsound("it is to another beat"));
        }
        Ok(self.answered(id, &answer, wall)?)
    }
}

impl Gateway {
    /// What one of the two is to the other that spawned it, for the other's eyes.
    pub(super) fn spawned_as(&self, id: PeerId) -> Option<String> {
        let peer = self.ledger.read(|book| book.peer(&id).cloned())?;
        let is_told = match peer.role {
            SpawnRole::Child | SpawnRole::Parent => true,
            // A managed child that is called an equal hears of its emancipation all the same.
            SpawnRole::Symmetric => peer.mode == SpawnMode::AutonomousPeer,
        };
        is_told.then(|| peer.mode.as_str().to_owned())
    }

    /// Asks a parent for another certificate.
    ///
    /// # Errors
    /// It wasn't signed, or can't be kept: the present one stays.
    pub async fn renew_with(&self, peer: &Peer, wall: Moment) -> Result<(), DialError> {
        let body = serde_json::to_vec(&self.renewing(peer.id)?)?;
        let data = self.call_peer(peer, posted("renew", body), wall).await?;
        let answer: RenewAnswer = serde_json::from_value(data)
            .map_err(|_| DialError::Unsound("it isn't the answer to a renewal"))?;
        Ok(self.take_renewed(peer.id, &answer.federation_certificate, wall)?)
    }

    /// Reads a resource at a peer, with a grant of its operator's.
    ///
    /// # Errors
    /// It wasn't told.
    pub async fn fetch(
        &self,
        id: PeerId,
        wanted: &Wanted,
        wall: Moment,
    ) -> Result<ResourceAnswer, DialError> {
        let peer = self.ledger.read(|book| book.peer(&id).cloned());
        let peer = peer.ok_or(TakeError::Unknown(id))?;
        if !peer.status.may_call() {
            return Err(DialError::Standing(peer.status));
        }
        let segment = |text: &str| utf8_percent_encode(text, SEGMENT).to_string();
        let mut path = format!("resources/{}", segment(&wanted.kind));
        if let Some(id) = &wanted.id {
            path = format!("{path}/{}", segment(id));
        } else if let Some(after) = &wanted.after {
            path = format!("{path}?after={}", segment(after));
        }
        let call = Call {
            method: Method::GET,
            path: &path,
            bearer: wanted.bearer.as_deref().map(str::trim),
            body: None,
        };
        let data = match &wanted.network {
            None => self.call_peer(&peer, call, wall).await?,
            Some(network) => self.call_within(&peer, network, call, wall).await?,
        };
        serde_json::from_value(data).map_err(|_| DialError::Unsound("it tells of no resource"))
    }

    /// Tells a peer what our operator has done to it. It needn't be reached: its own calls will show it.
    ///
    /// # Errors
    /// It wasn't told.
    pub async fn notify(&self, peer: &Peer, notice: Notice, wall: Moment) -> Result<(), DialError> {
        let body = serde_json::to_vec(&NoticeRequest { notice })?;
        self.call_peer(peer, posted("notices", body), wall)
            .await
            .map(|_| ())
    }

    /// Reads a peer's trust bundle: that changes nothing there.
    pub(super) async fn read_trust(&self, peer: &Peer, wall: Moment) -> Result<Value, DialError> {
        let call = Call {
            method: Method::GET,
            path: "trust_bundle",
            bearer: None,
            body: None,
        };
        self.call_peer(peer, call, wall).await
    }

    /// One call to a peer, by its anchors alone; what it answers if it doesn't refuse.
    async fn call_peer(&self, peer: &Peer, wanted: Call<'_>, wall: Moment) -> Result<Value, DialError> {
        if !peer.declared.is_dialable() {
            return Err(DialError::Undialable(peer.id));
        }
        let (tls, url) = (self.tls_to(peer, wall)?, PeerUrl::new(&peer.url)?);
        let policy = self.policy();
        let bounds = bounds(&policy);
        let ways = Ways {
            url: &url,
            named: &endpoints::named(&url, &peer.declared.endpoints),
            may_dial: &|resolved| endpoints::dialable(resolved, bounds, is_hosts),
        };
        Ok(accepted(call_by(tls, &ways, wanted).await?)?.0)
    }

    /// The same through a bridge, from within a network. A peer that can't be dialled on the underlay may be reached there.
    async fn call_within(
        &self,
        peer: &Peer,
        network: &Name,
        wanted: Call<'_>,
        wall: Moment,
    ) -> Result<Value, DialError> {
        let way = self.overlay_way(peer, network)?;
        let tls = self.tls_to(peer, wall)?;
        Ok(accepted(call_within(tls, &way, wanted).await?)?.0)
    }

    /// The same over the connection that is kept for the peer, or over one that then is. What it carries must bear being
    /// carried twice: the other side only ever takes over what a beat says, so that the second one is no news.
    async fn beat_peer(&self, peer: &Peer, wanted: Call<'_>, wall: Moment) -> Result<Value, DialError> {
        if !peer.declared.is_dialable() {
            return Err(DialError::Undialable(peer.id));
        }
        let trust = peer.trust.as_ref().ok_or(DialError::NoTrust(peer.id))?;
        let url = PeerUrl::new(&peer.url)?;
        let named = endpoints::named(&url, &peer.declared.endpoints);
        let now = self.ledger.read(|book| book.now(wall));
        let basis = Basis {
            leaf: self.call_leaf(peer.id, &trust.outbound_subject, wall)?,
            anchors: trust.anchors_at(now).map(|anchor| anchor.fingerprint).collect(),
            urls: std::iter::once(&url).chain(&named).cloned().collect(),
        };
        let policy = self.policy();
        let bounds = bounds(&policy);
        let ways = Ways {
            url: &url,
            named: &named,
            may_dial: &|resolved| endpoints::dialable(resolved, bounds, is_hosts),
        };
        let (kept, tls) = (self.line(peer.id, &basis), || self.tls_to(peer, wall));
        let (reply, session) = call_over(kept, tls, &ways, self.room(), wanted).await?;
        let (data, _) = accepted(reply)?;
        if let Some(session) = session {
            self.keep_line(peer.id, basis, session);
        }
        Ok(data)
    }

    /// How a peer is called: by its anchors alone, with the certificate that it expects.
    fn tls_to(&self, peer: &Peer, wall: Moment) -> Result<Arc<rustls::ClientConfig>, DialError> {
        let trust = peer.trust.as_ref().ok_or(DialError::NoTrust(peer.id))?;
        let mut anchors = Vec::new();
        // A clock that was set back wakes no anchor.
        let now = self.ledger.read(|book| book.now(wall));
        for anchor in trust.anchors_at(now) {
            anchors.extend(certificates_of(&anchor.pem)?);
        }
        if anchors.is_empty() && !trust.signed_here.is_empty() {
            return Err(DialError::NoAnchor(peer.id));
        }
        let callee = Callee::Known {
            anchors,
            site: trust.site.clone(),
        };
        let leaf = self.call_leaf(peer.id, &trust.outbound_subject, wall)?;
        Ok(Arc::new(client_config(callee, Some(&leaf))?))
    }
}

pub(super) const fn bounds(policy: &Policy) -> Bounds<'_> {
    Bounds {
        allow: policy.allow_dial.as_slice(),
        own: policy.own.as_slice(),
    }
}

/// Whether this host has an address: only then can a socket be bound to it.
pub(super) fn is_hosts(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// What is read at a peer.
#[derive(Clone)]
pub struct Wanted {
    /// Which kind.
    pub kind: String,
    /// Which one; none is all.
    pub id: Option<String>,
    /// Behind which one to go on.
    pub after: Option<String>,
    /// The grant's token; none where a managed child lets its parent do without.
    pub bearer: Option<String>,
    /// From within which network of ours, through the bridge there; none is over the underlay.
    pub network: Option<Name>,
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret.
        write!(f, "Wanted({} {:?})", self.kind, self.id)
    }
}

/// All but the unreserved characters of a URI (RFC 3986, section 2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

const fn posted(path: &str, body: Vec<u8>) -> Call<'_> {
    Call {
        method: Method::POST,
        path,
        bearer: None,
        body: Some(body),
    }
}

fn accepted(reply: Reply) -> Result<(Value, Vec<CertificateDer<'static>>), DialError> {
    if (200..300).contains(&reply.status) {
        return Ok((reply.data, reply.chain));
    }
    Err(DialError::Refused {
        status: reply.status,
        // Another site's words are shown to our operator: not more than a line of them.
        error: reply
            .error
            .unwrap_or_default()
            .chars()
            .filter(|c| !c.is_control())
            .take(300)
            .collect(),
    })
}
