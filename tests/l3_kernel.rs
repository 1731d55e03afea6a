//! The l3 plane on a real kernel. Each test runs again inside a network namespace of its own:
//!
//! ```text
//! test ── unshare --net --mount ──▶ the same test: eth0 (default route), eth1 = veth (LAN), foreign things
//! ```
//!
//! Without root, or where the kernel lacks something, a test prints why and skips; `SDWAND_NETNS_REQUIRE=all` turns
//! every skip into a failure.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the tests drive ip(8) and unshare(1) as a person would"
)]

mod l3_fixture;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use l3_fixture::{intent, link};
use sdwand::intent::{HostIntent, IsolationMode, LanIntent};
use sdwand::model::{LinkName, NetworkId};
use sdwand::planes::Difference;
use sdwand::planes::l3::{
    Applier, Around, Backend, Change, NoUserspaceLinks, Op, State, compile, diff, observe, observe_facts,
};
use sdwand::sys::netlink::{
    AddMode, Event, Netlink, NetlinkError, Route, RouteKind, Write, address_flag, errno,
};
use sdwand::sys::sysctl::Sysctls;

const INSIDE: &str = "SDWAND_L3_KERNEL_INSIDE";
const LAN_FORWARDING: &str = "/proc/sys/net/ipv4/conf/eth1/forwarding";

fn skip(test: &str, reason: &str) {
    let required = std::env::var("SDWAND_NETNS_REQUIRE").is_ok_and(|value| value == "all");
    assert!(!required, "{test} may not be skipped: {reason}");
    println!("SKIP {test}: {reason}");
}

/// Runs `body` inside a fresh network namespace: the first call starts this test again there.
fn in_namespace<F: Future<Output = ()>>(test: &str, body: impl FnOnce(Host) -> F) {
    if std::env::var(INSIDE).is_err() {
        if !rustix::process::geteuid().is_root() {
            return skip(test, "not root");
        }
        let status = Command::new("unshare")
            .args(["--net", "--mount", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(INSIDE, "1")
            .status()
            .unwrap();
        assert!(status.success(), "{test} failed in its namespace");
        return;
    }
    ip("link set lo up");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { body(Host::new().await).await });
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The host under test.
struct Host {
    netlink: Netlink,
    sysctls: Sysctls,
    applier: Applier,
    protected: BTreeSet<LinkName>,
    /// Whether the kernel has dummies, which hold virtual IPs.
    dummies: bool,
}

impl Host {
    async fn new() -> Self {
        let netlink = Netlink::open().unwrap();
        let sysctls = Sysctls::default();
        let applier = Applier::new(netlink.clone(), sysctls.clone(), Arc::new(NoUserspaceLinks));
        Self {
            dummies: netlink.supports_link_kind("dummy").await.unwrap(),
            netlink,
            sysctls,
            applier,
            protected: BTreeSet::new(),
        }
    }

    async fn has(&self, kind: &str) -> bool {
        self.netlink.supports_link_kind(kind).await.unwrap()
    }

    fn compile(&self, intent: &HostIntent) -> State {
        let mut intent = intent.clone();
        if !self.dummies {
            // What the intent of such a host has none of.
            intent
                .networks
                .values_mut()
                .for_each(|network| network.vips.clear());
        }
        compile(&intent, &observe_facts(&self.sysctls, Backend::Kernel).unwrap())
    }

    async fn plan(&self, desired: &State) -> Difference<Change> {
        let actual = observe(&self.netlink, &self.sysctls, desired).await.unwrap();
        let around = Around {
            protected: self.protected.clone(),
            ..Around::default()
        };
        diff(desired, &actual, &around)
    }

    /// Applies the plan, and checks that none is left.
    async fn converge(&self, desired: &State) -> Vec<String> {
        let plan = self.plan(desired).await;
        let results = self.applier.apply_all(&plan.changes).await;
        let lines: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
        let listing = lines.iter().take(60).cloned().collect::<Vec<_>>().join("\n");
        for (line, result) in lines.iter().zip(results) {
            result.unwrap_or_else(|error| panic!("{line}: {error:?}\nplan:\n{listing}"));
        }
        let rest = self.plan(desired).await.changes;
        let rest: Vec<String> = rest.iter().map(ToString::to_string).collect();
        assert!(rest.is_empty(), "left after apply: {rest:#?}\nplan:\n{listing}");
        lines
    }

    async fn supports(&self, test: &str, isolation: IsolationMode) -> bool {
        let kinds = match isolation {
            IsolationMode::Vrf => &["wireguard", "vrf"][..],
            IsolationMode::Rules | IsolationMode::Main => &["wireguard"][..],
        };
        for kind in kinds {
            if !self.has(kind).await {
                skip(test, &format!("this kernel has no link kind {kind}"));
                return false;
            }
        }
        true
    }
}

/// Foreign things of every kind beside ours, some with names or numbers near ours.
fn foreign_things() {
    for command in [
        "link add eth0 type veth peer name peer0",
        "link set eth0 addrgenmode none",
        "link set peer0 addrgenmode none",
        "link set eth0 up",
        "link set peer0 up",
        "address add 192.0.2.2/24 dev eth0",
        "address add 2001:db8::2/64 dev eth0 nodad",
        "route add default via 192.0.2.1",
        "-6 route add default via 2001:db8::1",
        "route add 198.51.100.0/24 via 192.0.2.9 proto 186 metric 20 table 10001",
        "-6 route add 2001:db8:5::/48 via 2001:db8::9 proto 186 metric 20 table 10001",
        "route add 203.0.113.0/24 via 192.0.2.9 proto 241 table 500",
        "rule add priority 1500 from 192.0.2.77 lookup 500",
        "-6 rule add priority 1500 from 2001:db8::77 lookup 500",
        "link add wg-sdwan-x type bridge",
    ] {
        ip(command);
    }
}

/// Everything that isn't ours, as text: without the LAN, and without the anycast addresses that a host has while it
/// forwards.
fn foreign_picture() -> Vec<String> {
    let others = [
        "proto 241",
        "sdwan-1",
        "sdwan-2",
        "l3mdev",
        "valid_lft",
        "eth1",
        "peer1",
        "anycast",
    ];
    let keep = |text: String| -> Vec<String> {
        text.lines()
            .filter(|line| line.contains("203.0.113.0") || !others.iter().any(|word| line.contains(word)))
            .map(|line| line.trim().to_owned())
            .collect()
    };
    let mut lines = Vec::new();
    for device in ["eth0", "peer0", "wg-sdwan-x"] {
        lines.extend(keep(ip(&format!("-d address show {device}"))));
    }
    for family in ["-4", "-6"] {
        lines.extend(keep(ip(&format!("{family} rule"))));
        lines.extend(keep(ip(&format!("{family} route show"))));
        lines.extend(keep(ip(&format!("{family} route show table all dev eth0"))));
    }
    lines
}

/// Fails with the lines that differ.
fn assert_same(found: &[String], expected: &[String], when: &str) {
    let new: Vec<_> = found.iter().filter(|line| !expected.contains(line)).collect();
    let lost: Vec<_> = expected.iter().filter(|line| !found.contains(line)).collect();
    assert!(found == expected, "{when}: new {new:#?}, lost {lost:#?}");
}

async fn lifecycle(host: Host, isolation: IsolationMode) {
    foreign_things();
    let before = foreign_picture();
    let desired = host.compile(&intent(&[isolation, isolation], None));
    let lines = host.converge(&desired).await;
    println!("{}", lines.join("\n"));
    assert_same(&foreign_picture(), &before, "foreign things");
    a_no_op_writes_nothing(&host, &desired).await;

    // Whatever someone breaks is healed in one go.
    for breakage in [
        "link delete wg-sdwan-1",
        "link set wg-sdwan-1 down",
        "address delete fd12:34ab:cd42:1::1/128 dev wg-sdwan-1",
        "address delete fe80::1/64 dev wg-sdwan-2",
        "address add fd99::1/64 dev wg-sdwan-1",
        "address add 10.99.0.1/24 dev wg-sdwan-2",
        "link set wg-sdwan-1 mtu 1400",
    ] {
        heal(&host, &desired, breakage).await;
    }
    let breakages: &[&str] = match isolation {
        IsolationMode::Vrf => &[
            "-6 route delete fd12:34ab:cd42:1::2/128 table 10001",
            "-6 route replace fd12:34ab:cd42:1::2/128 dev wg-sdwan-1 table 10001 proto 241 metric 1024",
            "route delete unreachable default table 10001 metric 4278198272",
            "route add 100.64.1.9 dev wg-sdwan-1 table 10001 proto 241",
            "route add unreachable 100.64.1.9 table 10002 proto 241",
            "link set wg-sdwan-1 nomaster",
            "link set sdwan-1 down",
            "link delete sdwan-2",
            "rule delete priority 1000",
        ],
        IsolationMode::Rules => &[
            "rule delete priority 2000 iif wg-sdwan-1",
            "-6 rule delete priority 2002 from fd12:34ab:cd42:2::1",
            "rule add priority 2005 iif wg-sdwan-1 lookup 10002 protocol 241",
            "-6 route delete fe80::/64 dev wg-sdwan-1 table 10001",
        ],
        IsolationMode::Main => &["route delete 100.64.1.2 metric 1024"],
    };
    for breakage in breakages {
        heal(&host, &desired, breakage).await;
    }
    assert_same(&foreign_picture(), &before, "foreign things");

    // `down` removes what is ours and nothing else.
    host.converge(&State::default()).await;
    assert_same(&foreign_picture(), &before, "foreign things");
    for name in ["wg-sdwan-1", "wg-sdwan-2", "sdwan-1", "sdwan-2"] {
        assert!(host.netlink.link(name).await.unwrap().is_none(), "{name}");
    }
    let left = ip("-4 route show table all proto 241") + &ip("-6 route show table all proto 241");
    assert_eq!(
        left.lines().count(),
        1,
        "only the foreign one of table 500: {left}"
    );
}

async fn heal(host: &Host, desired: &State, breakage: &str) {
    ip(breakage);
    let lines = host.converge(desired).await;
    assert!(!lines.is_empty(), "{breakage} went unseen");
    println!("# after ip {breakage}\n{}", lines.join("\n"));
}

/// The kernel's own monitors stay silent. A marker ends the silence, so that it isn't a matter of waiting.
async fn a_no_op_writes_nothing(host: &Host, desired: &State) {
    let mut monitor = Command::new("ip")
        .args(["monitor", "link", "address", "route", "rule"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut events = Netlink::subscribe().unwrap();
    assert_eq!(host.converge(desired).await, Vec::<String>::new());
    ip("link add marker type bridge");
    loop {
        let event = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
        match event.unwrap().unwrap() {
            Event::Link { link, .. } if link.name == "marker" => break,
            // The kernel itself, when it has finished duplicate address detection.
            Event::Address { address, .. } if address.flags & address_flag::NODAD == 0 => {}
            Event::Route { route, .. } if route.protocol == 2 => {}
            other @ (Event::Link { .. }
            | Event::Address { .. }
            | Event::Route { .. }
            | Event::Rule { .. }
            | Event::Resync) => panic!("a no-op wrote: {other:?}"),
        }
    }
    monitor.kill().unwrap();
    let mut seen = String::new();
    let mut stdout = monitor.stdout.take().unwrap();
    stdout.read_to_string(&mut seen).unwrap();
    monitor.wait().unwrap();
    assert!(!seen.contains("sdwan"), "a no-op wrote: {seen}");
    ip("link delete marker");
}

#[test]
fn vrf_lifecycle() {
    in_namespace("vrf_lifecycle", async |host| {
        if host.supports("vrf_lifecycle", IsolationMode::Vrf).await {
            lifecycle(host, IsolationMode::Vrf).await;
        }
    });
}

#[test]
fn rules_lifecycle() {
    in_namespace("rules_lifecycle", async |host| {
        if host.supports("rules_lifecycle", IsolationMode::Rules).await {
            lifecycle(host, IsolationMode::Rules).await;
        }
    });
}

#[test]
fn main_lifecycle() {
    in_namespace("main_lifecycle", async |host| {
        if host.supports("main_lifecycle", IsolationMode::Main).await {
            lifecycle(host, IsolationMode::Main).await;
        }
    });
}

/// The addresses of the LAN interface.
fn lan_picture() -> Vec<String> {
    let text = ip("-o address show eth1");
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| {
            let line = line.split_once("eth1").unwrap().1;
            let line = line.split("valid_lft").next().unwrap();
            line.replace(" tentative", "").trim().to_owned()
        })
        .collect();
    lines.sort();
    lines
}

fn lan() {
    for command in [
        "link add eth1 address 02:00:00:00:00:01 type veth peer name peer1",
        "link set peer1 addrgenmode none",
        "address add 10.10.0.1/24 broadcast 10.10.0.255 dev eth1",
        "address add 10.10.0.9/32 dev eth1 label eth1:a",
        "address add fd0a::1/64 dev eth1 nodad",
        "address add fd0b::1/64 dev eth1 nodad noprefixroute",
        "address add fe80::99/64 dev eth1 nodad",
        "link set eth1 up",
        "link set peer1 up",
    ] {
        ip(command);
    }
}

fn lan_forwards() -> bool {
    std::fs::read_to_string(LAN_FORWARDING).unwrap() == "1\n"
}

#[test]
fn a_lan_joins_and_is_given_back() {
    let test = "a_lan_joins_and_is_given_back";
    in_namespace(test, async |host| {
        if !host.supports(test, IsolationMode::Vrf).await {
            return;
        }
        foreign_things();
        let both = [IsolationMode::Vrf; 2];
        let desired = host.compile(&intent(&both, Some("eth1")));
        // Blocked while it isn't there, and nothing else waits for it.
        let plan = host.plan(&desired).await;
        assert_eq!(plan.blocked.len(), 1);
        assert!(plan.blocked[0].reason.contains("eth1"), "{:?}", plan.blocked);
        host.converge(&desired).await;
        lan();
        let before = lan_picture();
        assert!(!lan_forwards());
        println!("{}", host.converge(&desired).await.join("\n"));
        assert_same(&lan_picture(), &before, "the LAN interface");
        assert!(ip("link show eth1").contains("master sdwan-1"));
        assert!(lan_forwards());
        let routes = ip("route show table 10001");
        assert!(
            routes.contains("10.11.0.0/16 via 10.10.0.254 dev eth1 proto 241"),
            "{routes}"
        );

        // To another network, and back to nobody.
        let mut other = intent(&both, Some("eth1"));
        let lans: Vec<LanIntent> = other
            .networks
            .values_mut()
            .flat_map(|network| std::mem::take(&mut network.lans))
            .collect();
        let second = NetworkId::new(2).unwrap();
        other.networks.get_mut(&second).unwrap().lans = lans;
        host.converge(&host.compile(&other)).await;
        assert_same(&lan_picture(), &before, "the LAN interface");
        assert!(ip("link show eth1").contains("master sdwan-2"));
        host.converge(&State::default()).await;
        assert_same(&lan_picture(), &before, "the LAN interface");
        assert!(!ip("link show eth1").contains("master"));
        assert!(!lan_forwards());
        let keep = std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth1/keep_addr_on_down").unwrap();
        assert_eq!(keep, "0\n");
    });
}

#[test]
fn a_lan_that_would_cut_the_host_off_is_refused() {
    let test = "a_lan_that_would_cut_the_host_off_is_refused";
    in_namespace(test, async |mut host| {
        foreign_things();
        lan();
        let (picture, lan_before) = (foreign_picture(), lan_picture());
        let rules = |lan| {
            let mut intent = intent(&[IsolationMode::Rules], Some(lan));
            for network in intent.networks.values_mut() {
                network.links.clear();
                network.routes.clear();
            }
            intent
        };
        let mut cases = vec![(rules("eth0"), rules("eth1"))];
        if host.supports(test, IsolationMode::Vrf).await {
            let vrf = |lan| intent(&[IsolationMode::Vrf], Some(lan));
            cases.push((vrf("eth0"), vrf("eth1")));
        }
        for (uplink, lan) in cases {
            let refused = async |host: &Host, desired: &State, why: &str| {
                let plan = host.plan(desired).await;
                assert!(plan.blocked[0].reason.contains(why), "{:?}", plan.blocked);
                host.converge(desired).await;
            };
            refused(&host, &host.compile(&uplink), "default route").await;
            assert_same(&foreign_picture(), &picture, "foreign things");
            let desired = host.compile(&lan);
            host.protected.insert(link("eth1"));
            refused(&host, &desired, "session").await;
            assert_same(&lan_picture(), &lan_before, "the LAN interface");
            host.protected.clear();
            ip("link add br9 type bridge");
            ip("link set eth1 master br9");
            refused(&host, &desired, "belongs to br9").await;
            assert!(ip("link show eth1").contains("master br9"));
            ip("link delete br9");
            ip("link set eth1 down");
            refused(&host, &desired, "is down").await;
            host.converge(&State::default()).await;
            ip("link delete eth1");
            self::lan();
        }
    });
}

#[test]
fn a_foreign_link_under_our_name_is_left_alone() {
    in_namespace("a_foreign_link_under_our_name_is_left_alone", async |host| {
        ip("link add wg-sdwan-1 type bridge");
        ip("link set wg-sdwan-1 alias sdwand");
        let picture = ip("-d link show wg-sdwan-1");
        let desired = host.compile(&intent(&[IsolationMode::Rules], None));
        let plan = host.plan(&desired).await;
        assert_eq!(plan.blocked.len(), 1);
        assert!(
            plan.blocked[0].reason.contains("wg-sdwan-1"),
            "{:?}",
            plan.blocked
        );
        host.converge(&desired).await;
        host.converge(&State::default()).await;
        assert_eq!(ip("-d link show wg-sdwan-1"), picture);
    });
}

#[test]
fn a_half_made_link_is_finished() {
    let test = "a_half_made_link_is_finished";
    in_namespace(test, async |host| {
        if !host.supports(test, IsolationMode::Rules).await {
            return;
        }
        ip("link add wg-sdwan-1 group 241 type wireguard");
        let desired = host.compile(&intent(&[IsolationMode::Rules], None));
        let plan = host.plan(&desired).await;
        assert!(plan.blocked.is_empty());
        assert!(
            plan.changes
                .iter()
                .all(|change| !matches!(change.op, Op::AddLink { .. }))
        );
        host.converge(&desired).await;
        assert!(ip("link show wg-sdwan-1").contains("alias sdwand"));
    });
}

#[test]
fn router_advertisements_are_still_accepted() {
    let test = "router_advertisements_are_still_accepted";
    in_namespace(test, async |host| {
        foreign_things();
        lan();
        let mut intent = intent(&[IsolationMode::Rules], Some("eth1"));
        for network in intent.networks.values_mut() {
            network.links.clear();
            network.routes.clear();
            network.vips.clear();
        }
        let mut facts = observe_facts(&host.sysctls, Backend::Kernel).unwrap();
        // As on a kernel before 6.17, whatever this one is.
        facts.force_forwarding = false;
        let read = |name: &str| {
            let path = format!("/proc/sys/net/ipv6/conf/{name}");
            std::fs::read_to_string(path).unwrap().trim().to_owned()
        };
        assert_eq!(read("eth0/accept_ra"), "1");
        host.converge(&compile(&intent, &facts)).await;
        assert_eq!(
            (read("all/forwarding").as_str(), read("eth0/accept_ra").as_str()),
            ("1", "2")
        );
        // Neither is taken back: others may rely on it by now.
        host.converge(&State::default()).await;
        assert_eq!(
            (read("all/forwarding").as_str(), read("eth0/accept_ra").as_str()),
            ("1", "2")
        );
    });
}

#[test]
fn probes_leave_nothing_behind() {
    in_namespace("probes_leave_nothing_behind", async |host| {
        let before = ip("-o link");
        assert!(host.has("veth").await);
        assert!(host.has("bridge").await);
        assert!(!host.has("no-such-kind").await);
        for kind in ["wireguard", "vrf", "dummy"] {
            println!("{kind}: {}", host.has(kind).await);
        }
        assert_eq!(ip("-o link"), before);
    });
}

#[test]
fn an_object_that_cannot_be_read_hides_no_other() {
    in_namespace("an_object_that_cannot_be_read_hides_no_other", async |host| {
        ip("link add odd0 type veth peer name odd1");
        let not_utf8 = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&[0xff, 0xfe]);
        let mut alias = Command::new("ip");
        alias.args(["link", "set", "odd0", "alias"]).arg(not_utf8);
        assert!(alias.status().unwrap().success());
        let links = host.netlink.links().await.unwrap();
        let names: BTreeSet<&str> = links.iter().map(|link| link.name.as_str()).collect();
        assert!(names.contains("lo") && names.contains("odd1"), "{names:?}");
    });
}

#[test]
fn a_lan_by_rules_alone() {
    in_namespace("a_lan_by_rules_alone", async |host| {
        // Needs neither WireGuard nor VRFs: tables, rules and the LAN.
        foreign_things();
        lan();
        let (before, lan_before) = (foreign_picture(), lan_picture());
        let mut intent = intent(&[IsolationMode::Rules], Some("eth1"));
        for network in intent.networks.values_mut() {
            network.links.clear();
            network.routes.clear();
        }
        let desired = host.compile(&intent);
        println!("{}", host.converge(&desired).await.join("\n"));
        assert_same(&foreign_picture(), &before, "foreign things");
        assert_same(&lan_picture(), &lan_before, "the LAN interface");
        assert!(lan_forwards());
        for breakage in [
            "rule delete priority 2000 iif eth1",
            "-6 route delete unreachable default table 10001 metric 4278198272",
            "route delete 10.11.0.0/16 table 10001",
        ] {
            ip(breakage);
            assert_eq!(host.converge(&desired).await.len(), 1, "{breakage}");
        }
        a_no_op_writes_nothing(&host, &desired).await;
        host.converge(&State::default()).await;
        assert_same(&foreign_picture(), &before, "foreign things");
        assert_same(&lan_picture(), &lan_before, "the LAN interface");
        assert!(!lan_forwards());
    });
}

#[test]
fn ten_thousand_routes_go_in_together() {
    in_namespace("ten_thousand_routes_go_in_together", async |host| {
        lan();
        let mut intent = intent(&[IsolationMode::Rules], Some("eth1"));
        for network in intent.networks.values_mut() {
            network.links.clear();
            let destination = |n: u32| format!("fd12:34ab:cd42:1::{:x}/128", n + 16).parse().unwrap();
            network.routes = (0..10_000).map(|n| (destination(n), link("eth1"))).collect();
            // The source of routes has to be an address of this host.
            ip(&format!("address add {}/128 dev lo", network.overlay_v6));
        }
        let desired = host.compile(&intent);
        assert!(host.converge(&desired).await.len() > 10_000);
        assert_eq!(host.converge(&desired).await.len(), 0);
        host.converge(&State::default()).await;
    });
}

#[test]
fn of_many_writes_each_that_is_refused_is_named() {
    in_namespace("of_many_writes_each_that_is_refused_is_named", async |host| {
        ip("link add odd0 type veth peer name odd1");
        ip("link set odd0 up");
        let index = host.netlink.link("odd0").await.unwrap().unwrap().index;
        let route = |n: u32| Route {
            table: 10_001,
            destination: format!("10.{}.{}.0/24", n / 256, n % 256).parse().unwrap(),
            metric: 1_024,
            protocol: 241,
            kind: RouteKind::Unicast,
            // Every seventh leads out by a link that isn't there, the first and the last of a batch among them.
            device: Some(if n.is_multiple_of(7) { 9_999 } else { index }),
            gateway: None,
            source: None,
            mtu: None,
            other: false,
        };
        let writes = |which: fn(u32) -> bool| -> Vec<Write> {
            let routes = (0..1_000).filter(|n| which(*n)).map(route);
            routes
                .map(|route| Write::AddRoute(route, AddMode::Create))
                .collect()
        };
        let done = host.netlink.write_all(&writes(|_| true)).await;
        let refused: Vec<usize> = (0..1_000).filter(|n| done[*n].is_err()).collect();
        assert_eq!(refused, (0..1_000).step_by(7).collect::<Vec<_>>());
        let first = done[0].as_ref().unwrap_err();
        assert_eq!(first.errno(), Some(errno::ENODEV), "{first:?}");
        let there = |text: &str| text.lines().count();
        assert_eq!(there(&ip("route show table 10001")), 1_000 - refused.len());
        // All of them refused, more than one batch: none is lost, and the socket goes on.
        let again = host.netlink.write_all(&writes(|n| n % 7 != 0)).await;
        assert_eq!(again.len(), 1_000 - refused.len());
        let exists = |done: &Result<(), NetlinkError>| {
            done.as_ref()
                .is_err_and(|error| error.errno() == Some(errno::EEXIST))
        };
        assert!(again.iter().all(exists), "{:?}", again.first());
        let deletes: Vec<Write> = (0..1_000)
            .filter(|n| n % 7 != 0)
            .map(|n| Write::DeleteRoute(route(n)))
            .collect();
        assert!(host.netlink.write_all(&deletes).await.iter().all(Result::is_ok));
        assert!(host.netlink.write_all(&[]).await.is_empty());
        let left = Command::new("ip")
            .args(["route", "show", "table", "10001"])
            .output();
        assert!(left.unwrap().stdout.is_empty());
    });
}
