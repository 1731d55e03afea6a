//! `PATCH /api/v1/system/platform/peers/{peer}`: one thing about a peer that an operator knows better.
//!
//! ```json
//! { "data_residency": "JP" }        what the peer doesn't say of itself
//! { "remote_instance_url": "…" }    it has moved
//! { "status": "suspended" }         as the verb would: suspended, accepted (resumes), revoked
//! ```
//!
//! One of them at a time: a change that is refused leaves nothing half done.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa::openapi::{ObjectBuilder, OneOfBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answers::{Changed, Data};
use super::peers::{changed, peer_view};
use super::ways::Access;
use super::{API, Operating, Routes, find};
use crate::api::error::ApiError;
use crate::api::federation_api::{blocking, body};
use crate::api::openapi::url;
use crate::federation::gateway::Gateway;
use crate::federation::peer::Status;
use crate::federation::url::PeerUrl;
use crate::federation::wire::Notice;

pub(super) fn routes() -> Routes {
    Routes {
        read: OpenApiRouter::new(),
        invite: OpenApiRouter::new(),
        manage: OpenApiRouter::new().routes(routes!(change)),
    }
}

/// One of them.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Change {
    status: Option<Status>,
    data_residency: Option<String>,
    remote_instance_url: Option<String>,
}

impl ToSchema for Change {
    fn name() -> Cow<'static, str> {
        "PeerChange".into()
    }
}

impl PartialSchema for Change {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let status = text().enum_values(Some(["suspended", "accepted", "revoked"]));
        let residency = text().max_length(Some(64));
        let all = [
            ("status", status),
            ("data_residency", residency),
            ("remote_instance_url", url()),
        ];
        let names = all.each_ref().map(|(name, _)| *name);
        let one_of = all
            .into_iter()
            .fold(OneOfBuilder::new(), |one_of, (name, schema)| {
                let others = names.into_iter().filter(|other| *other != name);
                let none = || ObjectBuilder::new().schema_type(Type::Null);
                let object = others.fold(ObjectBuilder::new(), |object, other| {
                    object.property(other, none())
                });
                one_of.item(object.property(name, schema).required(name))
            });
        Schema::OneOf(one_of.build()).into()
    }
}

/// Changes one thing about a peer.
#[utoipa::path(patch, context_path = API, path = "/{peer}", tag = "peers", request_body = Change, responses((status = 200, body = Data<Changed>), (status = 409), (status = 422)))]
async fn change(
    State(operating): State<Operating>,
    Extension(access): Extension<Access>,
    Path(peer): Path<String>,
    bytes: Bytes,
) -> Result<Data<Changed>, ApiError> {
    let id = find(&operating, &peer)?;
    let (gateway, order) = (Arc::clone(&operating.gateway), access.order((operating.wall)()));
    let peer = match body::<Change>(&bytes)? {
        Change {
            status: Some(status),
            data_residency: None,
            remote_instance_url: None,
        } => return set_status(&operating, &access, &peer, status).await,
        Change {
            status: None,
            data_residency: Some(residency),
            remote_instance_url: None,
        } => blocking(move || gateway.declare_residency(id, &residency, order)).await?,
        Change {
            status: None,
            data_residency: None,
            remote_instance_url: Some(url),
        } => {
            let url = PeerUrl::new(&url).map_err(|error| ApiError::new(422, "bad_url", error.to_string()))?;
            blocking(move || gateway.relocate(id, &url, order)).await?
        }
        Change {
            status: None,
            data_residency: None,
            remote_instance_url: None,
        } => {
            let text = "nothing to change: status, data_residency or remote_instance_url";
            return Err(ApiError::new(400, "bad_request", text));
        }
        Change { .. } => {
            let text = "one change at a time: status, data_residency or remote_instance_url";
            return Err(ApiError::new(422, "too_much", text));
        }
    };
    let view = peer_view(&operating.gateway, &peer?);
    Ok(Data {
        data: Changed { peer: view },
    })
}

/// As the verbs do, but that what can't happen is 422: the row is as it was.
async fn set_status(
    operating: &Operating,
    access: &Access,
    peer: &str,
    status: Status,
) -> Result<Data<Changed>, ApiError> {
    let reason = "by the operator";
    let set = match status {
        Status::Suspended => {
            let suspend = |gateway: &Gateway, id, order| gateway.suspend(id, reason, order);
            changed(operating, access, peer, Some(Notice::Suspended), suspend).await
        }
        Status::Revoked => {
            let revoke = |gateway: &Gateway, id, order| gateway.revoke(id, reason, order);
            changed(operating, access, peer, Some(Notice::Revoked), revoke).await
        }
        Status::Accepted => changed(operating, access, peer, Some(Notice::Resumed), Gateway::resume).await,
        Status::Proposed | Status::Enrolled | Status::Active | Status::Degraded => {
            let text = format!("no operator makes a peer {status}: the protocol does");
            return Err(ApiError::new(422, "transition_refused", text));
        }
    };
    set.map_err(|error| error.instead_of(409, 422, "transition_refused"))
}
