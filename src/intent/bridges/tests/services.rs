//! What offers and subscriptions open: exactly what they name, and only as long as they are there.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{
    SITE_A, action as without_ports, agreement, agreements, fleet, intent, name, net, network_a, prod,
};
use crate::intent::NetworkIntent;
use crate::model::network::{Action, PortRange, Protocol};
use crate::model::{Agreements, Fleet};

const PEERS_VIP: &str = "fd77:1:2:5::100";

/// What the rules do to a packet with ports: the first that names it, else it is dropped.
fn verdict(network: &NetworkIntent, from: IpAddr, to: IpAddr, protocol: Protocol, port: u16) -> Action {
    let mut rules = network.firewall.rules.iter();
    let hit = rules.find(|rule| {
        let is_port = |range: &PortRange| (range.first..=range.last).contains(&port);
        let speaks = rule.protocol == Protocol::Any || rule.protocol == protocol;
        let fits = speaks && (rule.ports.is_empty() || rule.ports.iter().any(is_port));
        fits && rule.from.contains(from) && rule.to.contains(to)
    });
    hit.map_or(Action::Drop, |rule| rule.action)
}

fn bridge(import: &str, export: &str) -> String {
    format!(
        "[[bridges]]\nname = \"to-b\"\npeer = \"site-b\"\nnetwork = \"prod\"\ngateways = [\"hub\"]\nimport = [{import}]\nexport = [{export}]\n"
    )
}

fn service(kind: &str, rest: &str, protocol: Protocol, ports: (u16, u16)) -> String {
    let protocol = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
    let (first, last) = ports;
    format!(
        "[[{kind}]]\nname = \"it\"\nbridge = \"to-b\"\n{rest}\nprotocol = \"{protocol}\"\nports = [\"{first}-{last}\"]\n"
    )
}

fn offer(protocol: Protocol, ports: (u16, u16)) -> String {
    service("offers", "vip = \"api\"", protocol, ports)
}

fn subscription(protocol: Protocol, ports: (u16, u16)) -> String {
    let rest = format!("address = \"{PEERS_VIP}\"");
    service("subscriptions", &rest, protocol, ports)
}

fn with(parts: &[String]) -> Fleet {
    let mut all = vec![SITE_A.to_owned(), network_a("drop", "")];
    all.extend(parts.iter().cloned());
    fleet(&all).unwrap_or_else(|| panic!("{}", all.join("\n")))
}

fn agreed() -> Agreements {
    let all = ["fd77:1:2::/48"].map(net);
    agreements(&[("to-b", agreement("site-b", &all, &all, 40))])
}

const ADDRESSES: [&str; 8] = [
    "fd12:34ab:cd42:1::1",
    "fd12:34ab:cd42:1::b",
    "fd12:34ab:cd42:1::100",
    "10.10.0.9",
    PEERS_VIP,
    "fd77:1:2:5::101",
    "fd77:1:2:6::1",
    "fd99::1",
];

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

proptest! {
    #[test]
    fn a_service_opens_its_address_protocol_and_ports_and_nothing_else(
        offers in any::<bool>(),
        is in protocol(),
        first in 1_u16..60_000,
        more in 0_u16..50,
        broad in any::<bool>(),
        node in prop::sample::select(vec!["hub", "hub-2", "spoke"]),
        asked in protocol(),
        off in -2_i32..60,
    ) {
        let ports = (first, first + more);
        let (import, export) = if broad { ("\"fd77:1:2::/48\"", "\"fd12:34ab:cd42:1::/64\"") } else { ("", "") };
        let object = if offers { offer(is, ports) } else { subscription(is, ports) };
        // A bridge as narrow as its subscription still names who may come: what is exported may ask.
        let export = if offers { export } else { "\"fd12:34ab:cd42:1::/64\"" };
        let import = if offers { "\"fd77:1:2::/48\"" } else { import };
        let fleet = with(&[bridge(import, export), object]);
        let host = intent(&fleet, node, agreed());
        let network = prod(&host);
        let port = u16::try_from((i32::from(first) + off).clamp(1, 65_535)).unwrap();
        let overlay = |address: IpAddr| net("fd12:34ab:cd42:1::/64").contains(&address);
        let theirs = |address: IpAddr| net("fd77:1:2::/48").contains(&address);
        for from in ADDRESSES.map(|text| text.parse::<IpAddr>().unwrap()) {
            for to in ADDRESSES.map(|text| text.parse::<IpAddr>().unwrap()) {
                let named = if offers {
                    theirs(from) && to == "fd12:34ab:cd42:1::100".parse::<IpAddr>().unwrap()
                } else {
                    overlay(from) && to == PEERS_VIP.parse::<IpAddr>().unwrap()
                };
                let expected = named && asked == is && (ports.0..=ports.1).contains(&port);
                let passes = verdict(network, from, to, asked, port) == Action::Accept;
                // The gateways' own calls to each other aren't a service's.
                let calls = node == "hub" && port == 8443 && asked == Protocol::Tcp;
                prop_assert!(passes == expected || calls, "{from} → {to} {asked:?} {port} on {node}: {passes}");
            }
        }
    }
}

#[test]
fn a_service_is_what_a_person_would_have_written() {
    let offered = with(&[
        bridge("\"fd77:1:2::/48\"", ""),
        offer(Protocol::Tcp, (6443, 6443)),
    ]);
    let subscribed = with(&[
        bridge("", "\"fd12:34ab:cd42:1::/64\""),
        subscription(Protocol::Udp, (53, 53)),
    ]);
    let rule = |from, to, rest| {
        format!("[[networks.rules]]\nname = \"it\"\naction = \"accept\"\nfrom = {from}\nto = {to}\n{rest}\n")
    };
    let written =
        |rule: &str, bridge: String| fleet(&[SITE_A.to_owned(), network_a("drop", rule), bridge]).unwrap();
    let by_hand = written(
        &rule(
            "{ federation = \"site-b\" }",
            "{ vip = \"api\" }",
            "protocol = \"tcp\"\nports = [6443]",
        ),
        bridge("\"fd77:1:2::/48\"", "{ vip = \"api\" }"),
    );
    assert_eq!(offered.networks, by_hand.networks);
    assert_eq!(offered.bridges, by_hand.bridges);
    let to = format!("{{ cidr = \"{PEERS_VIP}/128\" }}");
    let by_hand = written(
        &rule("\"any\"", &to, "protocol = \"udp\"\nports = [53]"),
        bridge(&format!("\"{PEERS_VIP}/128\""), "\"fd12:34ab:cd42:1::/64\""),
    );
    assert_eq!(subscribed.networks, by_hand.networks);
    assert_eq!(subscribed.bridges, by_hand.bridges);
}

/// Each end may have its fragments or not: the packet passes only where both have all of them.
#[test]
fn half_of_a_service_opens_nothing() {
    let vip: IpAddr = PEERS_VIP.parse().unwrap();
    let from: IpAddr = "fd12:34ab:cd42:1::b".parse().unwrap();
    let bridge = bridge("", "\"fd12:34ab:cd42:1::/64\"");
    let alone = with(std::slice::from_ref(&bridge));
    let host = intent(&alone, "hub", agreed());
    assert_eq!(without_ports(prod(&host), from, vip), Action::Drop);
    let subscribed = with(&[bridge, subscription(Protocol::Tcp, (6443, 6443))]);
    let carried = |said: &[&str]| {
        let said: Vec<_> = said.iter().map(|text| net(text)).collect();
        let word = agreement("site-b", &[net("fd77:1:2:5::100/128")], &said, 40);
        let host = intent(&subscribed, "hub", agreements(&[("to-b", word)]));
        prod(&host).bridges[0].carried.contains(vip)
    };
    assert!(!carried(&[]), "the peer offers nothing");
    assert!(!carried(&["fd77:1:2:5::101/128"]), "the peer offers another");
    assert!(carried(&["fd77:1:2:5::100/128"]));
    // Its bridge is somebody's fragment, too: without it the whole fleet is refused.
    let orphan = [
        SITE_A.to_owned(),
        network_a("drop", ""),
        subscription(Protocol::Tcp, (6443, 6443)),
    ];
    assert!(fleet(&orphan).is_none());
    assert_eq!(name("it"), subscribed.subscriptions[&name("it")].service);
}
