//! The soft steps of an acceptance: what the scan of a peer finds, and what of the overlay it is attached to. Neither stops
//! anything, and both can be taken again.

use std::collections::BTreeMap;

use rustls::pki_types::CertificateDer;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Gateway, OperatorError, VERSION};
use crate::federation::bridge::BridgeRow;
use crate::federation::governance::{Finding, Scene, Seen, scan, scan_peer};
use crate::federation::grant::{Grant, Origin};
use crate::federation::ledger::Draft;
use crate::federation::moment::Moment;
use crate::federation::peer::{Peer, PeerId};
use crate::federation::pki::verify::not_after;
use crate::federation::policy::Policy;
use crate::federation::residency::{Border, border};

/// A soft step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SoftStep {
    /// The scan.
    Governance,
    /// The attachment to the overlay.
    Attach,
}

/// What a soft step came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Soft {
    /// For programs.
    pub outcome: Value,
    /// What should be looked at.
    pub warnings: Vec<String>,
}

/// What is looked at, beside the peers.
struct Grounds {
    policy: Policy,
    ca: CertificateDer<'static>,
    leaf_until: Option<Moment>,
}

impl Gateway {
    /// What the operator has decided about peers, and what the fleet says is ours.
    pub(in crate::federation) fn policy(&self) -> Policy {
        let policy = &self.settings.policy;
        self.fleet()
            .map_or_else(|| policy.clone(), |fleet| policy.with_fleet(&fleet, &self.node))
    }

    fn grounds(&self) -> Grounds {
        Grounds {
            policy: self.policy(),
            ca: self.ca.der(),
            leaf_until: *self
                .leaf_until
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        }
    }

    fn scene<'a>(
        &'a self,
        grounds: &'a Grounds,
        peers: impl Iterator<Item = &'a Peer>,
        grants: impl Iterator<Item = &'a Grant>,
        now: Moment,
    ) -> Scene<'a> {
        let authorities = authorities(grants);
        let seen = |peer: &'a Peer| Seen {
            peer,
            heard: self.heard.last(peer),
            authority: authorities.get(&peer.id).copied(),
        };
        let peers: Vec<&Peer> = peers.collect();
        Scene {
            issued_until: self.issued_until(peers.iter().copied()),
            site: &self.site,
            version: VERSION,
            jurisdiction: self.settings.jurisdiction.as_deref(),
            policy: &grounds.policy,
            stale_after: self.settings.stale_after,
            ca: &grounds.ca,
            leaf_until: grounds.leaf_until,
            peers: peers.into_iter().map(seen).collect(),
            now,
            behind: None,
        }
    }

    /// Tells it when the listener's certificate ends.
    pub fn tell_leaf(&self, until: Moment) {
        *self
            .leaf_until
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(until);
    }

    /// This site's certificates and when they end: the `listener`'s, that of the `ca` and of the `next_ca`, and with its
    /// parent what each `from_parent` is. One that can't be read isn't there; `governance` tells of it.
    #[must_use]
    pub fn certificates(&self) -> Vec<(&'static str, Option<PeerId>, Moment)> {
        let grounds = self.grounds();
        let of_listener = grounds.leaf_until.map(|until| ("listener", None, until));
        let end = |ca: &CertificateDer<'_>| not_after(ca).ok();
        let of_ca = end(&grounds.ca).map(|until| ("ca", None, until));
        let next = self.ca.next().and_then(|next| end(next.der()));
        let of_next = next.map(|until| ("next_ca", None, until));
        let of_parents = self
            .ledger
            .read(|book| self.issued_until(book.peers().map(AsRef::as_ref)));
        let of_parents = of_parents
            .into_iter()
            .map(|(id, until)| ("from_parent", Some(id), until));
        [of_listener, of_ca, of_next]
            .into_iter()
            .flatten()
            .chain(of_parents)
            .collect()
    }

    /// What an operator should know: of all peers and of this site, or of one peer.
    #[must_use]
    pub fn governance(&self, of: Option<PeerId>, wall: Moment) -> Vec<Finding> {
        let grounds = self.grounds();
        self.ledger.read(|book| {
            let (peers, grants) = (book.peers().map(AsRef::as_ref), book.grants().map(AsRef::as_ref));
            let mut scene = self.scene(&grounds, peers, grants, book.now(wall));
            scene.behind = book.ahead(wall).map(|_| wall);
            of.map_or_else(|| scan(&scene), |id| scan_peer(&scene, id))
        })
    }

    /// The scan of a peer that is about to be written, for the peer itself: of it alone.
    pub(super) fn scan_in(&self, draft: &Draft<'_>, peer: &Peer) -> Soft {
        let grounds = self.grounds();
        let others = draft.peers().filter(|other| other.id != peer.id);
        let peers = others.chain(std::iter::once(peer));
        let scene = self.scene(&grounds, peers, draft.grants(), draft.now());
        let told: Vec<Finding> = scan_peer(&scene, peer.id)
            .iter()
            .filter_map(Finding::for_peer)
            .collect();
        scanned(&told)
    }

    /// What of the overlay a peer is attached to.
    #[must_use]
    pub fn attachment(&self, peer: &Peer) -> Value {
        self.ledger.read(|book| {
            let rows: Vec<&BridgeRow> = book.bridges_of(peer.id).map(AsRef::as_ref).collect();
            self.attachment_with(peer, &rows)
        })
    }

    /// The same, where its rows are known.
    pub(super) fn attachment_with(&self, peer: &Peer, rows: &[&BridgeRow]) -> Value {
        if let Some(attached) = self.bridge_attachment(peer, rows) {
            return attached;
        }
        let overlay = self.grounds().policy.overlay;
        let reason = if !overlay.has_networks {
            "no_overlay_network"
        } else if overlay.bridged.contains(&peer.alias) {
            // The fleet has a bridge for it, and this version carries none yet.
            "sdwan_unavailable"
        } else {
            "no_bound_instance"
        };
        json!({ "status": "skipped", "reason": reason })
    }

    /// Takes a soft step again, for our operator.
    ///
    /// # Errors
    /// No such peer.
    pub fn retry(&self, id: PeerId, step: SoftStep, wall: Moment) -> Result<Soft, OperatorError> {
        let peer = self.ledger.read(|book| book.peer(&id).cloned());
        let peer = peer.ok_or(OperatorError::Unknown(id))?;
        Ok(match step {
            SoftStep::Governance => scanned(&self.governance(Some(id), wall)),
            SoftStep::Attach => Soft {
                outcome: self.attachment(&peer),
                warnings: Vec::new(),
            },
        })
    }

    /// Whether data may go between this site and a peer's.
    #[must_use]
    pub fn border(&self, peer: &Peer) -> Border {
        border(
            self.settings.jurisdiction.as_deref(),
            peer.declared.data_residency.as_deref(),
            self.settings.policy.residency,
        )
    }
}

/// When the authority of each parent over its managed child ends, or ended.
fn authorities<'a>(grants: impl Iterator<Item = &'a Grant>) -> BTreeMap<PeerId, Moment> {
    let mut ends = BTreeMap::new();
    for grant in grants {
        match grant.origin {
            Origin::ManagedChildOperator => {}
            Origin::Operator => continue,
        }
        let end = grant
            .revoked_at
            .map_or(grant.expires_at, |revoked| revoked.min(grant.expires_at));
        let last = ends.entry(grant.peer).or_insert(end);
        *last = end.max(*last);
    }
    ends
}

fn scanned(findings: &[Finding]) -> Soft {
    let pressing = findings.iter().filter(|finding| finding.is_pressing());
    Soft {
        outcome: json!({
            "status": "scanned",
            "peer_finding_count": findings.len(),
            "peer_findings": findings,
        }),
        warnings: pressing.map(Finding::warning).collect(),
    }
}
