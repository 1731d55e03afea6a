//! Many writes at once: a datagram of them, of which the kernel answers the last, and each that it refuses. Written one by one,
//! 20,000 routes take three times as long as `ip -batch` does.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{NLM_F_ACK, NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::Socket;

use super::dump::{connect, next};
use super::{NetlinkError, errno};

/// How many writes go into one datagram: if each of them is refused, what the kernel says of them all fits into the socket's
/// buffer (a refusal takes some 1,300 bytes of its 208 KiB).
const BATCH: usize = 64;

/// A write: what it is, in words, and its message.
pub(super) type Encoded = (&'static str, NetlinkMessage<RouteNetlinkMessage>);

/// What writes. Clones share the socket.
#[derive(Clone)]
pub(super) struct Bulk(Arc<Mutex<Writer>>);

impl std::fmt::Debug for Bulk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bulk")
    }
}

struct Writer {
    socket: Socket,
    sequence: u32,
}

impl Bulk {
    /// Opens a socket in the network namespace of this thread.
    pub(super) fn open() -> io::Result<Self> {
        let (socket, sequence) = (connect()?, 0);
        Ok(Self(Arc::new(Mutex::new(Writer { socket, sequence }))))
    }

    /// Performs writes in their order, and tells what became of each. One that is refused stops none.
    ///
    /// Between batches others have their turn, whoever listens to the kernel's events of it among them.
    pub(super) async fn write(&self, writes: Vec<Encoded>) -> Vec<Result<(), NetlinkError>> {
        let mut results = Vec::with_capacity(writes.len());
        let mut writes = writes.into_iter();
        loop {
            let mut batch: Vec<Encoded> = writes.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return results;
            }
            let names: Vec<&'static str> = batch.iter().map(|(what, _)| *what).collect();
            let socket = Arc::clone(&self.0);
            let perform = move || {
                let mut socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
                socket.perform(&mut batch)
            };
            match tokio::task::spawn_blocking(perform).await {
                Ok(done) => results.extend(done),
                Err(error) => results.extend(names.into_iter().map(|what| {
                    let source = io::Error::other(error.to_string());
                    Err(NetlinkError::Refused { what, source })
                })),
            }
        }
    }
}

impl Writer {
    fn perform(&mut self, batch: &mut [Encoded]) -> Vec<Result<(), NetlinkError>> {
        let mut codes = vec![None; batch.len()];
        let broken = self.exchange(batch, &mut codes).err();
        if broken.is_some()
            && let Ok(socket) = connect()
        {
            // The rest of an answer that broke off would meet the next request.
            self.socket = socket;
        }
        let outcome = |((what, _), code): (&Encoded, Option<i32>)| match (code, &broken) {
            // What isn't named was done, if the last one was answered.
            (Some(0), _) | (None, None) => Ok(()),
            (Some(code), _) => Err((*what, io::Error::from_raw_os_error(code))),
            (None, Some(error)) => Err((*what, copy(error))),
        };
        let outcomes = batch.iter().zip(codes).map(outcome);
        outcomes
            .map(|outcome| outcome.map_err(|(what, source)| NetlinkError::Refused { what, source }))
            .collect()
    }

    /// Sends a batch, and notes what the kernel says of its writes; an error where its answer breaks off.
    fn exchange(&mut self, batch: &mut [Encoded], codes: &mut [Option<i32>]) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let last = batch.len().saturating_sub(1);
        let mut bytes = Vec::new();
        for (at, (_, message)) in batch.iter_mut().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            message.header.sequence_number = self.sequence;
            message.header.flags &= !NLM_F_ACK;
            if at == last {
                message.header.flags |= NLM_F_ACK;
            }
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        self.socket.send(&bytes, 0)?;
        // The kernel has done it all before `send` returns: an answer that isn't there won't come.
        while codes.last().is_some_and(Option::is_none) {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let (message, behind) = next(rest)?;
                rest = behind;
                let Some(message) = message else { continue };
                let at = message.header.sequence_number.wrapping_sub(first);
                let code = usize::try_from(at).ok().and_then(|at| codes.get_mut(at));
                match (message.payload, code) {
                    (NetlinkPayload::Error(error), Some(code)) => *code = Some(error.raw_code().abs()),
                    (NetlinkPayload::Overrun(_), _) => {
                        return Err(io::Error::from_raw_os_error(errno::ENOBUFS));
                    }
                    (_, _) => {}
                }
            }
        }
        Ok(())
    }
}

/// The same error, for another write of the batch.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
