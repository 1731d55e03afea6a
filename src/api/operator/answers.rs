//! What operators are told: each answer as a type, so that its description can't say anything else.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::view::PeerView;
use crate::federation::gateway::{BridgeView, Rotating, SoftStep, Witness};
use crate::federation::grant::{Axis, Grant, GrantId, Origin, Scope, State};
use crate::federation::ledger::{AuditRecord, Head};
use crate::federation::moment::Moment;
use crate::federation::operators::IssuedToken;
use crate::federation::peer::PeerId;
use crate::federation::resources::Kind;
use crate::federation::site::SiteId;
use crate::federation::spawn::Payload;
use crate::federation::url::PeerUrl;
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
