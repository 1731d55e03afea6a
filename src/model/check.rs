//! Invariants across objects, as typed findings. Pure: what is wrong, with whom; [`crate::config`] knows in which line.
//!
//! The checks never stop at the first finding, and none relies on another having passed.

mod addresses;
mod bridges;
mod host;
mod issue;
mod membership;
mod policy;
mod services;

use std::collections::BTreeMap;
use std::fmt;

use super::fleet::{Fleet, ResolvedMember};
use super::name::Name;
use super::network::Network;

pub use host::{check_host, rules_backend_conflicts};
pub use issue::{Issue, Kind};

/// Something that a finding can be about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// This host's own document.
    Host,
    /// The site.
    Site,
    /// A node.
    Node(Name),
    /// A network.
    Network(Name),
    /// A line of a network's `members`.
    Member {
        /// The network.
        network: Name,
        /// The line, from 0.
        index: usize,
    },
    /// A LAN of such a line.
    Lan {
        /// The network.
        network: Name,
        /// The line of `members`, from 0.
        member: usize,
        /// The LAN, from 0.
        lan: usize,
    },
    /// A firewall rule.
    Rule {
        /// The network.
        network: Name,
        /// The rule.
        name: Name,
    },
    /// A virtual IP.
    VirtualIp {
        /// The network.
        network: Name,
        /// The virtual IP.
        name: Name,
    },
    /// A port mapping.
    PortMapping {
        /// The network.
        network: Name,
        /// The mapping.
        name: Name,
    },
    /// A route policy.
    RoutePolicy {
        /// The network.
        network: Name,
        /// The policy.
        name: Name,
    },
    /// An OVN switch.
    OvnSwitch {
        /// The network.
        network: Name,
        /// The switch.
        name: Name,
    },
    /// A port of an OVN switch.
    OvnPort {
        /// The network.
        network: Name,
        /// The switch.
        switch: Name,
        /// The port.
        name: Name,
    },
    /// A route leak, in the order of the fragments.
    RouteLeak(usize),
    /// A bridge.
    Bridge(Name),
    /// A service that is offered.
    Offer(Name),
    /// A service that is used.
    Subscription(Name),
    /// A tenant.
    Tenant(Name),
    /// A line of a tenant's `members`.
    TenantMember {
        /// The tenant.
        tenant: Name,
        /// The line, from 0.
        index: usize,
    },
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Site => f.write_str("site"),
            Self::Node(name) => write!(f, "nodes.{name}"),
            Self::Network(name) => write!(f, "networks.{name}"),
            Self::Member { network, index } => write!(f, "networks.{network}.members[{index}]"),
            Self::Lan { network, member, lan } => {
                write!(f, "networks.{network}.members[{member}].lans[{lan}]")
            }
            Self::Rule { network, name } => write!(f, "networks.{network}.rules.{name}"),
            Self::VirtualIp { network, name } => write!(f, "networks.{network}.virtual_ips.{name}"),
            Self::PortMapping { network, name } => write!(f, "networks.{network}.port_mappings.{name}"),
            Self::RoutePolicy { network, name } => write!(f, "networks.{network}.route_policies.{name}"),
            Self::OvnSwitch { network, name } => write!(f, "networks.{network}.ovn_switches.{name}"),
            Self::OvnPort {
                network,
                switch,
                name,
            } => {
                write!(f, "networks.{network}.ovn_switches.{switch}.ports.{name}")
            }
            Self::RouteLeak(index) => write!(f, "route_leaks[{index}]"),
            Self::Bridge(name) => write!(f, "bridges.{name}"),
            Self::Offer(name) => write!(f, "offers.{name}"),
            Self::Subscription(name) => write!(f, "subscriptions.{name}"),
            Self::Tenant(key) => write!(f, "tenants.{key}"),
            Self::TenantMember { tenant, index } => write!(f, "tenants.{tenant}.members[{index}]"),
        }
    }
}

impl Object {
    /// The network that it belongs to.
    #[must_use]
    pub const fn network(&self) -> Option<&Name> {
        match self {
            Self::Network(network)
            | Self::Member { network, .. }
            | Self::Lan { network, .. }
            | Self::Rule { network, .. }
            | Self::VirtualIp { network, .. }
            | Self::PortMapping { network, .. }
            | Self::RoutePolicy { network, .. }
            | Self::OvnSwitch { network, .. }
            | Self::OvnPort { network, .. } => Some(network),
            Self::Host
            | Self::Site
            | Self::Node(_)
            | Self::RouteLeak(_)
            | Self::Bridge(_)
            | Self::Offer(_)
            | Self::Subscription(_)
            | Self::Tenant(_)
            | Self::TenantMember { .. } => None,
        }
    }
}

/// Where in an object: a key, and an item of its array; an empty key means the object itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The object.
    pub object: Object,
    /// The key.
    pub key: &'static str,
    /// The item, from 0.
    pub index: Option<usize>,
}

impl Object {
    /// The object itself.
    #[must_use]
    pub const fn whole(self) -> Place {
        Place {
            object: self,
            key: "",
            index: None,
        }
    }

    /// One of its keys.
    #[must_use]
    pub const fn key(self, key: &'static str) -> Place {
        Place {
            object: self,
            key,
            index: None,
        }
    }

    /// An item of one of its arrays.
    #[must_use]
    pub const fn item(self, key: &'static str, index: usize) -> Place {
        Place {
            object: self,
            key,
            index: Some(index),
        }
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is applied.
    Error,
    /// It is applied; someone may want to know.
    Notice,
}

/// Something that doesn't fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub at: Place,
    /// What it doesn't fit.
    pub also: Option<Object>,
    /// What is wrong.
    pub issue: Issue,
}

impl Finding {
    /// How much it matters.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.issue.severity()
    }
}

/// Collects findings.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, at: Place, issue: Issue) {
        self.0.push(Finding {
            at,
            also: None,
            issue,
        });
    }

    fn clash(&mut self, at: Place, also: Object, issue: Issue) {
        self.0.push(Finding {
            at,
            also: Some(also),
            issue,
        });
    }
}

/// What several checks ask of a fleet, worked out once.
struct View<'a> {
    fleet: &'a Fleet,
    networks: Vec<NetworkView<'a>>,
}

/// A network with its members.
struct NetworkView<'a> {
    network: &'a Network,
    members: Vec<ResolvedMember<'a>>,
    /// Index into `members`, by node.
    by_node: BTreeMap<&'a Name, usize>,
}

impl<'a> NetworkView<'a> {
    fn new(fleet: &'a Fleet, network: &'a Network) -> Self {
        let members = fleet.members(network);
        let by_node = members
            .iter()
            .enumerate()
            .map(|(at, member)| (&member.node.name, at))
            .collect();
        Self {
            network,
            members,
            by_node,
        }
    }

    fn member(&self, node: &Name) -> Option<&ResolvedMember<'a>> {
        self.by_node.get(node).map(|at| &self.members[*at])
    }

    fn line(&self, member: &ResolvedMember<'_>) -> Object {
        Object::Member {
            network: self.network.name.clone(),
            index: member.line,
        }
    }

    fn name(&self) -> Name {
        self.network.name.clone()
    }

    fn object(&self) -> Object {
        Object::Network(self.name())
    }
}

/// Everything in a fleet that doesn't fit together.
#[must_use]
pub fn check_fleet(fleet: &Fleet) -> Vec<Finding> {
    let networks = fleet
        .networks
        .values()
        .map(|network| NetworkView::new(fleet, network))
        .collect();
    let view = View { fleet, networks };
    let mut findings = Findings::default();
    membership::check(&view, &mut findings);
    addresses::check(&view, &mut findings);
    policy::check(&view, &mut findings);
    services::check(&view, &mut findings);
    bridges::check(&view, &mut findings);
    findings.0
}
