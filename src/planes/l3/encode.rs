//! Objects of this plane as netlink writes them. Pure.

use crate::model::LinkName;
use crate::model::ownership::{MARK_MASK, ROUTE_PROTOCOL};
use crate::sys::netlink::{self as nl, address_flag, scope};

use super::state::{Family, HostAddress, RouteKey, RouteTo, Rule, Selector};

/// An address of a link of ours.
pub(super) fn own_address(index: u32, address: ipnet::IpNet) -> nl::Address {
    let link_local = matches!(address, ipnet::IpNet::V6(net) if net.addr().is_unicast_link_local());
    nl::Address {
        index,
        local: address.addr(),
        prefix_len: address.prefix_len(),
        peer: None,
        broadcast: None,
        label: None,
        scope: if link_local { scope::LINK } else { scope::UNIVERSE },
        flags: match address {
            ipnet::IpNet::V4(_) => 0,
            ipnet::IpNet::V6(_) => address_flag::NODAD,
        },
        route_metric: None,
    }
}

/// An address of a LAN interface, as it was.
pub(super) fn host_address(index: u32, address: &HostAddress) -> nl::Address {
    nl::Address {
        index,
        local: address.address.addr(),
        prefix_len: address.address.prefix_len(),
        peer: address.peer,
        broadcast: address.broadcast,
        label: address.label.clone(),
        scope: address.scope,
        flags: address.flags,
        route_metric: address.route_metric,
    }
}

/// A route; without a device one of any kind that has the key, for deletion.
pub(super) fn route(key: &RouteKey, to: &RouteTo, device: Option<u32>) -> nl::Route {
    let (kind, gateway, source, mtu) = match to {
        RouteTo::Unreachable => (nl::RouteKind::Unreachable, None, None, None),
        RouteTo::Link {
            gateway, source, mtu, ..
        } if device.is_some() => (nl::RouteKind::Unicast, *gateway, *source, *mtu),
        // Type 0 asks for whatever is there.
        RouteTo::Link { .. } | RouteTo::Elsewhere => (nl::RouteKind::Other(0), None, None, None),
    };
    nl::Route {
        table: key.table,
        destination: key.destination,
        metric: key.metric,
        protocol: ROUTE_PROTOCOL,
        kind,
        device,
        gateway,
        source,
        mtu,
        other: false,
    }
}

/// The interface that this host's own packets come in by, as rules see them.
pub(super) const LOOPBACK: &str = "lo";

/// A rule.
pub(super) fn rule(rule: &Rule) -> nl::Rule {
    let name = |link: &LinkName| Some(link.to_string());
    let (iif, oif, from) = match &rule.selector {
        Selector::Iif(link) => (name(link), None, None),
        Selector::Oif(link) => (None, name(link), None),
        Selector::From(address) => (None, None, Some((*address).into())),
        Selector::Own(net) => (Some(LOOPBACK.to_owned()), None, Some(*net)),
        Selector::Mark(_) | Selector::L3mdev => (None, None, None),
    };
    let mark = match &rule.selector {
        Selector::Mark(mark) => Some((*mark, MARK_MASK)),
        Selector::Iif(_) | Selector::Oif(_) | Selector::From(_) | Selector::Own(_) | Selector::L3mdev => None,
    };
    nl::Rule {
        family: match rule.family {
            Family::V4 => nl::Family::V4,
            Family::V6 => nl::Family::V6,
        },
        priority: rule.priority,
        table: rule.table,
        protocol: ROUTE_PROTOCOL,
        iif,
        oif,
        from,
        mark,
        l3mdev: rule.selector == Selector::L3mdev,
        other: false,
    }
}
