//! An embedded WireGuard device over TUN, for kernels without WireGuard: `gotatun`, behind what it lacks.
//!
//! ```text
//!   plane ─ read, set ┐                                      ┌─ TUN interface, in the current network namespace
//!                     ├─▶ Control (one writer, a ledger ──▶ gotatun
//!   wg(8) ─ UAPI ─────┘    of AllowedIPs) ────────────────────┘└─ UDP sockets, bound ahead
//! ```
//!
//! Both ways in go through `Control`, which makes the embedded device follow the kernel's rules where it doesn't by
//! itself: an AllowedIP that moves is also forgotten by its old peer, a peer that changes keeps its session, a port
//! that is taken leaves the old one in place, and nothing that needs the private key happens before it is set. With
//! another key the sessions that there are are still received (`succession.rs`).

mod confirm;
mod interface;
mod succession;
mod transport;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use gotatun::device::configure::DeviceWrite;
use gotatun::device::{Device, DeviceBuilder, Peer};
use gotatun::x25519::{PublicKey, StaticSecret};
use ipnet::IpNet;
use ipnetwork::IpNetwork;
use rustix::io::Errno;

use interface::{Interface, interface_index};
use succession::Former;
use transport::Sockets;

use super::memory::public_half;
use super::{DeviceInfo, DeviceUpdate, Key, PeerInfo, PeerUpdate, Secret, WgError, uapi};

/// Where `wg(8)` looks for the sockets of userspace devices.
pub const SOCKET_DIR: &str = "/var/run/wireguard";

/// How long a removed interface may take to vanish.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(5);

/// The embedded devices of this process. Clones share them.
#[derive(Clone, Debug)]
pub struct Userspace {
    socket_dir: Arc<Path>,
    asks_others: bool,
    devices: Arc<Mutex<BTreeMap<String, Arc<Embedded>>>>,
}

impl Default for Userspace {
    fn default() -> Self {
        Self::new(PathBuf::from(SOCKET_DIR))
    }
}

impl Userspace {
    /// No devices yet; their UAPI sockets will be `<socket_dir>/<name>.sock`.
    #[must_use]
    pub fn new(socket_dir: PathBuf) -> Self {
        Self {
            socket_dir: socket_dir.into(),
            asks_others: false,
            devices: Arc::default(),
        }
    }

    /// The same, but what this process doesn't embed is read from whoever does, over its socket.
    #[must_use]
    pub fn asking_others(self) -> Self {
        Self {
            asks_others: true,
            ..self
        }
    }

    /// Creates a TUN interface in the current network namespace, down and without a key, and its UAPI socket.
    ///
    /// # Errors
    /// [`WgError::Exists`] if there is an interface or a live socket of this name.
    pub async fn create(&self, name: &str, mtu: u32) -> Result<(), WgError> {
        match interface_index(name)? {
            Some(_) => return Err(WgError::Exists(name.to_owned())),
            None => self.remove(name).await?,
        }
        let interface = Interface::create(name, mtu)?;
        let gone = interface.gone();
        let own_interface = interface.clone();
        let index = interface_index(name)?.ok_or_else(|| WgError::NoDevice(name.to_owned()))?;
        let sockets = Sockets::default();
        let tunnel = DeviceBuilder::new()
            .with_udp(sockets.clone())
            .with_ip(interface)
            .build()
            .await
            .map_err(|source| embedded_error(name, source))?;
        let socket = self.socket_dir.join(format!("{name}.sock"));
        let listener = uapi::listen(&socket).await?;
        let device = Arc::new(Embedded {
            name: name.to_owned(),
            index,
            gone,
            control: tokio::sync::Mutex::new(Control {
                tunnel: Arc::new(tunnel),
                former: None,
                interface: own_interface,
                sockets,
                public_key: None,
                pending_port: None,
                ledger: Ledger::default(),
            }),
            uapi: Mutex::new(None),
            socket,
        });
        let server = tokio::spawn(uapi::serve(listener, Arc::downgrade(&device)));
        *device.uapi.lock().unwrap_or_else(PoisonError::into_inner) = Some(server.abort_handle());
        self.lock().insert(name.to_owned(), device);
        Ok(())
    }

    /// Removes a device, its interface and its socket; does nothing if there is none.
    ///
    /// # Errors
    /// The interface doesn't vanish.
    pub async fn remove(&self, name: &str) -> Result<(), WgError> {
        let Some(device) = self.lock().remove(name) else {
            return Ok(());
        };
        device.close();
        let index = device.index;
        drop(device);
        let gone = async {
            while interface_index(name)? == Some(index) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(())
        };
        let late = || WgError::io("remove", name, Errno::BUSY);
        tokio::time::timeout(REMOVAL_PATIENCE, gone)
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    /// The names of the devices.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Reads a device.
    ///
    /// # Errors
    /// As [`super::Backend::read`].
    pub async fn read(&self, name: &str) -> Result<DeviceInfo, WgError> {
        if self.asks_others && !self.lock().contains_key(name) {
            return uapi::ask(&self.socket_dir.join(format!("{name}.sock")), name).await;
        }
        let device = self.live(name).await?;
        Ok(device.read().await.0)
    }

    /// Changes a device.
    ///
    /// # Errors
    /// As [`super::Backend::set`].
    pub async fn set(&self, name: &str, update: DeviceUpdate) -> Result<(), WgError> {
        let device = self.live(name).await?;
        device.set(update).await
    }

    /// The device, unless its interface is gone: then it is given up, so that it can be created anew.
    async fn live(&self, name: &str) -> Result<Arc<Embedded>, WgError> {
        let none = || WgError::NoDevice(name.to_owned());
        let device = self.lock().get(name).cloned().ok_or_else(none)?;
        if device.gone.load(Ordering::Relaxed) || interface_index(name)? != Some(device.index) {
            drop(device);
            self.remove(name).await?;
            return Err(none());
        }
        Ok(device)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Embedded>>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One embedded device. The interface lives as long as this does.
pub(super) struct Embedded {
    name: String,
    index: u32,
    /// Set when the interface is gone, or nothing listens and can't be made to: the device is to be made anew.
    gone: Arc<AtomicBool>,
    control: tokio::sync::Mutex<Control>,
    uapi: Mutex<Option<tokio::task::AbortHandle>>,
    socket: PathBuf,
}

/// The one way to an embedded device.
struct Control {
    tunnel: Arc<Tunnel>,
    /// The device that had the former key, while it has sessions.
    former: Option<Former>,
    interface: Interface,
    sockets: Sockets,
    public_key: Option<Key>,
    /// The port that was asked for before there was a key to listen with.
    pending_port: Option<u16>,
    ledger: Ledger,
}

type Tunnel = Device<(Sockets, Interface, Interface)>;

/// Which peer has which AllowedIPs.
#[derive(Clone, Default)]
struct Ledger {
    peers: BTreeMap<Key, BTreeSet<IpNet>>,
    owners: BTreeMap<IpNet, Key>,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

impl Embedded {
    /// Stops listening for `wg(8)`.
    fn close(&self) {
        let server = self.uapi.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(server) = server {
            server.abort();
            let _ = std::fs::remove_file(&self.socket);
        }
    }

    /// What the device is set to, and its private key for those who may have it.
    pub(super) async fn read(&self) -> (DeviceInfo, Option<Secret>) {
        let control = self.control.lock().await;
        let (private_key, port, fwmark, peers) = control
            .tunnel
            .read(async |device| {
                let private_key = device.private_key().map(|key| Secret::new(key.to_bytes()));
                (
                    private_key,
                    device.listen_port(),
                    device.fwmark(),
                    device.peers().await,
                )
            })
            .await;
        let now = wall_clock();
        let peers = peers.into_iter().map(|entry| {
            let info = PeerInfo {
                preshared_key: entry
                    .peer
                    .preshared_key
                    .map(Secret::new)
                    .filter(|key| !key.is_zero()),
                endpoint: entry.peer.endpoint.map(unmap),
                keepalive: entry.peer.keepalive.unwrap_or_default(),
                allowed_ips: entry.peer.allowed_ips.iter().filter_map(from_embedded).collect(),
                last_handshake: entry.stats.last_handshake.and_then(|age| now.checked_sub(age)),
                rx_bytes: u64::try_from(entry.stats.rx_bytes).unwrap_or(u64::MAX),
                tx_bytes: u64::try_from(entry.stats.tx_bytes).unwrap_or(u64::MAX),
            };
            (entry.peer.public_key.to_bytes(), info)
        });
        let info = DeviceInfo {
            public_key: control.public_key,
            listen_port: control.pending_port.unwrap_or(port),
            fwmark: fwmark.unwrap_or_default(),
            peers: peers.collect(),
        };
        (info, private_key)
    }

    pub(super) async fn set(self: &Arc<Self>, update: DeviceUpdate) -> Result<(), WgError> {
        let mut control = self.control.lock().await;
        let control = &mut *control;
        let new_key = match &update.private_key {
            Some(key) => Some(
                public_half(key)
                    .ok_or_else(|| WgError::io("unset the private key of", &self.name, Errno::OPNOTSUPP))?,
            ),
            None => None,
        };
        let Some(own) = new_key.or(control.public_key) else {
            if update.peers.iter().any(|peer| !peer.remove && !peer.update_only) {
                return Err(WgError::NoPrivateKey(self.name.clone()));
            }
            control.pending_port = update.listen_port.or(control.pending_port);
            return Ok(());
        };
        let port = update.listen_port.or(control.pending_port);
        if let Some(port) = port {
            // It hears what arrives at the port that it has.
            control.former = None;
            control.sockets.prepare(port).await.map_err(|source| {
                if source.kind() == io::ErrorKind::AddrInUse {
                    let name = self.name.clone();
                    WgError::PortTaken { name, port }
                } else {
                    WgError::io("open the UDP socket of", &self.name, source)
                }
            })?;
        }
        if let Some(private_key) = &update.private_key
            && control.public_key.is_some_and(|former| former != own)
        {
            let succeeded = self.succeed(control, private_key).await;
            succeeded
                .inspect_err(|_| self.gone.store(true, Ordering::Relaxed))
                .map_err(|source| embedded_error(&self.name, source))?;
        }
        (control.public_key, control.pending_port) = (Some(own), None);
        if let Some(former) = &mut control.former {
            let followed = former.follow(&update.peers).await;
            followed.map_err(|source| embedded_error(&self.name, source))?;
        }
        let called = update.peers.iter().filter(|peer| peer.call && !peer.remove);
        let called: Vec<Key> = called.map(|peer| peer.public_key).collect();
        let ledger = &mut control.ledger;
        let written = control
            .tunnel
            .write(async |device| {
                if let Some(private_key) = &update.private_key {
                    let private_key = StaticSecret::from(*private_key.expose());
                    device.set_private_key(private_key).await;
                }
                if let Some(port) = port {
                    device.set_listen_port(port);
                }
                let marked = update.fwmark.map_or(Ok(()), |mark| device.set_fwmark(mark));
                ledger.update(device, PeerUpdate::removal(own)).await;
                for peer in update.peers {
                    if peer.public_key != own {
                        ledger.update(device, peer).await;
                    }
                }
                marked
            })
            .await;
        written
            .inspect_err(|_| self.gone.store(true, Ordering::Relaxed))
            .and_then(std::convert::identity)
            .map_err(|source| embedded_error(&self.name, source))?;
        succession::call(&control.tunnel, &self.name, called);
        Ok(())
    }
}

impl Ledger {
    /// Changes one peer of the device and of the ledger. The device handles no packet meanwhile.
    async fn update(
        &mut self,
        device: &mut DeviceWrite<'_, (Sockets, Interface, Interface)>,
        update: PeerUpdate,
    ) {
        let key = update.public_key;
        let public_key = PublicKey::from(key);
        if update.remove {
            device.remove_peer(&public_key).await;
            for net in self.peers.remove(&key).unwrap_or_default() {
                self.owners.remove(&net);
            }
            return;
        }
        let known = self.peers.contains_key(&key);
        if update.update_only && !known {
            return;
        }
        let nets_change = update.replace_allowed_ips || !update.allowed_ips.is_empty();
        if update.replace_allowed_ips {
            for net in self.peers.insert(key, BTreeSet::new()).unwrap_or_default() {
                self.owners.remove(&net);
            }
        }
        for loser in self.give(key, update.allowed_ips) {
            let rest = self.nets(&loser);
            let edit = |peer: &mut gotatun::device::configure::PeerMut| {
                peer.clear_allowed_ips();
                peer.add_allowed_ips(rest);
            };
            device.modify_peer(&PublicKey::from(loser), edit).await;
        }
        let preshared_key = update
            .preshared_key
            .map(|secret| (!secret.is_zero()).then(|| *secret.expose()));
        let keepalive = update.keepalive.map(|seconds| (seconds > 0).then_some(seconds));
        if known {
            let nets = self.nets(&key);
            let edit = |peer: &mut gotatun::device::configure::PeerMut| {
                if let Some(preshared_key) = preshared_key {
                    peer.set_preshared_key(preshared_key);
                }
                if update.endpoint.is_some() {
                    peer.set_endpoint(update.endpoint);
                }
                if let Some(keepalive) = keepalive {
                    peer.set_keepalive(keepalive);
                }
                if nets_change {
                    peer.clear_allowed_ips();
                    peer.add_allowed_ips(nets);
                }
            };
            device.modify_peer(&public_key, edit).await;
        } else {
            let mut peer = Peer::new(public_key).with_allowed_ips(self.nets(&key));
            peer.preshared_key = preshared_key.flatten();
            peer.endpoint = update.endpoint;
            peer.keepalive = keepalive.flatten();
            device.add_peer(peer);
        }
    }

    /// Gives AllowedIPs to a peer; returns the other peers that lost some.
    fn give(&mut self, key: Key, nets: Vec<IpNet>) -> BTreeSet<Key> {
        let mut losers = BTreeSet::new();
        for net in nets {
            let net = net.trunc();
            if let Some(owner) = self.owners.insert(net, key).filter(|owner| *owner != key) {
                self.peers.entry(owner).or_default().remove(&net);
                losers.insert(owner);
            }
            self.peers.entry(key).or_default().insert(net);
        }
        self.peers.entry(key).or_default();
        losers
    }

    fn nets(&self, key: &Key) -> Vec<IpNetwork> {
        let nets = self.peers.get(key).into_iter().flatten();
        nets.filter_map(|net| IpNetwork::new(net.addr(), net.prefix_len()).ok())
            .collect()
    }
}

/// The device tells ages; this makes them points in time, as the kernel tells them.
#[expect(
    clippy::disallowed_methods,
    reason = "part of reading the device, as the kernel's own clock is when it is asked"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// IPv4 as IPv4, also where a dual-stack socket saw it as IPv6.
fn unmap(address: std::net::SocketAddr) -> std::net::SocketAddr {
    std::net::SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn from_embedded(net: &IpNetwork) -> Option<IpNet> {
    IpNet::new(net.ip(), net.prefix()).ok().map(|net| net.trunc())
}

fn embedded_error(name: &str, source: gotatun::device::Error) -> WgError {
    WgError::Embedded {
        name: name.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_gives_each_prefix_to_one_peer() {
        let net: IpNet = "fd00::/64".parse().unwrap();
        let mut ledger = Ledger::default();
        assert_eq!(ledger.give([1; 32], vec![net]), [].into());
        assert_eq!(ledger.give([1; 32], vec![net]), [].into());
        assert_eq!(ledger.give([2; 32], vec![net]), [[1; 32]].into());
        assert!(ledger.nets(&[1; 32]).is_empty());
        assert_eq!(ledger.nets(&[2; 32]).len(), 1);
    }
}
