//! Who may operate this site, and the tokens that say so where no socket's mode does.
//!
//! ```text
//! api.sock ─ issue ─▶ JWT (RFC 7519), EdDSA (RFC 8037) by `operators.key` ─▶ Authorization: Bearer …  ─▶ judge
//!               └───▶ its id, never itself, in the ledger ─────────────────────────────────────────────────┘
//! ```
//!
//! | header, claim | holds |
//! |---|---|
//! | `alg`, `kid` | `EdDSA`; the first 16 bytes of the SHA-256 of our public key, base64url |
//! | `iss`, `aud` | our site id, both |
//! | `sub` | the operator |
//! | `jti` | the token's id, by which it is revoked |
//! | `iat`, `nbf`, `exp` | whole seconds since 1970; a life of at most 12 h |
//! | `permissions` | `system.peers.read`, `.invite`, `.manage`: none implies another |
//!
//! A token whose id isn't in the ledger is worth nothing: neither the key alone nor an old ledger brings one back.

mod key;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

pub use key::{KeyError, OperatorKey};

use super::ledger::{Aborted, Happening, Ledger, LedgerError};
use super::moment::Moment;
use super::site::SiteId;
use super::wire::is_longer;
use key::Claims;

/// How long a token lives unless told otherwise.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(3_600);
/// How long one may live.
pub const MAX_LIFE: Duration = Duration::from_secs(12 * 3_600);
/// How far ahead of our clock a token may be issued.
const SKEW: Duration = Duration::from_secs(60);
/// The longest name of an operator, in bytes.
const MAX_SUBJECT: usize = 128;

/// What an operator may do. None implies another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Permission {
    /// Look.
    #[serde(rename = "system.peers.read")]
    Read,
    /// Propose and accept peers.
    #[serde(rename = "system.peers.invite")]
    Invite,
    /// Everything else: verify, suspend, revoke, grant.
    #[serde(rename = "system.peers.manage")]
    Manage,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Invite, Self::Manage];

    /// As tokens have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "system.peers.read",
            Self::Invite => "system.peers.invite",
            Self::Manage => "system.peers.manage",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Permission {
    type Err = IssueError;
    /// The whole name, or its last word.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = |permission: &Self| {
            let name = permission.as_str();
            name == text || name.rsplit('.').next() == Some(text)
        };
        let found = Self::ALL.into_iter().find(named);
        found.ok_or_else(|| IssueError::Permission(text.chars().take(64).collect()))
    }
}

/// Who does something. Written as `uid:0` or `sub:alice`, so that neither can pass for the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Principal {
    /// A user of this host, by the kernel's word.
    Uid(u32),
    /// The holder of a token.
    Subject(String),
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid:{uid}"),
            Self::Subject(subject) => write!(f, "sub:{subject}"),
        }
    }
}

/// What is known of a token that was issued: all but the token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct IssuedToken {
    /// Its id.
    pub jti: Uuid,
    /// For whom.
    pub sub: String,
    /// What it allows.
    pub permissions: BTreeSet<Permission>,
    /// Since when.
    pub issued_at: Moment,
    /// Until when.
    pub expires_at: Moment,
    /// Since when no longer, if it was revoked.
    pub revoked_at: Option<Moment>,
}

/// A new token.
pub struct Issue {
    /// For whom.
    pub sub: String,
    /// What it allows.
    pub permissions: BTreeSet<Permission>,
    /// How long; none is [`DEFAULT_LIFE`].
    pub life: Option<Duration>,
}

/// A token isn't issued or revoked.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// There is no such permission.
    #[error("there is no permission {0:?}: there are read, invite and manage")]
    Permission(String),
    /// It would allow nothing.
    #[error("a token needs a permission: read, invite or manage")]
    Nothing,
    /// It is for nobody.
    #[error("`sub` is the operator's name: 1 to {MAX_SUBJECT} characters, without control characters")]
    Subject,
    /// It would live too long, or not at all.
    #[error("a token lives from 1 s to 12 h")]
    Life,
    /// No such token.
    #[error("there is no token {0}, or it is expired")]
    Unknown(Uuid),
    /// It is revoked already.
    #[error("token {0} is revoked already")]
    Revoked(Uuid),
    /// It can't be signed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The ledger can't be written.
    #[error("the ledger can't be written")]
    Ledger(#[source] LedgerError),
}

impl From<Aborted<Self>> for IssueError {
    fn from(aborted: Aborted<Self>) -> Self {
        match aborted {
            Aborted::ByCaller(error) => error,
            Aborted::ByLedger(error) => Self::Ledger(error),
        }
    }
}

/// Why a token isn't taken: for the log. Whoever shows it hears the same of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not signed by our key, with our algorithm, for our site, in our shape.
    #[error("it is no token of this site")]
    Unsound,
    /// It claims a life that is never given.
    #[error("it lives longer than 12 h")]
    Life,
    /// It is from the future.
    #[error("it isn't valid yet")]
    Early,
    /// Its time is over.
    #[error("it is expired")]
    Expired,
    /// The ledger doesn't know it.
    #[error("the ledger doesn't know it")]
    Unknown,
    /// An operator has revoked it.
    #[error("it is revoked")]
    Revoked,
}

/// The site's operators.
pub struct Operators {
    site: SiteId,
    key: OperatorKey,
    ledger: Arc<Ledger>,
}

impl Operators {
    /// Those of this site, whose tokens this key signs.
    #[must_use]
    pub const fn new(site: SiteId, key: OperatorKey, ledger: Arc<Ledger>) -> Self {
        Self { site, key, ledger }
    }

    /// Issues a token: what is known of it, and itself, which is kept nowhere.
    ///
    /// # Errors
    /// It would be for nobody, allow nothing or live too long; it can't be signed, or the ledger can't be written.
    pub fn issue(
        &self,
        asked: Issue,
        by: &Principal,
        id_random: [u8; 10],
        wall: Moment,
    ) -> Result<(IssuedToken, zeroize::Zeroizing<String>), IssueError> {
        let Issue {
            sub,
            permissions,
            life,
        } = asked;
        if sub.trim().is_empty() || is_longer(&sub, MAX_SUBJECT) || sub.chars().any(char::is_control) {
            return Err(IssueError::Subject);
        }
        if permissions.is_empty() {
            return Err(IssueError::Nothing);
        }
        let life = life.unwrap_or(DEFAULT_LIFE);
        if life.as_secs() < 1 || life > MAX_LIFE {
            return Err(IssueError::Life);
        }
        let jti = wall.uuid(id_random);
        let issued = self.ledger.transact(wall, |draft| {
            // Tokens count whole seconds; what the ledger says is what they say.
            let millis = draft.now().millis();
            let now = Moment::from_millis(millis - millis.rem_euclid(1_000));
            let issued = IssuedToken {
                jti,
                sub,
                permissions,
                issued_at: now,
                expires_at: now.after(life),
                revoked_at: None,
            };
            draft.note(happening("issued", &issued, by));
            draft.put_operator_token(issued.clone());
            Ok::<_, IssueError>(issued)
        })?;
        let token = self.key.sign(&Claims::of(&issued, &self.site))?;
        Ok((issued, token))
    }

    /// Revokes a token: from now on it is refused everywhere.
    ///
    /// # Errors
    /// No such token, it is revoked already, or the ledger can't be written.
    pub fn revoke(&self, jti: Uuid, by: &Principal, wall: Moment) -> Result<IssuedToken, IssueError> {
        let revoked = self.ledger.transact(wall, |draft| {
            let found = draft.operator_token(&jti).cloned();
            let now = draft.now();
            let mut issued = found
                .filter(|issued| now < issued.expires_at)
                .ok_or(IssueError::Unknown(jti))?;
            if issued.revoked_at.is_some() {
                return Err(IssueError::Revoked(jti));
            }
            issued.revoked_at = Some(now);
            draft.note(happening("revoked", &issued, by));
            draft.put_operator_token(issued.clone());
            Ok(issued)
        })?;
        Ok(revoked)
    }

    /// All tokens that aren't expired, oldest first.
    #[must_use]
    pub fn tokens(&self, wall: Moment) -> Vec<IssuedToken> {
        self.ledger.read(|book| {
            let now = book.now(wall);
            let live = book.operator_tokens().filter(|issued| now < issued.expires_at);
            live.cloned().collect()
        })
    }

    /// Who shows this token, and what it allows.
    ///
    /// # Errors
    /// It isn't ours, isn't in force, or is revoked.
    pub fn judge(&self, token: &str, wall: Moment) -> Result<(Principal, BTreeSet<Permission>), Refused> {
        let claims = self.key.open(token, &self.site)?;
        self.ledger.read(|book| {
            claims.check(book.now(wall))?;
            let issued = book.operator_token(&claims.jti).ok_or(Refused::Unknown)?;
            if issued.revoked_at.is_some() {
                return Err(Refused::Revoked);
            }
            Ok(())
        })?;
        Ok((Principal::Subject(claims.sub), claims.permissions))
    }
}

/// For the audit: everything but the token.
fn happening(what: &str, issued: &IssuedToken, by: &Principal) -> Happening {
    Happening {
        kind: format!("federation.operator_token.{what}"),
        severity: "medium",
        peer: None,
        payload: json!({
            "jti": issued.jti, "sub": issued.sub, "permissions": issued.permissions,
            "expires_at": issued.expires_at, "by": by.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests;
