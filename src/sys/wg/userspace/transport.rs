//! The UDP sockets of an embedded device. A device whose key was changed retires: another one reads them from then on, and
//! lets it hear what peers still send to sessions that it has.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gotatun::packet::{Packet, PacketBufPool};
use gotatun::udp::socket::{UdpSocket, UdpSocketFactory};
use gotatun::udp::{UdpRecv, UdpSend, UdpTransportFactory, UdpTransportFactoryParams};
use tokio::sync::{Notify, mpsc};

use super::confirm::{Outgoing, PATIENCE, Unconfirmed, is_data};

/// The UDP socket's buffers in bytes; measured to carry 1.2 times the throughput of the default ones.
const SOCKET_BUFFER: usize = 7 * 1024 * 1024;

/// How long a port may still be held by a socket of our own that is on its way out: the runtime closes it when it drops
/// the task that read from it.
const CLOSING: Duration = Duration::from_millis(200);

/// How many packets a retired device may be behind.
const HEARD: usize = 1_000;

/// A packet, and who sent it.
type Heard = (Packet, SocketAddr);

/// The UDP sockets of a device. Clones share them.
///
/// The embedded device closes its socket before it opens another, and is deaf when it can't. So a port is bound ahead of
/// the move to it ([`Sockets::prepare`]), and a device that is rebuilt on the port that it has keeps its socket. The
/// buffers are large: forced past the system's limit where this process may, else as large as it allows.
#[derive(Clone, Default)]
pub(super) struct Sockets {
    ports: Arc<tokio::sync::Mutex<Ports>>,
    /// Where the device before this one hears from.
    former: Option<mpsc::Sender<Heard>>,
    retirement: Arc<Retirement>,
}

/// What a retired device hears.
pub(super) struct Hearing(mpsc::Receiver<Heard>);

/// Whether a device has retired, and what it hears then.
#[derive(Default)]
struct Retirement {
    has_begun: AtomicBool,
    heard: Mutex<Option<mpsc::Receiver<Heard>>>,
    told: Notify,
}

impl Retirement {
    fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
    }

    /// Waits until the device retires. Its one receiver asks.
    async fn heard(&self) -> mpsc::Receiver<Heard> {
        loop {
            let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).take();
            match heard {
                Some(heard) => return heard,
                None => self.told.notified().await,
            }
        }
    }
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

    /// The same sockets for another device, and what this one is to [retire](Self::retire) with.
    pub(super) fn hand_over(&self) -> (Self, Hearing) {
        let (copies, heard) = mpsc::channel(HEARD);
        let sockets = Self {
            ports: Arc::clone(&self.ports),
            former: Some(copies),
            retirement: Arc::default(),
        };
        (sockets, Hearing(heard))
    }

    /// From now on this device reads the sockets no more, and sends nothing but data.
    pub(super) fn retire(&self, hearing: Hearing) {
        *self
            .retirement
            .heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(hearing.0);
        self.retirement.has_begun.store(true, Ordering::Release);
        self.retirement.told.notify_one();
    }
}

impl UdpTransportFactory for Sockets {
    type Send = Sender;
    type Recv = Receiver;

    async fn bind(&mut self, params: &UdpTransportFactoryParams) -> io::Result<(Sender, Receiver)> {
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
        let unconfirmed = Arc::default();
        let sender = Sender {
            socket: socket.clone(),
            retirement: Arc::clone(&self.retirement),
            unconfirmed: Arc::clone(&unconfirmed),
        };
        let receiver = Receiver {
            socket,
            former: self.former.clone(),
            retirement: Arc::clone(&self.retirement),
            unconfirmed,
            heard: None,
        };
        Ok((sender, receiver))
    }
}

/// The sending half of a socket.
#[derive(Clone)]
pub(super) struct Sender {
    socket: UdpSocket,
    retirement: Arc<Retirement>,
    unconfirmed: Arc<Unconfirmed<Heard>>,
}

impl Sender {
    /// What of it goes now.
    fn ready(&self, packet: Packet, destination: SocketAddr) -> Option<Packet> {
        if self.retirement.has_begun() && !is_data(&packet) {
            return None;
        }
        if self.unconfirmed.passes(&packet) {
            return Some(packet);
        }
        match self
            .unconfirmed
            .outgoing((packet, destination), |(packet, _)| packet)
        {
            Outgoing::Now((packet, _)) => Some(packet),
            Outgoing::Held => None,
            Outgoing::Begins((packet, _), session) => {
                let (socket, unconfirmed) = (self.socket.clone(), Arc::clone(&self.unconfirmed));
                tokio::spawn(async move {
                    // A deadline: where a confirmation came first, nothing waits any more.
                    tokio::time::sleep(PATIENCE).await;
                    release(&socket, unconfirmed.end(session)).await;
                });
                Some(packet)
            }
        }
    }
}

/// Sends what has waited.
async fn release(socket: &UdpSocket, held: Vec<Heard>) {
    for (packet, destination) in held {
        if let Err(error) = socket.send_to(packet, destination).await {
            tracing::debug!(%error, "what waited for a handshake isn't sent");
        }
    }
}

impl UdpSend for Sender {
    type SendManyBuf = <UdpSocket as UdpSend>::SendManyBuf;

    async fn send_to(&self, packet: Packet, destination: SocketAddr) -> io::Result<()> {
        match self.ready(packet, destination) {
            Some(packet) => self.socket.send_to(packet, destination).await,
            None => Ok(()),
        }
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        self.socket.max_number_of_packets_to_send()
    }

    async fn send_many_to(
        &self,
        buffer: &mut Self::SendManyBuf,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        let passes = |(packet, _): &Heard| self.unconfirmed.passes(packet);
        if self.retirement.has_begun() || !packets.iter().all(passes) {
            let all = std::mem::take(packets).into_iter();
            packets.extend(all.filter_map(|(packet, to)| Some((self.ready(packet, to)?, to))));
            if packets.is_empty() {
                return Ok(());
            }
        }
        self.socket.send_many_to(buffer, packets).await
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        UdpSend::local_addr(&self.socket)
    }

    fn set_fwmark(&self, mark: u32) -> io::Result<()> {
        self.socket.set_fwmark(mark)
    }
}

/// The receiving half of a socket, with buffers that are used again.
pub(super) struct Receiver {
    socket: UdpSocket,
    former: Option<mpsc::Sender<Heard>>,
    retirement: Arc<Retirement>,
    unconfirmed: Arc<Unconfirmed<Heard>>,
    heard: Option<mpsc::Receiver<Heard>>,
}

impl Receiver {
    /// Lets the device before this one have a copy of what may be for it. One that is far behind loses it, as a full socket
    /// would.
    fn pass_on(&mut self, packets: &[Heard]) {
        let Some(former) = &self.former else {
            return;
        };
        for (packet, source) in packets.iter().filter(|(packet, _)| is_data(packet)) {
            let copy = (Packet::copy_from(&**packet), *source);
            if let Err(mpsc::error::TrySendError::Closed(_)) = former.try_send(copy) {
                self.former = None;
                return;
            }
        }
    }

    /// Sends what has waited for one of these.
    async fn confirm(&self, packets: &[Heard]) {
        if self.unconfirmed.is_empty() {
            return;
        }
        for (packet, _) in packets {
            release(&self.socket, self.unconfirmed.incoming(packet)).await;
        }
    }

    /// The next packet for a device that has retired; none comes once the one after it has ended, too.
    async fn next_heard(heard: &mut mpsc::Receiver<Heard>) -> Heard {
        match heard.recv().await {
            Some(next) => next,
            None => std::future::pending().await,
        }
    }
}

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
        loop {
            if let Some(heard) = &mut self.heard {
                return Ok(Self::next_heard(heard).await);
            }
            tokio::select! {
                biased;
                heard = self.retirement.heard() => self.heard = Some(heard),
                received = self.socket.recv_from(pool) => {
                    let received = received?;
                    self.pass_on(std::slice::from_ref(&received));
                    self.confirm(std::slice::from_ref(&received)).await;
                    return Ok(received);
                }
            }
        }
    }

    async fn recv_many_from(
        &mut self,
        buffers: &mut Lent,
        pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        let buffers = buffers.0.get_or_insert_default();
        loop {
            if let Some(heard) = &mut self.heard {
                packets.push(Self::next_heard(heard).await);
                return Ok(());
            }
            tokio::select! {
                biased;
                heard = self.retirement.heard() => self.heard = Some(heard),
                received = self.socket.recv_many_from(buffers, pool, packets) => {
                    received?;
                    self.pass_on(packets);
                    self.confirm(packets).await;
                    return Ok(());
                }
            }
        }
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
