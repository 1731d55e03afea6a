//! `/api/v1/system/federation/tokens`: the tokens of operators who aren't on this host.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::answers::{Data, Issued};
use super::ways::Access;
use super::{FEDERATION, Operating};
use crate::api::error::ApiError;
use crate::api::federation_api::{blocking, body};
use crate::federation::number;
use crate::federation::operators::{Issue, IssueError, IssuedToken, Permission};

pub(super) fn routes() -> OpenApiRouter<Operating> {
    OpenApiRouter::new()
        .routes(routes!(list, issue))
        .routes(routes!(revoke))
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

/// The operators' tokens; on the gateway alone.
#[utoipa::path(get, context_path = FEDERATION, path = "/tokens", tag = "tokens", responses((status = 200, body = Data<Vec<IssuedToken>>)))]
async fn list(State(operating): State<Operating>) -> Data<Vec<IssuedToken>> {
    Data {
        data: operating.operators.tokens((operating.wall)()),
    }
}

fn permissions() -> ArrayBuilder {
    let names = Permission::ALL.into_iter().map(Permission::as_str);
    let words = names
        .flat_map(|name| [Some(name), name.rsplit('.').next()])
        .flatten();
    let permission = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(words));
    ArrayBuilder::new().items(permission).min_items(Some(1))
}

/// A token to issue.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = TokenAsked)]
#[serde(default)]
struct Asked {
    /// The operator's name.
    #[schema(
        required = true,
        max_length = 128,
        pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*[^\\x00-\\x1f\\x7f-\\x9f\\s][^\\x00-\\x1f\\x7f-\\x9f]*$"
    )]
    sub: String,
    /// Whole names, or their last words.
    #[schema(required = true, schema_with = permissions)]
    permissions: Vec<String>,
    #[serde(deserialize_with = "number::optional")]
    #[schema(minimum = 1, maximum = 43_200)]
    ttl_seconds: Option<u64>,
}

/// Issues a token; on the gateway alone.
#[utoipa::path(post, context_path = FEDERATION, path = "/tokens", tag = "tokens", request_body = Asked, responses((status = 201, body = Data<Issued>), (status = 422)))]
async fn issue(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    bytes: Bytes,
) -> Result<(StatusCode, Data<Issued>), ApiError> {
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
    let data = Issued {
        issued,
        token: token.to_string(),
    };
    Ok((StatusCode::CREATED, Data { data }))
}

/// Revokes a token; on the gateway alone.
#[utoipa::path(post, context_path = FEDERATION, path = "/tokens/{jti}/revoke", tag = "tokens", responses((status = 200, body = Data<IssuedToken>), (status = 409)))]
async fn revoke(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    Path(jti): Path<String>,
) -> Result<Data<IssuedToken>, ApiError> {
    let unknown = |_| ApiError::new(404, "unknown_token", format!("there is no token {jti}"));
    let id = Uuid::try_parse(&jti).map_err(unknown)?;
    let (operators, wall) = (Arc::clone(&operating.operators), (operating.wall)());
    let revoked = blocking(move || operators.revoke(id, &access.by, wall)).await??;
    Ok(Data { data: revoked })
}
