//! What operators are told: each answer as a type, so that its description can't say anything else.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::view::PeerView;
use crate::federation::approval::{Action, Approval, ApprovalId, Standing, State as Stands};
use crate::federation::bridge::Scope as BridgeScope;
use crate::federation::gateway::{BridgeView, Rotating, SoftStep, Witness};
use crate::federation::grant::{Axis, Grant, GrantId, Origin, Scope, State};
use crate::federation::ledger::{AuditRecord, Head};
use crate::federation::moment::Moment;
use crate::federation::operators::IssuedToken;
use crate::federation::peer::{PeerId, Status};
use crate::federation::resources::Kind;
use crate::federation::site::SiteId;
use crate::federation::spawn::Payload;
use crate::federation::url::PeerUrl;
use crate::federation::wire::NodeEnrollment;
use crate::model::Name;

/// What is answered.
#[derive(Serialize, ToSchema)]
pub(super) struct Data<T> {
    /// It.
    pub(super) data: T,
}

impl<T: Serialize> IntoResponse for Data<T> {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

/// A peer, and how much hangs on it.
#[derive(Serialize, ToSchema)]
pub(super) struct PeerDetails {
    #[serde(flatten)]
    #[schema(value_type = PeerView)]
    pub(super) peer: Value,
    pub(super) grants_count: usize,
    pub(super) capabilities_count: usize,
    /// None where the fleet can't be read.
    pub(super) bridges_count: Option<usize>,
    /// Those of the fleet, and those that only the peer has.
    pub(super) bridges: Vec<BridgeView>,
    /// Until when it may manage us as our parent, or we it as our child.
    pub(super) managed_until: Option<Moment>,
}

/// A peer that was changed.
#[derive(Serialize, ToSchema)]
pub(super) struct Changed {
    #[schema(value_type = PeerView)]
    pub(super) peer: Value,
}

/// A peer that was proposed.
#[derive(Serialize, ToSchema)]
pub(super) struct Proposed {
    #[schema(value_type = PeerView)]
    pub(super) peer: Value,
    /// For the other operator: it is shown once.
    pub(super) acceptance_token: String,
    /// What the child reads at its first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) spawn_payload: Option<Payload>,
    /// What keeps the proposal from being accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(super) warnings: Vec<&'static str>,
}

/// A peer to which a token was taken.
#[derive(Serialize, ToSchema)]
pub(super) struct Accepted {
    pub(super) peer_id: PeerId,
    pub(super) status: Status,
    pub(super) contract_version_agreed: Option<u32>,
    /// What a node of a managed child asks for its certificate with: told once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) node_enrollment: Option<NodeEnrollment>,
    #[schema(value_type = PeerView)]
    pub(super) peer: Value,
    /// `status` and `reason`.
    #[schema(value_type = Object)]
    pub(super) sdwan_attach: Value,
    #[schema(value_type = Object)]
    pub(super) governance: Value,
    pub(super) warnings: Vec<String>,
}

/// A soft step that was taken again.
#[derive(Serialize, ToSchema)]
pub(super) struct Retried {
    pub(super) step: SoftStep,
    #[schema(value_type = Object)]
    pub(super) outcome: Value,
    pub(super) warnings: Vec<String>,
}

/// A grant: all but its token.
#[derive(Serialize, ToSchema)]
#[schema(as = Grant)]
pub(super) struct GrantView {
    id: GrantId,
    peer_id: PeerId,
    origin: Origin,
    remote_subject: String,
    resource_kind: String,
    /// Which one; none is all.
    resource_id: Option<String>,
    permission_scopes: Vec<Scope>,
    node_instance_ids: Vec<String>,
    sdwan_network_ids: Vec<String>,
    source_cidrs: Vec<String>,
    unrestricted_axes: Vec<Axis>,
    state: State,
    /// Any kind may be granted; not every one is served here.
    served: bool,
    issued_at: Moment,
    expires_at: Moment,
    revoked_at: Option<Moment>,
    revoke_reason: Option<String>,
    archived_at: Option<Moment>,
}

impl GrantView {
    pub(super) fn of(grant: &Grant, now: Moment) -> Self {
        Self {
            id: grant.id,
            peer_id: grant.peer,
            origin: grant.origin,
            remote_subject: grant.remote_subject.clone(),
            resource_kind: grant.resource_kind.clone(),
            resource_id: grant.resource_id.clone(),
            permission_scopes: grant.scopes.iter().copied().collect(),
            node_instance_ids: grant.node_instance_ids.iter().cloned().collect(),
            sdwan_network_ids: grant.sdwan_network_ids.iter().cloned().collect(),
            source_cidrs: grant.source_cidrs.iter().map(ToString::to_string).collect(),
            unrestricted_axes: grant.unrestricted_axes(),
            state: grant.state(now),
            served: Kind::of(&grant.resource_kind).is_some(),
            issued_at: grant.issued_at,
            expires_at: grant.expires_at,
            revoked_at: grant.revoked_at,
            revoke_reason: grant.revoke_reason.clone(),
            archived_at: grant.archived_at,
        }
    }
}

/// A new grant.
#[derive(Serialize, ToSchema)]
pub(super) struct Granted {
    #[serde(flatten)]
    pub(super) grant: GrantView,
    /// For the peer: it is shown once.
    pub(super) bearer_token: String,
}

/// The last records of the audit.
#[derive(Serialize, ToSchema)]
pub(super) struct Audit {
    pub(super) records: Vec<AuditRecord>,
    /// The hash of the newest record.
    pub(super) head: Head,
    /// None unless it was asked for.
    pub(super) verified: Option<Verdict>,
}

/// What the whole chain of the audit is like.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = AuditVerdict)]
pub(super) struct Verdict {
    pub(super) ok: bool,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) error: Option<String>,
    /// The hash of the newest record.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) head: Option<Head>,
    /// How far that goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) shows: Option<String>,
    /// The peers that have seen it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) witnessed: Option<Vec<Witness>>,
    /// The peers that have seen something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) contradicted: Option<Vec<Witness>>,
}

/// This site.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the contract's name")]
pub(super) struct Site {
    pub(super) site_id: SiteId,
    pub(super) node: Name,
    #[schema(value_type = Option<String>)]
    pub(super) url: Option<PeerUrl>,
    /// SHA-256.
    pub(super) ca_fingerprint: String,
    /// PEM (RFC 7468).
    pub(super) ca_pem: String,
    pub(super) rotation: Rotating,
}

/// A new token of an operator.
#[derive(Serialize, ToSchema)]
pub(super) struct Issued {
    #[serde(flatten)]
    pub(super) issued: IssuedToken,
    /// It is shown once.
    pub(super) token: String,
}

/// What waits for a second operator.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the contract's name")]
pub(super) struct Pending {
    /// By which it is approved.
    pending_id: ApprovalId,
    action: Action,
    /// What was asked for, in words.
    summary: String,
    /// `uid:<user id>`, or `sub:<name>`.
    requested_by: String,
    /// Until when it can be approved.
    expires_at: Moment,
}

impl Pending {
    pub(super) fn of(approval: &Approval) -> Self {
        Self {
            pending_id: approval.id,
            action: approval.deed.action(),
            summary: approval.summary.clone(),
            requested_by: approval.requested_by.clone(),
            expires_at: approval.expires_at,
        }
    }
}

/// Another CA, or what waits for that.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "what is answered is one or the other; this says so")]
pub(super) enum RotatingOrPending {
    Rotating(Rotating),
    Pending(Pending),
}

/// What an operator asked for, and what became of it: all but a token.
#[derive(Serialize, ToSchema)]
#[schema(as = Approval)]
pub(super) struct ApprovalView {
    id: ApprovalId,
    action: Action,
    /// What was asked for, in words.
    summary: String,
    state: Stands,
    /// What it would open that isn't open: of a bridge.
    opens: Option<BridgeScope>,
    /// The peer that it is about, where there is one yet.
    peer_id: Option<PeerId>,
    /// `uid:<user id>`, or `sub:<name>`.
    requested_by: String,
    requested_at: Moment,
    expires_at: Moment,
    /// Who said yes or no.
    decided_by: Option<String>,
    /// When that was; of what failed, when it did.
    decided_at: Option<Moment>,
    /// Why it was denied, failed or is void.
    reason: Option<String>,
}

impl ApprovalView {
    pub(super) fn of(approval: &Approval, now: Moment) -> Self {
        let (by, at, reason) = match &approval.standing {
            Standing::Pending => (None, None, None),
            Standing::Performing { by, at } | Standing::Approved { by, at } => (Some(by), Some(*at), None),
            Standing::Denied { by, at, reason } => (Some(by), Some(*at), reason.as_ref()),
            Standing::Failed { by, at, reason } => (Some(by), Some(*at), Some(reason)),
            Standing::Expired { at } => (None, Some(*at), None),
            Standing::Void { at, reason } => (None, Some(*at), Some(reason)),
        };
        Self {
            id: approval.id,
            action: approval.deed.action(),
            summary: approval.summary.clone(),
            state: approval.state(now),
            opens: approval.deed.opens().cloned(),
            peer_id: approval.deed.peer(),
            requested_by: approval.requested_by.clone(),
            requested_at: approval.requested_at,
            expires_at: approval.expires_at,
            decided_by: by.cloned(),
            decided_at: at,
            reason: reason.cloned(),
        }
    }
}

/// What was approved, and what it answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Decided {
    pub(super) approval: ApprovalView,
    /// What the action's own path answers as `data`.
    #[schema(value_type = Object)]
    pub(super) result: Value,
}

/// What was denied.
#[derive(Serialize, ToSchema)]
pub(super) struct Denied {
    pub(super) approval: ApprovalView,
}
