//! One host as the walk sees it: what the planes compile for it, or what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::intent::{HostIntent, NetworkIntent};
use crate::model::network::NetworkId;
use crate::model::{LinkName, Name, PublicKey};
use crate::planes::firewall::Policy;
use crate::planes::{l3, wireguard};

/// A host.
pub(super) struct View {
    pub(super) intent: HostIntent,
    l3: l3::State,
    devices: BTreeMap<LinkName, Device>,
    policies: BTreeMap<NetworkId, Policy>,
}

type Device = BTreeMap<PublicKey, Peer>;

/// A WireGuard peer.
pub(super) struct Peer {
    pub(super) node: Name,
    allowed_ips: BTreeSet<IpNet>,
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Routed {
    /// To the host itself.
    Local,
    /// Out by an interface, maybe to a router there.
    Out {
        device: LinkName,
        gateway: Option<IpAddr>,
        by: String,
    },
    /// Nowhere, and why.
    Nowhere(String),
}

impl View {
    /// The host as the fleet wants it.
    pub(super) fn of_fleet(intent: HostIntent) -> Self {
        let devices = wireguard::compile(&intent).devices.into_iter();
        Self {
            l3: l3::compile(&intent, &l3::Facts::offline()),
            devices: devices
                .map(|(link, device)| {
                    let peers = device.peers.into_iter().map(|(key, peer)| {
                        let (node, allowed_ips) = (peer.node, peer.allowed_ips);
                        (key, Peer { node, allowed_ips })
                    });
                    (link, peers.collect())
                })
                .collect(),
            policies: Policy::all_of(&intent),
            intent,
        }
    }

    pub(super) fn policies(&self) -> &BTreeMap<NetworkId, Policy> {
        &self.policies
    }

    /// Whether an address is this host's own in a network.
    pub(super) fn is_local(&self, network: NetworkId, address: IpAddr) -> bool {
        let mut links = self.l3.links.values().filter(|link| link.network == network);
        links.any(|link| link.addresses.iter().any(|own| own.addr() == address))
    }

    /// The interface of the LAN that an address is in.
    pub(super) fn lan_of(network: &NetworkIntent, address: IpAddr) -> Option<&LinkName> {
        let within = network.lans.iter().filter(|lan| lan.subnet.contains(&address));
        within
            .max_by_key(|lan| lan.subnet.prefix_len())
            .map(|lan| &lan.interface)
    }

    /// Where the network's table sends a packet: the longest prefix, then the lowest metric.
    pub(super) fn route(&self, network: &NetworkIntent, destination: IpAddr) -> Routed {
        if self.is_local(network.id, destination) {
            return Routed::Local;
        }
        let routes = self.l3.routes.iter();
        let within =
            routes.filter(|(key, _)| key.table == network.table && key.destination.contains(&destination));
        let best =
            within.max_by_key(|(key, _)| (key.destination.prefix_len(), std::cmp::Reverse(key.metric)));
        let nowhere = |what: &str| Routed::Nowhere(format!("{what} in table {}", network.table));
        let Some((key, route)) = best else {
            return nowhere(&format!("no route to {destination}"));
        };
        match &route.to {
            l3::RouteTo::Link { device, gateway, .. } => Routed::Out {
                device: device.clone(),
                gateway: *gateway,
                by: key.destination.to_string(),
            },
            l3::RouteTo::Unreachable | l3::RouteTo::Elsewhere => nowhere(&format!(
                "no route to {destination} but {}, unreachable,",
                key.destination
            )),
        }
    }

    /// The peer of a link that carries an address: the longest prefix, as WireGuard looks it up.
    pub(super) fn carrier(&self, link: &LinkName, address: IpAddr) -> Option<(&PublicKey, &Peer)> {
        let peers = self.devices.get(link)?.iter();
        let longest = |peer: &Peer| {
            let within = peer.allowed_ips.iter().filter(|net| net.contains(&address));
            within.map(IpNet::prefix_len).max()
        };
        let carriers = peers.filter_map(|(key, peer)| Some((longest(peer)?, key, peer)));
        carriers
            .max_by_key(|(length, _, _)| *length)
            .map(|(_, key, peer)| (key, peer))
    }

    /// The link on which one of these keys is a peer.
    pub(super) fn link_to<'a>(
        &self,
        network: &'a NetworkIntent,
        keys: &[PublicKey],
    ) -> Option<(&'a LinkName, PublicKey)> {
        network.links.iter().find_map(|link| {
            let peers = self.devices.get(&link.name)?;
            let key = keys.iter().find(|key| peers.contains_key(*key))?;
            Some((&link.name, *key))
        })
    }

    /// The keys by which others know this host.
    pub(super) fn keys(&self) -> Vec<PublicKey> {
        let next = self.intent.next_public_key;
        std::iter::once(self.intent.public_key).chain(next).collect()
    }

    /// The MTU of a link in bytes, where it is ours.
    pub(super) fn mtu(&self, link: &LinkName) -> Option<u32> {
        self.l3.links.get(link)?.mtu
    }
}
