//! `/api/v1/system/platform/approvals`: what waits for a second operator, and their word.

use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::answers::{ApprovalView, Data, Decided, Denied};
use super::ways::Access;
use super::{APPROVALS, Operating, Routes, deeds, optional};
use crate::api::error::ApiError;
use crate::api::federation_api::blocking;
use crate::federation::approval::{ApprovalId, State as Standing};
use crate::federation::gateway::{AllowError, ApprovalError, Approved, GateError};
use crate::federation::wire::is_longer;

/// The longest reason, in characters.
const MAX_REASON: usize = 256;

pub(super) fn routes() -> Routes {
    Routes {
        read: OpenApiRouter::new().routes(routes!(list)).routes(routes!(show)),
        invite: OpenApiRouter::new(),
        manage: OpenApiRouter::new()
            .routes(routes!(approve))
            .routes(routes!(deny)),
    }
}

impl From<ApprovalError> for ApiError {
    fn from(error: ApprovalError) -> Self {
        let (status, code) = match &error {
            ApprovalError::Unknown(_) => (404, "unknown_approval"),
            ApprovalError::NotNow(_) => (409, "conflict"),
            ApprovalError::Expired(_) => (409, "approval_expired"),
            ApprovalError::Lost => (409, "approval_void"),
            ApprovalError::Paused(_) => (409, "paused"),
            ApprovalError::SamePrincipal(_) => (403, "same_principal"),
            ApprovalError::TooMany | ApprovalError::TooManyOfOne(_) => (429, "too_many_pending"),
            ApprovalError::Ledger(_) => return Self::internal(&error),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<AllowError> for ApiError {
    fn from(error: AllowError) -> Self {
        let code = match &error {
            AllowError::NotWanted(_) => "conflict",
            AllowError::Paused(_) => "paused",
            AllowError::Ledger(_) => return Self::internal(&error),
        };
        Self::new(409, code, error.to_string())
    }
}

impl From<GateError> for ApiError {
    fn from(error: GateError) -> Self {
        match error {
            GateError::Operator(error) => error.into(),
            GateError::Take(error) => error.into(),
            GateError::Rotate(error) => error.into(),
            GateError::Bridge(error) => error.into(),
            GateError::Approval(error) => error.into(),
        }
    }
}

/// One of them by its id.
fn id_of(text: &str) -> Result<ApprovalId, ApiError> {
    let unknown = |_| ApiError::new(404, "unknown_approval", format!("there is no approval {text}"));
    Uuid::try_parse(text).map(ApprovalId).map_err(unknown)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Those that stand so.
    #[param(nullable = false)]
    state: Option<Standing>,
}

/// What waits for approval, and what became of the last that did; oldest first.
#[utoipa::path(get, context_path = APPROVALS, path = "", tag = "approvals", params(Filter), responses((status = 200, body = Data<Vec<ApprovalView>>)))]
async fn list(State(operating): State<Operating>, Query(filter): Query<Filter>) -> Data<Vec<ApprovalView>> {
    let data = operating.gateway.ledger.read(|book| {
        let now = book.now((operating.wall)());
        let wanted = book
            .approvals()
            .filter(|approval| filter.state.is_none_or(|state| approval.state(now) == state));
        wanted.map(|approval| ApprovalView::of(approval, now)).collect()
    });
    Data { data }
}

/// An approval.
#[utoipa::path(get, context_path = APPROVALS, path = "/{approval}", tag = "approvals", responses((status = 200, body = Data<ApprovalView>)))]
async fn show(
    State(operating): State<Operating>,
    Path(approval): Path<String>,
) -> Result<Data<ApprovalView>, ApiError> {
    let data = view(&operating, id_of(&approval)?)?;
    Ok(Data { data })
}

fn view(operating: &Operating, id: ApprovalId) -> Result<ApprovalView, ApiError> {
    let found = operating.gateway.ledger.read(|book| {
        let now = book.now((operating.wall)());
        book.approval(&id).map(|approval| ApprovalView::of(approval, now))
    });
    found.ok_or_else(|| ApprovalError::Unknown(id).into())
}

/// Approves it: it is performed at once, and the answer has what it answers. Whoever asked for it can't.
#[utoipa::path(post, context_path = APPROVALS, path = "/{approval}/approve", tag = "approvals", responses((status = 200, body = Data<Decided>), (status = 409), (status = 422), (status = 429), (status = 502), (status = 503)))]
async fn approve(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    Path(approval): Path<String>,
) -> Result<Data<Decided>, ApiError> {
    let id = id_of(&approval)?;
    let (gateway, wall, by) = (
        Arc::clone(&operating.gateway),
        (operating.wall)(),
        access.by.clone(),
    );
    let order = access.order(wall);
    // It goes on to its end, and is told of, also where the caller hangs up.
    let task = tokio::spawn(async move {
        let approved = blocking(move || gateway.approve(id, &by, wall)).await??;
        perform(operating, approved, order).await
    });
    task.await.map_err(|error| ApiError::internal(&error))?
}

async fn perform(
    operating: Operating,
    approved: Approved,
    order: crate::federation::gateway::Order,
) -> Result<Data<Decided>, ApiError> {
    let Approved { approval, token } = approved;
    let (id, of) = (approval.id, token.clone());
    let done = deeds::perform(&operating, approval.deed, token, order).await;
    let outcome = done.as_ref().map(|_| ()).map_err(|error| {
        let words = error.words();
        of.map_or_else(|| words.to_owned(), |token| token.redacted(words))
    });
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    if let Err(error) = blocking(move || gateway.performed(id, outcome, wall)).await? {
        tracing::error!(approval = %id, error = crate::report::chain(&error), "what an approved action came to can't be written yet");
    }
    let result = deeds::told(&done?)?;
    let approval = view(&operating, id)?;
    Ok(Data {
        data: Decided { approval, result },
    })
}

/// Why.
#[derive(Deserialize, Default, ToSchema)]
#[schema(as = DenialReason)]
#[serde(default)]
struct Reason {
    #[schema(max_length = 256)]
    reason: Option<String>,
}

/// Denies it: it is never performed. Whoever asked for it takes it back so.
#[utoipa::path(post, context_path = APPROVALS, path = "/{approval}/deny", tag = "approvals", request_body = Option<Reason>, responses((status = 200, body = Data<Denied>), (status = 409), (status = 422)))]
async fn deny(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    Path(approval): Path<String>,
    bytes: Bytes,
) -> Result<Data<Denied>, ApiError> {
    let id = id_of(&approval)?;
    let Reason { reason } = optional(&bytes)?;
    if reason
        .as_deref()
        .is_some_and(|reason| is_longer(reason, MAX_REASON))
    {
        let text = format!("reason is too long: at most {MAX_REASON} characters");
        return Err(ApiError::new(422, "too_long", text));
    }
    let (gateway, wall) = (Arc::clone(&operating.gateway), (operating.wall)());
    blocking(move || gateway.deny(id, reason, &access.by, wall)).await??;
    let approval = view(&operating, id)?;
    Ok(Data {
        data: Denied { approval },
    })
}
