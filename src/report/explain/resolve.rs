//! What an operator names → two addresses in one network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::answer::{End, Named};
use super::asked::{AskError, Asked, names};
use super::underlay;
use super::view::View;

use crate::intent::overlay_addresses;
use crate::model::network::{Network, PortMapping};
use crate::model::routing::Bridge;
use crate::model::{Fleet, Name};

/// Where the ends are.
pub(super) enum Resolved<'a> {
    /// In one network.
    Within {
        network: &'a Network,
        source: End,
        destination: End,
    },
    /// From the underlay into a network.
    Mapped {
        network: &'a Network,
        mapping: &'a PortMapping,
        source: End,
        destination: End,
    },
    /// In no network together.
    Apart {
        check: &'static str,
        text: String,
        fix: String,
    },
}

/// What an operator wrote.
pub(super) enum Term {
    Address(IpAddr),
    Name(Name),
}

impl Term {
    fn parse(text: &str) -> Result<Self, AskError> {
        if let Ok(net) = text.parse::<IpNet>() {
            if net.addr() == net.network() && net.prefix_len() < net.max_prefix_len() {
                return Err(AskError::Prefix(text.to_owned()));
            }
            return Ok(Self::Address(net.addr()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        Name::new(text)
            .map(Self::Name)
            .map_err(|_| AskError::Unknown(text.to_owned()))
    }
}

/// What it means in one network.
struct Meaning {
    node: Option<Name>,
    named: Named,
    bridge: Option<Name>,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl Meaning {
    fn address(node: Option<Name>, named: Named, address: IpAddr) -> Self {
        let (v4, v6) = match address {
            IpAddr::V4(v4) => (Some(v4), None),
            IpAddr::V6(v6) => (None, Some(v6)),
        };
        Self {
            node,
            named,
            bridge: None,
            v4,
            v6,
        }
    }

    fn end(self, asked: &str, address: IpAddr) -> End {
        End {
            asked: asked.to_owned(),
            address,
            node: self.node,
            bridge: self.bridge,
            named: self.named,
        }
    }
}

pub(super) fn resolve<'a>(
    fleet: &'a Fleet,
    here: Option<&View>,
    asked: &Asked,
) -> Result<Resolved<'a>, AskError> {
    let networks: Vec<&Network> = match &asked.network {
        Some(name) => {
            let network = fleet.networks.get(name);
            vec![network.ok_or_else(|| AskError::NoNetwork(name.clone()))?]
        }
        None => fleet.networks.values().collect(),
    };
    let (from, to) = (Term::parse(&asked.source)?, Term::parse(&asked.destination)?);
    let mut both = Vec::new();
    let (mut with_source, mut with_destination) = (Vec::new(), Vec::new());
    for network in networks {
        let source = meaning(fleet, network, &from)?;
        let destination = meaning(fleet, network, &to)?;
        if source.is_some() {
            with_source.push(network.name.clone());
        }
        if destination.is_some() {
            with_destination.push(network.name.clone());
        }
        if let (Some(source), Some(destination)) = (source, destination) {
            both.push((network, source, destination));
        }
    }
    match both.len() {
        0 => {
            if let Some(resolved) = underlay::resolve(fleet, here, asked, (&from, &to))? {
                return Ok(resolved);
            }
            apart(
                fleet,
                [
                    (&asked.source, &from, with_source),
                    (&asked.destination, &to, with_destination),
                ],
            )
        }
        1 => both
            .pop()
            .map(|(network, source, destination)| within(asked, network, source, destination))
            .expect("one is there"),
        _ => Err(AskError::Ambiguous {
            source_end: asked.source.clone(),
            destination: asked.destination.clone(),
            networks: both
                .into_iter()
                .map(|(network, _, _)| network.name.clone())
                .collect(),
        }),
    }
}

fn within<'a>(
    asked: &Asked,
    network: &'a Network,
    source: Meaning,
    destination: Meaning,
) -> Result<Resolved<'a>, AskError> {
    let (from, to) = match (source.v6, destination.v6, source.v4, destination.v4) {
        (Some(from), Some(to), _, _) => (IpAddr::V6(from), IpAddr::V6(to)),
        (_, _, Some(from), Some(to)) => (IpAddr::V4(from), IpAddr::V4(to)),
        _ => {
            return Err(AskError::Families(
                asked.source.clone(),
                asked.destination.clone(),
            ));
        }
    };
    Ok(Resolved::Within {
        network,
        source: source.end(&asked.source, from),
        destination: destination.end(&asked.destination, to),
    })
}

fn apart<'a>(fleet: &Fleet, ends: [(&String, &Term, Vec<Name>); 2]) -> Result<Resolved<'a>, AskError> {
    let mut said = Vec::new();
    for (text, term, networks) in ends {
        let is_node = matches!(term, Term::Name(name) if fleet.nodes.contains_key(name));
        if networks.is_empty() && matches!(term, Term::Name(_)) && !is_node {
            return Err(AskError::Unknown(text.clone()));
        }
        said.push(if networks.is_empty() {
            format!("{text} is in none of them")
        } else {
            format!("{text} is in {}", names(&networks))
        });
    }
    Ok(Resolved::Apart {
        check: "network",
        text: format!("no network has both: {}", said.join(", ")),
        fix: "make both members of one network, or put the address into a LAN of a member".to_owned(),
    })
}

/// What a term means in this network; none where it isn't in it.
fn meaning(fleet: &Fleet, network: &Network, term: &Term) -> Result<Option<Meaning>, AskError> {
    match term {
        Term::Name(name) => by_name(fleet, network, name),
        Term::Address(address) => Ok(by_address(fleet, network, *address)),
    }
}

fn by_name(fleet: &Fleet, network: &Network, name: &Name) -> Result<Option<Meaning>, AskError> {
    let members = fleet.members(network);
    let member = members.iter().find(|member| member.node.name == *name);
    let vip = network.virtual_ips.iter().find(|vip| vip.name == *name);
    match (member, vip) {
        (Some(_), Some(_)) => Err(AskError::TwoMeanings(name.to_string(), network.name.clone())),
        (Some(member), None) => {
            let (v6, v4) = overlay_addresses(network, member.node);
            Ok(Some(Meaning {
                node: Some(name.clone()),
                named: Named::Node(name.clone()),
                bridge: None,
                v4,
                v6: Some(v6),
            }))
        }
        (None, Some(vip)) => Ok(Some(Meaning::address(
            vip.holders.first().cloned(),
            Named::VirtualIp(name.clone()),
            vip.address,
        ))),
        (None, None) => Ok(None),
    }
}

/// The host that has an address in a network, or that its LAN is behind.
pub(super) fn owner(fleet: &Fleet, network: &Network, address: IpAddr) -> Option<Name> {
    by_address(fleet, network, address)?.node
}

fn by_address(fleet: &Fleet, network: &Network, address: IpAddr) -> Option<Meaning> {
    let members = fleet.members(network);
    for member in &members {
        let (v6, v4) = overlay_addresses(network, member.node);
        if IpAddr::V6(v6) == address || v4.is_some_and(|v4| IpAddr::V4(v4) == address) {
            let name = &member.node.name;
            let named = Named::Node(name.clone());
            return Some(Meaning::address(Some(name.clone()), named, address));
        }
    }
    if let Some(vip) = network.virtual_ips.iter().find(|vip| vip.address == address) {
        let named = Named::VirtualIp(vip.name.clone());
        return Some(Meaning::address(vip.holders.first().cloned(), named, address));
    }
    let lans = members
        .iter()
        .flat_map(|member| member.lans.iter().map(move |lan| (member.node, lan.subnet)));
    let behind = lans
        .filter(|(_, subnet)| subnet.contains(&address))
        .max_by_key(|(_, subnet)| subnet.prefix_len());
    if let Some((node, _)) = behind {
        return Some(Meaning::address(Some(node.name.clone()), Named::Address, address));
    }
    if let Some((bridge, gateway)) = bridge_to(fleet, network, address) {
        // What comes from there, or goes there, comes and goes through the gateway.
        let named = Named::Federation(bridge.peer.clone());
        return Some(Meaning {
            bridge: Some(bridge.name.clone()),
            ..Meaning::address(Some(gateway), named, address)
        });
    }
    let prefixes = [Some(IpNet::V6(network.prefix)), network.prefix_v4.map(IpNet::V4)];
    let mut prefixes = prefixes.into_iter().chain([network.workload_prefix]).flatten();
    prefixes
        .any(|prefix| prefix.contains(&address))
        .then(|| Meaning::address(None, Named::Address, address))
}

/// The bridge that imports an address, and the gateway that carries it.
fn bridge_to<'a>(fleet: &'a Fleet, network: &Network, address: IpAddr) -> Option<(&'a Bridge, Name)> {
    let bridges = fleet.bridges.values();
    let mut into = bridges.filter(|bridge| bridge.enabled && bridge.network == network.name);
    let bridge = into.find(|bridge| bridge.import.iter().any(|net| net.contains(&address)))?;
    let members = fleet.members(network);
    let is_member = |name: &&Name| members.iter().any(|member| member.node.name == **name);
    let gateway = bridge.gateways.iter().find(is_member)?;
    Some((bridge, gateway.clone()))
}
