//! Counters of a table that go, over netlink: `nft` would read the whole table first, which with 10,000 rules takes longer
//! than everything else of such a transaction.
//!
//! A transaction is what stands between `NFNL_MSG_BATCH_BEGIN` and `…_END` of one datagram (`linux/netfilter/nfnetlink.h`):
//! the kernel has committed or refused it when the datagram is sent, and each message is acknowledged.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::nft_events::NETLINK_HEADER;
use super::nft_query::{ERROR, INET, REQUEST, SUBSYSTEM, encode, next_message, terminated};

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFT_MSG_NEWOBJ` and `NFT_MSG_DELOBJ` of `linux/netfilter/nf_tables.h`.
const NEW_OBJECT: u16 = SUBSYSTEM | 0x12;
const DELETE_OBJECT: u16 = SUBSYSTEM | 0x14;
/// `NLM_F_ACK`, `NLM_F_CREATE` and `NLA_F_NESTED` of `linux/netlink.h`.
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const NESTED: u16 = 0x8000;
/// `NFTA_OBJ_…`
const OBJECT_TABLE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
/// `NFT_OBJECT_COUNTER`
const COUNTER: [u8; 4] = 1_u32.to_be_bytes();

/// How many counters go in one transaction: its acknowledgements must fit into the socket's buffer (212,992 bytes, of which
/// each takes less than 1,024).
const AT_ONCE: usize = 64;

/// Deletes counters of a table `inet <table>`, whether they are there or not: up to 64 in one transaction.
///
/// # Errors
/// The kernel refused, which for a table that isn't there is `ENOENT`: of this transaction nothing was changed.
pub fn delete_counters(table: &str, counters: &[String]) -> io::Result<()> {
    counters
        .chunks(AT_ONCE)
        .try_for_each(|some| delete_some(table, some))
}

fn delete_some(table: &str, counters: &[String]) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // The answers lie there when the batch was sent; a kernel that leaves one out must not keep anyone waiting.
    socket.set_non_blocking(true)?;
    socket.send(&batch(table, counters), 0)?;
    let mut due = 2 * counters.len();
    while due > 0 {
        let (bytes, _) = socket.recv_from_full()?;
        due = due.saturating_sub(acknowledged(&bytes)?);
    }
    Ok(())
}

fn batch(table: &str, counters: &[String]) -> Vec<u8> {
    let mut bytes = border(BATCH_BEGIN);
    let table = terminated(table);
    for counter in counters {
        let name = terminated(counter);
        let object = [
            (OBJECT_TABLE, table.as_slice()),
            (OBJECT_NAME, &name),
            (OBJECT_TYPE, &COUNTER),
        ];
        // What isn't there comes first: so its deletion is none that fails.
        let new = [&object[..], &[(OBJECT_DATA | NESTED, &[])]].concat();
        bytes.extend(encode(NEW_OBJECT, INET, REQUEST | ACK | CREATE, &new));
        bytes.extend(encode(DELETE_OBJECT, INET, REQUEST | ACK, &object));
    }
    bytes.extend(border(BATCH_END));
    bytes
}

/// The beginning or the end of a batch: which subsystem it is for stands where others have their `res_id`.
fn border(kind: u16) -> Vec<u8> {
    let mut bytes = encode(kind, 0, REQUEST, &[]);
    bytes[NETLINK_HEADER + 2..].copy_from_slice(&(SUBSYSTEM >> 8).to_be_bytes());
    bytes
}

/// How many messages a datagram acknowledges.
fn acknowledged(mut datagram: &[u8]) -> io::Result<usize> {
    let mut count = 0;
    while !datagram.is_empty() {
        let (message, behind) = next_message(datagram)?;
        datagram = behind;
        match message.code().filter(|_| message.kind == ERROR) {
            Some(0) => count += 1,
            Some(code) => return Err(io::Error::from_raw_os_error(code.saturating_neg())),
            None => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_what_the_kernel_reads() {
        let bytes = batch("sdwand", &["n1-cut-pending".to_owned()]);
        assert_eq!(bytes[4..6], BATCH_BEGIN.to_ne_bytes());
        // AF_UNSPEC, version 0, the subsystem in network order.
        assert_eq!(bytes[16..20], [0, 0, 0, 10]);
        let mut kinds = Vec::new();
        let mut rest = bytes.as_slice();
        while let [a, b, c, d, kind @ ..] = rest {
            kinds.push(u16::from_ne_bytes([kind[0], kind[1]]));
            rest = &rest[u32::from_ne_bytes([*a, *b, *c, *d]) as usize..];
        }
        assert_eq!(kinds, [BATCH_BEGIN, NEW_OBJECT, DELETE_OBJECT, BATCH_END]);
    }

    #[test]
    fn refusals_and_nonsense_are_errors() {
        let answer = |code: i32| {
            let mut bytes = encode(ERROR, 0, 0, &[]);
            bytes[16..20].copy_from_slice(&code.to_ne_bytes());
            bytes
        };
        assert_eq!(acknowledged(&[answer(0), answer(0)].concat()).unwrap(), 2);
        let refused = acknowledged(&[answer(0), answer(-2)].concat()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        assert!(acknowledged(&answer(0)[..17]).is_err());
        assert!(acknowledged(&encode(NEW_OBJECT, 0, 0, &[])).is_err());
    }
}
