//! The WireGuard plane: keys, ports, peers, AllowedIPs and endpoints of the overlay links.
//!
//! ```text
//! HostIntent ─ compile ─▶ Desired ┐                      names that need resolving ─ resolve_names ─┐
//!                                 ├─ diff(own key, names, now) ─▶ changes ─ apply ─▶ kernel or TUN  │
//!  kernel or TUN ─ observe ▶ Actual┘        ▲───────────────────────────────────────────────────────┘
//! ```
//!
//! Only links of ours are read or touched; the l3 plane makes and removes them. A link that isn't there yet counts as
//! an empty device: it comes earlier in the same plan. On our links every foreign peer goes.
//!
//! - AllowedIPs change by deltas. One that moves is added to its new peer, which takes it from the old one without a
//!   gap. One that nobody carries any more is given to a throw-away peer that is removed in the same message. A live
//!   peer's list is never replaced: that leaves a hole.
//! - An endpoint is a hint. It is set where a peer has none, when its last handshake is older than [`HANDSHAKE_STALE`]
//!   and its endpoint is none that the fleet names, and once where a new fleet takes over and it is one that only the
//!   former fleet named. A peer that roamed keeps what it roamed to.
//! - A node that has announced its next key has two peers (`rotation.rs`): see [`key_moves`].
//! - A peer that doesn't answer at one address is called at the next after [`ATTEMPT`]. Keepalives make it try: those that
//!   the fleet sends to nobody are called only when there is something to send.

mod apply;
mod attempts;
mod compile;
mod diff;
mod mtu;
mod observe;
mod rotation;
mod state;

use std::time::Duration;

use crate::model::LinkName;
use crate::sys::wg::WgError;

pub use apply::{apply, apply_all, device_update};
pub use attempts::{ATTEMPT, Attempts, Calls};
pub use compile::{compile, render_setconf};
pub use diff::{Facts, diff, is_fresh, stale_addresses, stale_names};
pub use mtu::{Whereabouts, path_mtus, whereabouts};
pub use observe::{decode_device, observe, resolve_names};
pub use rotation::{awaits_keys, key_moves, rotation_notes, turning_links};
pub use state::{
    Actual, ActualDevice, ActualPeer, Change, Desired, DesiredDevice, DesiredPeer, Names, NewPeer, PeerDelta,
    Target,
};

/// The age at which a handshake no longer shows that an endpoint works: `REJECT_AFTER_TIME` of the protocol, after
/// which no session is left.
pub const HANDSHAKE_STALE: Duration = Duration::from_secs(180);

/// Why the plane couldn't read or change the host.
#[derive(Debug, thiserror::Error)]
pub enum WireguardError {
    /// A device couldn't be read; nothing is known of it.
    #[error("can't read the WireGuard device {link}")]
    Read {
        /// The link.
        link: LinkName,
        /// Why.
        #[source]
        source: WgError,
    },
    /// A change was refused.
    #[error("can't change the WireGuard device {link}")]
    Set {
        /// The link.
        link: LinkName,
        /// Why.
        #[source]
        source: WgError,
    },
    /// The private key isn't the one that the plan was made for.
    #[error("the private key changed since the plan was made")]
    KeyChanged,
}

impl WireguardError {
    /// Whether the same call may succeed later with nothing done by an operator.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::Set { source, .. } => source.is_retryable(),
            Self::KeyChanged => true,
        }
    }
}
