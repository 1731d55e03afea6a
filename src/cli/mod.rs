//! The command line: one file per group of commands; parse arguments, call the rooms, print.
//!
//! Exit status: 0 done; 1 an error, or `apply` and `down` left something undone; 2 the configuration is bad (`check`)
//! or changes are pending (`plan`). Results go to standard output, everything else to standard error.

mod doctor;
mod editor;
mod events;
mod explain;
mod federation;
mod key;
mod manual;
mod offline;
mod online;
mod status;

use std::cell::Cell;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::api::openapi;
use crate::config::Diagnostics;

/// Makes the overlay of an SD-WAN true on this host: WireGuard, VRFs and nftables from TOML, without a controller.
#[derive(Debug, Parser)]
#[command(name = "sdwand", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Examples:
  sdwand init --node hub-a1 --site site-a   first configuration of a new site
  sdwand check                              is the configuration good?
  sdwand plan                               what would change on this host?
  sdwand run                                make it true and keep it true (what the systemd unit does)
  sdwand status --watch                     how is everything?

Exit status: 0 done; 1 error; 2 bad configuration (check) or changes pending (plan).")]
struct Cli {
    /// This host's own configuration
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = "/etc/sdwand/sdwand.toml"
    )]
    config: PathBuf,
    /// Print JSON on standard output
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a first configuration: sdwand.toml, a node key (0600) and a fleet fragment
    #[command(after_help = "Example:
  sdwand init --node hub-a1 --site site-a

Nothing that exists is overwritten. The site's prefix is drawn at random (RFC 4193).")]
    Init(editor::Init),
    /// Print the public key of this host
    #[command(after_help = "Example:
  sdwand pubkey            # goes into public_key of this node in the fleet")]
    Pubkey,
    /// This node's key
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Judge the configuration: every error at once, with file, line, column and a hint
    #[command(after_help = "Example:
  sdwand check && git commit -am 'Open 5432 to web'

Exit status: 0 good, 2 bad.")]
    Check,
    /// About the configuration itself
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print what any node would get, offline
    #[command(after_help = "Examples:
  sdwand compile --node spoke-a1 --plane wireguard   # a file for `wg setconf`, without the private key
  sdwand compile --node hub-a1 --plane wireguard --link wg-sdwan-2
  sdwand compile --node hub-a1 --plane firewall | nft -c -f -")]
    Compile(offline::Compile),
    /// Print exactly what apply would do
    #[command(after_help = "Example:
  sdwand plan --json | jq -r '.steps[].text'

Exit status: 0 nothing to do, 2 changes pending, 1 an error.")]
    Plan,
    /// Make the configuration true, and verify it by reading back
    #[command(after_help = "Examples:
  sdwand apply
  sdwand apply --plan \"$(sdwand plan --json | jq -r .fingerprint)\"   # only what was reviewed")]
    Apply(ApplyArgs),
    /// Make the configuration true and keep it true, until stopped; stopping changes nothing on the wire
    #[command(after_help = "Example:
  sdwand --config /etc/sdwand/sdwand.toml run

SIGHUP reads the configuration again. SIGTERM stops; kernel tunnels, routes and rules stay.")]
    Run,
    /// Serve the site's federation API, on its gateway, until stopped; needs no privileges
    #[command(after_help = "Example:
  sdwand --config /etc/sdwand/sdwand.toml serve

Reads [federation] of sdwand.toml. The ledger and the site's CA are in <state_dir>-serve.")]
    Serve,
    /// Other sites that this one federates with
    #[command(subcommand)]
    Peer(federation::peer::PeerCommand),
    /// Pause what is new between sites, and go on
    #[command(subcommand)]
    Federation(federation::pause::FederationCommand),
    /// What waits for a second operator, and their word
    #[command(subcommand)]
    Approvals(federation::approvals::ApprovalsCommand),
    /// What peers may read of this site
    #[command(subcommand)]
    Grant(federation::grant::GrantCommand),
    /// Services across bridges: those that this site offers, and those that it uses
    #[command(subcommand)]
    Service(federation::service::ServiceCommand),
    /// What to look at: prefixes that overlap, certificates that end, silent peers, versions, residency
    #[command(after_help = "Example:
  sdwand governance
  sdwand governance site-b --json | jq '.[].kind'

Exit status 1 if anything is critical or high.")]
    Governance(federation::site::Governance),
    /// What happened to peers, in a chain that shows tampering
    #[command(subcommand)]
    Audit(federation::audit::AuditCommand),
    /// Copies of what this site's gateway remembers
    #[command(subcommand)]
    Ledger(federation::ledger::LedgerCommand),
    /// What this site vouches with
    #[command(subcommand)]
    Pki(federation::site::PkiCommand),
    /// Tokens for operators who aren't on this host
    #[command(subcommand)]
    Token(federation::token::TokenCommand),
    /// Look for what may be wrong with this host, and say what to do; needs no daemon
    #[command(after_help = "Example:
  sdwand doctor --json | jq '.checks[] | select(.verdict != \"ok\")'

Exit status 2 if something doesn't work or is unsafe; what only may be in the way doesn't count.")]
    Doctor,
    /// Say whether a packet gets from here to there, and what decides: routes, WireGuard, firewall, host by host
    #[command(after_help = "Examples:
  sdwand explain web-1 db-1 tcp/5432
  sdwand explain 10.1.0.7 k3s-api tcp/6443 --network prod
  sdwand explain web-1 db-1 icmp --size 1500
  sdwand explain 198.51.100.7 203.0.113.5 tcp/443   # by a port mapping: from the underlay into a network
  sdwand explain web-1 db-1 --from-fleet --json | jq -r '.verdict, .rule'
  sdwand explain --from-fleet --questions policy.txt   # a line each: SRC DST [PROTO/PORT] [NETWORK]

SRC and DST are nodes, virtual IPs, or addresses of the overlay and of LANs. For what port mappings let in, DST is a hub's
address on the underlay, the port is the one that it listens on, and SRC is the client's address. Exit status: 0 allowed; 2 blocked, or not known;
1 an error.")]
    Explain(explain::Explain),
    /// Show networks, peers, rules and conditions
    #[command(after_help = "Examples:
  sdwand status --watch
  sdwand status --json | jq '.conditions[] | select(.state != \"Converged\")'")]
    Status(StatusArgs),
    /// What has happened to the daemon lately: its last 256 events, with ids that stay; or every event that there is
    #[command(after_help = "Examples:
  sdwand events                             of `sdwand run` on this host, since it started; the journal has all
  sdwand events --json | jq '.[] | select(.severity != \"info\")'
  sdwand events --catalogue                 what each id means, and what to do
  journalctl -u sdwand -o cat | jq -R 'fromjson? | select(.event == \"config.bad\")'

Exit status 1 if no daemon runs.")]
    Events(events::Events),
    /// Remove everything of ours from this host, and nothing else
    #[command(after_help = "Example:
  sdwand down

A running daemon stays, and leaves the host so until `sdwand apply` or its restart.")]
    Down,
    /// Print the description of an API (OpenAPI 3.1); needs no daemon
    #[command(after_help = "Examples:
  sdwand openapi > openapi.json          # what operators ask: also served as /api/v1/openapi.json
  sdwand openapi --peer-facing           # what peers call")]
    Openapi {
        /// What peers call, instead of what operators ask
        #[arg(long)]
        peer_facing: bool,
    },
    /// Print completions for a shell
    #[command(after_help = "Example:
  sdwand completions bash > /etc/bash_completion.d/sdwand")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the pages of the manual: one for each command, and those of the documents
    #[command(after_help = "Example:
  mkdir -p man && sdwand man --out man && man -l man/sdwand.8

What is there under the same names is overwritten.")]
    Man(manual::Manual),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every key with its default
    #[command(after_help = "Example:
  sdwand config defaults | less")]
    Defaults,
}

#[derive(Debug, Args)]
struct ApplyArgs {
    /// Only if the plan still has this fingerprint
    #[arg(long, value_name = "FINGERPRINT")]
    plan: Option<String>,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Show it again every two seconds
    #[arg(long)]
    watch: bool,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The configuration is bad.
    #[error("the configuration is bad")]
    Config(#[from] Diagnostics),
    /// The same, as the daemon found it.
    #[error("the configuration is bad")]
    DaemonConfig {
        text: String,
        diagnostics: serde_json::Value,
    },
    /// Anything else, in words for an operator.
    #[error("{0}")]
    Other(String),
}

impl CliError {
    fn new(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Other(crate::report::chain(error))
    }
}

/// Settings that every command has.
struct Global {
    config: PathBuf,
    json: bool,
    reader_is_gone: Cell<bool>,
}

/// Text that does nothing to a terminal: others' words stand in it. What would (ECMA-48 controls, and Unicode's, which turn
/// the direction of writing) is escaped as JSON does it, so that JSON stays what it was.
fn plain(text: &str) -> String {
    use std::fmt::Write as _;
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if turns || (c.is_control() && c != '\n' && c != '\t') {
            let _ = write!(plain, "\\u{:04x}", u32::from(c));
        } else {
            plain.push(c);
        }
    }
    plain
}

impl Global {
    /// Prints a result: `json` under `--json`, else `text`.
    fn print(&self, json: &impl Serialize, text: &str) -> Result<(), CliError> {
        if !self.json {
            return self.write(plain(text).as_bytes());
        }
        let mut text = serde_json::to_string_pretty(json)
            .map_err(|error| CliError::Other(format!("the result can't be written as JSON: {error}")))?;
        text.push('\n');
        self.write(plain(&text).as_bytes())
    }

    /// Writes to standard output.
    fn write(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            // Whoever reads us has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.reader_is_gone.set(true);
                Ok(())
            }
            other => other.map_err(|error| CliError::Other(format!("writing to standard output: {error}"))),
        }
    }
}

impl Global {
    /// Whether nobody reads what is printed any more.
    fn reader_is_gone(&self) -> bool {
        self.reader_is_gone.get()
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let global = Global {
        config: cli.config,
        json: cli.json,
        reader_is_gone: Cell::new(false),
    };
    let is_check = matches!(cli.command, Command::Check);
    match dispatch(&global, cli.command) {
        Ok(code) => code,
        Err(error) => {
            report(&global, &error);
            let bad_config = matches!(error, CliError::Config(_));
            ExitCode::from(if is_check && bad_config { 2 } else { 1 })
        }
    }
}

/// Help and version are no error; of the others none may look like "changes pending" or "bad configuration".
fn misused(error: &clap::Error) -> ExitCode {
    let as_json = error.use_stderr() && std::env::args_os().any(|argument| argument == "--json");
    if as_json {
        let global = Global {
            config: PathBuf::new(),
            json: true,
            reader_is_gone: Cell::new(false),
        };
        report(&global, &CliError::Other(error.to_string().trim_end().to_owned()));
    } else {
        // Nothing is left to tell a reader who went away.
        let _ = error.print();
    }
    ExitCode::from(u8::from(error.use_stderr()))
}

fn report(global: &Global, error: &CliError) {
    #[derive(Serialize)]
    struct Failure<'a> {
        error: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        diagnostics: Option<Found<'a>>,
    }
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Found<'a> {
        Here(&'a Diagnostics),
        There(&'a serde_json::Value),
    }
    let (diagnostics, text) = match error {
        CliError::Config(here) => (Some(Found::Here(here)), here.to_string()),
        CliError::DaemonConfig { text, diagnostics } => (Some(Found::There(diagnostics)), text.clone()),
        CliError::Other(_) => (None, format!("error: {error}\n")),
    };
    if global.json {
        let failure = Failure {
            error: error.to_string(),
            diagnostics,
        };
        // Nothing is left to tell a reader who went away.
        let _ = global.print(&failure, "");
    } else {
        eprint!("{text}");
    }
}

fn dispatch(global: &Global, command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Init(args) => editor::init(global, &args),
        Command::Pubkey => offline::pubkey(global),
        Command::Key(command) => key::key(global, &command),
        Command::Check => offline::check(global),
        Command::Config(ConfigCommand::Defaults) => offline::defaults(global),
        Command::Compile(args) => offline::compile(global, &args),
        Command::Plan => runtime(online::plan(global)),
        Command::Apply(args) => runtime(online::apply(global, args.plan)),
        Command::Run => runtime(online::run(global)),
        Command::Serve => runtime(federation::serve(global)),
        Command::Peer(command) => runtime(federation::peer::peer(global, command)),
        Command::Grant(command) => runtime(federation::grant::grant(global, command)),
        Command::Service(command) => runtime(federation::service::service_command(global, command)),
        Command::Governance(asked) => runtime(federation::site::governance(global, asked)),
        Command::Audit(command) => runtime(federation::audit::audit(global, command)),
        Command::Ledger(command) => runtime(federation::ledger::ledger(global, command)),
        Command::Pki(command) => runtime(federation::site::pki(global, command)),
        Command::Federation(command) => runtime(federation::pause::federation(global, command)),
        Command::Approvals(command) => runtime(federation::approvals::approvals(global, command)),
        Command::Token(command) => runtime(federation::token::token(global, command)),
        Command::Doctor => runtime(doctor::doctor(global)),
        Command::Explain(args) => runtime(explain::explain(global, &args)),
        Command::Status(args) => runtime(status::status(global, args.watch)),
        Command::Events(args) => runtime(events::events(global, &args)),
        Command::Down => runtime(online::down(global)),
        Command::Openapi { peer_facing } => {
            let document = if peer_facing {
                openapi::peers()
            } else {
                openapi::operators()
            };
            let text = document
                .to_pretty_json()
                .map_err(|error| CliError::Other(format!("the document can't be written: {error}")))?;
            global.print(&document, &format!("{text}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => manual::completions(global, shell),
        Command::Man(args) => manual::man(global, &args),
    }
}

fn runtime(command: impl Future<Output = Result<ExitCode, CliError>>) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // What a thread of a blocking call has left over goes back when it ends: with ten thousand peers 30 MiB of each.
        .thread_keep_alive(Duration::from_secs(1))
        .enable_all()
        .build()
        .map_err(|error| CliError::Other(format!("starting the runtime: {error}")))?;
    let result = runtime.block_on(command);
    // A lookup that never ends must not keep the process.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn one_thing_about_a_peer_is_set_at_a_time() {
        let takes = |words: &str| Cli::try_parse_from(words.split(' ')).is_ok();
        assert!(takes("sdwand peer set site-b --url https://site-b.example.com"));
        assert!(takes("sdwand peer set site-b --residency JP"));
        assert!(!takes("sdwand peer set site-b"));
        assert!(!takes(
            "sdwand peer set site-b --residency JP --url https://site-b.example.com"
        ));
    }

    #[test]
    fn others_words_do_nothing_to_a_terminal() {
        let hostile = "1\u{1b}]0;x\u{7}\u{9b}2J\u{7f}\u{202e}\r end\n\tü";
        let shown = plain(hostile);
        assert_eq!(
            shown,
            "1\\u001b]0;x\\u0007\\u009b2J\\u007f\\u202e\\u000d end\n\tü"
        );
        let json = serde_json::to_string_pretty(&serde_json::json!({ "a": hostile })).unwrap();
        let read: serde_json::Value = serde_json::from_str(&plain(&json)).unwrap();
        assert_eq!(read["a"], hostile, "JSON stays what it was");
    }

    #[test]
    fn every_command_has_an_example() {
        fn walk(command: &clap::Command) {
            for sub in command.get_subcommands() {
                if sub.get_subcommands().next().is_some() {
                    walk(sub);
                } else {
                    let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                    assert!(help.contains("Example"), "{} has no example", sub.get_name());
                }
            }
        }
        walk(&Cli::command());
    }
}
