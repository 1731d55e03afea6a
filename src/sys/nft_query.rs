//! Two questions to nftables that need no process: is a table there, and has anything changed?
//!
//! The kernel answers both at once and without waiting for a transaction that is being committed (`nf_tables_api.c`
//! serves them under RCU).

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;

use super::nft_events::{ATTRIBUTE_TABLE, NETLINK_HEADER, NFGENMSG, attribute};

/// `NFNL_SUBSYS_NFTABLES` of `linux/netfilter/nfnetlink.h`, where it stands in a message's type.
pub(super) const SUBSYSTEM: u16 = 10 << 8;
/// `NFT_MSG_NEWTABLE`, `NFT_MSG_GETTABLE`, `NFT_MSG_NEWGEN` and `NFT_MSG_GETGEN` of `linux/netfilter/nf_tables.h`.
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const NEW_GENERATION: u16 = SUBSYSTEM | 15;
const GET_GENERATION: u16 = SUBSYSTEM | 16;
/// `NFTA_GEN_ID`: 32 bits, network order.
const ATTRIBUTE_GENERATION: u16 = 1;
/// `NFPROTO_INET` of `linux/netfilter.h`, and none.
pub(super) const INET: u8 = 1;
const UNSPECIFIED: u8 = 0;
/// `NLM_F_REQUEST` and `NLMSG_ERROR` of `linux/netlink.h`.
pub(super) const REQUEST: u16 = 1;
pub(super) const ERROR: u16 = 2;

/// Whether there is a table `inet <table>` in the network namespace of this thread.
///
/// # Errors
/// The kernel refused to say, or has no nftables.
pub fn has_table(table: &str) -> io::Result<bool> {
    let name = terminated(table);
    match ask(GET_TABLE, INET, Some((ATTRIBUTE_TABLE, &name)), NEW_TABLE) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The generation of the whole ruleset: another one after each transaction, whoever made it, and the same as long as
/// nothing but counts changes.
///
/// # Errors
/// The kernel refused to say, or has no nftables.
pub fn generation() -> io::Result<u32> {
    let answer = ask(GET_GENERATION, UNSPECIFIED, None, NEW_GENERATION)?;
    let id = answer
        .get(NFGENMSG..)
        .and_then(|attributes| attribute(attributes, ATTRIBUTE_GENERATION))
        .and_then(|id| id.try_into().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(u32::from_be_bytes(id))
}

/// One request, one answer of the kind that is expected: what stands behind its header.
fn ask(kind: u16, family: u8, attribute: Option<(u16, &[u8])>, expected: u16) -> io::Result<Vec<u8>> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // The answer lies there when the request was sent; a kernel that leaves it out must not keep anyone waiting.
    socket.set_non_blocking(true)?;
    let attributes: Vec<(u16, &[u8])> = attribute.into_iter().collect();
    socket.send(&encode(kind, family, REQUEST, &attributes), 0)?;
    let (bytes, _) = socket.recv_from_full()?;
    decode(&bytes, expected)
}

/// A message: its kind, family, flags and attributes.
pub(super) fn encode(kind: u16, family: u8, flags: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![family, 0, 0, 0];
    for (kind, value) in attributes {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        body.extend(length.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(NETLINK_HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::from(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.resize(NETLINK_HEADER, 0);
    bytes.extend(body);
    bytes
}

/// One message of a datagram.
pub(super) struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    /// What stands behind the header.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// The number that an acknowledgement, a refusal (negative) or the end of a dump begins with.
    pub fn code(&self) -> Option<i32> {
        let code = self.body.get(..4)?.try_into().ok()?;
        Some(i32::from_ne_bytes(code))
    }
}

/// The first message of a datagram, and what is behind it.
///
/// # Errors
/// Its length makes no sense.
pub(super) fn next_message(datagram: &[u8]) -> io::Result<(Message<'_>, &[u8])> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let header = datagram.get(..NETLINK_HEADER).ok_or_else(malformed)?;
    let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let message = Message {
        kind: u16::from_ne_bytes([header[4], header[5]]),
        flags: u16::from_ne_bytes([header[6], header[7]]),
        body: datagram.get(NETLINK_HEADER..length).ok_or_else(malformed)?,
    };
    Ok((
        message,
        &datagram[length.next_multiple_of(4).min(datagram.len())..],
    ))
}

/// A text as the kernel reads it.
pub(super) fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn decode(bytes: &[u8], expected: u16) -> io::Result<Vec<u8>> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let header = bytes.get(..NETLINK_HEADER).ok_or_else(malformed)?;
    let body = &bytes[NETLINK_HEADER..];
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    if kind == ERROR {
        let code = body.get(..4).and_then(|code| code.try_into().ok());
        let code = i32::from_ne_bytes(code.ok_or_else(malformed)?);
        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
    }
    if kind == expected {
        Ok(body.to_vec())
    } else {
        Err(malformed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_the_kernel_reads() {
        let bytes = encode(GET_TABLE, INET, REQUEST, &[(ATTRIBUTE_TABLE, b"sdwand\0")]);
        assert_eq!(bytes.len(), 16 + 4 + 12);
        assert_eq!(bytes[..4], 32_u32.to_ne_bytes());
        assert_eq!(bytes[4..6], 0x0a01_u16.to_ne_bytes());
        assert_eq!(bytes[20..22], 11_u16.to_ne_bytes());
        assert_eq!(
            attribute(&bytes[20..], ATTRIBUTE_TABLE),
            Some(b"sdwand\0".as_slice())
        );
    }

    #[test]
    fn refusals_and_nonsense_are_errors() {
        let mut refusal = encode(ERROR, 0, REQUEST, &[]);
        refusal[16..20].copy_from_slice(&(-2_i32).to_ne_bytes());
        let error = decode(&refusal, NEW_TABLE).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NOENT.raw_os_error()));
        assert!(decode(&encode(NEW_GENERATION, 0, REQUEST, &[]), NEW_TABLE).is_err());
        assert!(decode(&[], NEW_TABLE).is_err());
        assert!(decode(&refusal[..18], NEW_TABLE).is_err());
    }
}
