//! One host as the walk sees it: what the planes compile for it, or what is there.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use ipnet::IpNet;

use crate::intent::{HostIntent, LanIntent, NetworkIntent};
use crate::model::network::NetworkId;
use crate::model::{LinkName, Name, PublicKey};
use crate::planes::firewall::Policy;
use crate::planes::{firewall, l3, wireguard};
use crate::reconcile::holes::{Heard, Known};
use crate::report::foreign::Ruleset;

use super::live::{Found, Live, Lookup};

/// A host.
pub(super) struct View {
    pub(super) intent: HostIntent,
    l3: l3::State,
    devices: Result<BTreeMap<LinkName, Device>, String>,
    policies: Result<BTreeMap<NetworkId, Policy>, String>,
    eyes: Option<Eyes>,
}

/// What only a host that is looked at has.
pub(super) struct Eyes {
    pub(super) now: SystemTime,
    pub(super) foreign: Result<Ruleset, String>,
    lan_addresses: BTreeSet<(LinkName, IpAddr)>,
    /// Its addresses on the underlay.
    underlay: BTreeSet<IpAddr>,
    /// The families that the underlay forwards, for the networks that need it.
    forwarding: BTreeMap<(NetworkId, l3::Family), bool>,
    ways: Result<Known, String>,
    routes: RefCell<BTreeMap<Lookup, Result<Found, String>>>,
    missing: RefCell<BTreeSet<Lookup>>,
}

type Device = BTreeMap<PublicKey, Peer>;

/// A WireGuard peer.
pub(super) struct Peer {
    /// The node; none where the fleet has no such key.
    pub(super) node: Option<Name>,
    allowed_ips: BTreeSet<IpNet>,
    /// Where packets to it go on the underlay, where that is known.
    endpoint: Option<SocketAddr>,
    /// When it last shook hands, where that is known.
    pub(super) last_handshake: Option<SystemTime>,
}

impl Eyes {
    /// What is known of the way to a peer.
    ///
    /// # Errors
    /// Why nothing is known of it.
    pub(super) fn way(&self, link: &LinkName, node: &Name, peer: &Peer) -> Result<&Heard, &str> {
        let known = self.ways.as_ref().map_err(String::as_str)?;
        let mut ways = known.ways.iter();
        let way = ways.find(|way| (&way.link, &way.node, Some(way.endpoint)) == (link, node, peer.endpoint));
        way.ok_or(if known.may_ask {
            "the daemon hasn't heard of it yet"
        } else {
            "the daemon may not ask: it needs CAP_NET_RAW"
        })
    }
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Routed {
    /// To the host itself.
    Local,
    /// Out by an interface, maybe to a router there.
    Out {
        device: LinkName,
        gateway: Option<IpAddr>,
        by: String,
        /// The route's own MTU in bytes.
        mtu: Option<u32>,
    },
    /// Nowhere, and why.
    Nowhere(String),
    /// It can't be told, and why.
    Unknown(String),
}

impl View {
    /// The host as the fleet wants it.
    pub(super) fn of_fleet(intent: HostIntent) -> Self {
        let devices = wireguard::compile(&intent).devices.into_iter();
        Self {
            l3: l3::compile(&intent, &l3::Facts::offline()),
            eyes: None,
            devices: Ok(devices
                .map(|(link, device)| {
                    let peers = device.peers.into_iter().map(|(key, peer)| {
                        let peer = Peer {
                            node: Some(peer.node),
                            allowed_ips: peer.allowed_ips,
                            endpoint: None,
                            last_handshake: None,
                        };
                        (key, peer)
                    });
                    (link, peers.collect())
                })
                .collect()),
            policies: Ok(Policy::all_of(&intent)),
            intent,
        }
    }

    /// The host as it is.
    pub(super) fn of_host(live: Live) -> Self {
        let wanted = wireguard::compile(&live.intent);
        let peers = wanted.devices.values().flat_map(|device| &device.peers);
        // While a peer changes its key, it is two.
        let keys = peers.flat_map(|(key, peer)| {
            let keys = [Some(*key), peer.next_public_key].into_iter().flatten();
            keys.map(|key| (key, peer.node.clone()))
        });
        let names: BTreeMap<PublicKey, Name> = keys.collect();
        let devices = live.wireguard.map(|actual| {
            let devices = actual.devices.into_iter().map(|(link, device)| {
                let peers = device.peers.into_iter().map(|(key, peer)| {
                    let peer = Peer {
                        node: names.get(&key).cloned(),
                        allowed_ips: peer.allowed_ips,
                        endpoint: peer.endpoint,
                        last_handshake: peer.last_handshake,
                    };
                    (key, peer)
                });
                (link, peers.collect())
            });
            devices.collect()
        });
        let policies = live
            .firewall
            .map(|actual| firewall::observed(actual.table.as_ref(), &Policy::all_of(&live.intent)));
        let routed = l3::compile(&live.intent, &l3::Facts::offline());
        let mut forwarding = BTreeMap::new();
        let (l3, interfaces, underlay) = match live.l3 {
            Ok(actual) => {
                let mapped = routed.mapped.into_iter();
                forwarding.extend(mapped.map(|key| (key, actual.forwarding.contains(&key.1))));
                (actual.state, actual.interfaces, actual.underlay)
            }
            // Its routes are asked of the kernel in any case.
            Err(_) => (routed, BTreeMap::new(), BTreeMap::new()),
        };
        let lan_addresses = interfaces.into_iter().flat_map(|(name, interface)| {
            let addresses = interface.addresses.into_iter();
            addresses.map(move |address| (name.clone(), address.address.addr()))
        });
        Self {
            eyes: Some(Eyes {
                now: live.now,
                foreign: live.foreign,
                lan_addresses: lan_addresses.collect(),
                underlay: underlay.into_keys().collect(),
                forwarding,
                ways: live.ways,
                routes: RefCell::default(),
                missing: RefCell::default(),
            }),
            l3,
            devices,
            policies,
            intent: live.intent,
        }
    }

    pub(super) const fn eyes(&self) -> Option<&Eyes> {
        self.eyes.as_ref()
    }

    pub(super) fn policies(&self) -> Result<&BTreeMap<NetworkId, Policy>, &str> {
        self.policies.as_ref().map_err(String::as_str)
    }

    /// Whether an address is this host's own in a network.
    pub(super) fn is_local(&self, network: NetworkId, address: IpAddr) -> bool {
        let mut links = self.l3.links.values().filter(|link| link.network == network);
        let on_lan = |lan: &LanIntent| {
            let own = (lan.interface.clone(), address);
            self.eyes
                .as_ref()
                .is_some_and(|eyes| eyes.lan_addresses.contains(&own))
        };
        let wanted = self.intent.networks.get(&network);
        links.any(|link| link.addresses.iter().any(|own| own.addr() == address))
            || wanted.is_some_and(|network| network.lans.iter().any(on_lan))
    }

    /// The interface of the LAN that an address is in.
    pub(super) fn lan_of(network: &NetworkIntent, address: IpAddr) -> Option<&LinkName> {
        let within = network.lans.iter().filter(|lan| lan.subnet.contains(&address));
        within
            .max_by_key(|lan| lan.subnet.prefix_len())
            .map(|lan| &lan.interface)
    }

    /// Where the host sends a packet.
    pub(super) fn route(
        &self,
        network: &NetworkIntent,
        source: IpAddr,
        destination: IpAddr,
        came_in: Option<&LinkName>,
    ) -> Routed {
        self.sent(network, (source, destination), came_in, None)
    }

    /// Where the host sends a packet, from one address to another, that our table has marked on its way through a port
    /// mapping.
    pub(super) fn marked(
        &self,
        network: &NetworkIntent,
        ends: (IpAddr, IpAddr),
        came_in: Option<&LinkName>,
        mark: u32,
    ) -> Routed {
        self.sent(network, ends, came_in, Some(mark))
    }

    fn sent(
        &self,
        network: &NetworkIntent,
        (source, destination): (IpAddr, IpAddr),
        came_in: Option<&LinkName>,
        mark: Option<u32>,
    ) -> Routed {
        let Some(eyes) = &self.eyes else {
            return self.route_of_fleet(network, destination);
        };
        let lookup = Lookup {
            network: network.id,
            source,
            destination,
            came_in: came_in.cloned(),
            mark,
        };
        Self::looked_up(eyes, lookup)
    }

    /// This host's addresses on the underlay, as far as it was looked at.
    pub(super) fn underlay(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let eyes = self.eyes.iter();
        eyes.flat_map(|eyes| eyes.underlay.iter().copied())
    }

    /// Whether some interface of the underlay forwards, for a network that needs that; none where it isn't known.
    pub(super) fn forwards(&self, network: NetworkId, is_v4: bool) -> Option<bool> {
        let family = if is_v4 { l3::Family::V4 } else { l3::Family::V6 };
        self.eyes.as_ref()?.forwarding.get(&(network, family)).copied()
    }

    /// What an interface of the underlay may be called: as no interface of a network is.
    pub(super) fn outside(&self) -> LinkName {
        let policies = self.policies.iter().flatten();
        let taken: BTreeSet<LinkName> = policies.flat_map(|(_, policy)| policy.interfaces()).collect();
        let names = (0..).filter_map(|n: u32| LinkName::new(&format!("underlay{n}")).ok());
        let mut free = names.filter(|name| !taken.contains(name));
        free.next().expect("one of infinitely many")
    }

    /// What the kernel said of a packet; until it was asked, that isn't known.
    fn looked_up(eyes: &Eyes, lookup: Lookup) -> Routed {
        let destination = lookup.destination;
        let found = eyes.routes.borrow().get(&lookup).cloned();
        match found {
            Some(Ok(Found::Local)) => Routed::Local,
            Some(Ok(Found::Out { device, gateway, mtu })) => Routed::Out {
                device,
                gateway,
                mtu,
                by: destination.to_string(),
            },
            Some(Ok(Found::Nowhere(why))) => Routed::Nowhere(why),
            Some(Err(error)) => Routed::Unknown(error),
            None => {
                eyes.missing.borrow_mut().insert(lookup);
                Routed::Unknown("its route wasn't looked up".to_owned())
            }
        }
    }

    /// The routes that were asked for and aren't known yet; from now on they aren't asked for.
    pub(super) fn take_missing(&self) -> BTreeSet<Lookup> {
        self.eyes
            .as_ref()
            .map(|eyes| eyes.missing.take())
            .unwrap_or_default()
    }

    pub(super) fn learn(&self, lookup: Lookup, found: Result<Found, String>) {
        if let Some(eyes) = &self.eyes {
            eyes.routes.borrow_mut().insert(lookup, found);
        }
    }

    /// Where the network's table sends a packet: the longest prefix, then the lowest metric.
    fn route_of_fleet(&self, network: &NetworkIntent, destination: IpAddr) -> Routed {
        if self.is_local(network.id, destination) {
            return Routed::Local;
        }
        let routes = self.l3.routes.iter();
        let within =
            routes.filter(|(key, _)| key.table == network.table && key.destination.contains(&destination));
        let best =
            within.max_by_key(|(key, _)| (key.destination.prefix_len(), std::cmp::Reverse(key.metric)));
        let nowhere = |what: &str| Routed::Nowhere(format!("{what} in table {}", network.table));
        let Some((key, route)) = best else {
            return nowhere(&format!("no route to {destination}"));
        };
        match &route.to {
            l3::RouteTo::Link {
                device, gateway, mtu, ..
            } => Routed::Out {
                device: device.clone(),
                gateway: *gateway,
                mtu: *mtu,
                by: key.destination.to_string(),
            },
            l3::RouteTo::Unreachable | l3::RouteTo::Elsewhere => nowhere(&format!(
                "no route to {destination} but {}, unreachable,",
                key.destination
            )),
        }
    }

    /// The peer of a link that carries an address: the longest prefix, as WireGuard looks it up.
    ///
    /// # Errors
    /// The devices can't be read.
    pub(super) fn carrier(
        &self,
        link: &LinkName,
        address: IpAddr,
    ) -> Result<Option<(&PublicKey, &Peer)>, &str> {
        let devices = self.devices.as_ref().map_err(String::as_str)?;
        let peers = devices.get(link).into_iter().flatten();
        let longest = |peer: &Peer| {
            let within = peer.allowed_ips.iter().filter(|net| net.contains(&address));
            within.map(IpNet::prefix_len).max()
        };
        let carriers = peers.filter_map(|(key, peer)| Some((longest(peer)?, key, peer)));
        let longest = carriers.max_by_key(|(length, _, _)| *length);
        Ok(longest.map(|(_, key, peer)| (key, peer)))
    }

    /// The link on which one of these keys is a peer.
    ///
    /// # Errors
    /// The devices can't be read.
    pub(super) fn link_to<'a>(
        &self,
        network: &'a NetworkIntent,
        keys: &[PublicKey],
    ) -> Result<Option<&'a LinkName>, &str> {
        let devices = self.devices.as_ref().map_err(String::as_str)?;
        Ok(network.links.iter().find_map(|link| {
            let peers = devices.get(&link.name)?;
            let is_peer = keys.iter().any(|key| peers.contains_key(key));
            is_peer.then_some(&link.name)
        }))
    }

    /// The keys by which others know this host.
    pub(super) fn keys(&self) -> Vec<PublicKey> {
        let next = self.intent.next_public_key;
        std::iter::once(self.intent.public_key).chain(next).collect()
    }

    /// The MTU of a link in bytes, where it is ours.
    pub(super) fn mtu(&self, link: &LinkName) -> Option<u32> {
        self.l3.links.get(link)?.mtu
    }
}
