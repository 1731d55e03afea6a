//! Whole tables at once: a socket of its own that is read where it is asked, since a table of 20,000 routes would else pass
//! between two tasks message by message.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use super::{NetlinkError, errno};

/// `NLM_F_DUMP_INTR`: the table changed while it was read.
const INTERRUPTED: u16 = 0x10;
/// `NLMSG_MIN_TYPE`: below are the messages of netlink itself.
const FIRST_TYPE: u16 = 0x10;
/// How often an interrupted read is tried before it is an error.
pub(super) const ATTEMPTS: usize = 8;

/// What reads tables, one at a time. Clones share the socket.
#[derive(Clone)]
pub(super) struct Dumps(Arc<Mutex<Reader>>);

impl std::fmt::Debug for Dumps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dumps")
    }
}

struct Reader {
    socket: Socket,
    sequence: u32,
}

impl Dumps {
    /// Opens a socket in the network namespace of this thread.
    pub(super) fn open() -> io::Result<Self> {
        let (socket, sequence) = (connect()?, 0);
        Ok(Self(Arc::new(Mutex::new(Reader { socket, sequence }))))
    }

    /// Reads a table; `decode` picks what is wanted of it.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        request: RouteNetlinkMessage,
        decode: impl Fn(RouteNetlinkMessage) -> Option<T> + Send + 'static,
    ) -> Result<Vec<T>, NetlinkError> {
        let reader = Arc::clone(&self.0);
        let read = move || {
            let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            for _ in 0..ATTEMPTS {
                match reader.read(&request, &decode) {
                    Ok(Some(found)) => return Ok(found),
                    Ok(None) => {}
                    Err(source) => return Err(reader.failed(what, source)),
                }
            }
            Err(NetlinkError::Interrupted { what })
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|error| {
            let source = io::Error::other(error);
            Err(NetlinkError::Refused { what, source })
        })
    }
}

/// The first message of a datagram, and what is behind it. None for one that the codec doesn't understand: an object of others,
/// whose name isn't UTF-8 for instance, must not keep everything from being read.
pub(super) fn next(datagram: &[u8]) -> io::Result<(Option<NetlinkMessage<RouteNetlinkMessage>>, &[u8])> {
    let malformed =
        |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let buffer = NetlinkBuffer::new_checked(&datagram).map_err(|error| malformed(&error))?;
    let length = usize::try_from(buffer.length()).map_err(|error| malformed(&error))?;
    let behind = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    match NetlinkMessage::deserialize(datagram) {
        Ok(message) => Ok((Some(message), behind)),
        Err(error) if buffer.message_type() < FIRST_TYPE => Err(malformed(&error)),
        Err(error) => {
            tracing::warn!(kind = buffer.message_type(), %error, "netlink: an object can't be read, and is left out");
            Ok((None, behind))
        }
    }
}

/// Strict checking makes the kernel filter dumps; kernels before 4.20 don't know it, and we filter again.
pub(super) fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let _ = socket.set_netlink_get_strict_chk(true);
    // The kernel builds each part of a dump while the one before is received: where there is nothing, that is an error.
    socket.set_non_blocking(true)?;
    Ok(socket)
}

impl Reader {
    /// None if the table changed while it was read.
    fn read<T>(
        &mut self,
        request: &RouteNetlinkMessage,
        decode: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Option<Vec<T>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(request.clone());
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let (mut found, mut interrupted) = (Vec::new(), false);
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let (message, behind) = next(rest)?;
                rest = behind;
                let Some(message) = message.filter(|it| it.header.sequence_number == self.sequence) else {
                    continue;
                };
                interrupted |= message.header.flags & INTERRUPTED != 0;
                let code = match message.payload {
                    NetlinkPayload::InnerMessage(message) => {
                        found.extend(decode(message));
                        continue;
                    }
                    NetlinkPayload::Done(done) => done.code,
                    NetlinkPayload::Error(error) => error.raw_code(),
                    NetlinkPayload::Overrun(_) => -errno::ENOBUFS,
                    NetlinkPayload::Noop | _ => continue,
                };
                return match code {
                    0 => Ok((!interrupted).then_some(found)),
                    code => Err(io::Error::from_raw_os_error(code.abs())),
                };
            }
        }
    }

    /// The rest of an answer that broke off would meet the next request: the socket is replaced.
    fn failed(&mut self, what: &'static str, source: io::Error) -> NetlinkError {
        match connect() {
            Ok(socket) => self.socket = socket,
            Err(source) => return NetlinkError::Open(source),
        }
        NetlinkError::Refused { what, source }
    }
}
