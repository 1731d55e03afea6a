//! The agreements' file: what `sdwand run` may go by. Replaced whole, whenever anything in it changes, and from time to time
//! so that its reader knows that it still holds.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::federation::pki::authority::write_whole;
use crate::model::Name;
use crate::model::agreement::{Agreement, Agreements, FILE, REFRESH};

/// Its folder: the owner and the group may enter, and nobody else.
const FOLDER_MODE: u32 = 0o750;
/// The file: it holds preshared keys.
const MODE: u32 = 0o640;
/// How much later than the other end who calls it has a new agreement: a handshake that arrives before its peer is known is
/// lost, and the next one comes after 5 s only (`REKEY_TIMEOUT` of the protocol).
const HEAD_START: Duration = Duration::from_millis(400);

/// The file, and what was last written to it.
#[derive(Debug)]
pub(super) struct AgreementsFile {
    folder: PathBuf,
    last: Option<(BTreeMap<Name, Agreement>, Instant)>,
    /// Since when new ones wait in which the other end is called.
    waiting: BTreeMap<Name, Instant>,
}

impl AgreementsFile {
    /// In this folder, which is made if it isn't there.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let file = Self {
            folder: folder.to_owned(),
            last: None,
            waiting: BTreeMap::new(),
        };
        file.prepare()?;
        Ok(file)
    }

    fn prepare(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        std::fs::set_permissions(&self.folder, std::fs::Permissions::from_mode(FOLDER_MODE))
    }

    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// Writes it, where something in it is other than before, or it gets old. Says whether something was.
    pub(super) fn keep(&mut self, mut all: Agreements, now: Instant) -> io::Result<bool> {
        self.hold_back(&mut all, now);
        let is_news = self
            .last
            .as_ref()
            .is_none_or(|(bridges, _)| *bridges != all.bridges);
        // Well before its reader could wonder.
        let is_old = self
            .last
            .as_ref()
            .is_some_and(|(_, at)| now.duration_since(*at) >= REFRESH / 2);
        if is_news || is_old {
            if let Err(error) = self.write(&all) {
                // What can't be corrected is taken away, which needs no space: nothing is in force then.
                if is_news {
                    let _ = std::fs::remove_file(self.path());
                    self.last = None;
                    // The next try writes all of it.
                    self.waiting.clear();
                }
                return Err(error);
            }
            self.last = Some((all.bridges, now));
        }
        Ok(is_news)
    }

    /// Leaves out what the other end shall know first. What was there at the start waits for nobody.
    fn hold_back(&mut self, all: &mut Agreements, now: Instant) {
        let Some((known, _)) = &self.last else { return };
        self.waiting
            .retain(|name, _| all.bridges.contains_key(name) && !known.contains_key(name));
        all.bridges.retain(|name, agreement| {
            if known.contains_key(name) || agreement.endpoints.is_empty() {
                return true;
            }
            let since = *self.waiting.entry(name.clone()).or_insert(now);
            now.duration_since(since) >= HEAD_START
        });
    }

    /// How long until something that waits is to be written.
    pub(super) fn due(&self, now: Instant) -> Option<Duration> {
        let rest = |since: &Instant| HEAD_START.saturating_sub(now.duration_since(*since));
        self.waiting.values().map(rest).min()
    }

    fn write(&self, all: &Agreements) -> io::Result<()> {
        let text = all.render()?;
        let text = std::str::from_utf8(&text).map_err(io::Error::other)?;
        match write_whole(&self.path(), text, MODE) {
            // Somebody took the folder away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.prepare()?;
                write_whole(&self.path(), text, MODE)
            }
            written => written,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::agreement::FORMAT;
    use crate::model::{PresharedKey, PublicKey};

    fn all(written: u64, names: &[&str]) -> Agreements {
        let agreement = Agreement {
            peer: Name::new("site-b").unwrap(),
            network: Name::new("prod").unwrap(),
            import: Vec::new(),
            export: None,
            public_key: PublicKey([7; 32]),
            preshared_key: PresharedKey::from_bytes([9; 32]).unwrap(),
            endpoints: Vec::new(),
            prefixes: Vec::new(),
            listener: None,
        };
        let bridges = names
            .iter()
            .map(|name| (Name::new(name).unwrap(), agreement.clone()));
        Agreements {
            format: FORMAT,
            written,
            bridges: bridges.collect(),
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a point to count from")]
    fn it_is_written_when_something_changes_and_before_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("sdwand-agreements");
        let mut file = AgreementsFile::open(&folder).unwrap();
        let read = || Agreements::parse(&std::fs::read(folder.join(FILE)).unwrap()).unwrap();
        let now = Instant::now();
        assert!(
            file.keep(all(1, &[]), now).unwrap(),
            "an empty one says something, too"
        );
        assert_eq!(read(), all(1, &[]));
        assert!(!file.keep(all(2, &[]), now).unwrap());
        assert_eq!(read().written, 1, "no news, and not old");
        assert!(!file.keep(all(3, &[]), now + REFRESH / 2).unwrap());
        assert_eq!(read().written, 3, "refreshed");
        assert!(file.keep(all(4, &["prod-b"]), now + REFRESH / 2).unwrap());
        assert_eq!(read(), all(4, &["prod-b"]));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join(FILE))), (0o750, 0o640));
        // Who is called is given a head start.
        let called = |names: &[&str]| {
            let mut all = all(5, names);
            for agreement in all.bridges.values_mut() {
                agreement.endpoints = vec!["1.1.1.1:51820".parse().unwrap()];
            }
            all
        };
        let later = now + REFRESH / 2;
        file.keep(called(&["lab-c"]), later).unwrap();
        assert!(read().bridges.is_empty());
        assert_eq!(file.due(later), Some(HEAD_START));
        file.keep(called(&["lab-c"]), later + HEAD_START).unwrap();
        assert_eq!(read().bridges.len(), 1);
        assert_eq!(file.due(later + HEAD_START), Some(Duration::ZERO));
        file.keep(called(&["lab-c"]), later + HEAD_START).unwrap();
        assert_eq!(file.due(later + HEAD_START), None);
        // What can't be written isn't in force any more, once it is news; else the file holds for as long as its reader waits.
        let agreed = |written| all(written, &["prod-b"]);
        file.keep(agreed(6), later).unwrap();
        let blocked = folder.join("agreements.json.new");
        std::fs::create_dir(&blocked).unwrap();
        assert!(file.keep(agreed(7), later + REFRESH / 2).is_err());
        assert_eq!(read(), agreed(6), "it says what it said");
        assert!(file.keep(all(8, &[]), later + REFRESH / 2).is_err());
        assert!(!folder.join(FILE).exists(), "revoked: nothing is in force");
        assert_eq!(
            file.due(later + REFRESH),
            None,
            "the next look tries again, and nothing sooner"
        );
        std::fs::remove_dir(&blocked).unwrap();
        assert!(
            file.keep(agreed(9), later + REFRESH / 2).unwrap(),
            "agreed again meanwhile"
        );
        assert_eq!(read(), agreed(9));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(file.keep(all(10, &[]), later + REFRESH / 2).unwrap());
        assert_eq!(
            (read(), mode(&folder)),
            (all(10, &[]), 0o750),
            "nor does it need its folder"
        );
        // A write that was cut off is no hindrance, and a start writes whatever it finds.
        std::fs::write(folder.join("agreements.json.new"), "{").unwrap();
        let mut file = AgreementsFile::open(&folder).unwrap();
        assert!(file.keep(all(5, &[]), now).unwrap());
        assert_eq!(read(), all(5, &[]));
    }
}
