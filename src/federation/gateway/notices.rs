//! What a peer's operator has done to us, told by the peer itself: sooner than its refusals would show it.
//!
//! A notice is the peer's word about its own side. It never ends anything here: what we make of it is our operator's.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde_json::json;

use super::{BeatError, Gateway, note_status};
use crate::federation::identity::Stranger;
use crate::federation::ledger::{Aborted, Draft, Happening};
use crate::federation::moment::Moment;
use crate::federation::peer::{Event, Peer, PeerId, Status};
use crate::federation::wire::Notice;

impl Gateway {
    /// Takes a notice. One that says what is known already changes nothing.
    ///
    /// # Errors
    /// It is nobody's, or the ledger can't be written.
    pub fn noticed(
        &self,
        chain: &[CertificateDer<'_>],
        notice: Notice,
        wall: Moment,
    ) -> Result<Status, BeatError> {
        let peer = self.identify(chain, wall)?;
        if is_known(&peer, notice) {
            return Ok(peer.status);
        }
        if !self.quota.take(peer.id, self.ledger.read(|book| book.now(wall))) {
            return Err(BeatError::TooMuch);
        }
        let noticed: Result<_, Aborted<Stranger>> = self.ledger.transact(wall, |draft| {
            let status = note_in(draft, peer.id, notice)?;
            self.settle_peer_in(draft, peer.id);
            Ok(status)
        });
        self.bridges_changed();
        noticed.map_err(|aborted| match aborted {
            Aborted::ByCaller(stranger) => stranger.into(),
            Aborted::ByLedger(error) => error.into(),
        })
    }
}

/// How long a call may be under way, and somewhat more.
const UNDER_WAY: Duration = Duration::from_secs(15);

/// Whether a beat, or the answer to one, may be of before the peer's operator stopped us: a notice overtakes what was under
/// way, and that heals nothing. Whoever is resumed is told so.
pub(super) fn is_overtaken(peer: &Peer, now: Moment) -> bool {
    peer.status == Status::Degraded
        && Notice::is_reason(peer.reason.as_deref())
        && now.since(peer.since) < UNDER_WAY
}

fn is_known(peer: &Peer, notice: Notice) -> bool {
    match notice.reason() {
        Some(reason) => peer.reason.as_deref() == Some(reason),
        None => !Notice::is_reason(peer.reason.as_deref()),
    }
}

fn note_in(draft: &mut Draft<'_>, id: PeerId, notice: Notice) -> Result<Status, Stranger> {
    let not_now = || Stranger::NotNow(id);
    let found = draft.peer(&id).filter(|peer| peer.status.may_call());
    let mut peer = found.cloned().ok_or_else(not_now)?;
    let (before, now) = (peer.status, draft.now());
    draft.note(Happening {
        kind: "federation.peer.notice".to_owned(),
        severity: Peer::severity(before),
        peer: Some(id),
        payload: json!({ "notice": notice, "declared_by": "remote_peer" }),
    });
    match (notice.reason(), before) {
        (Some(reason), Status::Active | Status::Degraded) => {
            peer.happen(Event::Degrade, Some(reason), now)
                .map_err(|_| not_now())?;
            if before != peer.status {
                note_status(draft, &peer, json!({ "degraded_reason": reason }));
            }
        }
        // Nothing has come through yet that could be lost.
        (
            Some(_) | None,
            Status::Proposed
            | Status::Accepted
            | Status::Enrolled
            | Status::Active
            | Status::Degraded
            | Status::Suspended
            | Status::Revoked,
        ) => peer.reason = notice.reason().map(str::to_owned),
    }
    let status = peer.status;
    draft.put_peer(peer).map_err(|_| not_now())?;
    Ok(status)
}
