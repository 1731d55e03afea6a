//! (host intent, facts of this kernel) → desired state. Pure.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};

use crate::intent::{HostIntent, IsolationMode, LanIntent, LinkKind, NetworkIntent};
use crate::model::network::EndpointHost;
use crate::model::ownership::{REPLY_MARK, ROUTE_METRIC, UNREACHABLE_METRIC, mapping_mark, rule_priority};
use crate::model::{LinkName, naming};

use super::state::{
    Backend, Family, Lan, Link, LinkType, MAIN_TABLE, Route, RouteKey, RouteTo, Rule, Selector, State,
    host_sysctl, link_sysctl, route_key, unreachable_default,
};

/// What the compiler must know of this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Who runs WireGuard.
    pub wireguard: Backend,
    /// `net.ipv4.conf.all.rp_filter`, above which no interface can go.
    pub rp_filter_all: u32,
    /// Whether `net.ipv6.conf.<interface>.force_forwarding` is there (Linux 6.17).
    pub force_forwarding: bool,
}

impl Facts {
    /// A current kernel with everything in it, for compiling without a host.
    #[must_use]
    pub const fn offline() -> Self {
        Self {
            wireguard: Backend::Kernel,
            rp_filter_all: 0,
            force_forwarding: false,
        }
    }
}

/// Compiles the desired state of this host.
#[must_use]
pub fn compile(intent: &HostIntent, facts: &Facts) -> State {
    let mut state = State::default();
    for network in intent.networks.values() {
        compile_links(&mut state, network, *facts);
        compile_isolation(&mut state, network);
        compile_routes(&mut state, network);
        compile_mappings(&mut state, network);
        compile_sysctls(&mut state, network, *facts);
    }
    if intent
        .networks
        .values()
        .any(|n| n.isolation == IsolationMode::Vrf)
    {
        // The kernel makes these with the first VRF; they are wanted in case someone deletes them.
        for family in Family::BOTH {
            state.rules.insert(Rule {
                family,
                priority: 1_000,
                selector: Selector::L3mdev,
                table: 0,
            });
        }
        if intent.host_services_in_vrf {
            for name in ["tcp_l3mdev_accept", "udp_l3mdev_accept", "raw_l3mdev_accept"] {
                state.sysctls.insert(host_sysctl(&["net", "ipv4", name]), 1);
            }
        }
    }
    state
}

fn compile_links(state: &mut State, network: &NetworkIntent, facts: Facts) {
    if let Some(vrf) = &network.vrf {
        let link = Link {
            network: network.id,
            kind: LinkType::Vrf { table: network.table },
            mtu: None,
            master: None,
            up: true,
            addresses: [].into(),
        };
        state.links.insert(vrf.clone(), link);
    }
    for link in &network.links {
        let mut addresses: std::collections::BTreeSet<IpNet> =
            [IpNet::from(IpAddr::V6(network.overlay_v6))].into();
        addresses.extend(network.overlay_v4.map(|v4| IpNet::from(IpAddr::V4(v4))));
        let link_local = Ipv6Net::new(network.link_local, 64).expect("64 is a prefix length");
        addresses.insert(link_local.into());
        let desired = Link {
            network: network.id,
            kind: LinkType::Wireguard {
                backend: facts.wireguard,
            },
            mtu: Some(link.mtu),
            master: network.vrf.clone(),
            up: true,
            addresses,
        };
        state.links.insert(link.name.clone(), desired);
    }
    compile_vips(state, network);
    let peers = network.links.iter().flat_map(|link| link.peers.values());
    for endpoint in peers.flat_map(|peer| &peer.endpoints) {
        if let EndpointHost::Address(address) = endpoint.host {
            state.endpoints.insert(address);
        }
    }
    for lan in &network.lans {
        let desired = Lan {
            network: network.id,
            master: network.vrf.clone(),
        };
        state.lans.insert(lan.interface.clone(), desired);
    }
}

/// The dummy that holds the network's virtual IPs, while this host holds any. It is in the VRF, and never carries a packet.
fn compile_vips(state: &mut State, network: &NetworkIntent) {
    let vips = network.vips.iter().filter(|vip| vip.here);
    let addresses: std::collections::BTreeSet<IpNet> = vips.map(|vip| IpNet::from(vip.address)).collect();
    if addresses.is_empty() {
        return;
    }
    let name = naming::vip_dummy(network.id);
    for (parameter, value) in [("disable_ipv6", 0), ("addr_gen_mode", 1), ("accept_ra", 0)] {
        state
            .sysctls
            .insert(link_sysctl(Family::V6, &name, parameter), value);
    }
    let dummy = Link {
        network: network.id,
        kind: LinkType::Dummy,
        mtu: None,
        master: network.vrf.clone(),
        up: true,
        addresses,
    };
    state.links.insert(name, dummy);
}

fn compile_isolation(state: &mut State, network: &NetworkIntent) {
    let (table, own_table) = match network.isolation {
        IsolationMode::Vrf | IsolationMode::Rules => (network.table, true),
        IsolationMode::Main => (network.table, false),
    };
    if own_table {
        for family in Family::BOTH {
            let route = Route {
                network: Some(network.id),
                to: RouteTo::Unreachable,
            };
            state.routes.insert(unreachable_default(table, family), route);
        }
    }
    if network.isolation != IsolationMode::Rules {
        return;
    }
    let mut rule = |family, priority, selector| {
        state.rules.insert(Rule {
            family,
            priority,
            selector,
            table,
        });
    };
    for interface in interfaces(network) {
        for family in Family::BOTH {
            rule(family, rule_priority::IIF, Selector::Iif(interface.clone()));
            rule(family, rule_priority::OIF, Selector::Oif(interface.clone()));
        }
    }
    let overlay = std::iter::once(IpAddr::V6(network.overlay_v6));
    let overlay = overlay.chain(network.overlay_v4.map(IpAddr::V4));
    let vips = network.vips.iter().filter(|vip| vip.here).map(|vip| vip.address);
    for address in overlay.chain(vips) {
        rule(
            Family::of(&address.into()),
            rule_priority::FROM,
            Selector::From(address),
        );
    }
    // This host answers from its LAN addresses, too. Only what it sends itself: a foreign packet with such a source must
    // not find its way into the network.
    for lan in network.lans.iter().filter(|lan| lan.via.is_none()) {
        rule(
            Family::of(&lan.subnet),
            rule_priority::FROM,
            Selector::Own(lan.subnet),
        );
    }
    // An ICMP error about a packet in transit has no source yet when the kernel looks for its route: no rule of ours
    // leads it to the network's table, and by a default route it would leave on the underlay, in the clear, with the
    // head of the packet in it. Here it ends instead. Real routes of the host to the same prefix win.
    for destination in network.firewall.bound.iter() {
        let key = RouteKey {
            table: MAIN_TABLE,
            destination,
            metric: UNREACHABLE_METRIC,
        };
        state.routes.entry(key).or_insert(Route {
            network: Some(network.id),
            to: RouteTo::Unreachable,
        });
    }
    // The rules would hide the kernel's link-local routes, which are in `main`, behind the unreachable default. One
    // metric each, as a table takes a destination and metric once.
    for (metric, interface) in (ROUTE_METRIC..).zip(interfaces(network)) {
        let destination: Ipv6Net = "fe80::/64".parse().expect("a literal");
        let key = RouteKey {
            table,
            destination: destination.into(),
            metric,
        };
        state.routes.insert(key, to_link(network, interface, None, None));
    }
}

/// The ways of mapped connections: into the network's table by one mark, and back to the main table by the other. What is
/// in the main table anyway needs neither.
fn compile_mappings(state: &mut State, network: &NetworkIntent) {
    let ways = network.firewall.mappings.iter().flat_map(|mapping| &mapping.ways);
    for family in ways.map(|way| Family::of(&way.target.into())) {
        state.mapped.insert((network.id, family));
        if network.isolation == IsolationMode::Main {
            continue;
        }
        for (priority, mark, table) in [
            (rule_priority::MAPPED, mapping_mark(network.id), network.table),
            (rule_priority::REPLY, REPLY_MARK, MAIN_TABLE),
        ] {
            let selector = Selector::Mark(mark);
            state.rules.insert(Rule {
                family,
                priority,
                selector,
                table,
            });
        }
    }
}

/// The overlay links and, once each, the LAN interfaces.
fn interfaces(network: &NetworkIntent) -> impl Iterator<Item = &LinkName> {
    let mut lans: Vec<&LinkName> = network.lans.iter().map(|lan| &lan.interface).collect();
    lans.sort();
    lans.dedup();
    network.links.iter().map(|link| &link.name).chain(lans)
}

fn to_link(
    network: &NetworkIntent,
    device: &LinkName,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
) -> Route {
    Route {
        network: Some(network.id),
        to: RouteTo::Link {
            device: device.clone(),
            gateway,
            source,
            mtu: None,
        },
    }
}

fn compile_routes(state: &mut State, network: &NetworkIntent) {
    let routes = network.routes.iter().map(|(destination, device)| {
        let source = match destination {
            IpNet::V4(_) => network.overlay_v4.map(IpAddr::V4),
            IpNet::V6(_) => Some(IpAddr::V6(network.overlay_v6)),
        };
        let key = route_key(network.table, *destination);
        let mut route = to_link(network, device, None, source);
        if let RouteTo::Link { mtu, .. } = &mut route.to {
            *mtu = network.narrow.get(destination).copied();
        }
        (key, route)
    });
    for link in network.links.iter().filter(|link| !link.carriers.is_empty()) {
        let followed = state.followed.entry(network.table).or_default();
        followed.extend(link.carriers.keys());
    }
    // In order already: collecting and appending is linear.
    state.routes.append(&mut routes.collect());
    for LanIntent {
        subnet,
        interface,
        via,
    } in &network.lans
    {
        let key = route_key(network.table, *subnet);
        state.routes.insert(key, to_link(network, interface, *via, None));
    }
}

/// The least that makes this host forward (measured on Linux 6.12):
/// * IPv4 asks the interface that a packet came in by, never the VRF, and not `ip_forward`: one parameter each.
/// * IPv6 asks `all.forwarding` alone, until 6.17 brought `force_forwarding` for one interface.
fn compile_sysctls(state: &mut State, network: &NetworkIntent, facts: Facts) {
    let carries_v4 = network.overlay_v4.is_some();
    let forwards = !network.lans.is_empty()
        || network
            .links
            .iter()
            .any(|link| matches!(link.kind, LinkKind::Multipoint));
    let mut set = |family, link: &LinkName, name, value| {
        state.sysctls.insert(link_sysctl(family, link, name), value);
    };
    for name in network.links.iter().map(|link| &link.name).chain(&network.vrf) {
        // The host may have IPv6 off by default; the overlay needs it.
        set(Family::V6, name, "disable_ipv6", 0);
    }
    for link in &network.links {
        let name = &link.name;
        // No address but ours, and nobody on the overlay may give this host addresses or routes.
        set(Family::V6, name, "addr_gen_mode", 1);
        set(Family::V6, name, "accept_ra", 0);
        set(Family::V6, name, "accept_redirects", 0);
        if carries_v4 {
            // Answers may come in by another link than questions leave by; WireGuard checks sources. The kernel
            // takes the greater of `all` and this.
            let loose = if facts.rp_filter_all == 0 { 0 } else { 2 };
            set(Family::V4, name, "rp_filter", loose);
        }
    }
    if !forwards {
        return;
    }
    for name in interfaces(network) {
        if carries_v4 {
            set(Family::V4, name, "forwarding", 1);
        }
        if facts.force_forwarding {
            set(Family::V6, name, "force_forwarding", 1);
        }
    }
    if !facts.force_forwarding {
        let path = host_sysctl(&["net", "ipv6", "conf", "all", "forwarding"]);
        state.sysctls.insert(path, 1);
    }
}
