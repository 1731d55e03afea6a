//! `/api/v1/system/platform/peers/{peer}/{grants,capabilities,call}`: what a peer is given, and what it gives us.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::answers::{Data, GrantView, Granted};
use super::peers::word;
use super::ways::Access;
use super::{API, Operating, Routes, find, optional};
use crate::api::error::ApiError;
use crate::api::federation_api::{blocking, body};
use crate::federation::capability::{Capability, CapabilityId, ConflictRule, Direction, Policy};
use crate::federation::dial::Wanted;
use crate::federation::gateway::Granting;
use crate::federation::grant::{GrantId, Scope, State as GrantState, Terms};
use crate::federation::number;
use crate::federation::peer::{SpawnMode, SpawnRole};
use crate::federation::wire::{ResourceAnswer, is_longer};
use crate::model::Name;

pub(super) fn routes() -> Routes {
    Routes {
        read: OpenApiRouter::new().routes(routes!(list)).routes(routes!(agreed)),
        invite: OpenApiRouter::new(),
        manage: OpenApiRouter::new()
            .routes(routes!(create))
            .routes(routes!(revoke))
            .routes(routes!(agree))
            .routes(routes!(disagree))
            .routes(routes!(call)),
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    #[param(value_type = Option<GrantState>, nullable = false)]
    state: Option<String>,
}

/// What a peer is given.
#[utoipa::path(get, context_path = API, path = "/{peer}/grants", tag = "grants", params(Filter), responses((status = 200, body = Data<Vec<GrantView>>)))]
async fn list(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
    Query(filter): Query<Filter>,
) -> Result<Data<Vec<GrantView>>, ApiError> {
    let id = find(&operating, &peer)?;
    let wanted = filter.state.map(|state| {
        serde_json::from_value::<GrantState>(Value::String(state.clone()))
            .map_err(|_| ApiError::new(400, "bad_state", format!("{state:?} is no state of a grant")))
    });
    let wanted = wanted.transpose()?;
    let wall = (operating.wall)();
    let grants = operating.gateway.ledger.read(|book| {
        let now = book.now(wall);
        let of_peer = book.grants().filter(|grant| grant.peer == id);
        of_peer
            .filter(|grant| wanted.is_none_or(|state| grant.state(now) == state))
            .map(|grant| GrantView::of(grant, now))
            .collect()
    });
    Ok(Data { data: grants })
}

/// The entries of an axis, each as this pattern (ECMA-262) says; or `*`, which stands alone.
fn entries(pattern: &str) -> Schema {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let named = text()
        .min_length(Some(1))
        .max_length(Some(64))
        .pattern(Some(pattern));
    let any_of = AnyOfBuilder::new()
        .item(ArrayBuilder::new().items(named).max_items(Some(256)))
        .item(
            ArrayBuilder::new()
                .items(text().enum_values(Some(["*"])))
                .max_items(Some(256)),
        )
        .build();
    Schema::AnyOf(any_of)
}

fn names() -> Schema {
    entries("[^*]|..")
}

fn prefixes() -> Schema {
    const BYTE: &str = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
    entries(&format!("^({BYTE}\\.){{3}}{BYTE}/(3[0-2]|[12]?[0-9])$"))
}

/// What is given.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = GrantAsked)]
#[serde(default)]
struct Create {
    /// For whom at the peer.
    #[schema(required = true, nullable = false, max_length = 256, pattern = "\\S")]
    remote_subject: Option<String>,
    #[schema(required = true, nullable = false, max_length = 64, pattern = "\\S")]
    resource_kind: Option<String>,
    /// Which one; none is all.
    #[schema(max_length = 128, pattern = "\\S")]
    resource_id: Option<String>,
    #[schema(value_type = Option<Vec<Scope>>, min_items = 1)]
    permission_scopes: Option<Vec<String>>,
    /// None, or `*` alone, restricts nothing.
    #[schema(schema_with = names)]
    node_instance_ids: Vec<String>,
    /// None, or `*` alone, restricts nothing.
    #[schema(schema_with = names)]
    sdwan_network_ids: Vec<String>,
    /// None, or `*` alone, restricts nothing; prefixes of IPv6 are taken, too.
    #[schema(schema_with = prefixes)]
    source_cidrs: Vec<String>,
    #[serde(deserialize_with = "number::optional")]
    #[schema(minimum = -9_223_372_036_854_775_808_i64, maximum = 9_223_372_036_854_775_807_i64)]
    ttl_days: Option<i64>,
}

/// Gives a peer something to read: the answer has the token, once.
#[utoipa::path(post, context_path = API, path = "/{peer}/grants", tag = "grants", request_body = Create, responses((status = 201, body = Data<Granted>), (status = 409), (status = 422)))]
async fn create(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<(StatusCode, Data<Granted>), ApiError> {
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
    let (gateway, order) = (Arc::clone(&operating.gateway), access.order((operating.wall)()));
    let granted = blocking(move || gateway.grant(granting, secret, id, order)).await??;
    let data = Granted {
        grant: GrantView::of(&granted.grant, granted.grant.issued_at),
        bearer_token: granted.token.reveal(),
    };
    Ok((StatusCode::CREATED, Data { data }))
}

/// Why.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = GrantReason)]
#[serde(default)]
struct Reason {
    reason: Option<String>,
}

/// An id in a path; what is none, is unknown.
fn id_of(text: &str, code: &'static str) -> Result<Uuid, ApiError> {
    Uuid::try_parse(text).map_err(|_| ApiError::new(404, code, format!("there is no {text}")))
}

/// Ends a grant.
#[utoipa::path(post, context_path = API, path = "/{peer}/grants/{grant}/revoke", tag = "grants", request_body = Option<Reason>, responses((status = 200, body = Data<GrantView>), (status = 409), (status = 422)))]
async fn revoke(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    Path((peer, grant)): Path<(String, String)>,
    bytes: Bytes,
) -> Result<Data<GrantView>, ApiError> {
    let id = find(&operating, &peer)?;
    let grant = GrantId(id_of(&grant, "unknown_grant")?);
    let reason = optional::<Reason>(&bytes)?.reason;
    let reason = reason.unwrap_or_else(|| "by the operator".to_owned());
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    let grant = blocking(move || gateway.revoke_grant(id, grant, &reason, access.order(wall))).await??;
    Ok(Data {
        data: GrantView::of(&grant, wall),
    })
}

/// What is agreed with a peer.
#[utoipa::path(get, context_path = API, path = "/{peer}/capabilities", tag = "grants", responses((status = 200, body = Data<Vec<Capability>>)))]
async fn agreed(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
) -> Result<Data<Vec<Capability>>, ApiError> {
    let id = find(&operating, &peer)?;
    let data = operating.gateway.ledger.read(|book| {
        let of_peer = book.capabilities_of(id);
        of_peer.map(|capability| (**capability).clone()).collect()
    });
    Ok(Data { data })
}

/// What is agreed.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = CapabilityAsked)]
#[serde(default)]
struct Agree {
    #[schema(required = true, nullable = false, max_length = 64, pattern = "\\S")]
    resource_kind: Option<String>,
    #[schema(required = true, nullable = false, value_type = Direction)]
    direction: Option<String>,
    #[schema(value_type = Option<Policy>)]
    policy: Option<String>,
    #[schema(value_type = Option<ConflictRule>)]
    conflict: Option<String>,
}

/// Agrees on a kind of resources.
#[utoipa::path(post, context_path = API, path = "/{peer}/capabilities", tag = "grants", request_body = Agree, responses((status = 201, body = Data<Capability>), (status = 409), (status = 422)))]
async fn agree(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<(StatusCode, Data<Capability>), ApiError> {
    let peer = find(&operating, &peer)?;
    let asked: Agree = body(&bytes)?;
    let missing = |field: &str| ApiError::new(400, "bad_request", format!("{field} is missing"));
    let resource_kind = asked.resource_kind.filter(|kind| !kind.trim().is_empty());
    let resource_kind = resource_kind.ok_or_else(|| missing("resource_kind"))?;
    if is_longer(&resource_kind, 64) {
        return Err(ApiError::new(
            422,
            "bad_terms",
            "resource_kind is longer than 64 characters",
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
    let capability = blocking(move || gateway.agree(capability, access.order(wall))).await??;
    Ok((StatusCode::CREATED, Data { data: capability }))
}

/// Ends an agreement.
#[utoipa::path(delete, context_path = API, path = "/{peer}/capabilities/{capability}", tag = "grants", responses((status = 200, body = Data<Capability>), (status = 409)))]
async fn disagree(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    Path((peer, capability)): Path<(String, String)>,
) -> Result<Data<Capability>, ApiError> {
    let peer = find(&operating, &peer)?;
    let id = CapabilityId(id_of(&capability, "unknown_capability")?);
    let (gateway, order) = (Arc::clone(&operating.gateway), access.order((operating.wall)()));
    let capability = blocking(move || gateway.disagree(peer, id, order)).await??;
    Ok(Data { data: capability })
}

/// What to read.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = CallAsked)]
#[serde(default)]
struct Call {
    #[schema(required = true, nullable = false)]
    resource_kind: Option<String>,
    resource_id: Option<String>,
    after: Option<String>,
    /// The grant's token; a managed child needs none to read its parent.
    bearer_token: Option<String>,
    /// From within which network of this site's, through its bridge to the peer; none is over the underlay.
    #[schema(max_length = 48, pattern = "^[a-z0-9][a-z0-9-]*$")]
    network: Option<String>,
}

/// Reads a network's name.
fn network(text: &str) -> Result<Name, ApiError> {
    Name::new(text).map_err(|error| ApiError::new(422, "bad_network", format!("network {text:?}: {error}")))
}

/// Reads what a peer has granted us.
#[utoipa::path(post, context_path = API, path = "/{peer}/call", tag = "grants", request_body = Call, responses((status = 200, body = Data<ResourceAnswer>), (status = 409), (status = 422), (status = 502)))]
async fn call(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<Data<ResourceAnswer>, ApiError> {
    let id = find(&operating, &peer)?;
    let asked: Call = body(&bytes)?;
    let missing = |field: &str| ApiError::new(400, "bad_request", format!("{field} is missing"));
    let wanted = Wanted {
        kind: asked.resource_kind.ok_or_else(|| missing("resource_kind"))?,
        id: asked.resource_id,
        after: asked.after,
        bearer: asked.bearer_token,
        network: asked.network.as_deref().map(network).transpose()?,
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
    Ok(Data { data: told })
}
