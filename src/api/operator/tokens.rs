//! `/api/v1/system/federation/tokens`: the tokens of operators who aren't on this host.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::ways::Access;
use super::{FEDERATION, Operating};
use crate::api::error::ApiError;
use crate::api::federation_api::{blocking, body};
use crate::federation::operators::{Issue, IssueError, Permission};

pub(super) fn routes() -> Router<Operating> {
    Router::new()
        .route(&format!("{FEDERATION}/tokens"), get(list).post(issue))
        .route(&format!("{FEDERATION}/tokens/{{jti}}/revoke"), post(revoke))
}

impl From<IssueError> for ApiError {
    fn from(error: IssueError) -> Self {
        match &error {
            IssueError::Permission(_) | IssueError::Nothing | IssueError::Subject => {
                Self::new(400, "bad_request", error.to_string())
            }
            IssueError::Life => Self::new(422, "bad_life", error.to_string()),
            IssueError::Unknown(_) => Self::new(404, "unknown_token", error.to_string()),
            IssueError::Revoked(_) => Self::new(409, "conflict", error.to_string()),
            IssueError::Key(_) | IssueError::Ledger(_) => Self::internal(&error),
        }
    }
}

async fn list(State(operating): State<Operating>) -> Json<Value> {
    Json(json!({ "data": operating.operators.tokens((operating.wall)()) }))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    sub: String,
    permissions: Vec<String>,
    ttl_seconds: Option<u64>,
}

async fn issue(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let asked: Asked = body(&bytes)?;
    let permissions = asked.permissions.iter().map(|name| name.parse::<Permission>());
    let asked = Issue {
        sub: asked.sub,
        permissions: permissions.collect::<Result<_, _>>()?,
        life: asked.ttl_seconds.map(Duration::from_secs),
    };
    let mut id = [0; 10];
    (operating.random)(&mut id);
    let (operators, wall) = (Arc::clone(&operating.operators), (operating.wall)());
    let (issued, token) = blocking(move || operators.issue(asked, &access.by, id, wall)).await??;
    let mut data = json!(issued);
    data["token"] = json!(*token);
    Ok((StatusCode::CREATED, Json(json!({ "data": data }))))
}

async fn revoke(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    Path(jti): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let unknown = |_| ApiError::new(404, "unknown_token", format!("there is no token {jti}"));
    let id = Uuid::try_parse(&jti).map_err(unknown)?;
    let (operators, wall) = (Arc::clone(&operating.operators), (operating.wall)());
    let revoked = blocking(move || operators.revoke(id, &access.by, wall)).await??;
    Ok(Json(json!({ "data": revoked })))
}
