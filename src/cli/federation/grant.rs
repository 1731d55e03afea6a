//! `sdwand grant …` and `sdwand peer call`: what peers are given, and what they give us.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::{Api, which};
use crate::api::operator::API;
use crate::cli::{CliError, Global};
use crate::model::Name;

#[derive(Debug, Subcommand)]
pub(crate) enum GrantCommand {
    /// Give a peer a grant: prints its bearer token, once
    #[command(after_help = "Example:
  sdwand grant create site-b --kind network --subject operator@site-b
  sdwand grant create site-b --kind virtual_ip --id prod.k3s-api --subject ci@site-b --source 198.51.100.0/24

The other operator keeps the token in a file and calls: sdwand peer call site-a network --grant FILE")]
    Create(Create),
    /// The grants of a peer
    #[command(after_help = "Example:
  sdwand grant list site-b --state active")]
    List(List),
    /// End a grant: the next call with it is refused
    #[command(after_help = "Example:
  sdwand grant revoke site-b 0198c0de-0000-7000-8000-000000000001 --reason 'no longer needed'")]
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The peer's alias or id
    #[arg(value_parser = which)]
    peer: String,
    /// network, `virtual_ip`, node or service; any other may be granted, and is served by nobody
    #[arg(long)]
    kind: String,
    /// Which one; all of the kind without it
    #[arg(long)]
    id: Option<String>,
    /// For whom at the peer, for people and the audit
    #[arg(long)]
    subject: String,
    /// read, write, admin or migrate; may be repeated, none implies another
    #[arg(long, default_value = "read", value_name = "SCOPE")]
    scope: Vec<String>,
    /// How many days it lives, 7 to 365
    #[arg(long, default_value_t = 30, value_name = "DAYS")]
    ttl_days: i64,
    /// Only from this node of the peer, by name or instance id; may be repeated
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
    /// Only over this network of ours, by name or number; may be repeated
    #[arg(long, value_name = "NETWORK")]
    network: Vec<String>,
    /// Only from these addresses; may be repeated
    #[arg(long, value_name = "CIDR")]
    source: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// The peer's alias or id
    #[arg(value_parser = which)]
    peer: String,
    /// active, expired, revoked or archived
    #[arg(long, value_parser = ["active", "expired", "revoked", "archived"])]
    state: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// The peer's alias or id
    #[arg(value_parser = which)]
    peer: String,
    /// The grant's id, as `grant list` prints it
    grant: uuid::Uuid,
    /// Why, for the audit
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Call {
    /// The peer's alias or id
    #[arg(value_parser = which)]
    peer: String,
    /// Which kind of resource: network, `virtual_ip`, node or service
    kind: String,
    /// Which one; all of the kind without it
    id: Option<String>,
    /// The file with the grant's bearer token; `-` is standard input. A managed child is read without one
    #[arg(long, value_name = "FILE")]
    grant: Option<PathBuf>,
    /// From within this network of ours, through its bridge to the peer: for grants that name the peer's network
    #[arg(long, value_name = "NETWORK")]
    network: Option<Name>,
}

pub(crate) async fn grant(global: &Global, command: GrantCommand) -> Result<ExitCode, CliError> {
    let api = Api::open(global)?;
    match command {
        GrantCommand::Create(asked) => {
            let body = json!({
                "remote_subject": asked.subject, "resource_kind": asked.kind, "resource_id": asked.id,
                "permission_scopes": asked.scope, "ttl_days": asked.ttl_days, "node_instance_ids": asked.node,
                "sdwan_network_ids": asked.network, "source_cidrs": asked.source,
            });
            let path = format!("{API}/{}/grants", asked.peer);
            let grant = api.ask(Method::POST, &path, Some(body)).await?;
            let mut text = format!(
                "grant {}, until {}; its token is shown this once:\n\n{}\n\n",
                word(&grant, "id"),
                word(&grant, "expires_at"),
                word(&grant, "bearer_token")
            );
            let open: Vec<&str> = grant["unrestricted_axes"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            if !open.is_empty() {
                let _ = writeln!(text, "Not restricted by: {}", open.join(", "));
            }
            if grant["served"] == false {
                let _ = writeln!(
                    text,
                    "Nothing of kind {} is served here: calls are answered with 422",
                    word(&grant, "resource_kind")
                );
            }
            global.print(&grant, &text)?;
        }
        GrantCommand::List(asked) => {
            let state = asked
                .state
                .map(|state| format!("?state={state}"))
                .unwrap_or_default();
            let grants = api
                .ask(Method::GET, &format!("{API}/{}/grants{state}", asked.peer), None)
                .await?;
            let mut text = String::new();
            for grant in grants.as_array().into_iter().flatten() {
                let what = [
                    word(grant, "resource_kind"),
                    grant["resource_id"].as_str().unwrap_or("*"),
                ]
                .join("/");
                let _ = writeln!(
                    text,
                    "{} {:<8} {what:<32} {:<28} until {}",
                    word(grant, "id"),
                    word(grant, "state"),
                    word(grant, "remote_subject"),
                    word(grant, "expires_at")
                );
            }
            global.print(&grants, if text.is_empty() { "no grants\n" } else { &text })?;
        }
        GrantCommand::Revoke(asked) => {
            let path = format!("{API}/{}/grants/{}/revoke", asked.peer, asked.grant);
            let grant = api
                .ask(Method::POST, &path, Some(json!({ "reason": asked.reason })))
                .await?;
            let text = format!("grant {} is {}\n", word(&grant, "id"), word(&grant, "state"));
            global.print(&grant, &text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The most resources that are read at a peer.
const MOST: usize = 100_000;

pub(super) async fn call(global: &Global, api: &Api, asked: Call) -> Result<ExitCode, CliError> {
    let (id, grant) = (asked.id.as_deref(), asked.grant.as_deref());
    let from = asked.network.as_ref();
    let told = read_all(api, &asked.peer, (&asked.kind, id), grant, from).await?;
    let mut text = String::new();
    for resource in told["resources"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "{resource}");
    }
    let exists = told["exists"] == true;
    global.print(&told, if exists { &text } else { "there is none\n" })?;
    Ok(ExitCode::SUCCESS)
}

/// Reads all of a kind, or one, that a grant allows, page by page. `grant` is the file with its token, `from` the network from
/// within which the peer is called; none is over the underlay.
pub(super) async fn read_all(
    api: &Api,
    peer: &str,
    (kind, id): (&str, Option<&str>),
    grant: Option<&Path>,
    from: Option<&Name>,
) -> Result<Value, CliError> {
    let token = grant.map(secret).transpose()?;
    let path = format!("{API}/{peer}/call");
    let mut told: Option<Value> = None;
    let mut after = Value::Null;
    loop {
        let body = json!({
            "resource_kind": kind, "resource_id": id, "after": after,
            "bearer_token": token.as_ref().map(|token| token.trim()), "network": from,
        });
        let mut page = api.ask(Method::POST, &path, Some(body)).await?;
        let next = page["next"].take();
        match (&mut told, page["resources"].as_array_mut()) {
            (Some(told), Some(more)) => {
                if let Some(all) = told["resources"].as_array_mut() {
                    all.append(more);
                }
            }
            (Some(_), None) | (None, _) => told = Some(page),
        }
        let told = told.as_ref().and_then(|told| told["resources"].as_array());
        if told.is_some_and(|all| all.len() > MOST) {
            return Err(CliError::Other(format!(
                "the peer tells of more than {MOST} resources, and goes on: ask for one by its id"
            )));
        }
        // A peer that would lead us in a circle is left.
        let goes_on = next
            .as_str()
            .is_some_and(|next| after.as_str().is_none_or(|after| next > after));
        if !goes_on {
            break;
        }
        after = next;
    }
    Ok(told.unwrap_or_default())
}

/// A secret from a file, or from standard input.
fn secret(path: &Path) -> Result<zeroize::Zeroizing<String>, CliError> {
    let read = if path == Path::new("-") {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::io::Read::take(std::io::stdin(), 4_096), &mut text)
            .map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    read.map(zeroize::Zeroizing::new)
        .map_err(|error| CliError::Other(format!("reading the token of {}: {error}", path.display())))
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}
