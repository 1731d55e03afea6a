//! Nodes whose key is about to change: both keys are peers, and what the node carries is on the one that it uses.
//!
//! | | carries | preshared key | is called | kept alive |
//! |---|---|---|---|---|
//! | the key in use | everything | the network's | as the fleet says | as the fleet says |
//! | the next key, while it waits | nothing | withheld | no | no |
//! | the next key, while the one in use doesn't answer | nothing | the network's | where the other is | if it is called |
//! | the former key, after it | nothing | the network's | no more | no |
//!
//! Nothing that the node sends may arrive by a key that doesn't carry it yet: it would be dropped. So with its next key it
//! can't have a session before its peers are ready:
//!
//! ```text
//!  node                                            peer
//!  sets its next key; what it sends is staged,
//!  128 packets for each peer; old sessions
//!  are still received (noise.c)
//!     ── initiation by the next key ─────────────▶ authentic: the peer of the next key has received (rx_bytes)
//!     ◀─────── response, its preshared key withheld: not believed
//!                                                  moves what the node carries, makes that peer anew, calls it
//!     ◀─────────────────────────────── initiation
//!     response ──────────────────────────────────▶ session
//!     ◀──────────────────────── data or keepalive
//!     what was staged ───────────────────────────▶
//! ```
//!
//! The peer of the next key is made anew because one that has answered mustn't call for 5 s (`REKEY_TIMEOUT`), and so is
//! that of the former key: a handshake that it shows then is one that the node has made after it, by going back. A peer that
//! is made anew also forgets which calls it has heard. Somebody who repeats an old one can't have a session by it, and
//! kernel WireGuard shows a handshake only once data has come; the embedded device shows it at once, and what the node
//! carries goes to the wrong key until its own next call.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::SystemTime;

use super::diff::is_fresh;
use super::state::{
    Actual, ActualDevice, ActualPeer, Change, Desired, DesiredDevice, DesiredPeer, NewPeer, PeerDelta, Target,
};
use crate::intent::Notice;
use crate::model::network::{Endpoint, EndpointHost};
use crate::model::{LinkName, Name, PublicKey};

/// Whether any peer has announced a key.
pub(super) fn is_turning(device: &DesiredDevice) -> bool {
    device.peers.values().any(|peer| peer.next_public_key.is_some())
}

/// The same with a peer of its own for each announced key.
pub(super) fn with_next_keys<'a>(desired: &'a Desired, actual: &Actual, now: SystemTime) -> Cow<'a, Desired> {
    if !desired.devices.values().any(is_turning) {
        return Cow::Borrowed(desired);
    }
    let mut turned = desired.clone();
    let nothing = ActualDevice::default();
    for (link, device) in &mut turned.devices {
        let found = actual.devices.get(link).unwrap_or(&nothing);
        let announced: BTreeMap<PublicKey, PublicKey> = device
            .peers
            .iter()
            .filter_map(|(key, peer)| Some((*key, peer.next_public_key?)))
            .collect();
        for (key, next) in announced {
            if let Some(peer) = device.peers.remove(&key) {
                let pair = pair(peer, found.peers.get(&key), found.peers.get(&next), now);
                device.peers.extend([key, next].into_iter().zip(pair));
            }
        }
    }
    Cow::Owned(turned)
}

/// The peers of a node's key and of its next one.
fn pair(
    peer: DesiredPeer,
    current: Option<&ActualPeer>,
    next: Option<&ActualPeer>,
    now: SystemTime,
) -> [DesiredPeer; 2] {
    let idle = DesiredPeer {
        endpoints: Vec::new(),
        left: Vec::new(),
        is_foreign: false,
        keepalive: 0,
        allowed_ips: BTreeSet::new(),
        ..peer.clone()
    };
    if has_turned(current, next) {
        return [idle, peer];
    }
    let called = current.and_then(|current| current.endpoint);
    let answers = current.is_some_and(|current| is_fresh(current.last_handshake, now));
    // It may have turned while it couldn't call: its address is lost to it, or it was away.
    let is_called = called.is_some() && peer.keepalive > 0 && !answers;
    let waiting = DesiredPeer {
        keepalive: if is_called { peer.keepalive } else { 0 },
        endpoints: called
            .map(|at| Endpoint {
                host: EndpointHost::Address(at.ip()),
                port: Some(at.port()),
            })
            .into_iter()
            .collect(),
        preshared_key: if is_called {
            peer.preshared_key.clone()
        } else {
            peer.preshared_key.withheld()
        },
        ..idle
    };
    [peer, waiting]
}

/// Whether the node uses its next key: it has called by it while its preshared key was withheld, else its handshake is the
/// newer one. Where neither handshake tells (they are made anew, an embedded device forgets them), it is as it was.
fn has_turned(current: Option<&ActualPeer>, next: Option<&ActualPeer>) -> bool {
    if let (Some(current), Some(next)) = (current, next)
        && current.preshared_key != next.preshared_key
    {
        return next.rx_bytes > 0;
    }
    let handshake = |peer: Option<&ActualPeer>| peer.and_then(|peer| peer.last_handshake);
    match handshake(next).cmp(&handshake(current)) {
        Ordering::Greater => true,
        Ordering::Less => false,
        Ordering::Equal => next.is_some_and(|next| !next.allowed_ips.is_empty()),
    }
}

/// Whether a peer of a node that changes keys is to be made anew, with what it received: its next key, when its preshared
/// key changes after it was heard; and then the former one, too, unless the next one waits again. Another site's gateway is
/// with each new agreement: who can't call it would wait for it to find out that its session is of the former one.
pub(super) fn is_made_anew(
    desired: &DesiredDevice,
    found: &ActualDevice,
    (public_key, peer): (&PublicKey, &DesiredPeer),
) -> bool {
    let Some(next) = peer.next_public_key else {
        let known = found.peers.get(public_key);
        let has_another = |known: &ActualPeer| known.preshared_key.as_ref() != Some(&peer.preshared_key);
        return peer.is_foreign && known.is_some_and(has_another);
    };
    let (Some(wanted), Some(known)) = (desired.peers.get(&next), found.peers.get(&next)) else {
        return false;
    };
    let is_new = known.rx_bytes > 0 && known.preshared_key.as_ref() != Some(&wanted.preshared_key);
    is_new && (*public_key == next || !wanted.allowed_ips.is_empty())
}

/// Whether it is the key that its node is about to leave, or has left.
pub(super) fn is_former(public_key: &PublicKey, peer: &DesiredPeer) -> bool {
    peer.next_public_key.is_some_and(|next| next != *public_key)
}

/// A peer that is made anew: called where it called from, if it is called at all.
pub(super) fn anew(peer: &DesiredPeer, known: &ActualPeer, endpoint: Option<SocketAddr>) -> NewPeer {
    let is_idle = peer.allowed_ips.is_empty() && peer.endpoints.is_empty();
    NewPeer {
        node: peer.node.clone(),
        preshared_key: peer.preshared_key.clone(),
        endpoint: known.endpoint.or(endpoint).filter(|_| !is_idle),
        keepalive: peer.keepalive,
        allowed_ips: peer.allowed_ips.clone(),
    }
}

/// Who is called at once by a new private key, and how often it is kept alive: whoever answers, and the next keys that wait,
/// since their nodes may be changing at the same time.
pub(super) fn called_by_new_key(
    desired: &DesiredDevice,
    found: &ActualDevice,
    now: SystemTime,
) -> BTreeMap<PublicKey, u16> {
    if found.public_key.is_none() {
        return BTreeMap::new();
    }
    let mut calls = BTreeMap::new();
    for (public_key, peer) in &desired.peers {
        let Some(known) = found
            .peers
            .get(public_key)
            .filter(|known| known.endpoint.is_some())
        else {
            continue;
        };
        let waits = peer.next_public_key == Some(*public_key) && peer.allowed_ips.is_empty();
        let answers = !known.allowed_ips.is_empty() && is_fresh(known.last_handshake, now);
        if waits || answers {
            calls.insert(*public_key, known.keepalive);
        }
    }
    calls
}

/// The links on which somebody has announced a key.
#[must_use]
pub fn turning_links(desired: &Desired) -> BTreeSet<LinkName> {
    let turning = desired.devices.iter().filter(|(_, device)| is_turning(device));
    turning.map(|(link, _)| link.clone()).collect()
}

/// Whether somebody has announced a key and doesn't use it yet.
#[must_use]
pub fn awaits_keys(desired: &Desired, actual: &Actual) -> bool {
    desired.devices.iter().any(|(link, device)| {
        device.peers.iter().any(|(public_key, peer)| {
            let found = actual.devices.get(link);
            let in_use = found.map(|found| found.key_in_use(*public_key, peer.next_public_key));
            peer.next_public_key.is_some() && in_use != peer.next_public_key
        })
    })
}

/// What moves to keys that their nodes use now: added to the new peer before anything else, so that nothing is on no peer
/// meanwhile. The same is among the changes of a whole plan; this is what doesn't wait for one. No more moves than the
/// node carries already: what else a new fleet gives it waits for its phase.
#[must_use]
pub fn key_moves(desired: &Desired, actual: &Actual, now: SystemTime) -> Vec<Change> {
    let turned = with_next_keys(desired, actual, now);
    let mut moves = Vec::new();
    for (link, announced) in desired.devices.iter().filter(|(_, device)| is_turning(device)) {
        let (Some(device), Some(found)) = (turned.devices.get(link), actual.devices.get(link)) else {
            continue;
        };
        let target = Target {
            network: device.network,
            link: link.clone(),
        };
        for (current, peer) in &announced.peers {
            let Some(next) = peer.next_public_key else {
                continue;
            };
            let keys = [next, *current];
            let known = keys.iter().filter_map(|key| found.peers.get(key));
            let carried: BTreeSet<_> = known.flat_map(|known| &known.allowed_ips).collect();
            for public_key in keys {
                let Some(peer) = device.peers.get(&public_key) else {
                    continue;
                };
                // What routes have led here is carried on, too: where it is at home isn't asked.
                let is_in_use = !peer.allowed_ips.is_empty();
                let allowed_ips = carried.iter().filter(|_| is_in_use).map(|net| **net).collect();
                let peer = DesiredPeer {
                    allowed_ips,
                    ..peer.clone()
                };
                moves.extend(key_move(&target, device, found, public_key, &peer));
            }
        }
    }
    moves
}

/// What becomes of one key of a node.
fn key_move(
    target: &Target,
    device: &DesiredDevice,
    found: &ActualDevice,
    public_key: PublicKey,
    peer: &DesiredPeer,
) -> Option<Change> {
    let known = found.peers.get(&public_key)?;
    let target = target.clone();
    if is_made_anew(device, found, (&public_key, peer)) {
        return Some(Change::ReplacePeer {
            target,
            public_key,
            peer: anew(peer, known, None),
        });
    }
    let delta = PeerDelta {
        allowed_ips: peer.allowed_ips.difference(&known.allowed_ips).copied().collect(),
        ..PeerDelta::default()
    };
    (!delta.is_empty()).then(|| Change::UpdatePeer {
        target,
        public_key,
        node: peer.node.clone(),
        delta,
    })
}

impl ActualDevice {
    /// Which of a node's two keys it uses.
    #[must_use]
    pub fn key_in_use(&self, public_key: PublicKey, next: Option<PublicKey>) -> PublicKey {
        next.filter(|next| has_turned(self.peers.get(&public_key), self.peers.get(next)))
            .unwrap_or(public_key)
    }
}

/// What an operator should know of rotations that are under way: this node's own, and those of its peers.
#[must_use]
pub fn rotation_notes(
    desired: &Desired,
    actual: &Actual,
    own_key: &PublicKey,
    now: SystemTime,
) -> Vec<Notice> {
    let mut notes = BTreeSet::new();
    let own = &desired.node;
    let note = |network: Option<&Name>, node: &Name, text: String| Notice {
        network: network.cloned(),
        object: format!("node {node}"),
        text,
    };
    let uses_next = desired.next_public_key == Some(*own_key);
    if uses_next {
        let text = format!(
            "it uses its next key: give it public_key = \"{own_key}\" on every host, then `sdwand key rotate --finish`"
        );
        notes.insert(note(None, own, text));
    } else if let Some(next) = desired.next_public_key {
        let text = format!("it announces the key {next} and doesn't use it yet: `sdwand key rotate`");
        notes.insert(note(None, own, text));
    }
    for (link, device) in &desired.devices {
        let Some(found) = actual.devices.get(link) else {
            continue;
        };
        for (public_key, peer) in &device.peers {
            let in_use = found.key_in_use(*public_key, peer.next_public_key);
            if in_use != *public_key {
                let text = format!("it uses its next key: give it public_key = \"{in_use}\" on every host");
                notes.insert(note(None, &peer.node, text));
            } else if peer.next_public_key.is_some() {
                let text = "it announces a next key and doesn't use it yet: `sdwand key rotate` there";
                notes.insert(note(None, &peer.node, text.to_owned()));
            }
            let answers = found
                .peers
                .get(&in_use)
                .is_some_and(|peer| is_fresh(peer.last_handshake, now));
            if uses_next && !answers {
                let text = format!(
                    "it doesn't answer to the next key of {own}: has its fleet next_public_key of {own}?"
                );
                notes.insert(note(Some(&device.network_name), &peer.node, text));
            }
        }
    }
    notes.into_iter().collect()
}
