//! The exact host objects of this plane, desired and actual alike, and the changes that lead from one to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::Serialize;

use crate::model::ownership::{ROUTE_METRIC, UNREACHABLE_METRIC};
use crate::model::{LinkName, NetworkId, naming};
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
        /// The largest packet that it takes, in bytes, where that is less than the link's MTU.
        mtu: Option<u32>,
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
    /// Those that this host itself sends from an address in here.
    Own(IpNet),
    /// Those whose mark, within [`MARK_MASK`](crate::model::ownership::MARK_MASK), is this.
    Mark(u32),
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
    /// What peers of this host are called at, where the fleet says it as an address. Nothing of ours may stand in the way
    /// there.
    pub endpoints: BTreeSet<IpAddr>,
    /// Which networks have ports mapped in from the underlay, and in which families: some interface of the underlay must
    /// forward them.
    pub mapped: BTreeSet<(NetworkId, Family)>,
    /// The prefixes of which the best route in a table says which peer carries them, by table. Others' routes to them are
    /// read, and one that is in the place of ours stays there.
    pub followed: BTreeMap<u32, BTreeSet<IpNet>>,
}

/// A route as the kernel forwards by it, whoever made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibRoute {
    /// The metric.
    pub metric: u32,
    /// The protocol (`RTPROT_*`).
    pub protocol: u8,
    /// Where it leads; empty where it refuses, drops or delivers here.
    pub hops: Vec<NextHop>,
}

/// One next hop of a route. What the kernel doesn't say is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    /// The link.
    pub device: Option<LinkName>,
    /// The router; of the other family where IPv4 goes by IPv6 (RFC 8950).
    pub gateway: Option<IpAddr>,
}

/// By table, the destinations that others made a route to, each with all its routes, ours too. Of several with one metric
/// the kernel takes the first.
pub type Fib = BTreeMap<u32, BTreeMap<IpNet, Vec<FibRoute>>>;

impl State {
    /// Takes out these links and what hangs on them.
    pub fn forget_links(&mut self, links: &BTreeSet<LinkName>) {
        let gone = |link: Option<&LinkName>| link.is_some_and(|link| links.contains(link));
        self.links.retain(|name, _| !links.contains(name));
        self.routes.retain(|_, route| !gone(route.to.device()));
        self.rules.retain(|rule| match &rule.selector {
            Selector::Iif(link) | Selector::Oif(link) => !links.contains(link),
            Selector::From(_) | Selector::Own(_) | Selector::Mark(_) | Selector::L3mdev => true,
        });
        self.sysctls.retain(|path, _| !gone(sysctl_link(path).as_ref()));
        for (table, nets) in &mut self.followed {
            nets.retain(|net| self.routes.contains_key(&route_key(*table, *net)));
        }
        self.followed.retain(|_, nets| !nets.is_empty());
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
    /// This host's addresses on the underlay: on interfaces that are neither ours nor LANs.
    pub underlay: BTreeMap<IpAddr, LinkName>,
    /// The families that some interface of the underlay forwards; read only where `State::mapped` needs it.
    pub forwarding: BTreeSet<Family>,
    /// The routes of others in the tables of `State::followed`.
    pub fib: Fib,
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
            underlay: BTreeMap::new(),
            forwarding: BTreeSet::new(),
            fib: Fib::new(),
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
