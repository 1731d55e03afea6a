use super::*;

fn healthy() -> Facts {
    Facts {
        config: Ok(vec![51_820]),
        daemon: DaemonFact::Amiss(Vec::new()),
        wireguard: Ok(true),
        vrf: Ok(true),
        nft: Ok("nftables v1.0.6".to_owned()),
        conntrack: Ok("conntrack v1.4.7".to_owned()),
        chains: Ok(vec![chain("inet", "sdwand", "forward", "forward", true)]),
        legacy: Ok(Vec::new()),
        strict: Ok(Vec::new()),
        networkd: Networkd::default(),
        now: UNIX_EPOCH + LONG_AGO,
        files: Ok(vec![file(0o600, 0, true), file(0o640, 0, false)]),
        disks: Ok(vec![disk(LITTLE)]),
    }
}

fn chain(family: &str, table: &str, name: &str, hook: &str, drops: bool) -> Chain {
    let [family, table, name, hook] = [family, table, name, hook].map(str::to_owned);
    Chain {
        family,
        table,
        name,
        hook,
        drops,
    }
}

fn file(mode: u32, uid: u32, is_secret: bool) -> FileFact {
    FileFact {
        path: "/etc/sdwand/x".into(),
        mode,
        uid,
        is_secret,
    }
}

fn disk(free: u64) -> DiskFact {
    DiskFact {
        path: "/var/lib/sdwand".into(),
        free,
    }
}

/// The checks that found something, and what to do.
fn amiss(facts: &Facts) -> Vec<(&'static str, Verdict, String)> {
    let found = examine(facts).checks.into_iter();
    let amiss = found.filter(|check| check.verdict != Verdict::Ok);
    amiss
        .map(|check| (check.check, check.verdict, check.fix.unwrap()))
        .collect()
}

#[test]
fn a_healthy_host() {
    let diagnosis = examine(&healthy());
    assert_eq!(diagnosis.verdict, Verdict::Ok, "{diagnosis}");
    assert!(
        diagnosis.checks.iter().all(|check| check.fix.is_none()),
        "{diagnosis}"
    );
}

type Break = fn(&mut Facts);

#[expect(clippy::too_many_lines, reason = "one table")]
#[test]
fn each_thing_that_is_wrong_is_named_with_a_fix() {
    let cases: [(Break, &str, Verdict, &str); 21] = [
        (
            |facts| facts.config = Err("2 errors".to_owned()),
            "config",
            Verdict::Failure,
            "sdwand check",
        ),
        (
            |facts| facts.daemon = DaemonFact::None,
            "daemon",
            Verdict::Warning,
            "systemctl enable",
        ),
        (
            |facts| facts.daemon = DaemonFact::Silent("x".to_owned()),
            "daemon",
            Verdict::Failure,
            "restart",
        ),
        (
            |facts| facts.daemon = DaemonFact::Amiss(vec!["l3".to_owned()]),
            "conditions",
            Verdict::Failure,
            "sdwand status",
        ),
        (
            |facts| facts.wireguard = Ok(false),
            "wireguard",
            Verdict::Warning,
            "modprobe wireguard",
        ),
        (
            |facts| facts.wireguard = Err("x".to_owned()),
            "wireguard",
            Verdict::Failure,
            "root",
        ),
        (
            |facts| facts.vrf = Ok(false),
            "vrf",
            Verdict::Warning,
            "modprobe vrf",
        ),
        (
            |facts| facts.nft = Err("x".to_owned()),
            "nft",
            Verdict::Failure,
            "apt install nftables",
        ),
        (
            |facts| facts.conntrack = Err("x".to_owned()),
            "conntrack",
            Verdict::Failure,
            "apt install conntrack",
        ),
        (
            |facts| facts.chains = Err("x".to_owned()),
            "foreign_chains",
            Verdict::Failure,
            "root",
        ),
        (
            |facts| facts.legacy = Ok(vec!["filter".to_owned()]),
            "foreign_chains",
            Verdict::Warning,
            "iptables-legacy",
        ),
        (
            |facts| facts.strict = Ok(vec!["all".to_owned()]),
            "rp_filter",
            Verdict::Warning,
            "rp_filter=2",
        ),
        (
            |facts| facts.now = UNIX_EPOCH,
            "clock",
            Verdict::Failure,
            "timedatectl",
        ),
        (
            |facts| facts.files = Ok(vec![file(0o640, 0, true)]),
            "files",
            Verdict::Failure,
            "chmod 0600",
        ),
        (
            |facts| facts.files = Ok(vec![file(0o666, 0, false)]),
            "files",
            Verdict::Failure,
            "chmod 0644",
        ),
        (
            |facts| facts.files = Ok(vec![file(0o600, 7, false)]),
            "files",
            Verdict::Warning,
            "chown root",
        ),
        (
            |facts| facts.disks = Ok(vec![disk(NOTHING - 1)]),
            "disk",
            Verdict::Failure,
            "make room",
        ),
        (
            |facts| facts.legacy = Err("x".to_owned()),
            "foreign_chains",
            Verdict::Failure,
            "run as root",
        ),
        (
            |facts| facts.strict = Err("x".to_owned()),
            "rp_filter",
            Verdict::Failure,
            "run as root",
        ),
        (
            |facts| facts.files = Err("x".to_owned()),
            "files",
            Verdict::Failure,
            "run as root",
        ),
        (
            |facts| facts.disks = Err("x".to_owned()),
            "disk",
            Verdict::Failure,
            "run as root",
        ),
    ];
    for (damage, check, verdict, fix) in cases {
        let mut facts = healthy();
        damage(&mut facts);
        let found = amiss(&facts);
        let [(name, how, what)] = found.as_slice() else {
            panic!("{check}: {found:?}")
        };
        assert_eq!((*name, *how), (check, verdict));
        assert!(what.contains(fix), "{check}: {what}");
        assert_eq!(examine(&facts).verdict, verdict);
    }
}

#[test]
fn networkd_has_to_leave_routes_and_rules_alone() {
    for (runs, leaves_routes, leaves_rules, is_amiss) in [
        (false, false, false, false),
        (true, false, false, true),
        (true, true, false, true),
        (true, false, true, true),
        (true, true, true, false),
    ] {
        let mut facts = healthy();
        facts.networkd = Networkd {
            runs,
            leaves_routes,
            leaves_rules,
        };
        assert_eq!(!amiss(&facts).is_empty(), is_amiss, "{:?}", facts.networkd);
    }
}

#[test]
fn the_way_through_is_the_managers_own() {
    let forward = || chain("ip", "filter", "FORWARD", "forward", true);
    let beside = |name: &str| chain("ip", "filter", name, "", false);
    for (chains, ways) in [
        (
            vec![forward(), beside("DOCKER-USER")],
            vec!["iptables -I DOCKER-USER -i sdwan-+ -j ACCEPT"],
        ),
        (
            vec![forward(), beside("ufw-before-forward")],
            vec!["ufw route allow in on"],
        ),
        (vec![forward()], vec!["nft insert rule ip filter FORWARD iifname"]),
        (
            vec![chain("inet", "filter", "input", "input", true)],
            vec!["udp dport { 51820 } accept"],
        ),
        (
            vec![chain("inet", "firewalld", "filter_FORWARD", "forward", false)],
            vec!["firewall-cmd"],
        ),
        (vec![chain("inet", "filter", "forward", "forward", false)], vec![]),
        (vec![chain("inet", "filter", "output", "output", true)], vec![]),
    ] {
        let mut facts = healthy();
        facts.chains = Ok(chains);
        let found = amiss(&facts);
        assert_eq!(found.len(), ways.len(), "{found:?}");
        for ((_, _, fix), way) in found.iter().zip(ways) {
            assert!(fix.contains(way), "{fix}");
        }
    }
}
