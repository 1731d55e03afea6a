//! Questions to a neighbour on a link: neighbour solicitations (RFC 4861, 7.2.2), as a host sends that doubts whether the
//! neighbour is still there (7.3.1). Its kernel answers, and no rule of a firewall for what the neighbour offers is asked.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType, ipproto, netdevice, sockopt,
};

/// Neighbour solicitation (RFC 4861, 4.3).
const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Neighbour advertisement (RFC 4861, 4.4).
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Bytes of a solicitation without options.
const BARE: usize = 24;
/// An option for experiments (RFC 4727, 5.1.3): whoever doesn't know it ignores it (RFC 4861, 4.6).
const EXPERIMENT: u8 = 253;
/// The most that one option holds, in bytes.
const MOST: usize = 255 * 8;
/// Bytes of an IPv6 header.
const HEADER: usize = 40;

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

/// What came of a question whose answer was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The neighbour answered.
    Answer,
    /// It didn't, in that time.
    Nothing,
    /// The question couldn't be sent as it should be.
    NotSent(Errno),
    /// This process may not ask: it lacks `CAP_NET_RAW`.
    NotAllowed,
}

/// Asks `target`, a link-local address, over `link`. Nobody here reads the answer, which shows in the counters of the link.
#[must_use]
pub fn solicit(link: &str, target: Ipv6Addr) -> Asked {
    let socket = match open(SocketFlags::NONBLOCK) {
        Ok(socket) => socket,
        Err(Errno::PERM | Errno::ACCESS) => return Asked::NotAllowed,
        Err(error) => return Asked::NoWay(error),
    };
    match send(&socket, link, target, &solicitation(target, 0)) {
        Ok(_) => Asked::Sent,
        Err(error) => Asked::NoWay(error),
    }
}

/// Asks `neighbour`, a link-local address, over `link` for another of its addresses, `target`, with a packet of `size` bytes,
/// or up to seven less: messages are multiples of eight. Waits for the answer, which is small, no longer than `patience` by the
/// clock `now`; the thread waits with it.
#[must_use]
pub fn reaches(
    (link, neighbour): (&str, Ipv6Addr),
    target: Ipv6Addr,
    size: u32,
    patience: Duration,
    now: fn() -> Instant,
) -> Heard {
    let message = solicitation(target, size as usize);
    let deadline = now() + patience;
    let asked = open(SocketFlags::empty()).and_then(|socket| {
        let index = send(&socket, link, neighbour, &message)?;
        answered(&socket, index, (neighbour, target), || {
            deadline.saturating_duration_since(now())
        })
    });
    match asked {
        Ok(true) => Heard::Answer,
        Ok(false) => Heard::Nothing,
        Err(Errno::PERM | Errno::ACCESS) => Heard::NotAllowed,
        Err(error) => Heard::NotSent(error),
    }
}

fn open(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(
        AddressFamily::INET6,
        SocketType::RAW,
        SocketFlags::CLOEXEC | flags,
        Some(ipproto::ICMPV6),
    )
}

/// The answer is the index of the link.
fn send(socket: &OwnedFd, link: &str, to: Ipv6Addr, message: &[u8]) -> Result<u32, Errno> {
    sockopt::set_ipv6_unicast_hops(socket, Some(255))?;
    let index = netdevice::name_to_index(socket, link)?;
    let to = SocketAddrV6::new(to, 0, 0, index);
    rustix::net::sendto(socket, message, SendFlags::DONTWAIT, &to)?;
    Ok(index)
}

/// Reads until the neighbour has answered for its other address, or the time is over.
fn answered(
    socket: &OwnedFd,
    index: u32,
    (neighbour, target): (Ipv6Addr, Ipv6Addr),
    left: impl Fn() -> Duration,
) -> Result<bool, Errno> {
    let mut message = [0_u8; BARE];
    loop {
        let left = left();
        if left.is_zero() {
            return Ok(false);
        }
        sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(left))?;
        let from = match rustix::net::recvfrom(socket, &mut message[..], RecvFlags::empty()) {
            Ok((_, _, from)) => from,
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(error) => return Err(error),
        };
        let from = from.and_then(|from: SocketAddrAny| SocketAddrV6::try_from(from).ok());
        // It answers from the address that it was asked for, or from the one that was asked.
        let is_its = from.is_some_and(|from| match from.scope_id() {
            0 => *from.ip() == target,
            link => link == index && *from.ip() == neighbour,
        });
        if is_its && message[0] == NEIGHBOUR_ADVERTISEMENT && message[8..] == target.octets() {
            return Ok(true);
        }
    }
}

/// The message, for a packet of `size` bytes if that is more than it needs; the kernel fills in its checksum (RFC 3542, 3.1).
/// Links without link-layer addresses have none to tell.
fn solicitation(target: Ipv6Addr, size: usize) -> Vec<u8> {
    let mut message = vec![0; BARE];
    message[0] = NEIGHBOUR_SOLICITATION;
    message[8..].copy_from_slice(&target.octets());
    let mut rest = size.saturating_sub(HEADER + BARE) / 8 * 8;
    while rest > 0 {
        let option = rest.min(MOST);
        let end = message.len() + option;
        message.extend([EXPERIMENT, u8::try_from(option / 8).expect("at most 255")]);
        message.resize(end, 0);
        rest -= option;
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solicitation_names_its_target() {
        let message = solicitation("fe80::1".parse().unwrap(), 0);
        assert_eq!(
            message,
            [
                135, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1
            ]
        );
    }
    #[test]
    fn a_solicitation_fills_a_packet() {
        for (size, filled) in [
            (64, 64),
            (71, 64),
            (72, 72),
            (1_420, 1_416),
            (2_104, 2_104),
            (9_000, 9_000),
        ] {
            let message = solicitation("fd00::1".parse().unwrap(), size);
            assert_eq!(HEADER + message.len(), filled, "{size}");
            let mut options = &message[BARE..];
            while let [kind, length, ..] = options {
                assert_eq!(*kind, EXPERIMENT);
                options = &options[usize::from(*length) * 8..];
            }
            assert_eq!(options, [0_u8; 0]);
        }
    }
}
