//! `service_catalog` and `subscriptions`: what is offered to the caller, and what of it the caller uses.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::{Extension, Json};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{API, Caller, Page, Serving, blocking, body, known, told};
use crate::api::error::ApiError;
use crate::federation::gateway::{SubscribeError, Via};
use crate::federation::resources::Kind;
use crate::federation::wire::{Envelope, ResourceAnswer, SubscriptionEntry, SubscriptionRequest};
use crate::model::Name;

/// For peers.
pub(super) fn of_peers() -> OpenApiRouter<Serving> {
    OpenApiRouter::new()
        .routes(routes!(list, subscribe))
        .routes(routes!(unsubscribe))
}

/// For peers with a grant.
pub(super) fn granted() -> OpenApiRouter<Serving> {
    OpenApiRouter::new().routes(routes!(catalog))
}

impl From<SubscribeError> for ApiError {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Resource(error) => error.into(),
            SubscribeError::NoOffer(_) => Self::new(404, "unknown_service", error.to_string()),
            SubscribeError::TooMany | SubscribeError::TooMuch => {
                Self::new(429, "too_many", error.to_string())
            }
            SubscribeError::Ledger(error) => Self::internal(&error),
        }
    }
}

/// Works on the caller's subscriptions, on a thread that may wait for the disk.
async fn of_caller<T: Send + 'static>(
    serving: Serving,
    caller: Caller,
    work: impl FnOnce(&Serving, Via<'_>) -> Result<T, SubscribeError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = blocking(move || {
        let via = Via {
            chain: &caller.chain,
            source: caller.source.ip(),
            network: caller.network.as_ref(),
        };
        work(&serving, via)
    });
    Ok(done.await??)
}

/// What is offered to the caller, as a grant of kind `service` allows: the same as `resources/service`.
#[utoipa::path(get, context_path = API, path = "/service_catalog", tag = "peer_facing", params(Page), responses((status = 200, body = Envelope<ResourceAnswer>), (status = 403), (status = 503)))]
async fn catalog(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
    page: Result<Query<Page>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    known(&serving, &caller)?;
    let Query(page) = page?;
    let kind = Kind::Service.as_str().to_owned();
    told(serving, caller, &headers, kind, None, page.after).await
}

/// What the caller has said that it uses.
#[utoipa::path(get, context_path = API, path = "/subscriptions", tag = "peer_facing", responses((status = 200, body = Envelope<Vec<SubscriptionEntry>>), (status = 403)))]
async fn list(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, ApiError> {
    known(&serving, &caller)?;
    let all = of_caller(serving, caller, |serving, via| {
        serving.gateway.subscriptions_of_caller(via, (serving.wall)())
    });
    Ok(Json(json!({ "success": true, "data": all.await? })))
}

/// The caller uses a service that is offered to it. That opens nothing: rules do. The same again changes nothing.
#[utoipa::path(post, context_path = API, path = "/subscriptions", tag = "peer_facing", request_body = SubscriptionRequest, responses((status = 200, body = Envelope<SubscriptionEntry>), (status = 403), (status = 404), (status = 422), (status = 429), (status = 503)))]
async fn subscribe(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    known(&serving, &caller)?;
    let SubscriptionRequest { service } = body(&bytes?)?;
    let entry = of_caller(serving, caller, move |serving, via| {
        serving.gateway.subscribed(via, &service, (serving.wall)())
    });
    Ok(Json(json!({ "success": true, "data": entry.await? })))
}

/// The caller doesn't use a service any more. One that it never used is no error.
#[utoipa::path(delete, context_path = API, path = "/subscriptions/{service}", tag = "peer_facing", responses((status = 200, body = Envelope<Vec<SubscriptionEntry>>), (status = 403), (status = 404), (status = 429)))]
async fn unsubscribe(
    State(serving): State<Serving>,
    Extension(caller): Extension<Caller>,
    service: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    known(&serving, &caller)?;
    let Path(service) = service?;
    let nobodys = |_| ApiError::new(404, "unknown_service", format!("{service} is no service's name"));
    let service = Name::new(&service).map_err(nobodys)?;
    let left = of_caller(serving, caller, move |serving, via| {
        let gateway = Arc::clone(&serving.gateway);
        let wall = (serving.wall)();
        gateway.unsubscribed(via, &service, wall)?;
        gateway.subscriptions_of_caller(via, wall)
    });
    Ok(Json(json!({ "success": true, "data": left.await? })))
}
