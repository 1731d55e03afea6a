//! What an observed table maps, and what both it and a desired one map.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::meet;
use super::super::policy::Family;
use super::super::state::{Rule, Table, names};
use super::text;
use crate::intent::{AdmissionIntent, MappedWay, MappingIntent};
use crate::model::address::intersection;
use crate::model::network::{NetworkId, Protocol};
use crate::model::{AddressSet, Name};

/// What an observed table admits: protocol, port, source, destination.
pub(in super::super) type Admitted = BTreeSet<(String, u16, IpAddr, IpAddr)>;

/// Reads back the admissions of a network.
pub(in super::super) fn lift_admissions(table: &Table, id: NetworkId) -> Admitted {
    let rules = table
        .chains
        .get(&names::of(id, "in"))
        .into_iter()
        .flat_map(|chain| &chain.rules);
    let read = |rule: &Rule| {
        let mut words = rule.key().strip_prefix("admit ")?.split(' ');
        let (class, port) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        Some((
            class,
            port,
            words.next()?.parse().ok()?,
            words.next()?.parse().ok()?,
        ))
    };
    rules.filter_map(read).collect()
}

/// The admissions of an observed table. Their rules' comments have no room for the mapping's name: it is that of the same
/// one in `wanted`, and `unknown` where there is none.
pub(in super::super) fn named_admissions(
    admitted: &Admitted,
    wanted: &BTreeSet<AdmissionIntent>,
) -> BTreeSet<AdmissionIntent> {
    let named = admitted.iter().filter_map(|(class, port, from, to)| {
        let protocol = protocol(class)?;
        let same = |other: &&AdmissionIntent| {
            (other.protocol, other.port, other.from, other.to) == (protocol, *port, *from, *to)
        };
        let name = wanted.iter().find(same).map(|admission| admission.name.clone());
        Some(AdmissionIntent {
            name: name.unwrap_or_else(|| Name::new("unknown").expect("a name")),
            protocol,
            port: *port,
            from: *from,
            to: *to,
        })
    });
    named.collect()
}

fn protocol(class: &str) -> Option<Protocol> {
    match class {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    }
}

/// Reads back the mappings of a network.
pub(in super::super) fn lift_mappings(table: &Table, id: NetworkId) -> Vec<MappingIntent> {
    let keys = |chain: &str| {
        let chain = table.chains.get(chain);
        chain
            .into_iter()
            .flat_map(|chain| chain.rules.iter().map(Rule::key))
    };
    let words = |chain: &str, what: &str| -> Vec<Vec<String>> {
        let prefix = format!("{what} {id} ");
        let of_network = keys(chain).filter_map(|key| key.strip_prefix(&prefix).map(str::to_owned));
        of_network
            .map(|rest| rest.split(' ').map(str::to_owned).collect())
            .collect()
    };
    let hubs: Vec<IpAddr> = words("port-sources", "hub")
        .iter()
        .filter_map(|words| words.first()?.parse().ok())
        .collect();
    let targets = words("port-targets", "target");
    let ports = words(names::PORTS, "port");
    let mapping = |port: &Vec<String>| {
        let [class, listen_port, name] = port.as_slice() else {
            return None;
        };
        let guards = names::mapping(id, name);
        let number = |what: &str| keys(&guards).find_map(|key| key.strip_prefix(what)?.parse().ok());
        let mut target_port = None;
        let mut ways = Vec::new();
        for target in targets.iter().filter(|target| target.last() == Some(name)) {
            let [target, port, _] = target.as_slice() else {
                continue;
            };
            let target: IpAddr = target.parse().ok()?;
            let hub = *hubs.iter().find(|hub| hub.is_ipv4() == target.is_ipv4())?;
            target_port = Some(port.parse().ok()?);
            ways.push(MappedWay { hub, target });
        }
        let sources = Family::ALL.map(|family| table.sets.get(&names::sources(id, family, name)));
        let sources: AddressSet = sources.into_iter().flatten().flat_map(meet::nets_of).collect();
        Some(MappingIntent {
            name: Name::new(name).ok()?,
            protocol: protocol(class)?,
            listen_port: listen_port.parse().ok()?,
            target_port: target_port?,
            ways,
            sources,
            max_connections: number("count "),
            rate_limit_per_second: number("rate "),
        })
    };
    ports.iter().filter_map(mapping).collect()
}

/// What both sides let in, under the guards of both.
pub(in super::super) fn meet_mappings(old: &[MappingIntent], new: &[MappingIntent]) -> Vec<MappingIntent> {
    let least = |a: Option<u32>, b: Option<u32>| a.into_iter().chain(b).min();
    let both = |new: &MappingIntent| {
        let old = old.iter().find(|old| {
            (&old.name, old.protocol, old.listen_port, old.target_port)
                == (&new.name, new.protocol, new.listen_port, new.target_port)
        })?;
        let ways: Vec<MappedWay> = new
            .ways
            .iter()
            .copied()
            .filter(|way| old.ways.contains(way))
            .collect();
        (!ways.is_empty()).then(|| MappingIntent {
            ways,
            sources: intersection(&old.sources, &new.sources),
            max_connections: least(old.max_connections, new.max_connections),
            rate_limit_per_second: least(old.rate_limit_per_second, new.rate_limit_per_second),
            ..new.clone()
        })
    };
    new.iter().filter_map(both).collect()
}

/// What both sides admit.
pub(in super::super) fn meet_admissions(
    old: &Admitted,
    new: &BTreeSet<AdmissionIntent>,
) -> BTreeSet<AdmissionIntent> {
    let key = |a: &AdmissionIntent| (text(a.protocol).to_owned(), a.port, a.from, a.to);
    new.iter()
        .filter(|admission| old.contains(&key(admission)))
        .cloned()
        .collect()
}
