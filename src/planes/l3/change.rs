//! What is to be done to links, addresses, routes, rules and kernel parameters, as data.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::state::{HostAddress, LinkType, RouteKey, RouteTo, Rule, Selector};
use crate::model::ownership::link_class;
use crate::model::{LinkName, NetworkId};
use crate::planes::Phase;
use crate::sys::sysctl::SysctlPath;

/// One step. It holds every choice; applying it makes none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The network that it is for; none for the host.
    pub network: Option<NetworkId>,
    /// When it happens.
    pub phase: Phase,
    /// What happens.
    #[serde(flatten)]
    pub op: Op,
}

impl Change {
    /// When it happens.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The link that comes, if one does.
    #[must_use]
    pub const fn creates_link(&self) -> Option<&LinkName> {
        if let Op::AddLink { link, .. } = &self.op {
            return Some(link);
        }
        None
    }

    /// Whether LAN interfaces go back to the main table: by themselves, with the VRF that they are in, or with the rule
    /// that sends what comes in by them to the network's table.
    #[must_use]
    pub fn releases_lans(&self) -> bool {
        let of_lan =
            |rule: &Rule| matches!(&rule.selector, Selector::Iif(link) if link_class(link).is_none());
        matches!(&self.op, Op::DeleteRule { rule } if of_lan(rule))
            || matches!(
                self.op,
                Op::ReleaseLan { .. }
                    | Op::DeleteLink {
                        kind: LinkType::Vrf { .. },
                        ..
                    }
            )
    }

    /// The network that it is for; none for the host.
    #[must_use]
    pub const fn network(&self) -> Option<NetworkId> {
        self.network
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "op")]
pub enum Op {
    /// Create a link, down.
    AddLink {
        /// Its name.
        link: LinkName,
        /// What it is.
        #[serde(flatten)]
        kind: LinkType,
        /// Its MTU in bytes.
        mtu: Option<u32>,
    },
    /// Mark a link as ours.
    SetAlias {
        /// The link.
        link: LinkName,
    },
    /// Set the MTU.
    SetMtu {
        /// The link.
        link: LinkName,
        /// The MTU in bytes.
        mtu: u32,
    },
    /// Put a link of ours into a VRF, or out of any.
    SetMaster {
        /// The link.
        link: LinkName,
        /// The VRF.
        master: Option<LinkName>,
    },
    /// Set a link up.
    SetUp {
        /// The link.
        link: LinkName,
    },
    /// Set a link down.
    SetDown {
        /// The link.
        link: LinkName,
    },
    /// Delete a link of ours.
    DeleteLink {
        /// The link.
        link: LinkName,
        /// What it is.
        #[serde(flatten)]
        kind: LinkType,
    },
    /// Put a LAN interface into a VRF.
    JoinLan {
        /// The interface.
        interface: LinkName,
        /// The VRF.
        master: LinkName,
        /// The addresses that it must have afterwards.
        keep: BTreeSet<HostAddress>,
    },
    /// Give a LAN interface back.
    ReleaseLan {
        /// The interface.
        interface: LinkName,
        /// The addresses that it must have afterwards.
        keep: BTreeSet<HostAddress>,
    },
    /// Add an address to a link of ours.
    AddAddress {
        /// The link.
        link: LinkName,
        /// The address.
        address: IpNet,
    },
    /// Delete an address from a link of ours.
    DeleteAddress {
        /// The link.
        link: LinkName,
        /// The address.
        address: IpNet,
    },
    /// Add a route where none of ours is.
    AddRoute {
        /// Which.
        #[serde(flatten)]
        key: RouteKey,
        /// Where it leads.
        to: RouteTo,
    },
    /// Make a route of ours lead elsewhere, without a gap.
    ReplaceRoute {
        /// Which.
        #[serde(flatten)]
        key: RouteKey,
        /// Where it leads.
        to: RouteTo,
    },
    /// Delete a route of ours.
    DeleteRoute {
        /// Which.
        #[serde(flatten)]
        key: RouteKey,
        /// Where it leads.
        to: RouteTo,
    },
    /// Add a rule.
    AddRule {
        /// The rule.
        rule: Rule,
    },
    /// Delete a rule of ours.
    DeleteRule {
        /// The rule.
        rule: Rule,
    },
    /// Set a kernel parameter.
    SetSysctl {
        /// Which.
        #[serde(serialize_with = "as_text")]
        path: SysctlPath,
        /// The value.
        value: u32,
    },
}

fn as_text<S: Serializer>(path: &SysctlPath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(path)
}
