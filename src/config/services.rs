//! `[[offers]]` and `[[subscriptions]]`: services across bridges.

use std::net::IpAddr;

use super::reader::{Bad, Cursor};
use super::rules::{MAX_PORTS, read_selector};
use crate::model::Name;
use crate::model::network::{PortRange, Protocol, Selector};
use crate::model::service::{Access, Offer, Subscription};

/// One of `[[offers]]`.
pub(super) fn read_offer(cursor: &Cursor<'_>) -> (Option<Name>, Option<Offer>) {
    let name: Option<Name> = cursor.need("name");
    let (bridge, vip) = (cursor.need("bridge"), cursor.need("vip"));
    let access = read_access(cursor);
    let description = cursor.get("description");
    cursor.finish();
    let offer = match (&name, bridge, vip, access) {
        (Some(name), Some(bridge), Some(vip), Some(access)) => Some(Offer {
            name: name.clone(),
            bridge,
            vip,
            access,
            description,
        }),
        _ => None,
    };
    (name, offer)
}

/// One of `[[subscriptions]]`.
pub(super) fn read_subscription(cursor: &Cursor<'_>) -> (Option<Name>, Option<Subscription>) {
    let name: Option<Name> = cursor.need("name");
    let (bridge, service): (_, Option<Name>) = (cursor.need("bridge"), cursor.get("service"));
    let address: Option<IpAddr> = cursor.need("address");
    let access = read_access(cursor);
    let from = if cursor.has("from") {
        read_selector(cursor, "from")
    } else {
        Some(Selector::Any)
    };
    if let Some(Selector::Federation(_)) = from {
        let bad = Bad::new("a subscription is for this network's own, not for another site");
        cursor.fail(
            "from",
            bad.hint("{ node }, { tag }, { lan_of }, { vip }, { cidr } or \"any\""),
        );
    }
    cursor.finish();
    let subscription = match (&name, bridge, address, access, from) {
        (Some(name), Some(bridge), Some(address), Some(access), Some(from)) => Some(Subscription {
            name: name.clone(),
            bridge,
            service: service.unwrap_or_else(|| name.clone()),
            address,
            access,
            from,
        }),
        _ => None,
    };
    (name, subscription)
}

/// `protocol` and `ports`. Whoever means all ports writes a rule.
fn read_access(cursor: &Cursor<'_>) -> Option<Access> {
    let protocol = cursor.or("protocol", Protocol::Tcp);
    let ports: Option<Vec<PortRange>> = cursor.list("ports");
    if !matches!(protocol, Protocol::Tcp | Protocol::Udp) {
        let bad = Bad::new("a service is \"tcp\" or \"udp\"");
        cursor.fail(
            "protocol",
            bad.hint("for anything else write a rule that names the peer"),
        );
        return None;
    }
    let Some(ports) = ports else {
        if !cursor.has("ports") {
            cursor.missing("ports");
        }
        return None;
    };
    if ports.is_empty() {
        cursor.fail("ports", Bad::new("a service has a port"));
    } else if ports.len() > MAX_PORTS {
        cursor.fail(
            "ports",
            Bad::new(format!("a service has at most {MAX_PORTS} ports or ranges")),
        );
    }
    (1..=MAX_PORTS)
        .contains(&ports.len())
        .then_some(Access { protocol, ports })
}
