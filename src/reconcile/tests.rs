//! Random fleets on a host in memory: every way leads there, failing steps leave nothing open, foreign objects stay.

mod bridges;
mod failures;
mod following;
mod memory;

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{Change, ConditionState, Conditions, Round, Target, conditions, converge, execute, plan};
use crate::config;
use crate::intent::{self, IsolationMode};
use crate::model::{Fleet, LinkName, Name};
use crate::planes::{Phase, PlaneName, l3};
use memory::MemoryHost;

#[path = "../../tests/common/fleets.rs"]
#[allow(dead_code, clippy::pedantic, reason = "shared with the benches")]
mod fleets;

fn parse(text: &[(std::path::PathBuf, String)]) -> Fleet {
    match config::parse_fleet(text) {
        Ok(parsed) => parsed.fleet,
        Err(found) => panic!("{found}\n{}", text[0].1),
    }
}

fn target_of(fleet: &Fleet, isolation: IsolationMode) -> Target {
    let facts = intent::Facts {
        isolation,
        host_services_in_vrf: false,
        dummies: true,
        agreements: crate::model::Agreements::NONE,
        gateway: None,
        underlay: Some(std::collections::BTreeMap::new()),
    };
    let intent = intent::compile(fleet, &Name::new("me").unwrap(), &facts).unwrap();
    Target::new(intent, memory::key().public(), &l3::Facts::offline())
}

/// The target of node `me` in a random fleet.
fn target(seed: u64, isolation: IsolationMode) -> Target {
    let key = memory::key().public().to_string();
    target_of(&parse(&fleets::random(seed, &key)), isolation)
}

fn nothing(of: &Target) -> Target {
    of.without_networks(&l3::Facts::offline())
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

fn round(host: &mut MemoryHost, target: &Target) -> Round {
    block_on(converge(host, target))
}

/// Converges, and checks that this was all there was to do.
fn settle(host: &mut MemoryHost, target: &Target) -> Round {
    host.watch(target);
    let done = round(host, target);
    host.unwatch();
    assert_eq!(done.execution.failures, [], "{}", done.plan);
    assert_eq!(done.execution.skipped, 0);
    assert_eq!(done.execution.done, done.plan.steps.len());
    assert!(done.left.is_converged(), "{}after:\n{}", done.left, done.plan);
    let found = conditions(target, &done, &Conditions::new(), 7);
    for (key, condition) in &found {
        assert_eq!(condition.state, ConditionState::Converged, "{key:?}");
    }
    assert_eq!(found.len(), 3 * target.intent.networks.len());
    let written = host.written;
    let again = round(host, target);
    assert!(again.plan.is_converged(), "{}", again.plan);
    assert_eq!(host.written, written);
    done
}

fn isolations() -> impl Strategy<Value = IsolationMode> {
    prop::sample::select(vec![IsolationMode::Vrf, IsolationMode::Rules])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, max_shrink_iters: 16, ..ProptestConfig::default() })]

    #[test]
    fn any_fleet_leads_to_any_other_and_to_nothing(
        seeds in prop::collection::vec(any::<u64>(), 1..4), isolation in isolations()
    ) {
        let mut host = MemoryHost::new();
        let (foreign, others) = (host.kernel.foreign(), host.others());
        for seed in &seeds {
            let target = target(*seed, isolation);
            settle(&mut host, &target);
            prop_assert_eq!(&host.others(), &others);
            prop_assert_eq!(host.ours(), target.l3.links.keys().cloned().collect::<BTreeSet<LinkName>>());
        }
        settle(&mut host, &nothing(&target(seeds[0], isolation)));
        prop_assert!(host.kernel.foreign() == foreign, "{:#?}\n{:#?}", host.kernel.foreign(), foreign);
        prop_assert_eq!(host.ours(), BTreeSet::new());
        prop_assert_eq!(&host.table, &None);
        prop_assert!(host.kernel.routes.iter().all(|(key, (protocol, _))| *protocol != 241 || key.table == 500));
    }

    #[test]
    fn steps_run_by_phase_and_take_the_isolation_with_them(seed in any::<u64>()) {
        // From one isolation to the other: the same fleet, another mechanism.
        let mut host = MemoryHost::new();
        settle(&mut host, &target(seed, IsolationMode::Vrf));
        let moved = settle(&mut host, &target(seed, IsolationMode::Rules));
        prop_assert!(moved.plan.steps.is_sorted_by_key(|step| step.phase));
        settle(&mut host, &target(seed, IsolationMode::Vrf));
    }
}

/// A hub with two networks, each with a LAN and a spoke.
fn two_networks(isolation: IsolationMode) -> Target {
    let me = memory::key().public();
    let spoke = fleets::public_key(1);
    let mut text = format!(
        "[site]\nname = \"s\"\nprefix = \"fd12:34ab:cd42::/48\"\n\
         [[nodes]]\nname = \"me\"\npublic_key = \"{me}\"\nhost_id = 1\nendpoints = [\"192.0.2.1\"]\n\
         [[nodes]]\nname = \"n1\"\npublic_key = \"{spoke}\"\nhost_id = 2\n"
    );
    for id in [1, 2] {
        text += &format!(
            "[[networks]]\nname = \"net{id}\"\nid = {id}\nrouting = \"static\"\nmembers = [\n\
             {{ node = \"me\", role = \"hub\", lans = [{{ subnet = \"10.{id}0.0.0/16\", interface = \"lan{id}\" }}] }},\n\
             {{ node = \"n1\" }} ]\n\
             [[networks.rules]]\nname = \"all\"\naction = \"accept\"\nfrom = \"any\"\nto = \"any\"\n"
        );
    }
    target_of(&parse(&[("fleet.d/00.toml".into(), text)]), isolation)
}

#[test]
fn an_unreadable_firewall_opens_nothing() {
    let mut host = MemoryHost::new();
    host.unreadable = Some(PlaneName::Firewall);
    let done = round(&mut host, &two_networks(IsolationMode::Vrf));
    assert!(done.plan.is_empty() && !done.plan.is_converged(), "{}", done.plan);
    assert_eq!(host.written, 0);
    // What disconnects still runs.
    host.unreadable = None;
    settle(&mut host, &two_networks(IsolationMode::Vrf));
    host.unreadable = Some(PlaneName::Firewall);
    let done = round(&mut host, &nothing(&two_networks(IsolationMode::Vrf)));
    assert!(done.plan.steps.iter().all(|step| !step.change.opens()));
    let left: Vec<String> = host.ours().iter().map(ToString::to_string).collect();
    assert_eq!(
        left,
        ["sdwan-1", "sdwan-2"],
        "links are gone; LANs stay where they were"
    );
    assert!(host.table.is_some());
}

#[test]
fn anothers_key_opens_nothing() {
    let mut target = two_networks(IsolationMode::Vrf);
    target.own_key = crate::model::PublicKey([9; 32]);
    let mut host = MemoryHost::new();
    let done = round(&mut host, &target);
    assert!(
        done.plan.steps.iter().all(|step| !step.change.opens()),
        "{}",
        done.plan
    );
    assert_eq!(host.ours(), BTreeSet::new());
    assert!(
        done.left
            .blocked
            .iter()
            .any(|blocked| blocked.plane == PlaneName::Wireguard)
    );
    let found = conditions(&target, &done, &Conditions::new(), 1);
    assert_eq!(
        found[&(PlaneName::Wireguard, None)].state,
        ConditionState::Blocked
    );
}

#[test]
fn without_the_links_wireguard_is_left_alone() {
    let target = two_networks(IsolationMode::Vrf);
    let mut host = MemoryHost::new();
    settle(&mut host, &target);
    host.unreadable = Some(PlaneName::L3);
    let done = round(&mut host, &nothing(&target));
    assert!(
        done.plan
            .steps
            .iter()
            .all(|step| step.plane == PlaneName::Firewall),
        "{}",
        done.plan
    );
    // A device that is there under our name, on a link that isn't known to be ours.
    let mut observation = block_on(super::Host::observe(&mut host, &target));
    observation.wireguard = Ok(crate::planes::wireguard::Actual::default());
    let planned = plan(&target, &observation);
    assert!(
        planned
            .steps
            .iter()
            .all(|step| step.plane != PlaneName::Wireguard),
        "{planned}"
    );
}

#[test]
fn a_foreign_link_of_our_name_keeps_its_peers() {
    let target = two_networks(IsolationMode::Vrf);
    let mut host = MemoryHost::new();
    let link = LinkName::new("wg-sdwan-1").unwrap();
    host.kernel.add_device(&link, Some("wireguard"), None, 0);
    host.wg.create(link.as_str());
    let done = round(&mut host, &target);
    assert!(host.wg.read(link.as_str()).unwrap().peers.is_empty());
    assert_eq!(done.execution.failures, [], "{}", done.plan);
    let found = conditions(&target, &done, &Conditions::new(), 1);
    let state = |id| found[&(PlaneName::L3, Some(crate::model::NetworkId::new(id).unwrap()))].state;
    assert_eq!(
        (state(1), state(2)),
        (ConditionState::Blocked, ConditionState::Converged)
    );
}

#[test]
fn a_failed_network_stops_and_the_other_goes_on() {
    let target = two_networks(IsolationMode::Vrf);
    let mut host = MemoryHost::new();
    host.fail_when = Some(|change: &Change| change.to_string().starts_with("ip link add wg-sdwan-1 "));
    let done = round(&mut host, &target);
    let failures = &done.execution.failures;
    assert!(
        failures
            .iter()
            .all(|failure| failure.network.map(crate::model::NetworkId::get) == Some(1)),
        "{failures:?}"
    );
    let failed = &failures[0];
    assert_eq!(
        (failed.plane, failed.network.map(crate::model::NetworkId::get)),
        (PlaneName::L3, Some(1))
    );
    assert!(done.execution.skipped > 0);
    // Of the failed network nothing came after; the other one is up.
    assert!(host.wg.read("wg-sdwan-1").is_err());
    assert_eq!(host.wg.read("wg-sdwan-2").unwrap().peers.len(), 1);
    assert!(host.kernel.devices[&LinkName::new("wg-sdwan-2").unwrap()].up);

    let found = conditions(&target, &done, &Conditions::new(), 100);
    let state = |found: &Conditions, plane, id| {
        let condition = &found[&(plane, Some(crate::model::NetworkId::new(id).unwrap()))];
        (condition.state, condition.since)
    };
    assert_eq!(state(&found, PlaneName::L3, 1), (ConditionState::Failed, 100));
    assert_eq!(state(&found, PlaneName::L3, 2), (ConditionState::Converged, 100));
    let done = round(&mut host, &target);
    let later = conditions(&target, &done, &found, 200);
    assert_eq!(state(&later, PlaneName::L3, 1), (ConditionState::Failed, 100));
    host.fail_when = None;
    let done = settle(&mut host, &target);
    let last = conditions(&target, &done, &later, 300);
    assert_eq!(state(&last, PlaneName::L3, 1), (ConditionState::Converged, 300));
    assert_eq!(state(&last, PlaneName::L3, 2), (ConditionState::Converged, 100));
}

#[test]
fn a_failed_firewall_connects_nothing() {
    let target = two_networks(IsolationMode::Vrf);
    let mut host = MemoryHost::new();
    host.fail_when = Some(|change: &Change| change.plane() == PlaneName::Firewall);
    let observation = block_on(super::Host::observe(&mut host, &target));
    let done = block_on(execute(&mut host, &plan(&target, &observation)));
    assert_eq!(done.done, 0);
    assert_eq!(host.ours(), BTreeSet::new());
}

#[test]
fn a_rule_replaced_behind_its_comment_is_put_back() {
    let target = two_networks(IsolationMode::Vrf);
    let mut host = MemoryHost::new();
    settle(&mut host, &target);
    let wanted = host.table.clone();
    let chains = &mut host.table.as_mut().unwrap().chains;
    let chain = chains.values_mut().find(|chain| chain.rules.len() > 1).unwrap();
    let (first, second) = (chain.rules[0].line.clone(), chain.rules[1].line.clone());
    (chain.rules[0].line, chain.rules[1].line) = (second, first);
    let tampered = host.bodies();
    let done = settle(&mut host, &target);
    assert!(!done.plan.is_empty());
    assert_eq!(host.table, wanted);
    assert_ne!(host.bodies(), tampered);
}

#[test]
fn a_table_that_is_gone_comes_back_in_one_step_where_nothing_else_changes() {
    let target = two_networks(IsolationMode::Vrf);
    let mut host = MemoryHost::new();
    settle(&mut host, &target);
    let phases = |done: &Round| done.plan.steps.iter().map(|step| step.phase).collect::<Vec<_>>();
    host.table = None;
    let done = settle(&mut host, &target);
    assert_eq!(phases(&done), [Phase::Narrow, Phase::Cut, Phase::Cut]);
    // With a link to be made it comes as ever: closed first, open when the rest is there.
    host.table = None;
    host.kernel.devices.remove(&LinkName::new("wg-sdwan-1").unwrap());
    host.wg.remove("wg-sdwan-1");
    let done = settle(&mut host, &target);
    assert!(phases(&done).contains(&Phase::Widen), "{}", done.plan);
    // Another's key opens nothing: not even what the rules say.
    host.table = None;
    let stranger = Target {
        own_key: crate::model::PublicKey([9; 32]),
        ..target
    };
    let done = round(&mut host, &stranger);
    assert!(host.table.is_some());
    assert_ne!(host.table, stranger.firewall.table, "{}", done.plan);
}
