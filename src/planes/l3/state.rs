//! The exact host objects of this plane, desired and actual alike, and the changes that lead from one to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::model::ownership::{ROUTE_METRIC, UNREACHABLE_METRIC, link_class};
use crate::model::{LinkName, NetworkId, naming};
use crate::planes::Phase;
use crate::sys::sysctl::SysctlPath;

pub use crate::model::ownership::LINK_GROUP;

/// The main routing table.
pub const MAIN_TABLE: u32 = 254;

/// Who runs WireGuard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// The kernel's own device.
    Kernel,
    /// A TUN device of this process.
    Userspace,
}

/// What a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum LinkType {
    /// A VRF.
    Vrf {
        /// Its table.
        table: u32,
    },
    /// A WireGuard link.
    Wireguard {
        /// Who runs it.
        backend: Backend,
    },
    /// A dummy, which holds VIPs.
    Dummy,
}

impl LinkType {
    /// Whether it is a VRF.
    #[must_use]
    pub const fn is_vrf(self) -> bool {
        match self {
            Self::Vrf { .. } => true,
            Self::Wireguard { .. } | Self::Dummy => false,
        }
    }
}

/// A link of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Its network.
    pub network: NetworkId,
    /// What it is.
    pub kind: LinkType,
    /// The MTU in bytes; none where any will do.
    pub mtu: Option<u32>,
    /// The VRF that it is in.
    pub master: Option<LinkName>,
    /// Whether it is up.
    pub up: bool,
    /// Its addresses, all without duplicate address detection.
    pub addresses: BTreeSet<IpNet>,
}

/// A LAN interface: foreign, but in a VRF of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lan {
    /// Its network.
    pub network: NetworkId,
    /// The VRF; none where the network has none and the interface stays as it is.
    pub master: Option<LinkName>,
}

/// What identifies a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RouteKey {
    /// The table.
    pub table: u32,
    /// The destination.
    pub destination: IpNet,
    /// The metric.
    pub metric: u32,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteTo {
    /// To an ICMP error.
    Unreachable,
    /// Out by a link.
    Link {
        /// The link.
        device: LinkName,
        /// The router.
        gateway: Option<IpAddr>,
        /// The source of this host's own packets.
        source: Option<IpAddr>,
    },
    /// Somewhere we never lead one: seen, never desired.
    Elsewhere,
}

impl RouteTo {
    /// The link that it goes out by.
    #[must_use]
    pub const fn device(&self) -> Option<&LinkName> {
        match self {
            Self::Link { device, .. } => Some(device),
            Self::Unreachable | Self::Elsewhere => None,
        }
    }
}

/// A route of ours (protocol 241).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Its network, if its table or link tells.
    pub network: Option<NetworkId>,
    /// Where it leads.
    pub to: RouteTo,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of a prefix.
    #[must_use]
    pub const fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

/// Which packets a rule takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// Those that came in by a link.
    Iif(LinkName),
    /// Those of sockets bound to a link.
    Oif(LinkName),
    /// Those from an address of this host.
    From(IpAddr),
    /// Those of any VRF, to its own table.
    L3mdev,
}

/// A policy rule of ours (protocol 241).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Rule {
    /// The family.
    pub family: Family,
    /// The priority.
    pub priority: u32,
    /// Which packets.
    pub selector: Selector,
    /// The table; 0 for l3mdev.
    pub table: u32,
}

/// The plane's part of the host: what is ours of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Our links.
    pub links: BTreeMap<LinkName, Link>,
    /// LAN interfaces.
    pub lans: BTreeMap<LinkName, Lan>,
    /// Our routes.
    pub routes: BTreeMap<RouteKey, Route>,
    /// Our rules.
    pub rules: BTreeSet<Rule>,
    /// The kernel parameters that matter to us, with their values.
    pub sysctls: BTreeMap<SysctlPath, u32>,
}

impl State {
    /// Takes out these links and what hangs on them.
    pub fn forget_links(&mut self, links: &BTreeSet<LinkName>) {
        let gone = |link: Option<&LinkName>| link.is_some_and(|link| links.contains(link));
        self.links.retain(|name, _| !links.contains(name));
        self.routes.retain(|_, route| !gone(route.to.device()));
        self.rules.retain(|rule| match &rule.selector {
            Selector::Iif(link) | Selector::Oif(link) => !links.contains(link),
            Selector::From(_) | Selector::L3mdev => true,
        });
        self.sysctls.retain(|path, _| !gone(sysctl_link(path).as_ref()));
    }
}

/// What was found on the host: our part, and what of the rest stands in the way or must be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actual {
    /// What is ours.
    pub state: State,
    /// Which of our links have no alias yet.
    pub unaliased: BTreeSet<LinkName>,
    /// Links that aren't ours under names that we need, each with what it is.
    pub taken: BTreeMap<LinkName, String>,
    /// Interfaces that are, were or shall be LANs.
    pub interfaces: BTreeMap<LinkName, Interface>,
    /// For which families the l3mdev rule is there, whoever made it.
    pub l3mdev_rules: BTreeSet<Family>,
    /// Foreign interfaces that would stop accepting router advertisements when this host starts forwarding IPv6.
    pub accept_ra: BTreeSet<LinkName>,
    /// Whether the kernel has IPv6.
    pub ipv6: bool,
}

impl Default for Actual {
    /// A host on which nothing is ours.
    fn default() -> Self {
        Self {
            state: State::default(),
            unaliased: BTreeSet::new(),
            taken: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            l3mdev_rules: BTreeSet::new(),
            accept_ra: BTreeSet::new(),
            ipv6: true,
        }
    }
}

/// A foreign interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Whether it is up.
    pub up: bool,
    /// The name of its master.
    pub master: Option<LinkName>,
    /// Whether a default route that isn't ours goes out by it.
    pub default_route: bool,
    /// Its addresses without lifetimes.
    pub addresses: BTreeSet<HostAddress>,
}

/// An address of a foreign interface, with everything that is the operator's choice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct HostAddress {
    /// The address and its prefix length.
    pub address: IpNet,
    /// The other end.
    pub peer: Option<IpAddr>,
    /// The broadcast address.
    pub broadcast: Option<Ipv4Addr>,
    /// The label.
    pub label: Option<String>,
    /// The scope (`RT_SCOPE_*`).
    pub scope: u8,
    /// The flags (`IFA_F_*`) that an operator sets.
    pub flags: u32,
    /// The metric of the connected route.
    pub route_metric: Option<u32>,
}

/// One step. It holds every choice; applying it makes none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The network that it is for; none for the host.
    pub network: Option<NetworkId>,
    /// When it happens.
    pub phase: Phase,
    /// What happens.
    #[serde(flatten)]
    pub op: Op,
}

impl Change {
    /// When it happens.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The link that comes, if one does.
    #[must_use]
    pub const fn creates_link(&self) -> Option<&LinkName> {
        if let Op::AddLink { link, .. } = &self.op {
            return Some(link);
        }
        None
    }

    /// Whether LAN interfaces go back to the main table: by themselves, with the VRF that they are in, or with the rule
    /// that sends what comes in by them to the network's table.
    #[must_use]
    pub fn releases_lans(&self) -> bool {
        let of_lan =
            |rule: &Rule| matches!(&rule.selector, Selector::Iif(link) if link_class(link).is_none());
        matches!(&self.op, Op::DeleteRule { rule } if of_lan(rule))
            || matches!(
                self.op,
                Op::ReleaseLan { .. }
                    | Op::DeleteLink {
                        kind: LinkType::Vrf { .. },
                        ..
                    }
            )
    }

    /// The network that it is for; none for the host.
    #[must_use]
    pub const fn network(&self) -> Option<NetworkId> {
        self.network
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "op")]
pub enum Op {
    /// Create a link, down.
    AddLink {
        /// Its name.
        link: LinkName,
        /// What it is.
        #[serde(flatten)]
        kind: LinkType,
        /// Its MTU in bytes.
        mtu: Option<u32>,
    },
    /// Mark a link as ours.
    SetAlias {
        /// The link.
        link: LinkName,
    },
    /// Set the MTU.
    SetMtu {
        /// The link.
        link: LinkName,
        /// The MTU in bytes.
        mtu: u32,
    },
    /// Put a link of ours into a VRF, or out of any.
    SetMaster {
        /// The link.
        link: LinkName,
        /// The VRF.
        master: Option<LinkName>,
    },
    /// Set a link up.
    SetUp {
        /// The link.
        link: LinkName,
    },
    /// Set a link down.
    SetDown {
        /// The link.
        link: LinkName,
    },
    /// Delete a link of ours.
    DeleteLink {
        /// The link.
        link: LinkName,
        /// What it is.
        #[serde(flatten)]
        kind: LinkType,
    },
    /// Put a LAN interface into a VRF.
    JoinLan {
        /// The interface.
        interface: LinkName,
        /// The VRF.
        master: LinkName,
        /// The addresses that it must have afterwards.
        keep: BTreeSet<HostAddress>,
    },
    /// Give a LAN interface back.
    ReleaseLan {
        /// The interface.
        interface: LinkName,
        /// The addresses that it must have afterwards.
        keep: BTreeSet<HostAddress>,
    },
    /// Add an address to a link of ours.
    AddAddress {
        /// The link.
        link: LinkName,
        /// The address.
        address: IpNet,
    },
    /// Delete an address from a link of ours.
    DeleteAddress {
        /// The link.
        link: LinkName,
        /// The address.
        address: IpNet,
    },
    /// Add a route where none of ours is.
    AddRoute {
        /// Which.
        #[serde(flatten)]
        key: RouteKey,
        /// Where it leads.
        to: RouteTo,
    },
    /// Make a route of ours lead elsewhere, without a gap.
    ReplaceRoute {
        /// Which.
        #[serde(flatten)]
        key: RouteKey,
        /// Where it leads.
        to: RouteTo,
    },
    /// Delete a route of ours.
    DeleteRoute {
        /// Which.
        #[serde(flatten)]
        key: RouteKey,
        /// Where it leads.
        to: RouteTo,
    },
    /// Add a rule.
    AddRule {
        /// The rule.
        rule: Rule,
    },
    /// Delete a rule of ours.
    DeleteRule {
        /// The rule.
        rule: Rule,
    },
    /// Set a kernel parameter.
    SetSysctl {
        /// Which.
        #[serde(serialize_with = "as_text")]
        path: SysctlPath,
        /// The value.
        value: u32,
    },
}

fn as_text<S: Serializer>(path: &SysctlPath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(path)
}

/// The network of a table of ours.
#[must_use]
pub fn network_of_table(table: u32) -> Option<NetworkId> {
    let id = u16::try_from(table.checked_sub(10_000)?).ok()?;
    NetworkId::new(id).ok()
}

/// The network of a name of our scheme.
#[must_use]
pub fn network_of_link(name: &LinkName) -> Option<NetworkId> {
    let text = name.as_str();
    let rest = [naming::WIREGUARD_PREFIX, naming::DUMMY_PREFIX, naming::VRF_PREFIX]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))?;
    let digits = rest.split('-').next().unwrap_or(rest);
    NetworkId::new(digits.parse().ok()?).ok()
}

/// A kernel parameter of one interface: `net.<family>.conf.<link>.<name>`.
#[must_use]
pub fn link_sysctl(family: Family, link: &LinkName, name: &str) -> SysctlPath {
    SysctlPath::new(&["net", family_folder(family), "conf", link.as_str(), name])
        .expect("link names and parameter names are file names")
}

/// A kernel parameter of the host.
#[must_use]
pub fn host_sysctl(components: &[&str]) -> SysctlPath {
    SysctlPath::new(components).expect("parameter names are file names")
}

/// The link that a parameter belongs to, if it belongs to one.
#[must_use]
pub fn sysctl_link(path: &SysctlPath) -> Option<LinkName> {
    match path.components() {
        [net, _, conf, link, _] if net == "net" && conf == "conf" && link != "all" && link != "default" => {
            LinkName::new(link).ok()
        }
        _ => None,
    }
}

const fn family_folder(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// The unreachable default of a table: what nothing else carries is refused, and never falls through to `main`.
#[must_use]
pub fn unreachable_default(table: u32, family: Family) -> RouteKey {
    let destination = match family {
        Family::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        Family::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    };
    RouteKey {
        table,
        destination,
        metric: UNREACHABLE_METRIC,
    }
}

/// The key of an ordinary route of ours.
#[must_use]
pub const fn route_key(table: u32, destination: IpNet) -> RouteKey {
    RouteKey {
        table,
        destination,
        metric: ROUTE_METRIC,
    }
}
