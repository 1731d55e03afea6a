//! What is asked, and why nothing can be said of it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::intent;
use crate::model::Name;
use crate::planes::firewall::Packet;

/// Where answers go: no rule can know which port a client has (RFC 6056).
const EPHEMERAL: u16 = 49_152;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// An echo request.
    Icmp,
    /// A TCP connection to this port.
    Tcp(u16),
    /// A UDP packet to this port.
    Udp(u16),
}

impl Flow {
    pub(super) fn packet(self, source: IpAddr, destination: IpAddr) -> Packet {
        let (protocol, port) = match self {
            Self::Icmp if destination.is_ipv4() => (1, 0),
            Self::Icmp => (58, 0),
            Self::Tcp(port) => (6, port),
            Self::Udp(port) => (17, port),
        };
        Packet {
            source,
            destination,
            protocol,
            port,
        }
    }

    pub(super) const fn answer(self) -> Self {
        match self {
            Self::Icmp => Self::Icmp,
            Self::Tcp(_) => Self::Tcp(EPHEMERAL),
            Self::Udp(_) => Self::Udp(EPHEMERAL),
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Icmp => f.write_str("icmp"),
            Self::Tcp(port) => write!(f, "tcp/{port}"),
            Self::Udp(port) => write!(f, "udp/{port}"),
        }
    }
}

impl FromStr for Flow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is none of icmp, tcp/PORT, udp/PORT: for example tcp/443");
        if text == "icmp" {
            return Ok(Self::Icmp);
        }
        let (protocol, port) = text.split_once('/').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        match protocol {
            "tcp" => Ok(Self::Tcp(port)),
            "udp" => Ok(Self::Udp(port)),
            _ => Err(wrong()),
        }
    }
}

impl Serialize for Flow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The source: a node, a virtual IP, or an address.
    pub source: String,
    /// The destination, likewise.
    pub destination: String,
    /// What is sent.
    pub flow: Flow,
    /// The network, where both are in several.
    pub network: Option<Name>,
    /// How large the packet is, in bytes, with all of its headers; none: small enough for any way.
    pub size: Option<u32>,
}

/// Why nothing can be said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The fleet has no such network.
    #[error("the fleet has no network {0}")]
    NoNetwork(Name),
    /// It is no name of the fleet, and no address.
    #[error("{0} is no node, virtual IP or address of the fleet")]
    Unknown(String),
    /// It is a prefix.
    #[error("{0} is a whole prefix: name one address of it")]
    Prefix(String),
    /// A name means two things.
    #[error("{0} is a node and a virtual IP of network {1}: give the address instead")]
    TwoMeanings(String, Name),
    /// One end is IPv4, the other IPv6.
    #[error("{0} has no address in the family of {1}")]
    Families(String, String),
    /// It sends to the underlay, and nobody knows from where.
    #[error("the fleet knows no underlay address of {0} that could send to {1}: give the address instead")]
    NoUnderlay(String, IpAddr),
    /// Both ends are in several networks.
    #[error("{source_end} and {destination} are both in the networks {}: say which with --network", names(.networks))]
    Ambiguous {
        /// The source, as it was asked.
        source_end: String,
        /// The destination, as it was asked.
        destination: String,
        /// The networks.
        networks: Vec<Name>,
    },
    /// No intent can be compiled.
    #[error(transparent)]
    Intent(#[from] intent::IntentError),
}

pub(super) fn names(names: &[Name]) -> String {
    let names: Vec<&str> = names.iter().map(Name::as_str).collect();
    names.join(", ")
}
