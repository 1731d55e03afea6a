//! What rides on a network: virtual IPs, port mappings, route policies, switches, leaks.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{Findings, Issue, Kind, NetworkView, Object, Place, View};
use crate::model::fleet::Fleet;
use crate::model::name::Name;
use crate::model::network::{Isolation, MappingTarget, Network, PortMapping, Protocol, Role, Routing};
use crate::model::routing::PolicyScope;

pub(super) fn check(view: &View<'_>, findings: &mut Findings) {
    for network in &view.networks {
        virtual_ips(view.fleet, network, findings);
        route_policies(view.fleet, network, findings);
        switches(view, network, findings);
    }
    port_mappings(view, findings);
    leaks(view.fleet, findings);
}

/// Notes a node that isn't a member.
pub(super) fn needs_member(
    fleet: &Fleet,
    view: &NetworkView<'_>,
    node: &Name,
    at: Place,
    findings: &mut Findings,
) -> bool {
    if !fleet.nodes.contains_key(node) {
        findings.add(at, Issue::Unknown(Kind::Node, node.clone()));
    } else if view.member(node).is_none() {
        findings.clash(
            at,
            view.object(),
            Issue::NotAMember {
                node: node.clone(),
                network: view.name(),
            },
        );
    } else {
        return true;
    }
    false
}

pub(super) fn has_vip(network: &Network, vip: &Name) -> bool {
    network.virtual_ips.iter().any(|known| known.name == *vip)
}

fn virtual_ips(fleet: &Fleet, view: &NetworkView<'_>, findings: &mut Findings) {
    for vip in &view.network.virtual_ips {
        if vip.anycast && vip.holders.len() > 1 && view.network.routing == Routing::Static {
            let object = Object::VirtualIp {
                network: view.name(),
                name: vip.name.clone(),
            };
            let issue = Issue::StaticAnycast {
                vip: vip.name.clone(),
                network: view.name(),
            };
            findings.clash(object.key("anycast"), view.object(), issue);
        }
        for (index, holder) in vip.holders.iter().enumerate() {
            let object = Object::VirtualIp {
                network: view.name(),
                name: vip.name.clone(),
            };
            needs_member(fleet, view, holder, object.item("holders", index), findings);
        }
    }
}

fn port_mappings(view: &View<'_>, findings: &mut Findings) {
    if view
        .networks
        .iter()
        .all(|network| network.network.port_mappings.is_empty())
    {
        return;
    }
    let mut taken: BTreeMap<(&Name, bool, u16), (String, Object)> = BTreeMap::new();
    for network in &view.networks {
        for member in &network.members {
            let owner = (format!("network \"{}\" itself", network.name()), network.object());
            taken.insert((&member.node.name, true, member.listen_port), owner);
        }
    }
    for network in &view.networks {
        for mapping in &network.network.port_mappings {
            let object = || Object::PortMapping {
                network: network.name(),
                name: mapping.name.clone(),
            };
            if needs_member(view.fleet, network, &mapping.hub, object().key("hub"), findings)
                && network
                    .member(&mapping.hub)
                    .is_some_and(|member| member.role != Role::Hub)
            {
                let issue = Issue::NotAHub {
                    node: mapping.hub.clone(),
                    network: network.name(),
                };
                findings.add(object().key("hub"), issue);
            }
            if leads_to(network.network, mapping, &mapping.hub) {
                findings.add(object().key("to"), Issue::MappingToItself(mapping.hub.clone()));
            }
            match &mapping.to {
                MappingTarget::Node(node) => {
                    needs_member(view.fleet, network, node, object().key("to"), findings);
                }
                MappingTarget::Vip(vip) if !has_vip(network.network, vip) => {
                    findings.add(object().key("to"), Issue::Unknown(Kind::VirtualIp, vip.clone()));
                }
                MappingTarget::Vip(_) => {}
            }
            mapping_families(network.network, mapping, object(), findings);
            let is_udp = mapping.protocol == Protocol::Udp;
            let owner = (format!("port mapping \"{}\"", mapping.name), object());
            let key = (&mapping.hub, is_udp, mapping.listen_port);
            if let Some((other, also)) = taken.get(&key) {
                let (port, hub) = (mapping.listen_port, mapping.hub.clone());
                let issue = Issue::MappingPortTaken {
                    port,
                    hub,
                    other: other.clone(),
                };
                findings.clash(object().key("listen_port"), also.clone(), issue);
            } else {
                taken.insert(key, owner);
            }
        }
    }
}

/// Whether a mapping ends at this node: by its name, or by a virtual IP that it holds.
fn leads_to(network: &Network, mapping: &PortMapping, node: &Name) -> bool {
    match &mapping.to {
        MappingTarget::Node(target) => target == node,
        MappingTarget::Vip(name) => {
            let mut vips = network.virtual_ips.iter();
            vips.any(|vip| vip.name == *name && vip.held_by(node))
        }
    }
}

/// There must be a family that both some client and the target have: nothing translates between them.
fn mapping_families(network: &Network, mapping: &PortMapping, object: Object, findings: &mut Findings) {
    let (v4, v6) = match &mapping.to {
        MappingTarget::Node(_) => (network.carries_v4(), true),
        MappingTarget::Vip(vip) => match network.virtual_ips.iter().find(|known| known.name == *vip) {
            Some(vip) => (vip.address.is_ipv4(), vip.address.is_ipv6()),
            None => return,
        },
    };
    let sources_v4 = mapping.source_cidrs.iter().any(|net| matches!(net, IpNet::V4(_)));
    let sources_v6 = mapping.source_cidrs.iter().any(|net| matches!(net, IpNet::V6(_)));
    let nobody = !sources_v4 && !sources_v6;
    if nobody || (v4 && sources_v4) || (v6 && sources_v6) {
        return;
    }
    let word = |v4: bool| if v4 { "IPv4" } else { "IPv6" };
    let issue = Issue::MappingFamily {
        sources: word(sources_v4),
        target: word(v4),
    };
    findings.add(object.key("source_cidrs"), issue);
}

fn route_policies(fleet: &Fleet, view: &NetworkView<'_>, findings: &mut Findings) {
    for policy in &view.network.route_policies {
        let object = || Object::RoutePolicy {
            network: view.name(),
            name: policy.name.clone(),
        };
        match &policy.scope {
            PolicyScope::Network => {}
            PolicyScope::Node(node) => {
                needs_member(fleet, view, node, object().key("scope"), findings);
            }
            PolicyScope::Bridge(bridge) => match fleet.bridges.get(bridge) {
                None => findings.add(
                    object().key("scope"),
                    Issue::Unknown(Kind::Bridge, bridge.clone()),
                ),
                Some(found) if found.network != view.network.name => {
                    let issue = Issue::BridgeElsewhere {
                        bridge: bridge.clone(),
                        other: found.network.clone(),
                    };
                    findings.clash(object().key("scope"), Object::Bridge(bridge.clone()), issue);
                }
                Some(_) => {}
            },
        }
        for (index, statement) in policy.statements.iter().enumerate() {
            for peer in &statement.matches.peer_in {
                needs_member(fleet, view, peer, object().item("statements", index), findings);
            }
        }
    }
}

fn switches(view: &View<'_>, network: &NetworkView<'_>, findings: &mut Findings) {
    let is_in_main_table = |node: &Name| {
        let mut others = view.networks.iter();
        others.any(|n| n.network.isolation == Isolation::None && n.member(node).is_some())
    };
    for switch in &network.network.ovn_switches {
        let mut macs = BTreeMap::new();
        for port in &switch.ports {
            let (on, of) = (network.name(), switch.name.clone());
            let object = Object::OvnPort {
                network: on,
                switch: of,
                name: port.name.clone(),
            };
            if let Some(node) = &port.node
                && needs_member(view.fleet, network, node, object.clone().key("node"), findings)
                && switch.stretch
                && !is_in_main_table(node)
            {
                findings.add(
                    object.clone().key("node"),
                    Issue::StretchNeedsMainTable(node.clone()),
                );
            }
            if let Some(mac) = port.mac
                && let Some((first, also)) = macs.insert(mac, (&port.name, object.clone()))
            {
                findings.clash(object.key("mac"), also, Issue::MacTaken(first.clone()));
            }
        }
    }
}

fn leaks(fleet: &Fleet, findings: &mut Findings) {
    for (index, leak) in fleet.route_leaks.iter().enumerate() {
        let object = || Object::RouteLeak(index);
        for (key, network) in [("from", &leak.from), ("to", &leak.to)] {
            if !fleet.networks.contains_key(network) {
                findings.add(object().key(key), Issue::Unknown(Kind::Network, network.clone()));
            }
        }
        if leak.from == leak.to {
            findings.add(object().key("to"), Issue::LeakToItself);
        }
    }
}
