//! `sdwand init`: a site's or a host's first documents.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::Ipv6Addr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ipnet::Ipv6Net;

use super::load::is_fragment;
use crate::model::{Name, PrivateKey, PublicKey};

/// The name of the first fragment.
const FIRST_FRAGMENT: &str = "00-site.toml";

/// A site's prefix: `fd` and 40 random bits (RFC 4193, section 3.2).
#[must_use]
pub fn site_prefix(random: [u8; 5]) -> Ipv6Net {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&random);
    Ipv6Net::new(Ipv6Addr::from(octets), 48).expect("48 is a prefix length")
}

/// The texts that a new host begins with. `check` accepts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Documents {
    /// `sdwand.toml`; key and fleet are named relative to its folder.
    pub host: String,
    /// The first fragment of a new site.
    pub fragment: String,
    /// What a site that exists needs about this host.
    pub node: String,
}

/// The documents of node `node`, whose key has the public half `key`, and of a new site.
#[must_use]
pub fn documents(node: &Name, site: &Name, prefix: Ipv6Net, key: PublicKey) -> Documents {
    let host = format!(
        r#"# This host. `sdwand config defaults` shows every key.

format           = 1
node             = "{node}"
private_key_file = "node.key"        # beside this file, mode 0600; `sdwand pubkey` prints its public half

[fleet]
dir = "fleet.d"                      # beside this file; the same fragments on every host of the site

[reconcile]
mode = "auto"                        # "manual": a changed fleet waits for `sdwand apply`
"#
    );
    let entry = |host_id: &str| {
        format!(
            r#"[[nodes]]
name       = "{node}"
public_key = "{key}"
{host_id}
# endpoints = ["203.0.113.5"]        # where other nodes reach it; a hub needs one
# tags      = ["edge"]
"#
        )
    };
    let first = entry("host_id    = 1                       # ::1 and .1 in every network");
    let fragment = format!(
        r#"# The site and its nodes. Put the same fragments on every host; names are unique over all of them.

format = 1

[site]
name   = "{site}"
prefix = "{prefix}"    # drawn at random (RFC 4193): never change it, never share it with another site

{first}
# A network. `sdwand config defaults` shows every key.
#
# [[networks]]
# name    = "prod"
# id      = 1                        # link, table, port and prefix follow from it
# routing = "static"
# members = [
#   {{ node = "{node}", role = "hub" }},
#   {{ node = "spoke-1", lans = [{{ subnet = "10.10.0.0/16", interface = "eth1" }}] }},
# ]
#
# [[networks.rules]]                 # what no rule names is dropped
# name   = "ping"
# action = "accept"
# from   = "any"
# to     = "any"
# protocol = "icmp"
"#
    );
    let node = entry("# host_id  = 2                       # unique; needed where a network carries IPv4");
    Documents { host, fragment, node }
}

/// What `init` wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The files, in the order in which they were written.
    pub files: Vec<PathBuf>,
    /// The node's public key.
    pub public_key: PublicKey,
    /// What the existing fleet needs about this host: `None` where a new site was begun.
    pub add_to_fleet: Option<String>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// It would overwrite.
    #[error("{} exists already: `sdwand init` overwrites nothing", .0.display())]
    Exists(PathBuf),
    /// The system refuses.
    #[error("can't write {}", .path.display())]
    Write {
        /// What can't be written.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// Draws a key and, where the folder beside `config` holds no fleet yet, a site; writes `config`, `node.key` and the
/// first fragment. All or nothing, and nothing that exists is touched.
///
/// # Errors
/// A file exists, or can't be written.
pub fn write(config: &Path, node: &Name, site: &Name) -> Result<Written, InitError> {
    let folder = match config.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let (key_file, fleet) = (folder.join("node.key"), folder.join("fleet.d"));
    for path in [config, &key_file] {
        if fs::symlink_metadata(path).is_ok() {
            return Err(InitError::Exists(path.to_owned()));
        }
    }
    let mut random = [0; 5];
    getrandom::fill(&mut random).map_err(InitError::Random)?;
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(InitError::Random)?;
    let key = PrivateKey::from_random(*seed);
    let public_key = key.public();
    let documents = documents(node, site, site_prefix(random), public_key);
    let mut key_text = key.expose_base64();
    key_text.push('\n');

    let failed = |path: &Path, source| InitError::Write {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(&fleet).map_err(|source| failed(&fleet, source))?;
    let mut entries = fs::read_dir(&fleet).map_err(|source| failed(&fleet, source))?;
    let is_new = !entries.any(|entry| entry.is_ok_and(|entry| is_fragment(&entry.path())));

    let fragment = fleet.join(FIRST_FRAGMENT);
    let mut wanted = vec![(key_file, key_text.as_str(), 0o600)];
    if is_new {
        wanted.push((fragment, documents.fragment.as_str(), 0o644));
    }
    wanted.push((config.to_owned(), documents.host.as_str(), 0o644));
    let mut files: Vec<PathBuf> = Vec::new();
    for (path, text, mode) in wanted {
        if let Err(source) = create(&path, text, mode) {
            for file in &files {
                // Best effort: the error that is returned says what matters.
                let _ = fs::remove_file(file);
            }
            return Err(if source.kind() == std::io::ErrorKind::AlreadyExists {
                InitError::Exists(path)
            } else {
                failed(&path, source)
            });
        }
        files.push(path);
    }
    Ok(Written {
        files,
        public_key,
        add_to_fleet: (!is_new).then_some(documents.node),
    })
}

/// Creates a file with all of its content or not at all; fails where it exists.
pub(super) fn create(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(std::io::Error::other)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Hidden, so that no watcher takes it for a fragment.
    let draft = path.with_file_name(format!(".{name}.{:016x}", u64::from_ne_bytes(random)));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // Unlike a rename, a link never replaces.
        fs::hard_link(&draft, path)
    })();
    let removed = fs::remove_file(&draft);
    written?;
    removed?;
    let folder = path
        .parent()
        .filter(|folder| *folder != Path::new(""))
        .unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::{load, read_private_key};

    fn names() -> (Name, Name) {
        (Name::new("hub-a1").unwrap(), Name::new("site-a").unwrap())
    }

    #[test]
    fn a_prefix_is_fd_and_the_forty_bits() {
        assert_eq!(
            site_prefix([0x12, 0x34, 0xab, 0xcd, 0x42]).to_string(),
            "fd12:34ab:cd42::/48"
        );
    }

    #[test]
    fn check_accepts_what_init_writes() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("etc/sdwand.toml");
        let (node, site) = names();
        let written = write(&config, &node, &site).unwrap();
        assert_eq!(written.files.len(), 3);
        assert_eq!(written.add_to_fleet, None);
        let loaded = load(&config).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.notices, []);
        assert_eq!(loaded.private_key.public(), written.public_key);
        assert_eq!(loaded.fleet.site.prefix.prefix_len(), 48);
        let key = folder.path().join("etc/node.key");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_private_key(&key).unwrap().public(), written.public_key);
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_is_left_behind() {
        let (node, site) = names();
        for existing in ["sdwand.toml", "node.key"] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(existing), "mine").unwrap();
            let error = write(&folder.path().join("sdwand.toml"), &node, &site).unwrap_err();
            assert!(matches!(error, InitError::Exists(_)), "{error}");
            let entries: Vec<_> = fs::read_dir(folder.path())
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            assert_eq!(entries, [existing]);
            assert_eq!(fs::read_to_string(folder.path().join(existing)).unwrap(), "mine");
        }
    }

    #[test]
    fn a_second_host_joins_the_fleet_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let fleet = folder.path().join("fleet.d");
        fs::create_dir(&fleet).unwrap();
        let (node, site) = names();
        let prefix = site_prefix([1; 5]);
        let other = Name::new("hub-a0").unwrap();
        let key = PrivateKey::from_random([9; 32]).public();
        fs::write(
            fleet.join("00-site.toml"),
            documents(&other, &site, prefix, key).fragment,
        )
        .unwrap();
        let config = folder.path().join("sdwand.toml");
        let written = write(&config, &node, &site).unwrap();
        assert_eq!(written.files.len(), 2);
        fs::write(fleet.join("10-node.toml"), written.add_to_fleet.unwrap()).unwrap();
        let loaded = load(&config).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.fleet.site.prefix, prefix);
        assert_eq!(loaded.fleet.nodes.len(), 2);
    }
}
