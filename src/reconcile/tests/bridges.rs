//! Bridges come and go, and any step may fail, or be the last before a crash: what is left is no more open than before or
//! than wanted, and the next round goes on from what is there.

use super::memory::{self, MemoryHost};
use super::{Target, nothing, parse, round, settle};
use crate::intent::{self, GatewayFacts, IsolationMode};
use crate::model::{Agreement, Agreements, Name, PresharedKey, PublicKey};
use crate::planes::{PlaneName, l3};
use crate::reconcile::Change;

const BRIDGE: &str = "[[bridges]]\nname = \"to-b\"\npeer = \"site-b\"\nnetwork = \"prod\"\ngateways = [\"me\"]\n\
    import = [\"172.20.0.0/16\", \"fd77:1:2::/48\"]\nexport = [\"10.10.0.0/16\"]\n";

/// What both sites say: the bridge's fragment or none, and what the other site exports, if it agrees.
fn site(has_fragment: bool, exported: Option<&[&str]>, secret: u8, isolation: IsolationMode) -> Target {
    let me = memory::key().public();
    let rule = if has_fragment {
        "{ federation = \"site-b\" }"
    } else {
        "\"any\""
    };
    let text = format!(
        "[site]\nname = \"s\"\nprefix = \"fd12:34ab:cd42::/48\"\ngateways = [\"me\"]\n\
         [[nodes]]\nname = \"me\"\npublic_key = \"{me}\"\nhost_id = 1\nendpoints = [\"192.0.2.1\"]\n\
         [[networks]]\nname = \"prod\"\nid = 1\nrouting = \"static\"\nmembers = [\n\
         {{ node = \"me\", role = \"hub\", lans = [{{ subnet = \"10.10.0.0/16\", interface = \"lan1\" }}] }} ]\n\
         [[networks.rules]]\nname = \"in\"\naction = \"accept\"\nfrom = {rule}\nto = {{ lan_of = \"me\" }}\n{}",
        if has_fragment { BRIDGE } else { "" }
    );
    let mut agreements = Agreements::NONE;
    if let Some(exported) = exported {
        let agreement = Agreement {
            peer: Name::new("site-b").unwrap(),
            network: Name::new("prod").unwrap(),
            import: vec!["172.20.0.0/16".parse().unwrap(), "fd77:1:2::/48".parse().unwrap()],
            export: None,
            public_key: PublicKey([40; 32]),
            preshared_key: PresharedKey::from_bytes([secret; 32]).unwrap(),
            endpoints: vec!["1.1.1.1:51820".parse().unwrap()],
            prefixes: exported.iter().map(|net| net.parse().unwrap()).collect(),
            listener: None,
        };
        agreements.bridges.insert(Name::new("to-b").unwrap(), agreement);
    }
    let facts = intent::Facts {
        isolation,
        host_services_in_vrf: false,
        dummies: true,
        agreements,
        gateway: Some(GatewayFacts {
            port: 8443,
            allow_dial: Vec::new(),
        }),
        underlay: Some(intent::Underlay::new()),
    };
    let fleet = parse(&[("fleet.d/00.toml".into(), text)]);
    let intent = intent::compile(&fleet, &Name::new("me").unwrap(), &facts).unwrap();
    Target::new(intent, memory::key().public(), &l3::Facts::offline())
}

fn states(isolation: IsolationMode) -> Vec<(&'static str, Target)> {
    let all = &["172.20.0.0/16", "fd77:1:2::/48"][..];
    vec![
        ("no fragment", site(false, None, 1, isolation)),
        ("not agreed", site(true, None, 1, isolation)),
        ("agreed", site(true, Some(all), 1, isolation)),
        ("agreed anew", site(true, Some(all), 2, isolation)),
        ("narrowed", site(true, Some(&["172.20.1.0/24"]), 1, isolation)),
    ]
}

#[test]
fn whichever_step_fails_nothing_is_left_more_open_and_the_next_round_goes_on() {
    for isolation in [IsolationMode::Vrf, IsolationMode::Rules] {
        let states = states(isolation);
        for (before, from) in &states {
            for (after, to) in states.iter().filter(|(name, _)| name != before) {
                let mut steps = 0;
                for at in 0.. {
                    let mut host = MemoryHost::new();
                    settle(&mut host, from);
                    host.watch(to);
                    host.fail_in = Some(at);
                    let done = round(&mut host, to);
                    host.fail_in = None;
                    host.unwatch();
                    if done.execution.failures.is_empty() {
                        break;
                    }
                    steps += 1;
                    settle(&mut host, to);
                    settle(&mut host, &nothing(to));
                }
                assert!(steps > 0, "{before} → {after}: nothing was to do");
            }
        }
    }
}

/// Decision 18: the drop first, then the peer, then its routes; what was let through is cut.
#[test]
fn a_revoked_bridge_is_shut_before_it_is_taken_apart() {
    for isolation in [IsolationMode::Vrf, IsolationMode::Rules] {
        let mut host = MemoryHost::new();
        let states = states(isolation);
        let find = |name: &str| &states.iter().find(|(known, _)| *known == name).unwrap().1;
        settle(&mut host, find("agreed"));
        let done = settle(&mut host, find("not agreed"));
        let at = |wanted: fn(&Change) -> bool| done.plan.steps.iter().position(|step| wanted(&step.change));
        let narrowed = at(|change| change.plane() == PlaneName::Firewall).unwrap();
        let peer = at(|change| change.plane() == PlaneName::Wireguard).unwrap();
        let route = at(|change| change.plane() == PlaneName::L3).unwrap();
        assert!(narrowed < peer && peer < route, "{isolation:?}\n{}", done.plan);
        let text = done.plan.to_string();
        assert!(text.contains("conntrack zone 1: cut"), "{text}");
    }
}
