//! Where a peer is called.
//!
//! All addresses of all endpoints are tried in turn, families alternating (RFC 8305, 4), those that no route leads to
//! left out while there are others: one after another for [`ATTEMPT`], round and round, until one answers.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::Facts;
use crate::model::LinkName;
use crate::model::PublicKey;
use crate::model::network::EndpointHost;
use crate::planes::Way;
use crate::planes::wireguard::attempts::ATTEMPT;
use crate::planes::wireguard::state::{ActualPeer, DesiredPeer};
use crate::planes::wireguard::{HANDSHAKE_STALE, Names};

/// What to do about a peer's endpoint.
#[derive(Clone, Copy)]
pub(super) enum Choice<'a> {
    /// Nothing.
    Keep,
    /// Call it there.
    Set(SocketAddr),
    /// It should be set, but no name of it resolves; this is the first.
    Unresolved(&'a str),
}

impl Choice<'_> {
    pub(super) const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Set(address) => Some(address),
            Self::Keep | Self::Unresolved(_) => None,
        }
    }
}

/// A peer of a link is called where it is, unless [`wants_endpoint`]; then at the candidate after its current one once
/// that was tried for long enough, and at the first where the current one is no candidate.
pub(super) fn choose_endpoint<'a>(
    link: &LinkName,
    public_key: &PublicKey,
    peer: &'a DesiredPeer,
    known: Option<&ActualPeer>,
    facts: Facts<'_>,
) -> Choice<'a> {
    if peer.endpoints.is_empty() || !wants_endpoint(peer, known, facts.now) {
        return Choice::Keep;
    }
    let candidates = alternating(routed(candidates(peer, facts.names), facts));
    let Some(first) = candidates.first() else {
        return unresolved(peer).map_or(Choice::Keep, Choice::Unresolved);
    };
    let current = known.and_then(|known| known.endpoint);
    let Some(at) = candidates.iter().position(|address| Some(*address) == current) else {
        return Choice::Set(*first);
    };
    let tried = facts.calls.get(&(link.clone(), *public_key));
    let next = candidates[(at + 1) % candidates.len()];
    if tried.is_some_and(|tried| *tried >= ATTEMPT) && Some(next) != current {
        Choice::Set(next)
    } else {
        Choice::Keep
    }
}

/// All addresses of all endpoints, in the order of the fleet and of the resolver, each once.
pub(in crate::planes::wireguard) fn candidates(peer: &DesiredPeer, names: &Names) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for endpoint in &peer.endpoints {
        let addresses = match &endpoint.host {
            EndpointHost::Address(address) => std::slice::from_ref(address),
            EndpointHost::Dns(name) => names.get(name).map_or(&[][..], Vec::as_slice),
        };
        for address in addresses {
            let address = SocketAddr::new(*address, endpoint.port.unwrap_or_default());
            if !found.contains(&address) {
                found.push(address);
            }
        }
    }
    found
}

/// Those that a route leads to; all where none does, or it isn't known.
fn routed(candidates: Vec<SocketAddr>, facts: Facts<'_>) -> Vec<SocketAddr> {
    let is_routed = |address: &&SocketAddr| facts.ways.get(&address.ip()) != Some(&Way::Unreachable);
    let routed: Vec<SocketAddr> = candidates.iter().filter(is_routed).copied().collect();
    if routed.is_empty() { candidates } else { routed }
}

/// One of the first's family, one of the other, and so on; what is left of one family follows.
fn alternating(candidates: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let starts_with_v6 = candidates.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = candidates
        .into_iter()
        .partition(|address| address.is_ipv6() == starts_with_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut order = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return order;
        }
        order.extend(pair.into_iter().flatten());
    }
}

fn unresolved(peer: &DesiredPeer) -> Option<&str> {
    peer.endpoints.iter().find_map(|endpoint| match &endpoint.host {
        EndpointHost::Dns(name) => Some(name.as_str()),
        EndpointHost::Address(_) => None,
    })
}

/// Whether the fleet has a say in a peer's endpoint: it has none, its handshake doesn't vouch for the one it has, or that
/// is one that only the former fleet named.
pub(super) fn wants_endpoint(peer: &DesiredPeer, known: Option<&ActualPeer>, now: SystemTime) -> bool {
    known.is_none_or(|known| {
        let is_left = known.endpoint.is_some_and(|endpoint| has_left(peer, endpoint));
        known.endpoint.is_none() || is_left || !is_fresh(known.last_handshake, now)
    })
}

/// Whether this is where the former fleet had the peer. Of a name only the port is known here: it counts where no
/// endpoint has that port any more.
fn has_left(peer: &DesiredPeer, current: SocketAddr) -> bool {
    peer.left.iter().any(|endpoint| {
        endpoint.port == Some(current.port())
            && match &endpoint.host {
                EndpointHost::Address(address) => *address == current.ip(),
                EndpointHost::Dns(_) => peer.endpoints.iter().all(|now| now.port != endpoint.port),
            }
    })
}

/// Whether a handshake is recent. One from the future is judged by its distance too: the clock may have been set back.
#[must_use]
pub fn is_fresh(last_handshake: Option<SystemTime>, now: SystemTime) -> bool {
    let distance = |time: SystemTime| -> Duration {
        match now.duration_since(time) {
            Ok(age) => age,
            Err(ahead) => ahead.duration(),
        }
    };
    last_handshake.is_some_and(|time| distance(time) <= HANDSHAKE_STALE)
}
