//! The real host: the planes over netlink, WireGuard and nft. Built by the daemon, and by commands where none runs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::intent::{self, HostIntent, IntentError, IsolationMode};
use crate::model::fleet::FleetDigest;
use crate::model::host::{HostConfig, IsolationBackend, WireguardBackend};
use crate::model::{Fleet, LinkName, PrivateKey, PublicKey, ownership};
use crate::planes::{firewall, l3, wireguard};
use crate::reconcile::{Change, Host, Observation, Target};
use crate::report::status::{Backends, WireguardKind};
use crate::sys::conntrack::Conntrack;
use crate::sys::lock::{FileLock, LockError, NamespaceLock};
use crate::sys::netlink::{self, Netlink, NetlinkError};
use crate::sys::nft::Nft;
use crate::sys::nft_events::NftEvents;
use crate::sys::sysctl::Sysctls;
use crate::sys::wg;

/// The abstract socket that marks a network namespace as taken.
const NAMESPACE_LOCK: &str = "sdwand";

/// How long a name may take to resolve before the plan goes on without it.
const RESOLVE_TIME: Duration = Duration::from_secs(3);

/// How long a round of the daemon waits for names: a resolver that doesn't answer must not keep the firewall open.
const RESOLVE_PATIENCE: Duration = Duration::from_millis(50);

/// How long `nft` and `conntrack` may take: 50,000 rules take a few seconds.
const TOOL_TIME: Duration = Duration::from_secs(30);

/// How long events of the host are collected before it is looked at: a change by `ip` comes in several.
const DEBOUNCE: Duration = Duration::from_millis(10);

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

/// Keeps others from changing the same host at the same time.
#[derive(Debug)]
pub struct Locks {
    _file: FileLock,
    _namespace: NamespaceLock,
}

impl Locks {
    /// Takes the state folder and the network namespace.
    ///
    /// # Errors
    /// Another process has one of them.
    pub fn acquire(state_dir: &Path) -> Result<Self, LockError> {
        Ok(Self {
            _file: FileLock::acquire(&state_dir.join("lock"))?,
            _namespace: NamespaceLock::acquire(NAMESPACE_LOCK)?,
        })
    }
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
    key: Option<PrivateKey>,
    protected: BTreeSet<LinkName>,
    verified: Option<firewall::Verified>,
    listing: Option<firewall::Listing>,
    resolver: Resolver,
}

/// The time of day.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that asks for the wall clock"
)]
pub fn system_now() -> SystemTime {
    SystemTime::now()
}

/// The time of day in seconds since 1970.
#[must_use]
pub fn unix_now() -> u64 {
    system_now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
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
                wg::Backend::Userspace(wg::Userspace::new(UAPI_FOLDER.into()))
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
            key: None,
            protected: BTreeSet::new(),
            verified: None,
            listing: None,
            resolver: Resolver::new(match owner {
                Owner::Daemon => RESOLVE_PATIENCE,
                Owner::Command => RESOLVE_TIME,
            }),
        })
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

    /// What this host should be like.
    ///
    /// # Errors
    /// The fleet doesn't know this node.
    pub fn target(&self, own: &HostConfig, fleet: &Fleet) -> Result<Target, IntentError> {
        let facts = intent::Facts {
            isolation: self.isolation,
            host_services_in_vrf: own.isolation.host_services_in_vrf,
        };
        let intent = intent::compile(fleet, &own.node, &facts)?;
        let key = self.key.as_ref().map_or(intent.public_key, PrivateKey::public);
        Ok(self.fit(Target::new(intent, key, &self.l3_facts)))
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

    /// Subscribes to what happens to the host.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn subscribe(&self) -> Result<Events, HostError> {
        Ok(Events {
            netlink: Netlink::subscribe()?,
            nft: NftEvents::subscribe(ownership::NFT_TABLE).map_err(HostError::Nft)?,
            resolved: Arc::clone(&self.resolver.late),
        })
    }

    /// Forgets what was read of the firewall: the next look shows its counts, too, as they are then.
    pub fn count_anew(&mut self) {
        self.listing = None;
    }

    async fn observe_links(
        &self,
        target: &Target,
    ) -> (Result<l3::Actual, String>, Result<wireguard::Actual, String>) {
        let l3 = l3::observe(&self.netlink, &self.sysctls, &target.l3)
            .await
            .map_err(|error| chain(&error));
        let wireguard = match &l3 {
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
        };
        (l3, wireguard)
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
        let ((l3, wireguard), firewall) = tokio::join!(
            self.observe_links(target),
            firewall::observe_since(&self.nft, last)
        );
        if let Ok(listing) = &firewall {
            self.listing = Some(listing.clone());
        }
        let now = system_now();
        let names = match &wireguard {
            Ok(actual) => wireguard::stale_names(&target.wireguard, actual, now),
            Err(_) => BTreeSet::new(),
        };
        Observation {
            l3,
            wireguard,
            firewall: firewall
                .map(|listing| listing.actual)
                .map_err(|error| chain(&error)),
            names: self.resolver.resolve(names).await,
            protected: self.protected.clone(),
            verified: self.verified.clone(),
            now,
        }
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
            let done = firewall::apply_all(&firewall, &self.nft, &self.conntrack).await;
            results.extend(
                done.into_iter()
                    .map(|result| result.map_err(|error| chain(&error))),
            );
        }
        if !l3.is_empty() {
            let done = self.applier.apply_all(&l3).await;
            results.extend(
                done.into_iter()
                    .map(|result| result.map_err(|error| chain(&error))),
            );
        }
        if !wireguard.is_empty() {
            results.extend(self.apply_wireguard(&wireguard).await);
        }
        results
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Resolves names without keeping anyone waiting longer than it may.
struct Resolver {
    patience: Duration,
    running: Option<JoinHandle<wireguard::Names>>,
    late: Arc<Notify>,
}

impl Resolver {
    fn new(patience: Duration) -> Self {
        Self {
            patience,
            running: None,
            late: Arc::new(Notify::new()),
        }
    }

    /// What is known of `names` within the patience. An answer that comes later is told by `late`, and given to who
    /// asks next.
    async fn resolve(&mut self, names: BTreeSet<String>) -> wireguard::Names {
        if names.is_empty() {
            return wireguard::Names::new();
        }
        let late = Arc::clone(&self.late);
        let patience = self.patience;
        let running = self.running.get_or_insert_with(|| {
            tokio::spawn(async move {
                let lookup = wireguard::resolve_names(names, RESOLVE_TIME);
                tokio::pin!(lookup);
                if let Ok(found) = tokio::time::timeout(patience, &mut lookup).await {
                    return found;
                }
                let found = lookup.await;
                late.notify_one();
                found
            })
        });
        // A little longer than the task's own patience: who was told nothing late must get it now.
        match tokio::time::timeout(patience * 2, running).await {
            Ok(done) => {
                self.running = None;
                done.unwrap_or_default()
            }
            Err(_) => wireguard::Names::new(),
        }
    }
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

/// The interfaces that the session which started this process comes through (`SSH_CONNECTION` of `sshd(8)`).
pub async fn session_interfaces() -> BTreeSet<LinkName> {
    let Some(address) = std::env::var("SSH_CONNECTION")
        .ok()
        .and_then(|text| session_address(&text))
    else {
        return BTreeSet::new();
    };
    let Ok(netlink) = Netlink::open() else {
        return BTreeSet::new();
    };
    let (Ok(links), Ok(addresses)) = (netlink.links().await, netlink.addresses().await) else {
        return BTreeSet::new();
    };
    let on: BTreeSet<u32> = addresses
        .iter()
        .filter(|found| found.local == address)
        .map(|found| found.index)
        .collect();
    let names = links.iter().filter(|link| on.contains(&link.index));
    names.filter_map(|link| LinkName::new(&link.name).ok()).collect()
}

/// The server's address in `SSH_CONNECTION`: client, its port, server, its port.
fn session_address(text: &str) -> Option<IpAddr> {
    text.split_ascii_whitespace().nth(2)?.parse().ok()
}

/// What happens to the host, as far as it can concern us.
pub struct Events {
    netlink: netlink::Events,
    nft: NftEvents,
    resolved: Arc<Notify>,
}

impl Events {
    /// Waits until something happens that may concern us, and says how long more of it may be waited for. When a stream
    /// is lost, rounds at their interval go on.
    pub async fn changed(&mut self) -> Duration {
        loop {
            tokio::select! {
                () = self.resolved.notified() => return DEBOUNCE,
                event = self.nft.next() => match event {
                    // A transaction is told as a whole, and without our table everything is open.
                    Ok(_) => return Duration::ZERO,
                    Err(error) => {
                        tracing::warn!(%error, "events are lost: changes are seen at the next round");
                        std::future::pending::<()>().await;
                    }
                },
                event = self.netlink.next() => match event {
                    Some(event) if concerns(&event) => return DEBOUNCE,
                    Some(_) => {}
                    None => {
                        tracing::warn!("events are lost: changes are seen at the next round");
                        std::future::pending::<()>().await;
                    }
                },
            }
        }
    }
}

/// Whether an event can be about something of ours, or about a LAN interface. Routes that others own are many (a full
/// BGP table), and never ours.
fn concerns(event: &netlink::Event) -> bool {
    match event {
        netlink::Event::Route { route, .. } => route.protocol == ownership::ROUTE_PROTOCOL,
        netlink::Event::Link { .. }
        | netlink::Event::Address { .. }
        | netlink::Event::Rule { .. }
        | netlink::Event::Resync => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_lookup_is_told_later_and_keeps_nobody_waiting() {
        let mut resolver = Resolver::new(Duration::from_millis(20));
        let late = Arc::clone(&resolver.late);
        let (sender, answer) = tokio::sync::oneshot::channel();
        let told = Arc::clone(&late);
        resolver.running = Some(tokio::spawn(async move {
            let found = answer.await.unwrap();
            told.notify_one();
            found
        }));
        let names = || BTreeSet::from(["hub.example.invalid".to_owned()]);
        assert!(resolver.resolve(names()).await.is_empty());
        let found = wireguard::Names::from([(
            "hub.example.invalid".to_owned(),
            vec![IpAddr::from([192, 0, 2, 1])],
        )]);
        sender.send(found.clone()).unwrap();
        late.notified().await;
        assert_eq!(resolver.resolve(names()).await, found);
        assert!(resolver.running.is_none());
    }

    #[test]
    fn the_session_address_is_the_servers() {
        assert_eq!(
            session_address("192.0.2.9 51000 192.0.2.1 22"),
            Some("192.0.2.1".parse().unwrap())
        );
        assert_eq!(
            session_address("fe80::1 51000 fd00::1 22"),
            Some("fd00::1".parse().unwrap())
        );
        assert_eq!(session_address(""), None);
        assert_eq!(session_address("a b c d"), None);
    }
}
