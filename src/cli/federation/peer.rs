//! `sdwand peer …`: from a proposal to its end.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Read as _, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::approvals::parked;
use super::{Api, which};
use crate::api::operator::API;
use crate::cli::{CliError, Global};
use crate::federation::pki::authority::write_whole;
use crate::federation::token::AcceptanceToken;

/// How often a peer's status is looked at while its acceptance is waited for.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub(crate) enum PeerCommand {
    /// Propose a peering: prints the token for the other operator, once
    #[command(after_help = "Example:
  sdwand peer propose https://site-b.example.com:8443 --name site-b

Nobody is contacted. Hand the token over out of band; it carries the fingerprint of this site's CA.

A site that this one spawns reads it from a file at its first start:
  sdwand peer propose https://edge-1.example.com:8443 --role parent --mode managed_child --payload edge-1.json")]
    Propose(Propose),
    /// Take another operator's token to its site: registers the peer and accepts in one
    #[command(after_help = "Example:
  sdwand peer accept https://site-a.example.com:8443 --name site-a --token - < token.txt

With `--token -` the token is read from standard input, where other users of this host don't see it.")]
    Accept(Accept),
    /// All peers
    #[command(after_help = "Example:
  sdwand peer list --json | jq -r '.[] | select(.status != \"active\") | .alias'")]
    List,
    /// One peer, with everything that is known of it
    #[command(after_help = "Example:
  sdwand peer show site-b")]
    Show(Which),
    /// Note that both operators see the same six words
    #[command(after_help = "Example:
  sdwand peer show site-b      # compare the words with the other operator, by voice
  sdwand peer verify site-b")]
    Verify(Which),
    /// Stop a peer for the time being: its certificates are good for nothing
    #[command(after_help = "Example:
  sdwand peer suspend site-b --reason 'maintenance until 18:00'")]
    Suspend(Reason),
    /// Let a suspended peer go on
    #[command(after_help = "Example:
  sdwand peer resume site-b")]
    Resume(Which),
    /// End a peering for good; the row stays as history
    #[command(after_help = "Example:
  sdwand peer revoke site-b --reason 'contract ended'")]
    Revoke(Reason),
    /// Change what is known of a peer: where it is, or where its data resides
    #[command(after_help = "Example:
  sdwand peer set site-b --url https://new.site-b.example.com:8443
  sdwand peer set site-b --residency JP      # what it doesn't say of itself")]
    Set(Set),
    /// Draw another token for a peer that is still proposed; the old one is dead
    #[command(after_help = "Example:
  sdwand peer rotate-token site-b")]
    RotateToken(Which),
    /// Take a soft step of the acceptance again: governance or attach
    #[command(after_help = "Example:
  sdwand peer retry site-b governance")]
    Retry(Retry),
    /// Ask the peers that are silent, and degrade those that don't answer; `sdwand serve` does so by itself
    #[command(after_help = "Example:
  sdwand peer sweep --dry-run      # who is silent?
  sdwand peer sweep

One that answers isn't made active by that: its heartbeats are waited for a while longer.
Exit status: 0 nobody was degraded (or, in a dry run, is silent) and no certificate needs an operator, 1 otherwise.")]
    Sweep(super::sweep::Sweep),
    /// Lead a network of this site to a peer's: writes the fleet's fragment, and waits until both sites have agreed
    #[command(after_help = "Examples:
  sdwand peer bridge site-b --network prod --dry-run
  sdwand peer bridge site-b --network prod --import fd77:1:2:1::/64 --export fd12:34ab:cd42:1::/64 vip:k3s-api
  sdwand peer bridge site-b --network prod --remove

The peer's operator does the same. What both want is in force; firewall rules still have to let anything in.
The fragment, 50-bridge-<name>.toml, belongs on every host of the site.
Exit status: 0 it is active (or removed, shown, or written with --no-wait), 2 it waits for something, 1 an error.")]
    Bridge(super::bridge::BridgeArgs),
    /// Read a resource at a peer, with a grant that its operator gave you
    #[command(after_help = "Example:
  sdwand peer call site-a network --grant token.txt
  sdwand peer call site-a virtual_ip prod.k3s-api --grant - --json < token.txt
  sdwand peer call site-a node --network lab --grant token.txt

With --network the call goes through the bridge of that network of ours, from our gateway's overlay address to the peer's:
what a grant restricts to the peer's network is read by that way only, and nothing falls back to the underlay.")]
    Call(super::grant::Call),
}

#[derive(Debug, Args)]
pub(crate) struct Propose {
    /// Where the other site's API is
    url: String,
    /// What this site calls it; else after its host
    #[arg(long, value_name = "ALIAS")]
    name: Option<String>,
    /// How long the token lives, in seconds [default: 7 days]
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
    /// Only this CA may answer: its fingerprint, as `pki show` prints it there
    #[arg(long, value_name = "FINGERPRINT")]
    expect_ca: Option<String>,
    /// symmetric, parent or child
    #[arg(long, default_value = "symmetric")]
    role: String,
    /// `out_of_band`, `managed_child`, `autonomous_peer` or `cluster_member`
    #[arg(long, default_value = "out_of_band")]
    mode: String,
    /// With --role parent: writes what the child reads at its first start, instead of showing the token
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Accept {
    /// Where the other site's API is
    url: String,
    /// The token; `-` reads it from standard input
    #[arg(long)]
    token: String,
    /// What this site calls the other; else after its host
    #[arg(long, value_name = "ALIAS")]
    name: Option<String>,
    /// symmetric, or child where the other site spawned this one
    #[arg(long, default_value = "symmetric")]
    role: String,
    /// `out_of_band`, `managed_child`, `autonomous_peer` or `cluster_member`
    #[arg(long, default_value = "out_of_band")]
    mode: String,
    /// How many seconds to wait until the peer is active
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    wait: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Its alias or id
    #[arg(value_parser = which)]
    peer: String,
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    /// Its alias or id
    #[arg(value_parser = which)]
    peer: String,
    /// Where its API is now
    #[arg(long, required_unless_present = "residency", conflicts_with = "residency")]
    url: Option<String>,
    /// Where its data resides
    #[arg(long, value_name = "PLACE")]
    residency: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// Its alias or id
    #[arg(value_parser = which)]
    peer: String,
    /// Which step
    #[arg(value_parser = ["governance", "attach"])]
    step: String,
}

#[derive(Debug, Args)]
pub(crate) struct Reason {
    /// Its alias or id
    #[arg(value_parser = which)]
    peer: String,
    /// Why, for the audit
    #[arg(long)]
    reason: Option<String>,
}

pub(crate) async fn peer(global: &Global, command: PeerCommand) -> Result<ExitCode, CliError> {
    let api = Api::open(global)?;
    let post = async |which: &str, verb: &str, body: Value| {
        let answer = api
            .ask(Method::POST, &format!("{API}/{which}/{verb}"), Some(body))
            .await?;
        show(global, &answer["peer"])
    };
    match command {
        PeerCommand::Propose(asked) => {
            let body = json!({
                "remote_instance_url": asked.url, "alias": asked.name, "token_ttl_seconds": asked.ttl,
                "expect_ca": asked.expect_ca, "spawn_role": asked.role, "spawn_mode": asked.mode,
            });
            if let Some(path) = &asked.payload {
                if asked.role != "parent" {
                    return Err(CliError::Other(
                        "--payload is for children: it needs --role parent".to_owned(),
                    ));
                }
                if path.exists() {
                    let text = format!("{} is there already, and may be another child's", path.display());
                    return Err(CliError::Other(text));
                }
            }
            let mut answer = api.ask(Method::POST, API, Some(body)).await?;
            if let Some(parked) = parked(global, &answer)? {
                return Ok(parked);
            }
            match &asked.payload {
                Some(path) => left(global, &mut answer, path),
                None => offered(global, &answer),
            }
        }
        PeerCommand::Accept(asked) => accept(global, &api, asked).await,
        PeerCommand::List => list(global, &api).await,
        PeerCommand::Show(which) => {
            let peer = api
                .ask(Method::GET, &format!("{API}/{}", which.peer), None)
                .await?;
            show(global, &peer)
        }
        PeerCommand::Verify(which) => post(&which.peer, "verify", json!({})).await,
        PeerCommand::Resume(which) => post(&which.peer, "resume", json!({})).await,
        PeerCommand::Suspend(asked) => post(&asked.peer, "suspend", json!({ "reason": asked.reason })).await,
        PeerCommand::Revoke(asked) => post(&asked.peer, "revoke", json!({ "reason": asked.reason })).await,
        PeerCommand::Set(asked) => {
            let body = json!({ "remote_instance_url": asked.url, "data_residency": asked.residency });
            let path = format!("{API}/{}", asked.peer);
            let answer = api.ask(Method::PATCH, &path, Some(body)).await?;
            show(global, &answer["peer"])
        }
        PeerCommand::RotateToken(which) => {
            let path = format!("{API}/{}/rotate-token", which.peer);
            let answer = api.ask(Method::POST, &path, Some(json!({}))).await?;
            parked(global, &answer)?.map_or_else(|| offered(global, &answer), Ok)
        }
        PeerCommand::Retry(asked) => {
            let path = format!("{API}/{}/retry", asked.peer);
            let taken = api
                .ask(Method::POST, &path, Some(json!({ "step": asked.step })))
                .await?;
            let text = if asked.step == "governance" {
                super::site::findings(&taken["outcome"]["peer_findings"])
            } else {
                format!("{}\n", taken["outcome"])
            };
            global.print(&taken, &text)?;
            Ok(ExitCode::SUCCESS)
        }
        PeerCommand::Sweep(asked) => super::sweep::sweep(global, &api, asked).await,
        PeerCommand::Bridge(asked) => super::bridge::bridge(global, &api, asked).await,
        PeerCommand::Call(asked) => super::grant::call(global, &api, asked).await,
    }
}

async fn list(global: &Global, api: &Api) -> Result<ExitCode, CliError> {
    super::pause::remind(api).await?;
    let peers = api.ask(Method::GET, API, None).await?;
    let mut text = String::new();
    for peer in peers.as_array().into_iter().flatten() {
        let words = ["alias", "status", "remote_instance_url", "last_heartbeat_at"];
        let [alias, status, url, heard] = words.map(|key| peer[key].as_str().unwrap_or("-"));
        let _ = writeln!(text, "{alias:<24} {status:<10} {url:<44} {heard}");
    }
    global.print(&peers, if text.is_empty() { "no peers\n" } else { &text })?;
    Ok(ExitCode::SUCCESS)
}

/// A peer that was proposed, and its token.
fn offered(global: &Global, answer: &Value) -> Result<ExitCode, CliError> {
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        eprintln!("warning: {}", crate::cli::plain(warning.as_str().unwrap_or("-")));
    }
    let word = |key: &str| answer["peer"][key].as_str().unwrap_or("-");
    let text = format!(
        "peer {} ({}), proposed; the token is good until {} and is shown this once:\n\n{}\n\nThe other operator runs:\n  sdwand peer accept URL-OF-THIS-SITE --token -\n",
        word("alias"),
        word("id"),
        word("acceptance_token_expires_at"),
        answer["acceptance_token"].as_str().unwrap_or("-"),
    );
    global.print(answer, &text)?;
    Ok(ExitCode::SUCCESS)
}

/// A peer that was proposed, and its payload in a file that only its owner reads.
fn left(global: &Global, answer: &mut Value, path: &Path) -> Result<ExitCode, CliError> {
    let text = zeroize::Zeroizing::new(format!("{:#}\n", answer["spawn_payload"]));
    write_whole(path, &text, 0o600)
        .map_err(|error| CliError::Other(format!("writing {}: {error}", path.display())))?;
    let peer = answer["peer"].take();
    let word = |key: &str| peer[key].as_str().unwrap_or("-");
    let text = format!(
        "peer {} ({}), proposed; its payload is in {}, with a token in it that is good once, until {}.\n\nPut it on the child's gateway as /etc/sdwand/federation-payload.json, 0640 root:sdwand, before `sdwand serve` starts.\n",
        word("alias"),
        word("id"),
        path.display(),
        word("acceptance_token_expires_at"),
    );
    global.print(&json!({ "peer": peer, "payload": path }), &text)?;
    Ok(ExitCode::SUCCESS)
}

fn show(global: &Global, peer: &Value) -> Result<ExitCode, CliError> {
    let mut text = String::new();
    for key in [
        "alias",
        "id",
        "status",
        "since",
        "reason",
        "remote_instance_url",
        "site_id",
        "remote_prefix_advertisement",
        "spawn_role",
        "spawn_mode",
        "managed_until",
        "signed_here",
        "cluster",
        "verification_words",
        "verified",
        "last_handshake_at",
        "last_heartbeat_at",
        "acceptance_token_expires_at",
        "platform_version",
        "data_residency",
        "dialable",
        "generation",
    ] {
        match &peer[key] {
            Value::Null => {}
            Value::String(value) => {
                let _ = writeln!(text, "{key:<28} {value}");
            }
            value @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                let _ = writeln!(text, "{key:<28} {value}");
            }
        }
    }
    for bridge in peer["bridges"].as_array().into_iter().flatten() {
        text.push_str(&super::bridge::line(bridge));
    }
    global.print(peer, &text)?;
    Ok(ExitCode::SUCCESS)
}

/// Registers the peer, unless it is, takes the token to it, and waits until it is active.
async fn accept(global: &Global, api: &Api, asked: Accept) -> Result<ExitCode, CliError> {
    let mut token = zeroize::Zeroizing::new(asked.token);
    if token.as_str() == "-" {
        token.clear();
        let read = std::io::stdin().take(4_096).read_to_string(&mut token);
        read.map_err(|error| CliError::Other(format!("reading the token: {error}")))?;
    }
    // A damaged token is told before anything is written.
    AcceptanceToken::parse(&token).map_err(|error| CliError::new(&error))?;
    let step = |text: &str| {
        if !global.json && stderr().is_terminal() {
            eprintln!("{text}");
        }
    };
    step("registering the peer");
    let known = api
        .ask(Method::GET, &format!("{API}?status=proposed"), None)
        .await?;
    let url = crate::federation::url::PeerUrl::new(&asked.url)
        .map_err(|error| CliError::new(&error))?
        .to_string();
    let known = known
        .as_array()
        .into_iter()
        .flatten()
        .find(|peer| peer["remote_instance_url"] == url.as_str());
    let id = if let Some(peer) = known {
        peer["id"].clone()
    } else {
        let body = json!({
            "remote_instance_url": url, "alias": asked.name, "spawn_role": asked.role, "spawn_mode": asked.mode,
        });
        let answer = api.ask(Method::POST, API, Some(body)).await?;
        if let Some(parked) = parked(global, &answer)? {
            return Ok(parked);
        }
        answer["peer"]["id"].clone()
    };
    let id = id.as_str().unwrap_or_default().to_owned();
    step("taking the token to its site");
    let body = json!({ "acceptance_token": token.as_str() });
    let answer = api
        .ask(Method::POST, &format!("{API}/{id}/accept"), Some(body))
        .await?;
    if let Some(parked) = parked(global, &answer)? {
        return Ok(parked);
    }
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        eprintln!("warning: {}", crate::cli::plain(warning.as_str().unwrap_or("-")));
    }
    step("enrolled; waiting for the first heartbeat");
    let looks = asked.wait * 1_000 / u64::try_from(LOOK.as_millis()).unwrap_or(250);
    let mut peer = answer["peer"].clone();
    for _ in 0..looks {
        if peer["status"] == "active" {
            break;
        }
        tokio::time::sleep(LOOK).await;
        peer = api.ask(Method::GET, &format!("{API}/{id}"), None).await?;
    }
    let is_active = peer["status"] == "active";
    if !is_active {
        eprintln!(
            "the peer is {}, not yet active: no heartbeat came through in {} s; it is tried on: `sdwand peer show {id}`",
            peer["status"].as_str().unwrap_or("-"),
            asked.wait
        );
    }
    show(global, &peer)?;
    Ok(if is_active {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
