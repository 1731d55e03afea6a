//! The plan: every change, in order, as data that is printed, stored and executed alike.

use std::fmt;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Change, Observation, Target, fib, guard, holes, order, uplinks};
use crate::intent::{Blocked, Notice};
use crate::model::fleet::FleetDigest;
use crate::model::{Name, NetworkId};
use crate::planes::{Difference, Phase, PlaneName, firewall, l3, wireguard};

/// What makes the host as the target says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The host.
    pub node: Name,
    /// What it was compiled from.
    pub fleet_digest: FleetDigest,
    /// The changes, in the order in which they run.
    pub steps: Vec<Step>,
    /// What can't be made true as things are.
    pub blocked: Vec<BlockedPlane>,
    /// Planes that could not be read: nothing is planned for them.
    pub unreadable: Vec<Unreadable>,
    /// What the operator should know.
    pub notices: Vec<Notice>,
}

/// One change with what orders it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// When it runs.
    pub phase: Phase,
    /// Whose it is.
    pub plane: PlaneName,
    /// The network it concerns; none for the whole host.
    pub network: Option<NetworkId>,
    /// The change in its subsystem's own syntax.
    pub text: String,
    /// The change.
    #[serde(skip)]
    pub change: Change,
}

/// What can't be made true, and in which plane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BlockedPlane {
    /// The plane.
    pub plane: PlaneName,
    /// What, why, and what to do.
    #[serde(flatten)]
    pub blocked: Blocked,
}

/// A plane that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// The plane.
    pub plane: PlaneName,
    /// Why.
    pub reason: String,
}

impl Plan {
    /// Whether there is nothing to do. Something may still be blocked or unreadable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether the host is known to be as the target says.
    #[must_use]
    pub fn is_converged(&self) -> bool {
        self.steps.is_empty() && self.blocked.is_empty() && self.unreadable.is_empty()
    }

    /// SHA-256 over the steps' texts, as hexadecimal digits: two plans with the same one do the same.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for step in &self.steps {
            hash.update(format!("{} {} {}\0", step.phase, step.plane, step.text));
        }
        FleetDigest(hash.finalize().into()).to_string()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = None;
        for step in &self.steps {
            if last != Some((step.phase, step.plane)) {
                writeln!(f, "# phase {}: {}", step.phase, step.plane)?;
                last = Some((step.phase, step.plane));
            }
            for line in step.text.lines() {
                writeln!(f, "  {line}")?;
            }
        }
        for unreadable in &self.unreadable {
            writeln!(f, "unreadable: {}: {}", unreadable.plane, unreadable.reason)?;
        }
        for BlockedPlane { plane, blocked } in &self.blocked {
            writeln!(f, "blocked: {plane}: {}\n  fix: {}", blocked.reason, blocked.fix)?;
        }
        for notice in &self.notices {
            write!(f, "note: ")?;
            if let Some(network) = &notice.network {
                write!(f, "network {network}: ")?;
            }
            writeln!(f, "{}: {}", notice.object, notice.text)?;
        }
        match self.steps.len() {
            0 if self.is_converged() => writeln!(f, "no changes: the host is as the fleet says"),
            0 => writeln!(f, "no changes can be made"),
            1 => writeln!(f, "1 change"),
            n => writeln!(f, "{n} changes"),
        }
    }
}

/// Compares the target with what was observed.
#[must_use]
pub fn plan(target: &Target, observation: &Observation) -> Plan {
    let mut unreadable = Vec::new();
    let mut note = |plane, reason: &String| {
        unreadable.push(Unreadable {
            plane,
            reason: reason.clone(),
        });
    };
    let l3 = match &observation.l3 {
        Ok(actual) => {
            let devices = observation
                .wireguard
                .iter()
                .flat_map(|found| found.devices.values());
            let peers = devices.flat_map(|device| device.peers.values());
            let around = l3::Around {
                protected: observation.protected.clone(),
                endpoints: peers.filter_map(|peer| Some(peer.endpoint?.ip())).collect(),
            };
            let desired = uplinks::over(&target.l3, &target.intent, &observation.uplinks);
            l3::diff(&desired, actual, &around)
        }
        Err(reason) => {
            note(PlaneName::L3, reason);
            Difference::default()
        }
    };
    let mut followed = fib::follow(target, observation.l3.as_ref().ok());
    let wireguard = match &observation.wireguard {
        Ok(actual) => plan_wireguard(target, observation, actual, &mut followed),
        Err(reason) => {
            note(PlaneName::Wireguard, reason);
            Difference::default()
        }
    };
    let settled = target.key_matches()
        && observation.l3.is_ok()
        && observation.wireguard.is_ok()
        && l3.changes.is_empty()
        && wireguard.changes.is_empty();
    let firewall = match &observation.firewall {
        Ok(actual) => firewall::diff(&target.firewall, actual, observation.verified.as_ref(), settled),
        Err(reason) => {
            note(PlaneName::Firewall, reason);
            Difference::default()
        }
    };
    let found = guard::Found {
        l3,
        wireguard,
        firewall,
    };
    let (mut changes, mut blocked) = guard::guard(target, observation, found);
    order::order(&mut changes);
    blocked.extend(target.blocked.iter().cloned());
    blocked.sort();
    blocked.dedup();
    Plan {
        node: target.intent.node.clone(),
        fleet_digest: target.intent.fleet_digest,
        steps: changes.into_iter().map(step).collect(),
        blocked,
        unreadable,
        notices: noted(target, observation, followed.notices),
    }
}

fn plan_wireguard(
    target: &Target,
    observation: &Observation,
    actual: &wireguard::Actual,
    followed: &mut fib::Followed<'_>,
) -> Difference<wireguard::Change> {
    let facts = wireguard::Facts {
        own_key: &target.own_key,
        names: &observation.names,
        ways: &observation.ways,
        calls: &observation.calls,
        now: observation.now,
    };
    let mut difference = wireguard::diff(&followed.desired, actual, facts);
    // A configuration that is another host's says nothing of this one's routes.
    if target.key_matches() {
        difference.blocked.append(&mut followed.blocked);
    }
    difference
}

/// What the operator should know, of the fleet and of this host as it was observed.
#[must_use]
pub fn notices(target: &Target, observation: &Observation) -> Vec<Notice> {
    let followed = fib::follow(target, observation.l3.as_ref().ok());
    noted(target, observation, followed.notices)
}

fn noted(target: &Target, observation: &Observation, followed: Vec<Notice>) -> Vec<Notice> {
    let mut notices = target.intent.notices.clone();
    notices.extend(followed);
    if let Ok(actual) = &observation.wireguard {
        let notes = wireguard::rotation_notes(&target.wireguard, actual, &target.own_key, observation.now);
        notices.extend(notes);
    }
    notices.extend(uplinks::notices(&target.intent, &observation.uplinks));
    notices.extend(holes::notices(&observation.holes));
    notices.sort();
    notices
}

fn step(change: Change) -> Step {
    Step {
        phase: change.phase(),
        plane: change.plane(),
        network: change.network(),
        text: change.to_string(),
        change,
    }
}
