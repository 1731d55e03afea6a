//! `/api/v1/system/federation/acceptances`: a token is redeemed, whoever's it is.
//!
//! | the token is | what is done |
//! |---|---|
//! | our own | what the other site's call of `accept` does, without its certificates: a managed child gets its node's token so |
//! | another site's | it is taken there, for the proposed peer that `endpoints` name, or the only one that there is |

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answers::{Accepted, Data, Pending};
use super::ways::Access;
use super::{FEDERATION, Operating, Routes, deeds};
use crate::api::error::ApiError;
use crate::api::federation_api::body;
use crate::federation::approval::Deed;
use crate::federation::gateway::{AcceptError, TakeError};
use crate::federation::peer::{Peer, PeerId, Status};
use crate::federation::token::AcceptanceToken;
use crate::federation::url::PeerUrl;
use crate::federation::wire::{Said, contract_version};

pub(super) fn routes() -> Routes {
    Routes {
        read: OpenApiRouter::new(),
        invite: OpenApiRouter::new().routes(routes!(redeem)),
        manage: OpenApiRouter::new(),
    }
}

/// What is redeemed; what is said describes the peer.
#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct Redeem {
    #[schema(required = true, nullable = false)]
    acceptance_token: Option<String>,
    /// 1, or "v1".
    #[schema(required = true, value_type = Object)]
    contract_version: Option<Value>,
    #[serde(flatten)]
    said: Said,
}

/// Redeems a token. Or that waits for a second operator.
#[utoipa::path(post, context_path = FEDERATION, path = "/acceptances", tag = "acceptances", request_body = Redeem, responses((status = 200, body = Data<Accepted>), (status = 202, body = Data<Pending>), (status = 409), (status = 422), (status = 429), (status = 502), (status = 503)))]
async fn redeem(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    bytes: Bytes,
) -> Result<Response, ApiError> {
    let asked: Redeem = body(&bytes)?;
    let text = asked.acceptance_token.filter(|token| !token.trim().is_empty());
    let text = text.ok_or(AcceptError::NoToken)?;
    let version = contract_version(asked.contract_version.as_ref()).ok_or(AcceptError::Version)?;
    let token = AcceptanceToken::parse(&text).map_err(TakeError::Token)?;
    asked.said.check().map_err(AcceptError::TooLong)?;
    let gateway = &operating.gateway;
    let deed = if gateway.ca.is_own(token.ca()) {
        let peer = gateway.ledger.read(|book| {
            let now = book.now((operating.wall)());
            let offered = book.offered(&token.digest())?;
            let offer = offered.offer.as_ref().filter(|offer| now < offer.expires_at);
            offer.map(|_| offered.id)
        });
        Deed::Redeem {
            peer: peer.ok_or(AcceptError::Token)?,
            contract_version: version,
            said: Box::new(asked.said),
        }
    } else {
        Deed::Accept {
            peer: registered(&operating, &asked.said)?,
        }
    };
    deeds::ask(&operating, &access, deed, Some(token)).await
}

/// The peer to which another site's token is taken. Should it be the wrong one, the token isn't shown to it: it names its CA.
fn registered(operating: &Operating, said: &Said) -> Result<PeerId, ApiError> {
    let named = said.endpoints.as_deref().unwrap_or_default();
    let urls: Vec<String> = { named.iter() }
        .filter_map(|endpoint| PeerUrl::new(&endpoint.url).ok())
        .map(|url| url.to_string())
        .collect();
    let is_meant =
        |peer: &Peer| peer.status == Status::Proposed && (named.is_empty() || urls.contains(&peer.url));
    let found: Vec<PeerId> = operating.gateway.ledger.read(|book| {
        let meant = book.peers().filter(|peer| is_meant(peer));
        meant.map(|peer| peer.id).collect()
    });
    match found.as_slice() {
        [peer] => Ok(*peer),
        _ => Err(ApiError::new(
            422,
            "endpoints_missing",
            "this token is another site's: register that site as a peer, and name its URL in endpoints",
        )),
    }
}
