//! Looks at what `sdwand doctor` judges. It reads, and changes nothing.

mod overlay;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::config::Loaded;
use crate::model::host::HostConfig;
use crate::model::ownership;
use crate::report::chain;
use crate::report::doctor::{Chain, DaemonFact, DiskFact, Facts, FileFact, Networkd};
use crate::report::foreign::Ruleset;
use crate::sys::exec::{self, Run};
use crate::sys::netlink::{Netlink, NetlinkError};

use super::system_now;

/// How long a tool may take to say its version, or a list of chains.
const TIME: Duration = Duration::from_secs(10);
/// How much of it is read, in bytes.
const MOST: usize = 16 * 1024 * 1024;

/// Looks at everything. `own`: what could be read of `sdwand.toml`; `loaded`: the whole configuration, or its errors.
pub async fn look(
    config: &Path,
    own: &HostConfig,
    loaded: &Result<Loaded, String>,
    daemon: DaemonFact,
) -> Facts {
    let overlay = match loaded {
        Ok(loaded) => Some(overlay::look(loaded).await),
        Err(_) => None,
    };
    Facts {
        release: text_of(Path::new("/proc/sys/kernel/osrelease"))
            .map(|text| text.unwrap_or_default().trim().to_owned()),
        overlay,
        config: loaded.as_ref().map(|_| ()).map_err(Clone::clone),
        daemon,
        wireguard: has_kind("wireguard").await,
        vrf: has_kind("vrf").await,
        nft: version("nft").await,
        conntrack: version("conntrack").await,
        foreign: foreign().await,
        legacy: legacy(Path::new("/proc/net")),
        strict: strict(Path::new("/proc/sys/net/ipv4/conf")),
        networkd: networkd(Path::new("/")),
        now: system_now(),
        files: files(config, own),
        disks: disks(own),
    }
}

async fn has_kind(kind: &str) -> Result<bool, String> {
    let asked = async { Netlink::open()?.supports_link_kind(kind).await };
    asked.await.map_err(|error: NetlinkError| chain(&error))
}

async fn run(program: &str, args: &[&str]) -> Result<Vec<u8>, String> {
    let run = Run {
        program,
        args,
        stdin: None,
        timeout: TIME,
        stdout_limit: MOST,
    };
    let output = exec::run(run).await.map_err(|error| chain(&error))?;
    if output.success() {
        Ok(output.stdout)
    } else {
        Err(format!("{program} {}: {}", args.join(" "), output.stderr.trim()))
    }
}

async fn version(program: &str) -> Result<String, String> {
    let said = run(program, &["--version"]).await?;
    let said = String::from_utf8_lossy(&said);
    Ok(said.lines().next().unwrap_or_default().trim().to_owned())
}

async fn chains() -> Result<Vec<Chain>, String> {
    decode_chains(&run("nft", &["-j", "list", "chains"]).await?)
}

/// From libnftables-json(5).
fn decode_chains(listing: &[u8]) -> Result<Vec<Chain>, String> {
    #[derive(Deserialize)]
    struct Listing {
        nftables: Vec<Object>,
    }
    #[derive(Deserialize)]
    struct Object {
        chain: Option<Listed>,
    }
    #[derive(Deserialize)]
    struct Listed {
        family: String,
        table: String,
        name: String,
        #[serde(default)]
        hook: String,
        #[serde(default)]
        policy: String,
    }
    let listing: Listing =
        serde_json::from_slice(listing).map_err(|error| format!("nft's list of chains: {error}"))?;
    let chains = listing.nftables.into_iter().filter_map(|object| object.chain);
    let chains = chains.map(|listed| Chain {
        drops: listed.policy == "drop",
        family: listed.family,
        table: listed.table,
        name: listed.name,
        hook: listed.hook,
    });
    Ok(chains.collect())
}

/// The chains of others with their rules: the tables that have a chain on a hook which the overlay passes.
pub(crate) async fn foreign() -> Result<Ruleset, String> {
    let chains = chains().await?;
    let passed = chains
        .iter()
        .filter(|chain| ["input", "forward", "output"].contains(&chain.hook.as_str()));
    let tables: BTreeSet<(&str, &str)> = passed
        .map(|chain| (chain.family.as_str(), chain.table.as_str()))
        .filter(|table| *table != ("inet", ownership::NFT_TABLE) && ["ip", "ip6", "inet"].contains(&table.0))
        .collect();
    let mut listings = Vec::new();
    for (family, table) in tables {
        listings.push(run("nft", &["-j", "list", "table", family, table]).await?);
    }
    Ruleset::decode(&listings)
}

/// What a file holds; none where there is no such file.
fn text_of(path: &Path) -> Result<Option<String>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// The paths in a folder; none where there is no such folder.
fn inside(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let unread = |error| format!("{}: {error}", folder.display());
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(unread));
            paths.collect()
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(unread(error)),
    }
}

fn legacy(net: &Path) -> Result<Vec<String>, String> {
    let mut tables = Vec::new();
    for name in ["ip_tables_names", "ip6_tables_names"] {
        let text = text_of(&net.join(name))?.unwrap_or_default();
        tables.extend(text.lines().map(str::to_owned));
    }
    Ok(tables)
}

/// The interfaces that aren't ours and whose filter is strict (RFC 3704): the higher of `all` and their own counts.
fn strict(conf: &Path) -> Result<Vec<String>, String> {
    let is_strict = |folder: &Path| {
        let value = text_of(&folder.join("rp_filter"))?;
        Ok::<_, String>(value.is_some_and(|value| value.trim() == "1"))
    };
    if is_strict(&conf.join("all"))? {
        return Ok(vec!["all".to_owned()]);
    }
    let mut found = Vec::new();
    for folder in inside(conf)? {
        let Some(name) = folder.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let is_ours = ["wg-sdwan-", "sdwan-", "d-sdwan-"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if name != "lo" && name != "default" && !is_ours && is_strict(&folder)? {
            found.push(name.to_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// systemd-networkd, as networkd.conf(5) says: of files of one name the first folder's counts, of assignments the last one.
fn networkd(root: &Path) -> Networkd {
    let folders = [
        "etc/systemd",
        "run/systemd",
        "usr/local/lib/systemd",
        "usr/lib/systemd",
    ];
    let mut snippets: BTreeMap<String, PathBuf> = BTreeMap::new();
    for folder in folders {
        let entries = std::fs::read_dir(root.join(folder).join("networkd.conf.d"));
        for entry in entries.into_iter().flatten().flatten() {
            if let Ok(name) = entry.file_name().into_string()
                && Path::new(&name)
                    .extension()
                    .is_some_and(|extension| extension == "conf")
            {
                snippets.entry(name).or_insert_with(|| entry.path());
            }
        }
    }
    let main = root.join("etc/systemd/networkd.conf");
    let mut told = Networkd {
        runs: runs(&root.join("proc"), "systemd-network"),
        ..Networkd::default()
    };
    for file in std::iter::once(&main).chain(snippets.values()) {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let leaves = matches!(
                value.trim().to_ascii_lowercase().as_str(),
                "no" | "false" | "off" | "0"
            );
            match key.trim() {
                "ManageForeignRoutes" => told.leaves_routes = leaves,
                "ManageForeignRoutingPolicyRules" => told.leaves_rules = leaves,
                _ => {}
            }
        }
    }
    told
}

/// Whether a process of this name runs: `/proc/<pid>/comm` has its first 15 bytes.
fn runs(proc: &Path, name: &str) -> bool {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().join("comm"))
        .any(|comm| std::fs::read_to_string(comm).is_ok_and(|comm| comm.trim_end() == name))
}

fn files(config: &Path, own: &HostConfig) -> Result<Vec<FileFact>, String> {
    let secrets = [own.private_key_file.clone(), own.state_dir.clone()].map(|path| (path, true));
    let mut open = inside(&own.fleet_dir)?;
    open.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    open.extend([config.to_owned(), own.fleet_dir.clone()]);
    open.sort();
    let open = open.into_iter().map(|path| (path, false));
    let mut found = Vec::new();
    for (path, is_secret) in secrets.into_iter().chain(open) {
        match std::fs::metadata(&path) {
            Ok(metadata) => found.push(FileFact {
                mode: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                path,
                is_secret,
            }),
            // What must be there and isn't, the configuration is bad for.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
    Ok(found)
}

/// The file system that the state is on, or will be.
fn disks(own: &HostConfig) -> Result<Vec<DiskFact>, String> {
    let there = own.state_dir.ancestors().find(|path| path.exists());
    let path = there.unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(vec![DiskFact {
        path: path.to_owned(),
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_others_are_read() {
        let listing = br#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER", "handle": 2}}]}"#;
        let found = decode_chains(listing).unwrap();
        let read: Vec<_> = found
            .iter()
            .map(|chain| (chain.name.as_str(), chain.hook.as_str(), chain.drops))
            .collect();
        assert_eq!(read, [("FORWARD", "forward", true), ("DOCKER-USER", "", false)]);
        assert!(decode_chains(b"{}").is_err());
    }

    #[test]
    fn networkd_is_told_by_the_last_word() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let leaves = || {
            let told = networkd(root.path());
            (told.runs, told.leaves_routes, told.leaves_rules)
        };
        assert_eq!(leaves(), (false, false, false));
        write("proc/7/comm", "systemd-network\n");
        write(
            "etc/systemd/networkd.conf",
            "[Network]\n#ManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n",
        );
        assert_eq!(leaves(), (true, false, true));
        write(
            "usr/lib/systemd/networkd.conf.d/10-sdwand.conf",
            include_str!("../../systemd/sdwand.networkd.conf"),
        );
        assert_eq!(leaves(), (true, true, true));
        write(
            "run/systemd/networkd.conf.d/20-other.conf",
            "[Network]\nManageForeignRoutes = yes\n",
        );
        assert_eq!(leaves(), (true, false, true));
        write("etc/systemd/networkd.conf.d/20-other.conf", "");
        assert_eq!(
            leaves(),
            (true, true, true),
            "one of the same name in /etc hides it"
        );
    }

    #[test]
    fn a_strict_filter_of_others_is_found() {
        let conf = tempfile::tempdir().unwrap();
        let set = |name: &str, value: &str| {
            let folder = conf.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("rp_filter"), value).unwrap();
        };
        for (name, value) in [
            ("all", "0\n"),
            ("default", "1\n"),
            ("lo", "1\n"),
            ("eth1", "1\n"),
            ("eth0", "2\n"),
            ("sdwan-1", "1\n"),
        ] {
            set(name, value);
        }
        assert_eq!(strict(conf.path()).unwrap(), ["eth1"]);
        set("all", "1\n");
        assert_eq!(strict(conf.path()).unwrap(), ["all"]);
    }

    #[test]
    fn what_cant_be_read_isnt_taken_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert_eq!(legacy(folder.path()), Ok(Vec::new()), "no such file");
        // A folder in the place of a file can't be read, whoever asks; nor can a file be listed.
        std::fs::create_dir(at("ip_tables_names")).unwrap();
        assert!(legacy(folder.path()).is_err());
        std::fs::create_dir_all(at("conf/all/rp_filter")).unwrap();
        assert!(strict(&at("conf")).is_err());
        std::fs::write(at("fleet.d"), "").unwrap();
        assert_eq!(inside(&at("none")), Ok(Vec::new()), "no such folder");
        assert!(inside(&at("fleet.d")).is_err());
    }
}
