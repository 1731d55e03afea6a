//! The planes: one folder per subsystem of the host, each with the same five files.
//!
//! | file | holds |
//! |---|---|
//! | `state.rs` | the exact host objects with identity keys: one vocabulary for desired *and* actual, and the changes |
//! | `compile.rs` | pure: [`crate::intent::HostIntent`] → desired |
//! | `observe.rs` | a thin read, and pure `decode_*`; what can't be read is an error, never empty |
//! | `diff.rs` | pure: desired × actual → [`Difference`] |
//! | `apply.rs` | one change → one transport call |

pub mod firewall;
pub mod l3;
pub mod wireguard;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use crate::intent::Blocked;

/// The subsystems of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaneName {
    /// Links, VRFs, addresses, rules, routes, sysctls.
    L3,
    /// WireGuard devices and peers.
    Wireguard,
    /// nftables.
    Firewall,
}

impl PlaneName {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::L3, Self::Wireguard, Self::Firewall];
}

impl fmt::Display for PlaneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L3 => "l3",
            Self::Wireguard => "wireguard",
            Self::Firewall => "firewall",
        })
    }
}

/// The phases of a plan, in the order in which they run: restrict first, connect last; disconnect first, relax last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The firewall lets less pass: whatever the old *or* the new rules refuse is refused.
    Narrow,
    /// Peers, routes, rules, addresses and links go.
    Disconnect,
    /// VRFs come, each with its unreachable defaults, and are up.
    Vrf,
    /// Links, enslavement, addresses, sysctls, keys and peers come; new links stay down.
    Links,
    /// Routes and rules come or move.
    Routes,
    /// The firewall lets pass what the new rules allow.
    Widen,
    /// New links go up.
    Up,
    /// Tracked connections that the new rules refuse are cut.
    Cut,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Narrow => "narrow",
            Self::Disconnect => "disconnect",
            Self::Vrf => "vrf",
            Self::Links => "links",
            Self::Routes => "routes",
            Self::Widen => "widen",
            Self::Up => "up",
            Self::Cut => "cut",
        })
    }
}

/// How packets of this host get to an address on the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// No route leads there.
    Unreachable,
    /// By a route that takes packets of so many bytes: its own MTU, or its link's. None where neither says.
    Routed {
        /// The MTU in bytes.
        mtu: Option<u32>,
    },
}

/// The ways to addresses on the underlay; nothing is known of one that isn't in here.
pub type Ways = BTreeMap<IpAddr, Way>;

/// What a plane found between desired and actual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference<C> {
    /// What to do, in order within each phase.
    pub changes: Vec<C>,
    /// What can't be made true as things are; nothing that depends on it is among the changes.
    pub blocked: Vec<Blocked>,
}

impl<C> Default for Difference<C> {
    fn default() -> Self {
        Self {
            changes: Vec::new(),
            blocked: Vec::new(),
        }
    }
}
