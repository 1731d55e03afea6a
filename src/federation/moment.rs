//! Points in time, as the federation stores and sends them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Milliseconds since 1970, written as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Moment(i64);

/// A text is no [`Moment`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time: RFC 3339 reads 2026-05-17T13:45:12Z")]
pub struct MomentError(String);

/// No part of this version is older: a wall clock that says so isn't set. Raised with each release.
const WRITTEN: Moment = Moment(1_793_491_200_000);

impl Moment {
    /// Whether a wall clock that says this has been set.
    #[must_use]
    pub fn is_plausible(self) -> bool {
        self >= WRITTEN
    }

    /// The earliest and the latest that RFC 3339 can write: years 0 to 9999.
    const RANGE: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

    /// The length of the longest text: `2026-05-17T13:45:12.345Z`.
    const LONGEST: usize = 24;

    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// The same, for what a ledger doesn't say.
    pub(crate) const fn epoch() -> Self {
        Self::EPOCH
    }

    /// From milliseconds since 1970; kept within the years that can be written.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.clamp(*Self::RANGE.start(), *Self::RANGE.end()))
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Later by `span`.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_add(span))
    }

    /// Earlier by `span`.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_sub(span))
    }

    /// How long since `earlier`; zero if that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// A UUID of version 7 (RFC 9562), of this time.
    #[must_use]
    pub fn uuid(self, random: [u8; 10]) -> uuid::Uuid {
        let millis = u64::try_from(self.0).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }

    /// For libraries that take `time`'s type.
    #[must_use]
    pub fn to_offset(self) -> OffsetDateTime {
        let (seconds, millis) = (self.0.div_euclid(1_000), self.0.rem_euclid(1_000));
        let millis = u16::try_from(millis).unwrap_or_default();
        OffsetDateTime::from_unix_timestamp(seconds)
            .ok()
            .and_then(|time| time.replace_millisecond(millis).ok())
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// Hands its text to `take`, without a place on the heap: a list has thousands of them.
    fn written<T>(self, take: impl FnOnce(&str) -> T) -> Option<T> {
        let mut room = [0; Self::LONGEST];
        let mut rest = room.as_mut_slice();
        self.to_offset().format_into(&mut rest, &Rfc3339).ok()?;
        let left = rest.len();
        std::str::from_utf8(&room[..Self::LONGEST - left]).ok().map(take)
    }

    /// For libraries that count whole seconds since 1970.
    #[must_use]
    pub fn seconds(self) -> u64 {
        u64::try_from(self.0 / 1_000).unwrap_or(0)
    }
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        let millis = match time.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        };
        Self::from_millis(millis)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.written(|text| f.write_str(text)).ok_or(fmt::Error)?
    }
}

impl Serialize for Moment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.written(|text| serializer.serialize_str(text))
            .ok_or_else(|| serde::ser::Error::custom("a time that can't be written"))?
    }
}

impl std::str::FromStr for Moment {
    type Err = MomentError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| MomentError(text.to_owned()))?;
        let millis = parsed.unix_timestamp_nanos().div_euclid(1_000_000);
        i64::try_from(millis)
            .map(Self::from_millis)
            .map_err(|_| MomentError(text.to_owned()))
    }
}

impl TryFrom<String> for Moment {
    type Error = MomentError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_rfc_3339_and_read_back() {
        let moment = Moment::from_millis(1_779_025_512_000);
        assert_eq!(moment.to_string(), "2026-05-17T13:45:12Z");
        for moment in [
            moment,
            Moment::from_millis(1_779_025_512_345),
            Moment::from_millis(-5),
            Moment::from_millis(i64::MAX),
            Moment::from_millis(i64::MIN),
        ] {
            assert_eq!(moment.to_string().parse(), Ok(moment), "{moment}");
        }
        assert_eq!("2026-05-17T15:45:12+02:00".parse(), Ok(moment));
        assert!("yesterday".parse::<Moment>().is_err());
    }

    #[test]
    fn spans_never_wrap() {
        let moment = Moment::from_millis(0);
        assert_eq!(moment.after(Duration::from_secs(2)).millis(), 2_000);
        assert_eq!(moment.since(moment.after(Duration::from_secs(2))), Duration::ZERO);
        assert_eq!(moment.after(Duration::MAX), Moment::from_millis(i64::MAX));
    }
}
