//! AllowedIPs follow the FIB: which peer of a multipoint link carries what several may.
//!
//! ```text
//! who may carry what (intent) ──┐
//! the routes of others (l3) ────┼─ follow ─▶ AllowedIPs as they should be, what is on nobody and why, what moved
//! our own routes, as they will be ┘
//! ```
//!
//! | the best route to the prefix | the prefix is on |
//! |---|---|
//! | is ours, which names no next hop | the peer that the fleet gives it |
//! | goes by the link, via an own address of a peer that may carry it | that peer |
//! | goes by the link in any other way: several next hops, none, nobody's, a peer that may not | nobody: `UnmappedNextHop` |
//! | goes elsewhere | nobody |
//!
//! A longer route inside such a prefix puts its destination on its own peer in the same way. Where it can't, its packets go to
//! whoever carries the prefix around it. A prefix that one peer alone may carry stays there whatever routes say: the link
//! asks the destination, not the next hop.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Target;
use crate::intent::{Blocked, LinkIntent, NetworkIntent, Notice};
use crate::model::PublicKey;
use crate::model::ownership::{ROUTE_METRIC, ROUTE_PROTOCOL};
use crate::planes::{l3, wireguard};

/// How many routes of a link are named, each kind for itself; of the rest the number.
const NAMED: usize = 8;

/// What follows from the routes.
pub(super) struct Followed<'a> {
    /// The devices as they should be.
    pub(super) desired: Cow<'a, wireguard::Desired>,
    /// Routes whose destination no peer can be given.
    pub(super) blocked: Vec<Blocked>,
    /// What isn't where the fleet alone would have it.
    pub(super) notices: Vec<Notice>,
}

/// Has the AllowedIPs of the target follow the routes that were found. Where the routes can't be read nothing is followed:
/// no device is changed then, either.
pub(super) fn follow<'a>(target: &'a Target, l3: Option<&l3::Actual>) -> Followed<'a> {
    let mut followed = Followed {
        desired: Cow::Borrowed(&target.wireguard),
        blocked: Vec::new(),
        notices: Vec::new(),
    };
    let Some(actual) = l3 else {
        return followed;
    };
    for network in target.intent.networks.values() {
        let Some(routes) = actual.fib.get(&network.table) else {
            continue;
        };
        for link in network.links.iter().filter(|link| !link.carriers.is_empty()) {
            if let Some(device) = target.wireguard.devices.get(&link.name) {
                Follower::new(target, network, link, device).follow(routes, &mut followed);
            }
        }
    }
    followed
}

/// Where another's route leads.
enum Leads {
    /// Not out by the link.
    Elsewhere,
    /// To a peer.
    To(PublicKey),
    /// Out by the link, and nobody knows to whom: why.
    Astray(String),
}

/// Who may carry a destination.
#[derive(Clone, Copy)]
enum May<'a> {
    One(&'a PublicKey),
    Any(&'a BTreeSet<PublicKey>),
}

struct Follower<'a> {
    target: &'a Target,
    network: &'a NetworkIntent,
    link: &'a LinkIntent,
    /// What the peers are called as next hops.
    names: BTreeMap<IpAddr, &'a PublicKey>,
    /// Who carries what by the fleet alone.
    home: BTreeMap<IpNet, &'a PublicKey>,
    moves: BTreeMap<IpNet, Option<PublicKey>>,
    /// Routes to what the fleet gives to somebody.
    astray: Vec<Blocked>,
    /// Routes to anything else.
    beyond: Vec<Blocked>,
    told: Vec<Notice>,
}

impl<'a> Follower<'a> {
    fn new(
        target: &'a Target,
        network: &'a NetworkIntent,
        link: &'a LinkIntent,
        device: &'a wireguard::DesiredDevice,
    ) -> Self {
        let names = link.peers.iter();
        let names = names.flat_map(|(key, peer)| peer.addresses.iter().map(move |address| (*address, key)));
        let home = device.peers.iter();
        let home = home.flat_map(|(key, peer)| peer.allowed_ips.iter().map(move |net| (*net, key)));
        Self {
            target,
            network,
            link,
            names: names.collect(),
            home: home.collect(),
            moves: BTreeMap::new(),
            astray: Vec::new(),
            beyond: Vec::new(),
            told: Vec::new(),
        }
    }

    fn follow(mut self, routes: &BTreeMap<IpNet, Vec<l3::FibRoute>>, followed: &mut Followed<'_>) {
        for (destination, found) in routes {
            if let Some(best) = self.best(*destination, found).filter(|_| !is_local(destination)) {
                self.judge(*destination, best);
            }
        }
        if !self.moves.is_empty()
            && let Some(device) = followed.desired.to_mut().devices.get_mut(&self.link.name)
        {
            for (net, to) in &self.moves {
                if let Some(home) = self.home.get(net).and_then(|key| device.peers.get_mut(*key)) {
                    home.allowed_ips.remove(net);
                }
                if let Some(peer) = to.and_then(|key| device.peers.get_mut(&key)) {
                    peer.allowed_ips.insert(*net);
                }
            }
        }
        self.shorten();
        followed.blocked.append(&mut self.astray);
        followed.notices.append(&mut self.told);
    }

    /// The route that the kernel takes once ours are as they should be; none where that is ours.
    fn best<'r>(&self, destination: IpNet, found: &'r [l3::FibRoute]) -> Option<&'r l3::FibRoute> {
        let wanted = |metric| {
            self.target.l3.routes.contains_key(&l3::RouteKey {
                table: self.network.table,
                destination,
                metric,
            })
        };
        let is_ours = |route: &l3::FibRoute| route.protocol == ROUTE_PROTOCOL;
        let stays = found
            .iter()
            .filter(|route| !is_ours(route) || wanted(route.metric));
        // Of several with one metric, the first.
        let best = stays.min_by_key(|route| route.metric)?;
        let ours_comes = best.metric > ROUTE_METRIC && wanted(ROUTE_METRIC);
        (!is_ours(best) && !ours_comes).then_some(best)
    }

    fn leads(&self, best: &l3::FibRoute) -> Leads {
        let is_by = |hop: &l3::NextHop| hop.device.as_ref().is_none_or(|device| *device == self.link.name);
        if !best.hops.iter().any(is_by) {
            return Leads::Elsewhere;
        }
        let hops: BTreeSet<&l3::NextHop> = best.hops.iter().collect();
        if hops.len() > 1 {
            return Leads::Astray(format!("has {} next hops, and one peer can carry it", hops.len()));
        }
        let Some(gateway) = hops.first().and_then(|hop| hop.gateway) else {
            return Leads::Astray("names no next hop".to_owned());
        };
        match self.names.get(&gateway) {
            Some(key) => Leads::To(**key),
            None => Leads::Astray(format!(
                "goes via {gateway}, which is no peer of {}",
                self.link.name
            )),
        }
    }

    /// The longest prefix around a destination that the fleet gives to somebody, and who may carry it.
    fn may(&self, destination: IpNet) -> Option<(IpNet, May<'a>)> {
        let mut around = Some(destination);
        while let Some(net) = around {
            if let Some(may) = self.link.carriers.get(&net) {
                return Some((net, May::Any(may)));
            }
            if let Some(key) = self.home.get(&net) {
                return Some((net, May::One(key)));
            }
            around = net.supernet();
        }
        None
    }

    fn judge(&mut self, destination: IpNet, best: &l3::FibRoute) {
        let leads = self.leads(best);
        let may = self.may(destination);
        let why = match (leads, may) {
            (Leads::Elsewhere, Some((net, May::Any(_)))) if net == destination => {
                self.moves.insert(destination, None);
                let text = format!(
                    "no peer carries it: {} doesn't lead over {}",
                    name(best),
                    self.link.name
                );
                self.tell(destination, text);
                return;
            }
            // To the link its owner has it, whatever the next hop.
            (Leads::Elsewhere, _) | (Leads::Astray(_), Some((_, May::One(_)))) => return,
            (Leads::To(key), Some((_, May::Any(may)))) if may.contains(&key) => {
                self.moved(destination, key, best);
                return;
            }
            (Leads::To(key), Some((_, May::One(owner)))) if *owner == key => return,
            (Leads::To(key), Some(_)) => {
                format!(
                    "leads to {}, and the fleet doesn't let it carry that",
                    self.node(&key)
                )
            }
            (Leads::To(_) | Leads::Astray(_), None) => "is to what the fleet gives to no peer".to_owned(),
            (Leads::Astray(why), Some(_)) => why,
        };
        if may.is_some_and(|(net, may)| net == destination && matches!(may, May::Any(_))) {
            self.moves.insert(destination, None);
        }
        self.complain(destination, best, &why, may);
    }

    /// Says that a route isn't followed, what becomes of its packets, and what would do.
    fn complain(
        &mut self,
        destination: IpNet,
        best: &l3::FibRoute,
        why: &str,
        may: Option<(IpNet, May<'_>)>,
    ) {
        let outcome = match may {
            Some((_, May::One(owner))) => format!("{} keeps it", self.node(owner)),
            Some((net, May::Any(_))) if net != destination => format!("who carries {net} carries it"),
            Some((_, May::Any(_))) | None => "no peer carries it".to_owned(),
        };
        let table = self.network.table;
        let mut fix = format!("ip route delete {destination} table {table}");
        if best.metric > 0 {
            fix = format!("{fix} metric {}", best.metric);
        }
        let via = may.map_or_else(Vec::new, |(_, may)| self.ways(destination, may));
        if !via.is_empty() {
            fix = format!("lead it via {}, or: {fix}", via.join(" or "));
        }
        let complaints = if may.is_some() {
            &mut self.astray
        } else {
            &mut self.beyond
        };
        complaints.push(Blocked {
            network: Some(self.network.id),
            reason: format!(
                "UnmappedNextHop: {} to {destination} {why}: {outcome}",
                name(best)
            ),
            fix,
        });
    }

    fn moved(&mut self, destination: IpNet, key: PublicKey, best: &l3::FibRoute) {
        let home = self.home.get(&destination).copied();
        if home == Some(&key) {
            return;
        }
        self.moves.insert(destination, Some(key));
        let instead = home.map(|home| format!(" instead of {}", self.node(home)));
        let text = format!(
            "{} carries it{}: {} leads there",
            self.node(&key),
            instead.unwrap_or_default(),
            name(best)
        );
        self.tell(destination, text);
    }

    fn tell(&mut self, destination: IpNet, text: String) {
        self.told.push(Notice {
            network: Some(self.network.name.clone()),
            object: format!("prefix {destination}"),
            text,
        });
    }

    fn node(&self, key: &PublicKey) -> String {
        let peer = self.link.peers.get(key);
        peer.map_or_else(|| key.to_string(), |peer| peer.node.to_string())
    }

    /// The next hops that would do, each with its node's name; not all of many.
    fn ways(&self, destination: IpNet, may: May<'_>) -> Vec<String> {
        let keys: Vec<&PublicKey> = match may {
            May::One(key) => vec![key],
            May::Any(keys) => keys.iter().take(NAMED).collect(),
        };
        let ways = keys.into_iter().filter_map(|key| {
            let peer = self.link.peers.get(key)?;
            let fits = |address: &&IpAddr| match address {
                IpAddr::V4(_) => matches!(destination, IpNet::V4(_)),
                IpAddr::V6(address) => address.is_unicast_link_local(),
            };
            let address = peer.addresses.iter().find(fits)?;
            Some(format!("{address} ({})", peer.node))
        });
        ways.collect()
    }

    /// Of many only some are named, what is in the fleet first: a full routing table would be a long list.
    fn shorten(&mut self) {
        self.astray.append(&mut self.beyond);
        let more = self.astray.len().saturating_sub(NAMED);
        if more > 0 {
            self.astray.truncate(NAMED);
            self.astray.push(Blocked {
                network: Some(self.network.id),
                reason: format!(
                    "UnmappedNextHop: the same of {more} more routes by {}",
                    self.link.name
                ),
                fix: format!(
                    "ip route show table {} dev {}, and with -6",
                    self.network.table, self.link.name
                ),
            });
        }
        let more = self.told.len().saturating_sub(NAMED);
        if more > 0 {
            self.told.truncate(NAMED);
            self.told.push(Notice {
                network: Some(self.network.name.clone()),
                object: format!("link {}", self.link.name),
                text: format!("{more} more prefixes are where routes lead"),
            });
        }
    }
}

/// What never leaves a link isn't anyone's.
fn is_local(destination: &IpNet) -> bool {
    match destination {
        IpNet::V4(net) => net.addr().is_multicast() || net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_multicast() || net.addr().is_unicast_link_local(),
    }
}

/// A route of someone's, as `ip route` tells it apart.
fn name(route: &l3::FibRoute) -> String {
    format!(
        "the route of protocol {} with metric {}",
        route.protocol, route.metric
    )
}
