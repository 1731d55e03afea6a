//! Refusals as HTTP: a status, a word for programs, words for people, and nothing of what is inside.

use axum::Json;
use axum::body::to_bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse, Response};

use crate::federation::dial::DialError;
use crate::federation::gateway::{
    AcceptError, BeatError, BridgeError, ExcerptError, GrantError, OperatorError, RenewError, ResourceError,
    RotateError, TakeError,
};
use crate::federation::grant::TermsError;
use crate::federation::identity::Stranger;
use crate::federation::wire::Refusal;
use crate::report::chain;

/// A refusal.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    error: String,
    /// When it may be asked again, in seconds (RFC 9110, section 10.2.3).
    retry_after: Option<u32>,
}

impl ApiError {
    /// A refusal with these words.
    #[must_use]
    pub fn new(status: u16, code: &'static str, error: impl Into<String>) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            code,
            error: error.into(),
            retry_after: None,
        }
    }

    /// The same, and when it may be asked again, in seconds.
    #[must_use]
    pub(super) const fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The same words under another status, where this is the status.
    pub(super) fn instead_of(mut self, status: u16, other: u16, code: &'static str) -> Self {
        if self.status.as_u16() == status {
            self = Self::new(other, code, self.error);
        }
        self
    }

    /// What it says to people.
    #[must_use]
    pub fn words(&self) -> &str {
        &self.error
    }

    /// What everyone hears whom we don't know.
    #[must_use]
    pub fn stranger() -> Self {
        Self::new(401, "UNAUTHORIZED", Stranger::PUBLIC)
    }

    /// A fault of ours: the cause goes to the log, not to the caller.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = chain(error), "a request failed by a fault of ours");
        Self::new(
            500,
            "internal",
            "this site has a fault: its operator finds it in the log",
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Refusal {
            success: false,
            error: self.error,
            code: self.code.to_owned(),
        };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// When it is sensible to try a site again that takes no new peers for now, in seconds.
const PAUSE: u32 = 300;

/// The most that is kept of a refusal's words, in bytes.
const MAX_WORDS: usize = 1_024;

/// What the framework refuses by itself.
fn unread(status: StatusCode, words: impl Into<String>) -> ApiError {
    let code = if status == StatusCode::PAYLOAD_TOO_LARGE {
        "too_large"
    } else {
        "malformed"
    };
    ApiError::new(status.as_u16(), code, words)
}

/// What the framework refuses by itself, it refuses in plain text: the same words, in the shape of every other refusal.
pub(super) async fn in_our_shape(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(CONTENT_TYPE);
    let is_json = kind.is_some_and(|kind| kind == "application/json");
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    // Words that are too long are left out: the status says enough.
    let words = to_bytes(response.into_body(), MAX_WORDS)
        .await
        .unwrap_or_default();
    unread(status, String::from_utf8_lossy(&words)).into_response()
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        unread(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        unread(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        unread(rejection.status(), rejection.body_text())
    }
}

impl From<AcceptError> for ApiError {
    fn from(error: AcceptError) -> Self {
        match &error {
            AcceptError::Children(_) | AcceptError::Ledger(_) | AcceptError::Answer(_) => {
                Self::internal(&error)
            }
            AcceptError::Paused => {
                let (status, code) = error.status();
                Self::new(status, code, error.to_string()).retry_after(PAUSE)
            }
            AcceptError::NoToken
            | AcceptError::Version
            | AcceptError::Token
            | AcceptError::TooLong(_)
            | AcceptError::Trust(_)
            | AcceptError::Undialable
            | AcceptError::AnchorInUse
            | AcceptError::Conflict(_)
            | AcceptError::Transition(_) => {
                let (status, code) = error.status();
                Self::new(status, code, error.to_string())
            }
        }
    }
}

impl From<RenewError> for ApiError {
    fn from(error: RenewError) -> Self {
        match &error {
            RenewError::Stranger(stranger) => {
                tracing::debug!(error = %stranger, "a caller isn't known");
                Self::stranger()
            }
            RenewError::Token => Self::new(401, "UNAUTHORIZED", error.to_string()),
            RenewError::Request(_) => Self::new(422, "csr_refused", error.to_string()),
            RenewError::TooMuch => Self::new(429, "too_many", error.to_string()),
            RenewError::Sovereign => Self::new(422, "not_signed_here", error.to_string()),
            RenewError::Conflict(_) => Self::new(409, "conflict", error.to_string()),
            RenewError::Transition(_) => Self::new(422, "transition_refused", error.to_string()),
            RenewError::Children(_) | RenewError::Answer(_) | RenewError::Ledger(_) => Self::internal(&error),
        }
    }
}

impl From<BeatError> for ApiError {
    fn from(error: BeatError) -> Self {
        match error {
            BeatError::Stranger(stranger) => {
                tracing::debug!(error = %stranger, "a caller isn't known");
                Self::stranger()
            }
            BeatError::TooLong(error) => Self::new(422, "too_long", error.to_string()),
            BeatError::TooMuch => Self::new(429, "too_many", error.to_string()),
            BeatError::Anchors(_) => Self::new(422, "trust_refused", error.to_string()),
            BeatError::Ledger(error) => Self::internal(&error),
        }
    }
}

impl From<BridgeError> for ApiError {
    fn from(error: BridgeError) -> Self {
        match error {
            BridgeError::Stranger(stranger) => {
                tracing::debug!(error = %stranger, "a caller isn't known");
                Self::stranger()
            }
            BridgeError::Half(error) => Self::new(422, "half_refused", error.to_string()),
            BridgeError::Id => Self::new(422, "id", error.to_string()),
            BridgeError::Sequence(_) => Self::new(409, "sequence", error.to_string()),
            BridgeError::Offers => Self::new(422, "too_many", error.to_string()),
            BridgeError::TooMuch => Self::new(429, "too_many", error.to_string()),
            BridgeError::Ledger(error) => Self::internal(&error),
        }
    }
}

impl From<OperatorError> for ApiError {
    fn from(error: OperatorError) -> Self {
        match &error {
            OperatorError::Unknown(_) => Self::new(404, "unknown_peer", error.to_string()),
            OperatorError::Transition(_)
            | OperatorError::Conflict(_)
            | OperatorError::NoWords(_)
            | OperatorError::Ended(_) => Self::new(409, "conflict", error.to_string()),
            OperatorError::TooLong(_) => Self::new(422, "too_long", error.to_string()),
            OperatorError::Paused(_) => Self::new(409, "paused", error.to_string()),
            OperatorError::Alias => Self::new(422, "alias_missing", error.to_string()),
            OperatorError::Ledger(_) => Self::internal(&error),
        }
    }
}

impl From<RotateError> for ApiError {
    fn from(error: RotateError) -> Self {
        match &error {
            RotateError::UnderWay(_) => Self::new(409, "conflict", error.to_string()),
            RotateError::Store(_) | RotateError::Ledger(_) => Self::internal(&error),
        }
    }
}

impl From<GrantError> for ApiError {
    fn from(error: GrantError) -> Self {
        let (status, code) = match error {
            GrantError::Operator(error) => return error.into(),
            GrantError::Terms(TermsError::Text { most: 0, .. }) => (400, "bad_request"),
            GrantError::Terms(_) => (422, "bad_terms"),
            GrantError::Silent(_) => (422, "axes_not_explicit"),
            GrantError::Standing(_) => (409, "peer_not_enrolled"),
            GrantError::Unverified => (409, "peer_not_verified"),
            GrantError::Border(_) => (409, "residency_refused"),
            GrantError::Twice(_) | GrantError::Ended(_) => (409, "conflict"),
            GrantError::Unknown(_) => (404, "unknown_grant"),
            GrantError::NoCapability(_) => (404, "unknown_capability"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<ResourceError> for ApiError {
    fn from(error: ResourceError) -> Self {
        match &error {
            ResourceError::Stranger(stranger) => {
                tracing::debug!(error = %stranger, "a caller isn't known");
                Self::stranger()
            }
            ResourceError::Denied(denial) if denial.status() == 401 => {
                Self::new(401, "UNAUTHORIZED", error.to_string())
            }
            ResourceError::Denied(denial) => Self::new(denial.status(), "forbidden", error.to_string()),
            ResourceError::Unverified => Self::new(403, "peer_not_verified", error.to_string()),
            ResourceError::Border => Self::new(403, "residency_refused", error.to_string()),
            ResourceError::Kind => Self::new(422, "unknown_kind", error.to_string()),
            ResourceError::NoFleet => Self::new(503, "unavailable", error.to_string()),
        }
    }
}

impl From<ExcerptError> for ApiError {
    fn from(error: ExcerptError) -> Self {
        match &error {
            ExcerptError::Stranger(stranger) => {
                tracing::debug!(error = %stranger, "a caller isn't known");
                Self::stranger()
            }
            ExcerptError::Standing(_) => Self::new(403, "peer_not_active", error.to_string()),
            ExcerptError::Unverified => Self::new(403, "peer_not_verified", error.to_string()),
            ExcerptError::Border => Self::new(403, "residency_refused", error.to_string()),
            ExcerptError::Asked(_) => Self::new(422, "bad_window", error.to_string()),
            ExcerptError::Ledger(_) => Self::internal(&error),
        }
    }
}

impl From<DialError> for ApiError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Take(error) => error.into(),
            DialError::Call(_) => Self::new(502, "unreachable", chain(&error)),
            DialError::Refused { .. } => Self::new(502, "refused_by_peer", error.to_string()),
            DialError::Unsound(_) => Self::new(502, "unsound_answer", error.to_string()),
            DialError::NoTrust(_)
            | DialError::NoAnchor(_)
            | DialError::Undialable(_)
            | DialError::Standing(_)
            | DialError::Url(_) => Self::new(409, "conflict", error.to_string()),
            DialError::Beat(error) => error.into(),
            DialError::Bridge(error) => error.into(),
            DialError::Overlay(_) => Self::new(409, "no_way", error.to_string()),
            DialError::Pki(_) | DialError::Store(_) | DialError::Body(_) => Self::internal(&error),
        }
    }
}

impl From<TakeError> for ApiError {
    fn from(error: TakeError) -> Self {
        match &error {
            TakeError::Token(_) | TakeError::Own => Self::new(422, "token_refused", error.to_string()),
            TakeError::Unknown(_) => Self::new(404, "unknown_peer", error.to_string()),
            TakeError::Transition(_) | TakeError::Conflict(_) => {
                Self::new(409, "conflict", error.to_string())
            }
            TakeError::Paused(_) => Self::new(409, "paused", error.to_string()),
            TakeError::Answer(_) => Self::new(502, "unsound_answer", error.to_string()),
            TakeError::Store(_) | TakeError::Ledger(_) => Self::internal(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_while_it_is_paused_hears_when_to_come_again() {
        let response = ApiError::from(AcceptError::Paused).into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[RETRY_AFTER], "300");
        let other = ApiError::from(AcceptError::Token).into_response();
        assert!(!other.headers().contains_key(RETRY_AFTER));
    }
}
