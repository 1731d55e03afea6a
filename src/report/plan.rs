//! Plans and what became of them, for `plan`, `apply` and `down`.

use std::fmt;

use serde::Serialize;

use crate::reconcile::{Failure, Plan, Round};

/// A plan with its fingerprint.
#[derive(Debug, Serialize)]
pub struct PlanReport<'a> {
    /// What `apply --plan` takes.
    fingerprint: String,
    #[serde(flatten)]
    plan: &'a Plan,
}

impl<'a> PlanReport<'a> {
    /// The report of a plan.
    #[must_use]
    pub fn new(plan: &'a Plan) -> Self {
        Self {
            fingerprint: plan.fingerprint(),
            plan,
        }
    }
}

/// What became of a plan.
#[derive(Debug, Serialize)]
pub struct RoundReport<'a> {
    /// Whether the host is now as it should be.
    pub ok: bool,
    /// What was planned.
    plan: PlanReport<'a>,
    /// How many changes were made.
    done: usize,
    /// How many were left out because an earlier one failed.
    skipped: usize,
    /// Which failed, and why.
    failures: &'a [Failure],
    /// What is left to do, read back from the host.
    left: &'a Plan,
}

impl<'a> RoundReport<'a> {
    /// The report of a round.
    #[must_use]
    pub fn new(round: &'a Round) -> Self {
        Self {
            ok: round.execution.failures.is_empty() && round.left.is_converged(),
            plan: PlanReport::new(&round.plan),
            done: round.execution.done,
            skipped: round.execution.skipped,
            failures: &round.execution.failures,
            left: &round.left,
        }
    }
}

impl fmt::Display for RoundReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.plan.plan.is_empty() {
            write!(f, "{}", self.plan.plan)?;
        }
        for failure in self.failures {
            writeln!(
                f,
                "failed: {} ({}): {}",
                failure.step, failure.plane, failure.error
            )?;
        }
        if self.skipped > 0 {
            writeln!(f, "left out after failures: {} changes", self.skipped)?;
        }
        if self.ok {
            return writeln!(
                f,
                "verified: {} changes made, the host is as it should be",
                self.done
            );
        }
        writeln!(f, "{} changes made; what is left:", self.done)?;
        write!(f, "{}", self.left)
    }
}
