use std::collections::BTreeMap;

use super::*;
use crate::intent::{self, IsolationMode};
use crate::model::network::Protocol;
use crate::model::{LinkName, Name, PublicKey};
use crate::planes::wireguard;
use crate::reconcile::holes::Hole;

fn healthy() -> Facts {
    Facts {
        config: Ok(()),
        daemon: DaemonFact::Amiss(Vec::new()),
        release: Ok("6.1.0-28-amd64".to_owned()),
        overlay: Some(Ok(Overlay {
            entrances: vec![entrance()],
            listeners: Ok(vec![listener(22)]),
            ..Overlay::default()
        })),
        wireguard: Ok(true),
        vrf: Ok(true),
        nft: Ok("nftables v1.0.6".to_owned()),
        conntrack: Ok("conntrack v1.4.7".to_owned()),
        foreign: Ok(ruleset(
            &[chain("inet", "sdwand", "forward", "forward", true)],
            &[],
        )),
        legacy: Ok(Vec::new()),
        strict: Ok(Vec::new()),
        networkd: Networkd::default(),
        now: UNIX_EPOCH + LONG_AGO,
        files: Ok(vec![file(0o600, 0, true), file(0o640, 0, false)]),
        disks: Ok(vec![disk(LITTLE)]),
    }
}

fn entrance() -> Entrance {
    Entrance {
        ports: vec![51_820],
        comes_by: vec!["sdwan-1".to_owned()],
        links: vec!["wg-sdwan-1".to_owned()],
        lans: vec!["lan0".to_owned()],
        addresses: vec!["fd12::1".parse().unwrap(), "100.64.1.1".parse().unwrap()],
    }
}

/// A chain, as nft lists it.
fn chain(family: &str, table: &str, name: &str, hook: &str, drops: bool) -> String {
    let policy = if drops { "drop" } else { "accept" };
    let base = if hook.is_empty() {
        String::new()
    } else {
        format!(r#", "type": "filter", "hook": "{hook}", "prio": 0, "policy": "{policy}""#)
    };
    format!(r#"{{"chain": {{"family": "{family}", "table": "{table}", "name": "{name}"{base}}}}}"#)
}

/// What nft lists: chains, and rules as (family, table, chain, what it asks and does).
fn ruleset(chains: &[String], rules: &[(&str, &str, &str, &str)]) -> Ruleset {
    let rules = rules.iter().map(|(family, table, chain, expressions)| {
        format!(
            r#"{{"rule": {{"family": "{family}", "table": "{table}", "chain": "{chain}", "expr": [{expressions}]}}}}"#
        )
    });
    let objects: Vec<String> = chains.iter().cloned().chain(rules).collect();
    let listing = format!(r#"{{"nftables": [{}]}}"#, objects.join(", "));
    Ruleset::decode(&[listing.into_bytes()]).unwrap()
}

fn file(mode: u32, uid: u32, is_secret: bool) -> FileFact {
    FileFact {
        path: "/etc/sdwand/x".into(),
        mode,
        uid,
        is_secret,
    }
}

fn listener(port: u16) -> Listener {
    Listener {
        protocol: Protocol::Tcp,
        port,
        program: Some("sshd".to_owned()),
    }
}

fn disk(free: u64) -> DiskFact {
    DiskFact {
        path: "/var/lib/sdwand".into(),
        free,
    }
}

/// The checks that found something, and what to do.
fn amiss(facts: &Facts) -> Vec<(&'static str, Verdict, String)> {
    let found = examine(facts).checks.into_iter();
    let amiss = found.filter(|check| check.verdict != Verdict::Ok);
    amiss
        .map(|check| (check.check, check.verdict, check.fix.unwrap()))
        .collect()
}

#[test]
fn a_healthy_host() {
    let diagnosis = examine(&healthy());
    assert_eq!(diagnosis.verdict, Verdict::Ok, "{diagnosis}");
    assert!(
        diagnosis.checks.iter().all(|check| check.fix.is_none()),
        "{diagnosis}"
    );
}

type Break = fn(&mut Facts);

#[expect(clippy::too_many_lines, reason = "one table")]
#[test]
fn each_thing_that_is_wrong_is_named_with_a_fix() {
    let cases: [(Break, &str, Verdict, &str); 21] = [
        (
            |facts| facts.config = Err("2 errors".to_owned()),
            "config",
            Verdict::Failure,
            "sdwand check",
        ),
        (
            |facts| facts.daemon = DaemonFact::None,
            "daemon",
            Verdict::Warning,
            "systemctl enable",
        ),
        (
            |facts| facts.daemon = DaemonFact::Silent("x".to_owned()),
            "daemon",
            Verdict::Failure,
            "restart",
        ),
        (
            |facts| facts.daemon = DaemonFact::Amiss(vec!["l3".to_owned()]),
            "conditions",
            Verdict::Failure,
            "sdwand status",
        ),
        (
            |facts| facts.wireguard = Ok(false),
            "wireguard",
            Verdict::Warning,
            "modprobe wireguard",
        ),
        (
            |facts| facts.wireguard = Err("x".to_owned()),
            "wireguard",
            Verdict::Failure,
            "root",
        ),
        (
            |facts| facts.vrf = Ok(false),
            "vrf",
            Verdict::Warning,
            "modprobe vrf",
        ),
        (
            |facts| facts.nft = Err("x".to_owned()),
            "nft",
            Verdict::Failure,
            "apt install nftables",
        ),
        (
            |facts| facts.conntrack = Err("x".to_owned()),
            "conntrack",
            Verdict::Failure,
            "apt install conntrack",
        ),
        (
            |facts| facts.foreign = Err("x".to_owned()),
            "foreign_chains",
            Verdict::Failure,
            "root",
        ),
        (
            |facts| facts.legacy = Ok(vec!["filter".to_owned()]),
            "foreign_chains",
            Verdict::Warning,
            "iptables-legacy",
        ),
        (
            |facts| facts.strict = Ok(vec!["all".to_owned()]),
            "rp_filter",
            Verdict::Warning,
            "rp_filter=2",
        ),
        (
            |facts| facts.now = UNIX_EPOCH,
            "clock",
            Verdict::Failure,
            "timedatectl",
        ),
        (
            |facts| facts.files = Ok(vec![file(0o640, 0, true)]),
            "files",
            Verdict::Failure,
            "chmod 0600",
        ),
        (
            |facts| facts.files = Ok(vec![file(0o666, 0, false)]),
            "files",
            Verdict::Failure,
            "chmod 0644",
        ),
        (
            |facts| facts.files = Ok(vec![file(0o600, 7, false)]),
            "files",
            Verdict::Warning,
            "chown root",
        ),
        (
            |facts| facts.disks = Ok(vec![disk(NOTHING - 1)]),
            "disk",
            Verdict::Failure,
            "make room",
        ),
        (
            |facts| facts.legacy = Err("x".to_owned()),
            "foreign_chains",
            Verdict::Failure,
            "run as root",
        ),
        (
            |facts| facts.strict = Err("x".to_owned()),
            "rp_filter",
            Verdict::Failure,
            "run as root",
        ),
        (
            |facts| facts.files = Err("x".to_owned()),
            "files",
            Verdict::Failure,
            "run as root",
        ),
        (
            |facts| facts.disks = Err("x".to_owned()),
            "disk",
            Verdict::Failure,
            "run as root",
        ),
    ];
    for (damage, check, verdict, fix) in cases {
        let mut facts = healthy();
        damage(&mut facts);
        let found = amiss(&facts);
        let [(name, how, what)] = found.as_slice() else {
            panic!("{check}: {found:?}")
        };
        assert_eq!((*name, *how), (check, verdict));
        assert!(what.contains(fix), "{check}: {what}");
        assert_eq!(examine(&facts).verdict, verdict);
    }
}

#[test]
fn networkd_has_to_leave_routes_and_rules_alone() {
    for (runs, leaves_routes, leaves_rules, is_amiss) in [
        (false, false, false, false),
        (true, false, false, true),
        (true, true, false, true),
        (true, false, true, true),
        (true, true, true, false),
    ] {
        let mut facts = healthy();
        facts.networkd = Networkd {
            runs,
            leaves_routes,
            leaves_rules,
        };
        assert_eq!(!amiss(&facts).is_empty(), is_amiss, "{:?}", facts.networkd);
    }
}

#[test]
fn the_way_through_is_the_managers_own() {
    let forward = || chain("ip", "filter", "FORWARD", "forward", true);
    let beside = |name: &str| chain("ip", "filter", name, "", false);
    for (chains, ways) in [
        (
            vec![forward(), beside("DOCKER-USER")],
            vec!["iptables -I DOCKER-USER -i sdwan-+ -j ACCEPT"],
        ),
        (
            vec![forward(), beside("ufw-before-forward")],
            vec!["ufw route allow in on sdwan-1; ufw route allow out on wg-sdwan-1"],
        ),
        (vec![forward()], vec!["nft insert rule ip filter FORWARD iifname"]),
        (
            vec![chain("inet", "filter", "input", "input", true)],
            vec!["udp dport { 51820 } accept"],
        ),
        (vec![chain("inet", "filter", "forward", "forward", false)], vec![]),
        (vec![chain("inet", "filter", "output", "output", true)], vec![]),
    ] {
        let mut facts = healthy();
        facts.foreign = Ok(ruleset(&chains, &[]));
        let found = amiss(&facts);
        assert_eq!(found.len(), ways.len(), "{found:?}");
        for ((_, _, fix), way) in found.iter().zip(ways) {
            assert!(fix.contains(way), "{fix}");
        }
    }
}

/// Where somebody's chains are in the way, and what to do.
fn in_the_way(ruleset: Ruleset) -> Vec<(String, String)> {
    let facts = Facts {
        foreign: Ok(ruleset),
        ..healthy()
    };
    let found = examine(&facts).checks.into_iter();
    let found = found.filter(|check| check.verdict != Verdict::Ok);
    found.map(|check| (check.text, check.fix.unwrap())).collect()
}

#[test]
fn a_chain_that_the_fix_was_applied_to_is_in_nobodys_way() {
    let jump = (
        "ip",
        "filter",
        "FORWARD",
        r#"{"jump": {"target": "DOCKER-USER"}}"#,
    );
    let named = |key: &str, name: &str| {
        format!(
            r#"{{"match": {{"op": "==", "left": {{"meta": {{"key": "{key}"}}}}, "right": "{name}"}}}}, {{"accept": null}}"#
        )
    };
    let ours = [
        named("iifname", "sdwan-*"),
        named("iifname", "wg-sdwan-*"),
        named("oifname", "wg-sdwan-*"),
    ];
    let chains = [
        chain("ip", "filter", "FORWARD", "forward", true),
        chain("ip", "filter", "DOCKER-USER", "", false),
    ];
    let rules = |count: usize| {
        let ours = ours[..count].iter();
        let ours = ours.map(|rule| ("ip", "filter", "DOCKER-USER", rule.as_str()));
        ours.chain([jump]).collect::<Vec<_>>()
    };
    let found = in_the_way(ruleset(&chains, &rules(0)));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].0.starts_with("ip filter FORWARD (forward) drops"),
        "{found:?}"
    );
    assert_eq!(in_the_way(ruleset(&chains, &rules(3))), []);
    // Only what goes out to peers passes: what comes from them doesn't.
    let half = [("ip", "filter", "DOCKER-USER", ours[2].as_str()), jump];
    assert_eq!(in_the_way(ruleset(&chains, &half)).len(), 1);
    // So it is with a chain of one's own: the port, and what comes out of the links.
    let chains = [chain("inet", "mine", "input", "input", true)];
    let port = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": {"set": [22, 51820]}}}, {"accept": null}"#;
    let inside = ours[0].as_str();
    for (rules, count) in [(vec![port, inside], 0), (vec![port], 1), (vec![inside], 1)] {
        let rules: Vec<_> = rules
            .into_iter()
            .map(|rule| ("inet", "mine", "input", rule))
            .collect();
        assert_eq!(in_the_way(ruleset(&chains, &rules)).len(), count, "{rules:?}");
    }
}

/// Listings of Debian 12: ufw 0.36.2 and firewalld 1.3.3 as they are after they were switched on, and after what is proposed
/// was done.
#[test]
fn ufw_and_firewalld_are_in_the_way_until_they_are_told() {
    let ruleset = |listing: &str| Ruleset::decode(&[listing.as_bytes().to_vec()]).unwrap();
    let ufw = in_the_way(ruleset(include_str!("../../../tests/data/foreign/ufw.json")));
    let chains: Vec<&str> = ufw
        .iter()
        .filter_map(|(text, _)| text.split(" drops").next())
        .collect();
    assert_eq!(
        chains,
        [
            "ip filter FORWARD (forward)",
            "ip filter INPUT (input)",
            "ip6 filter FORWARD (forward)",
            "ip6 filter INPUT (input)"
        ]
    );
    assert_eq!(
        ufw[0].1,
        "ufw route allow in on sdwan-1; ufw route allow out on wg-sdwan-1"
    );
    assert_eq!(ufw[1].1, "ufw allow 51820/udp; ufw allow in on sdwan-1");
    assert_eq!(
        in_the_way(ruleset(include_str!("../../../tests/data/foreign/ufw-open.json"))),
        []
    );

    let firewalld = in_the_way(ruleset(include_str!(
        "../../../tests/data/foreign/firewalld.json"
    )));
    let chains: Vec<&str> = firewalld
        .iter()
        .filter_map(|(text, _)| text.split(" drops").next())
        .collect();
    assert_eq!(
        chains,
        [
            "inet firewalld filter_FORWARD (forward)",
            "inet firewalld filter_INPUT (input)"
        ]
    );
    for (_, fix) in &firewalld {
        assert_eq!(
            fix,
            "firewall-cmd --permanent --zone=trusted --add-interface=sdwan-1; \
             firewall-cmd --permanent --zone=trusted --add-interface=wg-sdwan-1; \
             firewall-cmd --permanent --add-port=51820/udp; firewall-cmd --reload"
        );
    }
    assert_eq!(
        in_the_way(ruleset(include_str!(
            "../../../tests/data/foreign/firewalld-open.json"
        ))),
        []
    );
}

#[test]
fn without_a_vrf_the_lans_interface_is_told_too() {
    let rules = || {
        with(Overlay {
            entrances: vec![Entrance {
                comes_by: vec!["wg-sdwan-1".to_owned(), "lan0".to_owned()],
                ..entrance()
            }],
            ..Overlay::default()
        })
    };
    let listing = include_str!("../../../tests/data/foreign/firewalld-open.json");
    let found = |listing: &str| {
        amiss(&Facts {
            foreign: Ruleset::decode(&[listing.as_bytes().to_vec()]),
            ..rules()
        })
    };
    let way = "firewall-cmd --permanent --zone=trusted --change-interface=lan0";
    assert!(found(listing).iter().all(|(_, _, fix)| fix.contains(way)));
    assert_eq!(found(listing).len(), 2, "lan0 is in the public zone");
    assert_eq!(found(&listing.replace("\"sdwan-1\"", "\"lan0\"")), []);
}

fn with(overlay: Overlay) -> Facts {
    Facts {
        overlay: Some(Ok(overlay)),
        ..healthy()
    }
}

#[test]
fn forwarding_that_is_off_is_named_with_its_parameter() {
    let found = amiss(&with(Overlay {
        not_forwarding: vec!["net.ipv4.conf.wg-sdwan-1.forwarding".to_owned()],
        ..Overlay::default()
    }));
    let [(check, verdict, fix)] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!((*check, *verdict), ("forwarding", Verdict::Failure));
    assert_eq!(fix, "sysctl -w net.ipv4.conf.wg-sdwan-1.forwarding=1");
}

#[test]
fn old_kernels_are_refused() {
    let of = |release: &str| {
        amiss(&Facts {
            release: Ok(release.to_owned()),
            ..healthy()
        })
    };
    for good in ["5.6.0", "5.10.0-33-amd64", "6.18.1"] {
        assert_eq!(of(good), [], "{good}");
    }
    for bad in ["5.5.19", "4.19.0-27-amd64", "unknown"] {
        assert_eq!(of(bad)[0].0, "kernel", "{bad}");
    }
}

#[test]
fn what_cant_be_read_of_the_overlay_is_a_failure() {
    let found = amiss(&Facts {
        overlay: Some(Err("not allowed".to_owned())),
        ..healthy()
    });
    assert_eq!(found, [("overlay", Verdict::Failure, ROOT.to_owned())]);
}

const FLEET: &str = r#"
format = 1
[site]
name = "site-a"
prefix = "fd12:34ab:cd42::/48"
[[nodes]]
name = "hub-1"
public_key = "dCdOJ1jXCuOmjKaAFt+NmrXUUY3jnEw/uTXLWVdvMnk="
endpoints = ["203.0.113.1"]
[[nodes]]
name = "web-1"
public_key = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
[[networks]]
name = "prod"
id = 1
routing = "static"
members = [{ node = "hub-1", role = "hub" }, { node = "web-1" }]
[[networks.rules]]
name = "ssh"
action = "accept"
from = "any"
to = { node = "hub-1" }
protocol = "tcp"
ports = ["22"]
[[networks.rules]]
name = "all"
action = "accept"
from = "any"
to = "any"
"#;

fn hub(isolation: IsolationMode) -> intent::HostIntent {
    let parsed = crate::config::parse_fleet(&[("fleet.d/00.toml".into(), FLEET.to_owned())]).unwrap();
    let facts = intent::Facts {
        isolation,
        host_services_in_vrf: false,
        dummies: true,
        agreements: crate::model::Agreements::NONE,
        gateway: None,
        underlay: Some(std::collections::BTreeMap::new()),
    };
    intent::compile(&parsed.fleet, &Name::new("hub-1").unwrap(), &facts).unwrap()
}

#[test]
fn a_listener_that_a_rule_names_must_be_in_the_vrf() {
    let listeners = [listener(22), listener(23)];
    let found = unreached(&hub(IsolationMode::Vrf), &listeners);
    let wanted = Unreached {
        listener: listener(22),
        rule: Name::new("ssh").unwrap(),
        vrf: LinkName::new("sdwan-1").unwrap(),
    };
    assert_eq!(found, [wanted]);
    // Without a VRF, every socket is in reach.
    assert_eq!(unreached(&hub(IsolationMode::Rules), &listeners), []);
    let said = amiss(&with(Overlay {
        listeners: Ok(listeners.to_vec()),
        unreached: found,
        ..Overlay::default()
    }));
    assert_eq!((said[0].0, said[0].1), ("listeners", Verdict::Warning));
    assert!(said[0].2.contains("ip vrf exec sdwan-1"), "{}", said[0].2);
}

#[test]
fn peers_that_dont_shake_hands_are_named_with_their_age() {
    let intent = hub(IsolationMode::Vrf);
    let wanted = wireguard::compile(&intent);
    let now = UNIX_EPOCH + LONG_AGO;
    let key = *wanted
        .devices
        .values()
        .next()
        .unwrap()
        .peers
        .keys()
        .next()
        .unwrap();
    let actual = |last_handshake| {
        let peer = wireguard::ActualPeer {
            last_handshake,
            ..wireguard::ActualPeer::default()
        };
        let device = wireguard::ActualDevice {
            public_key: Some(PublicKey([1; 32])),
            listen_port: 51_820,
            peers: BTreeMap::from([(key, peer)]),
        };
        wireguard::Actual {
            devices: BTreeMap::from([(LinkName::new("wg-sdwan-1").unwrap(), device)]),
        }
    };
    let kept = |every| BTreeMap::from([(Name::new("prod").unwrap(), every)]);
    let of = |seconds: u64| {
        let actual = actual(Some(now - Duration::from_secs(seconds)));
        silent(&intent, &wanted, &actual, &kept(25), now)
    };
    assert_eq!(of(12), []);
    let found = of(600);
    assert_eq!(
        (found[0].peer.as_str(), found[0].age.unwrap().as_secs()),
        ("web-1", 600)
    );
    let never = silent(&intent, &wanted, &actual(None), &kept(25), now);
    assert_eq!(never[0].age, None);
    // What nothing keeps alive may be silent.
    assert_eq!(silent(&intent, &wanted, &actual(None), &kept(0), now), []);
    let said = amiss(&with(Overlay {
        silent: found,
        ..Overlay::default()
    }));
    assert_eq!((said[0].0, said[0].1), ("handshakes", Verdict::Warning));
    assert!(
        said[0]
            .2
            .contains("is web-1 up, and does UDP get through from it to port 51820 here?"),
        "{}",
        said[0].2
    );
}

#[test]
fn a_way_that_swallows_large_packets_is_named_with_what_passes() {
    let hole = |passes| Hole {
        network: Name::new("prod").unwrap(),
        node: Name::new("hub-1").unwrap(),
        endpoint: "192.0.2.1:51820".parse().unwrap(),
        size: 1_420,
        passes,
    };
    let said = |passes| {
        let said = amiss(&with(Overlay {
            holes: vec![hole(passes)],
            ..Overlay::default()
        }));
        assert_eq!((said.len(), said[0].0, said[0].1), (1, "mtu", Verdict::Warning));
        said[0].2.clone()
    };
    assert!(said(1_336).contains("give network prod mtu = 1336 on every host"));
    assert!(said(1_200).contains("an overlay needs packets of 1280 bytes"));
}

#[test]
fn a_way_of_which_nothing_is_known_is_not_called_good() {
    let told = |unknown_ways| {
        let facts = with(Overlay {
            unknown_ways,
            ..Overlay::default()
        });
        let mut checks = examine(&facts).checks.into_iter();
        checks.find(|check| check.check == "mtu").unwrap().text
    };
    assert!(told(0).ends_with("shaken hands lately"), "{}", told(0));
    assert!(
        told(3).ends_with("but for 3 of which nothing is known"),
        "{}",
        told(3)
    );
}
