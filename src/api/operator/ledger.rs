//! `/api/v1/system/federation/ledger/backup`: the ledger as a file. It is sent to who asks: this process writes nowhere
//! but in its own folder.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use tokio::io::AsyncReadExt as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{FEDERATION, Operating};
use crate::api::error::ApiError;
use crate::api::federation_api::blocking;

/// How much of the file is in memory at once.
const CHUNK: usize = 64 * 1024;

pub(super) fn routes() -> OpenApiRouter<Operating> {
    OpenApiRouter::new().routes(routes!(backup))
}

/// A copy of the ledger; on the gateway alone.
#[utoipa::path(post, context_path = FEDERATION, path = "/ledger/backup", tag = "ledger", responses((status = 200, body = Vec<u8>, content_type = "application/vnd.sqlite3")))]
async fn backup(State(operating): State<Operating>) -> Result<Response, ApiError> {
    let gateway = Arc::clone(&operating.gateway);
    let copied = blocking(move || gateway.ledger.backup()).await?;
    let (file, _) = copied.map_err(|error| ApiError::internal(&error))?;
    let length = file.metadata().map_err(|error| ApiError::internal(&error))?.len();
    let chunks = futures::stream::try_unfold(tokio::fs::File::from_std(file), async |mut file| {
        let mut chunk = vec![0; CHUNK];
        let read = file.read(&mut chunk).await?;
        chunk.truncate(read);
        Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(chunk), file)))
    });
    let head = [
        (CONTENT_TYPE, "application/vnd.sqlite3".to_owned()),
        (CONTENT_LENGTH, length.to_string()),
    ];
    Ok((head, Body::from_stream(chunks)).into_response())
}
