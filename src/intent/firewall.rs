//! Rules with their selectors resolved to addresses.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::compile::Placed;
use super::topology::bound;
use super::{FirewallIntent, LanIntent, LinkIntent, Notice, RuleIntent, mappings};
use crate::model::fleet::Fleet;
use crate::model::network::{Network, PortRange, Rule, Selector};
use crate::model::{AddressSet, LinkName, Name};

pub(super) fn compile(
    fleet: &Fleet,
    network: &Network,
    members: &[Placed<'_>],
    own: &Placed<'_>,
    links: &[LinkIntent],
    lans: &[LanIntent],
    notices: &mut Vec<Notice>,
) -> FirewallIntent {
    let everything: AddressSet = bound(network, members).iter().collect();
    let resolver = Resolver {
        fleet,
        network,
        members,
        everything: &everything,
    };
    let rules = network
        .rules_in_order()
        .into_iter()
        .filter_map(|rule| resolver.rule(rule, notices))
        .collect();
    FirewallIntent {
        default_action: network.default_action,
        links: links.iter().map(|link| link.name.clone()).collect(),
        lan_sources: lan_sources(lans),
        own: own
            .addresses()
            .chain(lans.iter().filter(|lan| lan.via.is_none()).map(|lan| lan.subnet))
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
    fleet: &'a Fleet,
    network: &'a Network,
    members: &'a [Placed<'a>],
    everything: &'a AddressSet,
}

impl Resolver<'_> {
    /// The rule, or nothing where a side matches nothing: it is never widened.
    fn rule(&self, rule: &Rule, notices: &mut Vec<Notice>) -> Option<RuleIntent> {
        let (from, to) = (self.selector(&rule.from), self.selector(&rule.to));
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
                let bridges = self.fleet.bridges.values();
                bridges
                    .filter(|b| b.enabled && b.peer == *peer && b.network == self.network.name)
                    .flat_map(|bridge| bridge.import.iter())
                    .collect()
            }
            Selector::Any => self.everything.clone(),
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
