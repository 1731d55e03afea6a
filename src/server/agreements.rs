//! The agreements' file: what `sdwand run` may go by. Replaced whole, whenever anything in it changes, and from time to time
//! so that its reader knows that it still holds.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::federation::pki::authority::write_whole;
use crate::model::Name;
use crate::model::agreement::{Agreement, Agreements, FILE, REFRESH};

/// Its folder: the owner and the group may enter, and nobody else.
const FOLDER_MODE: u32 = 0o750;
/// The file: it holds preshared keys.
const MODE: u32 = 0o640;

/// The file, and what was last written to it.
#[derive(Debug)]
pub(super) struct AgreementsFile {
    folder: PathBuf,
    last: Option<(BTreeMap<Name, Agreement>, Instant)>,
}

impl AgreementsFile {
    /// In this folder, which is made if it isn't there.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(FOLDER_MODE))?;
        Ok(Self {
            folder: folder.to_owned(),
            last: None,
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    /// Writes it, where something in it is other than before, or it gets old. Says whether something was.
    pub(super) fn keep(&mut self, all: Agreements, now: Instant) -> io::Result<bool> {
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
                }
                return Err(error);
            }
            self.last = Some((all.bridges, now));
        }
        Ok(is_news)
    }

    fn write(&self, all: &Agreements) -> io::Result<()> {
        let text = all.render()?;
        let text = std::str::from_utf8(&text).map_err(io::Error::other)?;
        write_whole(&self.path(), text, MODE)
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
        // A write that was cut off is no hindrance, and a start writes whatever it finds.
        std::fs::write(folder.join("agreements.json.new"), "{").unwrap();
        let mut file = AgreementsFile::open(&folder).unwrap();
        assert!(file.keep(all(5, &[]), now).unwrap());
        assert_eq!(read(), all(5, &[]));
    }
}
