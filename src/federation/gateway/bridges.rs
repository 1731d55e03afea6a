//! The bridges of this site: what the fleet wants of each, what its peer says, and what is agreed.
//!
//! ```text
//! fleet, peers ──┐
//!                ├─▶ settle ─▶ rows in the ledger ─┬─▶ calls to peers (`server::bridges`)
//! PUT, DELETE ───┘                                 └─▶ agreements, for `sdwand run`
//! ```

mod consent;
mod talk;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::Notify;

pub use consent::AllowError;
pub(super) use consent::denied_in;
use consent::{is_waiting, opening, room};
pub use talk::{BridgeError, DueCall};
pub use view::BridgeView;

use super::Gateway;
use crate::federation::approval::{Action, Approval, Opening};
use crate::federation::bridge::half::ordered;
use crate::federation::bridge::{
    self, BridgeId, BridgeRow, Change, Consent, Consented, PresharedHalf, State, WaitsFor, Want, share, step,
};
use crate::federation::dial::{bounds, is_hosts};
use crate::federation::endpoints;
use crate::federation::ledger::{Aborted, Book, Draft, Happening, LedgerError};
use crate::federation::moment::Moment;
use crate::federation::peer::{Peer, PeerId, Status};
use crate::federation::wire::Notice;
use crate::model::agreement::{Agreement, Agreements, FORMAT};
use crate::model::routing::Bridge;
use crate::model::{Fleet, Name, PublicKey};

/// Draws random bytes.
pub type Random = fn(&mut [u8]);

/// What is known of bridges beside the ledger.
#[derive(Debug, Default)]
pub(super) struct Bridging {
    /// Something may have to be done about bridges.
    news: Notify,
    /// What each peer has last said that it has, with the numbers.
    marks: Mutex<BTreeMap<PeerId, BTreeMap<BridgeId, u64>>>,
}

impl Bridging {
    fn marks(&self) -> std::sync::MutexGuard<'_, BTreeMap<PeerId, BTreeMap<BridgeId, u64>>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rows and peers as they are, in the ledger or in a draft.
struct Scene<'a> {
    fleet: Option<&'a Fleet>,
    peers: BTreeMap<PeerId, &'a Peer>,
    rows: BTreeMap<(PeerId, BridgeId), &'a BridgeRow>,
    /// What waits for a second operator.
    waiting: Vec<&'a Approval>,
    /// How much more it may be asked.
    room: usize,
    is_paused: bool,
    now: Moment,
}

/// What is to be done about bridges.
#[derive(Default)]
struct Settled {
    rows: Vec<(BridgeRow, Vec<Change>)>,
    /// What a second operator is to be asked.
    asks: Vec<Opening>,
    /// What waits, and isn't to be decided any more.
    moot: Vec<Approval>,
}

impl Settled {
    fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.asks.is_empty() && self.moot.is_empty()
    }
}

/// The secret of a new row; without randomness there is none.
fn drawn(random: Option<Random>) -> impl FnMut() -> Option<PresharedHalf> {
    move || {
        let mut secret = [0; 32];
        random?(&mut secret);
        Some(PresharedHalf::new(secret))
    }
}

impl Gateway {
    /// Waits until something may have to be done about bridges.
    pub async fn bridge_news(&self) {
        self.bridging.news.notified().await;
    }

    /// Says that something may have to be done about bridges.
    pub(super) fn bridges_changed(&self) {
        self.bridging.news.notify_one();
    }

    /// Makes the rows what the fleet wants and the peers' standing allows. Says whether anything was to be changed.
    ///
    /// # Errors
    /// The ledger can't be written.
    pub fn settle_bridges(&self, random: Random, wall: Moment) -> Result<bool, LedgerError> {
        let fleet = self.fleet();
        let is_settled = self.ledger.read(|book| {
            let is_wanted = fleet.as_ref().is_some_and(|fleet| !fleet.bridges.is_empty());
            if !is_wanted && book.bridges().next().is_none() {
                return true;
            }
            let scene = Scene {
                fleet: fleet.as_deref(),
                peers: book.peers().map(|peer| (peer.id, &**peer)).collect(),
                rows: book.bridges().map(|row| ((row.peer, row.id), &**row)).collect(),
                waiting: book
                    .approvals()
                    .map(AsRef::as_ref)
                    .filter(|one| is_waiting(one))
                    .collect(),
                room: room(book.approvals().map(AsRef::as_ref), book.now(wall)),
                is_paused: book.pause().is_some(),
                now: book.now(wall),
            };
            self.settled(&scene, None, Some(random)).is_empty()
        });
        if is_settled {
            return Ok(false);
        }
        let settled = self.ledger.transact(wall, |draft| {
            self.settle_in(draft, None, Some(random));
            Ok::<_, std::convert::Infallible>(())
        });
        match settled {
            Ok(()) => Ok(true),
            Err(Aborted::ByLedger(error)) => Err(error),
            Err(Aborted::ByCaller(never)) => match never {},
        }
    }

    /// The same as part of a transaction: of one peer's bridges, or of all.
    fn settle_in(&self, draft: &mut Draft<'_>, of: Option<PeerId>, random: Option<Random>) {
        let fleet = self.fleet();
        let scene = Scene {
            fleet: fleet.as_deref(),
            peers: draft.peers().map(|peer| (peer.id, peer)).collect(),
            rows: draft.bridges().map(|row| ((row.peer, row.id), row)).collect(),
            waiting: draft.approvals().filter(|one| is_waiting(one)).collect(),
            room: room(draft.approvals(), draft.now()),
            is_paused: draft.pause().is_some(),
            now: draft.now(),
        };
        let Settled { rows, asks, moot } = self.settled(&scene, of, random);
        for (row, changes) in rows {
            for change in &changes {
                draft.note(happening(&row, change));
            }
            if row.is_idle() {
                draft.remove_bridge(row.peer, row.id);
            } else {
                draft.put_bridge(row);
            }
        }
        consent::drop_moot_in(draft, moot);
        if let Some(random) = random {
            self.ask_for_bridges_in(draft, asks, random);
        }
    }

    /// What a peer's bridges become with the peer, as part of the transaction that changes it. New rows are the driver's.
    pub(super) fn settle_peer_in(&self, draft: &mut Draft<'_>, id: PeerId) {
        self.settle_in(draft, Some(id), None);
    }

    fn settled(&self, scene: &Scene<'_>, of: Option<PeerId>, random: Option<Random>) -> Settled {
        let is_gated = Action::Bridge.is_gated(&self.settings.approvals);
        let mut draw = drawn(random);
        let wants = self.wants(scene);
        let keys: BTreeSet<_> = scene.rows.keys().chain(wants.keys()).copied().collect();
        let own_keys = own_keys(scene.fleet);
        let mut held = held(scene);
        let mut settled = Settled::default();
        for key in keys
            .into_iter()
            .filter(|(peer, _)| of.is_none_or(|of| of == *peer))
        {
            let mut row = scene
                .rows
                .get(&key)
                .map_or_else(|| BridgeRow::new(key.0, key.1), |row| (*row).clone());
            let is_ended = scene
                .peers
                .get(&key.0)
                .is_none_or(|peer| peer.status == Status::Revoked);
            if scene.fleet.is_none() && !is_ended {
                // What the fleet wants isn't known.
                continue;
            }
            let before = row.clone();
            let ended = if is_ended {
                row.theirs = None;
                "the peer was revoked"
            } else {
                "the fleet doesn't want it any more"
            };
            let wanted = wants.get(&key).cloned();
            let mut want = match wanted {
                Some(wanted) if is_gated => {
                    let Consented { want, asks } = row.consented(wanted.clone());
                    settled.asks.extend(asks.map(|all| opening(&row, &wanted, all)));
                    want
                }
                wanted => {
                    row.consent = Consent::NONE;
                    wanted
                }
            };
            if let (Some(want), Some(theirs)) = (&mut want, &row.theirs) {
                let at = (want.network.clone(), theirs.half.gateway_public_key);
                let is_anothers = held.get(&at).is_some_and(|holder| *holder != key);
                if own_keys.contains(&at.1) || is_anothers {
                    want.obstacle.get_or_insert(WaitsFor::Key);
                } else {
                    held.insert(at, key);
                }
            }
            let changes = step(&mut row, want.as_ref(), ended, &mut draw, scene.now);
            // Of one that nobody wants any more, nothing is kept.
            let is_idle = row.is_idle() && scene.rows.contains_key(&key);
            if row != before || is_idle {
                settled.rows.push((row, changes));
            }
        }
        consent::sort_out(scene, of, &mut settled);
        settled
    }

    /// What the fleet wants of each bridge whose other end is known.
    fn wants(&self, scene: &Scene<'_>) -> BTreeMap<(PeerId, BridgeId), Want> {
        let Some(fleet) = scene.fleet else {
            return BTreeMap::new();
        };
        let aliases: BTreeSet<&Name> = fleet.bridges.values().map(|bridge| &bridge.peer).collect();
        let live = scene
            .peers
            .values()
            .filter(|peer| peer.status.is_live() && aliases.contains(&peer.alias));
        let peers: BTreeMap<&Name, &Peer> = live.map(|peer| (&peer.alias, *peer)).collect();
        let mut wants = BTreeMap::new();
        for bridge in self.negotiated(fleet) {
            let Some(peer) = peers.get(&bridge.peer) else {
                continue;
            };
            let Some(id) = self.bridge_id(peer, &bridge.network, &bridge.remote_network) else {
                continue;
            };
            let content = share(fleet, &self.node, bridge, self.settings.listen);
            let obstacle = self
                .bridge_obstacle(peer)
                .or_else(|| content.is_none().then_some(WaitsFor::Export));
            let want = Want {
                name: bridge.name.clone(),
                network: bridge.network.clone(),
                remote_network: bridge.remote_network.clone(),
                import: ordered(&bridge.import),
                content,
                obstacle,
                is_paused: scene.is_paused,
            };
            wants.insert((peer.id, id), want);
        }
        wants
    }

    /// The bridges of the fleet that this gateway negotiates: one for each peer and network, by name.
    fn negotiated<'f>(&self, fleet: &'f Fleet) -> Vec<&'f Bridge> {
        let mut led = BTreeSet::new();
        let ours = |bridge: &&Bridge| bridge.enabled && bridge.gateways.first() == Some(&self.node);
        let all = fleet.bridges.values().filter(ours);
        all.filter(|bridge| led.insert((&bridge.peer, &bridge.network)))
            .collect()
    }

    /// The id of a bridge with a peer; none where no trust was exchanged with it.
    #[must_use]
    pub fn bridge_id(&self, peer: &Peer, network: &Name, remote_network: &Name) -> Option<BridgeId> {
        let site = &peer.trust.as_ref()?.site;
        Some(BridgeId::of((&self.site, network), (site, remote_network)))
    }

    /// What of a peer stands against every bridge with it.
    #[must_use]
    pub fn bridge_obstacle(&self, peer: &Peer) -> Option<WaitsFor> {
        match peer.status {
            Status::Suspended => return Some(WaitsFor::Resume),
            Status::Proposed | Status::Accepted | Status::Revoked => return Some(WaitsFor::Trust),
            // The peer's word about its own end closes what leads there.
            Status::Enrolled | Status::Degraded if Notice::is_reason(peer.reason.as_deref()) => {
                return Some(WaitsFor::PeerOperator);
            }
            Status::Enrolled | Status::Active | Status::Degraded => {}
        }
        if peer.trust.is_none() {
            Some(WaitsFor::Trust)
        } else if !self.is_verified(peer) {
            Some(WaitsFor::Verification)
        } else if !self.border(peer).is_open() {
            Some(WaitsFor::Residency)
        } else {
            None
        }
    }

    /// What is agreed with all peers, and in force at this moment, for `sdwand run`.
    #[must_use]
    pub fn agreements(&self, wall: Moment) -> Agreements {
        let fleet = self.fleet();
        let mut all = Agreements {
            format: FORMAT,
            written: wall.seconds(),
            bridges: BTreeMap::new(),
        };
        let Some(fleet) = fleet else { return all };
        self.ledger.read(|book| {
            self.each_in_force(&fleet, book, |bridge, _, agreement| {
                all.bridges.insert(bridge.name.clone(), agreement);
            });
        });
        all
    }

    /// Goes through what is in force at this moment: the fleet's bridge, its row, and what is agreed about it.
    pub(super) fn each_in_force(
        &self,
        fleet: &Fleet,
        book: &Book,
        mut each: impl FnMut(&Bridge, &BridgeRow, Agreement),
    ) {
        let is_gated = Action::Bridge.is_gated(&self.settings.approvals);
        let mut named: BTreeMap<&Name, Vec<&BridgeRow>> = BTreeMap::new();
        for row in book.bridges() {
            if let Some(ours) = row.live() {
                named.entry(&ours.name).or_default().push(row);
            }
        }
        for bridge in self.negotiated(fleet) {
            for row in named.get(&bridge.name).into_iter().flatten() {
                let peer = book
                    .peer(&row.peer)
                    .filter(|peer| peer.alias == bridge.peer && self.bridge_obstacle(peer).is_none());
                if let Some(agreement) = peer.and_then(|_| row.agreement(bridge, is_gated)) {
                    each(bridge, row, agreement);
                }
            }
        }
    }

    /// Which of some addresses may be called for a peer's gateway: as with URLs that it names.
    pub(in crate::federation) fn may_call(&self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let policy = self.policy();
        let may = endpoints::dialable(addresses, bounds(&policy), is_hosts);
        if may.len() < addresses.len() {
            let (named, may) = (addresses.len(), may.len());
            tracing::warn!(
                named,
                may,
                "of the endpoints that a peer names for a bridge, some may not be called: see allow_dial of [federation]"
            );
        }
        may
    }
}

/// Who has which key in which network.
type Held = BTreeMap<(Name, PublicKey), (PeerId, BridgeId)>;

/// Who named it first has it, as long as it says nothing else: whatever another peer says, and also while its own bridge waits,
/// agreed or not yet.
fn held(scene: &Scene<'_>) -> Held {
    let agreed = scene.rows.iter().filter_map(|(key, row)| {
        let ours = row.live()?;
        let theirs = row.theirs.as_ref()?;
        let at = (ours.network.clone(), theirs.half.gateway_public_key);
        Some((theirs.key_since, at, *key))
    });
    let mut agreed: Vec<_> = agreed.collect();
    agreed.sort_by_key(|(since, ..)| *since);
    let mut held = Held::new();
    for (_, at, key) in agreed {
        held.entry(at).or_insert(key);
    }
    held
}

/// The WireGuard keys of this site's nodes.
fn own_keys(fleet: Option<&Fleet>) -> BTreeSet<PublicKey> {
    let nodes = fleet.into_iter().flat_map(|fleet| fleet.nodes.values());
    nodes
        .flat_map(|node| std::iter::once(node.public_key).chain(node.next_public_key))
        .collect()
}

/// The record of a change: names, ids and prefixes, and nothing that is secret.
fn happening(row: &BridgeRow, change: &Change) -> Happening {
    let (Change::Moved(ours) | Change::Amended(ours)) = change;
    let half = ours.half.as_ref();
    let payload = json!({
        "bridge": ours.name, "id": row.id, "generation": ours.generation,
        "network": ours.network, "remote_network": ours.remote_network,
        "import": brief(&ours.import), "export": half.map(|half| brief(&half.prefixes)),
        "announced": row.theirs.as_ref().map(|theirs| brief(&theirs.half.prefixes)),
        "reason": ours.reason,
    });
    match change {
        Change::Moved(ours) => Happening {
            kind: format!("federation.bridge.{}", ours.state),
            severity: ours.state.severity(),
            peer: Some(row.peer),
            payload,
        },
        Change::Amended(_) => Happening {
            kind: "federation.bridge.changed".to_owned(),
            severity: "low",
            peer: Some(row.peer),
            payload,
        },
    }
}

/// The first of some prefixes, and how many more there are: a record stays a record, whatever a peer says.
pub(super) fn brief(nets: &[IpNet]) -> Vec<String> {
    const MOST: usize = 16;
    let mut all: Vec<String> = nets.iter().take(MOST).map(ToString::to_string).collect();
    if nets.len() > MOST {
        all.push(format!("and {} more", nets.len() - MOST));
    }
    all
}

impl Gateway {
    /// What of the overlay a peer is attached to, for the acceptance: the first bridge to it, by name.
    #[must_use]
    pub fn bridge_attachment(&self, peer: &Peer, rows: &[&BridgeRow]) -> Option<Value> {
        let mut live: Vec<&&BridgeRow> = rows.iter().filter(|row| row.live().is_some()).collect();
        live.sort_by_key(|row| row.live().map(|ours| &ours.name));
        let obstacle = self.bridge_obstacle(peer);
        let told = |id: BridgeId, state: State, network: &Name, waits_for: Option<WaitsFor>| {
            json!({
                "status": if state == State::Suspended { "error" } else { "attached" },
                "bridge_id": id, "bridge_state": state, "sdwan_network_id": network, "waits_for": waits_for,
            })
        };
        if let Some((row, ours)) = live.first().and_then(|row| Some((row, row.live()?))) {
            let waits_for = bridge::standing(row, obstacle);
            return Some(told(row.id, ours.state, &ours.network, waits_for));
        }
        // The row begins as soon as the peer is known here.
        let fleet = self.fleet()?;
        let mut wanted = self.negotiated(&fleet).into_iter();
        let bridge = wanted.find(|bridge| bridge.peer == peer.alias)?;
        let id = self.bridge_id(peer, &bridge.network, &bridge.remote_network)?;
        let row = rows.iter().find(|row| row.id == id).copied();
        let waits_for = obstacle
            .or_else(|| self.bridge_consent(row))
            .or(Some(WaitsFor::Peer));
        Some(told(id, State::Proposed, &bridge.network, waits_for))
    }
}
