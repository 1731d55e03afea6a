//! Integers as JSON has them: `2.0` is one (JSON Schema, draft 2020-12, validation 6.1.1), and some writers know no others.

use serde::{Deserialize as _, Deserializer, de};
use serde_json::Number;

/// Reads an integer: for `#[serde(deserialize_with)]`.
///
/// # Errors
/// It is no integer, or out of the type's range.
pub fn integer<'de, D: Deserializer<'de>, T: TryFrom<i128>>(from: D) -> Result<T, D::Error> {
    read(&Number::deserialize(from)?)
}

/// Reads an integer, or none: for `#[serde(deserialize_with)]`.
///
/// # Errors
/// As [`integer`].
pub fn optional<'de, D: Deserializer<'de>, T: TryFrom<i128>>(from: D) -> Result<Option<T>, D::Error> {
    Option::<Number>::deserialize(from)?
        .as_ref()
        .map(read)
        .transpose()
}

fn read<T: TryFrom<i128>, E: de::Error>(number: &Number) -> Result<T, E> {
    let whole = number.as_i128().or_else(|| number.as_f64().and_then(whole));
    let fitting = whole.and_then(|whole| T::try_from(whole).ok());
    fitting.ok_or_else(|| E::custom("no integer in its range"))
}

/// What is written longer than 64 bits hold, was read as the nearest float: it is none of ours.
#[expect(clippy::cast_possible_truncation, reason = "it has no fraction, and fits")]
fn whole(float: f64) -> Option<i128> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    let is_exact = float.fract() == 0.0 && float > -LIMIT && float < 2.0 * LIMIT;
    is_exact.then_some(float as i128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integer_may_have_a_point() {
        let read = |text: &str| optional::<_, u64>(&mut serde_json::Deserializer::from_str(text)).ok();
        for (text, value) in [
            ("null", Some(None)),
            ("0", Some(Some(0))),
            ("2.0", Some(Some(2))),
            ("-0.0", Some(Some(0))),
            ("1e3", Some(Some(1_000))),
            ("18446744073709551615", Some(Some(u64::MAX))),
            ("18446744073709551616", None),
            ("1e300", None),
            ("-1", None),
            ("2.5", None),
            ("\"2\"", None),
            ("[2]", None),
        ] {
            assert_eq!(read(text), value, "{text}");
        }
        let read = |text: &str| integer::<_, i64>(&mut serde_json::Deserializer::from_str(text)).ok();
        assert_eq!(read("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(read("-9223372036854775809"), None);
        assert_eq!(read("null"), None);
    }
}
