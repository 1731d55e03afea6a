//! What hubs do, second by second, and which one carries.

use std::collections::BTreeSet;

use super::*;
use crate::config;
use crate::intent::{self, IsolationMode};
use crate::model::PublicKey;

const FLEET: &str = r#"
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
name = "spoke"
public_key = "gRh13BaDxfSNZ3zEaHSxHRyRUd3JdcUpDn6GLvqsIGc="
host_id = 11

[[networks]]
name = "prod"
id = 1
routing = "static"
prefix_v4 = "100.64.1.0/24"
members = [ { node = "hub-1", role = "hub" }, { node = "hub-2", role = "hub" }, { node = "spoke" } ]
"#;

const LINKS: [&str; 2] = ["wg-sdwan-1", "wg-sdwan-1-2"];

/// A spoke whose two hubs answer, or don't.
struct Spoke {
    intent: HostIntent,
    uplinks: Uplinks,
    start: Moment,
    seconds: u64,
    /// Whether each hub answers.
    answers: [bool; 2],
    received: [u64; 2],
    handshakes: [Option<u64>; 2],
    /// The uplink that the routes are on.
    routes: Option<usize>,
    /// The key that the first hub has turned to.
    turned: Option<PublicKey>,
}

impl Spoke {
    #[expect(clippy::disallowed_methods, reason = "a steady clock has no other beginning")]
    fn new(asks: bool) -> Self {
        let parsed = config::parse_fleet(&[("fleet.d/00.toml".into(), FLEET.to_owned())]).unwrap();
        let facts = intent::Facts {
            isolation: IsolationMode::Vrf,
            host_services_in_vrf: false,
            dummies: true,
            agreements: crate::model::Agreements::NONE,
            gateway: None,
            underlay: Some(std::collections::BTreeMap::new()),
        };
        Self {
            intent: intent::compile(&parsed.fleet, &Name::new("spoke").unwrap(), &facts).unwrap(),
            uplinks: Uplinks::new(asks),
            start: Moment {
                wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
                steady: Instant::now(),
            },
            seconds: 0,
            answers: [true, true],
            received: [0, 0],
            handshakes: [None, None],
            routes: None,
            turned: None,
        }
    }

    fn network(&self) -> &NetworkIntent {
        self.intent.networks.values().next().unwrap()
    }

    fn moment(&self) -> Moment {
        let since = Duration::from_secs(self.seconds);
        Moment {
            wall: self.start.wall + since,
            steady: self.start.steady + since,
        }
    }

    fn seen(&self) -> (l3::Actual, wireguard::Actual) {
        let network = self.network();
        let mut l3 = l3::Actual::default();
        if let Some(at) = self.routes {
            for net in &network.shared {
                let to = l3::RouteTo::Link {
                    device: network.links[at].name.clone(),
                    gateway: None,
                    source: None,
                    mtu: None,
                };
                let route = l3::Route { network: None, to };
                l3.state.routes.insert(l3::route_key(network.table, *net), route);
            }
        }
        let devices = network.links.iter().enumerate().map(|(at, link)| {
            let key: PublicKey = *link.peers.keys().next().unwrap();
            let peer = wireguard::ActualPeer {
                rx_bytes: self.received[at],
                last_handshake: self.handshakes[at].map(|at| self.start.wall + Duration::from_secs(at)),
                ..wireguard::ActualPeer::default()
            };
            let former = wireguard::ActualPeer {
                rx_bytes: 100,
                ..wireguard::ActualPeer::default()
            };
            let peers = match self.turned.filter(|_| at == 0) {
                Some(next) => [(key, former), (next, peer)].into(),
                None => [(key, peer)].into(),
            };
            let device = wireguard::ActualDevice {
                peers,
                ..wireguard::ActualDevice::default()
            };
            (link.name.clone(), device)
        });
        let devices = devices.collect();
        (l3, wireguard::Actual { devices })
    }

    /// Looks, asks, and lets the hubs answer; the routes follow the choice.
    fn look(&mut self) -> Choice {
        let (l3, wireguard) = self.seen();
        let moment = self.moment();
        let choices = self
            .uplinks
            .look(&self.intent, Some(&l3), Some(&wireguard), moment);
        let choice = choices.into_values().next().unwrap();
        self.routes = LINKS.iter().position(|link| *link == choice.carrier.as_str());
        for (link, hub) in self.uplinks.questions() {
            let at = LINKS.iter().position(|name| *name == link.as_str()).unwrap();
            assert_eq!(hub, format!("fe80::{}", at + 1).parse::<Ipv6Addr>().unwrap());
            self.uplinks.asked(&link, moment.steady);
            if self.answers[at] {
                self.received[at] += 112;
            }
        }
        choice
    }

    /// A second for each look; the carriers, one after another.
    fn run(&mut self, seconds: u64) -> Vec<String> {
        let mut carriers: Vec<String> = Vec::new();
        for _ in 0..seconds {
            self.seconds += 1;
            let carrier = self.look().carrier.to_string();
            if carriers.last() != Some(&carrier) {
                carriers.push(carrier);
            }
        }
        carriers
    }
}

#[test]
fn routes_leave_a_silent_hub_within_five_seconds_and_come_back_after_the_hold_down() {
    let mut spoke = Spoke::new(true);
    assert_eq!(spoke.run(30), [LINKS[0]]);
    spoke.answers[0] = false;
    assert_eq!(spoke.run(u64::from(MISSED) + 1), LINKS);
    assert_eq!(spoke.run(30), [LINKS[1]]);
    spoke.answers[0] = true;
    assert_eq!(spoke.run(HOLD_DOWN.as_secs()), [LINKS[1]]);
    assert_eq!(spoke.run(3), [LINKS[1], LINKS[0]]);
}

/// What comes in is counted for the key that the hub uses: the former one says nothing any more.
#[test]
fn a_hub_that_changes_keys_is_still_heard() {
    let mut spoke = Spoke::new(true);
    spoke.handshakes[0] = Some(1);
    assert_eq!(spoke.run(30), [LINKS[0]]);
    let next = PublicKey([9; 32]);
    for network in spoke.intent.networks.values_mut() {
        for peer in network.links[0].peers.values_mut() {
            peer.next_public_key = Some(next);
        }
    }
    assert_eq!(spoke.run(30), [LINKS[0]]);
    spoke.turned = Some(next);
    assert_eq!(spoke.run(60), [LINKS[0]]);
    spoke.answers[0] = false;
    assert_eq!(spoke.run(u64::from(MISSED) + 1), LINKS);
}

#[test]
fn a_move_is_told_with_its_reason() {
    let mut spoke = Spoke::new(true);
    spoke.run(5);
    assert_eq!(spoke.look().reason(), None);
    spoke.answers[0] = false;
    let reasons = |spoke: &mut Spoke| -> Vec<String> {
        let mut reasons = Vec::new();
        for _ in 0..30 {
            spoke.seconds += 1;
            reasons.extend(spoke.look().reason());
        }
        reasons
    };
    assert_eq!(
        reasons(&mut spoke),
        ["hub hub-2 takes over from hub-1, which is silent"]
    );
    spoke.answers[0] = true;
    assert_eq!(
        reasons(&mut spoke),
        ["hub hub-1 takes over from hub-2: it comes first, and has been alive for 20 s"]
    );
}

#[test]
fn a_hub_that_flaps_is_not_come_back_to() {
    let mut spoke = Spoke::new(true);
    spoke.run(5);
    spoke.answers[0] = false;
    spoke.run(6);
    for _ in 0..10 {
        spoke.answers[0] = true;
        assert_eq!(spoke.run(15), [LINKS[1]]);
        spoke.answers[0] = false;
        assert_eq!(spoke.run(6), [LINKS[1]]);
    }
}

#[test]
fn nothing_moves_while_every_hub_is_silent() {
    let mut spoke = Spoke::new(true);
    spoke.run(5);
    spoke.answers = [false, false];
    assert_eq!(spoke.run(60), [LINKS[0]]);
    assert!(
        spoke
            .look()
            .uplinks
            .iter()
            .all(|uplink| uplink.standing == Standing::Silent)
    );
    spoke.answers[1] = true;
    assert_eq!(spoke.run(3), [LINKS[0], LINKS[1]]);
}

#[test]
fn a_hub_that_sends_is_never_asked_and_three_lost_answers_are_no_silence() {
    let mut spoke = Spoke::new(true);
    spoke.run(5);
    for _ in 0..10 {
        spoke.answers[0] = false;
        assert_eq!(spoke.run(u64::from(MISSED) - 1), [LINKS[0]]);
        spoke.answers[0] = true;
        assert_eq!(spoke.run(2), [LINKS[0]]);
    }
    spoke.seconds += 1;
    spoke.look();
    spoke.seconds += 1;
    spoke.received = [1_000_000, 1_000_000];
    let (l3, wireguard) = spoke.seen();
    let moment = spoke.moment();
    spoke
        .uplinks
        .look(&spoke.intent, Some(&l3), Some(&wireguard), moment);
    spoke
        .uplinks
        .questions()
        .iter()
        .for_each(|(link, _)| spoke.uplinks.asked(link, moment.steady));
    // Looks in between, as commands take them, miss nothing.
    for _ in 0..50 {
        spoke
            .uplinks
            .look(&spoke.intent, Some(&l3), Some(&wireguard), moment);
    }
    assert_eq!(spoke.look().carrier.as_str(), LINKS[0]);
}

#[test]
fn a_command_that_looks_first_hides_no_move_from_the_daemon() {
    let mut spoke = Spoke::new(true);
    spoke.run(5);
    spoke.answers[0] = false;
    while spoke.look().reason().is_none() {
        spoke.seconds += 1;
        spoke.routes = Some(0);
    }
    // The routes are still where they were: whoever reads only the devices must hear of it, too.
    spoke.routes = Some(0);
    let (l3, wireguard) = spoke.seen();
    let moment = spoke.moment();
    for l3 in [Some(&l3), None, None] {
        let choices = spoke.uplinks.look(&spoke.intent, l3, Some(&wireguard), moment);
        assert!(choices.values().all(|choice| choice.reason().is_some()));
    }
}

#[test]
fn a_restart_keeps_the_uplink_that_the_routes_are_on() {
    let mut spoke = Spoke::new(true);
    spoke.run(5);
    spoke.answers[0] = false;
    spoke.run(10);
    spoke.uplinks = Uplinks::new(true);
    assert_eq!(spoke.run(30), [LINKS[1]]);
    // Also where the first hub has come back in the meantime: it must prove itself anew.
    spoke.uplinks = Uplinks::new(true);
    spoke.answers[0] = true;
    assert_eq!(spoke.run(15), [LINKS[1]]);
}

#[test]
fn one_look_goes_by_handshakes_and_never_moves_back() {
    let at = |handshakes: [Option<u64>; 2], routes: Option<usize>| {
        let mut spoke = Spoke::new(false);
        spoke.seconds = 1_000;
        (spoke.handshakes, spoke.routes) = (handshakes, routes);
        spoke.look().carrier.to_string()
    };
    assert_eq!(at([None, None], None), LINKS[0]);
    assert_eq!(at([None, Some(990)], None), LINKS[1]);
    assert_eq!(at([Some(990), Some(990)], Some(0)), LINKS[0]);
    assert_eq!(at([Some(600), Some(990)], Some(0)), LINKS[1]);
    assert_eq!(at([Some(600), Some(600)], Some(0)), LINKS[0]);
    assert_eq!(at([Some(990), Some(990)], Some(1)), LINKS[1]);
}

#[test]
fn only_shared_routes_go_over_the_uplink_that_carries() {
    let spoke = Spoke::new(true);
    let network = spoke.network();
    let state = l3::compile(&spoke.intent, &l3::Facts::offline());
    let choice = |link: &str| Choice {
        carrier: LinkName::new(link).unwrap(),
        former: None,
        uplinks: Vec::new(),
    };
    let over = |link| over(&state, &spoke.intent, &[(network.id, choice(link))].into()).into_owned();
    assert_eq!(over(LINKS[0]), state);
    let moved = over(LINKS[1]);
    let (mut shared, mut own) = (BTreeSet::new(), BTreeSet::new());
    for (key, route) in &moved.routes {
        let Some(device) = route.to.device() else { continue };
        let is_shared = network.shared.contains(&key.destination);
        let found = if is_shared { &mut shared } else { &mut own };
        found.insert(format!("{} {device}", key.destination));
    }
    assert_eq!(
        shared.into_iter().collect::<Vec<_>>(),
        ["100.64.1.0/24 wg-sdwan-1-2", "fd12:34ab:cd42:1::/64 wg-sdwan-1-2"]
    );
    assert!(own.contains("fd12:34ab:cd42:1::1/128 wg-sdwan-1"), "{own:?}");
    assert!(own.contains("fd12:34ab:cd42:1::2/128 wg-sdwan-1-2"), "{own:?}");
}
