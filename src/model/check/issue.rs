//! What can be wrong between objects, in words.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Severity;
use crate::model::agreement::{MAX_PREFIXES, Unfit};
use crate::model::key::PublicKey;
use crate::model::name::{LinkName, Name};
use crate::model::naming::MAX_HUBS;
use crate::model::network::NetworkId;

/// What sort of object a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A node of the fleet.
    Node,
    /// A tag of some node.
    Tag,
    /// A network.
    Network,
    /// A virtual IP of the network.
    VirtualIp,
    /// A bridge.
    Bridge,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Tag => "tag",
            Self::Network => "network",
            Self::VirtualIp => "virtual IP",
            Self::Bridge => "bridge",
        })
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Issue {
    /// A name that nothing has.
    #[error("there is no {0} \"{1}\"")]
    Unknown(Kind, Name),
    /// A node that isn't in the network.
    #[error("node \"{node}\" isn't a member of network \"{network}\"")]
    NotAMember {
        /// The node.
        node: Name,
        /// The network.
        network: Name,
    },
    /// A `members` line that repeats another.
    #[error("{kind} \"{name}\" has another line in `members`")]
    ListedTwice {
        /// Node or tag.
        kind: Kind,
        /// Its name.
        name: Name,
    },
    /// Two nodes with one key.
    #[error("nodes \"{0}\" and \"{1}\" have the same key")]
    SharedKey(Name, Name),
    /// Two networks (or tenants) with one id.
    #[error("id {0} is taken")]
    IdTaken(NetworkId),
    /// Two networks of a node want one UDP port.
    #[error("UDP port {port} of node \"{node}\" is taken by network \"{other}\"")]
    PortTaken {
        /// The port.
        port: u16,
        /// The node.
        node: Name,
        /// The network that has it.
        other: Name,
    },
    /// A hub-and-spoke network without a hub.
    #[error("network \"{0}\" has no hub")]
    NoHub(Name),
    /// A network without members.
    #[error("network \"{0}\" has no members")]
    NoMembers(Name),
    /// More hubs than a spoke can have links.
    #[error("network \"{network}\" has {count} hubs, the limit is {MAX_HUBS}")]
    TooManyHubs {
        /// The network.
        network: Name,
        /// How many hubs it has.
        count: usize,
    },
    /// A hub that nobody can dial.
    #[error("hub \"{0}\" has no endpoint")]
    HubWithoutEndpoint(Name),
    /// A member that may be dialled through the network itself.
    #[error(
        "endpoint {endpoint} of node \"{node}\" is in network \"{network}\" itself: where no route of the underlay is longer, \
         WireGuard's packets go into the tunnel that they are; give another one"
    )]
    EndpointInside {
        /// Where it is dialled.
        endpoint: IpAddr,
        /// The node.
        node: Name,
        /// The network.
        network: Name,
    },
    /// Members of a mesh that can't dial each other.
    #[error("{} members have no endpoint and never reach each other: {}", .0.len(), list(.0))]
    Unreachable(Vec<Name>),
    /// Overlapping prefixes.
    #[error("{prefix} overlaps {other}, {whose}")]
    Overlap {
        /// What is there.
        prefix: IpNet,
        /// What it overlaps.
        other: IpNet,
        /// Whose that is.
        whose: String,
    },
    /// An interface in two networks.
    #[error("interface {interface} of node \"{node}\" is in network \"{other}\" already")]
    InterfaceTaken {
        /// The interface.
        interface: LinkName,
        /// The node.
        node: Name,
        /// The network that has it.
        other: Name,
    },
    /// A router that no LAN of the member reaches.
    #[error("{0} is on none of the member's LANs with an interface")]
    ViaOffLink(IpAddr),
    /// A member of a network with IPv4 that has no number.
    #[error("node \"{node}\" needs a host_id: network \"{network}\" carries IPv4")]
    NeedsHostId {
        /// The node.
        node: Name,
        /// The network.
        network: Name,
    },
    /// A number that the IPv4 prefix has no room for.
    #[error("host_id {host_id} of node \"{node}\" doesn't fit into {prefix} of network \"{network}\"")]
    HostIdOutside {
        /// The node.
        node: Name,
        /// Its number.
        host_id: u64,
        /// The prefix.
        prefix: IpNet,
        /// The network.
        network: Name,
    },
    /// Two owners of one address.
    #[error("{address} is both {this} and {other} in network \"{network}\"")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Who wants it.
        this: String,
        /// Who has it.
        other: String,
        /// The network.
        network: Name,
    },
    /// An address outside of the network's prefixes.
    #[error("{address} isn't in {}", list(.prefixes))]
    OutsidePrefix {
        /// The address.
        address: IpAddr,
        /// Where it could be.
        prefixes: Vec<IpNet>,
    },
    /// An address of a family that the network doesn't carry.
    #[error("{address} is IPv4, and network \"{network}\" doesn't carry IPv4")]
    NoIpv4 {
        /// The address.
        address: IpAddr,
        /// The network.
        network: Name,
    },
    /// An address that no host can have.
    #[error("{0} is the network's own or broadcast address")]
    NotAHostAddress(IpAddr),
    /// Two networks of one node in the main table.
    #[error("node \"{node}\" has network \"{other}\" in the main table already (isolation = \"none\")")]
    MainTableTaken {
        /// The node.
        node: Name,
        /// The network that is there.
        other: Name,
    },
    /// A selector that stands for no address.
    #[error("`{side}` of rule \"{rule}\" stands for nothing: {why}")]
    MatchesNothing {
        /// `from` or `to`.
        side: &'static str,
        /// The rule.
        rule: Name,
        /// Why.
        why: String,
    },
    /// An anycast address where nobody picks one of its holders.
    #[error(
        "virtual IP \"{vip}\" is anycast, and network \"{network}\" is static: a link carries a prefix to one of its peers only, and nothing picks the holder"
    )]
    StaticAnycast {
        /// The virtual IP.
        vip: Name,
        /// The network.
        network: Name,
    },
    /// A port mapping on a member that isn't a hub.
    #[error("node \"{node}\" isn't a hub of network \"{network}\"")]
    NotAHub {
        /// The node.
        node: Name,
        /// The network.
        network: Name,
    },
    /// Two port mappings on one port of a hub, or one on a network's own.
    #[error("port {port} of hub \"{hub}\" is taken by {other}")]
    MappingPortTaken {
        /// The port.
        port: u16,
        /// The hub.
        hub: Name,
        /// Who has it.
        other: String,
    },
    /// A port mapping from a hub to itself.
    #[error("the mapping leads to hub \"{0}\" itself")]
    MappingToItself(Name),
    /// A port mapping that no client's family can pass.
    #[error("clients of {sources} can't reach a target with {target} only")]
    MappingFamily {
        /// The families of `source_cidrs`.
        sources: &'static str,
        /// The families of the target.
        target: &'static str,
    },
    /// A bridge that leads elsewhere.
    #[error("bridge \"{bridge}\" leads into network \"{other}\"")]
    BridgeElsewhere {
        /// The bridge.
        bridge: Name,
        /// Its network.
        other: Name,
    },
    /// A second bridge of one peer into one network.
    #[error("peer \"{peer}\" has a bridge into network \"{network}\" already")]
    BridgeTwice {
        /// The peer.
        peer: Name,
        /// The network.
        network: Name,
    },
    /// A service named like a rule of its network.
    #[error("network \"{network}\" has a rule \"{rule}\" already")]
    RuleTaken {
        /// The rule.
        rule: Name,
        /// The network.
        network: Name,
    },
    /// A bridge's gateway that isn't one of the site's.
    #[error("node \"{0}\" isn't a gateway of the site: the bridge carries nothing")]
    GatewayUnnamed(Name),
    /// A prefix that no other site may have.
    #[error("{prefix} {why}")]
    Unfit {
        /// The prefix.
        prefix: IpNet,
        /// Why.
        why: Unfit,
    },
    /// More prefixes than a bridge takes.
    #[error("{0} prefixes: a bridge takes {MAX_PREFIXES} at most")]
    TooManyPrefixes(usize),
    /// A stretched switch without a network that can carry it.
    #[error(
        "a stretched switch needs a network with isolation = \"none\" that has node \"{0}\": geneve doesn't work from inside a VRF"
    )]
    StretchNeedsMainTable(Name),
    /// A leak of a network into itself.
    #[error("a leak leads from one network to another")]
    LeakToItself,
    /// A prefix that isn't the network's.
    #[error("{prefix} isn't part of network \"{network}\"")]
    ForeignPrefix {
        /// The prefix.
        prefix: IpNet,
        /// The network.
        network: Name,
    },
    /// A tenant's network that exists already.
    #[error("tenant \"{0}\" makes network \"tenant-{0}\", which exists already")]
    TenantNetworkTaken(Name),
    /// Two MAC addresses in a switch.
    #[error("port \"{0}\" has the same MAC address")]
    MacTaken(Name),
    /// This host isn't in the fleet.
    #[error("this host is node \"{0}\", which the fleet doesn't have")]
    UnknownHost(Name),
    /// The private key isn't the node's.
    #[error("the private key isn't node \"{node}\"'s: it belongs to public key {found}")]
    KeyMismatch {
        /// The node.
        node: Name,
        /// The public half of what is on this host.
        found: PublicKey,
    },
    /// `[federation]` where no `sdwand serve` runs.
    #[error("[federation] is for gateways, and node \"{0}\" isn't one of the site's")]
    NotAGateway(Name),
    /// Two networks whose local addresses policy rules can't keep apart.
    #[error(
        "networks \"{first}\" and \"{second}\" share local addresses ({prefix}): without VRFs, they would leak"
    )]
    NeedsVrf {
        /// One network.
        first: Name,
        /// The other.
        second: Name,
        /// What they share.
        prefix: IpNet,
    },
}

fn list(items: &[impl fmt::Display]) -> String {
    const SHOWN: usize = 5;
    let mut text = items
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    if items.len() > SHOWN {
        text.push_str(", …");
    }
    text
}

impl Issue {
    /// How much it matters.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::MatchesNothing { .. }
            | Self::Unreachable(_)
            | Self::NoMembers(_)
            | Self::GatewayUnnamed(_)
            | Self::EndpointInside { .. } => Severity::Notice,
            Self::Unknown(..)
            | Self::NotAMember { .. }
            | Self::ListedTwice { .. }
            | Self::SharedKey(..)
            | Self::IdTaken(_)
            | Self::PortTaken { .. }
            | Self::NoHub(_)
            | Self::TooManyHubs { .. }
            | Self::HubWithoutEndpoint(_)
            | Self::Overlap { .. }
            | Self::InterfaceTaken { .. }
            | Self::ViaOffLink(_)
            | Self::NeedsHostId { .. }
            | Self::HostIdOutside { .. }
            | Self::AddressTaken { .. }
            | Self::OutsidePrefix { .. }
            | Self::NoIpv4 { .. }
            | Self::NotAHostAddress(_)
            | Self::MainTableTaken { .. }
            | Self::StaticAnycast { .. }
            | Self::NotAHub { .. }
            | Self::MappingPortTaken { .. }
            | Self::MappingToItself(_)
            | Self::MappingFamily { .. }
            | Self::BridgeElsewhere { .. }
            | Self::BridgeTwice { .. }
            | Self::RuleTaken { .. }
            | Self::Unfit { .. }
            | Self::TooManyPrefixes(_)
            | Self::StretchNeedsMainTable(_)
            | Self::LeakToItself
            | Self::ForeignPrefix { .. }
            | Self::TenantNetworkTaken(_)
            | Self::MacTaken(_)
            | Self::UnknownHost(_)
            | Self::KeyMismatch { .. }
            | Self::NotAGateway(_)
            | Self::NeedsVrf { .. } => Severity::Error,
        }
    }

    /// Whether it says that something isn't there: where part of a fleet can't be read, that may be untrue.
    #[must_use]
    pub const fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::Unknown(..)
                | Self::NotAMember { .. }
                | Self::NoHub(_)
                | Self::NoMembers(_)
                | Self::HubWithoutEndpoint(_)
                | Self::Unreachable(_)
                | Self::ViaOffLink(_)
                | Self::NeedsHostId { .. }
                | Self::HostIdOutside { .. }
                | Self::OutsidePrefix { .. }
                | Self::NoIpv4 { .. }
                | Self::MatchesNothing { .. }
                | Self::NotAHub { .. }
                | Self::GatewayUnnamed(_)
                | Self::MappingFamily { .. }
                | Self::StretchNeedsMainTable(_)
                | Self::ForeignPrefix { .. }
                | Self::UnknownHost(_)
                | Self::NotAGateway(_)
        )
    }

    /// What to do, where that isn't obvious.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unknown(Kind::Tag, tag) => return Some(format!("give it to a node: tags = [\"{tag}\"]")),
            Self::NotAMember { network, .. } => {
                return Some(format!(
                    "list it in the `members` of \"{network}\", by name or tag"
                ));
            }
            Self::SharedKey(..) => "each host draws its own key: `sdwand init`, `sdwand pubkey`",
            Self::IdTaken(_) => {
                "names, table, port and prefixes follow from the id: give each network its own"
            }
            Self::PortTaken { .. } => "give the network or the member another listen_port",
            Self::NoHub(_) => "give a member role = \"hub\", or the network topology = \"full_mesh\"",
            Self::TooManyHubs { .. } => "a spoke has one link for each hub",
            Self::HubWithoutEndpoint(_) => "give the node or the member `endpoints`: where others reach it",
            Self::Unreachable(_) => "give one side endpoints, or use hubs",
            Self::InterfaceTaken { .. } => "an interface joins the VRF of one network: use one VLAN for each",
            Self::ViaOffLink(_) => "list the LAN that the router is on, with its interface",
            Self::NeedsHostId { .. } => "its IPv4 address is the prefix and host_id",
            Self::HostIdOutside { .. } => {
                "give the network a larger prefix_v4, or the node a smaller host_id"
            }
            Self::AddressTaken { .. } => "set another host_id or address",
            Self::NoIpv4 { .. } => "give the network a prefix_v4",
            Self::MainTableTaken { .. } => "keep one of them in a VRF: isolation = \"vrf\"",
            Self::StaticAnycast { .. } => {
                "routing = \"ibgp\" picks the nearest holder; or leave out `anycast`: the first holder has the address, and the order of `holders` moves it"
            }
            Self::MappingToItself(_) => {
                "a service of the hub that the underlay shall reach listens there; for a virtual IP, put another holder first"
            }
            Self::MappingFamily { .. } => {
                "IPv4 isn't translated to IPv6: give the network a prefix_v4, or change source_cidrs"
            }
            Self::RuleTaken { .. } => "an offer or a subscription brings a rule of its name: give it another",
            Self::BridgeTwice { .. } => "put all of it into one bridge",
            Self::GatewayUnnamed(_) => "list it in the site's `gateways`: it runs `sdwand serve`",
            Self::Unfit { .. } => "import what the peer really has: its /48, its LANs",
            Self::UnknownHost(_) => "`node` in sdwand.toml is a name of [[nodes]]",
            Self::KeyMismatch { .. } => {
                "give the node this public_key (or next_public_key), or the host the right private key"
            }
            Self::NotAGateway(_) => "list it in the site's `gateways`, or remove [federation] here",
            Self::NeedsVrf { .. } => "use a kernel with VRF and isolation.backend = \"vrf\" on this host",
            Self::Unknown(..)
            | Self::EndpointInside { .. }
            | Self::ListedTwice { .. }
            | Self::NoMembers(_)
            | Self::Overlap { .. }
            | Self::OutsidePrefix { .. }
            | Self::NotAHostAddress(_)
            | Self::MatchesNothing { .. }
            | Self::NotAHub { .. }
            | Self::MappingPortTaken { .. }
            | Self::BridgeElsewhere { .. }
            | Self::TooManyPrefixes(_)
            | Self::StretchNeedsMainTable(_)
            | Self::LeakToItself
            | Self::ForeignPrefix { .. }
            | Self::TenantNetworkTaken(_)
            | Self::MacTaken(_) => return None,
        };
        Some(hint.to_owned())
    }
}
