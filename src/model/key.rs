//! WireGuard keys. Public ones print as base64; private and preshared ones never print, compare in constant time and
//! are zeroed when dropped.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A Curve25519 public key (`wg pubkey`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

/// A text is no key: 32 bytes, written as 44 characters of base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a WireGuard key is 32 bytes in base64: 44 characters that end in \"=\"")]
pub struct KeyError;

impl PublicKey {
    /// Whether every key agreed with it is zero (RFC 7748, section 6.1): nobody has its private half, and what is sent to
    /// it anyone can read.
    #[must_use]
    pub fn is_low_order(&self) -> bool {
        let mut bytes = self.0;
        bytes[31] &= 0x7f;
        LOW_ORDER.contains(&bytes)
    }
}

/// The u-coordinates of order 1, 2, 4 and 8 on Curve25519 and its twist, in every encoding below 2²⁵⁵: 0, 1, two of
/// order 8, and p − 1, p, p + 1.
const LOW_ORDER: [[u8; 32]; 7] = {
    let mut points = [[0; 32]; 7];
    points[1][0] = 1;
    points[2] = [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda,
        0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ];
    points[3] = [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04,
        0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ];
    points[4] = [0xff; 32];
    points[5] = [0xff; 32];
    points[6] = [0xff; 32];
    points[4][0] = 0xec;
    points[5][0] = 0xed;
    points[6][0] = 0xee;
    points[4][31] = 0x7f;
    points[5][31] = 0x7f;
    points[6][31] = 0x7f;
    points
};

fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| KeyError)?);
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() != 32 {
        return Err(KeyError);
    }
    key.copy_from_slice(&bytes);
    Ok(key)
}

impl FromStr for PublicKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decode(text).map(|key| Self(*key))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A Curve25519 private key (`wg genkey`).
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<[u8; 32]>);

impl PrivateKey {
    /// A key from 32 random bytes, clamped as `wg genkey` does (RFC 7748, section 5).
    #[must_use]
    pub fn from_random(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 0b1111_1000;
        bytes[31] = (bytes[31] & 0b0111_1111) | 0b0100_0000;
        Self(Zeroizing::new(bytes))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(*self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// The bytes, for the kernel and for the key file; nothing else may ask.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The text as `wg` reads it, for the key file; nothing else may ask.
    #[must_use]
    pub fn expose_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(*self.0))
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decode(text).map(Self)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// A WireGuard preshared key.
///
/// It binds a peer to its network: with one node key on several links, an on-path port rewrite could otherwise join
/// two networks.
#[derive(Clone)]
pub struct PresharedKey(Zeroizing<[u8; 32]>);

impl PresharedKey {
    /// The key of a network: SHA-256 of `"sdwand psk v1"`, the site prefix's text, the network id as two big-endian
    /// bytes, and the site's secret if it has one; each part ends in a zero byte, so that parts can't run together.
    #[must_use]
    pub fn derive(site_prefix: &str, network_id: u16, secret: Option<&[u8]>) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"sdwand psk v1\0");
        hash.update(site_prefix.as_bytes());
        hash.update(b"\0");
        hash.update(network_id.to_be_bytes());
        hash.update(b"\0");
        if let Some(secret) = secret {
            hash.update(secret);
        }
        Self(Zeroizing::new(hash.finalize().into()))
    }

    /// What a peer has in the place of this key while no session with it may come about: nobody uses it at the other end,
    /// so that a handshake initiation is still heard (it holds no preshared key), and no response to it is believed.
    #[must_use]
    pub fn withheld(&self) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"sdwand psk withheld\0");
        hash.update(*self.0);
        Self(Zeroizing::new(hash.finalize().into()))
    }

    /// The key of these bytes, as the kernel reports it; all zero means that none is set.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        if bool::from(bytes.ct_eq(&[0; 32])) {
            None
        } else {
            Some(Self(Zeroizing::new(bytes)))
        }
    }

    /// The bytes, for the kernel and for an exported `wg setconf` file.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for PresharedKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for PresharedKey {}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_half_is_what_wg_prints() {
        // RFC 7748, section 6.1: Alice's keys.
        let private: PrivateKey = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=".parse().unwrap();
        assert_eq!(
            private.public().to_string(),
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
        );
    }

    #[test]
    fn nothing_is_agreed_with_a_key_of_low_order() {
        let secret = x25519_dalek::StaticSecret::from([0x55; 32]);
        let agrees = |key: [u8; 32]| {
            let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(key));
            shared.was_contributory()
        };
        for mut key in LOW_ORDER {
            assert!(PublicKey(key).is_low_order() && !agrees(key), "{key:x?}");
            // RFC 7748, section 5: the top bit is ignored.
            key[31] |= 0x80;
            assert!(PublicKey(key).is_low_order() && !agrees(key), "{key:x?}");
        }
        let mut base = [0; 32];
        base[0] = 9;
        assert!(!PublicKey(base).is_low_order() && agrees(base));
    }

    #[test]
    fn secrets_do_not_print() {
        let private = PrivateKey::from_random([7; 32]);
        assert_eq!(format!("{private:?}"), "PrivateKey(…)");
        let psk = PresharedKey::derive("fd00::/48", 1, None);
        assert_eq!(format!("{psk:?}"), "PresharedKey(…)");
    }

    #[test]
    fn a_preshared_key_belongs_to_one_network() {
        let one = PresharedKey::derive("fd00::/48", 1, None);
        assert_eq!(one, PresharedKey::derive("fd00::/48", 1, None));
        assert_ne!(one, PresharedKey::derive("fd00::/48", 2, None));
        assert_ne!(one, PresharedKey::derive("fd01::/48", 1, None));
        assert_ne!(one, PresharedKey::derive("fd00::/48", 1, Some(b"s")));
    }

    #[test]
    fn bad_keys_are_refused() {
        for bad in ["", "abc", "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LC=", "!!"] {
            assert_eq!(bad.parse::<PublicKey>(), Err(KeyError));
        }
    }
}
