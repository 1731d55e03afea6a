//! The networks that this host is in, which no fleet knows: what a bridge imports may not take one away.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::intent::Underlay;
use crate::model::LinkName;
use crate::model::ownership::{ROUTE_PROTOCOL, link_class};
use crate::sys::netlink::{Address, Family, Link, Netlink, NetlinkError, Route, RouteFilter, RouteKind};

/// `RT_TABLE_MAIN`
const MAIN_TABLE: u32 = 254;

/// Who makes routes to networks that a host is in (rtnetlink(7), `RTPROT_*`): the kernel, boot scripts, an administrator, router
/// advertisements, DHCP. Routing daemons don't: theirs, which may be those of the whole Internet, aren't read.
const PROTOCOLS: [u8; 5] = [2, 3, 4, 9, 16];

/// Reads them.
///
/// # Errors
/// See [`NetlinkError`]: they are unknown then.
pub(super) async fn look(netlink: &Netlink) -> Result<Underlay, NetlinkError> {
    let links = netlink.links().await?;
    let addresses = netlink.addresses().await?;
    let has_v6 = addresses.iter().any(|address| address.local.is_ipv6());
    let families: &[Family] = if has_v6 {
        &[Family::V4, Family::V6]
    } else {
        &[Family::V4]
    };
    let mut routes = Vec::new();
    for family in families {
        for protocol in PROTOCOLS {
            let filter = RouteFilter {
                table: Some(MAIN_TABLE),
                protocol: Some(protocol),
                ..RouteFilter::default()
            };
            routes.extend(netlink.routes(*family, filter).await?);
        }
    }
    Ok(decode(&links, &addresses, &routes))
}

/// What is reached without a router, and this host's own addresses; nothing of ours.
fn decode(links: &[Link], addresses: &[Address], routes: &[Route]) -> Underlay {
    let names = links.iter().filter_map(|link| {
        let name = LinkName::new(&link.name).ok()?;
        link_class(&name).is_none().then_some((link.index, name))
    });
    let names: BTreeMap<u32, LinkName> = names.collect();
    let direct = routes.iter().filter(|route| {
        route.protocol != ROUTE_PROTOCOL
            && route.kind == RouteKind::Unicast
            && route.gateway.is_none()
            && route.destination.prefix_len() > 0
    });
    let direct = direct.filter_map(|route| Some((route.destination, names.get(&route.device?)?.clone())));
    let own = addresses.iter().filter(|address| !address.local.is_loopback());
    let own =
        own.filter_map(|address| Some((IpNet::from(address.local), names.get(&address.index)?.clone())));
    own.chain(direct).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: None,
            alias: None,
            group: 0,
            master: None,
            mtu: 1_500,
            up: true,
            loopback: name == "lo",
            vrf_table: None,
        }
    }

    fn route(destination: &str, device: u32, gateway: Option<&str>) -> Route {
        Route {
            table: MAIN_TABLE,
            destination: destination.parse().unwrap(),
            metric: 0,
            protocol: 2,
            kind: RouteKind::Unicast,
            device: Some(device),
            gateway: gateway.map(|text| text.parse().unwrap()),
            source: None,
            mtu: None,
            other: false,
        }
    }

    fn address(index: u32, text: &str) -> Address {
        let net: IpNet = text.parse().unwrap();
        Address {
            index,
            local: net.addr(),
            prefix_len: net.prefix_len(),
            peer: None,
            broadcast: None,
            label: None,
            scope: 0,
            flags: 0,
            route_metric: None,
        }
    }

    #[test]
    fn what_is_reached_without_a_router_is_a_network_of_the_host() {
        let links = [link(1, "lo"), link(2, "eth0"), link(3, "wg-sdwan-1")];
        let addresses = [
            address(1, "127.0.0.1/8"),
            address(1, "10.5.5.5/32"),
            address(2, "192.0.2.7/24"),
            address(3, "100.64.1.1/32"),
        ];
        let unreachable = Route {
            kind: RouteKind::Unreachable,
            ..route("10.9.0.0/16", 2, None)
        };
        let routes = [
            route("192.0.2.0/24", 2, None),
            route("fd99::/64", 2, None),
            route("0.0.0.0/0", 2, None),
            route("10.0.0.0/8", 2, Some("192.0.2.1")),
            route("fd77:1:2::/48", 3, None),
            unreachable,
        ];
        let found = decode(&links, &addresses, &routes);
        let found: Vec<String> = found.iter().map(|(net, link)| format!("{net} {link}")).collect();
        let wanted = [
            "10.5.5.5/32 lo",
            "192.0.2.0/24 eth0",
            "192.0.2.7/32 eth0",
            "fd99::/64 eth0",
        ];
        assert_eq!(found, wanted);
    }
}
