//! [`HostIntent`] → what the devices should be, and the same as a file for `wg setconf`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;

use super::state::{Desired, DesiredDevice, DesiredPeer};
use crate::intent::{HostIntent, LinkIntent, NetworkIntent};
use crate::model::LinkName;
use crate::model::network::{Endpoint, EndpointHost};

/// The devices of a host: one for each overlay link.
///
/// Host bits of AllowedIPs are cleared. Should two peers of a link claim one AllowedIP, the one with the lower key has
/// it: the kernel could only give it to one, and the plan would never settle.
#[must_use]
pub fn compile(intent: &HostIntent) -> Desired {
    let links = intent
        .networks
        .values()
        .flat_map(|network| network.links.iter().map(move |link| (network, link)));
    Desired {
        node: intent.node.clone(),
        public_key: intent.public_key,
        next_public_key: intent.next_public_key,
        devices: links
            .map(|(network, link)| (link.name.clone(), compile_device(network, link)))
            .collect(),
    }
}

fn compile_device(network: &NetworkIntent, link: &LinkIntent) -> DesiredDevice {
    let mut taken: BTreeSet<IpNet> = BTreeSet::new();
    let peers = link.peers.iter().map(|(public_key, peer)| {
        let allowed_ips = peer.allowed_ips.iter().map(IpNet::trunc);
        let peer = DesiredPeer {
            node: peer.node.clone(),
            next_public_key: peer.next_public_key,
            preshared_key: peer
                .preshared_key
                .as_ref()
                .unwrap_or(&network.preshared_key)
                .clone(),
            endpoints: peer
                .endpoints
                .iter()
                .map(|endpoint| Endpoint {
                    host: endpoint.host.clone(),
                    port: Some(endpoint.port.unwrap_or(peer.port)),
                })
                .collect(),
            left: Vec::new(),
            is_foreign: peer.bridge.is_some(),
            keepalive: peer.keepalive_seconds,
            allowed_ips: allowed_ips.filter(|net| taken.insert(*net)).collect(),
        };
        (*public_key, peer)
    });
    let peers: BTreeMap<_, _> = peers.collect();
    DesiredDevice {
        network: network.id,
        network_name: network.name.clone(),
        listen_port: link.listen_port,
        peers,
    }
}

/// A file for `wg setconf` (`wg(8)`), without the private key but with preshared keys; none if the link isn't this
/// node's.
///
/// Where a peer has several endpoints, the first is set and the others are comments.
#[must_use]
pub fn render_setconf(desired: &Desired, link: &LinkName) -> Option<String> {
    let device = desired.devices.get(link)?;
    let mut text = String::new();
    let _ = write!(
        text,
        "# {link}: node {}, network {} (id {})\n# `wg setconf` unsets a private key that the file doesn't give: add PrivateKey, \
         or `wg set {link} private-key FILE` afterwards.\n[Interface]\n",
        desired.node, device.network_name, device.network
    );
    if let Some(port) = device.listen_port {
        let _ = writeln!(text, "ListenPort = {port}");
    }
    for (public_key, peer) in &device.peers {
        let preshared_key = STANDARD.encode(peer.preshared_key.expose());
        let allowed_ips: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        let _ = write!(
            text,
            "\n# {}\n[Peer]\nPublicKey = {public_key}\nPresharedKey = {preshared_key}\nAllowedIPs = {}\n",
            peer.node,
            allowed_ips.join(", ")
        );
        for (index, endpoint) in peer.endpoints.iter().enumerate() {
            let comment = if index == 0 { "" } else { "# " };
            let _ = writeln!(text, "{comment}Endpoint = {}", render_endpoint(endpoint));
        }
        if peer.keepalive > 0 {
            let _ = writeln!(text, "PersistentKeepalive = {}", peer.keepalive);
        }
    }
    Some(text)
}

fn render_endpoint(endpoint: &Endpoint) -> String {
    let port = endpoint.port.unwrap_or_default();
    match &endpoint.host {
        EndpointHost::Address(address) => std::net::SocketAddr::new(*address, port).to_string(),
        EndpointHost::Dns(name) => format!("{name}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intent::{FirewallIntent, IsolationMode, LinkKind, PeerIntent};
    use crate::model::{Name, NetworkId, PresharedKey, PublicKey};

    fn network(links: Vec<LinkIntent>) -> NetworkIntent {
        NetworkIntent {
            name: Name::new("office").unwrap(),
            id: NetworkId::new(1).unwrap(),
            isolation: IsolationMode::Vrf,
            vrf: None,
            table: 10_001,
            mtu: 1_420,
            has_given_mtu: true,
            narrow: BTreeMap::new(),
            overlay_v6: "fd00::1".parse().unwrap(),
            overlay_v4: None,
            link_local: "fe80::1".parse().unwrap(),
            links,
            lans: Vec::new(),
            vips: Vec::new(),
            routes: BTreeMap::new(),
            shared: BTreeSet::new(),
            preshared_key: PresharedKey::derive("fd00::/48", 1, None),
            bridges: Vec::new(),
            firewall: FirewallIntent::default(),
        }
    }

    fn peer(node: &str, nets: &[&str]) -> PeerIntent {
        let endpoint = |host, port| Endpoint { host, port };
        PeerIntent {
            overlay_v6: Some("fd00::2".parse().unwrap()),
            link_local: Some("fe80::2".parse().unwrap()),
            node: Name::new(node).unwrap(),
            bridge: None,
            preshared_key: None,
            next_public_key: None,
            endpoints: vec![
                endpoint(EndpointHost::Address("2001:db8::1".parse().unwrap()), None),
                endpoint(EndpointHost::Dns("hub.example".to_owned()), Some(7)),
            ],
            port: 51_820,
            keepalive_seconds: 25,
            addresses: BTreeSet::new(),
            allowed_ips: nets.iter().map(|net| net.parse().unwrap()).collect(),
        }
    }

    fn device() -> DesiredDevice {
        let peers = [
            (PublicKey([1; 32]), peer("hub-a", &["fd00::2/128", "10.0.0.9/24"])),
            (PublicKey([2; 32]), peer("hub-b", &["10.0.0.0/24", "fd00::3/128"])),
        ];
        let link = LinkIntent {
            name: LinkName::new("wg-sdwan-1").unwrap(),
            kind: LinkKind::Multipoint,
            mtu: 1_420,
            listen_port: Some(51_820),
            peers: peers.into(),
            carriers: BTreeMap::new(),
        };
        compile_device(&network(vec![]), &link)
    }

    #[test]
    fn each_allowed_ip_is_on_one_peer_and_endpoints_have_ports() {
        let device = device();
        let nets = |n: u8| -> Vec<String> {
            let nets = device.peers[&PublicKey([n; 32])].allowed_ips.iter();
            nets.map(ToString::to_string).collect()
        };
        assert_eq!(nets(1), ["10.0.0.0/24", "fd00::2/128"]);
        assert_eq!(nets(2), ["fd00::3/128"]);
        let ports = device.peers[&PublicKey([1; 32])].endpoints.iter();
        assert_eq!(
            ports.map(|endpoint| endpoint.port).collect::<Vec<_>>(),
            [Some(51_820), Some(7)]
        );
    }

    #[test]
    fn a_setconf_file_names_nodes_and_has_no_private_key() {
        let link = LinkName::new("wg-sdwan-1").unwrap();
        let desired = Desired {
            node: Name::new("spoke-1").unwrap(),
            public_key: PublicKey([3; 32]),
            next_public_key: None,
            devices: BTreeMap::from([(link.clone(), device())]),
        };
        let text = render_setconf(&desired, &link).unwrap();
        assert_eq!(text.matches("[Peer]").count(), 2);
        for part in [
            "# wg-sdwan-1: node spoke-1, network office (id 1)\n",
            "[Interface]\nListenPort = 51820\n",
            "\n# hub-a\n[Peer]\nPublicKey = AQEBAQ",
            "AllowedIPs = 10.0.0.0/24, fd00::2/128\nEndpoint = [2001:db8::1]:51820\n# Endpoint = hub.example:7\n",
            "PersistentKeepalive = 25\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("PrivateKey ="));
        assert_eq!(render_setconf(&desired, &LinkName::new("wg0").unwrap()), None);
    }
}
