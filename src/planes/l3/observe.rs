//! Kernel → [`Actual`]: a thin read, and a pure [`decode`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::LinkName;
use crate::model::ownership::{KERNEL_PROTOCOL, LinkClass, MARK_MASK, ROUTE_PROTOCOL, link_class, owns_link};
use crate::sys::netlink::{self as nl, Netlink, NetlinkError, RouteFilter, RouteKind, address_flag};
use crate::sys::sysctl::{SysctlPath, Sysctls};

use super::apply::L3Error;
use super::compile::Facts;
use super::encode::LOOPBACK;
use super::state::{
    Actual, Backend, Family, Fib, FibRoute, HostAddress, Interface, LINK_GROUP, Lan, Link, LinkType,
    MAIN_TABLE, NextHop, Route, RouteKey, RouteTo, Rule, Selector, State, host_sysctl, link_sysctl,
    network_of_link, network_of_table, route_key,
};

/// What was read, before it means anything.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    /// All links.
    pub links: Vec<nl::Link>,
    /// All addresses.
    pub addresses: Vec<nl::Address>,
    /// The routes of our protocol, in any table.
    pub routes: Vec<nl::Route>,
    /// All rules.
    pub rules: Vec<nl::Rule>,
    /// The routes of the tables that are followed, in the kernel's order.
    pub fib: Vec<nl::FibRoute>,
    /// The indexes of interfaces with a default route that isn't ours, among those asked for.
    pub default_routes: BTreeSet<u32>,
    /// The kernel parameters that are there, among those asked for.
    pub sysctls: BTreeMap<SysctlPath, u32>,
    /// See [`Actual::accept_ra`].
    pub accept_ra: BTreeSet<LinkName>,
    /// See [`Actual::forwarding`].
    pub forwarding: BTreeSet<Family>,
    /// Whether the kernel has IPv6.
    pub ipv6: bool,
}

/// Reads what [`super::compile`] must know of this kernel.
///
/// # Errors
/// A parameter is there and can't be read.
pub fn observe_facts(sysctls: &Sysctls, wireguard: Backend) -> Result<Facts, L3Error> {
    let all = host_sysctl(&["net", "ipv4", "conf", "all", "rp_filter"]);
    let force = host_sysctl(&["net", "ipv6", "conf", "all", "force_forwarding"]);
    Ok(Facts {
        wireguard,
        rp_filter_all: number(sysctls, &all)?.unwrap_or(0),
        force_forwarding: sysctls.read(&force)?.is_some(),
    })
}

/// Reads what is ours, and what of the rest `desired` depends on.
///
/// # Errors
/// A section can't be read: it is unknown, not empty.
pub async fn observe(netlink: &Netlink, sysctls: &Sysctls, desired: &State) -> Result<Actual, L3Error> {
    let section = |section| move |source: NetlinkError| L3Error::Read { section, source };
    let ours = RouteFilter {
        protocol: Some(ROUTE_PROTOCOL),
        ..RouteFilter::default()
    };
    let ipv6 = host_sysctl(&["net", "ipv6", "conf", "all", "forwarding"]);
    let mut raw = Raw {
        links: netlink.links().await.map_err(section("links"))?,
        addresses: netlink.addresses().await.map_err(section("addresses"))?,
        ipv6: sysctls.read(&ipv6)?.is_some(),
        ..Raw::default()
    };
    let families: &[nl::Family] = if raw.ipv6 {
        &[nl::Family::V4, nl::Family::V6]
    } else {
        &[nl::Family::V4]
    };
    for &family in families {
        let routes = netlink.routes(family, ours).await;
        raw.routes.extend(routes.map_err(section("routes"))?);
        raw.rules
            .extend(netlink.rules(family).await.map_err(section("rules"))?);
    }
    let names = Names::of(&raw.links);
    for name in desired.lans.keys() {
        let Some(link) = raw.links.iter().find(|link| link.name == name.as_str()) else {
            continue;
        };
        for &family in families {
            let filter = RouteFilter {
                device: Some(link.index),
                ..RouteFilter::default()
            };
            let routes = netlink.routes(family, filter).await.map_err(section("routes"))?;
            if routes.iter().any(is_foreign_default) {
                raw.default_routes.insert(link.index);
            }
        }
    }
    raw.fib = followed(netlink, families, &raw.links, desired)
        .await
        .map_err(section("routes"))?;
    for path in wanted_sysctls(&raw, &names, desired) {
        if let Some(value) = number(sysctls, &path)? {
            raw.sysctls.insert(path, value);
        }
    }
    if desired.sysctls.contains_key(&ipv6) && raw.sysctls.get(&ipv6) == Some(&0) {
        raw.accept_ra = accept_ra(&raw, sysctls, desired)?;
    }
    if !desired.mapped.is_empty() {
        raw.forwarding = forwarding(&raw, sysctls, desired)?;
    }
    Ok(decode(&raw, desired))
}

/// The routes of the tables that are followed. The main table may be that of the whole Internet: of it, only what goes out by
/// our links.
async fn followed(
    netlink: &Netlink,
    families: &[nl::Family],
    links: &[nl::Link],
    desired: &State,
) -> Result<Vec<nl::FibRoute>, NetlinkError> {
    let mut found = Vec::new();
    for (table, nets) in &desired.followed {
        let devices: Vec<Option<u32>> = if *table == MAIN_TABLE {
            let routes = nets
                .iter()
                .filter_map(|net| desired.routes.get(&route_key(*table, *net)));
            let names: BTreeSet<&LinkName> = routes.filter_map(|route| route.to.device()).collect();
            let index = |name: &&LinkName| links.iter().find(|link| link.name == name.as_str());
            names
                .iter()
                .filter_map(index)
                .map(|link| Some(link.index))
                .collect()
        } else {
            vec![None]
        };
        for &family in families {
            for device in &devices {
                found.extend(netlink.fib(family, *table, *device).await?);
            }
        }
    }
    Ok(found)
}

/// The families that some interface of the underlay forwards.
fn forwarding(raw: &Raw, sysctls: &Sysctls, desired: &State) -> Result<BTreeSet<Family>, L3Error> {
    let mut found = BTreeSet::new();
    let all = host_sysctl(&["net", "ipv6", "conf", "all", "forwarding"]);
    if number(sysctls, &all)? == Some(1) {
        found.insert(Family::V6);
    }
    for link in raw.links.iter().filter(|link| !link.loopback) {
        let Ok(name) = LinkName::new(&link.name) else {
            continue;
        };
        if class_of(link, &name).is_some() || desired.lans.contains_key(&name) {
            continue;
        }
        for (family, parameter) in [(Family::V4, "forwarding"), (Family::V6, "force_forwarding")] {
            if number(sysctls, &link_sysctl(family, &name, parameter))? == Some(1) {
                found.insert(family);
            }
        }
    }
    Ok(found)
}

fn number(sysctls: &Sysctls, path: &SysctlPath) -> Result<Option<u32>, L3Error> {
    Ok(sysctls.read(path)?.and_then(|text| text.parse().ok()))
}

fn is_foreign_default(route: &nl::Route) -> bool {
    route.destination.prefix_len() == 0
        && route.protocol != ROUTE_PROTOCOL
        && route.kind == RouteKind::Unicast
}

/// Which parameters matter: the desired ones, and those that go back when an interface stops being a LAN.
fn wanted_sysctls(raw: &Raw, names: &Names, desired: &State) -> BTreeSet<SysctlPath> {
    let mut paths: BTreeSet<SysctlPath> = desired.sysctls.keys().cloned().collect();
    let mut released = false;
    for name in interfaces(raw, names, desired) {
        if !desired.lans.contains_key(&name) {
            released = true;
            paths.insert(link_sysctl(Family::V4, &name, "forwarding"));
            paths.insert(link_sysctl(Family::V6, &name, "force_forwarding"));
        }
    }
    if released {
        paths.insert(host_sysctl(&["net", "ipv4", "ip_forward"]));
    }
    paths
}

fn accept_ra(raw: &Raw, sysctls: &Sysctls, desired: &State) -> Result<BTreeSet<LinkName>, L3Error> {
    let mut found = BTreeSet::new();
    for link in raw.links.iter().filter(|link| !link.loopback) {
        let Ok(name) = LinkName::new(&link.name) else {
            continue;
        };
        if class_of(link, &name).is_some() || desired.lans.contains_key(&name) {
            continue;
        }
        let accepts = number(sysctls, &link_sysctl(Family::V6, &name, "accept_ra"))? == Some(1);
        let forwards = number(sysctls, &link_sysctl(Family::V6, &name, "forwarding"))? != Some(0);
        if accepts && !forwards {
            found.insert(name);
        }
    }
    Ok(found)
}

/// Interface indexes and their names.
struct Names(BTreeMap<u32, LinkName>);

impl Names {
    fn of(links: &[nl::Link]) -> Self {
        let name = |link: &nl::Link| Some((link.index, LinkName::new(&link.name).ok()?));
        Self(links.iter().filter_map(name).collect())
    }

    fn get(&self, index: u32) -> Option<&LinkName> {
        self.0.get(&index)
    }
}

/// What a link of ours is; none where it is foreign: another name, no mark, or of a kind that we never make under
/// that name.
fn class_of(link: &nl::Link, name: &LinkName) -> Option<LinkType> {
    let half_made = link.alias.is_none() && link.group == LINK_GROUP;
    if !owns_link(name, link.alias.as_deref()) && !half_made {
        return None;
    }
    match (link_class(name)?, link.kind.as_deref()?) {
        (LinkClass::Vrf, "vrf") => Some(LinkType::Vrf {
            table: link.vrf_table?,
        }),
        (LinkClass::WireGuard, "wireguard") => Some(LinkType::Wireguard {
            backend: Backend::Kernel,
        }),
        (LinkClass::WireGuard, "tun") => Some(LinkType::Wireguard {
            backend: Backend::Userspace,
        }),
        (LinkClass::VipDummy, "dummy") => Some(LinkType::Dummy),
        (LinkClass::Vrf | LinkClass::WireGuard | LinkClass::VipDummy, _) => None,
    }
}

/// The foreign interfaces that are LANs, shall be, or were: they are in a VRF of ours, or a rule or route of ours
/// names them.
fn interfaces(raw: &Raw, names: &Names, desired: &State) -> BTreeSet<LinkName> {
    let mut ours = BTreeSet::new();
    let mut vrfs = BTreeSet::new();
    for link in &raw.links {
        if let Some(name) = names.get(link.index)
            && let Some(kind) = class_of(link, name)
        {
            ours.insert(name);
            if kind.is_vrf() {
                vrfs.insert(link.index);
            }
        }
    }
    let mut found: BTreeSet<LinkName> = desired.lans.keys().cloned().collect();
    let enslaved = raw
        .links
        .iter()
        .filter(|link| link.master.is_some_and(|master| vrfs.contains(&master)))
        .filter_map(|link| names.get(link.index));
    let routed = raw.routes.iter().filter(|route| is_our_table(route.table));
    let routed = routed.filter_map(|route| names.get(route.device?));
    found.extend(enslaved.chain(routed).cloned());
    let ruled = raw.rules.iter().filter_map(decode_rule);
    found.extend(ruled.filter_map(|rule| match rule.selector {
        Selector::Iif(link) => Some(link),
        Selector::Oif(_) | Selector::From(_) | Selector::Own(_) | Selector::Mark(_) | Selector::L3mdev => {
            None
        }
    }));
    found.retain(|name| !ours.contains(name) && link_class(name).is_none());
    found
}

fn is_our_table(table: u32) -> bool {
    table == MAIN_TABLE || network_of_table(table).is_some()
}

/// Gives what was read its meaning.
#[must_use]
pub fn decode(raw: &Raw, desired: &State) -> Actual {
    let names = Names::of(&raw.links);
    let mut actual = Actual {
        ipv6: raw.ipv6,
        accept_ra: raw.accept_ra.clone(),
        forwarding: raw.forwarding.clone(),
        ..Actual::default()
    };
    actual.state.sysctls.clone_from(&raw.sysctls);
    decode_links(&mut actual, raw, &names, desired);
    decode_interfaces(&mut actual, raw, &names, desired);
    for route in raw.routes.iter().filter(|route| is_our_table(route.table)) {
        let (key, route) = decode_route(route, &names);
        // A second next hop under the same key: whatever it is, it isn't what we want there.
        actual
            .state
            .routes
            .entry(key)
            .and_modify(|route| route.to = RouteTo::Elsewhere)
            .or_insert(route);
    }
    actual.fib = decode_fib(&raw.fib, &names);
    for rule in &raw.rules {
        if rule.l3mdev && !rule.other && rule.mark.is_none() && rule.iif.is_none() && rule.oif.is_none() {
            actual.l3mdev_rules.insert(family(rule.family));
        }
        actual.state.rules.extend(decode_rule(rule));
    }
    actual
}

/// What the kernel makes by itself (connected and local routes) is no one's choice.
fn decode_fib(routes: &[nl::FibRoute], names: &Names) -> Fib {
    let foreign =
        |route: &&nl::FibRoute| route.protocol != ROUTE_PROTOCOL && route.protocol != KERNEL_PROTOCOL;
    let mut fib = Fib::new();
    for route in routes.iter().filter(foreign) {
        fib.entry(route.table)
            .or_default()
            .entry(route.destination)
            .or_default();
    }
    if fib.is_empty() {
        return fib;
    }
    for route in routes.iter().filter(|route| route.protocol != KERNEL_PROTOCOL) {
        let table = fib.get_mut(&route.table);
        if let Some(found) = table.and_then(|table| table.get_mut(&route.destination)) {
            let hops = route.hops.iter().map(|hop| NextHop {
                device: hop.device.and_then(|index| names.get(index)).cloned(),
                gateway: hop.gateway,
            });
            found.push(FibRoute {
                metric: route.metric,
                protocol: route.protocol,
                hops: hops.collect(),
            });
        }
    }
    fib
}

const fn family(family: nl::Family) -> Family {
    match family {
        nl::Family::V4 => Family::V4,
        nl::Family::V6 => Family::V6,
    }
}

fn decode_links(actual: &mut Actual, raw: &Raw, names: &Names, desired: &State) {
    for link in &raw.links {
        let Some(name) = names.get(link.index) else {
            continue;
        };
        let Some(kind) = class_of(link, name) else {
            if desired.links.contains_key(name) {
                let kind = link.kind.as_deref().unwrap_or("device");
                let alias = match link.alias.as_deref() {
                    Some(alias) => format!("alias {alias:?}"),
                    None => "no alias".to_owned(),
                };
                actual
                    .taken
                    .insert(name.clone(), format!("a {kind} with {alias}"));
            }
            continue;
        };
        let Some(network) = network_of_link(name) else {
            continue;
        };
        if link.alias.is_none() {
            actual.unaliased.insert(name.clone());
        }
        let addresses = raw.addresses.iter().filter(|address| address.index == link.index);
        let found = Link {
            network,
            kind,
            mtu: Some(link.mtu),
            master: link.master.and_then(|master| names.get(master)).cloned(),
            up: link.up,
            addresses: addresses.filter_map(net).collect(),
        };
        actual.state.links.insert(name.clone(), found);
    }
}

fn net(address: &nl::Address) -> Option<IpNet> {
    IpNet::new(address.local, address.prefix_len).ok()
}

fn decode_interfaces(actual: &mut Actual, raw: &Raw, names: &Names, desired: &State) {
    let wanted = interfaces(raw, names, desired);
    for address in &raw.addresses {
        let link = raw.links.iter().find(|link| link.index == address.index);
        let (Some(link), Some(name)) = (link, names.get(address.index)) else {
            continue;
        };
        let is_local = match address.local {
            IpAddr::V4(local) => local.is_link_local(),
            IpAddr::V6(local) => local.is_unicast_link_local(),
        };
        if !is_local && !link.loopback && class_of(link, name).is_none() && !wanted.contains(name) {
            actual.underlay.insert(address.local, name.clone());
        }
    }
    for link in &raw.links {
        let Some(name) = names.get(link.index).filter(|name| wanted.contains(*name)) else {
            continue;
        };
        let master = link.master.and_then(|master| names.get(master)).cloned();
        let vrf = master
            .as_ref()
            .filter(|master| actual.state.links.get(*master).is_some_and(|l| l.kind.is_vrf()));
        if let Some(vrf) = vrf
            && let Some(network) = network_of_link(vrf)
        {
            let lan = Lan {
                network,
                master: Some(vrf.clone()),
            };
            actual.state.lans.insert(name.clone(), lan);
        }
        let addresses = raw.addresses.iter().filter(|address| address.index == link.index);
        let interface = Interface {
            up: link.up,
            master,
            default_route: raw.default_routes.contains(&link.index),
            addresses: addresses.filter_map(decode_host_address).collect(),
        };
        actual.interfaces.insert(name.clone(), interface);
    }
}

/// Decodes an address without lifetimes; those with lifetimes come back by what gave them.
pub(super) fn decode_host_address(address: &nl::Address) -> Option<HostAddress> {
    let chosen = address_flag::NODAD
        | address_flag::HOMEADDRESS
        | address_flag::MANAGETEMPADDR
        | address_flag::NOPREFIXROUTE;
    if address.flags & address_flag::PERMANENT == 0 {
        return None;
    }
    Some(HostAddress {
        address: net(address)?,
        peer: address.peer,
        broadcast: address.broadcast,
        label: address.label.clone(),
        scope: address.scope,
        flags: address.flags & chosen,
        route_metric: address.route_metric,
    })
}

fn decode_route(route: &nl::Route, names: &Names) -> (RouteKey, Route) {
    let device = route.device.and_then(|index| names.get(index));
    let to = match (route.kind, device) {
        (RouteKind::Unreachable, _) if !route.other => RouteTo::Unreachable,
        (RouteKind::Unicast, Some(device)) if !route.other => RouteTo::Link {
            device: device.clone(),
            gateway: route.gateway,
            source: route.source,
            mtu: route.mtu,
        },
        _ => RouteTo::Elsewhere,
    };
    let key = RouteKey {
        table: route.table,
        destination: route.destination,
        metric: route.metric,
    };
    let network = network_of_table(route.table).or_else(|| network_of_link(to.device()?));
    (key, Route { network, to })
}

/// Decodes a rule of ours; none where it is foreign, or of a kind that this plane doesn't make.
fn decode_rule(rule: &nl::Rule) -> Option<Rule> {
    if rule.protocol != ROUTE_PROTOCOL || rule.other {
        return None;
    }
    let name = |text: &Option<String>| LinkName::new(text.as_deref()?).ok();
    let by_mark = match (rule.mark, &rule.iif, &rule.oif, rule.from, rule.l3mdev) {
        (None, _, _, _, _) => None,
        (Some((mark, MARK_MASK)), None, None, None, false) => Some(Selector::Mark(mark)),
        (Some(_), _, _, _, _) => return None,
    };
    let selector = match (&rule.iif, &rule.oif, rule.from, rule.l3mdev) {
        (None, None, None, false) => by_mark?,
        (Some(_), None, None, false) => Selector::Iif(name(&rule.iif)?),
        (Some(iif), None, Some(net), false) if iif == LOOPBACK => Selector::Own(net),
        (None, Some(_), None, false) => Selector::Oif(name(&rule.oif)?),
        (None, None, Some(net), false) if net.prefix_len() == net.max_prefix_len() => {
            Selector::From(net.addr())
        }
        (None, None, None, true) => Selector::L3mdev,
        _ => return None,
    };
    Some(Rule {
        family: family(rule.family),
        priority: rule.priority,
        selector,
        table: if rule.l3mdev { 0 } else { rule.table },
    })
}
