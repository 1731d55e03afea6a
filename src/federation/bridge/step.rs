//! How a row moves on: what the fleet wants, what the peer has said, and what stands against it, in one step.

use ipnet::IpNet;

use super::half::Half;
use super::{BridgeRow, Content, Event, Ours, PresharedHalf, State, WaitsFor};
use crate::federation::moment::Moment;
use crate::model::Name;

/// What the fleet wants of a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// What it calls the bridge.
    pub name: Name,
    /// The network it leads into.
    pub network: Name,
    /// What the peer calls its own.
    pub remote_network: Name,
    /// What it imports, in order.
    pub import: Vec<IpNet>,
    /// What the peer is told; none where that can't be told.
    pub content: Option<Content>,
    /// What of our side stands against an agreement.
    pub obstacle: Option<WaitsFor>,
    /// Whether an operator has paused what is new: what is agreed goes on.
    pub is_paused: bool,
}

/// What became of a row in one step, for the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Our end as it was when it moved to its state.
    Moved(Box<Ours>),
    /// What is told or imported is other than before; the state is the same.
    Amended(Box<Ours>),
}

/// Where an agreement stands that is wanted: what it waits for, if anything.
#[must_use]
pub fn standing(row: &BridgeRow, obstacle: Option<WaitsFor>) -> Option<WaitsFor> {
    obstacle.or_else(|| row.theirs.is_none().then_some(WaitsFor::Peer))
}

/// Moves `row` on. `draw` gives the secret of a new row, or of one that is resumed; without one, neither happens, and a later
/// step does it. The same step twice changes nothing the second time.
pub fn step(
    row: &mut BridgeRow,
    want: Option<&Want>,
    ended: &str,
    draw: &mut dyn FnMut() -> Option<PresharedHalf>,
    now: Moment,
) -> Vec<Change> {
    let mut changes = Vec::new();
    let Some(want) = want else {
        end(row, ended, now, &mut changes);
        return changes;
    };
    let is_agreed = row
        .live()
        .is_some_and(|ours| ours.state == State::Active || ours.state == State::Suspended);
    if is_agreed && row.theirs.is_none() {
        end(row, "the peer has taken it back", now, &mut changes);
    }
    if row.live().is_none() && !begin(row, want, draw, now, &mut changes) {
        return changes;
    }
    amend(row, want, now, &mut changes);
    let is_free = standing(row, want.obstacle).is_none();
    let Some(ours) = &mut row.ours else {
        return changes;
    };
    let event = match ours.state {
        State::Proposed if is_free && !want.is_paused => Event::Agree,
        State::Active if !is_free => Event::Suspend,
        State::Suspended if is_free => {
            // By the new key the peer finds out that the session of before is over, also where only it can call.
            let Some(secret) = draw() else {
                return changes;
            };
            row.said = next_number(row.said, now);
            if let Some(half) = &mut ours.half {
                (half.preshared_half, half.sequence) = (secret, row.said);
            }
            Event::Resume
        }
        State::Proposed | State::Active | State::Suspended | State::Revoked => return changes,
    };
    let reason = want.obstacle.map(|obstacle| obstacle.advice().to_owned());
    happen(ours, event, reason, now, &mut changes);
    changes
}

fn happen(ours: &mut Ours, event: Event, reason: Option<String>, now: Moment, changes: &mut Vec<Change>) {
    if let Some(state) = ours.state.after(event) {
        (ours.state, ours.since, ours.reason) = (state, now, reason);
        changes.push(Change::Moved(Box::new(ours.clone())));
    }
}

/// The number after all that were given away. It also rises with the clock: after a restore from a backup it is higher than
/// what was given away after the backup.
pub(super) fn next_number(said: u64, now: Moment) -> u64 {
    let clock = u64::try_from(now.millis()).unwrap_or(0);
    said.saturating_add(1).max(clock)
}

fn end(row: &mut BridgeRow, reason: &str, now: Moment, changes: &mut Vec<Change>) {
    let Some(ours) = row.ours.as_mut().filter(|ours| ours.state != State::Revoked) else {
        return;
    };
    // Its secret is good for nothing any more.
    ours.half = None;
    happen(ours, Event::Revoke, Some(reason.to_owned()), now, changes);
    row.said = next_number(row.said, now);
}

/// Begins a new row; says whether there is one now.
fn begin(
    row: &mut BridgeRow,
    want: &Want,
    draw: &mut dyn FnMut() -> Option<PresharedHalf>,
    now: Moment,
    changes: &mut Vec<Change>,
) -> bool {
    // Without anything to tell there is nothing to agree to.
    let Some(content) = &want.content else {
        return false;
    };
    let Some(secret) = draw() else {
        return false;
    };
    row.said = next_number(row.said, now);
    let generation = row.ours.as_ref().map_or(1, |before| before.generation + 1);
    let ours = Ours {
        name: want.name.clone(),
        network: want.network.clone(),
        remote_network: want.remote_network.clone(),
        generation,
        state: State::Proposed,
        since: now,
        reason: None,
        import: want.import.clone(),
        half: Some(told(want, content, secret, row.said)),
    };
    changes.push(Change::Moved(Box::new(ours.clone())));
    row.ours = Some(ours);
    true
}

/// What the fleet says now.
fn amend(row: &mut BridgeRow, want: &Want, now: Moment, changes: &mut Vec<Change>) {
    let Some(ours) = &mut row.ours else { return };
    let before = ours.clone();
    ours.name.clone_from(&want.name);
    ours.import.clone_from(&want.import);
    if let (Some(half), Some(content)) = (&mut ours.half, &want.content) {
        let fresh = told(want, content, half.preshared_half.clone(), half.sequence);
        if fresh != *half {
            row.said = next_number(row.said, now);
            *half = Half {
                sequence: row.said,
                ..fresh
            };
        }
    }
    if *ours != before {
        changes.push(Change::Amended(Box::new(ours.clone())));
    }
}

fn told(want: &Want, content: &Content, preshared_half: PresharedHalf, sequence: u64) -> Half {
    Half {
        network: want.network.clone(),
        remote_network: want.remote_network.clone(),
        gateway_public_key: content.gateway_public_key,
        endpoints: content.endpoints.clone(),
        prefixes: content.prefixes.clone(),
        listener: content.listener,
        preshared_half,
        sequence,
    }
}
