//! What the ledger holds, in memory, and a draft of what a transaction changes in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::asked::{Pause, Pausing};
use super::audit::Head;
use crate::federation::approval::{Approval, ApprovalId};
use crate::federation::bridge::{BridgeId, BridgeRow};
use crate::federation::capability::{Capability, CapabilityId};
use crate::federation::grant::{Grant, GrantId};
use crate::federation::moment::Moment;
use crate::federation::operators::IssuedToken;
use crate::federation::peer::{Peer, PeerId, Status};
use crate::federation::subscription::Subscription;
use crate::federation::token::{Fingerprint, TokenDigest};

/// An answer to an acceptance, kept for a client whose connection broke before it arrived.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptAnswer {
    /// The token that was used.
    pub token: TokenDigest,
    /// The key of the client that used it.
    pub client: Fingerprint,
    /// What it was told.
    pub body: Value,
    /// Until when it is told again.
    pub until: Moment,
}

/// What we vouch with, as it moves on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnTrust {
    /// How often our anchors have changed.
    pub sequence: u64,
    /// The CA that signs; none where it never changed.
    pub signs: Option<Fingerprint>,
    /// The change that is under way.
    pub rotation: Option<Rotation>,
}

impl OwnTrust {
    const FIRST: Self = Self {
        sequence: 1,
        signs: None,
        rotation: None,
    };
}

/// A CA is about to take another's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Since when peers are told.
    pub since: Moment,
    /// Which.
    pub next: Fingerprint,
}

/// Something that happened, before it has its place in the chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    /// What, like `federation.peer.active`.
    pub kind: String,
    /// `low`, `medium`, `high`.
    pub severity: &'static str,
    /// To which peer.
    pub peer: Option<PeerId>,
    /// What else there is to say.
    pub payload: Value,
}

/// A peer's row.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) peer: Arc<Peer>,
    edition: u64,
}

/// Everything that is looked up while requests are answered.
#[derive(Clone, Debug, Default)]
pub struct Book {
    pub(super) peers: BTreeMap<PeerId, Held>,
    /// The edition of the row that was put in last.
    pub(super) editions: u64,
    /// Where each stands, in the same order: what is looked through several times a second lies close together.
    pub(super) standing: Arc<Vec<(PeerId, Status)>>,
    pub(super) offers: BTreeMap<TokenDigest, PeerId>,
    pub(super) enrolments: BTreeMap<TokenDigest, PeerId>,
    pub(super) answers: BTreeMap<TokenDigest, KeptAnswer>,
    pub(super) grants: BTreeMap<GrantId, Arc<Grant>>,
    pub(super) capabilities: BTreeMap<CapabilityId, Arc<Capability>>,
    pub(super) bridges: BTreeMap<(PeerId, BridgeId), Arc<BridgeRow>>,
    pub(super) subscriptions: BTreeMap<super::subscribed::Key, Arc<Subscription>>,
    pub(super) own_trust: Option<OwnTrust>,
    pub(super) operator_tokens: BTreeMap<Uuid, IssuedToken>,
    pub(super) approvals: BTreeMap<ApprovalId, Arc<Approval>>,
    pub(super) pause: Option<Pause>,
    /// Where the audit's chain ends.
    pub(super) head: Head,
    /// The latest time that was ever written: a clock that goes back wakes nothing that had expired.
    pub(super) latest: Option<Moment>,
    /// How often the ledger was restored, from 1.
    pub(super) epoch: u64,
}

impl Book {
    /// How often the ledger was restored, from 1.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Where the audit's chain ends.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.head
    }

    /// A peer.
    #[must_use]
    pub fn peer(&self, id: &PeerId) -> Option<&Arc<Peer>> {
        self.peers.get(id).map(|held| &held.peer)
    }

    /// All peers, oldest first.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.values().map(|held| &held.peer)
    }

    /// All peers, oldest first, each with the edition of its row: no other row, of whichever peer, has or had the same
    /// since the ledger was opened. The rows themselves aren't looked at.
    pub fn editions(&self) -> impl Iterator<Item = (PeerId, u64, &Arc<Peer>)> {
        self.peers
            .iter()
            .map(|(id, held)| (*id, held.edition, &held.peer))
    }

    /// Where each peer stands, by id.
    #[must_use]
    pub const fn standing(&self) -> &Arc<Vec<(PeerId, Status)>> {
        &self.standing
    }

    /// The peer whose open offer has this token.
    #[must_use]
    pub fn offered(&self, token: &TokenDigest) -> Option<&Arc<Peer>> {
        self.peer(self.offers.get(token)?)
    }

    /// The peer whose node may still ask for its certificate with this token.
    #[must_use]
    pub fn enrolling(&self, token: &TokenDigest) -> Option<&Arc<Peer>> {
        self.peer(self.enrolments.get(token)?)
    }

    /// The answer that was given for this token.
    #[must_use]
    pub fn answered(&self, token: &TokenDigest) -> Option<&KeptAnswer> {
        self.answers.get(token)
    }

    /// What we vouch with.
    #[must_use]
    pub const fn own_trust(&self) -> &OwnTrust {
        const FIRST: &OwnTrust = &OwnTrust::FIRST;
        match &self.own_trust {
            Some(trust) => trust,
            None => FIRST,
        }
    }

    /// A grant.
    #[must_use]
    pub fn grant(&self, id: &GrantId) -> Option<&Arc<Grant>> {
        self.grants.get(id)
    }

    /// All grants, oldest first.
    pub fn grants(&self) -> impl Iterator<Item = &Arc<Grant>> {
        self.grants.values()
    }

    /// What is agreed with a peer about kinds of resources, oldest first.
    pub fn capabilities_of(&self, peer: PeerId) -> impl Iterator<Item = &Arc<Capability>> {
        self.capabilities.values().filter(move |found| found.peer == peer)
    }

    /// What is known of a bridge with a peer.
    #[must_use]
    pub fn bridge(&self, peer: PeerId, id: BridgeId) -> Option<&Arc<BridgeRow>> {
        self.bridges.get(&(peer, id))
    }

    /// All bridges, by peer.
    pub fn bridges(&self) -> impl Iterator<Item = &Arc<BridgeRow>> {
        self.bridges.values()
    }

    /// The bridges with a peer.
    pub fn bridges_of(&self, peer: PeerId) -> impl Iterator<Item = &Arc<BridgeRow>> {
        let all = (peer, BridgeId(Uuid::nil()))..=(peer, BridgeId(Uuid::max()));
        self.bridges.range(all).map(|(_, row)| row)
    }

    /// An operator's token that was issued and isn't expired.
    #[must_use]
    pub fn operator_token(&self, jti: &Uuid) -> Option<&IssuedToken> {
        self.operator_tokens.get(jti)
    }

    /// All operators' tokens that were issued and aren't expired, oldest first.
    pub fn operator_tokens(&self) -> impl Iterator<Item = &IssuedToken> {
        self.operator_tokens.values()
    }

    /// How many offers can still be taken.
    #[must_use]
    pub fn open_offers(&self, wall: Moment) -> usize {
        let now = self.now(wall);
        let offers = self
            .offers
            .values()
            .filter_map(|id| self.peer(id)?.offer.as_ref());
        offers.filter(|offer| now < offer.expires_at).count()
    }

    /// Whether anyone is awaited who has no certificate that we know.
    #[must_use]
    pub fn has_offers(&self, wall: Moment) -> bool {
        let now = self.now(wall);
        let mut offers = self
            .offers
            .values()
            .filter_map(|id| self.peer(id)?.offer.as_ref());
        let mut enrolments = self
            .enrolments
            .values()
            .filter_map(|id| self.peer(id)?.enrolment.as_ref());
        offers.any(|offer| now < offer.expires_at) || enrolments.any(|enrolment| now < enrolment.expires_at)
    }

    /// The time by which things expire: never earlier than what was written last.
    #[must_use]
    pub fn now(&self, wall: Moment) -> Moment {
        self.latest.map_or(wall, |latest| latest.max(wall))
    }

    /// Says whether the peer might call before, and no longer may.
    pub(super) fn put_peer(&mut self, peer: Peer) -> bool {
        let stops = self.stand(peer.id, peer.status);
        if let Some(old) = self.peers.get(&peer.id).and_then(|old| old.peer.offer.as_ref()) {
            self.offers.remove(&old.digest);
        }
        if let Some(offer) = &peer.offer {
            self.offers.insert(offer.digest, peer.id);
        }
        if let Some(old) = self
            .peers
            .get(&peer.id)
            .and_then(|old| old.peer.enrolment.as_ref())
        {
            self.enrolments.remove(&old.digest);
        }
        if let Some(enrolment) = &peer.enrolment {
            self.enrolments.insert(enrolment.digest, peer.id);
        }
        self.editions += 1;
        let edition = self.editions;
        self.peers.insert(
            peer.id,
            Held {
                peer: Arc::new(peer),
                edition,
            },
        );
        stops
    }

    fn stand(&mut self, id: PeerId, status: Status) -> bool {
        match self.standing.binary_search_by_key(&id, |(id, _)| *id) {
            Ok(at) if self.standing[at].1 == status => false,
            Ok(at) => {
                let before = std::mem::replace(&mut Arc::make_mut(&mut self.standing)[at].1, status);
                before.may_call() && !status.may_call()
            }
            Err(at) => {
                Arc::make_mut(&mut self.standing).insert(at, (id, status));
                false
            }
        }
    }

    /// Takes over what was committed. Says whether a peer that might call no longer may.
    pub(super) fn absorb(&mut self, changes: Changes, head: Head, now: Moment) -> bool {
        self.head = head;
        let mut stops = false;
        for peer in changes.peers.into_values() {
            stops |= self.put_peer(peer);
        }
        if let Some(epoch) = changes.epoch {
            self.epoch = epoch;
        }
        if changes.void_answers {
            self.answers.clear();
        }
        for answer in changes.answers {
            self.answers.insert(answer.token, answer);
        }
        self.answers.retain(|_, answer| now < answer.until);
        if changes.own_trust.is_some() {
            self.own_trust = changes.own_trust;
        }
        for grant in changes.grants.into_values() {
            self.grants.insert(grant.id, Arc::new(grant));
        }
        for (id, capability) in changes.capabilities {
            match capability {
                Some(capability) => self.capabilities.insert(id, Arc::new(capability)),
                None => self.capabilities.remove(&id),
            };
        }
        for (key, row) in changes.bridges {
            match row {
                Some(row) => self.bridges.insert(key, Arc::new(row)),
                None => self.bridges.remove(&key),
            };
        }
        for (key, subscription) in changes.subscriptions {
            match subscription {
                Some(subscription) => self.subscriptions.insert(key, Arc::new(subscription)),
                None => self.subscriptions.remove(&key),
            };
        }
        self.operator_tokens.extend(changes.operator_tokens);
        self.operator_tokens.retain(|_, issued| now < issued.expires_at);
        match changes.pausing {
            Some(Pausing::Begins(pause)) => self.pause = Some(pause),
            Some(Pausing::Ends) => self.pause = None,
            None => {}
        }
        for (id, approval) in changes.approvals {
            match approval {
                Some(approval) => self.approvals.insert(id, Arc::new(approval)),
                None => self.approvals.remove(&id),
            };
        }
        self.latest = Some(changes.set_back.unwrap_or_else(|| self.now(now)));
        stops
    }
}

/// What a transaction changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) peers: BTreeMap<PeerId, Peer>,
    pub(super) answers: Vec<KeptAnswer>,
    pub(super) own_trust: Option<OwnTrust>,
    pub(super) grants: BTreeMap<GrantId, Grant>,
    /// None where it is removed.
    pub(super) capabilities: BTreeMap<CapabilityId, Option<Capability>>,
    /// None where it is removed.
    pub(super) bridges: BTreeMap<(PeerId, BridgeId), Option<BridgeRow>>,
    /// None where it is removed.
    pub(super) subscriptions: BTreeMap<super::subscribed::Key, Option<Subscription>>,
    pub(super) operator_tokens: BTreeMap<Uuid, IssuedToken>,
    /// None where it is forgotten.
    pub(super) approvals: BTreeMap<ApprovalId, Option<Approval>>,
    pub(super) pausing: Option<Pausing>,
    pub(super) happenings: Vec<Happening>,
    /// None of the answers that are kept is told again.
    pub(super) void_answers: bool,
    pub(super) epoch: Option<u64>,
    /// What the ledger's time is from here on, where an operator puts it back.
    pub(super) set_back: Option<Moment>,
}

/// Why a peer can't be written: another live one has what it claims.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Its URL.
    #[error("peer {0} has this URL already: revoke it first, or accept with it")]
    Url(String),
    /// Its alias.
    #[error("peer {0} is called so already")]
    Alias(String),
    /// Its site.
    #[error("peer {0} is this site already")]
    Site(String),
    /// Its anchor.
    #[error("peer {0} has this trust anchor already")]
    Anchor(String),
}

/// A book with a transaction's changes on top. Nothing is in force before it is committed.
pub struct Draft<'a> {
    pub(super) book: &'a Book,
    pub(super) changes: Changes,
    now: Moment,
}

impl<'a> Draft<'a> {
    pub(super) fn new(book: &'a Book, wall: Moment) -> Self {
        Self {
            book,
            changes: Changes::default(),
            now: book.now(wall),
        }
    }

    /// The time of this transaction.
    #[must_use]
    pub const fn now(&self) -> Moment {
        self.now
    }

    /// A peer, as it is after what was changed so far.
    #[must_use]
    pub fn peer(&self, id: &PeerId) -> Option<&Peer> {
        self.changes
            .peers
            .get(id)
            .or_else(|| self.book.peer(id).map(AsRef::as_ref))
    }

    /// All peers, as they are after what was changed so far.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        let ids: BTreeSet<&PeerId> = self.book.peers.keys().chain(self.changes.peers.keys()).collect();
        ids.into_iter().filter_map(|id| self.peer(id))
    }

    /// The peer whose open offer has this token.
    #[must_use]
    pub fn offered(&self, token: &TokenDigest) -> Option<&Peer> {
        let id = self.book.offers.get(token)?;
        self.peer(id)
            .filter(|peer| peer.offer.as_ref().is_some_and(|offer| offer.digest == *token))
    }

    /// The peer whose node may still ask for its certificate with this token.
    #[must_use]
    pub fn enrolling(&self, token: &TokenDigest) -> Option<&Peer> {
        let id = self.book.enrolments.get(token)?;
        self.peer(id).filter(|peer| {
            let enrolment = peer.enrolment.as_ref();
            enrolment.is_some_and(|enrolment| enrolment.digest == *token && self.now < enrolment.expires_at)
        })
    }

    /// The answer that was given for this token.
    #[must_use]
    pub fn answered(&self, token: &TokenDigest) -> Option<&KeptAnswer> {
        let kept = self.book.answered(token).filter(|_| !self.changes.void_answers);
        kept.filter(|answer| self.now < answer.until)
    }

    /// Writes a peer.
    ///
    /// # Errors
    /// Another live peer has its URL, alias, site or anchor.
    pub fn put_peer(&mut self, peer: Peer) -> Result<(), Conflict> {
        // What claims no more than it did needs no look at all the others.
        let claims_more = self
            .peer(&peer.id)
            .is_none_or(|before| !before.claims_as_much_as(&peer));
        if peer.status.is_live() && claims_more {
            self.check(&peer)?;
        }
        self.changes.peers.insert(peer.id, peer);
        Ok(())
    }

    fn check(&self, peer: &Peer) -> Result<(), Conflict> {
        let anchors: BTreeSet<Fingerprint> = fingerprints(peer);
        for other in self
            .peers()
            .filter(|other| other.id != peer.id && other.status.is_live())
        {
            let name = || other.alias.to_string();
            if other.url == peer.url {
                return Err(Conflict::Url(name()));
            }
            if other.alias == peer.alias {
                return Err(Conflict::Alias(name()));
            }
            let site = |peer: &Peer| peer.trust.as_ref().map(|trust| trust.site.clone());
            if site(peer).is_some() && site(other) == site(peer) {
                return Err(Conflict::Site(name()));
            }
            if !anchors.is_disjoint(&fingerprints(other)) {
                return Err(Conflict::Anchor(name()));
            }
        }
        Ok(())
    }

    /// What we vouch with, as it is after what was changed so far.
    #[must_use]
    pub fn own_trust(&self) -> &OwnTrust {
        self.changes
            .own_trust
            .as_ref()
            .unwrap_or_else(|| self.book.own_trust())
    }

    /// Writes what we vouch with.
    pub fn put_own_trust(&mut self, trust: OwnTrust) {
        self.changes.own_trust = Some(trust);
    }

    /// A grant, as it is after what was changed so far.
    #[must_use]
    pub fn grant(&self, id: &GrantId) -> Option<&Grant> {
        self.changes
            .grants
            .get(id)
            .or_else(|| self.book.grant(id).map(AsRef::as_ref))
    }

    /// All grants, as they are after what was changed so far.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        let ids: BTreeSet<&GrantId> = self
            .book
            .grants
            .keys()
            .chain(self.changes.grants.keys())
            .collect();
        ids.into_iter().filter_map(|id| self.grant(id))
    }

    /// Writes a grant.
    pub fn put_grant(&mut self, grant: Grant) {
        self.changes.grants.insert(grant.id, grant);
    }

    /// What is agreed with a peer about a kind of resources.
    #[must_use]
    pub fn capability(&self, id: &CapabilityId) -> Option<&Capability> {
        match self.changes.capabilities.get(id) {
            Some(changed) => changed.as_ref(),
            None => self.book.capabilities.get(id).map(AsRef::as_ref),
        }
    }

    /// Writes what is agreed with a peer about a kind of resources.
    pub fn put_capability(&mut self, capability: Capability) {
        self.changes.capabilities.insert(capability.id, Some(capability));
    }

    /// Removes what was agreed.
    pub fn remove_capability(&mut self, id: CapabilityId) {
        self.changes.capabilities.insert(id, None);
    }

    /// What is known of a bridge with a peer, as it is after what was changed so far.
    #[must_use]
    pub fn bridge(&self, peer: PeerId, id: BridgeId) -> Option<&BridgeRow> {
        match self.changes.bridges.get(&(peer, id)) {
            Some(changed) => changed.as_ref(),
            None => self.book.bridge(peer, id).map(AsRef::as_ref),
        }
    }

    /// All bridges, by peer, as they are after what was changed so far.
    pub fn bridges(&self) -> impl Iterator<Item = &BridgeRow> {
        let changed = self.changes.bridges.keys();
        let keys: BTreeSet<_> = self.book.bridges.keys().chain(changed).copied().collect();
        keys.into_iter().filter_map(|(peer, id)| self.bridge(peer, id))
    }

    /// Writes what is known of a bridge.
    pub fn put_bridge(&mut self, row: BridgeRow) {
        self.changes.bridges.insert((row.peer, row.id), Some(row));
    }

    /// Forgets a bridge.
    pub fn remove_bridge(&mut self, peer: PeerId, id: BridgeId) {
        self.changes.bridges.insert((peer, id), None);
    }

    /// An operator's token that was issued and isn't expired.
    #[must_use]
    pub fn operator_token(&self, jti: &Uuid) -> Option<&IssuedToken> {
        let changed = self.changes.operator_tokens.get(jti);
        changed.or_else(|| self.book.operator_token(jti))
    }

    /// All of them.
    pub(super) fn operator_tokens(&self) -> Vec<IssuedToken> {
        let changed = self.changes.operator_tokens.values();
        let kept = self.book.operator_tokens();
        let kept = kept.filter(|issued| !self.changes.operator_tokens.contains_key(&issued.jti));
        kept.chain(changed).cloned().collect()
    }

    /// Writes what is known of an operator's token.
    pub fn put_operator_token(&mut self, issued: IssuedToken) {
        self.changes.operator_tokens.insert(issued.jti, issued);
    }

    /// Keeps an answer to an acceptance.
    pub fn keep_answer(&mut self, answer: KeptAnswer) {
        self.changes.answers.push(answer);
    }

    /// Forgets the answers that are kept; says how many.
    pub(super) fn void_answers(&mut self) -> usize {
        self.changes.void_answers = true;
        self.book.answers.len()
    }

    /// Notes what happened, in the audit.
    pub fn note(&mut self, happening: Happening) {
        self.changes.happenings.push(happening);
    }
}

fn fingerprints(peer: &Peer) -> BTreeSet<Fingerprint> {
    let anchors = peer.trust.iter().flat_map(|trust| &trust.anchors);
    anchors
        .filter(|anchor| anchor.proven)
        .map(|anchor| anchor.fingerprint)
        .collect()
}
