//! What other sites have agreed to, as `sdwand serve` hands it over: read, watched, and believed for a while.

use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};
use zeroize::Zeroizing;

use crate::model::agreement::{self, AgreementError, Agreements};
use crate::model::host::HostConfig;

/// Why the file isn't believed.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    /// The system refuses.
    #[error("{0}")]
    Refused(#[source] std::io::Error),
    /// It isn't a file of ours.
    #[error("{0}")]
    Strange(&'static str),
    /// What is in it.
    #[error(transparent)]
    Text(#[from] AgreementError),
}

/// What was agreed, by the last look that worked.
#[derive(Debug)]
pub(super) struct Agreed {
    known: Agreements,
    problem: Option<String>,
    grace: Duration,
    now: u64,
}

impl Agreed {
    /// Reads the file for the first time; a host that is no gateway has none.
    pub(super) fn first(own: &HostConfig, now: u64) -> Self {
        let mut agreed = Self {
            known: Agreements::NONE,
            problem: None,
            grace: Duration::ZERO,
            now,
        };
        agreed.refresh(own, now);
        agreed
    }

    /// Reads the file again; whether anything else is in force than before. What can't be read leaves what was known in
    /// force, for as long as `grace` is; a file that isn't there says that nothing is agreed.
    pub(super) fn refresh(&mut self, own: &HostConfig, now: u64) -> bool {
        let (before, problem) = (self.in_force(), self.problem.take());
        self.now = now;
        match &own.federation {
            None => self.known = Agreements::NONE,
            Some(federation) => {
                self.grace = federation.grace;
                let path = own.agreements_dir().join(agreement::FILE);
                match read(&path) {
                    Ok(known) => self.known = known.unwrap_or(Agreements::NONE),
                    Err(error) => self.problem = Some(format!("{} can't be used: {error}", path.display())),
                }
            }
        }
        before.bridges != self.in_force().bridges || problem != self.problem
    }

    /// What is in force now.
    pub(super) fn in_force(&self) -> Agreements {
        if self.known.is_fresh(self.now, self.grace) {
            self.known.clone()
        } else {
            Agreements::NONE
        }
    }

    /// What an operator should know.
    pub(super) fn problem(&self) -> Option<String> {
        let silent = || {
            let hours = self.grace.as_secs() / 3_600;
            format!(
                "`sdwand serve` hasn't confirmed what other sites agreed to for more than grace_hours ({hours}): bridges carry nothing"
            )
        };
        let is_stale = !self.known.bridges.is_empty() && !self.known.is_fresh(self.now, self.grace);
        self.problem.clone().or_else(|| is_stale.then(silent))
    }
}

fn read(path: &Path) -> Result<Option<Agreements>, ReadError> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let opened = std::fs::File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ReadError::Refused(error)),
    };
    let meta = file.metadata().map_err(ReadError::Refused)?;
    if !meta.is_file() {
        return Err(ReadError::Strange("it is no regular file"));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(ReadError::Strange(
            "others than its owner may write to it: chmod 0640",
        ));
    }
    let mut text = Zeroizing::new(Vec::new());
    file.take(agreement::MAX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(ReadError::Refused)?;
    if text.len() as u64 > agreement::MAX_BYTES {
        return Err(ReadError::Strange("it is larger than 64 MiB"));
    }
    Ok(Some(Agreements::parse(&text)?))
}

/// Hears when the file is replaced.
pub(crate) struct AgreementsFile {
    folder: PathBuf,
    events: Option<EventStream<[u8; 4096]>>,
    has_folder: bool,
}

impl AgreementsFile {
    /// Starts to listen. Where nothing can be heard, every round looks.
    pub(crate) fn watch(own: &HostConfig) -> Self {
        let mut file = Self {
            folder: own.agreements_dir(),
            events: None,
            has_folder: false,
        };
        if own.federation.is_some() {
            file.start();
        }
        file
    }

    /// Listens from now on, if this host has become a gateway.
    pub(crate) fn follow(&mut self, own: &HostConfig) {
        if self.events.is_none() && own.federation.is_some() {
            self.start();
        }
    }

    fn start(&mut self) {
        self.has_folder = self.folder.is_dir();
        // Before `serve` has run for the first time there is no folder yet.
        let there = self.folder.ancestors().find(|path| path.is_dir());
        let mask = WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::CLOSE_WRITE;
        let started = Inotify::init().and_then(|inotify| {
            if let Some(there) = there {
                inotify.watches().add(there, mask)?;
            }
            inotify.into_event_stream([0; 4096])
        });
        self.events = match started {
            Ok(events) => Some(events),
            Err(error) => {
                tracing::warn!(folder = %self.folder.display(), %error, "can't be watched: agreements are seen at the next round");
                None
            }
        };
    }

    /// Waits until something happens to the file.
    pub(crate) async fn changed(&mut self) {
        loop {
            let Some(events) = &mut self.events else {
                return std::future::pending().await;
            };
            let Some(Ok(event)) = events.next().await else {
                self.events = None;
                return;
            };
            if !self.has_folder || event.name.is_none() {
                let had_folder = self.has_folder;
                self.start();
                if had_folder || self.has_folder {
                    return;
                }
            } else if event.name.as_deref() == Some(agreement::FILE.as_ref()) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn write(path: &Path, text: &[u8], mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_a_private_regular_file_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(agreement::FILE);
        assert!(read(&path).unwrap().is_none());
        let text = Agreements::NONE.render().unwrap();
        write(&path, &text, 0o640);
        assert_eq!(read(&path).unwrap(), Some(Agreements::NONE));
        for mode in [0o660, 0o642] {
            write(&path, &text, mode);
            assert!(matches!(read(&path), Err(ReadError::Strange(_))), "{mode:o}");
        }
        write(&path, b"{}", 0o640);
        assert!(matches!(read(&path), Err(ReadError::Text(_))));
        fs::rename(&path, folder.path().join("other")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("other"), &path).unwrap();
        assert!(matches!(read(&path), Err(ReadError::Refused(_))));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(read(&path).is_err());
    }
}
