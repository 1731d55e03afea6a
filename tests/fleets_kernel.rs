//! Random fleets one after another in the kernel, by the binary itself: whatever was there before, a fleet makes the same host
//! of it, nothing is left to do, and `down` leaves what there was before the first.
//!
//! ```text
//!   C, down, A → B → C, down       eth0: the underlay; lan1 to lan3: what may be a LAN of a network; and foreign things
//! ```
//!
//! `SDWAND_FLEETS` (default 3) times, each with three fleets drawn anew.

#![expect(
    clippy::disallowed_methods,
    reason = "the test runs commands as a person would"
)]

#[path = "common/fleets.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::pedantic,
    reason = "shared with the benches"
)]
mod fleets;
mod wg_lab;

use std::process::{Command, Output};

use sdwand::model::PrivateKey;
use wg_lab::{Need, base64, in_namespace, sh};

const KEY: [u8; 32] = [0x41; 32];
const ROOT: &str = "/run/host";

fn write(name: &str, text: &str) {
    std::fs::write(format!("{ROOT}/{name}"), text).expect("written");
}

/// A host without sdwand, and with a folder for it.
fn host(isolation: &str) {
    sh(&format!(
        "mkdir -p {ROOT}/fleet.d {ROOT}/state {ROOT}/run; umask 077; echo {} > {ROOT}/node.key",
        base64(KEY)
    ));
    write(
        "sdwand.toml",
        &format!(
            "format = 1\nnode = \"me\"\nprivate_key_file = \"{ROOT}/node.key\"\nstate_dir = \"{ROOT}/state\"\n\
             run_dir = \"{ROOT}/run\"\n[fleet]\ndir = \"{ROOT}/fleet.d\"\n[isolation]\nbackend = \"{isolation}\"\n"
        ),
    );
    // That the host forwards stays after `down`: it does before.
    sh("sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
        ip link add eth0 type veth peer name peer0; ip link set eth0 up; ip link set peer0 up
        ip addr add 192.0.2.1/24 dev eth0; ip route add default via 192.0.2.254
        ip -6 addr add 2001:db8::1/64 dev eth0 nodad; ip -6 route add default via 2001:db8::fe
        ip rule add priority 1500 from 192.0.2.77 lookup 500; ip route add blackhole default table 500
        nft add table inet mine; nft add chain inet mine c '{ type filter hook input priority 5; }'; nft add rule inet mine c counter");
    for n in 1..=3 {
        sh(&format!(
            "ip link add lan{n} type veth peer name host{n}; ip link set lan{n} up; ip link set host{n} up
             ip addr add 10.{n}0.0.1/16 dev lan{n}; ip -6 addr add fd00:{n}::1/64 dev lan{n} nodad"
        ));
    }
}

fn sdwand(command: &str) -> Output {
    let config = format!("{ROOT}/sdwand.toml");
    let mut run = Command::new(env!("CARGO_BIN_EXE_sdwand"));
    run.args(["--config", &config, command]).output().expect("runs")
}

/// Runs a command that must do what it is asked for; nothing may be left to do after it.
fn must(command: &str, why: &str) {
    let done = sdwand(command);
    let (out, err) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    assert!(done.status.success(), "{command}, {why}: {out}{err}");
}

/// Makes a fleet true.
fn takes(seed: u64) {
    let key = base64(KEY).parse::<PrivateKey>().expect("a key").public();
    let text: String = fleets::random(seed, &key.to_string())
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    write("fleet.d/.new", &text);
    sh(&format!("mv {ROOT}/fleet.d/.new {ROOT}/fleet.d/fleet.toml"));
    must("apply", &text);
    must("plan", &text);
}

/// Everything that packets may meet on this host, line by line, without what numbers and counts.
fn picture() -> Vec<String> {
    let text = sh(
        r#"ip -d -o link | sed -E 's/^[0-9]+: ([^ @:]+)[^ :]*: <([^>]*)> mtu ([0-9]+).*/\1 \2 mtu \3 &/; s/ [0-9]+: .*( master [^ ]+).*/\1/; s/ [0-9]+: .*//'
        ip -o addr | sed -E 's/^[0-9]+: //; s/ +/ /g'
        for family in -4 -6; do ip $family rule; ip $family route show table all; done
        nft -s list ruleset | sed 's/ # handle.*//; s/elements = {/&\n/; s/ }$//' | tr ',' '\n'
        for link in $(wg show interfaces); do wg showconf $link | grep -v ListenPort | sed "s/^/$link /"; done
        for link in $(ls /proc/sys/net/ipv4/conf); do
          for family in 4 6; do echo "$link v$family $(cat /proc/sys/net/ipv$family/conf/$link/forwarding)"; done
        done"#,
    );
    // The kernel's own rule stays once there was a VRF.
    let of_the_kernel = |line: &str| line.contains("l3mdev");
    let mut lines: Vec<String> = text
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !of_the_kernel(line))
        .collect();
    lines.sort();
    lines
}

fn assert_same(found: &[String], expected: &[String], when: &str) {
    let new: Vec<_> = found.iter().filter(|line| !expected.contains(line)).collect();
    let lost: Vec<_> = expected.iter().filter(|line| !found.contains(line)).collect();
    assert!(found == expected, "{when}: new {new:#?}, lost {lost:#?}");
}

fn one_after_another(isolation: &str) {
    host(isolation);
    let before = picture();
    let mut random = fleets::Random(0x5d_3a11);
    let rounds = std::env::var("SDWAND_FLEETS").map_or(3, |rounds| rounds.parse().expect("a number"));
    for round in 0..rounds {
        let seeds = [random.next(), random.next(), random.next()];
        let when = |what: &str| format!("{isolation}, round {round}, seeds {seeds:?}: {what}");
        takes(seeds[2]);
        let straight = picture();
        assert!(
            straight.len() > before.len() + 20,
            "{}",
            when("there is little to compare")
        );
        must("down", "straight");
        assert_same(&picture(), &before, &when("down"));
        seeds.into_iter().for_each(takes);
        assert_same(&picture(), &straight, &when("A, B, C and C alone"));
        must("down", "the last");
        assert_same(&picture(), &before, &when("the second down"));
    }
}

#[test]
fn whatever_was_before_a_fleet_makes_the_same_host_with_vrfs() {
    in_namespace(
        "whatever_was_before_a_fleet_makes_the_same_host_with_vrfs",
        &[Need::KernelWireguard],
        async || one_after_another("vrf"),
    );
}

#[test]
fn whatever_was_before_a_fleet_makes_the_same_host_with_rules() {
    in_namespace(
        "whatever_was_before_a_fleet_makes_the_same_host_with_rules",
        &[Need::KernelWireguard],
        async || one_after_another("rules"),
    );
}
