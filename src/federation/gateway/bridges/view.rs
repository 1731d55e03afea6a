//! The bridges with a peer, as operators are shown them: nothing of their secrets.

use ipnet::IpNet;
use serde::Serialize;

use super::Gateway;
use crate::federation::approval::Action;
use crate::federation::bridge::half::ordered;
use crate::federation::bridge::{
    self, BridgeId, BridgeRow, Ours, Scope, State, WaitsFor, intersection, share,
};
use crate::federation::moment::Moment;
use crate::federation::overlay::OverlayListener;
use crate::federation::peer::{Peer, PeerId};
use crate::model::routing::Bridge;
use crate::model::{Fleet, Name};

/// A bridge, or what a peer offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = Bridge)]
pub struct BridgeView {
    /// The same at both sites; none where no trust was exchanged yet.
    pub id: Option<BridgeId>,
    /// What this site's fleet calls it; none where only the peer has it.
    pub name: Option<Name>,
    /// The network here.
    pub network: Name,
    /// The network there, as it is called there.
    pub remote_network: Name,
    /// `proposed`, `active`, `suspended` or `revoked`; `offered` where only the peer has it.
    pub state: &'static str,
    /// What keeps it from being active.
    pub waits_for: Option<WaitsFor>,
    /// The same in words.
    pub advice: Option<&'static str>,
    /// What this site takes.
    #[schema(value_type = Vec<String>)]
    pub import: Vec<IpNet>,
    /// What this site gives.
    #[schema(value_type = Vec<String>)]
    pub export: Vec<IpNet>,
    /// What the peer gives.
    #[schema(value_type = Vec<String>)]
    pub announced: Vec<IpNet>,
    /// What of that this site takes.
    #[schema(value_type = Vec<String>)]
    pub agreed: Vec<IpNet>,
    /// What the fleet wants beyond that, and no second operator has approved.
    pub unapproved: Option<Scope>,
    /// Where the peer's gateway may be called.
    #[schema(value_type = Vec<String>)]
    pub endpoints: Vec<std::net::SocketAddr>,
    /// Our listener inside the network, for this peer's gateway among others; none where there is to be none.
    pub listener: Option<OverlayListener>,
    /// Where the peer's gateway listens inside its network; none where it doesn't say.
    #[schema(value_type = Option<String>)]
    pub peer_listener: Option<std::net::SocketAddr>,
    /// Since when it stands so.
    pub since: Option<Moment>,
    /// Why, where that was said.
    pub reason: Option<String>,
}

impl Gateway {
    /// The bridges with a peer: what stands in the ledger, and what the fleet wants besides.
    #[must_use]
    pub fn bridges_of(&self, id: PeerId) -> Vec<BridgeView> {
        let fleet = self.fleet();
        self.ledger.read(|book| {
            let Some(peer) = book.peer(&id) else {
                return Vec::new();
            };
            let rows: Vec<&BridgeRow> = book.bridges_of(id).map(AsRef::as_ref).collect();
            let has_row = |bridge: &Bridge| {
                let mut live = rows.iter().filter_map(|row| row.live());
                live.any(|ours| ours.name == bridge.name)
            };
            let fleet = fleet.as_deref().filter(|_| peer.status.is_live());
            let wanted = fleet.into_iter().flat_map(|fleet| fleet.bridges.values());
            let rest =
                wanted.filter(|bridge| bridge.peer == peer.alias && bridge.enabled && !has_row(bridge));
            let mut views: Vec<BridgeView> = rest
                .filter_map(|bridge| self.rowless(fleet?, peer, &rows, bridge))
                .collect();
            let begun =
                |row: &&&BridgeRow| !row.is_offered() || views.iter().all(|view| view.id != Some(row.id));
            let told: Vec<BridgeView> = rows
                .iter()
                .filter(begun)
                .filter_map(|row| self.view(fleet, peer, row, book.pause().is_some()))
                .collect();
            views.extend(told);
            views.sort_by(|a, b| (&a.network, &a.name, a.id).cmp(&(&b.network, &b.name, b.id)));
            views
        })
    }

    fn view(
        &self,
        fleet: Option<&Fleet>,
        peer: &Peer,
        row: &BridgeRow,
        is_paused: bool,
    ) -> Option<BridgeView> {
        let theirs = row.theirs.as_ref();
        let announced = theirs.map_or_else(Vec::new, |theirs| theirs.half.prefixes.clone());
        let view = BridgeView {
            id: Some(row.id),
            name: None,
            network: theirs
                .map(|theirs| theirs.half.remote_network.clone())
                .or_else(|| Some(row.ours.as_ref()?.network.clone()))?,
            remote_network: theirs
                .map(|theirs| theirs.half.network.clone())
                .or_else(|| Some(row.ours.as_ref()?.remote_network.clone()))?,
            state: "offered",
            waits_for: None,
            advice: None,
            import: Vec::new(),
            export: Vec::new(),
            agreed: Vec::new(),
            announced,
            unapproved: None,
            endpoints: theirs.map_or_else(Vec::new, |theirs| theirs.endpoints.clone()),
            listener: None,
            peer_listener: theirs.and_then(|theirs| theirs.half.listener),
            since: None,
            reason: None,
        };
        let Some(ours) = row.ours.as_ref().filter(|_| !row.is_offered()) else {
            return Some(BridgeView {
                advice: Some("this site's fleet has no such bridge: `sdwand peer bridge` answers it"),
                ..view
            });
        };
        let obstacle = self.bridge_obstacle(peer);
        let waits_for = match ours.state {
            State::Proposed if is_paused => bridge::standing(row, obstacle).or(Some(WaitsFor::Pause)),
            State::Proposed | State::Suspended => bridge::standing(row, obstacle).or(Some(WaitsFor::Key)),
            State::Active | State::Revoked => None,
        };
        let unapproved = fleet.and_then(|fleet| self.unapproved(fleet, row, ours));
        let is_denied = row.consent.denied.is_some();
        let word = if is_denied {
            WaitsFor::Denied
        } else {
            WaitsFor::Approval
        };
        // What is approved of it goes on.
        let waits_for = waits_for.or_else(|| unapproved.as_ref().map(|_| word));
        Some(BridgeView {
            name: Some(ours.name.clone()),
            state: ours.state.as_str(),
            waits_for,
            advice: waits_for.map(WaitsFor::advice),
            agreed: if ours.state == State::Active {
                intersection(&ours.import, &view.announced)
            } else {
                Vec::new()
            },
            listener: self.listener_of(ours),
            unapproved,
            import: ours.import.clone(),
            export: ours
                .half
                .as_ref()
                .map_or_else(Vec::new, |half| half.prefixes.clone()),
            since: Some(ours.since),
            reason: ours.reason.clone(),
            ..view
        })
    }

    /// The listener that an active bridge leads to.
    fn listener_of(&self, ours: &Ours) -> Option<OverlayListener> {
        let at = ours.half.as_ref()?.listener?;
        let mut known = self.overlay().into_iter();
        known
            .find(|known| ours.state == State::Active && known.network == ours.network && known.address == at)
    }

    /// What the fleet wants of a bridge beyond what is approved.
    fn unapproved(&self, fleet: &Fleet, row: &BridgeRow, ours: &Ours) -> Option<Scope> {
        let bridge = fleet.bridges.get(&ours.name)?;
        if ours.state == State::Revoked || !Action::Bridge.is_gated(&self.settings.approvals) {
            return None;
        }
        let wanted = Scope {
            import: ordered(&bridge.import),
            export: share(fleet, &self.node, bridge, self.settings.listen)?.prefixes,
        };
        let approved = row.consent.approved.clone();
        let beyond = wanted.beyond(&approved.unwrap_or_else(|| Scope::open(ours)));
        (beyond != Scope::default()).then_some(beyond)
    }

    /// A bridge of the fleet that hasn't begun, and why; none where another gateway leads it.
    fn rowless(
        &self,
        fleet: &Fleet,
        peer: &Peer,
        rows: &[&BridgeRow],
        bridge: &Bridge,
    ) -> Option<BridgeView> {
        if bridge.gateways.first() != Some(&self.node) {
            return None;
        }
        let is_led = self.negotiated(fleet).iter().any(|led| led.name == bridge.name);
        let content = share(fleet, &self.node, bridge, self.settings.listen);
        let id = self.bridge_id(peer, &bridge.network, &bridge.remote_network);
        let row = rows.iter().find(|row| Some(row.id) == id).copied();
        let unsaid = self.bridge_consent(row);
        let waits_for = if !is_led {
            WaitsFor::Duplicate
        } else if content.is_none() {
            WaitsFor::Export
        } else {
            self.bridge_obstacle(peer).or(unsaid).unwrap_or(WaitsFor::Peer)
        };
        let theirs = row.and_then(|row| row.theirs.as_ref());
        let wanted = content.as_ref().map(|content| Scope {
            import: ordered(&bridge.import),
            export: content.prefixes.clone(),
        });
        Some(BridgeView {
            unapproved: wanted.filter(|_| is_led && unsaid.is_some()),
            id,
            name: Some(bridge.name.clone()),
            network: bridge.network.clone(),
            remote_network: bridge.remote_network.clone(),
            state: State::Proposed.as_str(),
            waits_for: Some(waits_for),
            advice: Some(waits_for.advice()),
            import: bridge.import.clone(),
            export: content.map_or_else(Vec::new, |content| content.prefixes),
            announced: theirs.map_or_else(Vec::new, |theirs| theirs.half.prefixes.clone()),
            agreed: Vec::new(),
            endpoints: theirs.map_or_else(Vec::new, |theirs| theirs.endpoints.clone()),
            listener: None,
            peer_listener: theirs.and_then(|theirs| theirs.half.listener),
            since: None,
            reason: None,
        })
    }
}
