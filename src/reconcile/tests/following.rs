//! Routes of others: whatever they say, a prefix is on the peer that the best one leads to and the fleet allows, or on nobody.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use proptest::prelude::*;

use super::memory::MemoryHost;
use super::{block_on, fleets, isolations, nothing, parse, round, settle, target_of};
use crate::intent::IsolationMode;
use crate::model::LinkName;
use crate::model::ownership::ROUTE_PROTOCOL;
use crate::planes::PlaneName;
use crate::planes::l3::{RouteKey, RouteTo};
use crate::reconcile::{ConditionState, Conditions, Host as _, Plan, Target, conditions, notices, plan};

const LINK: &str = "wg-sdwan-1";
const TABLE: u32 = 10_001;
/// Another's routing daemon (`RTPROT_BGP`).
const OTHERS: u8 = 186;

/// What the tests route, and who may carry it; the first by the fleet alone. The last three are a part of a LAN, a node's own
/// address, and what is nobody's.
const NETS: [(&str, &[&str]); 7] = [
    ("10.120.0.0/16", &["n1", "h2"]),
    ("fd00:20::/64", &["n1", "h2"]),
    ("fd12:34ab:cd42:1::100/128", &["n1", "n2", "h2"]),
    ("100.64.1.100/32", &["n2", "n1", "h2"]),
    ("10.120.5.0/24", &["n1", "h2"]),
    ("fd12:34ab:cd42:1::3/128", &["n1"]),
    ("192.0.2.0/24", &[]),
];
/// How many of them are the fleet's.
const WHOLE: usize = 4;

/// Next hops, and whose they are.
const HOPS: [(&str, &str); 9] = [
    ("fe80::2", "h2"),
    ("fe80::3", "n1"),
    ("fe80::4", "n2"),
    ("fe80::5", "n3"),
    ("100.64.1.2", "h2"),
    ("fd12:34ab:cd42:1::4", "n2"),
    ("fe80::99", "?"),
    ("fd12:34ab:cd42:1::100", "?"),
    ("fd00:20::1", "?"),
];

/// A hub with another hub, three spokes, a LAN behind the first, and virtual IPs.
fn hub(isolation: IsolationMode) -> Target {
    let me = super::memory::key().public();
    let mut text = format!(
        "[site]\nname = \"s\"\nprefix = \"fd12:34ab:cd42::/48\"\n\
         [[nodes]]\nname = \"me\"\npublic_key = \"{me}\"\nhost_id = 1\nendpoints = [\"192.0.2.1\"]\n"
    );
    for (index, name) in (2..).zip(["h2", "n1", "n2", "n3"]) {
        let key = fleets::public_key(index);
        text += &format!("[[nodes]]\nname = \"{name}\"\npublic_key = \"{key}\"\nhost_id = {index}\n");
        if name == "h2" {
            text += "endpoints = [\"192.0.2.2\"]\n";
        }
    }
    text += "[[networks]]\nname = \"prod\"\nid = 1\nrouting = \"static\"\nprefix_v4 = \"100.64.1.0/24\"\nmembers = [\n\
             { node = \"me\", role = \"hub\" }, { node = \"h2\", role = \"hub\" },\n\
             { node = \"n1\", lans = [ { subnet = \"10.120.0.0/16\", interface = \"lan1\" }, \
               { subnet = \"fd00:20::/64\", interface = \"lan1\" } ] },\n\
             { node = \"n2\" }, { node = \"n3\" } ]\n\
             [[networks.virtual_ips]]\nname = \"api\"\naddress = \"::100\"\nholders = [\"n1\", \"n2\"]\n\
             [[networks.virtual_ips]]\nname = \"api4\"\naddress = \"100.64.1.100\"\nholders = [\"n2\", \"n1\"]\n\
             [[networks.virtual_ips]]\nname = \"mine\"\naddress = \"::101\"\nholders = [\"me\", \"n1\"]\n";
    target_of(&parse(&[("fleet.d/00.toml".into(), text)]), isolation)
}

/// What each peer carries, by its name.
fn carried(host: &MemoryHost, target: &Target) -> BTreeMap<String, BTreeSet<IpNet>> {
    let peers = &target.intent.networks.values().next().unwrap().links[0].peers;
    let found = host.wg.read(LINK).unwrap().peers.into_iter();
    let named = found.map(|(key, peer)| {
        let node = &peers[&crate::model::PublicKey(key)].node;
        (node.to_string(), peer.allowed_ips)
    });
    named.collect()
}

fn carriers(carried: &BTreeMap<String, BTreeSet<IpNet>>, net: IpNet) -> Vec<&str> {
    let has = carried.iter().filter(|(_, nets)| nets.contains(&net));
    has.map(|(node, _)| node.as_str()).collect()
}

fn key(net: &str, metric: u32) -> RouteKey {
    RouteKey {
        table: TABLE,
        destination: net.parse().unwrap(),
        metric,
    }
}

fn by(device: &str, gateway: Option<&str>) -> RouteTo {
    RouteTo::Link {
        device: LinkName::new(device).unwrap(),
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        source: None,
        mtu: None,
    }
}

/// Another one's change of a route; none removes it.
fn reroute(host: &mut MemoryHost, key: RouteKey, to: Option<RouteTo>) {
    match to {
        Some(to) => {
            host.kernel.routes.insert(key, (OTHERS, to));
        }
        None => {
            if host
                .kernel
                .routes
                .get(&key)
                .is_some_and(|(protocol, _)| *protocol == OTHERS)
            {
                host.kernel.routes.remove(&key);
            }
        }
    }
}

/// Where the best route to a destination leads, read from the kernel: none where there is none, or ours.
fn best<'a>(host: &'a MemoryHost, net: &str) -> Option<&'a RouteTo> {
    let destination: IpNet = net.parse().unwrap();
    let routes = host.kernel.routes.iter();
    let mut routes = routes.filter(|(key, _)| key.table == TABLE && key.destination == destination);
    // Keys are in order: the metric comes last.
    let (_, (protocol, to)) = routes.next()?;
    (*protocol != ROUTE_PROTOCOL).then_some(to)
}

/// Whose next hop it is; `?` where nobody's alone.
fn leads(to: &RouteTo) -> Option<&'static str> {
    match to {
        RouteTo::Unreachable => None,
        RouteTo::Elsewhere => Some("?"),
        RouteTo::Link { device, .. } if device.as_str() != LINK => None,
        RouteTo::Link { gateway, .. } => {
            let hop = HOPS
                .iter()
                .find(|(hop, _)| gateway.is_some_and(|gateway| gateway.to_string() == *hop));
            Some(hop.map_or("?", |(_, node)| node))
        }
    }
}

/// Who carries a prefix, and whether something is to be said of its route: told from the kernel's routes alone.
fn expected(host: &MemoryHost, index: usize) -> (Option<&'static str>, bool) {
    let (net, may) = NETS[index];
    let (home, is_whole) = (may.first().copied(), index < WHOLE);
    match (best(host, net).map(leads), may) {
        (None, _) => (home.filter(|_| is_whole || may.len() == 1), false),
        (Some(None), [_]) => (home, false),
        (Some(None), _) => (None, false),
        (Some(Some(node)), [owner]) => (home, node != *owner && node != "?"),
        (Some(Some(node)), _) => match may.iter().find(|may| **may == node) {
            Some(node) => (Some(node), false),
            None => (None, true),
        },
    }
}

fn check(host: &MemoryHost, target: &Target, after: &Plan) -> Result<(), TestCaseError> {
    let carried = carried(host, target);
    let mut said = false;
    for (index, (net, _)) in NETS.iter().enumerate() {
        let (node, is_said) = expected(host, index);
        let expected: Vec<&str> = node.into_iter().collect();
        prop_assert_eq!(carriers(&carried, net.parse().unwrap()), expected, "{}", net);
        said |= is_said;
        let named = after.blocked.iter().any(|blocked| {
            blocked.plane == PlaneName::Wireguard
                && blocked.blocked.reason.starts_with("UnmappedNextHop: ")
                && blocked.blocked.reason.contains(&format!(" to {net} "))
                && blocked
                    .blocked
                    .fix
                    .contains(&format!("ip route delete {net} table {TABLE}"))
        });
        prop_assert_eq!(named, is_said, "{}: {}", net, after);
    }
    prop_assert_eq!(after.blocked.is_empty(), !said);
    // Nothing beyond the fleet, and nobody's own address on anyone else.
    for (node, nets) in &carried {
        let host_id = 1 + HOPS.iter().take(4).position(|(_, name)| name == node).unwrap() + 1;
        for net in nets {
            let own = [
                format!("fd12:34ab:cd42:1::{host_id}/128"),
                format!("100.64.1.{host_id}/32"),
                format!("fe80::{host_id}/128"),
            ];
            let may = NETS
                .iter()
                .filter(|(_, may)| may.len() > 1 && may.contains(&node.as_str()));
            let mut may = may.map(|(net, _)| net.parse::<IpNet>().unwrap());
            prop_assert!(
                own.contains(&net.to_string()) || may.any(|may| may == *net),
                "{} on {}",
                net,
                node
            );
        }
    }
    Ok(())
}

/// A round step by step: what moves from one peer to another is on exactly one all along.
fn follow(host: &mut MemoryHost, target: &Target) -> Result<Plan, TestCaseError> {
    let before = carried(host, target);
    let observation = block_on(host.observe(target));
    let planned = plan(target, &observation);
    let mut seen = vec![before.clone()];
    for step in &planned.steps {
        for result in block_on(host.apply(&[&step.change])) {
            prop_assert_eq!(result, Ok(()), "{}", step.text);
        }
        seen.push(carried(host, target));
    }
    let after = carried(host, target);
    for (net, _) in NETS {
        let net: IpNet = net.parse().unwrap();
        let stays_carried = carriers(&before, net).len() == 1 && carriers(&after, net).len() == 1;
        for carried in &seen {
            let count = carriers(carried, net).len();
            prop_assert!(
                count <= 1 && (!stays_carried || count == 1),
                "{}: {}",
                net,
                planned
            );
        }
    }
    let observation = block_on(host.observe(target));
    let left = plan(target, &observation);
    prop_assert!(left.steps.is_empty(), "{}after {}", left, planned);
    Ok(left)
}

fn to() -> impl Strategy<Value = Option<RouteTo>> {
    prop_oneof![
        8 => prop::sample::select(HOPS.to_vec()).prop_map(|(hop, _)| Some(by(LINK, Some(hop)))),
        1 => Just(Some(by(LINK, None))),
        1 => Just(Some(by("eth0", Some("10.0.0.254")))),
        1 => Just(Some(RouteTo::Unreachable)),
        1 => Just(Some(RouteTo::Elsewhere)),
        4 => Just(None),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_prefix_is_where_the_best_route_leads_and_the_fleet_allows(
        changes in prop::collection::vec(
            (prop::sample::select(NETS.to_vec()), prop::sample::select(vec![20_u32, 1_024, 2_000]), to()), 1..16),
        isolation in isolations()
    ) {
        let target = hub(isolation);
        let mut host = MemoryHost::new();
        settle(&mut host, &target);
        for ((net, _), metric, to) in changes {
            // A node's own address is in the place of our own route to it nowhere: that is another's affair, and an error.
            if metric == 1_024 && net.ends_with(":3/128") {
                continue;
            }
            reroute(&mut host, key(net, metric), to);
            let left = follow(&mut host, &target)?;
            check(&host, &target, &left)?;
        }
        // Without them it is as the fleet alone says.
        host.kernel.routes.retain(|key, (protocol, _)| *protocol != OTHERS || key.destination == "10.77.0.0/16".parse().unwrap());
        let left = follow(&mut host, &target)?;
        check(&host, &target, &left)?;
        prop_assert!(left.is_converged(), "{}", left);
    }
}

#[test]
fn a_move_is_one_addition_and_its_reason_is_told() {
    let target = hub(IsolationMode::Vrf);
    let mut host = MemoryHost::new();
    settle(&mut host, &target);
    reroute(
        &mut host,
        key("10.120.0.0/16", 20),
        Some(by(LINK, Some("fe80::2"))),
    );
    let done = round(&mut host, &target);
    let steps: Vec<&str> = done.plan.steps.iter().map(|step| step.text.as_str()).collect();
    assert_eq!(steps.len(), 1, "{}", done.plan);
    assert!(
        steps[0].starts_with("wg-sdwan-1: update peer h2 "),
        "{}",
        steps[0]
    );
    assert!(
        steps[0].ends_with(": add allowed ips 10.120.0.0/16"),
        "{}",
        steps[0]
    );
    let told = "prefix 10.120.0.0/16: h2 carries it instead of n1: the route of protocol 186 with metric 20 leads there";
    assert!(done.plan.to_string().contains(told), "{}", done.plan);
    assert!(done.left.is_converged(), "{}", done.left);
    let observation = block_on(host.observe(&target));
    assert!(
        notices(&target, &observation)
            .iter()
            .any(|notice| notice.object == "prefix 10.120.0.0/16")
    );
    // Nothing more is written, and nothing of it is left when it all goes.
    let written = host.written;
    assert!(round(&mut host, &target).plan.is_converged());
    assert_eq!(host.written, written);
    settle(&mut host, &nothing(&target));
}

#[test]
fn a_route_of_ours_that_is_gone_counts_as_it_will_be() {
    let target = hub(IsolationMode::Vrf);
    let mut host = MemoryHost::new();
    settle(&mut host, &target);
    reroute(
        &mut host,
        key("10.120.0.0/16", 2_000),
        Some(by(LINK, Some("fe80::2"))),
    );
    assert!(round(&mut host, &target).plan.steps.is_empty());
    // Where another's takes its place it doesn't come, and the worse one doesn't count.
    reroute(
        &mut host,
        key("10.120.0.0/16", 1_024),
        Some(by(LINK, Some("fe80::2"))),
    );
    let done = round(&mut host, &target);
    assert_eq!(
        (done.plan.steps.len(), done.left.steps.len()),
        (1, 0),
        "{}",
        done.plan
    );
    reroute(&mut host, key("10.120.0.0/16", 1_024), None);
    let done = round(&mut host, &target);
    let texts: Vec<&str> = done.plan.steps.iter().map(|step| step.text.as_str()).collect();
    assert!(texts[0].starts_with("wg-sdwan-1: update peer n1 "), "{texts:?}");
    assert!(texts[1].starts_with("ip route add 10.120.0.0/16 "), "{texts:?}");
    assert_eq!((texts.len(), done.left.steps.len()), (2, 0), "{}", done.left);
}

#[test]
fn whatever_is_unmapped_is_a_condition_of_its_network() {
    let target = hub(IsolationMode::Vrf);
    let mut host = MemoryHost::new();
    settle(&mut host, &target);
    reroute(
        &mut host,
        key("fd12:34ab:cd42:1::100/128", 20),
        Some(RouteTo::Elsewhere),
    );
    for third in 0..12 {
        reroute(
            &mut host,
            key(&format!("198.51.{third}.0/24"), 20),
            Some(by(LINK, Some("fe80::4"))),
        );
    }
    let done = round(&mut host, &target);
    let found = conditions(&target, &done, &Conditions::new(), 7);
    let network = *target.intent.networks.keys().next().unwrap();
    let condition = &found[&(PlaneName::Wireguard, Some(network))];
    assert_eq!(condition.state, ConditionState::Blocked);
    for part in [
        "to fd12:34ab:cd42:1::100/128 has 2 next hops, and one peer can carry it: no peer carries it",
        "fe80::3 (n1)",
        "to 198.51.0.0/24 is to what the fleet gives to no peer",
        "the same of 5 more routes by wg-sdwan-1",
    ] {
        assert!(condition.reason.contains(part), "{part} in {}", condition.reason);
    }
    // A plan that can't read the routes has nothing follow them, nor back.
    host.unreadable = Some(PlaneName::L3);
    assert!(round(&mut host, &target).plan.steps.is_empty());
}
