//! What the operator has decided about peers, and what of the site no peer may touch.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::version;
use crate::model::host::{Federation, Residency};
use crate::model::network::EndpointHost;
use crate::model::routing::Bridge;
use crate::model::{Fleet, Name};

/// What the operator has decided about peers in general.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Which versions get along.
    pub versions: version::Rules,
    /// What becomes of a peer whose data resides elsewhere.
    pub residency: Residency,
    /// What peers may name as endpoints although it isn't public.
    pub allow_dial: Vec<IpNet>,
    /// What is ours: the site's /48, its networks, LANs and nodes' addresses.
    pub own: Vec<IpNet>,
    /// What there is to attach peers to.
    pub overlay: Overlay,
}

/// What the fleet says of the overlay, as far as peers could be attached to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Whether there is any network.
    pub has_networks: bool,
    /// The peers that bridges of this gateway are for, by alias.
    pub bridged: BTreeSet<Name>,
}

impl Policy {
    /// By this host's `[federation]`; of the fleet nothing is known yet.
    #[must_use]
    pub fn of(federation: &Federation) -> Self {
        Self {
            versions: version::Rules {
                operator: version::Table {
                    compatible: federation.compatible_versions.clone(),
                    incompatible: federation.incompatible_versions.clone(),
                },
                default: version::Table::default(),
            },
            residency: federation.residency,
            allow_dial: federation.allow_dial.clone(),
            ..Self::default()
        }
    }

    /// The same, by this fleet, on this gateway.
    #[must_use]
    pub fn with_fleet(&self, fleet: &Fleet, node: &Name) -> Self {
        let ours = |bridge: &&Bridge| bridge.enabled && bridge.gateways.contains(node);
        let bridged = fleet.bridges.values().filter(ours);
        Self {
            own: own(fleet),
            overlay: Overlay {
                has_networks: !fleet.networks.is_empty(),
                bridged: bridged.map(|bridge| bridge.peer.clone()).collect(),
            },
            ..self.clone()
        }
    }
}

/// Every prefix and address that the fleet says is the site's.
fn own(fleet: &Fleet) -> Vec<IpNet> {
    let mut own = vec![IpNet::V6(fleet.site.prefix)];
    for network in fleet.networks.values() {
        own.push(network.prefix.into());
        own.extend(network.prefix_v4.map(IpNet::V4));
        own.extend(network.workload_prefix);
        let members = fleet.members(network).into_iter();
        own.extend(members.flat_map(|member| member.lans).map(|lan| lan.subnet));
    }
    for endpoint in fleet.nodes.values().flat_map(|node| &node.endpoints) {
        match &endpoint.host {
            EndpointHost::Address(address) => own.push(IpNet::from(*address)),
            EndpointHost::Dns(_) => {}
        }
    }
    own.sort();
    own.dedup();
    own
}
