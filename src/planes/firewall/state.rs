//! The objects of our table: one vocabulary for what should be there and what is.
//!
//! Rules are compared by their tag, a comment of the form `<key>#<hash of the text>`; sets and maps by declaration and
//! elements. Counters are named objects, so a chain can be rewritten and an element moved without losing a count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use super::line::Line;
use super::policy::{Family, Policy};
use crate::model::network::{NetworkId, PortRange};

/// Our table, as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What may pass.
    pub policies: BTreeMap<NetworkId, Policy>,
    /// The table; none without networks.
    pub table: Option<Table>,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
    /// Names of counters.
    pub counters: BTreeSet<String>,
    /// Objects of kinds that we never make, as nft's JSON. Only an observed table has some.
    pub strangers: BTreeSet<String>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter it; none if only other chains lead there.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Where packets enter a base chain; the policy is accept, the device none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// A `filter` chain at a hook, with its priority.
    Filter {
        /// The hook.
        hook: &'static str,
        /// The priority.
        priority: i32,
    },
    /// A `nat` chain at a hook, with its priority.
    Nat {
        /// The hook.
        hook: &'static str,
        /// The priority.
        priority: i32,
    },
    /// Anything else, as nft's JSON. Only an observed table has some.
    Strange(String),
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its comment, by which rules are compared.
    pub tag: String,
    /// What it says; none if it was observed.
    pub line: Option<Line>,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.tag == other.tag
    }
}

impl Eq for Rule {}

impl Rule {
    /// The rule of a line.
    #[must_use]
    pub fn new(line: Line) -> Self {
        let digest = Sha256::digest(line.to_string());
        let tag = format!(
            "{}#{:02x}{:02x}{:02x}{:02x}",
            line.key(),
            digest[0],
            digest[1],
            digest[2],
            digest[3]
        );
        Self {
            tag,
            line: Some(line),
        }
    }

    /// The tag without the hash.
    #[must_use]
    pub fn key(&self) -> &str {
        self.tag
            .rsplit_once('#')
            .map_or(self.tag.as_str(), |(key, _)| key)
    }
}

/// A set or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its declaration.
    pub kind: SetKind,
    /// Its elements, each with its value.
    pub elements: BTreeMap<Key, Value>,
}

/// The declaration of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetKind {
    /// Prefixes.
    Nets(Family),
    /// Ports.
    Ports,
    /// Source and destination → verdict.
    Pairs(Family),
    /// Source, destination and destination port → verdict.
    PairsPorts(Family),
    /// Interface → verdict.
    Dispatch,
    /// Interface → conntrack zone.
    Zones,
    /// Anything else, as nft's JSON. Only an observed table has some.
    Strange(String),
}

/// The key of an element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A prefix.
    Net(IpNet),
    /// Ports.
    Ports(PortRange),
    /// Source and destination.
    Pair(IpNet, IpNet),
    /// Source, destination and destination port.
    PairPorts(IpNet, IpNet, PortRange),
    /// An interface.
    Link(String),
    /// Anything else, as nft's JSON. Only an observed table has some.
    Strange(String),
}

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Nothing: an element of a set.
    None,
    /// Into a chain and back.
    Jump(Arc<str>),
    /// Into a chain, and from there to where the last jump came from.
    Goto(Arc<str>),
    /// The packet vanishes.
    Drop,
    /// A conntrack zone.
    Zone(u16),
    /// Anything else, as nft's JSON. Only an observed table has some.
    Strange(String),
}

/// Names of objects. Those of a network begin with `n<id>-`.
pub mod names {
    use super::super::policy::{Class, Family};
    use crate::model::network::NetworkId;

    /// Slave → `-in`, in input.
    pub const IN_SLAVE: &str = "in-slave";
    /// Interface → `-in`, in input.
    pub const IN_NAME: &str = "in-name";
    /// Slave → `-from`, in forward.
    pub const FROM_SLAVE: &str = "from-slave";
    /// Interface → `-from`, in forward.
    pub const FROM_NAME: &str = "from-name";
    /// Interface → `-to`, in forward.
    pub const TO: &str = "to";
    /// Interface → `-out`, in output.
    pub const OUT: &str = "out";
    /// The maps from interfaces to verdicts.
    pub const DISPATCH: [&str; 6] = [IN_SLAVE, IN_NAME, FROM_SLAVE, FROM_NAME, TO, OUT];
    /// Interface → conntrack zone.
    pub const ZONES: &str = "zones";

    /// New connections from the underlay → the mapping's guards.
    pub const PORTS: &str = "ports";
    /// What a mapping let in.
    pub const LET_IN: &str = "a";
    /// What a mapping refused for its source.
    pub const REFUSED_SOURCE: &str = "s";
    /// What a mapping refused for its rate.
    pub const REFUSED_RATE: &str = "r";
    /// What a mapping refused for the number of connections.
    pub const REFUSED_COUNT: &str = "c";
    /// What a mapping counts.
    pub const GUARDS: [&str; 4] = [LET_IN, REFUSED_SOURCE, REFUSED_RATE, REFUSED_COUNT];

    /// The chain of a mapping's guards.
    #[must_use]
    pub fn mapping(id: NetworkId, mapping: &str) -> String {
        format!("n{id}-p-{mapping}")
    }

    /// A counter of a mapping: see [`GUARDS`].
    #[must_use]
    pub fn guard(id: NetworkId, what: &str, mapping: &str) -> String {
        format!("n{id}-p{what}-{mapping}")
    }

    /// The set of those who may connect.
    #[must_use]
    pub fn sources(id: NetworkId, family: Family, mapping: &str) -> String {
        format!("n{id}-ps{}-{mapping}", family.digit())
    }

    /// The set of ports that are mapped.
    #[must_use]
    pub fn ports(id: NetworkId, class: Class) -> String {
        format!("n{id}-ports-{}", class.word())
    }

    /// A chain, set or counter of a network.
    #[must_use]
    pub fn of(id: NetworkId, what: &str) -> String {
        format!("n{id}-{what}")
    }

    /// A set of prefixes: `own`, `guarded`, `local`, `bound`.
    #[must_use]
    pub fn nets(id: NetworkId, what: &str, family: Family) -> String {
        format!("n{id}-{what}{}", family.digit())
    }

    /// The chain and the counter of a rule.
    #[must_use]
    pub fn rule(id: NetworkId, rule: &str) -> String {
        format!("n{id}-r-{rule}")
    }

    /// The verdict map of one layer.
    #[must_use]
    pub fn layer(id: NetworkId, class: Class, family: Family, layer: usize) -> String {
        format!("n{id}-{}{}-{layer}", class.word(), family.digit())
    }

    /// A set of a wide rule: `s` sources, `d` destinations, `p` ports.
    #[must_use]
    pub fn wide(id: NetworkId, what: char, family: Family, part: usize, rule: &str) -> String {
        format!("n{id}-w{what}{}-{part}-{rule}", family.digit())
    }

    /// The counter that stands while connections are still to be cut after a narrowing: so that it isn't forgotten when
    /// the daemon is.
    #[must_use]
    pub fn cut_mark(id: NetworkId) -> String {
        format!("n{id}-{CUT_MARK}")
    }

    /// [`cut_mark`] without the network.
    pub const CUT_MARK: &str = "cut-pending";

    /// The network that an object belongs to, and the rest of its name.
    #[must_use]
    pub fn split(name: &str) -> Option<(NetworkId, &str)> {
        let (id, rest) = name.strip_prefix('n')?.split_once('-')?;
        Some((NetworkId::new(id.parse().ok()?).ok()?, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_network() {
        let id = NetworkId::new(20).unwrap();
        assert_eq!(names::split(&names::rule(id, "web-1")), Some((id, "r-web-1")));
        assert_eq!(names::split("in-slave"), None);
        assert_eq!(names::split("n0-in"), None);
        assert_eq!(names::split("nx-in"), None);
    }
}
