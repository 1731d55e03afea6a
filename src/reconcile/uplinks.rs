//! Which of a spoke's uplinks carries what any of them may carry.
//!
//! ```text
//! receive counters, handshakes ─ look ─▶ what each hub is like ─┐
//! the routes that are there ─────────────────────────────────────┴─ choose ─▶ the uplink that carries
//!        ▲ answers                         │ nothing came since the last look
//!        └────────── the hub ◀── a question (neighbour solicitation) ◀──┘
//! ```
//!
//! A hub is alive while anything that it authenticated comes in: a tunnel that carries traffic is never asked. An idle one
//! says nothing for up to 180 s, since WireGuard answers no keepalive: so the daemon asks the hub's link-local address for
//! itself (RFC 4861, 7.2.2), which its kernel answers at once, whatever its firewall. [`MISSED`] questions in a row without
//! anything from the hub, and it is silent. A command that looks once can't ask: it goes by the last handshake.
//!
//! The memory of what was seen is here; which uplink carries is read from the host's routes, and survives a restart there.
//! Time is an argument.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use serde::Serialize;

use crate::intent::{HostIntent, LinkIntent, LinkKind, NetworkIntent, Notice};
use crate::model::{LinkName, Name, NetworkId};
use crate::planes::{l3, wireguard};

/// Time between two looks at the uplinks of a network with several.
pub const LOOK: Duration = Duration::from_secs(1);

/// How many questions in a row a hub may leave unanswered, with nothing else from it: then it is silent.
pub const MISSED: u32 = 4;

/// How long a hub must have been alive without a break before routes move back to it.
pub const HOLD_DOWN: Duration = Duration::from_secs(20);

/// How long an answer may take before the next look counts it as missed.
const ANSWER: Duration = Duration::from_millis(900);

/// When a look was taken.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The time of day, as handshakes are told in it.
    pub wall: SystemTime,
    /// A clock that never goes back.
    pub steady: Instant,
}

/// How a hub is, seen over the uplink to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It was heard, and has answered since.
    Live,
    /// It doesn't answer; or, where nobody asks, its last handshake is too old.
    Silent,
    /// It wasn't heard yet, and may still answer.
    Unknown,
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Silent => "silent",
            Self::Unknown => "not heard yet",
        })
    }
}

/// One hub and the uplink to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Uplink {
    /// The hub.
    pub hub: Name,
    /// The link.
    pub link: LinkName,
    /// How the hub is.
    pub standing: Standing,
}

/// Which uplink of a network carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The one that shall.
    pub carrier: LinkName,
    /// The one that does, by the routes that are there; none before there are any.
    pub former: Option<LinkName>,
    /// All of them, in the order of the fleet.
    pub uplinks: Vec<Uplink>,
}

/// The choice of each network that has one.
pub type Choices = BTreeMap<NetworkId, Choice>;

impl Choice {
    /// The hub at the other end of `link`.
    #[must_use]
    pub fn hub(&self, link: &LinkName) -> Option<&Uplink> {
        self.uplinks.iter().find(|uplink| uplink.link == *link)
    }

    /// What moves, and why; none where nothing does.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let former = self.former.as_ref().filter(|former| **former != self.carrier)?;
        let (from, to) = (self.hub(former)?, self.hub(&self.carrier)?);
        Some(match from.standing {
            Standing::Silent => format!("hub {} takes over from {}, which is silent", to.hub, from.hub),
            Standing::Live | Standing::Unknown => format!(
                "hub {} takes over from {}: it comes first, and has been alive for {} s",
                to.hub,
                from.hub,
                HOLD_DOWN.as_secs()
            ),
        })
    }
}

/// What was seen of the uplinks so far.
#[derive(Clone, Debug)]
pub struct Uplinks {
    asks: bool,
    tracks: BTreeMap<LinkName, Track>,
    /// Where the routes were when they were last read.
    carriers: BTreeMap<NetworkId, LinkName>,
}

#[derive(Clone, Debug)]
struct Track {
    rx_bytes: u64,
    /// When a question went out that nothing has come after.
    asked: Option<Instant>,
    missed: u32,
    live_since: Option<Instant>,
    /// The hub's link-local address.
    hub: Ipv6Addr,
}

impl Uplinks {
    /// Nothing seen yet. `asks`: whether whoever looks will also ask, and look again.
    #[must_use]
    pub const fn new(asks: bool) -> Self {
        Self {
            asks,
            tracks: BTreeMap::new(),
            carriers: BTreeMap::new(),
        }
    }

    /// From now on nobody asks: hubs are judged by their handshakes.
    pub fn ask_no_more(&mut self) {
        self.asks = false;
    }

    /// The links that were there at the last look.
    pub fn links(&self) -> impl Iterator<Item = &LinkName> {
        self.tracks.keys()
    }

    /// Takes in what was read, and chooses. `l3` is none where only the devices were read, or the routes can't be.
    pub fn look(
        &mut self,
        intent: &HostIntent,
        l3: Option<&l3::Actual>,
        wireguard: Option<&wireguard::Actual>,
        moment: Moment,
    ) -> Choices {
        let networks = || {
            intent
                .networks
                .values()
                .filter(|network| !network.shared.is_empty())
        };
        if let Some(seen) = wireguard {
            let mut tracks = BTreeMap::new();
            for link in networks().flat_map(|network| &network.links) {
                if let Some((hub, peer)) = hub_peer(link, seen) {
                    let track = self.tracks.remove(&link.name);
                    let mut track = track.unwrap_or_else(|| Track::new(hub, peer));
                    track.look(hub, peer, self.asks, moment);
                    tracks.insert(link.name.clone(), track);
                }
            }
            self.tracks = tracks;
        }
        self.carriers.retain(|id, _| intent.networks.contains_key(id));
        let mut choices = Choices::new();
        for network in networks() {
            if let Some(found) = l3.and_then(|actual| carrier(network, &actual.state)) {
                self.carriers.insert(network.id, found);
            }
            let former = self.carriers.get(&network.id).cloned();
            choices.insert(network.id, self.choose(network, former, moment));
        }
        choices
    }

    /// Whom to ask now: the hubs of which nothing came since the last look, with the link to each.
    #[must_use]
    pub fn questions(&self) -> Vec<(LinkName, Ipv6Addr)> {
        let quiet = self
            .tracks
            .iter()
            .filter(|(_, track)| self.asks && track.asked.is_none());
        quiet.map(|(link, track)| (link.clone(), track.hub)).collect()
    }

    /// A question went out, or couldn't for want of a way to the hub.
    pub fn asked(&mut self, link: &LinkName, now: Instant) {
        if let Some(track) = self.tracks.get_mut(link) {
            track.asked = Some(now);
        }
    }

    fn choose(&self, network: &NetworkIntent, former: Option<LinkName>, moment: Moment) -> Choice {
        let uplinks: Vec<Uplink> = network
            .links
            .iter()
            .filter_map(|link| {
                let LinkKind::Uplink { hub } = &link.kind else {
                    return None;
                };
                Some(Uplink {
                    hub: hub.clone(),
                    link: link.name.clone(),
                    standing: self.standing(&link.name),
                })
            })
            .collect();
        let is = |uplink: &&Uplink, standing| uplink.standing == standing;
        let held = |uplink: &&Uplink| {
            let track = self.tracks.get(&uplink.link);
            let since = track.and_then(|track| track.live_since);
            since.is_some_and(|since| moment.steady.duration_since(since) >= HOLD_DOWN)
        };
        let at = former
            .as_ref()
            .and_then(|former| uplinks.iter().position(|uplink| uplink.link == *former));
        let chosen = match at {
            None => uplinks.iter().find(|uplink| !is(uplink, Standing::Silent)),
            Some(at) => {
                let better = uplinks[..at].iter().find(held);
                let other = || uplinks.iter().find(|uplink| is(uplink, Standing::Live));
                let dead = uplinks[at].standing == Standing::Silent;
                better
                    .or_else(|| if dead { other() } else { None })
                    .or(Some(&uplinks[at]))
            }
        };
        let chosen = chosen.or(uplinks.first());
        Choice {
            carrier: chosen.map_or_else(|| network.links[0].name.clone(), |uplink| uplink.link.clone()),
            former,
            uplinks,
        }
    }

    fn standing(&self, link: &LinkName) -> Standing {
        match self.tracks.get(link) {
            Some(track) if track.missed >= MISSED => Standing::Silent,
            Some(track) if track.live_since.is_some() => Standing::Live,
            Some(_) | None if self.asks => Standing::Unknown,
            Some(_) | None => Standing::Silent,
        }
    }
}

impl Track {
    const fn new(hub: Ipv6Addr, seen: &wireguard::ActualPeer) -> Self {
        Self {
            rx_bytes: seen.rx_bytes,
            asked: None,
            missed: 0,
            live_since: None,
            hub,
        }
    }

    fn look(&mut self, hub: Ipv6Addr, seen: &wireguard::ActualPeer, asks: bool, moment: Moment) {
        self.hub = hub;
        let heard = seen.rx_bytes > self.rx_bytes;
        // A device that was made anew counts from zero.
        self.rx_bytes = seen.rx_bytes;
        if !asks {
            let fresh = wireguard::is_fresh(seen.last_handshake, moment.wall);
            self.missed = 0;
            self.live_since = fresh.then(|| self.live_since.unwrap_or(moment.steady));
            return;
        }
        if heard {
            self.asked = None;
            self.missed = 0;
            self.live_since.get_or_insert(moment.steady);
            return;
        }
        let overdue = |asked| moment.steady.duration_since(asked) >= ANSWER;
        if self.asked.is_some_and(overdue) {
            self.asked = None;
            self.missed = self.missed.saturating_add(1);
            if self.missed >= MISSED {
                self.live_since = None;
            }
        }
    }
}

/// The hub at the other end of an uplink: its link-local address, and what is known of it.
fn hub_peer<'a>(
    link: &LinkIntent,
    seen: &'a wireguard::Actual,
) -> Option<(Ipv6Addr, &'a wireguard::ActualPeer)> {
    let device = seen.devices.get(&link.name)?;
    let (key, peer) = link.peers.first_key_value()?;
    let link_local = peer.allowed_ips.iter().find_map(|net| match net {
        IpNet::V6(net) if net.addr().is_unicast_link_local() => Some(net.addr()),
        IpNet::V6(_) | IpNet::V4(_) => None,
    })?;
    // A hub that changes keys is heard by the one that it uses.
    let key = device.key_in_use(*key, peer.next_public_key);
    Some((link_local, device.peers.get(&key)?))
}

/// The uplink that carries now, by the routes that are there.
fn carrier(network: &NetworkIntent, state: &l3::State) -> Option<LinkName> {
    network.shared.iter().find_map(|net| {
        let route = state.routes.get(&l3::route_key(network.table, *net))?;
        let device = route.to.device()?;
        network
            .links
            .iter()
            .any(|link| link.name == *device)
            .then(|| device.clone())
    })
}

/// The desired state with its routes over the uplinks that were chosen.
#[must_use]
pub(super) fn over<'a>(state: &'a l3::State, intent: &HostIntent, choices: &Choices) -> Cow<'a, l3::State> {
    let mut state = Cow::Borrowed(state);
    for (id, choice) in choices {
        let Some(network) = intent.networks.get(id) else {
            continue;
        };
        let moved = |net: &&IpNet| network.routes.get(*net) != Some(&choice.carrier);
        for net in network.shared.iter().filter(moved) {
            let key = l3::route_key(network.table, *net);
            if !state.routes.contains_key(&key) {
                continue;
            }
            if let Some(route) = state.to_mut().routes.get_mut(&key)
                && let l3::RouteTo::Link { device, .. } = &mut route.to
            {
                *device = choice.carrier.clone();
            }
        }
    }
    state
}

/// What an operator should know of the moves.
pub(super) fn notices<'a>(intent: &'a HostIntent, choices: &'a Choices) -> impl Iterator<Item = Notice> + 'a {
    choices.iter().filter_map(|(id, choice)| {
        let network = intent.networks.get(id)?;
        Some(Notice {
            network: Some(network.name.clone()),
            object: format!("link {}", choice.carrier),
            text: choice.reason()?,
        })
    })
}

#[cfg(test)]
mod tests;
