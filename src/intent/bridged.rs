//! What rules mean for addresses behind a bridge, and what a bridge lets pass without a rule.

use std::net::IpAddr;

use ipnet::IpNet;

use super::firewall::Around;
use super::{BridgeIntent, RuleIntent};
use crate::model::network::{Action, DefaultAction, Network, PortRange, Protocol, Selector};
use crate::model::{AddressSet, Name};

/// The bridge that a side of a rule names: by its peer, or by a prefix inside what it imports. A prefix around it, or
/// `any`, names nobody.
pub(super) fn named<'b>(bridges: &'b [BridgeIntent], selector: &Selector) -> Option<&'b BridgeIntent> {
    let mut bridges = bridges.iter();
    match selector {
        Selector::Federation(peer) => bridges.find(|bridge| bridge.peer == *peer),
        Selector::Cidr(net) => bridges.find(|bridge| holds(&bridge.import, net)),
        Selector::Node(_) | Selector::Tag(_) | Selector::LanOf(_) | Selector::Vip(_) | Selector::Any => None,
    }
}

/// Whether the whole of `net` is in the set.
fn holds(set: &AddressSet, net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => set.v4().iter().any(|known| known.contains(net)),
        IpNet::V6(net) => set.v6().iter().any(|known| known.contains(net)),
    }
}

/// The rules that bridges bring, behind all others: calls between the two gateways' federation APIs, and where the default
/// is to accept, that it isn't for what bridges import.
pub(super) fn implied(network: &Network, around: &Around<'_>, everything: &AddressSet) -> Vec<RuleIntent> {
    let mut rules: Vec<RuleIntent> = Vec::new();
    let mut add = |base: String, action, from: AddressSet, to: AddressSet, port: Option<u16>| {
        if from.is_empty() || to.is_empty() {
            return;
        }
        let name = free(network, &rules, base);
        rules.push(RuleIntent {
            name,
            priority: u32::MAX,
            action,
            from,
            to,
            protocol: if port.is_some() {
                Protocol::Tcp
            } else {
                Protocol::Any
            },
            ports: port
                .map(|port| PortRange {
                    first: port,
                    last: port,
                })
                .into_iter()
                .collect(),
            log: false,
        });
    };
    let own = IpAddr::V6(around.own.v6);
    let host = |address: IpAddr| -> AddressSet { std::iter::once(address).collect() };
    for bridge in around.bridges.iter().filter(|bridge| bridge.here) {
        let theirs = bridge.agreement.as_ref().and_then(|agreement| agreement.listener);
        let theirs = theirs.filter(|at| bridge.carried.contains(at.ip()) && bridge.export.contains(own));
        let Some(at) = theirs else { continue };
        let (calls, their) = (
            |way: &str| format!("bridge-{}-calls-{way}", bridge.name),
            host(at.ip()),
        );
        // The peer's gateway calls from where it listens; nobody else of its site has a reason to.
        if let Some(port) = around.port {
            add(calls("in"), Action::Accept, their.clone(), host(own), Some(port));
        }
        add(calls("out"), Action::Accept, host(own), their, Some(at.port()));
    }
    let foreign: AddressSet = around
        .bridges
        .iter()
        .flat_map(|bridge| bridge.import.iter())
        .collect();
    if network.default_action == DefaultAction::Accept && !foreign.is_empty() {
        let base = || "bridges-default".to_owned();
        add(base(), Action::Drop, foreign.clone(), everything.clone(), None);
        add(base(), Action::Drop, everything.clone(), foreign, None);
    }
    rules
}

/// The name, or one like it that no rule has. Names have at most 48 bytes.
fn free(network: &Network, rules: &[RuleIntent], base: String) -> Name {
    let is_taken = |name: &Name| {
        network.rules.iter().any(|rule| rule.name == *name) || rules.iter().any(|rule| rule.name == *name)
    };
    let mut stem = base;
    stem.truncate(42);
    let stem = stem.trim_end_matches('-');
    let plain = std::iter::once(stem.to_owned());
    let mut names = plain.chain((2..).map(|n: u32| format!("{stem}-{n}")));
    let found = names.find_map(|text| Name::new(&text).ok().filter(|name| !is_taken(name)));
    found.expect("there are more numbers than rules")
}
