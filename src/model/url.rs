//! Where a peer's API is: `https://host[:port][/path]`, in one spelling.

use std::fmt;
use std::net::Ipv6Addr;

use http::Uri;
use serde::{Deserialize, Serialize};

use super::Name;

/// A peer's URL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerUrl {
    host: String,
    port: u16,
    path: String,
}

/// Why a text is no [`PeerUrl`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is no URL.
    #[error("{0:?} is no URL: one reads https://site-b.example.com:8443")]
    Nonsense(String),
    /// It isn't https.
    #[error("{0:?} isn't https: sites talk over TLS only")]
    NotHttps(String),
    /// It has what doesn't belong there.
    #[error("{0:?} has a user, a query or a fragment, which a peer's URL hasn't")]
    Extra(String),
}

impl PeerUrl {
    /// The longest text, in bytes.
    pub const MAX: usize = 2_048;

    /// Parses `text`.
    ///
    /// # Errors
    /// It isn't an https URL without user, query and fragment.
    pub fn new(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let short = || text.chars().take(100).collect::<String>();
        if text.len() > Self::MAX {
            return Err(UrlError::Nonsense(short()));
        }
        let uri: Uri = text.parse().map_err(|_| UrlError::Nonsense(short()))?;
        match uri.scheme_str() {
            Some("https") => {}
            Some(_) => return Err(UrlError::NotHttps(short())),
            None => return Err(UrlError::Nonsense(short())),
        }
        let authority = uri.authority().ok_or_else(|| UrlError::Nonsense(short()))?;
        if authority.as_str().contains('@') || uri.query().is_some() || text.contains('#') {
            return Err(UrlError::Extra(short()));
        }
        let host = authority.host().to_ascii_lowercase();
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("" | ":") => 443,
            // Digits: a sign would be read, too.
            Some(text) => authority
                .port_u16()
                .filter(|port| *port > 0 && !text.contains('+'))
                .ok_or_else(|| UrlError::Nonsense(short()))?,
            None => return Err(UrlError::Nonsense(short())),
        };
        if !is_host(&host) || !is_path(uri.path()) {
            return Err(UrlError::Nonsense(short()));
        }
        Ok(Self {
            host: host.strip_suffix('.').unwrap_or(&host).to_owned(),
            port,
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// The host: a name or an address, an IPv6 one without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What stands before the API's own path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What the `Host` header says (RFC 9110, section 7.2).
    #[must_use]
    pub fn authority(&self) -> String {
        match self.port {
            443 => self.host.clone(),
            port => format!("{}:{port}", self.host),
        }
    }

    /// A name for a peer whose operator gives none: the host's, with dashes for what names don't have.
    #[must_use]
    pub fn suggested_alias(&self) -> Option<Name> {
        let dashed: String = self
            .host()
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_lowercase()
                } else {
                    '-'
                }
            })
            .take(Name::MAX - 4)
            .collect();
        Name::new(dashed.trim_matches('-')).ok()
    }
}

/// Whether it is a name (RFC 1123, section 2.1; underscores are taken, too), an address, or one of IPv6 in brackets.
fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !label.is_empty() && label.bytes().all(is_plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    host.strip_suffix('.').unwrap_or(host).split('.').all(is_label)
}

/// Whether it is a path (RFC 3986, section 3.3).
fn is_path(path: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte);
    let mut parts = path.split('%');
    let plain = parts.next().unwrap_or_default();
    let is_escaped = |part: &str| {
        let (escaped, rest) = part.as_bytes().split_at_checked(2).unwrap_or((b"", b"%"));
        !escaped.is_empty()
            && escaped.iter().all(u8::is_ascii_hexdigit)
            && rest.iter().all(|byte| is_plain(*byte))
    };
    plain.bytes().all(is_plain) && parts.all(is_escaped)
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path)
    }
}

impl TryFrom<String> for PeerUrl {
    type Error = UrlError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<PeerUrl> for String {
    fn from(url: PeerUrl) -> Self {
        url.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_site_has_one_spelling() {
        for (text, spelt) in [
            ("https://Site-B.example.com", "https://site-b.example.com"),
            ("https://site-b.example.com:443/", "https://site-b.example.com"),
            ("https://site-b.example.com.", "https://site-b.example.com"),
            (
                " https://site-b.example.com:8443/fed/\n",
                "https://site-b.example.com:8443/fed",
            ),
            ("https://[2001:DB8::5]:8443", "https://[2001:db8::5]:8443"),
            ("HTTPS://192.0.2.1", "https://192.0.2.1"),
            ("https://x:08443/%7Efed/a@b:c", "https://x:8443/%7Efed/a@b:c"),
        ] {
            let url = PeerUrl::new(text).unwrap();
            assert_eq!(url.to_string(), spelt);
            assert_eq!(PeerUrl::new(spelt), Ok(url));
        }
        assert_eq!(
            PeerUrl::new("https://[2001:db8::5]:8443").unwrap().host(),
            "2001:db8::5"
        );
    }

    #[test]
    fn what_is_no_peers_url() {
        for text in [
            "",
            "site-b.example.com",
            "https://",
            "https:///x",
            "ftp://x",
            "https://x:0",
            "https://x:99999",
            "https://x:y",
            "https://a@x",
            "https://x?q=1",
            "https://x#f",
            "https://..",
            "/x",
            "https://x y",
            "https://x:+80",
            "https://-x",
            "https://a..b",
            "https://a*b",
            "https://[::::]",
            "https://x/y<",
            "https://x/%2",
            "https://x/%zz",
        ] {
            assert!(PeerUrl::new(text).is_err(), "{text}");
        }
        assert!(matches!(PeerUrl::new("http://x"), Err(UrlError::NotHttps(_))));
        assert!(PeerUrl::new(&format!("https://x/{}", "y".repeat(3_000))).is_err());
    }

    #[test]
    fn aliases_come_from_hosts() {
        let alias = |text| {
            PeerUrl::new(text)
                .unwrap()
                .suggested_alias()
                .map(|name| name.to_string())
        };
        assert_eq!(
            alias("https://site-b.example.com:8443").as_deref(),
            Some("site-b-example-com")
        );
        assert_eq!(alias("https://[2001:db8::5]").as_deref(), Some("2001-db8--5"));
        assert!(alias(&format!("https://{}.example", "x".repeat(60))).is_some());
    }
}
