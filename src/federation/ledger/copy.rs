//! Copies of the ledger: made while it is in use, looked at, and put in its place.
//!
//! ```text
//! restore: FILE ─▶ ledger.db.new: judged, distrusted ─▶ the old one is kept as ledger.db.replaced ─▶ rename ─▶ mark
//! ```
//!
//! Wherever that is cut, what stands in the ledger's place is the old one, or the new one with nothing active.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use super::audit::Head;
use super::distrust::Cause;
use super::mark::{Found, MarkFile};
use super::{Fuse, Ledger, LedgerError, Mark, Writer, audit, connect, mark_path, meta, read_book, schema_of};
use crate::federation::ledger::Book;
use crate::federation::moment::Moment;

/// What a copy of a ledger holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// The version of its schema.
    pub schema: i64,
    /// How many peers, revoked ones too.
    pub peers: usize,
    /// Where its audit ends.
    pub audit_head: Head,
    /// How often it was restored, from 1.
    pub epoch: u64,
}

/// A copy can't be made, or isn't one.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A file can't be read or written.
    #[error("{what} {}", path.display())]
    Path {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It isn't one.
    #[error("{} is no ledger: {why}", path.display())]
    NotALedger {
        /// Its file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It is one, and this program can't use it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CopyError {
    let path = path.to_owned();
    move |source| CopyError::Path { what, path, source }
}

/// `path` with `suffix` at its end.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    name.into()
}

/// Removes a file, and what SQLite may have left beside it.
fn remove(path: &Path) -> Result<(), CopyError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = beside(path, suffix);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at("removing", &path)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Makes an empty file (0600) that wasn't there, whoever may have put a link in its place.
fn create(path: &Path) -> Result<File, CopyError> {
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    file.map_err(at("creating", path))
}

fn sync_folder_of(path: &Path) -> Result<(), CopyError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(at("writing", folder))
}

/// Copies the ledger at `from` to `to`, which must not exist, while others write to it: the copy is as of one moment.
///
/// # Errors
/// One can't be read, or the other not be written; then nothing is left of it.
pub fn backup(from: &Path, to: &Path) -> Result<Holding, CopyError> {
    create(to)?;
    let copied = copy(from, to).and_then(|()| inspect(to));
    if copied.is_err() {
        remove(to)?;
    }
    copied
}

fn copy(from: &Path, to: &Path) -> Result<(), CopyError> {
    let sql = |path: &Path| {
        let path = path.to_owned();
        move |source| LedgerError::Sql { path, source }
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags).map_err(sql(from))?;
    let mut target = Connection::open_with_flags(to, flags).map_err(sql(to))?;
    let copying = rusqlite::backup::Backup::new(&source, &mut target).map_err(sql(from))?;
    // All pages in one step: of one moment, and in WAL mode writers don't wait for it.
    let pause = std::time::Duration::from_millis(20);
    copying
        .run_to_completion(i32::MAX, pause, None)
        .map_err(sql(to))?;
    drop(copying);
    // One file that stands for itself.
    target
        .pragma_update(None, "journal_mode", "DELETE")
        .map_err(sql(to))?;
    drop(target);
    let synced = File::open(to).and_then(|file| file.sync_all());
    synced.map_err(at("writing", to))
}

/// Judges a copy: whether it is a ledger that this program can use, and whole.
///
/// # Errors
/// It isn't.
pub fn inspect(path: &Path) -> Result<Holding, CopyError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let not = |why: String| CopyError::NotALedger {
        path: path.to_owned(),
        why,
    };
    let unsound = |error: rusqlite::Error| not(error.to_string());
    let connection = Connection::open_with_flags(path, flags).map_err(unsound)?;
    let schema = schema_of(&connection, path).map_err(|error| match error {
        LedgerError::Sql { source, .. } => not(source.to_string()),
        other @ (LedgerError::File { .. }
        | LedgerError::Newer { .. }
        | LedgerError::Row { .. }
        | LedgerError::Mark { .. }
        | LedgerError::Chain { .. }) => other.into(),
    })?;
    let tables = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('meta', 'peers', 'answers', 'audit')";
    let tables: i64 = connection
        .query_row(tables, [], |row| row.get(0))
        .map_err(unsound)?;
    if schema < 1 || tables != 4 {
        return Err(not("it has other tables than a ledger".to_owned()));
    }
    let sound: String = connection
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(unsound)?;
    if sound != "ok" {
        return Err(not(sound));
    }
    let book = read_book(&connection, path)?;
    let audit_head = audit::verify(&connection)
        .map_err(unsound)?
        .map_err(|source| LedgerError::Chain {
            path: path.to_owned(),
            source,
        })?;
    Ok(Holding {
        schema,
        peers: book.peers().count(),
        audit_head,
        epoch: book.epoch(),
    })
}

impl Ledger {
    /// A copy as of one moment, as a file without a name, and what it holds.
    ///
    /// # Errors
    /// It can't be written beside the ledger.
    pub fn backup(&self) -> Result<(File, Holding), CopyError> {
        let _one = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        let path = beside(&self.path, ".copy");
        remove(&path)?;
        let holding = backup(&self.path, &path)?;
        let file = File::open(&path).map_err(at("reading", &path))?;
        remove(&path)?;
        Ok((file, holding))
    }
}

/// Puts a copy in the place of the ledger at `to`, which nobody may have open. A new epoch begins with it: see
/// [`Holding::epoch`] of what is returned.
///
/// # Errors
/// The copy isn't one, and the ledger is as it was; or a file can't be written.
pub fn restore(copy: &Path, to: &Path, wall: Moment) -> Result<Holding, CopyError> {
    restore_with(copy, to, wall, &mut Fuse::default())
}

pub(super) fn restore_with(
    copy: &Path,
    to: &Path,
    wall: Moment,
    fuse: &mut Fuse,
) -> Result<Holding, CopyError> {
    let mut burn = |path: &Path| {
        fuse.carry()
            .map_err(|error| at("writing", path)(io::Error::other(error)))
    };
    let new = beside(to, ".new");
    remove(&new)?;
    let taken = take(copy, &new).and_then(|_| prepare(&new, to, wall));
    if taken.is_err() {
        remove(&new)?;
    }
    let holding = taken?;
    burn(&new)?;
    set_aside(to, &mut burn)?;
    burn(to)?;
    std::fs::rename(&new, to).map_err(at("writing", to))?;
    sync_folder_of(to)?;
    burn(to)?;
    // Whoever is cut off here begins one more epoch at the next start.
    let path = mark_path(to);
    let marked = MarkFile::open(&path).and_then(|mut mark| {
        mark.write(Mark {
            epoch: holding.epoch,
            head: holding.audit_head,
        })
    });
    marked.map_err(at("writing", &path))?;
    burn(&path)?;
    Ok(holding)
}

/// Brings the bytes of `copy` to `new`, and judges them.
fn take(copy: &Path, new: &Path) -> Result<Holding, CopyError> {
    // A ledger that was copied while it was in use may have its last changes in a second file.
    for suffix in ["", "-wal"] {
        let from = beside(copy, suffix);
        let mut source = match File::open(&from) {
            Ok(source) => source,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !suffix.is_empty() => continue,
            Err(error) => return Err(at("reading", &from)(error)),
        };
        let to = beside(new, suffix);
        let mut target = create(&to)?;
        io::copy(&mut source, &mut target).map_err(at("copying", &from))?;
        target.sync_all().map_err(at("writing", &to))?;
    }
    inspect(new).map_err(|error| match error {
        CopyError::NotALedger { why, .. } => CopyError::NotALedger {
            path: copy.to_owned(),
            why,
        },
        other @ (CopyError::Path { .. } | CopyError::Ledger(_)) => other,
    })
}

/// Carries the copy over to this program's schema, and begins an epoch that is later than any of before.
fn prepare(new: &Path, old: &Path, wall: Moment) -> Result<Holding, CopyError> {
    let sql = |source| LedgerError::Sql {
        path: new.to_owned(),
        source,
    };
    let connection = connect(new)?;
    let mark = mark_path(old);
    let marked = match MarkFile::open(&mark).map_err(at("reading", &mark))?.found {
        Found::Mark(mark) => mark.epoch,
        Found::Nothing | Found::Damaged => 0,
    };
    // What is to be replaced may be damaged: then the mark alone says how often it was restored.
    let before = marked.max(epoch_of(old).unwrap_or(0));
    let book = read_book(&connection, new)?;
    let ledger = Ledger {
        path: new.to_owned(),
        writer: Mutex::new(Writer {
            head: book.head,
            epoch: book.epoch(),
            mark: None,
            fuse: Fuse::default(),
            connection,
        }),
        copying: Mutex::default(),
        verifying: Mutex::default(),
        starts: 0,
        doubt: None,
        tell: std::sync::OnceLock::new(),
        stops: tokio::sync::watch::Sender::default(),
        book: RwLock::new(book),
    };
    ledger.distrust(wall, before, Cause::Restored("by `sdwand ledger restore`"))?;
    let peers = ledger.read(|book| book.peers().count());
    let epoch = ledger.read(Book::epoch);
    let writer = ledger.writer.into_inner().unwrap_or_else(PoisonError::into_inner);
    // One file, for the rename.
    let folded = writer.connection.pragma_update(None, "journal_mode", "DELETE");
    folded.map_err(sql)?;
    Ok(Holding {
        schema: super::SCHEMA,
        peers,
        audit_head: writer.head,
        epoch,
    })
}

fn epoch_of(path: &Path) -> Option<u64> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).ok()?;
    meta(&connection, "epoch").ok()??.parse().ok()
}

/// Keeps what is replaced under another name: its audit is still evidence.
fn set_aside(ledger: &Path, burn: &mut impl FnMut(&Path) -> Result<(), CopyError>) -> Result<(), CopyError> {
    if !ledger.exists() {
        return Ok(());
    }
    let aside = beside(ledger, ".replaced");
    remove(&aside)?;
    // The last changes go into the file itself, if it is a database at all.
    if let Ok(old) = Connection::open_with_flags(ledger, OpenFlags::SQLITE_OPEN_READ_WRITE) {
        let _ = old.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
    burn(ledger)?;
    std::fs::hard_link(ledger, &aside).map_err(at("keeping", ledger))?;
    // SQLite would take a journal of the old file for one of the new. Without it the old one is older than its mark.
    for suffix in ["-wal", "-shm", "-journal"] {
        let (from, to) = (beside(ledger, suffix), beside(&aside, suffix));
        if from.exists() {
            burn(&from)?;
            std::fs::rename(&from, &to).map_err(at("keeping", &from))?;
        }
    }
    sync_folder_of(ledger)
}
