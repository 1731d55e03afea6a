//! Rules with their selectors resolved to addresses.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::compile::Placed;
use super::topology::{bound, inside};
use super::{BridgeIntent, FirewallIntent, LanIntent, LinkIntent, Notice, RuleIntent, bridged, mappings};
use crate::model::address::intersection;
use crate::model::network::{Action, Network, PortRange, Rule, Selector};
use crate::model::{AddressSet, LinkName, Name};

/// What surrounds a network's rules on this host.
pub(super) struct Around<'a> {
    pub(super) members: &'a [Placed<'a>],
    pub(super) own: &'a Placed<'a>,
    pub(super) links: &'a [LinkIntent],
    pub(super) lans: &'a [LanIntent],
    pub(super) bridges: &'a [BridgeIntent],
    /// The port of this gateway's federation API.
    pub(super) port: Option<u16>,
}

pub(super) fn compile(network: &Network, around: &Around<'_>, notices: &mut Vec<Notice>) -> FirewallIntent {
    let Around { members, own, .. } = *around;
    let everything: AddressSet = bound(network, members).iter().collect();
    let resolver = Resolver {
        network,
        members,
        bridges: around.bridges,
        inside: inside(network, members).iter().collect(),
        everything: &everything,
    };
    let mut rules: Vec<RuleIntent> = network
        .rules_in_order()
        .into_iter()
        .filter_map(|rule| resolver.rule(rule, notices))
        .collect();
    rules.extend(bridged::implied(network, around, &everything));
    rules.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    FirewallIntent {
        default_action: network.default_action,
        links: around.links.iter().map(|link| link.name.clone()).collect(),
        lan_sources: lan_sources(around.lans),
        own: own
            .addresses()
            .chain(
                around
                    .lans
                    .iter()
                    .filter(|lan| lan.via.is_none())
                    .map(|lan| lan.subnet),
            )
            .collect(),
        bound: everything.clone(),
        rules,
        mappings: mappings::listening(network, members, own),
        admissions: mappings::admissions(network, members, own),
    }
}

fn lan_sources(lans: &[LanIntent]) -> BTreeMap<LinkName, AddressSet> {
    let mut subnets: BTreeMap<LinkName, Vec<IpNet>> = BTreeMap::new();
    for lan in lans {
        subnets.entry(lan.interface.clone()).or_default().push(lan.subnet);
    }
    subnets
        .into_iter()
        .map(|(name, nets)| (name, nets.into_iter().collect()))
        .collect()
}

struct Resolver<'a> {
    network: &'a Network,
    members: &'a [Placed<'a>],
    bridges: &'a [BridgeIntent],
    /// What is the network's own.
    inside: AddressSet,
    /// The same with what its bridges import.
    everything: &'a AddressSet,
}

impl Resolver<'_> {
    /// The rule, or nothing where a side matches nothing: it is never widened.
    fn rule(&self, rule: &Rule, notices: &mut Vec<Notice>) -> Option<RuleIntent> {
        let (from, to) = match rule.action {
            Action::Accept => self.accepted(rule),
            Action::Drop | Action::Reject => (self.refused(&rule.from), self.refused(&rule.to)),
        };
        for (side, set, selector) in [("from", &from, &rule.from), ("to", &to, &rule.to)] {
            if set.is_empty() {
                notices.push(Notice {
                    network: Some(self.network.name.clone()),
                    object: format!("rule {}", rule.name),
                    text: format!(
                        "`{side}` ({}) matches nothing in this network: the rule is left out",
                        describe(selector)
                    ),
                });
            }
        }
        if from.is_empty() || to.is_empty() {
            return None;
        }
        Some(RuleIntent {
            name: rule.name.clone(),
            priority: rule.priority,
            action: rule.action,
            from,
            to,
            protocol: rule.protocol,
            ports: merge(&rule.ports),
            log: rule.log,
        })
    }

    /// Both sides of a rule that accepts. What a bridge imports is accepted only where a rule names it, and then only to and
    /// from what the bridge exports: never from one bridge to another.
    fn accepted(&self, rule: &Rule) -> (AddressSet, AddressSet) {
        let (from, to) = (self.selector(&rule.from), self.selector(&rule.to));
        if self.bridges.is_empty() {
            return (from, to);
        }
        let named = |selector: &Selector| bridged::named(self.bridges, selector);
        match (named(&rule.from), named(&rule.to)) {
            (None, None) => (self.own(&from), self.own(&to)),
            (Some(bridge), None) => (
                intersection(&from, &bridge.carried),
                intersection(&self.own(&to), &bridge.export),
            ),
            (None, Some(bridge)) => (
                intersection(&self.own(&from), &bridge.export),
                intersection(&to, &bridge.carried),
            ),
            (Some(_), Some(_)) => (AddressSet::default(), AddressSet::default()),
        }
    }

    fn own(&self, set: &AddressSet) -> AddressSet {
        intersection(set, &self.inside)
    }

    /// One side of a rule that refuses: `any` is everyone, whether of this site or another.
    fn refused(&self, selector: &Selector) -> AddressSet {
        match selector {
            Selector::Any => self.everything.clone(),
            Selector::Node(_)
            | Selector::Tag(_)
            | Selector::LanOf(_)
            | Selector::Vip(_)
            | Selector::Cidr(_)
            | Selector::Federation(_) => self.selector(selector),
        }
    }

    fn selector(&self, selector: &Selector) -> AddressSet {
        let member = |name: &Name| self.members.iter().find(|member| member.name() == name);
        match selector {
            Selector::Node(name) => member(name).into_iter().flat_map(Placed::addresses).collect(),
            Selector::Tag(tag) => self
                .members
                .iter()
                .filter(|member| member.member.node.has_tag(tag))
                .flat_map(Placed::addresses)
                .collect(),
            Selector::LanOf(name) => member(name).into_iter().flat_map(Placed::lans).collect(),
            Selector::Vip(name) => {
                let vips = self.network.virtual_ips.iter().filter(|vip| vip.name == *name);
                vips.map(|vip| vip.address).collect::<AddressSet>()
            }
            Selector::Cidr(net) => std::iter::once(*net).collect(),
            Selector::Federation(peer) => {
                let bridges = self.bridges.iter().filter(|bridge| bridge.peer == *peer);
                bridges.flat_map(|bridge| bridge.import.iter()).collect()
            }
            Selector::Any => self.inside.clone(),
        }
    }
}

fn describe(selector: &Selector) -> String {
    match selector {
        Selector::Node(name) => format!("node {name}"),
        Selector::Tag(name) => format!("tag {name}"),
        Selector::LanOf(name) => format!("lan_of {name}"),
        Selector::Vip(name) => format!("vip {name}"),
        Selector::Cidr(net) => format!("cidr {net}"),
        Selector::Federation(name) => format!("federation {name}"),
        Selector::Any => "any".to_owned(),
    }
}

/// The same ports as sorted ranges that neither overlap nor touch.
fn merge(ports: &[PortRange]) -> Vec<PortRange> {
    let mut sorted = ports.to_vec();
    sorted.sort();
    let mut merged: Vec<PortRange> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                last.last = last.last.max(range.last);
            }
            Some(_) | None => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_merge() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(
            merge(&[
                range(8000, 8010),
                range(80, 80),
                range(8005, 8020),
                range(81, 90),
                range(65535, 65535)
            ]),
            vec![range(80, 90), range(8000, 8020), range(65535, 65535)]
        );
    }
}
