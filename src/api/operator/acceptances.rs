//! `/api/v1/system/federation/acceptances`: a token is redeemed, whoever's it is.
//!
//! | the token is | what is done |
//! |---|---|
//! | our own | what the other site's call of `accept` does, without its certificates: a managed child gets its node's token so |
//! | another site's | it is taken there, for the proposed peer that `endpoints` name, or the only one that there is; where none is registered yet that `endpoints` name, it is, as `sdwand peer accept URL` does |

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
use crate::federation::gateway::{AcceptError, Proposal, TakeError};
use crate::federation::peer::{Endpoint, Peer, PeerId, SpawnMode, SpawnRole, Status};
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
        taken_to(&operating, &asked.said)?
    };
    deeds::ask(&operating, &access, deed, Some(token)).await
}

/// How another site's token is taken there. Should it be the wrong site, the token isn't shown to it: it names its CA.
fn taken_to(operating: &Operating, said: &Said) -> Result<Deed, ApiError> {
    let mut named: Vec<&Endpoint> = said.endpoints.iter().flatten().collect();
    named.sort_by_key(|endpoint| endpoint.priority);
    let urls: Vec<PeerUrl> = { named.iter() }
        .filter_map(|endpoint| PeerUrl::new(&endpoint.url).ok())
        .collect();
    let is_named = |peer: &Peer| urls.iter().any(|url| url.to_string() == peer.url);
    let is_meant = |peer: &Peer| peer.status == Status::Proposed && (named.is_empty() || is_named(peer));
    let found: Vec<PeerId> = operating.gateway.ledger.read(|book| {
        let meant = book.peers().filter(|peer| is_meant(peer));
        meant.map(|peer| peer.id).collect()
    });
    match (found.as_slice(), urls.into_iter().next()) {
        ([peer], _) => Ok(Deed::Accept { peer: *peer }),
        ([], Some(url)) => Ok(Deed::Join(Proposal {
            url,
            alias: None,
            role: SpawnRole::default(),
            mode: SpawnMode::default(),
            // The token that is drawn with it is shown to nobody: it is good for nothing any more when the call ends, also where
            // the other site can't be reached.
            token_ttl_seconds: Some(1),
            expect_ca: None,
        })),
        ([], None) | ([_, _, ..], _) => Err(ApiError::new(
            422,
            "endpoints_missing",
            "this token is another site's: name that site's URL, and no other peer's, in endpoints",
        )),
    }
}
