//! Every marker that says "ours". What carries none of them is foreign: never read as ours, never changed.
//!
//! | object | marker |
//! |---|---|
//! | link | name prefix *and* [`LINK_ALIAS`] (or [`LINK_GROUP`] until it has one) |
//! | address | it is on a link of ours |
//! | route, rule | protocol [`ROUTE_PROTOCOL`] (`RTPROT_*`, `FRA_PROTOCOL`), shown by `ip` as `proto 241` |
//! | mark of packets and connections | the bits of [`MARK_MASK`]: [`mapping_mark`], [`REPLY_MARK`] |
//! | nftables | everything in table `inet` [`NFT_TABLE`], nothing outside |
//! | enslaved LAN interface | its master is a VRF of ours |
//!
//! `rt_protos` has no name for 241 by default; `config/rt_protos.conf` gives it one.

use super::name::LinkName;
use super::naming::{DUMMY_PREFIX, VRF_PREFIX, WIREGUARD_PREFIX};
use super::network::NetworkId;

/// The routing protocol number of our routes and rules.
pub const ROUTE_PROTOCOL: u8 = 241;

/// The protocol of routes that the kernel makes by itself (`RTPROT_KERNEL`): connected and local ones.
pub const KERNEL_PROTOCOL: u8 = 2;

/// The metric of our routes.
pub const ROUTE_METRIC: u32 = 1024;

/// The metric of the unreachable default in each of our tables: behind every real route (`ip-vrf(8)` uses the same).
pub const UNREACHABLE_METRIC: u32 = 4_278_198_272;

/// The alias (`ip link … alias`) of every link that we made.
pub const LINK_ALIAS: &str = "sdwand";

/// The group (`ip link … group`) of every link that we made. The kernel takes it at creation, the alias only after: a
/// link with our name and group and no alias was made by a run that was killed in between.
pub const LINK_GROUP: u32 = 241;

/// Our nftables table, of family `inet`.
pub const NFT_TABLE: &str = "sdwand";

/// The bits of packet and connection marks that are ours, while a port mapping is in force. The others stay as they are.
pub const MARK_MASK: u32 = 0xffff_0000;

/// `R`: the mark of a packet that answers a mapped connection, on its way back to the underlay.
pub const REPLY_MARK: u32 = 0x8000_0000;

/// What tells the mark of a network from [`REPLY_MARK`].
const MAPPING_BIT: u32 = 0x4000_0000;

/// `A(id)`: the mark of a mapped connection, and of its packets on their way into the network.
#[must_use]
pub const fn mapping_mark(id: NetworkId) -> u32 {
    MAPPING_BIT | (id.get() as u32) << 16
}

/// The network into which a connection with this mark is mapped.
#[must_use]
pub fn network_of_mark(mark: u32) -> Option<NetworkId> {
    let id = u16::try_from((mark & MARK_MASK & !MAPPING_BIT) >> 16).ok()?;
    let id = NetworkId::new(id).ok()?;
    (mark & MARK_MASK == mapping_mark(id)).then_some(id)
}

/// Priorities of our rules. Those of port mappings are ahead of l3mdev (1000); those for tables without a VRF are behind
/// it, and ahead of `main` (32766).
pub mod rule_priority {
    /// `fwmark A(id)` → the network's table.
    pub const MAPPED: u32 = 900;
    /// `fwmark R` → `main`.
    pub const REPLY: u32 = 901;
    /// `iif <link>` → the network's table.
    pub const IIF: u32 = 2_000;
    /// `oif <link>` → the network's table.
    pub const OIF: u32 = 2_001;
    /// `from <own overlay address>` → the network's table.
    pub const FROM: u32 = 2_002;
}

/// What a name of ours says about a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkClass {
    /// `wg-sdwan-<id>[-<n>]`
    WireGuard,
    /// `sdwan-<id>`
    Vrf,
    /// `d-sdwan-<id>`
    VipDummy,
}

/// What the name alone would make of a link; the alias must agree before it is ours.
#[must_use]
pub fn link_class(name: &LinkName) -> Option<LinkClass> {
    let is_id = |text: &str| {
        !text.starts_with('0')
            && text.len() <= 4
            && !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_digit())
    };
    let name = name.as_str();
    if let Some(rest) = name.strip_prefix(WIREGUARD_PREFIX) {
        let (id, index) = rest.split_once('-').unwrap_or((rest, "2"));
        let index_fits = matches!(index.as_bytes(), [b'2'..=b'9']);
        return (is_id(id) && index_fits).then_some(LinkClass::WireGuard);
    }
    if let Some(id) = name.strip_prefix(DUMMY_PREFIX) {
        return is_id(id).then_some(LinkClass::VipDummy);
    }
    let id = name.strip_prefix(VRF_PREFIX)?;
    is_id(id).then_some(LinkClass::Vrf)
}

/// Whether a link is ours: by name and alias.
#[must_use]
pub fn owns_link(name: &LinkName, alias: Option<&str>) -> bool {
    alias == Some(LINK_ALIAS) && link_class(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_scheme_are_ours() {
        let class = |name| link_class(&LinkName::new(name).unwrap());
        assert_eq!(class("wg-sdwan-1"), Some(LinkClass::WireGuard));
        assert_eq!(class("wg-sdwan-9999-9"), Some(LinkClass::WireGuard));
        assert_eq!(class("sdwan-20"), Some(LinkClass::Vrf));
        assert_eq!(class("d-sdwan-20"), Some(LinkClass::VipDummy));
        for foreign in [
            "wg-sdwan-",
            "wg-sdwan-01",
            "wg-sdwan-1-1",
            "wg-sdwan-1-10",
            "sdwan-x",
            "sdwan-",
            "wg0",
            "d-sdwan-a",
        ] {
            assert_eq!(class(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn marks_lead_back_to_their_network() {
        for id in [1, 20, 9999] {
            let id = NetworkId::new(id).unwrap();
            assert_eq!(network_of_mark(mapping_mark(id) | 0x1234), Some(id));
            assert_eq!(mapping_mark(id) & !MARK_MASK, 0);
        }
        for foreign in [0, 1, REPLY_MARK, 0xca6c, 0x0004_0000, MAPPING_BIT, u32::MAX] {
            assert_eq!(network_of_mark(foreign), None, "{foreign:#x}");
        }
    }

    #[test]
    fn a_name_without_the_alias_is_foreign() {
        let name = LinkName::new("sdwan-1").unwrap();
        assert!(owns_link(&name, Some("sdwand")));
        assert!(!owns_link(&name, None));
        assert!(!owns_link(&name, Some("other")));
    }
}
