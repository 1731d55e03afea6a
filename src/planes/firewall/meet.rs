//! What *either* of two policies refuses: how a table goes from one to the other without ever being more open than both.
//!
//! Rules of both sides stand in one order, by (priority, name), so the merge is by rule: an accept counts where both
//! sides have it, a drop where any has it. A packet that the merge allows has an accept in both, and no drop before it
//! in either.

use std::collections::{BTreeMap, BTreeSet};

use super::line::{Line, Step, decode_verdict_key};
use super::mapping::{
    Admitted, lift_admissions, lift_mappings, meet_admissions, meet_mappings, named_admissions,
};
use super::policy::{Cell, Class, Family, Part, Policy, PolicyRule};
use super::state::{Key, Rule, Set, SetKind, Table, Value, names};
use crate::intent::{IsolationMode, MappingIntent};
use crate::model::address::intersection;
use crate::model::network::{Action, DefaultAction, NetworkId, PortRange};
use crate::model::{AddressSet, LinkName, Name};

/// What an observed table lets pass in one network, as far as it is of our making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lifted {
    pub(super) guarded: AddressSet,
    entries: BTreeSet<String>,
    /// The comment of the rule that says by which interfaces packets leave.
    exits: Option<String>,
    own: AddressSet,
    local: AddressSet,
    bound: AddressSet,
    accepts_rest: bool,
    relays: bool,
    rules: Vec<PolicyRule>,
    pub(super) mappings: Vec<MappingIntent>,
    admissions: Admitted,
}

/// Reads back what [`lower`](super::compile::lower) wrote.
pub(super) fn lift(table: &Table) -> BTreeMap<NetworkId, Lifted> {
    let ids: BTreeSet<NetworkId> = table
        .chains
        .keys()
        .filter_map(|chain| names::split(chain))
        .map(|(id, _)| id)
        .collect();
    let mut parts = parts(table);
    ids.into_iter()
        .map(|id| {
            let nets = |what| {
                let nets = Family::ALL.map(|family| table.sets.get(&names::nets(id, what, family)));
                nets.into_iter().flatten().flat_map(nets_of).collect()
            };
            let has = |chain: &str, key: &str| {
                let chain = table.chains.get(&names::of(id, chain));
                chain.is_some_and(|chain| chain.rules.iter().any(|rule| rule.key().starts_with(key)))
            };
            let lifted = Lifted {
                guarded: nets("guarded"),
                entries: entries(table, id),
                exits: exits(table, id),
                own: nets("own"),
                local: nets("local"),
                bound: nets("bound"),
                accepts_rest: ["in", "out", "from"]
                    .iter()
                    .all(|chain| has(chain, "accept-rest")),
                relays: !has("from", "no-transit"),
                rules: rules(table, id, &mut parts),
                mappings: lift_mappings(table, id),
                admissions: lift_admissions(table, id),
            };
            (id, lifted)
        })
        .collect()
}

/// What an observed table lets pass, network by network; what it doesn't say is as in `wanted`. A network that it doesn't
/// have isn't judged at all, and is left out.
#[must_use]
pub fn observed(table: Option<&Table>, wanted: &BTreeMap<NetworkId, Policy>) -> BTreeMap<NetworkId, Policy> {
    let lifted = table.map(lift).unwrap_or_default();
    let there = wanted.iter().filter_map(|(id, wanted)| {
        let lifted = lifted.get(id)?;
        let dispatched = |link: &&LinkName| lifted.entries.contains(link.as_str());
        let policy = Policy {
            links: wanted.links.iter().filter(dispatched).cloned().collect(),
            guarded: lifted.guarded.clone(),
            own: lifted.own.clone(),
            local: lifted.local.clone(),
            bound: lifted.bound.clone(),
            relays: lifted.relays,
            default_action: if lifted.accepts_rest {
                DefaultAction::Accept
            } else {
                DefaultAction::Drop
            },
            rules: lifted.rules.clone(),
            mappings: lifted.mappings.clone(),
            admissions: named_admissions(&lifted.admissions, &wanted.admissions),
            ..wanted.clone()
        };
        Some((*id, policy))
    });
    there.collect()
}

/// The interfaces whose packets for the host this network judges.
fn entries(table: &Table, id: NetworkId) -> BTreeSet<String> {
    let judge = names::of(id, "in");
    let sets = [names::IN_NAME, names::IN_SLAVE].map(|map| table.sets.get(map));
    let elements = sets.into_iter().flatten().flat_map(|set| &set.elements);
    elements
        .filter_map(|(key, value)| match (key, value) {
            (Key::Link(link), Value::Jump(chain)) if **chain == *judge => Some(link.clone()),
            _ => None,
        })
        .collect()
}

fn exits(table: &Table, id: NetworkId) -> Option<String> {
    let chain = table.chains.get(&names::of(id, "from"))?;
    let key = Line::Of(id, Step::LeavesThrough(BTreeSet::new())).key();
    let rule = chain.rules.iter().find(|rule| rule.key() == key)?;
    Some(rule.tag.clone())
}

/// By which interfaces neither lets packets leave. Where the old ones are other ones and no dispatch closes those that
/// come (in the main table the interfaces of LANs aren't judged), the overlay's alone are left.
fn meet_exits(old: &Lifted, new: &Policy) -> BTreeSet<LinkName> {
    let rule = Rule::new(Line::Of(new.id, Step::LeavesThrough(new.exits.clone())));
    if new.isolation != IsolationMode::Main || old.exits.as_ref() == Some(&rule.tag) {
        return new.exits.clone();
    }
    new.links.clone()
}

type Parts = BTreeMap<(NetworkId, String), Vec<Part>>;

fn rules(table: &Table, id: NetworkId, parts: &mut Parts) -> Vec<PolicyRule> {
    let prefix = names::rule(id, "");
    let chains = table.chains.range(prefix.clone()..);
    let mut rules: Vec<PolicyRule> = chains
        .take_while(|(chain, _)| chain.starts_with(&prefix))
        .filter_map(|(chain, body)| {
            let name = chain.strip_prefix(&prefix)?;
            let (priority, action, log) = decode_verdict_key(body.rules.last()?.key())?;
            Some(PolicyRule {
                priority,
                name: Name::new(name).ok()?,
                action,
                log,
                parts: parts.remove(&(id, name.to_owned()))?,
            })
        })
        .collect();
    rules.sort_by(|a, b| a.order().cmp(&b.order()));
    rules
}

/// The parts of every rule, from verdict maps and from the sets of wide rules.
fn parts(table: &Table) -> Parts {
    let mut parts = Parts::new();
    for (name, set) in &table.sets {
        let Some((id, rest)) = names::split(name) else {
            continue;
        };
        let class = Class::ALL
            .into_iter()
            .find(|class| rest.starts_with(class.word()));
        let is_map = matches!(set.kind, SetKind::Pairs(_) | SetKind::PairsPorts(_));
        let Some(class) = class.filter(|_| is_map) else {
            continue;
        };
        let prefix = names::rule(id, "");
        for (key, value) in &set.elements {
            let rule = match value {
                Value::Goto(chain) => chain.strip_prefix(&prefix),
                Value::None | Value::Jump(_) | Value::Drop | Value::Zone(_) | Value::Strange(_) => None,
            };
            if let (Some(rule), Some(cell)) = (rule, cell(class, key)) {
                parts.entry((id, rule.to_owned())).or_default().push(cell.into());
            }
        }
    }
    for (chain, body) in &table.chains {
        let Some((id, "from")) = names::split(chain) else {
            continue;
        };
        for rule in &body.rules {
            if let Some((name, part)) = wide(table, id, rule.key()) {
                parts.entry((id, name)).or_default().push(part);
            }
        }
    }
    parts
}

fn cell(class: Class, key: &Key) -> Option<Cell> {
    let (from, to, ports) = match key {
        Key::Pair(from, to) => (*from, *to, super::policy::ALL_PORTS),
        Key::PairPorts(from, to, ports) => (*from, *to, *ports),
        Key::Net(_) | Key::Ports(_) | Key::Link(_) | Key::Strange(_) => return None,
    };
    Some(Cell {
        class,
        from,
        to,
        ports,
    })
}

/// Reads the key of a wide rule's line, and its sets.
fn wide(table: &Table, id: NetworkId, key: &str) -> Option<(String, Part)> {
    let mut words = key.strip_prefix("wide ")?.split(' ');
    let (kind, at, rule) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    let class = Class::ALL
        .into_iter()
        .find(|class| kind.starts_with(class.word()))?;
    let family = Family::ALL
        .into_iter()
        .find(|family| kind.ends_with(family.digit()))?;
    let set = |what| table.sets.get(&names::wide(id, what, family, at, rule));
    let part = Part {
        class,
        from: nets_of(set('s')?).collect(),
        to: nets_of(set('d')?).collect(),
        ports: if class.has_ports() {
            ports_of(set('p')?)
        } else {
            vec![super::policy::ALL_PORTS]
        },
    };
    Some((rule.to_owned(), part))
}

pub(super) fn nets_of(set: &Set) -> impl Iterator<Item = ipnet::IpNet> + '_ {
    set.elements.keys().filter_map(|key| match key {
        Key::Net(net) => Some(*net),
        Key::Ports(_) | Key::Pair(..) | Key::PairPorts(..) | Key::Link(_) | Key::Strange(_) => None,
    })
}

fn ports_of(set: &Set) -> Vec<PortRange> {
    let ports = set.elements.keys().filter_map(|key| match key {
        Key::Ports(range) => Some(*range),
        Key::Net(_) | Key::Pair(..) | Key::PairPorts(..) | Key::Link(_) | Key::Strange(_) => None,
    });
    ports.collect()
}

/// What neither `old` nor `new` refuses. Without an old side nothing new is allowed.
pub(super) fn meet(old: Option<&Lifted>, new: &Policy) -> Policy {
    let Some(old) = old else {
        let refusing = new.rules.iter().filter(|rule| rule.action != Action::Accept);
        return Policy {
            default_action: DefaultAction::Drop,
            rules: refusing.cloned().collect(),
            mappings: Vec::new(),
            admissions: BTreeSet::new(),
            ..new.clone()
        };
    };
    let accepts_rest = old.accepts_rest && new.default_action == DefaultAction::Accept;
    Policy {
        guarded: old.guarded.iter().chain(new.guarded.iter()).collect(),
        entries: new
            .entries
            .iter()
            .filter(|link| old.entries.contains(link.as_str()))
            .cloned()
            .collect(),
        exits: meet_exits(old, new),
        own: intersection(&old.own, &new.own),
        local: intersection(&old.local, &new.local),
        bound: intersection(&old.bound, &new.bound),
        relays: old.relays && new.relays,
        default_action: if accepts_rest {
            DefaultAction::Accept
        } else {
            DefaultAction::Drop
        },
        rules: meet_rules(&old.rules, &new.rules),
        mappings: meet_mappings(&old.mappings, &new.mappings),
        admissions: meet_admissions(&old.admissions, &new.admissions),
        ..new.clone()
    }
}

fn meet_rules(old: &[PolicyRule], new: &[PolicyRule]) -> Vec<PolicyRule> {
    type Sides<'a> = (Option<&'a PolicyRule>, Option<&'a PolicyRule>);
    let mut sides: BTreeMap<(u32, &Name), Sides<'_>> = BTreeMap::new();
    for rule in old {
        sides.entry(rule.order()).or_default().0 = Some(rule);
    }
    for rule in new {
        sides.entry(rule.order()).or_default().1 = Some(rule);
    }
    // A rule whose priority changes is on both sides under one name, and a name has one chain: the refusing one stays.
    let mut met: BTreeMap<&Name, PolicyRule> = BTreeMap::new();
    for (old, new) in sides.into_values() {
        let Some(rule) = meet_rule(old, new) else {
            continue;
        };
        let name = old.or(new).map(|rule| &rule.name);
        if let Some(name) = name {
            met.entry(name)
                .and_modify(|other| *other = join(other, &rule))
                .or_insert(rule);
        }
    }
    let mut rules: Vec<PolicyRule> = met.into_values().collect();
    rules.sort_by(|a, b| a.order().cmp(&b.order()));
    rules
}

/// Two refusing rules of one name: both, where the earlier of them stands.
fn join(a: &PolicyRule, b: &PolicyRule) -> PolicyRule {
    let (first, second) = if a.priority <= b.priority { (a, b) } else { (b, a) };
    PolicyRule {
        parts: union(&second.parts, &first.parts),
        ..first.clone()
    }
}

fn meet_rule(old: Option<&PolicyRule>, new: Option<&PolicyRule>) -> Option<PolicyRule> {
    let refuses = |rule: &PolicyRule| rule.action != Action::Accept;
    match (old, new) {
        (Some(old), Some(new)) => match (refuses(old), refuses(new)) {
            (false, false) => {
                let parts: Vec<Part> = old
                    .parts
                    .iter()
                    .flat_map(|a| new.parts.iter().filter_map(|b| a.intersection(b)))
                    .collect();
                let rule = PolicyRule { parts, ..new.clone() };
                (!rule.parts.is_empty()).then_some(rule)
            }
            (true, true) => Some(PolicyRule {
                parts: union(&old.parts, &new.parts),
                ..new.clone()
            }),
            (true, false) => Some(old.clone()),
            (false, true) => Some(new.clone()),
        },
        (Some(only), None) | (None, Some(only)) => refuses(only).then(|| only.clone()),
        (None, None) => None,
    }
}

/// The parts of both, without those of `a` that are inside one of `b`.
fn union(a: &[Part], b: &[Part]) -> Vec<Part> {
    let inside = |part: &&Part| {
        b.iter()
            .any(|other| part.intersection(other).as_ref() == Some(*part))
    };
    let extra = a.iter().filter(|part| !inside(part));
    b.iter().chain(extra).cloned().collect()
}
