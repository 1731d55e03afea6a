//! WireGuard devices: the kernel's over netlink, an embedded one over TUN, and one in memory for tests.
//!
//! ```text
//!                    ┌─ Kernel ──── generic netlink, family "wireguard"   (include/uapi/linux/wireguard.h)
//! Backend: read, set ┼─ Userspace ─ gotatun over TUN + UAPI socket        (wireguard.com/xplatform)
//!                    └─ Memory ──── the kernel's rules, nothing more
//! ```
//!
//! All three obey the same rules (those of the kernel): peers of an update are taken in order; an AllowedIP belongs to
//! one peer, and giving it to another takes it from the first without a gap; what an update doesn't name stays.

pub mod kernel;
pub mod memory;
mod uapi;
pub mod userspace;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::SystemTime;

use ipnet::IpNet;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

pub use kernel::Kernel;
pub use memory::Memory;
pub use uapi::sweep;
pub use userspace::Userspace;

/// A Curve25519 public key.
pub type Key = [u8; 32];

/// A private or preshared key: never prints, compares in constant time, is zeroed when dropped.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// As a preshared key: none.
    pub const ZERO: Self = Self([0; 32]);

    /// Takes the bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a kernel or a socket that must have them.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether all bytes are zero, which is how WireGuard spells "none".
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.ct_eq(&[0; 32]).into()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a device is set to, and what it counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The public half of its private key, once it has one.
    pub public_key: Option<Key>,
    /// Its UDP port; 0 before it has one.
    pub listen_port: u16,
    /// The mark of its packets; 0 is none.
    pub fwmark: u32,
    /// Its peers.
    pub peers: BTreeMap<Key, PeerInfo>,
}

/// One peer of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its preshared key, if it has one.
    pub preshared_key: Option<Secret>,
    /// Where packets to it go; none until it is set or the peer calls.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 sends none.
    pub keepalive: u16,
    /// What it may send, and what is sent to it; host bits are clear.
    pub allowed_ips: BTreeSet<IpNet>,
    /// When the last handshake was completed; none if never, or (userspace) if the session is long gone.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

/// What to change on a device. What is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceUpdate {
    /// Its private key.
    pub private_key: Option<Secret>,
    /// Its UDP port; 0 picks one.
    pub listen_port: Option<u16>,
    /// The mark of its packets; 0 is none.
    pub fwmark: Option<u32>,
    /// Peers to change, in this order; a peer may come more than once.
    pub peers: Vec<PeerUpdate>,
}

/// What to change on a peer. What is `None` stays as it is; on a new peer it is unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerUpdate {
    /// Which peer; one that isn't there is added.
    pub public_key: Key,
    /// Remove it; everything else here is ignored.
    pub remove: bool,
    /// Leave it alone if it isn't there.
    pub update_only: bool,
    /// Its preshared key; [`Secret::ZERO`] unsets it.
    pub preshared_key: Option<Secret>,
    /// Where packets to it go.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between keepalives; 0 sends none.
    pub keepalive: Option<u16>,
    /// Take all its AllowedIPs away before those below are added. Packets of a live peer fall into the hole.
    pub replace_allowed_ips: bool,
    /// AllowedIPs to add; each is taken from whichever peer has it.
    pub allowed_ips: Vec<IpNet>,
    /// Begin a handshake with it at once if it has an endpoint and there is no session to send over. Goes with
    /// `keepalive`: the kernel has no other way to be told.
    pub call: bool,
}

impl PeerUpdate {
    /// The removal of a peer.
    #[must_use]
    pub fn removal(public_key: Key) -> Self {
        Self {
            public_key,
            remove: true,
            ..Self::default()
        }
    }
}

/// Why a WireGuard device couldn't be read or set.
#[derive(Debug, thiserror::Error)]
pub enum WgError {
    /// There is no interface of this name.
    #[error("there is no interface {0}")]
    NoDevice(String),
    /// The interface isn't a WireGuard device, or isn't one of ours.
    #[error("the interface {0} is no WireGuard device of this process or kernel")]
    NotWireguard(String),
    /// An interface or socket of this name exists already.
    #[error("{0} exists already")]
    Exists(String),
    /// The kernel has no WireGuard.
    #[error("this kernel has no WireGuard")]
    Unsupported,
    /// Only root (`CAP_NET_ADMIN`) may.
    #[error("CAP_NET_ADMIN is missing")]
    Permission,
    /// The embedded device takes peers only once it has a private key.
    #[error("{0} has no private key yet: peers come after it")]
    NoPrivateKey(String),
    /// The UDP port is taken.
    #[error("UDP port {port} of {name} is taken")]
    PortTaken {
        /// The device.
        name: String,
        /// The port.
        port: u16,
    },
    /// The configuration kept changing while it was read.
    #[error("the configuration of {0} kept changing while it was read")]
    Interrupted(String),
    /// An answer makes no sense.
    #[error("{what} of {name} makes no sense: {reason}")]
    Malformed {
        /// The device.
        name: String,
        /// What was read.
        what: &'static str,
        /// Why it makes none.
        reason: String,
    },
    /// The system refused.
    #[error("{operation} {name}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which device or file.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The embedded device refused.
    #[error("the embedded device {name}")]
    Embedded {
        /// The device.
        name: String,
        /// Why.
        #[source]
        source: gotatun::device::Error,
    },
}

impl WgError {
    /// Whether the same call may succeed later with nothing done by an operator.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Interrupted(_) | Self::NoDevice(_) | Self::NoPrivateKey(_) | Self::Embedded { .. } => true,
            Self::NotWireguard(_)
            | Self::Exists(_)
            | Self::Unsupported
            | Self::Permission
            | Self::PortTaken { .. }
            | Self::Malformed { .. } => false,
            Self::Io { source, .. } => {
                let code = source.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
                code.is_some_and(|code| {
                    use rustix::io::Errno;
                    [
                        Errno::NOBUFS,
                        Errno::NOMEM,
                        Errno::AGAIN,
                        Errno::INTR,
                        Errno::BUSY,
                    ]
                    .contains(&code)
                })
            }
        }
    }

    /// Whether the device isn't there.
    #[must_use]
    pub const fn is_no_device(&self) -> bool {
        matches!(self, Self::NoDevice(_))
    }

    fn io(operation: &'static str, name: &str, source: impl Into<io::Error>) -> Self {
        Self::Io {
            operation,
            name: name.to_owned(),
            source: source.into(),
        }
    }
}

/// Which implementation runs, for those who show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackendKind {
    /// The kernel's.
    Kernel,
    /// The embedded one.
    Userspace,
    /// None: in memory.
    Memory,
}

/// A WireGuard implementation. Clones share it.
#[derive(Clone, Debug)]
pub enum Backend {
    /// The kernel's.
    Kernel(Kernel),
    /// The embedded one.
    Userspace(Userspace),
    /// None: in memory.
    Memory(Memory),
}

impl Backend {
    /// The kernel's where it has one, else the embedded one with its sockets where `wg(8)` looks for them.
    ///
    /// # Errors
    /// As [`Kernel::connect`], except [`WgError::Unsupported`].
    pub fn detect() -> Result<Self, WgError> {
        match Kernel::connect() {
            Ok(kernel) => Ok(Self::Kernel(kernel)),
            Err(WgError::Unsupported) => Ok(Self::Userspace(Userspace::default())),
            Err(error) => Err(error),
        }
    }

    /// Which one it is.
    #[must_use]
    pub const fn kind(&self) -> BackendKind {
        match self {
            Self::Kernel(_) => BackendKind::Kernel,
            Self::Userspace(_) => BackendKind::Userspace,
            Self::Memory(_) => BackendKind::Memory,
        }
    }

    /// Reads a device.
    ///
    /// # Errors
    /// [`WgError::NoDevice`] if there is none of this name; anything else says that it couldn't be read, not that it
    /// is empty.
    pub async fn read(&self, name: &str) -> Result<DeviceInfo, WgError> {
        match self {
            Self::Kernel(kernel) => kernel.read(name).await,
            Self::Userspace(userspace) => userspace.read(name).await,
            Self::Memory(memory) => memory.read(name),
        }
    }

    /// Changes a device. Never creates an interface.
    ///
    /// # Errors
    /// [`WgError::NoDevice`] if there is none of this name. After any error, a part of the update may be in force.
    pub async fn set(&self, name: &str, update: DeviceUpdate) -> Result<(), WgError> {
        match self {
            Self::Kernel(kernel) => kernel.set(name, update).await,
            Self::Userspace(userspace) => userspace.set(name, update).await,
            Self::Memory(memory) => memory.set(name, &update),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_calls_cross_threads() {
        fn sendable<T: Send>(_: T) {}
        fn boxable<T: std::error::Error + Send + Sync + 'static>() {}
        boxable::<WgError>();
        let backend = Backend::Memory(Memory::default());
        sendable(backend.read("wg0"));
        sendable(backend.set("wg0", DeviceUpdate::default()));
        sendable(Userspace::default().create("wg0", 1_420));
    }

    #[test]
    fn secrets_do_not_print() {
        let update = DeviceUpdate {
            private_key: Some(Secret::new([0xab; 32])),
            peers: vec![PeerUpdate {
                preshared_key: Some(Secret::new([0xab; 32])),
                ..PeerUpdate::default()
            }],
            ..DeviceUpdate::default()
        };
        let text = format!("{update:?}");
        assert!(!text.contains("171") && !text.contains("ab,"), "{text}");
        assert!(Secret::ZERO.is_zero() && !Secret::new([1; 32]).is_zero());
    }
}
