//! `/api/v1/system/federation/{audit,site,pki,governance}`: what happened, who we are, what we vouch with, and what to
//! look at.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{FEDERATION, Operating, Routes, find};
use crate::api::error::ApiError;
use crate::api::federation_api::blocking;

pub(super) fn routes() -> Routes {
    Routes {
        read: Router::new()
            .route(&format!("{FEDERATION}/audit"), get(audit))
            .route(&format!("{FEDERATION}/site"), get(site))
            .route(&format!("{FEDERATION}/governance"), get(governance)),
        invite: Router::new(),
        manage: Router::new().route(&format!("{FEDERATION}/pki/rotate"), post(rotate)),
    }
}

#[derive(Deserialize)]
struct Tail {
    count: Option<usize>,
    verify: Option<bool>,
}

async fn audit(
    State(operating): State<Operating>,
    Query(tail): Query<Tail>,
) -> Result<Json<Value>, ApiError> {
    let gateway = Arc::clone(&operating.gateway);
    let (verified, records) = blocking(move || {
        let verified = tail
            .verify
            .unwrap_or(false)
            .then(|| gateway.ledger.audit_verify());
        let records = gateway.ledger.audit_tail(tail.count.unwrap_or(100).min(5_000));
        (verified, records)
    })
    .await?;
    let records = records.map_err(|error| ApiError::internal(&error))?;
    let verified = match verified {
        None => Value::Null,
        Some(Ok(head)) => {
            json!({ "ok": true, "head": head.to_string(), "shows": "only that this copy is consistent with itself" })
        }
        Some(Err(error)) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            json!({ "ok": false, "error": cause.unwrap_or_else(|| error.to_string()) })
        }
    };
    let head = operating.gateway.ledger.head().to_string();
    Ok(Json(
        json!({ "data": { "records": records, "head": head, "verified": verified } }),
    ))
}

async fn site(State(operating): State<Operating>) -> Json<Value> {
    let gateway = &operating.gateway;
    Json(json!({ "data": {
        "site_id": gateway.site,
        "node": gateway.node,
        "url": gateway.settings.url,
        "ca_fingerprint": gateway.ca.fingerprint().to_string(),
        "ca_pem": gateway.ca.pem(),
        "rotation": gateway.rotation((operating.wall)()),
    } }))
}

async fn rotate(State(operating): State<Operating>) -> Result<(StatusCode, Json<Value>), ApiError> {
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    let rotation = blocking(move || gateway.rotate(wall)).await??;
    Ok((StatusCode::ACCEPTED, Json(json!({ "data": rotation }))))
}

#[derive(Deserialize)]
struct Of {
    peer: Option<String>,
}

async fn governance(
    State(operating): State<Operating>,
    Query(of): Query<Of>,
) -> Result<Json<Value>, ApiError> {
    let id = of.peer.map(|peer| find(&operating, &peer)).transpose()?;
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    let findings = blocking(move || gateway.governance(id, wall)).await?;
    Ok(Json(json!({ "data": findings })))
}
