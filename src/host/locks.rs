//! One at a time: the state folder and the network namespace.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use crate::sys::lock::{FileLock, LockError, NamespaceLock};

/// The abstract socket that marks a network namespace as taken.
const NAMESPACE_LOCK: &str = "sdwand";

/// Keeps others from changing the same host at the same time.
#[derive(Debug)]
pub struct Locks {
    _file: FileLock,
    _namespace: NamespaceLock,
}

impl Locks {
    /// Takes the state folder, which is made (0700) if it isn't there, and the network namespace.
    ///
    /// # Errors
    /// Another process has one of them, or the folder can't be had.
    pub fn acquire(state_dir: &Path) -> Result<Self, LockError> {
        let mut folder = DirBuilder::new();
        let made = folder.recursive(true).mode(0o700).create(state_dir);
        made.map_err(|source| LockError::Io {
            path: state_dir.to_owned(),
            source,
        })?;
        Ok(Self {
            _file: FileLock::acquire(&state_dir.join("lock"))?,
            _namespace: NamespaceLock::acquire(NAMESPACE_LOCK)?,
        })
    }
}
