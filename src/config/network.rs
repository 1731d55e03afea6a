//! `[[networks]]`: one overlay network, its members, LANs, virtual IPs and port mappings.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::files::Spot;
use super::reader::{Bad, Cursor};
use super::{ovn, routing, rules};
use crate::model::check::Object;
use crate::model::naming;
use crate::model::network::{
    DefaultAction, HealthCheck, Isolation, Lan, LanAttachment, MappingTarget, Member, MemberSelector,
    Network, NetworkId, PortMapping, Protocol, Role, Routing, Topology, VirtualIp,
};
use crate::model::{LinkName, Name};

/// The largest MTU of an overlay link, in bytes: what a link of 65,535 bytes takes over IPv6.
const MAX_MTU: u32 = 65_535 - 80;

/// A network as one fragment gives it: what follows from the site's prefix isn't there yet.
#[derive(Debug)]
pub(super) struct NetworkDraft {
    /// The network; `prefix` and `prefix_v4` are placeholders where they aren't given, and host parts aren't addresses yet.
    pub network: Network,
    /// The prefix, if given.
    pub prefix: Option<Ipv6Net>,
    /// The IPv4 prefix, if given.
    pub prefix_v4: Option<Ipv4Net>,
    /// Where its parts are.
    pub spots: Vec<(Object, Spot)>,
    /// What isn't applied yet.
    pub later: Vec<(Spot, String)>,
    /// Parts that couldn't be read: nobody should be told that they don't exist.
    pub broken: Vec<Name>,
    /// Whether a prefix, member or LAN couldn't be read.
    pub is_shaky: bool,
}

/// Reads one network; `None` where it has no valid name or id.
pub(super) fn read(cursor: &Cursor<'_>) -> (Option<Name>, Option<NetworkDraft>) {
    let name: Option<Name> = cursor.need("name");
    let id: Option<NetworkId> = cursor.need("id");
    let fallback = (
        Name::new("unnamed").expect("it follows the grammar"),
        NetworkId::new(9_999).expect("in range"),
    );
    let mut parts = Parts {
        network: name.clone().unwrap_or(fallback.0),
        spots: Vec::new(),
        later: Vec::new(),
        broken: Vec::new(),
        is_shaky: false,
    };
    let network = read_network(cursor, &mut parts, id.unwrap_or(fallback.1));
    let (network, prefix, prefix_v4) = network;
    cursor.finish();
    let Parts {
        spots,
        later,
        broken,
        is_shaky,
        ..
    } = parts;
    let draft = NetworkDraft {
        network,
        prefix,
        prefix_v4,
        spots,
        later,
        broken,
        is_shaky,
    };
    let is_sound = name.is_some() && id.is_some();
    (name, is_sound.then_some(draft))
}

/// What is noted while a network is read.
pub(super) struct Parts {
    /// The network's name.
    pub network: Name,
    /// Where its parts are.
    pub spots: Vec<(Object, Spot)>,
    /// What isn't applied yet.
    pub later: Vec<(Spot, String)>,
    /// Parts that couldn't be read.
    pub broken: Vec<Name>,
    /// Whether a prefix, member or LAN couldn't be read.
    pub is_shaky: bool,
}

impl Parts {
    /// Notes once that a kind of table isn't applied yet.
    fn later(&mut self, cursor: &Cursor<'_>, key: &'static str) {
        if cursor.has(key) {
            self.later.push((cursor.spot_of(key), format!("networks.{key}")));
        }
    }
}

fn read_network(
    cursor: &Cursor<'_>,
    parts: &mut Parts,
    id: NetworkId,
) -> (Network, Option<Ipv6Net>, Option<Ipv4Net>) {
    let routing = cursor.or("routing", Routing::Ibgp);
    if routing == Routing::Ibgp {
        parts
            .later
            .push((cursor.spot_of("routing"), "routing = \"ibgp\"".to_owned()));
    }
    for key in ["route_policies", "ovn_switches"] {
        parts.later(cursor, key);
    }
    let before = cursor.sink().count();
    let prefix = cursor.get("prefix").filter(|prefix| fits_prefix(cursor, prefix));
    let prefix_v4 = cursor
        .get("prefix_v4")
        .filter(|prefix| fits_prefix_v4(cursor, *prefix));
    let workload_prefix = cursor
        .get("workload_prefix")
        .filter(|p| fits_subnet(cursor, "workload_prefix", p));
    let mut members = Vec::new();
    for ((spot, member), lans) in cursor.children("members").iter().filter_map(read_member) {
        let (network, index) = (&parts.network, members.len());
        parts.spots.push((
            Object::Member {
                network: network.clone(),
                index,
            },
            spot,
        ));
        for (lan, spot) in lans.into_iter().enumerate() {
            parts.spots.push((
                Object::Lan {
                    network: network.clone(),
                    member: index,
                    lan,
                },
                spot,
            ));
        }
        members.push(member);
    }
    parts.is_shaky = cursor.sink().count() > before;
    let network = Network {
        name: parts.network.clone(),
        id,
        topology: cursor.or("topology", Topology::HubAndSpoke),
        routing,
        isolation: cursor.or("isolation", Isolation::Vrf),
        default_action: cursor.or("default_action", DefaultAction::Drop),
        members,
        prefix: prefix.unwrap_or_default(),
        prefix_v4,
        workload_prefix,
        listen_port: cursor.within_or("listen_port", &(1..=65_535), naming::listen_port(id)),
        mtu: cursor.within("mtu", &(1_280..=MAX_MTU)),
        keepalive_seconds: cursor.or("keepalive_seconds", 25),
        bgp: routing::read_bgp(cursor),
        rules: rules::read(cursor, parts),
        virtual_ips: read_virtual_ips(cursor, parts),
        port_mappings: read_port_mappings(cursor, parts),
        route_policies: routing::read_policies(cursor, parts),
        ovn_switches: ovn::read_switches(cursor, parts),
    };
    (network, prefix, prefix_v4)
}

/// A /64 of what may be an overlay: unique local (RFC 4193) or global unicast.
fn fits_prefix(cursor: &Cursor<'_>, prefix: &Ipv6Net) -> bool {
    let first = prefix.network().segments()[0];
    let bad = if prefix.prefix_len() != 64 {
        Bad::new(format!("a network's prefix is a /64, not {prefix}"))
    } else if first & 0xfe00 != 0xfc00 && first & 0xe000 != 0x2000 {
        Bad::new(format!(
            "{prefix} is neither unique local (fd00::/8) nor global unicast (2000::/3)"
        ))
    } else {
        return true;
    };
    cursor.fail(
        "prefix",
        bad.hint("leave it out: it then follows from the site's prefix and the network's id"),
    );
    false
}

fn fits_prefix_v4(cursor: &Cursor<'_>, prefix: Ipv4Net) -> bool {
    if !(8..=30).contains(&prefix.prefix_len()) {
        cursor.fail(
            "prefix_v4",
            Bad::new(format!("a network's IPv4 prefix is a /8 to /30, not {prefix}")),
        );
        return false;
    }
    fits_subnet(cursor, "prefix_v4", &IpNet::V4(prefix))
}

/// Whether hosts can have addresses of a subnet.
fn fits_subnet(cursor: &Cursor<'_>, key: &str, subnet: &IpNet) -> bool {
    let special: &[&str] = match subnet {
        IpNet::V4(_) => &[
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ],
        IpNet::V6(_) => &["::/8", "fe80::/10", "ff00::/8"],
    };
    let special = special.iter().map(|net| net.parse::<IpNet>().expect("a prefix"));
    let Some(special) = special
        .into_iter()
        .find(|net| crate::model::address::overlaps(net, subnet))
    else {
        return true;
    };
    let bad = Bad::new(format!(
        "{subnet} holds addresses that hosts can't have here ({special})"
    ));
    cursor.fail(key, bad);
    false
}

type Located<T> = (Spot, T);

/// Reads one line of `members`, and the places of its LANs.
pub(super) fn read_member(cursor: &Cursor<'_>) -> Option<(Located<Member>, Vec<Spot>)> {
    let select = match cursor.one_of(&["node", "tag"]) {
        Some("node") => cursor.get("node").map(MemberSelector::Node),
        Some(_) => cursor.get("tag").map(MemberSelector::Tag),
        None => None,
    };
    let role = cursor.or("role", Role::Spoke);
    let (mut lans, mut spots) = (Vec::new(), Vec::new());
    for lan in cursor.children("lans") {
        if let Some(read) = read_lan(&lan) {
            lans.push(read);
            spots.push(lan.spot());
        }
        lan.finish();
    }
    let endpoints = cursor.list("endpoints");
    let listen_port = cursor.within("listen_port", &(1..=65_535));
    cursor.finish();
    let member = Member {
        select: select?,
        role,
        lans,
        endpoints,
        listen_port,
    };
    Some(((cursor.spot(), member), spots))
}

fn read_lan(cursor: &Cursor<'_>) -> Option<Lan> {
    let subnet: Option<IpNet> = cursor.need("subnet");
    let subnet = subnet.filter(|subnet| fits_subnet(cursor, "subnet", subnet));
    let attachment = match cursor.one_of(&["interface", "via"]) {
        Some("interface") => {
            let interface: LinkName = cursor.get("interface")?;
            let name = interface.as_str();
            let ours = [naming::WIREGUARD_PREFIX, naming::VRF_PREFIX, naming::DUMMY_PREFIX];
            if name == "lo" || ours.iter().any(|prefix| name.starts_with(prefix)) {
                cursor.fail("interface", Bad::new(format!("a LAN can't be on {name:?}")));
                return None;
            }
            LanAttachment::Interface(interface)
        }
        Some(_) => LanAttachment::Via(cursor.get("via")?),
        None => return None,
    };
    let subnet = subnet?;
    if let LanAttachment::Via(via) = attachment
        && via.is_ipv4() != matches!(subnet, IpNet::V4(_))
    {
        cursor.fail(
            "via",
            Bad::new(format!("{via} and {subnet} are of different address families")),
        );
        return None;
    }
    Some(Lan { subnet, attachment })
}

/// Notes an object's place; `false` where its name is taken.
pub(super) fn unique(cursor: &Cursor<'_>, kind: &str, name: &Name, seen: &mut BTreeMap<Name, Spot>) -> bool {
    if let Some(first) = seen.get(name) {
        cursor.duplicate(kind, name.as_str(), *first);
        return false;
    }
    seen.insert(name.clone(), cursor.spot());
    true
}

fn read_virtual_ips(cursor: &Cursor<'_>, parts: &mut Parts) -> Vec<VirtualIp> {
    let mut seen = BTreeMap::new();
    let mut all = Vec::new();
    for vip in cursor.children("virtual_ips") {
        for key in ["med", "local_pref", "health"] {
            if vip.has(key) {
                let text = format!("networks.virtual_ips.{key}");
                parts.later.push((vip.spot_of(key), text));
            }
        }
        let name: Option<Name> = vip.need("name");
        let address: Option<IpAddr> = vip.need("address");
        let holders: Vec<Name> = vip.set("holders");
        if holders.is_empty() && !vip.has("holders") {
            vip.missing("holders");
        } else if holders.is_empty() {
            vip.fail("holders", Bad::new("a virtual IP needs a holder"));
        }
        let anycast = vip.or("anycast", false);
        let (med, local_pref) = (vip.get("med"), vip.get("local_pref"));
        let health = vip.child("health").and_then(|health| {
            let check = HealthCheck {
                tcp: health.need_within("tcp", &(1..=65_535))?,
                interval_seconds: health.within_or("interval_seconds", &(1..=3_600), 2),
                failures: health.within_or("failures", &(1..=100), 3),
            };
            health.finish();
            Some(check)
        });
        vip.finish();
        let Some(name) = name.filter(|name| unique(&vip, "virtual IP of this network", name, &mut seen))
        else {
            continue;
        };
        let network = parts.network.clone();
        parts.spots.push((
            Object::VirtualIp {
                network,
                name: name.clone(),
            },
            vip.spot(),
        ));
        let Some(address) = address.filter(|_| !holders.is_empty()) else {
            parts.broken.push(name);
            continue;
        };
        all.push(VirtualIp {
            name,
            address,
            holders,
            anycast,
            med,
            local_pref,
            health,
        });
    }
    all
}

fn read_port_mappings(cursor: &Cursor<'_>, parts: &mut Parts) -> Vec<PortMapping> {
    let mut seen = BTreeMap::new();
    let mut all = Vec::new();
    for mapping in cursor.children("port_mappings") {
        let read = read_port_mapping(&mapping);
        mapping.finish();
        let Some(read) =
            read.filter(|read| unique(&mapping, "port mapping of this network", &read.name, &mut seen))
        else {
            continue;
        };
        let network = parts.network.clone();
        parts.spots.push((
            Object::PortMapping {
                network,
                name: read.name.clone(),
            },
            mapping.spot(),
        ));
        all.push(read);
    }
    all
}

fn read_port_mapping(cursor: &Cursor<'_>) -> Option<PortMapping> {
    let ports = 1..=65_535;
    let name = cursor.need("name");
    let hub = cursor.need("hub");
    let listen_port = cursor.need_within("listen_port", &ports);
    let protocol = cursor.or("protocol", Protocol::Tcp);
    if !matches!(protocol, Protocol::Tcp | Protocol::Udp) {
        cursor.fail("protocol", Bad::new("a port mapping is \"tcp\" or \"udp\""));
    }
    let target = cursor.child("to");
    let to = if let Some(target) = &target {
        let to = match target.one_of(&["node", "vip"]) {
            Some("node") => target.get("node").map(MappingTarget::Node),
            Some(_) => target.get("vip").map(MappingTarget::Vip),
            None => None,
        };
        target.finish();
        to
    } else {
        if !cursor.has("to") {
            cursor.missing("to");
        }
        None
    };
    let everywhere = || vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let target_port = cursor.within("target_port", &ports);
    let source_cidrs = cursor.list("source_cidrs").unwrap_or_else(everywhere);
    let max_connections = cursor.within_or("max_connections", &(1..=u32::MAX), 2_000);
    let rate_limit_per_second = cursor.within_or("rate_limit_per_second", &(1..=u32::MAX), 500);
    let enabled = cursor.or("enabled", true);
    let listen_port = listen_port?;
    Some(PortMapping {
        name: name?,
        hub: hub?,
        listen_port,
        protocol,
        to: to?,
        target_port: target_port.unwrap_or(listen_port),
        source_cidrs,
        max_connections: Some(max_connections),
        rate_limit_per_second: Some(rate_limit_per_second),
        enabled,
    })
}
