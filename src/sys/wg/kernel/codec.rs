//! Updates → messages that fit, and messages of a dump → a device.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardPeer,
    WireguardPeerAttribute, WireguardPeerFlags, WireguardTimeSpec,
};

use super::super::{DeviceInfo, DeviceUpdate, Key, PeerInfo, PeerUpdate, Secret, WgError};

/// How much one message may hold, in bytes: below 64 KiB, the longest attribute, and far below a socket's send buffer.
const BUDGET: usize = 32_000;
/// The most that a peer without AllowedIPs takes: key 36, preshared key 36, flags 8, endpoint 32, keepalive 8, nests 8.
const PEER_SIZE: usize = 128;
/// The most that an AllowedIP takes (IPv6): nest 4, family 8, address 20, prefix length 8.
const ALLOWED_IP_SIZE: usize = 40;

/// The messages of an update, in order. What fits into one message is changed at once.
pub(super) fn encode(name: &str, update: &DeviceUpdate) -> Vec<Vec<WireguardAttribute>> {
    let mut messages = Vec::new();
    let mut device = vec![WireguardAttribute::IfName(name.to_owned())];
    if let Some(private_key) = &update.private_key {
        device.push(WireguardAttribute::PrivateKey(*private_key.expose()));
    }
    device.extend(update.listen_port.map(WireguardAttribute::ListenPort));
    device.extend(update.fwmark.map(WireguardAttribute::Fwmark));

    let mut peers: Vec<WireguardPeer> = Vec::new();
    let mut used = 0;
    for peer in &update.peers {
        let nets: &[IpNet] = if peer.remove { &[] } else { &peer.allowed_ips };
        let mut at = 0;
        loop {
            let free = BUDGET.saturating_sub(used + PEER_SIZE);
            let fitting = (nets.len() - at).min(free / ALLOWED_IP_SIZE);
            if (free == 0 || (fitting == 0 && at < nets.len())) && !peers.is_empty() {
                device.push(WireguardAttribute::Peers(std::mem::take(&mut peers)));
                messages.push(std::mem::replace(
                    &mut device,
                    vec![WireguardAttribute::IfName(name.to_owned())],
                ));
                used = 0;
                continue;
            }
            let is_first = at == 0;
            let part = encode_peer(peer, is_first, &nets[at..at + fitting]);
            used += PEER_SIZE + fitting * ALLOWED_IP_SIZE;
            at += fitting;
            let calls = calling(peer).filter(|_| is_first);
            if let Some([before, after]) = calls {
                used += 2 * PEER_SIZE;
                peers.extend([before, part, after]);
            } else {
                peers.push(part);
            }
            if at == nets.len() {
                break;
            }
        }
    }
    if !peers.is_empty() {
        device.push(WireguardAttribute::Peers(peers));
    }
    if device.len() > 1 {
        messages.push(device);
    }
    messages
}

/// One peer, or the next part of one: only the first part replaces, and only the first may add the peer.
fn encode_peer(peer: &PeerUpdate, first: bool, nets: &[IpNet]) -> WireguardPeer {
    let mut attributes = vec![WireguardPeerAttribute::PublicKey(peer.public_key)];
    let mut flags = WireguardPeerFlags::empty();
    flags.set(WireguardPeerFlags::RemoveMe, peer.remove);
    flags.set(WireguardPeerFlags::UpdateOnly, peer.update_only || !first);
    if first && !peer.remove {
        flags.set(WireguardPeerFlags::ReplaceAllowedIps, peer.replace_allowed_ips);
        let secret = peer.preshared_key.as_ref();
        attributes.extend(secret.map(|secret| WireguardPeerAttribute::PresharedKey(*secret.expose())));
        attributes.extend(peer.endpoint.map(WireguardPeerAttribute::Endpoint));
        let at_least = u16::from(peer.call);
        let keepalive = peer.keepalive.map(|seconds| seconds.max(at_least));
        attributes.extend(keepalive.map(WireguardPeerAttribute::PersistentKeepalive));
    }
    if !flags.is_empty() {
        attributes.push(WireguardPeerAttribute::Flags(flags));
    }
    if !nets.is_empty() {
        let nets = nets.iter().map(encode_allowed_ip).collect();
        attributes.push(WireguardPeerAttribute::AllowedIps(nets));
    }
    WireguardPeer(attributes)
}

/// What goes before and after a peer that is to be called: the kernel sends a keepalive at once, and a handshake initiation
/// where there is no session for it, when the interval is set and was 0 (`set_peer`).
fn calling(peer: &PeerUpdate) -> Option<[WireguardPeer; 2]> {
    let keepalive = peer.keepalive.filter(|_| peer.call && !peer.remove)?;
    let interval = |seconds| {
        WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey(peer.public_key),
            WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly),
            WireguardPeerAttribute::PersistentKeepalive(seconds),
        ])
    };
    Some([interval(0), interval(keepalive)])
}

fn encode_allowed_ip(net: &IpNet) -> WireguardAllowedIp {
    let family = match net {
        IpNet::V4(_) => WireguardAddressFamily::Ipv4,
        IpNet::V6(_) => WireguardAddressFamily::Ipv6,
    };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(net.network()),
        WireguardAllowedIpAttr::Cidr(net.prefix_len()),
    ])
}

/// Adds a part of a dump to the device. A peer whose AllowedIPs don't fit into one message goes on in the next one, with only
/// its key and the rest of them (`wg_get_device_dump`): parts are joined by key.
pub(super) fn decode(
    name: &str,
    device: &mut DeviceInfo,
    attributes: impl IntoIterator<Item = WireguardAttribute>,
) -> Result<(), WgError> {
    for attribute in attributes {
        if let WireguardAttribute::PrivateKey(bytes) = attribute {
            drop(Secret::new(bytes));
        } else if let WireguardAttribute::PublicKey(key) = attribute {
            device.public_key = Some(key);
        } else if let WireguardAttribute::ListenPort(port) = attribute {
            device.listen_port = port;
        } else if let WireguardAttribute::Fwmark(mark) = attribute {
            device.fwmark = mark;
        } else if let WireguardAttribute::Peers(peers) = attribute {
            for peer in peers {
                decode_peer(name, device, peer)?;
            }
        }
    }
    Ok(())
}

fn decode_peer(name: &str, device: &mut DeviceInfo, peer: WireguardPeer) -> Result<(), WgError> {
    let malformed = |reason: &str| WgError::Malformed {
        name: name.to_owned(),
        what: "a peer",
        reason: reason.to_owned(),
    };
    let key: Option<Key> = peer.0.iter().find_map(|attribute| {
        if let WireguardPeerAttribute::PublicKey(key) = attribute {
            Some(*key)
        } else {
            None
        }
    });
    let info: &mut PeerInfo = device
        .peers
        .entry(key.ok_or_else(|| malformed("it has no public key"))?)
        .or_default();
    for attribute in peer.0 {
        if let WireguardPeerAttribute::PresharedKey(bytes) = attribute {
            let secret = Secret::new(bytes);
            info.preshared_key = (!secret.is_zero()).then_some(secret);
        } else if let WireguardPeerAttribute::Endpoint(endpoint) = attribute {
            info.endpoint = Some(endpoint);
        } else if let WireguardPeerAttribute::PersistentKeepalive(seconds) = attribute {
            info.keepalive = seconds;
        } else if let WireguardPeerAttribute::LastHandshake(time) = attribute {
            info.last_handshake = decode_time(time);
        } else if let WireguardPeerAttribute::RxBytes(bytes) = attribute {
            info.rx_bytes = bytes;
        } else if let WireguardPeerAttribute::TxBytes(bytes) = attribute {
            info.tx_bytes = bytes;
        } else if let WireguardPeerAttribute::AllowedIps(nets) = attribute {
            for net in nets {
                let net = decode_allowed_ip(&net).ok_or_else(|| malformed("an AllowedIP is incomplete"))?;
                info.allowed_ips.insert(net);
            }
        }
    }
    Ok(())
}

fn decode_time(time: WireguardTimeSpec) -> Option<SystemTime> {
    let seconds = u64::try_from(time.seconds).ok()?;
    let nanos = u32::try_from(time.nano_seconds)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    let since = Duration::new(seconds, nanos);
    (!since.is_zero()).then_some(UNIX_EPOCH + since)
}

fn decode_allowed_ip(net: &WireguardAllowedIp) -> Option<IpNet> {
    let mut address: Option<IpAddr> = None;
    let mut length = None;
    for attribute in &net.0 {
        if let WireguardAllowedIpAttr::IpAddr(ip) = attribute {
            address = Some(*ip);
        } else if let WireguardAllowedIpAttr::Cidr(cidr) = attribute {
            length = Some(*cidr);
        }
    }
    IpNet::new(address?, length?).ok().map(|net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::wg::memory::update_device;
    use rtnetlink::packet_core::Emitable as _;

    fn nets(count: u32) -> Vec<IpNet> {
        (0..count)
            .map(|i| {
                let address = std::net::Ipv6Addr::from((0xfd00_u128 << 112) | u128::from(i));
                IpNet::new(IpAddr::V6(address), 128).unwrap()
            })
            .collect()
    }

    /// What the kernel would make of the messages.
    fn replay(messages: &[Vec<WireguardAttribute>]) -> DeviceInfo {
        let mut device = DeviceInfo::default();
        for peer in messages.iter().flatten().filter_map(|attribute| {
            if let WireguardAttribute::Peers(peers) = attribute {
                Some(peers)
            } else {
                None
            }
        }) {
            for peer in peer {
                let mut single = DeviceInfo::default();
                decode_peer("wg0", &mut single, peer.clone()).unwrap();
                let (key, info) = single.peers.pop_first().unwrap();
                let flags = peer.0.iter().find_map(|attribute| {
                    if let WireguardPeerAttribute::Flags(flags) = attribute {
                        Some(*flags)
                    } else {
                        None
                    }
                });
                let flag = |flag| flags.is_some_and(|flags| flags.contains(flag));
                let update = PeerUpdate {
                    public_key: key,
                    remove: flag(WireguardPeerFlags::RemoveMe),
                    update_only: flag(WireguardPeerFlags::UpdateOnly),
                    replace_allowed_ips: flag(WireguardPeerFlags::ReplaceAllowedIps),
                    preshared_key: info.preshared_key,
                    endpoint: info.endpoint,
                    keepalive: Some(info.keepalive),
                    allowed_ips: info.allowed_ips.into_iter().collect(),
                    call: false,
                };
                let update = DeviceUpdate {
                    peers: vec![update],
                    ..DeviceUpdate::default()
                };
                update_device(&mut device, &update);
            }
        }
        device
    }

    #[test]
    fn a_peer_with_many_allowed_ips_is_split_and_joined() {
        let update = DeviceUpdate {
            peers: vec![PeerUpdate {
                public_key: [1; 32],
                replace_allowed_ips: true,
                allowed_ips: nets(20_000),
                ..PeerUpdate::default()
            }],
            ..DeviceUpdate::default()
        };
        let messages = encode("wg-sdwan-1", &update);
        assert!(messages.len() > 20);
        for message in &messages {
            assert!(message.as_slice().buffer_len() < 65_535);
        }
        assert_eq!(replay(&messages).peers[&[1; 32]].allowed_ips.len(), 20_000);

        let mut device = DeviceInfo::default();
        for part in messages {
            decode("wg-sdwan-1", &mut device, part).unwrap();
        }
        assert_eq!(device.peers.len(), 1);
        assert_eq!(device.peers[&[1; 32]].allowed_ips.len(), 20_000);
    }

    #[test]
    fn many_peers_are_spread_over_messages_in_order() {
        let mut update = DeviceUpdate {
            private_key: Some(Secret::new([7; 32])),
            ..DeviceUpdate::default()
        };
        for (i, net) in (0..500_u32).zip(nets(500)) {
            let mut public_key = [0; 32];
            public_key[..4].copy_from_slice(&i.to_be_bytes());
            update.peers.push(PeerUpdate {
                public_key,
                preshared_key: Some(Secret::new([9; 32])),
                allowed_ips: vec![net],
                ..PeerUpdate::default()
            });
        }
        let messages = encode("wg0", &update);
        let (first, rest) = messages.split_first().unwrap();
        assert!(matches!(first[1], WireguardAttribute::PrivateKey(_)));
        assert!(
            rest.iter()
                .flatten()
                .all(|a| !matches!(a, WireguardAttribute::PrivateKey(_)))
        );
        assert!(
            messages
                .iter()
                .all(|message| message.as_slice().buffer_len() < 33_000)
        );
        let device = replay(&messages);
        assert_eq!(device.peers.len(), 500);
        assert!(device.peers.values().all(|peer| peer.allowed_ips.len() == 1));
    }

    #[test]
    fn a_call_sets_the_keepalive_from_nothing_and_leaves_what_was_asked() {
        for wanted in [0, 25] {
            let update = DeviceUpdate {
                peers: vec![PeerUpdate {
                    public_key: [2; 32],
                    keepalive: Some(wanted),
                    allowed_ips: nets(2),
                    call: true,
                    ..PeerUpdate::default()
                }],
                ..DeviceUpdate::default()
            };
            let messages = encode("wg0", &update);
            let intervals: Vec<u16> = messages
                .iter()
                .flatten()
                .filter_map(|attribute| {
                    if let WireguardAttribute::Peers(peers) = attribute {
                        Some(peers)
                    } else {
                        None
                    }
                })
                .flatten()
                .flat_map(|peer| &peer.0)
                .filter_map(|attribute| {
                    if let WireguardPeerAttribute::PersistentKeepalive(seconds) = attribute {
                        Some(*seconds)
                    } else {
                        None
                    }
                })
                .collect();
            assert_eq!(intervals, [0, wanted.max(1), wanted]);
            let device = replay(&messages);
            let peer = &device.peers[&[2; 32]];
            assert_eq!((peer.keepalive, peer.allowed_ips.len()), (wanted, 2));
        }
    }

    #[test]
    fn a_small_update_is_one_message() {
        let update = DeviceUpdate {
            peers: vec![
                PeerUpdate {
                    public_key: [2; 32],
                    allowed_ips: nets(300),
                    ..PeerUpdate::default()
                },
                PeerUpdate::removal([2; 32]),
            ],
            ..DeviceUpdate::default()
        };
        let messages = encode("wg0", &update);
        assert_eq!(messages.len(), 1);
        assert!(replay(&messages).peers.is_empty());
        assert!(encode("wg0", &DeviceUpdate::default()).is_empty());
    }
}
