//! How this host gets to addresses on the underlay.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::planes::{Way, Ways};
use crate::report::chain;
use crate::sys::netlink::{Hop, Netlink, NetlinkError};

/// Looks the routes to `addresses` up. What can't be read is left out: nothing is concluded from it.
pub(super) async fn look(netlink: &Netlink, addresses: BTreeSet<IpAddr>) -> Ways {
    if addresses.is_empty() {
        return Ways::new();
    }
    match read(netlink, addresses).await {
        Ok(ways) => ways,
        Err(error) => {
            tracing::warn!(error = chain(&error), "the routes to peers can't be read");
            Ways::new()
        }
    }
}

/// How many addresses are looked at again in one round, of which something is known: a hub with ten thousand peers must not
/// ask ten thousand times in each.
const LOOKS: usize = 256;

/// What the ways to peers took when they were last looked at, in bytes; none where no route led there.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    seen: BTreeMap<IpAddr, Option<u32>>,
    next: Option<IpAddr>,
}

impl Sizes {
    /// Which of `wanted` to look at now: all that were never seen, and the others in turn.
    pub(super) fn due(&mut self, wanted: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        self.seen.retain(|address, _| wanted.contains(address));
        let from = self.next.take();
        let later = self
            .seen
            .keys()
            .filter(|address| from.is_none_or(|from| **address >= from));
        let mut turn = later.copied();
        let mut due: BTreeSet<IpAddr> = turn.by_ref().take(LOOKS).collect();
        self.next = turn.next();
        due.extend(wanted.iter().filter(|address| !self.seen.contains_key(address)));
        due
    }

    /// Takes what was seen. Where a route is gone, what it took stays: nothing passes there now, and links that change with
    /// every outage would be no help.
    pub(super) fn take(&mut self, wanted: &BTreeSet<IpAddr>, ways: &Ways) {
        for (address, way) in ways.iter().filter(|(address, _)| wanted.contains(address)) {
            let size = self.seen.entry(*address).or_default();
            if let Way::Routed { mtu: Some(mtu) } = way {
                *size = Some(*mtu);
            }
        }
    }

    /// What is known.
    pub(super) fn known(&self) -> BTreeMap<IpAddr, u32> {
        let known = self
            .seen
            .iter()
            .filter_map(|(address, size)| Some((*address, (*size)?)));
        known.collect()
    }
}

async fn read(netlink: &Netlink, addresses: BTreeSet<IpAddr>) -> Result<Ways, NetlinkError> {
    let addresses: Vec<IpAddr> = addresses.into_iter().collect();
    let hops = netlink.hops(&addresses).await?;
    let links = netlink.links().await?;
    let mtus: BTreeMap<u32, u32> = links.iter().map(|link| (link.index, link.mtu)).collect();
    let ways = hops.into_iter().map(|hop| way(hop, &mtus));
    Ok(addresses.into_iter().zip(ways).collect())
}

/// A route's own MTU counts where it is the smaller one: the link takes no more than its own.
fn way(hop: Option<Hop>, mtus: &BTreeMap<u32, u32>) -> Way {
    match hop {
        None => Way::Unreachable,
        Some(hop) => {
            let devices = hop.devices.iter().filter_map(|index| mtus.get(index).copied());
            Way::Routed {
                mtu: devices.chain(hop.mtu).min(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_link_or_the_route_says_how_much_passes() {
        let mtus = BTreeMap::from([(1, 1_500), (2, 1_400)]);
        let hop = |devices: &[u32], mtu| {
            let devices = devices.to_vec();
            way(Some(Hop { devices, mtu }), &mtus)
        };
        assert_eq!(way(None, &mtus), Way::Unreachable);
        assert_eq!(hop(&[1], None), Way::Routed { mtu: Some(1_500) });
        assert_eq!(hop(&[1, 2], None), Way::Routed { mtu: Some(1_400) });
        assert_eq!(hop(&[1], Some(1_300)), Way::Routed { mtu: Some(1_300) });
        assert_eq!(hop(&[9], None), Way::Routed { mtu: None });
    }

    #[test]
    fn many_ways_are_looked_at_in_turn() {
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let wanted: BTreeSet<IpAddr> = (0..1_000).map(address).collect();
        let mut sizes = Sizes::default();
        let mut look = |mtu| {
            let due = sizes.due(&wanted);
            let ways = due
                .iter()
                .map(|address| (*address, Way::Routed { mtu: Some(mtu) }));
            sizes.take(&wanted, &ways.collect());
            let known = sizes.known();
            (due.len(), known.values().filter(|known| **known == mtu).count())
        };
        assert_eq!(look(1_500), (1_000, 1_000));
        assert_eq!(look(1_400), (256, 256));
        assert_eq!(look(1_400), (256, 512));
        assert_eq!(look(1_400), (256, 768));
        assert_eq!(look(1_400), (232, 1_000));
        assert_eq!(look(1_300), (256, 256));
    }

    #[test]
    fn a_way_that_is_gone_takes_what_it_took() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let wanted = BTreeSet::from([address]);
        let mut sizes = Sizes::default();
        sizes.take(
            &wanted,
            &Ways::from([(address, Way::Routed { mtu: Some(1_400) })]),
        );
        sizes.take(&wanted, &Ways::from([(address, Way::Unreachable)]));
        assert_eq!(sizes.known(), BTreeMap::from([(address, 1_400)]));
        assert_eq!(sizes.due(&BTreeSet::new()), BTreeSet::new());
        assert_eq!(sizes.known(), BTreeMap::new());
    }
}
