//! How large packets may be that reach a peer whole, from the way to where it is called.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use super::diff::{candidates, is_fresh};
use super::state::{Actual, Desired, Names};
use crate::intent::PathMtus;
use crate::model::{LinkName, PublicKey};

/// What WireGuard adds to a packet over IPv4, in bytes: 20 for IP, 8 for UDP, 32 of its own.
const OVERHEAD_V4: u32 = 60;
/// The same over IPv6, whose header takes 40.
const OVERHEAD_V6: u32 = 80;
/// What every end has where the way is wide enough, in bytes.
const FULL: u32 = 1_420;
/// What a packet is padded to, up to the MTU of who sends it: the one at the other end may be larger.
const PADDING: u32 = 16;
/// The least that IPv6 asks of a link (RFC 8200, 5), in bytes. Below it the outer packets are fragmented.
const LEAST: u32 = 1_280;

/// Where the peers of each link are, or may be.
pub type Whereabouts = BTreeMap<LinkName, BTreeMap<PublicKey, BTreeSet<IpAddr>>>;

/// Where peers are that have shaken hands lately, and everywhere where the others are called in turn; those that must call us
/// are left out until they have.
#[must_use]
pub fn whereabouts(desired: &Desired, actual: &Actual, names: &Names, now: SystemTime) -> Whereabouts {
    let mut found = Whereabouts::new();
    for (link, device) in &desired.devices {
        let seen = actual.devices.get(link);
        let peers = device.peers.iter().filter_map(|(public_key, peer)| {
            let key = seen.map_or(*public_key, |seen| {
                seen.key_in_use(*public_key, peer.next_public_key)
            });
            let found = seen.and_then(|seen| seen.peers.get(&key));
            let current = found.and_then(|found| found.endpoint).map(|at| at.ip());
            let is_there = found.is_some_and(|found| is_fresh(found.last_handshake, now));
            let called = candidates(peer, names).into_iter().map(|at| at.ip());
            let addresses: BTreeSet<IpAddr> = if is_there {
                current.into_iter().collect()
            } else {
                called.collect()
            };
            let addresses = if addresses.is_empty() {
                current.into_iter().collect()
            } else {
                addresses
            };
            (!addresses.is_empty()).then_some((*public_key, addresses))
        });
        found.insert(link.clone(), peers.collect());
    }
    found
}

/// How large packets may be that reach each peer whole. `known` is what the ways to addresses take, in bytes.
#[must_use]
pub fn path_mtus(peers: &Whereabouts, known: &BTreeMap<IpAddr, u32>) -> PathMtus {
    let inside = |address: &IpAddr| {
        let overhead = match address {
            IpAddr::V4(_) => OVERHEAD_V4,
            IpAddr::V6(_) => OVERHEAD_V6,
        };
        let inside = known.get(address)?.saturating_sub(overhead);
        let padded = if inside < FULL {
            inside / PADDING * PADDING
        } else {
            inside
        };
        Some(padded.max(LEAST))
    };
    let of_link = |peers: &BTreeMap<PublicKey, BTreeSet<IpAddr>>| {
        let known = peers.iter().filter_map(|(key, addresses)| {
            let narrowest = addresses.iter().filter_map(inside).min()?;
            Some((*key, narrowest))
        });
        known.collect()
    };
    peers
        .iter()
        .map(|(link, peers)| (link.clone(), of_link(peers)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_peer_says_how_much_reaches_it() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let known = BTreeMap::from([
            (ip("2001:db8::1"), 1_500),
            (ip("2001:db8::2"), 1_400),
            (ip("192.0.2.1"), 1_400),
            (ip("192.0.2.2"), 1_000),
        ]);
        let link = LinkName::new("wg-sdwan-1").unwrap();
        let at = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|address| ip(address)).collect();
            let peers = BTreeMap::from([(PublicKey([1; 32]), addresses)]);
            let paths = path_mtus(&BTreeMap::from([(link.clone(), peers)]), &known);
            paths[&link].get(&PublicKey([1; 32])).copied()
        };
        let mtu = |address: &str| at(&[address]);
        assert_eq!(
            at(&["2001:db8::1", "192.0.2.1", "192.0.2.3"]),
            Some(1_328),
            "the narrowest"
        );
        assert_eq!(mtu("2001:db8::1"), Some(1_420));
        assert_eq!(mtu("2001:db8::2"), Some(1_312));
        assert_eq!(mtu("192.0.2.1"), Some(1_328));
        assert_eq!(mtu("192.0.2.2"), Some(1_280));
        assert_eq!(mtu("192.0.2.3"), None, "nothing is known of the way");
    }
}
