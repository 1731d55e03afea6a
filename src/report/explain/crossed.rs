//! Where a packet comes from another site, or leaves for one.

use super::Passes;
use super::view::Peer;
use super::walk::{Next, Step};
use crate::intent::{BridgeIntent, NetworkIntent};
use crate::model::{Name, PublicKey};

/// The bridge whose other end has this key.
pub(super) fn leads_out(network: &NetworkIntent, key: PublicKey) -> Option<&BridgeIntent> {
    let mut bridges = network.bridges.iter();
    bridges.find(|bridge| {
        bridge
            .agreement
            .as_ref()
            .is_some_and(|agreement| agreement.public_key == key)
    })
}

impl Step<'_> {
    /// The other site's gateway, as whoever sends over the bridge.
    pub(super) fn other_gateway(
        &mut self,
        network: &NetworkIntent,
        name: &Name,
    ) -> Result<(Name, Vec<PublicKey>), Next> {
        let bridge = network.bridges.iter().find(|bridge| bridge.name == *name);
        let Some(bridge) = bridge.filter(|bridge| bridge.here) else {
            let text = format!("{} isn't the gateway of bridge {name}", self.hop.node);
            return Err(self.block("bridge", text, None));
        };
        match &bridge.agreement {
            Some(agreement) => Ok((bridge.peer.clone(), vec![agreement.public_key])),
            None => Err(self.waits(bridge)),
        }
    }

    /// Ends it on the gateway where the bridge doesn't carry it.
    pub(super) fn crosses(&mut self, network: &NetworkIntent) -> Option<Next> {
        let ends = [self.trip.packet.source, self.trip.packet.destination];
        for bridge in network.bridges.iter().filter(|bridge| bridge.here) {
            let Some(theirs) = ends.into_iter().find(|end| bridge.import.contains(*end)) else {
                continue;
            };
            if bridge.waits_for.is_some() {
                return Some(self.waits(bridge));
            }
            if !bridge.carried.contains(theirs) {
                let text = format!("{}: {} doesn't export {theirs}", bridge.name, bridge.peer);
                let fix = format!("ask the operator of {} to export it", bridge.peer);
                return Some(self.block("bridge", text, Some(fix)));
            }
            if let Some(ours) = ends
                .into_iter()
                .find(|end| *end != theirs && !bridge.export.contains(*end))
            {
                let text = format!("{}: {ours} isn't exported to {}", bridge.name, bridge.peer);
                let fix = format!("add it to `export` of bridge {}", bridge.name);
                return Some(self.block("bridge", text, Some(fix)));
            }
            self.ok("bridge", format!("{} carries it", bridge.name));
        }
        None
    }

    fn waits(&mut self, bridge: &BridgeIntent) -> Next {
        let why = bridge.waits_for.as_deref().unwrap_or("nothing is agreed");
        let text = format!("{} carries nothing: {why}", bridge.name);
        let fix = format!("`sdwand peer show {}` on the gateway", bridge.peer);
        self.block("bridge", text, Some(fix))
    }

    /// It goes to the other site's gateway, if that is there.
    pub(super) fn leave_site(&mut self, bridge: &BridgeIntent, peer: &Peer) -> Next {
        if !self.handshake(&bridge.peer, peer) {
            return Next::Ended;
        }
        let text = format!("{} decides what becomes of it there", bridge.peer);
        self.add("bridge", Passes::Note, text, None);
        Next::Arrived
    }
}
