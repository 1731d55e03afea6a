//! Whether two versions get along, and whether data may go where it would go.

use serde::{Deserialize, Serialize};

/// What is made of a peer's version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compatibility {
    /// `compatible` or `incompatible`.
    pub status: Verdict,
    /// Which rule says so.
    pub source: Source,
    /// Ours.
    pub local_version: String,
    /// Theirs; empty where it is unknown.
    pub remote_version: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
}

/// Whether versions get along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// They do.
    Compatible,
    /// They don't, or it isn't known.
    Incompatible,
}

/// Which rule says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The same major version, and minor versions at most one apart.
    Implicit,
}

/// Judges a peer's version by ours: the same major, minors at most one apart.
#[must_use]
pub fn compatibility(local: &str, remote: Option<&str>) -> Compatibility {
    let remote = remote.unwrap_or_default();
    let (status, notes) = match (parts(local), parts(remote)) {
        (Some((ours, minor)), Some((theirs, other))) if ours == theirs && minor.abs_diff(other) <= 1 => {
            (Verdict::Compatible, None)
        }
        (Some(_), Some(_)) => (
            Verdict::Incompatible,
            Some("the major versions differ, or the minor ones by more than one".to_owned()),
        ),
        (_, None) if remote.is_empty() => (
            Verdict::Incompatible,
            Some("the peer doesn't say its version".to_owned()),
        ),
        (_, None) | (None, _) => (
            Verdict::Incompatible,
            Some("a version has at least two numbers, like 1.4".to_owned()),
        ),
    };
    Compatibility {
        status,
        source: Source::Implicit,
        local_version: local.to_owned(),
        remote_version: remote.to_owned(),
        notes,
    }
}

fn parts(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_major_and_neighbouring_minors_get_along() {
        for (remote, compatible) in [
            ("1.4.2", true),
            ("1.5", true),
            ("1.3.0-rc1", true),
            ("1.6.0", false),
            ("1.2", false),
            ("2.4", false),
            ("1", false),
            ("", false),
            ("x.y", false),
        ] {
            let found = compatibility("1.4.0", Some(remote));
            assert_eq!(found.status == Verdict::Compatible, compatible, "{remote}");
            assert_eq!(found.notes.is_none(), compatible, "{remote}");
        }
        assert_eq!(compatibility("1.4.0", None).status, Verdict::Incompatible);
    }
}
