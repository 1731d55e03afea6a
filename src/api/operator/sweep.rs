//! `/api/v1/system/federation/sweep`: silent peers are asked now.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{FEDERATION, Operating, Routes, optional};
use crate::api::error::ApiError;

pub(super) fn routes() -> Routes {
    Routes {
        read: Router::new(),
        invite: Router::new(),
        manage: Router::new().route(&format!("{FEDERATION}/sweep"), post(sweep)),
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Asked {
    dry_run: bool,
    stale_after_seconds: Option<u64>,
}

async fn sweep(State(operating): State<Operating>, bytes: Bytes) -> Result<Json<Value>, ApiError> {
    let asked: Asked = optional(&bytes)?;
    let stale_after = asked.stale_after_seconds.map(Duration::from_secs);
    let swept = operating
        .gateway
        .sweep(asked.dry_run, stale_after, (operating.wall)())
        .await;
    let swept = swept.map_err(|error| ApiError::internal(&error))?;
    Ok(Json(json!({ "data": swept })))
}
