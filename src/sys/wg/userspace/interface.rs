//! The TUN interface of an embedded device. A device whose key was changed retires: another one reads the interface from then
//! on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{io, iter};

use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use rustix::io::Errno;
use tokio::sync::watch;
use tun::{AbstractDevice as _, AsyncDevice};

use super::super::WgError;

/// How often the interface's MTU is asked for. Until then packets that a larger one lets in are cut off where they exceed what
/// the former one, or a pool's buffer, has room for.
const MTU_EVERY: Duration = Duration::from_secs(3);

/// The TUN interface. It remembers when the kernel took it away: the device's own "fatal error" also comes up when it merely
/// moves to another port. It lets no single packet that the kernel refuses pass for the end of the interface. And it reads
/// packets as large as its MTU, where gotatun's own cuts them off after 4,096 bytes.
#[derive(Clone)]
pub(super) struct Interface {
    tun: Arc<AsyncDevice>,
    mtu: watch::Receiver<u16>,
    gone: Arc<AtomicBool>,
    retirement: watch::Sender<bool>,
    is_retired: watch::Receiver<bool>,
}

impl Interface {
    /// Creates a TUN interface in the current network namespace, down.
    pub(super) fn create(name: &str, mtu: u32) -> Result<Self, WgError> {
        let mtu = u16::try_from(mtu).map_err(|_| WgError::io("set the MTU of", name, Errno::INVAL))?;
        let mut configuration = tun::Configuration::default();
        configuration.tun_name(name).mtu(mtu);
        let tun = tun::create_as_async(&configuration)
            .map_err(|error| WgError::io("create TUN interface", name, io::Error::from(error)))?;
        let tun = Arc::new(tun);
        let mtu = watched(&tun, mtu);
        Ok(Self::over(tun, mtu, Arc::default()))
    }

    fn over(tun: Arc<AsyncDevice>, mtu: watch::Receiver<u16>, gone: Arc<AtomicBool>) -> Self {
        let (retirement, is_retired) = watch::channel(false);
        Self {
            tun,
            mtu,
            gone,
            retirement,
            is_retired,
        }
    }

    /// The same interface for another device.
    pub(super) fn hand_over(&self) -> Self {
        Self::over(Arc::clone(&self.tun), self.mtu.clone(), self.gone())
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

/// The next packet, whole.
async fn read(tun: &AsyncDevice, mtu: &watch::Receiver<u16>, pool: &PacketBufPool) -> io::Result<Packet<Ip>> {
    let mut packet = pool.get();
    let largest = usize::from(*mtu.borrow());
    if packet.len() < largest {
        packet.buf_mut().resize(largest, 0);
    }
    let length = tun.recv(&mut packet).await?;
    packet.truncate(length);
    packet.try_into_ip().map_err(io::Error::other)
}

/// The interface's MTU in bytes, as long as somebody has the interface.
fn watched(tun: &Arc<AsyncDevice>, mtu: u16) -> watch::Receiver<u16> {
    let (tell, told) = watch::channel(mtu);
    let tun = Arc::downgrade(tun);
    tokio::spawn(async move {
        loop {
            // gotatun's own watcher polls, too: a TUN device tells nobody.
            tokio::time::sleep(MTU_EVERY).await;
            let Some(tun) = tun.upgrade() else { return };
            // Where it can't be read, the interface is gone, or renamed for a moment.
            let Ok(mtu) = tun.mtu() else { continue };
            tell.send_if_modified(|known| std::mem::replace(known, mtu) != mtu);
        }
    });
    told
}

impl IpSend for Interface {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let sent = self.tun.send(&packet.into_bytes()).await;
        match sent.map_err(|error| Self::judge(&self.gone, error)) {
            Err(error) if self.gone.load(Ordering::Relaxed) => Err(error),
            // The kernel counts what it refuses, as it does while the interface is down.
            Err(_) | Ok(_) => Ok(()),
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
            received = read(&self.tun, &self.mtu, pool) => {
                received.map(iter::once).map_err(|error| Self::judge(&self.gone, error))
            }
        }
    }

    fn mtu(&self) -> MtuWatcher {
        self.mtu.clone().into()
    }
}

/// Waits until a device retires.
async fn retired(is_retired: &mut watch::Receiver<bool>) {
    // Whoever waits has its sender, too: it can't be gone.
    drop(is_retired.wait_for(|is_retired| *is_retired).await);
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
