//! Prefixes that overlap, and addresses that two want.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Findings, Issue, NetworkView, Object, Place, View};
use crate::model::fleet::ResolvedMember;
use crate::model::name::Name;
use crate::model::naming;
use crate::model::network::{LanAttachment, Network, NetworkId};

pub(super) fn check(view: &View<'_>, findings: &mut Findings) {
    between_networks(view, findings);
    let mut node_clashes = BTreeSet::new();
    for network in &view.networks {
        inside(network, findings);
        routers(network, findings);
        hosts(network, &mut node_clashes, findings);
    }
}

/// The prefixes that a network hands out addresses of, each with its key.
pub(super) fn own_prefixes(network: &Network) -> impl Iterator<Item = (IpNet, &'static str)> {
    let v6 = Some((IpNet::V6(network.prefix), "prefix"));
    let v4 = network.prefix_v4.map(|prefix| (IpNet::V4(prefix), "prefix_v4"));
    let workloads = network.workload_prefix.map(|prefix| (prefix, "workload_prefix"));
    [v6, v4, workloads].into_iter().flatten()
}

/// Calls `report` with every pair of overlapping prefixes that `conflict` names: for each prefix, the nearest such one
/// around it.
pub(super) fn sweep<T>(
    mut nets: Vec<(IpNet, T)>,
    conflict: impl Fn(&(IpNet, T), &(IpNet, T)) -> bool,
    mut report: impl FnMut(&(IpNet, T), &(IpNet, T)),
) {
    nets.sort_by_key(|(net, _)| (net.network(), net.prefix_len()));
    let mut around: Vec<usize> = Vec::new();
    for (at, net) in nets.iter().enumerate() {
        while around
            .last()
            .is_some_and(|outer| !nets[*outer].0.contains(&net.0))
        {
            around.pop();
        }
        if let Some(outer) = around.iter().rev().find(|outer| conflict(&nets[**outer], net)) {
            report(&nets[*outer], net);
        }
        around.push(at);
    }
}

/// A prefix of a network or tenant, outside of which it has no meaning.
struct Claim {
    object: Object,
    id: NetworkId,
    key: &'static str,
}

fn between_networks(view: &View<'_>, findings: &mut Findings) {
    let mut nets = Vec::new();
    for network in view.fleet.networks.values() {
        let claim = |key| Claim {
            object: Object::Network(network.name.clone()),
            id: network.id,
            key,
        };
        nets.extend(own_prefixes(network).map(|(net, key)| (net, claim(key))));
    }
    for tenant in view.fleet.tenants.values() {
        let prefix = IpNet::V6(naming::prefix(view.fleet.site.prefix, tenant.id));
        let claim = Claim {
            object: Object::Tenant(tenant.key.clone()),
            id: tenant.id,
            key: "cidr",
        };
        nets.push((tenant.cidr.unwrap_or(prefix), claim));
    }
    // Networks with one id have one prefix too: that is one mistake, and said of the id.
    let conflict = |a: &(IpNet, Claim), b: &(IpNet, Claim)| a.1.object != b.1.object && a.1.id != b.1.id;
    sweep(nets, conflict, |outer, inner| {
        let (first, second) = if inner.1.object < outer.1.object {
            (inner, outer)
        } else {
            (outer, inner)
        };
        let whose = format!("{} of {}", first.1.key, first.1.object);
        let issue = Issue::Overlap {
            prefix: second.0,
            other: first.0,
            whose,
        };
        findings.clash(
            second.1.object.clone().key(second.1.key),
            first.1.object.clone(),
            issue,
        );
    });
}

/// Whose prefix it is, inside one network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owner<'a> {
    Network(&'static str),
    Lan { line: usize, lan: usize, node: &'a Name },
}

fn inside(view: &NetworkView<'_>, findings: &mut Findings) {
    let mut nets: Vec<(IpNet, Owner<'_>)> = own_prefixes(view.network)
        .map(|(net, key)| (net, Owner::Network(key)))
        .collect();
    for member in &view.members {
        let lans = member.lans.iter().enumerate();
        nets.extend(lans.map(|(lan, attached)| {
            (
                attached.subnet,
                Owner::Lan {
                    line: member.line,
                    lan,
                    node: &member.node.name,
                },
            )
        }));
    }
    // A member may have a smaller LAN behind a router inside a larger one.
    let conflict = |a: &(IpNet, Owner<'_>), b: &(IpNet, Owner<'_>)| match (a.1, b.1) {
        (Owner::Lan { node: first, .. }, Owner::Lan { node: second, .. }) => first != second || a.0 == b.0,
        _ => true,
    };
    sweep(nets, conflict, |outer, inner| {
        let (first, second) = if inner.1 < outer.1 {
            (inner, outer)
        } else {
            (outer, inner)
        };
        let object = |owner: Owner<'_>| match owner {
            Owner::Network(_) => view.object(),
            Owner::Lan { line, lan, .. } => Object::Lan {
                network: view.name(),
                member: line,
                lan,
            },
        };
        let at = match second.1 {
            Owner::Network(key) => object(second.1).key(key),
            Owner::Lan { .. } => object(second.1).key("subnet"),
        };
        let whose = match first.1 {
            Owner::Network(key) => format!("the network's {key}"),
            Owner::Lan { node, .. } => format!("a LAN of node \"{node}\""),
        };
        findings.clash(
            at,
            object(first.1),
            Issue::Overlap {
                prefix: second.0,
                other: first.0,
                whose,
            },
        );
    });
}

fn routers(view: &NetworkView<'_>, findings: &mut Findings) {
    for (index, member) in view.network.members.iter().enumerate() {
        for (lan, attached) in member.lans.iter().enumerate() {
            let LanAttachment::Via(via) = attached.attachment else {
                continue;
            };
            let mut on_link = member.lans.iter().filter_map(|lan| match lan.attachment {
                LanAttachment::Interface(_) => Some(lan.subnet),
                LanAttachment::Via(_) => None,
            });
            if !on_link.any(|subnet| subnet.contains(&via)) {
                let at = Object::Lan {
                    network: view.name(),
                    member: index,
                    lan,
                };
                findings.add(at.key("via"), Issue::ViaOffLink(via));
            }
        }
    }
}

/// Every address of the network that someone has; nobody has another's.
fn hosts<'a>(
    view: &NetworkView<'a>,
    node_clashes: &mut BTreeSet<(&'a Name, &'a Name)>,
    findings: &mut Findings,
) {
    let network = view.network;
    let mut taken: BTreeMap<IpAddr, (Holder<'a>, Object)> = BTreeMap::new();
    for member in &view.members {
        for address in member_addresses(view, member, findings) {
            let owner = Holder::Node(&member.node.name);
            let object = Object::Node(member.node.name.clone());
            match taken.get(&address) {
                Some((Holder::Node(other), at)) => {
                    if node_clashes.insert((other, &member.node.name)) {
                        let issue = clash(network, address, owner, Holder::Node(other));
                        findings.clash(object.key("host_id"), at.clone(), issue);
                    }
                }
                _ => drop(taken.insert(address, (owner, object))),
            }
        }
    }
    let vips = network.virtual_ips.iter().map(|vip| {
        let object = Object::VirtualIp {
            network: view.name(),
            name: vip.name.clone(),
        };
        (
            vip.address,
            Holder::Vip(&vip.name),
            object.clone().key("address"),
            object,
        )
    });
    let ports = network
        .ovn_switches
        .iter()
        .flat_map(|switch| switch.ports.iter().map(move |port| (switch, port)));
    let ports = ports.flat_map(|(switch, port)| {
        port.addresses.iter().enumerate().map(move |(index, address)| {
            let (network, switch) = (network.name.clone(), switch.name.clone());
            let object = Object::OvnPort {
                network,
                switch,
                name: port.name.clone(),
            };
            (
                *address,
                Holder::Workload(&port.name),
                object.clone().item("addresses", index),
                object,
            )
        })
    });
    for (address, owner, at, object) in vips.chain(ports) {
        let is_workload = matches!(owner, Holder::Workload(_));
        if !is_inside(network, address, is_workload, &at, findings) {
            continue;
        }
        match taken.get(&address) {
            Some((other, also)) => findings.clash(at, also.clone(), clash(network, address, owner, *other)),
            None => drop(taken.insert(address, (owner, object))),
        }
    }
}

/// Who has an address.
#[derive(Clone, Copy)]
enum Holder<'a> {
    Node(&'a Name),
    Vip(&'a Name),
    Workload(&'a Name),
}

impl std::fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node \"{name}\""),
            Self::Vip(name) => write!(f, "virtual IP \"{name}\""),
            Self::Workload(name) => write!(f, "port \"{name}\""),
        }
    }
}

fn clash(network: &Network, address: IpAddr, this: Holder<'_>, other: Holder<'_>) -> Issue {
    let network = network.name.clone();
    Issue::AddressTaken {
        address,
        this: this.to_string(),
        other: other.to_string(),
        network,
    }
}

fn member_addresses(
    view: &NetworkView<'_>,
    member: &ResolvedMember<'_>,
    findings: &mut Findings,
) -> impl Iterator<Item = IpAddr> + use<> {
    let (node, network) = (member.node, view.network);
    let v6 = naming::address_v6(network.prefix, node.host_part());
    let v4 = network.prefix_v4.and_then(|prefix| {
        let object = Object::Node(node.name.clone());
        let Some(host_id) = node.host_id else {
            let issue = Issue::NeedsHostId {
                node: node.name.clone(),
                network: view.name(),
            };
            findings.clash(object.whole(), view.object(), issue);
            return None;
        };
        let address = naming::address_v4(prefix, host_id);
        if address.is_none() {
            let (node, network) = (node.name.clone(), view.name());
            let issue = Issue::HostIdOutside {
                node,
                host_id,
                prefix: IpNet::V4(prefix),
                network,
            };
            findings.clash(object.key("host_id"), view.object(), issue);
        }
        address
    });
    [Some(IpAddr::V6(v6)), v4.map(IpAddr::V4)].into_iter().flatten()
}

/// Whether a virtual IP or workload may have an address, as far as the prefixes go.
fn is_inside(
    network: &Network,
    address: IpAddr,
    is_workload: bool,
    at: &Place,
    findings: &mut Findings,
) -> bool {
    let prefixes: Vec<IpNet> = own_prefixes(network)
        .filter(|(_, key)| is_workload || *key != "workload_prefix")
        .map(|(net, _)| net)
        .collect();
    let Some(prefix) = prefixes.iter().find(|prefix| prefix.contains(&address)) else {
        let has_family = prefixes
            .iter()
            .any(|prefix| prefix.addr().is_ipv4() == address.is_ipv4());
        let issue = if has_family {
            let family = prefixes
                .into_iter()
                .filter(|prefix| prefix.addr().is_ipv4() == address.is_ipv4());
            Issue::OutsidePrefix {
                address,
                prefixes: family.collect(),
            }
        } else {
            Issue::NoIpv4 {
                address,
                network: network.name.clone(),
            }
        };
        findings.add(at.clone(), issue);
        return false;
    };
    let is_v4_edge =
        matches!(prefix, IpNet::V4(net) if net.prefix_len() < 31 && IpAddr::V4(net.broadcast()) == address);
    if address == prefix.network() && prefix.prefix_len() < prefix.max_prefix_len() || is_v4_edge {
        findings.add(at.clone(), Issue::NotAHostAddress(address));
        return false;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net() -> impl Strategy<Value = IpNet> {
        // A small space, so that there are overlaps.
        (0..16_u32, 24..=30_u8).prop_map(|(n, len)| {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 | (n << 4));
            IpNet::new(address.into(), len).expect("a prefix length").trunc()
        })
    }

    proptest! {
        #[test]
        fn the_sweep_finds_what_pairs_find(nets in proptest::collection::vec((net(), 0..4_u8), 0..12)) {
            let conflict = |a: &(IpNet, u8), b: &(IpNet, u8)| a.1 != b.1;
            let mut found = Vec::new();
            sweep(nets.clone(), conflict, |outer, inner| {
                assert!(outer.0.contains(&inner.0) && outer.1 != inner.1);
                found.push(*inner);
            });
            let mut pairs = nets.iter().enumerate().flat_map(|(i, a)| nets[i + 1..].iter().map(move |b| (a, b)));
            let expected = pairs.any(|(a, b)| a.1 != b.1 && crate::model::address::overlaps(&a.0, &b.0));
            prop_assert_eq!(!found.is_empty(), expected);
        }
    }
}
