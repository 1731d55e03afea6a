//! `/api/v1/system/platform/peers`: proposals, and what becomes of them.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::answers::{Accepted, Changed, Data, PeerDetails, Pending, Proposed, Retried};
use super::view::{ListedView, PeerView};
use super::ways::Access;
use super::{API, Operating, Routes, deeds, find, listing, optional};
use crate::api::error::ApiError;
use crate::api::federation_api::{blocking, body};
use crate::api::openapi::url;
use crate::federation::approval::Deed;
use crate::federation::gateway::{Gateway, OperatorError, Order, Proposal, SoftStep, TakeError};
use crate::federation::number;
use crate::federation::peer::{Peer, PeerId, SpawnMode, SpawnRole, Status};
use crate::federation::token::AcceptanceToken;
use crate::federation::url::{PeerUrl, UrlError};
use crate::federation::wire::Notice;
use crate::model::Name;

pub(super) fn routes() -> Routes {
    Routes {
        read: OpenApiRouter::new().routes(routes!(list)).routes(routes!(show)),
        invite: OpenApiRouter::new()
            .routes(routes!(propose))
            .routes(routes!(accept))
            .routes(routes!(rotate_token)),
        manage: OpenApiRouter::new()
            .routes(routes!(verify))
            .routes(routes!(suspend))
            .routes(routes!(resume))
            .routes(routes!(revoke))
            .routes(routes!(retry)),
    }
}

/// A peer, for operators.
pub(super) fn peer_view(gateway: &Gateway, peer: &Peer) -> Value {
    json!(PeerView::of(gateway, peer))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Statuses, with commas between them.
    #[param(
        nullable = false,
        pattern = "^(proposed|accepted|enrolled|active|degraded|suspended|revoked)(,(proposed|accepted|enrolled|active|degraded|suspended|revoked))*$"
    )]
    status: Option<String>,
    #[param(nullable = false)]
    spawn_mode: Option<SpawnMode>,
}

/// The peers, in short.
#[utoipa::path(get, context_path = API, path = "", tag = "peers", params(Filter), responses((status = 200, body = Data<Vec<ListedView<'static>>>)))]
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
    let gateway = &operating.gateway;
    let is_whole = wanted.is_empty() && filter.spawn_mode.is_none();
    let written = if is_whole {
        operating.listing.all(gateway)
    } else {
        let peers: Vec<Arc<Peer>> = gateway.ledger.read(|book| {
            book.peers()
                .filter(|peer| wanted.is_empty() || wanted.contains(&peer.status))
                .filter(|peer| filter.spawn_mode.is_none_or(|mode| peer.mode == mode))
                .cloned()
                .collect()
        });
        listing::some(gateway, &peers)
    };
    Ok(([(CONTENT_TYPE, "application/json")], written))
}

/// A peer.
#[utoipa::path(get, context_path = API, path = "/{peer}", tag = "peers", responses((status = 200, body = Data<PeerDetails>)))]
async fn show(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
) -> Result<Data<PeerDetails>, ApiError> {
    let id = find(&operating, &peer)?;
    let gateway = &operating.gateway;
    let fleet = gateway.fleet();
    let details = gateway.ledger.read(|book| {
        let peer = book.peer(&id)?;
        let now = book.now((operating.wall)());
        let mut authority = book.grants().filter(|grant| grant.is_authority_of(id, now));
        let bridges = fleet.as_ref().map(|fleet| {
            fleet
                .bridges
                .values()
                .filter(|bridge| bridge.peer == peer.alias)
                .count()
        });
        Some(PeerDetails {
            peer: peer_view(gateway, peer),
            grants_count: book.grants().filter(|grant| grant.peer == id).count(),
            capabilities_count: book.capabilities_of(id).count(),
            bridges_count: bridges,
            bridges: Vec::new(),
            managed_until: authority.next().map(|grant| grant.expires_at),
        })
    });
    let details = details.ok_or_else(|| ApiError::from(OperatorError::Unknown(id)))?;
    let data = PeerDetails {
        bridges: gateway.bridges_of(id),
        ..details
    };
    Ok(Data { data })
}

/// A proposal.
#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct Propose {
    /// Where the peer's API is.
    #[schema(required = true, schema_with = url)]
    remote_instance_url: Option<String>,
    /// What we call it; else a name is made of its host's. It doesn't read like an id.
    #[schema(pattern = "^[a-z0-9][a-z0-9-]{0,30}$")]
    alias: Option<String>,
    #[schema(value_type = Option<SpawnRole>)]
    spawn_role: Option<String>,
    #[schema(value_type = Option<SpawnMode>)]
    spawn_mode: Option<String>,
    #[serde(deserialize_with = "number::optional")]
    #[schema(minimum = -9_223_372_036_854_775_808_i64, maximum = 9_223_372_036_854_775_807_i64)]
    token_ttl_seconds: Option<i64>,
    /// SHA-256 of the peer's CA.
    #[schema(pattern = "^(sha256:)?[0-9a-fA-F]{64}$")]
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

/// Proposes a peer: the answer has the token, once. Or it waits for a second operator.
#[utoipa::path(post, context_path = API, path = "", tag = "peers", request_body = Propose, responses((status = 201, body = Data<Proposed>), (status = 202, body = Data<Pending>), (status = 409), (status = 422), (status = 429)))]
async fn propose(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    bytes: Bytes,
) -> Result<Response, ApiError> {
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
    deeds::ask(&operating, &access, Deed::Propose(proposal), None).await
}

/// A token to take to a peer.
#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct Accept {
    #[schema(
        required = true,
        nullable = false,
        pattern = "^sdw1\\.[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+$"
    )]
    acceptance_token: Option<String>,
}

/// Why.
#[derive(Deserialize, Default, ToSchema)]
#[schema(as = ChangeReason)]
#[serde(default)]
struct Reason {
    reason: Option<String>,
}

/// For how long a token is good.
#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct Life {
    #[serde(deserialize_with = "number::optional")]
    #[schema(minimum = -9_223_372_036_854_775_808_i64, maximum = 9_223_372_036_854_775_807_i64)]
    token_ttl_seconds: Option<i64>,
}

/// Takes a token to the peer that issued it. Or that waits for a second operator.
#[utoipa::path(post, context_path = API, path = "/{peer}/accept", tag = "peers", request_body = Accept, responses((status = 200, body = Data<Accepted>), (status = 202, body = Data<Pending>), (status = 409), (status = 422), (status = 429), (status = 502)))]
async fn accept(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<Response, ApiError> {
    let id = find(&operating, &peer)?;
    let token = optional::<Accept>(&bytes)?
        .acceptance_token
        .filter(|token| !token.trim().is_empty());
    let token = token.ok_or_else(|| ApiError::new(400, "bad_request", "acceptance_token is missing"))?;
    let token = AcceptanceToken::parse(&token).map_err(TakeError::Token)?;
    deeds::ask(&operating, &access, Deed::Accept { peer: id }, Some(token)).await
}

/// One change of one peer, which it is told of: best effort, the change stands without.
pub(super) async fn changed(
    operating: &Operating,
    access: &Access,
    peer: &str,
    notice: Option<Notice>,
    work: impl FnOnce(&Gateway, PeerId, Order) -> Result<Peer, OperatorError> + Send + 'static,
) -> Result<Data<Changed>, ApiError> {
    let id = find(operating, peer)?;
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    let order = access.order(wall);
    let peer = blocking(move || work(&gateway, id, order)).await??;
    let view = peer_view(&operating.gateway, &peer);
    if let Some(notice) = notice.filter(|_| peer.trust.is_some()) {
        let gateway = Arc::clone(&operating.gateway);
        tokio::spawn(async move {
            if let Err(error) = gateway.notify(&peer, notice, wall).await {
                tracing::info!(peer = %peer.id, ?notice, %error, "the peer wasn't told: its calls will be refused");
            }
        });
    }
    Ok(Data {
        data: Changed { peer: view },
    })
}

/// Why, for the audit.
fn reason(bytes: &Bytes) -> Result<String, ApiError> {
    let said = optional::<Reason>(bytes)?.reason;
    Ok(said.unwrap_or_else(|| "by the operator".to_owned()))
}

/// The operators have compared the six words.
#[utoipa::path(post, context_path = API, path = "/{peer}/verify", tag = "peers", responses((status = 200, body = Data<Changed>), (status = 409)))]
async fn verify(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    Path(peer): Path<String>,
) -> Result<Data<Changed>, ApiError> {
    changed(&operating, &access, &peer, None, Gateway::verify).await
}

/// Ends a suspension.
#[utoipa::path(post, context_path = API, path = "/{peer}/resume", tag = "peers", responses((status = 200, body = Data<Changed>), (status = 409)))]
async fn resume(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    Path(peer): Path<String>,
) -> Result<Data<Changed>, ApiError> {
    changed(&operating, &access, &peer, Some(Notice::Resumed), Gateway::resume).await
}

/// Stops a peer for the time being.
#[utoipa::path(post, context_path = API, path = "/{peer}/suspend", tag = "peers", request_body = Option<Reason>, responses((status = 200, body = Data<Changed>), (status = 409), (status = 422)))]
async fn suspend(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<Data<Changed>, ApiError> {
    let reason = reason(&bytes)?;
    changed(
        &operating,
        &access,
        &peer,
        Some(Notice::Suspended),
        move |gateway, id, order| gateway.suspend(id, &reason, order),
    )
    .await
}

/// Ends a peering for good.
#[utoipa::path(post, context_path = API, path = "/{peer}/revoke", tag = "peers", request_body = Option<Reason>, responses((status = 200, body = Data<Changed>), (status = 409), (status = 422)))]
async fn revoke(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<Data<Changed>, ApiError> {
    let reason = reason(&bytes)?;
    changed(
        &operating,
        &access,
        &peer,
        Some(Notice::Revoked),
        move |gateway, id, order| gateway.revoke(id, &reason, order),
    )
    .await
}

/// Which step.
#[derive(Deserialize, ToSchema)]
struct Retry {
    step: SoftStep,
}

/// Takes a soft step again.
#[utoipa::path(post, context_path = API, path = "/{peer}/retry", tag = "peers", request_body = Retry, responses((status = 200, body = Data<Retried>)))]
async fn retry(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<Data<Retried>, ApiError> {
    let id = find(&operating, &peer)?;
    let Retry { step } = body(&bytes)?;
    let taken = operating.gateway.retry(id, step, (operating.wall)())?;
    let data = Retried {
        step,
        outcome: taken.outcome,
        warnings: taken.warnings,
    };
    Ok(Data { data })
}

/// Draws another token for a proposal. Or that waits for a second operator, as a proposal does.
#[utoipa::path(post, context_path = API, path = "/{peer}/rotate-token", tag = "peers", request_body = Option<Life>, responses((status = 200, body = Data<Proposed>), (status = 202, body = Data<Pending>), (status = 409), (status = 422), (status = 429)))]
async fn rotate_token(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<Response, ApiError> {
    let id = find(&operating, &peer)?;
    let ttl = optional::<Life>(&bytes)?
        .token_ttl_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    let deed = Deed::RotateToken {
        peer: id,
        token_ttl_seconds: ttl,
    };
    deeds::ask(&operating, &access, deed, None).await
}
