//! A host that is looked at.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::mapped::mapped;
use super::*;
use crate::model::LinkName;
use crate::model::ownership::{REPLY_MARK, mapping_mark};
use crate::planes::{firewall, l3, wireguard};
use crate::reconcile::holes::{Heard, Known};
use crate::report::foreign::Ruleset;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

/// A host of the fleet, as it should be.
fn as_it_should_be(fleet: &Fleet, node: &str) -> Live {
    let intent = intent::compile(fleet, &Name::new(node).unwrap(), &FACTS).unwrap();
    let devices = wireguard::compile(&intent)
        .devices
        .into_iter()
        .map(|(link, device)| {
            let peers = device.peers.into_iter().map(|(key, peer)| {
                let peer = wireguard::ActualPeer {
                    endpoint: Some("203.0.113.1:51839".parse().unwrap()),
                    allowed_ips: peer.allowed_ips,
                    last_handshake: Some(now() - Duration::from_secs(5)),
                    ..wireguard::ActualPeer::default()
                };
                (key, peer)
            });
            let device = wireguard::ActualDevice {
                peers: peers.collect(),
                ..wireguard::ActualDevice::default()
            };
            (link, device)
        });
    let up0 = LinkName::new("up0").unwrap();
    Live {
        l3: Ok(l3::Actual {
            state: l3::compile(&intent, &l3::Facts::offline()),
            underlay: [("203.0.113.1".parse().unwrap(), up0)].into(),
            forwarding: l3::Family::BOTH.into(),
            ..l3::Actual::default()
        }),
        wireguard: Ok(wireguard::Actual {
            devices: devices.collect(),
        }),
        firewall: Ok(firewall::Actual {
            table: firewall::compile(&intent).table,
            ..firewall::Actual::default()
        }),
        foreign: Ok(Ruleset::default()),
        ways: Ok(Known {
            may_ask: true,
            ways: Vec::new(),
        }),
        now: now(),
        intent,
    }
}

/// What is explained, where the kernel says `kernel` of routes.
fn explained(
    fleet: &Fleet,
    live: Live,
    question: &str,
    size: Option<u32>,
    kernel: impl Fn(&Lookup) -> Found,
) -> Explanation {
    let words: Vec<&str> = question.split(' ').collect();
    let asked = Asked {
        source: words[0].to_owned(),
        destination: words[1].to_owned(),
        flow: words[2].parse().unwrap(),
        network: None,
        size,
    };
    let mut explainer = Explainer::live(fleet, FACTS, live);
    loop {
        let explanation = explainer.explain(&asked).unwrap();
        let missing = explainer.missing();
        if missing.is_empty() {
            return explanation;
        }
        for lookup in missing {
            let found = kernel(&lookup);
            explainer.learn(lookup, Ok(found));
        }
    }
}

fn out(device: &str) -> Found {
    Found::Out {
        device: LinkName::new(device).unwrap(),
        gateway: None,
        mtu: None,
    }
}

/// The hub's routes: by our marks into the network and out of it.
fn hub_routes(lookup: &Lookup) -> Found {
    match lookup.mark {
        Some(REPLY_MARK) => out("up0"),
        Some(mark) if mark == mapping_mark(lookup.network) => out("wg-sdwan-20"),
        Some(_) | None => Found::Nowhere("no such mark".to_owned()),
    }
}

fn blocked(explanation: &Explanation) -> (&'static str, bool, &str) {
    let blocker = explanation.blocker.as_ref().unwrap();
    (blocker.check, blocker.of_answer, blocker.text.as_str())
}

const WEB: &str = "192.0.2.7 203.0.113.1 tcp/443";

#[test]
fn a_mapping_is_followed_through_what_is_there() {
    let fleet = mapped();
    let hub = || as_it_should_be(&fleet, "hub-1");
    let well = explained(&fleet, hub(), WEB, None, hub_routes);
    assert_eq!(well.verdict_line(), "allowed by port mapping web", "{well}");
    assert_eq!(well.disagreements, []);
    assert_eq!(well.hops[0].comes_in.as_ref().unwrap().as_str(), "up0");
    assert_eq!(well.answers[1].goes_out.as_ref().unwrap().as_str(), "up0");

    // Without the rule for answers they stay in the network.
    let stays = explained(&fleet, hub(), WEB, None, |lookup| match &lookup.came_in {
        Some(link) if link.as_str() == "wg-sdwan-20" => out("wg-sdwan-20"),
        Some(_) | None => hub_routes(lookup),
    });
    assert_eq!(
        blocked(&stays),
        (
            "route",
            true,
            "192.0.2.7 goes out by wg-sdwan-20, not back to the underlay"
        )
    );
    // Without the other one, requests never come in.
    let outside = explained(&fleet, hub(), WEB, None, |_| out("up0"));
    assert_eq!(
        blocked(&outside),
        (
            "route",
            false,
            "100.64.20.12 goes out by up0, not into network prod"
        )
    );
    assert_eq!(outside.disagreements[0].check, "route");
    // The client is the host itself.
    let own = explained(&fleet, hub(), WEB, None, |_| Found::Local);
    assert_eq!(blocked(&own).0, "port_mapping");

    let mut deaf = hub();
    deaf.l3.as_mut().unwrap().forwarding.clear();
    let deaf = explained(&fleet, deaf, WEB, None, hub_routes);
    assert_eq!(
        blocked(&deaf),
        ("forwarding", false, "no interface of the underlay forwards IPv4")
    );
}

#[test]
fn a_mapping_that_the_table_lacks_is_no_way_in() {
    let fleet = mapped();
    let lacks = |node: &str, chain: &str, key: &str| {
        let mut live = as_it_should_be(&fleet, node);
        let table = live.firewall.as_mut().unwrap().table.as_mut().unwrap();
        let rules = &mut table.chains.get_mut(chain).unwrap().rules;
        let before = rules.len();
        rules.retain(|rule| !rule.key().starts_with(key));
        assert!(rules.len() < before, "{chain} has no {key}");
        live
    };
    let unmapped = explained(
        &fleet,
        lacks("hub-1", "ports", "port 20 tcp 443"),
        WEB,
        None,
        hub_routes,
    );
    assert_eq!(
        blocked(&unmapped),
        (
            "port_mapping",
            false,
            "the firewall here leads no port 443 into network prod"
        )
    );
    assert_eq!(unmapped.disagreements[0].check, "port_mapping");
    // The target lets it in only by the mapping's own rule.
    let kernel = |lookup: &Lookup| {
        if lookup.came_in.is_some() {
            Found::Local
        } else {
            out("wg-sdwan-20")
        }
    };
    let refused = explained(&fleet, lacks("db-1", "n20-in", "admit tcp"), WEB, None, kernel);
    assert_eq!(
        blocked(&refused),
        ("firewall", false, "input: no rule names it, prod drops the rest")
    );
    assert_eq!(refused.disagreements[0].check, "firewall");
    let admitted = explained(&fleet, as_it_should_be(&fleet, "db-1"), WEB, None, kernel);
    assert_eq!(admitted.verdict, Verdict::Allow, "{admitted}");
}

/// What the daemon has heard of the way to hub-1, when it was called at this address.
fn heard(endpoint: &str, size: u32, passes: u32) -> Known {
    Known {
        may_ask: true,
        ways: vec![Heard {
            link: LinkName::new("wg-sdwan-20").unwrap(),
            network: Name::new("prod").unwrap(),
            node: Name::new("hub-1").unwrap(),
            endpoint: endpoint.parse().unwrap(),
            size,
            passes,
        }],
    }
}

const THERE: &str = "203.0.113.1:51839";

/// What web-1 says of a packet of this size, if of any, where this is known of its way to the hub.
fn of_size(question: &str, ways: Result<Known, String>, size: Option<u32>) -> Explanation {
    let ping = "[[networks.rules]]\nname = \"ping\"\naction = \"accept\"\nfrom = \"any\"\nto = \"any\"\nprotocol = \"icmp\"\n";
    let fleet = fleet(&format!("{PROD}\n{ping}"));
    let live = Live {
        ways,
        ..as_it_should_be(&fleet, "web-1")
    };
    explained(&fleet, live, question, size, |lookup| match lookup.came_in {
        Some(_) => Found::Local,
        None => out("wg-sdwan-20"),
    })
}

fn note(explanation: &Explanation) -> &Check {
    let mut checks = explanation.hops[0].checks.iter();
    checks.find(|check| check.check == "mtu").unwrap()
}

#[test]
fn a_way_that_swallows_large_packets_is_in_the_way_of_those() {
    let hole = || Ok(heard(THERE, 1_420, 1_312));
    let asked = |size| of_size("web-1 db-1 tcp/5432", hole(), size);
    let large = asked(Some(1_400));
    assert_eq!(large.verdict, Verdict::Unreachable);
    let blocker = large.blocker.as_ref().unwrap();
    assert_eq!((blocker.check, blocker.of_answer), ("mtu", false));
    assert_eq!(
        blocker.text,
        "packets of 1420 bytes vanish on the way to hub-1 at 203.0.113.1:51839, those of 1312 arrive"
    );
    let fix = blocker.fix.as_ref().unwrap();
    assert!(
        fix.starts_with("give network prod mtu = 1312 on every host"),
        "{fix}"
    );
    assert_eq!(
        (asked(Some(1_312)).verdict, large.mtu),
        (Verdict::Allow, Some(1_312))
    );
    // Without a size it is worth knowing.
    let any = asked(None);
    assert_eq!(
        (any.verdict, any.mtu, note(&any).passes),
        (Verdict::Allow, Some(1_312), Passes::Note)
    );
    assert!(
        any.to_string()
            .contains("    note     mtu                packets of 1420 bytes vanish"),
        "{any}"
    );
    // An echo reply is as large as its request.
    let answer = of_size("hub-1 web-1 icmp", hole(), Some(1_400));
    assert_eq!(
        (blocked(&answer).0, blocked(&answer).1),
        ("mtu", true),
        "{answer}"
    );
    assert_eq!(
        of_size("hub-1 web-1 icmp", hole(), Some(1_300)).verdict,
        Verdict::Allow
    );
}

#[test]
fn a_way_of_which_nothing_is_known_isnt_called_good() {
    let question = "web-1 db-1 tcp/5432";
    let known = of_size(question, Ok(heard(THERE, 1_420, 1_420)), Some(1_420));
    assert_eq!(known.verdict, Verdict::Allow, "{known}");
    let silent = Known {
        may_ask: false,
        ways: Vec::new(),
    };
    for (ways, why) in [
        (
            Err("no daemon runs here, which would ask".to_owned()),
            "no daemon runs here",
        ),
        (
            Ok(heard("198.51.100.9:51839", 1_420, 1_420)),
            "the daemon hasn't heard of it yet",
        ),
        (
            Ok(heard(THERE, 1_300, 1_300)),
            "only of 1300 bytes the daemon has asked yet",
        ),
        (Ok(silent), "CAP_NET_RAW"),
    ] {
        let doubt = of_size(question, ways.clone(), Some(1_420));
        assert_eq!(doubt.verdict, Verdict::Unknown, "{doubt}");
        let line = doubt.verdict_line();
        assert!(
            line.starts_with(
                "unknown: on web-1, mtu: whether packets of 1420 bytes reach hub-1 isn't known: "
            ),
            "{line}"
        );
        assert!(line.contains(why), "{line}");
        assert_eq!(of_size(question, ways.clone(), Some(128)).verdict, Verdict::Allow);
        assert_eq!(of_size(question, ways, None).verdict, Verdict::Allow);
    }
    let noted = of_size(question, Err("no daemon".to_owned()), None);
    assert_eq!(
        (note(&noted).passes, note(&noted).text.as_str()),
        (
            Passes::Note,
            "whether large packets reach hub-1 isn't known: no daemon"
        )
    );
}

#[test]
fn a_peer_that_has_changed_its_key_is_the_same_peer() {
    let next = "Q0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0M=";
    let endpoints = "endpoints = [\"203.0.113.1\"]";
    let rotating = format!("next_public_key = \"{next}\"\n{endpoints}");
    let text = format!("{}\n{PROD}", NODES.replace(endpoints, &rotating));
    let fleet = config::parse_fleet(&[("fleet.d/00.toml".into(), text)])
        .unwrap()
        .fleet;
    let mut live = as_it_should_be(&fleet, "web-1");
    // Both are there, and what the old one carried is on the new one.
    let devices = &mut live.wireguard.as_mut().unwrap().devices;
    let peers = &mut devices.values_mut().next().unwrap().peers;
    let old = peers.values_mut().next().unwrap();
    let new = old.clone();
    old.allowed_ips.clear();
    peers.insert(next.parse().unwrap(), new);
    let answer = explained(&fleet, live, "web-1 db-1 tcp/5432", None, |lookup| {
        match lookup.came_in {
            Some(_) => Found::Local,
            None => out("wg-sdwan-20"),
        }
    });
    assert_eq!(answer.verdict_line(), "allowed by rule web-to-db", "{answer}");
    assert_eq!(answer.disagreements, []);
}
