//! The sweep: silent peers are asked, and degraded where that shows them to be gone.

use std::time::Duration;

use futures::future::join_all;
use serde::Serialize;
use serde_json::json;

use super::Gateway;
use crate::federation::governance::Finding;
use crate::federation::ledger::{Aborted, Happening, LedgerError};
use crate::federation::liveness::{Probe, patience};
use crate::federation::moment::Moment;
use crate::federation::peer::{Peer, PeerId, Status};

/// How many peers are asked at a time.
const AT_ONCE: usize = 64;

/// What a sweep has done.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Sweep {
    /// How many active peers were looked at.
    pub swept: usize,
    /// Whether it only looked: nobody was asked, nothing has changed.
    pub dry_run: bool,
    /// When.
    pub ran_at: Moment,
    /// Those that are silent, and what was seen of each.
    pub silent: Vec<Silent>,
    /// Those of them that are degraded now.
    pub degraded_ids: Vec<PeerId>,
    /// Those of them that answer: they stay active for now, and their last heartbeat is as long ago as before.
    pub rehandshaked_ids: Vec<PeerId>,
    /// Certificates that no sweep mends: an operator has to act.
    pub requires_operator_action: Vec<Finding>,
}

/// A silent peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Silent {
    /// Which.
    pub federation_peer_id: PeerId,
    /// What it is called.
    pub alias: String,
    /// When it was last heard of.
    pub last_heartbeat_at: Option<Moment>,
    /// What was seen; none in a dry run.
    pub probe: Option<Probe>,
}

impl Gateway {
    /// Asks every silent peer, and degrades those that don't answer as who they are. A dry run asks nobody.
    ///
    /// # Errors
    /// The ledger can't be written: what was done so far stands.
    pub async fn sweep(
        &self,
        dry_run: bool,
        stale_after: Option<Duration>,
        wall: Moment,
    ) -> Result<Sweep, LedgerError> {
        let stale_after = stale_after.unwrap_or(self.settings.stale_after);
        let active: Vec<Peer> = self.ledger.read(|book| {
            let active = book.peers().filter(|peer| peer.status == Status::Active);
            active.map(|peer| (**peer).clone()).collect()
        });
        let now = self.ledger.read(|book| book.now(wall));
        let is_silent = |peer: &Peer| {
            let heard = self.heard.last(peer);
            heard.is_none_or(|heard| now.since(heard) > stale_after)
        };
        let silent: Vec<&Peer> = active.iter().filter(|peer| is_silent(peer)).collect();
        let mut probes = Vec::with_capacity(silent.len());
        if dry_run {
            probes.resize(silent.len(), None);
        } else {
            for some in silent.chunks(AT_ONCE) {
                probes
                    .extend(join_all(some.iter().map(async |peer| Some(self.probe(peer, wall).await))).await);
            }
        }
        let certificates = self.governance(None, wall).into_iter();
        let mut sweep = Sweep {
            swept: active.len(),
            dry_run,
            ran_at: now,
            silent: Vec::new(),
            degraded_ids: Vec::new(),
            rehandshaked_ids: Vec::new(),
            requires_operator_action: certificates
                .filter(|finding| finding.kind.is_about_certificates())
                .collect(),
        };
        for (peer, probe) in silent.into_iter().zip(probes) {
            // In a dry run there is none, and who has been heard of while it was asked isn't silent any more.
            if let Some(probe) = probe.filter(|_| is_silent(peer)) {
                let became = match probe {
                    Probe::Answers => self
                        .rehandshaked(peer.id, wall)?
                        .then_some(&mut sweep.rehandshaked_ids),
                    Probe::RefusedByPeer | Probe::Tls | Probe::Unreachable => self
                        .degrade(peer.id, &probe.reason(), wall)?
                        .then_some(&mut sweep.degraded_ids),
                };
                if let Some(ids) = became {
                    ids.push(peer.id);
                }
            }
            sweep.silent.push(Silent {
                federation_peer_id: peer.id,
                alias: peer.alias.to_string(),
                last_heartbeat_at: self.heard.last(peer),
                probe,
            });
        }
        Ok(sweep)
    }

    /// Asks a peer for what has no effect on it: its trust bundle.
    pub async fn probe(&self, peer: &Peer, wall: Moment) -> Probe {
        let read = self.read_trust(peer, wall);
        match tokio::time::timeout(patience(self.settings.stale_after), read).await {
            Ok(outcome) => Probe::of(&outcome),
            Err(_) => Probe::Unreachable,
        }
    }

    /// Notes that a silent peer has answered a probe: certificates were exchanged, and that was no heartbeat. Says whether
    /// it is still active.
    ///
    /// # Errors
    /// The ledger can't be written.
    pub fn rehandshaked(&self, id: PeerId, wall: Moment) -> Result<bool, LedgerError> {
        let noted = self.ledger.transact(wall, |draft| {
            let now = draft.now();
            let active = draft.peer(&id).filter(|peer| peer.status == Status::Active);
            let Some(mut peer) = active.cloned() else {
                return Ok(false);
            };
            peer.last_handshake_at = Some(now);
            draft.note(Happening {
                kind: "federation.peer.rehandshaked".to_owned(),
                severity: "low",
                peer: Some(id),
                payload: json!({ "last_heartbeat_at": self.heard.last(&peer) }),
            });
            draft.put_peer(peer).map(|()| true)
        });
        match noted {
            Ok(noted) => Ok(noted),
            Err(Aborted::ByCaller(_)) => Ok(false),
            Err(Aborted::ByLedger(error)) => Err(error),
        }
    }
}
