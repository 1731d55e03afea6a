//! When the configuration's files change.
//!
//! inotify tells at once; a comparison of names, sizes and times on every round finds what it can't tell: a folder that
//! was replaced, a file system that has no events, an overflow.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};

type Signature = BTreeMap<OsString, (u64, u64, i64, i64)>;

/// The files of the configuration.
pub(crate) struct ConfigFiles {
    config: PathBuf,
    fleet: PathBuf,
    key: PathBuf,
    events: Option<EventStream<[u8; 4096]>>,
    seen: Signature,
}

impl ConfigFiles {
    /// Starts to watch. What can't be watched is still compared on every round.
    pub(crate) fn watch(config: &Path, fleet: &Path, key: &Path) -> Self {
        let mut files = Self {
            config: config.to_owned(),
            fleet: fleet.to_owned(),
            key: key.to_owned(),
            events: None,
            seen: signature(config, fleet, key),
        };
        files.start();
        files
    }

    fn start(&mut self) {
        let mask = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::CLOSE_WRITE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        let started = Inotify::init().and_then(|inotify| {
            let folders = [folder_of(&self.config), folder_of(&self.key), &self.fleet];
            let folders: BTreeSet<PathBuf> = folders
                .into_iter()
                .map(Path::to_owned)
                .chain(targets([&*self.config, &*self.key], &self.fleet))
                .collect();
            for folder in folders {
                if let Err(error) = inotify.watches().add(&folder, mask) {
                    tracing::warn!(folder = %folder.display(), %error, "can't be watched: changes are seen at the next round");
                }
            }
            inotify.into_event_stream([0; 4096])
        });
        self.events = match started {
            Ok(events) => Some(events),
            Err(error) => {
                tracing::warn!(%error, "no inotify: changed files are seen at the next round");
                None
            }
        };
    }

    /// Waits until something happens to a file in one of the folders.
    pub(crate) async fn changed(&mut self) {
        match &mut self.events {
            Some(events) => match events.next().await {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    self.events = None;
                }
            },
            None => std::future::pending().await,
        }
    }

    /// Whether the files differ from when this was last asked.
    pub(crate) fn differ(&mut self) -> bool {
        let now = signature(&self.config, &self.fleet, &self.key);
        if now == self.seen {
            return false;
        }
        self.seen = now;
        self.start();
        true
    }

    /// Watches another fleet folder or key file, if it is another.
    pub(crate) fn follow(&mut self, fleet: &Path, key: &Path) {
        if self.fleet != fleet || self.key != key {
            fleet.clone_into(&mut self.fleet);
            key.clone_into(&mut self.key);
            self.differ();
        }
    }
}

/// The folder that a file is in; of a bare name that is the working directory.
fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}

/// The folders of what is a symbolic link here: what it leads to may change in its place.
fn targets(files: [&Path; 2], fleet: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fleet).into_iter().flatten().flatten();
    let files = files.into_iter().map(Path::to_owned);
    let links = files.chain(entries.map(|entry| entry.path()));
    links
        .filter(|path| path.is_symlink())
        .filter_map(|path| Some(std::fs::canonicalize(path).ok()?.parent()?.to_owned()))
        .collect()
}

/// The folder itself counts too: one that was made again under its old name must be watched anew. Times are those of
/// the last change of the inode, so that a changed mode shows.
fn signature(config: &Path, fleet: &Path, key: &Path) -> Signature {
    let mut found = Signature::new();
    let mut note = |path: &Path| {
        if let Ok(meta) = std::fs::metadata(path) {
            let what = (meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec());
            found.insert(path.as_os_str().to_owned(), what);
        }
    };
    for path in [config, fleet, key] {
        note(path);
    }
    if let Ok(entries) = std::fs::read_dir(fleet) {
        for entry in entries.flatten() {
            note(&entry.path());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;

    async fn event(files: &mut ConfigFiles) {
        tokio::time::timeout(Duration::from_secs(10), files.changed())
            .await
            .expect("an event comes");
    }

    #[tokio::test]
    async fn a_folder_that_was_made_again_is_watched_again() {
        let etc = tempfile::tempdir().unwrap();
        let fleet = etc.path().join("fleet.d");
        fs::create_dir(&fleet).unwrap();
        let config = etc.path().join("sdwand.toml");
        let mut files = ConfigFiles::watch(&config, &fleet, &etc.path().join("node.key"));
        fs::remove_dir(&fleet).unwrap();
        event(&mut files).await;
        assert!(files.differ());
        fs::create_dir(&fleet).unwrap();
        event(&mut files).await;
        assert!(
            files.differ(),
            "the folder is another, although it is as empty as before"
        );
        assert!(!files.differ());
        fs::write(fleet.join("a.toml"), "format = 1").unwrap();
        event(&mut files).await;
        assert!(files.differ());
    }

    #[tokio::test]
    async fn a_key_elsewhere_counts_with_its_mode() {
        let (etc, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = keys.path().join("node.key");
        fs::write(&key, "x").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let mut files = ConfigFiles::watch(&etc.path().join("sdwand.toml"), etc.path(), &key);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        event(&mut files).await;
        assert!(files.differ());
    }

    #[tokio::test]
    async fn what_a_link_leads_to_counts() {
        let (etc, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = elsewhere.path().join("prod.toml");
        fs::write(&target, "format = 1").unwrap();
        std::os::unix::fs::symlink(&target, etc.path().join("10-prod.toml")).unwrap();
        let config = etc.path().join("sdwand.toml");
        let mut files = ConfigFiles::watch(&config, etc.path(), &etc.path().join("node.key"));
        fs::write(&target, "format = 1 # changed").unwrap();
        event(&mut files).await;
        assert!(files.differ());
    }

    #[test]
    fn the_folder_of_a_bare_name_is_the_working_directory() {
        assert_eq!(folder_of(Path::new("sdwand.toml")), Path::new("."));
        assert_eq!(
            folder_of(Path::new("/etc/sdwand/sdwand.toml")),
            Path::new("/etc/sdwand")
        );
    }
}
