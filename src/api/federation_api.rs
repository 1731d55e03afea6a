//! What peers call: mTLS, one site at a time, nothing that isn't asked for.

mod subscriptions;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::{Next, from_fn, map_response};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json, Router};
use rustls::pki_types::CertificateDer;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::SocketAddr;
use utoipa::openapi::{OpenApi, SecurityRequirement};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, in_our_shape};
use super::limits::{Limits, Source};
use super::openapi::{GRANT, PEER, secured};
use crate::federation::bridge::{BridgeId, Half};
use crate::federation::gateway::{
    Asked, BeatError, Excerpts, ExcerptsAsked, Gateway, Refused, RenewError, ResourceError, Via,
};
use crate::federation::moment::Moment;
use crate::federation::peer::{Peer, PeerId, Status};
use crate::federation::wire::{
    API, AcceptAnswer, AcceptRequest, BridgeAnswer, BridgeEnd, Envelope, HeartbeatAnswer, HeartbeatRequest,
    MAX_BODY, NoticeRequest, RenewAnswer, RenewRequest, ResourceAnswer, TrustBundle,
};
use crate::model::Name;

/// Who is on the other end of a connection, as TLS and the socket say.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The chain that it showed, and whose key it has; empty if it showed none.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// Where it calls from.
    pub source: SocketAddr,
    /// The network of ours that the listener is in, if it is in one.
    pub network: Option<Name>,
}

/// Where a notice has left the caller.
#[derive(Serialize, ToSchema)]
struct Noticed {
    status: Status,
}

/// What the handlers need.
#[derive(Clone)]
pub struct Serving {
    /// The site's gateway.
    pub gateway: Arc<Gateway>,
    /// What the wall clock says.
    pub wall: fn() -> Moment,
    /// Told of every verified beat.
    pub heard: Arc<dyn Fn(PeerId) + Send + Sync>,
    /// Who may ask how often.
    pub limits: Arc<Limits>,
    /// Draws random bytes.
    pub random: fn(&mut [u8]),
}

/// The routes.
fn all() -> OpenApiRouter<Serving> {
    // Who has a token but no certificate yet, is no stranger to these.
    let open = OpenApiRouter::new()
        .routes(routes!(accept))
        .routes(routes!(renew));
    let of_peers = OpenApiRouter::new()
        .routes(routes!(heartbeat))
        .routes(routes!(trust_bundle))
        .routes(routes!(notices))
        .routes(routes!(bridge_put, bridge_delete))
        .routes(routes!(audit_excerpts))
        .merge(subscriptions::of_peers());
    let granted = OpenApiRouter::new()
        .routes(routes!(resources))
        .routes(routes!(resource))
        .merge(subscriptions::granted());
    let peer = SecurityRequirement::new(PEER, [""; 0]);
    open.merge(secured(of_peers, &peer))
        .merge(secured(granted, &peer.add(GRANT, [""; 0])))
}

/// What the routes say of themselves.
pub(super) fn described() -> OpenApi {
    all().into_openapi()
}

/// The routes, served.
pub fn router(serving: Serving) -> Router {
    let (routes, _) = all().split_for_parts();
    routes
        .fallback(async || ApiError::new(404, "not_found", "there is no such path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(405, "method_not_allowed", "not with this method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(map_response(in_our_shape))
        .layer(from_fn(in_time))
        .with_state(serving)
}

/// How long a request may take, its body included: who sends half of one can't keep it.
const PATIENCE: Duration = Duration::from_secs(15);

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            ApiError::new(408, "too_slow", "the request didn't come to its end in time").into_response()
        }
    }
}

/// Reads a body; what it is said to be doesn't matter, what it is does.
pub(super) fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, ApiError> {
    let malformed = |place| {
        let text = format!("the body is no JSON of the expected shape: {place}");
        ApiError::new(400, "malformed", text)
    };
    // serde reads a struct from an array, too: field by field, in an order that nobody promised.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(malformed("it is an object".to_owned()));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        // serde's words may repeat what was sent, and that may be a token.
        malformed(format!("line {}, column {}", error.line(), error.column()))
    })
}

/// The ledger is a file: whoever waits for the disk doesn't hold up the others.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ApiError::internal(&error))
}

/// Counts a refusal for the audit.
fn count(serving: &Serving, caller: &Caller, what: Refused, reason: &'static str) {
    let source = Source::from(caller.source.ip());
    serving
        .gateway
        .refused(what, source.into(), reason, (serving.wall)());
}

/// The peer who calls. Whoever isn't one is counted, and hears what every stranger does.
fn known(serving: &Serving, caller: &Caller) -> Result<Arc<Peer>, ApiError> {
    let identified = serving.gateway.identify(&caller.chain, (serving.wall)());
    identified.map_err(|stranger| {
        tracing::debug!(source = %caller.source.ip(), error = %stranger, "a caller isn't known");
        count(serving, caller, Refused::Stranger, stranger.code());
        ApiError::stranger()
    })
}

/// Redeems a token: the caller becomes a peer.
#[utoipa::path(post, context_path = API, path = "/accept", tag = "peer_facing", request_body = AcceptRequest, responses((status = 200, body = Envelope<AcceptAnswer>), (status = 409), (status = 422), (status = 429), (status = 503)))]
async fn accept(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
    bytes: Bytes,
) -> Result<Json<Value>, ApiError> {
    let refused = |reason| count(&serving, &caller, Refused::Accept, reason);
    if !serving.limits.may_accept(caller.source.ip()) {
        refused("too_many");
        return Err(ApiError::new(
            429,
            "too_many",
            "too many acceptances from there: wait a minute",
        ));
    }
    let request: AcceptRequest = body(&bytes).inspect_err(|_| refused("malformed"))?;
    let gateway = Arc::clone(&serving.gateway);
    let (chain, wall) = (Arc::clone(&caller.chain), (serving.wall)());
    let mut secret = [0; 32];
    (serving.random)(&mut secret);
    let data = blocking(move || gateway.accept(request, &chain, secret, wall)).await?;
    if let Err(error) = &data {
        tracing::warn!(source = %caller.source.ip(), %error, "an acceptance was refused");
        match error.status() {
            // A fault of ours refuses nobody.
            (500, _) => {}
            (_, reason) => refused(reason),
        }
    }
    Ok(Json(json!({ "success": true, "data": data? })))
}

/// A beat.
#[utoipa::path(post, context_path = API, path = "/heartbeat", tag = "peer_facing", request_body = Option<HeartbeatRequest>, responses((status = 200, body = Envelope<HeartbeatAnswer>), (status = 422), (status = 429)))]
async fn heartbeat(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    let wall = (serving.wall)();
    let request: Result<HeartbeatRequest, ApiError> = match bytes {
        Ok(bytes) if bytes.is_empty() => Ok(HeartbeatRequest::default()),
        Ok(bytes) => body(&bytes),
        Err(rejection) => Err(rejection.into()),
    };
    let request = match request {
        Ok(request) => request,
        Err(malformed) => {
            // Strangers aren't told what a beat looks like.
            known(&serving, &caller)?;
            return Err(malformed);
        }
    };
    let gateway = Arc::clone(&serving.gateway);
    let beaten = if gateway.is_quiet(&caller.chain, &request, wall) {
        gateway.beaten(&caller.chain, request, wall)
    } else {
        let from = caller.clone();
        blocking(move || gateway.beaten(&from.chain, request, wall)).await?
    };
    if let Err(BeatError::Stranger(stranger)) = &beaten {
        tracing::debug!(source = %caller.source.ip(), error = %stranger, "a caller isn't known");
        count(&serving, &caller, Refused::Stranger, stranger.code());
    }
    let (peer, answer) = beaten?;
    (serving.heard)(peer);
    Ok(Json(json!({ "success": true, "data": answer })))
}

/// Our anchors.
#[utoipa::path(get, context_path = API, path = "/trust_bundle", tag = "peer_facing", responses((status = 200, body = Envelope<TrustBundle>)))]
async fn trust_bundle(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, ApiError> {
    known(&serving, &caller)?;
    let bundle = serving.gateway.trust_bundle((serving.wall)());
    Ok(Json(json!({ "success": true, "data": bundle })))
}

/// Signs another certificate for a child, or the first one for its node.
#[utoipa::path(post, context_path = API, path = "/renew", tag = "peer_facing", request_body = RenewRequest, responses((status = 200, body = Envelope<RenewAnswer>), (status = 409), (status = 422), (status = 429)))]
async fn renew(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
    bytes: Bytes,
) -> Result<Json<Value>, ApiError> {
    let wall = (serving.wall)();
    // Who isn't known yet is a node with its bootstrap token, and counts like an acceptance.
    let is_known = serving.gateway.identify(&caller.chain, wall).is_ok();
    let refused = |reason| count(&serving, &caller, Refused::Accept, reason);
    if !is_known && !serving.limits.may_accept(caller.source.ip()) {
        refused("too_many");
        return Err(ApiError::new(
            429,
            "too_many",
            "too many acceptances from there: wait a minute",
        ));
    }
    let request: RenewRequest = match body(&bytes) {
        Ok(request) => request,
        Err(error) if is_known => return Err(error),
        Err(_) => {
            // Strangers aren't told what a renewal looks like.
            known(&serving, &caller)?;
            return Err(ApiError::stranger());
        }
    };
    let (gateway, chain) = (Arc::clone(&serving.gateway), Arc::clone(&caller.chain));
    let answer = blocking(move || gateway.renewed(&chain, request, wall)).await?;
    match &answer {
        Err(RenewError::Stranger(stranger)) => count(&serving, &caller, Refused::Stranger, stranger.code()),
        Err(RenewError::Token) => refused("UNAUTHORIZED"),
        Ok(_) | Err(_) => {}
    }
    Ok(Json(json!({ "success": true, "data": answer? })))
}

/// What the caller's operator has done to us.
#[utoipa::path(post, context_path = API, path = "/notices", tag = "peer_facing", request_body = NoticeRequest, responses((status = 200, body = Envelope<Noticed>), (status = 422), (status = 429)))]
async fn notices(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    let wall = (serving.wall)();
    // Strangers aren't told what a notice looks like.
    known(&serving, &caller)?;
    let NoticeRequest { notice } = body(&bytes?)?;
    let gateway = Arc::clone(&serving.gateway);
    let status = blocking(move || gateway.noticed(&caller.chain, notice, wall)).await??;
    Ok(Json(json!({ "success": true, "data": Noticed { status } })))
}

/// Reads a bridge's id; strangers aren't told what one looks like.
fn bridge_id(path: Result<Path<String>, PathRejection>) -> Result<BridgeId, ApiError> {
    let Path(text) = path?;
    let nobodys = |_| {
        ApiError::new(
            404,
            "unknown_bridge",
            "a bridge's id is a UUID, of both sites and their networks",
        )
    };
    text.parse().map(BridgeId).map_err(nobodys)
}

/// The caller's half of a bridge; the answer has ours.
#[utoipa::path(put, context_path = API, path = "/bridges/{bridge}", tag = "peer_facing", request_body = Half, responses((status = 200, body = Envelope<BridgeAnswer>), (status = 409), (status = 422), (status = 429)))]
async fn bridge_put(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    let (wall, random) = ((serving.wall)(), serving.random);
    known(&serving, &caller)?;
    let id = bridge_id(path)?;
    let half: Half = body(&bytes?)?;
    let gateway = Arc::clone(&serving.gateway);
    let answer = blocking(move || gateway.bridge_told(&caller.chain, id, half, random, wall)).await??;
    Ok(Json(json!({ "success": true, "data": answer })))
}

/// The caller doesn't want a bridge any more.
#[utoipa::path(delete, context_path = API, path = "/bridges/{bridge}", tag = "peer_facing", request_body = BridgeEnd, responses((status = 200, body = Envelope<BridgeAnswer>), (status = 409), (status = 422), (status = 429)))]
async fn bridge_delete(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    let wall = (serving.wall)();
    known(&serving, &caller)?;
    let id = bridge_id(path)?;
    let BridgeEnd { sequence } = body(&bytes?)?;
    let gateway = Arc::clone(&serving.gateway);
    let answer = blocking(move || gateway.bridge_withdrawn(&caller.chain, id, sequence, wall)).await??;
    Ok(Json(json!({ "success": true, "data": answer })))
}

/// What our audit has about the caller.
#[utoipa::path(get, context_path = API, path = "/audit_excerpts", tag = "peer_facing", params(ExcerptsAsked), responses((status = 200, body = Envelope<Excerpts>), (status = 403), (status = 422)))]
async fn audit_excerpts(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
    asked: Result<Query<ExcerptsAsked>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    known(&serving, &caller)?;
    let Query(asked) = asked.map_err(|_| {
        let text = "the query takes since, until, limit and after, each once";
        ApiError::new(400, "malformed", text)
    })?;
    let (gateway, wall) = (Arc::clone(&serving.gateway), (serving.wall)());
    let answer = blocking(move || gateway.excerpts(&caller.chain, &asked, wall)).await??;
    Ok(Json(json!({ "success": true, "data": answer })))
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// `next` of the answer before.
    #[param(nullable = false)]
    after: Option<String>,
}

/// All of a kind that a grant allows.
#[utoipa::path(get, context_path = API, path = "/resources/{kind}", tag = "peer_facing", params(Page), responses((status = 200, body = Envelope<ResourceAnswer>), (status = 403), (status = 422), (status = 503)))]
async fn resources(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
    kind: Result<Path<String>, PathRejection>,
    page: Result<Query<Page>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    // Strangers aren't told what a question looks like.
    known(&serving, &caller)?;
    let Path(kind) = kind?;
    let Query(page) = page?;
    told(serving, caller, &headers, kind, None, page.after).await
}

/// One that a grant allows.
#[utoipa::path(get, context_path = API, path = "/resources/{kind}/{id}", tag = "peer_facing", responses((status = 200, body = Envelope<ResourceAnswer>), (status = 403), (status = 422), (status = 503)))]
async fn resource(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    known(&serving, &caller)?;
    let Path((kind, id)) = path?;
    told(serving, caller, &headers, kind, Some(id), None).await
}

/// Tells of a resource. Of the headers, only the grant's token is looked at: where a call comes from, the connection says.
async fn told(
    serving: Serving,
    caller: Caller,
    headers: &HeaderMap,
    kind: String,
    id: Option<String>,
    after: Option<String>,
) -> Result<Json<Value>, ApiError> {
    let bearer = bearer(headers).map(|token| zeroize::Zeroizing::new(token.to_owned()));
    let (gateway, wall) = (Arc::clone(&serving.gateway), (serving.wall)());
    let from = caller.clone();
    // A large fleet takes its time.
    let answer = blocking(move || {
        let via = Via {
            chain: &from.chain,
            source: from.source.ip(),
            network: from.network.as_ref(),
        };
        let asked = Asked {
            bearer: bearer.as_ref().map(|token| token.as_str()),
            kind: &kind,
            id: id.as_deref(),
            after: after.as_deref(),
        };
        gateway.resource(via, asked, wall)
    })
    .await?;
    if let Err(ResourceError::Stranger(stranger)) = &answer {
        count(&serving, &caller, Refused::Stranger, stranger.code());
    }
    Ok(Json(json!({ "success": true, "data": answer? })))
}

/// The token of an `Authorization: Bearer …` header (RFC 6750): exactly one.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(one), None) = (given.next(), given.next()) else {
        return None;
    };
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
