//! Where this gateway listens inside its overlays, and how it calls a peer through a bridge.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::Gateway;
use crate::federation::bridge::State;
use crate::federation::overlay::{Domain, OverlayError, OverlayListener, OverlayWay, Post, Seat};
use crate::federation::peer::Peer;
use crate::model::address::intersection;
use crate::model::agreement::Agreement;
use crate::model::{AddressSet, Fleet, Name};

/// What both ends say.
fn carried(agreement: &Agreement) -> AddressSet {
    intersection(
        &agreement.import.iter().collect(),
        &agreement.prefixes.iter().collect(),
    )
}

impl Gateway {
    /// Where this gateway is to listen at this moment, by network: where a bridge is active that exports its address.
    #[must_use]
    pub fn overlay_posts(&self) -> BTreeMap<Name, Post> {
        let mut posts: BTreeMap<Name, Post> = BTreeMap::new();
        let Some(fleet) = self.fleet() else { return posts };
        self.ledger.read(|book| {
            self.each_in_force(&fleet, book, |bridge, row, agreement| {
                let half = row.live().and_then(|ours| ours.half.as_ref());
                let Some(at) = half.and_then(|half| half.listener) else {
                    return;
                };
                let Some(domain) = self.domain(&fleet, &bridge.network) else {
                    return;
                };
                let post = posts.entry(bridge.network.clone()).or_insert_with(|| Post {
                    seat: Seat {
                        network: bridge.network.clone(),
                        address: at.ip(),
                        domain,
                    },
                    port: at.port(),
                    callers: BTreeMap::new(),
                });
                // A bridge that still announces another address of ours is told anew, and then counts.
                if post.address() == at {
                    post.callers.insert(row.peer, carried(&agreement));
                }
            });
        });
        posts
    }

    /// How a peer's gateway is called from inside a network: from our address there to the one that it announces, if the
    /// bridge carries that.
    ///
    /// # Errors
    /// No active bridge leads there, or one end doesn't export its gateway's address.
    pub fn overlay_way(&self, peer: &Peer, network: &Name) -> Result<OverlayWay, OverlayError> {
        let unknown = || OverlayError::Network(network.clone());
        let fleet = self.fleet().ok_or_else(unknown)?;
        let domain = self.domain(&fleet, network).ok_or_else(unknown)?;
        let alias = &peer.alias;
        self.ledger.read(|book| {
            let mut way = None;
            self.each_in_force(&fleet, book, |bridge, row, agreement| {
                if row.peer == peer.id && bridge.network == *network {
                    let half = row.live().and_then(|ours| ours.half.as_ref());
                    way = Some((
                        bridge.name.clone(),
                        half.and_then(|half| half.listener),
                        agreement,
                    ));
                }
            });
            let Some((bridge, own, agreement)) = way else {
                let mut live = book.bridges_of(peer.id).filter_map(|row| row.live());
                let known = live.find(|ours| ours.network == *network);
                return Err(known.map_or_else(
                    || OverlayError::NoBridge {
                        peer: alias.clone(),
                        network: network.clone(),
                    },
                    |ours| OverlayError::Inactive {
                        bridge: ours.name.clone(),
                        peer: alias.clone(),
                        // What the peer's standing holds up is no more active than a bridge that says so itself.
                        state: if ours.state == State::Active {
                            State::Suspended.as_str()
                        } else {
                            ours.state.as_str()
                        },
                    },
                ));
            };
            let own = own.ok_or_else(|| OverlayError::OwnAddress {
                bridge: bridge.clone(),
                network: network.clone(),
            })?;
            let to = agreement
                .listener
                .ok_or_else(|| OverlayError::NoListener { peer: alias.clone() })?;
            if to.port() == 0 || to.is_ipv4() != own.is_ipv4() || !carried(&agreement).contains(to.ip()) {
                return Err(OverlayError::Outside {
                    peer: alias.clone(),
                    listener: to,
                    bridge,
                });
            }
            let seat = Seat {
                network: network.clone(),
                address: own.ip(),
                domain,
            };
            Ok(OverlayWay { seat, to })
        })
    }

    fn domain(&self, fleet: &Fleet, network: &Name) -> Option<Domain> {
        let network = fleet.networks.get(network)?;
        Some(Domain::of(network, self.settings.isolation))
    }

    /// Tells it how its listeners inside the overlays are.
    pub fn tell_overlay(&self, listeners: Vec<OverlayListener>) {
        *self.overlay.write().unwrap_or_else(PoisonError::into_inner) = listeners;
    }

    /// How the listeners inside the overlays are, by network.
    #[must_use]
    pub fn overlay(&self) -> Vec<OverlayListener> {
        self.overlay
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
