//! Random networks and packets in a small world, so that rules overlap and packets hit them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::interpreter::{Hook, Seen};
use crate::intent::{
    AdmissionIntent, FirewallIntent, HostIntent, IsolationMode, LinkIntent, LinkKind, MappedWay,
    MappingIntent, NetworkIntent, RuleIntent,
};
use crate::model::fleet::FleetDigest;
use crate::model::network::{Action, DefaultAction, NetworkId, PortRange, Protocol};
use crate::model::{AddressSet, LinkName, Name, PresharedKey, PublicKey};
use crate::planes::firewall::policy::Packet;

pub(super) fn host(networks: Vec<NetworkIntent>) -> HostIntent {
    HostIntent {
        node: Name::new("here").unwrap(),
        public_key: PublicKey([0; 32]),
        next_public_key: None,
        fleet_digest: FleetDigest([0; 32]),
        networks: networks
            .into_iter()
            .map(|network| (network.id, network))
            .collect(),
        host_services_in_vrf: false,
        blocked: Vec::new(),
        notices: Vec::new(),
    }
}

pub(super) fn network(
    id: u16,
    isolation: IsolationMode,
    relays: bool,
    firewall: FirewallIntent,
) -> NetworkIntent {
    let kind = |name: &LinkName| {
        if relays {
            LinkKind::Multipoint
        } else {
            LinkKind::Uplink {
                hub: Name::new(&name.to_string().replace('.', "-")).unwrap(),
            }
        }
    };
    NetworkIntent {
        name: Name::new(&format!("net-{id}")).unwrap(),
        id: NetworkId::new(id).unwrap(),
        isolation,
        vrf: None,
        table: 10_000 + u32::from(id),
        mtu: 1420,
        has_given_mtu: true,
        narrow: BTreeMap::new(),
        overlay_v6: Ipv6Addr::UNSPECIFIED,
        overlay_v4: None,
        link_local: Ipv6Addr::UNSPECIFIED,
        links: firewall
            .links
            .iter()
            .map(|name| LinkIntent {
                name: name.clone(),
                kind: kind(name),
                mtu: 1420,
                listen_port: None,
                peers: BTreeMap::new(),
                carriers: BTreeMap::new(),
            })
            .collect(),
        lans: Vec::new(),
        vips: Vec::new(),
        routes: BTreeMap::new(),
        shared: BTreeSet::new(),
        preshared_key: PresharedKey::derive("fd00::/48", id, None),
        bridges: Vec::new(),
        firewall,
    }
}

/// `10.0.0.n` or `fd00::n`, n up to 71.
pub(super) fn address() -> impl Strategy<Value = IpAddr> {
    (0_u8..72, any::<bool>()).prop_map(|(n, v4)| at(n, v4))
}

fn at(n: u8, v4: bool) -> IpAddr {
    if v4 {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))
    } else {
        IpAddr::V6(Ipv6Addr::from((0xfd00_u128 << 112) | u128::from(n)))
    }
}

fn net() -> impl Strategy<Value = IpNet> {
    (address(), 0_u8..=6).prop_map(|(address, host_bits)| {
        let full = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, full - host_bits).unwrap().trunc()
    })
}

pub(super) fn nets(count: std::ops::Range<usize>) -> impl Strategy<Value = AddressSet> {
    prop::collection::vec(net(), count).prop_map(|nets| nets.into_iter().collect())
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![1_u16..24, Just(65_535)]
}

fn ports() -> impl Strategy<Value = Vec<PortRange>> {
    let one = (port(), 0_u16..6).prop_map(|(first, width)| PortRange {
        first,
        last: first.saturating_add(width),
    });
    prop::collection::vec(one, 0..3).prop_map(|mut ranges| {
        ranges.sort();
        let mut apart: Vec<PortRange> = Vec::new();
        for range in ranges {
            if apart
                .last()
                .is_none_or(|last| u32::from(range.first) > u32::from(last.last) + 1)
            {
                apart.push(range);
            }
        }
        apart
    })
}

pub(super) fn rules() -> impl Strategy<Value = Vec<RuleIntent>> {
    let action = prop_oneof![3 => Just(Action::Accept), 1 => Just(Action::Drop), 1 => Just(Action::Reject)];
    let protocol = prop_oneof![
        Just(Protocol::Any),
        Just(Protocol::Tcp),
        Just(Protocol::Udp),
        Just(Protocol::Icmp)
    ];
    let one = (
        0_u32..4,
        0_u8..6,
        action,
        nets(1..4),
        nets(1..4),
        protocol,
        ports(),
    );
    prop::collection::vec(one, 0..8).prop_map(|rules| {
        let mut by_name: BTreeMap<Name, RuleIntent> = BTreeMap::new();
        for (priority, name, action, from, to, protocol, ports) in rules {
            let name = Name::new(&format!("rule-{name}")).unwrap();
            let has_ports = matches!(protocol, Protocol::Tcp | Protocol::Udp);
            let rule = RuleIntent {
                name: name.clone(),
                priority,
                action,
                from,
                to,
                protocol,
                ports: if has_ports { ports } else { Vec::new() },
                log: false,
            };
            by_name.insert(name, rule);
        }
        let mut rules: Vec<RuleIntent> = by_name.into_values().collect();
        rules.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        rules
    })
}

fn transport() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

/// Where every mapping's connections come from: one address for each family.
fn hub_of(target: IpAddr) -> IpAddr {
    at(70, target.is_ipv4())
}

fn mappings() -> impl Strategy<Value = Vec<MappingIntent>> {
    let limit = || prop::option::of(1_u32..4);
    let ways = (prop::option::of(0_u8..72), prop::option::of(0_u8..72));
    let one = (transport(), port(), port(), ways, nets(0..4), limit(), limit());
    prop::collection::btree_map(0_u8..4, one, 0..3).prop_map(|mappings| {
        let mappings = mappings.into_iter().map(
            |(n, (protocol, listen_port, target_port, (v4, v6), sources, max_connections, rate))| {
                let targets = [v4.map(|n| at(n, true)), v6.map(|n| at(n, false))];
                let way = |target| MappedWay {
                    hub: hub_of(target),
                    target,
                };
                MappingIntent {
                    name: Name::new(&format!("port-{n}")).unwrap(),
                    protocol,
                    listen_port,
                    target_port,
                    ways: targets.into_iter().flatten().map(way).collect(),
                    sources,
                    max_connections,
                    rate_limit_per_second: rate,
                }
            },
        );
        mappings.filter(|mapping| !mapping.ways.is_empty()).collect()
    })
}

fn admissions() -> impl Strategy<Value = BTreeSet<AdmissionIntent>> {
    let one = (0_u8..3, transport(), port(), any::<bool>(), 0_u8..72, 0_u8..72);
    let one = one.prop_map(|(n, protocol, port, v4, from, to)| AdmissionIntent {
        name: Name::new(&format!("from-{n}")).unwrap(),
        protocol,
        port,
        from: at(from, v4),
        to: at(to, v4),
    });
    prop::collection::btree_set(one, 0..3)
}

fn firewall(id: u16) -> impl Strategy<Value = FirewallIntent> {
    let lans = prop::collection::btree_map(0_u8..2, nets(0..3), 0..3);
    let default = prop_oneof![2 => Just(DefaultAction::Drop), 1 => Just(DefaultAction::Accept)];
    let parts = (default, 1_u8..3, lans, nets(1..4), nets(2..6), rules());
    (parts, mappings(), admissions()).prop_map(
        move |((default_action, links, lans, own, bound, rules), mappings, admissions)| {
            let link = |name: String| LinkName::new(&name).unwrap();
            FirewallIntent {
                default_action,
                links: (0..links).map(|n| link(format!("wg-sdwan-{id}-{n}"))).collect(),
                lan_sources: lans
                    .into_iter()
                    .map(|(n, nets)| (link(format!("lan{id}.{n}")), nets))
                    .collect(),
                own,
                bound,
                rules,
                mappings,
                admissions,
            }
        },
    )
}

fn isolation() -> impl Strategy<Value = IsolationMode> {
    prop_oneof![3 => Just(IsolationMode::Vrf), 2 => Just(IsolationMode::Rules)]
}

/// Up to two isolated networks, and up to one in the main table.
pub(super) fn hosts() -> impl Strategy<Value = HostIntent> {
    let one = |id: u16, isolation: BoxedStrategy<IsolationMode>| {
        (isolation, any::<bool>(), firewall(id))
            .prop_map(move |(isolation, relays, firewall)| network(id, isolation, relays, firewall))
    };
    let some = |id, isolation| prop::option::of(one(id, isolation));
    let main = prop::option::weighted(0.3, one(3, Just(IsolationMode::Main).boxed()));
    (some(1, isolation().boxed()), some(2, isolation().boxed()), main)
        .prop_map(|(a, b, c)| host([a, b, c].into_iter().flatten().collect()))
}

/// A packet at a hook, on interfaces of any network or of none.
pub(super) fn seen() -> impl Strategy<Value = Seen> {
    let interface = || {
        (1_u8..4, 0_u8..5).prop_map(|(id, n)| match n {
            0 | 1 => format!("wg-sdwan-{id}-{n}"),
            2 | 3 => format!("lan{id}.{}", n - 2),
            _ => "eth0".to_owned(),
        })
    };
    let hook = (0_u8..3, interface(), interface()).prop_map(|(hook, a, b)| match hook {
        0 => Hook::Input(a),
        1 => Hook::Output(a),
        _ => Hook::Forward(a, b),
    });
    let protocol = prop_oneof![3 => Just(6_u8), 2 => Just(17), 1 => Just(1), 1 => Just(58), 1 => Just(47)];
    let mapped = prop::option::of((1_u16..4).prop_map(|id| NetworkId::new(id).unwrap()));
    (hook, 0_u8..72, 0_u8..72, any::<bool>(), protocol, port(), mapped).prop_map(
        |(hook, a, b, v4, protocol, port, mapped)| Seen {
            // Only what comes from the underlay is ever marked.
            mapped: mapped.filter(|_| matches!(&hook, Hook::Forward(from, _) if from == "eth0")),
            hook,
            packet: Packet {
                source: at(a, v4),
                destination: at(b, v4),
                protocol,
                port: if matches!(protocol, 6 | 17) { port } else { 0 },
            },
        },
    )
}

/// Which interfaces are slaves of a VRF.
pub(super) fn slaves(hosts: &[&HostIntent]) -> BTreeSet<String> {
    let networks = hosts.iter().flat_map(|host| host.networks.values());
    networks
        .filter(|network| network.isolation == IsolationMode::Vrf)
        .flat_map(|network| {
            let firewall = &network.firewall;
            firewall.links.iter().chain(firewall.lan_sources.keys())
        })
        .map(ToString::to_string)
        .collect()
}
