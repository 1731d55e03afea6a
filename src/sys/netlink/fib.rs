//! The entries of a routing table as the kernel forwards by them: every kind, all next hops.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the message enums are non-exhaustive, with dozens of variants that never come here"
)]

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteType, RouteVia};

use super::types::Family;
use super::{Netlink, NetlinkError, errno, wire};

/// A route with its next hops, whoever made it and of whatever kind: an entry of the FIB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibRoute {
    /// The table.
    pub table: u32,
    /// The destination.
    pub destination: IpNet,
    /// The metric (`RTA_PRIORITY`).
    pub metric: u32,
    /// The protocol (`RTPROT_*`).
    pub protocol: u8,
    /// Where it leads; empty where it refuses, drops or delivers here.
    pub hops: Vec<FibHop>,
}

/// One next hop of a route. What the kernel didn't say, or said in a way that isn't read here (an encapsulation), is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FibHop {
    /// The index of the link.
    pub device: Option<u32>,
    /// The router; of the other family where IPv4 goes by IPv6 (RFC 8950).
    pub gateway: Option<IpAddr>,
}

impl Netlink {
    /// The entries of one table, of one family, in the kernel's order: of several to one destination with one metric, the
    /// first is the one that it takes. With `device`, only those that have a next hop by that link.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn fib(
        &self,
        family: Family,
        table: u32,
        device: Option<u32>,
    ) -> Result<Vec<FibRoute>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = wire::family(family);
        message.attributes.push(RouteAttribute::Table(table));
        message.attributes.extend(device.map(RouteAttribute::Oif));
        let request = RouteNetlinkMessage::GetRoute(message);
        let result = self
            .dumps
            .read("list a routing table", request, |message| match message {
                RouteNetlinkMessage::NewRoute(route) => decode(&route),
                _ => None,
            })
            .await;
        let mut routes = match result {
            // A table that was never used.
            Err(error) if error.errno() == Some(errno::ENOENT) => Vec::new(),
            other => other?,
        };
        let is_by = |hop: &FibHop| device.is_none() || hop.device == device;
        routes.retain(|route| route.table == table && (device.is_none() || route.hops.iter().any(is_by)));
        Ok(routes)
    }
}

/// Decodes an entry of the FIB; none where it is neither IPv4 nor IPv6, or takes only some of the packets to its destination
/// (by source or type of service), or is what path MTU discovery made of another one.
fn decode(message: &RouteMessage) -> Option<FibRoute> {
    let header = &message.header;
    let mut destination = wire::unspecified(wire::known_family(header.address_family)?);
    if header.tos != 0 || header.source_prefix_length != 0 || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut route = FibRoute {
        table: u32::from(header.table),
        destination: IpNet::from(destination),
        metric: 0,
        protocol: header.protocol.into(),
        hops: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Destination(address) => destination = wire::ip(address)?,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::MultiPath(hops) => {
                let hops = hops.iter();
                route
                    .hops
                    .extend(hops.map(|hop| decode_hop(Some(hop.interface_index), &hop.attributes)));
            }
            _ => {}
        }
    }
    if header.kind == RouteType::Unicast {
        if route.hops.is_empty() {
            route.hops.push(decode_hop(None, &message.attributes));
        }
    } else {
        route.hops.clear();
    }
    route.destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some(route)
}

fn decode_hop(device: Option<u32>, attributes: &[RouteAttribute]) -> FibHop {
    let mut hop = FibHop {
        device,
        gateway: None,
    };
    let mut wrapped = false;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => hop.device = Some(*index),
            RouteAttribute::Gateway(address) => hop.gateway = wire::ip(address),
            RouteAttribute::Via(RouteVia::Inet(address)) => hop.gateway = Some(IpAddr::V4(*address)),
            RouteAttribute::Via(RouteVia::Inet6(address)) => hop.gateway = Some(IpAddr::V6(*address)),
            RouteAttribute::Encap(_) => wrapped = true,
            _ => {}
        }
    }
    hop.gateway = hop.gateway.filter(|_| !wrapped);
    hop
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::{RouteAddress, RouteNextHop, RouteProtocol};

    use super::*;

    fn message(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = wire::family(Family::V4);
        message.header.destination_prefix_length = 24;
        message.header.protocol = RouteProtocol::from(186);
        message.header.kind = kind;
        let destination = RouteAttribute::Destination(RouteAddress::Inet([10, 20, 0, 0].into()));
        message.attributes = vec![
            RouteAttribute::Table(10_001),
            destination,
            RouteAttribute::Priority(20),
        ];
        message.attributes.extend(attributes);
        message
    }

    fn hop(device: u32, gateway: &str) -> FibHop {
        FibHop {
            device: Some(device),
            gateway: Some(gateway.parse().unwrap()),
        }
    }

    #[test]
    fn a_route_has_its_next_hops() {
        let by_v6 = |last| RouteAttribute::Via(RouteVia::Inet6(format!("fe80::{last}").parse().unwrap()));
        let one = decode(&message(
            RouteType::Unicast,
            vec![RouteAttribute::Oif(7), by_v6(3)],
        ))
        .unwrap();
        let expected = FibRoute {
            table: 10_001,
            destination: "10.20.0.0/24".parse().unwrap(),
            metric: 20,
            protocol: 186,
            hops: vec![hop(7, "fe80::3")],
        };
        assert_eq!(one, expected);
        let mut hops = Vec::new();
        for last in [2, 3] {
            let mut hop = RouteNextHop::default();
            hop.interface_index = 7;
            hop.attributes = vec![by_v6(last)];
            hops.push(hop);
        }
        let several = decode(&message(
            RouteType::Unicast,
            vec![RouteAttribute::MultiPath(hops)],
        ))
        .unwrap();
        assert_eq!(several.hops, [hop(7, "fe80::2"), hop(7, "fe80::3")]);
        let refuses = decode(&message(RouteType::BlackHole, vec![RouteAttribute::Oif(1)])).unwrap();
        assert_eq!(refuses.hops, []);
    }

    #[test]
    fn a_next_hop_that_is_not_said_is_none() {
        let on_link = decode(&message(RouteType::Unicast, vec![RouteAttribute::Oif(7)])).unwrap();
        assert_eq!(
            on_link.hops,
            [FibHop {
                device: Some(7),
                gateway: None
            }]
        );
        let by_object = decode(&message(RouteType::Unicast, vec![RouteAttribute::NhId(4)])).unwrap();
        assert_eq!(by_object.hops, [FibHop::default()]);
    }

    #[test]
    fn what_takes_only_some_packets_is_no_entry() {
        let mut by_source = message(RouteType::Unicast, vec![RouteAttribute::Oif(7)]);
        by_source.header.source_prefix_length = 8;
        let mut by_service = message(RouteType::Unicast, vec![RouteAttribute::Oif(7)]);
        by_service.header.tos = 4;
        assert_eq!((decode(&by_source), decode(&by_service)), (None, None));
    }
}
