//! Tells a monitoring system how the gateway is: `[federation] metrics_listen`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::monotonic;
use crate::api::limits::Limits;
use crate::api::metrics::Outlet;
use crate::federation::bridge;
use crate::federation::dial::DialError;
use crate::federation::gateway::Gateway;
use crate::federation::grant::State;
use crate::federation::moment::Moment;
use crate::federation::peer::{PeerId, Status};
use crate::log::Recent;
use crate::report::metrics::gateway::{Beats, Caller, Certificate, GatewayView, page};

/// What only the peer wants.
const OFFERED: &str = "offered";

/// What is told, and where. What is counted is counted in any case.
pub(super) struct Monitor {
    listen: Option<SocketAddr>,
    outlet: Outlet,
    beats: Beats,
    limits: Arc<Limits>,
    recent: Recent,
    /// The ledger's file.
    ledger: PathBuf,
}

impl Monitor {
    /// Nothing was counted yet.
    pub(super) fn new(
        listen: Option<SocketAddr>,
        limits: Arc<Limits>,
        recent: Recent,
        folder: &Path,
    ) -> Self {
        Self {
            listen,
            outlet: Outlet::new(monotonic),
            beats: Beats::default(),
            limits,
            recent,
            ledger: folder.join(super::LEDGER),
        }
    }

    /// Counts a beat of ours.
    pub(super) fn beaten(&mut self, outcome: &Result<(), DialError>) {
        match outcome {
            Ok(()) => self.beats.answered += 1,
            Err(error) if error.is_refusal() => self.beats.refused += 1,
            Err(_) => self.beats.failed += 1,
        }
    }

    /// Counts beats of peers.
    pub(super) fn heard(&mut self, many: usize) {
        self.beats.received += many as u64;
    }

    /// Puts the page as it is now where scrapes find it, if any are awaited.
    pub(super) fn publish(&mut self, gateway: &Gateway, wall: Moment) {
        if !self.outlet.open(self.listen) {
            return;
        }
        match page(&self.view(gateway, wall)) {
            Ok(text) => self.outlet.put(text),
            Err(error) => tracing::error!(%error, "metrics can't be written"),
        }
    }

    fn view<'a>(&self, gateway: &'a Gateway, wall: Moment) -> GatewayView<'a> {
        let certificates = gateway.certificates();
        let alias = |id: PeerId| {
            gateway
                .ledger
                .read(|book| book.peer(&id).map(|peer| peer.alias.to_string()))
        };
        let certificates = certificates.into_iter().map(|(which, id, until)| Certificate {
            which,
            parent: id.and_then(alias),
            until: until.to_offset().into(),
        });
        let certificates = certificates.collect();
        let (fleet, approvals) = (gateway.fleet(), gateway.pending_approvals(wall));
        gateway.ledger.read(|book| {
            let now = book.now(wall);
            let mut peers: BTreeMap<&'static str, u64> =
                Status::ALL.map(|status| (status.as_str(), 0)).into();
            for (_, status) in book.standing().iter() {
                *peers.entry(status.as_str()).or_default() += 1;
            }
            let mut bridges: BTreeMap<&'static str, u64> =
                bridge::State::ALL.map(|state| (state.as_str(), 0)).into();
            bridges.insert(OFFERED, 0);
            for row in book.bridges() {
                let state = match &row.ours {
                    _ if row.is_offered() => OFFERED,
                    Some(ours) => ours.state.as_str(),
                    // Only what an operator said no to is known of it.
                    None => continue,
                };
                *bridges.entry(state).or_default() += 1;
            }
            let callers = book.peers().filter(|peer| peer.status.may_call());
            let callers = callers.map(|peer| Caller {
                alias: peer.alias.to_string(),
                is_degraded: peer.status == Status::Degraded,
                heard: gateway.heard.last(peer).map(|at| at.to_offset().into()),
            });
            GatewayView {
                site: gateway.site.to_string(),
                node: &gateway.node,
                fleet_digest: fleet.map(|fleet| fleet.digest.to_string()),
                now: wall.to_offset().into(),
                certificates,
                peers,
                bridges,
                callers: callers.collect(),
                beats: self.beats,
                refused: gateway.refusals(),
                connections_refused: self.limits.turned_away(),
                grants: book
                    .grants()
                    .filter(|grant| grant.state(now) == State::Active)
                    .count(),
                proposals: book.open_offers(wall),
                approvals,
                is_paused: book.pause().is_some(),
                audit_records: book.head().sequence.unsigned_abs(),
                ledger_epoch: book.epoch(),
                ledger_bytes: size(&self.ledger),
                is_clock_behind: book.ahead(wall).is_some(),
                events: self.recent.counts("serve"),
            }
        })
    }
}

/// The size of the ledger's files: SQLite keeps what was written last beside it.
fn size(ledger: &Path) -> Option<u64> {
    let mut log = ledger.as_os_str().to_owned();
    log.push("-wal");
    let main = std::fs::metadata(ledger).ok()?.len();
    Some(main + std::fs::metadata(log).map_or(0, |log| log.len()))
}
