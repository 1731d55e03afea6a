//! `/api/v1/system/platform/peers`: proposals, and what becomes of them.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::view::PeerView;
use super::{API, Operating, Routes, find, optional};
use crate::api::error::ApiError;
use crate::api::federation_api::{blocking, body};
use crate::federation::gateway::{Gateway, OperatorError, Proposal, SoftStep};
use crate::federation::moment::Moment;
use crate::federation::peer::{Peer, PeerId, SpawnMode, SpawnRole, Status};
use crate::federation::spawn::Payload;
use crate::federation::url::{PeerUrl, UrlError};
use crate::federation::wire::Notice;
use crate::model::Name;

pub(super) fn routes() -> Routes {
    let of = |verb: &str| format!("{API}/{{peer}}/{verb}");
    Routes {
        read: Router::new()
            .route(API, get(list))
            .route(&format!("{API}/{{peer}}"), get(show)),
        invite: Router::new()
            .route(API, post(propose))
            .route(&of("accept"), post(accept))
            .route(&of("rotate-token"), post(rotate_token)),
        manage: Router::new()
            .route(&of("verify"), post(verify))
            .route(&of("suspend"), post(suspend))
            .route(&of("resume"), post(resume))
            .route(&of("revoke"), post(revoke))
            .route(&of("retry"), post(retry)),
    }
}

/// A peer, for operators.
pub(super) fn peer_view(gateway: &Gateway, peer: &Peer) -> Value {
    json!(PeerView::of(gateway, peer))
}

#[derive(Deserialize)]
struct Filter {
    status: Option<String>,
    spawn_mode: Option<SpawnMode>,
}

async fn list(
    State(operating): State<Operating>,
    Query(filter): Query<Filter>,
) -> Result<impl IntoResponse, ApiError> {
    let mut wanted = Vec::new();
    for word in filter.status.iter().flat_map(|words| words.split(',')) {
        let status = Status::ALL.into_iter().find(|status| status.as_str() == word);
        wanted
            .push(status.ok_or_else(|| ApiError::new(400, "bad_status", format!("{word:?} is no status")))?);
    }
    let gateway = Arc::clone(&operating.gateway);
    let peers: Vec<Arc<Peer>> = gateway.ledger.read(|book| {
        book.peers()
            .filter(|peer| wanted.is_empty() || wanted.contains(&peer.status))
            .filter(|peer| filter.spawn_mode.is_none_or(|mode| peer.mode == mode))
            .cloned()
            .collect()
    });
    // There may be thousands: nobody else waits for them to be written.
    let written = blocking(move || {
        let views = peers.iter().map(|peer| PeerView::of(&gateway, peer));
        serde_json::to_vec(&Listed {
            data: views.collect(),
        })
    });
    let written = written.await?.map_err(|error| ApiError::internal(&error))?;
    Ok(([(CONTENT_TYPE, "application/json")], written))
}

#[derive(Serialize)]
struct Listed<'a> {
    data: Vec<PeerView<'a>>,
}

async fn show(State(operating): State<Operating>, Path(peer): Path<String>) -> Result<Json<Value>, ApiError> {
    let id = find(&operating, &peer)?;
    let gateway = &operating.gateway;
    let fleet = gateway.fleet();
    let peer = gateway.ledger.read(|book| {
        let peer = book.peer(&id)?;
        let mut view = peer_view(gateway, peer);
        view["grants_count"] = json!(book.grants().filter(|grant| grant.peer == id).count());
        let now = book.now((operating.wall)());
        let mut authority = book.grants().filter(|grant| grant.is_authority_of(id, now));
        view["managed_until"] = json!(authority.next().map(|grant| grant.expires_at));
        view["capabilities_count"] = json!(book.capabilities_of(id).count());
        let bridges = fleet.as_ref().map(|fleet| {
            fleet
                .bridges
                .values()
                .filter(|bridge| bridge.peer == peer.alias)
                .count()
        });
        view["bridges_count"] = json!(bridges);
        Some(view)
    });
    Ok(Json(json!({ "data": peer })))
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Propose {
    remote_instance_url: Option<String>,
    alias: Option<String>,
    spawn_role: Option<String>,
    spawn_mode: Option<String>,
    token_ttl_seconds: Option<i64>,
    expect_ca: Option<String>,
}

/// Reads a word of a small vocabulary.
pub(super) fn word<T: for<'a> Deserialize<'a> + Default>(
    text: Option<&str>,
    field: &str,
) -> Result<T, ApiError> {
    match text {
        None => Ok(T::default()),
        Some(text) => serde_json::from_value(Value::String(text.to_owned()))
            .map_err(|_| ApiError::new(400, "bad_request", format!("{field} {text:?} is unknown"))),
    }
}

async fn propose(
    State(operating): State<Operating>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let asked: Propose = body(&bytes)?;
    let url = asked.remote_instance_url.filter(|url| !url.trim().is_empty());
    let url = url.ok_or_else(|| ApiError::new(400, "bad_request", "remote_instance_url is missing"))?;
    let role: SpawnRole = word(asked.spawn_role.as_deref(), "spawn_role")?;
    let mode: SpawnMode = word(asked.spawn_mode.as_deref(), "spawn_mode")?;
    let url =
        PeerUrl::new(&url).map_err(|error: UrlError| ApiError::new(422, "bad_url", error.to_string()))?;
    let alias = asked.alias.map(|alias| Name::new(&alias)).transpose();
    let alias = alias.map_err(|error| ApiError::new(422, "bad_alias", error.to_string()))?;
    if alias
        .as_ref()
        .is_some_and(|alias| Uuid::try_parse(alias.as_str()).is_ok())
    {
        return Err(ApiError::new(
            422,
            "bad_alias",
            "an alias that reads like an id could be taken for one",
        ));
    }
    if role == SpawnRole::Parent && operating.gateway.settings.url.is_none() {
        return Err(ApiError::new(
            422,
            "not_dialable",
            "a parent must be dialable for its children: set `url` of [federation]",
        ));
    }
    let expect_ca = asked.expect_ca.map(|text| text.parse()).transpose();
    let proposal = Proposal {
        url,
        alias,
        role,
        mode,
        token_ttl_seconds: asked
            .token_ttl_seconds
            .and_then(|seconds| u64::try_from(seconds).ok()),
        expect_ca: expect_ca.map_err(|error: &str| ApiError::new(422, "bad_fingerprint", error))?,
    };
    let (mut secret, mut id) = ([0; 32], [0; 10]);
    (operating.random)(&mut secret);
    (operating.random)(&mut id);
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    let proposed = blocking(move || gateway.propose(&proposal, secret, id, wall)).await??;
    let mut data = json!({
        "peer": peer_view(&operating.gateway, &proposed.peer),
        "acceptance_token": proposed.token.reveal(),
    });
    let url = operating.gateway.settings.url.as_ref();
    if url.is_none() {
        data["warnings"] = json!([
            "this site can't be dialled, so nobody can bring the token to it: let the other operator propose"
        ]);
    }
    if let Some(url) = url.filter(|_| proposed.peer.role == SpawnRole::Parent) {
        // What the child reads at its first start.
        data["spawn_payload"] = json!(Payload {
            parent_url: url.to_string(),
            acceptance_token: proposed.token.reveal(),
            spawn_mode: proposed.peer.mode,
            parent_peer_id: Some(proposed.peer.id),
            contract_version: json!("v1"),
            name: Name::new(operating.gateway.site.name()).ok(),
        });
    }
    Ok((StatusCode::CREATED, Json(json!({ "data": data }))))
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Change {
    acceptance_token: Option<String>,
    reason: Option<String>,
    token_ttl_seconds: Option<i64>,
}

async fn accept(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<Json<Value>, ApiError> {
    let id = find(&operating, &peer)?;
    let token = optional::<Change>(&bytes)?
        .acceptance_token
        .filter(|token| !token.trim().is_empty());
    let token = token.ok_or_else(|| ApiError::new(400, "bad_request", "acceptance_token is missing"))?;
    let gateway = &operating.gateway;
    let peer = gateway.take(id, &token, (operating.wall)()).await?;
    let scan = gateway.retry(id, SoftStep::Governance, (operating.wall)())?;
    Ok(Json(json!({ "data": {
        "peer": peer_view(gateway, &peer),
        "sdwan_attach": gateway.attachment(&peer),
        "governance": scan.outcome,
        "warnings": scan.warnings,
    } })))
}

/// One change of one peer, which it is told of: best effort, the change stands without.
pub(super) async fn changed(
    operating: &Operating,
    peer: &str,
    notice: Option<Notice>,
    work: impl FnOnce(&Gateway, PeerId, Moment) -> Result<Peer, OperatorError> + Send + 'static,
) -> Result<Json<Value>, ApiError> {
    let id = find(operating, peer)?;
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    let peer = blocking(move || work(&gateway, id, wall)).await??;
    let view = peer_view(&operating.gateway, &peer);
    if let Some(notice) = notice.filter(|_| peer.trust.is_some()) {
        let gateway = Arc::clone(&operating.gateway);
        tokio::spawn(async move {
            if let Err(error) = gateway.notify(&peer, notice, wall).await {
                tracing::info!(peer = %peer.id, ?notice, %error, "the peer wasn't told: its calls will be refused");
            }
        });
    }
    Ok(Json(json!({ "data": { "peer": view } })))
}

/// Why, for the audit.
fn reason(bytes: &Bytes) -> Result<String, ApiError> {
    let said = optional::<Change>(bytes)?.reason;
    Ok(said.unwrap_or_else(|| "by the operator".to_owned()))
}

async fn verify(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
) -> Result<Json<Value>, ApiError> {
    changed(&operating, &peer, None, Gateway::verify).await
}

async fn resume(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
) -> Result<Json<Value>, ApiError> {
    changed(&operating, &peer, Some(Notice::Resumed), Gateway::resume).await
}

async fn suspend(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<Json<Value>, ApiError> {
    let reason = reason(&bytes)?;
    changed(
        &operating,
        &peer,
        Some(Notice::Suspended),
        move |gateway, id, wall| gateway.suspend(id, &reason, wall),
    )
    .await
}

async fn revoke(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<Json<Value>, ApiError> {
    let reason = reason(&bytes)?;
    changed(
        &operating,
        &peer,
        Some(Notice::Revoked),
        move |gateway, id, wall| gateway.revoke(id, &reason, wall),
    )
    .await
}

#[derive(Deserialize)]
struct Retry {
    step: SoftStep,
}

async fn retry(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<Json<Value>, ApiError> {
    let id = find(&operating, &peer)?;
    let Retry { step } = body(&bytes)?;
    let taken = operating.gateway.retry(id, step, (operating.wall)())?;
    Ok(Json(
        json!({ "data": { "step": step, "outcome": taken.outcome, "warnings": taken.warnings } }),
    ))
}

async fn rotate_token(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<Json<Value>, ApiError> {
    let id = find(&operating, &peer)?;
    let ttl = optional::<Change>(&bytes)?
        .token_ttl_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    let mut secret = [0; 32];
    (operating.random)(&mut secret);
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    let proposed = blocking(move || gateway.rotate_token(id, ttl, secret, wall)).await??;
    let data = json!({
        "peer": peer_view(&operating.gateway, &proposed.peer),
        "acceptance_token": proposed.token.reveal(),
    });
    Ok(Json(json!({ "data": data })))
}
