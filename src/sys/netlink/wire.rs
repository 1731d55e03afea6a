//! Messages to plain types and back. Pure.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the message enums are non-exhaustive, with dozens of variants that never come here"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
};

use super::types::{
    AddMode, Address, Family, Hop, Link, NewLink, NewLinkKind, Route, RouteAnswer, RouteKind, RouteQuestion,
    Rule, Write, address_flag, scope,
};

pub(super) fn family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// Decodes a link; none where it has no name (messages of other families).
pub(super) fn decode_link(message: &LinkMessage) -> Option<Link> {
    let header = &message.header;
    let mut link = Link {
        index: header.index,
        name: String::new(),
        kind: None,
        alias: None,
        group: 0,
        master: None,
        mtu: 0,
        up: header.flags.contains(LinkFlags::Up),
        loopback: header.flags.contains(LinkFlags::Loopback),
        vrf_table: None,
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::IfAlias(alias) = attribute {
            link.alias = Some(alias.clone()).filter(|alias| !alias.is_empty());
        } else if let LinkAttribute::Group(group) = attribute {
            link.group = *group;
        } else if let LinkAttribute::Controller(master) = attribute {
            link.master = Some(*master).filter(|master| *master != 0);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = *mtu;
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            for info in infos {
                if let LinkInfo::Kind(kind) = info {
                    link.kind = Some(kind.to_string());
                } else if let LinkInfo::Data(InfoData::Vrf(data)) = info {
                    link.vrf_table = data.iter().find_map(|item| match item {
                        InfoVrf::TableId(table) => Some(*table),
                        _ => None,
                    });
                }
            }
        }
    }
    (header.interface_family == AddressFamily::Unspec && !link.name.is_empty()).then_some(link)
}

/// Decodes an address; none where it is neither IPv4 nor IPv6.
pub(super) fn decode_address(message: &AddressMessage) -> Option<Address> {
    let header = &message.header;
    let (mut local, mut address) = (None, None);
    let (mut broadcast, mut label, mut route_metric) = (None, None, None);
    let mut flags = u32::from(header.flags.bits());
    for attribute in &message.attributes {
        if let AddressAttribute::Local(ip) = attribute {
            local = Some(*ip);
        } else if let AddressAttribute::Address(ip) = attribute {
            address = Some(*ip);
        } else if let AddressAttribute::Broadcast(ip) = attribute {
            broadcast = Some(*ip);
        } else if let AddressAttribute::Label(text) = attribute {
            label = Some(text.clone());
        } else if let AddressAttribute::Flags(all) = attribute {
            flags = all.bits();
        } else if let AddressAttribute::RoutePriority(metric) = attribute {
            route_metric = Some(*metric);
        }
    }
    let local = local.or(address)?;
    Some(Address {
        index: header.index,
        local,
        prefix_len: header.prefix_len,
        peer: address.filter(|peer| *peer != local),
        broadcast,
        label,
        scope: header.scope.into(),
        flags,
        route_metric,
    })
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

pub(super) const fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

pub(super) fn known_family(family: AddressFamily) -> Option<Family> {
    match family {
        AddressFamily::Inet => Some(Family::V4),
        AddressFamily::Inet6 => Some(Family::V6),
        _ => None,
    }
}

/// Decodes a route; none where it is neither IPv4 nor IPv6.
pub(super) fn decode_route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let family = known_family(header.address_family)?;
    let mut destination = unspecified(family);
    let mut route = Route {
        table: u32::from(header.table),
        destination: IpNet::from(destination),
        metric: 0,
        protocol: header.protocol.into(),
        kind: match header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::Unreachable => RouteKind::Unreachable,
            other => RouteKind::Other(other.into()),
        },
        device: None,
        gateway: None,
        source: None,
        mtu: None,
        other: header.tos != 0
            || header.source_prefix_length != 0
            || header.flags.contains(RouteFlags::Cloned),
    };
    for attribute in &message.attributes {
        match attribute {
            // Tables above 255 have 252 in the header; the attribute is the truth.
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(index) => route.device = Some(*index),
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Metrics(metrics) => route.mtu = mtu_of(metrics),
            RouteAttribute::MultiPath(_)
            | RouteAttribute::Encap(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::NhId(_) => {
                route.other = true;
            }
            _ => {}
        }
    }
    route.destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    if route.kind == RouteKind::Unreachable {
        // IPv6 names `lo` here.
        route.device = None;
    }
    Some(route)
}

/// A route's own MTU; 0 is the kernel's word for none.
fn mtu_of(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
        _ => None,
    })
}

/// `RTN_LOCAL` of rtnetlink(7).
const LOCAL: u8 = 2;

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

/// Asks where one packet goes.
pub(super) fn encode_question(asked: &RouteQuestion) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut message = RouteMessage::default();
    let full = if asked.destination.is_ipv4() { 32 } else { 128 };
    message.header.address_family = family(Family::of(asked.destination));
    message.header.destination_prefix_length = full;
    message.header.source_prefix_length = full;
    let addresses = [
        RouteAttribute::Destination(route_address(asked.destination)),
        RouteAttribute::Source(route_address(asked.source)),
    ];
    message.attributes.extend(addresses);
    message.attributes.extend(asked.came_in.map(RouteAttribute::Iif));
    message.attributes.extend(asked.bound_to.map(RouteAttribute::Oif));
    message.attributes.extend(asked.mark.map(RouteAttribute::Mark));
    request(RouteNetlinkMessage::GetRoute(message), 0)
}

/// Decodes the answer.
pub(super) fn decode_answer(message: &RouteMessage) -> Option<RouteAnswer> {
    let route = decode_route(message)?;
    Some(if route.kind == RouteKind::Other(LOCAL) {
        RouteAnswer::Local
    } else {
        RouteAnswer::Route(route)
    })
}

/// Decodes a rule; none where it is neither IPv4 nor IPv6.
pub(super) fn decode_rule(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    let family = known_family(header.family)?;
    let mut rule = Rule {
        family,
        priority: 0,
        table: u32::from(header.table),
        protocol: 0,
        iif: None,
        oif: None,
        from: None,
        mark: None,
        l3mdev: false,
        other: header.action != RuleAction::ToTable
            || header.dst_len != 0
            || header.tos != 0
            || header.flags.contains(RuleFlags::Invert),
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Protocol(protocol) => rule.protocol = (*protocol).into(),
            RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
            RuleAttribute::Oifname(name) => rule.oif = Some(name.clone()),
            RuleAttribute::Source(address) => rule.from = IpNet::new(*address, header.src_len).ok(),
            RuleAttribute::L3MDev(on) => rule.l3mdev = *on,
            RuleAttribute::FwMark(mark) => {
                rule.mark = Some((*mark, rule.mark.map_or(u32::MAX, |(_, mask)| mask)));
            }
            RuleAttribute::FwMask(mask) => rule.mark = Some((rule.mark.map_or(0, |(mark, _)| mark), *mask)),
            RuleAttribute::TunId(_)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => rule.other = true,
            RuleAttribute::SuppressPrefixLen(length) if *length != u32::MAX => rule.other = true,
            _ => {}
        }
    }
    Some(rule)
}

/// A question for the route to an address. The answer is the route itself (`RTM_F_FIB_MATCH`), without what path MTU
/// discovery or a redirect made of it.
pub(super) fn encode_hop(address: IpAddr) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(Family::of(address));
    message.header.flags = RouteFlags::FibMatch;
    let (length, destination) = match address {
        IpAddr::V4(ip) => (32, RouteAddress::Inet(ip)),
        IpAddr::V6(ip) => (128, RouteAddress::Inet6(ip)),
    };
    message.header.destination_prefix_length = length;
    message.attributes.push(RouteAttribute::Destination(destination));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(message));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message
}

/// Decodes the answer; none where the route is one that refuses.
pub(super) fn decode_hop(message: &RouteMessage) -> Option<Hop> {
    if !matches!(message.header.kind, RouteType::Unicast | RouteType::Local) {
        return None;
    }
    let mut hop = Hop::default();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => hop.devices.push(*index),
            RouteAttribute::MultiPath(hops) => {
                hop.devices.extend(hops.iter().map(|hop| hop.interface_index));
            }
            RouteAttribute::Metrics(metrics) => hop.mtu = mtu_of(metrics),
            _ => {}
        }
    }
    Some(hop)
}

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;

const fn mode_flags(mode: AddMode) -> u16 {
    match mode {
        AddMode::Create => CREATE,
        AddMode::Replace => NLM_F_CREATE | NLM_F_REPLACE,
    }
}

fn link_by_name(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn encode_new_link(new: &NewLink) -> LinkMessage {
    let mut message = link_by_name(&new.name);
    let info = match &new.kind {
        NewLinkKind::Wireguard => vec![LinkInfo::Kind(InfoKind::Wireguard)],
        NewLinkKind::Dummy => vec![LinkInfo::Kind(InfoKind::Dummy)],
        NewLinkKind::Vrf { table } => vec![
            LinkInfo::Kind(InfoKind::Vrf),
            LinkInfo::Data(InfoData::Vrf(vec![InfoVrf::TableId(*table)])),
        ],
    };
    message.attributes.push(LinkAttribute::Group(new.group));
    if let Some(mtu) = new.mtu {
        message.attributes.push(LinkAttribute::Mtu(mtu));
    }
    message.attributes.push(LinkAttribute::LinkInfo(info));
    message
}

/// A creation that no kernel performs: the number of queues is invalid, which is checked after the kind is known.
pub(super) fn encode_probe(kind: &str) -> NetlinkMessage<RouteNetlinkMessage> {
    // "%d" is a template: it can't clash with a link that exists.
    let mut message = link_by_name("probe%d");
    message.attributes.push(LinkAttribute::NumTxQueues(0));
    message
        .attributes
        .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Other(
            kind.to_owned(),
        ))]));
    request(RouteNetlinkMessage::NewLink(message), CREATE)
}

fn encode_address(address: &Address) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(Family::of(address.local));
    message.header.prefix_len = address.prefix_len;
    message.header.index = address.index;
    message.header.scope = AddressScope::from(address.scope);
    let chosen = address.flags
        & (address_flag::NODAD
            | address_flag::HOMEADDRESS
            | address_flag::MANAGETEMPADDR
            | address_flag::NOPREFIXROUTE);
    let low = u8::try_from(chosen & 0xff).expect("masked to eight bits");
    message.header.flags = AddressHeaderFlags::from_bits_retain(low);
    let attributes = &mut message.attributes;
    attributes.push(AddressAttribute::Local(address.local));
    attributes.push(AddressAttribute::Address(address.peer.unwrap_or(address.local)));
    attributes.extend(address.broadcast.map(AddressAttribute::Broadcast));
    attributes.extend(address.label.clone().map(AddressAttribute::Label));
    attributes.extend(address.route_metric.map(AddressAttribute::RoutePriority));
    attributes.push(AddressAttribute::Flags(AddressFlags::from_bits_retain(chosen)));
    message
}

fn encode_route(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let destination = route.destination.network();
    let family_of = Family::of(destination);
    message.header = RouteHeader {
        address_family: family(family_of),
        destination_prefix_length: route.destination.prefix_len(),
        // 252: the table is in the attribute.
        table: u8::try_from(route.table).unwrap_or(252),
        protocol: RouteProtocol::from(route.protocol),
        scope: match (family_of, route.kind, route.gateway) {
            (Family::V4, RouteKind::Unicast, None) => RouteScope::from(scope::LINK),
            _ => RouteScope::Universe,
        },
        kind: match route.kind {
            RouteKind::Unicast => RouteType::Unicast,
            RouteKind::Unreachable => RouteType::Unreachable,
            RouteKind::Other(other) => RouteType::from(other),
        },
        ..RouteHeader::default()
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    if route.destination.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(destination.into()));
    }
    attributes.push(RouteAttribute::Priority(route.metric));
    attributes.extend(route.device.map(RouteAttribute::Oif));
    attributes.extend(route.gateway.map(|ip| RouteAttribute::Gateway(ip.into())));
    attributes.extend(route.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
    attributes.extend(
        route
            .mtu
            .map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])),
    );
    message
}

fn encode_rule(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.family);
    message.header.action = RuleAction::ToTable;
    message.header.table = u8::try_from(rule.table).unwrap_or(252);
    message.header.src_len = rule.from.map_or(0, |net| net.prefix_len());
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::from(rule.protocol)));
    if rule.l3mdev {
        attributes.push(RuleAttribute::L3MDev(true));
    } else {
        attributes.push(RuleAttribute::Table(rule.table));
    }
    attributes.extend(rule.iif.clone().map(RuleAttribute::Iifname));
    attributes.extend(rule.oif.clone().map(RuleAttribute::Oifname));
    if let Some((mark, mask)) = rule.mark {
        attributes.push(RuleAttribute::FwMark(mark));
        attributes.push(RuleAttribute::FwMask(mask));
    }
    attributes.extend(rule.from.map(|net| RuleAttribute::Source(net.network())));
    message
}

fn request(message: RouteNetlinkMessage, flags: u16) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    message
}

/// The message of a write.
pub(super) fn encode(write: &Write) -> NetlinkMessage<RouteNetlinkMessage> {
    let set = |name: &str, attribute| {
        let mut message = link_by_name(name);
        message.attributes.push(attribute);
        request(RouteNetlinkMessage::SetLink(message), 0)
    };
    match write {
        Write::CreateLink(new) => request(RouteNetlinkMessage::NewLink(encode_new_link(new)), CREATE),
        Write::SetAlias { name, alias } => set(name, LinkAttribute::IfAlias(alias.clone())),
        Write::SetMtu { name, mtu } => set(name, LinkAttribute::Mtu(*mtu)),
        Write::SetMaster { name, master } => set(name, LinkAttribute::Controller(master.unwrap_or(0))),
        Write::SetUp { name, up } => {
            let mut message = link_by_name(name);
            message.header.change_mask = LinkFlags::Up;
            if *up {
                message.header.flags = LinkFlags::Up;
            }
            request(RouteNetlinkMessage::SetLink(message), 0)
        }
        Write::DeleteLink { name } => request(RouteNetlinkMessage::DelLink(link_by_name(name)), 0),
        Write::AddAddress(address, mode) => request(
            RouteNetlinkMessage::NewAddress(encode_address(address)),
            mode_flags(*mode),
        ),
        Write::DeleteAddress(address) => {
            // Without the other end: the kernel then asks for this one only.
            let mut message = encode_address(address);
            message
                .attributes
                .retain(|attribute| matches!(attribute, AddressAttribute::Local(_)));
            request(RouteNetlinkMessage::DelAddress(message), 0)
        }
        Write::AddRoute(route, mode) => request(
            RouteNetlinkMessage::NewRoute(encode_route(route)),
            mode_flags(*mode),
        ),
        Write::DeleteRoute(route) => {
            let mut message = encode_route(route);
            // "Of any scope".
            message.header.scope = RouteScope::NoWhere;
            request(RouteNetlinkMessage::DelRoute(message), 0)
        }
        Write::AddRule(rule) => request(RouteNetlinkMessage::NewRule(encode_rule(rule)), CREATE),
        Write::DeleteRule(rule) => request(RouteNetlinkMessage::DelRule(encode_rule(rule)), 0),
    }
}
