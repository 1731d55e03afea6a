//! Devices and peers, desired and actual, and what changes them. Private keys are nowhere in here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::model::network::Endpoint;
use crate::model::{LinkName, Name, NetworkId, PresharedKey, PublicKey};
use crate::planes::Phase;

/// DNS names of endpoints and what they resolve to; one that isn't in here doesn't resolve.
pub type Names = BTreeMap<String, Vec<IpAddr>>;

/// What the WireGuard devices of this host should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// This node.
    pub node: Name,
    /// The key that the fleet gives it.
    pub public_key: PublicKey,
    /// The key that it may have instead (rotation).
    pub next_public_key: Option<PublicKey>,
    /// Its devices.
    pub devices: BTreeMap<LinkName, DesiredDevice>,
}

impl Desired {
    /// Takes over from `former`: a peer that is called where only the former fleet had it is called anew at once, however
    /// fresh its handshake. That one fleet follows another can't be seen on the host, where such an endpoint looks like
    /// one that the peer has roamed to.
    pub fn leave(&mut self, former: &Self) {
        for (link, device) in &mut self.devices {
            let former = former.devices.get(link);
            for (key, peer) in &mut device.peers {
                let before = former.and_then(|device| device.peers.get(key));
                let gone = before.iter().flat_map(|before| &before.endpoints);
                peer.left = gone
                    .filter(|endpoint| !peer.endpoints.contains(endpoint))
                    .cloned()
                    .collect();
            }
        }
    }

    /// Ends the take-over: where peers are called now, they have roamed to.
    pub fn arrive(&mut self) {
        for device in self.devices.values_mut() {
            for peer in device.peers.values_mut() {
                peer.left.clear();
            }
        }
    }
}

/// What one device should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredDevice {
    /// The network it belongs to.
    pub network: NetworkId,
    /// That network's name.
    pub network_name: Name,
    /// Its UDP port; none where any will do.
    pub listen_port: Option<u16>,
    /// Its peers; no AllowedIP is on two of them.
    pub peers: BTreeMap<PublicKey, DesiredPeer>,
}

/// What one peer should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredPeer {
    /// The node.
    pub node: Name,
    /// The key that it is about to have; with it in use it is a peer of its own.
    pub next_public_key: Option<PublicKey>,
    /// The key that binds it to its network.
    pub preshared_key: PresharedKey,
    /// Where it may be reached, best first, each with its port.
    pub endpoints: Vec<Endpoint>,
    /// Where the fleet that was in force before had it, and this one doesn't: see [`Desired::leave`].
    pub left: Vec<Endpoint>,
    /// Whether it is another site's gateway, whose preshared key is of one agreement alone.
    pub is_foreign: bool,
    /// Seconds between keepalives; 0 sends none.
    pub keepalive: u16,
    /// What it may send, and what is sent to it.
    pub allowed_ips: BTreeSet<IpNet>,
}

/// What the WireGuard devices of this host are. A link that isn't in here doesn't exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// The devices.
    pub devices: BTreeMap<LinkName, ActualDevice>,
}

/// What one device is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActualDevice {
    /// The public half of its private key, once it has one.
    pub public_key: Option<PublicKey>,
    /// Its UDP port; 0 before it has one.
    pub listen_port: u16,
    /// Its peers.
    pub peers: BTreeMap<PublicKey, ActualPeer>,
}

/// What one peer is, and what was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActualPeer {
    /// Its preshared key, if it has one.
    pub preshared_key: Option<PresharedKey>,
    /// Where packets to it go now.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 sends none.
    pub keepalive: u16,
    /// What it may send, and what is sent to it.
    pub allowed_ips: BTreeSet<IpNet>,
    /// When the last handshake was completed.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

/// Which device a change is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Target {
    /// The network.
    pub network: NetworkId,
    /// The link.
    pub link: LinkName,
}

/// A peer to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NewPeer {
    /// The node.
    pub node: Name,
    /// The key that binds it to its network.
    #[serde(serialize_with = "hidden")]
    pub preshared_key: PresharedKey,
    /// Where it is called, if it can be.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 sends none.
    pub keepalive: u16,
    /// What it may send, and what is sent to it.
    pub allowed_ips: BTreeSet<IpNet>,
}

/// What changes on a peer; what is `None` or empty stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeerDelta {
    /// The key that binds it to its network.
    #[serde(serialize_with = "hidden_if_any", skip_serializing_if = "Option::is_none")]
    pub preshared_key: Option<PresharedKey>,
    /// Where it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 sends none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<u16>,
    /// AllowedIPs to add; each is taken from whichever peer has it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub allowed_ips: BTreeSet<IpNet>,
}

/// One change of a WireGuard device: one call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// A peer goes.
    RemovePeer {
        /// The device.
        #[serde(flatten)]
        target: Target,
        /// The peer.
        public_key: PublicKey,
    },
    /// AllowedIPs go that no peer carries any more.
    WithdrawIps {
        /// The device.
        #[serde(flatten)]
        target: Target,
        /// The AllowedIPs.
        allowed_ips: BTreeSet<IpNet>,
    },
    /// The device gets this host's private key.
    SetKey {
        /// The device.
        #[serde(flatten)]
        target: Target,
        /// The public half.
        public_key: PublicKey,
        /// The peers that are called by it at once, and the seconds between their keepalives, which stay.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        calls: BTreeMap<PublicKey, u16>,
    },
    /// The device moves to a UDP port.
    SetListenPort {
        /// The device.
        #[serde(flatten)]
        target: Target,
        /// The port.
        port: u16,
    },
    /// A peer comes.
    AddPeer {
        /// The device.
        #[serde(flatten)]
        target: Target,
        /// The peer.
        public_key: PublicKey,
        /// What it is.
        peer: NewPeer,
    },
    /// A peer goes and comes again, without its session and its counts, after whatever comes before it: what it carries is
    /// taken from other peers without a gap.
    ReplacePeer {
        /// The device.
        #[serde(flatten)]
        target: Target,
        /// The peer.
        public_key: PublicKey,
        /// What it is.
        peer: NewPeer,
    },
    /// A peer changes; also how an AllowedIP moves here from another peer.
    UpdatePeer {
        /// The device.
        #[serde(flatten)]
        target: Target,
        /// The peer.
        public_key: PublicKey,
        /// The node.
        node: Name,
        /// What changes.
        delta: PeerDelta,
    },
}

impl PeerDelta {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it says where a peer is called, and nothing else.
    #[must_use]
    pub fn calls_only(&self) -> bool {
        let call = Self {
            endpoint: self.endpoint,
            ..Self::default()
        };
        self.endpoint.is_some() && *self == call
    }
}

impl Change {
    /// The device.
    #[must_use]
    pub const fn target(&self) -> &Target {
        match self {
            Self::RemovePeer { target, .. }
            | Self::WithdrawIps { target, .. }
            | Self::SetKey { target, .. }
            | Self::SetListenPort { target, .. }
            | Self::AddPeer { target, .. }
            | Self::ReplacePeer { target, .. }
            | Self::UpdatePeer { target, .. } => target,
        }
    }

    /// The network.
    #[must_use]
    pub const fn network(&self) -> Option<NetworkId> {
        Some(self.target().network)
    }

    /// When it is done.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match self {
            Self::RemovePeer { .. } | Self::WithdrawIps { .. } => Phase::Disconnect,
            Self::SetKey { .. }
            | Self::SetListenPort { .. }
            | Self::AddPeer { .. }
            | Self::ReplacePeer { .. }
            | Self::UpdatePeer { .. } => Phase::Links,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.target().link)?;
        match self {
            Self::RemovePeer { public_key, .. } => write!(f, "remove peer {public_key}"),
            Self::WithdrawIps { allowed_ips, .. } => write!(f, "withdraw {}", Nets(allowed_ips)),
            Self::SetKey {
                public_key, calls, ..
            } => {
                write!(f, "set the private key of {public_key}")?;
                match calls.len() {
                    0 => Ok(()),
                    1 => f.write_str(", and call 1 peer by it"),
                    peers => write!(f, ", and call {peers} peers by it"),
                }
            }
            Self::SetListenPort { port, .. } => write!(f, "listen on UDP port {port}"),
            Self::AddPeer { public_key, peer, .. } => write!(f, "add {}", Peer(public_key, peer)),
            Self::ReplacePeer { public_key, peer, .. } => write!(f, "make anew {}", Peer(public_key, peer)),
            Self::UpdatePeer {
                public_key,
                node,
                delta,
                ..
            } => {
                write!(f, "update peer {node} ({public_key}):")?;
                let mut parts = Vec::new();
                if delta.preshared_key.is_some() {
                    parts.push(" preshared key (set)".to_owned());
                }
                parts.extend(delta.endpoint.map(|endpoint| format!(" endpoint {endpoint}")));
                parts.extend(delta.keepalive.map(|seconds| format!(" keepalive {seconds} s")));
                if !delta.allowed_ips.is_empty() {
                    parts.push(format!(" add allowed ips {}", Nets(&delta.allowed_ips)));
                }
                f.write_str(&parts.join(","))
            }
        }
    }
}

/// A peer on one line.
struct Peer<'a>(&'a PublicKey, &'a NewPeer);

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(public_key, peer) = self;
        write!(f, "peer {} ({public_key}): preshared key (set)", peer.node)?;
        if let Some(endpoint) = peer.endpoint {
            write!(f, ", endpoint {endpoint}")?;
        }
        if peer.keepalive > 0 {
            write!(f, ", keepalive {} s", peer.keepalive)?;
        }
        write!(f, ", allowed ips {}", Nets(&peer.allowed_ips))
    }
}

/// Prefixes on one line; of a long list the first few and how many follow (the JSON form has all).
struct Nets<'a>(&'a BTreeSet<IpNet>);

impl fmt::Display for Nets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        if self.0.is_empty() {
            return f.write_str("(none)");
        }
        for (index, net) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{net}", if index == 0 { "" } else { " " })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

fn hidden<S: Serializer>(_: &PresharedKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("(set)")
}

#[expect(clippy::ref_option, reason = "serde passes the field by reference")]
fn hidden_if_any<S: Serializer>(key: &Option<PresharedKey>, serializer: S) -> Result<S::Ok, S::Error> {
    match key {
        Some(_) => serializer.serialize_some("(set)"),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_show_no_secret() {
        let preshared_key = PresharedKey::from_bytes([0xab; 32]).unwrap();
        let target = Target {
            network: NetworkId::new(1).unwrap(),
            link: LinkName::new("wg-sdwan-1").unwrap(),
        };
        let add = Change::AddPeer {
            target: target.clone(),
            public_key: PublicKey([1; 32]),
            peer: NewPeer {
                node: Name::new("hub-a").unwrap(),
                preshared_key: preshared_key.clone(),
                endpoint: Some("192.0.2.1:51820".parse().unwrap()),
                keepalive: 25,
                allowed_ips: (0..20)
                    .map(|i| format!("10.0.{i}.0/24").parse().unwrap())
                    .collect(),
            },
        };
        let update = Change::UpdatePeer {
            target,
            public_key: PublicKey([1; 32]),
            node: Name::new("hub-a").unwrap(),
            delta: PeerDelta {
                preshared_key: Some(preshared_key),
                ..PeerDelta::default()
            },
        };
        for change in [&add, &update] {
            let texts = [
                change.to_string(),
                format!("{change:?}"),
                serde_json::to_string(change).unwrap(),
            ];
            for text in texts {
                assert!(!text.contains("q6ur") && !text.contains("171"), "{text}");
                assert!(text.contains("set)") || text.contains('…'), "{text}");
            }
        }
        assert!(add.to_string().ends_with("and 12 more"), "{add}");
        assert_eq!(add.phase(), Phase::Links);
    }
}
