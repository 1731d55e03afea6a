//! What must not be done although the planes found it, because of what another plane found.

use std::collections::BTreeSet;

use super::plan::BlockedPlane;
use super::{Change, Observation, Target};
use crate::intent::Blocked;
use crate::model::LinkName;
use crate::planes::{Difference, PlaneName, firewall, l3, wireguard};

/// What each plane found.
pub(super) struct Found {
    pub(super) l3: Difference<l3::Change>,
    pub(super) wireguard: Difference<wireguard::Change>,
    pub(super) firewall: Difference<firewall::Change>,
}

/// Keeps what may be done.
///
/// - A private key that isn't this node's: nothing new is opened.
/// - A firewall that can't be read: nothing new is opened, since default-deny isn't known to be in place; and no LAN
///   interface is given back, since it would be judged by nobody on its way to another network.
/// - A WireGuard device on a link that isn't ours, and that this plan doesn't make: not touched.
pub(super) fn guard(
    target: &Target,
    observation: &Observation,
    found: Found,
) -> (Vec<Change>, Vec<BlockedPlane>) {
    let links = our_links(observation, &found.l3);
    let mut blocked = Vec::new();
    let mut push = |plane, found: Vec<Blocked>| {
        blocked.extend(found.into_iter().map(|blocked| BlockedPlane { plane, blocked }));
    };
    push(PlaneName::L3, found.l3.blocked);
    push(PlaneName::Wireguard, found.wireguard.blocked);
    push(PlaneName::Firewall, found.firewall.blocked);

    let mut changes: Vec<Change> = Vec::new();
    changes.extend(found.firewall.changes.into_iter().map(Change::Firewall));
    changes.extend(found.l3.changes.into_iter().map(Change::L3));
    let on_our_links = found
        .wireguard
        .changes
        .into_iter()
        .filter(|change| links.contains(&change.target().link));
    changes.extend(on_our_links.map(Change::Wireguard));

    // The WireGuard plane says why.
    if !target.key_matches() {
        changes.retain(|change| !change.opens());
    }
    if observation.firewall.is_err() {
        changes.retain(|change| !change.opens() && !change.releases());
    }
    (changes, blocked)
}

/// The links that are ours, or will be once the l3 plane has done its part.
fn our_links(observation: &Observation, l3: &Difference<l3::Change>) -> BTreeSet<LinkName> {
    let existing = observation.l3.iter().flat_map(|actual| actual.state.links.keys());
    let created = l3.changes.iter().filter_map(|change| change.creates_link());
    existing.chain(created).cloned().collect()
}
