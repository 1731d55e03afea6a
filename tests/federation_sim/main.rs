//! Two sovereign sites in virtual time: real gateways, ledgers, CAs and certificates, and a network and clocks that lie.
//!
//! ```text
//! site a: gateway, ledger, pulse, probes ◀── lost, doubled, late, out of order, cut ──▶ site b: the same
//!         wall clock that is wrong and is set, monotonic clock, starts that end any time
//! ```
//!
//! A scenario is its seed: chaos, then a whole network in which both must become active by themselves. What must never
//! happen is looked for after every step.

#![expect(
    clippy::disallowed_methods,
    clippy::similar_names,
    clippy::unwrap_used,
    reason = "tests need a point to count from, say so when they fail, and a site has a side"
)]

mod calls;
mod sim;
mod site;

use std::time::Duration;

use sdwand::federation::peer::Status;
use sdwand::federation::pki::certificates_of;
use sdwand::federation::pki::verify::fingerprint_of;

use crate::sim::Sim;
use crate::site::{BOUND, Side, TICK};

/// How many seeds are tried.
const SCENARIOS: u64 = 32;

/// Every 20 s, as an operator would.
fn takes(sim: &mut Sim) {
    if sim.now.as_millis().is_multiple_of(20_000) {
        sim.take();
    }
}

/// What scenarios have come to: that the simulation simulates.
#[derive(Debug, Default)]
struct Tally {
    healed: usize,
    stolen: usize,
    revoked: usize,
    suspended: usize,
    degraded: usize,
    misled: usize,
    retold: usize,
    restarted: u64,
    witnessed: usize,
}

fn scenario(seed: u64, tally: &mut Tally) {
    let mut sim = Sim::new(seed);
    let has_thief = sim.dice.one_in(4);
    // Shorter than an answer is kept, by the clock that is wrong the most.
    sim.chaos(Duration::from_secs(480), |sim| {
        if has_thief && sim.dice.one_in(40) {
            sim.steal();
        }
        takes(sim);
    });
    sim.calm(Duration::from_secs(60), takes);
    let b = sim.sites[Side::B as usize].ca.0.clone();
    let root = certificates_of(&b).unwrap().remove(0);
    let own = fingerprint_of(&root).unwrap();
    let (client, _) = sim.consumed.clone().unwrap();
    if client == own {
        sim.heals();
        let mut stops = Vec::new();
        sim.chaos(Duration::from_secs(600), |sim| {
            for side in Side::BOTH {
                if !sim.is_up(side) || !sim.dice.one_in(1_000) {
                    continue;
                }
                if sim.peer(side).status == Status::Suspended {
                    sim.operate(side, |gateway, id, wall| drop(gateway.resume(id, wall).unwrap()));
                } else {
                    sim.operate(side, |gateway, id, wall| {
                        drop(gateway.suspend(id, "maintenance", wall).unwrap());
                    });
                    stops.push(side);
                }
            }
        });
        tally.suspended += stops.len();
        // Who is stopped is let go on: that is the last that an operator does.
        sim.calm(TICK, |_| {});
        for side in Side::BOTH {
            if sim.peer(side).status == Status::Suspended {
                sim.operate(side, |gateway, id, wall| drop(gateway.resume(id, wall).unwrap()));
            }
        }
        sim.heals();
        tally.healed += 1;
        if sim.dice.one_in(2) {
            let ends = Side::BOTH[usize::from(sim.dice.one_in(2))];
            sim.operate(ends, |gateway, id, wall| {
                drop(gateway.revoke(id, "for good", wall).unwrap());
            });
            sim.chaos(Duration::from_secs(180), |_| {});
            sim.calm(BOUND, |_| {});
            assert_eq!(sim.peer(ends).status, Status::Revoked, "seed {seed}");
            assert_eq!(sim.peer(ends.other()).status, Status::Degraded, "seed {seed}");
            tally.revoked += 1;
        }
    } else {
        sim.calm(BOUND, takes);
        assert_eq!(
            sim.statuses(),
            [Status::Enrolled, Status::Proposed],
            "seed {seed}: the thief's"
        );
        tally.stolen += 1;
    }
    tally.misled += sim.misled;
    tally.retold += sim.retold;
    audits(&sim, seed, tally);
}

/// What the audits of both sites say in the end.
fn audits(sim: &Sim, seed: u64, tally: &mut Tally) {
    for site in &sim.sites {
        let ledger = &site.running.as_ref().unwrap().gateway.ledger;
        assert_eq!(ledger.audit_verify().unwrap(), ledger.head(), "seed {seed}");
        let verified = site.running.as_ref().unwrap().gateway.verify_audit().unwrap();
        assert!(verified.contradicted.is_empty(), "seed {seed}: {verified:?}");
        tally.witnessed += verified.witnessed.len();
        tally.restarted += ledger.starts() - 1;
        let records = ledger.audit_tail(10_000).unwrap();
        // However late, doubled and out of order its beats are, an honest ledger never seems to have gone back.
        let kinds = || records.iter().map(|record| record.kind.as_str());
        assert!(
            !kinds().any(|kind| kind == "federation.peer.ledger_regressed"),
            "seed {seed}"
        );
        tally.degraded += records
            .iter()
            .filter(|record| record.kind == "federation.peer.degraded")
            .count();
    }
}

#[test]
fn whatever_network_and_clocks_do_both_sites_find_back_and_nobody_else_gets_in() {
    let mut tally = Tally::default();
    for seed in 0..SCENARIOS {
        scenario(seed, &mut tally);
    }
    println!("{tally:?}");
    // What never happens proves nothing.
    let Tally {
        healed,
        stolen,
        revoked,
        suspended,
        degraded,
        misled,
        retold,
        restarted,
        witnessed,
    } = tally;
    let counts = [
        healed, stolen, revoked, suspended, degraded, misled, retold, witnessed,
    ];
    assert!(restarted > 0 && counts.iter().all(|count| *count > 0));
}
