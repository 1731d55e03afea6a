//! The mark: how far the ledger has come, kept outside of it, so that an older copy of the ledger isn't believed.
//!
//! ```text
//! commit ─▶ mark ─▶ whoever waits is told        a ledger is believed if the record at the mark is the one it names
//! ```
//!
//! The file `epoch` beside the ledger has two slots that are written in turns: whenever the power is cut, one of them is
//! whole. A ledger that is one commit ahead of its mark is believed: nobody was told of that commit. Whoever puts back
//! the whole folder, mark and all, isn't found out here.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::audit::Head;

/// Where the second slot begins: never in the same sector as the first.
const SLOT: usize = 4_096;
/// The longest text of a slot.
const LINE: usize = 512;

/// How far a ledger has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// How often it was restored, from 1.
    pub(super) epoch: u64,
    /// Where its audit ends.
    pub(super) head: Head,
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing was ever written.
    Nothing,
    /// Something was, and it can't be read.
    Damaged,
    /// The mark.
    Mark(Mark),
}

/// The file, open.
#[derive(Debug)]
pub(super) struct MarkFile {
    file: File,
    count: u64,
    /// What was written last.
    pub(super) found: Found,
}

impl MarkFile {
    /// Opens the file, and makes it (0600) if there is none.
    ///
    /// # Errors
    /// It can't be opened or read. What it says may still make no sense: see [`Found`].
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        let mut bytes = Vec::new();
        (&mut file).take(2 * SLOT as u64).read_to_end(&mut bytes)?;
        let slots = [0, SLOT].map(|at| bytes.get(at..).and_then(read_slot));
        let last = slots.into_iter().flatten().max_by_key(|(count, _)| *count);
        let found = match last {
            Some((_, mark)) => Found::Mark(mark),
            None if bytes.is_empty() => Found::Nothing,
            None => Found::Damaged,
        };
        Ok(Self {
            file,
            count: last.map_or(0, |(count, _)| count),
            found,
        })
    }

    /// Writes the mark: it is on the disk when this returns.
    ///
    /// # Errors
    /// It isn't, or nobody knows. The one before still is.
    pub(super) fn write(&mut self, mark: Mark) -> io::Result<()> {
        let count = self.count + 1;
        let (at, text) = slot(count, mark);
        self.file.write_all_at(text.as_bytes(), at)?;
        self.file.sync_data()?;
        (self.count, self.found) = (count, Found::Mark(mark));
        Ok(())
    }
}

/// What stands in a slot, and where: `<count> <epoch> <sequence>:<hash> <checksum>`.
fn slot(count: u64, mark: Mark) -> (u64, String) {
    let text = format!("{count} {} {}", mark.epoch, mark.head);
    let line = format!("{text} {}\n", checksum(&text));
    ((count % 2) * SLOT as u64, line)
}

fn checksum(text: &str) -> String {
    let hash: [u8; 32] = Sha256::digest(text).into();
    let start = hash.first_chunk().copied().unwrap_or_default();
    format!("{:016x}", u64::from_be_bytes(start))
}

fn read_slot(bytes: &[u8]) -> Option<(u64, Mark)> {
    let line = bytes
        .get(..LINE.min(bytes.len()))?
        .split(|byte| *byte == b'\n')
        .next()?;
    let (text, sum) = std::str::from_utf8(line).ok()?.rsplit_once(' ')?;
    if checksum(text) != sum {
        return None;
    }
    let mut words = text.split(' ');
    let (count, epoch, head) = (words.next()?, words.next()?, words.next()?);
    let mark = Mark {
        epoch: epoch.parse().ok()?,
        head: head.parse().ok()?,
    };
    Some((count.parse().ok()?, mark))
}

/// Why a ledger isn't believed; none if it is. `marked`: whether the ledger says that it has a mark. `at_mark`: the hash
/// of its record at the mark, if it has one there.
pub(super) fn doubt(
    found: Found,
    marked: bool,
    epoch: u64,
    at_mark: Option<[u8; 32]>,
) -> Option<&'static str> {
    match found {
        Found::Nothing | Found::Damaged if !marked => None,
        Found::Nothing => Some("the mark beside the ledger is gone"),
        Found::Damaged => Some("the mark beside the ledger can't be read"),
        Found::Mark(mark) if epoch < mark.epoch => Some("the ledger is of an earlier epoch"),
        Found::Mark(mark) => match at_mark {
            None => Some("the ledger's audit ends before the mark"),
            Some(hash) if hash != mark.head.hash => Some("the ledger's audit isn't the one that was marked"),
            Some(_) => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sequence: i64) -> Mark {
        Mark {
            epoch: 1,
            head: Head {
                sequence,
                hash: [u8::try_from(sequence).unwrap(); 32],
            },
        }
    }

    #[test]
    fn wherever_a_write_is_cut_the_mark_before_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("epoch");
        let mut file = MarkFile::open(&path).unwrap();
        assert_eq!(file.found, Found::Nothing);
        for n in 1..=4 {
            file.write(mark(n)).unwrap();
            assert_eq!(MarkFile::open(&path).unwrap().found, Found::Mark(mark(n)));
            let (at, text) = slot(file.count + 1, mark(n + 1));
            for cut in 0..text.len() {
                let whole = std::fs::read(&path).unwrap();
                file.file.write_all_at(&text.as_bytes()[..cut], at).unwrap();
                let found = MarkFile::open(&path).unwrap().found;
                // Without the end of its line it is whole already, if the rest of an older one is no part of it.
                assert!(
                    found == Found::Mark(mark(n)) || cut + 1 == text.len(),
                    "{n} {cut}"
                );
                std::fs::write(&path, whole).unwrap();
            }
        }
    }

    #[test]
    fn what_is_no_mark_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("epoch");
        for text in ["x", "1 1 1:00 0000000000000000\n", "\n\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(MarkFile::open(&path).unwrap().found, Found::Damaged, "{text:?}");
        }
    }

    #[test]
    fn which_ledgers_are_believed() {
        let marked = Found::Mark(Mark { epoch: 2, ..mark(3) });
        let hash = Some([3; 32]);
        assert_eq!(doubt(marked, true, 2, hash), None);
        assert_eq!(doubt(marked, true, 3, hash), None);
        assert_eq!(
            doubt(marked, false, 2, hash),
            None,
            "of before there were marks, and since grown"
        );
        for doubted in [
            doubt(marked, true, 1, hash),
            doubt(marked, true, 2, None),
            doubt(marked, true, 3, None),
            doubt(marked, true, 2, Some([4; 32])),
            doubt(Found::Nothing, true, 2, None),
            doubt(Found::Damaged, true, 2, None),
        ] {
            assert!(doubted.is_some());
        }
        assert_eq!(doubt(Found::Nothing, false, 1, None), None, "the first start");
        assert_eq!(doubt(Found::Damaged, false, 1, None), None, "which was cut");
    }
}
