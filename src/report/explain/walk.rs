//! Follows a packet from host to host.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::crossed::leads_out;
use super::mapped::Mapped;
use super::view::{Peer, Routed, View};
use super::{AskError, Check, Hop, Passes};
use crate::intent::NetworkIntent;
use crate::model::network::Network;
use crate::model::{LinkName, Name, PublicKey};
use crate::planes::firewall::{Connection, Hook, Packet};
use crate::planes::wireguard::HANDSHAKE_STALE;

/// One packet, and what is known before it sets out.
pub(super) struct Trip<'a> {
    pub(super) network: &'a Network,
    pub(super) packet: &'a Packet,
    /// The hosts that have let the request pass: what answers it is established there.
    pub(super) passed: &'a BTreeSet<Name>,
    /// What to do where no rule names it.
    pub(super) advice: &'a str,
    /// The port mapping by which its connection comes from the underlay; the packet is as it is in the network.
    pub(super) mapped: Option<&'a Mapped>,
    /// How large it is; none where that isn't asked.
    pub(super) size: Option<Size>,
}

/// How large a packet is.
#[derive(Clone, Copy)]
pub(super) struct Size {
    /// In bytes, with all of its headers.
    pub(super) bytes: u32,
    /// Whether its sender sends it in fragments where it doesn't fit a link: an echo reply, which is as large as its request.
    pub(super) may_be_cut: bool,
}

/// The way it went.
pub(super) struct Way {
    pub(super) hops: Vec<Hop>,
    /// The host where it arrived, or from which it left for another site.
    pub(super) end: Option<Name>,
    /// The smallest MTU of the links and routes on the way.
    pub(super) mtu: Option<u32>,
}

/// How a packet came to a host.
pub(super) enum Arrival {
    /// It starts here.
    Start,
    /// From a peer.
    Peer { node: Name, keys: Vec<PublicKey> },
    /// From another site, over this bridge.
    Bridge(Name),
}

/// Where it goes on to.
pub(super) enum Next {
    Arrived,
    Peer(Name),
    Ended,
}

type Views<'v> = dyn FnMut(&Name) -> Result<Rc<View>, AskError> + 'v;

impl Trip<'_> {
    /// Follows it from where it starts.
    pub(super) fn follow(
        &self,
        views: &mut Views<'_>,
        (start, arrival): (&Name, Arrival),
    ) -> Result<Way, AskError> {
        let mut way = Way {
            hops: Vec::new(),
            end: None,
            mtu: None,
        };
        let (mut node, mut arrival) = (start.clone(), arrival);
        loop {
            let view = views(&node)?;
            let mut step = Step::new(self, &view);
            let been_here = way.hops.iter().any(|hop| hop.node == node);
            let next = if been_here {
                step.block(
                    "route",
                    "it has been here before: it goes in circles".to_owned(),
                    None,
                )
            } else {
                step.take(&arrival)
            };
            way.mtu = way.mtu.into_iter().chain(step.takes).min();
            way.hops.push(step.hop);
            match next {
                Next::Arrived => {
                    way.end = Some(node);
                    return Ok(way);
                }
                Next::Ended => return Ok(way),
                Next::Peer(peer) => {
                    arrival = Arrival::Peer {
                        node: std::mem::replace(&mut node, peer),
                        keys: view.keys(),
                    };
                }
            }
        }
    }
}

/// A packet on one host.
pub(super) struct Step<'a> {
    pub(super) trip: &'a Trip<'a>,
    pub(super) view: &'a View,
    pub(super) hop: Hop,
    /// The largest packet that the way on takes, in bytes, as far as it is known.
    pub(super) takes: Option<u32>,
}

impl<'a> Step<'a> {
    fn new(trip: &'a Trip<'a>, view: &'a View) -> Self {
        Self {
            trip,
            view,
            hop: Hop::on(view),
            takes: None,
        }
    }

    pub(super) fn add(&mut self, check: &'static str, passes: Passes, text: String, fix: Option<String>) {
        self.hop.checks.push(Check {
            check,
            passes,
            text,
            fix,
        });
    }

    pub(super) fn ok(&mut self, check: &'static str, text: String) {
        self.add(check, Passes::Ok, text, None);
    }

    /// What may stand in the way or not.
    pub(super) fn in_doubt(&mut self, check: &'static str, text: String, fix: Option<String>) {
        self.add(check, Passes::Unknown, text, fix);
    }

    /// What doesn't stand in the way, and is worth knowing.
    pub(super) fn note(&mut self, check: &'static str, text: String, fix: Option<String>) {
        self.add(check, Passes::Note, text, fix);
    }

    pub(super) fn block(&mut self, check: &'static str, text: String, fix: Option<String>) -> Next {
        self.add(check, Passes::Blocked, text, fix);
        Next::Ended
    }

    fn take(&mut self, arrival: &Arrival) -> Next {
        let view = self.view;
        let network = match member(view, self.trip.network) {
            Ok(network) => network,
            Err(check) => {
                self.hop.checks.push(check);
                return Next::Ended;
            }
        };
        if let Some(mapped) = self.trip.mapped.filter(|mapped| mapped.hub == self.hop.node) {
            return match arrival {
                Arrival::Start => self.enter_from_underlay(network, mapped),
                Arrival::Peer { .. } | Arrival::Bridge(_) => {
                    self.return_to_underlay(network, mapped, arrival)
                }
            };
        }
        self.hop.comes_in = match self.enter(network, arrival) {
            Ok(link) => link,
            Err(next) => return next,
        };
        let packet = self.trip.packet;
        if let Some(next) = self.crosses(network) {
            return next;
        }
        let routed = view.route(
            network,
            packet.source,
            packet.destination,
            self.hop.comes_in.as_ref(),
        );
        match &routed {
            Routed::Unknown(text) => return self.unknown("route", text.clone()),
            Routed::Local => self.ok("route", "it is for this host".to_owned()),
            Routed::Out {
                device,
                gateway,
                by,
                mtu,
            } => {
                self.hop.goes_out = Some(device.clone());
                let via = gateway
                    .map(|gateway| format!(" via {gateway}"))
                    .unwrap_or_default();
                self.ok("route", format!("{by}{via} dev {device}"));
                if !self.fits(device, *mtu) {
                    return Next::Ended;
                }
            }
            Routed::Nowhere(text) => return self.no_route(text.clone()),
        }
        let connection = if self.trip.passed.contains(&self.hop.node) {
            Connection::Known
        } else {
            Connection::New
        };
        if let Some(hook) = self.hook()
            && !self.may_pass(network, &hook, packet, connection)
        {
            return Next::Ended;
        }
        self.leave(network)
    }

    pub(super) fn no_route(&mut self, text: String) -> Next {
        let fix = format!(
            "`sdwand compile --node {} --plane l3` shows its routes",
            self.hop.node
        );
        self.block("route", text, Some(fix))
    }

    /// Whether it isn't too large for a link, and the route by it.
    pub(super) fn fits(&mut self, device: &LinkName, mtu: Option<u32>) -> bool {
        self.takes = self.view.mtu(device).into_iter().chain(mtu).min();
        let whole = self.trip.size.filter(|size| !size.may_be_cut);
        let (Some(size), Some(takes)) = (whole.map(|size| size.bytes), self.takes) else {
            return true;
        };
        if size > takes {
            let text = format!("{device} takes packets of {takes} bytes there, and this one has {size}");
            let fix = format!(
                "send at most {takes} bytes; who sends more is told so by ICMP (\"packet too big\"), unless something drops that"
            );
            self.block("mtu", text, Some(fix));
        }
        size <= takes
    }

    /// What can't be read on this host.
    pub(super) fn unknown(&mut self, check: &'static str, text: String) -> Next {
        self.add(check, Passes::Unknown, text, Some("run as root".to_owned()));
        Next::Ended
    }

    /// By which interface it comes in, if WireGuard takes it from there.
    pub(super) fn enter(
        &mut self,
        network: &NetworkIntent,
        arrival: &Arrival,
    ) -> Result<Option<LinkName>, Next> {
        let source = self.trip.packet.source;
        let other;
        let (node, keys) = match arrival {
            Arrival::Start if self.view.is_local(network.id, source) => return Ok(None),
            Arrival::Start => return Ok(View::lan_of(network, source).cloned()),
            Arrival::Peer { node, keys } => (node, keys),
            Arrival::Bridge(bridge) => {
                other = self.other_gateway(network, bridge)?;
                (&other.0, &other.1)
            }
        };
        let found = match self.view.link_to(network, keys) {
            Ok(found) => found,
            Err(error) => return Err(self.unknown("source_validation", error.to_owned())),
        };
        let Some(link) = found else {
            let text = format!("{node} is no peer of it");
            let fix = format!("give {node} or {} an endpoint", self.hop.node);
            return Err(self.block("source_validation", text, Some(fix)));
        };
        match self.view.carrier(link, source) {
            Err(error) => Err(self.unknown("source_validation", error.to_owned())),
            Ok(Some((carrier, _))) if keys.contains(carrier) => {
                self.ok(
                    "source_validation",
                    format!("{link}: {node} may send from {source}"),
                );
                Ok(Some(link.clone()))
            }
            Ok(other) => {
                let peer = other.and_then(|(_, peer)| peer.node.as_ref());
                let who = peer.map_or("nobody", |node| node.as_str());
                let text = format!("{link} takes {source} from {who}, not from {node} (AllowedIPs)");
                Err(self.block("source_validation", text, None))
            }
        }
    }

    /// Where it is judged here; none where it isn't.
    fn hook(&self) -> Option<Hook> {
        match (&self.hop.comes_in, &self.hop.goes_out) {
            // From the host to itself.
            (None, None) => None,
            (None, Some(to)) => Some(Hook::Output(to.clone())),
            (Some(from), None) => Some(Hook::Input(from.clone())),
            // Neighbours in one LAN, who don't ask this host.
            (Some(from), Some(to)) if from == to && self.is_lan(from) => None,
            (Some(from), Some(to)) => Some(Hook::Forward(from.clone(), to.clone())),
        }
    }

    /// Whether the peer that it goes to has shaken hands lately, on a host that is looked at.
    pub(super) fn handshake(&mut self, name: &Name, peer: &Peer) -> bool {
        let Some(eyes) = self.view.eyes() else {
            return true;
        };
        let age = peer
            .last_handshake
            .map(|when| eyes.now.duration_since(when).unwrap_or_default());
        match age {
            Some(age) if age <= HANDSHAKE_STALE => {
                self.ok("handshake", format!("{} s ago", age.as_secs()));
                true
            }
            _ => {
                let when = age.map_or_else(|| "never".to_owned(), |age| format!("{} s ago", age.as_secs()));
                let text = format!("{name}: {when}");
                if self.trip.network.keepalive_seconds == 0 {
                    let fix = "send something, and ask again: nothing keeps it alive".to_owned();
                    self.add("handshake", Passes::Unknown, text, Some(fix));
                    return true;
                }
                let fix = format!(
                    "is {name} up, and does UDP get through? `sdwand status` shows its endpoint, `sdwand doctor` the rest"
                );
                self.block("handshake", text, Some(fix));
                false
            }
        }
    }

    pub(super) fn is_lan(&self, link: &LinkName) -> bool {
        let network = self.view.intent.networks.get(&self.trip.network.id);
        network.is_some_and(|network| network.lans.iter().any(|lan| lan.interface == *link))
    }

    pub(super) fn leave(&mut self, network: &NetworkIntent) -> Next {
        let destination = self.trip.packet.destination;
        let Some(link) = self.hop.goes_out.clone() else {
            return Next::Arrived;
        };
        if !is_link(network, &link) {
            if self.is_lan(&link) {
                return Next::Arrived;
            }
            let text = format!("{link} is no interface of network {}", network.name);
            return self.block("route", text, None);
        }
        let (key, peer) = match self.view.carrier(&link, destination) {
            Ok(Some(carrier)) => carrier,
            Ok(None) => {
                let text = format!("no peer of {link} carries {destination}");
                let why =
                    "sdwand plan, which says why: its route names no peer that may, or a peer has lost it";
                let fix = self.view.eyes().map(|_| why.to_owned());
                return self.block("allowed_ips", text, fix);
            }
            Err(error) => return self.unknown("allowed_ips", error.to_owned()),
        };
        let Some(name) = peer.node.clone() else {
            let text = format!("{link}: {destination} is carried by {key}, whom the fleet doesn't know");
            return self.block("allowed_ips", text, Some("sdwand apply".to_owned()));
        };
        self.ok("allowed_ips", format!("{link}: {name} carries {destination}"));
        if let Some(bridge) = leads_out(network, *key) {
            return self.leave_site(bridge, peer);
        }
        self.hop.peer = Some(name.clone());
        if !self.handshake(&name, peer) || !self.arrives(&link, &name, peer) {
            return Next::Ended;
        }
        Next::Peer(name)
    }
}

/// Whether it is an overlay link of the network.
pub(super) fn is_link(network: &NetworkIntent, device: &LinkName) -> bool {
    network.links.iter().any(|link| link.name == *device)
}

/// What a host does in a network.
pub(super) fn member<'v>(view: &'v View, network: &Network) -> Result<&'v NetworkIntent, Check> {
    let mut blocked = view.intent.blocked.iter();
    view.intent.networks.get(&network.id).ok_or_else(|| {
        let (text, fix) = match blocked.find(|blocked| blocked.network == Some(network.id)) {
            Some(blocked) => (blocked.reason.clone(), Some(blocked.fix.clone())),
            None => (format!("it is no member of network {}", network.name), None),
        };
        Check {
            check: "network",
            passes: Passes::Blocked,
            text,
            fix,
        }
    })
}
