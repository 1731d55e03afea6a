use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::config;
use crate::intent::{self, Facts, GatewayFacts, IsolationMode, Underlay};
use crate::model::{Agreements, LinkName};
use crate::planes::firewall;

const FLEET: &str = r#"
format = 1
[site]
name = "site-a"
prefix = "fd12:34ab:cd42::/48"
gateways = ["hub"]
[[nodes]]
name = "hub"
public_key = "dCdOJ1jXCuOmjKaAFt+NmrXUUY3jnEw/uTXLWVdvMnk="
endpoints = ["203.0.113.1"]
host_id = 1
[[networks]]
name = "prod"
id = 20
routing = "static"
isolation = "none"
members = [{ node = "hub", role = "hub" }]
[[networks.rules]]
name = "from-b"
action = "accept"
from = { federation = "site-b" }
to = "any"
[[bridges]]
name = "prod-b"
peer = "site-b"
network = "prod"
gateways = ["hub"]
import = ["10.20.0.0/16", "fd77:1:2::/48"]
export = ["fd12:34ab:cd42:20::/64"]
[[bridges]]
name = "prod-c"
peer = "site-c"
network = "prod"
gateways = ["hub"]
import = ["fd88:1:2::/48"]
export = ["fd12:34ab:cd42:20::/64"]
"#;

/// The gateway, with an agreement on each bridge but those without, in this network of its own.
pub(in crate::report) fn target(without: &[&str], underlay: Option<&str>) -> Target {
    let fleet = config::parse_fleet(&[("a.toml".into(), FLEET.to_owned())])
        .unwrap_or_else(|errors| panic!("{errors}"))
        .fleet;
    let mut agreements = Agreements::assumed(&fleet);
    agreements
        .bridges
        .retain(|name, _| !without.contains(&name.as_str()));
    let eth0 = LinkName::new("eth0").unwrap();
    let facts = Facts {
        isolation: IsolationMode::Vrf,
        host_services_in_vrf: false,
        dummies: true,
        agreements,
        gateway: Some(GatewayFacts {
            port: 8_443,
            allow_dial: Vec::new(),
        }),
        underlay: Some(
            underlay
                .map(|text| (text.parse().unwrap(), eth0))
                .into_iter()
                .collect::<Underlay>(),
        ),
    };
    let intent = intent::compile(&fleet, &Name::new("hub").unwrap(), &facts).unwrap();
    let key = intent.public_key;
    Target::new(intent, key, &l3::Facts::offline())
}

/// A host that is as `target` says.
pub(in crate::report) fn as_wanted(target: &Target) -> Observation {
    let devices = target.wireguard.devices.keys().map(|name| {
        let link = target.intent.networks.values().flat_map(|network| &network.links);
        let peers = link
            .filter(|link| link.name == *name)
            .flat_map(|link| &link.peers);
        let peer = |allowed_ips: &BTreeSet<IpNet>| wireguard::ActualPeer {
            allowed_ips: allowed_ips.clone(),
            last_handshake: Some(UNIX_EPOCH + Duration::from_secs(990)),
            rx_bytes: 70,
            tx_bytes: 7,
            ..wireguard::ActualPeer::default()
        };
        let device = wireguard::ActualDevice {
            peers: peers
                .map(|(key, wanted)| (*key, peer(&wanted.allowed_ips)))
                .collect(),
            ..wireguard::ActualDevice::default()
        };
        (name.clone(), device)
    });
    Observation {
        l3: Ok(l3::Actual {
            state: target.l3.clone(),
            ..l3::Actual::default()
        }),
        wireguard: Ok(wireguard::Actual {
            devices: devices.collect(),
        }),
        firewall: Ok(firewall::Actual {
            table: target.firewall.table.clone(),
            ..firewall::Actual::default()
        }
        .into()),
        names: wireguard::Names::default(),
        ways: crate::planes::Ways::default(),
        calls: wireguard::Calls::default(),
        protected: BTreeSet::new(),
        verified: None,
        uplinks: crate::reconcile::uplinks::Choices::new(),
        holes: crate::reconcile::holes::Holes::new(),
        now: UNIX_EPOCH + Duration::from_secs(1_000),
    }
}

fn told(target: &Target, seen: &Observation) -> Vec<BridgeStatus> {
    let network = target.intent.networks.values().next().unwrap();
    of(target, network, Some(seen), seen.now)
}

#[test]
fn a_bridge_whose_agreement_has_ended_is_over_once_nothing_of_it_is_left() {
    use Remains::{Connections, Elements, Peers, Routes};
    let agreed = as_wanted(&target(&[], None));
    let ended = target(&["prod-b"], None);
    // Nothing was done yet.
    let [b, c] = &told(&ended, &agreed)[..] else {
        panic!()
    };
    assert_eq!(
        (b.state, c.state),
        (BridgeState::RevokeIncomplete, BridgeState::Carrying)
    );
    let [Peers(1), Routes(2), Elements(elements)] = b.remains[..] else {
        panic!("{:?}", b.remains)
    };
    assert_ne!(elements, 0);
    assert_eq!(c.remains, []);
    assert!(
        b.to_string()
            .contains("REVOKE INCOMPLETE: still there: 1 peer, 2 routes, "),
        "{b}"
    );
    // Any of it that is left is named, alone.
    let done = as_wanted(&ended);
    let seen = |part: fn(&mut Observation, &Observation)| {
        let mut seen = done.clone();
        part(&mut seen, &agreed);
        let bridges = told(&ended, &seen);
        assert_eq!(bridges[1].remains, []);
        (bridges[0].state, bridges[0].remains.clone())
    };
    assert_eq!(seen(|_, _| ()), (BridgeState::Waiting, Vec::new()));
    let left = seen(|seen, agreed| seen.wireguard.clone_from(&agreed.wireguard));
    assert_eq!(left, (BridgeState::RevokeIncomplete, vec![Peers(1)]));
    let left = seen(|seen, agreed| seen.l3.clone_from(&agreed.l3));
    assert_eq!(left, (BridgeState::RevokeIncomplete, vec![Routes(2)]));
    let left = seen(|seen, agreed| seen.firewall.clone_from(&agreed.firewall));
    assert_eq!(left, (BridgeState::RevokeIncomplete, vec![Elements(elements)]));
    let left = seen(|seen, _| {
        let mut actual = (**seen.firewall.as_ref().unwrap()).clone();
        let id = crate::model::NetworkId::new(20).unwrap();
        actual
            .table
            .as_mut()
            .unwrap()
            .counters
            .insert(firewall::names::cut_mark(id));
        seen.firewall = Ok(actual.into());
    });
    assert_eq!(left, (BridgeState::RevokeIncomplete, vec![Connections]));
}

#[test]
fn a_bridge_that_is_left_out_says_so_also_while_something_of_it_is_there() {
    let refused = target(&[], Some("10.20.7.0/24"));
    let states = |seen: &Observation| -> Vec<BridgeState> {
        told(&refused, seen).iter().map(|bridge| bridge.state).collect()
    };
    let done = states(&as_wanted(&refused));
    assert_eq!(done, [BridgeState::Refused, BridgeState::Carrying]);
    let before = states(&as_wanted(&target(&[], None)));
    assert_eq!(before, [BridgeState::RevokeIncomplete, BridgeState::Carrying]);
}

#[test]
fn a_bridge_that_carries_tells_its_handshake() {
    let target = target(&[], None);
    let seen = as_wanted(&target);
    for bridge in told(&target, &seen) {
        assert_eq!(bridge.state, BridgeState::Carrying);
        assert_eq!(bridge.handshake_age_seconds, Some(10));
    }
}
