//! One overlay network: who is in it, how they are wired, what may pass.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::name::{LinkName, Name};
use super::ovn::OvnSwitch;
use super::routing::{BgpSettings, RoutePolicy};

/// A network's number, 1 to 9999: explicit, unique, and the source of every derived number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct NetworkId(u16);

/// A number is outside 1 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a network id is 1 to 9999, not {0}")]
pub struct NetworkIdError(u16);

impl NetworkId {
    /// Takes `id`.
    ///
    /// # Errors
    /// It is outside 1 to 9999.
    pub const fn new(id: u16) -> Result<Self, NetworkIdError> {
        if id >= 1 && id <= 9_999 {
            Ok(Self(id))
        } else {
            Err(NetworkIdError(id))
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u16> for NetworkId {
    type Error = NetworkIdError;
    fn try_from(id: u16) -> Result<Self, Self::Error> {
        Self::new(id)
    }
}

impl From<NetworkId> for u16 {
    fn from(id: NetworkId) -> Self {
        id.0
    }
}

/// How the members are wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topology {
    /// Spokes talk to hubs only; hubs carry the rest.
    HubAndSpoke,
    /// Everyone talks to everyone.
    FullMesh,
}

/// Who decides the routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Routing {
    /// The fleet.
    Static,
    /// iBGP through FRR.
    Ibgp,
}

/// Where a network's routes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// In a table of its own: a VRF, or rules where the kernel has no VRF.
    Vrf,
    /// In the main table.
    None,
}

/// What happens to an overlay packet that no rule names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefaultAction {
    /// It is dropped.
    #[default]
    Drop,
    /// It passes, inside this network only.
    Accept,
}

/// One overlay network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: Name,
    /// Its number.
    pub id: NetworkId,
    /// How its members are wired.
    pub topology: Topology,
    /// Who decides its routes.
    pub routing: Routing,
    /// Where its routes live.
    pub isolation: Isolation,
    /// What happens to what no rule names.
    pub default_action: DefaultAction,
    /// Who is in it; the hubs' order is the order of static failover.
    pub members: Vec<Member>,
    /// The overlay prefix, a /64; given or derived.
    pub prefix: Ipv6Net,
    /// The IPv4 overlay prefix, if the network carries v4.
    pub prefix_v4: Option<Ipv4Net>,
    /// Where workloads get their addresses from, if not from `prefix`.
    pub workload_prefix: Option<IpNet>,
    /// The UDP port; given or derived.
    pub listen_port: u16,
    /// The overlay links' MTU in bytes, if fixed.
    pub mtu: Option<u32>,
    /// Seconds between WireGuard keepalives of a spoke; 0 sends none.
    pub keepalive_seconds: u16,
    /// iBGP timers.
    pub bgp: BgpSettings,
    /// The firewall's rules, in order of `(priority, name)`.
    pub rules: Vec<Rule>,
    /// Addresses that move.
    pub virtual_ips: Vec<VirtualIp>,
    /// Underlay ports that lead into the network.
    pub port_mappings: Vec<PortMapping>,
    /// BGP route policies.
    pub route_policies: Vec<RoutePolicy>,
    /// OVN logical switches.
    pub ovn_switches: Vec<OvnSwitch>,
}

/// A member's role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Carries traffic for others.
    Hub,
    /// Carries its own.
    #[default]
    Spoke,
}

/// One line of `members`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which node, or all nodes of which tag.
    pub select: MemberSelector,
    /// Its role.
    pub role: Role,
    /// The LANs behind it.
    pub lans: Vec<Lan>,
    /// Where it is reached in this network, instead of the node's own endpoints.
    pub endpoints: Option<Vec<Endpoint>>,
    /// Its UDP port in this network, instead of the network's.
    pub listen_port: Option<u16>,
}

/// Whom a line of `members` names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberSelector {
    /// One node.
    Node(Name),
    /// Every node with this tag that no other line names.
    Tag(Name),
}

/// A subnet behind a member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lan {
    /// The subnet.
    pub subnet: IpNet,
    /// How the member reaches it.
    pub attachment: LanAttachment,
}

/// How a member reaches a LAN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LanAttachment {
    /// On this interface, which joins the network's VRF.
    Interface(LinkName),
    /// Behind this router, which is on another LAN of the member.
    Via(IpAddr),
}

/// Where a node is reached from outside: a host, and a port where it isn't the network's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address or host name.
    pub host: EndpointHost,
    /// The UDP port, if it isn't the network's.
    pub port: Option<u16>,
}

/// An address, or a name to resolve.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EndpointHost {
    /// A literal address.
    Address(IpAddr),
    /// A DNS name.
    Dns(String),
}

/// What happens to a packet that a rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It passes.
    Accept,
    /// It vanishes.
    Drop,
    /// It is refused: TCP reset, or ICMP port unreachable.
    Reject,
}

/// The protocol of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Every protocol.
    #[default]
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP in IPv4, ICMPv6 in IPv6.
    Icmp,
}

/// Ports from `first` to `last`, both included; `first ≤ last`, `first ≥ 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl std::fmt::Display for PortRange {
    /// As a fragment has it: `6443`, `8000-8010`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// One firewall rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, unique in the network.
    pub name: Name,
    /// Lower first, then by name; 1000 unless given.
    pub priority: u32,
    /// What happens.
    pub action: Action,
    /// Sources.
    pub from: Selector,
    /// Destinations.
    pub to: Selector,
    /// The protocol.
    pub protocol: Protocol,
    /// Destination ports, of TCP and UDP only; none means all.
    pub ports: Vec<PortRange>,
    /// Whether matches are logged.
    pub log: bool,
    /// Whether it is in force.
    pub enabled: bool,
}

/// A set of addresses, by what they belong to. One that resolves to nothing matches nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// A member's overlay addresses, and the VIPs it holds.
    Node(Name),
    /// The same of every member with this tag.
    Tag(Name),
    /// A member's LANs.
    LanOf(Name),
    /// A virtual IP of this network.
    Vip(Name),
    /// A literal prefix.
    Cidr(IpNet),
    /// What a federation peer's bridges into this network import.
    Federation(Name),
    /// This network's members, LANs, VIPs and workloads; never the world.
    Any,
}

/// An address that moves between its holders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualIp {
    /// Its name, unique in the network.
    pub name: Name,
    /// The address, inside the network's prefix (either family).
    pub address: IpAddr,
    /// Who may hold it: the first does, the rest in order of failover.
    pub holders: Vec<Name>,
    /// Whether all holders hold it at once.
    pub anycast: bool,
    /// BGP multi-exit discriminator.
    pub med: Option<u32>,
    /// BGP local preference.
    pub local_pref: Option<u32>,
    /// When a holder counts as healthy.
    pub health: Option<HealthCheck>,
}

/// A TCP health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port to connect to.
    pub tcp: u16,
    /// Seconds between checks.
    pub interval_seconds: u32,
    /// Failures in a row that make a holder unhealthy.
    pub failures: u32,
}

/// An underlay port of a hub that leads to an address of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// Its name, unique in the network.
    pub name: Name,
    /// The hub that listens.
    pub hub: Name,
    /// The port it listens on.
    pub listen_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where it leads.
    pub to: MappingTarget,
    /// The port there.
    pub target_port: u16,
    /// Who may connect; a family without an entry may not.
    pub source_cidrs: Vec<IpNet>,
    /// Connections at once.
    pub max_connections: Option<u32>,
    /// New connections a second.
    pub rate_limit_per_second: Option<u32>,
    /// Whether it is in force.
    pub enabled: bool,
}

/// Where a port mapping leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MappingTarget {
    /// A member's overlay address.
    Node(Name),
    /// A virtual IP.
    Vip(Name),
}

impl VirtualIp {
    /// Who holds the address by the fleet's order: the first holder, or all of an anycast address.
    #[must_use]
    pub fn held_by(&self, node: &Name) -> bool {
        match self.holders.first() {
            Some(first) => first == node || (self.anycast && self.holders.contains(node)),
            None => false,
        }
    }
}

impl Network {
    /// Whether IPv4 is carried: a v4 prefix is given, or derived because a LAN is v4.
    #[must_use]
    pub const fn carries_v4(&self) -> bool {
        self.prefix_v4.is_some()
    }

    /// The rules in force, in the order in which they are asked: `(priority, name)`.
    #[must_use]
    pub fn rules_in_order(&self) -> Vec<&Rule> {
        let mut rules: Vec<&Rule> = self.rules.iter().filter(|rule| rule.enabled).collect();
        rules.sort_by_key(|rule| (rule.priority, &rule.name));
        rules
    }
}
