//! Desired × actual → changes. Pure.
//!
//! Between the two stands what neither refuses ([`super::meet`]): the narrowing transaction leads there in one step,
//! the widening one from there to what is desired, once the rest of the host has changed in between. A flow that both
//! sides allow is never in doubt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::amend::transaction;
#[cfg(test)]
use super::amend::with;
use super::change::{Change, Cut, Transaction};
use super::compile::lower;
use super::mapping::lift_mappings;
use super::meet::{Lifted, lift, meet};
use super::observe::Actual;
use super::policy::Policy;
use super::render::{create_text, remove_text};
use super::state::{Key, State, Table, Value, names};
use crate::model::network::NetworkId;
use crate::model::{AddressSet, naming};
use crate::planes::Difference;

/// What nft's own listing said about each chain after the last verified apply: [`Actual::bodies`].
pub type Verified = BTreeMap<String, [u8; 8]>;

/// What is to be done so that the table is what it should be. `verified` also finds rules that someone replaced while
/// keeping their comments; without it, comments are believed. `settled` says that nothing else of this host is about to
/// change: then one step leads to what is wanted.
#[must_use]
pub fn diff(
    desired: &State,
    actual: &Actual,
    verified: Option<&Verified>,
    settled: bool,
) -> Difference<Change> {
    let changes = match (&actual.table, &desired.table) {
        (None, None) => Vec::new(),
        (None, Some(wanted)) if settled => restore(desired, wanted),
        (None, Some(wanted)) => install(desired, wanted),
        (Some(found), wanted) => {
            let suspects = suspects(actual, verified);
            if wanted.as_ref() == Some(found) && suspects.is_empty() {
                Vec::new()
            } else {
                amend(desired, wanted.as_ref(), found, &suspects, settled)
            }
        }
    };
    let blocked = Vec::new();
    Difference { changes, blocked }
}

fn suspects(actual: &Actual, verified: Option<&Verified>) -> BTreeSet<String> {
    let differs = |(chain, body): &(&String, &[u8; 8])| {
        verified.is_some_and(|verified| verified.get(*chain).is_some_and(|known| known != *body))
    };
    let differing = actual.bodies.iter().filter(differs);
    differing.map(|(chain, _)| chain.clone()).collect()
}

/// Without a table everything passes: what is wanted is narrower than that, and what slipped in meanwhile is cut.
fn restore(desired: &State, wanted: &Table) -> Vec<Change> {
    let networks: BTreeSet<NetworkId> = desired.policies.keys().copied().collect();
    let summary = format!("put the table back ({} networks)", networks.len());
    let table = Change::Install(fresh(networks.clone(), summary, wanted, &marks(&networks)));
    let cuts = networks.iter().map(|id| cut(desired, *id, false));
    std::iter::once(table).chain(cuts).collect()
}

/// The transaction that makes `table` from nothing.
fn fresh(
    networks: BTreeSet<NetworkId>,
    summary: String,
    table: &Table,
    marks: &BTreeSet<String>,
) -> Transaction {
    Transaction {
        networks,
        summary: vec![summary],
        script: create_text(table, marks),
        #[cfg(test)]
        result: Some(with(table, marks).into()),
    }
}

fn install(desired: &State, wanted: &Table) -> Vec<Change> {
    let networks: BTreeSet<NetworkId> = desired.policies.keys().copied().collect();
    let cautious = met(desired, &BTreeMap::new());
    let Some(mut first) = lower(&cautious, &BTreeMap::new(), &BTreeMap::new()) else {
        return Vec::new();
    };
    first.counters.extend(marks(&networks));
    let summary = format!(
        "install the table, refusing everything new ({} networks)",
        networks.len()
    );
    let none = BTreeSet::new();
    let mut changes = vec![Change::Install(fresh(networks.clone(), summary, &first, &none))];
    changes.extend(transaction(&first, wanted, &none, |_| BTreeSet::new()).map(Change::Widen));
    changes.extend(networks.iter().map(|id| cut(desired, *id, false)));
    changes
}

/// From a table that is there. Connections of every network that the narrowing touches are cut at the end; until that
/// is done, a mark in the table says so.
fn amend(
    desired: &State,
    wanted: Option<&Table>,
    found: &Table,
    suspects: &BTreeSet<String>,
    settled: bool,
) -> Vec<Change> {
    if let (Some(wanted), true) = (wanted, settled) {
        return amend_at_once(desired, wanted, found, suspects);
    }
    let old = lift(found);
    let middle = lower(
        &met(desired, &old),
        &closed(found, wanted),
        &leaving(desired, &old),
    );
    let everyone: BTreeSet<NetworkId> = desired.policies.keys().chain(old.keys()).copied().collect();
    let Some(wanted) = wanted else {
        return remove(desired, &old, found, middle, &everyone);
    };
    let Some(mut middle) = middle else {
        return remove(desired, &old, found, None, &everyone);
    };
    let mut to_cut = marked(found);
    to_cut.extend(everyone.iter().filter(|id| !old.contains_key(id)));
    let narrow = transaction(found, &middle, suspects, |touched| {
        to_cut.extend(touched.iter().flat_map(|touched| all_if_none(touched, &everyone)));
        marks(&to_cut)
    });
    middle.counters.extend(marks(&to_cut));
    let widen = transaction(&middle, wanted, &BTreeSet::new(), |_| BTreeSet::new());
    let cuts = to_cut.iter().map(|id| cut(desired, *id, is_mapped(&old, *id)));
    let steps = narrow.map(Change::Narrow).into_iter();
    steps.chain(widen.map(Change::Widen)).chain(cuts).collect()
}

/// Where nothing else of the host changes in between, one transaction leads from what is to what is wanted. Whatever it
/// touches it may have narrowed; a connection that the new rules allow goes on in any case.
fn amend_at_once(desired: &State, wanted: &Table, found: &Table, suspects: &BTreeSet<String>) -> Vec<Change> {
    let there = found.chains.keys().filter_map(|chain| names::split(chain));
    let there = there.map(|(id, _)| id);
    let everyone: BTreeSet<NetworkId> = desired.policies.keys().copied().chain(there).collect();
    let mut to_cut = marked(found);
    let at_once = transaction(found, wanted, suspects, |touched| {
        to_cut.extend(touched.iter().flat_map(|touched| all_if_none(touched, &everyone)));
        marks(&to_cut)
    });
    let cuts = to_cut
        .iter()
        .map(|id| cut(desired, *id, !lift_mappings(found, *id).is_empty()));
    at_once.map(Change::Widen).into_iter().chain(cuts).collect()
}

/// The networks that a transaction touches: all of them, if it is about what they share.
fn all_if_none<'a>(
    touched: &'a BTreeSet<NetworkId>,
    everyone: &'a BTreeSet<NetworkId>,
) -> &'a BTreeSet<NetworkId> {
    if touched.is_empty() { everyone } else { touched }
}

/// The last network goes, and the table with it.
fn remove(
    desired: &State,
    old: &BTreeMap<NetworkId, Lifted>,
    found: &Table,
    middle: Option<Table>,
    everyone: &BTreeSet<NetworkId>,
) -> Vec<Change> {
    let narrow = middle.and_then(|middle| transaction(found, &middle, &BTreeSet::new(), |_| BTreeSet::new()));
    let mut changes: Vec<Change> = narrow.map(Change::Narrow).into_iter().collect();
    changes.push(Change::Remove(Transaction {
        networks: everyone.clone(),
        summary: vec!["remove the table".to_owned()],
        script: remove_text(),
        #[cfg(test)]
        result: None,
    }));
    let marked = marked(found);
    let cuts = everyone.union(&marked).map(|id| Cut {
        marked: false,
        ..cut_of(desired, *id, is_mapped(old, *id))
    });
    changes.extend(cuts.map(Change::CutFlows));
    changes
}

fn marks(networks: &BTreeSet<NetworkId>) -> BTreeSet<String> {
    networks.iter().map(|id| names::cut_mark(*id)).collect()
}

fn marked(table: &Table) -> BTreeSet<NetworkId> {
    let counters = table.counters.iter().filter_map(|name| names::split(name));
    counters
        .filter(|(_, rest)| *rest == names::CUT_MARK)
        .map(|(id, _)| id)
        .collect()
}

fn is_mapped(old: &BTreeMap<NetworkId, Lifted>, network: NetworkId) -> bool {
    old.get(&network).is_some_and(|old| !old.mappings.is_empty())
}

/// What the new rules refuse is cut; of a network that goes, everything in its zone (in the main table it has none).
fn cut(desired: &State, network: NetworkId, were_mapped: bool) -> Change {
    Change::CutFlows(cut_of(desired, network, were_mapped))
}

fn cut_of(desired: &State, network: NetworkId, were_mapped: bool) -> Cut {
    let policy = desired.policies.get(&network);
    Cut {
        network,
        zone: policy.map_or_else(|| naming::conntrack_zone(network), Policy::zone),
        mapped: were_mapped || policy.is_some_and(|policy| !policy.mappings.is_empty()),
        marked: true,
        allowed: policy.map(|policy| Arc::new(policy.clone())),
    }
}

pub(super) fn met(desired: &State, old: &BTreeMap<NetworkId, Lifted>) -> BTreeMap<NetworkId, Policy> {
    let policies = desired.policies.iter();
    policies
        .map(|(id, policy)| (*id, meet(old.get(id), policy)))
        .collect()
}

/// The guarded addresses of networks that go: they are guarded until their links are gone.
pub(super) fn leaving(desired: &State, old: &BTreeMap<NetworkId, Lifted>) -> BTreeMap<NetworkId, AddressSet> {
    let gone = old.iter().filter(|(id, _)| !desired.policies.contains_key(id));
    gone.map(|(id, lifted)| (*id, lifted.guarded.clone())).collect()
}

/// Interfaces that were judged, and won't be or not by the same network: whatever passes them vanishes in between. So does
/// what would pass from or to an interface that wasn't judged, and will be: neither was there a way for it before.
pub(super) fn closed(found: &Table, wanted: Option<&Table>) -> BTreeMap<String, BTreeSet<&'static str>> {
    let (old, new) = (dispatch(found), wanted.map(dispatch).unwrap_or_default());
    let mut closed: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    for (link, was) in &old {
        let none = BTreeMap::new();
        let will = new.get(link).unwrap_or(&none);
        let stays = was.iter().all(|(map, value)| will.get(map) == Some(value));
        if !stays {
            let mut maps: BTreeSet<&'static str> = was.keys().chain(will.keys()).copied().collect();
            // On its way from one VRF to another it is in none, and would be nobody's.
            for pair in [
                [names::IN_SLAVE, names::IN_NAME],
                [names::FROM_SLAVE, names::FROM_NAME],
            ] {
                if !will.is_empty() && pair.iter().any(|map| maps.contains(map)) {
                    maps.extend(pair);
                }
            }
            closed.insert(link.clone(), maps);
        }
    }
    let ways = [names::FROM_SLAVE, names::FROM_NAME, names::TO];
    let added = new.iter().filter(|(link, _)| !old.contains_key(*link));
    for (link, will) in added {
        let maps = ways.into_iter().filter(|map| will.contains_key(map));
        closed.entry(link.clone()).or_default().extend(maps);
    }
    closed
}

/// Which chains judge what passes an interface, by map. What someone else put there counts as nothing.
fn dispatch(table: &Table) -> BTreeMap<String, BTreeMap<&'static str, &Value>> {
    let mut by_link: BTreeMap<String, BTreeMap<&'static str, &Value>> = BTreeMap::new();
    for map in names::DISPATCH {
        for (key, value) in table.sets.get(map).iter().flat_map(|set| &set.elements) {
            if let (Key::Link(link), Value::Jump(_) | Value::Drop) = (key, value) {
                by_link.entry(link.clone()).or_default().insert(map, value);
            }
        }
    }
    by_link
}
