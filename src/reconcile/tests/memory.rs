//! A host in memory: the kernel's manners from the planes' own models, and after each change a look at what is open.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::model::ownership::{LINK_ALIAS, ROUTE_PROTOCOL};
use crate::model::{LinkName, PrivateKey};
use crate::planes::firewall::tests::interpreter::{Hook, Seen, passes};
use crate::planes::firewall::{self, Packet, Table};
use crate::planes::l3::kernel::Kernel;
use crate::planes::l3::{self, LinkType, Op};
use crate::planes::{PlaneName, Ways, wireguard};
use crate::reconcile::uplinks::Choices;
use crate::reconcile::{Change, Host, Observation, Target};
use crate::sys::wg;
use sha2::{Digest as _, Sha256};

/// The private key of node `me`.
pub(super) fn key() -> PrivateKey {
    PrivateKey::from_random([7; 32])
}

pub(super) struct MemoryHost {
    pub(super) kernel: Kernel,
    pub(super) wg: wg::Memory,
    pub(super) table: Option<Table>,
    verified: Option<firewall::Verified>,
    /// Which uplinks were chosen.
    pub(super) uplinks: Choices,
    /// The plane that can't be read.
    pub(super) unreadable: Option<PlaneName>,
    /// How many changes were asked for.
    pub(super) written: usize,
    /// The change, counted from now, that fails.
    pub(super) fail_in: Option<usize>,
    /// Which changes fail.
    pub(super) fail_when: Option<fn(&Change) -> bool>,
    /// What was there before, and what shall be: nothing beyond both may be open.
    watched: Option<[Open; 2]>,
}

/// What a host lets in and out: what it was, or what it shall be.
#[derive(Clone)]
pub(super) struct Open {
    /// By link and peer.
    peers: BTreeMap<(LinkName, [u8; 32]), BTreeSet<ipnet::IpNet>>,
    routes: BTreeSet<String>,
    table: Option<Table>,
    links: BTreeSet<String>,
    slaves: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl MemoryHost {
    /// The kernel model's host, with LAN interfaces `lan1` to `lan3`.
    pub(super) fn new() -> Self {
        let mut kernel = Kernel::new();
        for n in 1..=3 {
            let lan = LinkName::new(&format!("lan{n}")).unwrap();
            kernel.add_device(&lan, None, None, 0);
            let device = kernel.devices.get_mut(&lan).unwrap();
            device.up = true;
            let addresses = [format!("10.{n}0.0.1/16"), format!("fd00:{n}::1/64")];
            device
                .addresses
                .extend(addresses.iter().map(|text| text.parse::<ipnet::IpNet>().unwrap()));
        }
        Self {
            kernel,
            wg: wg::Memory::default(),
            table: None,
            verified: None,
            uplinks: Choices::new(),
            unreadable: None,
            written: 0,
            fail_in: None,
            fail_when: None,
            watched: None,
        }
    }

    /// The links of ours.
    pub(super) fn ours(&self) -> BTreeSet<LinkName> {
        let devices = self.kernel.devices.iter();
        devices
            .filter(|(_, device)| device.alias.as_deref() == Some(LINK_ALIAS))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// What is foreign and no part of any network: interfaces that are no LANs, routes and rules.
    pub(super) fn others(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let kernel = &self.kernel;
        let is_lan = |name: &LinkName| name.as_str().starts_with("lan");
        let devices: Vec<_> = kernel
            .devices
            .iter()
            .filter(|(name, device)| device.alias.is_none() && !is_lan(name))
            .map(|(name, device)| (name.clone(), device.clone()))
            .collect();
        let routes: Vec<_> = kernel
            .routes
            .iter()
            .filter(|(key, (protocol, _))| *protocol != ROUTE_PROTOCOL || key.table == 500)
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect();
        let rules: Vec<_> = kernel
            .rules
            .iter()
            .filter(|(protocol, _)| *protocol == 4)
            .cloned()
            .collect();
        // An interface keeps its addresses wherever it goes.
        let addresses: Vec<_> = kernel
            .devices
            .iter()
            .filter(|(name, _)| is_lan(name))
            .map(|(name, device)| (name.clone(), device.addresses.clone(), device.up))
            .collect();
        (devices, routes, rules, addresses)
    }

    /// What nft would list of each chain.
    pub(super) fn bodies(&self) -> firewall::Verified {
        let chains = self.table.iter().flat_map(|table| &table.chains);
        chains
            .map(|(name, chain)| {
                let text: String = chain
                    .rules
                    .iter()
                    .map(|rule| format!("{:?}\n", rule.line))
                    .collect();
                let digest = Sha256::digest(text);
                (name.clone(), std::array::from_fn(|n| digest[n]))
            })
            .collect()
    }

    fn observe_firewall(&self) -> firewall::Actual {
        let mut table = self.table.clone();
        let chains = table.iter_mut().flat_map(|table| table.chains.values_mut());
        for rule in chains.flat_map(|chain| &mut chain.rules) {
            rule.line = None;
        }
        firewall::Actual {
            table,
            bodies: self.bodies(),
            ..firewall::Actual::default()
        }
    }

    /// From now on, nothing may be open beyond what is now and what `target` wants.
    pub(super) fn watch(&mut self, target: &Target) {
        self.watched = Some([self.open(), Open::of(target)]);
    }

    pub(super) fn unwatch(&mut self) {
        self.watched = None;
    }

    fn open(&self) -> Open {
        let mut open = Open {
            peers: BTreeMap::new(),
            routes: BTreeSet::new(),
            table: self.table.clone(),
            links: BTreeSet::new(),
            slaves: BTreeSet::new(),
            addresses: BTreeSet::new(),
            ports: BTreeSet::new(),
        };
        for (name, device) in &self.kernel.devices {
            if let Ok(info) = self.wg.read(name.as_str()) {
                let peers = info.peers.into_iter();
                open.peers
                    .extend(peers.map(|(key, peer)| ((name.clone(), key), peer.allowed_ips)));
            }
            if device.up {
                open.links.insert(name.to_string());
            }
            if device.master.is_some() {
                open.slaves.insert(name.to_string());
            }
        }
        for (key, (protocol, to)) in &self.kernel.routes {
            if *protocol == ROUTE_PROTOCOL && key.table != 500 {
                open.routes.insert(route(key, to));
            }
        }
        open
    }

    /// Whether nothing is open beyond what was and what shall be.
    fn check(&self, change: &Change) {
        let Some([old, new]) = &self.watched else { return };
        let now = self.open();
        let none = BTreeSet::new();
        for (peer, allowed) in &now.peers {
            assert!(
                old.peers.contains_key(peer) || new.peers.contains_key(peer),
                "{peer:?} after {change}"
            );
            let known = |open: &Open, net| open.peers.get(peer).unwrap_or(&none).contains(net);
            for net in allowed {
                assert!(
                    known(old, net) || known(new, net),
                    "{peer:?} carries {net} after {change}"
                );
            }
        }
        for route in &now.routes {
            assert!(
                old.routes.contains(route) || new.routes.contains(route),
                "route {route} after {change}"
            );
        }
        let moves = matches!(
            change,
            Change::L3(l3::Change {
                op: Op::SetUp { .. }
                    | Op::SetMaster { .. }
                    | Op::JoinLan { .. }
                    | Op::ReleaseLan { .. }
                    | Op::DeleteLink { .. },
                ..
            })
        );
        if moves || change.plane() == PlaneName::Firewall {
            for seen in samples(old, new, self.written) {
                if now.passes(&seen) {
                    assert!(
                        old.passes(&seen) || new.passes(&seen),
                        "{seen:?} passes after {change}"
                    );
                }
            }
        }
    }

    async fn apply_one(&mut self, change: &Change) -> Result<(), String> {
        self.written += 1;
        if let Some(left) = &mut self.fail_in {
            if *left == 0 {
                self.fail_in = None;
                return Err("injected".to_owned());
            }
            *left -= 1;
        }
        if self.fail_when.is_some_and(|fails| fails(change)) {
            return Err("injected".to_owned());
        }
        match change {
            Change::L3(change) => {
                self.kernel.apply(change)?;
                match &change.op {
                    Op::AddLink {
                        link,
                        kind: LinkType::Wireguard { .. },
                        ..
                    } => self.wg.create(link.as_str()),
                    Op::DeleteLink { link, .. } => self.wg.remove(link.as_str()),
                    _ => {}
                }
            }
            Change::Wireguard(change) => {
                let backend = wg::Backend::Memory(self.wg.clone());
                let done = wireguard::apply(change, &backend, &key()).await;
                done.map_err(|error| error.to_string())?;
            }
            Change::Firewall(change) => self.apply_firewall(change),
        }
        Ok(())
    }

    fn apply_firewall(&mut self, change: &firewall::Change) {
        match change {
            firewall::Change::Install(t) | firewall::Change::Narrow(t) | firewall::Change::Widen(t) => {
                self.table = Some(t.result.as_deref().expect("these leave a table").clone());
            }
            firewall::Change::Remove(_) => self.table = None,
            firewall::Change::CutFlows(cut) => {
                if let Some(table) = self.table.as_mut().filter(|_| cut.marked) {
                    table.counters.remove(&firewall::names::cut_mark(cut.network));
                }
            }
        }
    }
}

fn route(key: &l3::RouteKey, to: &l3::RouteTo) -> String {
    // A source is a preference: it opens nothing.
    let to = match to {
        l3::RouteTo::Link { device, gateway, .. } => format!("{device} {gateway:?}"),
        l3::RouteTo::Unreachable | l3::RouteTo::Elsewhere => format!("{to:?}"),
    };
    format!("{} {} {} {to}", key.table, key.destination, key.metric)
}

impl Open {
    fn of(target: &Target) -> Self {
        let devices = target.wireguard.devices.iter();
        let peers = devices.flat_map(|(link, device)| {
            let peers = device.peers.iter();
            peers.map(|(key, peer)| ((link.clone(), key.0), peer.allowed_ips.clone()))
        });
        let foreign = ["eth0", "eth1", "eth2", "eth3", "lan1", "lan2", "lan3"].map(str::to_owned);
        let links = target.l3.links.iter();
        let slaves = links
            .clone()
            .filter(|(_, link)| link.master.is_some())
            .map(|(name, _)| name.to_string());
        let lans = target.l3.lans.iter().filter(|(_, lan)| lan.master.is_some());
        let mut addresses = BTreeSet::new();
        let mut ports = BTreeSet::new();
        for network in target.intent.networks.values() {
            let firewall = &network.firewall;
            let sets = firewall.rules.iter().flat_map(|rule| [&rule.from, &rule.to]);
            let nets = sets
                .chain([&firewall.own, &firewall.bound])
                .flat_map(crate::model::AddressSet::iter);
            addresses.extend(nets.map(|net| net.hosts().next().unwrap_or(net.addr())));
            ports.extend(
                firewall
                    .rules
                    .iter()
                    .flat_map(|rule| rule.ports.iter().map(|range| range.first)),
            );
        }
        Self {
            peers: peers.collect(),
            routes: target
                .l3
                .routes
                .iter()
                .map(|(key, to)| route(key, &to.to))
                .collect(),
            table: target.firewall.table.clone(),
            links: links.map(|(name, _)| name.to_string()).chain(foreign).collect(),
            slaves: slaves.chain(lans.map(|(name, _)| name.to_string())).collect(),
            addresses,
            ports,
        }
    }

    /// Whether its links are up, and the table lets it pass.
    fn passes(&self, seen: &Seen) -> bool {
        let up = match &seen.hook {
            Hook::Input(link) | Hook::Output(link) => self.links.contains(link),
            Hook::Forward(from, to) => self.links.contains(from) && self.links.contains(to),
        };
        up && passes(self.table.as_ref(), &self.slaves, seen)
    }
}

/// Packets between what either side knows.
fn samples(old: &Open, new: &Open, salt: usize) -> Vec<Seen> {
    let mut random = super::fleets::Random(salt as u64);
    let mut pick = |n: usize| usize::try_from(random.below(n as u64)).unwrap();
    // A packet comes in by a slave and leaves by one; the VRF itself is on neither side.
    let is_vrf = |link: &&String| link.starts_with(crate::model::naming::VRF_PREFIX);
    let links: Vec<String> = old
        .links
        .union(&new.links)
        .filter(|link| !is_vrf(link))
        .cloned()
        .collect();
    let mut addresses: Vec<IpAddr> = old.addresses.union(&new.addresses).copied().collect();
    addresses.extend(["198.51.100.7", "2001:db8::7"].map(|text| text.parse::<IpAddr>().unwrap()));
    let mut ports: Vec<u16> = old.ports.union(&new.ports).copied().collect();
    ports.push(22);
    let mut samples = Vec::new();
    for _ in 0..24 {
        let source = addresses[pick(addresses.len())];
        let family: Vec<IpAddr> = addresses
            .iter()
            .filter(|address| address.is_ipv4() == source.is_ipv4())
            .copied()
            .collect();
        let (link, other) = (links[pick(links.len())].clone(), links[pick(links.len())].clone());
        let icmp = if source.is_ipv4() { 1 } else { 58 };
        let protocol = [6, 17, icmp][pick(3)];
        let packet = Packet {
            source,
            destination: family[pick(family.len())],
            protocol,
            port: if protocol == icmp {
                0
            } else {
                ports[pick(ports.len())]
            },
        };
        let hook = match pick(3) {
            0 => Hook::Input(link),
            1 => Hook::Output(link),
            _ => Hook::Forward(link, other),
        };
        samples.push(Seen {
            hook,
            packet,
            mapped: None,
        });
    }
    samples
}

impl Host for MemoryHost {
    async fn observe(&mut self, target: &Target) -> Observation {
        let refuse = |plane| {
            let refused = self.unreadable == Some(plane);
            if refused {
                Err("injected".to_owned())
            } else {
                Ok(())
            }
        };
        let l3 = refuse(PlaneName::L3).map(|()| self.kernel.observe(&target.l3));
        let wireguard = match (&l3, refuse(PlaneName::Wireguard)) {
            (Ok(actual), Ok(())) => {
                let links = target.wireguard.devices.keys();
                let links = links.filter(|link| actual.state.links.contains_key(*link));
                let found = wireguard::observe(&wg::Backend::Memory(self.wg.clone()), links).await;
                found.map_err(|error| error.to_string())
            }
            (Err(error), _) => Err(error.clone()),
            (Ok(_), Err(error)) => Err(error),
        };
        Observation {
            l3,
            wireguard,
            firewall: refuse(PlaneName::Firewall).map(|()| self.observe_firewall().into()),
            names: wireguard::Names::new(),
            ways: Ways::new(),
            calls: wireguard::Calls::new(),
            protected: BTreeSet::new(),
            verified: self.verified.clone(),
            uplinks: self.uplinks.clone(),
            holes: crate::reconcile::holes::Holes::new(),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
        }
    }

    async fn apply(&mut self, changes: &[&Change]) -> Vec<Result<(), String>> {
        let mut results = Vec::new();
        for change in changes {
            results.push(self.apply_one(change).await);
            self.check(change);
        }
        results
    }

    fn verified(&mut self, observation: &Observation) {
        if let Ok(actual) = &observation.firewall {
            self.verified = Some(actual.bodies.clone());
        }
    }
}
