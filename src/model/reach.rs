//! Which addresses are of the Internet, and what else an address may mean.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// The address, and what packets for it may become on their way.
pub fn meanings(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    std::iter::once(address).chain(embedded(address))
}

/// The IPv4 address to which packets for an IPv6 one are translated or relayed: NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let octets = address.octets();
    let at = |from: usize| Ipv4Addr::new(octets[from], octets[from + 1], octets[from + 2], octets[from + 3]);
    if NAT64.contains(&address) {
        Some(at(12).into())
    } else if SIX_TO_FOUR.contains(&address) {
        Some(at(2).into())
    } else {
        None
    }
}

const fn v4(a: u8, b: u8, c: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), length)
}

const fn v6(a: u16, b: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), length)
}

const NAT64: Ipv6Net = v6(0x64, 0xff9b, 96);
const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 16);

/// What isn't the Internet, of IPv4 (IANA IPv4 Special-Purpose Address Registry), and multicast.
const SPECIAL_V4: [Ipv4Net; 15] = [
    v4(0, 0, 0, 8),
    v4(10, 0, 0, 8),
    v4(100, 64, 0, 10),
    v4(127, 0, 0, 8),
    v4(169, 254, 0, 16),
    v4(172, 16, 0, 12),
    v4(192, 0, 0, 24),
    v4(192, 0, 2, 24),
    v4(192, 88, 99, 24),
    v4(192, 168, 0, 16),
    v4(198, 18, 0, 15),
    v4(198, 51, 100, 24),
    v4(203, 0, 113, 24),
    v4(224, 0, 0, 4),
    v4(240, 0, 0, 4),
];

/// What is the Internet, of IPv6 (RFC 4291, section 2.4), and the translation prefix, whose other meaning decides.
const PUBLIC_V6: [Ipv6Net; 2] = [v6(0x2000, 0, 3), NAT64];

/// What of that isn't all the same (IANA IPv6 Special-Purpose Address Registry): protocols, Teredo, documentation.
const SPECIAL_V6: [Ipv6Net; 3] = [v6(0x2001, 0, 23), v6(0x2001, 0xdb8, 32), v6(0x3fff, 0, 20)];

/// Whether an address is of the Internet.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !SPECIAL_V4.iter().any(|net| net.contains(&address)),
        IpAddr::V6(address) => {
            let within = |nets: &[Ipv6Net]| nets.iter().any(|net| net.contains(&address));
            within(&PUBLIC_V6) && !within(&SPECIAL_V6)
        }
    }
}
