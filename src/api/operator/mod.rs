//! What the site's operators ask. One router for every way in; each route says which permission it needs.
//!
//! | file | holds |
//! |---|---|
//! | `peers`, `listing` | `/api/v1/system/platform/peers` |
//! | `grants` | `/api/v1/system/platform/peers/{peer}/{grants,capabilities,call}` |
//! | `bridges` | `/api/v1/system/platform/peers/{peer}/bridges` |
//! | `approvals`, `deeds` | `/api/v1/system/platform/approvals`, and what may wait there |
//! | `ledger` | `/api/v1/system/federation/ledger/backup` |
//! | `audit` | `/api/v1/system/federation/{audit,site,pki,governance}` |
//! | `acceptances` | `/api/v1/system/federation/acceptances` |
//! | `pause` | `/api/v1/system/federation`, `…/pause`, `…/resume` |
//! | `sweep` | `/api/v1/system/federation/sweep` |
//! | `tokens` | `/api/v1/system/federation/tokens` |
//! | `answers`, `view` | what operators are told; a peer, as they are shown it |
//! | `ways`, `listen` | who asks, by which way, and what that allows |

mod acceptances;
mod answers;
mod approvals;
mod audit;
mod bridges;
mod change;
mod deeds;
mod grants;
mod ledger;
pub mod listen;
mod listing;
mod pause;
mod peers;
mod services;
mod sweep;
mod tokens;
mod view;
mod ways;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn_with_state, map_response};
use axum::{Json, Router};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

pub use listing::Listing;
pub use ways::Arrival;

use super::error::{ApiError, in_our_shape};
use super::federation_api::body;
use crate::federation::gateway::Gateway;
use crate::federation::moment::Moment;
use crate::federation::operators::{Operators, Permission};
use crate::federation::peer::PeerId;
use crate::federation::wire::MAX_BODY;

/// Where the peers are.
pub const API: &str = "/api/v1/system/platform/peers";
/// Where what waits for a second operator is.
pub const APPROVALS: &str = "/api/v1/system/platform/approvals";
/// Where the federation as a whole is.
pub const FEDERATION: &str = "/api/v1/system/federation";
/// Where this API is described.
pub const DOCUMENT: &str = "/api/v1/openapi.json";

/// What the operator's handlers need.
#[derive(Clone)]
pub struct Operating {
    /// The site's gateway.
    pub gateway: Arc<Gateway>,
    /// Who may operate it.
    pub operators: Arc<Operators>,
    /// What the wall clock says.
    pub wall: fn() -> Moment,
    /// Draws random bytes.
    pub random: fn(&mut [u8]),
    /// How the list of peers was last written.
    pub listing: Listing,
}

/// The routes, by what they need: to read, to invite, to manage.
struct Routes {
    read: OpenApiRouter<Operating>,
    invite: OpenApiRouter<Operating>,
    manage: OpenApiRouter<Operating>,
}

impl Routes {
    fn and(self, other: Self) -> Self {
        Self {
            read: self.read.merge(other.read),
            invite: self.invite.merge(other.invite),
            manage: self.manage.merge(other.manage),
        }
    }
}

/// All routes, each with what it needs.
fn all() -> OpenApiRouter<Operating> {
    let Routes { read, invite, manage } = peers::routes()
        .and(change::routes())
        .and(grants::routes())
        .and(bridges::routes())
        .and(services::routes())
        .and(approvals::routes())
        .and(acceptances::routes())
        .and(pause::routes())
        .and(audit::routes())
        .and(sweep::routes());
    let on_the_gateway = tokens::routes().merge(ledger::routes());
    ways::needs(Permission::Read, read)
        .merge(ways::needs(Permission::Invite, invite))
        .merge(ways::needs(Permission::Manage, manage))
        .merge(ways::needs_nothing(
            OpenApiRouter::new().routes(routes!(document)),
        ))
        .merge(ways::needs_api_sock(on_the_gateway))
}

/// What the routes say of themselves.
pub(super) fn described() -> OpenApi {
    all().into_openapi()
}

/// The routes. Whoever serves them puts an [`Arrival`] on every request: see [`listen`].
pub fn router(operating: Operating) -> Router {
    let (routes, _) = all().split_for_parts();
    routes
        .fallback(async || ApiError::new(404, "not_found", "there is no such path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(405, "method_not_allowed", "not with this method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(map_response(in_our_shape))
        .layer(from_fn_with_state(operating.clone(), ways::admit))
        .with_state(operating)
}

/// This document. Whoever may do anything may read it.
#[utoipa::path(get, path = DOCUMENT, tag = "site", responses((status = 200, body = Object)))]
async fn document() -> Json<OpenApi> {
    Json(super::openapi::operators())
}

/// A peer by its id, or by the alias of a live one.
fn find(operating: &Operating, text: &str) -> Result<PeerId, ApiError> {
    let by_id = Uuid::try_parse(text).ok().map(PeerId);
    let found = operating.gateway.ledger.read(|book| {
        // An id is never another peer's alias.
        let id = by_id.filter(|id| book.peer(id).is_some());
        let namesakes = book.peers().filter(|peer| peer.alias.as_str() == text);
        let named = namesakes.max_by_key(|peer| (peer.status.is_live(), peer.id));
        id.or_else(|| named.map(|peer| peer.id))
    });
    found.ok_or_else(|| ApiError::new(404, "unknown_peer", format!("there is no peer {text}")))
}

/// A body that may be left out.
fn optional<T: serde::de::DeserializeOwned + Default>(bytes: &Bytes) -> Result<T, ApiError> {
    if bytes.is_empty() {
        Ok(T::default())
    } else {
        body(bytes)
    }
}
