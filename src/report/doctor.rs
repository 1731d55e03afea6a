//! What may be wrong with a host, and what to do about each: pure; what is looked at is collected elsewhere.
//!
//! | check | fails | warns |
//! |---|---|---|
//! | `config` | it is bad | |
//! | `kernel` | it is too old | |
//! | `daemon` | it answers nonsense | none runs |
//! | `conditions` | something isn't as the fleet says | |
//! | `wireguard`, `vrf` | it can't be found out | the kernel has none: the embedded device, rules instead of VRFs |
//! | `nft`, `conntrack` | it isn't there | |
//! | `foreign_chains` | | a base chain of others drops what is the overlay's |
//! | `rp_filter` | | strict: packets that come back another way are dropped |
//! | `forwarding` | it is off where this host carries what is others' | |
//! | `handshakes` | | peers that haven't shaken hands lately |
//! | `mtu` | | packets of full size vanish on the way to a peer |
//! | `listeners` | | a rule lets a service be reached that is in no VRF |
//! | `networkd` | | it deletes routes and rules of others |
//! | `clock` | it isn't set | |
//! | `files` | a secret others can read, a file others can write | |
//! | `disk` | nothing is left | little is left |

mod chains;
mod overlay;

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::foreign::Ruleset;

pub(super) use chains::way_through;
pub use chains::{Chain, Entrance};
pub use overlay::{Listener, Overlay, Silent, Unreached, silent, unreached};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing to do.
    Ok,
    /// It works, or may work; something should be looked at.
    Warning,
    /// Something doesn't work, or is unsafe.
    Failure,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Which: a stable word.
    pub check: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub text: String,
    /// What to do.
    pub fix: Option<String>,
}

/// What came of looking at a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// The worst of them.
    pub verdict: Verdict,
    /// All of them.
    pub checks: Vec<Check>,
}

/// systemd-networkd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Networkd {
    /// Whether it runs here.
    pub runs: bool,
    /// Whether it was told to leave routes of others alone.
    pub leaves_routes: bool,
    /// And rules.
    pub leaves_rules: bool,
}

/// A file that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFact {
    /// Which.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// Whose it is.
    pub uid: u32,
    /// Whether only its owner may read it.
    pub is_secret: bool,
}

/// A file system that is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFact {
    /// A folder on it.
    pub path: PathBuf,
    /// How much may still be written, in bytes.
    pub free: u64,
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaemonFact {
    /// None answers.
    None,
    /// It can't be asked.
    Silent(String),
    /// What isn't as the fleet says, each in a line.
    Amiss(Vec<String>),
}

/// What was found out; what couldn't be says why.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The configuration, or its errors.
    pub config: Result<(), String>,
    /// The daemon.
    pub daemon: DaemonFact,
    /// The kernel's release.
    pub release: Result<String, String>,
    /// The overlay as it is here; none where the configuration is bad.
    pub overlay: Option<Result<Overlay, String>>,
    /// Whether the kernel has WireGuard.
    pub wireguard: Result<bool, String>,
    /// Whether it has VRFs.
    pub vrf: Result<bool, String>,
    /// The version of `nft`.
    pub nft: Result<String, String>,
    /// The version of `conntrack`.
    pub conntrack: Result<String, String>,
    /// nftables' chains of others.
    pub foreign: Result<Ruleset, String>,
    /// Tables of the older iptables, which nft doesn't show.
    pub legacy: Result<Vec<String>, String>,
    /// Interfaces whose reverse path filter is strict.
    pub strict: Result<Vec<String>, String>,
    /// systemd-networkd.
    pub networkd: Networkd,
    /// What time it is.
    pub now: SystemTime,
    /// Files that matter.
    pub files: Result<Vec<FileFact>, String>,
    /// Where is written.
    pub disks: Result<Vec<DiskFact>, String>,
}

/// What nobody else may look at.
const ROOT: &str = "run as root";
/// Below this a file system is as good as full, in bytes.
const NOTHING: u64 = 4 * 1024 * 1024;
/// Below this it soon is, in bytes.
const LITTLE: u64 = 128 * 1024 * 1024;
/// 2024-01-01: no host runs this program before.
const LONG_AGO: Duration = Duration::from_secs(1_704_067_200);

struct Found(Vec<Check>);

impl Found {
    fn ok(&mut self, check: &'static str, text: impl Into<String>) {
        self.add(check, Verdict::Ok, text, None);
    }

    fn warn(&mut self, check: &'static str, text: impl Into<String>, fix: impl Into<String>) {
        self.add(check, Verdict::Warning, text, Some(fix.into()));
    }

    fn fail(&mut self, check: &'static str, text: impl Into<String>, fix: impl Into<String>) {
        self.add(check, Verdict::Failure, text, Some(fix.into()));
    }

    fn add(&mut self, check: &'static str, verdict: Verdict, text: impl Into<String>, fix: Option<String>) {
        self.0.push(Check {
            check,
            verdict,
            text: text.into(),
            fix,
        });
    }
}

/// Judges what was found.
#[must_use]
pub fn examine(facts: &Facts) -> Diagnosis {
    let mut found = Found(Vec::new());
    config(facts, &mut found);
    kernel(facts, &mut found);
    tools(facts, &mut found);
    chains::judge(facts, &mut found);
    network(facts, &mut found);
    if let Some(overlay) = &facts.overlay {
        overlay::judge(overlay, &mut found);
    }
    storage(facts, &mut found);
    let worst = found.0.iter().map(|check| check.verdict).max();
    Diagnosis {
        verdict: worst.unwrap_or(Verdict::Ok),
        checks: found.0,
    }
}

fn config(facts: &Facts, found: &mut Found) {
    match &facts.config {
        Ok(()) => found.ok("config", "the configuration is good"),
        Err(errors) => found.fail("config", errors, "sdwand check"),
    }
    match &facts.daemon {
        DaemonFact::None => found.warn(
            "daemon",
            "none runs: drift isn't healed",
            "systemctl enable --now sdwand",
        ),
        DaemonFact::Silent(error) => found.fail("daemon", error, "systemctl restart sdwand"),
        DaemonFact::Amiss(amiss) => {
            found.ok("daemon", "it answers");
            match amiss.as_slice() {
                [] => found.ok("conditions", "the host is as the fleet says"),
                amiss => found.fail("conditions", amiss.join("; "), "sdwand status; sdwand plan"),
            }
        }
    }
}

fn kernel(facts: &Facts, found: &mut Found) {
    match &facts.release {
        Ok(release) => overlay::kernel(release, found),
        Err(error) => found.fail("kernel", error, ROOT),
    }
    match &facts.wireguard {
        Ok(true) => found.ok("wireguard", "the kernel has it"),
        Ok(false) => found.warn(
            "wireguard",
            "the kernel has none: the embedded device is slower, and stops with the daemon",
            "modprobe wireguard",
        ),
        Err(error) => found.fail("wireguard", error, ROOT),
    }
    match &facts.vrf {
        Ok(true) => found.ok("vrf", "the kernel has it"),
        Ok(false) => found.warn(
            "vrf",
            "the kernel has none: networks whose LANs overlap can't share this host",
            "modprobe vrf",
        ),
        Err(error) => found.fail("vrf", error, ROOT),
    }
}

fn tools(facts: &Facts, found: &mut Found) {
    for (check, version, fix) in [
        ("nft", &facts.nft, "apt install nftables"),
        ("conntrack", &facts.conntrack, "apt install conntrack"),
    ] {
        match version {
            Ok(version) => found.ok(check, version),
            Err(error) => found.fail(check, error, fix),
        }
    }
}

fn network(facts: &Facts, found: &mut Found) {
    match &facts.strict {
        Err(error) => found.fail("rp_filter", error, ROOT),
        Ok(strict) if strict.is_empty() => found.ok("rp_filter", "not strict"),
        Ok(strict) => {
            let text = format!(
                "strict on {}: packets that come back another way than they left are dropped",
                strict.join(", ")
            );
            found.warn(
                "rp_filter",
                text,
                "sysctl -w net.ipv4.conf.all.rp_filter=2 (and in /etc/sysctl.d)",
            );
        }
    }
    let Networkd {
        runs,
        leaves_routes,
        leaves_rules,
    } = facts.networkd;
    if runs && !(leaves_routes && leaves_rules) {
        found.warn(
            "networkd",
            "systemd-networkd deletes routes and rules of others whenever it configures a link",
            "install systemd/sdwand.networkd.conf as /usr/lib/systemd/networkd.conf.d/10-sdwand.conf; systemctl restart systemd-networkd",
        );
    } else {
        found.ok(
            "networkd",
            if runs {
                "it leaves ours alone"
            } else {
                "it doesn't run"
            },
        );
    }
    match facts.now.duration_since(UNIX_EPOCH) {
        Ok(since) if since >= LONG_AGO => found.ok("clock", "it is set"),
        Ok(_) | Err(_) => found.fail(
            "clock",
            "it isn't set: handshakes of before are refused, certificates aren't valid yet",
            "timedatectl set-ntp true",
        ),
    }
}

fn storage(facts: &Facts, found: &mut Found) {
    match &facts.files {
        Ok(files) => judge_files(files, found),
        Err(error) => found.fail("files", error, ROOT),
    }
    match &facts.disks {
        Ok(disks) => judge_disks(disks, found),
        Err(error) => found.fail("disk", error, ROOT),
    }
}

fn judge_files(files: &[FileFact], found: &mut Found) {
    let before = found.0.len();
    for file in files {
        let path = file.path.display();
        let bits = if file.is_secret { 0o077 } else { 0o022 };
        if file.mode & bits != 0 {
            let what = if file.is_secret {
                "others can read it"
            } else {
                "others can write it"
            };
            let fix = format!("chmod {:04o} {path}", file.mode & !bits & 0o7777);
            found.fail("files", format!("{path} (mode {:04o}): {what}", file.mode), fix);
        } else if file.uid != 0 {
            let text = format!("{path} belongs to user {}, who can change it", file.uid);
            found.warn("files", text, format!("chown root {path}"));
        }
    }
    if found.0.len() == before {
        found.ok("files", format!("{} looked at", files.len()));
    }
}

fn judge_disks(disks: &[DiskFact], found: &mut Found) {
    for disk in disks {
        let text = format!(
            "{} MiB are left for {}",
            disk.free / 1024 / 1024,
            disk.path.display()
        );
        match disk.free {
            free if free < NOTHING => found.fail("disk", text, "make room: nothing can be remembered"),
            free if free < LITTLE => found.warn("disk", text, "make room"),
            _ => found.ok("disk", text),
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let word = match check.verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "warning",
                Verdict::Failure => "FAILURE",
            };
            writeln!(f, "{word:<8} {:<15} {}", check.check, check.text)?;
            if let Some(fix) = &check.fix {
                writeln!(f, "{:<24} fix: {fix}", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
