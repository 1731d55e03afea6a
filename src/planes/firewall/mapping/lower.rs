//! Mappings → their chains, sets and counters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::line::{Line, Side, Step};
use super::super::policy::{Class, Family, Policy};
use super::super::state::{Base, Chain, Key, Rule, Set, SetKind, Table, Value, names};
use super::{MapLine, MapStep};
use crate::intent::IsolationMode;
use crate::model::network::{NetworkId, PortRange};
use crate::model::{LinkName, naming};

/// The base chains and the chain `ports`; nothing where nothing is mapped.
pub(in super::super) fn base_chains(table: &mut Table, policies: &BTreeMap<NetworkId, Policy>) {
    let mapped: Vec<&Policy> = policies
        .values()
        .filter(|policy| !policy.mappings.is_empty())
        .collect();
    if mapped.is_empty() {
        return;
    }
    let ours = Arc::new(ours(policies));
    let mut lines = Lines::default();
    for policy in mapped {
        lines.zones(table, policy, &ours);
        lines.marks(policy, &ours);
        lines.leads(policy);
    }
    let mut marks = lines.replies;
    marks.append(&mut lines.flows);
    marks.extend(policies.values().flat_map(|policy| overlay(policy, &ours)));
    marks.push(MapLine::New { ours });
    let mut chain = |name: &str, base, lines: Vec<MapLine>| {
        let rules = lines.into_iter().map(|line| Rule::new(Line::Map(line))).collect();
        table.chains.insert(name.to_owned(), Chain { base, rules });
    };
    let filter = |priority| {
        let hook = "prerouting";
        Some(Base::Filter { hook, priority })
    };
    let nat = |hook, priority| Some(Base::Nat { hook, priority });
    // Behind the assembly of fragments (−400), ahead of conntrack (−200).
    chain("port-zones", filter(-300), lines.zones);
    chain("port-marks", filter(-150), marks);
    chain(names::PORTS, None, lines.ports);
    chain("port-targets", nat("prerouting", -100), lines.targets);
    chain("port-sources", nat("postrouting", 100), lines.sources);
}

/// The lines of each chain, as they come together.
#[derive(Default)]
struct Lines {
    zones: Vec<MapLine>,
    replies: Vec<MapLine>,
    flows: Vec<MapLine>,
    ports: Vec<MapLine>,
    targets: Vec<MapLine>,
    sources: Vec<MapLine>,
}

impl Lines {
    fn zones(&mut self, table: &mut Table, policy: &Policy, ours: &Arc<BTreeSet<LinkName>>) {
        let (network, zone) = (policy.id, policy.zone());
        for class in [Class::Tcp, Class::Udp] {
            let listening = listening(policy, class);
            if zone == 0 || listening.is_empty() {
                continue;
            }
            let elements = listening
                .into_iter()
                .map(|range| (Key::Ports(range), Value::None));
            let (kind, elements) = (SetKind::Ports, elements.collect());
            table
                .sets
                .insert(names::ports(network, class), Set { kind, elements });
            self.zones.push(MapLine::Zone {
                network,
                zone,
                ours: Arc::clone(ours),
                class,
            });
        }
    }

    fn marks(&mut self, policy: &Policy, ours: &Arc<BTreeSet<LinkName>>) {
        let network = policy.id;
        self.replies.push(MapLine::Reply {
            network,
            links: policy.links.clone(),
        });
        self.flows.push(MapLine::Flow {
            network,
            ours: Arc::clone(ours),
        });
    }

    fn leads(&mut self, policy: &Policy) {
        let network = policy.id;
        let mut hubs = BTreeSet::new();
        for mapping in &policy.mappings {
            let class = Class::from(mapping.protocol);
            self.ports.push(MapLine::Port {
                network,
                name: mapping.name.clone(),
                class,
                port: mapping.listen_port,
            });
            hubs.extend(mapping.ways.iter().map(|way| way.hub));
            self.targets
                .extend(mapping.ways.iter().map(|way| MapLine::Target {
                    network,
                    name: mapping.name.clone(),
                    class,
                    listen_port: mapping.listen_port,
                    target: way.target,
                    port: mapping.target_port,
                }));
        }
        self.sources.extend(hubs.into_iter().map(|hub| MapLine::Source {
            network,
            links: policy.links.clone(),
            hub,
        }));
    }
}

/// What keeps overlay addresses out, where no VRF does.
fn overlay(policy: &Policy, ours: &Arc<BTreeSet<LinkName>>) -> Vec<MapLine> {
    let guarded = Family::ALL.into_iter().filter(|family| {
        let mut nets = policy.guarded.iter();
        nets.any(|net| Family::of(net.addr()) == *family)
    });
    let lines = guarded.map(|family| MapLine::Overlay {
        network: policy.id,
        ours: Arc::clone(ours),
        family,
    });
    lines.collect()
}

/// What isn't the underlay: links, VRFs, LANs, and the host's packets to itself.
fn ours(policies: &BTreeMap<NetworkId, Policy>) -> BTreeSet<LinkName> {
    let vrfs = policies
        .values()
        .filter(|policy| policy.isolation == IsolationMode::Vrf);
    let vrfs = vrfs.map(|policy| naming::vrf(policy.id));
    let interfaces = policies.values().flat_map(Policy::interfaces);
    let loopback = LinkName::new("lo").expect("a link name");
    interfaces.chain(vrfs).chain([loopback]).collect()
}

/// The ports that are mapped, as ranges that don't touch.
fn listening(policy: &Policy, class: Class) -> Vec<PortRange> {
    let mappings = policy.mappings.iter();
    let ports: BTreeSet<u16> = mappings
        .filter(|mapping| Class::from(mapping.protocol) == class)
        .map(|mapping| mapping.listen_port)
        .collect();
    let mut ranges: Vec<PortRange> = Vec::new();
    for port in ports {
        match ranges.last_mut() {
            Some(last) if u32::from(last.last) + 1 == u32::from(port) => last.last = port,
            Some(_) | None => ranges.push(PortRange {
                first: port,
                last: port,
            }),
        }
    }
    ranges
}

/// The counters and source sets of a network's mappings; the answer are the chains of their guards.
pub(in super::super) fn guards(table: &mut Table, policy: &Policy) -> Vec<(String, Vec<Step>)> {
    let id = policy.id;
    let mut chains = Vec::new();
    for mapping in &policy.mappings {
        let name = mapping.name.as_str();
        for what in names::GUARDS {
            table.counters.insert(names::guard(id, what, name));
        }
        let mut steps = Vec::new();
        for family in Family::ALL {
            let nets = mapping
                .sources
                .iter()
                .filter(|net| Family::of(net.addr()) == family);
            let elements = nets.map(|net| (Key::Net(net), Value::None)).collect();
            let kind = SetKind::Nets(family);
            table
                .sets
                .insert(names::sources(id, family, name), Set { kind, elements });
            steps.push(MapStep::From(mapping.name.clone(), family));
        }
        steps.extend(
            mapping
                .rate_limit_per_second
                .map(|rate| MapStep::Rate(mapping.name.clone(), rate)),
        );
        steps.extend(
            mapping
                .max_connections
                .map(|count| MapStep::Count(mapping.name.clone(), count)),
        );
        steps.push(MapStep::Mark(mapping.name.clone()));
        chains.push((format!("p-{name}"), steps.into_iter().map(Step::Map).collect()));
    }
    for admission in &policy.admissions {
        let counter = names::guard(id, names::LET_IN, admission.name.as_str());
        table.counters.insert(counter);
    }
    chains
}

/// What lets answers back: ahead of everything else that judges what comes from the network.
pub(in super::super) fn back(policy: &Policy) -> Option<Step> {
    let side = Side::from(policy.ingress());
    (!policy.mappings.is_empty()).then(|| Step::Map(MapStep::Back(side, policy.links.clone())))
}

/// What lets mapped connections into the network.
pub(in super::super) fn into(policy: &Policy) -> Vec<Step> {
    if policy.mappings.is_empty() {
        return Vec::new();
    }
    let ways = policy.mappings.iter().flat_map(|mapping| {
        mapping.ways.iter().map(|way| MapStep::Into {
            class: mapping.protocol.into(),
            target: way.target,
            port: mapping.target_port,
        })
    });
    std::iter::once(MapStep::Known)
        .chain(ways)
        .map(Step::Map)
        .collect()
}

/// What lets the mapped connections of other hosts in, or through.
pub(in super::super) fn admissions(policy: &Policy) -> impl Iterator<Item = Step> + '_ {
    let admissions = policy.admissions.iter();
    admissions.map(|admission| Step::Map(MapStep::Admit(admission.clone())))
}
