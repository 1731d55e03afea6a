//! The acceptance token: what one operator hands to the other, out of band.
//!
//! ```text
//! sdw1.<32 random bytes>.<SHA-256 of the proposing site's CA key>.<first 6 bytes of SHA-256 of what stands before>
//!      base64url          base64url                                base64url
//! ```
//!
//! The secret is kept only as its SHA-256. The second part lets the acceptor know whom it talks to before it shows the
//! secret; the third tells a token that was cut or mistyped from one that is unknown, before anything is dialled.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

/// What a token begins with.
const PREFIX: &str = "sdw1";

/// What a bootstrap token begins with.
const BOOTSTRAP: &str = "sdwn1";

/// The bytes of the checksum.
const CHECKSUM: usize = 6;

/// The longest text that is looked at.
const MAX_LENGTH: usize = 256;

/// How long a token lives unless its operator says otherwise, in seconds: 7 days.
pub const DEFAULT_TTL_SECONDS: u64 = 7 * 24 * 3_600;

/// SHA-256 of a CA's public key (its `SubjectPublicKeyInfo`, as RFC 7469 pins it).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&digits(&self.0)).map_err(|_| fmt::Error)?)
    }
}

/// As lowercase hexadecimal digits.
fn digits(bytes: &[u8; 32]) -> [u8; 64] {
    let mut digits = [0; 64];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = b"0123456789abcdef"[usize::from(nibble)];
        }
    }
    digits
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WHAT: &str = "a fingerprint is 64 hexadecimal digits";
        let digits = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        if digits.len() != 64 {
            return Err(WHAT);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| WHAT)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| WHAT)?;
        }
        Ok(Self(bytes))
    }
}

/// What is kept of a token: SHA-256 of its secret.
#[derive(Clone, Copy, Eq, PartialOrd, Ord)]
pub struct TokenDigest(pub [u8; 32]);

impl PartialEq for TokenDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(…)")
    }
}

/// An acceptance token. Prints only through [`AcceptanceToken::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct AcceptanceToken {
    secret: [u8; 32],
    ca: Fingerprint,
}

impl Drop for AcceptanceToken {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl fmt::Debug for AcceptanceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcceptanceToken(…, {})", self.ca)
    }
}

/// A text is no acceptance token. It never says what the text was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It doesn't look like one.
    #[error("this is no acceptance token: one begins with `{PREFIX}.` and has four parts")]
    Shape,
    /// It looks like one that was damaged.
    #[error("this acceptance token is damaged: was all of it copied, on one line?")]
    Checksum,
}

impl AcceptanceToken {
    /// A token from 32 random bytes.
    #[must_use]
    pub const fn new(secret: [u8; 32], ca: Fingerprint) -> Self {
        Self { secret, ca }
    }

    /// Parses what an operator pasted.
    ///
    /// # Errors
    /// It is no token, or a damaged one.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > MAX_LENGTH {
            return Err(TokenError::Shape);
        }
        let parts: Vec<&str> = text.split('.').collect();
        let [PREFIX, secret, ca, checksum] = parts.as_slice() else {
            return Err(TokenError::Shape);
        };
        let expected = checksum_of(secret, ca);
        if expected.as_bytes().ct_eq(checksum.as_bytes()).into() {
            Ok(Self {
                secret: bytes(secret).ok_or(TokenError::Checksum)?,
                ca: Fingerprint(bytes(ca).ok_or(TokenError::Checksum)?),
            })
        } else {
            Err(TokenError::Checksum)
        }
    }

    /// The text for the operator: shown once, never logged.
    #[must_use]
    pub fn reveal(&self) -> String {
        let (secret, ca) = (BASE64.encode(self.secret), BASE64.encode(self.ca.0));
        let checksum = checksum_of(&secret, &ca);
        format!("{PREFIX}.{secret}.{ca}.{checksum}")
    }

    /// What is kept of it.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.secret).into())
    }

    /// The same text without its secret: another site's words may repeat it.
    #[must_use]
    pub fn redacted(&self, text: &str) -> String {
        text.replace(&BASE64.encode(self.secret), "…")
    }

    /// The CA of the site that made it.
    #[must_use]
    pub const fn ca(&self) -> Fingerprint {
        self.ca
    }
}

fn checksum_of(secret: &str, ca: &str) -> String {
    let digest = Sha256::digest(format!("{PREFIX}.{secret}.{ca}"));
    BASE64.encode(&digest[..CHECKSUM])
}

fn bytes(text: &str) -> Option<[u8; 32]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

/// What a node of a managed child shows to ask for its first certificate: `sdwn1.<32 random bytes, base64url>`.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken([u8; 32]);

impl Drop for BootstrapToken {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BootstrapToken(…)")
    }
}

impl BootstrapToken {
    /// A token from 32 random bytes.
    #[must_use]
    pub const fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// Parses what a node shows.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let secret = text.trim().strip_prefix(BOOTSTRAP)?.strip_prefix('.')?;
        if secret.len() > MAX_LENGTH {
            return None;
        }
        bytes(secret).map(Self)
    }

    /// The text for the node: shown once, never logged.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{BOOTSTRAP}.{}", BASE64.encode(self.0))
    }

    /// What is kept of it.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        TokenDigest(Sha256::digest(self.0).into())
    }
}

/// The words that both operators see when nobody stands between their sites: six of a list of 2048 (66 bits, BIP-39's
/// English list), over both CAs and the token.
#[must_use]
pub fn verification_words(
    proposer: Fingerprint,
    acceptor: Fingerprint,
    token: &TokenDigest,
) -> [&'static str; 6] {
    let mut hash = Sha256::new();
    hash.update(b"sdwand words v1");
    for part in [proposer.0, acceptor.0, token.0] {
        hash.update(part);
    }
    let digest = hash.finalize();
    let list = bip39::Language::English.word_list();
    std::array::from_fn(|word| {
        let bits = (0..11).fold(0_usize, |bits, n| {
            let at = word * 11 + n;
            bits << 1 | usize::from(digest[at / 8] >> (7 - at % 8) & 1)
        });
        list[bits]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> AcceptanceToken {
        AcceptanceToken::new([7; 32], Fingerprint([9; 32]))
    }

    #[test]
    fn a_token_survives_being_pasted() {
        let text = token().reveal();
        assert!(text.starts_with("sdw1.") && !text.contains('='), "{text}");
        assert_eq!(AcceptanceToken::parse(&text), Ok(token()));
        assert_eq!(AcceptanceToken::parse(&format!("  {text}\n")), Ok(token()));
    }

    #[test]
    fn every_damaged_token_is_told_apart_before_anything_is_dialled() {
        let text = token().reveal();
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(damaged).unwrap();
            assert!(AcceptanceToken::parse(&damaged).is_err(), "{at}");
            assert!(AcceptanceToken::parse(&text[..at]).is_err(), "cut at {at}");
        }
        for nonsense in [
            "",
            "sdw1",
            "sdw1...",
            "sdw2.a.b.c",
            "fg-1.x",
            &"x".repeat(10_000),
            "sdw1.\u{e9}.b.c",
        ] {
            assert!(AcceptanceToken::parse(nonsense).is_err());
        }
    }

    #[test]
    fn a_bootstrap_token_reads_back() {
        let text = BootstrapToken::new([7; 32]).reveal();
        assert_eq!(
            BootstrapToken::parse(&format!(" {text}\n")),
            Some(BootstrapToken::new([7; 32]))
        );
        let long = format!("sdwn1.{}", "x".repeat(10_000));
        for nonsense in [
            "",
            "sdwn1",
            "sdwn1.",
            "sdwn1.x",
            &text[1..],
            &text[..text.len() - 1],
            &long,
        ] {
            assert!(BootstrapToken::parse(nonsense).is_none(), "{nonsense:.20}");
        }
    }

    #[test]
    fn neither_the_secret_nor_its_digest_prints() {
        let (token, secret) = (token(), BASE64.encode([7; 32]));
        let bootstrap = BootstrapToken::new([7; 32]);
        let printed = format!(
            "{token:?} {:?} {bootstrap:?} {:?}",
            token.digest(),
            bootstrap.digest()
        );
        assert!(
            !printed.contains(&secret) && !printed.contains("7, 7"),
            "{printed}"
        );
    }

    #[test]
    fn words_that_repeat_a_token_lose_its_secret() {
        let (token, secret) = (token(), BASE64.encode([7; 32]));
        let told = token.redacted(&format!("no such token: {}", token.reveal()));
        assert!(told.starts_with("no such token: sdw1.…."), "{told}");
        assert!(!told.contains(&secret) && !token.redacted(&secret).contains(&secret));
    }

    #[test]
    fn the_words_depend_on_everything_and_are_the_same_on_both_sides() {
        let (a, b) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        let words = verification_words(a, b, &token().digest());
        assert_eq!(words, verification_words(a, b, &token().digest()));
        let other = AcceptanceToken::new([8; 32], a).digest();
        for changed in [
            verification_words(b, a, &token().digest()),
            verification_words(a, a, &token().digest()),
            verification_words(a, b, &other),
        ] {
            assert_ne!(words, changed);
        }
    }

    #[test]
    fn fingerprints_read_back() {
        let fingerprint = Fingerprint([0xab; 32]);
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        assert_eq!(format!("sha256:{fingerprint}").parse(), Ok(fingerprint));
        assert!("ab".parse::<Fingerprint>().is_err());
        assert!("é".repeat(32).parse::<Fingerprint>().is_err());
    }
}
