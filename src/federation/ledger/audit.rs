//! The audit: append-only, each record bound to all before it.
//!
//! `hash(n) = SHA-256(hash(n − 1) ‖ the record's fields, each with its length)`; the first one follows 32 zero bytes.

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Happening;
use super::extract::{Place, Window};
use crate::federation::moment::Moment;

/// The end of the chain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How many records there are.
    pub sequence: i64,
    /// The hash of the last one.
    pub hash: [u8; 32],
}

impl Default for Head {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Head {
    pub(super) const EMPTY: Self = Self {
        sequence: 0,
        hash: [0; 32],
    };
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.sequence)?;
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for Head {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "the end of a chain reads <sequence>:<64 hexadecimal digits>";
        let (sequence, digits) = text.split_once(':').ok_or(SHAPE)?;
        let is_plain = |text: &str, len: std::ops::RangeInclusive<usize>| {
            len.contains(&text.len())
                && text
                    .bytes()
                    .all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase())
        };
        if !is_plain(sequence, 1..=19) || !is_plain(digits, 64..=64) {
            return Err(SHAPE);
        }
        let mut hash = [0; 32];
        for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
            *byte = digits
                .get(at..at + 2)
                .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                .ok_or(SHAPE)?;
        }
        let sequence = sequence.parse().map_err(|_| SHAPE)?;
        Ok(Self { sequence, hash })
    }
}

impl serde::Serialize for Head {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Head {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Head({self})")
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AuditRecord {
    /// Its place, from 1.
    pub sequence: i64,
    /// When.
    pub at: Moment,
    /// What.
    pub kind: String,
    /// How bad.
    pub severity: String,
    /// To which peer.
    pub peer: Option<String>,
    /// What else there is to say.
    pub payload: Value,
}

/// Where the chain is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A record isn't what was written.
    #[error("audit record {0} was changed after it was written")]
    Changed(i64),
    /// A record isn't there.
    #[error("audit record {0} is missing")]
    Missing(i64),
}

/// A record with all that is needed to recompute the chain, without the ledger and without this program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// Its place, from 1.
    pub sequence: i64,
    /// When, RFC 3339.
    pub at: Moment,
    /// The same in milliseconds since 1970: this is what is hashed.
    pub at_millis: i64,
    /// What.
    pub kind: String,
    /// How bad.
    pub severity: String,
    /// To which peer; nothing is hashed as the empty text.
    pub peer: Option<String>,
    /// What else there is to say: JSON, as the text that is hashed.
    pub payload: String,
    /// The hash of the record before, hexadecimal; 64 zeros before the first.
    pub previous: String,
    /// Its own.
    pub hash: String,
}

impl AuditLine {
    /// Whether its hash follows from it and from the record before.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let before = format!("0:{}", self.previous).parse::<Head>();
        let row = Row {
            sequence: self.sequence,
            at: self.at_millis,
            kind: self.kind.clone(),
            severity: self.severity.clone(),
            peer: self.peer.clone(),
            payload: self.payload.clone(),
            hash: Vec::new(),
        };
        before.is_ok_and(|before| hex(&row.follow(&before.hash)) == self.hash)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

struct Row {
    sequence: i64,
    at: i64,
    kind: String,
    severity: String,
    peer: Option<String>,
    payload: String,
    hash: Vec<u8>,
}

impl Row {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            sequence: row.get(0)?,
            at: row.get(1)?,
            kind: row.get(2)?,
            severity: row.get(3)?,
            peer: row.get(4)?,
            payload: row.get(5)?,
            hash: row.get(6)?,
        })
    }

    fn record(self) -> AuditRecord {
        AuditRecord {
            sequence: self.sequence,
            at: Moment::from_millis(self.at),
            kind: self.kind,
            severity: self.severity,
            peer: self.peer,
            payload: serde_json::from_str(&self.payload).unwrap_or(Value::String(self.payload)),
        }
    }

    fn follow(&self, before: &[u8; 32]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(before);
        hash.update(self.sequence.to_be_bytes());
        hash.update(self.at.to_be_bytes());
        let peer = self.peer.as_deref().unwrap_or_default();
        for field in [&self.kind, &self.severity, peer, &self.payload] {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field.as_bytes());
        }
        hash.finalize().into()
    }
}

const COLUMNS: &str = "sequence, at, kind, severity, peer, payload, hash";

pub(super) fn append(
    connection: &Connection,
    head: Head,
    happening: &Happening,
    now: Moment,
) -> rusqlite::Result<Head> {
    let row = Row {
        sequence: head.sequence + 1,
        at: now.millis(),
        kind: happening.kind.clone(),
        severity: happening.severity.to_owned(),
        peer: happening.peer.map(|peer| peer.to_string()),
        payload: happening.payload.to_string(),
        hash: Vec::new(),
    };
    let hash = row.follow(&head.hash);
    let mut statement = connection.prepare_cached(
        "INSERT INTO audit (sequence, at, kind, severity, peer, payload, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    statement.execute(params![
        row.sequence,
        row.at,
        row.kind,
        row.severity,
        row.peer,
        row.payload,
        hash
    ])?;
    Ok(Head {
        sequence: row.sequence,
        hash,
    })
}

pub(super) fn head(connection: &Connection) -> rusqlite::Result<Head> {
    use rusqlite::OptionalExtension as _;
    let last = connection
        .query_row(
            "SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1",
            [],
            |row| {
                Ok(Head {
                    sequence: row.get(0)?,
                    hash: row.get(1)?,
                })
            },
        )
        .optional()?;
    Ok(last.unwrap_or(Head::EMPTY))
}

/// The hash of the record at this place; of 32 zero bytes before the first.
pub(super) fn hash_at(connection: &Connection, sequence: i64) -> rusqlite::Result<Option<[u8; 32]>> {
    use rusqlite::OptionalExtension as _;
    if sequence == 0 {
        return Ok(Some(Head::EMPTY.hash));
    }
    connection
        .query_row("SELECT hash FROM audit WHERE sequence = ?1", [sequence], |row| {
            row.get(0)
        })
        .optional()
}

pub(super) fn tail(
    connection: &Connection,
    peer: Option<&str>,
    count: usize,
) -> rusqlite::Result<Vec<AuditRecord>> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let which = match peer {
        // By the index of a peer's records, which are in the order of their places, too.
        Some(_) => "WHERE peer = ?2 ORDER BY at DESC, sequence DESC",
        None => "WHERE ?2 IS NULL ORDER BY sequence DESC",
    };
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM audit {which} LIMIT ?1"))?;
    let mut records: Vec<AuditRecord> = statement
        .query_map(params![count, peer], Row::read)?
        .map(|row| row.map(Row::record))
        .collect::<rusqlite::Result<_>>()?;
    records.reverse();
    Ok(records)
}

/// The records of a peer behind `after`, by the index `audit_of_peer`.
const OF_PEER: &str = "FROM audit WHERE peer = ?1 AND (at, sequence) > (?2, ?3) AND at <= ?4
     ORDER BY at, sequence LIMIT ?5";

pub(super) fn of_peer(
    connection: &Connection,
    peer: &str,
    after: Place,
    until: Moment,
    count: usize,
) -> rusqlite::Result<Vec<AuditRecord>> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} {OF_PEER}"))?;
    statement
        .query_map(
            params![peer, after.at, after.sequence, until.millis(), count],
            Row::read,
        )?
        .map(|row| row.map(Row::record))
        .collect()
}

/// At most `count` records behind `after`, whole; of a time, of one peer.
pub(super) fn lines(
    connection: &Connection,
    after: i64,
    window: Window,
    peer: Option<&str>,
    count: usize,
) -> rusqlite::Result<Vec<AuditLine>> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS}, (SELECT hash FROM audit AS before WHERE before.sequence = audit.sequence - 1) FROM audit
         WHERE sequence > ?1 AND at >= ?2 AND at <= ?3 AND (?4 IS NULL OR peer = ?4) ORDER BY sequence LIMIT ?5"
    ))?;
    let window = (window.since.millis(), window.until.millis());
    let rows = statement.query_map(params![after, window.0, window.1, peer, count], |row| {
        let previous: Option<Vec<u8>> = row.get(7)?;
        Ok((Row::read(row)?, previous))
    })?;
    rows.map(|row| {
        let (row, previous) = row?;
        Ok(AuditLine {
            sequence: row.sequence,
            at: Moment::from_millis(row.at),
            at_millis: row.at,
            kind: row.kind,
            severity: row.severity,
            peer: row.peer,
            payload: row.payload,
            previous: hex(&previous.unwrap_or_else(|| Head::EMPTY.hash.to_vec())),
            hash: hex(&row.hash),
        })
    })
    .collect()
}

pub(super) fn verify(connection: &Connection) -> rusqlite::Result<Result<Head, ChainError>> {
    let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM audit ORDER BY sequence"))?;
    let mut head = Head::EMPTY;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let row = Row::read(row)?;
        if row.sequence != head.sequence + 1 {
            return Ok(Err(ChainError::Missing(head.sequence + 1)));
        }
        let hash = row.follow(&head.hash);
        if row.hash != hash {
            return Ok(Err(ChainError::Changed(row.sequence)));
        }
        head = Head {
            sequence: row.sequence,
            hash,
        };
    }
    Ok(Ok(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_records_of_a_peer_are_found_by_their_index() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(crate::federation::ledger::CREATE)
            .unwrap();
        let plan: Vec<String> = connection
            .prepare(&format!("EXPLAIN QUERY PLAN SELECT {COLUMNS} {OF_PEER}"))
            .unwrap()
            .query_map(params!["x", 0, 0, 0, 0], |row| row.get("detail"))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        assert_eq!(plan.len(), 1, "nothing is sorted: {plan:?}");
        assert!(
            plan[0].starts_with("SEARCH audit USING INDEX audit_of_peer"),
            "{plan:?}"
        );
    }
}
