//! Black holes: ways on which large packets vanish, and nobody says so (RFC 2923, 2.1). No route tells of them; they are
//! found by asking a peer with packets as large as the link takes. Pure: which peers to ask, and what an operator should
//! know of the answers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::SystemTime;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::intent::{HostIntent, LinkIntent, NetworkIntent, Notice, PeerIntent};
use crate::model::{LinkName, Name, PublicKey};
use crate::planes::wireguard;

/// A peer to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The network.
    pub network: Name,
    /// The link.
    pub link: LinkName,
    /// The peer's key by the fleet.
    pub public_key: PublicKey,
    /// The peer.
    pub node: Name,
    /// Where packets to it go on the underlay.
    pub endpoint: SocketAddr,
    /// Its link-local address.
    pub link_local: Ipv6Addr,
    /// The address of its that it is asked for. Answers tell nothing else of the question: who asks at the same time asks
    /// for another one.
    pub target: Ipv6Addr,
    /// The largest packet that should reach it, in bytes.
    pub size: u32,
}

/// A way that swallows large packets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hole {
    /// The network.
    pub network: Name,
    /// The peer.
    pub node: Name,
    /// Where packets to it go on the underlay.
    pub endpoint: SocketAddr,
    /// The packets that vanish, in bytes.
    pub size: u32,
    /// The largest that were answered, in bytes.
    pub passes: u32,
}

/// A way that was asked about and heard of: what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The link.
    pub link: LinkName,
    /// The network.
    pub network: Name,
    /// The peer.
    pub node: Name,
    /// Where packets to it went on the underlay.
    pub endpoint: SocketAddr,
    /// The largest packet that should reach it, in bytes.
    pub size: u32,
    /// The largest that was answered, in bytes; as large as `size` where nothing is swallowed.
    pub passes: u32,
}

/// What a host knows of the ways to its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Whether it may ask at all.
    pub may_ask: bool,
    /// The ways of which something is known.
    pub ways: Vec<Heard>,
}

/// The holes that are known, by the link and the peer's key.
pub type Holes = BTreeMap<(LinkName, PublicKey), Hole>;

/// Whom to ask: every peer that has shaken hands lately. One that hasn't says nothing to anybody.
#[must_use]
pub fn questions(intent: &HostIntent, actual: &wireguard::Actual, now: SystemTime) -> Vec<Question> {
    let mut questions = Vec::new();
    for network in intent.networks.values() {
        for link in &network.links {
            let Some(device) = actual.devices.get(&link.name) else {
                continue;
            };
            for (key, peer) in &link.peers {
                let found = device.peers.get(&device.key_in_use(*key, peer.next_public_key));
                let found = found.filter(|found| wireguard::is_fresh(found.last_handshake, now));
                let endpoint = found.and_then(|found| found.endpoint);
                questions.extend(endpoint.and_then(|at| question(network, link, (*key, peer), at)));
            }
        }
    }
    questions
}

fn question(
    network: &NetworkIntent,
    link: &LinkIntent,
    (public_key, peer): (PublicKey, &PeerIntent),
    endpoint: SocketAddr,
) -> Option<Question> {
    // Another site's gateway isn't asked: its firewall answers nobody.
    let (overlay_v6, link_local) = (peer.overlay_v6?, peer.link_local?);
    let address = IpNet::from(IpAddr::V6(overlay_v6));
    Some(Question {
        network: network.name.clone(),
        link: link.name.clone(),
        public_key,
        node: peer.node.clone(),
        endpoint,
        link_local,
        target: overlay_v6,
        size: network.narrow.get(&address).copied().unwrap_or(link.mtu),
    })
}

impl Heard {
    /// A way by which packets of full size arrive.
    #[must_use]
    pub fn whole(question: &Question) -> Self {
        Self::of(&question.link, Hole::new(question, question.size))
    }

    /// What is known of the way with this hole.
    #[must_use]
    pub fn of(link: &LinkName, hole: Hole) -> Self {
        Self {
            link: link.clone(),
            network: hole.network,
            node: hole.node,
            endpoint: hole.endpoint,
            size: hole.size,
            passes: hole.passes,
        }
    }

    /// The hole, if it has one.
    #[must_use]
    pub fn hole(&self) -> Option<Hole> {
        (self.passes < self.size).then(|| Hole {
            network: self.network.clone(),
            node: self.node.clone(),
            endpoint: self.endpoint,
            size: self.size,
            passes: self.passes,
        })
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for way in &self.ways {
            let Heard {
                link, node, endpoint, ..
            } = way;
            writeln!(
                f,
                "{link}: {node} at {endpoint}: {} of {} bytes",
                way.passes, way.size
            )?;
        }
        if self.may_ask {
            return Ok(());
        }
        writeln!(f, "asking isn't allowed: CAP_NET_RAW is missing")
    }
}

impl Hole {
    /// The hole on the way that was asked about.
    #[must_use]
    pub fn new(question: &Question, passes: u32) -> Self {
        Self {
            network: question.network.clone(),
            node: question.node.clone(),
            endpoint: question.endpoint,
            size: question.size,
            passes,
        }
    }

    /// What is the matter.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "packets of {} bytes vanish on the way to {} at {}, those of {} arrive",
            self.size, self.node, self.endpoint, self.passes
        )
    }

    /// What to do.
    #[must_use]
    pub fn fix(&self) -> String {
        let let_pass =
            "let ICMP \"packet too big\" (v4: \"fragmentation needed\") and fragments pass on the underlay";
        if self.passes < LEAST {
            return format!("{let_pass}: an overlay needs packets of {LEAST} bytes");
        }
        format!(
            "give network {} mtu = {} on every host, or {let_pass}",
            self.network, self.passes
        )
    }
}

/// The least that IPv6 asks of a link (RFC 8200, 5), in bytes.
const LEAST: u32 = 1_280;

/// What an operator should know.
pub(super) fn notices(holes: &Holes) -> impl Iterator<Item = Notice> + '_ {
    holes.values().map(|hole| Notice {
        network: Some(hole.network.clone()),
        object: format!("node {}", hole.node),
        text: format!("{}: {}", hole.text(), hole.fix()),
    })
}
