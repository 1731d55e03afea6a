use super::*;
use crate::config;
use crate::intent::IsolationMode;

mod bridges;
mod live;
mod mapped;

const NODES: &str = r#"
format = 1
[site]
name = "site-a"
prefix = "fd12:34ab:cd42::/48"
[[nodes]]
name = "hub-1"
public_key = "dCdOJ1jXCuOmjKaAFt+NmrXUUY3jnEw/uTXLWVdvMnk="
endpoints = ["203.0.113.1"]
host_id = 1
[[nodes]]
name = "hub-2"
public_key = "Z2hoVDZPSDVyS0M1UEpDUXg2bGNjTmdvWEFvSGdYR2o="
endpoints = ["203.0.113.2"]
host_id = 2
[[nodes]]
name = "web-1"
public_key = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
host_id = 11
[[nodes]]
name = "db-1"
public_key = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI="
host_id = 12
"#;

const PROD: &str = r#"
[[networks]]
name = "prod"
id = 20
routing = "static"
members = [
  { node = "hub-1", role = "hub", lans = [{ subnet = "10.1.0.0/24", interface = "eth1" }] },
  { node = "web-1" },
  { node = "db-1", lans = [{ subnet = "10.2.0.0/24", interface = "eth1" }, { subnet = "fd00:2::/64", interface = "eth1" }] },
]
[[networks.rules]]
name = "web-to-db"
action = "accept"
from = { node = "web-1" }
to = { node = "db-1" }
protocol = "tcp"
ports = ["5432"]
[[networks.rules]]
name = "no-telnet"
priority = 1
action = "reject"
from = "any"
to = "any"
protocol = "tcp"
ports = ["23"]
[[networks.rules]]
name = "to-lan"
action = "accept"
from = { node = "web-1" }
to = { lan_of = "db-1" }
"#;

fn fleet(networks: &str) -> Fleet {
    let text = format!("{NODES}\n{networks}");
    match config::parse_fleet(&[("fleet.d/00.toml".into(), text)]) {
        Ok(parsed) => parsed.fleet,
        Err(found) => panic!("{found}"),
    }
}

const FACTS: Facts = Facts {
    isolation: IsolationMode::Vrf,
    host_services_in_vrf: false,
    dummies: true,
    agreements: crate::model::Agreements::NONE,
    gateway: None,
    underlay: Some(std::collections::BTreeMap::new()),
};

fn ask(fleet: &Fleet, question: &str) -> Result<Explanation, AskError> {
    let words: Vec<&str> = question.split(' ').collect();
    Explainer::offline(fleet, FACTS).explain(&Asked {
        size: None,
        source: words[0].to_owned(),
        destination: words[1].to_owned(),
        flow: words[2].parse().unwrap(),
        network: words.get(3).map(|name| Name::new(name).unwrap()),
    })
}

fn said(fleet: &Fleet, question: &str) -> (Verdict, Option<String>, String) {
    let answer = ask(fleet, question).unwrap();
    let rule = answer.rule.as_ref().map(ToString::to_string);
    (answer.verdict, rule, answer.verdict_line())
}

#[test]
fn a_rule_decides_on_every_host_of_the_way() {
    let fleet = fleet(PROD);
    let answer = ask(&fleet, "web-1 db-1 tcp/5432").unwrap();
    assert_eq!(answer.verdict, Verdict::Allow);
    assert_eq!(answer.verdict_line(), "allowed by rule web-to-db");
    let hops = |hops: &[Hop]| -> Vec<String> {
        let hops = hops.iter();
        hops.map(|hop| format!("{} {}", hop.node, hop.hook.unwrap()))
            .collect()
    };
    assert_eq!(
        hops(&answer.hops),
        ["web-1 output", "hub-1 forward", "db-1 input"]
    );
    assert_eq!(
        hops(&answer.answers),
        ["db-1 output", "hub-1 forward", "web-1 input"]
    );
    assert_eq!(answer.mtu, Some(1420));
    let text = answer.to_string();
    assert!(
        text.starts_with(
            "network prod: web-1 fd12:34ab:cd42:20::b to db-1 fd12:34ab:cd42:20::c, tcp/5432\n  web-1 (by the fleet)\n"
        ),
        "{text}"
    );
    assert!(
        text.contains("    ok       firewall           forward: rule web-to-db accepts\n"),
        "{text}"
    );
}

#[test]
fn the_first_blocker_is_named_with_what_to_do() {
    let fleet = fleet(PROD);
    let (verdict, rule, line) = said(&fleet, "web-1 db-1 tcp/23");
    assert_eq!((verdict, rule.as_deref()), (Verdict::Deny, Some("no-telnet")));
    assert!(
        line.starts_with("blocked: on web-1, firewall: output: rule no-telnet rejects it; fix: "),
        "{line}"
    );
    let (verdict, rule, line) = said(&fleet, "web-1 db-1 tcp/80");
    assert_eq!((verdict, rule), (Verdict::Deny, None));
    let fix = "from = { node = \"web-1\" }, to = { node = \"db-1\" }, protocol = \"tcp\", ports = [\"80\"], action = \"accept\"";
    assert!(line.contains(fix), "{line}");
    // What the fix says opens it.
    let opened = format!(
        "{PROD}\n[[networks.rules]]\nname = \"x\"\nfrom = {{ node = \"web-1\" }}\nto = {{ node = \"db-1\" }}\nprotocol = \"tcp\"\nports = [\"80\"]\naction = \"accept\"\n"
    );
    assert_eq!(
        said(&self::fleet(&opened), "web-1 db-1 tcp/80").1.as_deref(),
        Some("x")
    );
}

#[test]
fn addresses_of_lans_and_of_both_families_are_found() {
    let fleet = fleet(PROD);
    let answer = ask(&fleet, "web-1 10.2.0.7 udp/53").unwrap();
    assert_eq!(answer.verdict_line(), "allowed by rule to-lan");
    let source = answer.source.unwrap();
    assert_eq!(source.address.to_string(), "100.64.20.11");
    assert_eq!(answer.destination.unwrap().node.unwrap().as_str(), "db-1");
    assert_eq!(answer.hops[2].goes_out.as_ref().unwrap().as_str(), "eth1");
    // One with its prefix length, as `ip addr` prints it.
    assert_eq!(said(&fleet, "100.64.20.11/24 10.2.0.9 icmp").0, Verdict::Allow);
    // Neighbours in one LAN.
    let (verdict, rule, line) = said(&fleet, "10.1.0.5 10.1.0.6 tcp/80");
    assert_eq!((verdict, rule), (Verdict::Allow, None), "{line}");
    assert_eq!(line, "allowed: nothing of ours is between them");
}

#[test]
fn what_isnt_clear_is_asked_back() {
    let lab = PROD
        .replace("prod", "lab")
        .replace("id = 20", "id = 21")
        .replace("10.1.0.0", "10.3.0.0")
        .replace("eth1", "eth2");
    let fleet = fleet(&(PROD.to_owned() + &lab));
    assert_eq!(
        ask(&fleet, "web-1 db-1 icmp").unwrap_err().to_string(),
        "web-1 and db-1 are both in the networks lab, prod: say which with --network"
    );
    assert_eq!(said(&fleet, "web-1 db-1 tcp/5432 lab").0, Verdict::Allow);
    // An address names its network.
    assert_eq!(
        ask(&fleet, "web-1 fd12:34ab:cd42:21::c tcp/5432")
            .unwrap()
            .network
            .unwrap()
            .as_str(),
        "lab"
    );
    for (question, error) in [
        ("web-1 nobody icmp", "nobody is no node"),
        ("web-1 10.2.0.0/24 icmp", "a whole prefix"),
        ("web-1 db-1 icmp none", "the fleet has no network none"),
    ] {
        let said = ask(&fleet, question).unwrap_err().to_string();
        assert!(said.contains(error), "{said}");
    }
    let (verdict, _, line) = said(&fleet, "web-1 192.0.2.1 icmp");
    assert_eq!(verdict, Verdict::Unreachable);
    assert!(
        line.contains("no network has both: web-1 is in lab, prod, 192.0.2.1 is in none of them"),
        "{line}"
    );
}

#[test]
fn addresses_that_nobody_has_lead_nowhere() {
    let fleet = fleet(PROD);
    let (verdict, _, line) = said(&fleet, "hub-1 fd12:34ab:cd42:20::99 icmp");
    assert_eq!(verdict, Verdict::Unreachable);
    assert!(line.contains("on hub-1, route: no route to"), "{line}");
    assert_eq!(
        said(&fleet, "fd12:34ab:cd42:20::99 hub-1 icmp").0,
        Verdict::Unreachable
    );
}

#[test]
fn nodes_of_a_mesh_that_cant_meet_are_unreachable() {
    let mesh = "[[networks]]\nname = \"mesh\"\nid = 3\nrouting = \"static\"\ntopology = \"full_mesh\"\n\
        default_action = \"accept\"\nmembers = [{ node = \"hub-1\" }, { node = \"web-1\" }, { node = \"db-1\" }]\n";
    let fleet = fleet(mesh);
    assert_eq!(
        said(&fleet, "web-1 hub-1 icmp").2,
        "allowed by the network's default"
    );
    assert_eq!(said(&fleet, "web-1 db-1 icmp").0, Verdict::Unreachable);
}

#[test]
fn an_answer_that_has_no_way_back_is_a_blocker_too() {
    // Only hub-2 sees the request of its LAN: it goes to web-1 directly, and web-1 answers over hub-1.
    let two = PROD
        .replace(
            "{ node = \"web-1\" },",
            "{ node = \"hub-2\", role = \"hub\", lans = [{ subnet = \"10.9.0.0/24\", interface = \"eth1\" }] },\n  { node = \"web-1\" },",
        )
        + "[[networks.rules]]\nname = \"out\"\naction = \"accept\"\nfrom = { lan_of = \"hub-2\" }\nto = { node = \"web-1\" }\n";
    let fleet = fleet(&two);
    let answer = ask(&fleet, "10.9.0.7 web-1 tcp/80").unwrap();
    let over_hub_1 = answer.answers.iter().any(|hop| hop.node.as_str() == "hub-1");
    assert_eq!(over_hub_1, answer.verdict == Verdict::Deny, "{answer}");
    if let Some(blocker) = answer.blocker {
        assert!(blocker.of_answer);
        assert_eq!(blocker.node.unwrap().as_str(), "hub-1");
    }
}

#[test]
fn flows_are_read_and_written_the_same() {
    for flow in ["icmp", "tcp/443", "udp/53"] {
        assert_eq!(flow.parse::<Flow>().unwrap().to_string(), flow);
    }
    for wrong in ["tcp", "tcp/0", "tcp/70000", "sctp/5", ""] {
        assert!(wrong.parse::<Flow>().is_err(), "{wrong}");
    }
}

#[test]
fn a_packet_that_is_too_large_ends_where_the_way_is_narrow() {
    let fleet = fleet(PROD);
    let ask = |size| {
        let asked = Asked {
            source: "web-1".to_owned(),
            destination: "db-1".to_owned(),
            flow: "tcp/5432".parse().unwrap(),
            network: None,
            size: Some(size),
        };
        Explainer::offline(&fleet, FACTS).explain(&asked).unwrap()
    };
    assert_eq!(ask(1_420).verdict, Verdict::Allow);
    let answer = ask(1_421);
    assert_eq!(answer.verdict, Verdict::Unreachable);
    let blocker = answer.blocker.unwrap();
    assert_eq!((blocker.check, blocker.node.unwrap().as_str()), ("mtu", "web-1"));
    assert!(blocker.text.contains("packets of 1420 bytes"), "{}", blocker.text);
}
