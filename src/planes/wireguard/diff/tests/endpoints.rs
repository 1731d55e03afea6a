//! Which address a peer is called at.

use super::*;

#[test]
fn a_peer_that_does_not_answer_is_called_at_each_address_in_turn() {
    let hosts = ["2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"];
    let hub = peer(&[1], &hosts);
    let wanted = desired([(key(1), hub.clone())]);
    let planned = |endpoint: &str, handshake, seconds, unreachable: &[&str]| {
        let device = settled_device([(key(1), settled(&hub, Some(endpoint), handshake))]);
        let calls = Calls::from([((link(), key(1)), Duration::from_secs(seconds))]);
        let ways = unreachable.iter();
        let ways = ways.map(|host| (host.parse().unwrap(), crate::planes::Way::Unreachable));
        let found = called(&wanted, &actual(device), &Names::new(), &ways.collect(), &calls);
        only_endpoint(&found.changes)
    };
    let set = |endpoint: &str| Some(endpoint.to_owned());
    let ring = [
        "[2001:db8::1]:51820",
        "192.0.2.1:51820",
        "[2001:db8::2]:51820",
        "192.0.2.2:51820",
    ];
    for (at, endpoint) in ring.iter().enumerate() {
        assert_eq!(planned(endpoint, None, 14, &[]), None, "not long enough");
        assert_eq!(planned(endpoint, ago(10), 99, &[]), None, "it answers");
        assert_eq!(planned(endpoint, None, 15, &[]), set(ring[(at + 1) % 4]));
    }
    let v6 = &hosts[..2];
    assert_eq!(
        planned(ring[0], None, 0, v6),
        set(ring[1]),
        "no route leads there"
    );
    assert_eq!(planned(ring[1], None, 15, v6), set(ring[3]));
    assert_eq!(planned(ring[3], None, 15, v6), set(ring[1]));
    assert_eq!(planned(ring[0], None, 0, &hosts), None, "none is better");
}

#[test]
fn calls_are_counted_from_when_the_endpoint_was_set() {
    let hub = peer(&[1], &["2001:db8::1", "192.0.2.1"]);
    let wanted = desired([(key(1), hub.clone())]);
    let with = |endpoint: &str, handshake| {
        actual(settled_device([(
            key(1),
            settled(&hub, Some(endpoint), handshake),
        )]))
    };
    let start = tokio::time::Instant::now().into_std();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut attempts = Attempts::default();
    let mut note = |actual: &Actual, seconds| {
        let calls = attempts.note(&wanted, actual, now(), at(seconds));
        let tried = calls.get(&(link(), key(1))).map(Duration::as_secs);
        (tried, attempts.due(at(seconds)).map(|due| due.as_secs()))
    };
    let (first, second) = ("[2001:db8::1]:51820", "192.0.2.1:51820");
    assert_eq!(note(&with(first, None), 0), (Some(0), Some(15)));
    assert_eq!(note(&with(first, None), 10), (Some(10), Some(5)));
    assert_eq!(note(&with(second, None), 15), (Some(0), Some(15)));
    assert_eq!(note(&with(second, ago(1)), 20), (None, None), "it answered");
    assert_eq!(
        note(&with(second, ago(200)), 30),
        (Some(0), Some(15)),
        "and no more"
    );
    // Never at once again and again, however little helps.
    assert_eq!(note(&with(second, None), 45), (Some(15), Some(15)));
}

#[test]
fn another_sites_gateway_is_made_anew_with_each_agreement() {
    let foreign = |secret: u8| DesiredPeer {
        is_foreign: true,
        preshared_key: psk(secret),
        ..peer(&[1], &["203.0.113.9"])
    };
    let known = ActualPeer {
        preshared_key: Some(psk(1)),
        endpoint: Some("203.0.113.9:51820".parse().unwrap()),
        keepalive: 25,
        allowed_ips: [net(1)].into(),
        last_handshake: ago(10),
        rx_bytes: 1,
        tx_bytes: 1,
    };
    let device = ActualDevice {
        public_key: Some(own().public()),
        listen_port: 51_820,
        peers: [(key(1), known)].into(),
    };
    let actual = Actual {
        devices: [(link(), device)].into(),
    };
    let planned = |peer: DesiredPeer| difference(&desired([(key(1), peer)]), &actual, &Names::new()).changes;
    assert_eq!(planned(foreign(1)), Vec::new());
    let anew = planned(foreign(2));
    assert!(
        matches!(&anew[..], [Change::ReplacePeer { peer, .. }] if peer.endpoint.is_some()),
        "{anew:?}"
    );
    // One of this site keeps its session.
    let kept = planned(DesiredPeer {
        is_foreign: false,
        ..foreign(2)
    });
    assert!(matches!(&kept[..], [Change::UpdatePeer { .. }]), "{kept:?}");
}
