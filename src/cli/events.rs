//! `events`.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::online::{ask, finish};
use super::{CliError, Global};
use crate::api::control::{Answer, Request};
use crate::config;
use crate::log::{Kind, catalogue};
use crate::model::host::DEFAULT_RUN_DIR;

/// `events`
#[derive(Debug, Args)]
pub(super) struct Events {
    /// Every event that there is, instead of what happened; needs no daemon
    #[arg(long)]
    catalogue: bool,
}

pub(super) async fn events(global: &Global, args: &Events) -> Result<ExitCode, CliError> {
    if args.catalogue {
        let all: Vec<&Kind> = catalogue().collect();
        let text: Vec<String> = all.iter().map(ToString::to_string).collect();
        global.print(&all, &text.join("\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    finish(global, happened(global).await?, |_, _| ExitCode::SUCCESS)
}

/// What the daemon says; also where the configuration is bad, which is when one wants to know.
async fn happened(global: &Global) -> Result<Answer, CliError> {
    let (own, errors) = config::load_host_anyway(&global.config);
    let mut folders = vec![&*own.run_dir];
    if errors.is_some() && own.run_dir != Path::new(DEFAULT_RUN_DIR) {
        folders.push(Path::new(DEFAULT_RUN_DIR));
    }
    for folder in folders {
        if let Some(answer) = ask(folder, &Request::Events).await? {
            return Ok(answer);
        }
    }
    Err(CliError::Other(format!(
        "no daemon listens in {}: `journalctl -u sdwand` has what happened before it stopped",
        own.run_dir.display()
    )))
}
