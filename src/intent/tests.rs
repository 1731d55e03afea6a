//! What fleets mean for a node: links, peers, routes, and what is left out with a word about it.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Facts, HostIntent, IsolationMode, LinkKind, NetworkIntent, PathMtus, compile};
use crate::config;
use crate::model::{Name, NetworkId};

const NODES: &str = r#"
[site]
name = "site-a"
prefix = "fd12:34ab:cd42::/48"

[[nodes]]
name = "hub-1"
public_key = "qyZM0n/nfE4oy3WbcOMEEEhHnPs+LsxOddSahMSLN2A="
endpoints = ["203.0.113.5"]
host_id = 1

[[nodes]]
name = "hub-2"
public_key = "T5y0uKJbdJxuVgp2AQeYdoWU1DfKH5nzZJv6wYzTnkE="
endpoints = ["203.0.113.6"]
host_id = 2

[[nodes]]
name = "spoke-1"
public_key = "gRh13BaDxfSNZ3zEaHSxHRyRUd3JdcUpDn6GLvqsIGc="
host_id = 11

[[nodes]]
name = "spoke-2"
public_key = "wXwPRtNhC+Y/9u7vN9+CUdrTCj3fvbSdd/IA2L2rkyo="
host_id = 12
"#;

fn host(node: &str, isolation: IsolationMode, networks: &str) -> HostIntent {
    let text = format!("{NODES}\n{networks}");
    let parsed = match config::parse_fleet(&[("fleet.d/00.toml".into(), text)]) {
        Ok(parsed) => parsed,
        Err(found) => panic!("{found}"),
    };
    let facts = Facts {
        isolation,
        host_services_in_vrf: false,
        dummies: true,
        agreements: crate::model::Agreements::NONE,
        gateway: None,
        underlay: Some(std::collections::BTreeMap::new()),
    };
    compile(&parsed.fleet, &Name::new(node).unwrap(), &facts).unwrap()
}

fn network(host: &HostIntent, id: u16) -> &NetworkIntent {
    &host.networks[&NetworkId::new(id).unwrap()]
}

fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn routes(network: &NetworkIntent) -> Vec<String> {
    let routes = network.routes.iter();
    routes.map(|(net, link)| format!("{net} {link}")).collect()
}

const TWO_HUBS: &str = r#"
[[networks]]
name = "prod"
id = 20
routing = "static"
members = [
  { node = "hub-1", role = "hub" },
  { node = "hub-2", role = "hub" },
  { node = "spoke-1" },
  { node = "spoke-2", lans = [{ subnet = "10.2.0.0/16", interface = "eth1" }] },
]
"#;

#[test]
fn a_hub_lets_each_peer_carry_its_own_only() {
    let host = host("hub-1", IsolationMode::Vrf, TWO_HUBS);
    let network = network(&host, 20);
    assert_eq!(network.vrf.as_ref().unwrap().as_str(), "sdwan-20");
    assert_eq!(network.table, 10_020);
    assert_eq!(network.links.len(), 1);
    let link = &network.links[0];
    assert_eq!(
        (link.name.as_str(), &link.kind),
        ("wg-sdwan-20", &LinkKind::Multipoint)
    );
    assert_eq!(link.listen_port, Some(51_839));
    let peers = link.peers.values().map(|peer| (peer.node.as_str(), peer));
    let peers: std::collections::BTreeMap<_, _> = peers.collect();
    assert_eq!(
        peers.keys().copied().collect::<Vec<_>>(),
        ["hub-2", "spoke-1", "spoke-2"]
    );
    assert_eq!(
        peers["spoke-2"].allowed_ips,
        nets(&[
            "fd12:34ab:cd42:20::c/128",
            "100.64.20.12/32",
            "fe80::c/128",
            "10.2.0.0/16"
        ])
    );
    assert_eq!(
        peers["spoke-1"].allowed_ips,
        nets(&["fd12:34ab:cd42:20::b/128", "100.64.20.11/32", "fe80::b/128"])
    );
    // A spoke behind NAT calls; the other hub is called.
    assert!(peers["spoke-1"].endpoints.is_empty());
    assert_eq!(
        (peers["spoke-1"].keepalive_seconds, peers["hub-2"].endpoints.len()),
        (0, 1)
    );
    assert!(network.routes.contains_key(&"10.2.0.0/16".parse().unwrap()));
    assert!(
        network
            .routes
            .keys()
            .all(|net| !net.contains(&"fe80::c".parse::<std::net::IpAddr>().unwrap()))
    );
}

#[test]
fn a_spoke_has_a_link_for_each_hub_and_each_hub_on_its_own() {
    let host = host("spoke-1", IsolationMode::Vrf, TWO_HUBS);
    let network = network(&host, 20);
    let links: Vec<_> = network
        .links
        .iter()
        .map(|link| (link.name.as_str(), link.listen_port.is_some(), link.peers.len()))
        .collect();
    assert_eq!(links, [("wg-sdwan-20", true, 1), ("wg-sdwan-20-2", false, 1)]);
    let bound = ["fd12:34ab:cd42:20::/64", "100.64.20.0/24", "10.2.0.0/16"];
    for (link, (hub, link_local)) in network
        .links
        .iter()
        .zip([("hub-1", "fe80::1/128"), ("hub-2", "fe80::2/128")])
    {
        assert_eq!(
            link.kind,
            LinkKind::Uplink {
                hub: Name::new(hub).unwrap()
            }
        );
        let peer = link.peers.values().next().unwrap();
        let mut wanted = nets(&bound);
        wanted.extend(nets(&[link_local]));
        assert_eq!((peer.node.as_str(), &peer.allowed_ips), (hub, &wanted));
        assert!(peer.keepalive_seconds > 0);
    }
    assert_eq!(
        routes(network),
        [
            "10.2.0.0/16 wg-sdwan-20",
            "100.64.20.0/24 wg-sdwan-20",
            "100.64.20.1/32 wg-sdwan-20",
            "100.64.20.2/32 wg-sdwan-20-2",
            "fd12:34ab:cd42:20::/64 wg-sdwan-20",
            "fd12:34ab:cd42:20::1/128 wg-sdwan-20",
            "fd12:34ab:cd42:20::2/128 wg-sdwan-20-2",
        ]
    );
    // What no hub has for itself may go over either.
    assert_eq!(network.shared, nets(&bound));
    assert_eq!(network.overlay_v6.to_string(), "fd12:34ab:cd42:20::b");
    assert_eq!(network.overlay_v4.unwrap().to_string(), "100.64.20.11");
    assert_eq!(network.link_local.to_string(), "fe80::b");
}

#[test]
fn the_first_holder_has_a_virtual_ip_and_everyone_knows() {
    let text = format!(
        "{TWO_HUBS}\n\
         [[networks.virtual_ips]]\nname = \"api\"\naddress = \"::100\"\nholders = [\"spoke-1\", \"spoke-2\"]\n\
         [[networks.virtual_ips]]\nname = \"web\"\naddress = \"100.64.20.100\"\nholders = [\"hub-2\"]\n\
         [[networks.rules]]\nname = \"to-api\"\naction = \"accept\"\nfrom = \"any\"\nto = {{ vip = \"api\" }}\n\
         [[networks.rules]]\nname = \"to-node\"\naction = \"accept\"\nfrom = \"any\"\nto = {{ node = \"spoke-1\" }}\n"
    );
    let api: IpNet = "fd12:34ab:cd42:20::100/128".parse().unwrap();
    let web: IpNet = "100.64.20.100/32".parse().unwrap();
    for (node, has_api, has_web) in [
        ("spoke-1", true, false),
        ("spoke-2", false, false),
        ("hub-2", false, true),
    ] {
        let host = host(node, IsolationMode::Vrf, &text);
        let network = network(&host, 20);
        let here: Vec<bool> = network.vips.iter().map(|vip| vip.here).collect();
        assert_eq!(here, [has_api, has_web], "{node}");
        assert_eq!(network.vips[0].holders[0].as_str(), "spoke-1");
        assert_eq!(network.firewall.own.contains(api.addr()), has_api, "{node}");
        assert_eq!(network.firewall.own.contains(web.addr()), has_web, "{node}");
        let rules: Vec<Vec<IpNet>> = network
            .firewall
            .rules
            .iter()
            .map(|rule| rule.to.iter().collect())
            .collect();
        assert_eq!(rules[0], [api]);
        assert!(rules[1].contains(&api), "a node is its VIPs too: {rules:?}");
        assert!(host.blocked.is_empty());
    }
    // On a hub the holder's peer carries it; a spoke reaches a hub's by that hub's link.
    let hub = host("hub-1", IsolationMode::Vrf, &text);
    let peers: BTreeSet<&str> = network(&hub, 20).links[0]
        .peers
        .values()
        .filter(|peer| peer.allowed_ips.contains(&api))
        .map(|peer| peer.node.as_str())
        .collect();
    assert_eq!(peers, BTreeSet::from(["spoke-1"]));
    assert!(network(&hub, 20).routes.contains_key(&api));
    let spoke = host("spoke-2", IsolationMode::Vrf, &text);
    assert_eq!(network(&spoke, 20).routes[&web].as_str(), "wg-sdwan-20-2");
}

#[test]
fn a_virtual_ip_needs_a_dummy_to_live_on() {
    let text = format!(
        "{TWO_HUBS}\n\
         [[networks.virtual_ips]]\nname = \"api\"\naddress = \"::100\"\nholders = [\"spoke-1\"]\n"
    );
    let parsed = config::parse_fleet(&[("fleet.d/00.toml".into(), format!("{NODES}{text}"))]).unwrap();
    let facts = Facts {
        isolation: IsolationMode::Vrf,
        host_services_in_vrf: false,
        dummies: false,
        agreements: crate::model::Agreements::NONE,
        gateway: None,
        underlay: Some(std::collections::BTreeMap::new()),
    };
    let on = |node| compile(&parsed.fleet, &Name::new(node).unwrap(), &facts).unwrap();
    let holder = on("spoke-1");
    assert!(!network(&holder, 20).vips[0].here);
    assert_eq!(holder.blocked.len(), 1, "{:?}", holder.blocked);
    assert!(holder.blocked[0].reason.contains("api"), "{:?}", holder.blocked);
    assert_eq!(on("spoke-2").blocked, []);
}

#[test]
fn a_port_mapping_is_the_hubs_and_the_target_lets_it_in() {
    let text = format!(
        "{TWO_HUBS}\n\
         [[networks.virtual_ips]]\nname = \"api\"\naddress = \"::100\"\nholders = [\"spoke-2\"]\n\
         [[networks.port_mappings]]\nname = \"web\"\nhub = \"hub-1\"\nlisten_port = 443\nto = {{ node = \"spoke-1\" }}\n\
         target_port = 8443\nsource_cidrs = [\"0.0.0.0/0\"]\n\
         [[networks.port_mappings]]\nname = \"api\"\nhub = \"hub-1\"\nlisten_port = 444\nto = {{ vip = \"api\" }}\n\
         target_port = 8443\n\
         [[networks.port_mappings]]\nname = \"off\"\nhub = \"hub-1\"\nlisten_port = 445\nto = {{ node = \"spoke-1\" }}\n\
         target_port = 8443\nenabled = false\n"
    );
    let on = |node| host(node, IsolationMode::Vrf, &text);
    let hub = on("hub-1");
    let mappings = &network(&hub, 20).firewall.mappings;
    let shown: Vec<(&str, Vec<String>, Vec<IpNet>)> = mappings
        .iter()
        .map(|mapping| {
            let ways = mapping
                .ways
                .iter()
                .map(|way| format!("{} -> {}", way.hub, way.target));
            (
                mapping.name.as_str(),
                ways.collect(),
                mapping.sources.iter().collect(),
            )
        })
        .collect();
    let both = vec![
        "fd12:34ab:cd42:20::1 -> fd12:34ab:cd42:20::b".to_owned(),
        "100.64.20.1 -> 100.64.20.11".to_owned(),
    ];
    let api = vec!["fd12:34ab:cd42:20::1 -> fd12:34ab:cd42:20::100".to_owned()];
    assert_eq!(
        shown,
        [
            ("api", api, vec!["::/0".parse().unwrap()]),
            ("web", both, vec!["0.0.0.0/0".parse().unwrap()]),
        ]
    );
    let admitted = |node| {
        let host = on(node);
        let firewall = &network(&host, 20).firewall;
        assert!(firewall.mappings.is_empty(), "{node}");
        let names = firewall
            .admissions
            .iter()
            .map(|a| format!("{} {} {}", a.name, a.to, a.port));
        names.collect::<Vec<_>>()
    };
    let web = ["web 100.64.20.11 8443", "web fd12:34ab:cd42:20::b 8443"];
    assert_eq!(admitted("spoke-1"), web);
    assert_eq!(admitted("spoke-2"), ["api fd12:34ab:cd42:20::100 8443"]);
    // Another hub may be on the way.
    assert_eq!(admitted("hub-2").len(), 3);
    assert!(network(&hub, 20).firewall.admissions.is_empty());
}

const MESH: &str = r#"
[[networks]]
name = "mesh"
id = 3
routing = "static"
topology = "full_mesh"
members = [{ node = "hub-1" }, { node = "spoke-1" }, { node = "spoke-2" }]
"#;

#[test]
fn nodes_of_a_mesh_that_nobody_can_call_are_named() {
    let host = host("spoke-1", IsolationMode::Vrf, MESH);
    let link = &network(&host, 3).links[0];
    let peers: Vec<_> = link.peers.values().map(|peer| peer.node.as_str()).collect();
    assert_eq!(peers, ["hub-1"]);
    assert_eq!(host.notices.len(), 1, "{:?}", host.notices);
    assert_eq!(host.notices[0].object, "node spoke-2");
    assert!(
        host.notices[0].text.contains("role = \"hub\""),
        "{}",
        host.notices[0].text
    );
    let routes = routes(network(&host, 3));
    assert!(routes.iter().all(|route| !route.contains("::c/")), "{routes:?}");
    // Who can be called meets both.
    let hub = self::host("hub-1", IsolationMode::Vrf, MESH);
    assert_eq!((network(&hub, 3).links[0].peers.len(), hub.notices.len()), (2, 0));
}

#[test]
fn nodes_of_a_mesh_that_nobody_can_call_meet_at_the_first_hub_that_can_be_called() {
    let text = r#"
[[networks]]
name = "mesh"
id = 3
routing = "static"
topology = "full_mesh"
prefix_v4 = "100.64.3.0/24"
members = [
  { node = "spoke-1" },
  { node = "hub-2", role = "hub" },
  { node = "hub-1", role = "hub" },
  { node = "spoke-2", lans = [{ subnet = "10.2.0.0/16", interface = "eth1" }] },
]
"#;
    let carried = |of: &str, peer: &str| {
        let host = host(of, IsolationMode::Vrf, text);
        assert_eq!(host.notices, []);
        let mut peers = network(&host, 3).links[0].peers.values();
        let found = peers.find(|found| found.node.as_str() == peer);
        found.map(|peer| peer.allowed_ips.clone())
    };
    let own = ["fd12:34ab:cd42:3::2/128", "100.64.3.2/32", "fe80::2/128"];
    let with = |far: &[&str]| nets(&[&own, far].concat());
    assert_eq!(
        carried("spoke-1", "hub-2"),
        Some(with(&[
            "fd12:34ab:cd42:3::c/128",
            "100.64.3.12/32",
            "10.2.0.0/16"
        ]))
    );
    assert_eq!(carried("spoke-1", "spoke-2"), None);
    // The way back is the same, the other hub carries its own alone, and so do peers of whoever can be called.
    assert_eq!(
        carried("spoke-2", "hub-2"),
        Some(with(&["fd12:34ab:cd42:3::b/128", "100.64.3.11/32"]))
    );
    assert_eq!(
        carried("spoke-1", "hub-1"),
        Some(nets(&["fd12:34ab:cd42:3::1/128", "100.64.3.1/32", "fe80::1/128"]))
    );
    assert_eq!(carried("hub-1", "hub-2"), Some(nets(&own)));
    let host = host("spoke-1", IsolationMode::Vrf, text);
    assert!(routes(network(&host, 3)).contains(&"10.2.0.0/16 wg-sdwan-3".to_owned()));
}

#[test]
fn a_lan_behind_a_router_is_on_the_routers_interface() {
    let text = r#"
[[networks]]
name = "prod"
id = 1
routing = "static"
members = [
  { node = "hub-1", role = "hub" },
  { node = "spoke-1", lans = [
    { subnet = "10.1.0.0/16", interface = "eth1" },
    { subnet = "10.99.0.0/24", via = "10.1.0.254" },
  ] },
]
"#;
    let host = host("spoke-1", IsolationMode::Vrf, text);
    let network = network(&host, 1);
    let lans: Vec<_> = network
        .lans
        .iter()
        .map(|lan| {
            (
                lan.subnet.to_string(),
                lan.interface.as_str(),
                lan.via.map(|via| via.to_string()),
            )
        })
        .collect();
    assert_eq!(
        lans,
        [
            ("10.1.0.0/16".to_owned(), "eth1", None),
            ("10.99.0.0/24".to_owned(), "eth1", Some("10.1.0.254".to_owned())),
        ]
    );
    let firewall = &network.firewall;
    let sources: BTreeSet<IpNet> = firewall
        .lan_sources
        .values()
        .flat_map(crate::model::AddressSet::iter)
        .collect();
    assert_eq!(sources, nets(&["10.1.0.0/16", "10.99.0.0/24"]));
    // What is behind a router isn't this host's own, and nothing of one's own is routed into the overlay.
    assert!(!firewall.own.contains("10.99.0.1".parse().unwrap()));
    assert!(firewall.own.contains("10.1.0.1".parse().unwrap()));
    assert!(
        network
            .routes
            .keys()
            .all(|net| !net.to_string().starts_with("10."))
    );
}

#[test]
fn a_rule_that_matches_nothing_is_left_out_and_named() {
    let text = format!(
        "{TWO_HUBS}\n\
         [[networks.rules]]\nname = \"empty\"\naction = \"accept\"\nfrom = {{ lan_of = \"spoke-1\" }}\nto = \"any\"\n\
         [[networks.rules]]\nname = \"full\"\naction = \"accept\"\nfrom = {{ lan_of = \"spoke-2\" }}\nto = \"any\"\n"
    );
    let host = host("hub-1", IsolationMode::Vrf, &text);
    let rules: Vec<_> = network(&host, 20)
        .firewall
        .rules
        .iter()
        .map(|rule| rule.name.as_str())
        .collect();
    assert_eq!(rules, ["full"]);
    assert_eq!(host.notices.len(), 1, "{:?}", host.notices);
    assert_eq!(host.notices[0].object, "rule empty");
    assert!(
        host.notices[0].text.contains("lan_of spoke-1"),
        "{}",
        host.notices[0].text
    );
}

#[test]
fn lans_that_overlap_need_vrfs() {
    let one = |name: &str, id: u16, subnet: &str, interface: &str| {
        format!(
            "[[networks]]\nname = \"{name}\"\nid = {id}\nrouting = \"static\"\nmembers = [\n\
             {{ node = \"hub-1\", role = \"hub\" }},\n\
             {{ node = \"spoke-1\", lans = [{{ subnet = \"{subnet}\", interface = \"{interface}\" }}] }} ]\n"
        )
    };
    let text = one("prod", 1, "10.1.0.0/16", "eth1") + &one("lab", 2, "10.1.7.0/24", "eth2");
    let apart = host("spoke-1", IsolationMode::Vrf, &text);
    assert_eq!((apart.networks.len(), apart.blocked.len()), (2, 0));
    let shared = host("spoke-1", IsolationMode::Rules, &text);
    let ids: Vec<u16> = shared.networks.keys().map(|id| id.get()).collect();
    assert_eq!(ids, [1]);
    assert_eq!(shared.blocked.len(), 1);
    let blocked = &shared.blocked[0];
    assert_eq!(blocked.network.map(NetworkId::get), Some(2));
    for part in ["lab", "10.1.7.0/24", "10.1.0.0/16"] {
        assert!(blocked.reason.contains(part), "{}", blocked.reason);
    }
    assert_eq!(network(&shared, 1).vrf, None);
    // Who has none of the LANs isn't concerned.
    assert_eq!(host("hub-1", IsolationMode::Rules, &text).blocked, []);
}

/// What several peers of a node's multipoint link may carry, as `prefix: node node`.
fn carriers(host: &HostIntent, id: u16) -> Vec<String> {
    let link = &network(host, id).links[0];
    let lines = link.carriers.iter().map(|(net, may)| {
        let mut names: Vec<&str> = may.iter().map(|key| link.peers[key].node.as_str()).collect();
        names.sort_unstable();
        format!("{net}: {}", names.join(" "))
    });
    lines.collect()
}

#[test]
fn a_hub_knows_what_several_peers_may_carry() {
    let text = format!(
        "{TWO_HUBS}\n\
         [[networks.virtual_ips]]\nname = \"api\"\naddress = \"::100\"\nholders = [\"spoke-1\", \"spoke-2\"]\n\
         [[networks.virtual_ips]]\nname = \"web\"\naddress = \"100.64.20.100\"\nholders = [\"hub-1\", \"spoke-1\"]\n"
    );
    // Its own virtual IP is nobody else's, and an address of a node is that node's alone.
    assert_eq!(
        carriers(&host("hub-1", IsolationMode::Vrf, &text), 20),
        [
            "10.2.0.0/16: hub-2 spoke-2",
            "fd12:34ab:cd42:20::100/128: hub-2 spoke-1 spoke-2",
        ]
    );
    assert_eq!(
        carriers(&host("hub-2", IsolationMode::Vrf, &text), 20),
        [
            "10.2.0.0/16: hub-1 spoke-2",
            "100.64.20.100/32: hub-1 spoke-1",
            "fd12:34ab:cd42:20::100/128: hub-1 spoke-1 spoke-2",
        ]
    );
    let spoke = host("spoke-2", IsolationMode::Vrf, &text);
    assert!(
        network(&spoke, 20)
            .links
            .iter()
            .all(|link| link.carriers.is_empty())
    );
    // With one hub, what is behind a peer is that peer's alone.
    let alone = text.replace("{ node = \"hub-2\", role = \"hub\" }", "{ node = \"hub-2\" }");
    assert_eq!(
        carriers(&host("hub-1", IsolationMode::Vrf, &alone), 20),
        ["fd12:34ab:cd42:20::100/128: spoke-1 spoke-2"]
    );
}

#[test]
fn in_a_mesh_who_cannot_be_called_carries_by_its_hub() {
    let text = r#"
[[networks]]
name = "mesh"
id = 3
topology = "full_mesh"
routing = "static"
members = [ { node = "hub-1", role = "hub" }, { node = "hub-2" }, { node = "spoke-1" }, { node = "spoke-2" } ]
[[networks.virtual_ips]]
name = "api"
address = "::100"
holders = ["spoke-2", "hub-2"]
"#;
    // To spoke-1, spoke-2 is behind hub-1; hub-2 meets both itself.
    assert_eq!(
        carriers(&host("spoke-1", IsolationMode::Vrf, text), 3),
        ["fd12:34ab:cd42:3::100/128: hub-1 hub-2"]
    );
    assert_eq!(
        carriers(&host("hub-1", IsolationMode::Vrf, text), 3),
        ["fd12:34ab:cd42:3::100/128: hub-2 spoke-2"]
    );
    assert!(carriers(&host("spoke-2", IsolationMode::Vrf, text), 3).is_empty());
}

#[test]
fn a_stranger_has_no_intent() {
    let parsed = config::parse_fleet(&[("fleet.d/00.toml".into(), format!("{NODES}{MESH}"))]).unwrap();
    let facts = Facts {
        isolation: IsolationMode::Vrf,
        host_services_in_vrf: false,
        dummies: true,
        agreements: crate::model::Agreements::NONE,
        gateway: None,
        underlay: Some(std::collections::BTreeMap::new()),
    };
    assert!(compile(&parsed.fleet, &Name::new("nobody").unwrap(), &facts).is_err());
}

#[test]
fn links_are_as_wide_as_the_widest_way_that_is_known_and_routes_as_the_way_to_their_peer() {
    let members =
        r#"members = [{ node = "hub-1", role = "hub" }, { node = "spoke-1" }, { node = "spoke-2" }]"#;
    let hub = |more: &str| {
        let text =
            format!("[[networks]]\nname = \"prod\"\nid = 1\nrouting = \"static\"\n{members}\n{more}\n");
        network(&host("hub-1", IsolationMode::Vrf, &text), 1).clone()
    };
    let prod = hub("");
    let link = &prod.links[0];
    let key = |node: &str| {
        let mut peers = link.peers.iter();
        *peers.find(|(_, peer)| peer.node.as_str() == node).unwrap().0
    };
    let ways = |known: &[(&str, u32)]| {
        let peers = known.iter().map(|(node, mtu)| (key(node), *mtu)).collect();
        PathMtus::from([(link.name.clone(), peers)])
    };
    let sizes = |network: &NetworkIntent| (network.mtu, network.links[0].mtu, network.narrow.len());
    assert_eq!(sizes(&prod), (1_420, 1_420, 0));
    assert_eq!(prod.fitted(&ways(&[])), None);
    assert_eq!(
        prod.fitted(&ways(&[("spoke-1", 1_420), ("spoke-2", 1_440)])),
        None
    );

    let narrow = prod.fitted(&ways(&[("spoke-1", 1_312)])).unwrap();
    assert_eq!(
        sizes(&narrow),
        (1_312, 1_312, 0),
        "who isn't known yet widens nothing"
    );
    assert_eq!(
        narrow.fitted(&ways(&[("spoke-1", 1_312)])),
        None,
        "it is so already"
    );

    let both = ways(&[("spoke-1", 1_312), ("spoke-2", 1_408)]);
    let mixed = narrow.fitted(&both).unwrap();
    assert_eq!((mixed.mtu, mixed.links[0].mtu), (1_312, 1_408));
    let carried = &mixed.links[0].peers[&key("spoke-1")].allowed_ips;
    assert_eq!(&mixed.narrow.keys().copied().collect::<BTreeSet<_>>(), carried);
    assert!(mixed.narrow.values().all(|mtu| *mtu == 1_312));
    let wide = mixed.fitted(&ways(&[("spoke-1", 1_420), ("spoke-2", 1_420)]));
    assert_eq!(wide, Some(prod.clone()));

    assert_eq!(
        hub("mtu = 1380").fitted(&both),
        None,
        "what the fleet gives stays"
    );
}
