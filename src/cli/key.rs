//! `key rotate`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{CliError, Global};
use crate::config::{self, rotate};

/// `key`
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Change this node's key: draw the next one, use it once the fleet announces it, and forget the former one
    #[command(after_help = "Example, on the node; FLEET is what every host has in fleet.d:
  sdwand key rotate --begin     # draws the next key; FLEET: next_public_key = what it prints
  sdwand key rotate             # uses it; the peers follow. FLEET: public_key = it, and no next_public_key
  sdwand key rotate --finish    # removes the former key

A node without next_public_key in the fleet of some host is unreachable from there once it uses its next key.")]
    Rotate(Rotate),
}

/// `key rotate`
#[derive(Debug, Args)]
pub(super) struct Rotate {
    /// Draw the next key beside the one in use, and print its public half
    #[arg(long, conflicts_with = "finish")]
    begin: bool,
    /// Remove the former key, once the fleet has the new one in its place
    #[arg(long)]
    finish: bool,
}

pub(super) fn key(global: &Global, command: &KeyCommand) -> Result<ExitCode, CliError> {
    let KeyCommand::Rotate(asked) = command;
    let (own, _) = config::load_host(&global.config)?;
    let fleet = config::load_fleet(&own.fleet_dir)?.fleet;
    let node = fleet.nodes.get(&own.node).ok_or_else(|| {
        CliError::Other(format!(
            "the fleet has no node {}: name this host in sdwand.toml's `node` as [[nodes]] does",
            own.node
        ))
    })?;
    let file = &own.private_key_file;
    let name = &node.name;
    let (step, done) = if asked.begin {
        ("begin", rotate::begin(file, node))
    } else if asked.finish {
        ("finish", rotate::finish(file, node))
    } else {
        ("use", rotate::turn(file, node))
    };
    let key = done.map_err(|error| CliError::new(&error))?;
    let next = match step {
        "begin" => format!(
            "the next key of {name} is {key}\nadd to [[nodes]] {name} on every host:\n\n  next_public_key = \"{key}\"\n\nthen `sdwand key rotate`\n"
        ),
        "use" => format!(
            "{name} uses {key}: the daemon takes it up by itself\nin [[nodes]] {name} on every host, in place of the former key and of next_public_key:\n\n  public_key = \"{key}\"\n\nthen `sdwand key rotate --finish`\n"
        ),
        _ => format!("the former key of {name} is removed; it uses {key}\n"),
    };
    global.print(&json!({ "node": name, "step": step, "public_key": key }), &next)?;
    Ok(ExitCode::SUCCESS)
}
