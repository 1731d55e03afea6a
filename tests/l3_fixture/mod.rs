//! Host intents for the tests of the l3 plane.

use std::collections::{BTreeMap, BTreeSet};

use sdwand::intent::{
    FirewallIntent, HostIntent, IsolationMode, LanIntent, LinkIntent, LinkKind, NetworkIntent, VipIntent,
};
use sdwand::model::{FleetDigest, LinkName, Name, NetworkId, PresharedKey, PrivateKey, naming};

/// A link name.
pub fn link(text: &str) -> LinkName {
    LinkName::new(text).unwrap()
}

/// A hub with networks 1, 2 …, one for each entry of `isolation`, and the LAN given in the first.
pub fn intent(isolation: &[IsolationMode], lan: Option<&str>) -> HostIntent {
    let networks = isolation
        .iter()
        .zip(1_u16..)
        .map(|(isolation, id)| network(id, *isolation, lan.filter(|_| id == 1)));
    HostIntent {
        node: Name::new("hub").unwrap(),
        public_key: PrivateKey::from_random([7; 32]).public(),
        next_public_key: None,
        fleet_digest: FleetDigest([0; 32]),
        networks: networks.map(|network| (network.id, network)).collect(),
        host_services_in_vrf: false,
        notices: Vec::new(),
        blocked: Vec::new(),
    }
}

/// One network of it.
pub fn network(id: u16, isolation: IsolationMode, lan: Option<&str>) -> NetworkIntent {
    let number = NetworkId::new(id).unwrap();
    let name = naming::wireguard_link(number, 0);
    let prefix = format!("fd12:34ab:cd42:{id}::");
    let routes = [
        (format!("{prefix}2/128").parse().unwrap(), name.clone()),
        (format!("100.64.{id}.2/32").parse().unwrap(), name.clone()),
    ];
    let lan_intent = |interface: &str, subnet: &str, via: Option<&str>| LanIntent {
        subnet: subnet.parse().unwrap(),
        interface: link(interface),
        via: via.map(|via| via.parse().unwrap()),
    };
    let lans = lan.map_or_else(Vec::new, |interface| {
        vec![
            lan_intent(interface, "10.11.0.0/16", Some("10.10.0.254")),
            lan_intent(interface, "10.10.0.0/24", None),
            lan_intent(interface, "fd0a::/64", None),
        ]
    });
    NetworkIntent {
        name: Name::new(&format!("net{id}")).unwrap(),
        id: number,
        isolation,
        vrf: (isolation == IsolationMode::Vrf).then(|| naming::vrf(number)),
        table: match isolation {
            IsolationMode::Main => 254,
            IsolationMode::Vrf | IsolationMode::Rules => naming::table(number),
        },
        mtu: 1_380,
        has_given_mtu: true,
        narrow: BTreeMap::from([(routes[0].0, 1_300)]),
        overlay_v6: format!("{prefix}1").parse().unwrap(),
        overlay_v4: Some(format!("100.64.{id}.1").parse().unwrap()),
        link_local: "fe80::1".parse().unwrap(),
        links: vec![LinkIntent {
            name,
            kind: LinkKind::Multipoint,
            mtu: 1_380,
            listen_port: None,
            peers: BTreeMap::new(),
            carriers: BTreeMap::new(),
        }],
        lans,
        vips: vec![VipIntent {
            name: Name::new("api").unwrap(),
            address: format!("{prefix}100").parse().unwrap(),
            holders: vec![Name::new("hub").unwrap()],
            here: lan.is_some(),
        }],
        routes: routes.into(),
        shared: BTreeSet::new(),
        preshared_key: PresharedKey::derive("fd12:34ab:cd42::/48", id, None),
        bridges: Vec::new(),
        firewall: FirewallIntent::default(),
    }
}
