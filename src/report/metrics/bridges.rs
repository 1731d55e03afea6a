//! What a monitoring system is told of the bridges to other sites. Labels are names of the fleet.

use super::{MOST_BRIDGES, Page, catalogue, count, number, timestamp};
use crate::reconcile::{Observation, Target};
use crate::report::bridges::{self, BridgeState, Strays};

/// Tells of all bridges that this host has, up to [`MOST_BRIDGES`]; how many are left out.
pub(super) fn all(page: &mut Page, target: &Target, observation: &Observation) -> usize {
    let mut room = MOST_BRIDGES;
    let mut dropped = 0;
    for network in target.intent.networks.values() {
        let strays = Strays::of(target, network, Some(observation));
        for bridge in &network.bridges {
            if room == 0 {
                dropped += 1;
                continue;
            }
            room -= 1;
            let [network_label, bridge_label] = [
                ("network", network.name.as_str()),
                ("bridge", bridge.name.as_str()),
            ];
            let state = bridges::state(bridge, &strays.remains(bridge));
            for one in BridgeState::ALL {
                let labels = [
                    network_label,
                    bridge_label,
                    ("peer", bridge.peer.as_str()),
                    ("state", one.as_str()),
                ];
                page.set(&catalogue::BRIDGE_STATE, &labels, f64::from(one == state));
            }
            let exported = if state == BridgeState::Carrying {
                bridge.export.iter().count()
            } else {
                0
            };
            for (direction, prefixes) in [("import", bridge.carried.iter().count()), ("export", exported)] {
                let labels = [network_label, bridge_label, ("direction", direction)];
                page.set(&catalogue::BRIDGE_PREFIXES, &labels, number(prefixes));
            }
            let labels = [network_label, bridge_label];
            let Some(peer) = bridges::seen(network, bridge, Some(observation)) else {
                continue;
            };
            if let Some(at) = peer.last_handshake {
                page.set(&catalogue::BRIDGE_HANDSHAKE, &labels, timestamp(at));
            }
            page.set(&catalogue::BRIDGE_RX, &labels, count(peer.rx_bytes));
            page.set(&catalogue::BRIDGE_TX, &labels, count(peer.tx_bytes));
        }
    }
    dropped
}
