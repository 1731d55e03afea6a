//! Whether data would cross a border between two sites, and what the operator wants then. Grants and bridges ask before
//! they come into being.

use serde::Serialize;

use crate::model::host::Residency;

/// What is said of data that would go between two sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Border {
    /// One of the two doesn't say where its data resides: no crossing is known.
    Unknown,
    /// Both reside in the same place.
    Same,
    /// They reside in different places: allowed, and told to the operator.
    Flagged,
    /// They reside in different places: no grant and no bridge.
    Refused,
}

impl Border {
    /// Whether grants and bridges may come into being.
    #[must_use]
    pub const fn is_open(self) -> bool {
        match self {
            Self::Unknown | Self::Same | Self::Flagged => true,
            Self::Refused => false,
        }
    }
}

/// Judges where our data and a peer's reside. Blank is unknown; `jp` is `JP`.
#[must_use]
pub fn border(ours: Option<&str>, theirs: Option<&str>, enforcement: Residency) -> Border {
    let known = |place: Option<&str>| {
        let place = place.unwrap_or_default().trim().to_ascii_lowercase();
        (!place.is_empty()).then_some(place)
    };
    match (known(ours), known(theirs), enforcement) {
        (None, _, _) | (_, None, _) => Border::Unknown,
        (Some(ours), Some(theirs), _) if ours == theirs => Border::Same,
        (Some(_), Some(_), Residency::Permissive) => Border::Flagged,
        (Some(_), Some(_), Residency::Refuse) => Border::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_crossing_is_refused() {
        use Residency::{Permissive, Refuse};
        for (ours, theirs, enforcement, expected) in [
            (Some("JP"), Some("DE"), Refuse, Border::Refused),
            (Some("JP"), Some("DE"), Permissive, Border::Flagged),
            (Some("JP"), Some(" jp"), Refuse, Border::Same),
            (Some("JP"), Some("JP"), Permissive, Border::Same),
            (None, Some("DE"), Refuse, Border::Unknown),
            (Some("JP"), None, Refuse, Border::Unknown),
            (Some("JP"), Some("  "), Refuse, Border::Unknown),
            (None, None, Permissive, Border::Unknown),
        ] {
            assert_eq!(border(ours, theirs, enforcement), expected, "{ours:?} {theirs:?}");
            assert_eq!(border(theirs, ours, enforcement), expected, "from both sides");
            assert_eq!(expected.is_open(), expected != Border::Refused);
        }
    }
}
