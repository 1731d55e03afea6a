//! What should be × what is → changes. Pure: the clock, the resolver's answers and the host's key are arguments.

mod endpoints;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use ipnet::IpNet;

use super::attempts::Calls;
use super::rotation::{anew, called_by_new_key, is_former, is_made_anew, with_next_keys};
use super::state::{
    Actual, ActualDevice, ActualPeer, Change, Desired, DesiredDevice, DesiredPeer, Names, NewPeer, PeerDelta,
    Target,
};
use crate::model::network::EndpointHost;
use crate::model::{LinkName, PublicKey};
use crate::planes::{Blocked, Difference, Ways};

pub(super) use endpoints::candidates;
pub use endpoints::is_fresh;
use endpoints::{Choice, choose_endpoint, wants_endpoint};

/// What a difference depends on beside the two states.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The public half of the private key on this host.
    pub own_key: &'a PublicKey,
    /// What the names of [`stale_names`] resolved to.
    pub names: &'a Names,
    /// The ways to the addresses of [`stale_addresses`].
    pub ways: &'a Ways,
    /// How long peers have been called in vain where they are called now.
    pub calls: &'a Calls,
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
    let turned = with_next_keys(desired, actual, facts.now);
    let desired = turned.as_ref();
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
            | Change::ReplacePeer { .. }
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
    for (link, device) in &with_next_keys(desired, actual, now).devices {
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

/// The addresses between which [`diff`] will choose: those of peers that it asks the names of, where there are several.
#[must_use]
pub fn stale_addresses(
    desired: &Desired,
    actual: &Actual,
    names: &Names,
    now: SystemTime,
) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::new();
    for (link, device) in &with_next_keys(desired, actual, now).devices {
        let actual = actual.devices.get(link);
        for (public_key, peer) in &device.peers {
            let actual = actual.and_then(|device| device.peers.get(public_key));
            if peer.endpoints.is_empty() || !wants_endpoint(peer, actual, now) {
                continue;
            }
            let candidates = candidates(peer, names);
            if candidates.len() > 1 {
                addresses.extend(candidates.iter().map(SocketAddr::ip));
            }
        }
    }
    addresses
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
            calls: called_by_new_key(desired, actual, facts.now),
        });
    }
    if let Some(port) = desired.listen_port.filter(|port| *port != actual.listen_port) {
        difference.changes.push(Change::SetListenPort {
            target: target(),
            port,
        });
    }
    // What a former key carried is taken from it before it is made anew.
    let mut formers = Vec::new();
    for (public_key, peer) in &desired.peers {
        let known = actual.peers.get(public_key);
        let endpoint = choose_endpoint(link, public_key, peer, known, facts);
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
        let is_new = is_made_anew(desired, actual, (public_key, peer));
        let change = change_of_peer(target(), *public_key, (peer, known), endpoint.address(), is_new);
        if is_new && is_former(public_key, peer) {
            formers.extend(change);
        } else {
            difference.changes.extend(change);
        }
    }
    difference.changes.extend(formers);
}

/// What makes a peer as it should be.
fn change_of_peer(
    target: Target,
    public_key: PublicKey,
    (peer, known): (&DesiredPeer, Option<&ActualPeer>),
    endpoint: Option<SocketAddr>,
    is_made_anew: bool,
) -> Option<Change> {
    let Some(known) = known else {
        return Some(Change::AddPeer {
            target,
            public_key,
            peer: NewPeer {
                node: peer.node.clone(),
                preshared_key: peer.preshared_key.clone(),
                endpoint,
                keepalive: peer.keepalive,
                allowed_ips: peer.allowed_ips.clone(),
            },
        });
    };
    if is_made_anew {
        return Some(Change::ReplacePeer {
            target,
            public_key,
            peer: anew(peer, known, endpoint),
        });
    }
    let delta = diff_peer(peer, known, endpoint);
    (!delta.is_empty()).then(|| Change::UpdatePeer {
        target,
        public_key,
        node: peer.node.clone(),
        delta,
    })
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

#[cfg(test)]
mod tests;
