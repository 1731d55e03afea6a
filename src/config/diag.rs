//! What is wrong with a configuration, where, and what to do about it: every error at once, in the form of `rustc`.
//!
//! ```text
//! error: unknown key "nmae"
//!   --> /etc/sdwand/fleet.d/10-prod.toml:12:1
//!    |
//! 12 | nmae = "web-to-db"
//!    | ^^^^
//!    = help: did you mean "name"?
//! ```

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The most diagnostics that are kept; one more says that there are others.
pub const MAX_DIAGNOSTICS: usize = 1_000;

/// What sort of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DiagnosticKind {
    /// A file or folder can't be read.
    Unreadable,
    /// A limit of size, number or depth is exceeded.
    Limit,
    /// The text is no TOML.
    Syntax,
    /// A key that the format doesn't have.
    UnknownKey,
    /// A key that must be there isn't.
    MissingKey,
    /// A value of the wrong type, or out of its range.
    Value,
    /// A name that is given twice.
    Duplicate,
    /// Objects that contradict each other.
    Contradiction,
    /// The private key file is missing, unsafe or no key.
    PrivateKey,
    /// The private key isn't the one the fleet gives this node.
    KeyMismatch,
}

/// Another place that a diagnostic is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Related {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// What is there.
    pub message: String,
}

/// One error, with its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// What sort of error.
    pub kind: DiagnosticKind,
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 where the file as a whole is meant.
    pub line: u32,
    /// The column in characters, from 1; 0 where the file as a whole is meant.
    pub column: u32,
    /// The object, like `networks.prod.rules.web-to-db`.
    pub object: Option<String>,
    /// What is wrong.
    pub message: String,
    /// The line, or a window of a long one; control characters and secrets are masked.
    pub source: String,
    /// Where in `source` the offending text is, in characters from 0.
    pub marked: Range<usize>,
    /// What to do.
    pub hint: Option<String>,
    /// Other places that it is about.
    pub related: Vec<Related>,
}

impl Diagnostic {
    /// An error of a file or folder as a whole.
    pub(super) fn of_file(kind: DiagnosticKind, file: &Path, message: String, hint: Option<&str>) -> Self {
        Self {
            kind,
            file: file.to_owned(),
            line: 0,
            column: 0,
            object: None,
            message,
            source: String::new(),
            marked: 0..0,
            hint: hint.map(str::to_owned),
            related: Vec::new(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.message)?;
        let number = if self.line == 0 {
            String::new()
        } else {
            self.line.to_string()
        };
        let pad = number.len();
        if self.line == 0 {
            writeln!(f, "{:pad$} --> {}", "", self.file.display())?;
        } else {
            writeln!(
                f,
                "{:pad$}--> {}:{}:{}",
                "",
                self.file.display(),
                self.line,
                self.column
            )?;
            writeln!(f, "{:pad$} |", "")?;
            writeln!(f, "{number} | {}", self.source)?;
            let columns = |range: Range<usize>| -> usize {
                self.source
                    .chars()
                    .skip(range.start)
                    .take(range.len())
                    .map(display_width)
                    .sum()
            };
            let before = columns(0..self.marked.start);
            let carets = columns(self.marked.clone()).max(1);
            writeln!(f, "{:pad$} | {:before$}{:^<carets$}", "", "", "")?;
        }
        for related in &self.related {
            let at = related.file.display();
            writeln!(
                f,
                "{:pad$} = note: {} at {at}:{}:{}",
                "", related.message, related.line, related.column
            )?;
        }
        if let Some(hint) = &self.hint {
            writeln!(f, "{:pad$} = help: {hint}", "")?;
        }
        Ok(())
    }
}

/// Columns that a terminal gives a character: 2 for East Asian wide ones and emoji, 0 for combining ones (a coarse
/// reading of UAX #11, enough to put a caret in the right place).
fn display_width(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// Every error of a configuration, sorted by file and line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(transparent)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    pub(super) fn new(mut all: Vec<Diagnostic>) -> Self {
        all.sort_by(|a, b| {
            let key = |d: &Diagnostic| (d.line, d.column);
            a.file
                .cmp(&b.file)
                .then(key(a).cmp(&key(b)))
                .then(a.message.cmp(&b.message))
        });
        all.dedup();
        if all.len() > MAX_DIAGNOSTICS {
            all.truncate(MAX_DIAGNOSTICS);
            let last = &all[MAX_DIAGNOSTICS - 1];
            let message = format!("there are more errors than these {MAX_DIAGNOSTICS}");
            let more = Diagnostic::of_file(DiagnosticKind::Limit, &last.file, message, None);
            all.push(more);
        }
        Self(all)
    }

    /// The errors in their order.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// The first, in a line: its file, its line where it has one, and what is wrong.
    #[must_use]
    pub fn first(&self) -> String {
        let Some(first) = self.0.first() else {
            return String::new();
        };
        let file = first.file.display();
        match first.line {
            0 => format!("{file}: {}", first.message),
            line => format!("{file}:{line}: {}", first.message),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all that is wrong is that the private key isn't this node's: then the fleet itself is sound, and the
    /// WireGuard plane is blocked until either is corrected.
    #[must_use]
    pub fn is_key_mismatch(&self) -> bool {
        !self.is_empty() && self.0.iter().all(|d| d.kind == DiagnosticKind::KeyMismatch)
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.0 {
            writeln!(f, "{diagnostic}")?;
        }
        match self.len() {
            1 => f.write_str("1 error\n"),
            many => writeln!(f, "{many} errors"),
        }
    }
}

/// Something worth knowing that stops nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Notice {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u32,
    /// The object, like `networks.prod.rules.web-to-db`.
    pub object: Option<String>,
    /// What to know.
    pub message: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}:{}", self.message, self.file.display(), self.line)
    }
}
