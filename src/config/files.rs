//! The texts of a configuration, and places in them: from byte offsets to lines, columns and what a terminal may see.

use std::cell::OnceCell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::diag::{Diagnostic, DiagnosticKind, Notice, Related};

/// The most characters of a source line that a diagnostic quotes.
const EXCERPT: usize = 160;

/// A place in one of the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    /// Which file, as an index into [`Files`].
    pub file: u32,
    /// The first byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

/// An error on its way to a [`Diagnostic`].
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub kind: DiagnosticKind,
    pub spot: Spot,
    pub object: Option<String>,
    pub message: String,
    pub hint: Option<String>,
    pub related: Vec<(Spot, String)>,
}

/// The texts that places refer to.
#[derive(Debug, Default)]
pub(super) struct Files(Vec<File>);

#[derive(Debug)]
pub(super) struct File {
    pub path: PathBuf,
    pub text: Rc<str>,
    line_starts: OnceCell<Vec<usize>>,
}

impl Files {
    /// Adds a file; its number goes into every [`Spot`] of it.
    pub fn add(&mut self, path: &Path, text: Rc<str>) -> u32 {
        let number = u32::try_from(self.0.len()).expect("files are limited in number");
        let line_starts = OnceCell::new();
        self.0.push(File {
            path: path.to_owned(),
            text,
            line_starts,
        });
        number
    }

    /// The number of the file that was added last.
    pub fn last(&self) -> u32 {
        number(self.0.len() - 1)
    }

    pub fn get(&self, number: u32) -> &File {
        &self.0[number as usize]
    }

    /// The diagnostic of a problem.
    pub fn diagnose(&self, problem: Problem) -> Diagnostic {
        let file = self.get(problem.spot.file);
        let (line, column, content) = file.position(problem.spot.start as usize);
        let width = (problem.spot.end.saturating_sub(problem.spot.start) as usize).max(1);
        let (source, marked) = excerpt(content, column, width);
        let related = problem.related.into_iter().map(|(spot, message)| {
            let file = self.get(spot.file);
            let (line, column, _) = file.position(spot.start as usize);
            Related {
                file: file.path.clone(),
                line: number(line + 1),
                column: number(column + 1),
                message,
            }
        });
        Diagnostic {
            kind: problem.kind,
            file: file.path.clone(),
            line: number(line + 1),
            column: number(column + 1),
            object: problem.object,
            message: problem.message,
            source,
            marked,
            hint: problem.hint,
            related: related.collect(),
        }
    }

    /// The notice at a place.
    pub fn notice(&self, spot: Spot, object: Option<String>, message: String) -> Notice {
        let file = self.get(spot.file);
        let (line, _, _) = file.position(spot.start as usize);
        Notice {
            file: file.path.clone(),
            line: number(line + 1),
            object,
            message,
        }
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl File {
    /// The line and the column (in characters) of a byte, both from 0, and the line's text.
    fn position(&self, at: usize) -> (usize, usize, &str) {
        let starts = self.line_starts.get_or_init(|| {
            let newlines = self.text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
            std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect()
        });
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let mut line = starts.partition_point(|start| *start <= at) - 1;
        // The end of the text is the end of its last line, not an empty line behind it.
        if line > 0 && at == self.text.len() && starts[line] == at {
            line -= 1;
            at = starts[line + 1] - 1;
        }
        let end = starts.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let content = &self.text[starts[line]..end];
        (
            line,
            self.text[starts[line]..at.min(end)].chars().count(),
            content.trim_end_matches('\r'),
        )
    }
}

/// A line as a diagnostic shows it, and which characters of it are meant: `width` bytes from character `column`.
fn excerpt(line: &str, column: usize, width: usize) -> (String, Range<usize>) {
    let rest: String = line.chars().skip(column).collect();
    let mut boundary = width.min(rest.len());
    while !rest.is_char_boundary(boundary) {
        boundary += 1;
    }
    let marked = rest[..boundary].chars().count();
    let from = column.saturating_sub(EXCERPT / 2);
    let hidden_from = secret_start(line).unwrap_or(usize::MAX);
    let shown = line
        .chars()
        .enumerate()
        .skip(from)
        .take(EXCERPT)
        .map(|(at, c)| match c {
            _ if at >= hidden_from && c != ' ' => '·',
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        });
    let text: String = shown.collect();
    let start = (column - from).min(text.chars().count());
    let end = (start + marked).min(text.chars().count());
    (text.trim_end().to_owned(), start..end)
}

/// From which character on a line holds what may be a secret: a key that the format doesn't have, but people try.
fn secret_start(line: &str) -> Option<usize> {
    let (key, _) = line.split_once('=')?;
    let name = key.to_ascii_lowercase();
    let secret = ["private", "secret", "preshared", "psk", "password", "token"];
    let is_file = name.trim_end().ends_with("_file") && !looks_like_key(line);
    (secret.iter().any(|word| name.contains(word)) && !is_file).then(|| key.chars().count() + 1)
}

/// Whether a text contains what could be 32 bytes in base64.
pub(super) fn looks_like_key(text: &str) -> bool {
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    text.split(|c: char| !is_base64(c))
        .any(|part| part.trim_start_matches('=').len() == 44 && part.ends_with('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnose(text: &str, range: Range<u32>) -> Diagnostic {
        let mut files = Files::default();
        files.add(Path::new("a.toml"), text.into());
        files.diagnose(Problem {
            kind: DiagnosticKind::Value,
            spot: Spot {
                file: 0,
                start: range.start,
                end: range.end,
            },
            object: None,
            message: "wrong".to_owned(),
            hint: Some("right".to_owned()),
            related: Vec::new(),
        })
    }

    #[test]
    fn looks_like_rustc() {
        let text = diagnose("a = 1\nbc = 23\n", 11..13).to_string();
        assert_eq!(
            text,
            "error: wrong\n --> a.toml:2:6\n  |\n2 | bc = 23\n  |      ^^\n  = help: right\n"
        );
    }

    #[test]
    fn columns_are_characters_and_carets_stand_under_wide_ones() {
        let text = "名 = \"ü\" # x";
        let at = u32::try_from(text.find('x').unwrap()).unwrap();
        let diagnostic = diagnose(text, at..at + 1);
        assert_eq!((diagnostic.line, diagnostic.column), (1, 11));
        let shown = diagnostic.to_string();
        let carets = shown.lines().find(|line| line.contains('^')).unwrap();
        assert_eq!(carets, "  |            ^");
    }

    #[test]
    fn the_end_of_the_text_has_a_place() {
        for text in ["", "a", "a\n", "a\n\n", "ü"] {
            let end = u32::try_from(text.len()).unwrap();
            let diagnostic = diagnose(text, end..end);
            assert!(diagnostic.line >= 1 && diagnostic.column >= 1, "{text:?}");
            assert!(diagnostic.to_string().contains('^'));
        }
    }

    #[test]
    fn long_lines_are_cut_and_control_characters_do_not_reach_the_terminal() {
        let text = format!("a = \"{}\u{1b}[31mX{}\"", "y".repeat(50_000), "z".repeat(50_000));
        let at = u32::try_from(text.find('X').unwrap()).unwrap();
        let diagnostic = diagnose(&text, at..at + 1);
        assert!(diagnostic.source.chars().count() <= EXCERPT);
        assert!(!diagnostic.source.contains('\u{1b}'));
        let marked: String = diagnostic
            .source
            .chars()
            .skip(diagnostic.marked.start)
            .take(1)
            .collect();
        assert_eq!(marked, "X");
    }

    #[test]
    fn secrets_are_masked() {
        let key = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
        for line in [
            format!("private_key = \"{key}\""),
            format!("private_key_file = \"{key}\""),
            format!("  psk= '{key}'"),
        ] {
            assert!(!diagnose(&line, 0..3).to_string().contains("FsFyUb"), "{line}");
        }
        let public = format!("public_key = \"{key}\"");
        assert!(diagnose(&public, 0..3).to_string().contains("FsFyUb"));
        assert!(
            diagnose("private_key_file = \"/etc/x\"", 0..3)
                .to_string()
                .contains("/etc/x")
        );
    }
}
