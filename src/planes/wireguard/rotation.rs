//! Nodes whose key is about to change: both keys are peers, and what the node carries is on the one that it uses.
//!
//! | | carries | is called | kept alive |
//! |---|---|---|---|
//! | the key in use | everything | as the fleet says | as the fleet says |
//! | the next key, before its first handshake | nothing | where the key in use is | if it is called |
//! | the former key, after it | nothing | no more | no |
//!
//! The key in use is the one whose handshake is newer. The node changes keys at once, its peers follow as soon as they
//! see it: see [`key_moves`].

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::diff::is_fresh;
use super::state::{
    Actual, ActualDevice, ActualPeer, Change, Desired, DesiredDevice, DesiredPeer, PeerDelta, Target,
};
use crate::intent::Notice;
use crate::model::network::{Endpoint, EndpointHost};
use crate::model::{LinkName, Name, PublicKey};

/// Whether any peer has announced a key.
pub(super) fn is_turning(device: &DesiredDevice) -> bool {
    device.peers.values().any(|peer| peer.next_public_key.is_some())
}

/// The same with a peer of its own for each announced key.
pub(super) fn with_next_keys<'a>(desired: &'a Desired, actual: &Actual) -> Cow<'a, Desired> {
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
                let pair = pair(peer, found.peers.get(&key), found.peers.get(&next));
                device.peers.extend([key, next].into_iter().zip(pair));
            }
        }
    }
    Cow::Owned(turned)
}

/// The peers of a node's key and of its next one.
fn pair(peer: DesiredPeer, now: Option<&ActualPeer>, next: Option<&ActualPeer>) -> [DesiredPeer; 2] {
    let idle = DesiredPeer {
        endpoints: Vec::new(),
        left: Vec::new(),
        keepalive: 0,
        allowed_ips: BTreeSet::new(),
        ..peer.clone()
    };
    if has_turned(now, next) {
        return [idle, peer];
    }
    let called = now.and_then(|now| now.endpoint);
    let waiting = DesiredPeer {
        keepalive: if called.is_some() { peer.keepalive } else { 0 },
        endpoints: called
            .map(|at| Endpoint {
                host: EndpointHost::Address(at.ip()),
                port: Some(at.port()),
            })
            .into_iter()
            .collect(),
        ..idle
    };
    [peer, waiting]
}

/// Whether the node uses its next key. Where neither handshake tells (an embedded device forgets them), it is as it was.
fn has_turned(now: Option<&ActualPeer>, next: Option<&ActualPeer>) -> bool {
    let handshake = |peer: Option<&ActualPeer>| peer.and_then(|peer| peer.last_handshake);
    match handshake(next).cmp(&handshake(now)) {
        Ordering::Greater => true,
        Ordering::Less => false,
        Ordering::Equal => next.is_some_and(|next| !next.allowed_ips.is_empty()),
    }
}

/// The links on which somebody has announced a key.
#[must_use]
pub fn turning_links(desired: &Desired) -> BTreeSet<LinkName> {
    let turning = desired.devices.iter().filter(|(_, device)| is_turning(device));
    turning.map(|(link, _)| link.clone()).collect()
}

/// What moves to keys that their nodes use now: added to the new peer only, so that nothing is on no peer meanwhile.
/// The same is among the changes of a whole plan; this is what doesn't wait for one. What another node carries stays there.
#[must_use]
pub fn key_moves(desired: &Desired, actual: &Actual) -> Vec<Change> {
    let mut moves = Vec::new();
    for (link, device) in desired.devices.iter().filter(|(_, device)| is_turning(device)) {
        let Some(found) = actual.devices.get(link) else {
            continue;
        };
        for (public_key, peer) in &device.peers {
            let Some(next) = peer.next_public_key else {
                continue;
            };
            let in_use = found.key_in_use(*public_key, Some(next));
            let idle = if in_use == next { public_key } else { &next };
            let (Some(known), Some(idle)) = (found.peers.get(&in_use), found.peers.get(idle)) else {
                continue;
            };
            let behind = idle.allowed_ips.intersection(&peer.allowed_ips);
            let missing: BTreeSet<_> = behind
                .filter(|net| !known.allowed_ips.contains(*net))
                .copied()
                .collect();
            if !missing.is_empty() {
                moves.push(Change::UpdatePeer {
                    target: Target {
                        network: device.network,
                        link: link.clone(),
                    },
                    public_key: in_use,
                    node: peer.node.clone(),
                    delta: PeerDelta {
                        allowed_ips: missing,
                        ..PeerDelta::default()
                    },
                });
            }
        }
    }
    moves
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
