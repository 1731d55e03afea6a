//! What an embedded device talks through: a TUN interface and UDP sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::tun_async_device::TunDevice;
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use gotatun::udp::socket::{UdpSocket, UdpSocketFactory};
use gotatun::udp::{UdpRecv, UdpSend as _, UdpTransportFactory, UdpTransportFactoryParams};
use rustix::io::Errno;

use super::super::WgError;
use super::embedded_error;

/// The UDP socket's buffers in bytes; measured to carry 1.2 times the throughput of the default ones.
const SOCKET_BUFFER: usize = 7 * 1024 * 1024;

/// How long a port may still be held by a socket of our own that is on its way out: the runtime closes it when it drops
/// the task that read from it.
const CLOSING: Duration = Duration::from_millis(200);

/// The UDP sockets of a device. Clones share them.
///
/// The embedded device closes its socket before it opens another, and is deaf when it can't. So a port is bound ahead of
/// the move to it ([`Sockets::prepare`]), and a device that is rebuilt on the port that it has keeps its socket. The
/// buffers are large: forced past the system's limit where this process may, else as large as it allows.
#[derive(Clone, Default)]
pub(super) struct Sockets {
    ports: Arc<tokio::sync::Mutex<Ports>>,
}

#[derive(Default)]
struct Ports {
    current: Option<UdpSocket>,
    next: Option<UdpSocket>,
}

impl Sockets {
    /// Binds `port`, for the device to move to next.
    pub(super) async fn prepare(&self, port: u16) -> io::Result<()> {
        let mut ports = self.ports.lock().await;
        let is_open = [&ports.current, &ports.next].map(|socket| is_on(socket.as_ref(), port));
        if port != 0 && is_open == [false, false] {
            let params = UdpTransportFactoryParams {
                addr: None,
                port,
                fwmark: None,
            };
            ports.next = Some(open(&params).await?);
        }
        Ok(())
    }
}

impl UdpTransportFactory for Sockets {
    type Send = UdpSocket;
    type Recv = Receiver;

    async fn bind(&mut self, params: &UdpTransportFactoryParams) -> io::Result<(UdpSocket, Receiver)> {
        let mut ports = self.ports.lock().await;
        let Ports { current, next } = &mut *ports;
        let known = [next.take(), current.take()]
            .into_iter()
            .find(|socket| is_on(socket.as_ref(), params.port))
            .flatten();
        let socket = match known {
            Some(socket) => {
                socket.set_fwmark(params.fwmark.unwrap_or_default())?;
                socket
            }
            None => open(params).await?,
        };
        *current = Some(socket.clone());
        Ok((socket.clone(), Receiver(socket)))
    }
}

/// The receiving half of a socket, with buffers that are used again.
pub(super) struct Receiver(UdpSocket);

type Buffers = <UdpSocket as UdpRecv>::RecvManyBuf;

/// Buffers for one receiver: 26 MiB, of which only what packets fill is ever touched. Given back to the allocator, they
/// would teach it (`M_MMAP_THRESHOLD` of mallopt(3)) to keep the next ones on its heap, all of them resident, for good.
pub(super) struct Lent(Option<Buffers>);

static UNUSED: Mutex<Vec<Buffers>> = Mutex::new(Vec::new());

impl Default for Lent {
    fn default() -> Self {
        Self(Some(unused().pop().unwrap_or_default()))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        unused().extend(self.0.take());
    }
}

fn unused() -> std::sync::MutexGuard<'static, Vec<Buffers>> {
    UNUSED.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl UdpRecv for Receiver {
    type RecvManyBuf = Lent;

    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        self.0.recv_from(pool).await
    }

    async fn recv_many_from(
        &mut self,
        buffers: &mut Lent,
        pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        let buffers = buffers.0.get_or_insert_default();
        self.0.recv_many_from(buffers, pool, packets).await
    }
}

fn is_on(socket: Option<&UdpSocket>, port: u16) -> bool {
    let address = socket.and_then(|socket| socket.local_addr().ok());
    port != 0 && address.is_some_and(|address| address.port() == port)
}

/// Binds a socket; waits a moment for one of our own to go.
async fn open(params: &UdpTransportFactoryParams) -> io::Result<UdpSocket> {
    let mut factory = UdpSocketFactory {
        recv_buffer_size: Some(SOCKET_BUFFER),
        send_buffer_size: Some(SOCKET_BUFFER),
    };
    let bound = async {
        loop {
            match factory.bind(params).await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                bound => return bound,
            }
        }
    };
    let (socket, _) = tokio::time::timeout(CLOSING, bound)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::AddrInUse.into()))?;
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER);
    Ok(socket)
}

/// The TUN interface, with two habits of its own. It remembers when the kernel took it away: the device's own "fatal
/// error" also comes up when it merely moves to another port. And it lets no single packet that the kernel refuses
/// pass for the end of the interface.
#[derive(Clone)]
pub(super) struct Interface {
    tun: TunDevice,
    gone: Arc<AtomicBool>,
}

impl Interface {
    /// Creates a TUN interface in the current network namespace, down.
    pub(super) fn create(name: &str, mtu: u32) -> Result<Self, WgError> {
        Ok(Self {
            tun: open_tun(name, mtu)?,
            gone: Arc::default(),
        })
    }

    /// Whether the kernel took the interface away; stays up to date.
    pub(super) fn gone(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.gone)
    }

    fn judge(gone: &AtomicBool, error: io::Error) -> io::Error {
        let code = error.raw_os_error().map(Errno::from_raw_os_error);
        if code.is_some_and(|code| [Errno::BADF, Errno::BADFD, Errno::NODEV].contains(&code)) {
            gone.store(true, Ordering::Relaxed);
            error
        } else {
            io::Error::other(error)
        }
    }
}

impl IpSend for Interface {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let sent = self.tun.send(packet).await;
        match sent.map_err(|error| Self::judge(&self.gone, error)) {
            Err(error) if self.gone.load(Ordering::Relaxed) => Err(error),
            // The kernel counts what it refuses, as it does while the interface is down.
            Err(_) | Ok(()) => Ok(()),
        }
    }
}

impl IpRecv for Interface {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        let received = self.tun.recv(pool).await;
        received.map_err(|error| Self::judge(&self.gone, error))
    }

    fn mtu(&self) -> MtuWatcher {
        self.tun.mtu()
    }
}

fn open_tun(name: &str, mtu: u32) -> Result<TunDevice, WgError> {
    let mtu = u16::try_from(mtu).map_err(|_| WgError::io("set the MTU of", name, Errno::INVAL))?;
    let mut configuration = tun::Configuration::default();
    configuration.tun_name(name).mtu(mtu);
    let tun = tun::create_as_async(&configuration)
        .map_err(|error| WgError::io("create TUN interface", name, io::Error::from(error)))?;
    TunDevice::from_tun_device(tun).map_err(|source| embedded_error(name, source.into()))
}

/// The index of an interface of the current network namespace, if there is one of this name.
pub(super) fn interface_index(name: &str) -> Result<Option<u32>, WgError> {
    use rustix::net::{AddressFamily, SocketType};
    let index = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)
        .and_then(|socket| rustix::net::netdevice::name_to_index(socket, name));
    match index {
        Ok(index) => Ok(Some(index)),
        Err(Errno::NODEV | Errno::NXIO) => Ok(None),
        Err(error) => Err(WgError::io("look for interface", name, error)),
    }
}
