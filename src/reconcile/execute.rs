//! Runs a plan, and says what became of it.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Change, Host, Observation, Plan, Step, Target, plan};
use crate::model::NetworkId;
use crate::planes::{Phase, PlaneName};

/// What became of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Execution {
    /// How many steps were done.
    pub done: usize,
    /// The steps that failed.
    pub failures: Vec<Failure>,
    /// How many steps were left out because an earlier one failed.
    pub skipped: usize,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// When it ran.
    pub phase: Phase,
    /// Whose it was.
    pub plane: PlaneName,
    /// The network it concerned; none for the whole host.
    pub network: Option<NetworkId>,
    /// What was tried.
    pub step: String,
    /// What the host said.
    pub error: String,
}

/// One round: what was planned, what became of it, and what is left to do.
#[derive(Clone, Debug)]
pub struct Round {
    /// What was planned.
    pub plan: Plan,
    /// What became of it.
    pub execution: Execution,
    /// The plan after execution; empty if the host is now as it should be.
    pub left: Plan,
}

impl Round {
    /// Whether it changed this plane, and left nothing to do in it. That a peer is called elsewhere, since it doesn't answer,
    /// is no such change.
    #[must_use]
    pub fn put_right(&self, plane: PlaneName) -> bool {
        let has = |plan: &Plan| {
            let of_plane = |step: &&Step| step.plane == plane && !step.change.is_attempt();
            plan.steps.iter().any(|step| of_plane(&step))
        };
        let is_unreadable = self.left.unreadable.iter().any(|one| one.plane == plane);
        has(&self.plan) && !has(&self.left) && !is_unreadable
    }
}

/// Plans, executes, and reads back what was touched. Without steps the host is read once and nothing is written.
pub async fn converge<H: Host>(host: &mut H, target: &Target) -> Round {
    converge_seen(host, target).await.0
}

/// The same, with what was read last: for whoever tells of the host without reading it again.
pub async fn converge_seen<H: Host>(host: &mut H, target: &Target) -> (Round, Observation) {
    let observation = host.observe(target).await;
    let planned = plan(target, &observation);
    if planned.is_empty() {
        note_verified(host, &planned, &observation);
        let round = Round {
            left: planned.clone(),
            plan: planned,
            execution: Execution::default(),
        };
        return (round, observation);
    }
    let execution = execute(host, &planned).await;
    let touched: BTreeSet<PlaneName> = planned.steps.iter().map(|step| step.plane).collect();
    let mut observation = host.observe_again(target, observation, &touched).await;
    if touched.contains(&PlaneName::Firewall) {
        // The listing that was remembered is of before our own changes.
        observation.verified = None;
    }
    let left = plan(target, &observation);
    note_verified(host, &left, &observation);
    let round = Round {
        plan: planned,
        execution,
        left,
    };
    (round, observation)
}

fn note_verified<H: Host>(host: &mut H, left: &Plan, observation: &Observation) {
    if left.steps.iter().all(|step| step.plane != PlaneName::Firewall) {
        host.verified(observation);
    }
}

/// Runs the steps in order.
///
/// After a failure nothing more of the same network is connected or opened; after a failure that concerns the whole
/// host, nothing at all. What restricts or disconnects still runs; but no interface leaves its VRF.
pub async fn execute<H: Host>(host: &mut H, plan: &Plan) -> Execution {
    let mut execution = Execution::default();
    let mut broken = Broken::default();
    for group in plan.steps.chunk_by(belong_together) {
        if broken.skips(&group[0]) {
            execution.skipped += group.len();
            continue;
        }
        let changes: Vec<&Change> = group.iter().map(|step| &step.change).collect();
        let results = host.apply(&changes).await;
        for (step, result) in group.iter().zip(results) {
            match result {
                Ok(()) => execution.done += 1,
                Err(error) => {
                    broken.note(step);
                    execution.failures.push(failure(step, error));
                }
            }
        }
    }
    execution
}

/// Whether two steps that follow each other may go to the host at once.
fn belong_together(one: &Step, next: &Step) -> bool {
    // Connections of all networks are cut at once: nothing comes after.
    let network = |step: &Step| step.network.filter(|_| step.phase != Phase::Cut);
    let key = |step: &Step| (step.phase, step.plane, network(step), step.change.releases());
    // A VRF that goes while an interface in it was not given back takes that one's IPv6 addresses along.
    key(one) == key(next) && !one.change.releases()
}

fn failure(step: &Step, error: String) -> Failure {
    Failure {
        phase: step.phase,
        plane: step.plane,
        network: step.network,
        step: step.text.lines().next().unwrap_or_default().to_owned(),
        error,
    }
}

#[derive(Default)]
struct Broken {
    host: bool,
    networks: BTreeSet<NetworkId>,
}

impl Broken {
    fn note(&mut self, step: &Step) {
        match step.network {
            Some(network) if step.plane != PlaneName::Firewall => {
                self.networks.insert(network);
            }
            // The firewall is one table: what failed for one network may be missing for all.
            Some(_) | None => self.host = true,
        }
    }

    /// An interface that leaves its VRF is judged by nobody unless the firewall was told before, and a link that
    /// couldn't be deleted would leave with its VRF.
    fn skips(&self, step: &Step) -> bool {
        let restricts = !step.change.opens() && !step.change.releases();
        let concerned = self.host
            || match step.network {
                Some(network) => self.networks.contains(&network),
                // A step for the whole host that opens waits until nothing is broken.
                None => step.phase == Phase::Widen && !self.networks.is_empty(),
            };
        concerned && !restricts
    }
}
