//! `/api/v1/system/platform/peers/{peer}/{grants,capabilities,call}`: what a peer is given, and what it gives us.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::peers::word;
use super::{API, Operating, Routes, find, optional};
use crate::api::error::ApiError;
use crate::api::federation_api::{blocking, body};
use crate::federation::capability::{Capability, CapabilityId, ConflictRule, Direction, Policy};
use crate::federation::dial::Wanted;
use crate::federation::gateway::Granting;
use crate::federation::grant::{Grant, GrantId, Scope, State as GrantState, Terms};
use crate::federation::moment::Moment;
use crate::federation::peer::{SpawnMode, SpawnRole};
use crate::federation::resources::Kind;

pub(super) fn routes() -> Routes {
    let of = |rest: &str| format!("{API}/{{peer}}/{rest}");
    Routes {
        read: Router::new()
            .route(&of("grants"), get(list))
            .route(&of("capabilities"), get(agreed)),
        invite: Router::new(),
        manage: Router::new()
            .route(&of("grants"), post(create))
            .route(&of("grants/{grant}/revoke"), post(revoke))
            .route(&of("capabilities"), post(agree))
            .route(&of("capabilities/{capability}"), delete(disagree))
            .route(&of("call"), post(call)),
    }
}

/// A grant, for operators: all but its token.
fn view(grant: &Grant, now: Moment) -> Value {
    json!({
        "id": grant.id,
        "peer_id": grant.peer,
        "origin": grant.origin,
        "remote_subject": grant.remote_subject,
        "resource_kind": grant.resource_kind,
        "resource_id": grant.resource_id,
        "permission_scopes": grant.scopes,
        "node_instance_ids": grant.node_instance_ids,
        "sdwan_network_ids": grant.sdwan_network_ids,
        "source_cidrs": grant.source_cidrs,
        "unrestricted_axes": grant.unrestricted_axes(),
        "state": grant.state(now),
        // Any kind may be granted; not every one is served here.
        "served": Kind::of(&grant.resource_kind).is_some(),
        "issued_at": grant.issued_at,
        "expires_at": grant.expires_at,
        "revoked_at": grant.revoked_at,
        "revoke_reason": grant.revoke_reason,
        "archived_at": grant.archived_at,
    })
}

#[derive(Deserialize)]
struct Filter {
    state: Option<String>,
}

async fn list(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
    Query(filter): Query<Filter>,
) -> Result<Json<Value>, ApiError> {
    let id = find(&operating, &peer)?;
    let wanted = filter.state.map(|state| {
        serde_json::from_value::<GrantState>(Value::String(state.clone()))
            .map_err(|_| ApiError::new(400, "bad_state", format!("{state:?} is no state of a grant")))
    });
    let wanted = wanted.transpose()?;
    let wall = (operating.wall)();
    let grants: Vec<Value> = operating.gateway.ledger.read(|book| {
        let now = book.now(wall);
        let of_peer = book.grants().filter(|grant| grant.peer == id);
        of_peer
            .filter(|grant| wanted.is_none_or(|state| grant.state(now) == state))
            .map(|grant| view(grant, now))
            .collect()
    });
    Ok(Json(json!({ "data": grants })))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Create {
    remote_subject: Option<String>,
    resource_kind: Option<String>,
    resource_id: Option<String>,
    permission_scopes: Option<Vec<String>>,
    node_instance_ids: Vec<String>,
    sdwan_network_ids: Vec<String>,
    source_cidrs: Vec<String>,
    ttl_days: Option<i64>,
}

async fn create(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let id = find(&operating, &peer)?;
    let asked: Create = body(&bytes)?;
    let mut scopes = BTreeSet::new();
    for scope in asked.permission_scopes.unwrap_or_else(|| vec!["read".to_owned()]) {
        let known = serde_json::from_value::<Scope>(Value::String(scope.clone()));
        scopes.insert(known.map_err(|_| {
            let text = format!("permission_scopes: {scope:?} is none of read, write, admin, migrate");
            ApiError::new(400, "bad_request", text)
        })?);
    }
    if scopes.is_empty() {
        return Err(ApiError::new(400, "bad_request", "permission_scopes is empty"));
    }
    let granting = Granting {
        peer: id,
        terms: Terms {
            remote_subject: asked.remote_subject.unwrap_or_default(),
            resource_kind: asked.resource_kind.unwrap_or_default(),
            resource_id: asked.resource_id,
            scopes,
            node_instance_ids: asked.node_instance_ids,
            sdwan_network_ids: asked.sdwan_network_ids,
            source_cidrs: asked.source_cidrs,
        },
        days: asked.ttl_days.map(|days| u64::try_from(days).unwrap_or(0)),
    };
    let (mut secret, mut id) = ([0; 32], [0; 10]);
    (operating.random)(&mut secret);
    (operating.random)(&mut id);
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    let granted = blocking(move || gateway.grant(granting, secret, id, wall)).await??;
    let mut data = view(&granted.grant, granted.grant.issued_at);
    data["bearer_token"] = json!(granted.token.reveal());
    Ok((StatusCode::CREATED, Json(json!({ "data": data }))))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reason {
    reason: Option<String>,
}

/// An id in a path; what is none, is unknown.
fn id_of(text: &str, code: &'static str) -> Result<Uuid, ApiError> {
    Uuid::try_parse(text).map_err(|_| ApiError::new(404, code, format!("there is no {text}")))
}

async fn revoke(
    State(operating): State<Operating>,
    Path((peer, grant)): Path<(String, String)>,
    bytes: Bytes,
) -> Result<Json<Value>, ApiError> {
    let id = find(&operating, &peer)?;
    let grant = GrantId(id_of(&grant, "unknown_grant")?);
    let reason = optional::<Reason>(&bytes)?.reason;
    let reason = reason.unwrap_or_else(|| "by the operator".to_owned());
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    let grant = blocking(move || gateway.revoke_grant(id, grant, &reason, wall)).await??;
    Ok(Json(json!({ "data": view(&grant, wall) })))
}

async fn agreed(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let id = find(&operating, &peer)?;
    let found: Vec<Value> = operating.gateway.ledger.read(|book| {
        let of_peer = book.capabilities_of(id);
        of_peer.map(|capability| json!(**capability)).collect()
    });
    Ok(Json(json!({ "data": found })))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Agree {
    resource_kind: Option<String>,
    direction: Option<String>,
    policy: Option<String>,
    conflict: Option<String>,
}

async fn agree(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let peer = find(&operating, &peer)?;
    let asked: Agree = body(&bytes)?;
    let missing = |field: &str| ApiError::new(400, "bad_request", format!("{field} is missing"));
    let resource_kind = asked.resource_kind.filter(|kind| !kind.trim().is_empty());
    let resource_kind = resource_kind.ok_or_else(|| missing("resource_kind"))?;
    if resource_kind.len() > 64 {
        return Err(ApiError::new(
            422,
            "bad_terms",
            "resource_kind is longer than 64 bytes",
        ));
    }
    let direction: Option<Direction> = word(asked.direction.as_deref(), "direction")?;
    let policy: Option<Policy> = word(asked.policy.as_deref(), "policy")?;
    let conflict: Option<ConflictRule> = word(asked.conflict.as_deref(), "conflict")?;
    let mut random = [0; 10];
    (operating.random)(&mut random);
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    let capability = Capability {
        id: CapabilityId::new(wall, random),
        peer,
        resource_kind,
        direction: direction.ok_or_else(|| missing("direction"))?,
        policy: policy.unwrap_or_default(),
        conflict: conflict.unwrap_or_default(),
    };
    let capability = blocking(move || gateway.agree(capability, wall)).await??;
    Ok((StatusCode::CREATED, Json(json!({ "data": capability }))))
}

async fn disagree(
    State(operating): State<Operating>,
    Path((peer, capability)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let peer = find(&operating, &peer)?;
    let id = CapabilityId(id_of(&capability, "unknown_capability")?);
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    let capability = blocking(move || gateway.disagree(peer, id, wall)).await??;
    Ok(Json(json!({ "data": capability })))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Call {
    resource_kind: Option<String>,
    resource_id: Option<String>,
    after: Option<String>,
    bearer_token: Option<String>,
}

async fn call(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<Json<Value>, ApiError> {
    let id = find(&operating, &peer)?;
    let asked: Call = body(&bytes)?;
    let missing = |field: &str| ApiError::new(400, "bad_request", format!("{field} is missing"));
    let wanted = Wanted {
        kind: asked.resource_kind.ok_or_else(|| missing("resource_kind"))?,
        id: asked.resource_id,
        after: asked.after,
        bearer: asked.bearer_token,
    };
    // A managed child knows its parent by its certificate.
    let is_managed = operating.gateway.ledger.read(|book| {
        let peer = book.peer(&id);
        peer.is_some_and(|peer| peer.role == SpawnRole::Parent && peer.mode == SpawnMode::ManagedChild)
    });
    if wanted.bearer.is_none() && !is_managed {
        return Err(missing("bearer_token"));
    }
    let told = operating.gateway.fetch(id, &wanted, (operating.wall)()).await?;
    Ok(Json(json!({ "data": told })))
}
