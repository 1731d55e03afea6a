//! `sdwand audit …` and `sdwand pki …`: what happened, and who we are.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Subcommand;
use hyper::Method;

use super::Api;
use crate::api::operator::FEDERATION;
use crate::cli::{CliError, Global};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// The last records
    #[command(after_help = "Example:
  sdwand audit tail --count 20")]
    Tail {
        /// How many
        #[arg(long, default_value_t = 50)]
        count: usize,
    },
    /// Recompute the whole chain
    #[command(after_help = "Example:
  sdwand audit verify")]
    Verify,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PkiCommand {
    /// This site's id and CA
    #[command(after_help = "Example:
  sdwand pki show")]
    Show,
}

pub(crate) async fn audit(global: &Global, command: AuditCommand) -> Result<ExitCode, CliError> {
    let api = Api::open(global)?;
    match command {
        AuditCommand::Tail { count } => {
            let path = format!("{FEDERATION}/audit?count={count}");
            let answer = api.ask(Method::GET, &path, None).await?;
            let mut text = String::new();
            for record in answer["records"].as_array().into_iter().flatten() {
                let (at, kind) = (
                    record["at"].as_str().unwrap_or("-"),
                    record["kind"].as_str().unwrap_or("-"),
                );
                let peer = record["peer"].as_str().unwrap_or("-");
                let _ = writeln!(text, "{at:<26} {kind:<40} {peer} {}", record["payload"]);
            }
            global.print(&answer["records"], &text)?;
            Ok(ExitCode::SUCCESS)
        }
        AuditCommand::Verify => {
            let path = format!("{FEDERATION}/audit?count=0&verify=true");
            let answer = api.ask(Method::GET, &path, None).await?;
            let verified = &answer["verified"];
            let ok = verified["ok"] == true;
            let text = if ok {
                format!(
                    "the chain is whole: {} (this shows that the copy is consistent with itself)\n",
                    verified["head"].as_str().unwrap_or("-")
                )
            } else {
                format!("BROKEN: {}\n", verified["error"].as_str().unwrap_or("-"))
            };
            global.print(verified, &text)?;
            Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

pub(crate) async fn pki(global: &Global, command: PkiCommand) -> Result<ExitCode, CliError> {
    let PkiCommand::Show = command;
    let site = Api::open(global)?
        .ask(Method::GET, &format!("{FEDERATION}/site"), None)
        .await?;
    let word = |key: &str| site[key].as_str().unwrap_or("-").to_owned();
    let text = format!(
        "site {}\nurl  {}\nCA   {}\n{}",
        word("site_id"),
        word("url"),
        word("ca_fingerprint"),
        word("ca_pem")
    );
    global.print(&site, &text)?;
    Ok(ExitCode::SUCCESS)
}
