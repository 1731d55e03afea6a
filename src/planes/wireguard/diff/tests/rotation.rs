//! Nodes that change keys.

use super::*;

#[test]
fn what_a_node_carries_moves_to_its_next_key_and_is_never_on_no_peer() {
    let hub = DesiredPeer {
        next_public_key: Some(key(2)),
        ..peer(&[1, 2], &["192.0.2.1"])
    };
    let announced = desired([(key(1), hub.clone())]);
    let roamed = "198.51.100.7:4444";
    let mut device = settled_device([(key(1), settled(&hub, Some(roamed), ago(20)))]);

    let planned = changes(&announced, &actual(device.clone()));
    let [
        Change::AddPeer {
            public_key,
            peer: next,
            ..
        },
    ] = planned.as_slice()
    else {
        panic!("{planned:?}")
    };
    assert_eq!(
        (*public_key, next.endpoint),
        (key(2), Some(roamed.parse().unwrap()))
    );
    assert!(next.allowed_ips.is_empty() && next.preshared_key == hub.preshared_key);
    apply_to(&mut device, &planned);
    assert_eq!(changes(&announced, &actual(device.clone())), []);
    assert_eq!(key_moves(&announced, &actual(device.clone())), []);

    let next = device.peers.get_mut(&key(2).0).unwrap();
    next.last_handshake = ago(1);
    let seen = actual(device.clone());
    assert_eq!(seen.devices[&link()].key_in_use(key(1), Some(key(2))), key(2));
    let moves = key_moves(&announced, &seen);
    let [
        Change::UpdatePeer {
            public_key, delta, ..
        },
    ] = moves.as_slice()
    else {
        panic!("{moves:?}")
    };
    assert_eq!((*public_key, &delta.allowed_ips), (key(2), &hub.allowed_ips));
    assert_eq!(delta.endpoint, None, "it has called from where it is");
    apply_to(&mut device, &moves);
    let planned = changes(&announced, &actual(device.clone()));
    assert!(
        matches!(&planned[..], [Change::UpdatePeer { public_key, delta, .. }] if *public_key == key(1) && delta.keepalive == Some(0)),
        "the former key is called no more: {planned:?}"
    );
    apply_to(&mut device, &planned);
    assert_eq!(changes(&announced, &actual(device.clone())), []);
    assert!(stale_names(&announced, &actual(device.clone()), now()).is_empty());

    let over = desired([(key(2), peer(&[1, 2], &["192.0.2.1"]))]);
    let planned = changes(&over, &actual(device.clone()));
    assert!(
        matches!(&planned[..], [Change::RemovePeer { public_key, .. }] if *public_key == key(1)),
        "{planned:?}"
    );
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
    let moves = key_moves(&announced, &actual(device.clone()));
    assert!(
        matches!(&moves[..], [Change::UpdatePeer { public_key, delta, .. }]
            if *public_key == key(2) && delta.allowed_ips == BTreeSet::from([net(1)])),
        "{moves:?}"
    );
    apply_to(&mut device, &moves);
    assert_eq!(key_moves(&announced, &actual(device)), []);
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
