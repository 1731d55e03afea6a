//! `/api/v1/system/federation`, and `pause` and `resume` below it: whether anything new is begun with other sites.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answers::Data;
use super::ways::Access;
use super::{FEDERATION, Operating, Routes, optional};
use crate::api::error::ApiError;
use crate::api::federation_api::blocking;
use crate::federation::gateway::PauseError;
use crate::federation::ledger::Pause;
use crate::federation::overlay::OverlayListener;
use crate::federation::wire::is_longer;

/// The longest reason, in characters.
const MAX_REASON: usize = 256;

pub(super) fn routes() -> Routes {
    Routes {
        read: OpenApiRouter::new().routes(routes!(federation)),
        invite: OpenApiRouter::new(),
        manage: OpenApiRouter::new()
            .routes(routes!(pause))
            .routes(routes!(resume)),
    }
}

impl From<PauseError> for ApiError {
    fn from(error: PauseError) -> Self {
        match &error {
            PauseError::Already(_) | PauseError::NotPaused => Self::new(409, "conflict", error.to_string()),
            PauseError::Ledger(_) => Self::internal(&error),
        }
    }
}

/// How the federation as a whole is.
#[derive(Serialize, ToSchema)]
struct Federation {
    /// Who paused it, when and why; none where it goes on.
    paused: Option<Pause>,
    /// How many requests wait for a second operator.
    approvals_pending: usize,
    /// The listeners inside bridged networks, by network.
    overlay_listeners: Vec<OverlayListener>,
}

fn now(operating: &Operating) -> Data<Federation> {
    let data = Federation {
        paused: operating.gateway.paused(),
        approvals_pending: operating.gateway.pending_approvals((operating.wall)()),
        overlay_listeners: operating.gateway.overlay(),
    };
    Data { data }
}

/// Whether anything new is begun with other sites.
#[utoipa::path(get, context_path = FEDERATION, path = "", tag = "pause", responses((status = 200, body = Data<Federation>)))]
async fn federation(State(operating): State<Operating>) -> Data<Federation> {
    now(&operating)
}

/// Why.
#[derive(Deserialize, Default, ToSchema)]
#[schema(as = PauseReason)]
#[serde(default)]
struct Reason {
    #[schema(max_length = 256)]
    reason: Option<String>,
}

/// Begins nothing new: nobody is proposed or accepted. What is there goes on.
#[utoipa::path(post, context_path = FEDERATION, path = "/pause", tag = "pause", request_body = Option<Reason>, responses((status = 200, body = Data<Federation>), (status = 409), (status = 422)))]
async fn pause(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    bytes: Bytes,
) -> Result<Data<Federation>, ApiError> {
    let Reason { reason } = optional(&bytes)?;
    if reason
        .as_deref()
        .is_some_and(|reason| is_longer(reason, MAX_REASON))
    {
        let text = format!("reason is too long: at most {MAX_REASON} characters");
        return Err(ApiError::new(422, "too_long", text));
    }
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    blocking(move || gateway.pause(reason, &access.by, wall)).await??;
    Ok(now(&operating))
}

/// Ends the pause.
#[utoipa::path(post, context_path = FEDERATION, path = "/resume", tag = "pause", responses((status = 200, body = Data<Federation>), (status = 409)))]
async fn resume(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
) -> Result<Data<Federation>, ApiError> {
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    blocking(move || gateway.unpause(&access.by, wall)).await??;
    Ok(now(&operating))
}
