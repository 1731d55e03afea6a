//! The ledger: peers, kept answers and the audit, in one SQLite file.
//!
//! ```text
//! transact ─▶ Draft (pure, on top of the book) ─▶ one SQL transaction, on disk when it returns ─▶ the book in memory
//! ```
//!
//! Everything that one step of the protocol changes is one transaction: a crash leaves it whole or not there at all.
//! Writers take turns; readers look at the book and never wait for the disk.

mod asked;
mod audit;
mod book;
mod clock;
mod copy;
mod distrust;
mod extract;
mod mark;
mod rows;
mod subscribed;

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch;

pub use asked::Pause;
pub use audit::{AuditLine, AuditRecord, ChainError, Head};
pub use book::{Book, Conflict, Draft, Happening, KeptAnswer, OwnTrust, Rotation};
pub use clock::{ClockError, ClockReset, reset_clock};
pub use copy::{CopyError, Holding, backup, inspect, restore};
pub use extract::{Place, Window};

use super::moment::Moment;
use super::peer::{Peer, PeerId};
use distrust::Cause;
use mark::{Found, Mark, MarkFile};
use rows::{meta, read_book, write};

/// What leads from each version of the schema to the next. A step that was released never changes.
const STEPS: [&str; 6] = [CREATE, GRANTS, BRIDGES, APPROVALS, CONSENT, SUBSCRIPTIONS];

/// The version of the schema that this program writes.
const SCHEMA: i64 = 6;

const CREATE: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE peers (
  id TEXT PRIMARY KEY, status TEXT NOT NULL, url TEXT NOT NULL, site TEXT, doc TEXT NOT NULL) STRICT;
CREATE UNIQUE INDEX live_url ON peers (url) WHERE status <> 'revoked';
CREATE UNIQUE INDEX live_site ON peers (site) WHERE status <> 'revoked' AND site IS NOT NULL;
CREATE TABLE answers (token TEXT PRIMARY KEY, until INTEGER NOT NULL, doc TEXT NOT NULL) STRICT;
CREATE TABLE audit (
  sequence INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT NOT NULL, severity TEXT NOT NULL, peer TEXT,
  payload TEXT NOT NULL, hash BLOB NOT NULL) STRICT;
CREATE INDEX audit_of_peer ON audit (peer, at);
";

const GRANTS: &str = "
CREATE TABLE grants (id TEXT PRIMARY KEY, peer TEXT NOT NULL, doc TEXT NOT NULL) STRICT;
CREATE TABLE capabilities (id TEXT PRIMARY KEY, peer TEXT NOT NULL, doc TEXT NOT NULL) STRICT;
CREATE TABLE operator_tokens (jti TEXT PRIMARY KEY, until INTEGER NOT NULL, doc TEXT NOT NULL) STRICT;
";

const BRIDGES: &str = "
CREATE TABLE bridges (id TEXT NOT NULL, peer TEXT NOT NULL, doc TEXT NOT NULL, PRIMARY KEY (peer, id)) STRICT;
";

const APPROVALS: &str = "
CREATE TABLE approvals (id TEXT PRIMARY KEY, doc TEXT NOT NULL) STRICT;
";

/// No table is new: what is approved and denied stands in documents that programs of before would read, and lose.
const CONSENT: &str = "";

const SUBSCRIPTIONS: &str = "
CREATE TABLE subscriptions (peer TEXT NOT NULL, service TEXT NOT NULL, doc TEXT NOT NULL, PRIMARY KEY (peer, service)) STRICT;
";

/// Why the ledger can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// SQLite refuses.
    #[error("the ledger {path}")]
    Sql {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// Its file can't be made or opened.
    #[error("the ledger {path}")]
    File {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It was written by a newer program.
    #[error(
        "the ledger {path} has schema {found}, this program knows {SCHEMA}: run the newer sdwand, or restore a backup of before"
    )]
    Newer {
        /// Its file.
        path: PathBuf,
        /// Its schema.
        found: i64,
    },
    /// A row makes no sense.
    #[error("the ledger {path}: row {row} makes no sense: restore a backup with `sdwand ledger restore`")]
    Row {
        /// Its file.
        path: PathBuf,
        /// Which row.
        row: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The mark beside it can't be read or written.
    #[error("the ledger's mark {path}")]
    Mark {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The audit's chain is broken.
    #[error("the ledger {path}")]
    Chain {
        /// Its file.
        path: PathBuf,
        /// Where.
        #[source]
        source: ChainError,
    },
}

/// A transaction didn't happen.
#[derive(Debug)]
pub enum Aborted<E> {
    /// The caller said so: nothing was written.
    ByCaller(E),
    /// The ledger couldn't be written: nothing is in force.
    ByLedger(LedgerError),
}

/// The ledger. Shared by everyone who answers requests.
pub struct Ledger {
    path: PathBuf,
    writer: Mutex<Writer>,
    book: RwLock<Book>,
    stops: watch::Sender<()>,
    /// One copy is made at a time.
    copying: Mutex<()>,
    /// One chain is recomputed at a time.
    verifying: Mutex<()>,
    starts: u64,
    doubt: Option<&'static str>,
    tell: OnceLock<Tell>,
}

/// Who is told what happened, and to which peer, once it is in force.
pub type Tell = fn(&Happening, Option<&Peer>);

struct Writer {
    connection: Connection,
    head: Head,
    epoch: u64,
    /// None for a ledger that isn't in its place yet.
    mark: Option<MarkFile>,
    fuse: Fuse,
}

impl Writer {
    /// Brings the mark up to the ledger.
    fn keep_mark(&mut self) -> std::io::Result<()> {
        let now = Mark {
            epoch: self.epoch,
            head: self.head,
        };
        let Some(mark) = &mut self.mark else {
            return Ok(());
        };
        if mark.found == Found::Mark(now) {
            return Ok(());
        }
        self.fuse.carry().map_err(std::io::Error::other)?;
        mark.write(now)?;
        self.fuse.carry().map_err(std::io::Error::other)
    }
}

/// Where a test lets the power go: at the write, counted from now, at which it blows. Elsewhere it never does.
#[derive(Default)]
struct Fuse(Option<usize>);

impl Fuse {
    fn carry(&mut self) -> rusqlite::Result<()> {
        match &mut self.0 {
            None => Ok(()),
            Some(0) => Err(rusqlite::Error::InvalidQuery),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens the ledger, and makes it if there is none. One that was put back, as the mark beside it shows, is in force as
    /// after a restore: nothing of it is active.
    ///
    /// # Errors
    /// It can't be read or written, or is newer than this program.
    pub fn open(path: &Path, wall: Moment) -> Result<Self, LedgerError> {
        Self::open_with(path, wall, Fuse::default())
    }

    fn open_with(path: &Path, wall: Moment, fuse: Fuse) -> Result<Self, LedgerError> {
        let sql = sql_error(path);
        let connection = connect(path)?;
        let number = |key: &str| -> Result<Option<u64>, LedgerError> {
            let text = meta(&connection, key).map_err(&sql)?;
            Ok(text.and_then(|text| text.parse().ok()))
        };
        let mark_path = mark_path(path);
        let mark = MarkFile::open(&mark_path).map_err(mark_error(&mark_path))?;
        let book = read_book(&connection, path)?;
        let (marked, starts) = (number("marked")?.is_some(), number("starts")?.unwrap_or(0));
        let (at_mark, before) = match mark.found {
            Found::Mark(mark) => (
                audit::hash_at(&connection, mark.head.sequence).map_err(&sql)?,
                mark.epoch,
            ),
            Found::Nothing | Found::Damaged => (None, 0),
        };
        let doubt = mark::doubt(mark.found, marked, book.epoch, at_mark);
        let writer = Writer {
            head: book.head,
            epoch: book.epoch,
            mark: Some(mark),
            fuse,
            connection,
        };
        let ledger = Self {
            path: path.to_owned(),
            writer: Mutex::new(writer),
            copying: Mutex::default(),
            verifying: Mutex::default(),
            starts: starts + 1,
            doubt,
            tell: OnceLock::new(),
            book: RwLock::new(book),
            stops: watch::Sender::default(),
        };
        if let Some(why) = doubt {
            ledger.distrust(wall, before, Cause::Restored(why))?;
        }
        ledger.begin()?;
        Ok(ledger)
    }

    /// Begins a new epoch, later than `before`. The mark follows: whoever is cut off before it does it again.
    fn distrust(&self, wall: Moment, before: u64, cause: Cause<'_>) -> Result<(), LedgerError> {
        let epoch = before.max(self.read(Book::epoch)) + 1;
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.transact_with(&mut writer, wall, |draft| {
            distrust::distrust(draft, epoch, cause);
            Ok::<_, std::convert::Infallible>(())
        });
        match outcome {
            Ok(()) => Ok(()),
            Err(Aborted::ByLedger(error)) => Err(error),
            Err(Aborted::ByCaller(never)) => match never {},
        }
    }

    /// The mark first: a ledger that says that it has one, has one.
    fn begin(&self) -> Result<(), LedgerError> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.keep_mark(&mut writer)?;
        let sql = sql_error(&self.path);
        let note = "INSERT INTO meta (key, value) VALUES ('starts', ?1), ('marked', '1')
             ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        writer.fuse.carry().map_err(&sql)?;
        writer
            .connection
            .execute(note, [self.starts.to_string()])
            .map_err(&sql)?;
        writer.fuse.carry().map_err(&sql)
    }

    fn keep_mark(&self, writer: &mut Writer) -> Result<(), LedgerError> {
        writer.keep_mark().map_err(mark_error(&mark_path(&self.path)))
    }

    /// Why the ledger wasn't believed when it was opened, if it wasn't: a new epoch has begun.
    #[must_use]
    pub const fn doubt(&self) -> Option<&'static str> {
        self.doubt
    }

    /// Has `tell` told of whatever is noted from now on, in its order. It is called while nothing else can be written, so
    /// it must be quick, and mustn't come back here. A second call changes nothing.
    pub fn tell(&self, tell: Tell) {
        let _ = self.tell.set(tell);
    }

    /// How often the ledger was opened, this time included.
    #[must_use]
    pub const fn starts(&self) -> u64 {
        self.starts
    }

    /// Changes whenever a peer that might call no longer may: once the book says so.
    #[must_use]
    pub fn stops(&self) -> watch::Receiver<()> {
        self.stops.subscribe()
    }

    /// Looks something up.
    pub fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.book.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes something: all that `change` does, or nothing.
    ///
    /// # Errors
    /// `change` refused, or the ledger couldn't be written.
    pub fn transact<T, E>(
        &self,
        wall: Moment,
        change: impl FnOnce(&mut Draft<'_>) -> Result<T, E>,
    ) -> Result<T, Aborted<E>> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // What was committed and not marked is in force here, but nobody builds on it before it is.
        self.keep_mark(&mut writer).map_err(Aborted::ByLedger)?;
        self.transact_with(&mut writer, wall, change)
    }

    /// What `look` sees of a transaction that it would change something in. Nothing is written, and nobody waits.
    pub fn rehearse<T>(&self, wall: Moment, look: impl FnOnce(&mut Draft<'_>) -> T) -> T {
        self.read(|book| look(&mut Draft::new(book, wall)))
    }

    fn transact_with<T, E>(
        &self,
        writer: &mut Writer,
        wall: Moment,
        change: impl FnOnce(&mut Draft<'_>) -> Result<T, E>,
    ) -> Result<T, Aborted<E>> {
        // Only writers change the book, and this is the only one.
        let before = self.book.read().unwrap_or_else(PoisonError::into_inner);
        let mut draft = Draft::new(&before, wall);
        let outcome = change(&mut draft).map_err(Aborted::ByCaller)?;
        let (now, mut changes) = (draft.now(), draft.changes);
        drop(before);
        let written = write(writer, &changes, now).map_err(sql_error(&self.path));
        let written = written.and_then(|head| {
            writer.head = head;
            writer.epoch = changes.epoch.unwrap_or(writer.epoch);
            self.keep_mark(writer)
        });
        match written {
            Ok(()) => {
                let happenings = std::mem::take(&mut changes.happenings);
                let stops = self.book.write().unwrap_or_else(PoisonError::into_inner).absorb(
                    changes,
                    writer.head,
                    now,
                );
                if stops {
                    self.stops.send_replace(());
                }
                self.tell_of(&happenings);
                Ok(outcome)
            }
            Err(error) => {
                // Whether it got to the disk all the same, the disk knows.
                self.read_again(writer).map_err(Aborted::ByLedger)?;
                Err(Aborted::ByLedger(error))
            }
        }
    }

    fn tell_of(&self, happenings: &[Happening]) {
        let Some(tell) = self.tell.get() else {
            return;
        };
        for happening in happenings {
            let peer = happening
                .peer
                .and_then(|id| self.read(|book| book.peer(&id).cloned()));
            tell(happening, peer.as_deref());
        }
    }

    fn read_again(&self, writer: &mut Writer) -> Result<(), LedgerError> {
        let book = read_book(&writer.connection, &self.path)?;
        (writer.head, writer.epoch) = (book.head, book.epoch);
        *self.book.write().unwrap_or_else(PoisonError::into_inner) = book;
        self.stops.send_replace(());
        Ok(())
    }

    /// The last records of the audit, oldest first.
    ///
    /// # Errors
    /// It can't be read.
    pub fn audit_tail(&self, count: usize) -> Result<Vec<AuditRecord>, LedgerError> {
        self.audit_tail_of(None, count)
    }

    /// The last records of the audit, oldest first; of one peer, or of all.
    ///
    /// # Errors
    /// It can't be read.
    pub fn audit_tail_of(&self, peer: Option<PeerId>, count: usize) -> Result<Vec<AuditRecord>, LedgerError> {
        let peer = peer.map(|peer| peer.to_string());
        self.reader()
            .and_then(|reader| audit::tail(&reader, peer.as_deref(), count))
            .map_err(sql_error(&self.path))
    }

    /// Recomputes the whole chain; one at a time, and nobody who writes waits for it.
    ///
    /// # Errors
    /// It can't be read, or a record was changed, removed or put in.
    pub fn audit_verify(&self) -> Result<Head, LedgerError> {
        let _turn = self.verifying.lock().unwrap_or_else(PoisonError::into_inner);
        let sql = sql_error(&self.path);
        let verified = self
            .reader()
            .and_then(|reader| audit::verify(&reader))
            .map_err(sql)?;
        verified.map_err(|source| LedgerError::Chain {
            path: self.path.clone(),
            source,
        })
    }

    /// The hash of an audit record; none where there is none.
    ///
    /// # Errors
    /// It can't be read.
    pub fn audit_hash(&self, sequence: i64) -> Result<Option<[u8; 32]>, LedgerError> {
        self.reader()
            .and_then(|reader| audit::hash_at(&reader, sequence))
            .map_err(sql_error(&self.path))
    }

    /// A connection for a long look, beside the writer's: it sees what was committed when it begins.
    fn reader(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags(&self.path, flags)
    }

    /// Where the audit's chain ends.
    #[must_use]
    pub fn head(&self) -> Head {
        self.read(|book| book.head)
    }
}

fn sql_error(path: &Path) -> impl Fn(rusqlite::Error) -> LedgerError + use<> {
    let path = path.to_owned();
    move |source| LedgerError::Sql {
        path: path.clone(),
        source,
    }
}

/// Where the mark of this ledger is.
fn mark_path(path: &Path) -> PathBuf {
    path.with_file_name("epoch")
}

fn mark_error(path: &Path) -> impl Fn(std::io::Error) -> LedgerError + use<> {
    let path = path.to_owned();
    move |source| LedgerError::Mark {
        path: path.clone(),
        source,
    }
}

/// Opens the file, makes it if there is none, and carries it over to this program's schema.
fn connect(path: &Path) -> Result<Connection, LedgerError> {
    let sql = sql_error(path);
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // Its user's alone from the first byte on; SQLite gives what it makes beside it the same mode.
    let made = std::fs::File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path);
    made.map_err(|source| LedgerError::File {
        path: path.to_owned(),
        source,
    })?;
    let mut connection = Connection::open_with_flags(path, flags).map_err(&sql)?;
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;")
        .map_err(&sql)?;
    let found = schema_of(&connection, path)?;
    if found < SCHEMA {
        let transaction = connection.transaction().map_err(&sql)?;
        for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
            transaction.execute_batch(step).map_err(&sql)?;
        }
        transaction
            .pragma_update(None, "user_version", SCHEMA)
            .map_err(&sql)?;
        transaction.commit().map_err(&sql)?;
    }
    Ok(connection)
}

/// The version of the file's schema, if this program knows it.
fn schema_of(connection: &Connection, path: &Path) -> Result<i64, LedgerError> {
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(sql_error(path))?;
    if found > SCHEMA {
        return Err(LedgerError::Newer {
            path: path.to_owned(),
            found,
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
