//! A question to a neighbour on a link: a neighbour solicitation for its own address (RFC 4861, 7.2.2), as a host sends
//! that doubts whether the neighbour is still there (7.3.1). Its kernel answers; nobody here reads the answer, which
//! shows in the counters of the link.

use std::net::{Ipv6Addr, SocketAddrV6};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, netdevice, sockopt};

/// Neighbour solicitation (RFC 4861, 4.3).
const NEIGHBOUR_SOLICITATION: u8 = 135;

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It went out.
    Sent,
    /// The link can't carry it, for this reason: it has no peer or no endpoint, is down, or isn't there.
    NoWay(Errno),
    /// This process may not ask: it lacks `CAP_NET_RAW`.
    NotAllowed,
}

/// Asks `target`, a link-local address, over `link`.
#[must_use]
pub fn solicit(link: &str, target: Ipv6Addr) -> Asked {
    let socket = rustix::net::socket_with(
        AddressFamily::INET6,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(ipproto::ICMPV6),
    );
    let socket = match socket {
        Ok(socket) => socket,
        Err(Errno::PERM | Errno::ACCESS) => return Asked::NotAllowed,
        Err(error) => return Asked::NoWay(error),
    };
    let sent = sockopt::set_ipv6_unicast_hops(&socket, Some(255))
        .and_then(|()| netdevice::name_to_index(&socket, link))
        .and_then(|index| {
            let to = SocketAddrV6::new(target, 0, 0, index);
            rustix::net::sendto(&socket, &solicitation(target), SendFlags::DONTWAIT, &to)
        });
    match sent {
        Ok(_) => Asked::Sent,
        Err(error) => Asked::NoWay(error),
    }
}

/// The message; the kernel fills in its checksum (RFC 3542, 3.1). Without options: links without link-layer addresses
/// have none to tell.
fn solicitation(target: Ipv6Addr) -> [u8; 24] {
    let mut message = [0; 24];
    message[0] = NEIGHBOUR_SOLICITATION;
    message[8..].copy_from_slice(&target.octets());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solicitation_names_its_target() {
        let message = solicitation("fe80::1".parse().unwrap());
        assert_eq!(
            message,
            [
                135, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1
            ]
        );
    }
}
