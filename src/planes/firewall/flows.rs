//! Which tracked connections the rules refuse: a plain reading of the rules, independent of what they compile to.

use std::collections::BTreeMap;

use super::change::Cut;
use super::policy::{Packet, Policy};
use crate::intent::IsolationMode;
use crate::model::ownership::network_of_mark;
use crate::sys::conntrack::{Flow, FlowDetail};

/// The connections that are to be cut.
#[must_use]
pub fn refused(cut: &Cut, flows: Vec<Flow>) -> Vec<Flow> {
    let Some(policy) = &cut.allowed else {
        return flows;
    };
    // Many connections ask the same question.
    let mut answers: BTreeMap<_, bool> = BTreeMap::new();
    let mut flows = flows;
    flows.retain(|flow| {
        let packet = packet(flow);
        if let (Some(id), Some(answer)) = (network_of_mark(flow.mark), flow.translated) {
            // It came in by a port mapping: the underlay's packet began it.
            return id == cut.network && !policy.maps(&packet, (answer.source, answer.port));
        }
        let question = (packet.source, packet.destination, packet.protocol, packet.port);
        *answers
            .entry(question)
            .or_insert_with(|| is_refused(policy, &packet))
    });
    flows
}

/// Whether the rules refuse a connection that began with this packet.
///
/// The main table's zone holds the host's other connections too: there, only those between addresses of the network
/// are ours to judge.
#[must_use]
pub fn is_refused(policy: &Policy, packet: &Packet) -> bool {
    let inside = policy.bound.contains(packet.source) && policy.bound.contains(packet.destination);
    let ours = match policy.isolation {
        IsolationMode::Vrf | IsolationMode::Rules => true,
        IsolationMode::Main => inside,
    };
    ours && !policy.allows(packet)
}

/// The first packet of a connection.
#[must_use]
pub fn packet(flow: &Flow) -> Packet {
    Packet {
        source: flow.source,
        destination: flow.destination,
        protocol: flow.protocol,
        port: match flow.detail {
            FlowDetail::Ports { destination, .. } => destination,
            FlowDetail::Icmp { .. } | FlowDetail::None => 0,
        },
    }
}
