//! What a parent leaves for a child to read at its first start. Pure.
//!
//! ```json
//! { "parent_url": "https://site-a.example.com:8443", "acceptance_token": "sdw1.…", "spawn_mode": "managed_child",
//!   "parent_peer_id": "0198c0de-…", "contract_version": "v1", "name": "site-a" }
//! ```
//!
//! `parent_peer_id` and `name` may be left out. The token is used once; the file means nothing afterwards.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::peer::{Peer, PeerId, SpawnMode, SpawnRole, Status};
use super::token::{AcceptanceToken, TokenError};
use super::url::{PeerUrl, UrlError};
use super::wire::contract_version;
use crate::model::Name;

/// The longest payload that is read, in bytes.
pub const MAX_PAYLOAD: u64 = 16 * 1024;

/// A payload makes no sense. It never says what the token was.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// It isn't of the shape.
    #[error(
        "line {line}, column {column}: no JSON object with parent_url, acceptance_token, spawn_mode and contract_version"
    )]
    Shape {
        /// Where.
        line: usize,
        /// Where in the line.
        column: usize,
    },
    /// Its URL can't be dialled.
    #[error("parent_url: {0}")]
    Url(#[from] UrlError),
    /// Its token is damaged.
    #[error("acceptance_token: {0}")]
    Token(#[from] TokenError),
    /// Its contract is none that we keep.
    #[error("contract_version: we keep {:?}", super::wire::CONTRACT_VERSIONS)]
    Version,
}

/// As it is written.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Payload {
    /// Where the parent's API is.
    pub parent_url: String,
    /// Its token.
    pub acceptance_token: String,
    /// What we are to it.
    pub spawn_mode: SpawnMode,
    /// What we are called there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_peer_id: Option<PeerId>,
    /// The contract.
    pub contract_version: Value,
    /// What it shall be called here; else after its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret.
        write!(f, "Payload({}, {:?})", self.parent_url, self.spawn_mode)
    }
}

/// What is to be done, and to whom.
#[derive(Debug)]
pub struct Errand {
    /// Where the parent is.
    pub url: PeerUrl,
    /// Its token.
    pub token: AcceptanceToken,
    /// What we are to it.
    pub mode: SpawnMode,
    /// What it shall be called here.
    pub name: Option<Name>,
}

/// The next step of an errand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The parent isn't registered here yet.
    Register,
    /// The token is to be taken to it.
    Take(PeerId),
    /// It was.
    Done,
    /// An operator has revoked the parent before it was: it stays revoked.
    Revoked(PeerId),
}

impl Errand {
    /// Reads a payload.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn parse(text: &str) -> Result<Self, PayloadError> {
        let payload: Payload = serde_json::from_str(text).map_err(|error| PayloadError::Shape {
            line: error.line(),
            column: error.column(),
        })?;
        contract_version(Some(&payload.contract_version)).ok_or(PayloadError::Version)?;
        Ok(Self {
            url: PeerUrl::new(&payload.parent_url)?,
            token: AcceptanceToken::parse(&payload.acceptance_token)?,
            mode: payload.spawn_mode,
            name: payload.name,
        })
    }

    /// What is to be done next, as things stand.
    pub fn step<'a>(&self, peers: impl Iterator<Item = &'a Peer>) -> Step {
        let (digest, url) = (self.token.digest(), self.url.to_string());
        let (mut next, mut revoked) = (Step::Register, None);
        for peer in peers {
            if peer.taken == Some(digest) {
                return Step::Done;
            }
            if peer.errand == Some(digest) && peer.status == Status::Revoked {
                revoked = Some(peer.id);
            }
            let is_it = peer.role == SpawnRole::Child && peer.mode == self.mode && peer.url == url;
            if is_it && peer.status == Status::Proposed {
                next = Step::Take(peer.id);
            }
        }
        revoked.map_or(next, Step::Revoked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::peer::tests::proposed;
    use crate::federation::token::{Fingerprint, TokenDigest};
    use serde_json::json;

    fn token() -> AcceptanceToken {
        AcceptanceToken::new([7; 32], Fingerprint([9; 32]))
    }

    fn payload() -> Value {
        json!({
            "parent_url": "https://site-a.example.com:8443", "acceptance_token": token().reveal(),
            "spawn_mode": "managed_child", "contract_version": "v1",
        })
    }

    #[test]
    fn an_errand_ends_when_its_token_was_taken() {
        let errand = Errand::parse(&payload().to_string()).unwrap();
        assert_eq!(errand.step(std::iter::empty()), Step::Register);
        let mut peer = Peer {
            url: errand.url.to_string(),
            role: SpawnRole::Child,
            mode: SpawnMode::ManagedChild,
            ..proposed()
        };
        let step = |peer: &Peer| errand.step(std::iter::once(peer));
        assert_eq!(step(&peer), Step::Take(peer.id));
        for (role, mode) in [
            (SpawnRole::Symmetric, SpawnMode::ManagedChild),
            (SpawnRole::Child, SpawnMode::AutonomousPeer),
        ] {
            let other = Peer {
                role,
                mode,
                ..peer.clone()
            };
            assert_eq!(
                step(&other),
                Step::Register,
                "what an operator registered stays as it is"
            );
        }
        // Whatever became of the peering since, a token that was taken isn't taken again.
        peer.taken = Some(token().digest());
        for status in Status::ALL {
            peer.status = status;
            assert_eq!(step(&peer), Step::Done, "{status}");
        }
        peer.taken = Some(AcceptanceToken::new([8; 32], Fingerprint([9; 32])).digest());
        assert_eq!(step(&peer), Step::Register, "another token is another errand");
    }

    #[test]
    fn a_parent_that_was_revoked_before_isnt_registered_again() {
        let errand = Errand::parse(&payload().to_string()).unwrap();
        let waiting = Peer {
            url: errand.url.to_string(),
            role: SpawnRole::Child,
            mode: SpawnMode::ManagedChild,
            errand: Some(token().digest()),
            ..proposed()
        };
        let revoked = Peer {
            status: Status::Revoked,
            ..waiting.clone()
        };
        let step = |peers: &[&Peer]| errand.step(peers.iter().copied());
        assert_eq!(step(&[&waiting]), Step::Take(waiting.id));
        assert_eq!(step(&[&revoked]), Step::Revoked(revoked.id));
        // Whatever was registered beside it is for a token that an operator brings.
        let by_hand = Peer {
            errand: None,
            ..waiting.clone()
        };
        for peers in [[&by_hand, &revoked], [&revoked, &by_hand]] {
            assert_eq!(step(&peers), Step::Revoked(revoked.id));
        }
        for errand in [None, Some(TokenDigest([8; 32]))] {
            let other = Peer {
                errand,
                ..revoked.clone()
            };
            assert_eq!(step(&[&other]), Step::Register, "another errand's");
        }
    }

    #[test]
    fn a_payload_that_makes_no_sense_says_where_and_never_the_token() {
        let secret = token().reveal();
        let with = |field: &str, value: Value| {
            let mut payload = payload();
            payload[field] = value;
            payload.to_string()
        };
        for bad in [
            String::new(),
            "{".to_owned(),
            with("spawn_mode", json!("slave")),
            with("acceptance_token", json!(&secret[..secret.len() - 1])),
            with("acceptance_token", json!(7)),
            with("parent_url", json!("http://site-a.example.com")),
            with("contract_version", json!("v9")),
            with("name", json!("not a name")),
        ] {
            let error = Errand::parse(&bad).unwrap_err().to_string();
            assert!(!error.contains(&secret[5..20]), "{error}");
        }
        let payload: Payload = serde_json::from_value(payload()).unwrap();
        assert!(!format!("{payload:?}").contains(&secret[5..20]));
    }
}
