//! What may pass → the table that lets it pass. Pure.
//!
//! ```text
//! prerouting −300  zone-in   ct zone by interface          output −300  zone-out
//! forward −150     segments  MSS of TCP over the links         port mappings: see `mapping`
//! input 0          input     in-slave, in-name      ─▶ n<id>-in
//! forward 0        forward   from-slave, from-name  ─▶ n<id>-from     then   to ─▶ n<id>-to
//! output 0         output    out                    ─▶ n<id>-out
//!                                                         │ guards, established, bounds, errors
//!                                                         ▼
//!                            verdict maps by layer, class, family ─▶ n<id>-r-<rule>  counted: return, drop, reject
//! ```
//!
//! Base chains accept; only what a dispatch map names is judged, so what isn't overlay traffic is never touched.
//! In the main table (no isolation) only the links are keys: what the host routes between other interfaces is its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::layers::{Area, Layers, Prefix};
use super::line::{COUNTERS, Line, Side, Step};
use super::mapping;
use super::policy::{Cell, Class, Family, Part, Policy, PolicyRule};
use super::state::{Base, Chain, Key, Rule, Set, SetKind, State, Table, Value, names};
use crate::intent::{HostIntent, IsolationMode};
use crate::model::network::{Action, DefaultAction, NetworkId};
use crate::model::{AddressSet, LinkName};

/// Above this many elements, a rule's part becomes sets of its own.
const WIDE_FROM: usize = 4_096;

/// Elements of one network at most; above, smaller parts become sets as well.
const ELEMENTS: usize = 131_072;

/// Our table as the intent wants it.
#[must_use]
pub fn compile(intent: &HostIntent) -> State {
    let policies = Policy::all_of(intent);
    let table = lower(&policies, &BTreeMap::new(), &BTreeMap::new());
    State { policies, table }
}

/// The table of policies. What `closed` names vanishes, whatever the policies say: interface → dispatch maps.
/// `leaving` are the guarded addresses of networks that are about to go. None where there is nothing to judge.
#[must_use]
pub(super) fn lower(
    policies: &BTreeMap<NetworkId, Policy>,
    closed: &BTreeMap<String, BTreeSet<&'static str>>,
    leaving: &BTreeMap<NetworkId, AddressSet>,
) -> Option<Table> {
    if policies.is_empty() && closed.is_empty() {
        return None;
    }
    let mut table = Table::default();
    base_chains(&mut table, policies, leaving);
    mapping::base_chains(&mut table, policies);
    for policy in policies.values() {
        Lowering {
            policy,
            table: &mut table,
        }
        .network();
    }
    for (link, maps) in closed {
        for map in maps {
            insert(
                &mut table,
                map,
                SetKind::Dispatch,
                Key::Link(link.clone()),
                Value::Drop,
            );
        }
    }
    Some(table)
}

fn insert(table: &mut Table, set: &str, kind: SetKind, key: Key, value: Value) {
    let set = table.sets.entry(set.to_owned()).or_insert_with(|| Set {
        kind,
        elements: BTreeMap::new(),
    });
    set.elements.insert(key, value);
}

fn base_chains(
    table: &mut Table,
    policies: &BTreeMap<NetworkId, Policy>,
    leaving: &BTreeMap<NetworkId, AddressSet>,
) {
    let mut chain = |name: &str, hook, priority, lines: Vec<Line>| {
        let base = Some(Base::Filter { hook, priority });
        let rules = lines.into_iter().map(Rule::new).collect();
        table.chains.insert(name.to_owned(), Chain { base, rules });
    };
    // Before conntrack puts fragments together (−400): they are kept apart by zone, and nothing else.
    chain("zone-in", "prerouting", -450, vec![Line::Zone(Side::In)]);
    chain("zone-out", "output", -450, vec![Line::Zone(Side::Out)]);
    chain(
        "segments",
        "forward",
        -150,
        policies.values().flat_map(segments).collect(),
    );
    let mut input = vec![
        Line::Dispatch(Side::Slave, names::IN_SLAVE),
        Line::Dispatch(Side::In, names::IN_NAME),
    ];
    for policy in policies.values() {
        input.extend(entries(policy.id, &policy.guarded, &policy.entries));
    }
    for (id, guarded) in leaving {
        input.extend(entries(*id, guarded, &BTreeSet::new()));
    }
    chain("input", "input", 0, input);
    chain(
        "forward",
        "forward",
        0,
        vec![
            Line::Dispatch(Side::Slave, names::FROM_SLAVE),
            Line::Dispatch(Side::In, names::FROM_NAME),
            Line::Dispatch(Side::Out, names::TO),
        ],
    );
    chain("output", "output", 0, vec![Line::Dispatch(Side::Out, names::OUT)]);
    for (id, guarded) in leaving {
        table.counters.insert(names::of(*id, "in-guard"));
        net_set(table, *id, "guarded", guarded);
    }
    let maps = names::DISPATCH.map(|map| (map, SetKind::Dispatch));
    for (map, kind) in maps.into_iter().chain([(names::ZONES, SetKind::Zones)]) {
        let elements = BTreeMap::new();
        table.sets.insert(map.to_owned(), Set { kind, elements });
    }
}

/// What keeps everybody else from the addresses of a network that has no VRF.
fn entries(id: NetworkId, guarded: &AddressSet, links: &BTreeSet<LinkName>) -> Vec<Line> {
    let families = Family::ALL.into_iter();
    let guarded = families.filter(|family| of_family(guarded, *family).next().is_some());
    guarded
        .map(|family| Line::Entry {
            network: id,
            links: links.clone(),
            family,
        })
        .collect()
}

/// A link's MTU less the headers of IP and TCP.
fn segments(policy: &Policy) -> Vec<Line> {
    if policy.links.is_empty() {
        return Vec::new();
    }
    let side = policy.ingress().into();
    let incoming = |family, headers| Line::SegmentsIn {
        side,
        links: policy.links.clone(),
        family,
        size: policy.mtu.saturating_sub(headers).max(536),
    };
    vec![
        Line::SegmentsOut(policy.links.clone()),
        incoming(Family::V4, 40),
        incoming(Family::V6, 60),
    ]
}

/// A set of prefixes, for each family.
fn net_set(table: &mut Table, id: NetworkId, what: &str, nets: &AddressSet) {
    for family in Family::ALL {
        let elements = of_family(nets, family).map(|net| (Key::Net(net), Value::None));
        let set = Set {
            kind: SetKind::Nets(family),
            elements: elements.collect(),
        };
        table.sets.insert(names::nets(id, what, family), set);
    }
}

struct Lowering<'a> {
    policy: &'a Policy,
    table: &'a mut Table,
}

impl Lowering<'_> {
    fn network(&mut self) {
        let id = self.policy.id;
        for counter in COUNTERS {
            self.table.counters.insert(names::of(id, counter));
        }
        self.net_sets();
        self.dispatch();
        let rules = self.rules();
        let policy = self.policy;
        for (chain, steps) in mapping::guards(self.table, policy) {
            self.chain(&chain, steps);
        }
        let (exits, side) = (&policy.exits, Side::from(policy.ingress()));
        let in_main = policy.isolation == IsolationMode::Main;
        let both = |step: fn(Family) -> Step| Family::ALL.map(step);
        let mut from: Vec<Step> = mapping::back(policy).into_iter().collect();
        if !exits.is_empty() {
            from.push(Step::LeavesThrough(exits.clone()));
        }
        from.extend(self.lan_sources(side, false));
        from.push(Step::Established);
        from.extend(both(Step::BoundSource));
        from.extend(both(Step::BoundDestination));
        if !policy.relays {
            from.extend(both(Step::NoTransit));
        }
        from.extend(mapping::admissions(policy));
        from.extend(rules.iter().cloned());
        from.push(self.rest("from-deny"));
        self.chain("from", from);

        let mut input: Vec<Step> = both(Step::OwnDestination).into();
        if !in_main {
            input.extend(self.lan_sources(side, true));
        }
        input.extend([
            Step::Established,
            Step::Neighbours,
            Step::Listeners,
            Step::LinkLocal,
        ]);
        input.extend(both(Step::BoundSource));
        input.extend(mapping::admissions(policy));
        input.extend(rules.iter().cloned());
        input.push(self.rest("in-deny"));
        self.chain("in", input);

        let mut out = vec![Step::Established, Step::Neighbours, Step::Listeners];
        out.extend(both(Step::OwnSource));
        out.extend(both(Step::BoundDestination));
        out.extend(both(Step::OwnErrors));
        out.extend(rules);
        out.push(self.rest("out-deny"));
        self.chain("out", out);

        let mut to = mapping::into(policy);
        let judged = if in_main {
            policy.links.clone()
        } else {
            policy.interfaces()
        };
        if !judged.is_empty() {
            to.push(Step::CameFrom(side, judged));
        }
        if in_main && !policy.lan_sources.is_empty() {
            to.push(Step::JudgeFrom(policy.lan_sources.keys().cloned().collect()));
        }
        to.push(Step::DropRest("to-guard"));
        self.chain("to", to);
    }

    fn chain(&mut self, what: &str, steps: Vec<Step>) {
        let id = self.policy.id;
        let rules = steps
            .into_iter()
            .map(|step| Rule::new(Line::Of(id, step)))
            .collect();
        let chain = Chain { base: None, rules };
        self.table.chains.insert(names::of(id, what), chain);
    }

    fn rest(&self, counter: &'static str) -> Step {
        match self.policy.default_action {
            DefaultAction::Accept => Step::AcceptRest,
            DefaultAction::Drop => Step::DropRest(counter),
        }
    }

    fn net_sets(&mut self) {
        let policy = self.policy;
        for (what, nets) in [
            ("own", &policy.own),
            ("guarded", &policy.guarded),
            ("local", &policy.local),
            ("bound", &policy.bound),
        ] {
            net_set(self.table, policy.id, what, nets);
        }
    }

    fn dispatch(&mut self) {
        let policy = self.policy;
        let (input, from) = match Side::from(policy.ingress()) {
            Side::Slave => (names::IN_SLAVE, names::FROM_SLAVE),
            Side::In | Side::Out => (names::IN_NAME, names::FROM_NAME),
        };
        let in_main = policy.isolation == IsolationMode::Main;
        let interfaces = if in_main {
            policy.links.clone()
        } else {
            policy.interfaces()
        };
        for link in &interfaces {
            let key = || Key::Link(link.as_str().to_owned());
            for (map, chain) in [
                (input, "in"),
                (from, "from"),
                (names::TO, "to"),
                (names::OUT, "out"),
            ] {
                let target = Value::Jump(names::of(policy.id, chain).into());
                insert(self.table, map, SetKind::Dispatch, key(), target);
            }
            if !in_main {
                let zone = Value::Zone(policy.zone());
                insert(self.table, names::ZONES, SetKind::Zones, key(), zone);
            }
        }
    }

    fn lan_sources(&self, side: Side, host: bool) -> Vec<Step> {
        let lans = self.policy.lan_sources.iter();
        lans.flat_map(|(interface, nets)| {
            Family::ALL.map(|family| Step::LanSource {
                side,
                interface: interface.clone(),
                family,
                nets: of_family(nets, family).collect(),
                host,
            })
        })
        .collect()
    }

    /// The chains, counters, sets and maps of the rules; the answer are the steps that ask them, in order.
    fn rules(&mut self) -> Vec<Step> {
        let limit = self.limit();
        let mut steps = Vec::new();
        let mut used: BTreeSet<usize> = BTreeSet::new();
        for family in Family::ALL {
            let mut stack = Stack::default();
            for (n, rule) in self.policy.rules.iter().enumerate() {
                let mut wide = 0;
                for part in &rule.parts {
                    let count = self.count(part, family);
                    if count > 0 {
                        used.insert(n);
                    }
                    if count > limit {
                        stack.close(family, &mut steps);
                        steps.push(self.wide(rule, wide, part, family));
                        wide += 1;
                    } else if count > 0 {
                        self.cells(rule, part, family, &mut stack);
                    }
                }
            }
            stack.close(family, &mut steps);
        }
        for n in used {
            self.rule_chain(&self.policy.rules[n]);
        }
        steps
    }

    fn cells(&mut self, rule: &PolicyRule, part: &Part, family: Family, stack: &mut Stack) {
        let id = self.policy.id;
        let target: Arc<str> = names::rule(id, rule.name.as_str()).into();
        let effect = effect(rule);
        let local = |net: &IpNet| self.policy.relays || touches(&self.policy.local, *net);
        let to: Vec<(IpNet, bool)> = of_family(&part.to, family)
            .map(|net| (net, local(&net)))
            .collect();
        let cells: Vec<Cell> = of_family(&part.from, family)
            .flat_map(|from| {
                let from_is_local = local(&from);
                to.iter()
                    .filter(move |(_, to_is_local)| from_is_local || *to_is_local)
                    .map(move |(to, _)| (from, *to))
            })
            .flat_map(|(from, to)| {
                part.ports.iter().map(move |ports| Cell {
                    class: part.class,
                    from,
                    to,
                    ports: *ports,
                })
            })
            .collect();
        for cell in cells {
            let layer = stack.place(effect, &cell);
            let (kind, key) = element(&cell, family);
            let map = names::layer(id, cell.class, family, layer);
            insert(self.table, &map, kind, key, Value::Goto(Arc::clone(&target)));
        }
    }

    /// How many elements a part needs in one family: only what concerns this host, if it doesn't relay.
    fn count(&self, part: &Part, family: Family) -> usize {
        let size = |set: &AddressSet| match family {
            Family::V4 => set.v4().len(),
            Family::V6 => set.v6().len(),
        };
        let (from, to) = (size(&part.from), size(&part.to));
        let pairs = if self.policy.relays {
            from.saturating_mul(to)
        } else {
            let near = |set| {
                of_family(set, family)
                    .filter(|net| touches(&self.policy.local, *net))
                    .count()
            };
            let (near_from, near_to) = (near(&part.from), near(&part.to));
            near_from
                .saturating_mul(to)
                .saturating_add((from - near_from).saturating_mul(near_to))
        };
        pairs.saturating_mul(part.ports.len())
    }

    /// How many elements a part may have, so that all together stay within [`ELEMENTS`].
    fn limit(&self) -> usize {
        let parts = self.policy.rules.iter().flat_map(|rule| &rule.parts);
        let counts: Vec<usize> = parts
            .flat_map(|part| Family::ALL.map(|family| self.count(part, family)))
            .collect();
        let fits = |limit: &usize| {
            let small = counts.iter().filter(|count| *count <= limit);
            small.fold(0_usize, |sum, count| sum.saturating_add(*count)) <= ELEMENTS
        };
        let mut limits = std::iter::successors(Some(WIDE_FROM), |limit| (*limit > 1).then_some(limit / 4));
        limits.find(fits).unwrap_or(1)
    }

    fn wide(&mut self, rule: &PolicyRule, at: usize, part: &Part, family: Family) -> Step {
        let name = |what| names::wide(self.policy.id, what, family, at, rule.name.as_str());
        for (what, nets) in [('s', &part.from), ('d', &part.to)] {
            let elements = of_family(nets, family).map(|net| (Key::Net(net), Value::None));
            let (kind, elements) = (SetKind::Nets(family), elements.collect());
            self.table.sets.insert(name(what), Set { kind, elements });
        }
        if part.class.has_ports() {
            let elements = part.ports.iter().map(|range| (Key::Ports(*range), Value::None));
            let (kind, elements) = (SetKind::Ports, elements.collect());
            self.table.sets.insert(name('p'), Set { kind, elements });
        }
        Step::Wide {
            rule: rule.name.clone(),
            part: at,
            class: part.class,
            family,
        }
    }

    fn rule_chain(&mut self, rule: &PolicyRule) {
        let mut steps = Vec::new();
        if rule.log {
            steps.push(Step::Log(self.policy.name.clone(), rule.name.clone()));
        }
        if rule.action == Action::Reject {
            steps.push(Step::Reset(rule.name.clone()));
        }
        steps.push(Step::Verdict {
            rule: rule.name.clone(),
            priority: rule.priority,
            action: rule.action,
            log: rule.log,
        });
        let name = format!("r-{}", rule.name);
        self.table.counters.insert(names::of(self.policy.id, &name));
        self.chain(&name, steps);
    }
}

/// What a rule does to what it matches: equal numbers do the same.
fn effect(rule: &PolicyRule) -> u8 {
    let action = match rule.action {
        Action::Accept => 0,
        Action::Drop => 1,
        Action::Reject => 2,
    };
    2 * action + u8::from(rule.log)
}

/// The layers of one family, between two wide rules; numbers go on behind a wide one.
#[derive(Default)]
struct Stack {
    layers: Layers,
    above: usize,
    filled: BTreeSet<(usize, Class)>,
}

impl Stack {
    fn place(&mut self, effect: u8, cell: &Cell) -> usize {
        let layer = self.above
            + self.layers.place(&Area {
                effect,
                class: cell.class,
                from: Prefix::new(cell.from),
                to: Prefix::new(cell.to),
                ports: cell.ports,
            });
        self.filled.insert((layer, cell.class));
        layer
    }

    fn close(&mut self, family: Family, steps: &mut Vec<Step>) {
        let filled = std::mem::take(&mut self.filled);
        steps.extend(
            filled
                .into_iter()
                .map(|(layer, class)| Step::Layer(class, family, layer)),
        );
        self.above += self.layers.depth();
        self.layers = Layers::default();
    }
}

/// Where an element of a verdict map goes.
pub(super) fn element(cell: &Cell, family: Family) -> (SetKind, Key) {
    if cell.class.has_ports() {
        let key = Key::PairPorts(cell.from, cell.to, cell.ports);
        (SetKind::PairsPorts(family), key)
    } else {
        (SetKind::Pairs(family), Key::Pair(cell.from, cell.to))
    }
}

fn of_family(set: &AddressSet, family: Family) -> impl Iterator<Item = IpNet> + '_ {
    let v4 = set.v4().iter().copied().map(IpNet::V4);
    let v6 = set.v6().iter().copied().map(IpNet::V6);
    v4.filter(move |_| family == Family::V4)
        .chain(v6.filter(move |_| family == Family::V6))
}

/// Whether any address of `net` is in the set.
fn touches(set: &AddressSet, net: IpNet) -> bool {
    if set.contains(net.network()) {
        return true;
    }
    // Prefixes overlap only by containment: what is inside `net` sorts behind its first address.
    match net {
        IpNet::V4(net) => {
            let at = set.v4().partition_point(|n| n.network() < net.network());
            set.v4().get(at).is_some_and(|n| net.contains(&n.network()))
        }
        IpNet::V6(net) => {
            let at = set.v6().partition_point(|n| n.network() < net.network());
            set.v6().get(at).is_some_and(|n| net.contains(&n.network()))
        }
    }
}
