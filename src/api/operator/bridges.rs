//! `/api/v1/system/platform/peers/{peer}/bridges`: what is agreed with a peer about networks, what waits, and what it offers.

use axum::extract::{Path, State};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answers::Data;
use super::{API, Operating, Routes, find};
use crate::api::error::ApiError;
use crate::federation::gateway::BridgeView;

pub(super) fn routes() -> Routes {
    Routes {
        read: OpenApiRouter::new().routes(routes!(list)),
        invite: OpenApiRouter::new(),
        manage: OpenApiRouter::new(),
    }
}

/// The bridges with a peer: those of this site's fleet, and those that only the peer has.
#[utoipa::path(get, context_path = API, path = "/{peer}/bridges", tag = "bridges", responses((status = 200, body = Data<Vec<BridgeView>>)))]
async fn list(
    State(operating): State<Operating>,
    Path(peer): Path<String>,
) -> Result<Data<Vec<BridgeView>>, ApiError> {
    let id = find(&operating, &peer)?;
    let data = operating.gateway.bridges_of(id);
    Ok(Data { data })
}
