//! Who is who, who is in what, and how they reach each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Findings, Issue, Kind, NetworkView, Object, View};
use crate::model::fleet::Fleet;
use crate::model::key::PublicKey;
use crate::model::name::Name;
use crate::model::naming::MAX_HUBS;
use crate::model::network::{
    EndpointHost, Isolation, LanAttachment, Member, MemberSelector, NetworkId, Role, Topology,
};

pub(super) fn check(view: &View<'_>, findings: &mut Findings) {
    let tags: BTreeSet<&Name> = view.fleet.nodes.values().flat_map(|node| &node.tags).collect();
    site(view.fleet, findings);
    keys(view.fleet, findings);
    ids(view.fleet, findings);
    for network in &view.networks {
        let line = |index| Object::Member {
            network: network.name(),
            index,
        };
        lines(&network.network.members, line, view.fleet, &tags, findings);
        hubs(network, findings);
    }
    for tenant in view.fleet.tenants.values() {
        let line = |index| Object::TenantMember {
            tenant: tenant.key.clone(),
            index,
        };
        lines(&tenant.members, line, view.fleet, &tags, findings);
    }
    shared_on_a_node(view, findings);
}

fn site(fleet: &Fleet, findings: &mut Findings) {
    for (index, gateway) in fleet.site.gateways.iter().enumerate() {
        if !fleet.nodes.contains_key(gateway) {
            findings.add(
                Object::Site.item("gateways", index),
                Issue::Unknown(Kind::Node, gateway.clone()),
            );
        }
    }
}

fn keys(fleet: &Fleet, findings: &mut Findings) {
    let mut seen: BTreeMap<PublicKey, &Name> = BTreeMap::new();
    for node in fleet.nodes.values() {
        let keys = [
            ("public_key", Some(node.public_key)),
            ("next_public_key", node.next_public_key),
        ];
        for (field, key) in keys {
            let Some(key) = key else { continue };
            match seen.get(&key) {
                Some(other) => {
                    let at = Object::Node(node.name.clone()).key(field);
                    let also = Object::Node((*other).clone());
                    findings.clash(at, also, Issue::SharedKey((*other).clone(), node.name.clone()));
                }
                None => drop(seen.insert(key, &node.name)),
            }
        }
    }
}

fn ids(fleet: &Fleet, findings: &mut Findings) {
    let networks = fleet
        .networks
        .values()
        .map(|n| (n.id, Object::Network(n.name.clone())));
    let tenants = fleet
        .tenants
        .values()
        .map(|t| (t.id, Object::Tenant(t.key.clone())));
    let mut seen: BTreeMap<NetworkId, Object> = BTreeMap::new();
    for (id, object) in networks.chain(tenants) {
        match seen.get(&id) {
            Some(other) => findings.clash(object.key("id"), other.clone(), Issue::IdTaken(id)),
            None => drop(seen.insert(id, object)),
        }
    }
    for tenant in fleet.tenants.values() {
        let name = Name::new(&format!("tenant-{}", tenant.key));
        if let Some(network) = name.ok().and_then(|name| fleet.networks.get(&name)) {
            let at = Object::Tenant(tenant.key.clone()).key("key");
            let also = Object::Network(network.name.clone());
            findings.clash(at, also, Issue::TenantNetworkTaken(tenant.key.clone()));
        }
    }
}

fn lines(
    members: &[Member],
    line: impl Fn(usize) -> Object,
    fleet: &Fleet,
    tags: &BTreeSet<&Name>,
    findings: &mut Findings,
) {
    let mut seen: BTreeMap<&MemberSelector, usize> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        let (field, kind, name, is_known) = match &member.select {
            MemberSelector::Node(name) => ("node", Kind::Node, name, fleet.nodes.contains_key(name)),
            MemberSelector::Tag(name) => ("tag", Kind::Tag, name, tags.contains(name)),
        };
        if !is_known {
            findings.add(line(index).key(field), Issue::Unknown(kind, name.clone()));
        }
        if let Some(first) = seen.insert(&member.select, index) {
            findings.clash(
                line(index).key(field),
                line(first),
                Issue::ListedTwice {
                    kind,
                    name: name.clone(),
                },
            );
        }
    }
}

fn hubs(view: &NetworkView<'_>, findings: &mut Findings) {
    let network = view.network;
    if view.members.is_empty() {
        findings.add(view.object().key("members"), Issue::NoMembers(view.name()));
        return;
    }
    let hubs: Vec<_> = view
        .members
        .iter()
        .filter(|member| member.role == Role::Hub)
        .collect();
    if network.topology == Topology::HubAndSpoke && hubs.is_empty() {
        findings.add(view.object().key("members"), Issue::NoHub(view.name()));
    }
    if hubs.len() > MAX_HUBS {
        let issue = Issue::TooManyHubs {
            network: view.name(),
            count: hubs.len(),
        };
        findings.add(view.object().key("members"), issue);
    }
    for hub in hubs.iter().filter(|hub| !hub.is_dialable()) {
        findings.add(
            view.line(hub).whole(),
            Issue::HubWithoutEndpoint(hub.node.name.clone()),
        );
    }
    dialled_inside(view, findings);
    if network.topology == Topology::FullMesh {
        let hidden = view.members.iter().filter(|member| !member.is_dialable());
        let hidden: Vec<Name> = hidden.map(|member| member.node.name.clone()).collect();
        if hidden.len() > 1 {
            findings.add(view.object().key("members"), Issue::Unreachable(hidden));
        }
    }
}

/// In the main table a network's own prefixes lead into its tunnels, for WireGuard's packets, too.
fn dialled_inside(view: &NetworkView<'_>, findings: &mut Findings) {
    let network = view.network;
    if network.isolation != Isolation::None {
        return;
    }
    let v4 = network.prefix_v4.map(IpNet::V4);
    let own = [Some(IpNet::V6(network.prefix)), v4, network.workload_prefix];
    let is_inside = |address: &IpAddr| own.iter().flatten().any(|net| net.contains(address));
    for member in &view.members {
        let addresses = member
            .endpoints
            .iter()
            .filter_map(|endpoint| match endpoint.host {
                EndpointHost::Address(address) => Some(address),
                EndpointHost::Dns(_) => None,
            });
        for endpoint in addresses.filter(is_inside) {
            let issue = Issue::EndpointInside {
                endpoint,
                node: member.node.name.clone(),
                network: view.name(),
            };
            findings.add(view.line(member).whole(), issue);
        }
    }
}

/// What two networks can't both have on one node: a UDP port, an interface, the main table.
fn shared_on_a_node(view: &View<'_>, findings: &mut Findings) {
    let mut ports = BTreeMap::new();
    let mut interfaces = BTreeMap::new();
    let mut main_tables = BTreeMap::new();
    for network in &view.networks {
        let name = &network.network.name;
        for member in &network.members {
            let node = &member.node.name;
            let line = || network.line(member);
            // Networks with one id have one port too: that is one mistake, and said of the id.
            let taken = ports.insert((node, member.listen_port), name);
            let differs = |other: &&Name| view.fleet.networks[*other].id != network.network.id;
            if let Some(other) = taken.filter(differs) {
                let issue = Issue::PortTaken {
                    port: member.listen_port,
                    node: node.clone(),
                    other: other.clone(),
                };
                let own = network.network.members[member.line].listen_port.is_some();
                let at = if own {
                    line().key("listen_port")
                } else {
                    line().whole()
                };
                findings.clash(at, Object::Network(other.clone()), issue);
            }
            for (lan, attached) in member.lans.iter().enumerate() {
                let LanAttachment::Interface(interface) = &attached.attachment else {
                    continue;
                };
                let Some(other) = interfaces
                    .insert((node, interface), name)
                    .filter(|other| *other != name)
                else {
                    continue;
                };
                let (interface, node) = (interface.clone(), node.clone());
                let issue = Issue::InterfaceTaken {
                    interface,
                    node,
                    other: other.clone(),
                };
                let at = Object::Lan {
                    network: network.name(),
                    member: member.line,
                    lan,
                };
                findings.clash(at.key("interface"), Object::Network(other.clone()), issue);
            }
            if network.network.isolation == Isolation::None
                && let Some(other) = main_tables.insert(node, name)
            {
                let issue = Issue::MainTableTaken {
                    node: node.clone(),
                    other: other.clone(),
                };
                findings.clash(line().whole(), Object::Network(other.clone()), issue);
            }
        }
    }
}
