//! What our table still has of a network and no longer should: what a removal that isn't complete has left behind.

use ipnet::IpNet;

use super::observe::Actual;
use super::state::{Key, State, names};
use crate::model::network::NetworkId;

impl Actual {
    /// The prefixes in elements of the network's sets and maps that `desired` doesn't have, those of pairs one by one.
    #[must_use]
    pub fn stray_nets(&self, desired: &State, network: NetworkId) -> Vec<IpNet> {
        let of_network = |name: &str| names::split(name).is_some_and(|(id, _)| id == network);
        let sets = self.table.iter().flat_map(|table| &table.sets);
        let mut found = Vec::new();
        for (name, set) in sets.filter(|(name, _)| of_network(name)) {
            let wanted = desired.table.as_ref().and_then(|table| table.sets.get(name));
            let is_stray = |key: &&Key| wanted.is_none_or(|wanted| !wanted.elements.contains_key(*key));
            for key in set.elements.keys().filter(is_stray) {
                match key {
                    Key::Net(net) => found.push(*net),
                    Key::Pair(from, to) | Key::PairPorts(from, to, _) => found.extend([*from, *to]),
                    Key::Ports(_) | Key::Link(_) | Key::Strange(_) => {}
                }
            }
        }
        found
    }

    /// Whether tracked connections of the network are still to be cut: the mark that says so goes once they are gone.
    #[must_use]
    pub fn is_cutting(&self, network: NetworkId) -> bool {
        let mark = names::cut_mark(network);
        self.table
            .as_ref()
            .is_some_and(|table| table.counters.contains(&mark))
    }
}
