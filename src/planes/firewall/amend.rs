//! One table → another, in one nft transaction.
//!
//! Order within: what is referred to comes first, chains are emptied before what they refer to goes, elements go before
//! others come in their place. Chains are rewritten as a whole: counters are objects of their own and keep counting.

use std::collections::{BTreeMap, BTreeSet};

use super::change::Transaction;
use super::render::{Script, remove_text, render_table};
use super::state::{Chain, Key, Set, SetKind, Table, Value, names};
use crate::model::naming::WIREGUARD_PREFIX;
use crate::model::network::NetworkId;
use crate::model::ownership::NFT_TABLE;

/// One transaction that makes a table another, with marks that connections are to be cut; none if there is nothing to do.
///
/// `marks` is asked for them once it is known which networks the transaction touches otherwise, with an empty set if all of
/// them, and with none if it would do nothing. A mark that is there stays: it goes when the connections are cut.
pub(super) fn transaction(
    from: &Table,
    to: &Table,
    suspects: &BTreeSet<String>,
    marks: impl FnOnce(Option<&BTreeSet<NetworkId>>) -> BTreeSet<String>,
) -> Option<Transaction> {
    if !amendable(from, to) {
        let networks = BTreeSet::new();
        let marks = marks(Some(&networks));
        return Some(Transaction {
            networks,
            summary: vec!["replace the table: it holds what can't be amended".to_owned()],
            script: remove_text() + &render_table(to, &marks),
            #[cfg(test)]
            result: Some(with(to, &marks).into()),
        });
    }
    let mut amendment = Amendment::default();
    amendment.add_objects(from, to);
    amendment.empty_chains(from, to, suspects);
    for (name, old) in &from.sets {
        if let Some(new) = to.sets.get(name) {
            amendment.delete_elements(name, old, new);
        }
    }
    for (name, new) in &to.sets {
        amendment.add_elements(name, from.sets.get(name), new);
    }
    amendment.fill_chains(from, to, suspects);
    amendment.delete_objects(from, to);
    amendment.note_shared(from, to, suspects);
    let everyone = BTreeSet::new();
    let touched = if amendment.touches_all {
        &everyone
    } else {
        &amendment.networks
    };
    let marks = marks((!amendment.is_empty()).then_some(touched));
    amendment.add_marks(from, &marks);
    if amendment.is_empty() {
        return None;
    }
    #[cfg_attr(not(test), expect(unused_mut, reason = "tests also keep the table"))]
    let mut transaction = amendment.finish();
    #[cfg(test)]
    {
        let kept = from.counters.iter().filter(|name| is_mark(name)).cloned();
        transaction.result = Some(with(to, &marks.into_iter().chain(kept).collect()).into());
    }
    Some(transaction)
}

/// The table with marks, too.
#[cfg(test)]
pub(super) fn with(table: &Table, marks: &BTreeSet<String>) -> Table {
    let mut table = table.clone();
    table.counters.extend(marks.iter().cloned());
    table
}

/// Whether a counter says that connections are still to be cut.
fn is_mark(counter: &str) -> bool {
    names::split(counter).is_some_and(|(_, rest)| rest == names::CUT_MARK)
}

/// Whether every object of one name is of the same kind in both, and known.
fn amendable(from: &Table, to: &Table) -> bool {
    let chain = |(name, chain): (&String, &Chain)| match to.chains.get(name) {
        Some(wanted) => wanted.base == chain.base,
        None => true,
    };
    let set = |(name, set): (&String, &Set)| match (to.sets.get(name), &set.kind) {
        (_, SetKind::Strange(_)) => false,
        (Some(wanted), kind) => wanted.kind == *kind,
        (None, _) => true,
    };
    from.strangers.is_empty() && from.chains.iter().all(chain) && from.sets.iter().all(set)
}

/// The chain that says which segments TCP may announce.
const SEGMENTS: &str = "segments";

/// Whether an element comes or goes.
#[derive(Clone, Copy)]
enum Sign {
    Added,
    Removed,
}

/// A transaction as it grows.
#[derive(Default)]
struct Amendment {
    script: Script,
    networks: BTreeSet<NetworkId>,
    /// Whether something changes that judges for all networks.
    touches_all: bool,
    rewritten: BTreeSet<String>,
    /// By what elements lead to, or the set they are in.
    added: BTreeMap<String, usize>,
    removed: BTreeMap<String, usize>,
}

impl Amendment {
    fn is_empty(&self) -> bool {
        self.script.text.is_empty()
    }

    fn touch(&mut self, name: &str) {
        self.networks.extend(names::split(name).map(|(id, _)| id));
    }

    fn add_objects(&mut self, from: &Table, to: &Table) {
        for counter in to.counters.difference(&from.counters) {
            self.touch(counter);
            self.script.add_counter(counter);
        }
        for (name, chain) in to
            .chains
            .iter()
            .filter(|(name, _)| !from.chains.contains_key(*name))
        {
            self.touch(name);
            self.script.add_chain(name, chain);
        }
        for (name, set) in to.sets.iter().filter(|(name, _)| !from.sets.contains_key(*name)) {
            self.touch(name);
            self.script.add_set(name, set);
        }
    }

    fn add_marks(&mut self, from: &Table, marks: &BTreeSet<String>) {
        for mark in marks.difference(&from.counters) {
            self.touch(mark);
            self.script.add_counter(mark);
        }
    }

    fn empty_chains(&mut self, from: &Table, to: &Table, suspects: &BTreeSet<String>) {
        for (name, chain) in &from.chains {
            let stays = to.chains.get(name).is_some_and(|wanted| wanted == chain) && !suspects.contains(name);
            let filled = !chain.rules.is_empty() || suspects.contains(name);
            if !stays && filled {
                self.script
                    .line(format_args!("flush chain inet {NFT_TABLE} {name}"));
            }
            if !stays {
                self.touch(name);
            }
        }
    }

    fn fill_chains(&mut self, from: &Table, to: &Table, suspects: &BTreeSet<String>) {
        for (name, chain) in &to.chains {
            let stays = from.chains.get(name).is_some_and(|found| found == chain) && !suspects.contains(name);
            if !stays {
                self.touch(name);
                self.rewritten.insert(name.clone());
                self.script.add_rules(name, &chain.rules);
            }
        }
    }

    fn delete_elements(&mut self, name: &str, old: &Set, new: &Set) {
        if has_strange_key(old) {
            self.script.flush_set(name, old);
            self.touch(name);
            self.touches_all |= names::split(name).is_none();
            return;
        }
        let gone: Vec<(&Key, &Value)> = old
            .elements
            .iter()
            .filter(|(key, value)| new.elements.get(*key) != Some(*value))
            .collect();
        for (key, value) in &gone {
            self.note(Sign::Removed, name, value);
            self.networks.extend(network_of(key));
        }
        self.script.delete_elements(name, gone.into_iter());
    }

    fn add_elements(&mut self, name: &str, old: Option<&Set>, new: &Set) {
        let old = old.filter(|old| !has_strange_key(old));
        let coming: Vec<(&Key, &Value)> = new
            .elements
            .iter()
            .filter(|(key, value)| old.and_then(|old| old.elements.get(*key)) != Some(*value))
            .collect();
        for (_, value) in &coming {
            self.note(Sign::Added, name, value);
        }
        self.script.add_elements(name, coming.into_iter());
    }

    fn delete_objects(&mut self, from: &Table, to: &Table) {
        for (name, set) in from.sets.iter().filter(|(name, _)| !to.sets.contains_key(*name)) {
            self.touch(name);
            for value in set.elements.values() {
                self.note(Sign::Removed, name, value);
            }
            self.script.delete_set(name, set);
        }
        for name in from.chains.keys().filter(|name| !to.chains.contains_key(*name)) {
            self.touch(name);
            self.script
                .line(format_args!("delete chain inet {NFT_TABLE} {name}"));
        }
        let gone = from.counters.difference(&to.counters);
        for counter in gone.filter(|counter| !is_mark(counter)) {
            self.touch(counter);
            self.script
                .line(format_args!("delete counter inet {NFT_TABLE} {counter}"));
        }
    }

    /// Chains that all networks share: a rule that comes or goes is of the network that its comment names, else of all. What
    /// sizes segments have is nobody's verdict.
    fn note_shared(&mut self, from: &Table, to: &Table, suspects: &BTreeSet<String>) {
        let chains: BTreeSet<&String> = from.chains.keys().chain(to.chains.keys()).collect();
        let shared = chains
            .into_iter()
            .filter(|name| names::split(name).is_none() && *name != SEGMENTS);
        for name in shared {
            let (old, new) = (from.chains.get(name), to.chains.get(name));
            if old == new {
                self.touches_all |= suspects.contains(name);
                continue;
            }
            let tags = |chain: Option<&Chain>| -> BTreeSet<String> {
                let rules = chain.into_iter().flat_map(|chain| &chain.rules);
                rules.map(|rule| rule.tag.clone()).collect()
            };
            let (old, new) = (tags(old), tags(new));
            let mut differing = old.symmetric_difference(&new).peekable();
            // Only their order, or how often they come.
            self.touches_all |= differing.peek().is_none() && !old.is_empty();
            for tag in differing {
                match network_of_rule(tag) {
                    Some(network) => self.networks.extend([network]),
                    None => self.touches_all = true,
                }
            }
        }
    }

    /// Sums elements up by what they lead to; their network is touched.
    fn note(&mut self, sign: Sign, set: &str, value: &Value) {
        let name = match value {
            Value::Goto(chain) | Value::Jump(chain) => chain.to_string(),
            Value::None | Value::Drop | Value::Zone(_) | Value::Strange(_) => set.to_owned(),
        };
        self.touch(&name);
        // The keys of shared maps are interfaces: that nothing passes one any more, or in which zone, is said by its key.
        let is_told = matches!(value, Value::Drop | Value::Zone(_)) || names::split(&name).is_some();
        self.touches_all |= !is_told;
        if let Value::Zone(zone) = value {
            self.networks.extend(NetworkId::new(*zone));
        }
        let sums = match sign {
            Sign::Added => &mut self.added,
            Sign::Removed => &mut self.removed,
        };
        *sums.entry(name).or_default() += 1;
    }

    fn finish(self) -> Transaction {
        let mut summary = Vec::new();
        let count = |sign: char, counts: &BTreeMap<String, usize>| -> Vec<String> {
            counts
                .iter()
                .map(|(name, count)| format!("{sign}{count} {name}"))
                .collect()
        };
        for (what, list) in [
            (
                "elements",
                [count('+', &self.added), count('-', &self.removed)].concat(),
            ),
            ("chains rewritten", self.rewritten.into_iter().collect()),
        ] {
            if !list.is_empty() {
                summary.push(format!("{what}: {}", list.join(", ")));
            }
        }
        Transaction {
            networks: self.networks,
            summary,
            script: self.script.text,
            #[cfg(test)]
            result: None,
        }
    }
}

/// The network that a rule of a shared chain is of, by its comment.
fn network_of_rule(tag: &str) -> Option<NetworkId> {
    let (key, _) = tag.rsplit_once('#')?;
    let mut words = key.split(' ');
    let at = match words.next()? {
        "entry4" | "entry6" | "port" | "target" | "hub" | "port-flow" | "port-reply" | "port-overlay4"
        | "port-overlay6" => 0,
        "port-zone" => 1,
        _ => return None,
    };
    NetworkId::new(words.nth(at)?.parse().ok()?).ok()
}

/// The network of an overlay link: that its interface is no longer judged concerns it, whatever else is done.
fn network_of(key: &Key) -> Option<NetworkId> {
    let Key::Link(link) = key else { return None };
    let rest = link.strip_prefix(WIREGUARD_PREFIX)?;
    let digits = rest.split('-').next()?;
    NetworkId::new(digits.parse().ok()?).ok()
}

fn has_strange_key(set: &Set) -> bool {
    set.elements.keys().any(|key| matches!(key, Key::Strange(_)))
}
