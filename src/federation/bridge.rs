//! A bridge: what this site and a peer have agreed about one network of each. Pure.
//!
//! ```text
//!   fleet ──▶ our half ──┐ agree            suspend
//!                        ├──────▶ active ◀─────────▶ suspended
//!   peer ───▶ its half ──┘          resume
//!   revoked: from everywhere, and back from nowhere; what is wanted again is a new row.
//! ```
//!
//! Each half has a number that rises with every change of it, so that what is lost, repeated or late does no harm: the
//! later one counts. An agreement narrows what the fleet imports, and never widens it.

mod consent;
pub mod half;
mod share;
mod state;
mod step;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use consent::{Consent, Consented, Scope};
pub use half::{Half, HalfError, Place, PresharedHalf};
pub use share::{Content, share};
pub use state::{Event, State, WaitsFor};
pub use step::{Change, Want, standing, step};

use super::moment::Moment;
use super::peer::PeerId;
use super::site::SiteId;
use crate::model::Name;
use crate::model::agreement::Agreement;
use crate::model::routing::Bridge;

/// The id of a bridge, the same at both ends: a UUID of version 5 (RFC 9562).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BridgeId(pub Uuid);

impl fmt::Display for BridgeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl BridgeId {
    /// Of one site's network and another's, whichever is named first: of
    /// `urn:sdwand:bridge:<site id>/<network>:<site id>/<network>` in the URL namespace, the lesser end first.
    #[must_use]
    pub fn of(one: (&SiteId, &Name), other: (&SiteId, &Name)) -> Self {
        let (first, second) = if one <= other { (one, other) } else { (other, one) };
        let end = |(site, network): (&SiteId, &Name)| format!("{site}/{network}");
        let urn = format!("urn:sdwand:bridge:{}:{}", end(first), end(second));
        Self(Uuid::new_v5(&Uuid::NAMESPACE_URL, urn.as_bytes()))
    }
}

/// What the ledger has of a bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeRow {
    /// Its id, here and there.
    pub id: BridgeId,
    /// With whom.
    pub peer: PeerId,
    /// What our fleet wants of it; none where only the peer has offered it.
    pub ours: Option<Ours>,
    /// What the peer has said; none where it has said nothing, or has taken it back.
    pub theirs: Option<Theirs>,
    /// The highest number of ours that was given away.
    pub said: u64,
    /// The number of ours that the peer has last acknowledged.
    pub acknowledged: u64,
    /// The highest number of the peer's that was seen.
    pub seen: u64,
    /// What operators have said of it; empty where nobody is asked.
    #[serde(default, skip_serializing_if = "Consent::is_empty")]
    pub consent: Consent,
}

/// Our end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ours {
    /// What the fleet calls the bridge.
    pub name: Name,
    /// The network it leads into.
    pub network: Name,
    /// What the peer calls its own.
    pub remote_network: Name,
    /// How often it was wanted, and over, before; from 1.
    pub generation: u32,
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: Moment,
    /// Why, where that isn't plain.
    pub reason: Option<String>,
    /// What the fleet imports.
    pub import: Vec<IpNet>,
    /// What we tell the peer; none once it is over.
    pub half: Option<Half>,
}

/// The peer's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Theirs {
    /// What it has said.
    pub half: Half,
    /// Since when it names this WireGuard key: of two peers that name the same, the first has it.
    #[serde(default = "Moment::epoch")]
    pub key_since: Moment,
    /// Where its gateway may be called, best first.
    pub endpoints: Vec<SocketAddr>,
    /// Whether names of its endpoints are still to be resolved.
    pub unresolved: bool,
    /// Where the names of its endpoints, `<host>:<port>`, led when they could last be resolved.
    #[serde(default)]
    pub resolved: BTreeMap<String, Vec<SocketAddr>>,
}

impl Theirs {
    /// The addresses of its endpoints, best first: those of a name as it was last resolved.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let of = |text: &String| match Place::parse(text) {
            Some(Place::Address(address)) => vec![address],
            Some(Place::Name(..)) | None => self.resolved.get(text).cloned().unwrap_or_default(),
        };
        self.half.endpoints.iter().flat_map(of).collect()
    }

    /// The endpoints of it that are names.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        let is_name = |text: &&String| matches!(Place::parse(text), Some(Place::Name(..)));
        self.half.endpoints.iter().filter(is_name)
    }
}

impl BridgeRow {
    /// One of which nothing is known yet.
    #[must_use]
    pub const fn new(peer: PeerId, id: BridgeId) -> Self {
        Self {
            id,
            peer,
            ours: None,
            theirs: None,
            said: 0,
            acknowledged: 0,
            seen: 0,
            consent: Consent::NONE,
        }
    }

    /// Our end, unless it is over.
    #[must_use]
    pub fn live(&self) -> Option<&Ours> {
        self.ours.as_ref().filter(|ours| ours.state != State::Revoked)
    }

    /// Whether the peer offers it, and our fleet has no such bridge.
    #[must_use]
    pub fn is_offered(&self) -> bool {
        self.live().is_none() && self.theirs.is_some()
    }

    /// Takes what the peer says now; `may_call` says which addresses may be called. Names are to be resolved anew, and until
    /// that works they lead where they last led.
    pub fn take(
        &mut self,
        half: Half,
        now: Moment,
        may_call: impl FnOnce(&[SocketAddr]) -> Vec<SocketAddr>,
    ) -> Taken {
        let known = self.theirs.as_ref().map(|theirs| &theirs.half);
        if known == Some(&half) {
            return Taken::Unchanged;
        }
        if half.sequence < self.seen || (half.sequence == self.seen && known.is_some()) {
            return Taken::Late;
        }
        self.seen = half.sequence;
        let before = self.theirs.take();
        let same_key = before
            .as_ref()
            .filter(|before| before.half.gateway_public_key == half.gateway_public_key);
        let key_since = same_key.map_or(now, |before| before.key_since);
        let mut resolved = before.map(|before| before.resolved).unwrap_or_default();
        resolved.retain(|name, _| half.endpoints.contains(name));
        let mut theirs = Theirs {
            half,
            key_since,
            endpoints: Vec::new(),
            unresolved: false,
            resolved,
        };
        theirs.endpoints = may_call(&theirs.addresses());
        let has_names = theirs.names().next().is_some();
        theirs.unresolved = has_names;
        self.theirs = Some(theirs);
        Taken::News
    }

    /// Takes that the peer doesn't want it any more.
    pub fn withdraw(&mut self, sequence: u64) -> Taken {
        if sequence < self.seen || (sequence == self.seen && self.theirs.is_some()) {
            return Taken::Late;
        }
        if self.theirs.is_none() {
            return Taken::Unchanged;
        }
        (self.seen, self.theirs) = (sequence, None);
        Taken::News
    }

    /// Gives what we say a later number, and says it again.
    pub fn renumber(&mut self, now: Moment) {
        self.said = step::next_number(self.said, now);
        if let Some(half) = self.ours.as_mut().and_then(|ours| ours.half.as_mut()) {
            half.sequence = self.said;
        }
    }

    /// Whether nothing of it is worth keeping.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.ours.is_none() && self.theirs.is_none() && self.consent.is_empty()
    }

    /// What is in force of it, for `run`: only while it is active, and the fleet's bridge is the one that was agreed.
    /// `is_gated`: whether what the fleet says needs a second operator's word.
    #[must_use]
    pub fn agreement(&self, bridge: &Bridge, is_gated: bool) -> Option<Agreement> {
        let ours = self.live().filter(|ours| ours.state == State::Active)?;
        let (half, theirs) = (ours.half.as_ref()?, self.theirs.as_ref()?);
        let is_this = ours.name == bridge.name
            && ours.network == bridge.network
            && ours.remote_network == bridge.remote_network
            && bridge.enabled;
        if !is_this {
            return None;
        }
        Some(Agreement {
            peer: bridge.peer.clone(),
            network: bridge.network.clone(),
            import: in_force(ours, bridge, is_gated),
            export: is_gated.then(|| half.prefixes.clone()),
            public_key: theirs.half.gateway_public_key,
            preshared_key: half.preshared_half.key_with(&theirs.half.preshared_half)?,
            endpoints: theirs.endpoints.clone(),
            prefixes: theirs.half.prefixes.clone(),
            listener: theirs.half.listener,
        })
    }
}

/// What became of what the peer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It counts from now on.
    News,
    /// It was known.
    Unchanged,
    /// Something later was seen, or something else under the same number: it doesn't count.
    Late,
}

/// What the bridge imports now, of what the fleet says. Narrowing needs nobody, and widening is the operator's own word in the
/// fleet: all of it, but where that needs a second operator's word. Then it is what our end has taken over of it.
#[must_use]
pub fn in_force(ours: &Ours, bridge: &Bridge, is_gated: bool) -> Vec<IpNet> {
    let wanted = half::ordered(&bridge.import);
    if is_gated && wanted != ours.import {
        intersection(&wanted, &ours.import)
    } else {
        wanted
    }
}

/// What of two lists of prefixes is in both: each prefix that is within one of the other list, in order.
#[must_use]
pub fn intersection(one: &[IpNet], other: &[IpNet]) -> Vec<IpNet> {
    let within = |net: &IpNet, nets: &[IpNet]| nets.iter().any(|wide| wide.contains(net));
    let narrow = one.iter().filter(|net| within(net, other));
    let all: Vec<IpNet> = narrow
        .chain(other.iter().filter(|net| within(net, one)))
        .copied()
        .collect();
    half::ordered(&all)
}

#[cfg(test)]
mod tests;
