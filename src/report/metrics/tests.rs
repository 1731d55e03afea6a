use std::collections::BTreeSet;

use super::*;
use crate::config;
use crate::intent::{self, Facts};
use crate::model::{LinkName, Name, PublicKey};
use crate::planes::l3;
use crate::reconcile::holes::{Hole, Holes};
use crate::reconcile::{Condition, Execution, Failure, Plan, Step};
use crate::report::bridges;

const FLEET: &str = r#"
format = 1
[site]
name = "site-a"
prefix = "fd12:34ab:cd42::/48"
[[nodes]]
name = "hub-1"
public_key = "dCdOJ1jXCuOmjKaAFt+NmrXUUY3jnEw/uTXLWVdvMnk="
endpoints = ["203.0.113.1"]
host_id = 1
[[nodes]]
name = "web-1"
public_key = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
host_id = 11
[[networks]]
name = "prod"
id = 20
routing = "static"
members = [{ node = "hub-1", role = "hub" }, { node = "web-1" }]
[[networks.rules]]
name = "web"
action = "accept"
from = "any"
to = "any"
protocol = "tcp"
ports = ["80"]
"#;
const NOW: u64 = 1_700_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn target() -> Target {
    let fleet = config::parse_fleet(&[("a.toml".into(), FLEET.to_owned())])
        .unwrap_or_else(|errors| panic!("{errors}"))
        .fleet;
    let facts = Facts {
        isolation: IsolationMode::Vrf,
        host_services_in_vrf: false,
        dummies: true,
        agreements: crate::model::Agreements::NONE,
        gateway: None,
        underlay: Some(std::collections::BTreeMap::new()),
    };
    let intent = intent::compile(&fleet, &Name::new("web-1").unwrap(), &facts).unwrap();
    Target::new(intent, PublicKey([1; 32]), &l3::Facts::offline())
}

/// A spoke whose hub made its last handshake so many seconds ago.
fn observation(target: &Target, age: u64) -> Observation {
    let network = target.intent.networks.values().next().unwrap();
    let link = &network.links[0];
    let peer = ActualPeer {
        last_handshake: Some(at(NOW - age)),
        rx_bytes: 1_234,
        tx_bytes: 56,
        ..ActualPeer::default()
    };
    let peers = link.peers.keys().map(|key| (*key, peer.clone())).collect();
    let device = wireguard::ActualDevice {
        peers,
        ..wireguard::ActualDevice::default()
    };
    let counters = [("n20-r-web", 7), ("n20-in-deny", 3)];
    let counters = counters.map(|(name, packets)| {
        let count = firewall::Count {
            packets,
            bytes: packets * 100,
        };
        (name.to_owned(), count)
    });
    Observation {
        l3: Err("not read".to_owned()),
        wireguard: Ok(wireguard::Actual {
            devices: [(link.name.clone(), device)].into(),
        }),
        firewall: Ok(firewall::Actual {
            counters: counters.into(),
            ..firewall::Actual::default()
        }
        .into()),
        names: wireguard::Names::default(),
        ways: crate::planes::Ways::default(),
        calls: wireguard::Calls::default(),
        protected: BTreeSet::new(),
        verified: None,
        uplinks: crate::reconcile::uplinks::Choices::new(),
        holes: hole(),
        now: at(NOW),
    }
}

fn hole() -> Holes {
    let hole = Hole {
        network: Name::new("prod").unwrap(),
        node: Name::new("hub-1").unwrap(),
        endpoint: "192.0.2.1:51820".parse().unwrap(),
        size: 1_420,
        passes: 1_328,
    };
    let link = LinkName::new("wg-sdwan-20").unwrap();
    [((link, PublicKey([1; 32])), hole)].into()
}

fn text(observation: Option<&Observation>, tallies: &Tallies) -> String {
    let target = target();
    let id = *target.intent.networks.keys().next().unwrap();
    let condition = Condition {
        state: ConditionState::Blocked,
        reason: "somebody's \"text\"\nwith a line".to_owned(),
        since: 1,
    };
    page(&View {
        node: &target.intent.node,
        target: Some(&target),
        observation,
        conditions: &[((PlaneName::L3, Some(id)), condition)].into(),
        backends: Backends {
            wireguard: WireguardKind::Kernel,
            isolation: IsolationMode::Vrf,
        },
        config_bad: Some((2, 99)),
        is_pending: false,
        is_down: false,
        tallies,
        events: &[("config.bad", 3)],
    })
    .unwrap()
}

/// The value of a series, by its text up to the blank.
fn value(page: &str, series: &str) -> Option<f64> {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|text| text.parse().unwrap())
}

#[test]
fn a_peer_tells_its_handshake_and_its_bytes() {
    let page = text(Some(&observation(&target(), 179)), &Tallies::default());
    assert_eq!(
        value(
            &page,
            r#"sdwand_peer_black_hole_bytes{network="prod",peer="hub-1"}"#
        ),
        Some(1_328.0)
    );
    assert_eq!(
        value(
            &page,
            r#"sdwand_link_mtu_bytes{network="prod",link="wg-sdwan-20"}"#
        ),
        Some(1_420.0)
    );
    let peer = r#"{network="prod",link="wg-sdwan-20",peer="hub-1"}"#;
    let of = |name: &str| value(&page, &format!("{name}{peer}"));
    assert_eq!(of("sdwand_peer_up"), Some(1.0));
    assert_eq!(
        of("sdwand_peer_last_handshake_timestamp_seconds"),
        Some(1_699_999_821.0)
    );
    assert_eq!(of("sdwand_peer_received_bytes_total"), Some(1_234.0));
    assert_eq!(of("sdwand_peer_sent_bytes_total"), Some(56.0));
    let of = |name: &str| value(&page, &format!("{name}{{network=\"prod\"}}"));
    assert_eq!(of("sdwand_network_peers_up"), Some(1.0));
    assert_eq!(of("sdwand_network_uplinks_up"), Some(1.0));
    let rule = r#"sdwand_rule_packets_total{network="prod",rule="web"}"#;
    assert_eq!(value(&page, rule), Some(7.0));
    let dropped = r#"sdwand_dropped_bytes_total{network="prod",reason="in-deny"}"#;
    assert_eq!(value(&page, dropped), Some(300.0));
}

#[test]
fn a_peer_without_a_handshake_for_180_s_is_down() {
    let page = text(Some(&observation(&target(), 180)), &Tallies::default());
    let of = |name: &str| value(&page, &format!("{name}{{network=\"prod\"}}"));
    assert_eq!(of("sdwand_network_peers"), Some(1.0));
    assert_eq!(of("sdwand_network_peers_up"), Some(0.0));
    assert_eq!(of("sdwand_network_uplinks"), Some(1.0));
    assert_eq!(of("sdwand_network_uplinks_up"), Some(0.0));
}

#[test]
fn what_cant_be_read_is_absent_and_never_nought() {
    let mut unknown = observation(&target(), 10);
    unknown.wireguard = Err("no answer".to_owned());
    unknown.firewall = Err("no answer".to_owned());
    let page = text(Some(&unknown), &Tallies::default());
    for name in [
        "sdwand_peer_",
        "sdwand_network_",
        "sdwand_rule_",
        "sdwand_dropped_",
    ] {
        assert!(!page.contains(name), "{name}\n{page}");
    }
    assert!(!text(None, &Tallies::default()).contains("sdwand_observation"));
}

#[test]
fn one_state_of_a_condition_is_set() {
    let page = text(None, &Tallies::default());
    let of = |state: &str| {
        let series = format!("sdwand_condition{{plane=\"l3\",network=\"prod\",state=\"{state}\"}}");
        value(&page, &series)
    };
    assert_eq!(of("blocked"), Some(1.0));
    for state in ["converged", "drifted", "failed"] {
        assert_eq!(of(state), Some(0.0), "{state}");
    }
    assert_eq!(value(&page, "sdwand_config_errors"), Some(2.0));
    assert_eq!(
        value(&page, "sdwand_config_bad_since_timestamp_seconds"),
        Some(99.0)
    );
}

fn plan(target: &Target, steps: usize) -> Plan {
    let network = target.intent.networks.values().next().unwrap();
    let change = l3::Change {
        network: Some(network.id),
        phase: crate::planes::Phase::Up,
        op: l3::Op::SetUp {
            link: network.links[0].name.clone(),
        },
    };
    let step = Step {
        phase: crate::planes::Phase::Up,
        plane: PlaneName::L3,
        network: Some(network.id),
        text: "ip link set up".to_owned(),
        change: crate::reconcile::Change::L3(change),
    };
    Plan {
        node: target.intent.node.clone(),
        fleet_digest: target.intent.fleet_digest,
        steps: vec![step; steps],
        blocked: Vec::new(),
        unreadable: Vec::new(),
        notices: Vec::new(),
    }
}

#[test]
fn drift_is_what_changes_though_nothing_else_is_wanted() {
    let target = target();
    let round = |planned, left, failures: usize| Round {
        plan: plan(&target, planned),
        execution: Execution {
            done: planned - failures,
            failures: vec![
                Failure {
                    phase: crate::planes::Phase::Up,
                    plane: PlaneName::L3,
                    network: None,
                    step: String::new(),
                    error: String::new(),
                };
                failures
            ],
            skipped: 0,
        },
        left: plan(&target, left),
    };
    let ms = Duration::from_millis;
    let mut tallies = Tallies::default();
    tallies.count(&round(3, 0, 0), false, ms(5)); // the first apply
    tallies.count(&round(0, 0, 0), true, ms(6)); // nothing to do
    tallies.count(&round(2, 0, 0), true, ms(700)); // drift
    tallies.count(&round(1, 1, 1), true, ms(40_000)); // drift that isn't healed
    tallies.count(&round(1, 1, 0), false, ms(1)); // and not yet
    let page = text(None, &tallies);
    let is = |series: &str, wanted: f64| (value(&page, series).unwrap() - wanted).abs() < 1e-9;
    assert!(is(r#"sdwand_drift_healed_total{plane="l3"}"#, 1.0));
    assert!(is(r#"sdwand_drift_healed_total{plane="firewall"}"#, 0.0));
    assert!(is(r#"sdwand_change_failures_total{plane="l3"}"#, 1.0));
    assert!(is("sdwand_changes_total", 6.0));
    assert!(is(r#"sdwand_rounds_total{outcome="converged"}"#, 3.0));
    assert!(is(r#"sdwand_rounds_total{outcome="failed"}"#, 1.0));
    assert!(is(r#"sdwand_rounds_total{outcome="incomplete"}"#, 1.0));
    let bucket = |le: &str, wanted| {
        is(
            &format!("sdwand_round_duration_seconds_bucket{{le=\"{le}\"}}"),
            wanted,
        )
    };
    assert!(bucket("0.005", 2.0));
    assert!(bucket("0.01", 3.0));
    assert!(bucket("1", 4.0));
    assert!(bucket("+Inf", 5.0));
    assert!(is("sdwand_round_duration_seconds_sum", 40.712));
}

#[test]
fn every_metric_has_its_place_in_a_page_and_nothing_else_is_there() {
    let page = text(Some(&observation(&target(), 1)), &Tallies::default());
    let agreed = bridges::tests::target(&[], None);
    let of_bridges = bridged::text(&agreed, &bridges::tests::as_wanted(&agreed));
    let lines = page.lines().chain(of_bridges.lines());
    let told: BTreeSet<&str> = lines
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let known: BTreeSet<&str> = SHARED_METRICS
        .iter()
        .chain(METRICS)
        .map(|metric| metric.name)
        .collect();
    assert_eq!(told, known);
    assert_eq!(
        value(&page, r#"sdwand_events_total{event="config.bad"}"#),
        Some(3.0)
    );
    for metric in SHARED_METRICS.iter().chain(METRICS).chain(GATEWAY_METRICS) {
        let is_total = metric.name.ends_with("_total");
        assert_eq!(is_total, metric.kind == Kind::Counter, "{}", metric.name);
    }
}

#[test]
fn a_large_fleet_has_a_bounded_page() {
    let mut target = target();
    let network = target.intent.networks.values_mut().next().unwrap();
    let peers = &mut network.links[0].peers;
    let one = peers.values().next().unwrap().clone();
    for n in 0..MOST_PEERS as u64 + 9 {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        let node = Name::new(&format!("node-{n}")).unwrap();
        peers.insert(PublicKey(key), intent::PeerIntent { node, ..one.clone() });
    }
    let seen = observation(&target, 1);
    let page = page(&View {
        node: &target.intent.node,
        target: Some(&target),
        observation: Some(&seen),
        conditions: &Conditions::new(),
        backends: Backends {
            wireguard: WireguardKind::Userspace,
            isolation: IsolationMode::Rules,
        },
        config_bad: None,
        is_pending: false,
        is_down: false,
        tallies: &Tallies::default(),
        events: &[],
    })
    .unwrap();
    let peers = page
        .lines()
        .filter(|line| line.starts_with("sdwand_peer_up{"))
        .count();
    assert_eq!(peers, MOST_PEERS);
    assert_eq!(value(&page, r#"sdwand_series_dropped{of="peers"}"#), Some(10.0));
    let all = value(&page, r#"sdwand_network_peers{network="prod"}"#);
    assert_eq!(all, Some(2_010.0), "what is summed up is of all");
}

mod bridged {
    use super::*;
    use bridges::tests::{as_wanted, target};

    pub(super) fn text(target: &Target, seen: &Observation) -> String {
        page(&View {
            node: &target.intent.node,
            target: Some(target),
            observation: Some(seen),
            conditions: &Conditions::new(),
            backends: Backends {
                wireguard: WireguardKind::Kernel,
                isolation: IsolationMode::Vrf,
            },
            config_bad: None,
            is_pending: false,
            is_down: false,
            tallies: &Tallies::default(),
            events: &[],
        })
        .unwrap()
    }

    #[test]
    fn a_bridge_tells_its_state_its_prefixes_its_handshake_and_its_bytes() {
        let agreed = target(&[], None);
        let page = text(&agreed, &as_wanted(&agreed));
        for (series, wanted) in [
            (
                r#"sdwand_bridge_state{network="prod",bridge="prod-b",peer="site-b",state="carrying"}"#,
                1.0,
            ),
            (
                r#"sdwand_bridge_state{network="prod",bridge="prod-b",peer="site-b",state="waiting"}"#,
                0.0,
            ),
            (
                r#"sdwand_bridge_prefixes{network="prod",bridge="prod-b",direction="import"}"#,
                2.0,
            ),
            (
                r#"sdwand_bridge_prefixes{network="prod",bridge="prod-b",direction="export"}"#,
                1.0,
            ),
            (
                r#"sdwand_bridge_last_handshake_timestamp_seconds{network="prod",bridge="prod-b"}"#,
                990.0,
            ),
            (
                r#"sdwand_bridge_received_bytes_total{network="prod",bridge="prod-b"}"#,
                70.0,
            ),
            (
                r#"sdwand_bridge_sent_bytes_total{network="prod",bridge="prod-c"}"#,
                7.0,
            ),
            (r#"sdwand_series_dropped{of="bridges"}"#, 0.0),
            // Other sites' gateways are no peers of the network.
            (r#"sdwand_network_peers{network="prod"}"#, 0.0),
        ] {
            assert_eq!(value(&page, series), Some(wanted), "{series} in {page}");
        }
        assert!(!page.contains("sdwand_peer_up{"), "{page}");
    }

    #[test]
    fn a_bridge_that_carries_nothing_has_no_prefixes_and_says_what_it_is() {
        let agreed = as_wanted(&target(&[], None));
        let ended = target(&["prod-b"], None);
        let state = |page: &str, state: &str| {
            let series = format!(
                r#"sdwand_bridge_state{{network="prod",bridge="prod-b",peer="site-b",state="{state}"}}"#
            );
            value(page, &series)
        };
        let page = text(&ended, &agreed);
        assert_eq!(state(&page, "revoke_incomplete"), Some(1.0));
        let page = text(&ended, &as_wanted(&ended));
        assert_eq!(
            (state(&page, "waiting"), state(&page, "carrying")),
            (Some(1.0), Some(0.0))
        );
        let prefixes = r#"sdwand_bridge_prefixes{network="prod",bridge="prod-b",direction="export"}"#;
        assert_eq!(value(&page, prefixes), Some(0.0));
        assert!(!page.contains(r#"last_handshake_timestamp_seconds{network="prod",bridge="prod-b"}"#));
        let refused = target(&[], Some("10.0.0.0/8"));
        assert_eq!(state(&text(&refused, &as_wanted(&refused)), "refused"), Some(1.0));
    }

    #[test]
    fn a_host_with_many_bridges_has_a_bounded_page() {
        let mut many = target(&[], None);
        let network = many.intent.networks.values_mut().next().unwrap();
        let one = network.bridges[0].clone();
        network.bridges = (0..MOST_BRIDGES + 3)
            .map(|n| crate::intent::BridgeIntent {
                name: Name::new(&format!("b-{n}")).unwrap(),
                ..one.clone()
            })
            .collect();
        let page = text(&many, &as_wanted(&target(&[], None)));
        let told = page
            .lines()
            .filter(|line| line.starts_with("sdwand_bridge_prefixes{"));
        assert_eq!(told.count(), 2 * MOST_BRIDGES);
        assert_eq!(value(&page, r#"sdwand_series_dropped{of="bridges"}"#), Some(3.0));
    }
}
