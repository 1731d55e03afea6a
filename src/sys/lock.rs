//! Locks against a second daemon: one on a file, one for the network namespace. Both end with the process, however
//! it ends.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Why a lock isn't ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the file.
    #[error("{} is locked by {}: only one daemon may use a state folder", path.display(), holder(*pid))]
    FileHeld {
        /// The file.
        path: PathBuf,
        /// Who holds it, if it said so.
        pid: Option<u32>,
    },
    /// Another process holds the network namespace.
    #[error(
        "this network namespace is managed by {}: only one daemon may run in it (abstract socket @{name})",
        holder(*pid)
    )]
    NamespaceHeld {
        /// The name of the abstract socket.
        name: String,
        /// Who holds it, if it is in our pid namespace.
        pid: Option<u32>,
    },
    /// The lock can't be tried.
    #[error("can't lock {}", path.display())]
    Io {
        /// The file, or the abstract socket's name.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl LockError {
    /// Whether the same attempt may succeed later without anyone changing anything: the holder may end.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::FileHeld { .. } | Self::NamespaceHeld { .. } => true,
            Self::Io { .. } => false,
        }
    }
}

/// An exclusive lock on a file (`flock(2)`), which holds the pid of its owner. The file stays when the lock ends.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Locks `path`, which is made (0600) if it isn't there, without waiting.
    ///
    /// # Errors
    /// Another process holds it, or it can't be opened.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and(text.trim().parse().ok());
                return Err(LockError::FileHeld {
                    path: path.to_owned(),
                    pid,
                });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        let mut note = || -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        note().map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// The lock of a network namespace: a listening abstract unix socket, whose names are per network namespace
/// (`unix(7)`). Nobody answers on it. Any local user can take the name first; the error then names their process.
#[derive(Debug)]
pub struct NamespaceLock {
    _listener: UnixListener,
}

impl NamespaceLock {
    /// Takes the name in the network namespace of this thread.
    ///
    /// # Errors
    /// Another process has it.
    pub fn acquire(name: &str) -> Result<Self, LockError> {
        let failed = |source| LockError::Io {
            path: PathBuf::from(format!("@{name}")),
            source,
        };
        let address = SocketAddr::from_abstract_name(name).map_err(failed)?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => Ok(Self { _listener: listener }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(LockError::NamespaceHeld {
                name: name.to_owned(),
                pid: peer(&address),
            }),
            Err(error) => Err(failed(error)),
        }
    }
}

/// The pid of who listens on `address`.
fn peer(address: &SocketAddr) -> Option<u32> {
    let stream = UnixStream::connect_addr(address).ok()?;
    let credentials = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_holder_and_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = FileLock::acquire(&path).unwrap();
        let error = FileLock::acquire(&path).unwrap_err();
        assert!(matches!(error, LockError::FileHeld { pid, .. } if pid == Some(std::process::id())));
        assert!(
            error
                .to_string()
                .contains(&format!("process {}", std::process::id()))
        );
        drop(lock);
        drop(FileLock::acquire(&path).unwrap());
    }

    #[test]
    fn a_namespace_has_one_holder_and_names_it() {
        let name = format!("sdwand-test-{}", std::process::id());
        let lock = NamespaceLock::acquire(&name).unwrap();
        let error = NamespaceLock::acquire(&name).unwrap_err();
        assert!(matches!(error, LockError::NamespaceHeld { pid, .. } if pid == Some(std::process::id())));
        drop(lock);
        drop(NamespaceLock::acquire(&name).unwrap());
    }
}
