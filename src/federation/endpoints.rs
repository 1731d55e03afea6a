//! Which addresses may be dialled for a URL that a peer named. Pure: names are resolved elsewhere, once, and what is let
//! through here is dialled as it is, so that a name can't lead elsewhere the second time.
//!
//! The operator's own URL is never judged here: it is always tried first, and nothing replaces it.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::peer::Endpoint;
use super::url::PeerUrl;
use super::wire::MAX_ENDPOINTS;
use crate::model::reach;

/// The most addresses that are dialled for one name.
pub const MOST: usize = 8;

/// What no peer may lead us to, unless the operator lets it.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// What may be dialled all the same: `allow_dial` of `[federation]`.
    pub allow: &'a [IpNet],
    /// What is the site's: its prefixes, LANs and nodes' addresses.
    pub own: &'a [IpNet],
}

/// The URLs that a peer named, by priority; each once, and none that is the operator's already.
#[must_use]
pub fn named(operator: &PeerUrl, endpoints: &[Endpoint]) -> Vec<PeerUrl> {
    let mut endpoints: Vec<&Endpoint> = endpoints.iter().take(MAX_ENDPOINTS).collect();
    endpoints.sort_by_key(|endpoint| endpoint.priority);
    let mut urls: Vec<PeerUrl> = Vec::new();
    for url in endpoints
        .iter()
        .filter_map(|endpoint| PeerUrl::new(&endpoint.url).ok())
    {
        if url != *operator && !urls.contains(&url) {
            urls.push(url);
        }
    }
    urls
}

/// Of the addresses that a named host has, those that may be dialled. `is_hosts` says whether this host has an address.
#[must_use]
pub fn dialable(
    resolved: &[SocketAddr],
    bounds: Bounds<'_>,
    is_hosts: impl Fn(IpAddr) -> bool,
) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in resolved {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        if !found.contains(&address) && may_dial(address.ip(), bounds, &is_hosts) {
            found.push(address);
        }
    }
    found.truncate(MOST);
    found
}

/// Each of an address's meanings must be fit to be dialled, or one of them be allowed by the operator.
fn may_dial(address: IpAddr, bounds: Bounds<'_>, is_hosts: impl Fn(IpAddr) -> bool) -> bool {
    let meanings: Vec<IpAddr> = reach::meanings(address).collect();
    let in_any = |nets: &[IpNet]| {
        let mut pairs = meanings
            .iter()
            .flat_map(|meaning| nets.iter().map(move |net| (meaning, net)));
        pairs.any(|(meaning, net)| net.contains(meaning))
    };
    in_any(bounds.allow)
        || (meanings
            .iter()
            .all(|meaning| reach::is_public(*meaning) && !is_hosts(*meaning))
            && !in_any(bounds.own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn dials(address: &str, allow: &[&str]) -> bool {
        let (allow, own) = (
            nets(allow),
            nets(&["2600:1:2::/48", "8.8.4.0/24", "fd12:34ab:cd42::/48"]),
        );
        let bounds = Bounds {
            allow: &allow,
            own: &own,
        };
        let hosts: IpAddr = "9.9.9.9".parse().unwrap();
        let resolved = [SocketAddr::new(address.parse().unwrap(), 8_443)];
        !dialable(&resolved, bounds, |found| found == hosts).is_empty()
    }

    #[test]
    fn peers_lead_us_to_the_internet_alone() {
        for address in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "2606:4700::1",
            "64:ff9b::101:101",
            "2002:101:101::1",
            "::ffff:1.1.1.1",
        ] {
            assert!(dials(address, &[]), "{address}");
        }
        for (address, why) in [
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("::1", "loopback"),
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "this network"),
            ("::", "unspecified"),
            ("169.254.169.254", "link-local: metadata of clouds"),
            ("fe80::1", "link-local"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("10.1.2.3", "private"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("100.64.0.1", "shared"),
            ("198.18.0.1", "benchmarks"),
            ("fd00::1", "unique local"),
            ("fc00::1", "unique local"),
            ("fec0::1", "site-local"),
            ("::ffff:127.0.0.1", "loopback, mapped"),
            ("::ffff:10.0.0.1", "private, mapped"),
            ("::ffff:169.254.169.254", "link-local, mapped"),
            ("::127.0.0.1", "loopback, compatible"),
            ("2002:7f00:1::1", "loopback by 6to4"),
            ("2002:a00:1::1", "private by 6to4"),
            ("64:ff9b::7f00:1", "loopback by NAT64"),
            ("64:ff9b::a9fe:a9fe", "link-local by NAT64"),
            ("64:ff9b:1::101:101", "a local translation prefix"),
            ("2001::1", "Teredo"),
            ("2001:db8::1", "documentation"),
            ("100::1", "discard"),
            ("5f00::1", "segment routing"),
            ("2600:1:2::5", "ours"),
            ("8.8.4.4", "ours"),
            ("64:ff9b::808:404", "ours by NAT64"),
            ("9.9.9.9", "this host's"),
            ("::ffff:9.9.9.9", "this host's, mapped"),
            ("64:ff9b::909:909", "this host's by NAT64"),
        ] {
            assert!(!dials(address, &[]), "{address}: {why}");
            let all = ["0.0.0.0/0", "::/0"];
            assert!(dials(address, &all), "{address}: the operator may allow it");
        }
    }

    #[test]
    fn what_the_operator_allows_is_what_he_wrote() {
        assert!(dials("10.1.2.3", &["10.1.0.0/16"]));
        assert!(dials("::ffff:10.1.2.3", &["10.1.0.0/16"]));
        assert!(dials("64:ff9b::a01:203", &["10.1.0.0/16"]));
        assert!(dials("fd00:1::5", &["fd00:1::/48"]));
        assert!(!dials("10.2.0.1", &["10.1.0.0/16"]));
        assert!(!dials("fd12:34ab:cd42::1", &["fd00:1::/48"]), "ours");
        assert!(
            dials("fd12:34ab:cd42::1", &["fd12:34ab:cd42::1/128"]),
            "ours, and allowed"
        );
    }

    #[test]
    fn at_most_eight_each_once_mapped_ones_as_what_they_are() {
        let many: Vec<SocketAddr> = (0..20_u8)
            .map(|n| SocketAddr::new(IpAddr::from([1, 1, 1, n / 2]), 443))
            .collect();
        let bounds = Bounds { allow: &[], own: &[] };
        let found = dialable(&many, bounds, |_| false);
        assert_eq!(found.len(), MOST);
        assert_eq!(found[0].to_string(), "1.1.1.0:443");
        let mapped = ["[::ffff:1.1.1.1]:443".parse().unwrap()];
        assert_eq!(dialable(&mapped, bounds, |_| false)[0].to_string(), "1.1.1.1:443");
    }

    #[test]
    fn named_urls_come_by_priority_and_never_instead_of_the_operators() {
        let operator = PeerUrl::new("https://b.example:8443").unwrap();
        let endpoint = |url: &str, priority| Endpoint {
            url: url.to_owned(),
            scope: "wan".to_owned(),
            priority,
            cidr_hint: None,
        };
        let endpoints = [
            endpoint("https://late.example", 200),
            endpoint("https://B.example:8443/", 1),
            endpoint("http://plain.example", 1),
            endpoint("nonsense", 1),
            endpoint("https://soon.example", 10),
            endpoint("https://late.example:443", 5),
        ];
        let found: Vec<String> = named(&operator, &endpoints)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, ["https://late.example", "https://soon.example"]);
        let many = vec![
            endpoint("https://b.example:8443", 1),
            endpoint("https://x.example", 2),
        ];
        let many: Vec<Endpoint> = many.into_iter().cycle().take(100).collect();
        assert_eq!(named(&operator, &many).len(), 1);
    }
}
