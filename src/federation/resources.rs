//! What peers may read of this site, where a grant allows it: no more than they need to reach it.

use serde_json::{Value, json};

use crate::model::network::{Network, VirtualIp};
use crate::model::routing::{Bridge, Export};
use crate::model::{Fleet, Name, fleet::Node, naming};

/// The kinds that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A network: by its name or its number.
    Network,
    /// A virtual IP: `<network>.<name>`, or its name where one network only has it.
    VirtualIp,
    /// A node: by its name or its instance id.
    Node,
    /// A virtual IP that a bridge exports to the peer: named like one.
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

/// Everything of a kind, each as `(what it may be called, what is told of it)`. `peer` is what we call the asking peer.
#[must_use]
pub fn all(fleet: &Fleet, kind: Kind, peer: &Name) -> Vec<(Vec<String>, Value)> {
    match kind {
        Kind::Network => fleet.networks.values().map(network).collect(),
        Kind::Node => fleet.nodes.values().map(|one| node(fleet, one)).collect(),
        Kind::VirtualIp => {
            let every = fleet
                .networks
                .values()
                .flat_map(|network| network.virtual_ips.iter().map(move |vip| (network, vip)));
            every
                .map(|(network, vip)| virtual_ip(fleet, network, vip))
                .collect()
        }
        Kind::Service => {
            let bridges = fleet
                .bridges
                .values()
                .filter(|bridge| bridge.enabled && bridge.peer == *peer);
            bridges.flat_map(|bridge| services(fleet, bridge)).collect()
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

fn node(fleet: &Fleet, node: &Node) -> (Vec<String>, Value) {
    let id = naming::instance_id(fleet.site.prefix, &node.name).to_string();
    let member_of = |network: &&Network| {
        fleet
            .members(network)
            .iter()
            .any(|member| member.node.name == node.name)
    };
    let addresses: Vec<Value> = fleet
        .networks
        .values()
        .filter(member_of)
        .map(|network| {
            json!({ "network": network.name, "address": naming::address_v6(network.prefix, node.host_part()) })
        })
        .collect();
    let told = json!({ "id": node.name, "node_instance_id": id, "addresses": addresses });
    (vec![node.name.to_string(), id], told)
}

fn virtual_ip(fleet: &Fleet, network: &Network, vip: &VirtualIp) -> (Vec<String>, Value) {
    let id = format!("{}.{}", network.name, vip.name);
    let told = json!({ "id": id, "network": network.name, "name": vip.name, "address": vip.address, "anycast": vip.anycast });
    let namesakes = fleet
        .networks
        .values()
        .flat_map(|network| &network.virtual_ips)
        .filter(|other| other.name == vip.name);
    let mut names = vec![id];
    if namesakes.count() == 1 {
        names.push(vip.name.to_string());
    }
    (names, told)
}

fn services(fleet: &Fleet, bridge: &Bridge) -> Vec<(Vec<String>, Value)> {
    let Some(network) = fleet.networks.get(&bridge.network) else {
        return Vec::new();
    };
    let exported = bridge.export.iter().filter_map(|export| match export {
        Export::Vip(name) => network.virtual_ips.iter().find(|vip| vip.name == *name),
        Export::Prefix(_) => None,
    });
    exported
        .map(|vip| {
            let (names, mut told) = virtual_ip(fleet, network, vip);
            told["bridge"] = json!(bridge.name);
            (names, told)
        })
        .collect()
}
