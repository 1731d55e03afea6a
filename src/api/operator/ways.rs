//! The ways in: who is there, and what that allows.
//!
//! | way | who | may |
//! |---|---|---|
//! | `api.sock` | whoever may open it, by user id as the kernel says (unix(7), `SO_PEERCRED`) | everything, and alone issue tokens |
//! | `status.sock` | the same | read |
//! | `[api] listen` | whoever shows a token that is good now (RFC 6750) | what the token says |
//!
//! No way in is for browsers: a request with an `Origin` (RFC 6454) is refused on all of them.

use std::collections::BTreeSet;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{ORIGIN, WWW_AUTHENTICATE};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use utoipa::openapi::SecurityRequirement;
use utoipa_axum::router::OpenApiRouter;

use super::Operating;
use crate::api::error::ApiError;
use crate::api::federation_api::bearer;
use crate::api::openapi::{OPERATOR, secured};
use crate::federation::gateway::Order;
use crate::federation::moment::Moment;
use crate::federation::operators::{Permission, Principal};

/// By which way a request came. The listeners put it on every one; without it, nothing is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// By `api.sock`.
    Api {
        /// The user at the other end.
        uid: u32,
    },
    /// By `status.sock`.
    Status {
        /// The user at the other end.
        uid: u32,
    },
    /// By `[api] listen`.
    Tcp,
}

/// Who makes a request, and what they may. The handlers find it among its extensions.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// Who.
    pub(super) by: Principal,
    permissions: BTreeSet<Permission>,
    /// Whether tokens may be issued and revoked.
    has_tokens: bool,
}

impl Access {
    /// What is asked for now, as an order of theirs.
    pub(super) fn order(&self, wall: Moment) -> Order {
        Order::of(&self.by, wall)
    }
}

fn unauthorized() -> Response {
    let text = "an operator's token is required, and it must be good now: `sdwand token issue` on the gateway makes one";
    let mut response = ApiError::new(401, "UNAUTHORIZED", text).into_response();
    let scheme = HeaderValue::from_static("Bearer");
    response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    response
}

/// Finds out who makes a request. Nothing is looked up for somebody who is nobody.
pub(super) async fn admit(State(operating): State<Operating>, mut request: Request, next: Next) -> Response {
    if request.headers().contains_key(ORIGIN) {
        let text = "requests of web pages aren't taken: leave the Origin header out";
        return ApiError::new(403, "origin_refused", text).into_response();
    }
    let access = match request.extensions().get::<Arrival>() {
        None => return unauthorized(),
        Some(Arrival::Api { uid }) => Access {
            by: Principal::Uid(*uid),
            permissions: Permission::ALL.into(),
            has_tokens: true,
        },
        Some(Arrival::Status { uid }) => Access {
            by: Principal::Uid(*uid),
            permissions: [Permission::Read].into(),
            has_tokens: false,
        },
        Some(Arrival::Tcp) => {
            let Some(token) = bearer(request.headers()) else {
                return unauthorized();
            };
            match operating.operators.judge(token, (operating.wall)()) {
                Ok((by, permissions)) => Access {
                    by,
                    permissions,
                    has_tokens: false,
                },
                Err(error) => {
                    tracing::debug!(%error, "an operator's token isn't taken");
                    return unauthorized();
                }
            }
        }
    };
    request.extensions_mut().insert(access);
    next.run(request).await
}

/// Routes that need this permission.
pub(super) fn needs(permission: Permission, routes: OpenApiRouter<Operating>) -> OpenApiRouter<Operating> {
    secured(routes, &SecurityRequirement::new(OPERATOR, [permission.as_str()])).route_layer(from_fn(
        move |Extension(access): Extension<Access>, request: Request, next: Next| async move {
            if access.permissions.contains(&permission) {
                next.run(request).await
            } else {
                forbidden(format!("this needs the permission {permission}"))
            }
        },
    ))
}

/// Routes for whoever may do anything at all.
pub(super) fn needs_nothing(routes: OpenApiRouter<Operating>) -> OpenApiRouter<Operating> {
    secured(routes, &SecurityRequirement::new(OPERATOR, [""; 0]))
}

/// Routes for who is on the gateway: about tokens, since none gives more of them (who has one for an hour must not have it
/// for ever), and the whole ledger.
pub(super) fn needs_api_sock(routes: OpenApiRouter<Operating>) -> OpenApiRouter<Operating> {
    secured(routes, &SecurityRequirement::new(OPERATOR, ["api.sock"])).route_layer(from_fn(
        async |Extension(access): Extension<Access>, request: Request, next: Next| {
            if access.has_tokens {
                next.run(request).await
            } else {
                forbidden("this is done on the gateway, over api.sock alone")
            }
        },
    ))
}

fn forbidden(text: impl Into<String>) -> Response {
    ApiError::new(403, "forbidden", text).into_response()
}
