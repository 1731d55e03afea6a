//! Services across bridges: what this site offers to a peer, and what it takes of one. Each is one object, and stands for
//! what a person would write of it in two places: a line of its bridge, and a rule of the bridge's network.
//!
//! | object | line of the bridge | rule, named after the object |
//! |---|---|---|
//! | offer | `export`: the virtual IP | the peer → the virtual IP, protocol and ports |
//! | subscription | `import`: the address | `from` → the address, protocol and ports |
//!
//! [`expand`] writes both where the fleet is read, so that nothing behind it knows of services: whoever removes the object has
//! the fleet as it was.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::check::{Finding, Issue, Kind, Object, Place};
use super::fleet::Fleet;
use super::name::Name;
use super::network::{Action, PortRange, Protocol, Rule, Selector};
use super::routing::{Bridge, Export};

/// The priority of the rules: that of a rule without one.
const PRIORITY: u32 = 1_000;

/// How a service is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Destination ports; never empty.
    pub ports: Vec<PortRange>,
}

/// A virtual IP of ours that a peer may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its name, which is its rule's, too.
    pub name: Name,
    /// The bridge that it is offered over.
    pub bridge: Name,
    /// The virtual IP of the bridge's network.
    pub vip: Name,
    /// How it is spoken to.
    pub access: Access,
    /// What it is, in words for the peer.
    pub description: Option<String>,
}

/// A service of a peer that this site uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Its name, which is its rule's, too.
    pub name: Name,
    /// The bridge that leads to it.
    pub bridge: Name,
    /// What the peer calls it.
    pub service: Name,
    /// Where it is.
    pub address: IpAddr,
    /// How it is spoken to.
    pub access: Access,
    /// Who of the bridge's network may use it.
    pub from: Selector,
}

/// What [`expand`] has to say.
#[derive(Debug, Default)]
pub struct Expanded {
    /// Services that couldn't be expanded, or not wholly.
    pub findings: Vec<Finding>,
    /// Of every place that was made: the one that it was made of.
    origins: BTreeMap<Place, Place>,
}

impl Expanded {
    /// Findings about what was made, as findings about what it was made of; each once.
    #[must_use]
    pub fn trace(&self, findings: Vec<Finding>) -> Vec<Finding> {
        let mut traced: Vec<Finding> = Vec::new();
        for mut finding in findings {
            if let Some(origin) = self.origins.get(&finding.at) {
                finding.at = origin.clone();
                if traced.contains(&finding) {
                    continue;
                }
            }
            traced.push(finding);
        }
        traced
    }
}

/// Writes the offers and subscriptions of a fleet into its bridges and networks. Pure; to be done once.
pub fn expand(fleet: &mut Fleet) -> Expanded {
    let mut expanded = Expanded::default();
    let offers: Vec<Offer> = fleet.offers.values().cloned().collect();
    for offer in offers {
        let object = Object::Offer(offer.name.clone());
        let Some(bridge) = bridge(fleet, &offer.bridge, &object, &mut expanded) else {
            continue;
        };
        let export = Export::Vip(offer.vip.clone());
        if !bridge.export.contains(&export) {
            let at = Object::Bridge(bridge.name.clone()).item("export", bridge.export.len());
            expanded.origins.insert(at, object.clone().key("vip"));
            bridge.export.push(export);
        }
        let (from, to) = (
            Selector::Federation(bridge.peer.clone()),
            Selector::Vip(offer.vip),
        );
        let network = bridge.network.clone();
        let keys = [("from", "bridge"), ("to", "vip")];
        rule(
            fleet,
            &network,
            accepting(offer.name, from, to, offer.access),
            (&object, keys),
            &mut expanded,
        );
    }
    let subscriptions: Vec<Subscription> = fleet.subscriptions.values().cloned().collect();
    for subscription in subscriptions {
        let object = Object::Subscription(subscription.name.clone());
        let Some(bridge) = bridge(fleet, &subscription.bridge, &object, &mut expanded) else {
            continue;
        };
        let address = IpNet::from(subscription.address);
        if !bridge.import.iter().any(|net| net.contains(&address)) {
            let at = Object::Bridge(bridge.name.clone()).item("import", bridge.import.len());
            expanded.origins.insert(at, object.clone().key("address"));
            bridge.import.push(address);
        }
        let network = bridge.network.clone();
        let keys = [("from", "from"), ("to", "address")];
        let made = accepting(
            subscription.name,
            subscription.from,
            Selector::Cidr(address),
            subscription.access,
        );
        rule(fleet, &network, made, (&object, keys), &mut expanded);
    }
    expanded
}

fn bridge<'f>(
    fleet: &'f mut Fleet,
    name: &Name,
    object: &Object,
    expanded: &mut Expanded,
) -> Option<&'f mut Bridge> {
    let bridge = fleet.bridges.get_mut(name);
    if bridge.is_none() {
        expanded.findings.push(Finding {
            at: object.clone().key("bridge"),
            also: None,
            issue: Issue::Unknown(Kind::Bridge, name.clone()),
        });
    }
    bridge
}

fn accepting(name: Name, from: Selector, to: Selector, access: Access) -> Rule {
    Rule {
        name,
        priority: PRIORITY,
        action: Action::Accept,
        from,
        to,
        protocol: access.protocol,
        ports: access.ports,
        log: false,
        enabled: true,
    }
}

/// Gives a network a rule. `keys` are the sides of the rule, each with the key of the object that it comes of. A network that
/// isn't there is its bridge's error.
fn rule(
    fleet: &mut Fleet,
    network: &Name,
    rule: Rule,
    (object, keys): (&Object, [(&'static str, &'static str); 2]),
    expanded: &mut Expanded,
) {
    let Some(network) = fleet.networks.get_mut(network) else {
        return;
    };
    let made = Object::Rule {
        network: network.name.clone(),
        name: rule.name.clone(),
    };
    if network.rules.iter().any(|other| other.name == rule.name) {
        let other = expanded.origins.get(&made.clone().whole());
        expanded.findings.push(Finding {
            at: object.clone().key("name"),
            also: Some(other.map_or(made, |place| place.object.clone())),
            issue: Issue::RuleTaken {
                rule: rule.name,
                network: network.name.clone(),
            },
        });
        return;
    }
    let mut origin = |place, key| expanded.origins.insert(place, object.clone().key(key));
    origin(made.clone().whole(), "name");
    for (side, key) in keys {
        origin(made.clone().key(side), key);
    }
    let at = network
        .rules
        .partition_point(|other| (other.priority, &other.name) < (rule.priority, &rule.name));
    network.rules.insert(at, rule);
}
