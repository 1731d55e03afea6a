//! Plain types of what rtnetlink reads and writes.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A link, as `ip -d link` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The interface index.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The kind (`IFLA_INFO_KIND`): `wireguard`, `vrf`, `tun`, `dummy`; none for hardware.
    pub kind: Option<String>,
    /// The alias.
    pub alias: Option<String>,
    /// The group.
    pub group: u32,
    /// The index of the master.
    pub master: Option<u32>,
    /// The MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is the loopback device.
    pub loopback: bool,
    /// The table, of a VRF.
    pub vrf_table: Option<u32>,
}

/// `IFA_F_*` bits that are the operator's choice; the rest is state.
pub mod address_flag {
    /// No duplicate address detection.
    pub const NODAD: u32 = 0x02;
    /// Detection found a duplicate.
    pub const DADFAILED: u32 = 0x08;
    /// Mobile IPv6 home address.
    pub const HOMEADDRESS: u32 = 0x10;
    /// Not usable yet.
    pub const TENTATIVE: u32 = 0x40;
    /// Without lifetimes.
    pub const PERMANENT: u32 = 0x80;
    /// Temporary addresses derive from it.
    pub const MANAGETEMPADDR: u32 = 0x100;
    /// No connected route for the prefix.
    pub const NOPREFIXROUTE: u32 = 0x200;
}

/// `RT_SCOPE_*`.
pub mod scope {
    /// Everywhere.
    pub const UNIVERSE: u8 = 0;
    /// On the link only.
    pub const LINK: u8 = 253;
    /// On this host only.
    pub const HOST: u8 = 254;
}

/// An address of a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The link's index.
    pub index: u32,
    /// The address of this end.
    pub local: IpAddr,
    /// The prefix length.
    pub prefix_len: u8,
    /// The address of the other end, where it differs.
    pub peer: Option<IpAddr>,
    /// The broadcast address.
    pub broadcast: Option<Ipv4Addr>,
    /// The label, of an IPv4 address.
    pub label: Option<String>,
    /// The scope ([`scope`]).
    pub scope: u8,
    /// The flags ([`address_flag`]).
    pub flags: u32,
    /// The metric of the connected route, if not the default.
    pub route_metric: Option<u32>,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// It forwards.
    Unicast,
    /// It answers with ICMP unreachable.
    Unreachable,
    /// Any other `RTN_*`.
    Other(u8),
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The table.
    pub table: u32,
    /// The destination.
    pub destination: IpNet,
    /// The metric (`RTA_PRIORITY`).
    pub metric: u32,
    /// The protocol (`RTPROT_*`).
    pub protocol: u8,
    /// What it does.
    pub kind: RouteKind,
    /// The index of the link it goes out by.
    pub device: Option<u32>,
    /// The router.
    pub gateway: Option<IpAddr>,
    /// The preferred source of this host's own packets.
    pub source: Option<IpAddr>,
    /// Its own MTU in bytes (`RTAX_MTU`); none where its link's counts.
    pub mtu: Option<u32>,
    /// Whether it has something that this type doesn't hold: several next hops, a type of service, an encapsulation.
    pub other: bool,
}

/// How the kernel gets to an address: the route that it would take now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// The indexes of the links that it may go out by: several where the route has several next hops.
    pub devices: Vec<u32>,
    /// The route's own MTU in bytes (`RTAX_MTU`). What path MTU discovery found is not in it.
    pub mtu: Option<u32>,
}

/// A packet whose route is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteQuestion {
    /// Its source.
    pub source: IpAddr,
    /// Its destination, of the same family.
    pub destination: IpAddr,
    /// The index of the link it comes in by; none where this host sends it.
    pub came_in: Option<u32>,
    /// The index of the link or VRF that its socket is bound to.
    pub bound_to: Option<u32>,
    /// Its mark (`RTA_MARK`), by which rules tell it from others.
    pub mark: Option<u32>,
}

/// Where the kernel sends one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAnswer {
    /// To this host itself.
    Local,
    /// By this route.
    Route(Route),
    /// Nowhere: the errno that a sender gets.
    Nowhere(i32),
}

/// A policy rule that looks a table up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The family.
    pub family: Family,
    /// The priority.
    pub priority: u32,
    /// The table; 0 with `l3mdev`.
    pub table: u32,
    /// The protocol (`FRA_PROTOCOL`).
    pub protocol: u8,
    /// The input interface.
    pub iif: Option<String>,
    /// The output interface.
    pub oif: Option<String>,
    /// The source.
    pub from: Option<IpNet>,
    /// The mark and the mask under which it is compared.
    pub mark: Option<(u32, u32)>,
    /// Whether the table is that of the interface's VRF.
    pub l3mdev: bool,
    /// Whether it has something that this type doesn't hold: another action, ports.
    pub other: bool,
}

/// A link to create. It comes down and without an alias (the kernel takes none on creation).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLink {
    /// The name.
    pub name: String,
    /// The kind.
    pub kind: NewLinkKind,
    /// The MTU in bytes, if not the kind's default.
    pub mtu: Option<u32>,
    /// The group.
    pub group: u32,
}

/// The kind of a link to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewLinkKind {
    /// A WireGuard device.
    Wireguard,
    /// A VRF on a table.
    Vrf {
        /// The table.
        table: u32,
    },
    /// A dummy.
    Dummy,
}

/// How to add what may be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddMode {
    /// EEXIST if something holds the place (`NLM_F_CREATE | NLM_F_EXCL`).
    Create,
    /// Takes the place (`NLM_F_CREATE | NLM_F_REPLACE`).
    Replace,
}

/// One write: one message, answered by one acknowledgment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Create a link.
    CreateLink(NewLink),
    /// Name what a link is for.
    SetAlias {
        /// The link's name.
        name: String,
        /// The alias.
        alias: String,
    },
    /// Set the MTU.
    SetMtu {
        /// The link's name.
        name: String,
        /// The MTU in bytes.
        mtu: u32,
    },
    /// Enslave or, with none, release.
    SetMaster {
        /// The link's name.
        name: String,
        /// The index of the master.
        master: Option<u32>,
    },
    /// Set up or down.
    SetUp {
        /// The link's name.
        name: String,
        /// Up or down.
        up: bool,
    },
    /// Delete a link.
    DeleteLink {
        /// The link's name.
        name: String,
    },
    /// Add an address.
    AddAddress(Address, AddMode),
    /// Delete an address.
    DeleteAddress(Address),
    /// Add a route.
    AddRoute(Route, AddMode),
    /// Delete a route.
    DeleteRoute(Route),
    /// Add a rule.
    AddRule(Rule),
    /// Delete a rule.
    DeleteRule(Rule),
}

/// What changed in the kernel's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link came, changed or went.
    Link {
        /// The link.
        link: Link,
        /// Whether it went.
        gone: bool,
    },
    /// An address came, changed or went.
    Address {
        /// The address.
        address: Address,
        /// Whether it went.
        gone: bool,
    },
    /// A route came, changed or went.
    Route {
        /// The route.
        route: Route,
        /// Whether it went.
        gone: bool,
    },
    /// A rule came or went.
    Rule {
        /// The rule.
        rule: Rule,
        /// Whether it went.
        gone: bool,
    },
    /// Events were lost: read everything again.
    Resync,
}

/// Which routes to read; the kernel filters where it can (Linux 4.20), this process always does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteFilter {
    /// Only this protocol.
    pub protocol: Option<u8>,
    /// Only this table.
    pub table: Option<u32>,
    /// Only routes out by this link.
    pub device: Option<u32>,
}
