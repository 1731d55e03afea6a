//! What becomes of a ledger that was restored, put back, or dated by a wrong clock: nothing of it is active, and nothing of
//! before is good for anything, until the operator says so peer by peer.

use serde_json::json;

use super::{Draft, Happening, clock};
use crate::federation::bridge::BridgeRow;
use crate::federation::grant::Grant;
use crate::federation::moment::Moment;
use crate::federation::peer::{Event, Peer, Status};

/// Why the ledger isn't believed as it stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause<'a> {
    /// It is another one than it was; in words.
    Restored(&'a str),
    /// Its time was a wrong clock's; the right one.
    Clock {
        /// The right one.
        to: Moment,
    },
}

impl Cause<'_> {
    /// What has happened, for whoever it ends something for.
    const fn what(self) -> &'static str {
        match self {
            Self::Restored(_) => "restored from a backup",
            Self::Clock { .. } => "the ledger's time was put back",
        }
    }
}

/// What a peer has said of a bridge since, the ledger doesn't know; what we have said since, the peer does.
fn distrust_bridges(draft: &mut Draft<'_>) {
    let now = draft.now();
    let bridges: Vec<BridgeRow> = draft.bridges().cloned().collect();
    for mut row in bridges {
        row.theirs = None;
        row.renumber(now);
        draft.put_bridge(row);
    }
}

/// Begins `epoch`: suspends who was on, revokes who was only proposed, with their tokens, revokes grants
/// and operators' tokens, makes void what waits for approval, and forgets kept answers.
pub(super) fn distrust(draft: &mut Draft<'_>, epoch: u64, cause: Cause<'_>) {
    let (now, what) = (draft.now(), cause.what());
    let suspension = format!("{what}: `sdwand peer resume`");
    // Whoever was offered something may have taken it: the ledger doesn't know.
    let revocation = format!("{what}: propose anew");
    let peers: Vec<Peer> = draft.peers().cloned().collect();
    let (mut suspended, mut revoked) = (0, 0);
    for mut peer in peers {
        let (event, reason, count) = match peer.status {
            Status::Accepted | Status::Enrolled | Status::Active | Status::Degraded => {
                (Event::Suspend, &suspension, &mut suspended)
            }
            Status::Proposed => (Event::Revoke, &revocation, &mut revoked),
            Status::Suspended | Status::Revoked => continue,
        };
        if peer.happen(event, Some(reason), now).is_err() {
            continue;
        }
        if peer.status == Status::Revoked {
            // That is no operator's word: what a payload asks for may be tried anew.
            peer.errand = None;
        }
        *count += 1;
        draft.note(Happening {
            kind: format!("federation.peer.{}", peer.status),
            severity: Peer::severity(peer.status),
            peer: Some(peer.id),
            payload: json!({ "reason": reason }),
        });
        // Nobody claims more than before: there is no conflict to look for.
        draft.changes.peers.insert(peer.id, peer);
    }
    let given: Vec<Grant> = draft
        .grants()
        .filter(|grant| grant.revoked_at.is_none())
        .cloned()
        .collect();
    let grants = given.len();
    for mut grant in given {
        // Whether it was revoked after the backup, the ledger doesn't know.
        grant.revoked_at = Some(now);
        grant.revoke_reason = Some(format!("{what}: grant anew"));
        draft.put_grant(grant);
    }
    distrust_bridges(draft);
    for mut issued in draft.operator_tokens() {
        issued.revoked_at = issued.revoked_at.or(Some(now));
        draft.put_operator_token(issued);
    }
    // Peers may know later anchors of ours than the ledger does: what they are told next must be later still.
    let mut trust = draft.own_trust().clone();
    trust.sequence = (trust.sequence + 1).max(now.seconds());
    // The files know which CA signs, and a copy may be older than they are.
    (trust.signs, trust.rotation) = (None, None);
    draft.put_own_trust(trust);
    let void = draft.void_answers();
    let approvals = draft.void_approvals(&format!("{what}: ask again"));
    draft.changes.epoch = Some(epoch);
    let mut payload = json!({
        "epoch": epoch, "suspended": suspended, "revoked": revoked, "answers_void": void, "grants_revoked": grants,
        "approvals_void": approvals,
    });
    let kind = match cause {
        Cause::Restored(why) => {
            payload["why"] = json!(why);
            "federation.ledger.restored"
        }
        Cause::Clock { to } => {
            (payload["from"], payload["to"]) = (json!(now), json!(to));
            clock::put_back(draft, to);
            "federation.ledger.clock_reset"
        }
    };
    draft.note(Happening {
        kind: kind.to_owned(),
        severity: "high",
        peer: None,
        payload,
    });
}
