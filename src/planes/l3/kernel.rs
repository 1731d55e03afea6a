//! A kernel in memory, for tests: as much of its manners as this plane depends on, each of them measured.
//!
//! * A link takes routes only while it is up, and loses them when it goes down.
//! * Going down, and joining or leaving a VRF, takes a link's IPv6 addresses.
//! * A deleted VRF releases its links; the unreachable defaults of its table stay.
//! * A deleted IPv4 address takes the routes that prefer it as source; IPv6 routes stay without one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::LinkName;
use crate::model::ownership::{LINK_ALIAS, ROUTE_PROTOCOL};
use crate::sys::netlink as nl;
use crate::sys::sysctl::SysctlPath;

use super::change::{Change, Op};
use super::observe::{Raw, decode};
use super::state::{
    Actual, Backend, Family, HostAddress, LINK_GROUP, LinkType, RouteKey, RouteTo, Rule, Selector, State,
    host_sysctl, link_sysctl, sysctl_link,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) kind: Option<&'static str>,
    pub(crate) table: Option<u32>,
    pub(crate) alias: Option<String>,
    pub(crate) group: u32,
    pub(crate) master: Option<LinkName>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) addresses: BTreeSet<IpNet>,
    index: u32,
}

/// A route with its protocol.
pub(crate) type Entry = (u8, RouteTo);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) devices: BTreeMap<LinkName, Device>,
    pub(crate) routes: BTreeMap<RouteKey, Entry>,
    pub(crate) rules: BTreeSet<(u8, Rule)>,
    pub(crate) sysctls: BTreeMap<SysctlPath, u32>,
    next_index: u32,
}

pub(crate) fn name(text: &str) -> LinkName {
    LinkName::new(text).unwrap()
}

impl Kernel {
    /// A host with an uplink `eth0`, LAN interfaces `eth1` to `eth3`, and routes and rules of others.
    pub(crate) fn new() -> Self {
        let mut kernel = Self {
            devices: BTreeMap::new(),
            routes: BTreeMap::new(),
            rules: BTreeSet::new(),
            sysctls: BTreeMap::new(),
            next_index: 2,
        };
        for path in [
            &["net", "ipv4", "ip_forward"][..],
            &["net", "ipv6", "conf", "all", "forwarding"],
            &["net", "ipv4", "tcp_l3mdev_accept"],
            &["net", "ipv4", "udp_l3mdev_accept"],
            &["net", "ipv4", "raw_l3mdev_accept"],
        ] {
            kernel.sysctls.insert(host_sysctl(path), 0);
        }
        for index in 0..=3 {
            let eth = name(&format!("eth{index}"));
            kernel.add_device(&eth, None, None, 0);
            let device = kernel.devices.get_mut(&eth).unwrap();
            device.up = true;
            device
                .addresses
                .insert(format!("10.{index}.0.1/24").parse().unwrap());
            device
                .addresses
                .insert(format!("fd0a:{index}::1/64").parse().unwrap());
        }
        let default = RouteKey {
            table: 254,
            destination: "0.0.0.0/0".parse().unwrap(),
            metric: 0,
        };
        let to = RouteTo::Link {
            device: name("eth0"),
            gateway: Some("10.0.0.254".parse().unwrap()),
            source: None,
            mtu: None,
        };
        kernel.routes.insert(default.clone(), (3, to.clone()));
        let bgp = RouteKey {
            table: 10_001,
            destination: "10.77.0.0/16".parse().unwrap(),
            metric: 20,
        };
        kernel.routes.insert(bgp, (186, to.clone()));
        // Our protocol, but a table that is none of ours.
        kernel.routes.insert(
            RouteKey {
                table: 500,
                ..default
            },
            (ROUTE_PROTOCOL, to),
        );
        let rule = Rule {
            family: Family::V4,
            priority: 1_500,
            selector: Selector::From("192.0.2.7".parse().unwrap()),
            table: 500,
        };
        kernel.rules.insert((4, rule));
        kernel
    }

    /// What isn't ours: it must never change. IPv4 and IPv6 addresses of LAN interfaces are among it.
    pub(crate) fn foreign(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let devices: BTreeMap<_, _> = self
            .devices
            .iter()
            .filter(|(_, device)| device.alias.as_deref() != Some(LINK_ALIAS))
            .map(|(name, device)| (name.clone(), device.clone()))
            .collect();
        let routes: Vec<_> = self.routes.clone().into_iter().collect();
        let routes: Vec<_> = routes
            .into_iter()
            .filter(|(key, (protocol, _))| *protocol != ROUTE_PROTOCOL || key.table == 500)
            .collect();
        let rules: Vec<_> = self
            .rules
            .iter()
            .filter(|(protocol, rule)| *protocol != ROUTE_PROTOCOL && rule.selector != Selector::L3mdev)
            .cloned()
            .collect();
        let forwarding: Vec<_> = devices
            .keys()
            .map(|name| self.sysctls[&link_sysctl(Family::V4, name, "forwarding")])
            .collect();
        (devices, routes, rules, forwarding)
    }

    pub(crate) fn add_device(
        &mut self,
        link: &LinkName,
        kind: Option<&'static str>,
        table: Option<u32>,
        group: u32,
    ) {
        let device = Device {
            kind,
            table,
            alias: None,
            group,
            master: None,
            mtu: 1_500,
            up: false,
            addresses: BTreeSet::new(),
            index: self.next_index,
        };
        self.next_index += 1;
        self.devices.insert(link.clone(), device);
        for (family, parameter, value) in [
            (Family::V4, "forwarding", 0),
            (Family::V4, "rp_filter", 2),
            (Family::V6, "addr_gen_mode", 0),
            (Family::V6, "accept_ra", 1),
            (Family::V6, "accept_redirects", 1),
            (Family::V6, "disable_ipv6", 0),
            (Family::V6, "forwarding", 0),
        ] {
            self.sysctls.insert(link_sysctl(family, link, parameter), value);
        }
    }

    fn drop_routes_by(&mut self, link: &LinkName) {
        self.routes.retain(|_, (_, to)| to.device() != Some(link));
    }

    pub(crate) fn down_and_up(&mut self, link: &LinkName) {
        let device = self.devices.get_mut(link).unwrap();
        device.addresses.retain(|address| matches!(address, IpNet::V4(_)));
        self.drop_routes_by(link);
    }

    pub(crate) fn delete_device(&mut self, link: &LinkName) {
        self.devices.remove(link);
        self.drop_routes_by(link);
        self.sysctls
            .retain(|path, _| sysctl_link(path).as_ref() != Some(link));
        let slaves: Vec<LinkName> = self
            .devices
            .iter()
            .filter(|(_, device)| device.master.as_ref() == Some(link))
            .map(|(name, _)| name.clone())
            .collect();
        for slave in slaves {
            self.devices.get_mut(&slave).unwrap().master = None;
            self.down_and_up(&slave);
        }
    }

    pub(crate) fn delete_address(&mut self, link: &LinkName, address: IpNet) {
        self.devices.get_mut(link).unwrap().addresses.remove(&address);
        if self.has_address(address.addr()) {
            return;
        }
        let prefers = |to: &RouteTo| matches!(to, RouteTo::Link { source: Some(source), .. } if *source == address.addr());
        match address {
            IpNet::V4(_) => self.routes.retain(|_, (_, to)| !prefers(to)),
            IpNet::V6(_) => {
                for (_, to) in self.routes.values_mut().filter(|(_, to)| prefers(to)) {
                    if let RouteTo::Link { source, .. } = to {
                        *source = None;
                    }
                }
            }
        }
    }

    fn has_address(&self, address: IpAddr) -> bool {
        self.devices
            .values()
            .any(|device| device.addresses.iter().any(|net| net.addr() == address))
    }

    fn device(&mut self, link: &LinkName) -> Result<&mut Device, String> {
        self.devices.get_mut(link).ok_or_else(|| format!("no {link}"))
    }

    fn put_route(&mut self, key: &RouteKey, to: &RouteTo, replace: bool) -> Result<(), String> {
        if let RouteTo::Link {
            device,
            gateway,
            source,
            mtu: _,
        } = to
        {
            if !self.device(device)?.up {
                return Err(format!("{device} is down"));
            }
            if let Some(source) = source
                && !self.has_address(*source)
            {
                return Err(format!("no address {source}"));
            }
            if let Some(gateway) = gateway {
                let on_link = self.routes.iter().any(|(other, (_, to))| {
                    other.table == key.table
                        && other.destination.contains(gateway)
                        && to.device() == Some(device)
                });
                let connected = self.devices[device]
                    .addresses
                    .iter()
                    .any(|net| net.contains(gateway));
                if !on_link && !connected {
                    return Err(format!("no way to {gateway}"));
                }
            }
        }
        match self.routes.get(key) {
            Some(_) if !replace => Err("it exists".to_owned()),
            Some((protocol, _)) if *protocol != ROUTE_PROTOCOL => Err("it would be stolen".to_owned()),
            Some(_) | None => {
                self.routes.insert(key.clone(), (ROUTE_PROTOCOL, to.clone()));
                Ok(())
            }
        }
    }

    fn set_master(&mut self, link: &LinkName, master: Option<&LinkName>) -> Result<(), String> {
        if let Some(master) = master
            && self.device(master)?.kind != Some("vrf")
        {
            return Err(format!("{master} is no VRF"));
        }
        self.device(link)?.master = master.cloned();
        self.down_and_up(link);
        Ok(())
    }

    fn move_lan(
        &mut self,
        interface: &LinkName,
        master: Option<&LinkName>,
        keep: &BTreeSet<HostAddress>,
    ) -> Result<(), String> {
        self.set_master(interface, master)?;
        let kept = keep.iter().map(|keep| keep.address);
        self.device(interface)?.addresses.extend(kept);
        Ok(())
    }

    /// Applies a change as the kernel would.
    pub(crate) fn apply(&mut self, change: &Change) -> Result<(), String> {
        match &change.op {
            Op::AddLink { link, kind, mtu } => {
                if self.devices.contains_key(link) {
                    return Err("it exists".to_owned());
                }
                let (kind, table) = match kind {
                    LinkType::Vrf { table } => ("vrf", Some(*table)),
                    LinkType::Wireguard {
                        backend: Backend::Kernel,
                    } => ("wireguard", None),
                    LinkType::Wireguard {
                        backend: Backend::Userspace,
                    } => ("tun", None),
                    LinkType::Dummy => ("dummy", None),
                };
                self.add_device(link, Some(kind), table, LINK_GROUP);
                self.device(link)?.mtu = mtu.unwrap_or(65_536);
                if kind == "vrf" {
                    for family in Family::BOTH {
                        self.rules.insert((2, l3mdev(family)));
                    }
                }
            }
            Op::SetAlias { link } => self.device(link)?.alias = Some(LINK_ALIAS.to_owned()),
            Op::SetMtu { link, mtu } => self.device(link)?.mtu = *mtu,
            Op::SetMaster { link, master } => self.set_master(link, master.as_ref())?,
            Op::SetUp { link } => {
                self.device(link)?.up = true;
                let generates = self.sysctls[&link_sysctl(Family::V6, link, "addr_gen_mode")] != 1;
                let device = self.device(link)?;
                if generates && device.kind != Some("vrf") {
                    device.addresses.insert("fe80::dead/64".parse().unwrap());
                }
            }
            Op::SetDown { link } => {
                self.device(link)?.up = false;
                self.down_and_up(link);
            }
            Op::DeleteLink { link, .. } => self.delete_device(link),
            Op::JoinLan {
                interface,
                master,
                keep,
            } => self.move_lan(interface, Some(master), keep)?,
            Op::ReleaseLan { interface, keep } => self.move_lan(interface, None, keep)?,
            Op::AddAddress { link, address } => {
                self.device(link)?.addresses.insert(*address);
            }
            Op::DeleteAddress { link, address } => self.delete_address(link, *address),
            Op::AddRoute { key, to } => self.put_route(key, to, false)?,
            Op::ReplaceRoute { key, to } => self.put_route(key, to, true)?,
            Op::DeleteRoute { key, .. } => {
                if self
                    .routes
                    .get(key)
                    .is_some_and(|(protocol, _)| *protocol == ROUTE_PROTOCOL)
                {
                    self.routes.remove(key);
                }
            }
            Op::AddRule { rule } => {
                if !self.rules.insert((ROUTE_PROTOCOL, rule.clone())) {
                    return Err("it exists".to_owned());
                }
            }
            Op::DeleteRule { rule } => {
                self.rules.remove(&(ROUTE_PROTOCOL, rule.clone()));
            }
            Op::SetSysctl { path, value } => {
                let slot = self.sysctls.get_mut(path).ok_or_else(|| format!("no {path}"))?;
                *slot = *value;
            }
        }
        Ok(())
    }

    fn index(&self, link: &LinkName) -> Option<u32> {
        self.devices.get(link).map(|device| device.index)
    }

    /// What netlink would show.
    pub(crate) fn observe(&self, desired: &State) -> Actual {
        let mut raw = Raw {
            sysctls: self.sysctls.clone(),
            ipv6: true,
            ..Raw::default()
        };
        for (link, device) in &self.devices {
            raw.links.push(nl::Link {
                index: device.index,
                name: link.to_string(),
                kind: device.kind.map(str::to_owned),
                alias: device.alias.clone(),
                group: device.group,
                master: device.master.as_ref().and_then(|master| self.index(master)),
                mtu: device.mtu,
                up: device.up,
                loopback: false,
                vrf_table: device.table,
            });
            raw.addresses
                .extend(device.addresses.iter().map(|address| nl::Address {
                    index: device.index,
                    local: address.addr(),
                    prefix_len: address.prefix_len(),
                    peer: None,
                    broadcast: None,
                    label: None,
                    scope: 0,
                    flags: nl::address_flag::PERMANENT,
                    route_metric: None,
                }));
        }
        for (key, (protocol, to)) in &self.routes {
            let (gateway, source, mtu) = match to {
                RouteTo::Link {
                    gateway, source, mtu, ..
                } => (*gateway, *source, *mtu),
                RouteTo::Unreachable | RouteTo::Elsewhere => (None, None, None),
            };
            let device = to.device().and_then(|device| self.index(device));
            if key.destination.prefix_len() == 0 && *protocol != ROUTE_PROTOCOL {
                raw.default_routes.extend(device);
            }
            if desired.followed.contains_key(&key.table) {
                raw.fib.push(show_fib(key, *protocol, to, device));
            }
            if *protocol == ROUTE_PROTOCOL {
                raw.routes.push(nl::Route {
                    table: key.table,
                    destination: key.destination,
                    metric: key.metric,
                    protocol: *protocol,
                    kind: match to {
                        RouteTo::Unreachable => nl::RouteKind::Unreachable,
                        RouteTo::Link { .. } | RouteTo::Elsewhere => nl::RouteKind::Unicast,
                    },
                    device,
                    gateway,
                    source,
                    mtu,
                    other: false,
                });
            }
        }
        raw.rules.extend(self.rules.iter().map(show_rule));
        decode(&raw, desired)
    }
}

pub(crate) fn l3mdev(family: Family) -> Rule {
    Rule {
        family,
        priority: 1_000,
        selector: Selector::L3mdev,
        table: 0,
    }
}

fn show_fib(key: &RouteKey, protocol: u8, to: &RouteTo, device: Option<u32>) -> nl::FibRoute {
    let hop = |device, gateway| nl::FibHop { device, gateway };
    nl::FibRoute {
        table: key.table,
        destination: key.destination,
        metric: key.metric,
        protocol,
        hops: match to {
            RouteTo::Unreachable => Vec::new(),
            RouteTo::Link { gateway, .. } => vec![hop(device, *gateway)],
            // By two routers at once.
            RouteTo::Elsewhere => ["fe80::a1", "fe80::a2"]
                .map(|router| hop(None, router.parse().ok()))
                .to_vec(),
        },
    }
}

fn show_rule((protocol, rule): &(u8, Rule)) -> nl::Rule {
    let mut shown = nl::Rule {
        family: match rule.family {
            Family::V4 => nl::Family::V4,
            Family::V6 => nl::Family::V6,
        },
        priority: rule.priority,
        table: rule.table,
        protocol: *protocol,
        iif: None,
        oif: None,
        from: None,
        mark: None,
        l3mdev: false,
        other: false,
    };
    match &rule.selector {
        Selector::Iif(link) => shown.iif = Some(link.to_string()),
        Selector::Oif(link) => shown.oif = Some(link.to_string()),
        Selector::From(address) => shown.from = Some((*address).into()),
        Selector::Own(net) => {
            shown.iif = Some("lo".to_owned());
            shown.from = Some(*net);
        }
        Selector::Mark(mark) => shown.mark = Some((*mark, crate::model::ownership::MARK_MASK)),
        Selector::L3mdev => shown.l3mdev = true,
    }
    shown
}
