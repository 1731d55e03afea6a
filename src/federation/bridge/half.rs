//! One end's half of a bridge, as it is told to the other end, and what both halves make together.

use std::fmt;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::federation::number;
use crate::model::agreement::{MAX_ENDPOINTS, MAX_PREFIXES, Unfit, fit};
use crate::model::{Name, PresharedKey, PublicKey};

/// The longest host of an endpoint (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 253;

/// What one end adds to the preshared key: 32 random bytes. It never prints.
#[derive(Clone)]
pub struct PresharedHalf(Zeroizing<[u8; 32]>);

impl PresharedHalf {
    /// Of random bytes.
    #[must_use]
    pub fn new(random: [u8; 32]) -> Self {
        Self(Zeroizing::new(random))
    }

    /// The preshared key of a bridge (WireGuard, section 5.2): SHA-256 of `"sdwand bridge psk v1"`, a zero byte, the smaller
    /// half and the larger one. Both ends find the same.
    #[must_use]
    pub fn key_with(&self, other: &Self) -> Option<PresharedKey> {
        let (a, b) = (&*self.0, &*other.0);
        let (first, second) = if a <= b { (a, b) } else { (b, a) };
        let mut hash = Sha256::new();
        hash.update(b"sdwand bridge psk v1\0");
        hash.update(first);
        hash.update(second);
        PresharedKey::from_bytes(hash.finalize().into())
    }
}

impl fmt::Debug for PresharedHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedHalf(…)")
    }
}

impl PartialEq for PresharedHalf {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for PresharedHalf {}

impl Serialize for PresharedHalf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(*self.0)))
    }
}

impl<'de> Deserialize<'de> for PresharedHalf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let bytes = STANDARD.decode(&*text).map(Zeroizing::new).ok();
        let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
        bytes
            .map(Self::new)
            .ok_or_else(|| de::Error::custom("32 bytes in base64 are expected"))
    }
}

/// One end's half of a bridge: `PUT bridges/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = BridgeHalf)]
pub struct Half {
    /// What the sender calls its network.
    pub network: Name,
    /// What it takes ours to be called.
    pub remote_network: Name,
    /// Its gateway's WireGuard key: 32 bytes in base64.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9+/]{43}=$")]
    pub gateway_public_key: PublicKey,
    /// Where its gateway is reached by WireGuard: `<host>:<port>`, best first; none where it calls.
    #[serde(default)]
    #[schema(max_items = 8, required = false)]
    pub endpoints: Vec<String>,
    /// What it exports.
    #[schema(max_items = 1000, value_type = Vec<String>)]
    pub prefixes: Vec<IpNet>,
    /// Where it listens inside its overlay, for calls over the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub listener: Option<SocketAddr>,
    /// What it adds to the preshared key: 32 bytes in base64.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9+/]{43}=$")]
    pub preshared_half: PresharedHalf,
    /// It rises with each change of this half, and with its end.
    #[serde(deserialize_with = "number::integer")]
    #[schema(minimum = 0, maximum = 18_446_744_073_709_551_615_u64)]
    pub sequence: u64,
}

/// A half that can't be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HalfError {
    /// There are too many of something.
    #[error("{field}: at most {most}")]
    TooMany {
        /// Of what.
        field: &'static str,
        /// How many there may be.
        most: usize,
    },
    /// A prefix that no site has.
    #[error("prefixes: {net} {why}")]
    Prefix {
        /// Which.
        net: IpNet,
        /// Why.
        why: Unfit,
    },
    /// An endpoint that reads otherwise.
    #[error("endpoints: each reads <host>:<port>")]
    Endpoint,
    /// A key whose private half everyone has.
    #[error("gateway_public_key: nobody can have this key")]
    Key,
}

impl Half {
    /// The same, with its prefixes in order, each once, and no listener outside them.
    ///
    /// # Errors
    /// It says what no site can say.
    pub fn checked(mut self) -> Result<Self, HalfError> {
        let too_many = |field, most| HalfError::TooMany { field, most };
        if self.prefixes.len() > MAX_PREFIXES {
            return Err(too_many("prefixes", MAX_PREFIXES));
        }
        if self.endpoints.len() > MAX_ENDPOINTS {
            return Err(too_many("endpoints", MAX_ENDPOINTS));
        }
        if self.gateway_public_key.is_low_order() {
            return Err(HalfError::Key);
        }
        for net in &self.prefixes {
            fit(net).map_err(|why| HalfError::Prefix { net: *net, why })?;
        }
        if self
            .endpoints
            .iter()
            .any(|endpoint| Place::parse(endpoint).is_none())
        {
            return Err(HalfError::Endpoint);
        }
        self.prefixes = ordered(&self.prefixes);
        self.listener = self.listener.filter(|at| covers(&self.prefixes, at));
        Ok(self)
    }
}

/// Whether a listener is inside one of the prefixes.
pub(super) fn covers(prefixes: &[IpNet], listener: &SocketAddr) -> bool {
    prefixes.iter().any(|net| net.contains(&listener.ip()))
}

/// Prefixes in order, each once and without host bits.
pub(in crate::federation) fn ordered(nets: &[IpNet]) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = nets.iter().map(IpNet::trunc).collect();
    nets.sort();
    nets.dedup();
    nets
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At an address.
    Address(SocketAddr),
    /// Where a name leads.
    Name(String, u16),
}

impl Place {
    /// Reads `<host>:<port>`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return (address.port() != 0).then_some(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':')?;
        let is_label = |label: &str| {
            let is_inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
            !label.is_empty() && label.bytes().all(is_inner)
        };
        let is_host = host.len() <= MAX_HOST && host.trim_end_matches('.').split('.').all(is_label);
        let port = port.parse().ok().filter(|port| *port != 0)?;
        is_host.then(|| Self::Name(host.to_owned(), port))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn half(network: &str, remote: &str, byte: u8, sequence: u64) -> Half {
        Half {
            network: Name::new(network).unwrap(),
            remote_network: Name::new(remote).unwrap(),
            gateway_public_key: PublicKey([byte; 32]),
            endpoints: vec![format!("1.1.1.{byte}:51820")],
            prefixes: vec![format!("fd00:0:{byte:x}:1::/64").parse().unwrap()],
            listener: None,
            preshared_half: PresharedHalf::new([byte ^ 0x80; 32]),
            sequence,
        }
    }

    #[test]
    fn both_ends_find_the_same_key_and_no_other_pair_does() {
        let [a, b, c] = [[1; 32], [2; 32], [3; 32]].map(PresharedHalf::new);
        let key = |one: &PresharedHalf, other: &PresharedHalf| *one.key_with(other).unwrap().expose();
        assert_eq!(key(&a, &b), key(&b, &a));
        assert_ne!(key(&a, &b), key(&a, &c));
        assert_ne!(key(&a, &a), key(&b, &b));
    }

    #[test]
    fn a_half_is_written_and_read_and_its_secret_never_prints() {
        let half = half("prod", "dev", 7, 3);
        let text = serde_json::to_string(&half).unwrap();
        assert_eq!(serde_json::from_str::<Half>(&text).unwrap(), half);
        let secret = STANDARD.encode([7 ^ 0x80; 32]);
        assert!(text.contains(&secret) && !format!("{half:?}").contains(&secret));
        let error = serde_json::from_str::<PresharedHalf>("\"c2VjcmV0\"").unwrap_err();
        assert!(!error.to_string().contains("c2Vj"), "{error}");
    }

    #[test]
    fn what_no_site_can_say_is_refused() {
        let change = |change: fn(&mut Half)| {
            let mut said = half("prod", "prod", 1, 1);
            change(&mut said);
            said.checked().map(drop)
        };
        assert_eq!(change(|_| {}), Ok(()));
        assert_eq!(change(|half| half.prefixes.clear()), Ok(()), "it exports nothing");
        assert!(matches!(
            change(|half| half.prefixes = vec!["::/0".parse().unwrap()]),
            Err(HalfError::Prefix {
                why: Unfit::TooWide,
                ..
            })
        ));
        assert_eq!(
            change(|half| half.gateway_public_key = PublicKey([0; 32])),
            Err(HalfError::Key)
        );
        for bad in [
            "", "x", "x:0", "x:99999", "a b:1", "::1", "[::1]", "[::1]:0", "..:1",
        ] {
            assert!(Place::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(
            change(|half| half.endpoints = vec!["x".to_owned()]),
            Err(HalfError::Endpoint)
        );
        assert!(change(|half| half.endpoints = vec!["b.example:1".to_owned(); 9]).is_err());
        assert!(change(|half| half.prefixes = vec!["fd00::/64".parse().unwrap(); 1_001]).is_err());
    }

    #[test]
    fn a_listener_outside_the_prefixes_is_none() {
        let mut said = half("prod", "prod", 1, 1);
        said.listener = Some("[fd00:0:1:1::1]:8443".parse().unwrap());
        assert!(said.clone().checked().unwrap().listener.is_some());
        said.listener = Some("[fd00:0:1:2::1]:8443".parse().unwrap());
        assert_eq!(said.checked().unwrap().listener, None);
    }
}
