//! Devices so large that what is asked and answered goes in many messages, as WireGuard's own selftest has them (Linux,
//! tools/testing/selftests/wireguard/netns.sh): planned, applied and read back by us, judged by `wg`. Each follows on the one
//! before, on one device, so that what is withdrawn is large, too.

mod wg_lab;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use sdwand::model::{LinkName, Name, NetworkId, PresharedKey, PrivateKey, PublicKey};
use sdwand::planes::wireguard::{Desired, DesiredDevice, DesiredPeer};
use sdwand::sys::wg::{Backend, Kernel, Userspace};
use wg_lab::{Need, base64, converge, in_namespace, public, sh};

const LINK: &str = "wg-sdwan-1";
const OWN: [u8; 32] = [0x40; 32];

/// The AllowedIPs of each peer.
type Shape = Vec<BTreeSet<IpNet>>;

fn nets(nets: impl IntoIterator<Item = String>) -> BTreeSet<IpNet> {
    let nets = nets.into_iter();
    nets.map(|net| net.parse::<IpNet>().expect("a prefix")).collect()
}

fn few(list: &[&str]) -> BTreeSet<IpNet> {
    nets(list.iter().map(|net| (*net).to_owned()))
}

/// 130,560 of one peer, in pairs as the selftest counts them.
fn one_with_130_560() -> Shape {
    let pairs = (1..=255).flat_map(|a| (0..=255).map(move |b| (a, b)));
    let nets = nets(pairs.flat_map(|(a, b)| [format!("{a}.{b}.0.0/16"), format!("{a}::{b}/128")]));
    assert_eq!(nets.len(), 130_560);
    vec![nets]
}

fn forty_with_52() -> Shape {
    let of = |a: u8| nets((1..=52).map(|b| format!("{a}.{b}.0.0/16")));
    (1..=40).map(of).collect()
}

/// 29 without any, and one.
fn thirty_with_one_that_has_any() -> Shape {
    let mut shape = vec![BTreeSet::new(); 29];
    shape.push(few(&["255.2.3.4/32", "abcd::255/128"]));
    shape
}

fn none_and_197() -> Shape {
    vec![BTreeSet::new(), nets((1..=197).map(|n| format!("abcd::{n}/128")))]
}

/// Peer `n` of any shape.
fn key(n: usize) -> PublicKey {
    let n = u8::try_from(n).expect("few");
    PublicKey(public([n.wrapping_add(0x80); 32]))
}

fn desired(shape: &Shape) -> Desired {
    let peer = |(n, allowed_ips): (usize, &BTreeSet<IpNet>)| {
        let peer = DesiredPeer {
            node: Name::new(&format!("n{n}")).expect("a name"),
            next_public_key: None,
            preshared_key: PresharedKey::derive("fd01::/48", 1, None),
            endpoints: Vec::new(),
            left: Vec::new(),
            is_foreign: false,
            keepalive: 0,
            allowed_ips: allowed_ips.clone(),
        };
        (key(n), peer)
    };
    let device = DesiredDevice {
        network: NetworkId::new(1).expect("an id"),
        network_name: Name::new("office").expect("a name"),
        listen_port: Some(51_820),
        peers: shape.iter().enumerate().map(peer).collect(),
    };
    Desired {
        node: Name::new("s").expect("a name"),
        public_key: PublicKey(public(OWN)),
        next_public_key: None,
        devices: BTreeMap::from([(LinkName::new(LINK).expect("a name"), device)]),
    }
}

/// What `wg` shows.
fn shown() -> BTreeMap<String, BTreeSet<IpNet>> {
    let text = sh(&format!("wg show {LINK} allowed-ips"));
    let peers = text.lines().map(|line| {
        let mut words = line.split_whitespace();
        let key = words.next().expect("a key").to_owned();
        let list: Vec<String> = words
            .filter(|word| *word != "(none)")
            .map(str::to_owned)
            .collect();
        let allowed = nets(list.iter().cloned());
        assert_eq!(allowed.len(), list.len(), "{key} has one twice");
        (key, allowed)
    });
    let peers: Vec<_> = peers.collect();
    let count = peers.len();
    let peers: BTreeMap<_, _> = peers.into_iter().collect();
    assert_eq!(peers.len(), count, "a peer is shown twice");
    peers
}

async fn takes(backend: &Backend, shape: &Shape) {
    let own_key: PrivateKey = base64(OWN).parse().expect("a key");
    converge(backend, &desired(shape), &own_key).await;
    let wanted = shape.iter().enumerate();
    let wanted: BTreeMap<_, _> = wanted
        .map(|(n, allowed)| (base64(key(n).0), allowed.clone()))
        .collect();
    let shown = shown();
    assert_eq!(
        shown.keys().collect::<Vec<_>>(),
        wanted.keys().collect::<Vec<_>>()
    );
    for (key, allowed) in &wanted {
        assert!(
            shown[key] == *allowed,
            "{key}: {} shown, {} wanted",
            shown[key].len(),
            allowed.len()
        );
    }
    sh(&format!("wg showconf {LINK}"));
}

async fn all_follow_one_another(backend: &Backend) {
    for shape in [
        one_with_130_560(),
        // The same peer loses all of them but one.
        vec![few(&["1.0.0.0/16"])],
        forty_with_52(),
        thirty_with_one_that_has_any(),
        none_and_197(),
        vec![few(&[
            "0.0.0.0/0",
            "10.0.0.0/8",
            "100.0.0.0/10",
            "172.16.0.0/12",
            "192.168.0.0/16",
        ])],
        vec![few(&["0.0.0.0/0"])],
        vec![few(&["::/0", "1700::/111", "5000::/4", "e000::/37", "9000::/75"])],
        vec![few(&["::/0"])],
        one_with_130_560(),
        Shape::new(),
    ] {
        takes(backend, &shape).await;
    }
}

#[test]
fn the_kernel_has_what_was_split() {
    in_namespace(
        "the_kernel_has_what_was_split",
        &[Need::KernelWireguard],
        async || {
            sh(&format!("ip link add {LINK} type wireguard"));
            let kernel = Kernel::connect().expect("a kernel with WireGuard");
            all_follow_one_another(&Backend::Kernel(kernel)).await;
        },
    );
}

#[test]
fn the_embedded_device_has_what_was_split() {
    in_namespace(
        "the_embedded_device_has_what_was_split",
        &[Need::Tun],
        async || {
            let userspace = Userspace::default();
            userspace.create(LINK, 1_420).await.expect("created");
            all_follow_one_another(&Backend::Userspace(userspace)).await;
        },
    );
}
