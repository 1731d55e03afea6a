//! Whether two versions of the program get along.
//!
//! The first rule that says something decides: the operator's (`incompatible_versions`, then `compatible_versions` of
//! `[federation]`), then what this program knows of other versions, then the implicit one.

use serde::{Deserialize, Serialize};

use crate::model::version::{Version, VersionRange};

/// What is made of a peer's version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// They do.
    Compatible,
    /// They don't, or it isn't known.
    Incompatible,
}

/// Which rule says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CompatibilitySource)]
pub enum Source {
    /// The operator's.
    Operator,
    /// One that the program comes with.
    Default,
    /// The same major version, and minor versions at most one apart.
    Implicit,
}

/// What is said of versions before the implicit rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The operator's.
    pub operator: Table,
    /// What this program knows of released versions. There is nothing to know yet: every one keeps contract 1.
    pub default: Table,
}

/// Versions of peers by what is said of them; what stands in both is incompatible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// They get along with ours.
    pub compatible: Vec<VersionRange>,
    /// They don't.
    pub incompatible: Vec<VersionRange>,
}

impl Table {
    fn verdict(&self, remote: Version) -> Option<Verdict> {
        let holds = |ranges: &[VersionRange]| ranges.iter().any(|range| range.contains(remote));
        if holds(&self.incompatible) {
            Some(Verdict::Incompatible)
        } else {
            holds(&self.compatible).then_some(Verdict::Compatible)
        }
    }
}

/// Judges a peer's version by the rules and by ours.
#[must_use]
pub fn compatibility(local: &str, remote: Option<&str>, rules: &Rules) -> Compatibility {
    let remote = remote.unwrap_or_default().trim();
    let (status, source, notes) = if let Some(theirs) = Version::parse(remote) {
        judge(Version::parse(local), theirs, rules)
    } else if remote.is_empty() {
        let notes = "the peer doesn't say its version";
        (Verdict::Incompatible, Source::Implicit, Some(notes))
    } else {
        (Verdict::Incompatible, Source::Implicit, Some(UNREADABLE))
    };
    Compatibility {
        status,
        source,
        local_version: local.to_owned(),
        remote_version: remote.to_owned(),
        notes: notes.map(str::to_owned),
    }
}

const UNREADABLE: &str = "a version has at least two numbers, like 1.4";

fn judge(ours: Option<Version>, theirs: Version, rules: &Rules) -> (Verdict, Source, Option<&'static str>) {
    for (table, source, notes) in [
        (
            &rules.operator,
            Source::Operator,
            "the operator has excluded this version",
        ),
        (
            &rules.default,
            Source::Default,
            "this version is known not to get along",
        ),
    ] {
        if let Some(verdict) = table.verdict(theirs) {
            return (
                verdict,
                source,
                (verdict == Verdict::Incompatible).then_some(notes),
            );
        }
    }
    let Some(ours) = ours else {
        return (Verdict::Incompatible, Source::Implicit, Some(UNREADABLE));
    };
    if ours.major == theirs.major && ours.minor.abs_diff(theirs.minor) <= 1 {
        return (Verdict::Compatible, Source::Implicit, None);
    }
    (
        Verdict::Incompatible,
        Source::Implicit,
        Some("the major versions differ, or the minor ones by more than one"),
    )
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
            (" ", false),
            ("x.y", false),
        ] {
            let found = compatibility("1.4.0", Some(remote), &Rules::default());
            assert_eq!(found.status == Verdict::Compatible, compatible, "{remote}");
            assert_eq!(found.notes.is_none(), compatible, "{remote}");
            assert_eq!(found.source, Source::Implicit);
        }
        let unknown = compatibility("1.4.0", None, &Rules::default());
        assert_eq!(unknown.status, Verdict::Incompatible);
        let odd = compatibility("one", Some("1.4"), &Rules::default());
        assert_eq!(odd.status, Verdict::Incompatible);
    }

    #[test]
    fn the_operators_word_goes_before_the_programs_and_that_before_the_implicit_rule() {
        let table = |compatible: &[&str], incompatible: &[&str]| {
            let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
            Table {
                compatible: ranges(compatible),
                incompatible: ranges(incompatible),
            }
        };
        let rules = Rules {
            operator: table(&["1.6..1.8", "2.0"], &["1.4", "1.7"]),
            default: table(&["1.4", "3.0..3.9"], &["1.5", "2.0"]),
        };
        for (remote, compatible, source) in [
            ("1.6.3", true, Source::Operator),
            ("2.0", true, Source::Operator), // though the program says no
            ("1.4.0", false, Source::Operator),
            ("1.7.1", false, Source::Operator), // in both lists
            ("1.5", false, Source::Default),    // though a neighbour
            ("3.1", true, Source::Default),
            ("1.3", true, Source::Implicit),
            ("1.9", false, Source::Implicit),
            ("one", false, Source::Implicit), // what can't be read, no rule can allow
        ] {
            let found = compatibility("1.4.0", Some(remote), &rules);
            assert_eq!(found.status == Verdict::Compatible, compatible, "{remote}");
            assert_eq!(found.source, source, "{remote}");
            assert_eq!(found.notes.is_none(), compatible, "{remote}");
        }
    }
}
