//! `sdwand pki …` and `sdwand governance`: who we are, and what to look at.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;

use super::{Api, which};
use crate::api::operator::FEDERATION;
use crate::cli::{CliError, Global};

#[derive(Debug, Subcommand)]
pub(crate) enum PkiCommand {
    /// This site's id and CA
    #[command(after_help = "Example:
  sdwand pki show")]
    Show,
    /// Draw another CA; it signs once every peer knows it, after 7 days at the latest
    #[command(after_help = "Example:
  sdwand pki rotate-ca
  sdwand pki show      # which peers are still waited for

Peers are told of both CAs in their heartbeats, and keep the old one for 7 days after the new one signs. Nobody has to do
anything. Tokens that are out name the old CA: they are waited for as well. After a theft of the CA's key this is not
enough: revoke the peers and propose anew.")]
    RotateCa,
}

pub(crate) async fn pki(global: &Global, command: PkiCommand) -> Result<ExitCode, CliError> {
    let api = Api::open(global)?;
    if matches!(command, PkiCommand::RotateCa) {
        let rotation = api
            .ask(Method::POST, &format!("{FEDERATION}/pki/rotate"), None)
            .await?;
        if let Some(parked) = super::approvals::parked(global, &rotation)? {
            return Ok(parked);
        }
        global.print(&rotation, &rotating(&rotation))?;
        return Ok(ExitCode::SUCCESS);
    }
    let site = api.ask(Method::GET, &format!("{FEDERATION}/site"), None).await?;
    let word = |key: &str| site[key].as_str().unwrap_or("-").to_owned();
    let text = format!(
        "site {}\nurl  {}\nCA   {}\n{}{}",
        word("site_id"),
        word("url"),
        word("ca_fingerprint"),
        rotating(&site["rotation"]),
        word("ca_pem")
    );
    global.print(&site, &text)?;
    Ok(ExitCode::SUCCESS)
}

/// How far a rotation is; nothing where there is none.
fn rotating(rotation: &Value) -> String {
    let Some(next) = rotation["next_ca_fingerprint"].as_str() else {
        return String::new();
    };
    let waits: Vec<&str> = rotation["waits_for"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let latest = rotation["at_the_latest"].as_str().unwrap_or("-");
    let waits = if waits.is_empty() {
        "no peer".to_owned()
    } else {
        waits.join(", ")
    };
    format!(
        "next {next}\n     it signs once every peer knows it and no token is out, on {latest} at the latest;\n     waits for {waits}, and {} open tokens\n",
        rotation["open_tokens"]
    )
}

#[derive(Debug, Args)]
pub(crate) struct Governance {
    /// Only this peer, by alias or id
    #[arg(value_parser = which)]
    peer: Option<String>,
}

/// Exit 1 where something is critical or high, so that a timer can tell.
pub(crate) async fn governance(global: &Global, asked: Governance) -> Result<ExitCode, CliError> {
    let of = asked.peer.map(|peer| format!("?peer={peer}")).unwrap_or_default();
    let path = format!("{FEDERATION}/governance{of}");
    let found = Api::open(global)?.ask(Method::GET, &path, None).await?;
    global.print(&found, &findings(&found))?;
    let mut severities = found
        .as_array()
        .into_iter()
        .flatten()
        .map(|finding| &finding["severity"]);
    let is_pressing = severities.any(|severity| severity == "critical" || severity == "high");
    Ok(if is_pressing {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// A line for each finding.
pub(super) fn findings(found: &Value) -> String {
    let mut text = String::new();
    for finding in found.as_array().into_iter().flatten() {
        let word = |key: &str| finding[key].as_str().unwrap_or("-");
        let _ = writeln!(
            text,
            "{:<8} {}: {}",
            word("severity"),
            word("kind"),
            word("message")
        );
    }
    if text.is_empty() {
        "nothing to look at\n".to_owned()
    } else {
        text
    }
}
