//! A 10,000-node fleet: parse, check, compile for a hub and for a spoke; 10,000 peers and 10,000 rules without a
//! change. `netns-tests/figures.sh` prints the medians for the README.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

#[path = "../tests/common/fleets.rs"]
#[allow(
    dead_code,
    clippy::pedantic,
    clippy::unwrap_used,
    reason = "shared with the tests"
)]
mod fleets;

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, criterion_group, criterion_main};
use sdwand::intent::{self, Facts, HostIntent, IsolationMode};
use sdwand::model::{Fleet, Name};
use sdwand::planes::{Ways, firewall, l3, wireguard};
use sdwand::{config, intent::IntentError};

const NODES: u64 = 10_000;
const RULES: u64 = 10_000;

fn facts() -> Facts {
    Facts {
        isolation: IsolationMode::Vrf,
        host_services_in_vrf: false,
        dummies: true,
        agreements: sdwand::model::Agreements::NONE,
        gateway: None,
        underlay: Some(std::collections::BTreeMap::new()),
    }
}

fn compile(fleet: &Fleet, node: &str) -> Result<HostIntent, IntentError> {
    let node = Name::new(node).expect("a name of the bench");
    let intent = intent::compile(fleet, &node, &facts())?;
    black_box(l3::compile(&intent, &l3::Facts::offline()));
    black_box(wireguard::compile(&intent));
    black_box(firewall::compile(&intent));
    Ok(intent)
}

fn parse_and_compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("10000-nodes");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5))
        .warm_up_time(Duration::from_secs(1));
    let fragments = fleets::large(NODES, 0);
    group.bench_function("parse+check+compile hub", |b| {
        b.iter(|| {
            let fleet = config::parse_fleet(&fragments)
                .expect("the bench's fleet is good")
                .fleet;
            compile(&fleet, "hub").expect("the hub is in the fleet")
        });
    });
    group.bench_function("parse+check+compile spoke", |b| {
        b.iter(|| {
            let fleet = config::parse_fleet(&fragments)
                .expect("the bench's fleet is good")
                .fleet;
            compile(&fleet, "n1").expect("the spoke is in the fleet")
        });
    });
    group.finish();
}

/// The devices as a host has them that is as it should be.
fn as_seen(desired: &wireguard::Desired) -> wireguard::Actual {
    let devices = desired.devices.iter().map(|(link, device)| {
        let peers = device.peers.iter().map(|(key, peer)| {
            let seen = wireguard::ActualPeer {
                preshared_key: Some(peer.preshared_key.clone()),
                endpoint: None,
                keepalive: peer.keepalive,
                allowed_ips: peer.allowed_ips.clone(),
                last_handshake: None,
                rx_bytes: 0,
                tx_bytes: 0,
            };
            (*key, seen)
        });
        let seen = wireguard::ActualDevice {
            public_key: Some(desired.public_key),
            listen_port: device.listen_port.unwrap_or_default(),
            peers: peers.collect(),
        };
        (link.clone(), seen)
    });
    wireguard::Actual {
        devices: devices.collect(),
    }
}

fn unchanged(c: &mut Criterion) {
    let fragments = fleets::large(NODES, RULES);
    let fleet = config::parse_fleet(&fragments)
        .expect("the bench's fleet is good")
        .fleet;
    let hub = Name::new("hub").expect("a name");
    let intent = intent::compile(&fleet, &hub, &facts()).expect("the hub is in the fleet");
    let mut group = c.benchmark_group("10000-peers-10000-rules");
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(5))
        .warm_up_time(Duration::from_secs(1));
    let desired = firewall::compile(&intent);
    let actual = firewall::Actual {
        table: desired.table.clone(),
        ..firewall::Actual::default()
    };
    assert!(
        firewall::diff(&desired, &actual, None, false).changes.is_empty(),
        "nothing is to be done"
    );
    group.bench_function("firewall diff, no change", |b| {
        b.iter(|| firewall::diff(black_box(&desired), &actual, None, false));
    });
    let desired = l3::compile(&intent, &l3::Facts::offline());
    let actual = l3::Actual {
        state: desired.clone(),
        l3mdev_rules: l3::Family::BOTH.into(),
        ..l3::Actual::default()
    };
    let nobody = l3::Around::default();
    assert!(
        l3::diff(&desired, &actual, &nobody).changes.is_empty(),
        "nothing is to be done"
    );
    group.bench_function("l3 diff, no change", |b| {
        b.iter(|| l3::diff(black_box(&desired), &actual, &nobody));
    });
    let desired = wireguard::compile(&intent);
    let actual = as_seen(&desired);
    let (names, now) = (wireguard::Names::new(), SystemTime::UNIX_EPOCH);
    let (ways, calls) = (Ways::new(), wireguard::Calls::new());
    let facts = wireguard::Facts {
        own_key: &intent.public_key,
        names: &names,
        ways: &ways,
        calls: &calls,
        now,
    };
    assert!(
        wireguard::diff(&desired, &actual, facts).changes.is_empty(),
        "nothing is to be done"
    );
    group.bench_function("wireguard diff, no change", |b| {
        b.iter(|| wireguard::diff(black_box(&desired), &actual, facts));
    });
    group.finish();
}

criterion_group!(benches, parse_and_compile, unchanged);
criterion_main!(benches);
