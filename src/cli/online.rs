//! Commands about this host: `plan`, `apply`, `down`, `run`. With a daemon running they go through its socket; without
//! one they act directly, under the same lock.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{CliError, Global};
use crate::api::control::{self, Answer, ControlError, Request};
use crate::config;
use crate::daemon;
use crate::host::{self, Locks, Owner, RealHost};
use crate::reconcile;

/// How long a daemon may take to answer before the operator is told what is waited for.
const QUIET: Duration = Duration::from_secs(3);

/// How long it may take at all: several tools, one after another, that hang until they are killed.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) async fn plan(global: &Global) -> Result<ExitCode, CliError> {
    let (own, _) = config::load_host(&global.config)?;
    let protected = host::session_interfaces().await;
    let request = Request::Plan {
        protected: protected.iter().cloned().collect(),
    };
    let answer = if let Some(answer) = ask(&own.run_dir, &request).await? {
        answer
    } else {
        let (mut host, target, _) = direct(global, protected).await?;
        let (target, observation) = host.observe_fitted(target).await;
        daemon::plan_answer(&reconcile::plan(&target, &observation))
    };
    finish(global, answer, |ok, changes| match (ok, changes) {
        (_, 1..) => ExitCode::from(2),
        (true, 0) => ExitCode::SUCCESS,
        (false, 0) => ExitCode::FAILURE,
    })
}

pub(super) async fn apply(global: &Global, expect: Option<String>) -> Result<ExitCode, CliError> {
    let (own, _) = config::load_host(&global.config)?;
    let protected = host::session_interfaces().await;
    let request = Request::Apply {
        expect: expect.clone(),
        protected: protected.iter().cloned().collect(),
    };
    let answer = if let Some(answer) = ask(&own.run_dir, &request).await? {
        answer
    } else {
        let lock = Locks::acquire(&own.state_dir).map_err(|error| CliError::new(&error))?;
        let (mut host, target, fragments) = direct(global, protected).await?;
        let (target, observation) = host.observe_fitted(target).await;
        if let Some(expect) = expect {
            let now = reconcile::plan(&target, &observation).fingerprint();
            if now != expect {
                return Err(CliError::Other(format!(
                    "the plan has changed: it is {now} now; look at `sdwand plan` again"
                )));
            }
        }
        // A daemon that starts later, in manual mode, goes on from here.
        daemon::save_applied(&own.state_dir, &fragments);
        let round = reconcile::converge(&mut host, &target).await;
        drop(lock);
        daemon::round_answer(&round)
    };
    finish(global, answer, |ok, _| {
        if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

pub(super) async fn down(global: &Global) -> Result<ExitCode, CliError> {
    let (own, errors) = config::load_host_anyway(&global.config);
    if let Some(errors) = errors {
        // Whoever else is at work here holds the namespace.
        eprint!("{errors}");
        eprintln!(
            "warning: going on all the same: what is ours is known by its marks, and the rest by default"
        );
    }
    let answer = if let Some(answer) = ask(&own.run_dir, &Request::Down).await? {
        answer
    } else {
        let lock = Locks::acquire(&own.state_dir).map_err(|error| CliError::new(&error))?;
        let mut host = RealHost::open(&own, Owner::Command)
            .await
            .map_err(|error| CliError::new(&error))?;
        host.sweep().await;
        // What is ours is known by its marks: a fleet that can't be read is no reason to leave it behind.
        let target = host.nothing(&own);
        let round = reconcile::converge(&mut host, &target).await;
        drop(lock);
        daemon::round_answer(&round)
    };
    finish(global, answer, |ok, _| {
        if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

pub(super) async fn run(global: &Global) -> Result<ExitCode, CliError> {
    match Box::pin(daemon::run(&global.config)).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(daemon::DaemonError::Config(diagnostics)) => Err(CliError::Config(diagnostics)),
        Err(error) => Err(CliError::new(&error)),
    }
}

/// The daemon's answer; none where no daemon runs.
pub(super) async fn ask(run_dir: &Path, request: &Request) -> Result<Option<Answer>, CliError> {
    let socket: PathBuf = run_dir.join(control::SOCKET);
    let answer = control::ask(&socket, request);
    tokio::pin!(answer);
    let answer = if let Ok(answer) = tokio::time::timeout(QUIET, &mut answer).await {
        answer
    } else {
        eprintln!("waiting for the daemon, which is busy (`journalctl -u sdwand` says with what)");
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                return Err(CliError::Other(format!(
                    "the daemon on {} doesn't answer within {} s: look at `systemctl status sdwand` and `ps -ef | grep nft`; a restart of the daemon changes nothing on the wire",
                    socket.display(),
                    PATIENCE.as_secs()
                )));
            }
        }
    };
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(ControlError::NoDaemon { .. }) => Ok(None),
        Err(error @ ControlError::Talk { .. }) => Err(CliError::new(&error)),
    }
}

/// The fragments that a fleet was read from: paths and texts.
pub(super) type Fragments = Vec<(PathBuf, String)>;

/// The host itself, what it should be like, and what says so, without a daemon.
pub(super) async fn direct(
    global: &Global,
    protected: BTreeSet<crate::model::LinkName>,
) -> Result<(RealHost, reconcile::Target, Fragments), CliError> {
    let loaded = config::load(&global.config)?;
    let mut host = RealHost::open(&loaded.host, Owner::Command)
        .await
        .map_err(|error| CliError::new(&error))?;
    host.set_key(loaded.private_key);
    host.protect(protected);
    host.look_at_underlay(&loaded.fleet).await;
    let target = host
        .target(&loaded.host, &loaded.fleet)
        .map_err(|error| CliError::new(&error))?;
    let mut target = RealHost::noted(target, &loaded.notices);
    let former = daemon::formerly_applied(&loaded.host.state_dir, &loaded.fragments);
    if let Some(former) = former.and_then(|fleet| host.target(&loaded.host, &fleet).ok()) {
        target.wireguard.leave(&former.wireguard);
    }
    Ok((host, target, loaded.fragments))
}

pub(super) fn finish(
    global: &Global,
    answer: Answer,
    code: impl Fn(bool, usize) -> ExitCode,
) -> Result<ExitCode, CliError> {
    match answer {
        Answer::Done {
            json,
            text,
            ok,
            changes,
        } => {
            global.print(&json, &text)?;
            Ok(code(ok, changes))
        }
        Answer::Refused { reason } => Err(CliError::Other(reason)),
        Answer::BadConfig { text, diagnostics } => Err(CliError::DaemonConfig { text, diagnostics }),
    }
}
