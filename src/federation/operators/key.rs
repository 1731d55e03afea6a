//! The key that signs operators' tokens, and what it signs.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use rcgen::{KeyPair, PKCS_ED25519};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{IssuedToken, MAX_LIFE, Permission, Refused, SKEW};
use crate::federation::moment::Moment;
use crate::federation::site::SiteId;

/// The key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It can't be drawn or read.
    #[error("the key of the operators' tokens")]
    Key(#[source] rcgen::Error),
    /// It is of another kind.
    #[error("the key of the operators' tokens isn't Ed25519: move it away, and start again to draw one")]
    Kind,
    /// It doesn't sign.
    #[error("can't sign an operator's token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// An Ed25519 key.
pub struct OperatorKey {
    private: EncodingKey,
    public: DecodingKey,
    kid: String,
}

impl std::fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorKey")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

impl OperatorKey {
    /// A new key, and itself as PEM, which is the caller's to keep (0600).
    ///
    /// # Errors
    /// None can be drawn.
    pub fn generate() -> Result<(Self, Zeroizing<String>), KeyError> {
        let pair = KeyPair::generate_for(&PKCS_ED25519).map_err(KeyError::Key)?;
        let secret = Zeroizing::new(pair.serialize_pem());
        Ok((Self::new(&pair)?, secret))
    }

    /// A key that was kept.
    ///
    /// # Errors
    /// It can't be read, or isn't Ed25519.
    pub fn load(pem: &str) -> Result<Self, KeyError> {
        Self::new(&KeyPair::from_pem(pem).map_err(KeyError::Key)?)
    }

    fn new(pair: &KeyPair) -> Result<Self, KeyError> {
        if pair.algorithm() != &PKCS_ED25519 {
            return Err(KeyError::Kind);
        }
        let digest = Sha256::digest(pair.public_key_raw());
        Ok(Self {
            private: EncodingKey::from_ed_der(&Zeroizing::new(pair.serialize_der())),
            public: DecodingKey::from_ed_der(pair.public_key_raw()),
            kid: BASE64.encode(digest.get(..16).unwrap_or_default()),
        })
    }

    /// Its name, as tokens have it.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    pub(super) fn sign(&self, claims: &Claims) -> Result<Zeroizing<String>, KeyError> {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        encode(&header, claims, &self.private)
            .map(Zeroizing::new)
            .map_err(KeyError::Sign)
    }

    /// What a token claims, if this key signed it for this site. Its times aren't looked at.
    pub(super) fn open(&self, token: &str, site: &SiteId) -> Result<Claims, Refused> {
        let mut expected = Validation::new(Algorithm::EdDSA);
        expected.set_issuer(&[site]);
        expected.set_audience(&[site]);
        expected.set_required_spec_claims(&["iss", "aud", "sub", "exp", "nbf"]);
        // The library asks the clock; we are told the time.
        expected.validate_exp = false;
        expected.validate_nbf = false;
        let data = decode::<Claims>(token, &self.public, &expected).map_err(|_| Refused::Unsound)?;
        // The library knows no `crit`, which says that what isn't known mustn't be passed over (RFC 7515, section 4.1.11).
        let is_plain = data.header.crit.is_none() && data.header.kid.as_ref() == Some(&self.kid);
        if !is_plain || data.claims.sub.trim().is_empty() {
            return Err(Refused::Unsound);
        }
        Ok(data.claims)
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) aud: String,
    pub(super) sub: String,
    pub(super) jti: Uuid,
    pub(super) iat: u64,
    pub(super) nbf: u64,
    pub(super) exp: u64,
    pub(super) permissions: BTreeSet<Permission>,
}

impl Claims {
    pub(super) fn of(issued: &IssuedToken, site: &SiteId) -> Self {
        Self {
            iss: site.to_string(),
            aud: site.to_string(),
            sub: issued.sub.clone(),
            jti: issued.jti,
            iat: issued.issued_at.seconds(),
            nbf: issued.issued_at.seconds(),
            exp: issued.expires_at.seconds(),
            permissions: issued.permissions.clone(),
        }
    }

    /// Judges the times.
    pub(super) fn check(&self, now: Moment) -> Result<(), Refused> {
        let (now, at_most) = (now.seconds(), MAX_LIFE.as_secs());
        if self.exp.checked_sub(self.iat).is_none_or(|life| life > at_most) {
            return Err(Refused::Life);
        }
        if self.iat.max(self.nbf) > now.saturating_add(SKEW.as_secs()) {
            return Err(Refused::Early);
        }
        if self.exp <= now {
            return Err(Refused::Expired);
        }
        Ok(())
    }
}
