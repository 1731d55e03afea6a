//! A destination that is a host's address on the underlay → the port mapping there, and its ends.

use std::net::IpAddr;

use super::answer::{End, Named};
use super::asked::{AskError, Asked, Flow};
use super::resolve::{Resolved, Term};
use super::view::View;
use crate::model::Name;
use crate::model::fleet::Fleet;
use crate::model::network::{EndpointHost, Network, PortMapping, Protocol};

/// What is asked, if it is for a host's address on the underlay; none where it isn't. `here` is a host that was looked at:
/// it knows its own addresses there.
pub(super) fn resolve<'a>(
    fleet: &'a Fleet,
    here: Option<&View>,
    asked: &Asked,
    (from, to): (&Term, &Term),
) -> Result<Option<Resolved<'a>>, AskError> {
    let places = places(fleet, here);
    let of = |term: &Term| -> Vec<(Name, IpAddr)> {
        let of = |(name, address): &&(Name, IpAddr)| match term {
            Term::Address(wanted) => address == wanted,
            Term::Name(wanted) => name == wanted,
        };
        places.iter().filter(of).cloned().collect()
    };
    let destinations = of(to);
    let sources: Vec<(Option<Name>, IpAddr)> = match from {
        Term::Address(address) => {
            let owner = of(from).into_iter().next().map(|(name, _)| name);
            vec![(owner, *address)]
        }
        Term::Name(_) => {
            let places = of(from).into_iter();
            places.map(|(name, address)| (Some(name), address)).collect()
        }
    };
    // Two names are two members of networks, unless one is an address.
    if destinations.is_empty() || matches!((from, to), (Term::Name(_), Term::Name(_))) {
        return Ok(None);
    }
    let pairs = sources.iter().flat_map(|source| {
        let of_family = |(_, to): &&(Name, IpAddr)| to.is_ipv4() == source.1.is_ipv4();
        destinations.iter().filter(of_family).map(move |to| (source, to))
    });
    let pairs: Vec<_> = pairs.collect();
    for (source, (hub, address)) in &pairs {
        if let Some((network, mapping)) = mapping(fleet, asked, hub) {
            return Ok(Some(Resolved::Mapped {
                network,
                mapping,
                source: end(&asked.source, source.0.clone(), source.1),
                destination: end(&asked.destination, Some(hub.clone()), *address),
            }));
        }
    }
    match (to, pairs.first(), destinations.first()) {
        // It may be a member of a network.
        (Term::Name(_), ..) | (_, _, None) => Ok(None),
        (Term::Address(_), Some((_, (hub, address))), _) => Ok(Some(unmapped(asked.flow, hub, *address))),
        (Term::Address(address), None, Some(_)) if sources.is_empty() => {
            Err(AskError::NoUnderlay(asked.source.clone(), *address))
        }
        (Term::Address(_), None, Some(_)) => Err(AskError::Families(
            asked.source.clone(),
            asked.destination.clone(),
        )),
    }
}

fn end(asked: &str, node: Option<Name>, address: IpAddr) -> End {
    End {
        asked: asked.to_owned(),
        address,
        node,
        bridge: None,
        named: Named::Address,
    }
}

/// The addresses on the underlay that are known, each with its host.
fn places(fleet: &Fleet, here: Option<&View>) -> Vec<(Name, IpAddr)> {
    let own = here.into_iter().flat_map(|view| {
        let node = &view.intent.node;
        view.underlay().map(move |address| (node.clone(), address))
    });
    let nodes = fleet
        .nodes
        .values()
        .flat_map(|node| node.endpoints.iter().map(move |endpoint| (&node.name, endpoint)));
    let members = fleet.networks.values().flat_map(|network| {
        let members = fleet.members(network).into_iter();
        members.flat_map(|member| {
            let endpoints = member.endpoints.iter();
            endpoints.map(move |endpoint| (&member.node.name, endpoint))
        })
    });
    let given = nodes
        .chain(members)
        .filter_map(|(name, endpoint)| match &endpoint.host {
            EndpointHost::Address(address) => Some((name.clone(), *address)),
            EndpointHost::Dns(_) => None,
        });
    let mut places: Vec<(Name, IpAddr)> = own.chain(given).collect();
    places.dedup();
    places
}

/// The mapping that listens for it: one in force, else one that isn't.
fn mapping<'a>(fleet: &'a Fleet, asked: &Asked, hub: &Name) -> Option<(&'a Network, &'a PortMapping)> {
    let (protocol, port) = match asked.flow {
        Flow::Icmp => return None,
        Flow::Tcp(port) => (Protocol::Tcp, port),
        Flow::Udp(port) => (Protocol::Udp, port),
    };
    let networks = fleet.networks.values().filter(|network| {
        let wanted = asked.network.as_ref();
        wanted.is_none_or(|wanted| *wanted == network.name)
    });
    let mappings = networks.flat_map(|network| {
        let mappings = network.port_mappings.iter();
        mappings.map(move |mapping| (network, mapping))
    });
    let listens = mappings.filter(|(_, mapping)| {
        (&mapping.hub, mapping.protocol, mapping.listen_port) == (hub, protocol, port)
    });
    listens.max_by_key(|(_, mapping)| mapping.enabled)
}

fn unmapped<'a>(flow: Flow, hub: &Name, address: IpAddr) -> Resolved<'a> {
    let fix = match flow {
        Flow::Icmp => "ask for tcp/PORT or udp/PORT: only these are mapped".to_owned(),
        Flow::Tcp(port) | Flow::Udp(port) => {
            let word = if matches!(flow, Flow::Tcp(_)) {
                "tcp"
            } else {
                "udp"
            };
            format!(
                "add to [[networks.port_mappings]] of a network of which {hub} is a hub: {{ name = \"…\", hub = \"{hub}\", listen_port = {port}, protocol = \"{word}\", to = {{ node = \"…\" }}, target_port = …, source_cidrs = [\"…\"] }}"
            )
        }
    };
    Resolved::Apart {
        check: "port_mapping",
        text: format!(
            "{address} is {hub}'s on the underlay, and no port mapping leads {flow} from there into a network"
        ),
        fix,
    }
}
