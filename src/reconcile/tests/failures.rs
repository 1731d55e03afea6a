//! A step fails somewhere on the way: nothing is more open than before or than wanted, and the next round heals it.

use proptest::prelude::*;

use super::memory::MemoryHost;
use super::{isolations, nothing, round, settle, target, two_networks};
use crate::intent::IsolationMode;

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, max_shrink_iters: 16, ..ProptestConfig::default() })]

    #[test]
    fn a_step_that_fails_leaves_nothing_more_open(
        from in prop::option::of(any::<u64>()),
        to in any::<u64>(),
        down in prop::bool::weighted(0.2),
        isolation in isolations(),
        at in any::<prop::sample::Index>(),
        repeat in 1_usize..3,
    ) {
        let mut host = MemoryHost::new();
        let before = host.kernel.foreign();
        if let Some(seed) = from {
            settle(&mut host, &target(seed, isolation));
        }
        let goal = target(to, isolation);
        let goal = if down { nothing(&goal) } else { goal };
        // How many steps there are, a copy tells.
        for _ in 0..repeat {
            let steps = {
                let observation = super::block_on(crate::reconcile::Host::observe(&mut host, &goal));
                super::plan(&goal, &observation).steps.len()
            };
            if steps == 0 {
                break;
            }
            host.watch(&goal);
            host.fail_in = Some(at.index(steps));
            let done = round(&mut host, &goal);
            prop_assert!(!done.execution.failures.is_empty(), "{}", done.plan);
            host.fail_in = None;
            host.unwatch();
        }
        settle(&mut host, &goal);
        settle(&mut host, &nothing(&goal));
        prop_assert!(host.kernel.foreign() == before);
    }
}

/// What tells that an interface was a LAN goes last: else a step that failed once would never be made up for.
#[test]
fn whichever_step_of_down_fails_the_lans_go_back_as_they_were() {
    for isolation in [IsolationMode::Vrf, IsolationMode::Rules] {
        let fleet = two_networks(isolation);
        let goal = nothing(&fleet);
        for at in 0.. {
            let mut host = MemoryHost::new();
            let before = host.kernel.foreign();
            settle(&mut host, &fleet);
            host.fail_in = Some(at);
            let done = round(&mut host, &goal);
            if done.execution.failures.is_empty() {
                assert!(at > 10, "{}", done.plan);
                break;
            }
            host.fail_in = None;
            settle(&mut host, &goal);
            let failed = &done.execution.failures[0].step;
            assert!(
                host.kernel.foreign() == before,
                "{isolation:?}, after a failure of {failed}"
            );
        }
    }
}
