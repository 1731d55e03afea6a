use super::*;

fn seen(hook: &str) -> Seen<'_> {
    Seen {
        hook,
        iif: "sdwan-1",
        oif: "wg-sdwan-1",
        source: "100.64.1.2".parse().unwrap(),
        destination: "10.2.0.7".parse().unwrap(),
        protocol: Some(6),
        port: Some(443),
        established: false,
        mapped: false,
    }
}

fn ruleset(objects: &str) -> Ruleset {
    Ruleset::decode(&[format!(r#"{{"nftables": [{objects}]}}"#).into_bytes()]).unwrap()
}

fn rule(chain: &str, expressions: &str) -> String {
    format!(
        r#"{{"rule": {{"family": "ip", "table": "filter", "chain": "{chain}", "handle": 1, "expr": [{expressions}]}}}}"#
    )
}

const FORWARD: &str = r#"{"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}}"#;
const USER: &str = r#"{"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER", "handle": 2}}"#;
const ACCEPT: &str = r#"{"accept": null}"#;

fn named(key: &str, name: &str) -> String {
    format!(r#"{{"match": {{"op": "==", "left": {{"meta": {{"key": "{key}"}}}}, "right": "{name}"}}}}"#)
}

fn fate(rules: &[String]) -> Fate {
    ruleset(&format!("{FORWARD}, {USER}, {}", rules.join(", "))).fate(&seen("forward"))
}

/// `docker` 20 to 28 with iptables-nft.
fn docker(user: &[String]) -> Vec<String> {
    let mut rules = vec![
        rule(
            "FORWARD",
            r#"{"counter": {"packets": 0, "bytes": 0}}, {"jump": {"target": "DOCKER-USER"}}"#,
        ),
        rule(
            "FORWARD",
            &format!(
                r#"{}, {{"match": {{"op": "in", "left": {{"ct": {{"key": "state"}}}}, "right": ["related", "established"]}}}}, {ACCEPT}"#,
                named("oifname", "docker0")
            ),
        ),
        rule("FORWARD", &format!("{}, {ACCEPT}", named("iifname", "docker0"))),
    ];
    rules.extend(user.iter().cloned());
    rules
}

#[test]
fn dockers_chain_drops_until_its_users_chain_accepts() {
    let Fate::Dropped(chain) = fate(&docker(&[])) else {
        panic!("it drops what isn't docker's");
    };
    assert_eq!(chain.to_string(), "ip filter FORWARD (forward)");
    let rules = ruleset(&format!("{FORWARD}, {USER}"));
    let fix = rules.way_through(&chain, &[]).unwrap();
    assert!(
        fix.contains("iptables -I DOCKER-USER -i sdwan-+ -j ACCEPT"),
        "{fix}"
    );
    // What the fix does.
    let user = [rule(
        "DOCKER-USER",
        &format!("{}, {ACCEPT}", named("iifname", "sdwan-*")),
    )];
    assert_eq!(fate(&docker(&user)), Fate::Passes);
    // Another's interface isn't ours.
    let other = [rule(
        "DOCKER-USER",
        &format!("{}, {ACCEPT}", named("iifname", "sdwan-12")),
    )];
    assert!(matches!(fate(&docker(&other)), Fate::Dropped(_)));
}

#[test]
fn what_isnt_known_is_said_to_be_unclear() {
    let limit = rule(
        "FORWARD",
        &format!(r#"{{"limit": {{"rate": 1, "per": "second"}}}}, {ACCEPT}"#),
    );
    assert!(matches!(fate(&[limit]), Fate::Unclear(_)));
    let set = rule(
        "FORWARD",
        &format!(
            r#"{{"match": {{"op": "==", "left": {{"payload": {{"protocol": "ip", "field": "saddr"}}}}, "right": "@mine"}}}}, {ACCEPT}"#
        ),
    );
    assert!(matches!(fate(&[set]), Fate::Unclear(_)));
    let xt = rule("FORWARD", &format!(r#"{{"xt": null}}, {ACCEPT}"#));
    assert!(matches!(fate(&[xt]), Fate::Unclear(_)));
    // But a rule before it settles it.
    let any = rule("FORWARD", ACCEPT);
    let later = rule("FORWARD", r#"{"xt": null}, {"drop": null}"#);
    assert_eq!(fate(&[any, later]), Fate::Passes);
}

#[test]
fn conditions_on_packets_are_judged() {
    let is = |field: &str, right: &str| {
        format!(
            r#"{{"match": {{"op": "==", "left": {{"payload": {{"protocol": "{}", "field": "{}"}}}}, "right": {right}}}}}"#,
            field.split_once(' ').unwrap().0,
            field.split_once(' ').unwrap().1
        )
    };
    for (condition, passes) in [
        (is("tcp dport", "443"), true),
        (is("tcp dport", r#"{"set": [22, {"range": [400, 500]}]}"#), true),
        (is("tcp dport", "80"), false),
        (is("udp dport", "443"), false),
        (
            is("ip saddr", r#"{"prefix": {"addr": "100.64.0.0", "len": 10}}"#),
            true,
        ),
        (is("ip daddr", r#""10.2.0.8""#), false),
        (is("ip6 daddr", r#""fd00::1""#), false),
        (is("ip protocol", r#""tcp""#), true),
    ] {
        let found = fate(&[rule("FORWARD", &format!("{condition}, {ACCEPT}"))]);
        assert_eq!(found == Fate::Passes, passes, "{condition}: {found:?}");
        assert!(!matches!(found, Fate::Unclear(_)), "{condition}");
    }
}

#[test]
fn returns_go_back_to_the_caller_and_our_own_table_isnt_asked() {
    let rules = [
        rule("DOCKER-USER", r#"{"return": null}"#),
        rule("DOCKER-USER", ACCEPT),
    ];
    assert!(matches!(fate(&docker(&rules)), Fate::Dropped(_)));
    let ours = FORWARD
        .replace(r#""ip""#, r#""inet""#)
        .replace("filter\", \"name", "sdwand\", \"name");
    assert_eq!(ruleset(&ours).fate(&seen("forward")), Fate::Passes);
    assert_eq!(ruleset(FORWARD).fate(&seen("input")), Fate::Passes);
    assert!(Ruleset::decode(&[b"{}".to_vec()]).is_err());
}
