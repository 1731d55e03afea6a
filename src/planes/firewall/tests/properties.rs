//! Semantics by random rules and packets, without a kernel.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::cases::{host, hosts, nets, network, seen, slaves};
use super::interpreter::{Hook, Seen, passes};
use crate::intent::{FirewallIntent, HostIntent, IsolationMode, LinkKind, NetworkIntent, RuleIntent};
use crate::model::network::{Action, DefaultAction, PortRange, Protocol};
use crate::model::{AddressSet, LinkName, Name, NetworkId};
use crate::planes::Phase;
use crate::planes::firewall::compile::lower;
use crate::planes::firewall::diff::{closed, leaving, met};
use crate::planes::firewall::meet::lift;
use crate::planes::firewall::observe::Actual;
use crate::planes::firewall::policy::Packet;
use crate::planes::firewall::{self, Change, Connection, Policy, State, Table, compile, diff, judge, names};

/// What the intent says about a packet, read line by line.
fn naive(host: &HostIntent, seen: &Seen) -> bool {
    let on = |name: &str| {
        host.networks.values().find(|network| {
            let firewall = &network.firewall;
            let mut all = firewall.links.iter().chain(firewall.lan_sources.keys());
            all.any(|link| link.as_str() == name)
        })
    };
    let is_lan = |network: &NetworkIntent, name: &str| {
        network
            .firewall
            .lan_sources
            .keys()
            .any(|link| link.as_str() == name)
    };
    // In the main table only the links are ours.
    let judged = |name: &str| {
        on(name).filter(|network| network.isolation != IsolationMode::Main || !is_lan(network, name))
    };
    // Without a VRF, the kernel takes a packet for an overlay address from anywhere.
    let enters = |name: &str| {
        let others = host.networks.values().filter(|network| {
            network.isolation == IsolationMode::Rules && on(name).is_none_or(|on| on.id != network.id)
        });
        others.into_iter().any(|network| {
            let firewall = &network.firewall;
            let mut lans = firewall.lan_sources.values();
            let own = firewall
                .own
                .iter()
                .find(|net| net.contains(&seen.packet.destination));
            own.is_some_and(|net| !lans.any(|lan| lan.contains(net.network())))
        })
    };
    match &seen.hook {
        Hook::Input(name) if enters(name) => false,
        Hook::Input(name) => judged(name).is_none_or(|network| {
            let firewall = &network.firewall;
            firewall.own.contains(seen.packet.destination)
                && firewall.bound.contains(seen.packet.source)
                && source_fits(network, name, &seen.packet)
                && comes_in(network, &seen.packet)
        }),
        Hook::Output(name) => judged(name).is_none_or(|network| {
            let firewall = &network.firewall;
            firewall.own.contains(seen.packet.source)
                && firewall.bound.contains(seen.packet.destination)
                && verdict(network, &seen.packet)
        }),
        Hook::Forward(from, to) => {
            if is_mapped(judged(to), seen) {
                return true;
            }
            if judged(from).is_none() && judged(to).is_none() {
                return true;
            }
            let (Some(network), Some(other)) = (on(from), on(to)) else {
                return false;
            };
            network.id == other.id && transit(network, from, &seen.packet)
        }
    }
}

/// Whether a port mapping of this network sent the packet to one of its targets.
fn is_mapped(network: Option<&NetworkIntent>, seen: &Seen) -> bool {
    let Some(network) = network.filter(|network| seen.mapped == Some(network.id)) else {
        return false;
    };
    network.firewall.mappings.iter().any(|mapping| {
        let mut ways = mapping.ways.iter();
        is_of(mapping.protocol, &seen.packet)
            && mapping.target_port == seen.packet.port
            && ways.any(|way| way.target == seen.packet.destination)
    })
}

fn is_of(protocol: Protocol, packet: &Packet) -> bool {
    match protocol {
        Protocol::Any => true,
        Protocol::Tcp => packet.protocol == 6,
        Protocol::Udp => packet.protocol == 17,
        Protocol::Icmp => packet.protocol == if packet.source.is_ipv4() { 1 } else { 58 },
    }
}

fn transit(network: &NetworkIntent, from: &str, packet: &Packet) -> bool {
    let firewall = &network.firewall;
    let local = |address| {
        firewall.own.contains(address) || firewall.lan_sources.values().any(|nets| nets.contains(address))
    };
    let relays = network.links.iter().any(|link| link.kind == LinkKind::Multipoint);
    source_fits(network, from, packet)
        && firewall.bound.contains(packet.source)
        && firewall.bound.contains(packet.destination)
        && (relays || local(packet.source) || local(packet.destination))
        && comes_in(network, packet)
}

fn source_fits(network: &NetworkIntent, name: &str, packet: &Packet) -> bool {
    let mut lans = network.firewall.lan_sources.iter();
    let lan = lans.find(|(link, _)| link.as_str() == name);
    lan.is_none_or(|(_, nets)| nets.contains(packet.source))
}

/// By a rule, or because another host's mapping sends it: in or through, never out.
fn comes_in(network: &NetworkIntent, packet: &Packet) -> bool {
    let mut admissions = network.firewall.admissions.iter();
    let admitted = admissions.any(|admission| {
        is_of(admission.protocol, packet)
            && admission.port == packet.port
            && (admission.from, admission.to) == (packet.source, packet.destination)
    });
    admitted || verdict(network, packet)
}

fn verdict(network: &NetworkIntent, packet: &Packet) -> bool {
    for rule in &network.firewall.rules {
        let protocol = is_of(rule.protocol, packet);
        let port = rule.ports.is_empty()
            || rule
                .ports
                .iter()
                .any(|range| range.first <= packet.port && packet.port <= range.last);
        if protocol && port && rule.from.contains(packet.source) && rule.to.contains(packet.destination) {
            return rule.action == Action::Accept;
        }
    }
    network.firewall.default_action == DefaultAction::Accept
}

fn hook(seen: &Hook) -> firewall::Hook {
    let link = |name: &str| LinkName::new(name).unwrap();
    match seen {
        Hook::Input(from) => firewall::Hook::Input(link(from)),
        Hook::Output(to) => firewall::Hook::Output(link(to)),
        Hook::Forward(from, to) => firewall::Hook::Forward(link(from), link(to)),
    }
}

/// The networks whose connections are looked at.
fn cut_networks(changes: &[Change]) -> BTreeSet<NetworkId> {
    let cuts = changes.iter().filter(|change| change.phase() == Phase::Cut);
    cuts.filter_map(Change::network).collect()
}

/// The networks whose interfaces a packet passes, or whose mapping it came by.
fn concerned(seen: &Seen) -> BTreeSet<NetworkId> {
    let links = match &seen.hook {
        Hook::Input(link) | Hook::Output(link) => vec![link],
        Hook::Forward(from, to) => vec![from, to],
    };
    let of_link = |link: &&String| {
        let rest = link
            .strip_prefix("wg-sdwan-")
            .or_else(|| link.strip_prefix("lan"))?;
        NetworkId::new(rest.split(['-', '.']).next()?.parse().ok()?).ok()
    };
    links.iter().filter_map(of_link).chain(seen.mapped).collect()
}

/// The table as if it had been read back: rules have tags only.
fn observed(state: &State) -> Actual {
    let mut table = state.table.clone();
    for rule in table
        .iter_mut()
        .flat_map(|t| t.chains.values_mut())
        .flat_map(|chain| &mut chain.rules)
    {
        rule.line = None;
    }
    Actual {
        table,
        ..Actual::default()
    }
}

/// What stands between an observed table and a desired one.
fn between(old: &State, new: &State) -> Option<Table> {
    let Some(found) = observed(old).table else {
        return lower(&met(new, &BTreeMap::new()), &BTreeMap::new(), &BTreeMap::new());
    };
    {
        let lifted = lift(&found);
        lower(
            &met(new, &lifted),
            &closed(&found, new.table.as_ref()),
            &leaving(new, &lifted),
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_table_does_what_the_rules_say(host in hosts(), packets in prop::collection::vec(seen(), 64)) {
        let state = compile(&host);
        let slaves = slaves(&[&host]);
        for seen in packets {
            let expected = naive(&host, &seen);
            prop_assert_eq!(passes(state.table.as_ref(), &slaves, &seen), expected, "{:?}", seen);
        }
    }

    #[test]
    fn what_is_explained_is_what_the_table_does(host in hosts(), packets in prop::collection::vec(seen(), 64)) {
        let state = compile(&host);
        let slaves = slaves(&[&host]);
        for seen in packets {
            let connection = seen.mapped.map_or(Connection::New, Connection::Mapped);
            let ruling = judge(&state.policies, &hook(&seen.hook), &seen.packet, connection);
            let passes = passes(state.table.as_ref(), &slaves, &seen);
            prop_assert_eq!(ruling.passes(), passes, "{:?} {:?}", ruling, seen);
            // The same table, read back, is explained in the same way.
            let there = firewall::observed(observed(&state).table.as_ref(), &state.policies);
            prop_assert_eq!(judge(&there, &hook(&seen.hook), &seen.packet, connection).passes(), passes, "{:?}", seen);
        }
    }

    #[test]
    fn connections_are_judged_by_the_same_rules(host in hosts(), packets in prop::collection::vec(seen(), 64)) {
        for network in host.networks.values() {
            let policy = Policy::of(network);
            let link = network.firewall.links.first().unwrap().as_str();
            for seen in &packets {
                prop_assert_eq!(policy.allows(&seen.packet), transit(network, link, &seen.packet));
            }
        }
    }

    #[test]
    fn nothing_to_do_is_nothing_done(host in hosts()) {
        let state = compile(&host);
        let difference = diff(&state, &observed(&state), None, false);
        prop_assert!(difference.changes.is_empty(), "{:?}", difference.changes);
    }

    #[test]
    fn narrowing_is_never_more_open_than_old_or_new(
        old in hosts(), new in hosts(), packets in prop::collection::vec(seen(), 64)
    ) {
        let (was, will) = (compile(&old), compile(&new));
        let middle = between(&was, &will);
        // An interface that changes hands is a slave of at most one VRF at a time: try what it was and what it will be.
        for slaves in [slaves(&[&old]), slaves(&[&new])] {
            for seen in &packets {
                if passes(middle.as_ref(), &slaves, seen) {
                    prop_assert!(passes(will.table.as_ref(), &slaves, seen), "beyond new: {:?}", seen);
                }
            }
        }
        for seen in &packets {
            if was.table.is_some() && passes(middle.as_ref(), &slaves(&[&old]), seen) {
                prop_assert!(passes(was.table.as_ref(), &slaves(&[&old]), seen), "beyond old: {:?}", seen);
            }
        }
    }

    #[test]
    fn what_both_allow_keeps_passing_while_rules_come_and_go(
        host in hosts(), keep in prop::collection::vec(any::<bool>(), 24), packets in prop::collection::vec(seen(), 64)
    ) {
        // Rules only come: nothing that passed is ever in doubt.
        let mut fewer = host.clone();
        let mut kept = keep.into_iter().cycle();
        for network in fewer.networks.values_mut() {
            network.firewall.rules.retain(|rule| rule.action == Action::Accept && kept.next() == Some(true));
        }
        let mut more = fewer.clone();
        for (id, network) in &mut more.networks {
            network.firewall.rules = host.networks[id].firewall.rules.clone();
            network.firewall.rules.retain(|rule| rule.action == Action::Accept);
        }
        let (was, will) = (compile(&fewer), compile(&more));
        let difference = diff(&will, &observed(&was), None, false);
        prop_assert!(difference.changes.iter().all(|change| change.phase() == Phase::Widen), "{:?}", difference);
        let back = between(&will, &was);
        let slaves = slaves(&[&host]);
        for seen in &packets {
            if passes(was.table.as_ref(), &slaves, seen) {
                prop_assert!(passes(back.as_ref(), &slaves, seen), "{:?}", seen);
            }
        }
    }

    #[test]
    fn where_nothing_else_changes_one_transaction_leads_there(old in hosts(), new in hosts()) {
        let (was, will) = (compile(&old), compile(&new));
        let is_cut = |change: &&Change| change.phase() == Phase::Cut;
        let changes = diff(&will, &observed(&was), None, true).changes;
        let cautious = diff(&will, &observed(&was), None, false).changes;
        let cuts = cut_networks(&changes);
        prop_assert!(cuts.is_superset(&cut_networks(&cautious)), "{:?} {:?}", changes, cautious);
        if let (Some(_), Some(wanted)) = (&was.table, &will.table) {
            let ways: Vec<&Change> = changes.iter().filter(|change| !is_cut(change)).collect();
            match ways.as_slice() {
                [] => prop_assert_eq!(&was.table, &will.table),
                [Change::Widen(transaction)] => {
                    let mut result = transaction.result.as_deref().cloned().unwrap();
                    result.counters.retain(|name| !name.ends_with(names::CUT_MARK));
                    prop_assert_eq!(&result, wanted);
                }
                more => prop_assert!(false, "{more:?}"),
            }
        }
    }

    #[test]
    fn connections_are_looked_at_where_a_change_refuses_anything(
        old in hosts(), new in hosts(), takes in prop::collection::vec(any::<bool>(), 3),
        settled in any::<bool>(), packets in prop::collection::vec(seen(), 64)
    ) {
        // Some networks change, others don't.
        let mut mixed = old.clone();
        for (id, takes) in (1..4).zip(takes) {
            let id = NetworkId::new(id).unwrap();
            if let (true, Some(network)) = (takes, new.networks.get(&id)) {
                mixed.networks.insert(id, network.clone());
            }
        }
        let (was, will) = (compile(&old), compile(&mixed));
        let cuts = cut_networks(&diff(&will, &observed(&was), None, settled).changes);
        for seen in &packets {
            let is_cut_off = was.table.is_some()
                && passes(was.table.as_ref(), &slaves(&[&old]), seen)
                && !passes(will.table.as_ref(), &slaves(&[&mixed]), seen);
            // Whose addresses it is for is asked before whether it belongs to a connection.
            let guards = |policy: &&Policy| policy.guarded.contains(seen.packet.destination);
            let guarded = will.policies.values().filter(guards).map(|policy| policy.id);
            let concerned: BTreeSet<NetworkId> = concerned(seen).into_iter().chain(guarded).collect();
            if is_cut_off && concerned.iter().any(|id| was.policies.contains_key(id)) {
                prop_assert!(concerned.iter().any(|id| cuts.contains(id)), "{:?}: only {:?}", seen, cuts);
            }
        }
    }

    #[test]
    fn a_mapping_that_moves_cuts_its_own(old in hosts(), other in 1_u16..4) {
        // Whatever else changes: the port that it listens on stands in chains that all networks share.
        let other = NetworkId::new(other).unwrap();
        for (id, network) in &old.networks {
            if network.firewall.mappings.is_empty() || *id == other || !old.networks.contains_key(&other) {
                continue;
            }
            let mut new = old.clone();
            new.networks.get_mut(id).unwrap().firewall.mappings[0].listen_port ^= 0x4000;
            new.networks.get_mut(&other).unwrap().firewall.rules.clear();
            let (was, will) = (compile(&old), compile(&new));
            let cuts = cut_networks(&diff(&will, &observed(&was), None, true).changes);
            prop_assert!(cuts.contains(id), "{:?}", cuts);
        }
    }

    #[test]
    fn a_shared_chain_that_was_emptied_cuts_everywhere(old in hosts(), other in 1_u16..4) {
        let other = NetworkId::new(other).unwrap();
        let mut new = old.clone();
        if let Some(network) = new.networks.get_mut(&other) {
            network.firewall.rules.clear();
        }
        let (was, will) = (compile(&old), compile(&new));
        for settled in [true, false] {
            let mut found = observed(&was);
            if let Some(table) = &mut found.table {
                table.chains.get_mut("forward").unwrap().rules.clear();
                let cuts = cut_networks(&diff(&will, &found, None, settled).changes);
                prop_assert!(old.networks.keys().all(|id| cuts.contains(id)), "{:?}", cuts);
            }
        }
    }

    #[test]
    fn lifting_gives_back_what_was_lowered(host in hosts()) {
        let state = compile(&host);
        prop_assert_eq!(between(&state, &state), state.table);
    }

    #[test]
    fn removal_ends_without_a_table(host in hosts()) {
        let state = compile(&host);
        let nothing = compile(&super::cases::host(Vec::new()));
        let changes = diff(&nothing, &observed(&state), None, false).changes;
        prop_assert_eq!(changes.is_empty(), state.table.is_none());
        if let Some(last) = changes.iter().rfind(|change| change.phase() != Phase::Cut) {
            prop_assert!(matches!(last, Change::Remove(_)), "{:?}", changes);
        }
    }

    #[test]
    fn wide_rules_mean_the_same(
        from in nets(40..90), to in nets(40..90), packets in prop::collection::vec(seen(), 64)
    ) {
        // 70 scattered addresses on each side: more than fits in a verdict map.
        let scattered = |set: &AddressSet, step: u32| -> AddressSet {
            let many = (0..70).map(|n| std::net::IpAddr::V4((0x0b00_0000 + n * step).into()));
            set.iter().chain(many.map(ipnet::IpNet::from)).collect()
        };
        let rule = |name: &str, priority, action, from: &AddressSet, to: &AddressSet| RuleIntent {
            name: Name::new(name).unwrap(),
            priority,
            action,
            from: from.clone(),
            to: to.clone(),
            protocol: Protocol::Tcp,
            ports: vec![PortRange { first: 5, last: 9 }],
            log: false,
        };
        let everything: AddressSet = ["0.0.0.0/0", "::/0"].iter().map(|n| n.parse::<ipnet::IpNet>().unwrap()).collect();
        let firewall = FirewallIntent {
            links: std::iter::once(LinkName::new("wg-sdwan-1-0").unwrap()).collect(),
            own: from.clone(),
            bound: everything.clone(),
            rules: vec![
                rule("first", 1, Action::Drop, &to, &from),
                rule("wide", 2, Action::Accept, &scattered(&from, 2), &scattered(&to, 4)),
                rule("last", 3, Action::Accept, &everything, &from),
            ],
            ..FirewallIntent::default()
        };
        let host = host(vec![network(1, IsolationMode::Vrf, true, firewall)]);
        let state = compile(&host);
        let table = state.table.as_ref().unwrap();
        prop_assert!(table.sets.keys().any(|name| name.starts_with("n1-ws4-0-wide")));
        prop_assert_eq!(between(&state, &state), state.table.clone());
        for seen in packets {
            let expected = naive(&host, &seen);
            prop_assert_eq!(passes(Some(table), &slaves(&[&host]), &seen), expected, "{:?}", seen);
        }
    }
}

#[test]
fn a_thousand_rules_of_members_stay_in_few_layers() {
    let address = |n: u32| std::net::IpAddr::V6(((0xfd00_u128 << 112) | u128::from(n * 7)).into());
    let one = |n: u32| -> AddressSet { std::iter::once(address(n)).collect() };
    let all: AddressSet = std::iter::once("fd00::/64".parse::<ipnet::IpNet>().unwrap()).collect();
    let rules = (0..1000_u32).map(|n| RuleIntent {
        name: Name::new(&format!("rule-{n}")).unwrap(),
        priority: n,
        action: Action::Accept,
        from: if n % 2 == 0 { all.clone() } else { one(n) },
        to: if n % 2 == 0 { one(n) } else { all.clone() },
        protocol: Protocol::Tcp,
        ports: vec![PortRange { first: 22, last: 22 }],
        log: false,
    });
    let firewall = FirewallIntent {
        links: std::iter::once(LinkName::new("wg-sdwan-1").unwrap()).collect(),
        own: one(1),
        bound: all.clone(),
        rules: rules.collect(),
        ..FirewallIntent::default()
    };
    let state = compile(&host(vec![network(1, IsolationMode::Vrf, true, firewall)]));
    let maps = state
        .table
        .unwrap()
        .sets
        .into_keys()
        .filter(|name| name.starts_with("n1-tcp6-"))
        .count();
    // They overlap one another in turn, so in strict order each would need a layer of its own.
    assert!(maps <= 16, "{maps}");
}

/// An interface that joins a network, and whose packets were none of its before, is no way out for it before the last step.
#[test]
fn a_lan_that_joins_is_no_way_out_yet() {
    let of = |nets: &[&str]| {
        nets.iter()
            .map(|net| net.parse::<ipnet::IpNet>().unwrap())
            .collect::<AddressSet>()
    };
    let link = |name: &str| LinkName::new(name).unwrap();
    let firewall = |lan: Option<&str>, bound: &[&str]| FirewallIntent {
        default_action: DefaultAction::Accept,
        links: [link("wg-sdwan-3-0")].into(),
        lan_sources: lan
            .map(|lan| (link(lan), AddressSet::default()))
            .into_iter()
            .collect(),
        own: of(&["fd00::/128"]),
        bound: of(bound),
        ..FirewallIntent::default()
    };
    for isolation in [IsolationMode::Main, IsolationMode::Rules, IsolationMode::Vrf] {
        let old = host(vec![network(
            3,
            isolation,
            true,
            firewall(None, &["10.0.0.32/28", "fd00::/128"]),
        )]);
        let wider = firewall(Some("lan3.0"), &["10.0.0.0/26", "fd00::/128"]);
        let new = host(vec![network(3, isolation, true, wider)]);
        let (was, will) = (compile(&old), compile(&new));
        let packet = Packet {
            source: "10.0.0.32".parse().unwrap(),
            destination: "10.0.0.32".parse().unwrap(),
            protocol: 6,
            port: 1,
        };
        let seen = Seen {
            hook: Hook::Forward("wg-sdwan-3-0".to_owned(), "lan3.0".to_owned()),
            packet,
            mapped: None,
        };
        let slaves = slaves(&[&old]);
        let passes = |table: Option<&Table>| passes(table, &slaves, &seen);
        assert!(!passes(was.table.as_ref()), "{isolation:?}");
        assert!(!passes(between(&was, &will).as_ref()), "{isolation:?}");
    }
}
