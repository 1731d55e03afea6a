//! From text to a spanned TOML tree, inside limits.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

/// The most bytes of one file. A fleet of 10,000 nodes, all in one network, is a fragment of about 3 MB.
pub const MAX_FILE_BYTES: usize = 8 << 20;

/// The most bytes of all fragments together.
pub const MAX_FLEET_BYTES: usize = 32 << 20;

/// The most fragments.
pub const MAX_FRAGMENTS: usize = 4_096;

/// How deep arrays and inline tables may nest, and how many parts a dotted key may have.
pub const MAX_DEPTH: usize = 16;

/// The most tokens of one file: bounds the memory of its tree, whatever its bytes are.
const MAX_TOKENS: usize = 2_000_000;

/// Up to how many tokens a broken file is read on behind its first error.
const MAX_RECOVERABLE_TOKENS: usize = 100_000;

/// The most syntax errors that are reported of one file.
const MAX_SYNTAX_ERRORS: usize = 5;

/// Something that keeps a text from being read.
#[derive(Debug)]
pub(super) struct Flaw {
    pub is_limit: bool,
    /// Whether what stands behind it means what it seems to.
    pub is_harmless: bool,
    pub span: Range<usize>,
    pub message: String,
    pub hint: Option<String>,
}

/// Parses a text.
///
/// The tree is what could be read, also where there are flaws: what stands before the first of them is as the author
/// meant it.
pub(super) fn parse(text: &str) -> (DeTable<'_>, Vec<Flaw>) {
    let tokens = match within_limits(text) {
        Ok(tokens) => tokens,
        Err(flaw) => return (DeTable::new(), vec![flaw]),
    };
    // Recovery makes up to one error for each token: affordable for small files only.
    let (tree, errors) = if tokens <= MAX_RECOVERABLE_TOKENS {
        DeTable::parse_recoverable(text)
    } else {
        match DeTable::parse(text) {
            Ok(tree) => (tree, Vec::new()),
            Err(error) => (Spanned::new(0..0, DeTable::new()), vec![error]),
        }
    };
    let mut flaws: Vec<Flaw> = Vec::new();
    let mut line_end = 0;
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        // One slip often makes several errors: the first of a line says it.
        if !flaws.is_empty() && span.start <= line_end {
            continue;
        }
        let newline = text.as_bytes().iter().skip(span.start).position(|b| *b == b'\n');
        line_end = newline.map_or(text.len(), |at| span.start + at);
        flaws.push(flaw(text, span, error.message().trim()));
        if flaws.len() == MAX_SYNTAX_ERRORS {
            break;
        }
    }
    (tree.into_inner(), flaws)
}

/// A syntax error in the parser's words, or in ours where those mislead.
fn flaw(text: &str, span: Range<usize>, message: &str) -> Flaw {
    let is_duplicate = message.starts_with("duplicate key");
    let line = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let is_header = text[line..].starts_with('[');
    let offending = text.get(span.clone()).unwrap_or_default().trim();
    let (message, hint) = if is_duplicate && is_header {
        (
            message,
            Some("this table is there already; several objects are [[…]] tables"),
        )
    } else if is_duplicate {
        (message, Some("a key is given once"))
    } else if message.starts_with("string values must be quoted") && offending.is_empty() {
        ("the value is missing", None)
    } else if message.starts_with("string values must be quoted") {
        ("texts stand in quotation marks", None)
    } else {
        (message, None)
    };
    Flaw {
        is_limit: false,
        is_harmless: is_duplicate && !is_header,
        span,
        message: message.to_owned(),
        hint: hint.map(str::to_owned),
    }
}

/// Refuses, before any tree is built, what would make it too deep or too large; otherwise the number of tokens.
fn within_limits(text: &str) -> Result<usize, Flaw> {
    let limit = |span: Range<usize>, message: String, hint: &str| Flaw {
        is_limit: true,
        is_harmless: false,
        span,
        message,
        hint: Some(hint.to_owned()),
    };
    if text.len() > MAX_FILE_BYTES {
        let message = format!("the file has {} bytes, the limit is {MAX_FILE_BYTES}", text.len());
        return Err(limit(0..0, message, "split the fleet into several fragments"));
    }
    let (mut depth, mut dots, mut tokens) = (0_usize, 0_usize, 0);
    for token in Source::new(text).lex() {
        let span = token.span().start()..token.span().end();
        tokens += 1;
        if tokens > MAX_TOKENS {
            let message = format!("the file has more than {MAX_TOKENS} TOML tokens");
            return Err(limit(span, message, "split the fleet into several fragments"));
        }
        match token.kind() {
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => depth += 1,
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => depth = depth.saturating_sub(1),
            TokenKind::Dot => dots += 1,
            TokenKind::Newline | TokenKind::Comma | TokenKind::Equals => dots = 0,
            TokenKind::Whitespace
            | TokenKind::Comment
            | TokenKind::LiteralString
            | TokenKind::BasicString
            | TokenKind::MlLiteralString
            | TokenKind::MlBasicString
            | TokenKind::Atom
            | TokenKind::Eof => {}
        }
        if depth > MAX_DEPTH || dots > MAX_DEPTH {
            let message = format!("nested deeper than {MAX_DEPTH} levels");
            return Err(limit(
                span,
                message,
                "nothing in the format nests that deep: is a bracket left open?",
            ));
        }
    }
    Ok(tokens)
}

/// What a value is, in words.
pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Calls `f` with every table below `table`, and the span that tells it apart.
pub(super) fn for_each_table<'d>(table: &'d DeTable<'d>, f: &mut impl FnMut(Range<usize>, &'d DeTable<'d>)) {
    for value in table.values() {
        visit(value, f);
    }
}

fn visit<'d>(value: &'d Spanned<DeValue<'d>>, f: &mut impl FnMut(Range<usize>, &'d DeTable<'d>)) {
    match value.get_ref() {
        DeValue::Table(table) => {
            f(value.span(), table);
            for_each_table(table, f);
        }
        DeValue::Array(array) => array.iter().for_each(|item| visit(item, f)),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}
