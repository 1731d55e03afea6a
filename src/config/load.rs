//! From disk: `sdwand.toml`, the folder of fragments, the private key. Reads only regular files, and never more of one
//! than its limit.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use super::diag::{DiagnosticKind, Diagnostics, Notice};
use super::document::{MAX_FILE_BYTES, MAX_FLEET_BYTES, MAX_FRAGMENTS};
use super::fleet::{ParsedFleet, Session};
use super::keys::read_private_key;
use crate::model::check;
use crate::model::host::HostConfig;
use crate::model::{Fleet, PrivateKey};

/// The most entries of a fleet folder that are looked at, fragments or not.
const MAX_ENTRIES: usize = 65_536;

/// A configuration without errors.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// This host.
    pub host: HostConfig,
    /// The site.
    pub fleet: Fleet,
    /// This node's key.
    pub private_key: PrivateKey,
    /// The fragments as they were read, with their paths.
    pub fragments: Vec<(PathBuf, String)>,
    /// What is worth knowing: tables that aren't applied yet, rules that match nothing.
    pub notices: Vec<Notice>,
}

/// Why a file can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refuses.
    #[error("can't be read: {0}")]
    Io(#[from] std::io::Error),
    /// It is a folder, a pipe, a device or a socket.
    #[error("is {0}, not a regular file")]
    NotRegular(&'static str),
    /// It is larger than it may be.
    #[error("is larger than {0} bytes")]
    TooLarge(usize),
    /// It isn't text.
    #[error("isn't UTF-8 text: byte {0} is wrong")]
    NotUtf8(usize),
}

/// Opens a regular file without waiting for anyone (a pipe's writer, a tape); its permission bits come along.
pub(super) fn open_regular(path: &Path) -> Result<(File, u32), ReadError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(std::io::Error::from)?);
    let stat = rustix::fs::fstat(&file).map_err(std::io::Error::from)?;
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok((file, Mode::from_raw_mode(stat.st_mode).bits())),
        FileType::Directory => "a folder",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Symlink | FileType::Unknown => "something else",
    };
    Err(ReadError::NotRegular(what))
}

/// Reads a file up to a limit.
pub(super) fn read_limited(file: File, limit: usize) -> Result<Vec<u8>, ReadError> {
    let too_large = || ReadError::TooLarge(limit);
    let size = usize::try_from(file.metadata()?.len()).map_err(|_| too_large())?;
    if size > limit {
        return Err(too_large());
    }
    // A file may grow while it is read, and files under /proc have no size.
    let mut bytes = Vec::with_capacity(size + 1);
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(too_large());
    }
    Ok(bytes)
}

fn read_text(path: &Path) -> Result<String, ReadError> {
    let (file, _) = open_regular(path)?;
    String::from_utf8(read_limited(file, MAX_FILE_BYTES)?)
        .map_err(|error| ReadError::NotUtf8(error.utf8_error().valid_up_to() + 1))
}

impl Session {
    fn unreadable(&mut self, path: &Path, error: &ReadError, hint: Option<&str>) {
        let kind = match error {
            ReadError::TooLarge(_) => DiagnosticKind::Limit,
            ReadError::Io(_) | ReadError::NotRegular(_) | ReadError::NotUtf8(_) => DiagnosticKind::Unreadable,
        };
        let hint = match error {
            ReadError::TooLarge(_) => Some("split the fleet into several fragments"),
            ReadError::Io(_) | ReadError::NotRegular(_) | ReadError::NotUtf8(_) => hint,
        };
        self.outside(kind, path, format!("this {error}"), hint);
    }
}

impl Session {
    fn read_key(&mut self, path: &Path) -> Option<PrivateKey> {
        match read_private_key(path) {
            Ok(key) => Some(key),
            Err(error) => {
                let (message, hint) = (format!("the private key: {error}"), error.hint(path));
                self.outside(DiagnosticKind::PrivateKey, path, message, Some(&hint));
                None
            }
        }
    }
}

/// The fragments of a folder that can be read, and what is wrong with the others.
#[derive(Default)]
struct Folder {
    fragments: Vec<(PathBuf, String)>,
    errors: Vec<(PathBuf, ReadError)>,
    /// A limit that the folder exceeds.
    excess: Option<String>,
}

/// Whether a file of the folder is a fragment: `*.toml`, neither hidden nor an editor's leftover.
#[must_use]
pub fn is_fragment(path: &Path) -> bool {
    let name = path.file_name().map_or(&b""[..], |name| name.as_bytes());
    name.ends_with(b".toml")
        && !name.starts_with(b".")
        && !name.starts_with(b"#")
        && name.len() > b".toml".len()
}

fn read_folder(dir: &Path) -> Folder {
    let mut folder = Folder::default();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            folder.errors.push((dir.to_owned(), error.into()));
            return folder;
        }
    };
    let mut paths = Vec::new();
    for (count, entry) in entries.enumerate() {
        match entry {
            Ok(entry) if is_fragment(&entry.path()) => paths.push(entry.path()),
            Ok(_) => {}
            Err(error) => {
                folder.errors.push((dir.to_owned(), error.into()));
                break;
            }
        }
        if paths.len() > MAX_FRAGMENTS || count >= MAX_ENTRIES {
            folder.excess = Some(format!(
                "the folder has more than {MAX_FRAGMENTS} fragments or {MAX_ENTRIES} entries"
            ));
            return folder;
        }
    }
    paths.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    let mut total = 0;
    for path in paths {
        match read_text(&path) {
            Ok(text) => {
                total += text.len();
                if total > MAX_FLEET_BYTES {
                    folder.excess = Some(format!(
                        "the fragments have more than {MAX_FLEET_BYTES} bytes together"
                    ));
                    return folder;
                }
                folder.fragments.push((path, text));
            }
            Err(error) => folder.errors.push((path, error)),
        }
    }
    folder
}

/// Reads a folder; `None` where there is no fleet to check.
fn read_fleet(session: &mut Session, dir: &Path) -> (Option<Fleet>, Vec<(PathBuf, String)>) {
    read_fragments(session, dir, read_folder(dir))
}

fn read_fragments(
    session: &mut Session,
    dir: &Path,
    folder: Folder,
) -> (Option<Fleet>, Vec<(PathBuf, String)>) {
    if let Some(excess) = &folder.excess {
        session.outside(DiagnosticKind::Limit, dir, excess.clone(), None);
        return (None, Vec::new());
    }
    for (path, error) in &folder.errors {
        let hint = (path == dir).then_some("`sdwand init` makes one; [fleet] dir in sdwand.toml names it");
        session.unreadable(path, error, hint);
        session.incomplete();
    }
    let fragments = folder
        .fragments
        .iter()
        .map(|(path, text)| (path.as_path(), text.as_str()));
    (session.read_fleet(fragments, dir), folder.fragments)
}

/// Reads and checks the fleet of a folder, for any node and without a key.
///
/// # Errors
/// Everything that is wrong in any fragment, at once.
pub fn load_fleet(dir: &Path) -> Result<ParsedFleet, Diagnostics> {
    let mut session = Session::default();
    let (fleet, _) = read_fleet(&mut session, dir);
    session.finish(fleet)
}

/// The same as if `path`, in that folder, held `text`, or weren't there.
///
/// # Errors
/// Everything that would be wrong in any fragment, at once.
pub(super) fn load_fleet_with(
    dir: &Path,
    path: &Path,
    text: Option<&str>,
) -> Result<ParsedFleet, Diagnostics> {
    let mut folder = read_folder(dir);
    folder.fragments.retain(|(other, _)| other != path);
    if let Some(text) = text {
        folder.fragments.push((path.to_owned(), text.to_owned()));
        folder
            .fragments
            .sort_by(|(a, _), (b, _)| a.file_name().cmp(&b.file_name()));
    }
    let mut session = Session::default();
    let (fleet, _) = read_fragments(&mut session, dir, folder);
    session.finish(fleet)
}

/// Reads `sdwand.toml` alone, without its fleet and its key.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load_host(path: &Path) -> Result<(HostConfig, Vec<Notice>), Diagnostics> {
    match read_text(path) {
        Ok(text) => super::host::parse_host(path, &text),
        Err(error) => {
            let mut session = Session::default();
            session.unreadable(path, &error, Some(NO_HOST_HINT));
            Err(session.into_diagnostics())
        }
    }
}

/// What can be read of `sdwand.toml`, with every default for the rest and a node called `unknown` where it doesn't say;
/// and what is wrong with it. For what must work whatever a file says, as `down` must.
#[must_use]
pub fn load_host_anyway(path: &Path) -> (HostConfig, Option<Diagnostics>) {
    let mut session = Session::default();
    let read = match read_text(path) {
        Ok(text) => session.read_host(path, &text).map(|read| read.host),
        Err(error) => {
            session.unreadable(path, &error, Some(NO_HOST_HINT));
            None
        }
    };
    let host = read.unwrap_or_else(|| {
        let nameless = "format = 1\nnode = \"unknown\"\n";
        let read = Session::default().read_host(Path::new("/etc/sdwand/sdwand.toml"), nameless);
        read.expect("a document with a node has a host").host
    });
    let found = session.has_errors().then(|| session.into_diagnostics());
    (host, found)
}

const NO_HOST_HINT: &str = "`sdwand init` writes one; --config names another place";

/// Reads and checks everything that this host goes by: `sdwand.toml`, its fleet, its private key.
///
/// # Errors
/// Everything that is wrong, in any file, at once. A private key that isn't this node's is an error of its own kind:
/// [`Diagnostics::is_key_mismatch`] tells whether it is all that is wrong.
pub fn load(path: &Path) -> Result<Loaded, Diagnostics> {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) => {
            let mut session = Session::default();
            session.unreadable(path, &error, Some(NO_HOST_HINT));
            return Err(session.into_diagnostics());
        }
    };
    let mut session = Session::default();
    let Some(read) = session.read_host(path, &text) else {
        // Without a sound document it isn't known which fleet and which node are meant.
        return Err(session.into_diagnostics());
    };
    let host = read.host;
    let is_host_sound = !session.has_errors();
    let private_key = if read.knows_key {
        session.read_key(&host.private_key_file)
    } else {
        None
    };
    let (fleet, fragments) = if read.knows_fleet {
        read_fleet(&mut session, &host.fleet_dir)
    } else {
        (None, Vec::new())
    };
    if let Some(fleet) = &fleet
        && is_host_sound
    {
        let public = private_key.as_ref().map(PrivateKey::public);
        session.report(check::check_host(&host, fleet, public), fleet);
    }
    let parsed = session.finish(fleet)?;
    let private_key = private_key.expect("a session without errors read the key");
    Ok(Loaded {
        host,
        fleet: parsed.fleet,
        private_key,
        fragments,
        notices: parsed.notices,
    })
}
