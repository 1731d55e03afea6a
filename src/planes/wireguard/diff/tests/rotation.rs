//! Nodes that change keys.

use super::*;

/// A hub that answers and has announced its next key, as a fleet and as a device that follows it. It has roamed.
fn announced(current: u8, next: u8) -> (Desired, DeviceInfo) {
    let hub = DesiredPeer {
        next_public_key: Some(key(next)),
        ..peer(&[1, 2], &["192.0.2.1"])
    };
    let device = settled_device([(key(current), settled(&hub, Some(ROAMED), ago(20)))]);
    let fleet = desired([(key(current), hub)]);
    let mut followed = device;
    let planned = changes(&fleet, &actual(followed.clone()));
    apply_to(&mut followed, &planned);
    (fleet, followed)
}

const ROAMED: &str = "198.51.100.7:4444";
const NEW_PLACE: &str = "198.51.100.8:5555";

fn network_key() -> Secret {
    Secret::new(*psk(1).expose())
}

/// The hub calls by its next key: the kernel counts an authentic initiation (148 bytes) and takes its source.
fn knock(device: &mut DeviceInfo, next: u8) {
    let next = device.peers.get_mut(&key(next).0).unwrap();
    (next.rx_bytes, next.endpoint) = (148, Some(NEW_PLACE.parse().unwrap()));
}

/// Applies changes peer by peer, as the kernel does; what the hub carries is on exactly one peer all the time.
fn move_gaplessly(device: &mut DeviceInfo, changes: &[Change]) {
    let update = device_update(&link(), changes, &own()).unwrap();
    let carried: BTreeSet<_> = [net(1), net(2)].into();
    for peer in update.peers {
        let one = crate::sys::wg::DeviceUpdate {
            peers: vec![peer],
            ..crate::sys::wg::DeviceUpdate::default()
        };
        update_device(device, &one);
        let on_peers: Vec<_> = device.peers.values().flat_map(|peer| &peer.allowed_ips).collect();
        assert_eq!(on_peers.len(), 2);
        assert_eq!(on_peers.into_iter().copied().collect::<BTreeSet<_>>(), carried);
    }
}

#[test]
fn a_next_key_that_waits_can_have_no_session_and_calls_nobody() {
    let (fleet, device) = announced(1, 2);
    let waiting = &device.peers[&key(2).0];
    assert_eq!(waiting.endpoint, Some(ROAMED.parse().unwrap()));
    assert_eq!((waiting.keepalive, waiting.allowed_ips.len()), (0, 0));
    let withheld = waiting.preshared_key.clone().unwrap();
    assert!(withheld != network_key() && !withheld.is_zero());
    assert!(withheld == Secret::new(*psk(1).withheld().expose()));

    let seen = actual(device);
    assert_eq!(changes(&fleet, &seen), []);
    assert_eq!(key_moves(&fleet, &seen, now()), []);
    assert!(awaits_keys(&fleet, &seen));
    assert_eq!(seen.devices[&link()].key_in_use(key(1), Some(key(2))), key(1));
}

#[test]
fn what_a_node_carries_moves_when_it_calls_by_its_next_key_and_is_never_on_no_peer() {
    // Whatever the order of the keys, and whether it is seen by a look or by a round.
    for (current, next) in [(1, 2), (2, 1)] {
        for by_look in [true, false] {
            let (fleet, mut device) = announced(current, next);
            knock(&mut device, next);
            let seen = actual(device.clone());
            let in_use = seen.devices[&link()].key_in_use(key(current), Some(key(next)));
            assert_eq!(in_use, key(next));
            let moves = if by_look {
                key_moves(&fleet, &seen, now())
            } else {
                changes(&fleet, &seen)
            };
            let anew = |change: &Change| matches!(change, Change::ReplacePeer { .. });
            assert!(moves.iter().all(anew), "{moves:?}");
            let update = device_update(&link(), &moves, &own()).unwrap();
            let removed = update.peers.iter().filter(|peer| peer.remove);
            let keys: Vec<_> = removed.map(|peer| PublicKey(peer.public_key)).collect();
            assert_eq!(keys, [key(next), key(current)]);
            move_gaplessly(&mut device, &moves);

            let carries = &device.peers[&key(next).0];
            assert_eq!(carries.preshared_key, Some(network_key()));
            assert_eq!((carries.rx_bytes, carries.keepalive), (0, 25));
            assert_eq!(carries.endpoint, Some(NEW_PLACE.parse().unwrap()));
            let former = &device.peers[&key(current).0];
            assert_eq!(
                (former.last_handshake, former.endpoint, former.keepalive),
                (None, None, 0)
            );
            let after = actual(device.clone());
            assert_eq!(key_moves(&fleet, &after, now()), []);
            assert!(!awaits_keys(&fleet, &after));

            let carries = device.peers.get_mut(&key(next).0).unwrap();
            carries.last_handshake = ago(0);
            assert_eq!(changes(&fleet, &actual(device.clone())), []);
            assert!(stale_names(&fleet, &actual(device.clone()), now()).is_empty());
            let over = desired([(key(next), peer(&[1, 2], &["192.0.2.1"]))]);
            let planned = changes(&over, &actual(device));
            assert!(
                matches!(&planned[..], [Change::RemovePeer { public_key, .. }] if *public_key == key(current)),
                "{planned:?}"
            );
        }
    }
}

#[test]
fn who_moves_is_called_at_once() {
    let (fleet, mut device) = announced(1, 2);
    knock(&mut device, 2);
    let moves = key_moves(&fleet, &actual(device), now());
    let update = device_update(&link(), &moves, &own()).unwrap();
    let steps: Vec<_> = update
        .peers
        .iter()
        .map(|peer| (peer.public_key[0], peer.remove, peer.call, peer.keepalive))
        .collect();
    assert_eq!(
        steps,
        [
            (2, true, false, None),
            (2, false, true, Some(25)),
            (1, true, false, None),
            (1, false, false, Some(0)),
        ]
    );
}

#[test]
fn a_node_may_go_back_to_its_former_key() {
    let (fleet, mut device) = announced(1, 2);
    knock(&mut device, 2);
    let moves = key_moves(&fleet, &actual(device.clone()), now());
    move_gaplessly(&mut device, &moves);
    device.peers.get_mut(&key(2).0).unwrap().rx_bytes = 5_000;
    // Its next key never answered, or did so long ago: the former one does.
    for handshake in [None, ago(50)] {
        let mut device = device.clone();
        device.peers.get_mut(&key(2).0).unwrap().last_handshake = handshake;
        device.peers.get_mut(&key(1).0).unwrap().last_handshake = ago(1);
        device.peers.get_mut(&key(1).0).unwrap().endpoint = Some(ROAMED.parse().unwrap());
        let moves = key_moves(&fleet, &actual(device.clone()), now());
        assert!(
            matches!(
                &moves[..],
                [
                    Change::ReplacePeer { public_key: anew, .. },
                    Change::UpdatePeer { public_key: back, .. }
                ] if (*anew, *back) == (key(2), key(1))
            ),
            "{moves:?}"
        );
        apply_to(&mut device, &moves);
        assert_eq!(device.peers[&key(1).0].allowed_ips.len(), 2);
        let waiting = &device.peers[&key(2).0];
        assert_eq!(
            (waiting.rx_bytes, waiting.preshared_key == Some(network_key())),
            (0, false)
        );
        let planned = changes(&fleet, &actual(device.clone()));
        apply_to(&mut device, &planned);
        assert_eq!(changes(&fleet, &actual(device)), []);
    }
}

#[test]
fn a_node_that_does_not_answer_is_called_by_both_keys() {
    let (fleet, mut device) = announced(1, 2);
    device.peers.get_mut(&key(1).0).unwrap().last_handshake = ago(500);
    let planned = changes(&fleet, &actual(device.clone()));
    apply_to(&mut device, &planned);
    let next = &device.peers[&key(2).0];
    assert_eq!(
        (next.keepalive, next.preshared_key == Some(network_key())),
        (25, true)
    );
    assert_eq!(key_moves(&fleet, &actual(device.clone()), now()), []);

    let next = device.peers.get_mut(&key(2).0).unwrap();
    (next.last_handshake, next.rx_bytes) = (ago(1), 200);
    let moves = key_moves(&fleet, &actual(device.clone()), now());
    assert!(
        matches!(&moves[..], [Change::UpdatePeer { public_key, .. }] if *public_key == key(2)),
        "the session that there is is kept: {moves:?}"
    );
    move_gaplessly(&mut device, &moves);
}

#[test]
fn a_look_moves_no_more_than_the_node_carries() {
    let (mut fleet, mut device) = announced(1, 2);
    let hub = fleet.devices.get_mut(&link()).unwrap();
    hub.peers.get_mut(&key(1)).unwrap().allowed_ips.insert(net(3));
    assert_eq!(key_moves(&fleet, &actual(device.clone()), now()), []);
    knock(&mut device, 2);
    let moves = key_moves(&fleet, &actual(device), now());
    let Some(Change::ReplacePeer { peer, .. }) = moves.first() else {
        panic!("{moves:?}")
    };
    assert_eq!(peer.allowed_ips, [net(1), net(2)].into());
}

#[test]
fn with_its_own_next_key_a_node_calls_whoever_answers_and_whoever_may_change_too() {
    let (mut fleet, mut device) = announced(1, 2);
    let silent = peer(&[5], &["192.0.2.5"]);
    let nowhere = peer(&[6], &[]);
    let hub = fleet.devices.get_mut(&link()).unwrap();
    hub.peers
        .extend([(key(5), silent.clone()), (key(6), nowhere.clone())]);
    device
        .peers
        .insert(key(5).0, settled(&silent, Some("192.0.2.5:51820"), ago(500)));
    device.peers.insert(key(6).0, settled(&nowhere, None, None));
    device.public_key = Some([3; 32]);
    let planned = changes(&fleet, &actual(device.clone()));
    let [Change::SetKey { calls, .. }] = planned.as_slice() else {
        panic!("{planned:?}")
    };
    assert_eq!(*calls, BTreeMap::from([(key(1), 25), (key(2), 0)]));
    let update = device_update(&link(), &planned, &own()).unwrap();
    assert!(update.private_key.is_some());
    assert!(update.peers.iter().all(|peer| peer.call && peer.update_only));
    apply_to(&mut device, &planned);
    assert_eq!(changes(&fleet, &actual(device)), []);
}

#[test]
fn what_routes_have_led_to_a_node_goes_with_it_to_its_next_key() {
    let turning = DesiredPeer {
        next_public_key: Some(key(2)),
        ..peer(&[1], &[])
    };
    let announced = desired([(key(1), turning), (key(3), peer(&[2, 3], &[]))]);
    let mut device = settled_device([
        (key(1), settled(&peer(&[1, 2], &[]), None, ago(20))),
        (key(2), settled(&peer(&[], &[]), None, ago(1))),
        (key(3), settled(&peer(&[3], &[]), None, ago(5))),
    ]);
    let moves = key_moves(&announced, &actual(device.clone()), now());
    apply_to(&mut device, &moves);
    assert_eq!(
        device.peers[&key(2).0].allowed_ips,
        BTreeSet::from([net(1), net(2)]),
        "{moves:?}"
    );
    assert_eq!(device.peers[&key(3).0].allowed_ips, BTreeSet::from([net(3)]));
    assert_eq!(key_moves(&announced, &actual(device), now()), []);
}

#[test]
fn what_another_node_carries_by_now_is_left_to_it() {
    let turning = DesiredPeer {
        next_public_key: Some(key(2)),
        ..peer(&[1, 2], &[])
    };
    let announced = desired([(key(1), turning), (key(3), peer(&[3], &[]))]);
    let mut device = settled_device([
        (key(1), settled(&peer(&[1], &[]), None, ago(20))),
        (key(2), settled(&peer(&[], &[]), None, ago(1))),
        (key(3), settled(&peer(&[2, 3], &[]), None, ago(5))),
    ]);
    let moves = key_moves(&announced, &actual(device.clone()), now());
    assert!(
        matches!(&moves[..], [Change::UpdatePeer { public_key, delta, .. }]
            if *public_key == key(2) && delta.allowed_ips == BTreeSet::from([net(1)])),
        "{moves:?}"
    );
    apply_to(&mut device, &moves);
    assert_eq!(key_moves(&announced, &actual(device), now()), []);
}

#[test]
fn an_operator_is_told_how_a_rotation_stands() {
    let peers = |next| {
        let hub = DesiredPeer {
            next_public_key: next,
            ..peer(&[1], &[])
        };
        desired([(key(1), hub)])
    };
    let told = |desired: &Desired, handshake, own: PublicKey| -> Vec<String> {
        let like = peer(&[1], &[]);
        let device = settled_device([(key(1), settled(&like, None, handshake))]);
        let notes = rotation_notes(desired, &actual(device), &own, now());
        notes
            .into_iter()
            .map(|note| format!("{}: {}", note.object, note.text))
            .collect()
    };
    assert_eq!(told(&peers(None), ago(5), own().public()), [""; 0]);
    let waits = told(&peers(Some(key(2))), ago(5), own().public());
    assert!(
        waits.len() == 1 && waits[0].starts_with("node hub-a: it announces a next key"),
        "{waits:?}"
    );

    let mut mine = peers(None);
    mine.next_public_key = Some(key(9));
    let announced = told(&mine, ago(5), own().public());
    assert!(
        announced[0].starts_with("node spoke-1: it announces the key"),
        "{announced:?}"
    );
    let turned = told(&mine, ago(5), key(9));
    assert!(turned.len() == 1 && turned[0].contains("--finish"), "{turned:?}");
    let alone = told(&mine, ago(500), key(9));
    assert!(
        alone[1].starts_with("node hub-a: it doesn't answer to the next key of spoke-1"),
        "{alone:?}"
    );
}
