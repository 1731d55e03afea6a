//! Who is whose peer, and which link carries which prefix.
//!
//! A spoke has one link per hub; each link's AllowedIPs are the network's full bound and the routes pick the link, so
//! that packets which arrive through the other hub are accepted. A hub, and a node of a full mesh, has one multipoint
//! link where each peer may carry only what the fleet gives it: that is source validation. In a mesh, the first hub that
//! can be called also carries between members that can't.
//!
//! On a multipoint link some prefixes may be on several peers ([`LinkIntent::carriers`]): a virtual IP on each of its
//! holders, and on a hub whatever isn't a node's own address on the other hubs, too. The routes say on which.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::compile::{DEFAULT_MTU, Placed};
use super::{LinkIntent, LinkKind, Notice, PeerIntent};
use crate::model::address::canonical;
use crate::model::network::{Network, Role, Routing, Topology};
use crate::model::{LinkName, Name, PublicKey, naming};

/// The links of this host in one network, and the routes over them.
pub(super) struct Wiring {
    pub(super) links: Vec<LinkIntent>,
    pub(super) routes: BTreeMap<IpNet, LinkName>,
    /// See [`super::NetworkIntent::shared`].
    pub(super) shared: BTreeSet<IpNet>,
}

/// Every prefix that may be a source or a destination inside the network: its own, and what its bridges import.
pub(super) fn bound(network: &Network, members: &[Placed<'_>]) -> BTreeSet<IpNet> {
    let mut nets = inside(network, members);
    nets.extend(members.iter().flat_map(|member| member.imports.iter().copied()));
    nets
}

/// Every prefix of the network itself.
pub(super) fn inside(network: &Network, members: &[Placed<'_>]) -> BTreeSet<IpNet> {
    let mut nets = vec![IpNet::V6(network.prefix)];
    nets.extend(network.prefix_v4.map(IpNet::V4));
    nets.extend(network.workload_prefix);
    nets.extend(members.iter().flat_map(Placed::lans));
    canonical(nets)
}

pub(super) fn wire(
    network: &Network,
    members: &[Placed<'_>],
    own: &Placed<'_>,
    notices: &mut Vec<Notice>,
) -> Wiring {
    match (network.topology, own.member.role) {
        (Topology::HubAndSpoke, Role::Hub) => {
            let peers: Vec<_> = others(members, own).collect();
            multipoint(network, own, &peers, None, &[])
        }
        (Topology::HubAndSpoke, Role::Spoke) => uplinks(network, members, own),
        (Topology::FullMesh, Role::Hub | Role::Spoke) => mesh(network, members, own, notices),
    }
}

/// Everyone to everyone. Two members of which neither can be called meet at the first hub that can: both ends find the
/// same one, so that what comes from the other comes by whom it may. Without such a hub they are named.
fn mesh(network: &Network, members: &[Placed<'_>], own: &Placed<'_>, notices: &mut Vec<Notice>) -> Wiring {
    let (reachable, apart): (Vec<_>, Vec<_>) =
        others(members, own).partition(|peer| own.member.is_dialable() || peer.member.is_dialable());
    let carrier = members
        .iter()
        .find(|member| member.member.role == Role::Hub && member.member.is_dialable());
    if carrier.is_none() {
        notices.extend(apart.iter().map(|peer| Notice {
            network: Some(network.name.clone()),
            object: format!("node {}", peer.name()),
            text: format!(
                "unreachable: neither {} nor {} has an endpoint; a member that has one and `role = \"hub\"` would carry \
                 between them",
                own.name(),
                peer.name()
            ),
        }));
    }
    multipoint(network, own, &reachable, carrier, &apart)
}

fn others<'m, 'a>(members: &'m [Placed<'a>], own: &Placed<'_>) -> impl Iterator<Item = &'m Placed<'a>> {
    let own = own.name().clone();
    members.iter().filter(move |peer| *peer.name() != own)
}

/// Keepalives go to those that can be dialled: they keep our own NAT open. Towards the others they would do nothing.
fn keepalive_to(network: &Network, peer: &Placed<'_>) -> u16 {
    if peer.member.is_dialable() {
        network.keepalive_seconds
    } else {
        0
    }
}

fn peer_intent(peer: &Placed<'_>, keepalive_seconds: u16, allowed_ips: BTreeSet<IpNet>) -> PeerIntent {
    PeerIntent {
        node: peer.name().clone(),
        bridge: None,
        overlay_v6: Some(peer.v6),
        link_local: Some(peer.link_local),
        preshared_key: None,
        next_public_key: peer.member.node.next_public_key,
        endpoints: peer.member.endpoints.to_vec(),
        port: peer.member.listen_port,
        keepalive_seconds,
        addresses: [
            Some(IpAddr::V6(peer.v6)),
            peer.v4.map(IpAddr::V4),
            Some(IpAddr::V6(peer.link_local)),
        ]
        .into_iter()
        .flatten()
        .collect(),
        allowed_ips,
    }
}

/// One link with a peer for each of `peers`; what is `behind` the hub is its peer's, too.
fn multipoint(
    network: &Network,
    own: &Placed<'_>,
    peers: &[&Placed<'_>],
    hub: Option<&Placed<'_>>,
    behind: &[&Placed<'_>],
) -> Wiring {
    let name = naming::wireguard_link(network.id, 0);
    let mut link = LinkIntent {
        name: name.clone(),
        kind: LinkKind::Multipoint,
        mtu: network.mtu.unwrap_or(DEFAULT_MTU),
        listen_port: Some(own.member.listen_port),
        peers: BTreeMap::new(),
        carriers: carriers(network, own, peers, hub, behind),
    };
    let mut routes = BTreeMap::new();
    for peer in peers {
        let is_hub = hub.is_some_and(|hub| hub.name() == peer.name());
        let further = behind
            .iter()
            .filter(|_| is_hub)
            .flat_map(|member| member.carried());
        let carried = canonical(peer.carried().chain(further));
        routes.extend(carried.iter().map(|net| (*net, name.clone())));
        let mut allowed = carried;
        allowed.insert(IpNet::from(IpAddr::V6(peer.link_local)));
        let intent = peer_intent(peer, keepalive_to(network, peer), allowed);
        link.peers.insert(peer.member.node.public_key, intent);
    }
    Wiring {
        links: vec![link],
        routes,
        shared: BTreeSet::new(),
    }
}

/// What more than one peer of a multipoint link may carry: a virtual IP with several holders, and where hubs are peers of a
/// hub, whatever is behind any other peer. Nobody's own address is among it, nor a virtual IP that is here.
fn carriers(
    network: &Network,
    own: &Placed<'_>,
    peers: &[&Placed<'_>],
    hub: Option<&Placed<'_>>,
    behind: &[&Placed<'_>],
) -> BTreeMap<IpNet, BTreeSet<PublicKey>> {
    let key = |peer: &Placed<'_>| peer.member.node.public_key;
    let direct = peers.iter().map(|peer| (peer.name(), key(peer)));
    let by_hub = hub.map(key).into_iter();
    let by_hub = by_hub.flat_map(|hub| behind.iter().map(move |member| (member.name(), hub)));
    let reached: BTreeMap<&Name, PublicKey> = direct.chain(by_hub).collect();
    let mut carriers: BTreeMap<IpNet, BTreeSet<PublicKey>> = BTreeMap::new();
    for vip in &network.virtual_ips {
        if !vip.held_by(own.name()) {
            let holders = vip.holders.iter().filter_map(|holder| reached.get(holder));
            carriers.insert(IpNet::from(vip.address), holders.copied().collect());
        }
    }
    let others: BTreeSet<PublicKey> = match network.topology {
        Topology::HubAndSpoke => {
            let hubs = peers.iter().filter(|peer| peer.member.role == Role::Hub);
            hubs.map(|hub| key(hub)).collect()
        }
        Topology::FullMesh => BTreeSet::new(),
    };
    if !others.is_empty() {
        for peer in peers {
            for lan in peer.lans() {
                carriers.entry(lan).or_default().insert(key(peer));
            }
        }
    }
    for may in carriers.values_mut() {
        may.extend(&others);
    }
    carriers.retain(|_, may| may.len() > 1);
    carriers
}

/// One link per hub. What a hub alone carries goes over its own link; everything else over whichever is alive, in a
/// static network by the order of the hubs.
fn uplinks(network: &Network, members: &[Placed<'_>], own: &Placed<'_>) -> Wiring {
    let full = bound(network, members);
    let own_nets: BTreeSet<IpNet> = canonical(own.carried());
    let mut wiring = Wiring {
        links: Vec::new(),
        routes: BTreeMap::new(),
        shared: BTreeSet::new(),
    };
    let hubs = members.iter().filter(|member| member.member.role == Role::Hub);
    for (index, hub) in hubs.take(naming::MAX_HUBS).enumerate() {
        let name = naming::wireguard_link(network.id, index);
        for net in canonical(hub.carried()) {
            // An anycast address of several hubs is that of the nearest: the first.
            wiring.routes.entry(net).or_insert_with(|| name.clone());
        }
        let mut allowed = full.clone();
        allowed.insert(IpNet::from(IpAddr::V6(hub.link_local)));
        let peer = peer_intent(hub, network.keepalive_seconds, allowed);
        let peers: BTreeMap<PublicKey, PeerIntent> = BTreeMap::from([(hub.member.node.public_key, peer)]);
        wiring.links.push(LinkIntent {
            name,
            kind: LinkKind::Uplink {
                hub: hub.name().clone(),
            },
            mtu: network.mtu.unwrap_or(DEFAULT_MTU),
            listen_port: (index == 0).then_some(own.member.listen_port),
            peers,
            carriers: BTreeMap::new(),
        });
    }
    if let Some(first) = wiring.links.first().map(|link| link.name.clone()) {
        for net in full.difference(&own_nets) {
            if let Entry::Vacant(route) = wiring.routes.entry(*net) {
                route.insert(first.clone());
                wiring.shared.insert(*net);
            }
        }
    }
    if wiring.links.len() < 2 || network.routing != Routing::Static {
        wiring.shared.clear();
    }
    wiring
}
