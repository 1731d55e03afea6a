//! The TUN interface of an embedded device. A device whose key was changed retires: another one reads the interface from then
//! on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::tun_async_device::TunDevice;
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use rustix::io::Errno;
use tokio::sync::watch;

use super::super::WgError;
use super::embedded_error;

/// The TUN interface, with two habits of its own. It remembers when the kernel took it away: the device's own "fatal
/// error" also comes up when it merely moves to another port. And it lets no single packet that the kernel refuses
/// pass for the end of the interface.
#[derive(Clone)]
pub(super) struct Interface {
    tun: TunDevice,
    gone: Arc<AtomicBool>,
    retirement: watch::Sender<bool>,
    is_retired: watch::Receiver<bool>,
}

impl Interface {
    /// Creates a TUN interface in the current network namespace, down.
    pub(super) fn create(name: &str, mtu: u32) -> Result<Self, WgError> {
        Ok(Self::over(open_tun(name, mtu)?, Arc::default()))
    }

    fn over(tun: TunDevice, gone: Arc<AtomicBool>) -> Self {
        let (retirement, is_retired) = watch::channel(false);
        Self {
            tun,
            gone,
            retirement,
            is_retired,
        }
    }

    /// The same interface for another device.
    pub(super) fn hand_over(&self) -> Self {
        Self::over(self.tun.clone(), self.gone())
    }

    /// From now on this device reads the interface no more, and still writes to it.
    pub(super) fn retire(&self) {
        self.retirement.send_replace(true);
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
        tokio::select! {
            biased;
            () = retired(&mut self.is_retired) => std::future::pending().await,
            received = self.tun.recv(pool) => received.map_err(|error| Self::judge(&self.gone, error)),
        }
    }

    fn mtu(&self) -> MtuWatcher {
        self.tun.mtu()
    }
}

/// Waits until a device retires.
async fn retired(is_retired: &mut watch::Receiver<bool>) {
    // Whoever waits has its sender, too: it can't be gone.
    drop(is_retired.wait_for(|is_retired| *is_retired).await);
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
