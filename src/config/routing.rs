//! iBGP timers, route policies, leaks between networks, and bridges to other sites.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::files::Spot;
use super::network::{Parts, unique};
use super::reader::{Bad, Cursor, Entry};
use super::values::{LeakDirection, Passes};
use crate::model::Name;
use crate::model::check::Object;
use crate::model::routing::{
    Bfd, BgpSettings, Bridge, Export, PolicyMatch, PolicyScope, PolicySet, PolicyStatement, RouteLeak,
    RoutePolicy,
};

/// `bgp` of a network.
pub(super) fn read_bgp(network: &Cursor<'_>) -> BgpSettings {
    let default = BgpSettings::default();
    let Some(cursor) = network.child("bgp") else {
        return default;
    };
    let hold_seconds = cursor.within_or("hold_seconds", &(3..=65_535), default.hold_seconds);
    let keepalive_seconds = cursor.within_or("keepalive_seconds", &(1..=21_845), default.keepalive_seconds);
    if keepalive_seconds >= hold_seconds {
        let bad = Bad::new(format!(
            "keepalives every {keepalive_seconds} s don't hold a session of {hold_seconds} s"
        ));
        let key = if cursor.has("keepalive_seconds") {
            "keepalive_seconds"
        } else {
            "hold_seconds"
        };
        cursor.fail(
            key,
            bad.hint("hold_seconds is usually three times keepalive_seconds"),
        );
    }
    let bfd = if cursor.is_table("bfd") {
        cursor.child("bfd").map(|bfd| read_bfd(&bfd))
    } else {
        cursor.or("bfd", true).then(Bfd::default)
    };
    let graceful_restart = cursor.or("graceful_restart", default.graceful_restart);
    cursor.finish();
    BgpSettings {
        hold_seconds,
        keepalive_seconds,
        graceful_restart,
        bfd,
    }
}

/// Ranges as in FRR's `bfdd`.
fn read_bfd(cursor: &Cursor<'_>) -> Bfd {
    let default = Bfd::default();
    let bfd = Bfd {
        rx_ms: cursor.within_or("rx_ms", &(10..=60_000), default.rx_ms),
        tx_ms: cursor.within_or("tx_ms", &(10..=60_000), default.tx_ms),
        multiplier: cursor.within_or("multiplier", &(2..=255), default.multiplier),
    };
    cursor.finish();
    bfd
}

/// `[[networks.route_policies]]`
pub(super) fn read_policies(network: &Cursor<'_>, parts: &mut Parts) -> Vec<RoutePolicy> {
    let mut seen = BTreeMap::new();
    let mut policies = Vec::new();
    for cursor in network.children("route_policies") {
        let policy = read_policy(&cursor);
        cursor.finish();
        let Some(policy) =
            policy.filter(|policy| unique(&cursor, "route policy of this network", &policy.name, &mut seen))
        else {
            continue;
        };
        let object = Object::RoutePolicy {
            network: parts.network.clone(),
            name: policy.name.clone(),
        };
        parts.spots.push((object, cursor.spot()));
        policies.push(policy);
    }
    policies
}

fn read_policy(cursor: &Cursor<'_>) -> Option<RoutePolicy> {
    let name = cursor.need("name");
    let direction = cursor.need("direction");
    let scope = match cursor.child("scope") {
        None => Some(PolicyScope::Network),
        Some(scope) => {
            let read = match scope.one_of(&["node", "bridge"]) {
                Some("node") => scope.get("node").map(PolicyScope::Node),
                Some(_) => scope.get("bridge").map(PolicyScope::Bridge),
                None => None,
            };
            scope.finish();
            read
        }
    };
    let statements: Vec<PolicyStatement> = cursor
        .children("statements")
        .iter()
        .filter_map(read_statement)
        .collect();
    if !cursor.has("statements") {
        cursor.missing("statements");
    } else if statements.is_empty() {
        cursor.fail(
            "statements",
            Bad::new("a policy needs a statement").hint("{ action = \"accept\" } passes all"),
        );
    }
    let enabled = cursor.or("enabled", true);
    Some(RoutePolicy {
        name: name?,
        direction: direction?,
        scope: scope?,
        statements,
        enabled,
    })
}

fn read_statement(cursor: &Cursor<'_>) -> Option<PolicyStatement> {
    let matches = cursor.child("match").map(|cursor| {
        let community_in: Vec<String> = cursor.list("community_in").unwrap_or_default();
        for community in community_in.iter().filter(|community| !is_community(community)) {
            cursor.fail("community_in", not_a_community(community));
        }
        let as_path_regex: Option<String> = cursor.get("as_path_regex");
        if as_path_regex
            .as_deref()
            .is_some_and(|regex| !is_as_path_regex(regex))
        {
            let bad = Bad::new(
                "an AS path expression has digits and _ ^ $ . * + ? | ( ) [ ] - , { } and blanks only",
            );
            cursor.fail("as_path_regex", bad);
        }
        let matches = PolicyMatch {
            prefix_in: cursor.list("prefix_in").unwrap_or_default(),
            as_path_regex,
            community_in,
            tag_in: cursor.list("tag_in").unwrap_or_default(),
            peer_in: cursor.list("peer_in").unwrap_or_default(),
        };
        cursor.finish();
        matches
    });
    let set = cursor.child("set").map(|cursor| {
        let add_community: Option<String> = cursor.get("add_community");
        if let Some(community) = add_community
            .as_deref()
            .filter(|community| !is_community(community))
        {
            cursor.fail("add_community", not_a_community(community));
        }
        let set = PolicySet {
            local_pref: cursor.get("local_pref"),
            med: cursor.get("med"),
            prepend_as_path: cursor.within("prepend_as_path", &(1..=10)),
            add_community,
        };
        cursor.finish();
        set
    });
    let action: Option<Passes> = cursor.need("action");
    cursor.finish();
    Some(PolicyStatement {
        matches: matches.unwrap_or_default(),
        set: set.unwrap_or_default(),
        accept: action?.0,
    })
}

/// RFC 1997: two 16-bit numbers.
fn is_community(text: &str) -> bool {
    let is_number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()) && part.parse::<u16>().is_ok();
    text.split_once(':')
        .is_some_and(|(high, low)| is_number(high) && is_number(low))
}

fn not_a_community(text: &str) -> Bad {
    Bad::new(format!("{} is no community", super::values::quoted(text)))
        .hint("like \"65000:100\": two numbers up to 65535")
}

fn is_as_path_regex(text: &str) -> bool {
    text.len() <= 256
        && text
            .chars()
            .all(|c| c.is_ascii_digit() || " _^$.*+?|()[]-,{}".contains(c))
}

/// `[[route_leaks]]`
pub(super) fn read_leaks(root: &Cursor<'_>) -> Vec<(RouteLeak, Spot)> {
    let mut leaks = Vec::new();
    for cursor in root.children("route_leaks") {
        let (from, to) = (cursor.need("from"), cursor.need("to"));
        let direction = cursor.or("direction", LeakDirection { bidirectional: false });
        let prefixes: Vec<IpNet> = cursor.list("prefixes").unwrap_or_default();
        if !cursor.has("prefixes") {
            cursor.missing("prefixes");
        } else if prefixes.is_empty() {
            cursor.fail(
                "prefixes",
                Bad::new("a leak of nothing").hint("list the prefixes that may cross"),
            );
        }
        cursor.finish();
        if let (Some(from), Some(to)) = (from, to) {
            leaks.push((
                RouteLeak {
                    from,
                    to,
                    bidirectional: direction.bidirectional,
                    prefixes,
                },
                cursor.spot(),
            ));
        }
    }
    leaks
}

/// One of `[[bridges]]`.
pub(super) fn read_bridge(cursor: &Cursor<'_>) -> (Option<Name>, Option<Bridge>) {
    let name: Option<Name> = cursor.need("name");
    let (peer, network): (_, Option<Name>) = (cursor.need("peer"), cursor.need("network"));
    let remote_network: Option<Name> = cursor.get("remote_network");
    let gateways: Vec<Name> = cursor.set("gateways");
    if !cursor.has("gateways") {
        cursor.missing("gateways");
    } else if gateways.is_empty() {
        cursor.fail("gateways", Bad::new("a bridge needs a gateway"));
    }
    let import = cursor.list("import").unwrap_or_default();
    let mut export = Vec::new();
    for entry in cursor.entries("export") {
        match entry {
            Entry::Value(value) => export.extend(cursor.entry("export", value).map(Export::Prefix)),
            Entry::Table(table) => {
                export.extend(table.need("vip").map(Export::Vip));
                table.finish();
            }
        }
    }
    let enabled = cursor.or("enabled", true);
    cursor.finish();
    let bridge = match (&name, peer, network) {
        (Some(name), Some(peer), Some(network)) => Some(Bridge {
            name: name.clone(),
            peer,
            remote_network: remote_network.unwrap_or_else(|| network.clone()),
            network,
            gateways,
            import,
            export,
            enabled,
        }),
        _ => None,
    };
    (name, bridge)
}
