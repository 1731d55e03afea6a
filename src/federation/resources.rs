//! What peers may read of this site, where a grant allows it: no more than they need to reach it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::model::network::{Network, VirtualIp};
use crate::model::routing::{Bridge, Export};
use crate::model::service::Offer;
use crate::model::{Fleet, Name, naming};

/// The kinds that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A network: by its name or its number.
    Network,
    /// A virtual IP: `<network>.<name>`, or its name where one network only has it.
    VirtualIp,
    /// A node: by its name or its instance id.
    Node,
    /// What a bridge gives to the peer: an offer by its name or by that of its virtual IP; an exported virtual IP that no offer
    /// is of, named like one.
    Service,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Network, Self::VirtualIp, Self::Node, Self::Service];

    /// The word that stands in grants and paths.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::VirtualIp => "virtual_ip",
            Self::Node => "node",
            Self::Service => "service",
        }
    }

    /// The kind that a word is about.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Everything of a kind, each as `(what it may be called, what is told of it)`. `peer` is what we call the asking peer. The work
/// grows with the fleet, not with its square: a peer may ask as often as it likes.
#[must_use]
pub fn all(fleet: &Fleet, kind: Kind, peer: &Name) -> Vec<(Vec<String>, Value)> {
    match kind {
        Kind::Network => fleet.networks.values().map(network).collect(),
        Kind::Node => nodes(fleet),
        Kind::VirtualIp => {
            let namesakes = namesakes(fleet);
            let of = |network| virtual_ips(network, &namesakes, |_| true);
            fleet.networks.values().flat_map(of).collect()
        }
        Kind::Service => {
            let namesakes = namesakes(fleet);
            let bridges = fleet
                .bridges
                .values()
                .filter(|bridge| bridge.enabled && bridge.peer == *peer);
            bridges
                .flat_map(|bridge| services(fleet, bridge, &namesakes))
                .collect()
        }
    }
}

fn network(network: &Network) -> (Vec<String>, Value) {
    let told = json!({
        "id": network.name,
        "network_id": network.id,
        "prefix": network.prefix,
        "prefix_v4": network.prefix_v4,
        "topology": network.topology,
        "routing": network.routing,
    });
    (vec![network.name.to_string(), network.id.to_string()], told)
}

fn nodes(fleet: &Fleet) -> Vec<(Vec<String>, Value)> {
    let mut addresses: BTreeMap<&Name, Vec<Value>> = BTreeMap::new();
    for network in fleet.networks.values() {
        for member in fleet.members(network) {
            let address = naming::address_v6(network.prefix, member.node.host_part());
            let told = json!({ "network": network.name, "address": address });
            addresses.entry(&member.node.name).or_default().push(told);
        }
    }
    let told = fleet.nodes.keys().map(|name| {
        let id = naming::instance_id(fleet.site.prefix, name).to_string();
        let told = json!({ "id": name, "node_instance_id": id, "addresses": addresses.remove(name).unwrap_or_default() });
        (vec![name.to_string(), id], told)
    });
    told.collect()
}

/// How many virtual IPs have each name.
fn namesakes(fleet: &Fleet) -> BTreeMap<&Name, usize> {
    let mut namesakes = BTreeMap::new();
    for vip in fleet.networks.values().flat_map(|network| &network.virtual_ips) {
        *namesakes.entry(&vip.name).or_default() += 1;
    }
    namesakes
}

fn virtual_ips(
    network: &Network,
    namesakes: &BTreeMap<&Name, usize>,
    wanted: impl Fn(&VirtualIp) -> bool,
) -> Vec<(Vec<String>, Value)> {
    let told = network.virtual_ips.iter().filter(|vip| wanted(vip)).map(|vip| {
        let id = format!("{}.{}", network.name, vip.name);
        let told = json!({
            "id": id, "network": network.name, "name": vip.name, "address": vip.address, "anycast": vip.anycast,
        });
        let is_alone = namesakes.get(&vip.name) == Some(&1);
        let name = is_alone.then(|| vip.name.to_string());
        (std::iter::once(id).chain(name).collect(), told)
    });
    told.collect()
}

fn services(fleet: &Fleet, bridge: &Bridge, namesakes: &BTreeMap<&Name, usize>) -> Vec<(Vec<String>, Value)> {
    let Some(network) = fleet.networks.get(&bridge.network) else {
        return Vec::new();
    };
    let exported: BTreeSet<&Name> = bridge
        .export
        .iter()
        .filter_map(|export| match export {
            Export::Vip(name) => Some(name),
            Export::Prefix(_) => None,
        })
        .collect();
    let offers: Vec<&Offer> = fleet
        .offers
        .values()
        .filter(|offer| offer.bridge == bridge.name)
        .collect();
    let offered: BTreeSet<&Name> = offers.iter().map(|offer| &offer.vip).collect();
    let is_bare = |vip: &VirtualIp| exported.contains(&vip.name) && !offered.contains(&vip.name);
    let mut services = virtual_ips(network, namesakes, is_bare);
    for (_, told) in &mut services {
        told["bridge"] = json!(bridge.name);
    }
    services.extend(offers.into_iter().filter_map(|offer| offered_as(network, offer)));
    services
}

/// An offer, with all that a subscriber needs. Its name has no dot, so it is no virtual IP's id.
fn offered_as(network: &Network, offer: &Offer) -> Option<(Vec<String>, Value)> {
    let vip = network.virtual_ips.iter().find(|vip| vip.name == offer.vip)?;
    let ports: Vec<String> = offer.access.ports.iter().map(ToString::to_string).collect();
    let told = json!({
        "id": offer.name, "network": network.name, "name": vip.name, "address": vip.address, "anycast": vip.anycast,
        "bridge": offer.bridge, "protocol": offer.access.protocol, "ports": ports, "description": offer.description,
    });
    let id = format!("{}.{}", network.name, vip.name);
    Some((vec![offer.name.to_string(), id], told))
}
