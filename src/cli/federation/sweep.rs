//! `sdwand peer sweep`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::Api;
use crate::api::operator::FEDERATION;
use crate::cli::{CliError, Global};

#[derive(Debug, Args)]
pub(crate) struct Sweep {
    /// Only say who is silent: nobody is asked, nothing changes
    #[arg(long)]
    dry_run: bool,
    /// Who counts as silent: not heard of for so long [default: `stale_after_seconds` of `[federation]`]
    #[arg(long, value_name = "SECONDS")]
    stale_after: Option<u64>,
}

pub(super) async fn sweep(global: &Global, api: &Api, asked: Sweep) -> Result<ExitCode, CliError> {
    let body = json!({ "dry_run": asked.dry_run, "stale_after_seconds": asked.stale_after });
    let path = format!("{FEDERATION}/sweep");
    let swept = api.ask(Method::POST, &path, Some(body)).await?;
    let list = |key: &str| swept[key].as_array().cloned().unwrap_or_default();
    let (silent, certificates) = (list("silent"), list("requires_operator_action"));
    let mut text = format!("{} active, {} of them silent\n", swept["swept"], silent.len());
    for peer in &silent {
        let word = |key: &str| peer[key].as_str().unwrap_or("-").to_owned();
        let became = |key: &str| list(key).contains(&peer["federation_peer_id"]);
        let became = match (became("degraded_ids"), became("rehandshaked_ids")) {
            (true, _) => "degraded",
            (_, true) => "answers; its heartbeats are waited for a while longer",
            (false, false) => "left as it is",
        };
        let _ = writeln!(
            text,
            "{:<24} last heard of {:<26} {:<16} {became}",
            word("alias"),
            word("last_heartbeat_at"),
            word("probe"),
        );
    }
    for finding in &certificates {
        let _ = writeln!(text, "act: {}", finding["message"].as_str().unwrap_or("-"));
    }
    global.print(&swept, &text)?;
    let is_well = if asked.dry_run {
        silent.is_empty()
    } else {
        swept["degraded_ids"] == Value::Array(Vec::new())
    };
    Ok(if is_well && certificates.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
