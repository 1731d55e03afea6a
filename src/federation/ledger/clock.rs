//! A wall clock that was once far ahead: what it leaves in the ledger, and the way out.
//!
//! The ledger's time never goes back, so that a clock that does wakes nothing that had expired: see [`Book::now`]. What a
//! clock in 2040 has dated, and every certificate that is judged by it, is expired until 2040. Only an operator knows which
//! of two times is right, and can put the ledger's back:
//!
//! ```text
//! one transaction: a new epoch, in which nothing of before is good for anything ─▶ the ledger's time is the wall clock's
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::distrust::Cause;
use super::{Book, Draft, Fuse, Head, Ledger, LedgerError};
use crate::federation::anchors::OVERLAP;
use crate::federation::bridge::BridgeRow;
use crate::federation::grant::Grant;
use crate::federation::moment::Moment;
use crate::federation::peer::{Peer, Trust};

/// How far the ledger's time may be ahead before it is told of: clocks are put right by less all the time.
const NOTICE: Duration = Duration::from_secs(3_600);

/// The ledger's time was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ClockReset {
    /// What it was.
    pub from: Moment,
    /// What it is.
    pub to: Moment,
    /// The epoch that has begun.
    pub epoch: u64,
    /// Where the audit ends.
    pub audit_head: Head,
}

/// The ledger's time isn't put back.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// There is none.
    #[error("there is no ledger {}: it is made when `sdwand serve` first starts", .0.display())]
    Missing(PathBuf),
    /// The clock that it should follow isn't set.
    #[error("this host's clock says {0}, and isn't set: set it first (NTP, or `date -s`)")]
    Unset(Moment),
    /// It is where it should be.
    #[error(
        "the ledger's time, {ledger}, isn't ahead of this host's clock, {wall}: there is nothing to put back"
    )]
    NotAhead {
        /// The ledger's.
        ledger: Moment,
        /// The host's.
        wall: Moment,
    },
    /// It can't be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Book {
    /// The ledger's time, where it is so far ahead of the wall clock that someone must act.
    #[must_use]
    pub fn ahead(&self, wall: Moment) -> Option<Moment> {
        self.latest.filter(|latest| latest.since(wall) > NOTICE)
    }
}

/// Puts the time of the ledger at `path`, which nobody may have open, back to the wall clock's. A new epoch begins, as with
/// a restore: whoever was on is suspended, and every token, grant and kept answer is void.
///
/// # Errors
/// There is no ledger, its time isn't ahead, or it can't be written: it is as it was.
pub fn reset_clock(path: &Path, wall: Moment) -> Result<ClockReset, ClockError> {
    reset_with(path, wall, Fuse::default())
}

pub(super) fn reset_with(path: &Path, wall: Moment, fuse: Fuse) -> Result<ClockReset, ClockError> {
    if !path.exists() {
        return Err(ClockError::Missing(path.to_owned()));
    }
    if !wall.is_plausible() {
        return Err(ClockError::Unset(wall));
    }
    let ledger = Ledger::open_with(path, wall, fuse)?;
    let (from, epoch) = ledger.read(|book| (book.now(wall), book.epoch()));
    if from <= wall {
        return Err(ClockError::NotAhead { ledger: from, wall });
    }
    ledger.distrust(wall, epoch, Cause::Clock { to: wall })?;
    let (epoch, audit_head) = ledger.read(|book| (book.epoch(), book.head()));
    Ok(ClockReset {
        from,
        to: wall,
        epoch,
        audit_head,
    })
}

/// Puts back what was dated ahead. What is over by the ledger's time stays over.
pub(super) fn put_back(draft: &mut Draft<'_>, to: Moment) {
    let then = draft.now();
    let live: Vec<Peer> = draft
        .peers()
        .filter(|peer| peer.status.is_live())
        .cloned()
        .collect();
    for mut peer in live {
        peer.since = peer.since.min(to);
        peer.proposed_at = peer.proposed_at.min(to);
        for at in [
            &mut peer.signed_at,
            &mut peer.last_handshake_at,
            &mut peer.last_heartbeat_at,
            &mut peer.regressed,
        ] {
            *at = at.map(|at| at.min(to));
        }
        if let Some(trust) = &mut peer.trust {
            put_trust_back(trust, then, to);
        }
        // Nobody claims more than before: there is no conflict to look for.
        draft.changes.peers.insert(peer.id, peer);
    }
    let grants: Vec<Grant> = draft.grants().cloned().collect();
    for mut grant in grants {
        // By these they are put away in time.
        grant.revoked_at = grant.revoked_at.map(|at| at.min(to));
        grant.issued_at = grant.issued_at.min(to);
        draft.put_grant(grant);
    }
    let bridges: Vec<BridgeRow> = draft.bridges().cloned().collect();
    for mut row in bridges {
        if let Some(ours) = &mut row.ours {
            ours.since = ours.since.min(to);
        }
        draft.put_bridge(row);
    }
    draft.changes.set_back = Some(to);
}

fn put_trust_back(trust: &mut Trust, then: Moment, to: Moment) {
    for anchors in [&mut trust.anchors, &mut trust.signed_here] {
        anchors.retain(|anchor| anchor.is_good(then));
        for anchor in anchors {
            anchor.since = anchor.since.min(to);
            if anchor.until.is_some() {
                // One that another replaces lasts no longer than it would have.
                anchor.end_at(to.after(OVERLAP));
            }
        }
    }
}

#[cfg(test)]
mod tests;
