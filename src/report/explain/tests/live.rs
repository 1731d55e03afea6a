//! A host that is looked at.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::mapped::mapped;
use super::*;
use crate::model::ownership::{REPLY_MARK, mapping_mark};
use crate::planes::{firewall, l3, wireguard};
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
