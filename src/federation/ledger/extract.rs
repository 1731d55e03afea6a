//! Parts of the audit, for whoever may read it. They are read beside the writer: nobody waits, however long it takes.

use super::audit::{self, AuditLine, AuditRecord};
use super::{Ledger, LedgerError, sql_error};
use crate::federation::moment::Moment;
use crate::federation::peer::PeerId;

/// From when to when: both belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Window {
    /// The earliest.
    pub since: Moment,
    /// The latest.
    pub until: Moment,
}

/// A place among the records of a peer: behind it, reading goes on. Reads `<milliseconds since 1970>.<sequence>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub(super) at: i64,
    pub(super) sequence: i64,
}

impl Place {
    /// The place of a record.
    #[must_use]
    pub const fn of(record: &AuditRecord) -> Self {
        Self {
            at: record.at.millis(),
            sequence: record.sequence,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.at, self.sequence)
    }
}

impl std::str::FromStr for Place {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "a place in the audit is what `next` of an answer says";
        let (at, sequence) = text.split_once('.').ok_or(SHAPE)?;
        Ok(Self {
            at: at.parse().map_err(|_| SHAPE)?,
            sequence: sequence.parse().map_err(|_| SHAPE)?,
        })
    }
}

impl Ledger {
    /// At most `count` records behind `after`, with all that is needed to recompute them; of a time, and of one peer, or
    /// of all.
    ///
    /// # Errors
    /// It can't be read.
    pub fn audit_lines(
        &self,
        after: i64,
        window: Window,
        peer: Option<PeerId>,
        count: usize,
    ) -> Result<Vec<AuditLine>, LedgerError> {
        let peer = peer.map(|peer| peer.to_string());
        self.reader()
            .and_then(|reader| audit::lines(&reader, after, window, peer.as_deref(), count))
            .map_err(sql_error(&self.path))
    }

    /// At most `count` records of a peer, oldest first, behind `after`.
    ///
    /// # Errors
    /// It can't be read.
    pub fn audit_of(
        &self,
        peer: PeerId,
        window: Window,
        after: Option<Place>,
        count: usize,
    ) -> Result<Vec<AuditRecord>, LedgerError> {
        let start = Place {
            at: window.since.millis(),
            sequence: 0,
        };
        let start = after.map_or(start, |after| after.max(start));
        self.reader()
            .and_then(|reader| audit::of_peer(&reader, &peer.to_string(), start, window.until, count))
            .map_err(sql_error(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_written_and_read_back() {
        for place in [
            Place { at: 0, sequence: 1 },
            Place {
                at: -5,
                sequence: i64::MAX,
            },
        ] {
            assert_eq!(place.to_string().parse(), Ok(place));
        }
        for bad in ["", ".", "1", "1.", ".1", "1.2.3", "1.x", "2026-05-17T13:45:12Z"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
