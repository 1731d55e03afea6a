mod endpoints;
mod rotation;

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::super::{
    ActualPeer, Attempts, awaits_keys, decode_device, device_update, key_moves, rotation_notes,
};
use super::*;
use crate::model::network::{Endpoint, EndpointHost};
use crate::model::{Name, NetworkId, PresharedKey, PrivateKey};
use crate::sys::wg::memory::update_device;
use crate::sys::wg::{DeviceInfo, PeerInfo, Secret};

const NOW: SystemTime = UNIX_EPOCH;

fn now() -> SystemTime {
    NOW + Duration::from_secs(1_700_000_000)
}

fn ago(seconds: u64) -> Option<SystemTime> {
    now().checked_sub(Duration::from_secs(seconds))
}

fn own() -> PrivateKey {
    PrivateKey::from_random([7; 32])
}

fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

fn psk(n: u8) -> PresharedKey {
    PresharedKey::derive("fd00::/48", u16::from(n), None)
}

fn net(n: u8) -> IpNet {
    format!("10.0.{n}.0/24").parse().unwrap()
}

fn link() -> LinkName {
    LinkName::new("wg-sdwan-1").unwrap()
}

fn endpoint(host: &str) -> Endpoint {
    Endpoint {
        host: host
            .parse()
            .map_or_else(|_| EndpointHost::Dns(host.to_owned()), EndpointHost::Address),
        port: Some(51_820),
    }
}

fn peer(nets: &[u8], endpoints: &[&str]) -> DesiredPeer {
    DesiredPeer {
        node: Name::new("hub-a").unwrap(),
        next_public_key: None,
        preshared_key: psk(1),
        endpoints: endpoints.iter().map(|host| endpoint(host)).collect(),
        left: Vec::new(),
        is_foreign: false,
        keepalive: 25,
        allowed_ips: nets.iter().map(|n| net(*n)).collect(),
    }
}

fn desired(peers: impl IntoIterator<Item = (PublicKey, DesiredPeer)>) -> Desired {
    let device = DesiredDevice {
        network: NetworkId::new(1).unwrap(),
        network_name: Name::new("office").unwrap(),
        listen_port: Some(51_820),
        peers: peers.into_iter().collect(),
    };
    Desired {
        node: Name::new("spoke-1").unwrap(),
        public_key: own().public(),
        next_public_key: None,
        devices: BTreeMap::from([(link(), device)]),
    }
}

fn actual(device: DeviceInfo) -> Actual {
    Actual {
        devices: BTreeMap::from([(link(), decode_device(device))]),
    }
}

fn difference(desired: &Desired, actual: &Actual, names: &Names) -> Difference<Change> {
    called(desired, actual, names, &Ways::new(), &Calls::new())
}

fn called(
    desired: &Desired,
    actual: &Actual,
    names: &Names,
    ways: &Ways,
    calls: &Calls,
) -> Difference<Change> {
    let own_key = own().public();
    let facts = Facts {
        own_key: &own_key,
        names,
        ways,
        calls,
        now: now(),
    };
    diff(desired, actual, facts)
}

fn changes(desired: &Desired, actual: &Actual) -> Vec<Change> {
    let difference = difference(desired, actual, &Names::new());
    assert_eq!(difference.blocked, []);
    difference.changes
}

/// Applies changes to a device in memory and checks after each that no AllowedIP is on two peers.
fn apply_to(device: &mut DeviceInfo, changes: &[Change]) {
    let before: BTreeSet<_> = device.peers.keys().copied().collect();
    for change in changes {
        update_device(
            device,
            &device_update(&link(), std::slice::from_ref(change), &own()).unwrap(),
        );
        let mut seen = BTreeSet::new();
        for net in device.peers.values().flat_map(|peer| &peer.allowed_ips) {
            assert!(seen.insert(*net), "{net} is on two peers after {change}");
        }
        let added = device.peers.keys().filter(|key| !before.contains(*key));
        for added in added {
            let planned = changes
                .iter()
                .any(|c| matches!(c, Change::AddPeer { public_key, .. } if public_key.0 == *added));
            assert!(planned, "a throw-away peer stayed after {change}");
        }
    }
}

fn settled(peer: &DesiredPeer, endpoint: Option<&str>, last_handshake: Option<SystemTime>) -> PeerInfo {
    PeerInfo {
        preshared_key: Some(Secret::new(*peer.preshared_key.expose())),
        endpoint: endpoint.map(|endpoint| endpoint.parse().unwrap()),
        keepalive: peer.keepalive,
        allowed_ips: peer.allowed_ips.clone(),
        last_handshake,
        rx_bytes: 0,
        tx_bytes: 0,
    }
}

fn settled_device(peers: impl IntoIterator<Item = (PublicKey, PeerInfo)>) -> DeviceInfo {
    DeviceInfo {
        public_key: Some(own().public().0),
        listen_port: 51_820,
        fwmark: 0,
        peers: peers.into_iter().map(|(key, peer)| (key.0, peer)).collect(),
    }
}

fn only_endpoint(changes: &[Change]) -> Option<String> {
    match changes {
        [] => None,
        [Change::UpdatePeer { delta, .. }] => {
            let expected = PeerDelta {
                endpoint: delta.endpoint,
                ..PeerDelta::default()
            };
            assert_eq!(*delta, expected);
            delta.endpoint.map(|endpoint| endpoint.to_string())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_device_is_planned_in_full() {
    let desired = desired([(key(1), peer(&[1], &["192.0.2.1"]))]);
    let planned = changes(&desired, &Actual::default());
    assert!(matches!(planned[0], Change::SetKey { .. }));
    assert!(matches!(planned[1], Change::SetListenPort { port: 51_820, .. }));
    assert!(
        matches!(&planned[2], Change::AddPeer { peer, .. } if peer.endpoint == Some("192.0.2.1:51820".parse().unwrap()))
    );
    assert_eq!(planned.len(), 3);
}

#[test]
fn a_host_with_another_key_opens_nothing() {
    let mut desired = desired([(key(1), peer(&[1], &[]))]);
    desired.public_key = key(9);
    let found = difference(&desired, &Actual::default(), &Names::new());
    assert_eq!(found.changes, []);
    assert_eq!(found.blocked.len(), 1);
    desired.next_public_key = Some(own().public());
    let found = difference(&desired, &Actual::default(), &Names::new());
    assert!(found.blocked.is_empty() && !found.changes.is_empty());
}

#[test]
fn a_moved_allowed_ip_is_added_to_its_new_peer_only() {
    let (one, two) = (peer(&[1, 3], &[]), peer(&[2], &[]));
    let mut device = settled_device([
        (key(1), settled(&one, None, None)),
        (key(2), settled(&two, None, None)),
    ]);
    let desired = desired([(key(1), peer(&[1], &[])), (key(2), peer(&[2, 3], &[]))]);
    let planned = changes(&desired, &actual(device.clone()));
    let [
        Change::UpdatePeer {
            public_key, delta, ..
        },
    ] = planned.as_slice()
    else {
        panic!("{planned:?}")
    };
    assert_eq!(
        (*public_key, &delta.allowed_ips),
        (key(2), &BTreeSet::from([net(3)]))
    );
    apply_to(&mut device, &planned);
    assert_eq!(changes(&desired, &actual(device)), []);
}

#[test]
fn an_allowed_ip_without_a_peer_is_withdrawn_first() {
    let one = peer(&[1, 3], &[]);
    let mut device = settled_device([(key(1), settled(&one, None, None))]);
    let desired = desired([(key(1), peer(&[1], &[]))]);
    let planned = changes(&desired, &actual(device.clone()));
    assert!(
        matches!(&planned[..], [Change::WithdrawIps { allowed_ips, .. }] if *allowed_ips == [net(3)].into())
    );
    assert_eq!(planned[0].phase(), crate::planes::Phase::Disconnect);
    apply_to(&mut device, &planned);
    assert_eq!(changes(&desired, &actual(device)), []);
}

#[test]
fn a_roamed_peer_keeps_its_endpoint_while_its_handshake_is_fresh() {
    let hub = peer(&[1], &["192.0.2.1"]);
    let wanted = desired([(key(1), hub.clone())]);
    let planned = |endpoint, handshake| {
        let device = settled_device([(key(1), settled(&hub, endpoint, handshake))]);
        only_endpoint(&changes(&wanted, &actual(device)))
    };
    let (named, roamed) = (Some("192.0.2.1:51820"), Some("198.51.100.7:4444"));
    let set = Some("192.0.2.1:51820".to_owned());
    assert_eq!(planned(roamed, ago(10)), None);
    assert_eq!(planned(roamed, ago(180)), None);
    assert_eq!(planned(roamed, ago(181)), set);
    assert_eq!(planned(roamed, None), set);
    assert_eq!(planned(named, None), None);
    assert_eq!(planned(named, ago(9999)), None);
    assert_eq!(planned(None, ago(10)), set);
    // A clock that was set back by a day doesn't freeze endpoints for a day.
    assert_eq!(planned(roamed, Some(now() + Duration::from_secs(86_400))), set);
    assert_eq!(planned(roamed, Some(now() + Duration::from_secs(1))), None);
}

#[test]
fn a_peer_follows_when_the_fleet_moves_it_and_once_only() {
    let at = |host: &str, port| Endpoint {
        port: Some(port),
        ..endpoint(host)
    };
    let fleet = |endpoints: &[Endpoint]| {
        let hub = DesiredPeer {
            endpoints: endpoints.to_vec(),
            ..peer(&[1], &[])
        };
        desired([(key(1), hub)])
    };
    let planned = |wanted: &Desired, endpoint| {
        let hub = &wanted.devices[&link()].peers[&key(1)];
        let device = settled_device([(key(1), settled(hub, Some(endpoint), ago(5)))]);
        only_endpoint(&changes(wanted, &actual(device)))
    };
    let former = fleet(&[at("192.0.2.1", 51_820), at("hub.example", 51_820)]);
    let mut wanted = fleet(&[at("192.0.2.1", 51_900), at("hub.example", 51_900)]);
    let moved = Some("192.0.2.1:51900".to_owned());
    assert_eq!(
        planned(&wanted, "192.0.2.1:51820"),
        None,
        "on its own it may have roamed there"
    );
    wanted.leave(&former);
    assert_eq!(planned(&wanted, "192.0.2.1:51820"), moved);
    assert_eq!(
        planned(&wanted, "192.0.2.77:51820"),
        moved,
        "what the name stood for"
    );
    assert_eq!(planned(&wanted, "198.51.100.7:4444"), None, "roamed");
    wanted.arrive();
    assert_eq!(
        planned(&wanted, "192.0.2.1:51820"),
        None,
        "roamed back: it has another fleet still"
    );
    let mut same = fleet(&[at("192.0.2.1", 51_820)]);
    same.leave(&former);
    assert_eq!(planned(&same, "192.0.2.1:51820"), None, "still named");
}

#[test]
fn devices_that_change_ports_get_out_of_each_others_way() {
    let name = |n: u16| LinkName::new(&format!("wg-sdwan-{n}")).unwrap();
    let wanted = |ports: [Option<u16>; 3]| Desired {
        devices: (1_u16..)
            .zip(ports)
            .map(|(n, listen_port)| {
                let device = DesiredDevice {
                    network: NetworkId::new(n).unwrap(),
                    network_name: Name::new("n").unwrap(),
                    listen_port,
                    peers: BTreeMap::new(),
                };
                (name(n), device)
            })
            .collect(),
        ..desired([])
    };
    let found = |ports: [u16; 3]| Actual {
        devices: (1_u16..)
            .zip(ports)
            .map(|(n, listen_port)| {
                let device = ActualDevice {
                    public_key: Some(own().public()),
                    listen_port,
                    ..ActualDevice::default()
                };
                (name(n), device)
            })
            .collect(),
    };
    // The system's rule: a port has one device. 0 takes one that nobody has.
    let apply = |ports: [u16; 3], wanted: &Desired| -> [u16; 3] {
        let mut ports: BTreeMap<LinkName, u16> = (1_u16..).map(name).zip(ports).collect();
        let actual = found(std::array::from_fn(|n| {
            ports[&name(u16::try_from(n).unwrap() + 1)]
        }));
        for (spare, change) in (60_000..).zip(changes(wanted, &actual)) {
            let Change::SetListenPort { target, port } = change else {
                panic!("{change}")
            };
            let port = if port == 0 { spare } else { port };
            assert!(
                ports
                    .iter()
                    .all(|(link, used)| *used != port || *link == target.link)
            );
            ports.insert(target.link, port);
        }
        std::array::from_fn(|n| ports[&name(u16::try_from(n).unwrap() + 1)])
    };
    for (before, after) in [
        ([1, 2, 3], [Some(2), Some(1), Some(3)]),
        ([1, 2, 3], [Some(2), Some(3), Some(1)]),
        ([1, 2, 3], [Some(2), Some(9), Some(3)]),
        ([1, 2, 3], [Some(2), None, Some(3)]),
    ] {
        let ports = apply(before, &wanted(after));
        for (port, wanted) in ports.into_iter().zip(after) {
            assert!(wanted.is_none_or(|wanted| wanted == port), "{ports:?}");
        }
    }
    assert_eq!(changes(&wanted([Some(1), None, Some(3)]), &found([1, 2, 3])), []);
}

#[test]
fn a_peer_that_must_call_us_keeps_any_endpoint() {
    let spoke = peer(&[1], &[]);
    let device = settled_device([(key(1), settled(&spoke, Some("198.51.100.7:4444"), None))]);
    assert_eq!(changes(&desired([(key(1), spoke)]), &actual(device)), []);
}

#[test]
fn names_are_asked_for_only_when_they_matter() {
    let hub = peer(&[1], &["hub.example"]);
    let wanted = desired([(key(1), hub.clone())]);
    let with = |endpoint, handshake| actual(settled_device([(key(1), settled(&hub, endpoint, handshake))]));
    let current = Some("192.0.2.9:51820");

    let fresh = with(current, ago(5));
    assert!(stale_names(&wanted, &fresh, now()).is_empty());
    assert_eq!(changes(&wanted, &fresh), []);

    let stale = with(current, ago(500));
    assert_eq!(
        stale_names(&wanted, &stale, now()),
        ["hub.example".to_owned()].into()
    );
    let unresolved = difference(&wanted, &stale, &Names::new());
    assert_eq!(unresolved.changes, []);
    assert!(unresolved.blocked[0].reason.contains("hub.example"));

    let names = Names::from([("hub.example".to_owned(), vec!["192.0.2.10".parse().unwrap()])]);
    let resolved = difference(&wanted, &stale, &names);
    assert_eq!(
        only_endpoint(&resolved.changes).as_deref(),
        Some("192.0.2.10:51820")
    );

    // Without an answer the peer is still added: it may call us.
    let new = difference(&wanted, &actual(settled_device([])), &Names::new());
    assert!(matches!(&new.changes[..], [Change::AddPeer { peer, .. }] if peer.endpoint.is_none()));
    assert_eq!(new.blocked.len(), 1);
}

#[test]
fn foreign_peers_go_and_ports_follow() {
    let mut device = settled_device([(key(8), PeerInfo::default())]);
    device.listen_port = 1;
    device.public_key = Some([3; 32]);
    let planned = changes(&desired([]), &actual(device));
    assert!(matches!(planned[0], Change::RemovePeer { public_key, .. } if public_key == key(8)));
    assert!(matches!(planned[1], Change::SetKey { .. }));
    assert!(matches!(planned[2], Change::SetListenPort { port: 51_820, .. }));
    let mut any_port = desired([]);
    any_port.devices.get_mut(&link()).unwrap().listen_port = None;
    let mut device = settled_device([]);
    device.listen_port = 33_333;
    assert_eq!(changes(&any_port, &actual(device)), []);
}

#[test]
fn another_private_key_is_refused() {
    let change = &changes(&desired([]), &Actual::default())[..1];
    let other = PrivateKey::from_random([8; 32]);
    assert!(device_update(&link(), change, &other).is_err());
}

/// Which peer each of 12 prefixes is on (0 is none), and each peer's preshared key, keepalive and endpoint.
type Shape = (Vec<u8>, Vec<(u8, u16, Option<u8>)>);

fn device_shape() -> impl Strategy<Value = Shape> {
    let owners = prop::collection::vec(0_u8..6, 12);
    let peers = prop::collection::vec((1_u8..4, 0_u16..3, prop::option::of(1_u8..4)), 5);
    (owners, peers)
}

fn nets_of(owners: &[u8], peer: u8) -> Vec<u8> {
    (0..12).filter(|n| owners[usize::from(*n)] == peer).collect()
}

proptest! {
    #[test]
    fn applying_the_difference_leaves_none(
        (want_owners, want_peers) in device_shape(),
        want_keys in prop::collection::btree_set(1_u8..6, 0..6),
        (have_owners, have_peers) in device_shape(),
        have_keys in prop::collection::btree_set(1_u8..9, 0..8),
    ) {
        let wanted = desired(want_keys.iter().map(|n| {
            let (secret, keepalive, host) = want_peers[usize::from(*n) - 1];
            let hosts = host.map(|host| format!("192.0.2.{host}"));
            let peer = DesiredPeer {
                preshared_key: psk(secret),
                keepalive,
                ..peer(&nets_of(&want_owners, *n), hosts.as_deref().as_slice())
            };
            (key(*n), peer)
        }));
        let mut device = settled_device(have_keys.iter().map(|n| {
            let (secret, keepalive, host) = have_peers[usize::from(*n) % 5];
            let like = DesiredPeer { preshared_key: psk(secret), keepalive, ..peer(&nets_of(&have_owners, *n), &[]) };
            let endpoint = host.map(|host| format!("192.0.2.{host}:51820"));
            (key(*n), settled(&like, endpoint.as_deref(), None))
        }));

        let mut planned = changes(&wanted, &actual(device.clone()));
        planned.sort_by_key(Change::phase);
        apply_to(&mut device, &planned);

        prop_assert_eq!(changes(&wanted, &actual(device.clone())), vec![]);
        let device = decode_device(device);
        let keys: BTreeSet<_> = device.peers.keys().copied().collect();
        prop_assert_eq!(keys, want_keys.iter().map(|n| key(*n)).collect());
        for (public_key, peer) in &wanted.devices[&link()].peers {
            let known: &ActualPeer = &device.peers[public_key];
            prop_assert_eq!(&known.allowed_ips, &peer.allowed_ips);
            prop_assert_eq!(known.preshared_key.as_ref(), Some(&peer.preshared_key));
            prop_assert_eq!(known.keepalive, peer.keepalive);
        }
    }
}
