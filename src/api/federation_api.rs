//! What peers call: mTLS, one site at a time, nothing that isn't asked for.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::{Next, from_fn, map_response};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::net::SocketAddr;

use super::error::{ApiError, in_our_shape};
use super::limits::{Limits, Source};
use crate::federation::gateway::{
    Asked, BeatError, ExcerptsAsked, Gateway, Refused, RenewError, ResourceError, Via,
};
use crate::federation::moment::Moment;
use crate::federation::peer::{Peer, PeerId};
use crate::federation::wire::{API, AcceptRequest, HeartbeatRequest, MAX_BODY, NoticeRequest, RenewRequest};
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
pub fn router(serving: Serving) -> Router {
    Router::new()
        .route(&format!("{API}/accept"), post(accept))
        .route(&format!("{API}/heartbeat"), post(heartbeat))
        .route(&format!("{API}/trust_bundle"), get(trust_bundle))
        .route(&format!("{API}/renew"), post(renew))
        .route(&format!("{API}/notices"), post(notices))
        .route(&format!("{API}/audit_excerpts"), get(audit_excerpts))
        .route(&format!("{API}/resources/{{kind}}"), get(resources))
        .route(&format!("{API}/resources/{{kind}}/{{id}}"), get(resource))
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
    serde_json::from_slice(bytes).map_err(|error| {
        // serde's words may repeat what was sent, and that may be a token.
        let place = format!("line {}, column {}", error.line(), error.column());
        ApiError::new(
            400,
            "malformed",
            format!("the body is no JSON of the expected shape: {place}"),
        )
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
    let (gateway, from) = (Arc::clone(&serving.gateway), caller.clone());
    let beaten = blocking(move || gateway.beaten(&from.chain, request, wall)).await?;
    if let Err(BeatError::Stranger(stranger)) = &beaten {
        tracing::debug!(source = %caller.source.ip(), error = %stranger, "a caller isn't known");
        count(&serving, &caller, Refused::Stranger, stranger.code());
    }
    let (peer, answer) = beaten?;
    (serving.heard)(peer);
    Ok(Json(json!({ "success": true, "data": answer })))
}

async fn trust_bundle(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, ApiError> {
    known(&serving, &caller)?;
    let bundle = serving.gateway.trust_bundle((serving.wall)());
    Ok(Json(json!({ "success": true, "data": bundle })))
}

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
    Ok(Json(json!({ "success": true, "data": { "status": status } })))
}

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

#[derive(Default, Deserialize)]
struct Page {
    after: Option<String>,
}

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
