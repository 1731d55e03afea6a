//! What an embedded device talks through: a TUN interface and UDP sockets.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::tun_async_device::TunDevice;
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use gotatun::udp::socket::{UdpSocket, UdpSocketFactory};
use gotatun::udp::{UdpTransportFactory, UdpTransportFactoryParams};
use rustix::io::Errno;

use super::super::WgError;
use super::embedded_error;

/// The UDP socket's buffers in bytes; measured to carry 1.2 times the throughput of the default ones.
const SOCKET_BUFFER: usize = 7 * 1024 * 1024;

/// Sockets with large buffers: forced past the system's limit where this process may, else as large as it allows.
pub(super) struct LargeBuffers;

impl UdpTransportFactory for LargeBuffers {
    type Send = UdpSocket;
    type Recv = UdpSocket;

    async fn bind(&mut self, params: &UdpTransportFactoryParams) -> io::Result<(UdpSocket, UdpSocket)> {
        let mut factory = UdpSocketFactory {
            recv_buffer_size: Some(SOCKET_BUFFER),
            send_buffer_size: Some(SOCKET_BUFFER),
        };
        let (send, receive) = factory.bind(params).await?;
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&receive, SOCKET_BUFFER);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&send, SOCKET_BUFFER);
        Ok((send, receive))
    }
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
