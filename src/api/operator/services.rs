//! `/api/v1/system/federation/offers`: what this site offers, and who says that it uses it.

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answers::Data;
use super::{FEDERATION, Operating, Routes};
use crate::federation::gateway::OfferView;

pub(super) fn routes() -> Routes {
    Routes {
        read: OpenApiRouter::new().routes(routes!(offers)),
        invite: OpenApiRouter::new(),
        manage: OpenApiRouter::new(),
    }
}

/// The services that this site's fleet offers, and the peers that have subscribed to each. A subscription opens nothing.
#[utoipa::path(get, context_path = FEDERATION, path = "/offers", tag = "site", responses((status = 200, body = Data<Vec<OfferView>>)))]
async fn offers(State(operating): State<Operating>) -> Data<Vec<OfferView>> {
    let data = operating.gateway.offers();
    Data { data }
}
