//! `sdwand ledger …`: copies of what a site's gateway remembers, and its time.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};

use super::Api;
use crate::api::operator::FEDERATION;
use crate::cli::{CliError, Global};
use crate::config;
use crate::federation::ledger::{ClockReset, Holding, backup, inspect, reset_clock, restore};
use crate::federation::moment::Moment;
use crate::host::system_now;
use crate::server;
use crate::sys::lock::FileLock;

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Copy the ledger to a file (0600), while the gateway runs or without it
    #[command(after_help = "Example:
  sdwand ledger backup /var/backups/sdwand-ledger.db

The site's CA isn't in it: keep <state_dir>-serve/ca.pem and <state_dir>-serve/ca.key as well, the key where nobody else
reads it. Without them a restored ledger is of no use: its peers know this site by that CA.
Without a running gateway, run this as the user whose <state_dir>-serve is.")]
    Backup {
        /// Where to; what is there is replaced
        file: PathBuf,
    },
    /// Put a copy in the ledger's place; the gateway must be stopped
    #[command(after_help = "Examples:
  systemctl stop sdwand-serve
  runuser -u sdwand -- sdwand ledger restore - < /var/backups/sdwand-ledger.db
  systemctl start sdwand-serve
  sdwand peer resume site-b      # for each peer that shall go on

A new epoch begins: whoever was on is suspended, whoever was only proposed is revoked, every token and kept answer is
void. What was there is kept as ledger.db.replaced. Run this as the user whose <state_dir>-serve is.")]
    Restore {
        /// The copy; `-` reads it from standard input
        file: PathBuf,
    },
    /// Put the ledger's time back to this host's clock, after that was once far ahead; the gateway must be stopped
    #[command(after_help = "Example:
  date -u                        # is it right?
  systemctl stop sdwand-serve
  runuser -u sdwand -- sdwand ledger reset-clock --today 2026-11-24
  systemctl start sdwand-serve
  sdwand peer resume site-b      # for each peer that shall go on

The ledger's time never goes back by itself, so that nothing that had expired is good again. After a clock in 2040 all is
expired until 2040, peers' certificates too. This ends that as a restore would: a new epoch begins, whoever was on is
suspended, whoever was only proposed is revoked, every token, grant and kept answer is void. The audit goes on and says so.
A backup of before the clock was ahead does as well: `sdwand ledger restore`.
Run this as the user whose <state_dir>-serve is.")]
    ResetClock {
        /// Today's date (UTC), as you know it and not as this host says: it must be the same
        #[arg(long, value_name = "YYYY-MM-DD")]
        today: String,
    },
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> CliError {
    let text = format!("{what} {}", path.display());
    move |error| CliError::Other(format!("{text}: {error}"))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    name.into()
}

pub(crate) async fn ledger(global: &Global, command: LedgerCommand) -> Result<ExitCode, CliError> {
    match command {
        LedgerCommand::Backup { file } => {
            let new = beside(&file, ".new");
            match std::fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("removing", &new)(error));
                }
                Ok(()) | Err(_) => {}
            }
            let copied = copy_to(global, &new).await;
            if copied.is_err() {
                // What is half written is no backup; the error is the one above.
                let _ = std::fs::remove_file(&new);
            }
            let holding = copied?;
            std::fs::rename(&new, &file).map_err(failed("writing", &file))?;
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(failed("writing", folder))?;
            let (own, _) = config::load_host(&global.config)?;
            let serve = server::state_dir(&own);
            let keep = ["ca.pem", "ca.key"].map(|name| serve.join(name).display().to_string());
            let text = format!("keep {} and {} as well\n", keep[0], keep[1]);
            print(global, &file, &holding, json!({ "keep_as_well": keep }), &text)?;
        }
        LedgerCommand::Restore { file } => {
            let holding = put_back(global, &file)?;
            let text = "nothing is active: `sdwand peer resume PEER` for each that shall go on\n";
            print(global, &file, &holding, json!({}), text)?;
        }
        LedgerCommand::ResetClock { today } => {
            let reset = set_back(global, &today)?;
            let text = format!(
                "the ledger's time was {}, and is {}: epoch {}, audit {}\nnothing is active: `sdwand peer resume PEER` for each that shall go on\n",
                reset.from, reset.to, reset.epoch, reset.audit_head
            );
            global.print(&json!(reset), &text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(global: &Global, file: &Path, holding: &Holding, more: Value, text: &str) -> Result<(), CliError> {
    let mut answer = json!({
        "file": file, "schema": holding.schema, "peers": holding.peers,
        "audit_head": holding.audit_head, "epoch": holding.epoch,
    });
    if let (Value::Object(answer), Value::Object(more)) = (&mut answer, more) {
        answer.extend(more);
    }
    let text = format!(
        "{}: {} peers, epoch {}, audit {}\n{text}",
        file.display(),
        holding.peers,
        holding.epoch,
        holding.audit_head
    );
    global.print(&answer, &text)
}

/// Through the gateway where one runs, else from the file itself.
async fn copy_to(global: &Global, new: &Path) -> Result<Holding, CliError> {
    let api = Api::open(global)?;
    if !api.is_there().await {
        let (ledger, _lock) = stopped(global)?;
        return backup(&ledger, new).map_err(|error| CliError::new(&error));
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(new)
        .map_err(failed("creating", new))?;
    let path = format!("{FEDERATION}/ledger/backup");
    api.receive(Method::POST, &path, &mut |bytes| file.write_all(bytes))
        .await?;
    file.sync_all().map_err(failed("writing", new))?;
    inspect(new).map_err(|error| CliError::new(&error))
}

/// The ledger's file, and the lock that keeps the gateway from starting. Only as the user whose folder it is: anyone else
/// would follow that user's links, or leave it files that it can't open.
fn stopped(global: &Global) -> Result<(PathBuf, FileLock), CliError> {
    let (own, _) = config::load_host(&global.config)?;
    let folder = server::state_dir(&own);
    let owner = std::fs::metadata(&folder)
        .map_err(failed("looking at", &folder))?
        .uid();
    if rustix::process::geteuid().as_raw() != owner {
        return Err(CliError::Other(format!(
            "{} is user {owner}'s: run this as that user, `setpriv --reuid={owner} --clear-groups sdwand ledger …`",
            folder.display()
        )));
    }
    let lock = FileLock::acquire(&folder.join("lock")).map_err(|error| {
        CliError::Other(format!(
            "stop the gateway first: {}",
            crate::report::chain(&error)
        ))
    })?;
    Ok((folder.join("ledger.db"), lock))
}

fn put_back(global: &Global, file: &Path) -> Result<Holding, CliError> {
    let (ledger, _lock) = stopped(global)?;
    let wall = system_now().into();
    if file != Path::new("-") {
        return restore(file, &ledger, wall).map_err(|error| CliError::new(&error));
    }
    let taken = beside(&ledger, ".stdin");
    let remove = || match std::fs::remove_file(&taken) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", &taken)(error)),
        Ok(()) | Err(_) => Ok(()),
    };
    remove()?;
    let mut copy = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&taken)
        .map_err(failed("creating", &taken))?;
    let restored = io::copy(&mut io::stdin().lock(), &mut copy)
        .map_err(failed("copying standard input to", &taken))
        .and_then(|_| restore(&taken, &ledger, wall).map_err(|error| CliError::new(&error)));
    remove()?;
    restored
}

fn set_back(global: &Global, today: &str) -> Result<ClockReset, CliError> {
    let wall: Moment = system_now().into();
    if wall.to_string().get(..10) != Some(today) {
        return Err(CliError::Other(format!(
            "--today is {today:?}, this host's clock says {wall} (UTC): set the clock first (NTP, or `date -s`), for the ledger would follow it"
        )));
    }
    let (ledger, _lock) = stopped(global)?;
    reset_clock(&ledger, wall).map_err(|error| CliError::new(&error))
}
