//! What may need a second operator: asked for, and performed, at once or once it is approved.
//!
//! ```text
//! a handler ─ ask ─▶ gate ─ Go ─────▶ perform ─▶ 200, 201, 202: the action's own answer
//!                      └─── Parked ─▶ 202: its pending id          POST …/approve ─▶ perform ─▶ 200: the same answer in it
//! ```

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::{Value, json};

use super::Operating;
use super::answers::{Accepted, Data, Pending, Proposed};
use super::peers::peer_view;
use super::ways::Access;
use crate::api::error::ApiError;
use crate::api::federation_api::blocking;
use crate::federation::approval::Deed;
use crate::federation::gateway::{
    AllowError, BridgeView, Gate, OperatorError, Order, Proposed as Offered, Rotating, Soft, SoftStep,
};
use crate::federation::peer::{PeerId, SpawnRole};
use crate::federation::spawn::Payload;
use crate::federation::token::AcceptanceToken;
use crate::federation::wire::{AcceptAnswer, AcceptRequest};
use crate::model::Name;

/// What an action answers.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Done {
    Proposed(Box<Proposed>),
    RotatedToken(Box<Proposed>),
    Accepted(Box<Accepted>),
    RotatingCa(Rotating),
    /// The bridge as it stands then; none where it went meanwhile.
    Bridge(Option<Box<BridgeView>>),
}

impl Done {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Proposed(_) => StatusCode::CREATED,
            Self::RotatedToken(_) | Self::Accepted(_) | Self::Bridge(_) => StatusCode::OK,
            Self::RotatingCa(_) => StatusCode::ACCEPTED,
        }
    }
}

/// Does what an operator asks for, or parks it until another operator approves it.
pub(super) async fn ask(
    operating: &Operating,
    access: &Access,
    deed: Deed,
    token: Option<AcceptanceToken>,
) -> Result<Response, ApiError> {
    let mut id = [0; 10];
    (operating.random)(&mut id);
    let (gateway, wall, by) = (
        Arc::clone(&operating.gateway),
        (operating.wall)(),
        access.by.clone(),
    );
    let (weighed, with) = (deed.clone(), token.clone());
    let gate = blocking(move || gateway.gate(&weighed, with.as_ref(), &by, id, wall)).await??;
    match gate {
        Gate::Go => {
            let done = perform(operating, deed, token, access.order(wall)).await?;
            Ok((done.status(), Data { data: done }).into_response())
        }
        Gate::Parked(approval) => {
            let data = Pending::of(&approval);
            Ok((StatusCode::ACCEPTED, Data { data }).into_response())
        }
    }
}

/// Does it now, whatever needs approval.
pub(super) async fn perform(
    operating: &Operating,
    deed: Deed,
    token: Option<AcceptanceToken>,
    order: Order,
) -> Result<Done, ApiError> {
    let gateway = Arc::clone(&operating.gateway);
    match deed {
        Deed::Propose(proposal) => {
            let (mut secret, mut id) = ([0; 32], [0; 10]);
            (operating.random)(&mut secret);
            (operating.random)(&mut id);
            let proposed = blocking(move || gateway.propose(&proposal, secret, id, order)).await??;
            Ok(Done::Proposed(Box::new(offered(operating, &proposed))))
        }
        Deed::RotateToken {
            peer,
            token_ttl_seconds: ttl,
        } => {
            let mut secret = [0; 32];
            (operating.random)(&mut secret);
            let proposed = blocking(move || gateway.rotate_token(peer, ttl, secret, order)).await??;
            Ok(Done::RotatedToken(Box::new(shown_once(operating, &proposed))))
        }
        Deed::Accept { peer } => {
            let missing = || ApiError::new(400, "bad_request", "acceptance_token is missing");
            let token = token.ok_or_else(missing)?;
            Ok(Done::Accepted(Box::new(accept(operating, peer, &token).await?)))
        }
        Deed::Join(proposal) => {
            let missing = || ApiError::new(400, "bad_request", "acceptance_token is missing");
            let token = token.ok_or_else(missing)?;
            // The token that is drawn with it is shown to nobody.
            let (mut secret, mut id) = ([0; 32], [0; 10]);
            (operating.random)(&mut secret);
            (operating.random)(&mut id);
            let proposed = blocking(move || gateway.propose(&proposal, secret, id, order)).await??;
            let accepted = accept(operating, proposed.peer.id, &token).await?;
            Ok(Done::Accepted(Box::new(accepted)))
        }
        Deed::Redeem {
            peer,
            contract_version,
            said,
        } => {
            let missing = || ApiError::new(400, "bad_request", "acceptance_token is missing");
            let token = token.ok_or_else(missing)?;
            let request = AcceptRequest {
                acceptance_token: Some(token.reveal()),
                contract_version: Some(json!(contract_version)),
                said: *said,
                ..AcceptRequest::default()
            };
            let mut secret = [0; 32];
            (operating.random)(&mut secret);
            let answer = blocking(move || gateway.accept(request, &[], secret, order.wall)).await??;
            Ok(Done::Accepted(Box::new(redeemed(operating, peer, answer)?)))
        }
        Deed::RotateCa => {
            let rotating = blocking(move || gateway.rotate(order.wall)).await??;
            Ok(Done::RotatingCa(rotating))
        }
        Deed::Bridge(opening) => {
            let random = operating.random;
            let bridge = blocking(move || {
                gateway.allow_bridge(&opening, random, &order)?;
                let mut views = gateway.bridges_of(opening.peer).into_iter();
                Ok::<_, AllowError>(views.find(|view| view.id == Some(opening.id)))
            });
            Ok(Done::Bridge(bridge.await??.map(Box::new)))
        }
    }
}

/// A new peer, its token, and what a child of ours reads.
fn offered(operating: &Operating, proposed: &Offered) -> Proposed {
    let url = operating.gateway.settings.url.as_ref();
    let undialable =
        "this site can't be dialled, so nobody can bring the token to it: let the other operator propose";
    let spawns = url.filter(|_| proposed.peer.role == SpawnRole::Parent);
    Proposed {
        spawn_payload: spawns.map(|url| Payload {
            parent_url: url.to_string(),
            acceptance_token: proposed.token.reveal(),
            spawn_mode: proposed.peer.mode,
            parent_peer_id: Some(proposed.peer.id),
            contract_version: json!("v1"),
            name: Name::new(operating.gateway.site.name()).ok(),
        }),
        warnings: url.map_or_else(|| vec![undialable], |_| Vec::new()),
        ..shown_once(operating, proposed)
    }
}

/// A peer, and its token.
fn shown_once(operating: &Operating, proposed: &Offered) -> Proposed {
    Proposed {
        peer: peer_view(&operating.gateway, &proposed.peer),
        acceptance_token: proposed.token.reveal(),
        spawn_payload: None,
        warnings: Vec::new(),
    }
}

async fn accept(operating: &Operating, id: PeerId, token: &AcceptanceToken) -> Result<Accepted, ApiError> {
    let gateway = &operating.gateway;
    let token = zeroize::Zeroizing::new(token.reveal());
    let peer = gateway.take(id, &token, (operating.wall)()).await?;
    // It is accepted, whatever becomes of the rest.
    let (of, wall) = (Arc::clone(gateway), (operating.wall)());
    let scan = blocking(move || of.retry(id, SoftStep::Governance, wall)).await?;
    let scan = scan.unwrap_or_else(|error| Soft {
        outcome: json!({ "status": "error" }),
        warnings: vec![format!("governance: {}", crate::report::chain(&error))],
    });
    Ok(Accepted {
        peer_id: peer.id,
        status: peer.status,
        contract_version_agreed: peer.contract_version,
        node_enrollment: None,
        peer: peer_view(gateway, &peer),
        sdwan_attach: gateway.attachment(&peer),
        governance: scan.outcome,
        warnings: scan.warnings,
    })
}

/// What a token of our own came to.
fn redeemed(operating: &Operating, id: PeerId, answer: Value) -> Result<Accepted, ApiError> {
    let answer: AcceptAnswer = serde_json::from_value(answer).map_err(|error| ApiError::internal(&error))?;
    let peer = operating.gateway.ledger.read(|book| book.peer(&id).cloned());
    let peer = peer.ok_or(OperatorError::Unknown(id))?;
    Ok(Accepted {
        peer_id: answer.peer_id,
        status: answer.status,
        contract_version_agreed: Some(answer.contract_version_agreed),
        node_enrollment: answer.node_enrollment,
        peer: peer_view(&operating.gateway, &peer),
        sdwan_attach: answer.sdwan_attach,
        governance: answer.governance,
        warnings: answer.warnings,
    })
}

/// What an action answers, in an answer that says more.
pub(super) fn told(done: &Done) -> Result<Value, ApiError> {
    serde_json::to_value(done).map_err(|error| ApiError::internal(&error))
}
