//! desired × actual → changes. Pure.
//!
//! What hangs on something that goes or is made again is treated as gone, whatever the lists still say: one plan
//! heals a deleted link with everything on it.

mod disconnect;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{LinkName, NetworkId};
use crate::planes::{Blocked, Difference, Phase};

use super::change::{Change, Op};
use super::state::{
    Actual, Family, Interface, Link, LinkType, MAIN_TABLE, RouteKey, RouteTo, Rule, Selector, State,
    host_sysctl, link_sysctl, network_of_table, sysctl_link,
};

/// What stands around that no plan may cut off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// Interfaces that carry someone's session: they are not taken into a network.
    pub protected: BTreeSet<LinkName>,
    /// Where peers are called now.
    pub endpoints: BTreeSet<IpAddr>,
}

/// Finds the changes that make `actual` what is `desired`.
#[must_use]
pub fn diff(desired: &State, actual: &Actual, around: &Around) -> Difference<Change> {
    let covers = covers(desired, actual, around);
    let narrowed = without(desired, &covers);
    let desired = narrowed.as_ref().unwrap_or(desired);
    let mut differ = Differ::new(desired, actual, &around.protected);
    for (destination, (network, what)) in &covers {
        differ.block(
            *network,
            format!(
                "{destination} covers {what}: without VRF in the kernel, carrying it would cut this host off from there"
            ),
            "use a kernel with VRF (CONFIG_NET_VRF, `modprobe vrf`), or a narrower prefix".to_owned(),
        );
    }
    if !actual.ipv6 && !desired.links.is_empty() {
        differ.block(
            None,
            "this kernel has no IPv6, which every overlay address is".to_owned(),
            "boot without ipv6.disable=1".to_owned(),
        );
        return differ.out;
    }
    differ.find_deaf_underlay();
    differ.disconnect();
    differ.vrfs();
    differ.links();
    differ.lans();
    differ.rules();
    differ.host_sysctls();
    differ.up();
    differ.routes();
    differ.out.changes.sort_by_key(|change| change.phase);
    differ.out
}

/// Renders a desired state as the commands that would make it on a host where nothing is ours.
#[must_use]
pub fn render(desired: &State) -> String {
    let mut actual = Actual::default();
    for name in desired.lans.keys() {
        let interface = Interface {
            up: true,
            ..Interface::default()
        };
        actual.interfaces.insert(name.clone(), interface);
    }
    let mut script = String::new();
    for change in diff(desired, &actual, &Around::default()).changes {
        writeln!(script, "{change}").expect("a String takes everything");
    }
    script
}

/// The prefixes whose end in the main table would be that of the underlay, too: each with its network, and what of the
/// underlay is in it.
fn covers(desired: &State, actual: &Actual, around: &Around) -> BTreeMap<IpNet, (Option<NetworkId>, String)> {
    let ends = desired.routes.iter();
    let ends = ends.filter(|(key, route)| key.table == MAIN_TABLE && route.to == RouteTo::Unreachable);
    let mut covers = BTreeMap::new();
    for (key, route) in ends {
        let covered = |address: &&IpAddr| key.destination.contains(*address);
        let own = actual.underlay.iter().find(|(address, _)| covered(address));
        let peer = desired.endpoints.iter().chain(&around.endpoints).find(covered);
        let what = match (own, peer) {
            (Some((address, link)), _) => format!("{address} of {link}, on the underlay"),
            (None, Some(address)) => format!("{address}, where a peer is called"),
            (None, None) => continue,
        };
        covers.insert(key.destination, (route.network, what));
    }
    covers
}

/// The same without these prefixes; none where there are none.
fn without(desired: &State, covers: &BTreeMap<IpNet, (Option<NetworkId>, String)>) -> Option<State> {
    if covers.is_empty() {
        return None;
    }
    let mut narrowed = desired.clone();
    let is_in = |net: &IpNet, network: Option<NetworkId>| {
        let mut covers = covers.iter();
        covers.any(|(cover, (of, _))| cover.contains(net) && *of == network)
    };
    narrowed
        .routes
        .retain(|key, route| !is_in(&key.destination, route.network));
    narrowed.rules.retain(|rule| match &rule.selector {
        Selector::Own(net) => !is_in(net, network_of_table(rule.table)),
        Selector::Iif(_) | Selector::Oif(_) | Selector::From(_) | Selector::Mark(_) | Selector::L3mdev => {
            true
        }
    });
    Some(narrowed)
}

fn same_routes(desired: &State, found: &State) -> bool {
    let wanted = desired.routes.iter().map(|(key, route)| (key, &route.to));
    wanted.eq(found.routes.iter().map(|(key, route)| (key, &route.to)))
}

struct Differ<'a> {
    desired: &'a State,
    actual: &'a Actual,
    /// Links of ours that are deleted, those made again included.
    gone: BTreeSet<&'a LinkName>,
    /// Links that are put into another master: the kernel takes their addresses and routes.
    moved: BTreeSet<&'a LinkName>,
    /// Links and interfaces that can't be used as things are: nothing on them is touched.
    unusable: BTreeSet<&'a LinkName>,
    /// Links and interfaces whose routes the kernel takes in the course of the plan, or has taken.
    losing: BTreeSet<&'a LinkName>,
    /// Whether every route is there and leads where it should: one pass instead of a search for each.
    same_routes: bool,
    out: Difference<Change>,
}

impl<'a> Differ<'a> {
    fn new(desired: &'a State, actual: &'a Actual, protected: &BTreeSet<LinkName>) -> Self {
        let keeps = |name: &LinkName, link: &Link| {
            desired
                .links
                .get(name)
                .is_some_and(|wanted| wanted.kind == link.kind)
        };
        let links = actual.state.links.iter();
        let gone: BTreeSet<&LinkName> = links
            .filter(|(name, link)| !keeps(name, link))
            .map(|(name, _)| name)
            .collect();
        let is_moved = |name: &LinkName, link: &Link| {
            let found = actual.state.links.get(name);
            let master_gone = link.master.as_ref().is_some_and(|vrf| gone.contains(vrf));
            found.is_some_and(|found| found.master != link.master || master_gone) && !gone.contains(name)
        };
        let links = desired.links.iter();
        let moved = links
            .filter(|(name, link)| is_moved(name, link))
            .map(|(name, _)| name)
            .collect();
        let mut differ = Self {
            desired,
            actual,
            gone,
            moved,
            unusable: BTreeSet::new(),
            losing: BTreeSet::new(),
            same_routes: same_routes(desired, &actual.state),
            out: Difference::default(),
        };
        differ.find_taken();
        differ.find_unusable_lans(protected);
        let devices = desired.links.keys().chain(desired.lans.keys());
        differ.losing = devices.filter(|device| differ.loses_routes(device)).collect();
        differ
    }

    fn block(&mut self, network: Option<NetworkId>, reason: String, fix: String) {
        self.out.blocked.push(Blocked { network, reason, fix });
    }

    fn push(&mut self, network: Option<NetworkId>, phase: Phase, op: Op) {
        self.out.changes.push(Change { network, phase, op });
    }

    fn find_taken(&mut self) {
        for (name, what) in &self.actual.taken {
            if let Some((name, link)) = self.desired.links.get_key_value(name) {
                self.unusable.insert(name);
                let reason = format!("{name} is {what}: it isn't ours");
                let fix = format!("rename it or delete it: ip link delete {name}");
                self.block(Some(link.network), reason, fix);
            }
        }
        for (name, link) in &self.desired.links {
            if link
                .master
                .as_ref()
                .is_some_and(|vrf| self.unusable.contains(vrf))
            {
                self.unusable.insert(name);
            }
        }
    }

    /// A mapped packet comes in by an interface that isn't ours, and forwarding there is the host's own affair: with it,
    /// other packets would be forwarded as well.
    fn find_deaf_underlay(&mut self) {
        for (network, family) in &self.desired.mapped {
            let (word, path) = match family {
                Family::V4 => ("IPv4", host_sysctl(&["net", "ipv4", "ip_forward"])),
                Family::V6 => ("IPv6", host_sysctl(&["net", "ipv6", "conf", "all", "forwarding"])),
            };
            if self.actual.forwarding.contains(family) || self.desired.sysctls.get(&path) == Some(&1) {
                continue;
            }
            self.block(
                Some(*network),
                format!("no interface of the underlay forwards {word}, which port mappings need"),
                format!("sysctl -w {path}=1, and a file in /etc/sysctl.d that says so; filter what else it would forward"),
            );
        }
    }

    fn find_unusable_lans(&mut self, protected: &BTreeSet<LinkName>) {
        for (name, lan) in &self.desired.lans {
            if lan.master.as_ref().is_some_and(|vrf| self.unusable.contains(vrf)) {
                self.unusable.insert(name);
                continue;
            }
            let Some(interface) = self.actual.interfaces.get(name) else {
                self.unusable.insert(name);
                let reason = format!("interface {name}, which carries a LAN, doesn't exist");
                let fix = format!("create {name}, or correct `lans` of this member");
                self.block(Some(lan.network), reason, fix);
                continue;
            };
            if let Some((reason, fix)) = self.lan_obstacle(name, interface, protected) {
                self.unusable.insert(name);
                self.block(Some(lan.network), reason, fix);
            } else if !interface.up {
                // It may join, but it can't carry a route.
                let reason = format!("interface {name}, which carries a LAN, is down");
                self.block(Some(lan.network), reason, format!("ip link set {name} up"));
            }
        }
    }

    fn lan_obstacle(
        &self,
        name: &LinkName,
        interface: &Interface,
        protected: &BTreeSet<LinkName>,
    ) -> Option<(String, String)> {
        let lan = &self.desired.lans[name];
        let ours = self.actual.state.lans.contains_key(name);
        if let Some(master) = interface.master.as_ref().filter(|_| !ours) {
            let reason = format!("interface {name}, which carries a LAN, belongs to {master}");
            return Some((
                reason,
                format!("name {master} as the LAN's interface, or: ip link set {name} nomaster"),
            ));
        }
        let takes = |rule: &Rule| rule.selector == Selector::Iif(name.clone());
        let wants_rule = self.desired.rules.iter().any(takes);
        let joins = lan.master.is_some() && interface.master != lan.master;
        let captures = wants_rule && !self.actual.state.rules.iter().any(takes);
        if !joins && !captures {
            return None;
        }
        if interface.default_route && !ours {
            let reason = format!("interface {name} carries a default route: this host would be cut off");
            return Some((reason, "give the LAN an interface of its own".to_owned()));
        }
        protected.contains(name).then(|| {
            let reason = format!("interface {name} carries the session that asks: it would be cut off");
            (
                reason,
                "apply from the console, or by another interface".to_owned(),
            )
        })
    }

    /// Whether the link must be made.
    fn fresh(&self, name: &LinkName) -> bool {
        !self.actual.state.links.contains_key(name) || self.gone.contains(name)
    }

    /// Whether the link goes up in this plan: until then it takes no routes.
    fn goes_up(&self, name: &LinkName) -> bool {
        self.desired.links.get(name).is_some_and(|link| {
            link.up && (self.fresh(name) || self.moved.contains(name) || !self.actual.state.links[name].up)
        })
    }

    /// Whether a route by this device can't be there.
    fn stuck(&self, device: &LinkName) -> bool {
        self.unusable.contains(device)
            || (self.desired.lans.contains_key(device)
                && self.actual.interfaces.get(device).is_some_and(|i| !i.up))
    }

    fn vrfs(&mut self) {
        for (name, link) in &self.desired.links {
            if link.kind.is_vrf() && !self.unusable.contains(name) {
                self.make(name, link, Phase::Vrf);
                self.link_sysctls(name, Some(link.network), Phase::Vrf);
            }
        }
        for (key, route) in &self.desired.routes {
            if route.to == RouteTo::Unreachable {
                self.want_route(key, &route.to, route.network, Phase::Vrf);
            }
        }
        for (name, link) in &self.desired.links {
            if link.kind.is_vrf() && !self.unusable.contains(name) && self.goes_up(name) {
                let op = Op::SetUp { link: name.clone() };
                self.push(Some(link.network), Phase::Vrf, op);
            }
        }
    }

    fn make(&mut self, name: &LinkName, link: &Link, phase: Phase) {
        let network = Some(link.network);
        let fresh = self.fresh(name);
        if fresh {
            let op = Op::AddLink {
                link: name.clone(),
                kind: link.kind,
                mtu: link.mtu,
            };
            self.push(network, phase, op);
        }
        if fresh || self.actual.unaliased.contains(name) {
            self.push(network, phase, Op::SetAlias { link: name.clone() });
        }
        if let Some(mtu) = link.mtu
            && !fresh
            && self.actual.state.links[name].mtu != Some(mtu)
        {
            let op = Op::SetMtu {
                link: name.clone(),
                mtu,
            };
            self.push(network, phase, op);
        }
    }

    fn links(&mut self) {
        for (name, link) in &self.desired.links {
            if link.kind.is_vrf() || self.unusable.contains(name) {
                continue;
            }
            self.make(name, link, Phase::Links);
            self.link_sysctls(name, Some(link.network), Phase::Links);
            let fresh = self.fresh(name);
            let moved = self.moved.contains(name);
            if moved || (fresh && link.master.is_some()) {
                let op = Op::SetMaster {
                    link: name.clone(),
                    master: link.master.clone(),
                };
                self.push(Some(link.network), Phase::Links, op);
            }
            for address in &link.addresses {
                let found = &self.actual.state.links.get(name);
                let there = found.is_some_and(|found| found.addresses.contains(address));
                if fresh || moved || !there {
                    let op = Op::AddAddress {
                        link: name.clone(),
                        address: *address,
                    };
                    self.push(Some(link.network), Phase::Links, op);
                }
            }
        }
    }

    fn link_sysctls(&mut self, name: &LinkName, network: Option<NetworkId>, phase: Phase) {
        let fresh = self.desired.links.contains_key(name) && self.fresh(name);
        for (path, value) in &self.desired.sysctls {
            if sysctl_link(path).as_ref() == Some(name)
                && (fresh || self.actual.state.sysctls.get(path) != Some(value))
            {
                self.set_sysctl(network, phase, path.clone(), *value);
            }
        }
    }

    fn lans(&mut self) {
        for (name, lan) in &self.desired.lans {
            if self.unusable.contains(name) {
                continue;
            }
            let interface = &self.actual.interfaces[name];
            if let Some(master) = &lan.master
                && (interface.master.as_ref() != Some(master) || self.gone.contains(master))
            {
                let op = Op::JoinLan {
                    interface: name.clone(),
                    master: master.clone(),
                    keep: interface.addresses.clone(),
                };
                self.push(Some(lan.network), Phase::Links, op);
            }
            self.link_sysctls(name, Some(lan.network), Phase::Links);
        }
    }

    fn rules(&mut self) {
        let vrf = |link: &Link| match link.kind {
            LinkType::Vrf { .. } => true,
            LinkType::Wireguard { .. } | LinkType::Dummy => false,
        };
        let had_vrf = self.actual.state.links.values().any(vrf);
        for rule in self.desired.rules.difference(&self.actual.state.rules) {
            let by_kernel = rule.selector == Selector::L3mdev
                && (!had_vrf || self.actual.l3mdev_rules.contains(&rule.family));
            if by_kernel || self.rule_stuck(rule) {
                continue;
            }
            let op = Op::AddRule { rule: rule.clone() };
            self.push(network_of_table(rule.table), Phase::Routes, op);
        }
    }

    fn host_sysctls(&mut self) {
        let forwarding = host_sysctl(&["net", "ipv6", "conf", "all", "forwarding"]);
        for (path, value) in &self.desired.sysctls {
            if sysctl_link(path).is_some() || self.actual.state.sysctls.get(path) == Some(value) {
                continue;
            }
            if *path == forwarding {
                // A host that forwards ignores router advertisements unless told otherwise, and forgets the
                // default route that it has from one.
                for name in &self.actual.accept_ra {
                    let path = link_sysctl(Family::V6, name, "accept_ra");
                    self.set_sysctl(None, Phase::Routes, path, 2);
                }
            }
            self.set_sysctl(None, Phase::Routes, path.clone(), *value);
        }
    }

    /// Routes to links before routes to routers, which need them.
    fn routes(&mut self) {
        if self.same_routes && self.losing.is_empty() {
            return;
        }
        // Ten thousand routes have a handful of devices.
        let mut devices: BTreeMap<&LinkName, Option<Phase>> = BTreeMap::new();
        for routers in [false, true] {
            for (key, route) in &self.desired.routes {
                let RouteTo::Link { device, gateway, .. } = &route.to else {
                    continue;
                };
                if gateway.is_some() != routers {
                    continue;
                }
                let phase = devices.entry(device).or_insert_with(|| {
                    (!self.stuck(device)).then(|| {
                        if self.goes_up(device) {
                            Phase::Up
                        } else {
                            Phase::Routes
                        }
                    })
                });
                if let Some(phase) = *phase {
                    self.want_route(key, &route.to, route.network, phase);
                }
            }
        }
    }

    fn want_route(&mut self, key: &RouteKey, to: &RouteTo, network: Option<NetworkId>, phase: Phase) {
        let found = self.actual.state.routes.get(key);
        let lost = to.device().is_some_and(|device| self.losing.contains(device));
        if found.is_some_and(|found| found.to == *to) && !lost {
            return;
        }
        if found.is_none() && self.yields(key) {
            return;
        }
        let op = match found {
            Some(_) => Op::ReplaceRoute {
                key: key.clone(),
                to: to.clone(),
            },
            None => Op::AddRoute {
                key: key.clone(),
                to: to.clone(),
            },
        };
        self.push(network, phase, op);
    }

    /// Whether another's route is in the place of this one, and may be.
    fn yields(&self, key: &RouteKey) -> bool {
        let is_followed = |nets: &BTreeSet<IpNet>| nets.contains(&key.destination);
        let table = self.actual.fib.get(&key.table);
        let found = table.and_then(|table| table.get(&key.destination));
        self.desired.followed.get(&key.table).is_some_and(is_followed)
            && found.is_some_and(|routes| routes.iter().any(|route| route.metric == key.metric))
    }

    /// Whether the kernel takes the routes by this device in the course of the plan, or has taken them.
    fn loses_routes(&self, device: &LinkName) -> bool {
        let joins = self.desired.lans.get(device).is_some_and(|lan| {
            let found = self.actual.interfaces.get(device);
            lan.master.is_some() && found.is_some_and(|found| found.master != lan.master)
        });
        joins || self.released(device) || self.goes_up(device)
    }

    fn up(&mut self) {
        for (name, link) in &self.desired.links {
            if !link.kind.is_vrf() && !self.unusable.contains(name) && self.goes_up(name) {
                let op = Op::SetUp { link: name.clone() };
                self.push(Some(link.network), Phase::Up, op);
            }
        }
    }
}
