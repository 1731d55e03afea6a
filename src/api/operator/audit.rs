//! `/api/v1/system/federation/{audit,site,pki,governance}`: what happened, who we are, what we vouch with, and what to
//! look at.

use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answers::{Audit, Data, RotatingOrPending, Site, Verdict};
use super::ways::Access;
use super::{FEDERATION, Operating, Routes, deeds, find};
use crate::api::error::ApiError;
use crate::api::federation_api::blocking;
use crate::federation::approval::Deed;
use crate::federation::gateway::Verified;
use crate::federation::governance::Finding;
use crate::federation::ledger::Window;
use crate::federation::moment::Moment;

pub(super) fn routes() -> Routes {
    Routes {
        read: OpenApiRouter::new()
            .routes(routes!(audit))
            .routes(routes!(export))
            .routes(routes!(site))
            .routes(routes!(governance)),
        invite: OpenApiRouter::new(),
        manage: OpenApiRouter::new().routes(routes!(rotate)),
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Tail {
    /// How many; 100 without it, 5,000 at most.
    #[param(minimum = 0, maximum = 18_446_744_073_709_551_615_u64, nullable = false)]
    count: Option<usize>,
    /// Whether the whole chain is recomputed.
    #[param(nullable = false)]
    verify: Option<bool>,
    /// Of this one alone: its id, or the alias of a live one.
    #[param(nullable = false)]
    peer: Option<String>,
}

/// The last records of the audit.
#[utoipa::path(get, context_path = FEDERATION, path = "/audit", tag = "site", params(Tail), responses((status = 200, body = Data<Audit>), (status = 404)))]
async fn audit(
    State(operating): State<Operating>,
    Query(tail): Query<Tail>,
) -> Result<Data<Audit>, ApiError> {
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
        None => None,
        Some(Ok(verified)) => Some(judged(verified)),
        Some(Err(error)) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            Some(Verdict {
                error: Some(cause.unwrap_or_else(|| error.to_string())),
                ..Verdict::default()
            })
        }
    };
    let head = operating.gateway.ledger.head();
    let data = Audit {
        records,
        head,
        verified,
    };
    Ok(Data { data })
}

/// What a chain that is consistent with itself shows, and whether peers say otherwise.
fn judged(verified: Verified) -> Verdict {
    let head = Some(verified.head);
    if let Some(first) = verified.contradicted.first() {
        let error = format!(
            "truncated or rewritten: {} has seen record {} with another hash, or it isn't there",
            first.alias, first.sequence
        );
        return Verdict {
            error: Some(error),
            head,
            contradicted: Some(verified.contradicted),
            ..Verdict::default()
        };
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
    Verdict {
        ok: true,
        head,
        shows: Some(shows),
        witnessed: Some(verified.witnessed),
        ..Verdict::default()
    }
}

/// How many records are in memory at once.
const PAGE: usize = 500;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Export {
    /// RFC 3339; the beginning without it.
    #[param(format = DateTime, nullable = false)]
    since: Option<String>,
    /// RFC 3339; now without it.
    #[param(format = DateTime, nullable = false)]
    until: Option<String>,
    /// Of this one alone: its id, or the alias of a live one.
    #[param(nullable = false)]
    peer: Option<String>,
}

/// The audit as JSON lines, each with what is needed to recompute it.
#[utoipa::path(get, context_path = FEDERATION, path = "/audit/export", tag = "site", params(Export), responses((status = 200, body = String, content_type = "application/x-ndjson"), (status = 404), (status = 422)))]
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

/// This site and its CA.
#[utoipa::path(get, context_path = FEDERATION, path = "/site", tag = "site", responses((status = 200, body = Data<Site>)))]
async fn site(State(operating): State<Operating>) -> Data<Site> {
    let gateway = &operating.gateway;
    let data = Site {
        site_id: gateway.site.clone(),
        node: gateway.node.clone(),
        url: gateway.settings.url.clone(),
        ca_fingerprint: gateway.ca.fingerprint().to_string(),
        ca_pem: gateway.ca.pem(),
        rotation: gateway.rotation((operating.wall)()),
    };
    Data { data }
}

/// Draws another CA: peers take it up by and by. Or it waits for a second operator.
#[utoipa::path(post, context_path = FEDERATION, path = "/pki/rotate", tag = "site", responses((status = 202, body = Data<RotatingOrPending>), (status = 409), (status = 429)))]
async fn rotate(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
) -> Result<Response, ApiError> {
    deeds::ask(&operating, &access, Deed::RotateCa, None).await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Of {
    /// Of this one alone: its id, or the alias of a live one.
    #[param(nullable = false)]
    peer: Option<String>,
}

/// What to look at.
#[utoipa::path(get, context_path = FEDERATION, path = "/governance", tag = "site", params(Of), responses((status = 200, body = Data<Vec<Finding>>), (status = 404)))]
async fn governance(
    State(operating): State<Operating>,
    Query(of): Query<Of>,
) -> Result<Data<Vec<Finding>>, ApiError> {
    let id = of.peer.map(|peer| find(&operating, &peer)).transpose()?;
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    let findings = blocking(move || gateway.governance(id, wall)).await?;
    Ok(Data { data: findings })
}
