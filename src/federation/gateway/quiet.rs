//! Beats that are no news: nearly all of them. What they change is in memory, so who takes one needn't wait for the disk.

use rustls::pki_types::CertificateDer;

use super::Gateway;
use super::children::is_managed;
use crate::federation::moment::Moment;
use crate::federation::peer::{SpawnMode, Status};
use crate::federation::wire::HeartbeatRequest;
use crate::federation::witness::Mark;

/// Where the caller says that its ledger is.
pub(super) fn mark_of(request: &HeartbeatRequest) -> Option<Mark> {
    let head = request.audit_head.as_deref()?.parse().ok()?;
    request.ledger_epoch.map(|epoch| Mark { epoch, head })
}

impl Gateway {
    /// Whether [`Gateway::beaten`] would write nothing of this, as everything stands. It may stand otherwise a moment later:
    /// then it writes all the same.
    #[must_use]
    pub fn is_quiet(&self, chain: &[CertificateDer<'_>], request: &HeartbeatRequest, wall: Moment) -> bool {
        let Ok(peer) = self.identify(chain, wall) else {
            return false;
        };
        let now = self.ledger.read(|book| book.now(wall));
        let is_released =
            is_managed(&peer) && request.spawn_mode.as_deref() == Some(SpawnMode::AutonomousPeer.as_str());
        peer.status == Status::Active
            && !request.said.is_news(&peer.declared)
            && request.trust.ca_bundle_pem.is_none()
            && !is_released
            && !self.is_head_news(&peer, mark_of(request), now)
    }
}
