//! How each type of the model is written in TOML.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::de::DeValue;

use super::reader::{Bad, FromToml};
use super::suggest::did_you_mean;
use crate::model::host::{
    ClusterKind, IsolationBackend, LogFormat, LogLevel, Mode, Residency, Verify, WireguardBackend,
};
use crate::model::network::{
    Action, DefaultAction, Endpoint, EndpointHost, Isolation, NetworkId, PortRange, Protocol, Role, Routing,
    Topology,
};
use crate::model::ovn::{AclAction, AclDirection, MacAddress, OvnPortKind};
use crate::model::routing::{PolicyDirection, PrefixMatch};
use crate::model::version::{VersionRange, VersionRangeError};
use crate::model::{LinkName, Name, PublicKey};

fn text<'v>(expected: &str, value: &'v DeValue<'_>) -> Result<&'v str, Bad> {
    value.as_str().ok_or_else(|| Bad::wrong_type(expected, value))
}

/// A text as an error quotes it.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.chars().count() <= LONGEST {
        format!("{text:?}")
    } else {
        format!("{:?}…", text.chars().take(LONGEST).collect::<String>())
    }
}

impl FromToml for String {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
        let text = text("a string", value)?;
        if text.is_empty() {
            return Err(Bad::new("this can't be empty"));
        }
        if text.chars().any(char::is_control) {
            return Err(Bad::new("this can't have control characters or line breaks"));
        }
        Ok(text.to_owned())
    }
}

impl FromToml for bool {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
        let quoted = matches!(value.as_str(), Some("true" | "false"));
        value.as_bool().ok_or_else(|| {
            let bad = Bad::wrong_type("true or false", value);
            if quoted {
                bad.hint("without quotation marks")
            } else {
                bad
            }
        })
    }
}

macro_rules! integers {
    ($($type:ty),+) => {$(
        impl FromToml for $type {
            fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
                let Some(integer) = value.as_integer() else {
                    let bad = Bad::wrong_type("an integer", value);
                    let is_quoted = value.as_str().is_some_and(|text| text.parse::<$type>().is_ok());
                    return Err(if is_quoted { bad.hint("without quotation marks") } else { bad });
                };
                <$type>::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| {
                    Bad::new(format!("{} isn't between 0 and {}", quoted(&integer.to_string()).trim_matches('"'), <$type>::MAX))
                })
            }
        }
    )+};
}

integers!(u8, u16, u32, u64);

macro_rules! parsed {
    ($($type:ty: $what:literal, $example:literal);+ $(;)?) => {$(
        impl FromToml for $type {
            fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
                let text = text($what, value)?;
                text.parse().map_err(|_| {
                    Bad::new(format!("{} isn't {}", quoted(text), $what)).hint(concat!("like ", $example))
                })
            }
        }
    )+};
}

parsed! {
    IpAddr: "an IP address", "\"10.0.0.1\" or \"fd00::1\"";
    SocketAddr: "an address with a port", "\"127.0.0.1:9586\" or \"[::1]:8444\"";
}

macro_rules! with_own_error {
    ($($type:ty: $what:literal, $parse:expr);+ $(;)?) => {$(
        impl FromToml for $type {
            fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
                let parse: fn(&str) -> Result<$type, _> = $parse;
                parse(text($what, value)?).map_err(Bad::new)
            }
        }
    )+};
}

with_own_error! {
    LinkName: "an interface's name", LinkName::new;
    MacAddress: "a MAC address", |text| text.parse::<MacAddress>();
}

impl FromToml for Name {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
        let text = text("a name", value)?;
        Self::new(text).map_err(|error| {
            let bad = Bad::new(error);
            let fixed: String = text.to_lowercase().replace(['_', ' ', '.'], "-");
            match Self::new(&fixed) {
                Ok(fixed) => bad.hint(format!("for example {:?}", fixed.as_str())),
                Err(_) => bad,
            }
        })
    }
}

impl FromToml for NetworkId {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
        let number = u16::from_toml(value)?;
        Self::new(number).map_err(Bad::new)
    }
}

impl FromToml for PublicKey {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
        let text = text("a public key", value)?;
        let key: Self = text
            .parse()
            .map_err(|e| Bad::new(e).hint("`sdwand pubkey` prints a node's"))?;
        if key.0 == [0; 32] {
            return Err(Bad::new("this key is all zero, which WireGuard takes for no key"));
        }
        if key.is_low_order() {
            return Err(Bad::new(
                "nobody has a private key for this key: it is of low order",
            ));
        }
        Ok(key)
    }
}

impl FromToml for PathBuf {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
        String::from_toml(value).map(Self::from)
    }
}

impl FromToml for IpNet {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
        let text = text("a prefix", value)?;
        let net: Self = text.parse().map_err(|_| {
            let bad = Bad::new(format!("{} isn't a prefix", quoted(text)));
            match text.parse::<IpAddr>() {
                Ok(address) => bad.hint(format!("one address is \"{}\"", Self::from(address))),
                Err(_) => bad.hint("like \"10.10.0.0/16\" or \"fd00:10::/64\""),
            }
        })?;
        if net.addr() != net.network() {
            let bad = Bad::new(format!("{net} has bits set behind its length"));
            return Err(bad.hint(format!(
                "the prefix is \"{}\", the address alone \"{}\"",
                net.trunc(),
                Self::from(net.addr())
            )));
        }
        Ok(net)
    }
}

impl FromToml for Ipv6Net {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
        match IpNet::from_toml(value)? {
            IpNet::V6(net) => Ok(net),
            IpNet::V4(net) => Err(Bad::new(format!("expected an IPv6 prefix, found {net}"))),
        }
    }
}

impl FromToml for Ipv4Net {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
        match IpNet::from_toml(value)? {
            IpNet::V4(net) => Ok(net),
            IpNet::V6(net) => Err(Bad::new(format!("expected an IPv4 prefix, found {net}"))),
        }
    }
}

impl FromToml for Endpoint {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
        let text = text("an endpoint", value)?;
        let endpoint = |host, port| Self { host, port };
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(endpoint(EndpointHost::Address(reachable(address)?), None));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let host = EndpointHost::Address(reachable(address.ip())?);
            return match address.port() {
                0 => Err(Bad::new("port 0 can't be reached")),
                port => Ok(endpoint(host, Some(port))),
            };
        }
        let (host, port) = match text.rsplit_once(':') {
            None => (text, None),
            Some((host, port)) => match port.parse::<u16>() {
                Ok(port) if port > 0 => (host, Some(port)),
                _ => return Err(bad_endpoint(text)),
            },
        };
        if !is_host_name(host) {
            return Err(bad_endpoint(text));
        }
        Ok(endpoint(EndpointHost::Dns(host.to_ascii_lowercase()), port))
    }
}

fn bad_endpoint(text: &str) -> Bad {
    Bad::new(format!("{} isn't an address or host name", quoted(text)))
        .hint("like \"203.0.113.5\", \"[2001:db8::5]:40001\" or \"hub.example.com\"")
}

fn reachable(address: IpAddr) -> Result<IpAddr, Bad> {
    let why = match address {
        _ if address.is_unspecified() => "is no one's address",
        _ if address.is_multicast() => "is a multicast address",
        IpAddr::V4(a) if a.is_broadcast() => "is the broadcast address",
        IpAddr::V6(a) if a.is_unicast_link_local() => "is link-local: it reaches nobody without an interface",
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => "is an IPv4 address in disguise: write it as IPv4",
        IpAddr::V4(_) | IpAddr::V6(_) => return Ok(address),
    };
    Err(Bad::new(format!("{address} {why}")))
}

/// RFC 1123 host names; a last label of digits only would be a mistyped address.
pub(super) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    name.len() <= 253
        && name.split('.').all(label)
        && !name
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
}

impl FromToml for PortRange {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
        let range = if value.is_integer() {
            let port = u16::from_toml(value)?;
            Self {
                first: port,
                last: port,
            }
        } else {
            let text = text("a port", value)?;
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            match (first.trim().parse(), last.trim().parse()) {
                (Ok(first), Ok(last)) => Self { first, last },
                _ => {
                    return Err(Bad::new(format!("{} is no port or range of ports", quoted(text)))
                        .hint("like \"443\" or \"8000-8010\""));
                }
            }
        };
        if range.first == 0 {
            return Err(Bad::new("ports are 1 to 65535"));
        }
        if range.first > range.last {
            let bad = Bad::new(format!("the range {}-{} runs backwards", range.first, range.last));
            return Err(bad.hint(format!("\"{}-{}\"", range.last, range.first)));
        }
        Ok(range)
    }
}

impl FromToml for PrefixMatch {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
        let text = text("a prefix match", value)?;
        let bad = || {
            Bad::new(format!("{} is no prefix match", quoted(text)))
                .hint("like \"fd00:cafe::/48 ge 56 le 64\"")
        };
        let mut words = text.split_whitespace();
        let prefix = words.next().ok_or_else(bad)?;
        let prefix = IpNet::from_toml(&DeValue::String(prefix.into()))?;
        let (mut ge, mut le) = (None, None);
        while let Some(word) = words.next() {
            let bound = match word {
                "ge" if ge.is_none() && le.is_none() => &mut ge,
                "le" if le.is_none() => &mut le,
                _ => return Err(bad()),
            };
            *bound = Some(words.next().and_then(|n| n.parse::<u8>().ok()).ok_or_else(bad)?);
        }
        let shortest = ge.unwrap_or(prefix.prefix_len());
        let longest = le.unwrap_or(prefix.max_prefix_len());
        if prefix.prefix_len() > shortest || shortest > longest || longest > prefix.max_prefix_len() {
            return Err(Bad::new(format!(
                "{}: the bounds must rise: length, ge, le, {}",
                quoted(text),
                prefix.max_prefix_len()
            )));
        }
        Ok(Self { prefix, ge, le })
    }
}

impl FromToml for VersionRange {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
        let text = text("a version or a range of versions", value)?;
        text.parse().map_err(|error: VersionRangeError| {
            let what = match error {
                VersionRangeError::Nonsense => "is no version or range of versions",
                VersionRangeError::Backwards { .. } => "runs backwards",
            };
            Bad::new(format!("{} {what}", quoted(text))).hint(error.to_string())
        })
    }
}

macro_rules! words {
    ($($type:ty { $($text:literal => $value:expr),+ $(,)? })+) => {$(
        impl FromToml for $type {
            fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
                const WORDS: &[&str] = &[$($text),+];
                match text("a string", value)? {
                    $($text => Ok($value),)+
                    other => Err(not_a_word(other, WORDS)),
                }
            }
        }
    )+};
}

fn not_a_word(other: &str, words: &'static [&'static str]) -> Bad {
    let list = words
        .iter()
        .map(|word| format!("{word:?}"))
        .collect::<Vec<_>>()
        .join(", ");
    let list = if words.len() > 2 {
        format!("one of {list}")
    } else {
        list.replace(", ", " or ")
    };
    let bad = Bad::new(format!("expected {list}, found {}", quoted(other)));
    match did_you_mean(other, words.iter().copied()) {
        Some(hint) => bad.hint(hint),
        None => bad,
    }
}

words! {
    Topology { "hub_and_spoke" => Self::HubAndSpoke, "full_mesh" => Self::FullMesh }
    Routing { "ibgp" => Self::Ibgp, "static" => Self::Static }
    Isolation { "vrf" => Self::Vrf, "none" => Self::None }
    DefaultAction { "drop" => Self::Drop, "accept" => Self::Accept }
    Role { "hub" => Self::Hub, "spoke" => Self::Spoke }
    Action { "accept" => Self::Accept, "drop" => Self::Drop, "reject" => Self::Reject }
    Protocol { "any" => Self::Any, "tcp" => Self::Tcp, "udp" => Self::Udp, "icmp" => Self::Icmp }
    PolicyDirection { "import" => Self::Import, "export" => Self::Export }
    OvnPortKind { "vm" => Self::Vm, "container" => Self::Container, "external" => Self::External }
    AclDirection { "to-lport" => Self::ToLport, "from-lport" => Self::FromLport }
    AclAction { "allow" => Self::Allow, "allow-related" => Self::AllowRelated, "drop" => Self::Drop, "reject" => Self::Reject }
    Mode { "auto" => Self::Auto, "manual" => Self::Manual }
    WireguardBackend { "auto" => Self::Auto, "kernel" => Self::Kernel, "userspace" => Self::Userspace }
    IsolationBackend { "auto" => Self::Auto, "vrf" => Self::Vrf, "rules" => Self::Rules }
    Verify { "none" => Self::None, "code" => Self::Code }
    ClusterKind { "etcd" => Self::Etcd, "postgresql" => Self::Postgresql }
    Residency { "permissive" => Self::Permissive, "refuse" => Self::Refuse }
    LogLevel { "error" => Self::Error, "warn" => Self::Warn, "info" => Self::Info, "debug" => Self::Debug, "trace" => Self::Trace }
    LogFormat { "auto" => Self::Auto, "text" => Self::Text, "json" => Self::Json }
    Passes { "accept" => Self(true), "reject" => Self(false) }
    Approval { "none" => Self(false), "require" => Self(true) }
    LeakDirection { "one_way" => Self { bidirectional: false }, "bidirectional" => Self { bidirectional: true } }
    Encap { "geneve" => Self("geneve"), "vxlan" => Self("vxlan") }
}

/// The action of a route policy's statement.
pub(super) struct Passes(pub bool);

/// Whether an action needs a second operator.
pub(super) struct Approval(pub bool);

/// Which way a route leak works.
pub(super) struct LeakDirection {
    pub bidirectional: bool,
}

/// How OVN encapsulates.
pub(super) struct Encap(pub &'static str);

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: FromToml>(text: &str) -> Result<T, Bad> {
        T::from_toml(&DeValue::String(text.into()))
    }

    #[test]
    fn endpoints() {
        let host = |text: &str| {
            read::<Endpoint>(text)
                .map(|e| (format!("{:?}", e.host), e.port))
                .ok()
        };
        assert!(matches!(
            read::<Endpoint>("2001:db8::5"),
            Ok(Endpoint {
                host: EndpointHost::Address(_),
                port: None
            })
        ));
        assert!(matches!(
            read::<Endpoint>("[2001:db8::5]:40001"),
            Ok(Endpoint {
                port: Some(40001),
                ..
            })
        ));
        assert_eq!(
            host("Hub-a1.example.com:7"),
            Some(("Dns(\"hub-a1.example.com\")".to_owned(), Some(7)))
        );
        for bad in [
            "",
            "203.0.113",
            "203.0.113.5:0",
            "a:b",
            "a b",
            "-a",
            "0.0.0.0",
            "fe80::1",
            "ff02::1",
            "x:99999",
            "::ffff:1.2.3.4",
            "[::1]",
        ] {
            assert!(host(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn port_ranges() {
        assert_eq!(
            read("443"),
            Ok(PortRange {
                first: 443,
                last: 443
            })
        );
        assert_eq!(
            read("8000-8010"),
            Ok(PortRange {
                first: 8000,
                last: 8010
            })
        );
        for bad in ["", "0", "0-5", "9-5", "1-2-3", "65536", "http", "-5", "+5x"] {
            assert!(read::<PortRange>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn prefixes_have_no_host_bits() {
        assert!(read::<IpNet>("10.0.0.0/8").is_ok());
        let bad = read::<IpNet>("10.0.0.1/8").unwrap_err();
        assert!(bad.hint.unwrap().contains("10.0.0.0/8"));
        assert!(
            read::<IpNet>("10.0.0.1")
                .unwrap_err()
                .hint
                .unwrap()
                .contains("10.0.0.1/32")
        );
        assert!(read::<Ipv6Net>("10.0.0.0/8").is_err());
    }

    #[test]
    fn prefix_matches() {
        let parsed = read::<PrefixMatch>("fd00:cafe::/48 ge 56 le 64").unwrap();
        assert_eq!((parsed.ge, parsed.le), (Some(56), Some(64)));
        for bad in [
            "fd00::/48 le 40",
            "fd00::/48 ge 64 le 56",
            "fd00::/48 le 129",
            "fd00::/48 up 3",
            "fd00::/48 le",
            "",
        ] {
            assert!(read::<PrefixMatch>(bad).is_err(), "{bad}");
        }
    }
}
