//! The configuration that was last applied, kept in the state folder: what drift is healed towards in manual mode,
//! and what a restart falls back on when the files are bad.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::config::{self, Diagnostics};
use crate::log::Event;
use crate::model::host::{HostConfig, Mode};
use crate::model::{Fleet, PrivateKey};

/// The folder of the applied fragments, in the state folder.
const FOLDER: &str = "applied";

/// Where the former fragments are while they are replaced.
const OLD_FOLDER: &str = "applied.old";

/// What the daemon starts with.
pub(super) struct Start {
    /// This host's own configuration.
    pub(super) host: HostConfig,
    /// Its key.
    pub(super) key: PrivateKey,
    /// The fleet to make true; none in manual mode before the first apply.
    pub(super) fleet: Option<Fleet>,
    /// The fleet that was in force before that one.
    pub(super) former: Option<Fleet>,
    /// What is worth knowing about `fleet`.
    pub(super) notices: Vec<config::Notice>,
    /// What `fleet` was read from, where that isn't the kept copy: to be kept.
    pub(super) fragments: Option<Vec<(PathBuf, String)>>,
    /// A good fleet that waits for `apply`, in manual mode.
    pub(super) pending: Option<config::Loaded>,
    /// Why the files aren't in force, if they are bad.
    pub(super) errors: Option<Diagnostics>,
}

/// Reads the configuration for the first time.
pub(super) fn first(path: &Path) -> Result<Start, Diagnostics> {
    match config::load(path) {
        Ok(loaded) if loaded.host.reconcile.mode == Mode::Auto => Ok(Start {
            former: former(&loaded.host.state_dir, &loaded.fragments),
            host: loaded.host,
            key: loaded.private_key,
            fleet: Some(loaded.fleet),
            notices: loaded.notices,
            fragments: Some(loaded.fragments),
            pending: None,
            errors: None,
        }),
        Ok(loaded) => {
            let applied = last(&loaded.host.state_dir);
            let same = applied
                .as_ref()
                .is_some_and(|fleet| fleet.digest == loaded.fleet.digest);
            Ok(Start {
                host: loaded.host.clone(),
                key: loaded.private_key.clone(),
                fleet: applied,
                former: None,
                notices: if same { loaded.notices.clone() } else { Vec::new() },
                fragments: None,
                pending: (!same).then_some(loaded),
                errors: None,
            })
        }
        Err(errors) => {
            let Ok((host, _)) = config::load_host(path) else {
                return Err(errors);
            };
            let (Ok(key), Some(fleet)) = (
                config::read_private_key(&host.private_key_file),
                last(&host.state_dir),
            ) else {
                return Err(errors);
            };
            Ok(Start {
                host,
                key,
                fleet: Some(fleet),
                former: None,
                notices: Vec::new(),
                fragments: None,
                pending: None,
                errors: Some(errors),
            })
        }
    }
}

/// The fleet that was last applied, if one was and it can still be read.
pub(crate) fn last(state_dir: &Path) -> Option<Fleet> {
    // The older one is there alone if the replacement was cut short.
    let folders = [FOLDER, OLD_FOLDER].map(|name| state_dir.join(name));
    let folder = folders.iter().find(|folder| folder.is_dir())?;
    config::load_fleet(folder).ok().map(|parsed| parsed.fleet)
}

/// As [`last`]; none where it is what these fragments say, too, so that there is nothing to take over from it.
pub(crate) fn former(state_dir: &Path, fragments: &[(PathBuf, String)]) -> Option<Fleet> {
    if is_copy(&state_dir.join(FOLDER), fragments) {
        return None;
    }
    last(state_dir)
}

/// Whether the folder holds these fragments, byte for byte, and nothing else.
fn is_copy(folder: &Path, fragments: &[(PathBuf, String)]) -> bool {
    let is_kept = |(path, text): &(PathBuf, String)| {
        path.file_name()
            .is_some_and(|name| holds(&folder.join(name), text))
    };
    let count = fs::read_dir(folder).map_or(0, Iterator::count);
    count == fragments.len() && fragments.iter().all(is_kept)
}

fn holds(file: &Path, text: &str) -> bool {
    let same_size = fs::metadata(file).is_ok_and(|meta| meta.len() == text.len() as u64);
    same_size && fs::read(file).is_ok_and(|kept| kept == text.as_bytes())
}

/// Keeps the fragments. That they can't be kept is no reason not to apply them: it is logged.
pub(crate) fn save(state_dir: &Path, fragments: &[(PathBuf, String)]) {
    if let Err(error) = replace(state_dir, fragments) {
        let (folder, error) = (state_dir.display().to_string(), error.to_string());
        Event::ConfigNotKept { folder, error }.emit();
    }
}

fn replace(state_dir: &Path, fragments: &[(PathBuf, String)]) -> io::Result<()> {
    let (new, now, old) = (
        state_dir.join("applied.new"),
        state_dir.join(FOLDER),
        state_dir.join(OLD_FOLDER),
    );
    for stale in [&new, &old] {
        match fs::remove_dir_all(stale) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&new)?;
    for (path, text) in fragments {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        // What is kept already isn't written again, where the file system can do that.
        if holds(&now.join(name), text) && fs::hard_link(now.join(name), new.join(name)).is_ok() {
            continue;
        }
        let mut file = fs::File::create(new.join(name))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    if now.exists() {
        fs::rename(&now, &old)?;
    }
    fs::rename(&new, &now)?;
    fs::File::open(state_dir)?.sync_all()?;
    match fs::remove_dir_all(&old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_known_by_every_byte() {
        use std::os::unix::fs::MetadataExt as _;
        let state = tempfile::tempdir().unwrap();
        let fragment = |name: &str, text: &str| (PathBuf::from(format!("/etc/x/{name}")), text.to_owned());
        let (a, b) = (fragment("a.toml", "1"), fragment("b.toml", "2"));
        let folder = state.path().join(FOLDER);
        assert!(!is_copy(&folder, std::slice::from_ref(&a)));
        replace(state.path(), &[a.clone(), b.clone()]).unwrap();
        assert!(is_copy(&folder, &[a.clone(), b.clone()]));
        assert!(!is_copy(&folder, std::slice::from_ref(&a)));
        assert!(!is_copy(&folder, &[a.clone(), fragment("b.toml", "3")]));
        assert!(!is_copy(&folder, &[a.clone(), fragment("c.toml", "2")]));
        // What stays the same is the same file still.
        let inode = |name: &str| fs::metadata(folder.join(name)).unwrap().ino();
        let before = inode("a.toml");
        replace(state.path(), &[a, fragment("b.toml", "3")]).unwrap();
        assert_eq!(inode("a.toml"), before);
        assert_eq!(fs::read_to_string(folder.join("b.toml")).unwrap(), "3");
    }

    #[test]
    fn the_copy_is_replaced_as_a_whole() {
        let state = tempfile::tempdir().unwrap();
        let fragment = |name: &str, text: &str| (PathBuf::from(format!("/etc/x/{name}")), text.to_owned());
        replace(state.path(), &[fragment("a.toml", "1"), fragment("b.toml", "2")]).unwrap();
        replace(state.path(), &[fragment("b.toml", "3")]).unwrap();
        let names: Vec<_> = fs::read_dir(state.path().join(FOLDER))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, ["b.toml"]);
        assert_eq!(
            fs::read_to_string(state.path().join(FOLDER).join("b.toml")).unwrap(),
            "3"
        );
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);
    }
}
