//! The kernel's WireGuard over generic netlink (`include/uapi/linux/wireguard.h`).
//!
//! Written on `netlink-packet-wireguard` and a socket of our own, so that an update can say "only if the peer is
//! there", an interrupted dump is read again, and no layer in between logs a message: dumps carry private keys.

mod codec;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use netlink_packet_generic::GenlMessage;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_wireguard::{WireguardAttribute, WireguardCmd, WireguardMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};
use rustix::io::Errno;
use zeroize::Zeroize as _;

use super::{DeviceInfo, DeviceUpdate, WgError};

/// How often an interrupted dump is read again.
const DUMP_ATTEMPTS: usize = 10;

/// The longest message of a dump (`netlink_recvmsg` caps what it builds at 32 KiB).
const RECEIVE_BUFFER: usize = 64 * 1024;

/// The kernel's WireGuard, in the network namespace in which it was connected. Clones share one socket.
#[derive(Clone, Debug)]
pub struct Kernel {
    channel: Arc<Mutex<Channel>>,
}

impl Kernel {
    /// Opens a socket in the current network namespace and finds WireGuard, loading its module if there is one.
    ///
    /// # Errors
    /// [`WgError::Unsupported`] if the kernel has none.
    pub fn connect() -> Result<Self, WgError> {
        let mut channel =
            Channel::open().map_err(|error| WgError::io("open", "generic netlink socket", error))?;
        channel.family = channel.resolve_family()?;
        Ok(Self {
            channel: Arc::new(Mutex::new(channel)),
        })
    }

    /// Reads a device.
    ///
    /// # Errors
    /// As [`super::Backend::read`].
    pub async fn read(&self, name: &str) -> Result<DeviceInfo, WgError> {
        let name = name.to_owned();
        self.run(move |channel| channel.read(&name)).await
    }

    /// Changes a device.
    ///
    /// # Errors
    /// As [`super::Backend::set`].
    pub async fn set(&self, name: &str, update: DeviceUpdate) -> Result<(), WgError> {
        let name = name.to_owned();
        self.run(move |channel| channel.set(&name, &update)).await
    }

    async fn run<T, F>(&self, work: F) -> Result<T, WgError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Channel) -> Result<T, WgError> + Send + 'static,
    {
        let channel = Arc::clone(&self.channel);
        let run = move || work(&mut channel.lock().unwrap_or_else(PoisonError::into_inner));
        match tokio::task::spawn_blocking(run).await {
            Ok(result) => result,
            Err(error) => Err(WgError::io("run", "netlink request", io::Error::other(error))),
        }
    }
}

/// A socket that asks one thing at a time.
struct Channel {
    socket: Socket,
    sequence: u32,
    family: u16,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("family", &self.family)
            .finish_non_exhaustive()
    }
}

/// How an exchange ended: with the acknowledgement, the refusal or the end of the dump.
#[derive(Default)]
struct Answer {
    interrupted: bool,
    refused: Option<io::Error>,
}

impl Channel {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
            family: 0,
        })
    }

    fn resolve_family(&mut self) -> Result<u16, WgError> {
        let message = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName("wireguard".to_owned())],
        });
        let mut attributes = Vec::new();
        let take = |family: GenlCtrl| attributes.extend(family.nlas);
        self.ask(message, NLM_F_ACK, take).map_err(|error| {
            if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) {
                WgError::Unsupported
            } else {
                WgError::io("resolve", "netlink family \"wireguard\"", error)
            }
        })?;
        let mut id = attributes.into_iter().filter_map(|attribute| {
            if let GenlCtrlAttrs::FamilyId(id) = attribute {
                Some(id)
            } else {
                None
            }
        });
        id.next().ok_or(WgError::Unsupported)
    }

    fn read(&mut self, name: &str) -> Result<DeviceInfo, WgError> {
        for _ in 0..DUMP_ATTEMPTS {
            let request = WireguardMessage {
                cmd: WireguardCmd::GetDevice,
                attributes: vec![WireguardAttribute::IfName(name.to_owned())],
            };
            let mut message = GenlMessage::from_payload(request);
            message.set_resolved_family_id(self.family);
            // Part by part: ten thousand peers take less room as what they are than as attributes.
            let mut device = Ok(DeviceInfo::default());
            let take = |part: WireguardMessage| {
                if let Ok(known) = &mut device
                    && let Err(error) = codec::decode(name, known, part.attributes)
                {
                    device = Err(error);
                }
            };
            let answer = self
                .ask(message, NLM_F_DUMP, take)
                .map_err(|error| device_error("read", name, error))?;
            if !answer.interrupted {
                return device;
            }
        }
        Err(WgError::Interrupted(name.to_owned()))
    }

    fn set(&mut self, name: &str, update: &DeviceUpdate) -> Result<(), WgError> {
        for attributes in codec::encode(name, update) {
            let mut message = GenlMessage::from_payload(WireguardMessage {
                cmd: WireguardCmd::SetDevice,
                attributes,
            });
            message.set_resolved_family_id(self.family);
            let result = self.ask(message, NLM_F_ACK, |_: WireguardMessage| {});
            result.map_err(|error| match update.listen_port {
                Some(port) if error.kind() == io::ErrorKind::AddrInUse => WgError::PortTaken {
                    name: name.to_owned(),
                    port,
                },
                Some(_) | None => device_error("set", name, error),
            })?;
        }
        Ok(())
    }

    /// Sends a request and takes what comes back until it is acknowledged, refused or, for a dump, complete.
    ///
    /// Where that breaks off, the rest of the answer would meet the next request: the socket is replaced.
    fn ask<F>(&mut self, message: GenlMessage<F>, flags: u16, take: impl FnMut(F)) -> io::Result<Answer>
    where
        F: std::fmt::Debug,
        GenlMessage<F>: NetlinkSerializable + NetlinkDeserializable,
    {
        match self.exchange(message, flags, take) {
            Ok(mut answer) => match answer.refused.take() {
                Some(error) => Err(error),
                None => Ok(answer),
            },
            Err(error) => {
                let family = self.family;
                *self = Self::open()?;
                self.family = family;
                Err(error)
            }
        }
    }

    fn exchange<F>(
        &mut self,
        message: GenlMessage<F>,
        flags: u16,
        mut take: impl FnMut(F),
    ) -> io::Result<Answer>
    where
        F: std::fmt::Debug,
        GenlMessage<F>: NetlinkSerializable + NetlinkDeserializable,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        let sent = self.socket.send(&bytes, 0);
        bytes.zeroize();
        sent?;

        let mut answer = Answer::default();
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        loop {
            self.socket.recv(&mut buffer, 0)?;
            let end = collect(&buffer, self.sequence, &mut answer, &mut take);
            // Also sets the length to 0.
            buffer.zeroize();
            if end? {
                return Ok(answer);
            }
        }
    }
}

/// Takes the messages of one datagram; says whether the answer ends there.
fn collect<F>(
    datagram: &[u8],
    sequence: u32,
    answer: &mut Answer,
    take: &mut impl FnMut(F),
) -> io::Result<bool>
where
    F: std::fmt::Debug,
    GenlMessage<F>: NetlinkSerializable + NetlinkDeserializable,
{
    let malformed =
        |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let mut rest = datagram;
    while !rest.is_empty() {
        let message =
            NetlinkMessage::<GenlMessage<F>>::deserialize(rest).map_err(|error| malformed(&error))?;
        let length = usize::try_from(message.header.length).map_err(|error| malformed(&error))?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        if message.header.sequence_number != sequence {
            continue;
        }
        answer.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            NetlinkPayload::InnerMessage(message) => take(message.into_parts().1),
            NetlinkPayload::Done(done) if done.code < 0 => {
                return Err(io::Error::from_raw_os_error(-done.code));
            }
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(true),
            NetlinkPayload::Overrun(_) => return Err(Errno::NOBUFS.into()),
            NetlinkPayload::Noop | _ => {}
        }
    }
    Ok(false)
}

fn device_error(operation: &'static str, name: &str, error: io::Error) -> WgError {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    if code == Some(Errno::NODEV) {
        WgError::NoDevice(name.to_owned())
    } else if code == Some(Errno::OPNOTSUPP) {
        WgError::NotWireguard(name.to_owned())
    } else if code == Some(Errno::PERM) {
        WgError::Permission
    } else {
        WgError::io(operation, name, error)
    }
}
