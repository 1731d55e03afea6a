//! The firewall's rules: whom they name.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Findings, Issue, Kind, NetworkView, Object, View};
use crate::model::fleet::Fleet;
use crate::model::name::Name;
use crate::model::network::{Rule, Selector};

pub(super) fn check(view: &View<'_>, findings: &mut Findings) {
    for network in &view.networks {
        let tags: BTreeSet<&Name> = network
            .members
            .iter()
            .flat_map(|member| &member.node.tags)
            .collect();
        for rule in &network.network.rules {
            for (side, selector) in [("from", &rule.from), ("to", &rule.to)] {
                let at = Object::Rule {
                    network: network.name(),
                    name: rule.name.clone(),
                }
                .key(side);
                match selector_issue(view.fleet, network, &tags, selector) {
                    Verdict::Fine => {}
                    Verdict::Unknown(kind, name) => findings.add(at, Issue::Unknown(kind, name.clone())),
                    Verdict::Nothing(why) => {
                        findings.add(
                            at,
                            Issue::MatchesNothing {
                                side,
                                rule: rule.name.clone(),
                                why,
                            },
                        );
                    }
                }
            }
            if families_differ(rule) {
                let at = Object::Rule {
                    network: network.name(),
                    name: rule.name.clone(),
                }
                .key("to");
                let why = "`from` and `to` are of different address families".to_owned();
                findings.add(
                    at,
                    Issue::MatchesNothing {
                        side: "to",
                        rule: rule.name.clone(),
                        why,
                    },
                );
            }
        }
    }
}

enum Verdict<'a> {
    Fine,
    Unknown(Kind, &'a Name),
    Nothing(String),
}

fn selector_issue<'s>(
    fleet: &Fleet,
    view: &NetworkView<'_>,
    tags: &BTreeSet<&Name>,
    selector: &'s Selector,
) -> Verdict<'s> {
    let network = &view.network.name;
    match selector {
        Selector::Node(node) | Selector::LanOf(node) if !fleet.nodes.contains_key(node) => {
            Verdict::Unknown(Kind::Node, node)
        }
        Selector::Node(node) | Selector::LanOf(node) => match view.member(node) {
            None => Verdict::Nothing(format!("node \"{node}\" isn't a member of \"{network}\"")),
            Some(member) if matches!(selector, Selector::LanOf(_)) && member.lans.is_empty() => {
                Verdict::Nothing(format!("node \"{node}\" has no LANs in \"{network}\""))
            }
            Some(_) => Verdict::Fine,
        },
        Selector::Tag(tag) if tags.contains(tag) => Verdict::Fine,
        Selector::Tag(tag) => Verdict::Nothing(format!("no member of \"{network}\" has tag \"{tag}\"")),
        Selector::Vip(vip) if view.network.virtual_ips.iter().any(|known| known.name == *vip) => {
            Verdict::Fine
        }
        Selector::Vip(vip) => Verdict::Unknown(Kind::VirtualIp, vip),
        Selector::Cidr(IpNet::V4(net)) if !view.network.carries_v4() => {
            Verdict::Nothing(format!("{net} is IPv4, which \"{network}\" doesn't carry"))
        }
        Selector::Any | Selector::Cidr(_) => Verdict::Fine,
        Selector::Federation(peer) => {
            let mut bridges = fleet.bridges.values();
            let is_there = bridges.any(|b| b.peer == *peer && b.network == *network && b.enabled);
            if is_there {
                Verdict::Fine
            } else {
                Verdict::Nothing(format!("no bridge of peer \"{peer}\" leads into \"{network}\""))
            }
        }
    }
}

fn families_differ(rule: &Rule) -> bool {
    match (&rule.from, &rule.to) {
        (Selector::Cidr(from), Selector::Cidr(to)) => from.addr().is_ipv4() != to.addr().is_ipv4(),
        _ => false,
    }
}
