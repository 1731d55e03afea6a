//! A typed cursor over the tables of one TOML tree. Reading never stops at an error: each is noted with its place, and
//! the caller goes on with what it got.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diag::{DiagnosticKind, MAX_DIAGNOSTICS};
use super::document::type_name;
use super::files::{Problem, Spot};
use super::suggest::did_you_mean;

/// A value that a key can have.
pub(super) trait FromToml: Sized {
    /// Reads a value.
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad>;
}

/// Why a value can't be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub message: String,
    pub hint: Option<String>,
}

impl Bad {
    pub fn new(message: impl std::fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            hint: None,
        }
    }

    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    pub fn wrong_type(expected: &str, value: &DeValue<'_>) -> Self {
        Self::new(format!("expected {expected}, found {}", type_name(value)))
    }
}

/// One entry of an array that may have tables and plain values.
pub(super) enum Entry<'a> {
    /// A table.
    Table(Cursor<'a>),
    /// Anything else.
    Value(&'a Spanned<DeValue<'a>>),
}

/// Collects the problems of one file.
#[derive(Debug)]
pub(super) struct Sink {
    file: u32,
    problems: RefCell<Vec<Problem>>,
    count: Cell<usize>,
}

impl Sink {
    pub fn new(file: u32) -> Self {
        Self {
            file,
            problems: RefCell::new(Vec::new()),
            count: Cell::new(0),
        }
    }

    pub fn spot(&self, span: &Range<usize>) -> Spot {
        let number = |at: usize| u32::try_from(at).expect("a file's size is limited");
        Spot {
            file: self.file,
            start: number(span.start),
            end: number(span.end),
        }
    }

    pub fn push(&self, problem: Problem) {
        if self.takes() {
            self.problems.borrow_mut().push(problem);
        }
    }

    /// Counts a problem; `false` where so many have been noted that this one needs no words.
    fn takes(&self) -> bool {
        self.count.set(self.count.get() + 1);
        self.has_room()
    }

    fn has_room(&self) -> bool {
        self.problems.borrow().len() <= MAX_DIAGNOSTICS
    }

    /// How many problems there have been: who compares two counts knows whether a part was sound.
    pub fn count(&self) -> usize {
        self.count.get()
    }

    pub fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// One table.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    table: &'a DeTable<'a>,
    span: Range<usize>,
    /// The table that this one is in, and what it is there.
    up: Option<(&'a Cursor<'a>, &'static str, Option<usize>)>,
    sink: &'a Sink,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Cursor<'a> {
    /// The root table of a file.
    pub fn root(table: &'a DeTable<'a>, sink: &'a Sink) -> Self {
        Self {
            table,
            span: 0..0,
            up: None,
            sink,
            asked: RefCell::default(),
        }
    }

    pub fn sink(&self) -> &'a Sink {
        self.sink
    }

    /// Where the table begins: its header, or all of an inline table.
    pub fn spot(&self) -> Spot {
        self.sink.spot(&self.span)
    }

    /// Whether the key is there, of whatever type.
    pub fn has(&self, key: &'static str) -> bool {
        self.asked.borrow_mut().push(key);
        self.table.contains_key(key)
    }

    /// The place of a key's value, or of the table if the key isn't there.
    pub fn spot_of(&self, key: &str) -> Spot {
        self.sink
            .spot(&self.table.get(key).map_or(self.span.clone(), Spanned::span))
    }

    fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().push(key);
        self.table.get(key)
    }

    /// The value of a key that may be absent.
    pub fn get<T: FromToml>(&self, key: &'static str) -> Option<T> {
        self.read(key, self.value(key)?)
    }

    /// The value of a key that must be there.
    pub fn need<T: FromToml>(&self, key: &'static str) -> Option<T> {
        let value = self.value(key);
        if value.is_none() {
            self.missing(key);
        }
        self.read(key, value?)
    }

    /// The value of a key, or its default.
    pub fn or<T: FromToml>(&self, key: &'static str, default: T) -> T {
        self.get(key).unwrap_or(default)
    }

    /// A number inside a range.
    pub fn within<T: FromToml + PartialOrd + std::fmt::Display + Copy>(
        &self,
        key: &'static str,
        range: &RangeInclusive<T>,
    ) -> Option<T> {
        let number: T = self.get(key)?;
        if range.contains(&number) {
            return Some(number);
        }
        self.fail(
            key,
            Bad::new(format!(
                "{key} is {} to {}, not {number}",
                range.start(),
                range.end()
            )),
        );
        None
    }

    /// A number inside a range that must be there.
    pub fn need_within<T: FromToml + PartialOrd + std::fmt::Display + Copy>(
        &self,
        key: &'static str,
        range: &RangeInclusive<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.missing(key);
        }
        self.within(key, range)
    }

    /// A number inside a range, or its default.
    pub fn within_or<T: FromToml + PartialOrd + std::fmt::Display + Copy>(
        &self,
        key: &'static str,
        range: &RangeInclusive<T>,
        default: T,
    ) -> T {
        self.within(key, range).unwrap_or(default)
    }

    /// The good items of an array, each with its place.
    pub fn items<T: FromToml>(&self, key: &'static str) -> Option<Vec<(T, Spot)>> {
        let value = self.value(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            self.problem(
                &value.span(),
                DiagnosticKind::Value,
                Bad::wrong_type("an array", value.get_ref()),
                key,
            );
            return None;
        };
        let read =
            |item: &'a Spanned<DeValue<'a>>| Some((self.read(key, item)?, self.sink.spot(&item.span())));
        Some(array.iter().filter_map(read).collect())
    }

    /// The good items of an array.
    pub fn list<T: FromToml>(&self, key: &'static str) -> Option<Vec<T>> {
        Some(self.items(key)?.into_iter().map(|(item, _)| item).collect())
    }

    /// The items of an array, none of them twice.
    pub fn set<T: FromToml + PartialEq + std::fmt::Display>(&self, key: &'static str) -> Vec<T> {
        let mut set: Vec<T> = Vec::new();
        for (item, spot) in self.items::<T>(key).unwrap_or_default() {
            if set.contains(&item) {
                self.problem_at(
                    spot,
                    DiagnosticKind::Duplicate,
                    Bad::new(format!("{item} is listed twice")),
                    key,
                );
            } else {
                set.push(item);
            }
        }
        set
    }

    /// The table of a key.
    pub fn child<'b>(&'b self, key: &'static str) -> Option<Cursor<'b>>
    where
        'a: 'b,
    {
        let value = self.value(key)?;
        self.table_of(key, value, None)
    }

    /// The tables of a key: `[[key]]`, or an array of inline tables.
    pub fn children<'b>(&'b self, key: &'static str) -> Vec<Cursor<'b>>
    where
        'a: 'b,
    {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let DeValue::Array(array) = value.get_ref() else {
            let bad = Bad::wrong_type("an array of tables", value.get_ref());
            let bad = if matches!(value.get_ref(), DeValue::Table(_)) {
                bad.hint(format!(
                    "write [[{}]] with two brackets: there may be several",
                    self.header(key)
                ))
            } else {
                bad
            };
            self.problem(&value.span(), DiagnosticKind::Value, bad, key);
            return Vec::new();
        };
        let items = array.iter().enumerate();
        items
            .filter_map(|(index, item)| self.table_of(key, item, Some(index)))
            .collect()
    }

    fn table_of<'b>(
        &'b self,
        key: &'static str,
        value: &'b Spanned<DeValue<'a>>,
        index: Option<usize>,
    ) -> Option<Cursor<'b>>
    where
        'a: 'b,
    {
        let DeValue::Table(table) = value.get_ref() else {
            self.problem(
                &value.span(),
                DiagnosticKind::Value,
                Bad::wrong_type("a table", value.get_ref()),
                key,
            );
            return None;
        };
        let up = Some((self, key, index));
        Some(Cursor {
            table,
            span: value.span(),
            up,
            sink: self.sink,
            asked: RefCell::default(),
        })
    }

    /// The entries of an array of tables or plain values.
    pub fn entries<'b>(&'b self, key: &'static str) -> Vec<Entry<'b>>
    where
        'a: 'b,
    {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let DeValue::Array(array) = value.get_ref() else {
            self.problem(
                &value.span(),
                DiagnosticKind::Value,
                Bad::wrong_type("an array", value.get_ref()),
                key,
            );
            return Vec::new();
        };
        let entry = |(index, item): (usize, &'b Spanned<DeValue<'a>>)| match item.get_ref() {
            DeValue::Table(_) => self.table_of(key, item, Some(index)).map(Entry::Table),
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_) => Some(Entry::Value(item)),
        };
        array.iter().enumerate().filter_map(entry).collect()
    }

    /// The value of an entry that is no table.
    pub fn entry<T: FromToml>(&self, key: &'static str, value: &Spanned<DeValue<'_>>) -> Option<T> {
        self.read(key, value)
    }

    /// Whether the key's value is a table.
    pub fn is_table(&self, key: &'static str) -> bool {
        self.value(key)
            .is_some_and(|value| matches!(value.get_ref(), DeValue::Table(_)))
    }

    /// The one value behind `keys`, of which exactly one must be there; its key tells which.
    pub fn one_of(&self, keys: &'static [&'static str]) -> Option<&'static str> {
        let given: Vec<&'static str> = keys.iter().copied().filter(|key| self.has(key)).collect();
        match given.as_slice() {
            [one] => Some(*one),
            [] => {
                let bad = Bad::new(format!("one of {} is missing", keys.join(", ")));
                self.problem(&self.span, DiagnosticKind::MissingKey, bad, "");
                None
            }
            [_, second, ..] => {
                self.fail(
                    second,
                    Bad::new(format!("only one of {} can be given", keys.join(", "))),
                );
                None
            }
        }
    }

    fn read<T: FromToml>(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<T> {
        match T::from_toml(value.get_ref()) {
            Ok(read) => Some(read),
            Err(bad) => {
                self.problem(&value.span(), DiagnosticKind::Value, bad, key);
                None
            }
        }
    }

    /// Notes that a key is missing.
    pub fn missing(&self, key: &'static str) {
        self.problem(
            &self.span,
            DiagnosticKind::MissingKey,
            Bad::new(format!("{key:?} is missing")),
            "",
        );
    }

    /// Notes what is wrong with a key's value.
    pub fn fail(&self, key: &str, bad: Bad) {
        self.problem_at(self.spot_of(key), DiagnosticKind::Value, bad, key);
    }

    /// Notes that the name is taken, and where.
    pub fn duplicate(&self, kind: &str, name: &str, first: Spot) {
        self.sink.push(Problem {
            kind: DiagnosticKind::Duplicate,
            spot: if self.table.contains_key("name") {
                self.spot_of("name")
            } else {
                self.spot_of("key")
            },
            object: Some(self.object()),
            message: format!("another {kind} is named {name:?}"),
            hint: (!kind.contains("of this"))
                .then(|| "names are unique over all fragments of the fleet".to_owned()),
            related: vec![(first, "the first one is".to_owned())],
        });
    }

    /// Notes what is wrong at a place.
    pub fn fail_at(&self, spot: Spot, bad: Bad) {
        self.problem_at(spot, DiagnosticKind::Value, bad, "");
    }

    fn problem(&self, span: &Range<usize>, kind: DiagnosticKind, bad: Bad, key: &str) {
        self.problem_at(self.sink.spot(span), kind, bad, key);
    }

    fn problem_at(&self, spot: Spot, kind: DiagnosticKind, bad: Bad, key: &str) {
        if !self.sink.takes() {
            return;
        }
        let mut object = self.object();
        if !key.is_empty() {
            if !object.is_empty() {
                object.push('.');
            }
            object.push_str(key);
        }
        self.sink.problems.borrow_mut().push(Problem {
            kind,
            spot,
            object: (!object.is_empty()).then_some(object),
            message: bad.message,
            hint: bad.hint,
            related: Vec::new(),
        });
    }

    /// What a table below this one is called in a header: `networks.rules`.
    fn header(&self, key: &str) -> String {
        match &self.up {
            Some((up, own, _)) => format!("{}.{key}", up.header(own)),
            None => key.to_owned(),
        }
    }

    /// The object's path: `networks.prod.members[3]`.
    pub fn object(&self) -> String {
        let Some((up, key, index)) = &self.up else {
            return String::new();
        };
        let mut path = up.object();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
        let name = self.table.get("name").or_else(|| self.table.get("key"));
        match (name.and_then(|value| value.get_ref().as_str()), index) {
            (Some(name), Some(_)) => {
                path.push('.');
                path.extend(name.chars().take(64));
            }
            (None, Some(index)) => {
                let _ = write!(path, "[{index}]");
            }
            (_, None) => {}
        }
        path
    }

    /// Notes every key that nobody asked for. The last call on a table.
    pub fn finish(&self) {
        let asked = self.asked.borrow();
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if asked.contains(&name) {
                continue;
            }
            if !self.sink.has_room() {
                // Words for a hundred thousand keys would take longer than reading them.
                self.sink.count.set(self.sink.count.get() + 1);
                return;
            }
            let shown: String = name.chars().take(64).collect();
            let mut known: Vec<&str> = asked.clone();
            known.sort_unstable();
            known.dedup();
            let hint = did_you_mean(name, known.iter().copied())
                .unwrap_or_else(|| format!("here can stand: {}", known.join(", ")));
            let bad = Bad::new(format!("unknown key {shown:?}")).hint(hint);
            self.problem(&key.span(), DiagnosticKind::UnknownKey, bad, "");
        }
    }
}
