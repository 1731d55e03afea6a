//! An import that overlaps a network of the host is left out where it would take that one away, and only it.

use super::*;
use crate::intent::underlay_matters;
use crate::model::LinkName;

const BRIDGES: &str = r#"
[[networks.rules]]
name = "b"
action = "accept"
from = { federation = "site-b" }
to = "any"
[[networks.rules]]
name = "c"
action = "accept"
from = { federation = "site-c" }
to = "any"
[[bridges]]
name = "prod-b"
peer = "site-b"
network = "prod"
gateways = ["hub"]
import = ["fd77:1:2::/48", "10.20.0.0/16"]
export = ["10.10.0.0/24"]
[[bridges]]
name = "prod-c"
peer = "site-c"
network = "prod"
gateways = ["hub"]
import = ["fd88:1:2::/48"]
export = ["10.10.0.0/24"]
"#;

fn bridged(isolation: &str) -> Fleet {
    let rules_and_bridges = format!("isolation = \"{isolation}\"\n{BRIDGES}");
    fleet(&["format = 1".to_owned() + SITE_A + &network_a("drop", &rules_and_bridges)]).unwrap()
}

fn both() -> Agreements {
    let b = [net("fd77:1:2::/48"), net("10.20.0.0/16")];
    let c = [net("fd88:1:2::/48")];
    agreements(&[
        ("prod-b", agreement("site-b", &b, &b, 7)),
        ("prod-c", agreement("site-c", &c, &c, 8)),
    ])
}

/// The host's intent where it is in one more network, or where that can't be read.
fn on(isolation: &str, host: IsolationMode, node: &str, underlay: Option<&str>) -> HostIntent {
    let eth0 = LinkName::new("eth0").unwrap();
    let mut known = Underlay::from([(net("192.0.2.0/24"), eth0.clone())]);
    known.extend(underlay.map(|text| (net(text), eth0)));
    let facts = Facts {
        isolation: host,
        underlay: underlay.map(|_| known),
        ..facts(both())
    };
    compile(&bridged(isolation), &name(node), &facts).unwrap()
}

/// Whether anything on the host would carry, route or let in what the bridge imports.
fn is_applied(host: &HostIntent, import: &[&str]) -> bool {
    let network = prod(host);
    let import: AddressSet = import.iter().map(|text| net(text)).collect();
    let is_in = |net: &IpNet| std::iter::once(*net).collect::<AddressSet>().intersects(&import);
    let peers = network.links.iter().flat_map(|link| link.peers.values());
    let rules = &network.firewall.rules;
    network.routes.keys().any(is_in)
        || peers.flat_map(|peer| &peer.allowed_ips).any(is_in)
        || network.firewall.bound.intersects(&import)
        || rules
            .iter()
            .any(|rule| rule.from.intersects(&import) || rule.to.intersects(&import))
}

const B: [&str; 2] = ["fd77:1:2::/48", "10.20.0.0/16"];
const C: [&str; 1] = ["fd88:1:2::/48"];

#[test]
fn an_import_that_overlaps_a_network_of_the_host_is_left_out_and_nothing_else() {
    use IsolationMode::{Main, Rules, Vrf};
    // Narrower, equal and wider than what is imported.
    for underlay in [
        "10.20.7.0/24",
        "10.20.0.0/16",
        "10.0.0.0/8",
        "fd77:1:2:9::/64",
        "fd77::/16",
    ] {
        for (isolation, host, left_out) in [
            ("none", Vrf, true),
            ("none", Rules, true),
            ("vrf", Rules, true),
            ("vrf", Vrf, false),
        ] {
            for node in ["hub", "hub-2", "spoke"] {
                let intent = on(isolation, host, node, Some(underlay));
                let case = format!("{underlay} {isolation} {host:?} {node}");
                assert_eq!(is_applied(&intent, &B), !left_out, "{case}");
                assert!(is_applied(&intent, &C), "{case}");
                let blocked: Vec<&str> = intent.blocked.iter().map(|one| one.reason.as_str()).collect();
                assert_eq!(blocked.len(), usize::from(left_out), "{case}: {blocked:?}");
                if left_out {
                    let (reason, fix) = (blocked[0], &intent.blocked[0].fix);
                    let import = if underlay.starts_with("10.") { B[1] } else { B[0] };
                    for word in ["ImportOverlapsUnderlay: bridge prod-b", import, underlay, "eth0"] {
                        assert!(reason.contains(word), "{case}: {reason}");
                    }
                    assert!(fix.contains("import less"), "{case}: {fix}");
                }
                let network = prod(&intent);
                let mode = if isolation == "none" { Main } else { host };
                assert_eq!(network.isolation, mode, "{case}");
                let bridge = &network.bridges[0];
                assert_eq!(bridge.clash.is_some(), left_out, "{case}");
                assert_eq!(bridge.waits_for.is_some(), left_out, "{case}");
            }
        }
    }
}

#[test]
fn what_overlaps_nothing_of_the_host_is_applied() {
    for (isolation, host) in [("none", IsolationMode::Vrf), ("vrf", IsolationMode::Rules)] {
        let intent = on(isolation, host, "hub", Some("198.51.100.0/24"));
        assert!(is_applied(&intent, &B) && is_applied(&intent, &C));
        assert_eq!(intent.blocked, []);
    }
}

#[test]
fn a_host_whose_networks_cannot_be_read_leaves_every_bridge_out() {
    for (isolation, host, left_out) in [
        ("none", IsolationMode::Vrf, true),
        ("vrf", IsolationMode::Rules, true),
        ("vrf", IsolationMode::Vrf, false),
    ] {
        let intent = on(isolation, host, "hub", None);
        assert_eq!(is_applied(&intent, &B), !left_out);
        assert_eq!(is_applied(&intent, &C), !left_out);
        assert_eq!(intent.blocked.len(), if left_out { 2 } else { 0 });
    }
}

#[test]
fn the_networks_of_a_host_matter_only_where_a_bridge_could_take_one_away() {
    let plain = fleet(&["format = 1".to_owned() + SITE_A + &network_a("drop", "isolation = \"none\"")]);
    assert!(!underlay_matters(&plain.unwrap(), IsolationMode::Rules));
    assert!(underlay_matters(&bridged("none"), IsolationMode::Vrf));
    assert!(underlay_matters(&bridged("vrf"), IsolationMode::Rules));
    assert!(!underlay_matters(&bridged("vrf"), IsolationMode::Vrf));
}
