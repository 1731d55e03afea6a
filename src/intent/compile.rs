//! (Fleet, node, what the host can do) → [`HostIntent`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::underlay::Underlay;
use super::{
    Blocked, HostIntent, IsolationMode, LanIntent, NetworkIntent, Notice, VipIntent, bridges, firewall,
    topology, underlay,
};
use crate::model::address::overlaps;
use crate::model::fleet::{Fleet, Node, ResolvedMember};
use crate::model::network::{LanAttachment, Network, NetworkId, VirtualIp};
use crate::model::{Agreements, Name, PresharedKey, naming};

/// The kernel's main routing table (`RT_TABLE_MAIN`).
const MAIN_TABLE: u32 = 254;

/// The MTU of overlay links where nothing says more: 1500 less IPv6, UDP and WireGuard headers.
pub(super) const DEFAULT_MTU: u32 = 1420;

/// What the host can do and wants, beside the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// How networks with `isolation = "vrf"` are kept apart here.
    pub isolation: IsolationMode,
    /// `[isolation] host_services_in_vrf`
    pub host_services_in_vrf: bool,
    /// Whether the kernel has dummy links, which hold virtual IPs.
    pub dummies: bool,
    /// What other sites have agreed to, as far as it is in force now.
    pub agreements: Agreements,
    /// What this host has of a gateway, if it is one.
    pub gateway: Option<GatewayFacts>,
    /// The networks that this host is in; none where that can't be read. Offline nothing is known of any.
    pub underlay: Option<Underlay>,
}

/// What a gateway's own configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayFacts {
    /// The port of `[federation] listen`.
    pub port: u16,
    /// `[federation] allow_dial`: where else than on the Internet other sites' gateways may be.
    pub allow_dial: Vec<IpNet>,
}

/// Why no intent can be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntentError {
    /// The fleet has no such node.
    #[error("the fleet has no node {0}: name this host in sdwand.toml's `node` as [[nodes]] does")]
    UnknownNode(Name),
}

/// A member with its addresses in one network.
pub(super) struct Placed<'a> {
    pub(super) member: ResolvedMember<'a>,
    pub(super) v6: Ipv6Addr,
    pub(super) v4: Option<Ipv4Addr>,
    pub(super) link_local: Ipv6Addr,
    /// The virtual IPs it holds.
    pub(super) vips: Vec<IpAddr>,
    /// What comes from other sites through it.
    pub(super) imports: Vec<IpNet>,
}

impl Placed<'_> {
    pub(super) fn name(&self) -> &Name {
        &self.member.node.name
    }

    /// Its own addresses, and the virtual IPs it holds.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpNet> + '_ {
        let own = [Some(IpAddr::V6(self.v6)), self.v4.map(IpAddr::V4)];
        own.into_iter()
            .flatten()
            .chain(self.vips.iter().copied())
            .map(IpNet::from)
    }

    /// The subnets behind it.
    pub(super) fn lans(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.member.lans.iter().map(|lan| lan.subnet.trunc())
    }

    /// Everything that it alone carries.
    pub(super) fn carried(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.addresses()
            .chain(self.lans())
            .chain(self.imports.iter().copied())
    }
}

/// What `node` must do.
///
/// # Errors
/// The fleet has no such node.
pub fn compile(fleet: &Fleet, node: &Name, facts: &Facts) -> Result<HostIntent, IntentError> {
    let me = fleet
        .nodes
        .get(node)
        .ok_or_else(|| IntentError::UnknownNode(node.clone()))?;
    let mut notices = Vec::new();
    let mut networks = BTreeMap::new();
    for network in fleet.networks.values() {
        if let Some(intent) = compile_network(fleet, network, me, facts, &mut notices) {
            networks.insert(network.id, intent);
        }
    }
    let mut blocked = if facts.isolation == IsolationMode::Rules {
        needs_vrf(&mut networks)
    } else {
        Vec::new()
    };
    blocked.extend(
        networks
            .values()
            .filter_map(|network| needs_dummy(network, node, facts)),
    );
    blocked.extend(networks.values().flat_map(underlay::blocked));
    notices.sort();
    Ok(HostIntent {
        node: node.clone(),
        public_key: me.public_key,
        next_public_key: me.next_public_key,
        fleet_digest: fleet.digest,
        networks,
        host_services_in_vrf: facts.host_services_in_vrf,
        blocked,
        notices,
    })
}

/// A node's overlay addresses in a network; IPv4 only where the network carries it and the node has a `host_id`.
#[must_use]
pub fn overlay_addresses(network: &Network, node: &Node) -> (Ipv6Addr, Option<Ipv4Addr>) {
    let v4 = network
        .prefix_v4
        .and_then(|prefix| naming::address_v4(prefix, node.host_id?));
    (naming::address_v6(network.prefix, node.host_part()), v4)
}

fn place<'a>(network: &Network, member: ResolvedMember<'a>) -> Placed<'a> {
    let vips = network
        .virtual_ips
        .iter()
        .filter(|vip| vip.held_by(&member.node.name));
    let (v6, v4) = overlay_addresses(network, member.node);
    Placed {
        v6,
        v4,
        link_local: naming::link_local(member.node.host_part()),
        vips: vips.map(|vip: &VirtualIp| vip.address).collect(),
        imports: Vec::new(),
        member,
    }
}

fn compile_network(
    fleet: &Fleet,
    network: &Network,
    me: &Node,
    facts: &Facts,
    notices: &mut Vec<Notice>,
) -> Option<NetworkIntent> {
    let mut members: Vec<Placed> = fleet
        .members(network)
        .into_iter()
        .map(|member| place(network, member))
        .collect();
    let names: BTreeSet<Name> = members.iter().map(|member| member.name().clone()).collect();
    let isolation = facts.isolation.of(network);
    let clashes = underlay::clashes(fleet, network, isolation, facts.underlay.as_ref());
    let mut imports = bridges::imports(fleet, network, &clashes, |name| names.contains(name));
    for member in &mut members {
        member.imports = imports.remove(member.name()).unwrap_or_default();
    }
    let own = members.iter().find(|placed| placed.name() == &me.name)?;
    let lans = own_lans(own, network, notices);
    let mut wiring = topology::wire(network, &members, own, notices);
    let bridges = bridges::compile(fleet, network, &members, own, &facts.agreements, clashes);
    let bound = topology::bound(network, &members).iter().collect();
    let allowed = facts
        .gateway
        .as_ref()
        .map_or(&[][..], |gateway| &gateway.allow_dial);
    bridges::attach(&bridges, network, (&bound, allowed), &mut wiring, notices);
    let around = firewall::Around {
        members: &members,
        own,
        links: &wiring.links,
        lans: &lans,
        bridges: &bridges,
        port: facts.gateway.as_ref().map(|gateway| gateway.port),
    };
    let firewall = firewall::compile(network, &around, notices);
    Some(NetworkIntent {
        name: network.name.clone(),
        id: network.id,
        isolation,
        vrf: (isolation == IsolationMode::Vrf).then(|| naming::vrf(network.id)),
        table: match isolation {
            IsolationMode::Vrf | IsolationMode::Rules => naming::table(network.id),
            IsolationMode::Main => MAIN_TABLE,
        },
        mtu: network.mtu.unwrap_or(DEFAULT_MTU),
        has_given_mtu: network.mtu.is_some(),
        narrow: BTreeMap::new(),
        overlay_v6: own.v6,
        overlay_v4: own.v4,
        link_local: own.link_local,
        links: wiring.links,
        lans,
        vips: vips(network, own.name(), facts),
        routes: wiring.routes,
        shared: wiring.shared,
        preshared_key: PresharedKey::derive(&fleet.site.prefix.to_string(), network.id.get(), None),
        bridges,
        firewall,
    })
}

/// The LANs behind this host; one whose router is on no other LAN of it is left out and named.
fn own_lans(own: &Placed<'_>, network: &Network, notices: &mut Vec<Notice>) -> Vec<LanIntent> {
    let on_interface = |router: &IpAddr| {
        own.member.lans.iter().find_map(|lan| match &lan.attachment {
            LanAttachment::Interface(name) if lan.subnet.contains(router) => Some(name.clone()),
            LanAttachment::Interface(_) | LanAttachment::Via(_) => None,
        })
    };
    let mut lans = Vec::new();
    for lan in own.member.lans {
        let (interface, via) = match &lan.attachment {
            LanAttachment::Interface(name) => (Some(name.clone()), None),
            LanAttachment::Via(router) => (on_interface(router), Some(*router)),
        };
        match interface {
            Some(interface) => lans.push(LanIntent {
                subnet: lan.subnet.trunc(),
                interface,
                via,
            }),
            None => notices.push(Notice {
                network: Some(network.name.clone()),
                object: format!("lan {}", lan.subnet),
                text: "its router is on no LAN interface of this node: the LAN is left out".to_owned(),
            }),
        }
    }
    lans
}

fn vips(network: &Network, own: &Name, facts: &Facts) -> Vec<VipIntent> {
    let vips = network.virtual_ips.iter().map(|vip| VipIntent {
        name: vip.name.clone(),
        address: vip.address,
        holders: vip
            .holders
            .iter()
            .filter(|holder| vip.held_by(holder))
            .cloned()
            .collect(),
        here: facts.dummies && vip.held_by(own),
    });
    vips.collect()
}

/// Virtual IPs live on a dummy, never on `lo`: where the kernel has none, this host can't hold them.
fn needs_dummy(network: &NetworkIntent, own: &Name, facts: &Facts) -> Option<Blocked> {
    let held = network.vips.iter().filter(|vip| vip.holders.contains(own));
    let names: Vec<&str> = held.map(|vip| vip.name.as_str()).collect();
    (!facts.dummies && !names.is_empty()).then(|| Blocked {
        network: Some(network.id),
        reason: format!(
            "needs dummy links for the virtual IPs of network {} that this host holds: {}",
            network.name,
            names.join(", ")
        ),
        fix: "use a kernel with CONFIG_DUMMY (`modprobe dummy`), or put another holder first".to_owned(),
    })
}

/// Without a VRF, the `local` table is shared: two networks of which both have a LAN on this host with the same
/// addresses, or one a LAN with the other's overlay address in it, would leak into each other. The one with the lower id
/// stays; the others are blocked.
fn needs_vrf(networks: &mut BTreeMap<NetworkId, NetworkIntent>) -> Vec<Blocked> {
    let mut kept: Vec<(NetworkId, Vec<IpNet>)> = Vec::new();
    let mut blocked = Vec::new();
    for (id, intent) in networks
        .iter()
        .filter(|(_, intent)| intent.isolation == IsolationMode::Rules)
    {
        let overlay = std::iter::once(IpNet::from(IpAddr::V6(intent.overlay_v6)));
        let overlay = overlay.chain(intent.overlay_v4.map(|v4| IpNet::from(IpAddr::V4(v4))));
        let vips = intent.vips.iter().filter(|vip| vip.here);
        let overlay = overlay.chain(vips.map(|vip| IpNet::from(vip.address)));
        let local: Vec<IpNet> = intent.lans.iter().map(|lan| lan.subnet).chain(overlay).collect();
        let clash = kept.iter().find_map(|(other, subnets)| {
            let pair = subnets.iter().flat_map(|a| local.iter().map(move |b| (a, b)));
            pair.into_iter()
                .find(|(a, b)| overlaps(a, b))
                .map(|(a, b)| (*other, *a, *b))
        });
        match clash {
            Some((other, theirs, ours)) => blocked.push(Blocked {
                network: Some(*id),
                reason: format!(
                    "needs VRF: {ours} of network {} overlaps {theirs} of network {other} on this host",
                    intent.name
                ),
                fix: "use a kernel with VRF (CONFIG_NET_VRF, `modprobe vrf`), or put the LANs behind different nodes"
                    .to_owned(),
            }),
            None => kept.push((*id, local)),
        }
    }
    let out: BTreeSet<NetworkId> = blocked.iter().filter_map(|b| b.network).collect();
    networks.retain(|id, _| !out.contains(id));
    blocked
}
