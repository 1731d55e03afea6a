//! Port mappings: from the underlay into a network.

use super::*;

/// The first two lead to the same target.
const PORTS: &str = r#"
[[networks.port_mappings]]
name = "also"
hub = "hub-1"
listen_port = 8080
protocol = "tcp"
to = { node = "db-1" }
target_port = 8443
source_cidrs = ["0.0.0.0/0"]
[[networks.port_mappings]]
name = "web"
hub = "hub-1"
listen_port = 443
protocol = "tcp"
to = { node = "db-1" }
target_port = 8443
source_cidrs = ["192.0.2.0/24", "2001:db8::/32"]
max_connections = 200
rate_limit_per_second = 5
[[networks.port_mappings]]
name = "dns"
hub = "hub-1"
listen_port = 53
protocol = "udp"
to = { node = "web-1" }
target_port = 5353
source_cidrs = ["0.0.0.0/0"]
[[networks.port_mappings]]
name = "off"
hub = "hub-1"
listen_port = 444
protocol = "tcp"
to = { node = "db-1" }
target_port = 8443
source_cidrs = ["0.0.0.0/0"]
enabled = false
"#;

pub(super) fn mapped() -> Fleet {
    // The hub is reached over both families.
    let nodes = NODES.replace("[\"203.0.113.1\"]", "[\"203.0.113.1\", \"2001:db8:1::1\"]");
    let text = format!("{nodes}\n{PROD}\n{PORTS}");
    match config::parse_fleet(&[("fleet.d/00.toml".into(), text)]) {
        Ok(parsed) => parsed.fleet,
        Err(found) => panic!("{found}"),
    }
}

/// The verdict, the mapping, and where it is blocked by what.
fn came_of(question: &str) -> (Verdict, Option<String>, Option<String>, Option<&'static str>) {
    let answer = ask(&mapped(), question).unwrap();
    let blocker = answer.blocker.as_ref();
    (
        answer.verdict,
        answer.mapping.as_ref().map(|mapping| mapping.name.to_string()),
        blocker.and_then(|blocker| blocker.node.as_ref().map(ToString::to_string)),
        blocker.map(|blocker| blocker.check),
    )
}

#[test]
fn a_port_of_the_underlay_leads_into_the_network_and_back() {
    let answer = ask(&mapped(), "192.0.2.7 203.0.113.1 tcp/443").unwrap();
    assert_eq!(answer.verdict_line(), "allowed by port mapping web", "{answer}");
    let mapping = answer.mapping.as_ref().unwrap();
    assert_eq!(mapping.target.to_string(), "100.64.20.12:8443");
    assert_eq!(mapping.node.as_ref().unwrap().as_str(), "db-1");
    assert_eq!(mapping.seen_source.to_string(), "100.64.20.1");
    let way = |hops: &[Hop]| -> Vec<String> {
        let hops = hops.iter();
        hops.map(|hop| format!("{} {}", hop.node, hop.hook.unwrap()))
            .collect()
    };
    assert_eq!(way(&answer.hops), ["hub-1 forward", "db-1 input"]);
    assert_eq!(way(&answer.answers), ["db-1 output", "hub-1 forward"]);
    let text = answer.to_string();
    for line in [
        "port mapping web: 203.0.113.1:443 becomes 100.64.20.12:8443 (db-1), which sees 100.64.20.1 as the source and answers it\n",
        "    note     limits             at most 200 connections at once, 5 new connections a second: what goes beyond is dropped\n",
        "    ok       firewall           input: port mapping web sends it\n",
        "    ok       route              192.0.2.7 by the underlay's own routes\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    // Over IPv6, and by the hub's name.
    let target = |question: &str| {
        ask(&mapped(), question)
            .unwrap()
            .mapping
            .unwrap()
            .target
            .to_string()
    };
    assert_eq!(
        target("2001:db8::7 2001:db8:1::1 tcp/443"),
        "[fd12:34ab:cd42:20::c]:8443"
    );
    assert_eq!(target("2001:db8::7 hub-1 tcp/443"), "[fd12:34ab:cd42:20::c]:8443");
    assert_eq!(target("hub-2 203.0.113.1 udp/53"), "100.64.20.11:5353");
}

#[test]
fn who_may_not_connect_is_told_why() {
    let blocked = |verdict, mapping: Option<&str>, node: Option<&str>, check| {
        (
            verdict,
            mapping.map(str::to_owned),
            node.map(str::to_owned),
            Some(check),
        )
    };
    for (question, expected) in [
        (
            "198.51.100.7 203.0.113.1 tcp/443",
            blocked(Verdict::Deny, Some("web"), Some("hub-1"), "source_cidrs"),
        ),
        // A family without an entry.
        (
            "2001:db8::7 2001:db8:1::1 udp/53",
            blocked(Verdict::Deny, Some("dns"), Some("hub-1"), "source_cidrs"),
        ),
        (
            "192.0.2.7 203.0.113.1 tcp/444",
            blocked(Verdict::Unreachable, None, Some("hub-1"), "port_mapping"),
        ),
        // Nothing listens: another port, another protocol, another host.
        (
            "192.0.2.7 203.0.113.1 tcp/8443",
            blocked(Verdict::Unreachable, None, None, "port_mapping"),
        ),
        (
            "192.0.2.7 203.0.113.1 udp/443",
            blocked(Verdict::Unreachable, None, None, "port_mapping"),
        ),
        (
            "192.0.2.7 203.0.113.2 tcp/443",
            blocked(Verdict::Unreachable, None, None, "port_mapping"),
        ),
        (
            "192.0.2.7 203.0.113.1 icmp",
            blocked(Verdict::Unreachable, None, None, "port_mapping"),
        ),
        // Nor does the target's own address.
        (
            "192.0.2.7 100.64.20.12 tcp/8443",
            blocked(Verdict::Unreachable, None, None, "network"),
        ),
    ] {
        assert_eq!(came_of(question), expected, "{question}");
    }
    let fix = |question: &str| ask(&mapped(), question).unwrap().blocker.unwrap().fix.unwrap();
    assert_eq!(
        fix("198.51.100.7 203.0.113.1 tcp/443"),
        "add \"198.51.100.7/32\" to source_cidrs of port mapping web in network prod"
    );
    assert!(fix("192.0.2.7 203.0.113.1 tcp/444").contains("enabled = true"));
    assert!(fix("192.0.2.7 203.0.113.2 tcp/443").contains("hub = \"hub-2\", listen_port = 443"));
}

#[test]
fn the_underlay_is_asked_for_only_by_its_addresses() {
    let fleet = mapped();
    // Two members of a network.
    assert_eq!(ask(&fleet, "web-1 hub-1 tcp/443").unwrap().mapping, None);
    for (question, error) in [
        (
            "web-1 203.0.113.1 tcp/443",
            "the fleet knows no underlay address of web-1",
        ),
        (
            "2001:db8::7 203.0.113.1 tcp/443",
            "2001:db8::7 has no address in the family of 203.0.113.1",
        ),
    ] {
        let said = ask(&fleet, question).unwrap_err().to_string();
        assert!(said.contains(error), "{said}");
    }
    // What the hub sends itself never comes in.
    let own = ask(&fleet, "203.0.113.1 203.0.113.1 tcp/443").unwrap();
    let blocker = own.blocker.unwrap();
    assert_eq!(
        (own.verdict, blocker.check),
        (Verdict::Unreachable, "port_mapping")
    );
    assert!(blocker.text.contains("sends itself"), "{}", blocker.text);
}
