//! What `compile --plane l3` prints, for each way to keep networks apart. `UPDATE_GOLDEN=1` records it again.

#![expect(clippy::unwrap_used, reason = "a test")]

mod l3_fixture;

use l3_fixture::intent;
use sdwand::intent::{HostIntent, IsolationMode, LinkKind};
use sdwand::model::{Name, naming};
use sdwand::planes::l3::{Backend, Facts, compile, render};

const FACTS: Facts = Facts {
    wireguard: Backend::Kernel,
    rp_filter_all: 0,
    force_forwarding: false,
};

fn check(case: &str, intent: &HostIntent, facts: Facts) {
    let path = format!("{}/tests/data/l3/{case}.txt", env!("CARGO_MANIFEST_DIR"));
    let found = render(&compile(intent, &facts));
    if std::env::var("UPDATE_GOLDEN").is_ok() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "{path}");
}

#[test]
fn a_hub_with_a_lan_in_a_vrf() {
    check("vrf-hub", &intent(&[IsolationMode::Vrf], Some("eth1.20")), FACTS);
}

#[test]
fn the_same_by_rules() {
    let facts = Facts {
        force_forwarding: true,
        rp_filter_all: 1,
        ..FACTS
    };
    check(
        "rules-hub",
        &intent(&[IsolationMode::Rules], Some("eth1.20")),
        facts,
    );
}

#[test]
fn a_spoke_of_two_hubs_in_the_main_table_with_userspace_wireguard() {
    let mut intent = intent(&[IsolationMode::Main], None);
    for network in intent.networks.values_mut() {
        let mut second = network.links[0].clone();
        second.name = naming::wireguard_link(network.id, 1);
        network.links.push(second);
        for link in &mut network.links {
            link.kind = LinkKind::Uplink {
                hub: Name::new("hub").unwrap(),
            };
        }
        network.overlay_v4 = None;
        network.routes.retain(|net, _| net.addr().is_ipv6());
    }
    let facts = Facts {
        wireguard: Backend::Userspace,
        ..FACTS
    };
    check("main-spoke", &intent, facts);
}
