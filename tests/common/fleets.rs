//! Fleets as TOML, drawn from a seed or of a given size.

use std::fmt::Write as _;
use std::path::PathBuf;

/// `SplitMix64` (Steele, Lea, Flood 2014): small, seedable, the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A public key that is different for every `n`. Any 32 bytes are one (RFC 7748).
pub fn public_key(n: u64) -> String {
    use base64::Engine as _;
    let mut random = Random(n ^ 0x5dee_ce66);
    let mut bytes = [0_u8; 32];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_be_bytes());
    }
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn node(out: &mut String, name: &str, n: u64, key: &str, extra: &str) {
    writeln!(
        out,
        "[[nodes]]\nname = \"{name}\"\npublic_key = \"{key}\"\nhost_id = {}\n{extra}",
        n + 1
    )
    .unwrap();
}

fn fragment(text: String) -> Vec<(PathBuf, String)> {
    vec![(PathBuf::from("fleet.d/00.toml"), text)]
}

/// One hub-and-spoke network with `nodes` members (`hub`, then `n1`, `n2` …) and `rules` rules between them.
pub fn large(nodes: u64, rules: u64) -> Vec<(PathBuf, String)> {
    let mut out = String::from("format = 1\n[site]\nname = \"big\"\nprefix = \"fd12:34ab:cd42::/48\"\n");
    node(
        &mut out,
        "hub",
        0,
        &public_key(0),
        "endpoints = [\"203.0.113.5\"]\ntags = [\"edge\"]\n",
    );
    for n in 1..nodes {
        node(
            &mut out,
            &format!("n{n}"),
            n,
            &public_key(n),
            &format!("tags = [\"t{}\", \"all\"]\n", n % 100),
        );
    }
    out.push_str(
        "[[networks]]\nname = \"prod\"\nid = 1\ntopology = \"hub_and_spoke\"\nrouting = \"static\"\n",
    );
    out.push_str("members = [ { node = \"hub\", role = \"hub\" }, { tag = \"all\" } ]\n");
    for rule in 0..rules {
        let from = 1 + rule % (nodes - 1);
        let to = 1 + (rule * 7 + 3) % (nodes - 1);
        let port = 1000 + rule % 50_000;
        writeln!(
            out,
            "[[networks.rules]]\nname = \"r{rule}\"\naction = \"accept\"\nfrom = {{ node = \"n{from}\" }}\nto = {{ node = \"n{to}\" }}\nprotocol = \"tcp\"\nports = [\"{port}\"]"
        )
        .unwrap();
    }
    fragment(out)
}

/// A small fleet drawn from `seed`: 2 to 6 nodes in 1 to 3 networks, with LANs and rules. Node `me` is in it, with
/// public key `key`, and is in every network; two fleets of different seeds differ in everything else.
pub fn random(seed: u64, key: &str) -> Vec<(PathBuf, String)> {
    let mut random = Random(seed);
    let mut out = String::from("format = 1\n[site]\nname = \"site-a\"\nprefix = \"fd12:34ab:cd42::/48\"\n");
    let others = 1 + random.below(5);
    node(
        &mut out,
        "me",
        0,
        key,
        "endpoints = [\"192.0.2.1\"]\ntags = [\"web\"]\n",
    );
    for n in 1..=others {
        let tags = if random.chance(50) {
            "tags = [\"web\"]\n"
        } else {
            "tags = [\"db\"]\n"
        };
        let ends = format!("endpoints = [\"192.0.2.{}\"]\n", n + 1);
        let key = public_key(random.next());
        node(
            &mut out,
            &format!("n{n}"),
            n,
            &key,
            &format!("{tags}{}", if n == 1 { &ends } else { "" }),
        );
    }
    for network in 1..=1 + random.below(3) {
        self::network(&mut out, &mut random, network, others);
    }
    fragment(out)
}

fn network(out: &mut String, random: &mut Random, number: u64, others: u64) {
    let id = number * 10 + random.below(5);
    let mesh = random.chance(30);
    let me_is_hub = mesh || random.chance(50);
    let topology = if mesh { "full_mesh" } else { "hub_and_spoke" };
    writeln!(
        out,
        "[[networks]]\nname = \"net{number}\"\nid = {id}\ntopology = \"{topology}\"\nrouting = \"static\""
    )
    .unwrap();
    if random.chance(20) {
        out.push_str("default_action = \"accept\"\n");
    }
    if random.chance(40) {
        writeln!(out, "mtu = {}", 1300 + random.below(100)).unwrap();
    }
    out.push_str("members = [\n");
    let lan = |random: &mut Random, member: u64| match random.below(3) {
        0 => {
            format!(", lans = [ {{ subnet = \"10.{number}{member}.0.0/16\", interface = \"lan{number}\" }} ]")
        }
        1 => format!(
            ", lans = [ {{ subnet = \"fd00:{number}:{member}::/64\", interface = \"lan{number}\" }} ]"
        ),
        _ => String::new(),
    };
    let role = |hub: bool| if hub && !mesh { ", role = \"hub\"" } else { "" };
    let my_lan = lan(random, 0);
    writeln!(out, "  {{ node = \"me\"{}{my_lan} }},", role(me_is_hub)).unwrap();
    for n in 1..=others {
        if n == 1 || random.chance(70) {
            let lan = lan(random, n);
            writeln!(out, "  {{ node = \"n{n}\"{}{lan} }},", role(n == 1 && !me_is_hub)).unwrap();
        }
    }
    out.push_str("]\n");
    for rule in 0..random.below(6) {
        let action = ["accept", "accept", "drop", "reject"][random.below(4) as usize];
        let protocol = ["any", "tcp", "udp", "icmp"][random.below(4) as usize];
        let ports = match protocol {
            "tcp" | "udp" if random.chance(60) => format!("ports = [\"{}\"]\n", 1 + random.below(9000)),
            _ => String::new(),
        };
        let from = selector(random);
        let to = selector(random);
        writeln!(
            out,
            "[[networks.rules]]\nname = \"r{rule}\"\npriority = {}\naction = \"{action}\"\nfrom = {from}\nto = {to}\nprotocol = \"{protocol}\"\n{ports}",
            random.below(3) * 100
        )
        .unwrap();
    }
}

fn selector(random: &mut Random) -> &'static str {
    [
        "\"any\"",
        "{ node = \"me\" }",
        "{ node = \"n1\" }",
        "{ tag = \"web\" }",
        "{ lan_of = \"n1\" }",
        "{ cidr = \"10.0.0.0/8\" }",
    ][random.below(6) as usize]
}
