//! `sdwand serve`: the composition root of a site's gateway. It needs no capabilities, and never touches the host.
//!
//! ```text
//! peers ── mTLS ──▶ listener ─┐  and one inside each bridged network, see `overlay`
//! operators ── see `operators`┼─▶ gateway ─▶ ledger, CA      <state_dir>-serve
//! timers ── pulse ── beats ───┘      │
//!                                    └─▶ calls to peers
//! ```

mod agreements;
mod bridges;
mod calls;
mod clock;
mod fleet;
mod happened;
mod metrics;
mod operators;
mod overlay;
mod pace;
mod spawn;
mod subscriptions;
mod summary;

use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::api::federation_api::Serving;
use crate::api::limits::Limits;
use crate::api::listener;
use crate::config::{self, Diagnostics};
use crate::federation::dial::DialError;
use crate::federation::gateway::{Gateway, Settings};
use crate::federation::ledger::{Ledger, LedgerError};
use crate::federation::liveness::{Probe, Probes, Remedy};
use crate::federation::moment::Moment;
use crate::federation::operators::{KeyError, Principal};
use crate::federation::peer::{Peer, PeerId, Status};
use crate::federation::pki::authority::{Authority, Store, StoreError};
use crate::federation::pki::tls::{CurrentLeaf, PossessionOnly, server_config};
use crate::federation::pki::{Leaf, PkiError, Usage};
use crate::federation::policy::Policy;
use crate::federation::pulse::Pulse;
use crate::federation::site::SiteId;
use crate::federation::url::{PeerUrl, UrlError};
use crate::host::system_now;
use crate::log::Event;
use crate::model::Fleet;
use crate::model::host::{Federation, HostConfig};
use crate::notify::{self, Manager};
use agreements::AgreementsFile;
use calls::Calls;
use metrics::Monitor;

pub use operators::{SOCKET, STATUS_SOCKET};

/// How often it is looked who is due.
const TICK: Duration = Duration::from_millis(250);
/// How often the ledger is told when peers were last heard of.
const FLUSH: Duration = Duration::from_secs(10);

/// The ledger's file, in [`state_dir`].
const LEDGER: &str = "ledger.db";

/// How many peers are called at a time.
const CALLS: usize = 256;

/// How long calls that are under way may take to end when the gateway stops.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Why the gateway doesn't run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is bad.
    #[error(transparent)]
    Config(#[from] Diagnostics),
    /// This host isn't a gateway.
    #[error("{0} has no [federation] table: it is for a site's gateway, which `gateways` of [site] names")]
    NotAGateway(PathBuf),
    /// Its own URL is none.
    #[error("[federation] url")]
    Url(#[from] UrlError),
    /// The ledger can't be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A certificate can't be made or shown.
    #[error("the site's certificate")]
    Pki(#[from] PkiError),
    /// The CA's files can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key of the operators' tokens can't be used.
    #[error(transparent)]
    OperatorKey(#[from] KeyError),
    /// A file, folder or socket can't be made.
    #[error("{what} {path}")]
    Path {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The runtime refused something.
    #[error("{0}")]
    Runtime(&'static str, #[source] std::io::Error),
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ServeError {
    let path = path.to_owned();
    move |source| ServeError::Path { what, path, source }
}

/// Where the gateway keeps its ledger and its CA: beside the state folder of `sdwand run`, whose user is another.
#[must_use]
pub fn state_dir(own: &HostConfig) -> PathBuf {
    let mut name = own.state_dir.clone().into_os_string();
    name.push("-serve");
    name.into()
}

/// Where its sockets are: beside the run folder of `sdwand run`. Who can write to a folder can replace what is in it, and
/// the sockets there are root's.
#[must_use]
pub fn run_dir(own: &HostConfig) -> PathBuf {
    let mut name = own.run_dir.clone().into_os_string();
    name.push("-serve");
    name.into()
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration is bad, this host isn't a gateway, or something of what it needs can't be had.
pub async fn run(config: &Path) -> Result<(), ServeError> {
    let (own, _) = config::load_host(config)?;
    let fleet = config::load_fleet(&own.fleet_dir)?.fleet;
    let recent = crate::log::start(&own.log, system_now);
    let federation = own
        .federation
        .clone()
        .ok_or_else(|| ServeError::NotAGateway(config.to_owned()))?;
    if !clock::is_set().await? {
        return Ok(());
    }
    let folder = state_dir(&own);
    create(&folder, 0o700)?;
    create(&run_dir(&own), 0o755)?;
    let lock = crate::sys::lock::FileLock::acquire(&folder.join("lock"))
        .map_err(|error| at("locking", &folder)(std::io::Error::other(error.to_string())))?;
    let gateway = Arc::new(gateway(&own, &federation, fleet, &folder)?);
    // Before anything else: what was revoked before the last end isn't in force for a moment longer.
    let agreements = hand_over(&own, &gateway)?;
    begin(&gateway)?;
    let mut leaf = gateway
        .ca
        .issue(&gateway.site, &gateway.node, Usage::Serve, wall())?;
    gateway.tell_leaf(leaf.not_after);
    let current = Arc::new(CurrentLeaf::new(&leaf)?);
    let tls = tls(&gateway, &current)?;
    let tcp = listen(federation.listen)
        .map_err(|error| ServeError::Runtime("listening on [federation] listen", error))?;
    let (stop, stopped) = watch::channel(false);
    let calls = Arc::new(Calls::default());
    let heard = Arc::clone(&calls);
    let limits = Arc::new(Limits::new(monotonic));
    let mut monitor = Monitor::new(federation.metrics_listen, Arc::clone(&limits), recent, &folder);
    let serving = Serving {
        gateway: Arc::clone(&gateway),
        wall,
        heard: Arc::new(move |id| heard.note(id, monotonic())),
        limits,
        random,
    };
    let (posts, wanted) = watch::channel(overlay::Posts::new());
    let within = overlay::follow(Arc::clone(&tls), serving.clone(), wanted, stopped.clone());
    let within = tokio::spawn(within);
    tokio::spawn(listener::serve(tcp, tls, serving, stopped.clone()));
    operators::open(&own, &gateway, &folder, &stopped).await?;
    drop(stopped);
    say_serving(&gateway, &federation);
    let following = tokio::spawn(fleet::follow(
        Arc::clone(&gateway),
        config.to_owned(),
        own.fleet_dir.clone(),
    ));
    let spawned = tokio::spawn(spawn::follow(Arc::clone(&gateway), federation.payload.clone()));
    let bridging = tokio::spawn(bridges::follow(Arc::clone(&gateway), agreements, posts));
    let subscribing = tokio::spawn(subscriptions::follow(Arc::clone(&gateway)));
    // From here on all sockets listen.
    let mut manager = Manager::ready(monotonic());
    let told = (&mut manager, &mut monitor);
    let driver = drive(&gateway, &calls, &current, &mut leaf, told);
    let outcome = tokio::select! {
        ended = until_told() => ended,
        () = driver => Ok(()),
    };
    notify::stopping();
    let _ = stop.send(true);
    for task in [following, spawned, bridging, subscribing, within] {
        task.abort();
    }
    // The listener and each connection hold a receiver until they are through.
    let _ = tokio::time::timeout(LAST_WORDS, stop.closed()).await;
    last_words(&gateway);
    operators::close(&own);
    drop(lock);
    outcome
}

/// The peers' listener. Those inside the overlays may have the same port, where this one listens on every address: all of them
/// need `SO_REUSEPORT` (socket(7)) for that, and this process's user.
fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match at {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(at)?;
    socket.listen(overlay::BACKLOG)
}

/// Strangers are let in only while someone without a certificate is awaited.
fn tls(gateway: &Arc<Gateway>, current: &Arc<CurrentLeaf>) -> Result<Arc<rustls::ServerConfig>, ServeError> {
    let of = Arc::clone(gateway);
    let awaits = move || of.ledger.read(|book| book.has_offers(wall()));
    let verifier = Arc::new(PossessionOnly::unless(awaits));
    Ok(Arc::new(server_config(Arc::clone(current) as _, verifier)?))
}

/// Hands over to `sdwand run` what is agreed at this moment.
fn hand_over(own: &HostConfig, gateway: &Gateway) -> Result<AgreementsFile, ServeError> {
    let folder = own.agreements_dir();
    let mut file = AgreementsFile::open(&folder).map_err(at("preparing the agreements' folder", &folder))?;
    file.keep(gateway.agreements(wall()), monotonic())
        .map_err(at("writing the agreements in", &folder))?;
    Ok(file)
}

fn create(folder: &Path, mode: u32) -> Result<(), ServeError> {
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(mode)
        .create(folder)
        .map_err(at("creating", folder))
}

/// Says what is amiss, has what happens from here on told, and ends what a restart ends.
fn begin(gateway: &Gateway) -> Result<(), LedgerError> {
    say_what_is_amiss(gateway);
    gateway.ledger.tell(happened::tell);
    gateway.void_lost_approvals(wall())
}

/// Says what an operator must know of the ledger before it is used.
fn say_what_is_amiss(gateway: &Gateway) {
    if let Some(why) = gateway.ledger.doubt() {
        let why = why.to_owned();
        Event::LedgerPutBack { why }.emit();
    }
    if let Some(ledger) = gateway.ledger.read(|book| book.ahead(wall())) {
        let (ledger, wall) = (ledger.to_string(), wall().to_string());
        Event::ClockBehind { ledger, wall }.emit();
    }
}

fn say_serving(gateway: &Gateway, federation: &Federation) {
    Event::GatewayStarted {
        site: gateway.site.to_string(),
        listen: federation.listen.to_string(),
        ca: gateway.ca.fingerprint().to_string(),
    }
    .emit();
}

/// What is told to the ledger when the gateway stops.
fn last_words(gateway: &Gateway) {
    if let Err(error) = gateway.flush(wall()) {
        unwritten(LAST_HEARD, &error);
    }
    if let Err(error) = gateway.tell_refusals(wall(), true) {
        unwritten(REFUSED, &error);
    }
}

fn gateway(
    own: &HostConfig,
    federation: &Federation,
    fleet: Fleet,
    folder: &Path,
) -> Result<Gateway, ServeError> {
    let site = SiteId::of(&fleet.site.name, fleet.site.prefix);
    let url = federation.url.as_deref().filter(|_| federation.dialable);
    let ledger = Arc::new(Ledger::open(&folder.join(LEDGER), wall())?);
    let store = Store::new(folder);
    let signs = ledger.read(|book| book.own_trust().signs);
    let (ca, next) = store.open(&site, signs, wall())?;
    // One that was drawn, and then the power was cut before the ledger knew, was never announced.
    let announced = ledger.read(|book| book.own_trust().rotation.as_ref().map(|rotation| rotation.next));
    let next = next.filter(|next| announced == Some(next.fingerprint()));
    let settings = Settings {
        url: url.map(PeerUrl::new).transpose()?,
        jurisdiction: federation.jurisdiction.clone(),
        stale_after: federation.stale_after,
        heartbeat: federation.heartbeat,
        verify: federation.verify,
        require_explicit_axes: federation.require_explicit_axes,
        policy: Policy::of(federation),
        cluster: federation.cluster.clone(),
        listen: Some(federation.listen.port()),
        isolation: own.isolation.backend,
        approvals: own.approvals.clone(),
        fleet_by: owner(&own.fleet_dir)?,
    };
    let authority = Authority::new(ca, next);
    let gateway = Gateway::new(site, own.node.clone(), authority, ledger, settings).kept_in(store);
    gateway.tell_fleet(fleet);
    gateway.erase_revoked();
    Ok(gateway)
}

/// Whose word the fleet is: whoever may put documents there.
fn owner(fleet: &Path) -> Result<Principal, ServeError> {
    let found = std::fs::metadata(fleet).map_err(at("looking at", fleet))?;
    Ok(Principal::Uid(found.uid()))
}

fn wall() -> Moment {
    system_now().into()
}

#[expect(clippy::disallowed_methods, reason = "the gateway's monotonic clock")]
fn monotonic() -> Instant {
    Instant::now()
}

fn random(bytes: &mut [u8]) {
    // Without randomness there is no secret: nothing may go on.
    getrandom::fill(bytes).expect("the system gives random bytes");
}

async fn until_told() -> Result<(), ServeError> {
    let on = |kind| signal(kind).map_err(|error| ServeError::Runtime("listening for signals", error));
    let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Event::GatewayStopped.emit();
    Ok(())
}

/// The timers: beats, silence, renewal of our own certificate, and what the ledger is told from time to time.
async fn drive(
    gateway: &Arc<Gateway>,
    calls: &Calls,
    current: &CurrentLeaf,
    leaf: &mut Leaf,
    (manager, monitor): (&mut Manager, &mut Monitor),
) {
    let mut pulse = Pulse::new(gateway.settings.heartbeat, gateway.settings.stale_after)
        .of_start(gateway.ledger.starts());
    let (done, mut ended) = mpsc::unbounded_channel::<(PeerId, Result<(), DialError>)>();
    let mut probes = Probes::new(gateway.settings.heartbeat, gateway.settings.stale_after);
    let (seen, mut answers) = mpsc::unbounded_channel::<(PeerId, Probe)>();
    // After an outage, all are due at once.
    let gate = Arc::new(Semaphore::new(CALLS));
    let mut ticks = tokio::time::interval(TICK);
    let mut flushed = monotonic();
    monitor.publish(gateway, wall());
    loop {
        tokio::select! {
            Some((id, outcome)) = ended.recv() => {
                monitor.beaten(&outcome);
                after_beat(gateway, &mut pulse, id, &outcome);
            }
            Some((id, probe)) = answers.recv() => {
                monitor.heard(calls.tell(&mut pulse));
                let (now, peers) = (monotonic(), standing(gateway));
                let is_silent = pulse.silent(&peers, now).contains(&id);
                if let Some(remedy) = probes.ended(id, probe, is_silent, now) {
                    after_probe(gateway, id, probe, remedy);
                }
            }
            _ = ticks.tick() => {
                monitor.heard(calls.tell(&mut pulse));
                let (now, peers) = (monotonic(), standing(gateway));
                manager.alive(summary::summary(&peers), now);
                for id in probes.due(&pulse.silent(&peers, now), now) {
                    let (gateway, seen, gate) = (Arc::clone(gateway), seen.clone(), Arc::clone(&gate));
                    tokio::spawn(async move {
                        let _turn = gate.acquire().await;
                        let seen_as = Box::pin(probe(&gateway, id)).await;
                        let _ = seen.send((id, seen_as));
                    });
                }
                for (id, sequence) in pulse.due(&peers, now) {
                    let (gateway, done, gate) = (Arc::clone(gateway), done.clone(), Arc::clone(&gate));
                    tokio::spawn(async move {
                        let _turn = gate.acquire().await;
                        // Thousands may wait for their turn: what a call needs is there only while it is made.
                        let outcome = Box::pin(beat(&gateway, id, sequence)).await;
                        let _ = done.send((id, outcome));
                    });
                }
                if now.duration_since(flushed) >= FLUSH {
                    flushed = now;
                    now_and_then(gateway, current, leaf);
                    monitor.publish(gateway, wall());
                    for parent in gateway.renewals(wall()) {
                        let (gateway, gate) = (Arc::clone(gateway), Arc::clone(&gate));
                        tokio::spawn(async move {
                            let _turn = gate.acquire().await;
                            renew_with(&gateway, &parent).await;
                        });
                    }
                }
            }
        }
    }
}

/// What the ledger is told, and what has come of time: every [`FLUSH`].
fn now_and_then(gateway: &Gateway, current: &CurrentLeaf, leaf: &mut Leaf) {
    if let Err(error) = gateway.flush(wall()) {
        unwritten(LAST_HEARD, &error);
    }
    if let Err(error) = gateway.tell_refusals(wall(), false) {
        unwritten(REFUSED, &error);
    }
    if let Err(error) = gateway.promote(wall()) {
        unwritten("that the next CA takes over", &error);
    }
    if let Err(error) = gateway.expire_approvals(wall()) {
        unwritten("what became of approvals", &error);
    }
    if let Err(error) = gateway.archive_grants(wall()) {
        unwritten("which grants are over", &error);
    }
    if renew(gateway, Usage::Serve, current, leaf) {
        gateway.tell_leaf(leaf.not_after);
    }
}

fn standing(gateway: &Gateway) -> Arc<Vec<(PeerId, Status)>> {
    gateway.ledger.read(|book| Arc::clone(book.standing()))
}

async fn beat(gateway: &Gateway, id: PeerId, sequence: u64) -> Result<(), DialError> {
    let peer: Option<Peer> = gateway
        .ledger
        .read(|book| book.peer(&id).map(|peer| (**peer).clone()));
    let peer = peer.ok_or(DialError::NoTrust(id))?;
    let mut nonce = [0; 16];
    random(&mut nonce);
    gateway.beat_to(&peer, nonce, sequence, wall()).await
}

fn after_beat(gateway: &Gateway, pulse: &mut Pulse, id: PeerId, outcome: &Result<(), DialError>) {
    let mut jitter = [0];
    random(&mut jitter);
    pulse.ended(id, outcome.is_ok(), f64::from(jitter[0]) / 255.0, monotonic());
    if let Err(error) = outcome {
        tracing::debug!(peer = %id, %error, "a beat wasn't answered");
        if error.is_refusal() {
            degrade(gateway, id, "refused_by_peer");
        }
    }
}

/// Asks a parent to sign anew. That it can't be done is told again with each try, and `governance` tells how long is left.
async fn renew_with(gateway: &Gateway, parent: &Peer) {
    let (peer, alias) = (parent.id.to_string(), parent.alias.to_string());
    match gateway.renew_with(parent, wall()).await {
        Ok(()) => Event::ParentSigned { peer, alias },
        Err(error) => Event::ParentNotSigned {
            peer,
            alias,
            error: error.to_string(),
        },
    }
    .emit();
}

/// Asks a peer that is silent.
async fn probe(gateway: &Gateway, id: PeerId) -> Probe {
    let peer = gateway.ledger.read(|book| book.peer(&id).cloned());
    match peer {
        Some(peer) => gateway.probe(&peer, wall()).await,
        None => Probe::Unreachable,
    }
}

fn after_probe(gateway: &Gateway, id: PeerId, probe: Probe, remedy: Remedy) {
    match remedy {
        Remedy::Degrade => degrade(gateway, id, &probe.reason()),
        Remedy::Rehandshake => {
            if let Err(error) = gateway.rehandshaked(id, wall()) {
                unwritten("that a silent peer answers", &error);
            }
        }
    }
}

fn degrade(gateway: &Gateway, id: PeerId, reason: &str) {
    if let Err(error) = gateway.degrade(id, reason, wall()) {
        unwritten("that a peer is degraded", &error);
    }
}

/// Who was heard of when.
const LAST_HEARD: &str = "when peers were last heard of";
/// Who was refused.
const REFUSED: &str = "who was refused, to the audit";

/// What isn't written is tried again.
fn unwritten(what: &str, error: &dyn std::error::Error) {
    let (what, error) = (what.to_owned(), crate::report::chain(error));
    Event::LedgerNotWritten { what, error }.emit();
}

/// Renews a listener's certificate if it is time, or another CA signs now. Says whether another one is shown.
fn renew(gateway: &Gateway, usage: Usage<'_>, current: &CurrentLeaf, leaf: &mut Leaf) -> bool {
    let now = wall();
    if now < leaf.renew_at && leaf.issuer == gateway.ca.fingerprint() {
        return false;
    }
    let renewed = gateway.ca.issue(&gateway.site, &gateway.node, usage, now);
    match renewed.and_then(|renewed| current.replace(&renewed).map(|()| renewed)) {
        Ok(renewed) => {
            *leaf = renewed;
            let not_after = leaf.not_after.to_string();
            Event::CertificateRenewed { not_after }.emit();
            true
        }
        Err(error) => {
            let (not_after, error) = (leaf.not_after.to_string(), crate::report::chain(&error));
            Event::CertificateNotRenewed { not_after, error }.emit();
            false
        }
    }
}
