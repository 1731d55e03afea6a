//! `sdwand federation …`: whether anything new is begun with other sites.

use std::process::ExitCode;

use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};

use super::Api;
use crate::api::operator::FEDERATION;
use crate::cli::{CliError, Global};

#[derive(Debug, Subcommand)]
pub(crate) enum FederationCommand {
    /// Begin nothing new: nobody is proposed or accepted. Heartbeats, revocations and reads go on
    #[command(after_help = "Example:
  sdwand federation pause --reason 'maintenance until 18:00'

It holds over restarts. A site that brings a token meanwhile is told to try later; the token stays good.")]
    Pause {
        /// Why, for whoever is refused here
        #[arg(long)]
        reason: Option<String>,
    },
    /// End the pause
    #[command(after_help = "Example:
  sdwand federation resume")]
    Resume,
    /// Whether it is paused, what waits for approval, and where it listens inside bridged networks
    #[command(after_help = "Example:
  sdwand federation status --json | jq -r '.paused.by // empty'")]
    Status,
}

pub(crate) async fn federation(global: &Global, command: FederationCommand) -> Result<ExitCode, CliError> {
    let api = Api::open(global)?;
    let post = async |verb: &str, body: Value| {
        let path = format!("{FEDERATION}/{verb}");
        api.ask(Method::POST, &path, Some(body)).await
    };
    let found = match command {
        FederationCommand::Pause { reason } => post("pause", json!({ "reason": reason })).await?,
        FederationCommand::Resume => post("resume", json!({})).await?,
        FederationCommand::Status => api.ask(Method::GET, FEDERATION, None).await?,
    };
    let paused = sentence(&found["paused"]).unwrap_or_else(|| "not paused".to_owned());
    let mut text = format!("{paused}\n{} wait for approval\n", found["approvals_pending"]);
    for listener in found["overlay_listeners"].as_array().into_iter().flatten() {
        text.push_str(&listening(listener));
    }
    global.print(&found, &text)?;
    Ok(ExitCode::SUCCESS)
}

/// A line for a listener inside a network.
pub(super) fn listening(listener: &Value) -> String {
    let word = |key: &str| listener[key].as_str().unwrap_or("-");
    let (network, address) = (word("network"), word("address"));
    if listener["is_listening"] == true {
        return format!("listening in network {network} at {address}\n");
    }
    format!(
        "not listening in network {network} at {address}: {}\n",
        word("reason")
    )
}

/// Who paused, when and why; none where nothing is paused.
fn sentence(paused: &Value) -> Option<String> {
    let (by, at) = (paused["by"].as_str()?, paused["at"].as_str()?);
    let reason = paused["reason"].as_str().map(|reason| format!(": {reason}"));
    Some(format!("paused by {by} since {at}{}", reason.unwrap_or_default()))
}

/// Says that nothing new is begun, beside what was asked for.
pub(super) async fn remind(api: &Api) -> Result<(), CliError> {
    let found = api.ask(Method::GET, FEDERATION, None).await?;
    if let Some(paused) = sentence(&found["paused"]) {
        eprintln!("note: {}", crate::cli::plain(&paused));
    }
    Ok(())
}
