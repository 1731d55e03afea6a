//! Random hosts through random configurations on the kernel in memory.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::intent::{
    FirewallIntent, HostIntent, IsolationMode, LanIntent, LinkIntent, LinkKind, MappedWay, MappingIntent,
    NetworkIntent, VipIntent,
};
use crate::model::network::Protocol;
use crate::model::{AddressSet, FleetDigest, LinkName, Name, NetworkId, PresharedKey, PrivateKey, naming};
use crate::planes::Phase;

use super::change::{Change, Op};
use super::compile::{Facts, compile};
use super::diff::{Around, diff};
use super::kernel::{Kernel, l3mdev, name};
use super::state::{
    Actual, Backend, Family, LINK_GROUP, LinkType, RouteTo, Selector, State, unreachable_default,
};

#[derive(Clone, Debug)]
struct Choice {
    isolation: IsolationMode,
    links: usize,
    multipoint: bool,
    v4: bool,
    lan: bool,
    via: bool,
    peers: BTreeSet<u16>,
    vips: BTreeSet<u16>,
    mapped: bool,
}

fn choices() -> impl Strategy<Value = BTreeMap<u16, Choice>> {
    let isolation = prop_oneof![
        3 => Just(IsolationMode::Vrf),
        2 => Just(IsolationMode::Rules),
        1 => Just(IsolationMode::Main),
    ];
    let peers = prop::collection::btree_set(2..20_u16, 0..6);
    let flags = any::<(bool, bool, bool, bool, bool)>();
    let vips = prop::collection::btree_set(100..104_u16, 0..3);
    let parts = (isolation, 1..4_usize, flags, peers, vips);
    let choice = parts.prop_map(|(isolation, links, flags, peers, vips)| Choice {
        isolation,
        links,
        multipoint: flags.0,
        v4: flags.1,
        lan: flags.2,
        via: flags.3,
        peers,
        vips,
        mapped: flags.4,
    });
    prop::collection::btree_map(1..4_u16, choice, 0..4)
}

fn intent(choices: &BTreeMap<u16, Choice>) -> HostIntent {
    let networks = choices.iter().map(|(id, choice)| network(*id, choice));
    HostIntent {
        node: Name::new("node").unwrap(),
        public_key: PrivateKey::from_random([7; 32]).public(),
        next_public_key: None,
        fleet_digest: FleetDigest([0; 32]),
        networks: networks.map(|network| (network.id, network)).collect(),
        host_services_in_vrf: choices.len() == 2,
        notices: Vec::new(),
        blocked: Vec::new(),
    }
}

fn network(id: u16, choice: &Choice) -> NetworkIntent {
    let number = NetworkId::new(id).unwrap();
    let links = (0..choice.links).map(|index| LinkIntent {
        name: naming::wireguard_link(number, index),
        kind: if choice.multipoint {
            LinkKind::Multipoint
        } else {
            LinkKind::Uplink {
                hub: Name::new("hub").unwrap(),
            }
        },
        mtu: 1_400 - u32::from(id),
        listen_port: None,
        peers: BTreeMap::new(),
        carriers: BTreeMap::new(),
    });
    let mut routes = BTreeMap::new();
    let mut narrow = BTreeMap::new();
    for peer in &choice.peers {
        let link = naming::wireguard_link(number, usize::from(*peer) % choice.links);
        let net: ipnet::IpNet = format!("fd12::{id}:{peer}/128").parse().unwrap();
        if peer % 2 == 1 {
            narrow.insert(net, 1_300);
        }
        routes.insert(net, link.clone());
        if choice.v4 {
            routes.insert(format!("100.64.{id}.{peer}/32").parse().unwrap(), link);
        }
    }
    let lan = |subnet: String, via: Option<String>| LanIntent {
        subnet: subnet.parse().unwrap(),
        interface: name(&format!("eth{id}")),
        via: via.map(|via| via.parse().unwrap()),
    };
    let mut lans = Vec::new();
    if choice.lan {
        lans.push(lan(format!("10.{id}.0.0/24"), None));
        lans.push(lan(format!("fd0a:{id}::/64"), None));
        if choice.via {
            lans.push(lan(format!("10.1{id}.0.0/16"), Some(format!("10.{id}.0.254"))));
        }
    }
    NetworkIntent {
        name: Name::new(&format!("net{id}")).unwrap(),
        id: number,
        isolation: choice.isolation,
        vrf: (choice.isolation == IsolationMode::Vrf).then(|| naming::vrf(number)),
        table: match choice.isolation {
            IsolationMode::Main => 254,
            IsolationMode::Vrf | IsolationMode::Rules => naming::table(number),
        },
        mtu: 1_400 - u32::from(id),
        has_given_mtu: true,
        narrow,
        overlay_v6: format!("fd12::{id}:1").parse().unwrap(),
        overlay_v4: choice.v4.then(|| format!("100.64.{id}.1").parse().unwrap()),
        link_local: "fe80::1".parse().unwrap(),
        links: links.collect(),
        lans,
        vips: vips(id, choice),
        routes,
        shared: BTreeSet::new(),
        preshared_key: PresharedKey::derive("fd12::/48", id, None),
        bridges: Vec::new(),
        firewall: FirewallIntent {
            mappings: (choice.mapped && choice.multipoint)
                .then(|| mapping(id))
                .into_iter()
                .collect(),
            ..FirewallIntent::default()
        },
    }
}

fn mapping(id: u16) -> MappingIntent {
    MappingIntent {
        name: Name::new("https").unwrap(),
        protocol: Protocol::Tcp,
        listen_port: 443,
        target_port: 8443,
        ways: vec![MappedWay {
            hub: format!("fd12::{id}:1").parse().unwrap(),
            target: format!("fd12::{id}:2").parse().unwrap(),
        }],
        sources: AddressSet::default(),
        max_connections: None,
        rate_limit_per_second: None,
    }
}

/// Even ones are of IPv6, odd ones of IPv4 where the network carries it; one in four is elsewhere.
fn vips(id: u16, choice: &Choice) -> Vec<VipIntent> {
    let vips = choice.vips.iter().filter(|vip| choice.v4 || *vip % 2 == 0);
    vips.map(|vip| VipIntent {
        name: Name::new(&format!("vip-{vip}")).unwrap(),
        address: if vip % 2 == 0 {
            format!("fd12::{id}:{vip}").parse().unwrap()
        } else {
            format!("100.64.{id}.{vip}").parse().unwrap()
        },
        holders: vec![Name::new("node").unwrap()],
        here: *vip != 103,
    })
    .collect()
}

fn facts(userspace: bool) -> Facts {
    Facts {
        wireguard: if userspace {
            Backend::Userspace
        } else {
            Backend::Kernel
        },
        rp_filter_all: 0,
        force_forwarding: false,
    }
}

fn desired(choices: &BTreeMap<u16, Choice>) -> State {
    compile(&intent(choices), &facts(choices.len() == 3))
}

/// Applies the plan, checking each step, and that no plan is left.
fn converge(kernel: &mut Kernel, desired: &State) -> Vec<Change> {
    let actual = kernel.observe(desired);
    let plan = diff(desired, &actual, &Around::default());
    assert_eq!(plan.blocked, [], "{desired:#?}");
    let lines: Vec<String> = plan
        .changes
        .iter()
        .map(|change| format!("{}: {change}", change.phase))
        .collect();
    let lines = lines.join("\n");
    for change in &plan.changes {
        check_up(kernel, desired, change, &lines);
        if let Err(error) = kernel.apply(change) {
            panic!("{change}: {error}\n{lines}");
        }
    }
    let left = diff(desired, &kernel.observe(desired), &Around::default());
    assert_eq!(left.changes, [], "after:\n{lines}");
    plan.changes
}

/// When a link goes up it is where it belongs, and what nothing else carries is refused there.
fn check_up(kernel: &Kernel, desired: &State, change: &Change, lines: &str) {
    let Op::SetUp { link } = &change.op else { return };
    let wanted = &desired.links[link];
    assert_eq!(kernel.devices[link].master, wanted.master, "{link}\n{lines}");
    let table = match (wanted.kind, &wanted.master) {
        (LinkType::Vrf { table }, _) => table,
        (_, Some(vrf)) => kernel.devices[vrf].table.unwrap(),
        (_, None) => return,
    };
    for family in Family::BOTH {
        let found = kernel.routes.get(&unreachable_default(table, family));
        assert_eq!(found.map(|(_, to)| to), Some(&RouteTo::Unreachable), "{lines}");
    }
}

/// Something that someone does to what is ours.
#[derive(Clone, Copy, Debug)]
enum Breakage {
    DeleteLink,
    Down,
    DropAddresses,
    ExtraAddress,
    Release,
    DropRoute,
    BendRoute,
    ExtraRoute,
    DropRule,
    Alias,
}

fn breakage() -> impl Strategy<Value = (Breakage, prop::sample::Index)> {
    let kinds = prop::sample::select(vec![
        Breakage::DeleteLink,
        Breakage::Down,
        Breakage::DropAddresses,
        Breakage::ExtraAddress,
        Breakage::Release,
        Breakage::DropRoute,
        Breakage::BendRoute,
        Breakage::ExtraRoute,
        Breakage::DropRule,
        Breakage::Alias,
    ]);
    (kinds, any::<prop::sample::Index>())
}

fn break_something(kernel: &mut Kernel, desired: &State, breakage: Breakage, index: prop::sample::Index) {
    let links: Vec<&LinkName> = desired.links.keys().collect();
    let routes: Vec<_> = desired.routes.iter().collect();
    if links.is_empty() {
        return;
    }
    let link = links[index.index(links.len())];
    let vrf = desired.links[link].kind.is_vrf();
    let route = (!routes.is_empty()).then(|| routes[index.index(routes.len())].0);
    match breakage {
        // A VRF that goes takes the IPv6 addresses of its LANs with it: nothing knows them any more.
        Breakage::DeleteLink if vrf && !desired.lans.is_empty() => {}
        Breakage::DeleteLink => kernel.delete_device(link),
        Breakage::Down => {
            kernel.devices.get_mut(link).unwrap().up = false;
            if !vrf {
                kernel.down_and_up(link);
            }
        }
        Breakage::DropAddresses => {
            for address in desired.links[link].addresses.clone() {
                kernel.delete_address(link, address);
            }
        }
        Breakage::ExtraAddress => {
            let device = kernel.devices.get_mut(link).unwrap();
            device.addresses.insert("fe80::beef/64".parse().unwrap());
        }
        Breakage::Release if !vrf => {
            kernel.devices.get_mut(link).unwrap().master = None;
            kernel.down_and_up(link);
        }
        Breakage::DropRoute | Breakage::BendRoute | Breakage::ExtraRoute => {
            let Some(key) = route else { return };
            if matches!(breakage, Breakage::DropRoute) {
                kernel.routes.remove(key);
            } else if matches!(breakage, Breakage::BendRoute) {
                kernel.routes.get_mut(key).unwrap().1 = RouteTo::Unreachable;
            } else {
                let mut key = key.clone();
                key.metric -= 77;
                kernel.routes.insert(key, (241, RouteTo::Unreachable));
            }
        }
        Breakage::DropRule => {
            if let Some(rule) = desired.rules.first() {
                kernel.rules.retain(|(_, other)| other != rule);
            }
        }
        Breakage::Alias => {
            let device = kernel.devices.get_mut(link).unwrap();
            assert_eq!(device.group, LINK_GROUP);
            device.alias = None;
        }
        Breakage::Release => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_way_leads_there_and_back(
        ways in prop::collection::vec((choices(), prop::collection::vec(breakage(), 0..3)), 1..5)
    ) {
        let mut kernel = Kernel::new();
        let before = kernel.foreign();
        for (choices, breakages) in &ways {
            let desired = desired(choices);
            converge(&mut kernel, &desired);
            prop_assert_eq!(converge(&mut kernel, &desired), []);
            for (breakage, index) in breakages {
                break_something(&mut kernel, &desired, *breakage, *index);
                converge(&mut kernel, &desired);
            }
        }
        converge(&mut kernel, &State::default());
        prop_assert!(kernel.foreign() == before, "{:#?}\n{:#?}", kernel.foreign(), before);
        prop_assert!(kernel.devices.keys().all(|name| !name.as_str().contains("sdwan")));
    }
}

fn vrf_network() -> BTreeMap<u16, Choice> {
    let choice = Choice {
        isolation: IsolationMode::Vrf,
        links: 1,
        multipoint: true,
        v4: true,
        lan: true,
        via: true,
        peers: [2].into(),
        vips: [100, 101].into(),
        mapped: true,
    };
    [(1, choice)].into()
}

fn rules_network() -> BTreeMap<u16, Choice> {
    let mut choices = vrf_network();
    for choice in choices.values_mut() {
        choice.isolation = IsolationMode::Rules;
    }
    choices
}

#[test]
fn an_underlay_that_does_not_forward_is_named() {
    let desired = desired(&vrf_network());
    let v4: BTreeSet<_> = [(NetworkId::new(1).unwrap(), Family::V4)].into();
    let wanted = State {
        mapped: v4,
        ..desired
    };
    let actual = Kernel::new().observe(&wanted);
    let blocked = diff(&wanted, &actual, &Around::default()).blocked;
    assert_eq!(blocked.len(), 1, "{blocked:?}");
    assert!(blocked[0].fix.contains("net.ipv4.ip_forward=1"), "{blocked:?}");
    let forwards = Actual {
        forwarding: [Family::V4].into(),
        ..actual
    };
    assert_eq!(diff(&wanted, &forwards, &Around::default()).blocked, []);
}

#[test]
fn a_mapped_connection_has_a_way_in_and_a_way_back() {
    for (choices, marked) in [(vrf_network(), 2), (rules_network(), 2)] {
        let desired = desired(&choices);
        let rules = desired
            .rules
            .iter()
            .filter(|rule| matches!(rule.selector, Selector::Mark(_)));
        let rules: Vec<(u32, u32)> = rules.map(|rule| (rule.priority, rule.table)).collect();
        assert_eq!(rules.len(), marked);
        assert_eq!(rules, [(900, 10_001), (901, 254)]);
    }
}

#[test]
fn connections_come_last_and_restrictions_first() {
    let mut kernel = Kernel::new();
    let plan = converge(&mut kernel, &desired(&vrf_network()));
    assert!(plan.is_sorted_by_key(Change::phase));
    let position = |wanted: &str| {
        plan.iter()
            .position(|change| change.to_string().starts_with(wanted))
            .unwrap_or_else(|| panic!("{wanted}"))
    };
    assert!(position("ip -6 route add unreachable") < position("ip link set sdwan-1 up"));
    assert!(position("ip link set sdwan-1 up") < position("ip link set wg-sdwan-1 master"));
    for (link, address) in [("wg-sdwan-1", "fd12::1:1/128"), ("d-sdwan-1", "fd12::1:100/128")] {
        let address = position(&format!("ip address replace {address} dev {link}"));
        assert!(position(&format!("ip link set {link} master")) < address);
        assert!(address < position(&format!("ip link set {link} up")));
    }
    assert!(position("ip link set wg-sdwan-1 up") < position("ip route add 100.64.1.2/32"));
    assert!(position("ip route add 10.1.0.0/24") < position("ip route add 10.11.0.0/16 via"));
    let phases: Vec<Phase> = converge(&mut kernel, &State::default())
        .iter()
        .map(Change::phase)
        .collect();
    assert!(phases.iter().all(|phase| *phase == Phase::Disconnect));
}

#[test]
fn the_kernels_l3mdev_rule_is_no_drift_and_comes_back_when_deleted() {
    let mut kernel = Kernel::new();
    let desired = desired(&vrf_network());
    let plan = converge(&mut kernel, &desired);
    let adds = |change: &Change| change.to_string().contains("l3mdev");
    assert!(!plan.iter().any(adds));
    kernel.rules.remove(&(2, l3mdev(Family::V6)));
    let plan: Vec<String> = converge(&mut kernel, &desired)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(plan, ["ip -6 rule add priority 1000 l3mdev protocol 241"]);
}

#[test]
fn a_route_moves_in_place() {
    let mut kernel = Kernel::new();
    let mut choices = vrf_network();
    choices.get_mut(&1).unwrap().links = 2;
    let mut desired = desired(&choices);
    converge(&mut kernel, &desired);
    let key = super::state::route_key(10_001, "fd12::1:2/128".parse().unwrap());
    let route = desired.routes.get_mut(&key).unwrap();
    let RouteTo::Link { device, .. } = &mut route.to else {
        panic!()
    };
    *device = name("wg-sdwan-1-2");
    let plan = converge(&mut kernel, &desired);
    assert_eq!(plan.len(), 1);
    assert_eq!(
        plan[0].to_string(),
        "ip -6 route replace fd12::1:2/128 dev wg-sdwan-1-2 src fd12::1:1 table 10001 proto 241 metric 1024"
    );
}

#[test]
fn what_a_foreign_link_blocks_is_left_out_whole() {
    let mut kernel = Kernel::new();
    kernel.add_device(&name("sdwan-1"), Some("vrf"), Some(99), 0);
    let desired = desired(&vrf_network());
    let plan = diff(&desired, &kernel.observe(&desired), &Around::default());
    assert_eq!(plan.blocked.len(), 1);
    assert!(
        plan.blocked[0]
            .reason
            .starts_with("sdwan-1 is a vrf with no alias")
    );
    for change in &plan.changes {
        let text = change.to_string();
        assert!(!text.contains("sdwan-1 ") && !text.contains("eth1"), "{text}");
    }
}

#[test]
fn nothing_of_ours_ends_what_the_host_lives_on() {
    let mut intent = intent(&rules_network());
    let network = intent.networks.values_mut().next().unwrap();
    network.firewall.bound = ["10.1.0.0/24", "198.18.0.0/15", "fd12::1:0/112"]
        .iter()
        .map(|net| net.parse::<ipnet::IpNet>().unwrap())
        .collect();
    let lan = LanIntent {
        subnet: "198.18.0.0/16".parse().unwrap(),
        interface: network.lans[0].interface.clone(),
        via: None,
    };
    network.lans.push(lan);
    let desired = compile(&intent, &facts(false));
    let kernel = Kernel::new();
    let actual = kernel.observe(&desired);
    let planned = |actual: &super::state::Actual, around: &Around| {
        let plan = diff(&desired, actual, around);
        let text: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
        (text.join("\n"), plan.blocked)
    };
    let (text, blocked) = planned(&actual, &Around::default());
    assert!(
        text.contains("unreachable 198.18.0.0/15") && blocked.is_empty(),
        "{text}"
    );
    let mut covered = actual.clone();
    covered
        .underlay
        .insert("198.18.1.2".parse().unwrap(), name("eth0"));
    let endpoint = Around {
        endpoints: ["198.19.0.1".parse().unwrap()].into(),
        ..Around::default()
    };
    for (actual, around, what) in [
        (&covered, Around::default(), "198.18.1.2 of eth0"),
        (&actual, endpoint, "198.19.0.1, where a peer is called"),
    ] {
        let (text, blocked) = planned(actual, &around);
        assert!(!text.contains("198.18."), "{text}");
        assert!(text.contains("unreachable 10.1.0.0/24"), "the rest comes: {text}");
        assert_eq!(blocked.len(), 1);
        assert!(blocked[0].reason.contains(what), "{}", blocked[0].reason);
    }
}

#[test]
fn a_host_answers_from_its_lan_addresses_and_nobody_else_does() {
    let plan = diff(
        &desired(&rules_network()),
        &Kernel::new().observe(&desired(&rules_network())),
        &Around::default(),
    );
    let text: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
    for rule in [
        "ip rule add priority 2002 from 10.1.0.0/24 iif lo lookup 10001 protocol 241",
        "ip -6 rule add priority 2002 from fd0a:1::/64 iif lo lookup 10001 protocol 241",
    ] {
        assert!(text.iter().any(|line| line == rule), "{rule} in {text:#?}");
    }
    // A LAN behind a router has no address of this host.
    assert!(!text.iter().any(|line| line.contains("from 10.11.0.0/16")));
}

#[test]
fn unknown_is_not_empty() {
    // A kernel without IPv6 gets a reason, not half an overlay.
    let desired = desired(&vrf_network());
    let mut actual = Kernel::new().observe(&desired);
    actual.ipv6 = false;
    let plan = diff(&desired, &actual, &Around::default());
    assert_eq!((plan.changes.len(), plan.blocked.len()), (0, 1));
}

#[test]
fn a_change_reads_as_flat_json() {
    let desired = desired(&vrf_network());
    let plan = diff(&desired, &Kernel::new().observe(&desired), &Around::default());
    let json = serde_json::to_value(&plan.changes).unwrap();
    let first = &json[0];
    assert_eq!(first["phase"], "vrf");
    assert_eq!(
        (&first["op"], &first["kind"], &first["table"]),
        (&"add_link".into(), &"vrf".into(), &10_001.into())
    );
    let text = json.to_string();
    assert!(
        text.contains(r#""path":"net.ipv4.conf.wg-sdwan-1.rp_filter""#),
        "{text}"
    );
}

/// Prints times for a hub with ten thousand peers of both families; run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn ten_thousand_peers() {
    let mut intent = intent(&vrf_network());
    let network = intent.networks.values_mut().next().unwrap();
    for peer in 2..10_002_u32 {
        let link = network.links[0].name.clone();
        let v6 = format!("fd12::1:{peer:x}/128").parse().unwrap();
        let v4 = std::net::Ipv4Addr::from(0x6440_0000 + peer);
        network.routes.insert(v6, link.clone());
        network.routes.insert(format!("{v4}/32").parse().unwrap(), link);
    }
    let mut kernel = Kernel::new();
    let start = std::time::Instant::now();
    let desired = compile(&intent, &facts(false));
    println!("compile: {:?}", start.elapsed());
    converge(&mut kernel, &desired);
    let start = std::time::Instant::now();
    let actual = kernel.observe(&desired);
    println!("model's dump and decode: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    let plan = diff(&desired, &actual, &Around::default());
    println!("diff: {:?}", start.elapsed());
    assert_eq!(plan.changes, []);
}
