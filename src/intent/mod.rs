//! What this host must do, subject by subject: (fleet, this node) → [`HostIntent`].
//!
//! Pure: the same on every run, for any node, offline. Planes compile their desired state from it and from nothing
//! else of the fleet; who carries which prefix is decided here, once, for the routes, WireGuard and the firewall alike.

mod bridged;
mod bridges;
mod compile;
mod firewall;
mod mappings;
mod topology;
mod underlay;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::fleet::FleetDigest;
use crate::model::network::{
    Action, DefaultAction, Endpoint, Isolation, Network, NetworkId, PortRange, Protocol,
};
use crate::model::{AddressSet, Agreement, LinkName, Name, PresharedKey, PublicKey};

use compile::DEFAULT_MTU;
pub use compile::{Facts, GatewayFacts, IntentError, compile, overlay_addresses};
pub use underlay::{Underlay, matters as underlay_matters};

/// What keeps the networks of this host apart, as far as the host can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IsolationMode {
    /// A VRF.
    Vrf,
    /// A table, and rules that lead to it.
    Rules,
    /// Nothing: routes go to the main table.
    Main,
}

impl IsolationMode {
    /// What keeps a network apart on a host that does what `self` says for those that are to be kept apart.
    const fn of(self, network: &Network) -> Self {
        match network.isolation {
            Isolation::Vrf => self,
            Isolation::None => Self::Main,
        }
    }
}

/// Everything that this host must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostIntent {
    /// This node.
    pub node: Name,
    /// Its key, by which a configuration belongs to a host.
    pub public_key: PublicKey,
    /// The key that it may have instead (rotation).
    pub next_public_key: Option<PublicKey>,
    /// What was compiled.
    pub fleet_digest: FleetDigest,
    /// Its networks.
    pub networks: BTreeMap<NetworkId, NetworkIntent>,
    /// Whether unbound services of the host answer on overlay addresses.
    pub host_services_in_vrf: bool,
    /// Networks that this host can't keep apart from others, which are left out of `networks`, and bridges that are left out of
    /// theirs.
    pub blocked: Vec<Blocked>,
    /// What the operator should know, and no plane says.
    pub notices: Vec<Notice>,
}

/// Something the operator should know that is no error.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Notice {
    /// The network it concerns, if one.
    pub network: Option<Name>,
    /// What it is about: `rule web-to-db`, `node spoke-3`.
    pub object: String,
    /// The text.
    pub text: String,
}

/// Something that can't be made true as things are, and what an operator can do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Blocked {
    /// The network it concerns; none for the whole host.
    pub network: Option<NetworkId>,
    /// What is in the way, with its name.
    pub reason: String,
    /// What to do.
    pub fix: String,
}

/// What this host must do for one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkIntent {
    /// The network's name.
    pub name: Name,
    /// Its id.
    pub id: NetworkId,
    /// What keeps it apart.
    pub isolation: IsolationMode,
    /// The VRF, where isolation is by VRF.
    pub vrf: Option<LinkName>,
    /// The routing table: the network's own, or `main` (254).
    pub table: u32,
    /// The largest packet that reaches every peer whole, in bytes: the fleet's MTU, else [`DEFAULT_MTU`], or less where the
    /// way to a peer takes less.
    pub mtu: u32,
    /// Whether the fleet gives the MTU: it stays, whatever the ways to peers take.
    pub has_given_mtu: bool,
    /// What takes less than its link's MTU, since the way to its peer does: in bytes, by destination.
    pub narrow: BTreeMap<IpNet, u32>,
    /// This host's address in the network; on every overlay link of it, as a /128.
    pub overlay_v6: Ipv6Addr,
    /// The same in IPv4, as a /32, if the network carries v4.
    pub overlay_v4: Option<Ipv4Addr>,
    /// This host's link-local address on every overlay link, as a /64.
    pub link_local: Ipv6Addr,
    /// The overlay links, in order: a spoke has one for each hub, others have one.
    pub links: Vec<LinkIntent>,
    /// The LANs behind this host.
    pub lans: Vec<LanIntent>,
    /// The network's virtual IPs, here and elsewhere.
    pub vips: Vec<VipIntent>,
    /// Which link carries which prefix of others, as static routes.
    pub routes: BTreeMap<IpNet, LinkName>,
    /// Those of `routes` that any of a spoke's uplinks carries: they go over the first in the order of the hubs that is
    /// alive, and over the first of all where nothing is known. Empty where there is no choice.
    pub shared: BTreeSet<IpNet>,
    /// The key that binds a peer to this network.
    pub preshared_key: PresharedKey,
    /// The bridges to other sites that lead into it, by name.
    pub bridges: Vec<BridgeIntent>,
    /// What may pass.
    pub firewall: FirewallIntent,
}

/// How large packets may be that reach a peer whole, in bytes, by link; a peer is left out to which no way is known.
pub type PathMtus = BTreeMap<LinkName, BTreeMap<PublicKey, u32>>;

/// The sizes of a network's links and routes, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sizes {
    smallest: u32,
    links: Vec<u32>,
    narrow: BTreeMap<IpNet, u32>,
}

impl NetworkIntent {
    /// The same with links and routes as large as the ways to peers take; none where they are, and where the fleet gives
    /// the MTU. They are never larger than [`DEFAULT_MTU`]: more than that both ends must want, so the fleet gives it.
    #[must_use]
    pub fn fitted(&self, paths: &PathMtus) -> Option<Self> {
        if self.has_given_mtu {
            return None;
        }
        let sizes = self.sizes(paths);
        let is_so = self.mtu == sizes.smallest
            && self.narrow == sizes.narrow
            && self
                .links
                .iter()
                .map(|link| link.mtu)
                .eq(sizes.links.iter().copied());
        if is_so {
            return None;
        }
        let mut fitted = self.clone();
        fitted.mtu = sizes.smallest;
        fitted.narrow = sizes.narrow;
        for (link, mtu) in fitted.links.iter_mut().zip(sizes.links) {
            link.mtu = mtu;
        }
        Some(fitted)
    }

    fn sizes(&self, paths: &PathMtus) -> Sizes {
        let mut sizes = Sizes {
            smallest: DEFAULT_MTU,
            links: Vec::new(),
            narrow: BTreeMap::new(),
        };
        for link in &self.links {
            let known = paths.get(&link.name);
            let path = |key: &PublicKey| Some(DEFAULT_MTU.min(*known?.get(key)?));
            // Who hasn't been heard of yet widens nothing.
            let widest = link.peers.keys().filter_map(path).max().unwrap_or(DEFAULT_MTU);
            sizes.links.push(widest);
            for (key, peer) in &link.peers {
                let path = path(key).unwrap_or(widest);
                sizes.smallest = sizes.smallest.min(path);
                if path < widest {
                    sizes
                        .narrow
                        .extend(peer.allowed_ips.iter().map(|net| (*net, path)));
                }
            }
        }
        sizes
    }
}

/// One overlay link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkIntent {
    /// Its name.
    pub name: LinkName,
    /// What hangs on it.
    pub kind: LinkKind,
    /// Its MTU in bytes: what reaches the peer with the widest way whole.
    pub mtu: u32,
    /// The UDP port; none where any will do (a spoke's links to further hubs).
    pub listen_port: Option<u16>,
    /// Its peers.
    pub peers: BTreeMap<PublicKey, PeerIntent>,
    /// Of a multipoint link, the prefixes that more than one peer may carry, each with those that may. Which one does is up
    /// to the routes; where they don't say, it is the one whose `allowed_ips` has the prefix.
    pub carriers: BTreeMap<IpNet, BTreeSet<PublicKey>>,
}

/// What hangs on an overlay link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    /// One hub, which may carry anything of the network.
    Uplink {
        /// The hub.
        hub: Name,
    },
    /// Many peers, each carrying only what the fleet gives it: that is source validation.
    Multipoint,
}

/// A bridge to another site, as this host has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeIntent {
    /// Its name.
    pub name: Name,
    /// The other site, by its alias.
    pub peer: Name,
    /// Our gateway that carries it.
    pub gateway: Name,
    /// What the fleet takes from the other site.
    pub import: AddressSet,
    /// What the fleet gives to it.
    pub export: AddressSet,
    /// Of `import`, what may pass here: all of it, and on the gateway what the other site has agreed to.
    pub carried: AddressSet,
    /// Whether this host is the gateway.
    pub here: bool,
    /// Why it carries nothing here; of another host's bridge, only where this one leaves it out.
    pub waits_for: Option<String>,
    /// Why this host leaves it out: nothing of it is applied.
    pub clash: Option<UnderlayClash>,
    /// On the gateway, what the other site has agreed to.
    pub agreement: Option<Agreement>,
}

/// What on this host's underlay is in the way of a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnderlayClash {
    /// A network that this host is in.
    Overlaps {
        /// What the bridge imports.
        import: IpNet,
        /// The network of the host.
        net: IpNet,
        /// The interface that leads there.
        link: LinkName,
    },
    /// The networks that this host is in can't be read.
    Unknown,
}

impl fmt::Display for UnderlayClash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlaps { import, net, link } => {
                write!(f, "it imports {import}, and this host is in {net} by {link}")
            }
            Self::Unknown => write!(
                f,
                "which networks this host is in can't be read, and what it imports may be one"
            ),
        }
    }
}

/// One WireGuard peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIntent {
    /// The node; of another site's gateway, what the site is called here.
    pub node: Name,
    /// The bridge whose other end it is, if it is another site's gateway.
    pub bridge: Option<Name>,
    /// Its address in the network, unless it is another site's.
    pub overlay_v6: Option<Ipv6Addr>,
    /// Its link-local address on every link of the network, unless it is another site's.
    pub link_local: Option<Ipv6Addr>,
    /// The key that binds it to the network, where that isn't the network's own.
    pub preshared_key: Option<PresharedKey>,
    /// The key that it is about to have.
    pub next_public_key: Option<PublicKey>,
    /// Where it may be reached, best first; each with its port. Empty where it must call us.
    pub endpoints: Vec<Endpoint>,
    /// The port that endpoints without one mean.
    pub port: u16,
    /// Seconds between keepalives; 0 sends none.
    pub keepalive_seconds: u16,
    /// Its overlay addresses and its link-local one: what it is called as a next hop. Nobody else ever carries them.
    pub addresses: BTreeSet<IpAddr>,
    /// What it may send, and what is sent to it.
    pub allowed_ips: BTreeSet<IpNet>,
}

/// A LAN behind this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LanIntent {
    /// The subnet.
    pub subnet: IpNet,
    /// The interface that it is on, or that its router is on.
    pub interface: LinkName,
    /// The router, if it isn't on the interface itself.
    pub via: Option<IpAddr>,
}

/// A virtual IP of a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VipIntent {
    /// Its name.
    pub name: Name,
    /// The address.
    pub address: IpAddr,
    /// Who holds it now: the first holder of the fleet's order, or all holders of an anycast address.
    pub holders: Vec<Name>,
    /// Whether this host has it, on the network's dummy.
    pub here: bool,
}

/// What may pass between the overlay of one network and this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirewallIntent {
    /// What happens to what no rule names.
    pub default_action: DefaultAction,
    /// The overlay links.
    pub links: BTreeSet<LinkName>,
    /// The interfaces of LANs, each with the sources that may come from it.
    pub lan_sources: BTreeMap<LinkName, AddressSet>,
    /// What is this network's own on this host: overlay addresses, VIPs held, the subnets of own LANs. Anything else
    /// that arrives for the host itself is not for this network, whatever the rules say.
    pub own: AddressSet,
    /// The bound of the network: every address that may ever be a source or destination inside it.
    pub bound: AddressSet,
    /// The rules in order; a rule that can match nothing is left out.
    pub rules: Vec<RuleIntent>,
    /// Ports of this host's underlay that lead into the network, by name.
    pub mappings: Vec<MappingIntent>,
    /// What the mappings of other hosts send to this one, or through it.
    pub admissions: BTreeSet<AdmissionIntent>,
}

/// A port of this host's underlay that leads into a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingIntent {
    /// Its name.
    pub name: Name,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port, on every address of the underlay.
    pub listen_port: u16,
    /// The port of the target.
    pub target_port: u16,
    /// Where it leads, once for each family at most; never empty.
    pub ways: Vec<MappedWay>,
    /// Who may connect, of families that have a way.
    pub sources: AddressSet,
    /// Connections at once, if limited.
    pub max_connections: Option<u32>,
    /// New connections a second, if limited.
    pub rate_limit_per_second: Option<u32>,
}

/// How a mapped connection goes through the network: both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MappedWay {
    /// The overlay address of the host that listens: the source that the target sees.
    pub hub: IpAddr,
    /// The target.
    pub target: IpAddr,
}

/// What a port mapping of another host sends here, or through here; it is let in without a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AdmissionIntent {
    /// The mapping.
    pub name: Name,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The destination port.
    pub port: u16,
    /// The source: the overlay address of the host that listens.
    pub from: IpAddr,
    /// The target.
    pub to: IpAddr,
}

/// One rule with its selectors resolved. `from` and `to` are never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleIntent {
    /// Its name.
    pub name: Name,
    /// Its priority.
    pub priority: u32,
    /// What happens.
    pub action: Action,
    /// Sources.
    pub from: AddressSet,
    /// Destinations.
    pub to: AddressSet,
    /// The protocol.
    pub protocol: Protocol,
    /// Destination ports, sorted, neither overlapping nor adjacent; none means all.
    pub ports: Vec<PortRange>,
    /// Whether matches are logged.
    pub log: bool,
}
