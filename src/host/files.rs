//! When the configuration's files change.
//!
//! inotify tells at once; a comparison of names, sizes and times on every round finds what it can't tell: a folder that
//! was replaced, a file system that has no events, an overflow.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use inotify::{EventStream, Inotify, WatchDescriptor, WatchMask};

use crate::config;

type Signature = BTreeMap<OsString, (u64, u64, i64, i64)>;

/// The files of the configuration.
pub(crate) struct ConfigFiles {
    config: PathBuf,
    fleet: PathBuf,
    key: PathBuf,
    events: Option<EventStream<[u8; 4096]>>,
    watched: Vec<(WatchDescriptor, Matters)>,
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
            watched: Vec::new(),
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
        self.watched.clear();
        let started = Inotify::init().and_then(|inotify| {
            for (folder, what) in self.folders() {
                match inotify.watches().add(&folder, mask) {
                    Ok(watch) => self.watched.push((watch, what)),
                    Err(error) => {
                        tracing::warn!(folder = %folder.display(), %error, "can't be watched: changes are seen at the next round");
                    }
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

    /// The folders to watch, each with what matters in it.
    fn folders(&self) -> BTreeMap<PathBuf, Matters> {
        let mut folders: BTreeMap<PathBuf, Matters> = BTreeMap::new();
        let paths = [&self.config, &self.key, &self.fleet];
        // A link in the middle of a path leads elsewhere when it is exchanged.
        let links = paths.into_iter().flat_map(|path| path.ancestors().skip(1));
        let links = links.filter(|path| path.is_symlink());
        for path in paths.into_iter().map(PathBuf::as_path).chain(links) {
            let names = &mut folders.entry(folder_of(path).to_owned()).or_default().names;
            names.extend(path.file_name().map(OsStr::to_owned));
        }
        folders.entry(self.fleet.clone()).or_default().fragments = true;
        let links = linked([&*self.config, &*self.key], &self.fleet);
        if !links.is_empty() {
            // What leads to them may be exchanged under any name, and may lead nowhere now.
            for what in folders.values_mut() {
                what.everything = true;
            }
        }
        let targets = links.iter().filter_map(|link| std::fs::canonicalize(link).ok());
        for target in targets {
            folders
                .entry(folder_of(&target).to_owned())
                .or_default()
                .everything = true;
        }
        folders
    }

    /// Waits until something happens to one of the files, or to a folder. An editor's leftovers and a fragment that is being
    /// written under another name are nothing that happens.
    pub(crate) async fn changed(&mut self) {
        let Some(events) = &mut self.events else {
            return std::future::pending().await;
        };
        loop {
            let Some(Ok(event)) = events.next().await else {
                self.events = None;
                return;
            };
            // One folder under two names is watched once, for both.
            let watched = || self.watched.iter().filter(|(watch, _)| *watch == event.wd);
            let concerns = |(_, what): &(_, Matters)| what.concerns(event.name.as_deref());
            if watched().next().is_none() || watched().any(concerns) {
                return;
            }
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

/// What matters in a folder that is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Matters {
    everything: bool,
    fragments: bool,
    names: BTreeSet<OsString>,
}

impl Matters {
    /// Whether an event is about something that matters; without a name it is about the folder itself.
    fn concerns(&self, name: Option<&OsStr>) -> bool {
        let Some(name) = name else { return true };
        self.everything
            || self.names.contains(name)
            || (self.fragments && config::is_fragment(Path::new(name)))
    }
}

/// The folder that a file is in; of a bare name that is the working directory.
fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}

/// What is a symbolic link here: what it leads to may change in its place.
fn linked(files: [&Path; 2], fleet: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fleet).into_iter().flatten().flatten();
    let files = files.into_iter().map(Path::to_owned);
    let links = files.chain(entries.map(|entry| entry.path()));
    links.filter(|path| path.is_symlink()).collect()
}

/// The folder itself counts too: one that was made again under its old name must be watched anew, and one that may not be
/// read any more says so by its mode. Times are those of the last change of the inode, so that a changed mode shows.
fn signature(config: &Path, fleet: &Path, key: &Path) -> Signature {
    let mut found = Signature::new();
    let mut note = |path: &Path| {
        if let Ok(meta) = std::fs::metadata(path) {
            let what = (meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec());
            found.insert(path.as_os_str().to_owned(), what);
        }
    };
    for path in [config, key] {
        note(path);
    }
    if let Ok(entries) = std::fs::read_dir(fleet) {
        let paths = entries.flatten().map(|entry| entry.path());
        paths
            .filter(|path| config::is_fragment(path))
            .for_each(|path| note(&path));
    }
    if let Ok(meta) = std::fs::metadata(fleet) {
        let what = (meta.ino(), meta.mode().into(), 0, 0);
        found.insert(fleet.as_os_str().to_owned(), what);
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
    async fn leftovers_of_editors_are_no_change() {
        let etc = tempfile::tempdir().unwrap();
        let fleet = etc.path().join("fleet.d");
        fs::create_dir(&fleet).unwrap();
        let (config, key) = (etc.path().join("sdwand.toml"), etc.path().join("node.key"));
        let mut files = ConfigFiles::watch(&config, &fleet, &key);
        for name in [".new", ".a.toml.swp", "a.toml~", "4913", "#a.toml#"] {
            fs::write(fleet.join(name), "format = 1").unwrap();
        }
        fs::write(etc.path().join("notes.txt"), "x").unwrap();
        assert!(!files.differ());
        let nothing = tokio::time::timeout(Duration::from_millis(200), files.changed()).await;
        assert!(nothing.is_err(), "an event of no concern");
        fs::rename(fleet.join(".new"), fleet.join("a.toml")).unwrap();
        event(&mut files).await;
        assert!(files.differ());
        for file in [&config, &key] {
            fs::write(file, "x").unwrap();
            event(&mut files).await;
            assert!(files.differ());
        }
        fs::set_permissions(&fleet, fs::Permissions::from_mode(0o500)).unwrap();
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

    #[tokio::test]
    async fn links_that_are_exchanged_count() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path();
        let link = |from: &str, to: &str| {
            let new = etc.join("new");
            std::os::unix::fs::symlink(etc.join(to), &new).unwrap();
            fs::rename(new, etc.join(from)).unwrap();
        };
        for version in ["v1", "v2"] {
            fs::create_dir_all(etc.join(version).join("fleet.d")).unwrap();
            fs::write(etc.join(version).join("10.toml"), version).unwrap();
            fs::write(etc.join(version).join("fleet.d/10.toml"), version).unwrap();
        }
        let (config, key) = (etc.join("sdwand.toml"), etc.join("node.key"));

        // In the middle of the path to the folder.
        link("current", "v1");
        let mut files = ConfigFiles::watch(&config, &etc.join("current/fleet.d"), &key);
        link("current", "v2");
        event(&mut files).await;
        assert!(files.differ());

        // On the way of a fragment, also where it leads nowhere for a while.
        fs::create_dir(etc.join("fleet.d")).unwrap();
        std::os::unix::fs::symlink("../current/10.toml", etc.join("fleet.d/10.toml")).unwrap();
        let mut files = ConfigFiles::watch(&config, &etc.join("fleet.d"), &key);
        fs::remove_file(etc.join("current")).unwrap();
        event(&mut files).await;
        assert!(files.differ());
        link("current", "v1");
        event(&mut files).await;
        assert!(files.differ());
    }

    #[tokio::test]
    async fn one_folder_under_two_names_is_watched_for_both() {
        let root = tempfile::tempdir().unwrap();
        let (etc, other) = (root.path().join("etc"), root.path().join("other"));
        fs::create_dir(&etc).unwrap();
        std::os::unix::fs::symlink(&etc, &other).unwrap();
        let mut files = ConfigFiles::watch(
            &etc.join("sdwand.toml"),
            &etc.join("fleet.d"),
            &other.join("node.key"),
        );
        fs::write(etc.join("sdwand.toml"), "x").unwrap();
        event(&mut files).await;
        assert!(files.differ());
        fs::write(etc.join("node.key"), "x").unwrap();
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
