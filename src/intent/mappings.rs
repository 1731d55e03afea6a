//! Port mappings: what the hub that listens does, and what the others let through for it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::compile::Placed;
use super::{AdmissionIntent, MappedWay, MappingIntent};
use crate::model::Name;
use crate::model::network::{MappingTarget, Network, PortMapping, Role};

/// The mappings that this host listens for.
pub(super) fn listening(network: &Network, members: &[Placed<'_>], own: &Placed<'_>) -> Vec<MappingIntent> {
    let mine = in_force(network).filter(|mapping| mapping.hub == *own.name());
    let intents = mine.filter_map(|mapping| {
        let ways = ways(network, members, mapping);
        let has_way = |net: &IpNet| {
            ways.iter()
                .any(|way| way.target.is_ipv4() == net.addr().is_ipv4())
        };
        let sources = mapping.source_cidrs.iter().copied().filter(has_way).collect();
        (!ways.is_empty()).then(|| MappingIntent {
            name: mapping.name.clone(),
            protocol: mapping.protocol,
            listen_port: mapping.listen_port,
            target_port: mapping.target_port,
            sources,
            max_connections: mapping.max_connections,
            rate_limit_per_second: mapping.rate_limit_per_second,
            ways,
        })
    });
    let mut intents: Vec<MappingIntent> = intents.collect();
    intents.sort_by(|a, b| a.name.cmp(&b.name));
    intents
}

/// What the mappings of other hosts send to this one, or through it.
pub(super) fn admissions(
    network: &Network,
    members: &[Placed<'_>],
    own: &Placed<'_>,
) -> BTreeSet<AdmissionIntent> {
    let others = in_force(network).filter(|mapping| mapping.hub != *own.name());
    let admissions = others.flat_map(|mapping| {
        ways(network, members, mapping)
            .into_iter()
            .map(|way| AdmissionIntent {
                name: mapping.name.clone(),
                protocol: mapping.protocol,
                port: mapping.target_port,
                from: way.hub,
                to: way.target,
            })
    });
    let concerns = |admission: &AdmissionIntent| {
        own.member.role == Role::Hub || own.addresses().any(|net| net.addr() == admission.to)
    };
    admissions.filter(concerns).collect()
}

fn in_force(network: &Network) -> impl Iterator<Item = &PortMapping> {
    network.port_mappings.iter().filter(|mapping| mapping.enabled)
}

/// From the hub's overlay address to the target, in each family that both have. None where the hub itself is the target.
fn ways(network: &Network, members: &[Placed<'_>], mapping: &PortMapping) -> Vec<MappedWay> {
    let member = |name: &Name| members.iter().find(|member| member.name() == name);
    let Some(hub) = member(&mapping.hub) else {
        return Vec::new();
    };
    let targets: Vec<IpAddr> = match &mapping.to {
        MappingTarget::Node(node) => {
            let target = member(node).filter(|target| target.name() != hub.name());
            let both = target.map(|target| [Some(IpAddr::V6(target.v6)), target.v4.map(IpAddr::V4)]);
            both.into_iter().flatten().flatten().collect()
        }
        MappingTarget::Vip(name) => {
            let vips = network.virtual_ips.iter().filter(|vip| vip.name == *name);
            let elsewhere = vips.filter(|vip| !vip.held_by(hub.name()));
            elsewhere.map(|vip| vip.address).collect()
        }
    };
    let way = |target: IpAddr| {
        let hub = match target {
            IpAddr::V4(_) => IpAddr::V4(hub.v4?),
            IpAddr::V6(_) => IpAddr::V6(hub.v6),
        };
        Some(MappedWay { hub, target })
    };
    targets.into_iter().filter_map(way).collect()
}
