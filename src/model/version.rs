//! Versions of the program, as `[federation]` names them: a major and a minor number.

use std::fmt;
use std::str::FromStr;

/// A major and a minor number: what follows them never decides whether two sites get along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// `1` of 1.4.2.
    pub major: u32,
    /// `4` of 1.4.2.
    pub minor: u32,
}

impl Version {
    /// The first two numbers of `text`: of `1.4`, `1.4.2`, `1.4.0-rc1`. None where there aren't two.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(['.', '-', '+']);
        Some(Self {
            major: parts.next()?.parse().ok()?,
            minor: parts.next()?.parse().ok()?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Versions from one to another, both included: `1.4`, `1.4..1.7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    first: Version,
    last: Version,
}

/// Why a text is no [`VersionRange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionRangeError {
    /// It isn't one or two versions.
    #[error("it reads \"1.4\" or \"1.4..1.7\"")]
    Nonsense,
    /// The second is before the first.
    #[error("\"{last}..{first}\"")]
    Backwards {
        /// What stands first.
        first: Version,
        /// What stands last.
        last: Version,
    },
}

impl VersionRange {
    /// Whether `version` is one of them.
    #[must_use]
    pub fn contains(&self, version: Version) -> bool {
        (self.first..=self.last).contains(&version)
    }
}

impl FromStr for VersionRange {
    type Err = VersionRangeError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Two numbers and nothing behind them: a patch level would promise what isn't looked at.
        let version = |text: &str| {
            let found = Version::parse(text).filter(|version| version.to_string() == text);
            found.ok_or(VersionRangeError::Nonsense)
        };
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        let (first, last) = (version(first)?, version(last)?);
        if first > last {
            return Err(VersionRangeError::Backwards { first, last });
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        write!(f, "{}..{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_include_both_ends() {
        let range: VersionRange = "1.4..2.1".parse().unwrap();
        for (version, inside) in [
            ("1.3.9", false),
            ("1.4", true),
            ("1.10.2", true),
            ("2.1.0-rc1", true),
            ("2.2", false),
        ] {
            let version = Version::parse(version).unwrap();
            assert_eq!(range.contains(version), inside, "{version}");
        }
        assert_eq!(range.to_string(), "1.4..2.1");
        assert_eq!("1.4".parse::<VersionRange>().unwrap().to_string(), "1.4");
    }

    #[test]
    fn what_is_no_range() {
        for text in [
            "",
            "1",
            "1.4.2",
            "1.4-1.7",
            "1.4..",
            "..1.4",
            "1.4..1.5..1.6",
            "1.04",
            "x.y",
            " 1.4",
        ] {
            assert_eq!(
                text.parse::<VersionRange>(),
                Err(VersionRangeError::Nonsense),
                "{text}"
            );
        }
        let backwards = "1.7..1.4".parse::<VersionRange>().unwrap_err();
        assert_eq!(backwards.to_string(), "\"1.4..1.7\"", "what was meant");
        assert_eq!(Version::parse("1"), None);
    }
}
