//! Every derived name, number and address. Nothing here depends on what else exists: nothing is renumbered when a
//! network comes or goes.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::name::{LinkName, Name};
use super::network::NetworkId;

/// The prefix of every WireGuard link of ours.
pub const WIREGUARD_PREFIX: &str = "wg-sdwan-";
/// The prefix of every VRF of ours.
pub const VRF_PREFIX: &str = "sdwan-";
/// The prefix of every VIP dummy of ours.
pub const DUMMY_PREFIX: &str = "d-sdwan-";

/// The instance id by which other sites know a node: a UUID of version 5 (RFC 9562) of `urn:sdwand:<site's /48>:<node>` in the URL
/// namespace. It follows from the site's prefix and the name alone.
#[must_use]
pub fn instance_id(site: Ipv6Net, node: &Name) -> Uuid {
    let urn = format!("urn:sdwand:{}:{node}", site.trunc());
    Uuid::new_v5(&Uuid::NAMESPACE_URL, urn.as_bytes())
}

fn link_name(text: &str) -> LinkName {
    LinkName::new(text).expect("prefix, id of at most four digits and hub index stay within 15 bytes")
}

/// The WireGuard link of a network: `wg-sdwan-<id>`; a spoke's further hubs get `wg-sdwan-<id>-2` to `-9`.
///
/// `index` counts from 0 and is at most 8 (`check` refuses more hubs in a network than that).
#[must_use]
pub fn wireguard_link(id: NetworkId, index: usize) -> LinkName {
    debug_assert!(index < MAX_HUBS);
    match index {
        0 => link_name(&format!("{WIREGUARD_PREFIX}{id}")),
        _ => link_name(&format!("{WIREGUARD_PREFIX}{id}-{}", index + 1)),
    }
}

/// How many hubs a network may have: one link each on a spoke, and one digit in the link's name.
pub const MAX_HUBS: usize = 9;

/// The VRF of a network: `sdwan-<id>`.
#[must_use]
pub fn vrf(id: NetworkId) -> LinkName {
    link_name(&format!("{VRF_PREFIX}{id}"))
}

/// The dummy that holds a network's VIPs: `d-sdwan-<id>`.
#[must_use]
pub fn vip_dummy(id: NetworkId) -> LinkName {
    link_name(&format!("{DUMMY_PREFIX}{id}"))
}

/// The routing table of a network: 10000 + id.
#[must_use]
pub fn table(id: NetworkId) -> u32 {
    10_000 + u32::from(id.get())
}

/// The conntrack zone of a network: its id.
#[must_use]
pub fn conntrack_zone(id: NetworkId) -> u16 {
    id.get()
}

/// The UDP port of a network: 51819 + id (id 1 is WireGuard's usual 51820).
#[must_use]
pub fn listen_port(id: NetworkId) -> u16 {
    51_819 + id.get()
}

/// The network's default prefix: the site's /48, and the id's decimal digits as the fourth group (id 20 reads `:20::`).
#[must_use]
pub fn prefix(site: Ipv6Net, id: NetworkId) -> Ipv6Net {
    let digits = u16::from_str_radix(&id.to_string(), 16).expect("four decimal digits are a hexadecimal u16");
    let mut segments = site.network().segments();
    segments[3] = digits;
    for segment in &mut segments[4..] {
        *segment = 0;
    }
    Ipv6Net::new(Ipv6Addr::from(segments), 64).expect("64 is a prefix length")
}

/// The network's default IPv4 prefix: 100.64.0.0/10 (RFC 6598) + id × /24.
#[must_use]
pub fn prefix_v4(id: NetworkId) -> Ipv4Net {
    let base = u32::from(Ipv4Addr::new(100, 64, 0, 0));
    Ipv4Net::new(Ipv4Addr::from(base + u32::from(id.get()) * 256), 24).expect("24 is a prefix length")
}

/// A node's host part where none is given: the first 8 bytes of SHA-256(node name).
#[must_use]
pub fn host_part(node: &Name) -> u64 {
    let digest = Sha256::digest(node.as_str().as_bytes());
    let (head, _) = digest.split_at(8);
    u64::from_be_bytes(head.try_into().expect("split at 8"))
}

/// The address of host part `host` in `prefix`.
#[must_use]
pub fn address_v6(prefix: Ipv6Net, host: u64) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(prefix.network()) | (u128::from(host) & u128::from(prefix.hostmask())))
}

/// The address of `host_id` in `prefix`, if it fits between the network's and the broadcast address.
#[must_use]
pub fn address_v4(prefix: Ipv4Net, host_id: u64) -> Option<Ipv4Addr> {
    let hosts = u64::from(u32::from(prefix.hostmask()));
    if host_id == 0 || host_id >= hosts {
        return None;
    }
    let host = u32::try_from(host_id).ok()?;
    Some(Ipv4Addr::from(u32::from(prefix.network()) | host))
}

/// The link-local address of a host part: `fe80::/64` and the host part (RFC 4291, 2.5.6).
#[must_use]
pub fn link_local(host: u64) -> Ipv6Addr {
    Ipv6Addr::from((0xfe80_u128 << 112) | u128::from(host))
}

/// The site's AS number where none is given: 4200000000 + hash of its name, in RFC 6996's 4-byte private range
/// (4200000000 to 4294967294).
#[must_use]
pub fn asn(site: &Name) -> u32 {
    const FIRST: u32 = 4_200_000_000;
    const LAST: u32 = 4_294_967_294;
    let digest = Sha256::digest(site.as_str().as_bytes());
    let (head, _) = digest.split_at(8);
    let hash = u64::from_be_bytes(head.try_into().expect("split at 8"));
    let offset = hash % u64::from(LAST - FIRST + 1);
    FIRST + u32::try_from(offset).expect("the remainder is below the range's size")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> NetworkId {
        NetworkId::new(n).unwrap()
    }

    #[test]
    fn numbers_follow_the_id() {
        assert_eq!(wireguard_link(id(1), 0).as_str(), "wg-sdwan-1");
        assert_eq!(wireguard_link(id(9999), 8).as_str(), "wg-sdwan-9999-9");
        assert_eq!(vrf(id(20)).as_str(), "sdwan-20");
        assert_eq!(vip_dummy(id(20)).as_str(), "d-sdwan-20");
        assert_eq!(table(id(1)), 10_001);
        assert_eq!(listen_port(id(1)), 51_820);
        assert_eq!(listen_port(id(9999)), 61_818);
    }

    #[test]
    fn prefixes_read_like_the_id() {
        let site = "fd12:34ab:cd42::/48".parse().unwrap();
        assert_eq!(prefix(site, id(20)).to_string(), "fd12:34ab:cd42:20::/64");
        assert_eq!(prefix(site, id(9999)).to_string(), "fd12:34ab:cd42:9999::/64");
        assert_eq!(prefix_v4(id(1)).to_string(), "100.64.1.0/24");
        assert_eq!(prefix_v4(id(9999)).to_string(), "100.103.15.0/24");
    }

    #[test]
    fn addresses() {
        let prefix = "fd12:34ab:cd42:1::/64".parse().unwrap();
        assert_eq!(address_v6(prefix, 1).to_string(), "fd12:34ab:cd42:1::1");
        assert_eq!(link_local(0x1).to_string(), "fe80::1");
        let v4 = "100.64.1.0/24".parse().unwrap();
        assert_eq!(
            address_v4(v4, 1).map(|a| a.to_string()).as_deref(),
            Some("100.64.1.1")
        );
        assert_eq!(address_v4(v4, 0), None);
        assert_eq!(address_v4(v4, 255), None);
        assert_eq!(address_v4(v4, 1 << 40), None);
        // The first 8 bytes of `printf node | sha256sum`.
        assert_eq!(host_part(&Name::new("node").unwrap()), 0x545e_a538_4610_03ef);
    }

    #[test]
    fn instance_ids_follow_from_prefix_and_name() {
        let id = |prefix: &str| instance_id(prefix.parse().unwrap(), &Name::new("hub-a1").unwrap());
        // `uuid.uuid5(uuid.NAMESPACE_URL, "urn:sdwand:fd12:34ab:cd42::/48:hub-a1")` in Python.
        assert_eq!(
            id("fd12:34ab:cd42::/48").to_string(),
            "1cbd36a3-2522-5622-a261-553a779b77d8"
        );
        assert_eq!(id("fd12:34ab:cd42::1/48"), id("fd12:34ab:cd42::/48"));
        assert_ne!(id("fd12:34ab:cd43::/48"), id("fd12:34ab:cd42::/48"));
    }

    #[test]
    fn as_numbers_are_private() {
        for name in ["a", "site-a", "zz-top"] {
            let asn = asn(&Name::new(name).unwrap());
            assert!((4_200_000_000..=4_294_967_294).contains(&asn), "{asn}");
        }
    }
}
