//! What is read on this host, beside the fleet.

use std::net::IpAddr;
use std::time::SystemTime;

use crate::intent::HostIntent;
use crate::model::LinkName;
use crate::model::network::NetworkId;
use crate::planes::{firewall, l3, wireguard};
use crate::reconcile::holes::Known;
use crate::report::foreign::Ruleset;

/// What was found; what couldn't be read says why, and isn't taken for nothing.
pub struct Live {
    /// What the host should do, as it can.
    pub intent: HostIntent,
    /// Links and addresses.
    pub l3: Result<l3::Actual, String>,
    /// WireGuard devices.
    pub wireguard: Result<wireguard::Actual, String>,
    /// Our table.
    pub firewall: Result<firewall::Actual, String>,
    /// The chains of others.
    pub foreign: Result<Ruleset, String>,
    /// What its daemon knows of the ways to peers.
    pub ways: Result<Known, String>,
    /// What time it is.
    pub now: SystemTime,
}

/// A packet whose route the kernel is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lookup {
    /// Its network.
    pub network: NetworkId,
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// By which interface it comes in; none where this host sends it.
    pub came_in: Option<LinkName>,
    /// What our table has marked it with, on its way through a port mapping: one that this host sends is in no network then.
    pub mark: Option<u32>,
}

/// What the kernel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is for this host.
    Local,
    /// It goes out.
    Out {
        /// By this interface.
        device: LinkName,
        /// To this router.
        gateway: Option<IpAddr>,
        /// By a route that takes packets of so many bytes, where that is less than the interface's MTU.
        mtu: Option<u32>,
    },
    /// It goes nowhere, and why.
    Nowhere(String),
}
