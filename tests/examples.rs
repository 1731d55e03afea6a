//! The commented examples in `config/` are what they say they are.

use std::path::Path;

use sdwand::config;
use sdwand::intent::{self, Facts, IsolationMode};
use sdwand::model::Name;
use sdwand::model::ownership::ROUTE_PROTOCOL;

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config"))
}

#[test]
fn the_example_fleet_is_sound() {
    let parsed = config::load_fleet(&folder().join("fleet.d")).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(parsed.notices, []);
    let fleet = parsed.fleet;
    assert_eq!(fleet.nodes.len(), 3);
    let prod = &fleet.networks[&Name::new("prod").unwrap()];
    assert_eq!(prod.prefix.to_string(), "fd12:34ab:cd42:1::/64");
    assert_eq!(prod.prefix_v4.unwrap().to_string(), "100.64.1.0/24");
    assert_eq!(prod.listen_port, 51_820);
    let order: Vec<&str> = prod
        .rules_in_order()
        .iter()
        .map(|rule| rule.name.as_str())
        .collect();
    assert_eq!(order, ["no-telnet", "web-to-db", "monitoring"]);
}

#[test]
fn the_example_of_services_is_sound_once_it_is_uncommented() {
    let mut fragments = Vec::new();
    for file in ["00-site.toml", "10-prod.toml"] {
        let text = std::fs::read_to_string(folder().join("fleet.d").join(file)).unwrap();
        let lines = text.lines().map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with("[[") || rest.contains(" = ") => rest,
            _ => line,
        });
        fragments.push((file.into(), lines.collect::<Vec<_>>().join("\n")));
    }
    let parsed = config::parse_fleet(&fragments).unwrap_or_else(|errors| panic!("{errors}"));
    let fleet = parsed.fleet;
    assert_eq!((fleet.offers.len(), fleet.subscriptions.len()), (1, 1));
    let bridge = &fleet.bridges[&Name::new("prod-b").unwrap()];
    assert_eq!((bridge.import.len(), bridge.export.len()), (2, 2));
}

#[test]
fn the_example_host_is_a_node_of_the_example_fleet() {
    let (host, notices) =
        config::load_host(&folder().join("sdwand.toml")).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(notices, []);
    let fleet = config::load_fleet(&folder().join("fleet.d")).unwrap().fleet;
    assert!(fleet.nodes.contains_key(&host.node));
    assert_eq!(host.fleet_dir, Path::new("/etc/sdwand/fleet.d"));
}

#[test]
fn every_node_of_the_example_fleet_compiles() {
    let fleet = config::load_fleet(&folder().join("fleet.d")).unwrap().fleet;
    let facts = Facts {
        isolation: IsolationMode::Vrf,
        host_services_in_vrf: false,
        dummies: true,
        agreements: sdwand::model::Agreements::NONE,
        gateway: None,
        underlay: Some(std::collections::BTreeMap::new()),
    };
    for node in fleet.nodes.keys() {
        let intent = intent::compile(&fleet, node, &facts).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(intent.networks.len(), 1, "{node}");
        assert!(intent.blocked.is_empty(), "{node}: {:?}", intent.blocked);
        assert!(intent.notices.is_empty(), "{node}: {:?}", intent.notices);
    }
}

#[test]
fn the_route_protocol_has_its_number() {
    let text = std::fs::read_to_string(folder().join("rt_protos.conf")).unwrap();
    assert!(
        text.lines()
            .any(|line| line == format!("{ROUTE_PROTOCOL} sdwand"))
    );
}
