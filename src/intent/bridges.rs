//! Bridges to other sites, as one host has them.
//!
//! The fleet alone says what a bridge may ever carry: every host routes `import` to the gateway and lets rules name it.
//! The gateway also needs the other site's word, an [`Agreement`]: it carries what both say, and nothing without it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::compile::Placed;
use super::topology::Wiring;
use super::{BridgeIntent, Notice, PeerIntent, UnderlayClash};
use crate::model::address::intersection;
use crate::model::agreement::{self, Agreement, Agreements, MAX_ENDPOINTS, MAX_PREFIXES};
use crate::model::fleet::Fleet;
use crate::model::network::{Endpoint, EndpointHost, Network};
use crate::model::routing::{Bridge, Export};
use crate::model::{AddressSet, Name, PublicKey, reach};

/// The bridges that lead into a network and are in force, by name.
pub(super) fn into<'a>(fleet: &'a Fleet, network: &'a Network) -> impl Iterator<Item = &'a Bridge> {
    let bridges = fleet.bridges.values();
    bridges.filter(|bridge| bridge.enabled && bridge.network == network.name)
}

/// Who carries a bridge: the first of its gateways that is a member.
pub(super) fn gateway(bridge: &Bridge, is_member: impl Fn(&Name) -> bool) -> Option<&Name> {
    bridge.gateways.iter().find(|gateway| is_member(gateway))
}

/// What the bridge gives to the peer.
fn exported(bridge: &Bridge, network: &Network) -> AddressSet {
    let vip = |name: &Name| network.virtual_ips.iter().find(|vip| vip.name == *name);
    let nets = bridge.export.iter().filter_map(|export| match export {
        Export::Prefix(net) => Some(*net),
        Export::Vip(name) => vip(name).map(|vip| IpNet::from(vip.address)),
    });
    nets.collect()
}

/// The bridges of a network as this host has them; on the gateway with what is agreed.
pub(super) fn compile(
    fleet: &Fleet,
    network: &Network,
    members: &[Placed<'_>],
    own: &Placed<'_>,
    agreements: &Agreements,
    mut clashes: BTreeMap<Name, UnderlayClash>,
) -> Vec<BridgeIntent> {
    let mut keys: BTreeSet<PublicKey> = fleet
        .nodes
        .values()
        .flat_map(|node| std::iter::once(node.public_key).chain(node.next_public_key))
        .collect();
    let is_member = |name: &Name| members.iter().any(|member| member.name() == name);
    let mut found = Vec::new();
    for bridge in into(fleet, network) {
        let Some(gateway) = gateway(bridge, is_member) else {
            continue;
        };
        let import: AddressSet = bridge.import.iter().collect();
        let here = gateway == own.name();
        let clash = clashes.remove(&bridge.name);
        let mut intent = BridgeIntent {
            name: bridge.name.clone(),
            peer: bridge.peer.clone(),
            gateway: gateway.clone(),
            export: exported(bridge, network),
            carried: if here || clash.is_some() {
                AddressSet::default()
            } else {
                import.clone()
            },
            import,
            here,
            waits_for: clash.as_ref().map(ToString::to_string),
            clash,
            agreement: None,
        };
        if here && intent.clash.is_none() {
            match agreed(bridge, network, agreements.bridges.get(&bridge.name), &keys) {
                Ok(agreement) => {
                    keys.insert(agreement.public_key);
                    intent.carried = carried(&intent.import, agreement);
                    if let Some(export) = &agreement.export {
                        intent.export = intersection(&intent.export, &export.iter().collect());
                    }
                    if intent.carried.is_empty() {
                        intent.waits_for = Some("the peer exports nothing of what is imported".to_owned());
                    }
                    intent.agreement = Some(agreement.clone());
                }
                Err(reason) => intent.waits_for = Some(reason),
            }
        }
        found.push(intent);
    }
    found
}

/// What both ends say: never more than the fleet's import.
fn carried(import: &AddressSet, agreement: &Agreement) -> AddressSet {
    let fit = agreement
        .prefixes
        .iter()
        .filter(|net| agreement::fit(net).is_ok());
    let both = intersection(&agreement.import.iter().collect(), &fit.collect());
    intersection(import, &both)
}

/// Holds an agreement against the fleet once more: `serve` may be wrong, or old.
fn agreed<'a>(
    bridge: &Bridge,
    network: &Network,
    agreement: Option<&'a Agreement>,
    taken: &BTreeSet<PublicKey>,
) -> Result<&'a Agreement, String> {
    let Some(agreement) = agreement else {
        return Err(format!(
            "no agreement with {}: see `sdwand peer bridge {}`",
            bridge.peer, bridge.peer
        ));
    };
    if agreement.peer != bridge.peer || agreement.network != network.name {
        return Err(format!(
            "the agreement is about peer {} and network {}, and the fleet's bridge isn't",
            agreement.peer, agreement.network
        ));
    }
    if agreement.public_key.is_low_order() {
        return Err("the peer's key is none: anyone could read what is sent to it".to_owned());
    }
    if taken.contains(&agreement.public_key) {
        return Err(format!(
            "the peer's key {} is that of a node of this site or of another bridge",
            agreement.public_key
        ));
    }
    let (prefixes, endpoints) = (agreement.prefixes.len(), agreement.endpoints.len());
    if prefixes > MAX_PREFIXES || endpoints > MAX_ENDPOINTS {
        return Err(format!(
            "the peer names {prefixes} prefixes and {endpoints} endpoints: {MAX_PREFIXES} and {MAX_ENDPOINTS} are the most"
        ));
    }
    Ok(agreement)
}

/// Adds the other sites' gateways to this one's link: each may carry what is agreed, and nothing else.
pub(super) fn attach(
    bridges: &[BridgeIntent],
    network: &Network,
    (bound, allowed): (&AddressSet, &[IpNet]),
    wiring: &mut Wiring,
    notices: &mut Vec<Notice>,
) {
    for bridge in bridges {
        let mut say = |text: String| {
            notices.push(Notice {
                network: Some(network.name.clone()),
                object: format!("bridge {}", bridge.name),
                text,
            });
        };
        // What this host leaves out is a condition of it.
        if let Some(reason) = bridge.waits_for.as_ref().filter(|_| bridge.clash.is_none()) {
            say(format!("carries nothing: {reason}"));
        }
        let Some(agreement) = bridge.agreement.as_ref().filter(|_| !bridge.carried.is_empty()) else {
            continue;
        };
        let Some(link) = wiring.links.first_mut() else {
            continue;
        };
        let (endpoints, unfit): (Vec<SocketAddr>, Vec<_>) = agreement
            .endpoints
            .iter()
            .partition(|at| may_call(at, bound, allowed));
        if !unfit.is_empty() {
            let unfit: Vec<String> = unfit.iter().map(ToString::to_string).collect();
            say(format!(
                "isn't called at {}: no gateway is there",
                unfit.join(", ")
            ));
        }
        let allowed: BTreeSet<IpNet> = bridge.carried.iter().collect();
        wiring
            .routes
            .extend(allowed.iter().map(|net| (*net, link.name.clone())));
        link.peers.insert(
            agreement.public_key,
            PeerIntent {
                node: bridge.peer.clone(),
                bridge: Some(bridge.name.clone()),
                overlay_v6: None,
                link_local: None,
                next_public_key: None,
                // Calling keeps our own NAT open; who can't be called calls us.
                keepalive_seconds: if endpoints.is_empty() {
                    0
                } else {
                    network.keepalive_seconds
                },
                port: network.listen_port,
                endpoints: endpoints
                    .into_iter()
                    .map(|at| Endpoint {
                        host: EndpointHost::Address(at.ip()),
                        port: Some(at.port()),
                    })
                    .collect(),
                preshared_key: Some(agreement.preshared_key.clone()),
                addresses: BTreeSet::new(),
                allowed_ips: allowed,
            },
        );
    }
}

/// Whether another site's gateway may be there: on the Internet, or where the operator lets it; never inside what a bridge
/// reaches.
fn may_call(at: &SocketAddr, bound: &AddressSet, allowed: &[IpNet]) -> bool {
    let meanings: Vec<IpAddr> = reach::meanings(at.ip().to_canonical()).collect();
    let is_allowed = |address: &IpAddr| allowed.iter().any(|net| net.contains(address));
    let is_there =
        meanings.iter().any(is_allowed) || meanings.iter().all(|address| reach::is_public(*address));
    let is_inside = meanings.iter().any(|address| bound.contains(*address));
    at.port() != 0 && is_there && !is_inside
}

/// What each member imports for the network, by its name, but for bridges that this host leaves out.
pub(super) fn imports<'a>(
    fleet: &'a Fleet,
    network: &'a Network,
    clashes: &BTreeMap<Name, UnderlayClash>,
    is_member: impl Fn(&Name) -> bool,
) -> BTreeMap<&'a Name, Vec<IpNet>> {
    let mut imports: BTreeMap<&Name, Vec<IpNet>> = BTreeMap::new();
    for bridge in into(fleet, network).filter(|bridge| !clashes.contains_key(&bridge.name)) {
        if let Some(gateway) = gateway(bridge, &is_member) {
            let nets = bridge.import.iter().map(IpNet::trunc);
            imports.entry(gateway).or_default().extend(nets);
        }
    }
    imports
}

#[cfg(test)]
mod tests;
