//! What the table of some policies does to one packet, and which line decides: [`lower`](super::compile::lower) read
//! aloud, guards first. Tests hold it against the lines that are loaded.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::policy::{Class, Family, Packet, Policy};
use crate::intent::IsolationMode;
use crate::model::network::{Action, DefaultAction, NetworkId};
use crate::model::{AddressSet, LinkName, Name};

/// Where a packet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// For the host, from this interface.
    Input(LinkName),
    /// From the host, over this interface.
    Output(LinkName),
    /// From one interface to another.
    Forward(LinkName, LinkName),
}

impl Hook {
    /// The hook's name in nftables.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Input(_) => "input",
            Self::Output(_) => "output",
            Self::Forward(..) => "forward",
        }
    }
}

/// What no rule can open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// It is for an address of this host that isn't the network's own.
    OwnDestination,
    /// It comes from an address of this host that isn't the network's own.
    OwnSource,
    /// Its source isn't of the LAN that it came from.
    LanSource(LinkName),
    /// It would leave through an interface of no network, or of another one.
    LeavesThrough(LinkName),
    /// It would enter from an interface of no network, or of another one.
    CameFrom(LinkName),
    /// Its source is outside the network.
    BoundSource,
    /// Its destination is outside the network.
    BoundDestination,
    /// It neither comes from this host or its LANs nor goes there, and this host is no hub.
    NoTransit,
    /// It is for a link-local address.
    LinkLocal,
    /// It is for an overlay address of this network, and came from outside it.
    Entry(NetworkId),
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnDestination => write!(f, "the destination isn't the network's own on this host"),
            Self::OwnSource => write!(f, "the source isn't the network's own on this host"),
            Self::LanSource(lan) => write!(f, "the source isn't of the LAN on {lan}"),
            Self::LeavesThrough(link) => write!(f, "{link} isn't of this network"),
            Self::CameFrom(link) => write!(f, "{link} isn't of the network that it would enter"),
            Self::BoundSource => write!(f, "the source is outside the network"),
            Self::BoundDestination => write!(f, "the destination is outside the network"),
            Self::NoTransit => write!(f, "this host is no hub: it carries only its own and its LANs'"),
            Self::LinkLocal => write!(f, "link-local addresses take only what a link needs"),
            Self::Entry(network) => write!(
                f,
                "overlay addresses of network {network} are reached through it only"
            ),
        }
    }
}

/// The connection that a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// A new one, whose first packet it is.
    New,
    /// One that this host has let pass.
    Known,
    /// A new one that a port mapping of this host has let into this network: the packet is for the target by now.
    Mapped(NetworkId),
    /// One that was let in like that, and the packet answers it.
    MappedBack(NetworkId),
}

/// What decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// No network judges what passes these interfaces.
    NotJudged,
    /// It belongs to a connection that was let pass.
    Established,
    /// The port mapping that sends it here, through here, or from the underlay into the network.
    Mapping(Name),
    /// The first rule that names it.
    Rule(Name, Action),
    /// No rule names it: the network's default.
    Default(DefaultAction),
    /// A guard, whatever the rules say.
    Guard(Guard),
}

impl Ruling {
    /// Whether the packet passes.
    #[must_use]
    pub const fn passes(&self) -> bool {
        match self {
            Self::NotJudged | Self::Established | Self::Mapping(_) => true,
            Self::Rule(_, action) => matches!(action, Action::Accept),
            Self::Default(action) => matches!(action, DefaultAction::Accept),
            Self::Guard(_) => false,
        }
    }
}

/// Judges a packet. ICMP errors and what neighbours say to each other aren't judged here.
#[must_use]
pub fn judge(
    policies: &BTreeMap<NetworkId, Policy>,
    hook: &Hook,
    packet: &Packet,
    connection: Connection,
) -> Ruling {
    let host = Host { policies };
    let seen = Seen { packet, connection };
    match hook {
        Hook::Input(from) => {
            let ruling = host.judging(from).map(|policy| policy.input(from, seen));
            match ruling {
                Some(ruling) if !ruling.passes() => ruling,
                other => host
                    .entry(from, packet.destination)
                    .or(other)
                    .unwrap_or(Ruling::NotJudged),
            }
        }
        Hook::Output(to) => host
            .judging(to)
            .map_or(Ruling::NotJudged, |policy| policy.output(seen)),
        Hook::Forward(from, to) => host.forward(from, to, seen),
    }
}

#[derive(Clone, Copy)]
struct Seen<'a> {
    packet: &'a Packet,
    connection: Connection,
}

impl Seen<'_> {
    const fn is_known(&self) -> bool {
        match self.connection {
            Connection::Known | Connection::MappedBack(_) => true,
            Connection::New | Connection::Mapped(_) => false,
        }
    }
}

struct Host<'a> {
    policies: &'a BTreeMap<NetworkId, Policy>,
}

impl<'a> Host<'a> {
    /// The network that judges what passes an interface. In the main table, only overlay links are judged.
    fn judging(&self, interface: &LinkName) -> Option<&'a Policy> {
        self.policies.values().find(|policy| {
            policy.links.contains(interface)
                || (policy.isolation != IsolationMode::Main && policy.lan_sources.contains_key(interface))
        })
    }

    /// Without a VRF, the kernel takes a packet for an overlay address from anywhere; this refuses it.
    fn entry(&self, from: &LinkName, destination: IpAddr) -> Option<Ruling> {
        let in_vrf = self
            .judging(from)
            .is_some_and(|policy| policy.isolation == IsolationMode::Vrf);
        let mut guarding = self.policies.values().filter(|policy| {
            let is_entry = !in_vrf && (from.as_str() == "lo" || policy.entries.contains(from));
            policy.guarded.contains(destination) && !is_entry
        });
        guarding
            .next()
            .map(|policy| Ruling::Guard(Guard::Entry(policy.id)))
    }

    fn forward(&self, from: &LinkName, to: &LinkName, seen: Seen<'_>) -> Ruling {
        let leaving = self.judging(from).map(|policy| policy.from(from, to, seen));
        if let Some(ruling) = &leaving
            && !ruling.passes()
        {
            return ruling.clone();
        }
        let Some(entered) = self.judging(to) else {
            return leaving.unwrap_or(Ruling::NotJudged);
        };
        if let Some(ruling) = entered.let_in(seen) {
            return ruling;
        }
        let in_main = entered.isolation == IsolationMode::Main;
        if entered.links.contains(from) || (!in_main && entered.lan_sources.contains_key(from)) {
            return leaving.unwrap_or(Ruling::NotJudged);
        }
        if in_main && entered.lan_sources.contains_key(from) {
            return entered.from(from, to, seen);
        }
        Ruling::Guard(Guard::CameFrom(from.clone()))
    }
}

fn bound(set: &AddressSet, address: IpAddr, guard: Guard) -> Result<(), Ruling> {
    if set.contains(address) {
        Ok(())
    } else {
        Err(Ruling::Guard(guard))
    }
}

impl Policy {
    fn input(&self, from: &LinkName, seen: Seen<'_>) -> Ruling {
        self.try_input(from, seen).unwrap_or_else(|ruling| ruling)
    }

    fn try_input(&self, from: &LinkName, seen: Seen<'_>) -> Result<Ruling, Ruling> {
        let packet = seen.packet;
        bound(&self.own, packet.destination, Guard::OwnDestination)?;
        if self.isolation != IsolationMode::Main {
            self.lan_source(from, packet)?;
        }
        if seen.is_known() {
            return Ok(Ruling::Established);
        }
        if is_link_local(packet.destination) {
            return Err(Ruling::Guard(Guard::LinkLocal));
        }
        bound(&self.bound, packet.source, Guard::BoundSource)?;
        Ok(self.incoming(packet))
    }

    fn output(&self, seen: Seen<'_>) -> Ruling {
        self.try_output(seen).unwrap_or_else(|ruling| ruling)
    }

    fn try_output(&self, seen: Seen<'_>) -> Result<Ruling, Ruling> {
        if seen.is_known() {
            return Ok(Ruling::Established);
        }
        bound(&self.own, seen.packet.source, Guard::OwnSource)?;
        bound(&self.bound, seen.packet.destination, Guard::BoundDestination)?;
        Ok(self.ruling(seen.packet))
    }

    fn from(&self, from: &LinkName, to: &LinkName, seen: Seen<'_>) -> Ruling {
        self.try_from(from, to, seen).unwrap_or_else(|ruling| ruling)
    }

    fn try_from(&self, from: &LinkName, to: &LinkName, seen: Seen<'_>) -> Result<Ruling, Ruling> {
        let packet = seen.packet;
        // Ahead of everything else: it leaves for the underlay.
        if seen.connection == Connection::MappedBack(self.id)
            && self.links.contains(from)
            && !self.mappings.is_empty()
        {
            return Ok(Ruling::Established);
        }
        if !self.exits.contains(to) {
            return Err(Ruling::Guard(Guard::LeavesThrough(to.clone())));
        }
        self.lan_source(from, packet)?;
        if seen.is_known() {
            return Ok(Ruling::Established);
        }
        bound(&self.bound, packet.source, Guard::BoundSource)?;
        bound(&self.bound, packet.destination, Guard::BoundDestination)?;
        let is_own = self.local.contains(packet.source) || self.local.contains(packet.destination);
        if !self.relays && !is_own {
            return Err(Ruling::Guard(Guard::NoTransit));
        }
        Ok(self.incoming(packet))
    }

    /// What a port mapping of this host sends in, to one of its targets.
    fn let_in(&self, seen: Seen<'_>) -> Option<Ruling> {
        let packet = seen.packet;
        let mapping = self.mappings.iter().find(|mapping| {
            mapping.target_port == packet.port
                && Class::from(mapping.protocol).matches(Family::of(packet.destination), packet.protocol)
                && mapping.ways.iter().any(|way| way.target == packet.destination)
        })?;
        (seen.connection == Connection::Mapped(self.id)).then(|| Ruling::Mapping(mapping.name.clone()))
    }

    fn lan_source(&self, from: &LinkName, packet: &Packet) -> Result<(), Ruling> {
        match self.lan_sources.get(from) {
            Some(nets) => bound(nets, packet.source, Guard::LanSource(from.clone())),
            None => Ok(()),
        }
    }

    /// What comes in or through may be what another host's mapping sends, ahead of the rules.
    fn incoming(&self, packet: &Packet) -> Ruling {
        match self.admission(packet) {
            Some(admission) => Ruling::Mapping(admission.name.clone()),
            None => self.ruling(packet),
        }
    }

    fn ruling(&self, packet: &Packet) -> Ruling {
        match self.first(packet) {
            Some(rule) => Ruling::Rule(rule.name.clone(), rule.action),
            None => Ruling::Default(self.default_action),
        }
    }
}

/// What is for a link alone (RFC 4291): link-local addresses, and the groups of one link.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local() || address.segments()[0] == 0xff02,
    }
}
