//! A site's gateway: what it is asked by its operator and by peers, and what becomes of it in the ledger.
//!
//! Every way in (HTTP, the command line, the driver's timers) comes through here; nothing here listens, dials or asks
//! the clock.

mod accept;
mod approvals;
mod bridges;
mod children;
mod cluster;
mod excerpts;
mod grants;
mod heads;
mod leaves;
mod lines;
mod notices;
mod operator;
mod order;
mod overlay;
mod oversight;
mod pause;
mod quiet;
mod quota;
mod refusals;
mod resources;
mod spawned;
mod subscriptions;
mod sweep;
mod take;
mod trust;
mod weigh;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde_json::{Value, json};

pub use accept::AcceptError;
pub use approvals::{ApprovalError, Approved, Gate, GateError};
pub use bridges::{AllowError, BridgeError, BridgeView, DueCall, Random};
pub use children::{ChildrenError, RenewError};
pub use excerpts::{ExcerptError, Excerpts, ExcerptsAsked};
pub use grants::{GrantError, Granted, Granting};
pub use heads::{REGRESSED, Verified, Witness};
pub(in crate::federation) use lines::Basis;
pub use operator::{OperatorError, Proposal, Proposed};
pub use order::Order;
pub use oversight::{Soft, SoftStep};
pub use pause::{PauseError, Paused};
pub use refusals::Refused;
pub use resources::{Asked, ResourceError, Via};
pub use subscriptions::{OfferView, SubscribeError, Subscriber};
pub use sweep::{Silent, Sweep};
pub use take::{Accepting, TakeError};
pub use trust::{RotateError, Rotating};

use super::identity::{Proofs, Stranger, identify};
use super::ledger::{Aborted, Draft, Happening, Ledger, LedgerError};
use super::liveness;
use super::moment::Moment;
use super::operators::Principal;
use super::overlay::OverlayListener;
use super::peer::{Endpoint, Event, Peer, PeerId, Status};
use super::pki::SiteCa;
use super::pki::authority::{Authority, Store};
use super::policy::Policy;
use super::site::SiteId;
use super::url::PeerUrl;
use super::version;
use super::wire::{HeartbeatAnswer, HeartbeatRequest, Notice, Said, TooLong};
use super::witness::Mark;
use crate::model::host::{Approvals, Cluster, IsolationBackend, Verify};
use crate::model::{Fleet, Name};
use rustls::pki_types::CertificateDer;

/// A peer's anchors are others than before.
const ANCHOR_CHANGED: &str = "federation.peer.anchor_changed";

/// How long an answer to an acceptance is told again to the same site.
const ANSWER_LIFE: Duration = Duration::from_secs(900);

/// The version that peers are told.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the operator has set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where peers reach us, if they can.
    pub url: Option<PeerUrl>,
    /// Where our data resides.
    pub jurisdiction: Option<String>,
    /// When a silent peer is degraded.
    pub stale_after: Duration,
    /// Time between beats.
    pub heartbeat: Duration,
    /// What must be verified before a peer is given anything.
    pub verify: Verify,
    /// Whether a grant must say of every axis what it allows.
    pub require_explicit_axes: bool,
    /// What is decided about peers in general.
    pub policy: Policy,
    /// The cluster that our children join.
    pub cluster: Option<Cluster>,
    /// The port of our listener, inside the overlay, too.
    pub listen: Option<u16>,
    /// What keeps networks apart on this host.
    pub isolation: IsolationBackend,
    /// Which actions wait for a second operator.
    pub approvals: Approvals,
    /// Whose word the fleet is: who may write its documents.
    pub fleet_by: Principal,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: None,
            jurisdiction: None,
            stale_after: Duration::from_secs(150),
            heartbeat: Duration::from_secs(60),
            verify: Verify::None,
            require_explicit_axes: false,
            policy: Policy::default(),
            cluster: None,
            listen: None,
            isolation: IsolationBackend::default(),
            approvals: Approvals::default(),
            fleet_by: Principal::Uid(0),
        }
    }
}

/// A site's gateway.
pub struct Gateway {
    /// Who we are.
    pub site: SiteId,
    /// On which node.
    pub node: Name,
    /// What we vouch with.
    pub ca: Authority,
    /// What we remember.
    pub ledger: Arc<Ledger>,
    /// What the operator has set.
    pub settings: Settings,
    /// When peers were last heard of, since the ledger was last told.
    pub heard: Heard,
    fleet: RwLock<Option<Arc<Fleet>>>,
    /// Which of our anchors each peer has said that it knows.
    informed: Mutex<BTreeMap<PeerId, u64>>,
    /// Where the CAs are kept; nowhere in tests.
    store: Option<Store>,
    rotating: Mutex<()>,
    /// When our listener's certificate ends; none where nothing listens.
    leaf_until: Mutex<Option<Moment>>,
    quota: quota::Quota,
    /// What we show to peers.
    leaves: leaves::Leaves,
    /// The CA that signs for children, once it was needed.
    children: Mutex<Option<Arc<SiteCa>>>,
    /// What parents have signed for us.
    holdings: spawned::Holdings,
    /// What was found out about callers' chains.
    proofs: Proofs,
    /// Where ledgers are.
    heads: heads::Heads,
    /// The connections that are kept for beats.
    lines: lines::Lines,
    /// Who was refused, since the audit was last told.
    refusals: refusals::Refusals,
    /// What is known of bridges beside the ledger.
    bridging: bridges::Bridging,
    /// How the listeners inside the overlays are.
    overlay: RwLock<Vec<OverlayListener>>,
    /// What waits for a second operator, as far as it isn't in the ledger.
    parked: approvals::Parked,
}

/// Beats that change nothing but a time: told to the ledger from time to time, all at once.
#[derive(Debug, Default)]
pub struct Heard(Mutex<BTreeMap<PeerId, Moment>>);

impl Heard {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<PeerId, Moment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When this peer was last heard of.
    #[must_use]
    pub fn last(&self, peer: &Peer) -> Option<Moment> {
        self.lock().get(&peer.id).copied().max(peer.last_heartbeat_at)
    }

    /// Who was heard of since the ledger was last told, and when.
    #[must_use]
    pub fn untold(&self) -> BTreeMap<PeerId, Moment> {
        self.lock().clone()
    }

    pub(crate) fn note(&self, id: PeerId, now: Moment) {
        self.lock().insert(id, now);
    }
}

/// A beat wasn't taken.
#[derive(Debug, thiserror::Error)]
pub enum BeatError {
    /// Nobody whom we know.
    #[error(transparent)]
    Stranger(#[from] Stranger),
    /// It says too much.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// It has had too much written of late.
    #[error("too much news in a minute: say it again later")]
    TooMuch,
    /// What it says of its anchors can't be taken over.
    #[error("ca_bundle_pem: {0}")]
    Anchors(String),
    /// The ledger can't be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Gateway {
    /// A gateway that has heard of nobody yet, and doesn't know its site's fleet.
    #[must_use]
    pub fn new(
        site: SiteId,
        node: Name,
        ca: impl Into<Authority>,
        ledger: Arc<Ledger>,
        settings: Settings,
    ) -> Self {
        Self {
            site,
            node,
            ca: ca.into(),
            ledger,
            lines: lines::Lines::new(settings.heartbeat),
            settings,
            heard: Heard::default(),
            fleet: RwLock::default(),
            informed: Mutex::default(),
            store: None,
            rotating: Mutex::default(),
            leaf_until: Mutex::default(),
            quota: quota::Quota::default(),
            leaves: leaves::Leaves::default(),
            children: Mutex::default(),
            holdings: spawned::Holdings::default(),
            proofs: Proofs::default(),
            heads: heads::Heads::default(),
            refusals: refusals::Refusals::default(),
            bridging: bridges::Bridging::default(),
            overlay: RwLock::default(),
            parked: approvals::Parked::default(),
        }
    }

    /// Keeps its CAs there from now on.
    #[must_use]
    pub fn kept_in(mut self, store: Store) -> Self {
        self.store = Some(store);
        self
    }

    /// The site's fleet, as it was last told.
    #[must_use]
    pub fn fleet(&self) -> Option<Arc<Fleet>> {
        self.fleet.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells it the site's fleet.
    pub fn tell_fleet(&self, fleet: Fleet) {
        *self.fleet.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(fleet));
        self.bridges_changed();
    }

    /// Where we are reached, for peers.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let url = self.settings.url.iter();
        url.map(|url| Endpoint {
            url: url.to_string(),
            scope: "wan".to_owned(),
            priority: 100,
            cidr_hint: None,
        })
        .collect()
    }

    /// What we say of ourselves.
    #[must_use]
    pub fn said(&self) -> Said {
        Said {
            capabilities: Some(serde_json::Map::new()),
            extension_slugs: Some(Vec::new()),
            endpoints: Some(self.endpoints()),
            platform_version: Some(VERSION.to_owned()),
            data_residency: self.settings.jurisdiction.clone(),
            dialable: Some(self.settings.url.is_some()),
        }
    }

    /// Who calls.
    ///
    /// # Errors
    /// Nobody whom we know, or nobody who may call.
    pub fn identify(&self, chain: &[CertificateDer<'_>], wall: Moment) -> Result<Arc<Peer>, Stranger> {
        self.ledger
            .read(|book| identify(chain, book, book.now(wall), &self.proofs))
    }

    /// Takes a beat: whoever it is from is heard of now, and active. Who that is, and what it is answered.
    ///
    /// # Errors
    /// It is nobody's, says too much, or the ledger can't be written.
    pub fn beaten(
        &self,
        chain: &[CertificateDer<'_>],
        request: HeartbeatRequest,
        wall: Moment,
    ) -> Result<(PeerId, HeartbeatAnswer), BeatError> {
        let peer = self.identify(chain, wall)?;
        request.said.check()?;
        let compatibility = version::compatibility(
            VERSION,
            request
                .said
                .platform_version
                .as_deref()
                .or(peer.declared.platform_version.as_deref()),
            &self.settings.policy.versions,
        );
        let mark = quiet::mark_of(&request);
        let HeartbeatRequest {
            nonce,
            sequence,
            said,
            trust,
            spawn_mode,
            ledger_epoch: _,
            audit_head: _,
            witnessed,
            bridges,
        } = request;
        self.hear_heads(&peer, mark, witnessed.as_deref(), wall)?;
        let peer = self
            .ledger
            .read(|book| book.peer(&peer.id).cloned().unwrap_or(peer));
        self.hear_emancipation(&peer, spawn_mode.as_deref(), wall)?;
        self.hear_trust(peer.id, &trust, wall)?;
        let status = self.beat(&peer, said, wall)?;
        self.hear_bridges(peer.id, bridges.as_deref());
        let Mark { epoch, head } = self.mark();
        let answer = HeartbeatAnswer {
            status,
            last_heartbeat_at: self.heard.last(&peer).unwrap_or(wall),
            our_endpoints: self.endpoints(),
            schema_compatibility: compatibility,
            nonce,
            sequence,
            ledger_epoch: epoch,
            audit_head: head.to_string(),
            witnessed: self.seen_of(peer.id).map(|mark| mark.to_string()),
            cluster: self.cluster_for(&peer),
            spawn_mode: self.spawned_as(peer.id),
            bridges: self.tell_bridges(peer.id),
            trust: self.tell_trust(peer.id),
            said: Said {
                endpoints: None,
                ..self.said()
            },
        };
        Ok((peer.id, answer))
    }

    /// One verified exchange with a peer, whoever began it. What is no news isn't written: see [`Heard`].
    fn beat(&self, peer: &Peer, said: Said, wall: Moment) -> Result<Status, BeatError> {
        let now = self.ledger.read(|book| book.now(wall));
        let moves = peer.status != Status::Active && peer.regressed.is_none();
        let has_news = said.is_news(&peer.declared);
        // Who has news all the time lives all the same, and isn't written down each time.
        let is_written =
            !notices::is_overtaken(peer, now) && (moves || (has_news && self.quota.take(peer.id, now)));
        if !is_written {
            self.heard.note(peer.id, now);
            return Ok(peer.status);
        }
        let beat = self.ledger.transact(wall, |draft| {
            // The row may have moved since the caller was known: judged again where it counts.
            let peer = draft.peer(&peer.id).cloned().ok_or(Stranger::NotNow(peer.id))?;
            if notices::is_overtaken(&peer, draft.now()) {
                return Ok(peer.status);
            }
            beat_in(draft, peer, said)
        });
        self.bridges_changed();
        match beat {
            Ok(status) => Ok(status),
            Err(Aborted::ByCaller(stranger)) => Err(stranger.into()),
            // Its news comes again with its next beat: a full disk doesn't make it silent.
            Err(Aborted::ByLedger(error)) if !moves => {
                tracing::error!(peer = %peer.id, %error, "what a peer says of itself can't be written");
                self.heard.note(peer.id, now);
                Ok(peer.status)
            }
            Err(Aborted::ByLedger(error)) => Err(error.into()),
        }
    }

    /// Our beat to a peer was answered.
    ///
    /// # Errors
    /// It has been stopped meanwhile, or the ledger can't be written.
    pub fn answered(&self, id: PeerId, answer: &HeartbeatAnswer, wall: Moment) -> Result<(), BeatError> {
        let said = Said {
            endpoints: Some(answer.our_endpoints.clone()),
            ..answer.said.clone()
        };
        said.check()?;
        self.hear_trust(id, &answer.trust, wall)?;
        self.hear_bridges(id, answer.bridges.as_deref());
        let peer = self.ledger.read(|book| book.peer(&id).cloned());
        let peer = peer
            .filter(|peer| peer.status.may_call())
            .ok_or(Stranger::NotNow(id))?;
        self.hear_cluster(&peer, answer.cluster.as_ref(), wall)?;
        self.hear_emancipation(&peer, answer.spawn_mode.as_deref(), wall)?;
        let mark = answer.audit_head.parse().ok().map(|head| Mark {
            epoch: answer.ledger_epoch,
            head,
        });
        self.hear_heads(&peer, mark, answer.witnessed.as_deref(), wall)?;
        let peer = self.ledger.read(|book| book.peer(&id).cloned().unwrap_or(peer));
        self.beat(&peer, said, wall).map(|_| ())
    }

    /// Tells the ledger when peers were last heard of.
    ///
    /// # Errors
    /// It can't be written: they are told another time.
    pub fn flush(&self, wall: Moment) -> Result<(), LedgerError> {
        let heard = self.heard.untold();
        if heard.is_empty() && !self.has_heads() {
            return Ok(());
        }
        let outcome = self.ledger.transact(wall, |draft| {
            for (id, at) in &heard {
                if let Some(mut peer) = draft
                    .peer(id)
                    .cloned()
                    .filter(|peer| peer.status == Status::Active)
                {
                    peer.last_heartbeat_at = peer.last_heartbeat_at.max(Some(*at));
                    draft.put_peer(peer)?;
                }
            }
            self.flush_heads(draft)
        });
        if let Err(Aborted::ByLedger(error)) = outcome {
            return Err(error);
        }
        self.forget_heads();
        self.heard.lock().retain(|id, at| heard.get(id) != Some(at));
        Ok(())
    }

    /// A peer is silent, or refuses us: if it is active, it no longer is.
    ///
    /// # Errors
    /// The ledger can't be written.
    pub fn degrade(&self, id: PeerId, reason: &str, wall: Moment) -> Result<bool, LedgerError> {
        let outcome = self.ledger.transact(wall, |draft| {
            let Some(mut peer) = draft.peer(&id).cloned() else {
                return Ok(false);
            };
            let (before, why) = (peer.status, peer.reason.clone());
            let now = draft.now();
            // That its ledger has gone back says more than its silence.
            let reason = peer.regressed.map_or(reason, |_| REGRESSED);
            if peer.happen(Event::Degrade, Some(reason), now).is_err() {
                return Ok(false);
            }
            let says_more = Notice::is_reason(why.as_deref()) && before == Status::Degraded;
            if before == peer.status && (why.as_deref() == Some(reason) || says_more) {
                return Ok(false);
            }
            if before != peer.status {
                if reason.starts_with(liveness::STALE) {
                    draft.note(Happening {
                        kind: "federation.peer.heartbeat_stale".to_owned(),
                        severity: "medium",
                        peer: Some(id),
                        payload: json!({ "last_heartbeat_at": self.heard.last(&peer), "reason": reason }),
                    });
                }
                note_status(draft, &peer, json!({ "degraded_reason": reason }));
            }
            draft.put_peer(peer).map(|()| true)
        });
        match outcome {
            Ok(degraded) => Ok(degraded),
            Err(Aborted::ByCaller(_)) => Ok(false),
            Err(Aborted::ByLedger(error)) => Err(error),
        }
    }
}

fn beat_in(draft: &mut Draft<'_>, mut peer: Peer, said: Said) -> Result<Status, Stranger> {
    let (before, residency) = (peer.status, peer.declared.data_residency.clone());
    let now = draft.now();
    if peer.regressed.is_none() {
        peer.happen(Event::Beat, None, now)
            .map_err(|_| Stranger::NotNow(peer.id))?;
    } else if !peer.status.may_call() {
        return Err(Stranger::NotNow(peer.id));
    }
    said.update(&mut peer.declared);
    if peer.declared.data_residency != residency {
        draft.note(Happening {
            kind: "federation.peer.data_residency_changed".to_owned(),
            severity: "medium",
            peer: Some(peer.id),
            payload: json!({ "previous": residency, "new": peer.declared.data_residency, "declared_by": "remote_peer" }),
        });
    }
    if before != peer.status {
        note_status(draft, &peer, Value::Null);
    }
    let (id, status) = (peer.id, peer.status);
    draft.put_peer(peer).map_err(|_| Stranger::NotNow(id))?;
    Ok(status)
}

/// Every change of status is told: `federation.peer.<status>`.
fn note_status(draft: &mut Draft<'_>, peer: &Peer, payload: Value) {
    draft.note(Happening {
        kind: format!("federation.peer.{}", peer.status),
        severity: Peer::severity(peer.status),
        peer: Some(peer.id),
        payload,
    });
}
