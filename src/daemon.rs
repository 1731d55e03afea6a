//! `sdwand run`: the composition root of the daemon that holds `CAP_NET_ADMIN`. It has no network-facing parser:
//! `[metrics]` listens on loopback only.
//!
//! ```text
//! fleet.d, sdwand.toml ── inotify ─┐
//! nftables, rtnetlink ── events ───┤
//! interval, retry ─────────────────┼─▶ one task that owns the host: load ▶ plan ▶ execute ▶ verify ▶ conditions
//! uplinks, each second ────────────┤
//! control.sock ── requests ────────┘        │
//!                                           └─▶ answers, log, page of metrics
//! ```
//!
//! systemd hears that it is ready once the first round is over, whatever came of it, and that it is alive whenever the
//! loop goes round: a round that never ends is what the watchdog kills it for.
//!
//! Stopping or killing it leaves the data plane as it is. A configuration with an error changes nothing: the last good
//! one stays in force, also across a restart (a copy of its fragments lies in the state folder), and the corrected
//! one is picked up by itself.

mod applied;
mod events;
mod metrics;
mod rounds;

pub(crate) use applied::{former as formerly_applied, save as save_applied};
pub(crate) use rounds::{plan_answer, round_answer};

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::api::control;
use crate::host::agreements::AgreementsFile;
use crate::host::files::ConfigFiles;
use crate::host::{self, RealHost};
use crate::log::Event;
use crate::notify::{self, Manager};
use crate::reconcile::uplinks::LOOK;
use crate::sys::lock::LockError;
use rounds::Rounds;

/// How long a round may go on after the daemon was told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// How long after a peer has changed keys a round looks at it: before the handshake is over, its endpoint would look like
/// one that doesn't answer.
const HANDSHAKE: Duration = Duration::from_secs(1);

/// How many requests may wait.
const CALLS: usize = 16;

/// Why the daemon doesn't run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration is bad, and no earlier good one is known.
    #[error(transparent)]
    Config(#[from] crate::config::Diagnostics),
    /// Another daemon, or another apply, is at work.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The host can't be had.
    #[error(transparent)]
    Host(#[from] host::HostError),
    /// A folder or socket can't be made.
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

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration is bad and no earlier good one is known, another daemon runs here, or the host can't be had.
pub async fn run(config: &Path) -> Result<(), DaemonError> {
    let start = applied::first(config)?;
    let recent = crate::log::start(&start.host.log, host::system_now);
    // Whatever the umask: what lies in them is believed.
    for (folder, mode) in [(&start.host.state_dir, 0o700), (&start.host.run_dir, 0o755)] {
        let mut builder = std::fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(mode)
            .create(folder)
            .map_err(|source| DaemonError::Path {
                what: "creating",
                path: folder.clone(),
                source,
            })?;
    }
    let lock = host::Locks::acquire(&start.host.state_dir)?;
    // Under the lock only: the copy may be another daemon's.
    if let Some(fragments) = &start.fragments {
        applied::save(&start.host.state_dir, fragments);
    }
    let socket = start.host.run_dir.join(control::SOCKET);
    let listener = control::listen(&socket, 0o600).map_err(|source| DaemonError::Path {
        what: "listening on",
        path: socket.clone(),
        source,
    })?;
    let (sender, calls) = mpsc::channel(CALLS);
    let server = tokio::spawn(control::serve(listener, sender));
    let host = RealHost::open(&start.host, host::Owner::Daemon).await?;
    host.sweep().await;
    let files = ConfigFiles::watch(config, &start.host.fleet_dir, &start.host.private_key_file);
    let agreements = AgreementsFile::watch(&start.host);
    let rounds = Rounds::new(config, start, host, recent);
    let daemon = Daemon {
        rounds,
        files,
        agreements,
        calls,
    };
    let result = Box::pin(daemon.run()).await;
    server.abort();
    // A socket that nobody serves would make commands wait; without it they act directly.
    let _ = std::fs::remove_file(&socket);
    drop(lock);
    result
}

struct Daemon {
    rounds: Rounds,
    files: ConfigFiles,
    agreements: AgreementsFile,
    calls: mpsc::Receiver<control::Call>,
}

/// When the next things are due.
struct Timers {
    round: Instant,
    look: Option<Instant>,
    keys: Option<Instant>,
    reload: Option<Instant>,
}

fn signals() -> Result<(Signal, Signal, Signal), DaemonError> {
    let on = |kind| signal(kind).map_err(|error| DaemonError::Runtime("listening for signals", error));
    Ok((
        on(SignalKind::terminate())?,
        on(SignalKind::interrupt())?,
        on(SignalKind::hangup())?,
    ))
}

impl Daemon {
    async fn run(mut self) -> Result<(), DaemonError> {
        let (mut terminate, mut interrupt, mut hangup) = signals()?;
        let mut events = self.rounds.host.subscribe()?;
        let mut timers = Timers {
            round: Instant::now(),
            look: None,
            keys: None,
            reload: None,
        };
        let mut manager: Option<Manager> = None;
        self.rounds.announce();
        loop {
            if let Some(manager) = &mut manager {
                manager.alive(self.rounds.summary(), Instant::now().into_std());
            }
            let told = manager.as_ref().and_then(Manager::due).map(Instant::from_std);
            let sooner = [timers.reload, timers.look].into_iter().flatten().min();
            let due = sooner.map_or(timers.round, |sooner| sooner.min(timers.round));
            // What is due comes first, and what is known already isn't asked for again: neither a storm of events nor
            // clients that never stop asking keep the others waiting for long.
            let call = tokio::select! {
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    timers.reload = Some(Instant::now());
                    continue;
                }
                () = sleep_until(due) => None,
                () = sleep_until(told.unwrap_or(due)), if told.is_some() => continue,
                () = sleep_until(timers.keys.unwrap_or(due)), if timers.keys.is_some() => {
                    let followed = self.rounds.follow_keys().await;
                    timers.keys = followed.map(|followed| Instant::now() + followed.rest);
                    if followed.is_some_and(|followed| followed.moved) {
                        timers.round = timers.round.min(Instant::now() + HANDSHAKE);
                    }
                    continue;
                }
                () = self.files.changed(), if timers.reload.is_none() => {
                    timers.reload = Some(Instant::now() + self.rounds.debounce());
                    continue;
                }
                // A peering that is taken back is taken back at once.
                () = self.agreements.changed(), if timers.round > Instant::now() => {
                    timers.round = Instant::now();
                    continue;
                }
                patience = events.changed(), if timers.round > Instant::now() => {
                    timers.round = timers.round.min(Instant::now() + patience);
                    continue;
                }
                Some(call) = self.calls.recv() => Some(call),
            };
            let mut work = Box::pin(self.work(&mut timers, call));
            tokio::select! {
                biased;
                () = &mut work => {
                    manager.get_or_insert_with(|| Manager::ready(Instant::now().into_std()));
                    continue;
                }
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            // A round that is cut off leaves what a kill would: no more open than before, and the next start goes on.
            let _ = tokio::time::timeout(GRACE, work).await;
            break;
        }
        notify::stopping();
        Event::Stopped.emit();
        Ok(())
    }

    /// Answers a request, or does what is due.
    async fn work(&mut self, timers: &mut Timers, call: Option<control::Call>) {
        let Some((request, answer)) = call else {
            return self.due(timers).await;
        };
        let reply = self.rounds.answer(request).await;
        // The client may have gone; what it asked for was done.
        let _ = answer.send(reply);
        self.rounds.publish();
        timers.round = timers.round.min(Instant::now() + self.rounds.next_round());
    }

    async fn due(&mut self, timers: &mut Timers) {
        if timers.look.is_some_and(|look| look <= Instant::now()) {
            timers.look = None;
            if self.rounds.look().await {
                timers.round = Instant::now();
            }
        }
        self.round(timers).await;
        if timers.look.is_none() && self.rounds.looks() {
            timers.look = Some(Instant::now() + LOOK);
        }
    }

    /// Reads again and converges, if that is due.
    async fn round(&mut self, timers: &mut Timers) {
        let now = Instant::now();
        if timers.round > now && timers.reload.is_none_or(|reload| reload > now) {
            return;
        }
        let asked = timers.reload.is_some_and(|reload| reload <= now);
        if asked {
            timers.reload = None;
        }
        // Always asked: it also watches anew what was replaced.
        let differ = self.files.differ();
        if asked || differ {
            self.rounds.reload();
            self.files.follow(self.rounds.fleet_dir(), self.rounds.key_file());
            self.agreements.follow(self.rounds.own());
        }
        self.rounds.round().await;
        self.rounds.publish();
        timers.round = Instant::now() + self.rounds.next_round();
        // Another fleet may be in force: somebody may have announced a key.
        timers.keys.get_or_insert_with(Instant::now);
    }
}
