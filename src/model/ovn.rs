//! OVN logical switches, and tenants.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::name::Name;
use super::network::Member;

/// A logical switch of a network; one per host that it has ports on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OvnSwitch {
    /// Its name, unique in the network.
    pub name: Name,
    /// Whether it is one switch over geneve.
    pub stretch: bool,
    /// Its ports.
    pub ports: Vec<OvnPort>,
    /// Its ACLs.
    pub acls: Vec<OvnAcl>,
}

/// A logical switch port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OvnPort {
    /// Its name, unique in the switch.
    pub name: Name,
    /// What is behind it.
    pub kind: OvnPortKind,
    /// The host it is on; external ports may have none.
    pub node: Option<Name>,
    /// Its Ethernet address, if given.
    pub mac: Option<MacAddress>,
    /// Its addresses in the network.
    pub addresses: Vec<IpAddr>,
}

/// What is behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OvnPortKind {
    /// A virtual machine.
    Vm,
    /// A container.
    Container,
    /// A physical network.
    External,
}

/// A unicast Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

/// A text is no unicast Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a MAC address is six pairs of hexadecimal digits, like \"02:00:00:00:00:01\", and not multicast")]
pub struct MacError;

impl std::str::FromStr for MacAddress {
    type Err = MacError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(MacError)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacError)?;
        }
        if parts.next().is_some() || bytes[0] & 1 == 1 {
            return Err(MacError);
        }
        Ok(Self(bytes))
    }
}

/// An OVN ACL (`ovn-nb(5)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OvnAcl {
    /// Its name, unique in the switch.
    pub name: Name,
    /// Which way.
    pub direction: AclDirection,
    /// 0 to 32767, higher first.
    pub priority: u16,
    /// The match expression.
    pub matches: String,
    /// What happens.
    pub action: AclAction,
    /// Whether matches are logged.
    pub log: bool,
}

/// Which way an ACL works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AclDirection {
    /// On what leaves a port.
    FromLport,
    /// On what goes to a port.
    ToLport,
}

/// What an ACL does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AclAction {
    /// It passes.
    Allow,
    /// It passes, and its replies.
    AllowRelated,
    /// It vanishes.
    Drop,
    /// It is refused.
    Reject,
}

/// A tenant: expands to a network, rules, a switch and ACLs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its key.
    pub key: Name,
    /// Its network's id.
    pub id: super::network::NetworkId,
    /// Its members.
    pub members: Vec<Member>,
    /// What it may use, if not the network's /64.
    pub cidr: Option<IpNet>,
}
