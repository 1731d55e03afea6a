//! `sdwand approvals …`: what waits for a second operator, and their word.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Api;
use crate::api::operator::APPROVALS;
use crate::cli::{CliError, Global};

/// What was asked for waits.
const PENDING: u8 = 2;

#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalsCommand {
    /// What waits for approval
    #[command(after_help = "Example:
  sdwand approvals list
  sdwand approvals list --all --json | jq -r '.[] | select(.state == \"failed\") | .reason'")]
    List {
        /// Those that are over, too
        #[arg(long)]
        all: bool,
    },
    /// One of them
    #[command(after_help = "Example:
  sdwand approvals show 0198c0de-0000-7000-8000-000000000001")]
    Show(Which),
    /// Approve it: it is performed at once. Whoever asked for it can't
    #[command(after_help = "Example:
  sdwand approvals list
  sdwand approvals approve 0198c0de-0000-7000-8000-000000000001

Prints what the action itself prints: of a proposal that is its token, once.")]
    Approve(Which),
    /// Deny it: it is never performed
    #[command(after_help = "Example:
  sdwand approvals deny 0198c0de-0000-7000-8000-000000000001 --reason 'not before the audit'

Whoever asked for it takes it back so.")]
    Deny {
        #[command(flatten)]
        which: Which,
        /// Why, for the audit
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Its id, as `approvals list` and whoever asked for it were shown it
    id: Uuid,
}

pub(crate) async fn approvals(global: &Global, command: ApprovalsCommand) -> Result<ExitCode, CliError> {
    let api = Api::open(global)?;
    match command {
        ApprovalsCommand::List { all } => {
            let query = if all { "" } else { "?state=pending" };
            let found = api.ask(Method::GET, &format!("{APPROVALS}{query}"), None).await?;
            let mut text = String::new();
            for approval in found.as_array().into_iter().flatten() {
                let [id, state, by, until, summary] =
                    ["id", "state", "requested_by", "expires_at", "summary"].map(|key| word(approval, key));
                let _ = writeln!(text, "{id} {state:<10} {by:<16} until {until} {summary}");
            }
            global.print(&found, if text.is_empty() { "nothing waits\n" } else { &text })?;
        }
        ApprovalsCommand::Show(Which { id }) => {
            let found = api.ask(Method::GET, &format!("{APPROVALS}/{id}"), None).await?;
            show(global, &found)?;
        }
        ApprovalsCommand::Approve(Which { id }) => {
            let path = format!("{APPROVALS}/{id}/approve");
            let decided = api.ask(Method::POST, &path, Some(json!({}))).await?;
            let result = &decided["result"];
            let mut text = format!("approved and done: {}\n", word(&decided["approval"], "summary"));
            let of_peer = |key: &str| result["peer"][key].as_str();
            if let Some(status) = of_peer("status") {
                let alias = of_peer("alias").unwrap_or("-");
                let _ = writeln!(text, "peer {alias} is {status}");
            }
            if let Some(token) = result["acceptance_token"].as_str() {
                let until = of_peer("acceptance_token_expires_at").unwrap_or("-");
                let _ = writeln!(
                    text,
                    "the token is good until {until} and is shown this once:\n\n{token}"
                );
            }
            global.print(&decided, &text)?;
        }
        ApprovalsCommand::Deny {
            which: Which { id },
            reason,
        } => {
            let path = format!("{APPROVALS}/{id}/deny");
            let body = json!({ "reason": reason });
            let denied = api.ask(Method::POST, &path, Some(body)).await?;
            let text = format!("denied: {}\n", word(&denied["approval"], "summary"));
            global.print(&denied["approval"], &text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

fn show(global: &Global, approval: &Value) -> Result<(), CliError> {
    let mut text = String::new();
    for key in [
        "id",
        "action",
        "summary",
        "state",
        "peer_id",
        "requested_by",
        "requested_at",
        "expires_at",
        "decided_by",
        "decided_at",
        "reason",
    ] {
        if let Some(value) = approval[key].as_str() {
            let _ = writeln!(text, "{key:<14} {value}");
        }
    }
    global.print(approval, &text)
}

/// Says that what was asked for waits for a second operator, where the answer says so.
pub(super) fn parked(global: &Global, answer: &Value) -> Result<Option<ExitCode>, CliError> {
    let Some(id) = answer["pending_id"].as_str() else {
        return Ok(None);
    };
    let text = format!(
        "not done yet: {}\n{} asked for it; another operator approves it until {}:\n  sdwand approvals approve {id}\n",
        word(answer, "summary"),
        word(answer, "requested_by"),
        word(answer, "expires_at"),
    );
    global.print(answer, &text)?;
    Ok(Some(ExitCode::from(PENDING)))
}
