//! From a finding about an object to the line that says it.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diag::{DiagnosticKind, MAX_DIAGNOSTICS, Notice};
use super::document;
use super::files::{Files, Problem, Spot};
use super::fleet::Broken;
use super::suggest::did_you_mean;
use crate::model::check::{Finding, Issue, Kind, Object, Place, Severity};
use crate::model::{Fleet, Name};

/// Findings with their places.
#[derive(Debug, Default)]
pub(super) struct Located {
    pub problems: Vec<Problem>,
    pub notices: Vec<Notice>,
}

/// Gives findings their places. What only seems to be missing, because it couldn't be read, is left out.
pub(super) fn locate(
    files: &Files,
    spots: &BTreeMap<Object, Spot>,
    broken: &Broken,
    fleet: &Fleet,
    findings: Vec<Finding>,
) -> Located {
    let mut by_file: BTreeMap<u32, Vec<(Finding, Spot)>> = BTreeMap::new();
    for finding in findings.into_iter().filter(|finding| is_certain(finding, broken)) {
        let spot = spots.get(&finding.at.object).copied().unwrap_or_default();
        by_file.entry(spot.file).or_default().push((finding, spot));
    }
    let mut located = Located::default();
    for (file, findings) in by_file {
        // The tree is gone since the fragment was read; findings are rare enough to read it again.
        let (tree, _) = document::parse(&files.get(file).text);
        let mut tables: BTreeMap<usize, &DeTable<'_>> = BTreeMap::new();
        document::for_each_table(&tree, &mut |span, table| {
            tables.insert(span.start, table);
        });
        for (finding, spot) in findings.into_iter().take(MAX_DIAGNOSTICS) {
            let table = if finding.at.object == Object::Host {
                Some(&tree)
            } else {
                tables.get(&(spot.start as usize)).copied()
            };
            let span = table.and_then(|table| span_of(table, &finding.at));
            let spot = span.map_or(spot, |span| narrow(spot, &span));
            add(&mut located, files, spots, fleet, &finding, spot);
        }
    }
    located
}

fn is_certain(finding: &Finding, broken: &Broken) -> bool {
    if !finding.issue.is_absence() {
        return true;
    }
    if let Issue::Unknown(Kind::Tag, _) = finding.issue {
        return !broken.fragment && !broken.nodes;
    }
    if let Issue::Unknown(_, name) | Issue::UnknownHost(name) = &finding.issue {
        return !broken.fragment && !broken.names.contains(name);
    }
    let network = finding.at.object.network();
    !broken.fragment && !broken.nodes && !network.is_some_and(|network| broken.networks.contains(network))
}

/// The place of a key or item in its table.
fn span_of(table: &DeTable<'_>, place: &Place) -> Option<Range<usize>> {
    let value = table.get(place.key)?;
    let item = match (value.get_ref(), place.index) {
        (DeValue::Array(array), Some(index)) => array.get(index).map(Spanned::span),
        _ => None,
    };
    Some(item.unwrap_or_else(|| value.span()))
}

fn narrow(spot: Spot, span: &Range<usize>) -> Spot {
    let number = |at: usize| u32::try_from(at).expect("a file's size is limited");
    Spot {
        file: spot.file,
        start: number(span.start),
        end: number(span.end),
    }
}

fn add(
    located: &mut Located,
    files: &Files,
    spots: &BTreeMap<Object, Spot>,
    fleet: &Fleet,
    finding: &Finding,
    spot: Spot,
) {
    let mut object = finding.at.object.to_string();
    if !finding.at.key.is_empty() {
        object = if object == "host" {
            finding.at.key.to_owned()
        } else {
            format!("{object}.{}", finding.at.key)
        };
    }
    let message = finding.issue.to_string();
    if finding.severity() == Severity::Notice {
        located.notices.push(files.notice(spot, Some(object), message));
        return;
    }
    let also = finding
        .also
        .as_ref()
        .and_then(|also| Some((*spots.get(also)?, format!("{also} is"))));
    located.problems.push(Problem {
        kind: if matches!(finding.issue, Issue::KeyMismatch { .. }) {
            DiagnosticKind::KeyMismatch
        } else {
            DiagnosticKind::Contradiction
        },
        spot,
        object: Some(object),
        message,
        hint: suggestion(&finding.issue, &finding.at, fleet).or_else(|| finding.issue.hint()),
        related: also.into_iter().collect(),
    });
}

/// The known name nearest to an unknown one.
fn suggestion(issue: &Issue, place: &Place, fleet: &Fleet) -> Option<String> {
    let (kind, name) = if let Issue::Unknown(kind, name) = issue {
        (*kind, name)
    } else if let Issue::UnknownHost(name) = issue {
        (Kind::Node, name)
    } else {
        return None;
    };
    let vips = || {
        let network =
            if let Object::Rule { network, .. } | Object::PortMapping { network, .. } = &place.object {
                network
            } else if let Object::Bridge(bridge) = &place.object {
                &fleet.bridges.get(bridge)?.network
            } else if let Object::Offer(offer) = &place.object {
                &fleet.bridges.get(&fleet.offers.get(offer)?.bridge)?.network
            } else {
                return None;
            };
        fleet.networks.get(network)
    };
    let known: Vec<&Name> = match kind {
        Kind::Node => fleet.nodes.keys().collect(),
        Kind::Tag => fleet.nodes.values().flat_map(|node| &node.tags).collect(),
        Kind::Network => fleet.networks.keys().collect(),
        Kind::Bridge => fleet.bridges.keys().collect(),
        Kind::VirtualIp => vips()?.virtual_ips.iter().map(|vip| &vip.name).collect(),
    };
    did_you_mean(name.as_str(), known.into_iter().map(Name::as_str))
}
