//! `/api/v1/system/federation/{audit,site,pki,governance}`: what happened, who we are, what we vouch with, and what to
//! look at.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{FEDERATION, Operating, Routes, find};
use crate::api::error::ApiError;
use crate::api::federation_api::blocking;
use crate::federation::gateway::Verified;
use crate::federation::ledger::Window;
use crate::federation::moment::Moment;

pub(super) fn routes() -> Routes {
    Routes {
        read: Router::new()
            .route(&format!("{FEDERATION}/audit"), get(audit))
            .route(&format!("{FEDERATION}/audit/export"), get(export))
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
    peer: Option<String>,
}

async fn audit(
    State(operating): State<Operating>,
    Query(tail): Query<Tail>,
) -> Result<Json<Value>, ApiError> {
    let peer = tail.peer.map(|peer| find(&operating, &peer)).transpose()?;
    let gateway = Arc::clone(&operating.gateway);
    let (verified, records) = blocking(move || {
        let verified = tail.verify.unwrap_or(false).then(|| gateway.verify_audit());
        let count = tail.count.unwrap_or(100).min(5_000);
        (verified, gateway.ledger.audit_tail_of(peer, count))
    })
    .await?;
    let records = records.map_err(|error| ApiError::internal(&error))?;
    let verified = match verified {
        None => Value::Null,
        Some(Ok(verified)) => shown(&verified),
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

/// What a chain that is consistent with itself shows, and whether peers say otherwise.
fn shown(verified: &Verified) -> Value {
    let head = verified.head.to_string();
    if let Some(first) = verified.contradicted.first() {
        let error = format!(
            "truncated or rewritten: {} has seen record {} with another hash, or it isn't there",
            first.alias, first.sequence
        );
        return json!({ "ok": false, "error": error, "head": head, "contradicted": verified.contradicted });
    }
    let last = verified.witnessed.iter().map(|witness| witness.sequence).max();
    let shows = last.map_or_else(
        || {
            "only that this copy is consistent with itself: no peer has seen it since the gateway started"
                .to_owned()
        },
        |last| {
            let peers = verified.witnessed.len();
            format!("that nothing was cut or rewritten up to record {last}: {peers} peers have seen it")
        },
    );
    json!({ "ok": true, "head": head, "shows": shows, "witnessed": verified.witnessed })
}

/// How many records are in memory at once.
const PAGE: usize = 500;

#[derive(Deserialize)]
struct Export {
    since: Option<String>,
    until: Option<String>,
    peer: Option<String>,
}

/// The audit as JSON lines, each with what is needed to recompute it.
async fn export(
    State(operating): State<Operating>,
    Query(asked): Query<Export>,
) -> Result<Response, ApiError> {
    let peer = asked.peer.map(|peer| find(&operating, &peer)).transpose()?;
    let moment = |name: &str, text: Option<String>, without: Moment| match text {
        None => Ok(without),
        Some(text) => text
            .parse::<Moment>()
            .map_err(|error| ApiError::new(422, "bad_window", format!("{name}: {error}"))),
    };
    let now = (operating.wall)();
    let window = Window {
        since: moment("since", asked.since, Moment::EPOCH)?,
        until: moment(
            "until",
            asked.until,
            operating.gateway.ledger.read(|book| book.now(now)),
        )?,
    };
    let gateway = Arc::clone(&operating.gateway);
    let lines = futures::stream::try_unfold(Some(0), move |after| {
        let gateway = Arc::clone(&gateway);
        async move {
            let Some(after) = after else { return Ok(None) };
            let page =
                tokio::task::spawn_blocking(move || gateway.ledger.audit_lines(after, window, peer, PAGE));
            let page = page.await.map_err(std::io::Error::other)?;
            let page = page.map_err(std::io::Error::other)?;
            let next = page
                .last()
                .filter(|_| page.len() == PAGE)
                .map(|line| line.sequence);
            let mut text = Vec::new();
            for line in &page {
                serde_json::to_writer(&mut text, line)?;
                text.push(b'\n');
            }
            Ok::<_, std::io::Error>(Some((Bytes::from(text), next)))
        }
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
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
