//! The files of a key rotation: a next key beside the one in use, and the former one until the rotation is over.
//!
//! | file | holds | while |
//! |---|---|---|
//! | `<private_key_file>` | the key in use | always |
//! | `<private_key_file>.next` | the key to come | it was drawn, and isn't in use yet |
//! | `<private_key_file>.former` | the key that was in use | the fleet still names it |

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::init::create;
use super::keys::{PrivateKeyError, read_private_key};
use crate::model::fleet::Node;
use crate::model::{PrivateKey, PublicKey};

/// Where a rotation stands on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No next key was drawn.
    Idle,
    /// One was, and the fleet doesn't announce it.
    Drawn(PublicKey),
    /// The fleet here announces it: the node may change to it.
    Announced(PublicKey),
    /// The next key is in use; the fleet still has the former one as `public_key`.
    Turned(PublicKey),
    /// The fleet has the key in use as `public_key`, and the former one is still kept.
    Confirmed(PublicKey),
}

/// Why a rotation doesn't go on.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// A key file can't be used.
    #[error("{}: {source}", .path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: PrivateKeyError,
    },
    /// The system refuses.
    #[error("can't {what} {}", .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It isn't the time.
    #[error("{0}")]
    Order(String),
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

fn beside(key_file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(key_file);
    name.push(suffix);
    PathBuf::from(name)
}

/// The file of the next key.
#[must_use]
pub fn next_file(key_file: &Path) -> PathBuf {
    beside(key_file, ".next")
}

/// The file of the former key.
#[must_use]
pub fn former_file(key_file: &Path) -> PathBuf {
    beside(key_file, ".former")
}

fn read(path: PathBuf) -> Result<PublicKey, RotateError> {
    let key = read_private_key(&path).map_err(|source| RotateError::Key { path, source })?;
    Ok(key.public())
}

fn read_if_any(path: PathBuf) -> Result<Option<PublicKey>, RotateError> {
    if fs::symlink_metadata(&path).is_ok() {
        read(path).map(Some)
    } else {
        Ok(None)
    }
}

/// Where the rotation of `node`, whose key is in `key_file`, stands.
///
/// # Errors
/// A key file can't be read.
pub fn stage(key_file: &Path, node: &Node) -> Result<Stage, RotateError> {
    let own = read(key_file.to_owned())?;
    if node.next_public_key == Some(own) {
        return Ok(Stage::Turned(own));
    }
    if let Some(next) = read_if_any(next_file(key_file))? {
        let is_announced = node.next_public_key == Some(next);
        return Ok(if is_announced {
            Stage::Announced(next)
        } else {
            Stage::Drawn(next)
        });
    }
    let has_former = fs::symlink_metadata(former_file(key_file)).is_ok();
    Ok(if has_former && node.public_key == own {
        Stage::Confirmed(own)
    } else {
        Stage::Idle
    })
}

/// Draws a next key, mode 0600, and says its public half; the one that is there already, where one is.
///
/// # Errors
/// It can't be written, or the last rotation isn't over.
pub fn begin(key_file: &Path, node: &Node) -> Result<PublicKey, RotateError> {
    match stage(key_file, node)? {
        Stage::Drawn(next) | Stage::Announced(next) => return Ok(next),
        Stage::Turned(_) | Stage::Confirmed(_) => {
            return Err(RotateError::Order(
                "the last rotation isn't over: `sdwand key rotate --finish` first".to_owned(),
            ));
        }
        Stage::Idle => {}
    }
    let path = next_file(key_file);
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(RotateError::Random)?;
    let key = PrivateKey::from_random(*seed);
    let mut text = key.expose_base64();
    text.push('\n');
    create(&path, &text, 0o600).map_err(|source| RotateError::File {
        what: "write",
        path,
        source,
    })?;
    Ok(key.public())
}

/// Puts the next key in the place of the one in use, which is kept. At no moment is there no key file.
///
/// # Errors
/// The fleet here doesn't announce the next key, or a file can't be moved.
pub fn turn(key_file: &Path, node: &Node) -> Result<PublicKey, RotateError> {
    let next = match stage(key_file, node)? {
        Stage::Announced(next) => next,
        Stage::Turned(own) => return Ok(own),
        Stage::Drawn(next) => {
            return Err(RotateError::Order(format!(
                "the fleet here doesn't announce it: give node {} next_public_key = \"{next}\", on every host",
                node.name
            )));
        }
        Stage::Idle | Stage::Confirmed(_) => {
            return Err(RotateError::Order(
                "no next key was drawn: `sdwand key rotate --begin`".to_owned(),
            ));
        }
    };
    let former = former_file(key_file);
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| RotateError::File { what, path, source }
    };
    // A link, so that the file in use is there until it is replaced.
    fs::hard_link(key_file, &former).map_err(failed("keep the key in use as", &former))?;
    fs::rename(next_file(key_file), key_file).map_err(failed("replace", key_file))?;
    sync(key_file).map_err(failed("write", key_file))?;
    Ok(next)
}

/// Removes the former key.
///
/// # Errors
/// The fleet still names it, or it can't be removed.
pub fn finish(key_file: &Path, node: &Node) -> Result<PublicKey, RotateError> {
    match stage(key_file, node)? {
        Stage::Confirmed(own) if node.next_public_key.is_none() => {
            let former = former_file(key_file);
            fs::remove_file(&former).map_err(|source| RotateError::File {
                what: "remove",
                path: former,
                source,
            })?;
            Ok(own)
        }
        Stage::Confirmed(_) => Err(RotateError::Order(format!(
            "the fleet here announces yet another next_public_key for node {}: remove it",
            node.name
        ))),
        Stage::Turned(own) => Err(RotateError::Order(format!(
            "the fleet here still has the former key: give node {} public_key = \"{own}\" and no next_public_key, on every host",
            node.name
        ))),
        Stage::Drawn(_) | Stage::Announced(_) => Err(RotateError::Order(
            "the next key isn't in use yet: `sdwand key rotate` first".to_owned(),
        )),
        Stage::Idle => Err(RotateError::Order("no rotation is under way".to_owned())),
    }
}

fn sync(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::model::Name;

    fn node(public_key: PublicKey, next_public_key: Option<PublicKey>) -> Node {
        Node {
            name: Name::new("spoke-1").unwrap(),
            public_key,
            next_public_key,
            endpoints: Vec::new(),
            tags: Vec::new(),
            host_id: None,
        }
    }

    #[test]
    fn a_rotation_goes_one_way_and_always_has_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.key");
        let first = PrivateKey::from_random([7; 32]);
        create(&file, &first.expose_base64(), 0o600).unwrap();
        let first = first.public();
        let own = || read_private_key(&file).unwrap().public();
        let before = node(first, None);

        assert_eq!(stage(&file, &before).unwrap(), Stage::Idle);
        assert!(turn(&file, &before).is_err() && finish(&file, &before).is_err());
        let next = begin(&file, &before).unwrap();
        assert_eq!(begin(&file, &before).unwrap(), next, "drawn once");
        let mode = fs::metadata(next_file(&file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(turn(&file, &before).is_err(), "nobody knows it");
        assert_eq!(own(), first);

        let announced = node(first, Some(next));
        assert_eq!(stage(&file, &announced).unwrap(), Stage::Announced(next));
        assert!(finish(&file, &announced).is_err());
        assert_eq!(turn(&file, &announced).unwrap(), next);
        assert_eq!(
            (own(), stage(&file, &announced).unwrap()),
            (next, Stage::Turned(next))
        );
        assert_eq!(read_private_key(&former_file(&file)).unwrap().public(), first);
        assert!(
            finish(&file, &announced).is_err(),
            "the fleet still names the former"
        );
        assert!(begin(&file, &announced).is_err());

        let after = node(next, None);
        assert_eq!(finish(&file, &after).unwrap(), next);
        let left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["node.key"]);
        assert_eq!(stage(&file, &after).unwrap(), Stage::Idle);
    }
}
