//! `/api/v1/system/federation/sweep`: silent peers are asked now.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answers::Data;
use super::{FEDERATION, Operating, Routes, optional};
use crate::api::error::ApiError;
use crate::federation::gateway::Sweep;
use crate::federation::number;

pub(super) fn routes() -> Routes {
    Routes {
        read: OpenApiRouter::new(),
        invite: OpenApiRouter::new(),
        manage: OpenApiRouter::new().routes(routes!(sweep)),
    }
}

/// How to sweep.
#[derive(Deserialize, Default, ToSchema)]
#[schema(as = SweepAsked)]
#[serde(default)]
struct Asked {
    /// Nobody is asked, nothing changes.
    dry_run: bool,
    #[serde(deserialize_with = "number::optional")]
    #[schema(minimum = 0, maximum = 18_446_744_073_709_551_615_u64)]
    stale_after_seconds: Option<u64>,
}

/// Asks silent peers now.
#[utoipa::path(post, context_path = FEDERATION, path = "/sweep", tag = "site", request_body = Option<Asked>, responses((status = 200, body = Data<Sweep>)))]
async fn sweep(State(operating): State<Operating>, bytes: Bytes) -> Result<Data<Sweep>, ApiError> {
    let asked: Asked = optional(&bytes)?;
    let stale_after = asked.stale_after_seconds.map(Duration::from_secs);
    let swept = operating
        .gateway
        .sweep(asked.dry_run, stale_after, (operating.wall)())
        .await;
    let swept = swept.map_err(|error| ApiError::internal(&error))?;
    Ok(Data { data: swept })
}
