//! The whole site: what the fragments say together.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

use super::key::PublicKey;
use super::name::Name;
use super::naming;
use super::network::{Endpoint, Lan, MemberSelector, Network, NetworkId, Role};
use super::ovn::Tenant;
use super::routing::{Bridge, RouteLeak};
use super::service::{Offer, Subscription};

/// SHA-256 of the fragments, in the order of their file names: hosts with the same digest were told the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FleetDigest(pub [u8; 32]);

impl fmt::Display for FleetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for FleetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FleetDigest({self})")
    }
}

impl From<FleetDigest> for String {
    fn from(digest: FleetDigest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for FleetDigest {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        const WHAT: &str = "a fleet digest is 64 hexadecimal digits";
        let mut digest = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(WHAT);
        }
        for (at, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).map_err(|_| WHAT)?;
        }
        Ok(Self(digest))
    }
}

/// The site and everything in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// What was read.
    pub digest: FleetDigest,
    /// The site itself.
    pub site: Site,
    /// Every node, by name.
    pub nodes: BTreeMap<Name, Node>,
    /// Every network, by name.
    pub networks: BTreeMap<Name, Network>,
    /// The only ways across networks.
    pub route_leaks: Vec<RouteLeak>,
    /// Ways to federation peers, by name.
    pub bridges: BTreeMap<Name, Bridge>,
    /// Services that peers may use, by name. Bridges and rules have them already (see [`super::service::expand`]).
    pub offers: BTreeMap<Name, Offer>,
    /// Services of peers that this site uses, by name; likewise.
    pub subscriptions: BTreeMap<Name, Subscription>,
    /// Tenants, by key.
    pub tenants: BTreeMap<Name, Tenant>,
}

/// The site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub name: Name,
    /// Its /48 (RFC 4193).
    pub prefix: Ipv6Net,
    /// Its AS number; given or derived.
    pub asn: u32,
    /// Who runs `sdwand serve`.
    pub gateways: Vec<Name>,
}

/// A host of the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Name,
    /// Its WireGuard key.
    pub public_key: PublicKey,
    /// The key it is about to have.
    pub next_public_key: Option<PublicKey>,
    /// Where it is reached from outside; none means that it isn't.
    pub endpoints: Vec<Endpoint>,
    /// Its tags.
    pub tags: Vec<Name>,
    /// Its host part in every network, if given.
    pub host_id: Option<u64>,
}

impl Node {
    /// Its IPv6 host part: `host_id`, or from the name's hash.
    #[must_use]
    pub fn host_part(&self) -> u64 {
        self.host_id.unwrap_or_else(|| naming::host_part(&self.name))
    }

    /// Whether it has this tag.
    #[must_use]
    pub fn has_tag(&self, tag: &Name) -> bool {
        self.tags.contains(tag)
    }
}

/// A member line applied to one node.
#[derive(Clone, Copy, Debug)]
pub struct ResolvedMember<'a> {
    /// The node.
    pub node: &'a Node,
    /// Which line of `members` it comes from, from 0.
    pub line: usize,
    /// Its role.
    pub role: Role,
    /// Its LANs.
    pub lans: &'a [Lan],
    /// Where it is reached in this network.
    pub endpoints: &'a [Endpoint],
    /// Its UDP port in this network.
    pub listen_port: u16,
}

impl ResolvedMember<'_> {
    /// Whether others can dial it.
    #[must_use]
    pub const fn is_dialable(&self) -> bool {
        !self.endpoints.is_empty()
    }
}

impl Fleet {
    /// The members of `network`: lines that name a node in their order, then the nodes of tags by name. Each node
    /// once; a line that names a node wins over a tag. Unknown nodes are left out (`check` reports them).
    #[must_use]
    pub fn members<'a>(&'a self, network: &'a Network) -> Vec<ResolvedMember<'a>> {
        let mut seen = std::collections::BTreeSet::new();
        let mut members = Vec::new();
        for (at, line) in network.members.iter().enumerate() {
            if let MemberSelector::Node(name) = &line.select
                && let Some(node) = self.nodes.get(name)
                && seen.insert(&node.name)
            {
                members.push(resolve(network, at, node));
            }
        }
        for (at, line) in network.members.iter().enumerate() {
            if let MemberSelector::Tag(tag) = &line.select {
                for node in self.nodes.values().filter(|node| node.has_tag(tag)) {
                    if seen.insert(&node.name) {
                        members.push(resolve(network, at, node));
                    }
                }
            }
        }
        members
    }

    /// The network with this id.
    #[must_use]
    pub fn network_by_id(&self, id: NetworkId) -> Option<&Network> {
        self.networks.values().find(|network| network.id == id)
    }
}

fn resolve<'a>(network: &'a Network, at: usize, node: &'a Node) -> ResolvedMember<'a> {
    let line = &network.members[at];
    ResolvedMember {
        node,
        line: at,
        role: line.role,
        lans: &line.lans,
        endpoints: line.endpoints.as_deref().unwrap_or(&node.endpoints),
        listen_port: line.listen_port.unwrap_or(network.listen_port),
    }
}
