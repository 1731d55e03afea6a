//! What may pass in each network, as the firewall sees it: between the intent and nft's objects.
//!
//! The same vocabulary holds what the fleet wants and what an observed table would let pass; [`meet`](super::meet)
//! takes both and gives what *either* refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::intent::{AdmissionIntent, HostIntent, IsolationMode, LinkKind, MappingIntent, NetworkIntent};
use crate::model::address::intersection;
use crate::model::network::{Action, DefaultAction, NetworkId, PortRange, Protocol};
use crate::model::{AddressSet, LinkName, Name, naming};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The digit by which names of nft objects tell the families apart.
    #[must_use]
    pub const fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Which packets a part of a rule is about, by protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// All.
    Any,
    /// TCP, by destination port.
    Tcp,
    /// UDP, by destination port.
    Udp,
    /// ICMP in IPv4, ICMPv6 in IPv6.
    Icmp,
}

impl Class {
    /// All classes, in the order in which a layer's maps are asked.
    pub const ALL: [Self; 4] = [Self::Any, Self::Tcp, Self::Udp, Self::Icmp];

    /// The word in names of nft objects.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }

    /// Whether destination ports tell packets of this class apart.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }

    /// Whether a packet can be of both classes.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        self == other || self == Self::Any || other == Self::Any
    }

    /// Whether a packet of `family` and IP protocol number `protocol` is of this class.
    #[must_use]
    pub fn matches(self, family: Family, protocol: u8) -> bool {
        match self {
            Self::Any => true,
            Self::Tcp => protocol == 6,
            Self::Udp => protocol == 17,
            Self::Icmp => protocol == if family == Family::V4 { 1 } else { 58 },
        }
    }
}

impl From<Protocol> for Class {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Any => Self::Any,
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::Icmp => Self::Icmp,
        }
    }
}

/// All ports.
pub const ALL_PORTS: PortRange = PortRange {
    first: 0,
    last: u16::MAX,
};

/// Everything of one class from some addresses to others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// The class.
    pub class: Class,
    /// Sources.
    pub from: AddressSet,
    /// Destinations.
    pub to: AddressSet,
    /// Destination ports, sorted; exactly [`ALL_PORTS`] where ports don't matter.
    pub ports: Vec<PortRange>,
}

/// The smallest part: one prefix to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The class.
    pub class: Class,
    /// The source.
    pub from: IpNet,
    /// The destination, of the same family.
    pub to: IpNet,
    /// Destination ports; [`ALL_PORTS`] where ports don't matter.
    pub ports: PortRange,
}

impl From<Cell> for Part {
    fn from(cell: Cell) -> Self {
        Self {
            class: cell.class,
            from: std::iter::once(cell.from).collect(),
            to: std::iter::once(cell.to).collect(),
            ports: vec![cell.ports],
        }
    }
}

impl Part {
    /// Whether a packet belongs to it. `port` is the destination port of TCP and UDP, and 0 else.
    #[must_use]
    pub fn matches(&self, packet: &Packet) -> bool {
        self.class
            .matches(Family::of(packet.destination), packet.protocol)
            && self.from.contains(packet.source)
            && self.to.contains(packet.destination)
            && (!self.class.has_ports()
                || self
                    .ports
                    .iter()
                    .any(|range| (range.first..=range.last).contains(&packet.port)))
    }

    /// What is in both parts; none if nothing is.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let class = match (self.class, other.class) {
            (a, b) if a == b => a,
            (Class::Any, b) => b,
            (a, Class::Any) => a,
            (_, _) => return None,
        };
        let part = Self {
            class,
            from: intersection(&self.from, &other.from),
            to: intersection(&self.to, &other.to),
            ports: ports_in_both(&self.ports, &other.ports),
        };
        let empty = part.from.is_empty() || part.to.is_empty() || part.ports.is_empty();
        (!empty).then_some(part)
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// Lower first, then by name.
    pub priority: u32,
    /// Its name.
    pub name: Name,
    /// What happens.
    pub action: Action,
    /// Whether matches are logged.
    pub log: bool,
    /// What it is about.
    pub parts: Vec<Part>,
}

impl PolicyRule {
    /// What puts rules in order.
    #[must_use]
    pub fn order(&self) -> (u32, &Name) {
        (self.priority, &self.name)
    }

    /// Whether two rules of the same order do the same to what they match.
    #[must_use]
    pub fn acts_like(&self, other: &Self) -> bool {
        self.action == other.action && self.log == other.log
    }
}

/// What tells on which link a packet came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ingress {
    /// `meta sdifname`: under a VRF, `iifname` is the VRF in input and forward, never the link.
    Slave,
    /// `iifname`.
    Name,
}

/// One network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name, for logs.
    pub name: Name,
    /// Its id.
    pub id: NetworkId,
    /// What keeps it apart.
    pub isolation: IsolationMode,
    /// The MTU of its links in bytes.
    pub mtu: u32,
    /// The overlay links.
    pub links: BTreeSet<LinkName>,
    /// The interfaces of LANs, each with the sources that may come from it.
    pub lan_sources: BTreeMap<LinkName, AddressSet>,
    /// Its own addresses on this host.
    pub own: AddressSet,
    /// Those of `own` that nobody may reach but through the network, where no VRF sees to that: addresses on overlay
    /// links. Addresses of a LAN interface stay the host's own affair.
    pub guarded: AddressSet,
    /// The interfaces by which `guarded` is reached: the network's own.
    pub entries: BTreeSet<LinkName>,
    /// The interfaces by which what comes from the network may leave: its own.
    pub exits: BTreeSet<LinkName>,
    /// `own`, and every LAN behind this host.
    pub local: AddressSet,
    /// Every address that may be a source or a destination inside it.
    pub bound: AddressSet,
    /// Whether this host carries what neither comes from `local` nor goes there.
    pub relays: bool,
    /// What happens to what no rule names.
    pub default_action: DefaultAction,
    /// The rules, in order.
    pub rules: Vec<PolicyRule>,
    /// Ports of the underlay that lead into it.
    pub mappings: Vec<MappingIntent>,
    /// What port mappings of other hosts send here, or through here.
    pub admissions: BTreeSet<AdmissionIntent>,
}

/// A packet, as far as rules see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its source.
    pub source: IpAddr,
    /// Its destination, of the same family.
    pub destination: IpAddr,
    /// Its IP protocol's number.
    pub protocol: u8,
    /// The destination port of TCP and UDP; 0 else.
    pub port: u16,
}

fn guarded(network: &NetworkIntent) -> AddressSet {
    if network.isolation != IsolationMode::Rules {
        return AddressSet::default();
    }
    let firewall = &network.firewall;
    let is_lan = |net: &IpNet| {
        firewall
            .lan_sources
            .values()
            .any(|lan| lan.contains(net.network()))
    };
    firewall.own.iter().filter(|net| !is_lan(net)).collect()
}

impl Policy {
    /// What the intent says about one network.
    #[must_use]
    pub fn of(network: &NetworkIntent) -> Self {
        let firewall = &network.firewall;
        let lans = firewall.lan_sources.values().flat_map(AddressSet::iter);
        let rules = firewall.rules.iter().map(|rule| PolicyRule {
            priority: rule.priority,
            name: rule.name.clone(),
            action: rule.action,
            log: rule.log,
            parts: vec![Part {
                class: rule.protocol.into(),
                from: rule.from.clone(),
                to: rule.to.clone(),
                ports: if rule.ports.is_empty() {
                    vec![ALL_PORTS]
                } else {
                    rule.ports.clone()
                },
            }],
        });
        Self {
            name: network.name.clone(),
            id: network.id,
            isolation: network.isolation,
            mtu: network.mtu,
            links: firewall.links.clone(),
            lan_sources: firewall.lan_sources.clone(),
            guarded: guarded(network),
            entries: firewall
                .links
                .iter()
                .chain(firewall.lan_sources.keys())
                .cloned()
                .collect(),
            exits: firewall
                .links
                .iter()
                .chain(firewall.lan_sources.keys())
                .cloned()
                .collect(),
            own: firewall.own.clone(),
            local: firewall.own.iter().chain(lans).collect(),
            bound: firewall.bound.clone(),
            relays: network.links.iter().any(|link| link.kind == LinkKind::Multipoint),
            default_action: firewall.default_action,
            rules: rules.collect(),
            mappings: firewall.mappings.clone(),
            admissions: firewall.admissions.clone(),
        }
    }

    /// What the intent says about every network.
    #[must_use]
    pub fn all_of(intent: &HostIntent) -> BTreeMap<NetworkId, Self> {
        intent
            .networks
            .iter()
            .map(|(id, network)| (*id, Self::of(network)))
            .collect()
    }

    /// The conntrack zone: the network's own, except in the main table, whose connections the host's other traffic
    /// shares.
    #[must_use]
    pub fn zone(&self) -> u16 {
        match self.isolation {
            IsolationMode::Vrf | IsolationMode::Rules => naming::conntrack_zone(self.id),
            IsolationMode::Main => 0,
        }
    }

    /// What tells on which link a packet came in.
    #[must_use]
    pub fn ingress(&self) -> Ingress {
        match self.isolation {
            IsolationMode::Vrf => Ingress::Slave,
            IsolationMode::Rules | IsolationMode::Main => Ingress::Name,
        }
    }

    /// The links, and the interfaces of LANs.
    #[must_use]
    pub fn interfaces(&self) -> BTreeSet<LinkName> {
        self.links
            .iter()
            .chain(self.lan_sources.keys())
            .cloned()
            .collect()
    }

    /// Whether a new connection with this first packet may pass this host, wherever it is judged: in input, in output
    /// or in forward. That is the plain reading of the rules, independent of what they compile to.
    #[must_use]
    pub fn allows(&self, packet: &Packet) -> bool {
        let inside = self.bound.contains(packet.source) && self.bound.contains(packet.destination);
        let ours =
            self.relays || self.local.contains(packet.source) || self.local.contains(packet.destination);
        inside && ours && (self.admission(packet).is_some() || self.action(packet) == Action::Accept)
    }

    /// The port mapping of another host that sends a packet here, or through here.
    #[must_use]
    pub fn admission(&self, packet: &Packet) -> Option<&AdmissionIntent> {
        self.admissions.iter().find(|admission| {
            admission.from == packet.source
                && admission.to == packet.destination
                && admission.port == packet.port
                && Class::from(admission.protocol).matches(Family::of(packet.destination), packet.protocol)
        })
    }

    /// Whether a mapping of this host lets in a connection that began with this packet, on the underlay, and that
    /// `target` answers.
    #[must_use]
    pub fn maps(&self, packet: &Packet, target: (IpAddr, u16)) -> bool {
        self.mappings.iter().any(|mapping| {
            mapping.listen_port == packet.port
                && Class::from(mapping.protocol).matches(Family::of(packet.destination), packet.protocol)
                && mapping.sources.contains(packet.source)
                && mapping
                    .ways
                    .iter()
                    .any(|way| (way.target, mapping.target_port) == target)
        })
    }

    /// The first rule that names a packet.
    #[must_use]
    pub fn first(&self, packet: &Packet) -> Option<&PolicyRule> {
        let mut rules = self.rules.iter();
        rules.find(|rule| rule.parts.iter().any(|part| part.matches(packet)))
    }

    /// What the first rule that names a packet does to it, or the default.
    #[must_use]
    pub fn action(&self, packet: &Packet) -> Action {
        match (self.first(packet), self.default_action) {
            (Some(rule), _) => rule.action,
            (None, DefaultAction::Accept) => Action::Accept,
            (None, DefaultAction::Drop) => Action::Drop,
        }
    }
}

fn ports_in_both(a: &[PortRange], b: &[PortRange]) -> Vec<PortRange> {
    let mut both = Vec::new();
    for x in a {
        for y in b {
            let (first, last) = (x.first.max(y.first), x.last.min(y.last));
            if first <= last {
                both.push(PortRange { first, last });
            }
        }
    }
    both.sort();
    both
}
