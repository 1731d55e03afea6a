//! How bridges to other sites are, as this host sees it.

use std::fmt;
use std::net::SocketAddr;
use std::time::SystemTime;

use ipnet::IpNet;
use serde::Serialize;

use crate::intent::{BridgeIntent, NetworkIntent};
use crate::model::{AddressSet, Name, PublicKey};
use crate::planes::wireguard;

/// How a bridge is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BridgeState {
    /// This host is the gateway, and packets may cross.
    Carrying,
    /// This host is the gateway, and carries nothing.
    Waiting,
    /// As `waiting`, and a WireGuard peer that nobody wants still carries something of it.
    RevokeIncomplete,
    /// Another host is the gateway.
    Elsewhere,
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

/// The bridges of a network.
pub(super) fn of(
    network: &NetworkIntent,
    devices: Option<&wireguard::Actual>,
    now: SystemTime,
) -> Vec<BridgeStatus> {
    let bridges = network.bridges.iter();
    bridges.map(|bridge| one(network, bridge, devices, now)).collect()
}

fn one(
    network: &NetworkIntent,
    bridge: &BridgeIntent,
    devices: Option<&wireguard::Actual>,
    now: SystemTime,
) -> BridgeStatus {
    let link = network.links.first();
    let device = link.and_then(|link| devices?.devices.get(&link.name));
    let key = bridge.agreement.as_ref().map(|agreement| agreement.public_key);
    let seen = key.and_then(|key| device?.peers.get(&key));
    let is_known = |key: &PublicKey| {
        let mut peers = link.iter().flat_map(|link| &link.peers);
        peers.any(|(known, peer)| known == key || peer.next_public_key == Some(*key))
    };
    let carries = |peer: &wireguard::ActualPeer| {
        let carried: AddressSet = peer.allowed_ips.iter().collect();
        carried.intersects(&bridge.import)
    };
    let has_stranger = device.is_some_and(|device| {
        let mut peers = device.peers.iter();
        peers.any(|(key, peer)| !is_known(key) && carries(peer))
    });
    BridgeStatus {
        name: bridge.name.clone(),
        peer: bridge.peer.clone(),
        gateway: bridge.gateway.clone(),
        state: match (bridge.here, &bridge.waits_for) {
            (false, _) => BridgeState::Elsewhere,
            (true, None) => BridgeState::Carrying,
            (true, Some(_)) if has_stranger => BridgeState::RevokeIncomplete,
            (true, Some(_)) => BridgeState::Waiting,
        },
        waits_for: bridge.waits_for.clone(),
        import: bridge.import.iter().collect(),
        export: bridge.export.iter().collect(),
        carried: bridge.carried.iter().collect(),
        public_key: key,
        endpoint: seen.and_then(|seen| seen.endpoint),
        handshake_age_seconds: seen
            .and_then(|seen| seen.last_handshake)
            .map(|at| now.duration_since(at).map_or(0, |age| age.as_secs())),
    }
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
            BridgeState::RevokeIncomplete => write!(f, "REVOKE INCOMPLETE: a peer of it is still there"),
        }
    }
}
