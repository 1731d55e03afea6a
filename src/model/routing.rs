//! Routes beyond the static ones: iBGP, route policies, leaks between networks, bridges to other sites.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::name::Name;

/// iBGP timers of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpSettings {
    /// Hold time in seconds.
    pub hold_seconds: u16,
    /// Keepalive interval in seconds.
    pub keepalive_seconds: u16,
    /// Whether graceful restart (RFC 4724) is offered.
    pub graceful_restart: bool,
    /// BFD (RFC 5880), unless switched off.
    pub bfd: Option<Bfd>,
}

impl Default for BgpSettings {
    fn default() -> Self {
        Self {
            hold_seconds: 90,
            keepalive_seconds: 30,
            graceful_restart: true,
            bfd: Some(Bfd::default()),
        }
    }
}

/// BFD timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bfd {
    /// Required minimum receive interval in milliseconds.
    pub rx_ms: u16,
    /// Desired minimum transmit interval in milliseconds.
    pub tx_ms: u16,
    /// Detection multiplier.
    pub multiplier: u8,
}

impl Default for Bfd {
    fn default() -> Self {
        Self {
            rx_ms: 200,
            tx_ms: 200,
            multiplier: 3,
        }
    }
}

/// A BGP route policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePolicy {
    /// Its name, unique in the network.
    pub name: Name,
    /// Which way.
    pub direction: PolicyDirection,
    /// Whom it concerns.
    pub scope: PolicyScope,
    /// Statements in order; what none matches is denied.
    pub statements: Vec<PolicyStatement>,
    /// Whether it is in force.
    pub enabled: bool,
}

/// Which way a policy works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyDirection {
    /// On what is learned.
    Import,
    /// On what is announced.
    Export,
}

/// Whom a policy concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyScope {
    /// The whole network.
    Network,
    /// One node.
    Node(Name),
    /// One bridge.
    Bridge(Name),
}

/// One statement of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyStatement {
    /// All must match; none given matches everything.
    pub matches: PolicyMatch,
    /// What is changed.
    pub set: PolicySet,
    /// Whether the route passes.
    pub accept: bool,
}

/// The match of a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyMatch {
    /// Prefixes, each with bounds on the length.
    pub prefix_in: Vec<PrefixMatch>,
    /// A regular expression over the AS path.
    pub as_path_regex: Option<String>,
    /// Communities, `<as>:<value>`.
    pub community_in: Vec<String>,
    /// Tags of the announcing node.
    pub tag_in: Vec<Name>,
    /// Announcing nodes.
    pub peer_in: Vec<Name>,
}

/// A prefix with bounds on the matched length: `fd00:cafe::/48 ge 56 le 64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixMatch {
    /// The prefix.
    pub prefix: IpNet,
    /// The shortest length, if bounded.
    pub ge: Option<u8>,
    /// The longest length, if bounded; without `ge` and `le` the length is exact.
    pub le: Option<u8>,
}

/// The changes of a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// Local preference.
    pub local_pref: Option<u32>,
    /// Multi-exit discriminator.
    pub med: Option<u32>,
    /// How often the own AS is prepended, 1 to 10.
    pub prepend_as_path: Option<u8>,
    /// A community that is added.
    pub add_community: Option<String>,
}

/// A way across networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteLeak {
    /// Whose routes.
    pub from: Name,
    /// Who gets them.
    pub to: Name,
    /// One way or both.
    pub bidirectional: bool,
    /// Which prefixes.
    pub prefixes: Vec<IpNet>,
}

/// A federation peer's way into one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub name: Name,
    /// The peer's local alias.
    pub peer: Name,
    /// The network it leads into.
    pub network: Name,
    /// What the peer calls the network at its end.
    pub remote_network: Name,
    /// Our gateways.
    pub gateways: Vec<Name>,
    /// What we take from the peer.
    pub import: Vec<IpNet>,
    /// What we give to the peer.
    pub export: Vec<Export>,
    /// Whether it is in force.
    pub enabled: bool,
}

/// One line of a bridge's `export`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Export {
    /// A prefix.
    Prefix(IpNet),
    /// A virtual IP of the network.
    Vip(Name),
}
