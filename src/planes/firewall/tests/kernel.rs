//! The same with the real nft, conntrack and kernel.
//!
//! Each test starts itself again in a network namespace of its own; without root it says so and is skipped.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::cases::{host, hosts, network};
use crate::intent::{FirewallIntent, HostIntent, IsolationMode, RuleIntent};
use crate::model::network::{Action, NetworkId, PortRange, Protocol};
use crate::model::{AddressSet, LinkName, Name};
use crate::planes::Phase;
use crate::planes::firewall::observe::listed;
use crate::planes::firewall::{
    Actual, State, Verified, apply, compile, diff, observe, observe_since, render_script,
};
use crate::sys::conntrack::Conntrack;
use crate::sys::exec::{self, Run};
use crate::sys::nft::Nft;
use crate::sys::nft_batch::delete_counters;
use crate::sys::nft_query::generation;

const INSIDE: &str = "SDWAND_TEST_NETNS";

/// Runs `test` in a fresh network namespace: this test's name tells the child what to run.
fn in_netns(name: &str, test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    if std::env::var_os(INSIDE).is_some() {
        runtime.block_on(test());
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP {name}: needs root for a network namespace");
        return;
    }
    let me = std::env::current_exe().unwrap();
    let me = me.to_str().unwrap();
    let filter = format!("planes::firewall::tests::kernel::{name}");
    let inside = format!("{INSIDE}=1");
    let args = ["--net", "env", &inside, me, "--exact", &filter, "--nocapture"];
    let output = runtime
        .block_on(exec::run(Run {
            program: "unshare",
            args: &args,
            stdin: None,
            timeout: Duration::from_secs(300),
            stdout_limit: 1 << 20,
        }))
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.success(), "{printed}\n{}", output.stderr);
    assert!(printed.contains("1 passed"), "{printed}");
}

async fn shell(command: &str) {
    let output = exec::run(Run {
        program: "sh",
        args: &["-ec", command],
        stdin: None,
        timeout: Duration::from_secs(20),
        stdout_limit: 1 << 20,
    })
    .await
    .unwrap();
    assert!(output.success(), "{command}: {}", output.stderr);
}

/// What is there, by the kernel's own dump; nft's listing must say the same of it.
async fn look() -> Actual {
    let actual = observe(&Nft::default()).await.unwrap();
    let listed = listed(&Nft::default()).await.unwrap();
    assert_eq!(actual.table, listed.table);
    assert_eq!(
        actual.bodies.keys().collect::<Vec<_>>(),
        listed.bodies.keys().collect::<Vec<_>>()
    );
    actual
}

/// Makes the table what it should be; the answer says in which phases something was done.
async fn converge(state: &State, verified: Option<&Verified>) -> Vec<Phase> {
    converge_where(false, state, verified).await
}

/// As [`converge`]; `settled`: where nothing else of the host changes.
async fn converge_where(settled: bool, state: &State, verified: Option<&Verified>) -> Vec<Phase> {
    let changes = diff(state, &look().await, verified, settled).changes;
    for change in &changes {
        if let Err(error) = apply(change, &Nft::default(), &Conntrack::default()).await {
            panic!("{error:?}\n{change}");
        }
    }
    let actual = look().await;
    let again = diff(state, &actual, None, false).changes;
    assert!(again.is_empty(), "{again:#?}");
    changes.iter().map(super::super::change::Change::phase).collect()
}

#[test]
fn random_tables_load_and_read_back() {
    in_netns("random_tables_load_and_read_back", async || {
        let mut runner = TestRunner::deterministic();
        for round in 0..60 {
            let host = hosts().new_tree(&mut runner).unwrap().current();
            let state = compile(&host);
            // From whatever the last one left.
            converge_where(round % 2 == 0, &state, None).await;
            // The offline artefact is the same table.
            Nft::default().run(&render_script(&state)).await.unwrap();
            assert!(diff(&state, &look().await, None, false).changes.is_empty());
        }
    });
}

fn addresses(nets: &[&str]) -> AddressSet {
    nets.iter()
        .map(|net| net.parse::<ipnet::IpNet>().unwrap())
        .collect()
}

fn udp(name: &str, port: u16, action: Action) -> RuleIntent {
    RuleIntent {
        name: Name::new(name).unwrap(),
        priority: 1000,
        action,
        from: addresses(&["127.0.0.0/8", "::1/128"]),
        to: addresses(&["127.0.0.1/32", "::1/128"]),
        protocol: Protocol::Udp,
        ports: vec![PortRange {
            first: port,
            last: port,
        }],
        log: false,
    }
}

/// A network whose link is the loopback: what the host sends to itself passes output and input.
fn on_loopback(rules: Vec<RuleIntent>) -> HostIntent {
    let firewall = FirewallIntent {
        links: std::iter::once(LinkName::new("lo").unwrap()).collect(),
        own: addresses(&["127.0.0.0/8", "::1/128"]),
        bound: addresses(&["127.0.0.0/8", "::1/128"]),
        rules,
        ..FirewallIntent::default()
    };
    host(vec![network(1, IsolationMode::Rules, true, firewall)])
}

/// Whether a datagram arrives. Sockets are kept by the caller: the connection is tracked by its ports.
fn arrives(from: &UdpSocket, to: &UdpSocket) -> bool {
    to.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    // A refusal by the firewall is also an error of the sender.
    let _ = from.send_to(b"x", to.local_addr().unwrap());
    to.recv_from(&mut [0; 8]).is_ok()
}

/// Both directions, so that the connection counts as established.
fn exchange(client: &UdpSocket, server: &UdpSocket) -> bool {
    arrives(client, server) && arrives(server, client)
}

fn bind(address: &str) -> UdpSocket {
    UdpSocket::bind(address.parse::<SocketAddr>().unwrap()).unwrap()
}

#[test]
fn packets_follow_the_rules_and_counters_survive() {
    in_netns("packets_follow_the_rules_and_counters_survive", async || {
        shell("ip link set lo up").await;
        let id = NetworkId::new(1).unwrap();
        for address in ["127.0.0.1", "[::1]"] {
            let (client, five, six) = (
                bind(&format!("{address}:4000")),
                bind(&format!("{address}:5000")),
                bind(&format!("{address}:6000")),
            );
            converge(
                &compile(&on_loopback(vec![udp("five", 5000, Action::Accept)])),
                None,
            )
            .await;
            assert!(exchange(&client, &five));
            assert!(!arrives(&client, &six));
            let counted = |actual: &Actual, rule: &str| {
                actual
                    .rule_counts()
                    .get(&(id, rule.to_owned()))
                    .map_or(0, |count| count.packets)
            };
            let before = look().await;
            assert!(
                counted(&before, "five") >= 2,
                "output and input: {:?}",
                before.counters
            );
            assert!(before.drop_counts()[&(id, "out-deny".to_owned())].packets >= 1);

            let both = vec![
                udp("five", 5000, Action::Accept),
                udp("six", 6000, Action::Accept),
            ];
            let phases = converge(&compile(&on_loopback(both)), None).await;
            assert_eq!(phases, [Phase::Widen]);
            assert!(exchange(&client, &six));
            assert_eq!(counted(&look().await, "five"), counted(&before, "five"));

            // The live connection ends with the rule that allowed it; the other goes on.
            let phases = converge(
                &compile(&on_loopback(vec![udp("six", 6000, Action::Accept)])),
                None,
            )
            .await;
            assert_eq!(phases.last(), Some(&Phase::Cut));
            assert!(!arrives(&client, &five));
            assert!(arrives(&client, &six));
            let flows = Conntrack::default().list(&[1].into(), false).await.unwrap();
            assert!(
                flows.iter().all(|flow| flow.detail != ports(4000, 5000)),
                "{flows:?}"
            );
            assert!(
                flows.iter().any(|flow| flow.detail == ports(4000, 6000)),
                "{flows:?}"
            );
            converge(&compile(&host(Vec::new())), None).await;
            assert_eq!(look().await.table, None);
        }
    });
}

fn ports(source: u16, destination: u16) -> crate::sys::conntrack::FlowDetail {
    crate::sys::conntrack::FlowDetail::Ports { source, destination }
}

#[test]
fn a_rejection_is_answered() {
    in_netns("a_rejection_is_answered", async || {
        shell("ip link set lo up").await;
        converge(
            &compile(&on_loopback(vec![udp("five", 5000, Action::Reject)])),
            None,
        )
        .await;
        for address in ["127.0.0.1", "[::1]"] {
            let (client, five) = (bind(&format!("{address}:0")), bind(&format!("{address}:5000")));
            client.connect(five.local_addr().unwrap()).unwrap();
            let refused = || client.send(b"x").is_err();
            // The ICMP error reaches the socket behind the first datagram.
            assert!((0..20).any(|_| {
                client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                refused()
                    || client
                        .recv(&mut [0; 8])
                        .is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
            }));
        }
    });
}

#[test]
fn what_others_do_to_the_table_is_found_and_healed() {
    in_netns("what_others_do_to_the_table_is_found_and_healed", async || {
        let rules = vec![udp("five", 5000, Action::Accept), udp("six", 6000, Action::Drop)];
        let state = compile(&on_loopback(rules));
        converge(&state, None).await;
        let first = listed(&Nft::default()).await.unwrap().bodies;
        for tampering in [
            "nft flush ruleset",
            "nft delete table inet sdwand",
            "nft insert rule inet sdwand input accept",
            "nft add rule inet sdwand n1-in accept",
            "nft flush chain inet sdwand n1-in",
            "nft flush chain inet sdwand forward",
            "nft flush map inet sdwand n1-udp4-0",
            "nft delete element inet sdwand n1-udp4-0 '{ 127.0.0.0/8 . 127.0.0.1 . 5000 }'",
            "nft add element inet sdwand n1-udp4-0 '{ 10.0.0.0-10.0.0.6 . 127.0.0.1 . 1-10 : accept }'",
            "nft add element inet sdwand n1-own4 '{ 10.9.0.0/16 }'",
            "nft delete element inet sdwand in-name '{ lo }'",
            "nft add element inet sdwand in-name '{ eth7 : accept }'",
            "nft add chain inet sdwand mine",
            "nft add chain inet sdwand mine '{ type filter hook input priority -5; policy drop; }'",
            "nft add chain inet sdwand input '{ policy drop; }'",
            "nft add set inet sdwand mine '{ type mark; }'",
            "nft add counter inet sdwand mine",
            "nft add quota inet sdwand mine '{ over 5 mbytes; }'",
            "nft add table inet sdwand '{ flags dormant; }'",
            "nft flush chain inet sdwand n1-r-six; nft add rule inet sdwand n1-r-six return",
        ] {
            shell(tampering).await;
            assert!(!converge(&state, None).await.is_empty(), "not found: {tampering}");
        }
        // A rule that says something else under the same comment is found by what the kernel said before.
        let verified = look().await.bodies;
        assert!(
            diff(&state, &look().await, Some(&verified), false)
                .changes
                .is_empty()
        );
        shell(
            "c=$(nft list chain inet sdwand n1-r-six | grep -o 'comment.*');
             nft flush chain inet sdwand n1-r-six; nft add rule inet sdwand n1-r-six return \"$c\"",
        )
        .await;
        assert!(diff(&state, &look().await, None, false).changes.is_empty());
        assert!(
            !diff(&state, &look().await, Some(&verified), false)
                .changes
                .is_empty()
        );
        converge(&state, Some(&verified)).await;
        assert_eq!(listed(&Nft::default()).await.unwrap().bodies, first);
    });
}

#[test]
fn a_forgotten_cut_is_made_up_for() {
    in_netns("a_forgotten_cut_is_made_up_for", async || {
        shell("ip link set lo up").await;
        let (client, five) = (bind("127.0.0.1:4000"), bind("127.0.0.1:5000"));
        converge(
            &compile(&on_loopback(vec![udp("five", 5000, Action::Accept)])),
            None,
        )
        .await;
        assert!(exchange(&client, &five));
        let nothing = compile(&on_loopback(Vec::new()));
        // All but the last step, as if the daemon had died there.
        let changes = diff(&nothing, &look().await, None, false).changes;
        let cut = changes
            .iter()
            .filter(|change| change.phase() == Phase::Cut)
            .count();
        assert_eq!(cut, 1);
        for change in changes.iter().filter(|change| change.phase() != Phase::Cut) {
            apply(change, &Nft::default(), &Conntrack::default())
                .await
                .unwrap();
        }
        assert!(arrives(&client, &five), "established");
        assert_eq!(converge(&nothing, None).await, [Phase::Cut]);
        assert!(!arrives(&client, &five));
    });
}

#[test]
fn counters_go_whether_they_are_there_or_not() {
    in_netns("counters_go_whether_they_are_there_or_not", async || {
        let counters = ["n1-cut-pending", "n2-cut-pending"].map(str::to_owned);
        let missing = delete_counters("sdwand", &counters).unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound, "no table");
        shell(
            "nft add table inet sdwand; nft add counter inet sdwand n2-cut-pending; \
             nft add counter inet sdwand n3-cut-pending",
        )
        .await;
        let before = generation().unwrap();
        delete_counters("sdwand", &counters).unwrap();
        assert_eq!(generation().unwrap(), before + 1, "one transaction");
        let left = look().await.counters;
        assert_eq!(left.keys().collect::<Vec<_>>(), ["n3-cut-pending"]);
        // What a rule counts by can't go: nothing of the transaction does.
        shell(
            "nft add chain inet sdwand c; nft add rule inet sdwand c counter name n3-cut-pending; \
             nft add counter inet sdwand n1-cut-pending",
        )
        .await;
        let counters = ["n1-cut-pending", "n3-cut-pending"].map(str::to_owned);
        let used = delete_counters("sdwand", &counters).unwrap_err();
        assert_eq!(used.kind(), std::io::ErrorKind::ResourceBusy, "{used}");
        assert_eq!(look().await.counters.len(), 2);
    });
}

#[test]
fn connections_that_end_while_they_are_cut_are_no_failure() {
    in_netns(
        "connections_that_end_while_they_are_cut_are_no_failure",
        async || {
            shell(
                "for port in $(seq 60); do
                   echo \"-I -w 1 -p udp -s 10.0.0.1 -d 10.0.0.2 --sport $port --dport 53 --timeout 100\"
                 done | conntrack --load-file -",
            )
            .await;
            let conntrack = Conntrack::default();
            let flows = conntrack.list(&[1].into(), false).await.unwrap();
            assert_eq!(flows.len(), 60);
            // What one deletes, another has found.
            let cut = || conntrack.delete(&flows);
            let (first, second, third) = tokio::join!(cut(), cut(), cut());
            for done in [first, second, third] {
                done.unwrap();
            }
            assert_eq!(conntrack.list(&[1].into(), false).await.unwrap(), []);
        },
    );
}

#[test]
fn logging_rules_load() {
    in_netns("logging_rules_load", async || {
        // Kernels without NF_LOG_SYSLOG refuse any rule that logs.
        let probe = "add table inet probe\nadd chain inet probe c\nadd rule inet probe c log\ndelete table inet probe\n";
        if let Err(error) = Nft::default().run(probe).await {
            eprintln!("SKIP logging_rules_load: the kernel can't log: {error}");
            return;
        }
        for action in [Action::Accept, Action::Drop, Action::Reject] {
            let mut rule = udp("a-name-of-forty-eight-bytes-is-the-longest-there", 5000, action);
            rule.log = true;
            converge(&compile(&on_loopback(vec![rule])), None).await;
        }
    });
}

#[test]
fn large_tables_load_in_one_go() {
    in_netns("large_tables_load_in_one_go", async || {
        let rules = (0..2000_u16).map(|n| {
            let mut rule = udp(&format!("rule-{n}"), 1 + n, Action::Accept);
            rule.from = addresses(&[&format!("10.{}.{}.0/24", n / 200, n % 200), "fd00::/64"]);
            rule
        });
        let state = compile(&on_loopback(rules.collect()));
        converge(&state, None).await;
        let counters: BTreeMap<_, _> = look().await.rule_counts();
        assert_eq!(counters.len(), 2000);
    });
}

#[test]
fn the_kernel_tells_when_a_listing_is_still_good() {
    in_netns("the_kernel_tells_when_a_listing_is_still_good", async || {
        let nft = Nft::default();
        let state = compile(&on_loopback(vec![udp("five", 5000, Action::Accept)]));
        converge(&state, None).await;
        let mut first = observe_since(&nft, None).await.unwrap();
        // A mark that no listing has shows whether it was read again.
        Arc::make_mut(&mut first.actual)
            .bodies
            .insert("remembered".to_owned(), [1; 8]);
        let second = observe_since(&nft, Some(first)).await.unwrap();
        assert!(second.actual.bodies.contains_key("remembered"));
        for foreign in [
            "nft add table ip elsewhere",
            "nft add rule inet sdwand n1-r-five return",
            "nft flush ruleset",
        ] {
            shell(foreign).await;
            let read = observe_since(&nft, Some(second.clone())).await.unwrap();
            assert!(!read.actual.bodies.contains_key("remembered"), "after {foreign}");
            assert_eq!(*read.actual, look().await);
        }
        assert_eq!(look().await.table, None);
    });
}
