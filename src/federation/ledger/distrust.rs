//! What becomes of a ledger that was restored, or put back: nothing of it is active, and nothing of before is good for
//! anything, until the operator says so peer by peer.

use serde_json::json;

use super::{Draft, Happening};
use crate::federation::grant::Grant;
use crate::federation::peer::{Event, Peer, Status};

/// What a suspended peer waits for.
const SUSPENDED: &str = "restored from a backup: `sdwand peer resume`";
/// What an offer ends with. Whoever was offered something may have taken it: the ledger doesn't know.
const REVOKED: &str = "restored from a backup: propose anew";

/// What a grant ends with.
const UNGRANTED: &str = "restored from a backup: grant anew";

/// Begins `epoch`: suspends who was on, revokes who was only proposed, with their tokens, revokes grants
/// and operators' tokens,
/// and forgets kept answers.
pub(super) fn distrust(draft: &mut Draft<'_>, epoch: u64, why: &str) {
    let now = draft.now();
    let peers: Vec<Peer> = draft.peers().cloned().collect();
    let (mut suspended, mut revoked) = (0, 0);
    for mut peer in peers {
        let (event, reason, count) = match peer.status {
            Status::Accepted | Status::Enrolled | Status::Active | Status::Degraded => {
                (Event::Suspend, SUSPENDED, &mut suspended)
            }
            Status::Proposed => (Event::Revoke, REVOKED, &mut revoked),
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
        grant.revoke_reason = Some(UNGRANTED.to_owned());
        draft.put_grant(grant);
    }
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
    draft.changes.epoch = Some(epoch);
    draft.note(Happening {
        kind: "federation.ledger.restored".to_owned(),
        severity: "high",
        peer: None,
        payload: json!({
            "epoch": epoch, "why": why, "suspended": suspended, "revoked": revoked, "answers_void": void,
            "grants_revoked": grants,
        }),
    });
}
