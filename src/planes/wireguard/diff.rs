//! What should be × what is → changes. Pure: the clock, the resolver's answers and the host's key are arguments.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::HANDSHAKE_STALE;
use super::state::{
    Actual, ActualDevice, ActualPeer, Change, Desired, DesiredDevice, DesiredPeer, Names, NewPeer, PeerDelta,
    Target,
};
use crate::model::network::EndpointHost;
use crate::model::{LinkName, PublicKey};
use crate::planes::{Blocked, Difference};

/// What a difference depends on beside the two states.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The public half of the private key on this host.
    pub own_key: &'a PublicKey,
    /// What the names of [`stale_names`] resolved to.
    pub names: &'a Names,
    /// The time of day, as handshakes are told in it.
    pub now: SystemTime,
}

/// What turns `actual` into `desired`.
///
/// A device that isn't in `actual` counts as empty. Devices that `desired` doesn't name are left to the l3 plane,
/// which removes their links. If the host's key isn't the node's, nothing is changed at all: the configuration belongs
/// to another host.
#[must_use]
pub fn diff(desired: &Desired, actual: &Actual, facts: Facts<'_>) -> Difference<Change> {
    let mut difference = Difference::default();
    if *facts.own_key != desired.public_key && Some(*facts.own_key) != desired.next_public_key {
        difference.blocked.push(Blocked {
            network: None,
            reason: format!(
                "the private key of this host is that of {}, but the fleet gives node {} the key {}",
                facts.own_key, desired.node, desired.public_key
            ),
            fix: "put the node's key into private_key_file, or what `sdwand pubkey` prints into the fleet"
                .to_owned(),
        });
        return difference;
    }
    let missing = ActualDevice::default();
    for (link, device) in &desired.devices {
        let actual = actual.devices.get(link).unwrap_or(&missing);
        diff_device(link, device, actual, facts, &mut difference);
    }
    let vacated = vacated(desired, actual, &difference.changes);
    difference.changes.splice(..0, vacated);
    difference
}

/// Devices that have a port which another one is about to take move out of its way first, to a port of the system's
/// choice, whether they stay there or go on to another one.
fn vacated(desired: &Desired, actual: &Actual, changes: &[Change]) -> Vec<Change> {
    let taken: BTreeSet<u16> = changes
        .iter()
        .filter_map(|change| match change {
            Change::SetListenPort { port, .. } => Some(*port),
            Change::RemovePeer { .. }
            | Change::WithdrawIps { .. }
            | Change::SetKey { .. }
            | Change::AddPeer { .. }
            | Change::UpdatePeer { .. } => None,
        })
        .collect();
    let in_the_way = desired.devices.iter().filter(|(link, device)| {
        let port = actual.devices.get(*link).map_or(0, |device| device.listen_port);
        port != 0 && taken.contains(&port) && device.listen_port != Some(port)
    });
    in_the_way
        .map(|(link, device)| Change::SetListenPort {
            target: Target {
                network: device.network,
                link: link.clone(),
            },
            port: 0,
        })
        .collect()
}

/// The DNS names that [`diff`] will ask for: those of peers that have no endpoint or whose handshake is stale.
#[must_use]
pub fn stale_names(desired: &Desired, actual: &Actual, now: SystemTime) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (link, device) in &desired.devices {
        let actual = actual.devices.get(link);
        for (public_key, peer) in &device.peers {
            let actual = actual.and_then(|device| device.peers.get(public_key));
            if !peer.endpoints.is_empty() && wants_endpoint(peer, actual, now) {
                names.extend(peer.endpoints.iter().filter_map(|endpoint| match &endpoint.host {
                    EndpointHost::Dns(name) => Some(name.clone()),
                    EndpointHost::Address(_) => None,
                }));
            }
        }
    }
    names
}

fn diff_device(
    link: &LinkName,
    desired: &DesiredDevice,
    actual: &ActualDevice,
    facts: Facts<'_>,
    difference: &mut Difference<Change>,
) {
    let target = || Target {
        network: desired.network,
        link: link.clone(),
    };
    let foreign = actual.peers.keys().filter(|key| !desired.peers.contains_key(key));
    difference
        .changes
        .extend(foreign.map(|public_key| Change::RemovePeer {
            target: target(),
            public_key: *public_key,
        }));
    let withdrawn = withdrawn(desired, actual);
    if !withdrawn.is_empty() {
        difference.changes.push(Change::WithdrawIps {
            target: target(),
            allowed_ips: withdrawn,
        });
    }
    if actual.public_key != Some(*facts.own_key) {
        difference.changes.push(Change::SetKey {
            target: target(),
            public_key: *facts.own_key,
        });
    }
    if let Some(port) = desired.listen_port.filter(|port| *port != actual.listen_port) {
        difference.changes.push(Change::SetListenPort {
            target: target(),
            port,
        });
    }
    for (public_key, peer) in &desired.peers {
        let known = actual.peers.get(public_key);
        let endpoint = choose_endpoint(peer, known, facts);
        if let Choice::Unresolved(name) = endpoint {
            difference.blocked.push(Blocked {
                network: Some(desired.network),
                reason: format!(
                    "peer {} of {link} can't be called: {name} doesn't resolve",
                    peer.node
                ),
                fix: format!(
                    "make {name} resolve on this host, or give {} a literal endpoint",
                    peer.node
                ),
            });
        }
        match known {
            None => difference.changes.push(Change::AddPeer {
                target: target(),
                public_key: *public_key,
                peer: NewPeer {
                    node: peer.node.clone(),
                    preshared_key: peer.preshared_key.clone(),
                    endpoint: endpoint.address(),
                    keepalive: peer.keepalive,
                    allowed_ips: peer.allowed_ips.clone(),
                },
            }),
            Some(known) => {
                let delta = diff_peer(peer, known, endpoint.address());
                if !delta.is_empty() {
                    difference.changes.push(Change::UpdatePeer {
                        target: target(),
                        public_key: *public_key,
                        node: peer.node.clone(),
                        delta,
                    });
                }
            }
        }
    }
}

/// What peers that stay carry now and no peer should. What another peer should carry moves instead.
fn withdrawn(desired: &DesiredDevice, actual: &ActualDevice) -> BTreeSet<IpNet> {
    let mut extra: BTreeSet<IpNet> = BTreeSet::new();
    for (public_key, known) in &actual.peers {
        if let Some(peer) = desired.peers.get(public_key)
            && peer.allowed_ips != known.allowed_ips
        {
            extra.extend(known.allowed_ips.difference(&peer.allowed_ips));
        }
    }
    if !extra.is_empty() {
        for peer in desired.peers.values() {
            if extra.len() < peer.allowed_ips.len() {
                extra.retain(|net| !peer.allowed_ips.contains(net));
            } else {
                for net in &peer.allowed_ips {
                    extra.remove(net);
                }
            }
        }
    }
    extra
}

fn diff_peer(peer: &DesiredPeer, known: &ActualPeer, endpoint: Option<SocketAddr>) -> PeerDelta {
    let same_key = known.preshared_key.as_ref() == Some(&peer.preshared_key);
    let allowed_ips = if peer.allowed_ips == known.allowed_ips {
        BTreeSet::new()
    } else {
        peer.allowed_ips.difference(&known.allowed_ips).copied().collect()
    };
    PeerDelta {
        preshared_key: (!same_key).then(|| peer.preshared_key.clone()),
        endpoint,
        keepalive: (peer.keepalive != known.keepalive).then_some(peer.keepalive),
        allowed_ips,
    }
}

/// What to do about a peer's endpoint.
#[derive(Clone, Copy)]
enum Choice<'a> {
    /// Nothing.
    Keep,
    /// Call it there.
    Set(SocketAddr),
    /// It should be set, but no name of it resolves; this is the first.
    Unresolved(&'a str),
}

impl Choice<'_> {
    const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Set(address) => Some(address),
            Self::Keep | Self::Unresolved(_) => None,
        }
    }
}

fn choose_endpoint<'a>(peer: &'a DesiredPeer, known: Option<&ActualPeer>, facts: Facts<'_>) -> Choice<'a> {
    if peer.endpoints.is_empty() || !wants_endpoint(peer, known, facts.now) {
        return Choice::Keep;
    }
    let current = known.and_then(|known| known.endpoint);
    let mut first = None;
    let mut unresolved = None;
    for endpoint in &peer.endpoints {
        let port = endpoint.port.unwrap_or_default();
        let addresses = match &endpoint.host {
            EndpointHost::Address(address) => std::slice::from_ref(address),
            EndpointHost::Dns(name) => facts.names.get(name).map_or(&[][..], Vec::as_slice),
        };
        for address in addresses {
            let address = SocketAddr::new(*address, port);
            if current == Some(address) {
                return Choice::Keep;
            }
            first = first.or(Some(address));
        }
        if let (EndpointHost::Dns(name), true) = (&endpoint.host, addresses.is_empty()) {
            unresolved = unresolved.or(Some(name.as_str()));
        }
    }
    match (first, unresolved) {
        (Some(address), _) => Choice::Set(address),
        (None, Some(name)) => Choice::Unresolved(name),
        (None, None) => Choice::Keep,
    }
}

/// Whether the fleet has a say in a peer's endpoint: it has none, its handshake doesn't vouch for the one it has, or that
/// is one that only the former fleet named.
fn wants_endpoint(peer: &DesiredPeer, known: Option<&ActualPeer>, now: SystemTime) -> bool {
    known.is_none_or(|known| {
        let is_left = known.endpoint.is_some_and(|endpoint| has_left(peer, endpoint));
        known.endpoint.is_none() || is_left || !is_fresh(known.last_handshake, now)
    })
}

/// Whether this is where the former fleet had the peer. Of a name only the port is known here: it counts where no
/// endpoint has that port any more.
fn has_left(peer: &DesiredPeer, current: SocketAddr) -> bool {
    peer.left.iter().any(|endpoint| {
        endpoint.port == Some(current.port())
            && match &endpoint.host {
                EndpointHost::Address(address) => *address == current.ip(),
                EndpointHost::Dns(_) => peer.endpoints.iter().all(|now| now.port != endpoint.port),
            }
    })
}

/// Whether a handshake is recent. One from the future is judged by its distance too: the clock may have been set back.
fn is_fresh(last_handshake: Option<SystemTime>, now: SystemTime) -> bool {
    let distance = |time: SystemTime| -> Duration {
        match now.duration_since(time) {
            Ok(age) => age,
            Err(ahead) => ahead.duration(),
        }
    };
    last_handshake.is_some_and(|time| distance(time) <= HANDSHAKE_STALE)
}

#[cfg(test)]
mod tests;
