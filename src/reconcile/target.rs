//! What a host should be like.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::BlockedPlane;
use crate::intent::{Blocked, HostIntent, NetworkIntent, PathMtus};
use crate::model::{LinkName, NetworkId, PublicKey};
use crate::planes::{PlaneName, firewall, l3, wireguard};

/// The desired state of every plane, and the intent it was compiled from.
#[derive(Clone, Debug)]
pub struct Target {
    /// The intent.
    pub intent: HostIntent,
    /// The public half of this host's private key.
    pub own_key: PublicKey,
    /// Links, addresses, routes, rules, sysctls.
    pub l3: l3::State,
    /// WireGuard devices.
    pub wireguard: wireguard::Desired,
    /// Our table.
    pub firewall: firewall::State,
    /// What can't be made true on this host at all.
    pub blocked: Vec<BlockedPlane>,
}

impl Target {
    /// Compiles every plane. `key` is the public half of this host's private key.
    #[must_use]
    pub fn new(intent: HostIntent, key: PublicKey, l3_facts: &l3::Facts) -> Self {
        Self {
            own_key: key,
            l3: l3::compile(&intent, l3_facts),
            wireguard: wireguard::compile(&intent),
            firewall: firewall::compile(&intent),
            blocked: intent
                .blocked
                .iter()
                .map(|blocked| BlockedPlane {
                    plane: PlaneName::L3,
                    blocked: blocked.clone(),
                })
                .collect(),
            intent,
        }
    }

    /// The same with links and routes as large as the ways to peers take. None where nothing differs.
    #[must_use]
    pub fn fitted(&self, paths: &PathMtus, l3_facts: &l3::Facts) -> Option<Self> {
        let networks = self.intent.networks.values();
        let fitted = networks.filter_map(|network| Some((network.id, network.fitted(paths)?)));
        let fitted: BTreeMap<NetworkId, NetworkIntent> = fitted.collect();
        if fitted.is_empty() {
            return None;
        }
        let mut intent = self.intent.clone();
        intent.networks.extend(fitted);
        Some(Self {
            // With what it takes over from the former fleet.
            wireguard: self.wireguard.clone(),
            ..Self::new(intent, self.own_key, l3_facts)
        })
    }

    /// The same host without any network: what `down` makes true.
    #[must_use]
    pub fn without_networks(&self, l3_facts: &l3::Facts) -> Self {
        let intent = HostIntent {
            networks: BTreeMap::new(),
            blocked: Vec::new(),
            notices: Vec::new(),
            ..self.intent.clone()
        };
        Self::new(intent, self.own_key, l3_facts)
    }

    /// Whether the private key of this host belongs to the node. If not, nothing new is opened.
    #[must_use]
    pub fn key_matches(&self) -> bool {
        self.own_key == self.intent.public_key || self.intent.next_public_key == Some(self.own_key)
    }

    /// The same without the overlay links that only the daemon can hold; what depends on them goes with them, and the
    /// WireGuard plane is blocked.
    #[must_use]
    pub fn without_userspace_links(mut self) -> Self {
        let links: BTreeSet<LinkName> = self.wireguard.devices.keys().cloned().collect();
        self.l3.forget_links(&links);
        self.wireguard.devices.clear();
        for network in self.intent.networks.keys() {
            self.blocked.push(BlockedPlane {
                plane: PlaneName::Wireguard,
                blocked: Blocked {
                    network: Some(*network),
                    reason: "userspace WireGuard lives in the daemon, and none runs here".to_owned(),
                    fix: "start it: `sdwand run`, or the sdwand service".to_owned(),
                },
            });
        }
        self
    }
}
