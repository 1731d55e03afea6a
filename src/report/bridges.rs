//! How bridges to other sites are, as this host sees it.

use std::fmt;
use std::net::SocketAddr;
use std::time::SystemTime;

use ipnet::IpNet;
use serde::Serialize;

use crate::intent::{BridgeIntent, NetworkIntent};
use crate::model::{AddressSet, Name, PublicKey};
use crate::planes::{l3, wireguard};
use crate::reconcile::{Observation, Target};

/// How a bridge is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BridgeState {
    /// This host is the gateway, and packets may cross.
    Carrying,
    /// This host is the gateway, and carries nothing.
    Waiting,
    /// This host leaves it out, whoever is the gateway: what it imports overlaps a network that this host is in.
    Refused,
    /// As `waiting` or `refused`, and something of it is still on this host.
    RevokeIncomplete,
    /// Another host is the gateway.
    Elsewhere,
}

impl BridgeState {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Carrying,
        Self::Waiting,
        Self::Refused,
        Self::RevokeIncomplete,
        Self::Elsewhere,
    ];

    /// The word that stands in answers and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Carrying => "carrying",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
            Self::RevokeIncomplete => "revoke_incomplete",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// One bridge.
#[derive(Clone, Debug, Serialize)]
pub struct BridgeStatus {
    name: Name,
    peer: Name,
    gateway: Name,
    state: BridgeState,
    /// Why it carries nothing.
    waits_for: Option<String>,
    /// What is still there of a bridge that carries nothing.
    remains: Vec<Remains>,
    import: Vec<IpNet>,
    export: Vec<IpNet>,
    /// Of `import`, what crosses here.
    carried: Vec<IpNet>,
    /// The other site's gateway.
    public_key: Option<PublicKey>,
    /// Where it was last heard.
    endpoint: Option<SocketAddr>,
    handshake_age_seconds: Option<u64>,
}

/// What is still on this host of a bridge that carries nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remains {
    /// WireGuard peers that nobody wants, with something of the import in their AllowedIPs.
    Peers(usize),
    /// Routes.
    Routes(usize),
    /// Elements of the firewall's sets.
    Elements(usize),
    /// Tracked connections of the network are still to be cut: some may be of the bridge.
    Connections,
}

impl fmt::Display for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut some = |many: usize, what: &str| match many {
            1 => write!(f, "1 {what}"),
            many => write!(f, "{many} {what}s"),
        };
        match self {
            Self::Peers(many) => some(*many, "peer"),
            Self::Routes(many) => some(*many, "route"),
            Self::Elements(many) => some(*many, "firewall element"),
            Self::Connections => f.write_str("tracked connections"),
        }
    }
}

/// The bridges of a network.
pub(super) fn of(
    target: &Target,
    network: &NetworkIntent,
    observation: Option<&Observation>,
    now: SystemTime,
) -> Vec<BridgeStatus> {
    let strays = Strays::of(target, network, observation);
    let bridges = network.bridges.iter();
    bridges
        .map(|bridge| {
            let key = bridge.agreement.as_ref().map(|agreement| agreement.public_key);
            let seen = seen(network, bridge, observation);
            let remains = strays.remains(bridge);
            BridgeStatus {
                name: bridge.name.clone(),
                peer: bridge.peer.clone(),
                gateway: bridge.gateway.clone(),
                state: state(bridge, &remains),
                waits_for: bridge.waits_for.clone(),
                remains,
                import: bridge.import.iter().collect(),
                export: bridge.export.iter().collect(),
                carried: bridge.carried.iter().collect(),
                public_key: key,
                endpoint: seen.and_then(|seen| seen.endpoint),
                handshake_age_seconds: seen
                    .and_then(|seen| seen.last_handshake)
                    .map(|at| now.duration_since(at).map_or(0, |age| age.as_secs())),
            }
        })
        .collect()
}

/// The other site's gateway as it was seen, where this host is ours.
pub(super) fn seen<'a>(
    network: &NetworkIntent,
    bridge: &BridgeIntent,
    observation: Option<&'a Observation>,
) -> Option<&'a wireguard::ActualPeer> {
    let key = bridge.agreement.as_ref()?.public_key;
    let devices = observation?.wireguard.as_ref().ok()?;
    devices.devices.get(&network.links.first()?.name)?.peers.get(&key)
}

/// How a bridge is, with what is left of it.
pub(super) fn state(bridge: &BridgeIntent, remains: &[Remains]) -> BridgeState {
    match (&bridge.waits_for, bridge.here) {
        (None, true) => BridgeState::Carrying,
        (None, false) => BridgeState::Elsewhere,
        (Some(_), _) if !remains.is_empty() => BridgeState::RevokeIncomplete,
        (Some(_), _) if bridge.clash.is_some() => BridgeState::Refused,
        (Some(_), _) => BridgeState::Waiting,
    }
}

/// What is on this host in a network and isn't wanted.
pub(super) struct Strays {
    /// What peers that nobody wants may carry.
    peers: Vec<AddressSet>,
    /// Where routes of ours lead.
    routes: Vec<IpNet>,
    /// What elements of the firewall's sets are about.
    elements: Vec<IpNet>,
    is_cutting: bool,
}

impl Strays {
    /// Compares what was read with what is wanted. What can't be read is no news: its plane's condition says so.
    pub(super) fn of(target: &Target, network: &NetworkIntent, observation: Option<&Observation>) -> Self {
        let waits = network.bridges.iter().any(|bridge| bridge.waits_for.is_some());
        let seen = observation.filter(|_| waits);
        let devices = seen.and_then(|seen| seen.wireguard.as_ref().ok());
        let routes = seen.and_then(|seen| seen.l3.as_ref().ok());
        let table = seen.and_then(|seen| seen.firewall.as_deref().ok());
        Self {
            peers: devices.map_or_else(Vec::new, |devices| stray_peers(network, devices)),
            routes: routes.map_or_else(Vec::new, |actual| stray_routes(target, network, actual)),
            elements: table.map_or_else(Vec::new, |table| table.stray_nets(&target.firewall, network.id)),
            is_cutting: table.is_some_and(|table| table.is_cutting(network.id)),
        }
    }

    /// What of it is a bridge's that carries nothing.
    pub(super) fn remains(&self, bridge: &BridgeIntent) -> Vec<Remains> {
        if bridge.waits_for.is_none() {
            return Vec::new();
        }
        let is_in = |net: &&IpNet| {
            std::iter::once(**net)
                .collect::<AddressSet>()
                .intersects(&bridge.import)
        };
        let carry = |carried: &&AddressSet| carried.intersects(&bridge.import);
        let counted = [
            (
                self.peers.iter().filter(carry).count(),
                Remains::Peers as fn(usize) -> Remains,
            ),
            (self.routes.iter().filter(is_in).count(), Remains::Routes),
            (self.elements.iter().filter(is_in).count(), Remains::Elements),
        ];
        let counted = counted.into_iter().filter(|(many, _)| *many > 0);
        let connections = self.is_cutting.then_some(Remains::Connections);
        counted
            .map(|(many, what)| what(many))
            .chain(connections)
            .collect()
    }
}

fn stray_peers(network: &NetworkIntent, devices: &wireguard::Actual) -> Vec<AddressSet> {
    let mut found = Vec::new();
    for link in &network.links {
        let is_known = |key: &PublicKey| {
            let mut peers = link.peers.iter();
            peers.any(|(known, peer)| known == key || peer.next_public_key == Some(*key))
        };
        let peers = devices
            .devices
            .get(&link.name)
            .into_iter()
            .flat_map(|device| &device.peers);
        let strays = peers.filter(|(key, _)| !is_known(key));
        found.extend(strays.map(|(_, peer)| peer.allowed_ips.iter().collect::<AddressSet>()));
    }
    found
}

fn stray_routes(target: &Target, network: &NetworkIntent, actual: &l3::Actual) -> Vec<IpNet> {
    let routes = actual.state.routes.iter();
    let strays = routes.filter(|(key, route)| {
        key.table == network.table
            && route.network == Some(network.id)
            && route.to != l3::RouteTo::Unreachable
            && !target.l3.routes.contains_key(key)
    });
    strays.map(|(key, _)| key.destination).collect()
}

impl fmt::Display for BridgeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nets = |nets: &[IpNet]| -> String {
            let some: Vec<String> = nets.iter().take(3).map(ToString::to_string).collect();
            match nets.len() {
                0 => "nothing".to_owned(),
                1..=3 => some.join(", "),
                n => format!("{} and {} more", some.join(", "), n - 3),
            }
        };
        write!(f, "  bridge {:<18} {}  ", self.name, self.peer)?;
        match self.state {
            BridgeState::Elsewhere => write!(f, "by {}: {}", self.gateway, nets(&self.import)),
            BridgeState::Carrying => {
                let age = self
                    .handshake_age_seconds
                    .map_or("no handshake".to_owned(), |age| format!("handshake {age} s ago"));
                write!(
                    f,
                    "carries {} to {}, {age}",
                    nets(&self.carried),
                    nets(&self.export)
                )
            }
            BridgeState::Waiting => write!(f, "carries nothing"),
            BridgeState::Refused => write!(f, "LEFT OUT here: see the conditions"),
            BridgeState::RevokeIncomplete => {
                let remains: Vec<String> = self.remains.iter().map(ToString::to_string).collect();
                write!(f, "REVOKE INCOMPLETE: still there: {}", remains.join(", "))
            }
        }
    }
}

#[cfg(test)]
pub(in crate::report) mod tests;
