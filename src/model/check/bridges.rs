//! Bridges to other sites: what they may import, and what they may give.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::addresses::{own_prefixes, sweep};
use super::services::{has_vip, needs_member};
use super::{Findings, Issue, Kind, NetworkView, Object, View};
use crate::model::agreement::{self, MAX_PREFIXES};
use crate::model::name::Name;
use crate::model::network::{EndpointHost, Role, Topology};
use crate::model::routing::{Bridge, Export};

pub(super) fn check(view: &View<'_>, findings: &mut Findings) {
    let mut taken: BTreeMap<(&Name, &Name), &Name> = BTreeMap::new();
    for bridge in view.fleet.bridges.values() {
        let object = || Object::Bridge(bridge.name.clone());
        let Some(network) = view.networks.iter().find(|n| n.network.name == bridge.network) else {
            findings.add(
                object().key("network"),
                Issue::Unknown(Kind::Network, bridge.network.clone()),
            );
            continue;
        };
        gateways(view, network, bridge, findings);
        fit(bridge, findings);
        exports(network, bridge, findings);
        if !bridge.enabled {
            continue;
        }
        if let Some(other) = taken.insert((&bridge.network, &bridge.peer), &bridge.name) {
            let issue = Issue::BridgeTwice {
                peer: bridge.peer.clone(),
                network: bridge.network.clone(),
            };
            findings.clash(object().key("peer"), Object::Bridge(other.clone()), issue);
        }
    }
    for network in &view.networks {
        overlaps(view, network, findings);
    }
}

/// A gateway forwards between its members and the other site: that is what hubs and members of a mesh do.
fn gateways(view: &View<'_>, network: &NetworkView<'_>, bridge: &Bridge, findings: &mut Findings) {
    for (index, gateway) in bridge.gateways.iter().enumerate() {
        let at = || Object::Bridge(bridge.name.clone()).item("gateways", index);
        if !needs_member(view.fleet, network, gateway, at(), findings) {
            continue;
        }
        let role = network.member(gateway).map(|member| member.role);
        if network.network.topology == Topology::HubAndSpoke && role != Some(Role::Hub) {
            let issue = Issue::NotAHub {
                node: gateway.clone(),
                network: network.name(),
            };
            findings.clash(at(), network.object(), issue);
        }
        if !view.fleet.site.gateways.contains(gateway) {
            findings.clash(at(), Object::Site, Issue::GatewayUnnamed(gateway.clone()));
        }
    }
}

fn fit(bridge: &Bridge, findings: &mut Findings) {
    let object = || Object::Bridge(bridge.name.clone());
    for (key, count) in [("import", bridge.import.len()), ("export", bridge.export.len())] {
        if count > MAX_PREFIXES {
            findings.add(object().key(key), Issue::TooManyPrefixes(count));
        }
    }
    for (index, net) in bridge.import.iter().enumerate() {
        if let Err(why) = agreement::fit(net) {
            findings.add(object().item("import", index), Issue::Unfit { prefix: *net, why });
        }
    }
}

fn exports(network: &NetworkView<'_>, bridge: &Bridge, findings: &mut Findings) {
    for (index, export) in bridge.export.iter().enumerate() {
        let at = Object::Bridge(bridge.name.clone()).item("export", index);
        match export {
            Export::Vip(vip) if !has_vip(network.network, vip) => {
                findings.add(at, Issue::Unknown(Kind::VirtualIp, vip.clone()));
            }
            Export::Prefix(prefix) if !held_by(network).any(|net| net.contains(prefix)) => {
                findings.add(
                    at,
                    Issue::ForeignPrefix {
                        prefix: *prefix,
                        network: network.name(),
                    },
                );
            }
            Export::Vip(_) | Export::Prefix(_) => {}
        }
    }
}

/// Every prefix that a network has: its own, and its LANs.
fn held_by<'a>(view: &'a NetworkView<'_>) -> impl Iterator<Item = IpNet> + 'a {
    let lans = view
        .members
        .iter()
        .flat_map(|member| member.lans.iter().map(|lan| lan.subnet));
    own_prefixes(view.network).map(|(net, _)| net).chain(lans)
}

/// Whose a prefix is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner<'a> {
    Site,
    Network(&'a Name),
    Lan(&'a Name),
    Endpoint(&'a Name),
    Import(&'a Name, usize),
}

/// What a bridge imports is nobody else's: neither contains the other, in whatever spelling.
fn overlaps(view: &View<'_>, network: &NetworkView<'_>, findings: &mut Findings) {
    let bridges = view.fleet.bridges.values();
    let bridges = bridges.filter(|bridge| bridge.enabled && bridge.network == network.network.name);
    let imports = bridges.flat_map(|bridge| {
        let imports = bridge.import.iter().enumerate();
        imports.map(|(index, net)| (net.trunc(), Owner::Import(&bridge.name, index)))
    });
    let mut nets: Vec<(IpNet, Owner<'_>)> = imports.collect();
    if nets.is_empty() {
        return;
    }
    nets.push((IpNet::V6(view.fleet.site.prefix), Owner::Site));
    for other in &view.networks {
        let own = own_prefixes(other.network).map(|(net, _)| (net, Owner::Network(&other.network.name)));
        nets.extend(own);
    }
    for member in &network.members {
        let lans = member.lans.iter();
        nets.extend(lans.map(|lan| (lan.subnet.trunc(), Owner::Lan(&member.node.name))));
    }
    let members = view.networks.iter().flat_map(|network| &network.members);
    let called = members.flat_map(|member| member.endpoints.iter().map(move |at| (&member.node.name, at)));
    nets.extend(called.filter_map(|(node, at)| match at.host {
        EndpointHost::Address(address) => Some((IpNet::from(address), Owner::Endpoint(node))),
        EndpointHost::Dns(_) => None,
    }));
    let conflict = |a: &(IpNet, Owner<'_>), b: &(IpNet, Owner<'_>)| match (a.1, b.1) {
        (Owner::Import(first, _), Owner::Import(second, _)) => first != second,
        (Owner::Import(..), _) | (_, Owner::Import(..)) => true,
        _ => false,
    };
    sweep(nets, conflict, |outer, inner| {
        // Of two bridges, the later one is wrong.
        let (import, other) = match (outer.1, inner.1) {
            (Owner::Import(first, _), Owner::Import(second, _)) if first > second => (outer, inner),
            (_, Owner::Import(..)) => (inner, outer),
            _ => (outer, inner),
        };
        if let Owner::Import(bridge, index) = import.1 {
            let at = Object::Bridge(bridge.clone()).item("import", index);
            let issue = Issue::Overlap {
                prefix: import.0,
                other: other.0,
                whose: whose(other.1),
            };
            match other.1 {
                Owner::Import(name, _) => findings.clash(at, Object::Bridge(name.clone()), issue),
                Owner::Network(name) => findings.clash(at, Object::Network(name.clone()), issue),
                Owner::Lan(node) | Owner::Endpoint(node) => {
                    findings.clash(at, Object::Node(node.clone()), issue);
                }
                Owner::Site => findings.clash(at, Object::Site, issue),
            }
        }
    });
}

fn whose(owner: Owner<'_>) -> String {
    match owner {
        Owner::Site => "the site's own prefix".to_owned(),
        Owner::Network(name) => format!("a prefix of network \"{name}\""),
        Owner::Lan(node) => format!("a LAN of node \"{node}\""),
        Owner::Endpoint(node) => format!("where node \"{node}\" is called"),
        Owner::Import(bridge, _) => format!("which bridge \"{bridge}\" imports"),
    }
}
