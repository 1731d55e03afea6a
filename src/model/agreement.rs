//! What another site has agreed to: the other half of a bridge, as `sdwand serve` hands it to `sdwand run`.
//!
//! A file, `agreements.json` in a folder of its own: `serve` replaces it whole whenever something changes, and at least
//! once in [`REFRESH`]; `run` reads it and holds every line of it against the fleet once more. What isn't in it isn't
//! agreed: a bridge without an agreement carries nothing. It can only narrow what the fleet imports.
//!
//! It holds preshared keys: mode 0640, for `run`'s group alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::fleet::Fleet;
use super::key::{PresharedKey, PublicKey};
use super::name::Name;
use super::routing::Bridge;

/// The file's name in its folder.
pub const FILE: &str = "agreements.json";

/// How old the file may get while `serve` runs.
pub const REFRESH: Duration = Duration::from_secs(60);

/// How large the file may be, in bytes: 1,000 bridges with 1,000 prefixes each.
pub const MAX_BYTES: u64 = 64 << 20;

/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;

/// Prefixes of one agreement at most.
pub const MAX_PREFIXES: usize = 1_000;

/// Endpoints of one agreement at most.
pub const MAX_ENDPOINTS: usize = 8;

/// Everything that is agreed with other sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreements {
    /// [`FORMAT`]
    pub format: u32,
    /// When `serve` last said that all of it is in force: seconds since 1970.
    pub written: u64,
    /// The agreements, by the name of the fleet's bridge.
    pub bridges: BTreeMap<Name, Agreement>,
}

/// What the site at the other end of a bridge has agreed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// The peer's local alias: the bridge's `peer`.
    pub peer: Name,
    /// The network that the bridge leads into.
    pub network: Name,
    /// What may be imported: the fleet's import as `serve` last had it. What `run`'s fleet imports beyond that isn't agreed.
    pub import: Vec<IpNet>,
    /// What may be exported, where that may be less than the fleet says; none where it is all of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<Vec<IpNet>>,
    /// The WireGuard key of the peer's gateway.
    pub public_key: PublicKey,
    /// The preshared key of the bridge.
    #[serde(with = "preshared")]
    pub preshared_key: PresharedKey,
    /// Where the peer's gateway may be called, best first; none if it calls us.
    #[serde(default)]
    pub endpoints: Vec<SocketAddr>,
    /// What the peer exports.
    pub prefixes: Vec<IpNet>,
    /// Where the peer's gateway listens in its overlay, for calls over the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<SocketAddr>,
}

/// Why the text of agreements isn't believed.
#[derive(Debug, thiserror::Error)]
pub enum AgreementError {
    /// It isn't what `serve` writes.
    #[error("it isn't what `sdwand serve` writes")]
    Malformed(#[from] serde_json::Error),
    /// Another version wrote it.
    #[error(
        "its format is {0}, and this version reads {FORMAT}: run the same version of `sdwand run` and `sdwand serve`"
    )]
    Format(u32),
}

impl Agreements {
    /// Nothing is agreed with anybody.
    pub const NONE: Self = Self {
        format: FORMAT,
        written: 0,
        bridges: BTreeMap::new(),
    };

    /// As if every peer had agreed to all that the fleet imports: what `explain` asks of a gateway that it can't see. The keys
    /// in it are nobody's.
    #[must_use]
    pub fn assumed(fleet: &Fleet) -> Self {
        let digest = |name: &Name| -> [u8; 32] {
            let mut hash = Sha256::new();
            hash.update(b"sdwand bridge assumed\0");
            hash.update(name.as_str());
            hash.finalize().into()
        };
        let agreement = |bridge: &Bridge| Agreement {
            peer: bridge.peer.clone(),
            network: bridge.network.clone(),
            import: bridge.import.clone(),
            export: None,
            public_key: PublicKey(digest(&bridge.name)),
            preshared_key: PresharedKey::derive("assumed", 0, None),
            endpoints: Vec::new(),
            prefixes: bridge.import.clone(),
            listener: None,
        };
        let bridges = fleet.bridges.iter();
        Self {
            bridges: bridges
                .map(|(name, bridge)| (name.clone(), agreement(bridge)))
                .collect(),
            ..Self::NONE
        }
    }

    /// Reads what [`Self::render`] wrote.
    ///
    /// # Errors
    /// It isn't that, or another version wrote it.
    pub fn parse(text: &[u8]) -> Result<Self, AgreementError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } = serde_json::from_slice(text)?;
        if format != FORMAT {
            return Err(AgreementError::Format(format));
        }
        Ok(serde_json::from_slice(text)?)
    }

    /// The file's text. It holds secrets.
    ///
    /// # Errors
    /// It can't be written as JSON.
    pub fn render(&self) -> Result<zeroize::Zeroizing<Vec<u8>>, serde_json::Error> {
        serde_json::to_vec(self).map(zeroize::Zeroizing::new)
    }

    /// Whether the file is still believed at `now`, in seconds since 1970: `serve` may be silent for `grace`, and is as much ahead
    /// at most.
    #[must_use]
    pub const fn is_fresh(&self, now: u64, grace: Duration) -> bool {
        now.abs_diff(self.written) <= grace.as_secs()
    }
}

/// The only place where a preshared key is written and read as text.
mod preshared {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use zeroize::Zeroizing;

    use super::PresharedKey;
    use crate::model::key::KeyError;

    pub(super) fn serialize<S: Serializer>(key: &PresharedKey, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(key.expose())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PresharedKey, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let bytes = STANDARD.decode(&*text).map(Zeroizing::new);
        let bytes = bytes
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
        let key = bytes.and_then(PresharedKey::from_bytes);
        key.ok_or_else(|| D::Error::custom(KeyError))
    }
}

/// Why a prefix may not be imported, whatever a fleet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Far more than a site has.
    #[error("is wider than /48 (IPv6) or /16 (IPv4)")]
    TooWide,
    /// It means something else than a site's hosts.
    #[error("is loopback, link-local, multicast or unspecified")]
    Special,
}

/// Whether another site may ever be the owner of a prefix.
///
/// # Errors
/// Why it may not.
pub fn fit(net: &IpNet) -> Result<(), Unfit> {
    let too_wide = match net {
        IpNet::V4(net) => net.prefix_len() < 16,
        IpNet::V6(net) => net.prefix_len() < 48,
    };
    if too_wide {
        return Err(Unfit::TooWide);
    }
    let special = match net.network() {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            first == 0 || first == 127 || first >= 224 || address.is_link_local()
        }
        IpAddr::V6(address) => {
            let first = address.segments()[0];
            // ::/16 holds loopback, unspecified and the mapped ranges; fe80::/10 links; ff00::/8 multicast.
            first == 0 || first & 0xffc0 == 0xfe80 || first & 0xff00 == 0xff00
        }
    };
    if special { Err(Unfit::Special) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_site_owns_special_or_wide_prefixes() {
        let unfit = |text: &str| fit(&text.parse().unwrap()).err();
        for net in [
            "::/0",
            "fd00::/8",
            "fd00::/47",
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.0.0.0/15",
        ] {
            assert_eq!(unfit(net), Some(Unfit::TooWide), "{net}");
        }
        for net in [
            "::1/128",
            "::/128",
            "fe80::/64",
            "febf::/64",
            "ff02::/64",
            "::ffff:10.0.0.0/112",
            "127.0.0.0/16",
            "224.0.0.0/16",
            "255.255.255.255/32",
            "0.0.0.0/16",
            "169.254.0.0/16",
        ] {
            assert_eq!(unfit(net), Some(Unfit::Special), "{net}");
        }
        for net in [
            "fd77:1:2::/48",
            "2001:db8::/64",
            "10.10.0.0/16",
            "192.0.2.1/32",
            "fec0::/48",
        ] {
            assert_eq!(unfit(net), None, "{net}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_no_key_prints() {
        let agreement = Agreement {
            peer: Name::new("site-b").unwrap(),
            network: Name::new("prod").unwrap(),
            import: vec!["fd77:1:2::/48".parse().unwrap()],
            export: None,
            public_key: PublicKey([7; 32]),
            preshared_key: PresharedKey::from_bytes([9; 32]).unwrap(),
            endpoints: vec!["203.0.113.9:51820".parse().unwrap()],
            prefixes: vec!["fd77:1:2:1::/64".parse().unwrap()],
            listener: None,
        };
        let all = Agreements {
            format: FORMAT,
            written: 1_000,
            bridges: BTreeMap::from([(Name::new("prod-b").unwrap(), agreement)]),
        };
        let text = all.render().unwrap();
        assert_eq!(Agreements::parse(&text).unwrap(), all);
        assert!(!format!("{all:?}").contains("CQkJ"), "{all:?}");
        assert!(all.is_fresh(1_000 + 60, Duration::from_secs(60)));
        assert!(!all.is_fresh(1_000 + 61, Duration::from_secs(60)));
        // A clock that went back a little makes nothing stale; a date far ahead isn't believed for ever.
        assert!(all.is_fresh(940, Duration::from_secs(60)));
        assert!(!all.is_fresh(0, Duration::from_secs(60)));
    }

    #[test]
    fn what_another_version_wrote_says_so() {
        assert!(matches!(
            Agreements::parse(br#"{"format":2,"whatever":1}"#),
            Err(AgreementError::Format(2))
        ));
        assert!(matches!(
            Agreements::parse(b"{"),
            Err(AgreementError::Malformed(_))
        ));
        assert!(matches!(
            Agreements::parse(br#"{"format":1,"written":0,"bridges":{},"more":1}"#),
            Err(AgreementError::Malformed(_))
        ));
    }
}
