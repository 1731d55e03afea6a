//! What comes from another site, and what goes there.

use super::*;
use crate::model::Agreements;

const BRIDGED: &str = r#"
[[networks]]
name = "prod"
id = 20
routing = "static"
members = [
  { node = "hub-1", role = "hub", lans = [{ subnet = "10.1.0.0/24", interface = "eth1" }] },
  { node = "web-1" },
  { node = "db-1", lans = [{ subnet = "10.2.0.0/24", interface = "eth1" }] },
]
[[networks.rules]]
name = "to-b"
action = "accept"
from = { lan_of = "db-1" }
to = { federation = "site-b" }
protocol = "tcp"
ports = ["443"]
[[networks.rules]]
name = "all"
action = "accept"
from = "any"
to = "any"
protocol = "tcp"
ports = ["80"]
[[bridges]]
name = "prod-b"
peer = "site-b"
network = "prod"
gateways = ["hub-1"]
import = ["10.20.0.0/16", "fd77:1:2::/48"]
export = ["10.2.0.0/24"]
"#;

fn asked(fleet: &Fleet, agreements: Agreements, question: &str) -> Explanation {
    let words: Vec<&str> = question.split(' ').collect();
    let facts = Facts { agreements, ..FACTS };
    let asked = Asked {
        size: None,
        source: words[0].to_owned(),
        destination: words[1].to_owned(),
        flow: words[2].parse().unwrap(),
        network: None,
    };
    Explainer::offline(fleet, facts).explain(&asked).unwrap()
}

fn nodes(hops: &[Hop]) -> Vec<&str> {
    hops.iter().map(|hop| hop.node.as_str()).collect()
}

#[test]
fn a_rule_that_names_the_peer_lets_it_leave_by_the_gateway() {
    let fleet = fleet(BRIDGED);
    let all = || Agreements::assumed(&fleet);
    let answer = asked(&fleet, all(), "10.2.0.9 10.20.1.1 tcp/443");
    assert_eq!(answer.verdict, Verdict::Allow, "{answer}");
    assert_eq!(answer.rule.as_ref().unwrap().as_str(), "to-b");
    assert_eq!(nodes(&answer.hops), ["db-1", "hub-1"]);
    assert_eq!(nodes(&answer.answers), ["hub-1", "db-1"]);
    assert!(
        answer
            .to_string()
            .contains("site-b decides what becomes of it there"),
        "{answer}"
    );
    // From there, nothing is let in.
    let answer = asked(&fleet, all(), "10.20.1.1 10.2.0.9 tcp/443");
    assert_eq!(answer.verdict, Verdict::Deny, "{answer}");
    assert_eq!(nodes(&answer.hops), ["hub-1"]);
    let fix = answer.blocker.unwrap().fix.unwrap();
    assert!(fix.contains("from = { federation = \"site-b\" }"), "{fix}");
    // `any` is nobody of another site.
    let answer = asked(&fleet, all(), "10.2.0.9 10.20.1.1 tcp/80");
    assert_eq!(answer.verdict, Verdict::Deny, "{answer}");
}

#[test]
fn what_is_in_the_way_at_the_gateway_is_named() {
    let fleet = fleet(BRIDGED);
    let check = |agreements: Agreements, question: &str| {
        let blocker = asked(&fleet, agreements, question).blocker.unwrap();
        (blocker.node.unwrap().to_string(), blocker.check, blocker.text)
    };
    let (node, named, text) = check(Agreements::NONE, "10.2.0.9 10.20.1.1 tcp/443");
    assert_eq!((node.as_str(), named), ("hub-1", "bridge"), "{text}");
    assert!(
        text.starts_with("prod-b carries nothing: no agreement with site-b"),
        "{text}"
    );
    let (node, named, text) = check(Agreements::NONE, "10.20.1.1 10.2.0.9 tcp/443");
    assert_eq!((node.as_str(), named), ("hub-1", "bridge"), "{text}");
    let mut less = Agreements::assumed(&fleet);
    for agreement in less.bridges.values_mut() {
        agreement.prefixes = vec!["10.20.0.0/24".parse().unwrap()];
    }
    let (_, named, text) = check(less, "10.2.0.9 10.20.1.1 tcp/443");
    assert_eq!(
        (named, text.as_str()),
        ("bridge", "prod-b: site-b doesn't export 10.20.1.1")
    );
    // What isn't exported is refused where it starts already: its rule doesn't reach there.
    let answer = asked(&fleet, Agreements::assumed(&fleet), "10.1.0.9 10.20.1.1 tcp/443");
    assert_eq!(answer.verdict, Verdict::Unreachable, "{answer}");
    assert!(
        answer.to_string().contains("10.1.0.9 isn't exported to site-b"),
        "{answer}"
    );
}
