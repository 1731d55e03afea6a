//! The name under which a site is known to its peers.

use std::fmt;
use std::str::FromStr;

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

use crate::model::Name;

/// The name of a site together with its /48: `site-a.fd1234abcd42`. It is a DNS name, so certificates can carry it as
/// one, and a SPIFFE trust domain (SPIFFE-ID, section 2.1), so that they can carry `spiffe://<site id>/…`, too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SiteId(String);

/// A text is no [`SiteId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no site id: it reads <site name>.<12 hexadecimal digits of its /48>")]
pub struct SiteIdError(String);

impl SiteId {
    /// Of this site: its name and its /48 (RFC 4193).
    #[must_use]
    pub fn of(name: &Name, prefix: Ipv6Net) -> Self {
        let [a, b, c, ..] = prefix.network().segments();
        Self(format!("{name}.{a:04x}{b:04x}{c:04x}"))
    }

    /// Parses `text`.
    ///
    /// # Errors
    /// It isn't a name, a dot and the 12 digits of a unique local /48.
    pub fn new(text: &str) -> Result<Self, SiteIdError> {
        let digits = |text: &str| {
            let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            text.len() == 12 && text.bytes().all(hex) && (text.starts_with("fd") || text.starts_with("fc"))
        };
        match text.split_once('.') {
            Some((name, prefix)) if Name::new(name).is_ok() && digits(prefix) => Ok(Self(text.to_owned())),
            Some(_) | None => Err(SiteIdError(text.to_owned())),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The site's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once('.').map_or(self.0.as_str(), |(name, _)| name)
    }

    /// The site's /48, as it is written in the id.
    #[must_use]
    pub fn prefix(&self) -> Option<Ipv6Net> {
        let (_, digits) = self.0.split_once('.')?;
        let part = |from: usize| u16::from_str_radix(digits.get(from..from + 4)?, 16).ok();
        let address = std::net::Ipv6Addr::new(part(0)?, part(4)?, part(8)?, 0, 0, 0, 0, 0);
        Ipv6Net::new(address, 48).ok()
    }

    /// The URI that the certificates of this site carry for one of its gateways.
    #[must_use]
    pub fn gateway_uri(&self, node: &Name) -> String {
        format!("spiffe://{self}/gateway/{node}")
    }

    /// Whether a certificate's URI is one of this site's gateways.
    #[must_use]
    pub fn owns_uri(&self, uri: &str) -> bool {
        let path = uri
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.strip_prefix(self.as_str()));
        path.and_then(|path| path.strip_prefix("/gateway/"))
            .is_some_and(|node| Name::new(node).is_ok())
    }

    /// The site that a gateway's URI names.
    #[must_use]
    pub fn of_uri(uri: &str) -> Option<Self> {
        let (site, _) = uri.strip_prefix("spiffe://")?.split_once('/')?;
        Self::new(site).ok().filter(|site| site.owns_uri(uri))
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SiteId {
    type Err = SiteIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<String> for SiteId {
    type Error = SiteIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<SiteId> for String {
    fn from(id: SiteId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_id_says_name_and_prefix() {
        let prefix = "fd12:34ab:cd42::/48".parse().unwrap();
        let id = SiteId::of(&Name::new("site-a").unwrap(), prefix);
        assert_eq!(id.as_str(), "site-a.fd1234abcd42");
        assert_eq!((id.name(), id.prefix()), ("site-a", Some(prefix)));
        assert_eq!(SiteId::new(id.as_str()), Ok(id.clone()));
        let node = Name::new("hub-a1").unwrap();
        assert_eq!(
            id.gateway_uri(&node),
            "spiffe://site-a.fd1234abcd42/gateway/hub-a1"
        );
        assert_eq!(SiteId::of_uri(&id.gateway_uri(&node)), Some(id));
    }

    #[test]
    fn what_is_no_site_id() {
        for text in [
            "",
            "site-a",
            "site-a.",
            "site-a.fd12",
            "site-a.FD1234ABCD42",
            "site-a.2001234abcd4",
            ".fd1234abcd42",
            "Site.fd1234abcd42",
            "site-a.fd1234abcd42.x",
            "site-a.fd1234abcd4g",
        ] {
            assert!(SiteId::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_other_uri_is_a_gateway_of_the_site() {
        let id = SiteId::new("site-a.fd1234abcd42").unwrap();
        for uri in [
            "spiffe://site-a.fd1234abcd42/gateway/",
            "spiffe://site-a.fd1234abcd42/gateway/a/b",
            "spiffe://site-a.fd1234abcd42x/gateway/a",
            "spiffe://site-a.fd1234abcd42",
            "https://site-a.fd1234abcd42/gateway/a",
            "spiffe://site-b.fd1234abcd42/gateway/a",
            "spiffe://site-a.fd1234abcd42/gateway/..",
        ] {
            assert!(!id.owns_uri(uri), "{uri}");
        }
    }
}
