//! Commands that write configuration: `init`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{CliError, Global};
use crate::config;
use crate::model::Name;

/// `init`
#[derive(Debug, Args)]
pub(super) struct Init {
    /// The name of this host in the fleet
    #[arg(long, value_name = "NAME")]
    node: Name,
    /// The name of the site, where a new one begins
    #[arg(long, value_name = "NAME", default_value = "site-a")]
    site: Name,
}

pub(super) fn init(global: &Global, args: &Init) -> Result<ExitCode, CliError> {
    let written =
        config::init::write(&global.config, &args.node, &args.site).map_err(|error| CliError::new(&error))?;
    let files: Vec<String> = written
        .files
        .iter()
        .map(|path| format!("wrote {}\n", path.display()))
        .collect();
    let next = match &written.add_to_fleet {
        Some(node) => format!("the fleet is there already; it needs this node:\n\n{node}"),
        None => {
            "next: add nodes and a network to the fleet, then `sdwand check` and `sdwand plan`\n".to_owned()
        }
    };
    global.print(
        &json!({
            "files": written.files,
            "public_key": written.public_key,
            "add_to_fleet": written.add_to_fleet,
        }),
        &format!("{}public key {}\n{next}", files.concat(), written.public_key),
    )?;
    Ok(ExitCode::SUCCESS)
}
