//! What an operator grants to peers, and what is agreed with them.

use serde_json::json;

use super::children::{emancipate_in, is_managed};
use super::{Gateway, OperatorError, Order};
use crate::federation::capability::{Capability, CapabilityId};
use crate::federation::grant::{Axis, BearerToken, Grant, GrantId, Origin, State, Terms, TermsError, life};
use crate::federation::ledger::{Aborted, Draft, Happening, LedgerError};
use crate::federation::moment::Moment;
use crate::federation::peer::{Peer, PeerId, Status};
use crate::model::host::Verify;

/// A new grant.
#[derive(Clone, Debug)]
pub struct Granting {
    /// To whom.
    pub peer: PeerId,
    /// What.
    pub terms: Terms,
    /// For how many days; see [`life`].
    pub days: Option<u64>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The grant.
    pub grant: Grant,
    /// Its token: shown once.
    pub token: BearerToken,
}

/// A grant can't be given or ended.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The operator is refused, for a reason that isn't the grant's.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// Its terms can't be.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// The operator must say of every axis what it allows.
    #[error(
        "require_explicit_axes is set: {} must say what it allows; [\"*\"] is everything",
        .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    Silent(Vec<Axis>),
    /// Nobody is known yet to whom it could be given, or no longer.
    #[error("a peer that is {0} can't be given anything: it must be enrolled")]
    Standing(Status),
    /// The operators haven't compared the words.
    #[error(
        "verify = \"code\": compare the six words with the other operator, then `sdwand peer verify`; until then nothing is granted"
    )]
    Unverified,
    /// Its data resides elsewhere.
    #[error("residency = \"refuse\": the peer's data resides in {0}, so it is given nothing")]
    Border(String),
    /// There is one already.
    #[error("grant {0} gives this subject all of this kind already: revoke it first")]
    Twice(GrantId),
    /// There is no such grant of this peer.
    #[error("this peer has no grant {0}")]
    Unknown(GrantId),
    /// It was ended already.
    #[error("grant {0} is revoked already")]
    Ended(GrantId),
    /// There is no such agreement with this peer.
    #[error("nothing is agreed with this peer as {0}")]
    NoCapability(CapabilityId),
}

impl From<Aborted<Self>> for GrantError {
    fn from(aborted: Aborted<Self>) -> Self {
        match aborted {
            Aborted::ByCaller(error) => error,
            Aborted::ByLedger(error) => Self::Operator(OperatorError::Ledger(error)),
        }
    }
}

impl Gateway {
    /// Whether a peer has been verified as far as this site asks for.
    pub(super) fn is_verified(&self, peer: &Peer) -> bool {
        match self.settings.verify {
            Verify::None => true,
            Verify::Code => peer.verified,
        }
    }

    /// Gives a peer a grant, and draws its token.
    ///
    /// # Errors
    /// Its terms can't be, or the peer can't be given anything as it stands.
    pub fn grant(
        &self,
        granting: Granting,
        secret: [u8; 32],
        id_random: [u8; 10],
        order: impl Into<Order>,
    ) -> Result<Granted, GrantError> {
        let Order { wall, by } = order.into();
        let id = GrantId(wall.uuid(id_random));
        let token = BearerToken::new(id, secret);
        let silent: Vec<Axis> = [
            (Axis::NodeInstanceIds, &granting.terms.node_instance_ids),
            (Axis::SdwanNetworkIds, &granting.terms.sdwan_network_ids),
            (Axis::SourceCidrs, &granting.terms.source_cidrs),
        ]
        .into_iter()
        .filter_map(|(axis, entries)| entries.is_empty().then_some(axis))
        .collect();
        if self.settings.require_explicit_axes && !silent.is_empty() {
            return Err(GrantError::Silent(silent));
        }
        let grant = self.ledger.transact(wall, |draft| {
            let peer = draft
                .peer(&granting.peer)
                .ok_or(OperatorError::Unknown(granting.peer))?;
            if !may_be_given(peer.status) {
                return Err(GrantError::Standing(peer.status));
            }
            if !self.is_verified(peer) {
                return Err(GrantError::Unverified);
            }
            if !self.border(peer).is_open() {
                return Err(GrantError::Border(
                    peer.declared.data_residency.clone().unwrap_or_default(),
                ));
            }
            let grant = Grant::new(
                id,
                peer.id,
                granting.terms,
                token.digest(),
                draft.now(),
                life(granting.days),
            )?;
            put(draft, grant, Some(&by))
        })?;
        Ok(Granted { grant, token })
    }

    /// Ends a grant. It stays, as history.
    ///
    /// # Errors
    /// No such grant of this peer, or it is ended already.
    pub fn revoke_grant(
        &self,
        peer: PeerId,
        id: GrantId,
        reason: &str,
        order: impl Into<Order>,
    ) -> Result<Grant, GrantError> {
        let Order { wall, by } = order.into();
        let grant = self.ledger.transact(wall, |draft| {
            let found = draft.grant(&id).filter(|grant| grant.peer == peer);
            let mut grant = found.cloned().ok_or(GrantError::Unknown(id))?;
            let managed = match grant.origin {
                Origin::ManagedChildOperator => draft.peer(&peer).filter(|peer| is_managed(peer)).cloned(),
                Origin::Operator => None,
            };
            if grant.revoked_at.is_some() {
                // A restore ends every grant, and emancipates nobody: that is still the operator's to say.
                let managed = managed.ok_or(GrantError::Ended(id))?;
                emancipate_by_operator(draft, managed, &by)?;
                return Ok(grant);
            }
            grant.revoked_at = Some(draft.now());
            grant.revoke_reason = Some(reason.to_owned());
            draft.note(Happening {
                kind: "federation.grant.revoked".to_owned(),
                severity: "medium",
                peer: Some(peer),
                payload: json!({ "grant": id, "reason": reason, "by": by }),
            });
            draft.put_grant(grant.clone());
            if let Some(managed) = managed {
                emancipate_by_operator(draft, managed, &by)?;
            }
            Ok(grant)
        })?;
        Ok(grant)
    }

    /// Puts away what was revoked long ago; says how many.
    ///
    /// # Errors
    /// The ledger can't be written.
    pub fn archive_grants(&self, wall: Moment) -> Result<usize, LedgerError> {
        let old: Vec<GrantId> = self.ledger.read(|book| {
            let now = book.now(wall);
            book.grants()
                .filter(|grant| grant.is_old(now))
                .map(|grant| grant.id)
                .collect()
        });
        if old.is_empty() {
            return Ok(0);
        }
        let archived = self.ledger.transact(wall, |draft| {
            let now = draft.now();
            let found: Vec<Grant> = old
                .iter()
                .filter_map(|id| draft.grant(id).filter(|grant| grant.is_old(now)).cloned())
                .collect();
            for mut grant in found.clone() {
                grant.archived_at = Some(now);
                draft.note(Happening {
                    kind: "federation.grant.archived".to_owned(),
                    severity: "low",
                    peer: Some(grant.peer),
                    payload: json!({ "grant": grant.id }),
                });
                draft.put_grant(grant);
            }
            Ok::<_, std::convert::Infallible>(found.len())
        });
        match archived {
            Ok(count) => Ok(count),
            Err(Aborted::ByCaller(never)) => match never {},
            Err(Aborted::ByLedger(error)) => Err(error),
        }
    }

    /// Notes what is agreed with a peer about a kind of resources.
    ///
    /// # Errors
    /// No such peer, or it is revoked.
    pub fn agree(&self, capability: Capability, order: impl Into<Order>) -> Result<Capability, GrantError> {
        let Order { wall, by } = order.into();
        let id = capability.peer;
        self.ledger.transact(wall, |draft| {
            let peer = draft.peer(&id).ok_or(OperatorError::Unknown(id))?;
            if !peer.status.is_live() {
                return Err(GrantError::Standing(peer.status));
            }
            note_capability(draft, "created", &capability, &by);
            draft.put_capability(capability.clone());
            Ok(())
        })?;
        Ok(capability)
    }

    /// Forgets what was agreed.
    ///
    /// # Errors
    /// No such agreement with this peer.
    pub fn disagree(
        &self,
        peer: PeerId,
        id: CapabilityId,
        order: impl Into<Order>,
    ) -> Result<Capability, GrantError> {
        let Order { wall, by } = order.into();
        let capability = self.ledger.transact(wall, |draft| {
            let found = draft.capability(&id).filter(|found| found.peer == peer);
            let capability = found.cloned().ok_or(GrantError::NoCapability(id))?;
            note_capability(draft, "removed", &capability, &by);
            draft.remove_capability(id);
            Ok::<_, GrantError>(capability)
        })?;
        Ok(capability)
    }
}

fn emancipate_by_operator(draft: &mut Draft<'_>, mut peer: Peer, by: &str) -> Result<(), OperatorError> {
    emancipate_in(draft, &mut peer, by);
    draft.put_peer(peer).map_err(OperatorError::Conflict)
}

/// Whether trust was exchanged with a peer that stands so: before, nobody knows who it will be.
const fn may_be_given(status: Status) -> bool {
    match status {
        Status::Enrolled | Status::Active | Status::Degraded | Status::Suspended => true,
        Status::Proposed | Status::Accepted | Status::Revoked => false,
    }
}

/// Writes a grant, unless its subject has all of that kind already. `by`: whose order it is, if it is one.
pub(super) fn put(draft: &mut Draft<'_>, grant: Grant, by: Option<&str>) -> Result<Grant, GrantError> {
    let now = draft.now();
    if grant.resource_id.is_none() {
        let same = draft.grants().find(|other| {
            other.peer == grant.peer
                && other.resource_id.is_none()
                && other.remote_subject == grant.remote_subject
                && other.resource_kind == grant.resource_kind
                && other.state(now) == State::Active
        });
        if let Some(same) = same {
            return Err(GrantError::Twice(same.id));
        }
    }
    draft.note(Happening {
        kind: "federation.grant.created".to_owned(),
        severity: "medium",
        peer: Some(grant.peer),
        payload: json!({
            "grant": grant.id,
            "origin": grant.origin,
            "remote_subject": grant.remote_subject,
            "resource_kind": grant.resource_kind,
            "resource_id": grant.resource_id,
            "permission_scopes": grant.scopes,
            "unrestricted_axes": grant.unrestricted_axes(),
            "expires_at": grant.expires_at,
            "by": by,
        }),
    });
    draft.put_grant(grant.clone());
    Ok(grant)
}

fn note_capability(draft: &mut Draft<'_>, verb: &str, capability: &Capability, by: &str) {
    draft.note(Happening {
        kind: format!("federation.capability.{verb}"),
        severity: "low",
        peer: Some(capability.peer),
        payload: json!({
            "capability": capability.id,
            "resource_kind": capability.resource_kind,
            "direction": capability.direction,
            "by": by,
        }),
    });
}
