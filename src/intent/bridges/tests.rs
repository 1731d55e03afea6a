//! What bridges open, for any fragments of both sites and any word of the other one.

mod overlaps;
mod services;
mod underlay;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use crate::config;
use crate::intent::{Facts, GatewayFacts, HostIntent, IsolationMode, NetworkIntent, Underlay, compile};
use crate::model::network::{Action, DefaultAction};
use crate::model::{AddressSet, Agreement, Agreements, Fleet, Name, NetworkId, PresharedKey, PublicKey};

const SITE_A: &str = r#"
[site]
name = "site-a"
prefix = "fd12:34ab:cd42::/48"
gateways = ["hub"]
[[nodes]]
name = "hub"
public_key = "qyZM0n/nfE4oy3WbcOMEEEhHnPs+LsxOddSahMSLN2A="
endpoints = ["203.0.113.5"]
host_id = 1
[[nodes]]
name = "hub-2"
public_key = "T5y0uKJbdJxuVgp2AQeYdoWU1DfKH5nzZJv6wYzTnkE="
endpoints = ["203.0.113.6"]
host_id = 2
[[nodes]]
name = "spoke"
public_key = "gRh13BaDxfSNZ3zEaHSxHRyRUd3JdcUpDn6GLvqsIGc="
host_id = 11
"#;

fn network_a(default: &str, rules: &str) -> String {
    format!(
        r#"
[[networks]]
name = "prod"
id = 1
routing = "static"
default_action = "{default}"
members = [
  {{ node = "hub", role = "hub" }},
  {{ node = "hub-2", role = "hub" }},
  {{ node = "spoke", lans = [{{ subnet = "10.10.0.0/24", interface = "eth1" }}] }},
]
virtual_ips = [{{ name = "api", address = "::100", holders = ["spoke"] }}]
{rules}"#
    )
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn set(nets: &[IpNet]) -> AddressSet {
    nets.iter().collect()
}

fn fleet(fragments: &[String]) -> Option<Fleet> {
    let text = fragments.join("\n");
    config::parse_fleet(&[("fleet.d/00.toml".into(), text)])
        .ok()
        .map(|parsed| parsed.fleet)
}

fn intent(fleet: &Fleet, node: &str, agreements: Agreements) -> HostIntent {
    compile(fleet, &name(node), &facts(agreements)).unwrap()
}

fn facts(agreements: Agreements) -> Facts {
    Facts {
        isolation: IsolationMode::Vrf,
        host_services_in_vrf: false,
        dummies: true,
        agreements,
        gateway: Some(GatewayFacts {
            port: 8443,
            allow_dial: vec![net("198.51.100.0/24"), net("10.0.0.0/8")],
        }),
        underlay: Some(Underlay::new()),
    }
}

fn prod(host: &HostIntent) -> &NetworkIntent {
    &host.networks[&NetworkId::new(1).unwrap()]
}

fn agreements(bridges: &[(&str, Agreement)]) -> Agreements {
    let bridges = bridges.iter().cloned();
    Agreements {
        bridges: bridges
            .map(|(bridge, agreement)| (name(bridge), agreement))
            .collect(),
        ..Agreements::NONE
    }
}

fn agreement(peer: &str, import: &[IpNet], prefixes: &[IpNet], key: u8) -> Agreement {
    Agreement {
        peer: name(peer),
        network: name("prod"),
        import: import.to_vec(),
        export: None,
        public_key: PublicKey([key; 32]),
        preshared_key: PresharedKey::from_bytes([9; 32]).unwrap(),
        endpoints: vec!["198.51.100.7:51820".parse().unwrap()],
        prefixes: prefixes.to_vec(),
        listener: Some("[fd77:1:2:1::5]:8443".parse().unwrap()),
    }
}

/// What the rules do to a packet without ports, read plainly: the first that names it.
fn action(network: &NetworkIntent, from: IpAddr, to: IpAddr) -> Action {
    let mut rules = network.firewall.rules.iter();
    let bound = &network.firewall.bound;
    match rules.find(|rule| rule.from.contains(from) && rule.to.contains(to)) {
        _ if !bound.contains(from) || !bound.contains(to) => Action::Drop,
        Some(rule) => rule.action,
        None if network.firewall.default_action == DefaultAction::Accept => Action::Accept,
        None => Action::Drop,
    }
}

fn pool() -> Vec<IpNet> {
    [
        "fd77:1:2::/48",
        "fd77:1:2:1::/64",
        "fd77:1:2:1::5/128",
        "fd88:1:2::/48",
        "fd88:1:2:3::/64",
        "10.20.0.0/16",
        "10.20.1.0/24",
        "10.20.1.7/32",
        "172.16.0.0/24",
        "fd12:34ab:cd42:1::/64",
        "10.10.0.0/24",
        "::/0",
        "0.0.0.0/0",
        "fe80::/64",
        "fd12:34ab:cd42::/48",
    ]
    .map(net)
    .to_vec()
}

fn some_nets() -> impl Strategy<Value = Vec<IpNet>> {
    proptest::sample::subsequence(pool(), 0..6)
}

/// One address of each prefix of the pool, and of what the site itself has.
fn addresses() -> Vec<IpAddr> {
    let inside = [
        "fd12:34ab:cd42:1::1",
        "fd12:34ab:cd42:1::b",
        "fd12:34ab:cd42:1::100",
        "10.10.0.9",
        "192.0.2.1",
        "fd99::1",
    ];
    let inside = inside.iter().chain(&SERVICES).map(|text| text.parse().unwrap());
    pool().iter().map(IpNet::network).chain(inside).collect()
}

const SELECTORS: [&str; 8] = [
    "\"any\"",
    "{ federation = \"site-b\" }",
    "{ federation = \"site-c\" }",
    "{ cidr = \"fd77:1:2:1::/64\" }",
    "{ cidr = \"fd00::/8\" }",
    "{ cidr = \"10.0.0.0/8\" }",
    "{ lan_of = \"spoke\" }",
    "{ vip = \"api\" }",
];

#[derive(Clone, Debug)]
struct Written {
    imports: [Option<Vec<IpNet>>; 2],
    export: Vec<&'static str>,
    rules: Vec<(usize, usize, bool)>,
    accepts: bool,
    /// What is subscribed to over each bridge, and whether the VIP is offered over it.
    services: [(Option<&'static str>, bool); 2],
}

/// Services of the peers: inside what may be imported of one of them, of the other, or of both.
const SERVICES: [&str; 4] = ["fd77:1:2:1::5", "fd77:1:2:9::100", "fd88:1:2:3::100", "10.20.1.7"];
const VIP: &str = "fd12:34ab:cd42:1::100/128";

impl Written {
    fn fragments(&self) -> Vec<String> {
        let mut rules = String::new();
        for (n, (from, to, drops)) in self.rules.iter().enumerate() {
            let action = if *drops { "drop" } else { "accept" };
            let (from, to) = (SELECTORS[*from], SELECTORS[*to]);
            let _ = write!(
                rules,
                "[[networks.rules]]\nname = \"r{n}\"\npriority = {n}\nfrom = {from}\nto = {to}\naction = \"{action}\"\n"
            );
        }
        let mut all = vec![
            SITE_A.to_owned(),
            network_a(if self.accepts { "accept" } else { "drop" }, &rules),
        ];
        for (peer, import) in ["b", "c"].iter().zip(&self.imports) {
            if let Some(import) = import {
                let import: Vec<String> = import.iter().map(|net| format!("\"{net}\"")).collect();
                let (subscribed, offered) = self.services[usize::from(*peer == "c")];
                let speaks = "protocol = \"tcp\"\nports = [\"443\"]";
                if let Some(address) = subscribed {
                    all.push(format!(
                        "[[subscriptions]]\nname = \"s-{peer}\"\nbridge = \"to-{peer}\"\naddress = \"{address}\"\n{speaks}\n"
                    ));
                }
                if offered {
                    all.push(format!(
                        "[[offers]]\nname = \"o-{peer}\"\nbridge = \"to-{peer}\"\nvip = \"api\"\n{speaks}\n"
                    ));
                }
                all.push(format!(
                    "[[bridges]]\nname = \"to-{peer}\"\npeer = \"site-{peer}\"\nnetwork = \"prod\"\ngateways = [\"hub\"]\nimport = [{}]\nexport = [{}]\n",
                    import.join(", "),
                    self.export.join(", ")
                ));
            }
        }
        all
    }
}

fn written() -> impl Strategy<Value = Written> {
    let export = proptest::sample::subsequence(
        vec![
            "\"fd12:34ab:cd42:1::/64\"",
            "\"10.10.0.0/24\"",
            "{ vip = \"api\" }",
        ],
        0..=3,
    );
    // What a fleet may import at all: the rest is refused, see the checks' own tests.
    let import =
        || proptest::option::weighted(0.8, proptest::sample::subsequence(pool()[..9].to_vec(), 0..4));
    let rules = prop::collection::vec(
        (0..SELECTORS.len(), 0..SELECTORS.len(), prop::bool::weighted(0.2)),
        0..6,
    );
    let services = || {
        let address = proptest::option::weighted(0.4, prop::sample::select(SERVICES.to_vec()));
        (address, prop::bool::weighted(0.4))
    };
    let fragments = (
        import(),
        import(),
        export,
        rules,
        any::<bool>(),
        services(),
        services(),
    );
    fragments.prop_map(|(b, c, export, rules, accepts, with_b, with_c)| Written {
        imports: [b, c],
        export,
        rules,
        accepts,
        services: [with_b, with_c],
    })
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 100_000, ..ProptestConfig::with_cases(1_500) })]
    #[test]
    fn nothing_is_opened_outside_what_both_ends_say(
        written in written(),
        said in [some_nets(), some_nets()],
        agreed in [some_nets(), some_nets()],
        has in [any::<bool>(), any::<bool>()],
    ) {
        // A fleet that doesn't fit is refused as a whole.
        let Some(fleet) = fleet(&written.fragments()) else { return Err(TestCaseError::reject("the fleet is refused")) };
        let word = |n: usize, peer: &str| agreement(peer, &agreed[n], &said[n], 40 + u8::try_from(n).unwrap());
        let mut words = Vec::new();
        for (n, (bridge, peer)) in [("to-b", "site-b"), ("to-c", "site-c")].into_iter().enumerate() {
            if has[n] {
                words.push((bridge, word(n, peer)));
            }
        }
        // A subscription is the import of one address, an offer the export of one virtual IP: no more.
        let subscribed = [0, 1].map(|n| {
            let bridge = written.imports[n].as_ref();
            bridge.and(written.services[n].0).map(|text| text.parse::<IpAddr>().unwrap())
        });
        let imports = [0, 1].map(|n| {
            let mut import = written.imports[n].clone().unwrap_or_default();
            import.extend(subscribed[n].map(IpNet::from));
            set(&import)
        });
        let inside = set(&["fd12:34ab:cd42:1::/64", "100.64.1.0/24", "10.10.0.0/24"].map(net));
        let mut export: Vec<IpNet> = Vec::new();
        for text in &written.export {
            export.push(text.trim_matches('"').parse().unwrap_or_else(|_| net(VIP)));
        }
        let exports = [0, 1].map(|n| {
            let offered = written.services[n].1.then(|| net(VIP));
            set(&export.iter().copied().chain(offered).collect::<Vec<_>>())
        });
        for node in ["hub", "hub-2", "spoke"] {
            let host = intent(&fleet, node, agreements(&words));
            let network = prod(&host);
            let may = |n: usize, address: IpAddr| {
                let theirs = has[n] && set(&said[n]).contains(address) && set(&agreed[n]).contains(address);
                imports[n].contains(address) && (node != "hub" || theirs)
            };
            for link in &network.links {
                for (key, peer) in &link.peers {
                    let Some(bridge) = &peer.bridge else { continue };
                    prop_assert_eq!(node, "hub");
                    let n = usize::from(bridge.as_str() == "to-c");
                    prop_assert_eq!(*key, PublicKey([40 + u8::try_from(n).unwrap(); 32]));
                    let carried: AddressSet = peer.allowed_ips.iter().collect();
                    for address in addresses() {
                        prop_assert!(!carried.contains(address) || may(n, address), "{address} on {bridge}");
                    }
                }
            }
            for destination in network.routes.keys() {
                let address = destination.network();
                prop_assert!(inside.contains(address) || may(0, address) || may(1, address), "a route to {destination} on {node}");
            }
            for from in addresses() {
                for to in addresses() {
                    let foreign = |address| (0..2).find(|n| imports[*n].contains(address));
                    if action(network, from, to) != Action::Accept {
                        continue;
                    }
                    let (peer, theirs, ours) = match (foreign(from), foreign(to)) {
                        (None, None) => continue,
                        (Some(n), None) => (n, from, to),
                        (None, Some(n)) => (n, to, from),
                        (Some(_), Some(_)) => return Err(TestCaseError::fail(format!("{from} → {to}: from one site to another on {node}"))),
                    };
                    prop_assert!(may(peer, theirs), "{from} → {to} on {node}: more than both say");
                    prop_assert!(exports[peer].contains(ours), "{from} → {to} on {node}: not exported");
                    let names = |selector: usize| match selector {
                        1 => peer == 0,
                        2 => peer == 1,
                        3 => set(&[net("fd77:1:2:1::/64")]).contains(theirs),
                        5 => imports[peer].v4().iter().any(|known| known.prefix_len() <= 8),
                        _ => false,
                    };
                    let gateways = ["fd12:34ab:cd42:1::1", "fd77:1:2:1::5"].map(|text| text.parse::<IpAddr>().unwrap());
                    let calls = node == "hub" && [ours, theirs] == gateways;
                    let served = subscribed[peer] == Some(to) || (written.services[peer].1 && net(VIP).contains(&to));
                    let named = served || written.rules.iter().any(|(from, to, drops)| !drops && (names(*from) || names(*to)));
                    prop_assert!(named || calls, "{from} → {to} on {node}: no rule names the peer");
                }
            }
        }
    }
}

#[test]
fn without_a_rule_the_two_gateways_call_each_other_and_nobody_else_does() {
    let calls = |export: &str, listener: Option<&str>| -> Vec<(String, AddressSet, AddressSet, u16)> {
        let bridge = format!(
            "[[bridges]]\nname = \"to-b\"\npeer = \"site-b\"\nnetwork = \"prod\"\ngateways = [\"hub\"]\nimport = [\"fd77:1:2::/48\"]\nexport = [{export}]\n"
        );
        let fleet = fleet(&[SITE_A.to_owned(), network_a("drop", ""), bridge]).unwrap();
        let word = Agreement {
            listener: listener.map(|text| text.parse().unwrap()),
            ..agreement("site-b", &[net("fd77:1:2::/48")], &[net("fd77:1:2:1::/64")], 40)
        };
        let host = intent(&fleet, "hub", agreements(&[("to-b", word)]));
        let rules = &prod(&host).firewall.rules;
        let told = rules.iter().map(|rule| {
            (
                rule.name.to_string(),
                rule.from.clone(),
                rule.to.clone(),
                rule.ports[0].first,
            )
        });
        told.collect()
    };
    let (own, their) = (
        set(&[net("fd12:34ab:cd42:1::1/128")]),
        set(&[net("fd77:1:2:1::5/128")]),
    );
    let all = "\"fd12:34ab:cd42:1::/64\"";
    assert_eq!(
        calls(all, Some("[fd77:1:2:1::5]:9443")),
        [
            (
                "bridge-to-b-calls-in".to_owned(),
                their.clone(),
                own.clone(),
                8443
            ),
            ("bridge-to-b-calls-out".to_owned(), own, their, 9443),
        ]
    );
    assert_eq!(calls(all, None), [], "its gateway isn't in what it exports");
    assert_eq!(
        calls(all, Some("[fd77:1:2:2::5]:9443")),
        [],
        "nor is this address"
    );
    assert_eq!(
        calls("{ vip = \"api\" }", Some("[fd77:1:2:1::5]:9443")),
        [],
        "nor ours in what we export"
    );
}

/// Every subset of what two sites may write, as far as one packet from a LAN of B to a LAN of A goes: it passes if and only
/// if nothing is missing.
#[test]
fn every_subset_of_fragments_of_both_ends() {
    let parts = ["A's bridge", "A's rule", "A's export", "B's bridge", "B's export"];
    for subset in 0..1_u32 << parts.len() {
        let has = |n: usize| subset & (1 << n) != 0;
        let rule = "[[networks.rules]]\nname = \"in\"\naction = \"accept\"\nfrom = { federation = \"site-b\" }\nto = { lan_of = \"spoke\" }\n";
        let mut fragments = vec![
            SITE_A.to_owned(),
            network_a("accept", if has(1) { rule } else { "" }),
        ];
        if has(0) {
            let export = if has(2) { "\"10.10.0.0/24\"" } else { "" };
            fragments.push(format!(
                "[[bridges]]\nname = \"to-b\"\npeer = \"site-b\"\nnetwork = \"prod\"\ngateways = [\"hub\"]\nimport = [\"10.20.0.0/16\"]\nexport = [{export}]\n"
            ));
        }
        let fleet = fleet(&fragments).unwrap_or_else(|| panic!("{}", fragments.join("\n")));
        let exports: &[IpNet] = if has(4) { &[net("10.20.1.0/24")] } else { &[] };
        let word = agreement("site-b", &[net("10.20.0.0/16")], exports, 40);
        let said = if has(3) {
            agreements(&[("to-b", word)])
        } else {
            Agreements::NONE
        };
        let host = intent(&fleet, "hub", said);
        let network = prod(&host);
        let (from, to) = ("10.20.1.9".parse().unwrap(), "10.10.0.9".parse().unwrap());
        let carried: BTreeSet<IpNet> = network
            .links
            .iter()
            .flat_map(|link| link.peers.values())
            .filter(|peer| peer.bridge.is_some())
            .flat_map(|peer| peer.allowed_ips.iter().copied())
            .collect();
        let arrives = carried.iter().any(|net| net.contains(&from));
        let passes = arrives && action(network, from, to) == Action::Accept;
        let missing: Vec<&str> = (0..parts.len()).filter(|n| !has(*n)).map(|n| parts[n]).collect();
        assert_eq!(passes, missing.is_empty(), "without {missing:?}");
        assert_eq!(arrives, has(0) && has(3) && has(4), "without {missing:?}");
    }
}

#[test]
fn an_agreement_that_does_not_fit_carries_nothing_and_says_why() {
    let bridge = "[[bridges]]\nname = \"to-b\"\npeer = \"site-b\"\nnetwork = \"prod\"\ngateways = [\"hub\"]\nimport = [\"10.20.0.0/16\"]\nexport = [\"10.10.0.0/24\"]\n";
    let fleet = fleet(&[SITE_A.to_owned(), network_a("drop", ""), bridge.to_owned()]).unwrap();
    let all = [net("10.20.0.0/16")];
    let good = agreement("site-b", &all, &all, 40);
    let hub: PublicKey = "T5y0uKJbdJxuVgp2AQeYdoWU1DfKH5nzZJv6wYzTnkE=".parse().unwrap();
    let bad: BTreeMap<&str, Agreement> = BTreeMap::from([
        ("is about peer site-c", agreement("site-c", &all, &all, 40)),
        (
            "network lab",
            Agreement {
                network: name("lab"),
                ..good.clone()
            },
        ),
        (
            "that of a node",
            Agreement {
                public_key: hub,
                ..good.clone()
            },
        ),
        ("anyone could read", agreement("site-b", &all, &all, 0)),
        (
            "1001 prefixes",
            agreement("site-b", &all, &vec![all[0]; 1_001], 40),
        ),
        (
            "exports nothing",
            agreement("site-b", &all, &[net("10.21.0.0/16")], 40),
        ),
    ]);
    for (words, word) in bad {
        let host = intent(&fleet, "hub", agreements(&[("to-b", word)]));
        let bridge = &prod(&host).bridges[0];
        assert!(bridge.carried.is_empty() && bridge.here, "{words}");
        assert!(
            bridge.waits_for.as_ref().is_some_and(|why| why.contains(words)),
            "{words}: {:?}",
            bridge.waits_for
        );
        assert!(
            host.notices.iter().any(|notice| notice.text.contains(words)),
            "{words}: {:?}",
            host.notices
        );
    }
    let host = intent(&fleet, "hub", agreements(&[("to-b", good)]));
    assert!(
        prod(&host).bridges[0].waits_for.is_none() && host.notices.is_empty(),
        "{:?}",
        host.notices
    );
}

#[test]
fn what_serve_lets_be_exported_narrows_the_fleets_word() {
    let bridge = "[[bridges]]\nname = \"to-b\"\npeer = \"site-b\"\nnetwork = \"prod\"\ngateways = [\"hub\"]\nimport = [\"10.20.0.0/16\"]\nexport = [\"10.10.0.0/24\"]\n";
    let fleet = fleet(&[SITE_A.to_owned(), network_a("drop", ""), bridge.to_owned()]).unwrap();
    let all = [net("10.20.0.0/16")];
    let exported = |export: Option<&[&str]>| -> Vec<IpNet> {
        let word = Agreement {
            export: export.map(|nets| nets.iter().map(|text| net(text)).collect()),
            ..agreement("site-b", &all, &all, 40)
        };
        let host = intent(&fleet, "hub", agreements(&[("to-b", word)]));
        prod(&host).bridges[0].export.iter().collect()
    };
    assert_eq!(exported(None), [net("10.10.0.0/24")]);
    assert_eq!(exported(Some(&["10.10.0.0/25"])), [net("10.10.0.0/25")]);
    assert_eq!(
        exported(Some(&["10.0.0.0/8"])),
        [net("10.10.0.0/24")],
        "never more"
    );
    assert_eq!(exported(Some(&[])), []);
}

#[test]
fn where_no_gateway_can_be_none_is_called() {
    let bridge = "[[bridges]]\nname = \"to-b\"\npeer = \"site-b\"\nnetwork = \"prod\"\ngateways = [\"hub\"]\nimport = [\"10.20.0.0/16\"]\nexport = [\"10.10.0.0/24\"]\n";
    let fleet = fleet(&[SITE_A.to_owned(), network_a("drop", ""), bridge.to_owned()]).unwrap();
    let all = [net("10.20.0.0/16")];
    let good = agreement("site-b", &all, &all, 40);
    let is_called = |at: &str| {
        let word = Agreement {
            endpoints: vec![at.parse().unwrap()],
            ..good.clone()
        };
        let host = intent(&fleet, "hub", agreements(&[("to-b", word)]));
        let peer = &prod(&host).links[0].peers[&PublicKey([40; 32])];
        assert_eq!(
            peer.endpoints.is_empty(),
            !host.notices.is_empty(),
            "{at}: it is said"
        );
        !peer.endpoints.is_empty()
    };
    for at in [
        "127.0.0.1:1",
        "[fe80::1]:1",
        "224.0.0.1:1",
        "10.20.0.1:1",
        "[fd12:34ab:cd42:1::1]:1",
        "0.0.0.0:1",
        "198.51.100.7:0",
        "192.168.1.1:1",
        "[64:ff9b::7f00:1]:1",
    ] {
        assert!(!is_called(at), "{at}");
    }
    for at in ["198.51.100.8:51820", "1.1.1.1:7", "10.99.0.1:1"] {
        assert!(is_called(at), "{at}");
    }
}

#[test]
fn everyone_else_of_the_site_sends_to_the_gateway() {
    let bridge = "[[bridges]]\nname = \"to-b\"\npeer = \"site-b\"\nnetwork = \"prod\"\ngateways = [\"hub-2\"]\nimport = [\"10.20.0.0/16\"]\nexport = [\"10.10.0.0/24\"]\n";
    let text = SITE_A.replace("gateways = [\"hub\"]", "gateways = [\"hub\", \"hub-2\"]");
    let fleet = fleet(&[text, network_a("drop", ""), bridge.to_owned()]).unwrap();
    let host = intent(&fleet, "spoke", Agreements::NONE);
    let network = prod(&host);
    // Over the gateway's link only: the other hub has no way of its own.
    assert_eq!(network.routes[&net("10.20.0.0/16")].as_str(), "wg-sdwan-1-2");
    assert!(!network.shared.contains(&net("10.20.0.0/16")));
    let host = intent(&fleet, "hub", Agreements::NONE);
    let carries = |node: &str| {
        let peers = prod(&host).links[0].peers.values();
        let mut peers = peers.filter(|peer| peer.node.as_str() == node);
        peers.next().unwrap().allowed_ips.contains(&net("10.20.0.0/16"))
    };
    assert!(carries("hub-2") && !carries("spoke"));
}
