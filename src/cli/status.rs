//! `status`.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::online::{ask, direct, finish};
use super::{CliError, Global};
use crate::api::control::{Answer, Request};
use crate::config::{self, Diagnostics};
use crate::host::unix_now;
use crate::model::host::DEFAULT_RUN_DIR;
use crate::reconcile::{self, Conditions, Execution, Round};
use crate::report::status::Status;

/// Time between two pictures of `--watch`.
const WATCH: Duration = Duration::from_secs(2);

pub(super) async fn status(global: &Global, watch: bool) -> Result<ExitCode, CliError> {
    loop {
        let answer = once(global).await?;
        if watch && !global.json && stdout().is_terminal() {
            // Clear the screen and go home (ECMA-48 ED, CUP).
            global.write(b"\x1b[2J\x1b[H")?;
        }
        let code = finish(global, answer, |_, _| ExitCode::SUCCESS)?;
        if !watch || global.reader_is_gone() {
            return Ok(code);
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// A daemon goes on with the last good configuration, and says so, although `sdwand.toml` no longer tells where its
/// socket is.
async fn of_the_last_good(global: &Global, errors: Diagnostics) -> Result<Answer, CliError> {
    if !global.config.is_file() {
        return Err(errors.into());
    }
    let (own, _) = config::load_host_anyway(&global.config);
    for run_dir in [&*own.run_dir, Path::new(DEFAULT_RUN_DIR)] {
        if let Ok(Some(answer)) = ask(run_dir, &Request::Status).await {
            return Ok(answer);
        }
    }
    Err(errors.into())
}

async fn once(global: &Global) -> Result<Answer, CliError> {
    let own = match config::load_host(&global.config) {
        Ok((own, _)) => own,
        Err(errors) => return of_the_last_good(global, errors).await,
    };
    if let Some(answer) = ask(&own.run_dir, &Request::Status).await? {
        return Ok(answer);
    }
    let (mut host, target, _) = direct(global, BTreeSet::new()).await?;
    let (target, observation) = host.observe_fitted(target).await;
    let plan = reconcile::plan(&target, &observation);
    let changes = plan.steps.len();
    let ok = plan.is_converged();
    let round = Round {
        left: plan.clone(),
        plan,
        execution: Execution::default(),
    };
    let now = unix_now();
    let conditions = reconcile::conditions(&target, &round, &Conditions::new(), now);
    let status = Status::new(
        &own.node,
        Some(&target),
        Some(&observation),
        &conditions,
        host.backends(),
        None,
        observation.now,
    );
    let json = serde_json::to_value(&status)
        .map_err(|error| CliError::Other(format!("the status can't be written as JSON: {error}")))?;
    Ok(Answer::Done {
        json,
        text: status.to_string(),
        ok,
        changes,
    })
}
