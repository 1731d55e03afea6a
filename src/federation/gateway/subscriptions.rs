//! Who uses what we offer, and what we use of others.
//!
//! ```text
//! POST, DELETE subscriptions ─▶ rows in the ledger ─▶ `sdwand service offers`
//!        fleet, grants, peers ─▶ settle: rows whose offer, grant or peer is gone go, too
//! our fleet's [[subscriptions]] ─▶ wanted ─▶ calls to peers (`server::subscriptions`)
//! ```
//!
//! A subscription opens nothing: only the fleet's rules do.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::json;

use super::resources::instance_of;
use super::{Gateway, ResourceError, Via};
use crate::federation::grant::{Ask, Denial, Grant, Origin, Scope, State};
use crate::federation::ledger::{Aborted, Draft, Happening, LedgerError};
use crate::federation::moment::Moment;
use crate::federation::peer::{Peer, PeerId};
use crate::federation::resources::Kind;
use crate::federation::subscription::{MOST_OF_ONE, Subscription};
use crate::federation::wire::SubscriptionEntry;
use crate::model::routing::Bridge;
use crate::model::service::Offer;
use crate::model::{Fleet, Name};

/// A subscription isn't taken.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The peer mayn't know what is offered.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// There is no such offer to this peer.
    #[error("no service {0} is offered to you")]
    NoOffer(Name),
    /// It has too many.
    #[error("at most {MOST_OF_ONE} services can be subscribed to")]
    TooMany,
    /// It has had too much written of late.
    #[error("too much news in a minute: say it again later")]
    TooMuch,
    /// The ledger can't be written.
    #[error(transparent)]
    Ledger(LedgerError),
}

impl From<Aborted<Self>> for SubscribeError {
    fn from(aborted: Aborted<Self>) -> Self {
        match aborted {
            Aborted::ByCaller(error) => error,
            Aborted::ByLedger(error) => Self::Ledger(error),
        }
    }
}

/// One of our offers, and who uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = OfferedService)]
pub struct OfferView {
    /// What it is called.
    pub service: Name,
    /// The bridge that it is offered over.
    pub bridge: Name,
    /// To whom, as we call the peer.
    pub peer: Name,
    /// The virtual IP that it is.
    pub vip: Name,
    /// Who says that it uses it.
    pub subscribers: Vec<Subscriber>,
}

/// A peer that says that it uses an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Subscriber {
    /// What we call it.
    pub peer: Name,
    /// Its id.
    pub peer_id: PeerId,
    /// Since when.
    pub since: Moment,
}

/// An offer that leads to a peer called so, by a bridge that is in force.
fn offer_to<'f>(fleet: &'f Fleet, peer: &Name, service: &Name) -> Option<(&'f Offer, &'f Bridge)> {
    let offer = fleet.offers.get(service)?;
    let bridge = fleet.bridges.get(&offer.bridge)?;
    (bridge.enabled && bridge.peer == *peer).then_some((offer, bridge))
}

/// Whether a grant may still let its peer know of an offer, whoever of the peer's asks.
fn covers(grant: &Grant, peer: PeerId, service: &Name, now: Moment) -> bool {
    grant.peer == peer
        && grant.state(now) == State::Active
        && (grant.origin != Origin::Operator || grant.resource_kind == Kind::Service.as_str())
        && grant
            .resource_id
            .as_deref()
            .is_none_or(|id| id == service.as_str())
        && grant.scopes.contains(&Scope::Read)
}

fn noted(subscription: &Subscription, what: &str) -> Happening {
    Happening {
        kind: format!("federation.subscription.{what}"),
        severity: "low",
        peer: Some(subscription.peer),
        payload: json!({ "service": subscription.service, "since": subscription.since }),
    }
}

impl Gateway {
    /// The caller, if it may know of services at all.
    fn subscriber(&self, via: &Via<'_>, wall: Moment) -> Result<Peer, ResourceError> {
        let peer = self.identify(via.chain, wall)?;
        if !self.is_verified(&peer) {
            return Err(ResourceError::Unverified);
        }
        if !self.border(&peer).is_open() {
            return Err(ResourceError::Border);
        }
        Ok((*peer).clone())
    }

    /// Whether one of its grants lets the caller read of this offer: no token is needed, as nothing is told.
    fn may_know(&self, via: &Via<'_>, peer: &Peer, service: &Name, now: Moment) -> Result<(), ResourceError> {
        let ask = Ask {
            peer: peer.id,
            kind: Kind::Service.as_str(),
            id: Some(service.as_str()),
            scope: Scope::Read,
            instance: instance_of(via.chain),
            network: via.network.map(|name| vec![name.to_string()]).unwrap_or_default(),
            source: via.source,
        };
        let allows = |grant: &std::sync::Arc<Grant>| grant.judge(&ask, now).is_ok();
        let is_allowed = self.ledger.read(|book| book.grants().any(allows));
        is_allowed.then_some(()).ok_or(Denial::Kind.into())
    }

    /// Takes that a peer uses an offer; the same again changes nothing.
    ///
    /// # Errors
    /// It mayn't know of the offer, has too many, or the ledger can't be written.
    pub fn subscribed(
        &self,
        via: Via<'_>,
        service: &Name,
        wall: Moment,
    ) -> Result<SubscriptionEntry, SubscribeError> {
        let peer = self.subscriber(&via, wall)?;
        let now = self.ledger.read(|book| book.now(wall));
        self.may_know(&via, &peer, service, now)?;
        let fleet = self.fleet().ok_or(ResourceError::NoFleet)?;
        offer_to(&fleet, &peer.alias, service).ok_or_else(|| SubscribeError::NoOffer(service.clone()))?;
        let key = (peer.id, service.clone());
        let known = self
            .ledger
            .rehearse(wall, |draft| draft.subscription(&key).cloned());
        if let Some(known) = known {
            return Ok(told(&known));
        }
        if !self.quota.take(peer.id, now) {
            return Err(SubscribeError::TooMuch);
        }
        let taken = self.ledger.transact(wall, |draft| {
            if let Some(known) = draft.subscription(&key) {
                return Ok(known.clone());
            }
            // The peer may have been stopped since it was known.
            let calls = draft.peer(&peer.id).is_some_and(|peer| peer.status.may_call());
            let stopped = crate::federation::identity::Stranger::NotNow(peer.id);
            calls.then_some(()).ok_or(ResourceError::Stranger(stopped))?;
            if { draft.subscriptions() }
                .filter(|one| one.peer == peer.id)
                .count()
                >= MOST_OF_ONE
            {
                return Err(SubscribeError::TooMany);
            }
            let fresh = Subscription {
                peer: peer.id,
                service: service.clone(),
                since: draft.now(),
            };
            draft.note(noted(&fresh, "subscribed"));
            draft.put_subscription(fresh.clone());
            Ok(fresh)
        })?;
        Ok(told(&taken))
    }

    /// Takes that a peer doesn't use an offer any more; also one that it never used, or that is gone.
    ///
    /// # Errors
    /// It is nobody's, or the ledger can't be written.
    pub fn unsubscribed(&self, via: Via<'_>, service: &Name, wall: Moment) -> Result<(), SubscribeError> {
        let peer = self.subscriber(&via, wall)?;
        let key = (peer.id, service.clone());
        if self
            .ledger
            .rehearse(wall, |draft| draft.subscription(&key).is_none())
        {
            return Ok(());
        }
        let now = self.ledger.read(|book| book.now(wall));
        if !self.quota.take(peer.id, now) {
            return Err(SubscribeError::TooMuch);
        }
        self.ledger.transact(wall, |draft| {
            if let Some(known) = draft.subscription(&key).cloned() {
                draft.note(noted(&known, "unsubscribed"));
                draft.remove_subscription(key);
            }
            Ok::<_, SubscribeError>(())
        })?;
        Ok(())
    }

    /// What a peer has told us that it uses.
    ///
    /// # Errors
    /// It is nobody's.
    pub fn subscriptions_of_caller(
        &self,
        via: Via<'_>,
        wall: Moment,
    ) -> Result<Vec<SubscriptionEntry>, SubscribeError> {
        let peer = self.subscriber(&via, wall)?;
        Ok(self.ledger.read(|book| {
            let all = book.subscriptions().filter(|one| one.peer == peer.id);
            all.map(|one| told(one)).collect()
        }))
    }

    /// Forgets the subscriptions whose offer, grant or peer is gone. Says whether there were any.
    ///
    /// # Errors
    /// The ledger can't be written.
    pub fn settle_subscriptions(&self, wall: Moment) -> Result<bool, LedgerError> {
        let fleet = self.fleet();
        let gone = |draft: &Draft<'_>| -> Vec<Subscription> {
            // Once for all of them: it is looked often.
            let mut grants: BTreeMap<PeerId, Vec<&Grant>> = BTreeMap::new();
            for grant in draft.grants() {
                grants.entry(grant.peer).or_default().push(grant);
            }
            let all = draft.subscriptions();
            all.filter(|one| {
                let of_peer = grants.get(&one.peer).map_or(&[][..], Vec::as_slice);
                !is_held(draft, fleet.as_deref(), of_peer, one)
            })
            .cloned()
            .collect()
        };
        let is_settled =
            |draft: &mut Draft<'_>| draft.subscriptions().next().is_none() || gone(draft).is_empty();
        if self.ledger.rehearse(wall, is_settled) {
            return Ok(false);
        }
        let settled = self.ledger.transact(wall, |draft| {
            for one in gone(draft) {
                draft.note(noted(&one, "withdrawn"));
                draft.remove_subscription((one.peer, one.service));
            }
            Ok::<_, std::convert::Infallible>(())
        });
        match settled {
            Ok(()) => Ok(true),
            Err(Aborted::ByLedger(error)) => Err(error),
            Err(Aborted::ByCaller(never)) => match never {},
        }
    }

    /// Our offers, by name, with who uses each.
    #[must_use]
    pub fn offers(&self) -> Vec<OfferView> {
        let Some(fleet) = self.fleet() else {
            return Vec::new();
        };
        self.ledger.read(|book| {
            let offers = fleet.offers.values().filter_map(|offer| {
                let bridge = fleet.bridges.get(&offer.bridge)?;
                let of = book.subscriptions().filter(|one| one.service == offer.name);
                let named = of.filter_map(|one| Some((one, book.peer(&one.peer)?)));
                Some(OfferView {
                    service: offer.name.clone(),
                    bridge: bridge.name.clone(),
                    peer: bridge.peer.clone(),
                    vip: offer.vip.clone(),
                    subscribers: named
                        .filter(|(_, peer)| peer.status.is_live() && peer.alias == bridge.peer)
                        .map(|(one, peer)| Subscriber {
                            peer: peer.alias.clone(),
                            peer_id: peer.id,
                            since: one.since,
                        })
                        .collect(),
                })
            });
            offers.collect()
        })
    }

    /// Whom we can call about what our fleet uses of them, and what that is.
    #[must_use]
    pub fn subscription_calls(&self) -> BTreeMap<PeerId, BTreeSet<Name>> {
        self.ledger.read(|book| {
            let callable = book
                .peers()
                .filter(|peer| peer.declared.is_dialable() && self.bridge_obstacle(peer).is_none());
            let each = callable.filter_map(|peer| Some((peer.id, self.wanted_services(peer)?)));
            each.collect()
        })
    }

    /// What our fleet uses of a peer: what the peer is to know.
    #[must_use]
    pub fn wanted_services(&self, peer: &Peer) -> Option<BTreeSet<Name>> {
        let fleet = self.fleet()?;
        let to_peer = |bridge: &Name| {
            let bridge = fleet.bridges.get(bridge);
            bridge.is_some_and(|bridge| bridge.enabled && bridge.peer == peer.alias)
        };
        let all = fleet.subscriptions.values();
        Some(
            all.filter(|one| to_peer(&one.bridge))
                .map(|one| one.service.clone())
                .collect(),
        )
    }
}

/// Whether a subscription still has its peer, its offer and a grant to know of it. While the fleet isn't known, the offer has the
/// benefit of the doubt.
fn is_held(draft: &Draft<'_>, fleet: Option<&Fleet>, grants: &[&Grant], one: &Subscription) -> bool {
    let Some(peer) = draft.peer(&one.peer).filter(|peer| peer.status.is_live()) else {
        return false;
    };
    let now = draft.now();
    fleet.is_none_or(|fleet| offer_to(fleet, &peer.alias, &one.service).is_some())
        && grants
            .iter()
            .any(|grant| covers(grant, one.peer, &one.service, now))
}

fn told(subscription: &Subscription) -> SubscriptionEntry {
    SubscriptionEntry {
        service: subscription.service.clone(),
        subscribed_at: subscription.since,
    }
}
