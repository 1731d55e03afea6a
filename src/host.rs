//! The real host: the planes over netlink, WireGuard and nft. Built by the daemon, and by commands where none runs.

pub(crate) mod agreements;
mod clock;
pub(crate) mod doctor;
mod events;
pub(crate) mod explain;
pub(crate) mod files;
mod holes;
mod keys;
mod locks;
mod resolver;
mod session;
mod underlay;
mod ways;

pub use clock::{system_now, unix_now};
pub use events::Events;
pub use keys::Followed;
pub use locks::Locks;
pub use session::session_interfaces;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use tokio::sync::watch;

use clock::{instant, moment};
use resolver::Resolver;

use crate::config;
use crate::intent::{self, HostIntent, IntentError, IsolationMode, PathMtus, Underlay};
use crate::log::{Event, lap};
use crate::model::fleet::FleetDigest;
use crate::model::host::{HostConfig, IsolationBackend, WireguardBackend};
use crate::model::{Fleet, LinkName, PrivateKey, PublicKey, ownership};
use crate::planes::{PlaneName, Ways, firewall, l3, wireguard};
use crate::reconcile::holes::Known;
use crate::reconcile::uplinks::{Choices, Uplinks};
use crate::reconcile::{Change, Host, Observation, Target};
use crate::report::chain;
use crate::report::status::{Backends, WireguardKind};
use crate::sys::conntrack::Conntrack;
use crate::sys::neighbour::{self, Asked};
use crate::sys::netlink::{Netlink, NetlinkError};
use crate::sys::nft::Nft;
use crate::sys::sysctl::Sysctls;
use crate::sys::wg;

/// How long `nft` and `conntrack` may take: 50,000 rules take a few seconds.
const TOOL_TIME: Duration = Duration::from_secs(30);

/// Where `wg(8)` looks for the sockets of userspace devices.
const UAPI_FOLDER: &str = "/var/run/wireguard";

/// Who opens the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The daemon, which can hold userspace devices.
    Daemon,
    /// A command that ends.
    Command,
}

/// Why the host can't be had.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// rtnetlink can't be used.
    #[error("rtnetlink")]
    Netlink(#[from] NetlinkError),
    /// The kernel's parameters can't be read.
    #[error("kernel parameters")]
    Parameters(#[from] l3::L3Error),
    /// The kernel's WireGuard can't be talked to.
    #[error("kernel WireGuard")]
    Wireguard(#[from] wg::WgError),
    /// The configuration asks for what the kernel lacks.
    #[error("{what} is asked for, and this kernel has none: {fix}")]
    Missing {
        /// What is missing.
        what: &'static str,
        /// What to do.
        fix: &'static str,
    },
    /// nftables' events can't be had.
    #[error("nftables events: run as root, with nf_tables in the kernel")]
    Nft(#[source] std::io::Error),
}

/// The host itself.
pub struct RealHost {
    netlink: Netlink,
    sysctls: Sysctls,
    applier: l3::Applier,
    l3_facts: l3::Facts,
    nft: Nft,
    conntrack: Conntrack,
    wg: wg::Backend,
    owner: Owner,
    isolation: IsolationMode,
    dummies: bool,
    key: Option<PrivateKey>,
    protected: BTreeSet<LinkName>,
    verified: Option<firewall::Verified>,
    listing: Option<firewall::Listing>,
    resolver: Resolver,
    attempts: wireguard::Attempts,
    uplinks: Uplinks,
    sizes: ways::Sizes,
    holes: holes::Looks,
    paths: PathMtus,
    agreed: agreements::Agreed,
    /// The networks that this host is in, by the last look; none where that failed.
    underlay: Option<Underlay>,
    /// The tables in which the routes of others matter, for who listens to events.
    followed: watch::Sender<BTreeSet<u32>>,
    key_looks: keys::Looks,
}

impl RealHost {
    /// Opens the host and finds out what it can do.
    ///
    /// # Errors
    /// netlink can't be used, or the configuration asks for what the kernel lacks.
    pub async fn open(own: &HostConfig, owner: Owner) -> Result<Self, HostError> {
        let netlink = Netlink::open()?;
        let kernel_wireguard = netlink.supports_link_kind("wireguard").await?;
        let kernel_vrf = netlink.supports_link_kind("vrf").await?;
        let dummies = netlink.supports_link_kind("dummy").await?;
        let wg = match (own.wireguard_backend, kernel_wireguard) {
            (WireguardBackend::Kernel, false) => {
                return Err(HostError::Missing {
                    what: "[wireguard] backend = \"kernel\"",
                    fix: "load the module (`modprobe wireguard`), or use backend = \"userspace\"",
                });
            }
            (WireguardBackend::Kernel | WireguardBackend::Auto, true) => {
                wg::Backend::Kernel(wg::Kernel::connect()?)
            }
            (WireguardBackend::Userspace, _) | (WireguardBackend::Auto, false) => {
                let devices = wg::Userspace::new(UAPI_FOLDER.into());
                wg::Backend::Userspace(match owner {
                    Owner::Daemon => devices,
                    // The daemon has them.
                    Owner::Command => devices.asking_others(),
                })
            }
        };
        let isolation = match (own.isolation.backend, kernel_vrf) {
            (IsolationBackend::Vrf, false) => {
                return Err(HostError::Missing {
                    what: "[isolation] backend = \"vrf\"",
                    fix: "load the module (`modprobe vrf`), or use backend = \"rules\"",
                });
            }
            (IsolationBackend::Vrf | IsolationBackend::Auto, true) => IsolationMode::Vrf,
            (IsolationBackend::Rules, _) | (IsolationBackend::Auto, false) => IsolationMode::Rules,
        };
        let sysctls = Sysctls::default();
        let (backend, devices): (_, Arc<dyn l3::UserspaceLinks>) = match (&wg, owner) {
            (wg::Backend::Userspace(userspace), Owner::Daemon) => {
                (l3::Backend::Userspace, Arc::new(Devices(userspace.clone())))
            }
            (wg::Backend::Userspace(_), Owner::Command) => {
                (l3::Backend::Userspace, Arc::new(l3::NoUserspaceLinks))
            }
            (wg::Backend::Kernel(_) | wg::Backend::Memory(_), _) => {
                (l3::Backend::Kernel, Arc::new(l3::NoUserspaceLinks))
            }
        };
        Ok(Self {
            l3_facts: l3::observe_facts(&sysctls, backend)?,
            applier: l3::Applier::new(netlink.clone(), sysctls.clone(), devices),
            netlink,
            sysctls,
            nft: Nft::new(TOOL_TIME),
            conntrack: Conntrack::new(TOOL_TIME),
            wg,
            owner,
            isolation,
            dummies,
            key: None,
            protected: BTreeSet::new(),
            verified: None,
            listing: None,
            resolver: Resolver::new(owner),
            attempts: wireguard::Attempts::default(),
            uplinks: Uplinks::new(owner == Owner::Daemon),
            sizes: ways::Sizes::default(),
            holes: holes::Looks::default(),
            paths: PathMtus::new(),
            agreed: agreements::Agreed::first(own, unix_now()),
            underlay: None,
            followed: watch::Sender::new(BTreeSet::new()),
            key_looks: keys::Looks::default(),
        })
    }

    /// Removes what a killed daemon left behind that no plan sees: sockets of its embedded devices. The caller holds the
    /// locks.
    pub async fn sweep(&self) {
        let is_ours =
            |name: &str| LinkName::new(name).is_ok_and(|name| ownership::link_class(&name).is_some());
        wg::sweep(Path::new(UAPI_FOLDER), is_ours).await;
    }

    /// Takes this host's private key.
    pub fn set_key(&mut self, key: PrivateKey) {
        self.key = Some(key);
    }

    /// The public half of this host's private key, once it was read.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        self.key.as_ref().map(PrivateKey::public)
    }

    /// Reads again what other sites have agreed to; whether anything else is in force than before.
    pub fn refresh_agreements(&mut self, own: &HostConfig) -> bool {
        self.agreed.refresh(own, unix_now())
    }

    /// Looks at the networks that this host is in, where they matter to bridges of the fleet; whether they are others than
    /// before. Until they could be read once, such bridges are left out; a look that fails later changes nothing.
    pub async fn look_at_underlay(&mut self, fleet: &Fleet) -> bool {
        if !self.minds_underlay(fleet) {
            return false;
        }
        match underlay::look(&self.netlink).await {
            Ok(seen) => {
                let is_new = self.underlay.as_ref() != Some(&seen);
                self.underlay = Some(seen);
                is_new
            }
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "the networks that this host is in can't be read"
                );
                false
            }
        }
    }

    /// Whether the fleet has bridges that the networks of this host may be in the way of.
    #[must_use]
    pub fn minds_underlay(&self, fleet: &Fleet) -> bool {
        intent::underlay_matters(fleet, self.isolation)
    }

    /// Names the interfaces that must not be enslaved: the asking session comes through them.
    pub fn protect(&mut self, interfaces: BTreeSet<LinkName>) {
        self.protected = interfaces;
    }

    /// Which mechanisms run.
    #[must_use]
    pub fn backends(&self) -> Backends {
        Backends {
            wireguard: match self.wg.kind() {
                wg::BackendKind::Kernel | wg::BackendKind::Memory => WireguardKind::Kernel,
                wg::BackendKind::Userspace => WireguardKind::Userspace,
            },
            isolation: self.isolation,
        }
    }

    /// What this host should be like, as far as whoever opened it can see to that.
    ///
    /// # Errors
    /// The fleet doesn't know this node.
    pub fn target(&self, own: &HostConfig, fleet: &Fleet) -> Result<Target, IntentError> {
        Ok(self.fit(self.wanted(own, fleet)?))
    }

    /// What this host should be like.
    ///
    /// # Errors
    /// The fleet doesn't know this node.
    pub fn wanted(&self, own: &HostConfig, fleet: &Fleet) -> Result<Target, IntentError> {
        let _compiling = lap("compiling what the fleet wants of this host");
        let facts = intent::Facts {
            isolation: self.isolation,
            host_services_in_vrf: own.isolation.host_services_in_vrf,
            dummies: self.dummies,
            agreements: self.agreed.in_force(),
            gateway: own.federation.as_ref().map(|federation| intent::GatewayFacts {
                port: federation.listen.port(),
                allow_dial: federation.allow_dial.clone(),
            }),
            underlay: self.underlay.clone(),
        };
        let mut intent = intent::compile(fleet, &own.node, &facts)?;
        intent
            .notices
            .extend(self.agreed.problem().map(|text| intent::Notice {
                network: None,
                object: "agreements".to_owned(),
                text,
            }));
        let key = self.key.as_ref().map_or(intent.public_key, PrivateKey::public);
        let target = Target::new(intent, key, &self.l3_facts);
        Ok(target.fitted(&self.paths, &self.l3_facts).unwrap_or(target))
    }

    /// The target with links as large as the ways to peers take, by the last look; none where they are. The ways to peers
    /// are no part of the fleet: they are seen only once its peers are there.
    #[must_use]
    pub fn fitted(&self, target: &Target) -> Option<Target> {
        let fitted = target.fitted(&self.paths, &self.l3_facts)?;
        Some(self.fit(Target {
            intent: HostIntent {
                notices: target.intent.notices.clone(),
                ..fitted.intent
            },
            ..fitted
        }))
    }

    /// What the host is like, and the target with links as large as the ways to its peers take.
    pub async fn observe_fitted(&mut self, target: Target) -> (Target, Observation) {
        let observation = self.observe(&target).await;
        let Some(fitted) = self.fitted(&target) else {
            return (target, observation);
        };
        let observation = self.observe(&fitted).await;
        (fitted, observation)
    }

    /// What reading the files brought up is worth knowing wherever the target is shown.
    #[must_use]
    pub fn noted(mut target: Target, notices: &[config::Notice]) -> Target {
        let found = notices.iter().map(|notice| intent::Notice {
            network: None,
            object: notice.object.clone().unwrap_or_else(|| "sdwand.toml".to_owned()),
            text: format!("{} in {}:{}", notice.message, notice.file.display(), notice.line),
        });
        target.intent.notices.extend(found);
        target.intent.notices.sort();
        target.intent.notices.dedup();
        target
    }

    /// A command can't hold userspace devices: the daemon does.
    fn fit(&self, target: Target) -> Target {
        match (&self.wg, self.owner) {
            (wg::Backend::Userspace(_), Owner::Command) => target.without_userspace_links(),
            (wg::Backend::Userspace(_) | wg::Backend::Kernel(_) | wg::Backend::Memory(_), _) => target,
        }
    }

    /// What this host is like without anything of ours.
    #[must_use]
    pub fn nothing(&self, own: &HostConfig) -> Target {
        let key = self.key.as_ref().map_or(PublicKey([0; 32]), PrivateKey::public);
        let intent = HostIntent {
            node: own.node.clone(),
            public_key: key,
            next_public_key: None,
            fleet_digest: FleetDigest([0; 32]),
            networks: BTreeMap::new(),
            host_services_in_vrf: false,
            blocked: Vec::new(),
            notices: Vec::new(),
        };
        Target::new(intent, key, &self.l3_facts)
    }

    /// What the l3 plane needs to know of this host.
    #[must_use]
    pub const fn l3_facts(&self) -> &l3::Facts {
        &self.l3_facts
    }

    /// How long until something is due that no event tells: a peer that doesn't answer is called elsewhere.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.attempts.due(instant())
    }

    /// Forgets what was read of the firewall: the next look shows its counts, too, as they are then.
    pub fn count_anew(&mut self) {
        self.listing = None;
    }

    /// Looks at the uplinks of networks with several, and asks the hubs that said nothing since the last look. The
    /// answer is which uplinks shall carry; none of it is written.
    pub async fn look_at_uplinks(&mut self, target: &Target) -> Choices {
        let links: Vec<LinkName> = self.uplinks.links().cloned().collect();
        let seen = wireguard::observe(&self.wg, &links).await;
        let choices = self
            .uplinks
            .look(&target.intent, None, seen.as_ref().ok(), moment());
        for (link, hub) in self.uplinks.questions() {
            match neighbour::solicit(link.as_str(), hub) {
                Asked::Sent | Asked::NoWay(_) => self.uplinks.asked(&link, moment().steady),
                Asked::NotAllowed => {
                    Event::UplinkNotAsked.emit();
                    self.uplinks.ask_no_more();
                }
            }
        }
        choices
    }

    async fn observe_links(
        &self,
        target: &Target,
    ) -> (Result<l3::Actual, String>, Result<wireguard::Actual, String>) {
        // Before anything is read: what changes meanwhile is heard.
        let followed: BTreeSet<u32> = target.l3.followed.keys().copied().collect();
        self.followed.send_if_modified(|known| {
            let is_new = *known != followed;
            if is_new {
                *known = followed;
            }
            is_new
        });
        let reading = lap("reading links, addresses, routes, rules, parameters");
        let l3 = l3::observe(&self.netlink, &self.sysctls, &target.l3)
            .await
            .map_err(|error| chain(&error));
        drop(reading);
        let wireguard = self.observe_devices(target, &l3).await;
        (l3, wireguard)
    }

    async fn observe_devices(
        &self,
        target: &Target,
        l3: &Result<l3::Actual, String>,
    ) -> Result<wireguard::Actual, String> {
        let _reading = lap("reading WireGuard devices");
        match l3 {
            // Only what is ours is read as ours.
            Ok(actual) => {
                let links = target
                    .wireguard
                    .devices
                    .keys()
                    .filter(|link| actual.state.links.contains_key(*link));
                wireguard::observe(&self.wg, links)
                    .await
                    .map_err(|error| chain(&error))
            }
            Err(error) => Err(format!("its links can't be read: {error}")),
        }
    }

    async fn observe_firewall(&mut self) -> Result<Arc<firewall::Actual>, String> {
        let last = self.listing.take();
        let listing = read_firewall(&self.nft, last).await?;
        Ok(Arc::clone(&self.listing.insert(listing).actual))
    }

    /// What was read of every plane, with what else a plan asks.
    async fn observed(
        &mut self,
        target: &Target,
        l3: Result<l3::Actual, String>,
        wireguard: Result<wireguard::Actual, String>,
        firewall: Result<Arc<firewall::Actual>, String>,
    ) -> Observation {
        let uplinks = self.uplinks.look(
            &target.intent,
            l3.as_ref().ok(),
            wireguard.as_ref().ok(),
            moment(),
        );
        let _looking = lap("looking at the ways to peers");
        let now = system_now();
        let names = match &wireguard {
            Ok(actual) => wireguard::stale_names(&target.wireguard, actual, now),
            Err(_) => BTreeSet::new(),
        };
        let names = self.resolver.resolve(names).await;
        let (ways, calls) = match &wireguard {
            Ok(actual) => {
                let calls = self.attempts.note(&target.wireguard, actual, now, instant());
                (self.look_at_ways(target, actual, &names, now).await, calls)
            }
            Err(_) => (Ways::new(), wireguard::Calls::new()),
        };
        Observation {
            l3,
            wireguard,
            firewall,
            names,
            ways,
            calls,
            protected: self.protected.clone(),
            verified: self.verified.clone(),
            uplinks,
            holes: self.holes.holes().clone(),
            now,
        }
    }

    /// Looks for ways that swallow large packets, beside the rounds and no more often than `every`.
    pub async fn look_for_holes(&mut self, target: &Target, seen: &Observation, every: Duration) {
        if let Ok(actual) = &seen.wireguard {
            self.holes
                .go_on(target, actual, (seen.now, instant()), every)
                .await;
        }
    }

    /// What is known of the ways to peers.
    #[must_use]
    pub fn known_ways(&self) -> Known {
        self.holes.known()
    }

    /// The ways to addresses that a plan depends on; what they take is remembered for [`Self::fitted`].
    async fn look_at_ways(
        &mut self,
        target: &Target,
        actual: &wireguard::Actual,
        names: &wireguard::Names,
        now: SystemTime,
    ) -> Ways {
        let peers = wireguard::whereabouts(&target.wireguard, actual, names, now);
        let addresses = peers.values().flat_map(|peers| peers.values()).flatten();
        let wanted: BTreeSet<IpAddr> = addresses.copied().collect();
        let mut addresses = wireguard::stale_addresses(&target.wireguard, actual, names, now);
        addresses.extend(self.sizes.due(&wanted));
        let ways = ways::look(&self.netlink, addresses).await;
        self.sizes.take(&wanted, &ways);
        self.paths = wireguard::path_mtus(&peers, &self.sizes.known());
        ways
    }

    async fn apply_wireguard(&self, changes: &[wireguard::Change]) -> Vec<Result<(), String>> {
        let Some(key) = &self.key else {
            return changes
                .iter()
                .map(|_| Err("no private key was read".to_owned()))
                .collect();
        };
        if wireguard::apply_all(changes, &self.wg, key).await.is_ok() {
            return changes.iter().map(|_| Ok(())).collect();
        }
        // Which one was it? Done one by one they tell; what was done already is done again without harm.
        let mut results = Vec::new();
        for change in changes {
            results.push(
                wireguard::apply(change, &self.wg, key)
                    .await
                    .map_err(|error| chain(&error)),
            );
        }
        results
    }
}

impl Host for RealHost {
    async fn observe(&mut self, target: &Target) -> Observation {
        let last = self.listing.take();
        let ((l3, wireguard), firewall) =
            tokio::join!(self.observe_links(target), read_firewall(&self.nft, last));
        let firewall = firewall.map(|listing| Arc::clone(&self.listing.insert(listing).actual));
        self.observed(target, l3, wireguard, firewall).await
    }

    async fn observe_again(
        &mut self,
        target: &Target,
        before: Observation,
        touched: &BTreeSet<PlaneName>,
    ) -> Observation {
        if touched.contains(&PlaneName::L3) {
            return self.observe(target).await;
        }
        let wireguard = if touched.contains(&PlaneName::Wireguard) {
            self.observe_devices(target, &before.l3).await
        } else {
            before.wireguard
        };
        let firewall = if touched.contains(&PlaneName::Firewall) {
            self.observe_firewall().await
        } else {
            before.firewall
        };
        self.observed(target, before.l3, wireguard, firewall).await
    }

    fn verified(&mut self, observation: &Observation) {
        if let Ok(actual) = &observation.firewall {
            self.verified = Some(actual.bodies.clone());
        }
    }

    async fn apply(&mut self, changes: &[&Change]) -> Vec<Result<(), String>> {
        let mut l3 = Vec::new();
        let mut wireguard = Vec::new();
        let mut firewall = Vec::new();
        let mut results = Vec::new();
        for change in changes {
            match change {
                Change::L3(change) => l3.push(change.clone()),
                Change::Wireguard(change) => wireguard.push(change.clone()),
                Change::Firewall(change) => firewall.push(change),
            }
        }
        if !firewall.is_empty() {
            // Our own change is no one else's tampering: what was remembered is of before it.
            self.verified = None;
            let _changing = lap("changing the firewall");
            let done = firewall::apply_all(&firewall, &self.nft, &self.conntrack).await;
            results.extend(
                done.into_iter()
                    .map(|result| result.map_err(|error| chain(&error))),
            );
        }
        if !l3.is_empty() {
            let _changing = lap("changing links, addresses, routes, rules, parameters");
            let done = self.applier.apply_all(&l3).await;
            results.extend(
                done.into_iter()
                    .map(|result| result.map_err(|error| chain(&error))),
            );
        }
        if !wireguard.is_empty() {
            let _changing = lap("changing WireGuard devices");
            results.extend(self.apply_wireguard(&wireguard).await);
        }
        results
    }
}

async fn read_firewall(nft: &Nft, last: Option<firewall::Listing>) -> Result<firewall::Listing, String> {
    let _reading = lap("reading the firewall");
    let listing = firewall::observe_since(nft, last).await;
    listing.map_err(|error| chain(&error))
}

/// The embedded devices, as the l3 plane makes them.
struct Devices(wg::Userspace);

impl l3::UserspaceLinks for Devices {
    fn create<'a>(&'a self, name: &'a LinkName, mtu: u32) -> BoxFuture<'a, Result<(), l3::UserspaceError>> {
        Box::pin(async move { self.0.create(name.as_str(), mtu).await.map_err(Into::into) })
    }

    fn remove<'a>(&'a self, name: &'a LinkName) -> BoxFuture<'a, Result<(), l3::UserspaceError>> {
        Box::pin(async move { self.0.remove(name.as_str()).await.map_err(Into::into) })
    }
}
