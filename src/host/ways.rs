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
                mtu: devices.chain(hop.mtu.filter(|mtu| *mtu > 0)).min(),
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
}
