//! What changes in nftables, as the kernel tells it (`NFNLGRP_NFTABLES`).

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};

/// `NFNLGRP_NFTABLES` of `linux/netfilter/nfnetlink.h`.
const GROUP_NFTABLES: u32 = 7;
/// Bytes of `struct nlmsghdr` and of `struct nfgenmsg` behind it.
pub(super) const NETLINK_HEADER: usize = 16;
pub(super) const NFGENMSG: usize = 4;
/// `NFTA_*_TABLE` (`NFTA_TABLE_NAME` of a table's own messages): 1 in every message of nftables that names a table.
pub(super) const ATTRIBUTE_TABLE: u16 = 1;
/// Enough for a burst; more is told as [`NftEvent::Overrun`].
const RECEIVE_BUFFER: usize = 1 << 20;

/// Something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NftEvent {
    /// In the watched table.
    Table,
    /// So much that some of it was lost: anything may have changed.
    Overrun,
}

/// A subscription to the events of one table.
pub struct NftEvents {
    socket: TokioSocket,
    table: String,
}

impl NftEvents {
    /// Subscribes to events of `table`, in the current network namespace.
    ///
    /// # Errors
    /// The socket can't be had: no nftables in the kernel, or no `CAP_NET_ADMIN`.
    pub fn subscribe(table: &str) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        socket.socket_mut().add_membership(GROUP_NFTABLES)?;
        socket.socket_mut().set_rx_buf_sz(RECEIVE_BUFFER)?;
        Ok(Self {
            socket,
            table: table.to_owned(),
        })
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// The socket failed, other than by an overrun.
    pub async fn next(&mut self) -> io::Result<NftEvent> {
        loop {
            match self.socket.recv_from_full().await {
                Ok((bytes, _)) if concerns(&bytes, &self.table) => return Ok(NftEvent::Table),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    return Ok(NftEvent::Overrun);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a datagram has a message about `table`.
fn concerns(mut bytes: &[u8], table: &str) -> bool {
    while bytes.len() >= NETLINK_HEADER {
        let length = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        if length < NETLINK_HEADER || length > bytes.len() {
            // A message that lies about its length: what it says is unknown.
            return true;
        }
        if names(&bytes[NETLINK_HEADER..length], table) {
            return true;
        }
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    false
}

fn names(payload: &[u8], table: &str) -> bool {
    let name = payload
        .get(NFGENMSG..)
        .and_then(|attributes| attribute(attributes, ATTRIBUTE_TABLE));
    name.and_then(|name| name.strip_suffix(&[0])) == Some(table.as_bytes())
}

/// The first attribute of a kind; none, too, where the lengths make no sense before it.
pub(super) fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let kind = u16::from_ne_bytes([attributes[2], attributes[3]]) & 0x3fff;
        if length < 4 || length > attributes.len() {
            return None;
        }
        if kind == wanted {
            return Some(&attributes[4..length]);
        }
        attributes = &attributes[length.next_multiple_of(4).min(attributes.len())..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(table: &str) -> Vec<u8> {
        let mut attribute = Vec::from(u16::try_from(table.len() + 5).unwrap().to_ne_bytes());
        attribute.extend(1_u16.to_ne_bytes());
        attribute.extend(table.as_bytes());
        attribute.push(0);
        attribute.resize(attribute.len().next_multiple_of(4), 0);
        let length = u32::try_from(16 + 4 + attribute.len()).unwrap();
        let mut bytes = Vec::from(length.to_ne_bytes());
        bytes.resize(16 + 4, 0);
        bytes.extend(attribute);
        bytes
    }

    #[test]
    fn only_the_watched_table_counts() {
        assert!(concerns(&message("sdwand"), "sdwand"));
        assert!(!concerns(&message("sdwand2"), "sdwand"));
        assert!(!concerns(&message("other"), "sdwand"));
        let both = [message("other"), message("sdwand")].concat();
        assert!(concerns(&both, "sdwand"));
        assert!(!concerns(&[], "sdwand"));
    }

    #[test]
    fn a_broken_message_counts() {
        let mut bytes = message("other");
        bytes[0] = 255;
        assert!(concerns(&bytes, "sdwand"));
    }
}
