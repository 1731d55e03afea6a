//! Whether a host's own document fits the fleet.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Finding, Findings, Issue, Object};
use crate::model::address::overlaps;
use crate::model::fleet::Fleet;
use crate::model::host::{HostConfig, IsolationBackend};
use crate::model::key::PublicKey;
use crate::model::name::Name;
use crate::model::naming;
use crate::model::network::{Isolation, Lan, LanAttachment};

/// What doesn't fit between a host and the fleet. `key` is the public half of the host's private key, if it could be
/// read.
#[must_use]
pub fn check_host(host: &HostConfig, fleet: &Fleet, key: Option<PublicKey>) -> Vec<Finding> {
    let mut findings = Findings::default();
    let Some(node) = fleet.nodes.get(&host.node) else {
        findings.add(Object::Host.key("node"), Issue::UnknownHost(host.node.clone()));
        return findings.0;
    };
    if let Some(found) = key
        && found != node.public_key
        && Some(found) != node.next_public_key
    {
        let issue = Issue::KeyMismatch {
            node: node.name.clone(),
            found,
        };
        findings.clash(
            Object::Host.key("private_key_file"),
            Object::Node(node.name.clone()),
            issue,
        );
    }
    if host.federation.is_some() && !fleet.site.gateways.contains(&host.node) {
        findings.clash(
            Object::Host.key("federation"),
            Object::Site,
            Issue::NotAGateway(host.node.clone()),
        );
    }
    if host.isolation.backend == IsolationBackend::Rules {
        findings.0.extend(rules_backend_conflicts(fleet, &host.node));
    }
    findings.0
}

/// Pairs of networks that a node can't keep apart by policy rules alone: both have LANs of their own on it that share
/// addresses, or one has a LAN with the node's address, or a virtual IP that it holds, of the other, and the `local` table has one entry for each address. Empty where the node can do without VRFs.
#[must_use]
pub fn rules_backend_conflicts(fleet: &Fleet, node: &Name) -> Vec<Finding> {
    let mut findings = Findings::default();
    let mut lans: Vec<(&Name, IpNet)> = Vec::new();
    for network in fleet
        .networks
        .values()
        .filter(|network| network.isolation == Isolation::Vrf)
    {
        let members = fleet.members(network);
        let Some(member) = members.iter().find(|member| member.node.name == *node) else {
            continue;
        };
        let is_local = |lan: &&Lan| matches!(lan.attachment, LanAttachment::Interface(_));
        for (index, lan) in member.lans.iter().enumerate().filter(|(_, lan)| is_local(lan)) {
            if let Some((other, _)) = lans
                .iter()
                .find(|(other, net)| **other != network.name && overlaps(net, &lan.subnet))
            {
                let (first, second) = ((*other).clone(), network.name.clone());
                let issue = Issue::NeedsVrf {
                    first: first.clone(),
                    second,
                    prefix: lan.subnet,
                };
                let at = Object::Lan {
                    network: network.name.clone(),
                    member: member.line,
                    lan: index,
                };
                findings.clash(at.key("subnet"), Object::Network(first), issue);
            }
            lans.push((&network.name, lan.subnet));
        }
        let part = member.node.host_part();
        let v6 = IpAddr::V6(naming::address_v6(network.prefix, part));
        let v4 = network.prefix_v4.zip(member.node.host_id);
        let v4 = v4
            .and_then(|(prefix, id)| naming::address_v4(prefix, id))
            .map(IpAddr::V4);
        let vips = network.virtual_ips.iter().filter(|vip| vip.held_by(node));
        let vips = vips.map(|vip| vip.address);
        for own in std::iter::once(v6).chain(v4).chain(vips).map(IpNet::from) {
            let shared = |(other, net): &&(&Name, IpNet)| **other != network.name && overlaps(net, &own);
            if let Some((other, prefix)) = lans.iter().find(shared) {
                let first = (*other).clone();
                let issue = Issue::NeedsVrf {
                    first: first.clone(),
                    second: network.name.clone(),
                    prefix: *prefix,
                };
                findings.clash(
                    Object::Network(network.name.clone()).key("id"),
                    Object::Network(first),
                    issue,
                );
            }
            lans.push((&network.name, own));
        }
    }
    findings.0
}
