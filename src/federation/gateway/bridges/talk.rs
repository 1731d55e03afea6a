//! What goes between two sites about a bridge: `PUT` and `DELETE bridges/{id}`, their answers, and the marks that go with
//! beats, so that what was lost is noticed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::{Random, happening};
use crate::federation::bridge::{BridgeId, BridgeRow, Change, Half, HalfError, State, Taken};
use crate::federation::gateway::Gateway;
use crate::federation::identity::Stranger;
use crate::federation::ledger::{Aborted, Book, Draft, LedgerError};
use crate::federation::moment::Moment;
use crate::federation::peer::{Peer, PeerId};
use crate::federation::wire::{BridgeAnswer, BridgeMark};

/// How many bridges a peer may offer that our fleet hasn't.
const MAX_OFFERED: usize = 64;
/// How many bridges are told of with a beat; with more of them, none are.
const MAX_MARKS: usize = 256;

/// What a peer says of a bridge isn't taken.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// Nobody whom we know.
    #[error(transparent)]
    Stranger(#[from] Stranger),
    /// The half isn't sound.
    #[error(transparent)]
    Half(#[from] HalfError),
    /// The id isn't this bridge's.
    #[error("the id isn't that of a bridge between these two networks of our sites")]
    Id,
    /// Something later was seen already, or something else under the same number.
    #[error("sequence: {0} was seen already")]
    Sequence(u64),
    /// It offers too much.
    #[error("at most {MAX_OFFERED} bridges may be offered that this site's fleet hasn't")]
    Offers,
    /// It has had too much written of late.
    #[error("too much news in a minute: say it again later")]
    TooMuch,
    /// The ledger can't be written.
    #[error(transparent)]
    Ledger(LedgerError),
}

impl From<Aborted<Self>> for BridgeError {
    fn from(aborted: Aborted<Self>) -> Self {
        match aborted {
            Aborted::ByCaller(error) => error,
            Aborted::ByLedger(error) => Self::Ledger(error),
        }
    }
}

/// A peer to be called about a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueCall {
    /// Whom.
    pub peer: PeerId,
    /// About which.
    pub id: BridgeId,
    /// Our latest number.
    pub said: u64,
    /// Whether it is only to be found out where the names of its endpoints lead.
    pub is_to_resolve: bool,
}

impl Gateway {
    /// Takes a peer's half of a bridge; what it is answered has ours, if our fleet has this bridge.
    ///
    /// # Errors
    /// It is nobody's, isn't sound, is late, or the ledger can't be written.
    pub fn bridge_told(
        &self,
        chain: &[CertificateDer<'_>],
        id: BridgeId,
        half: Half,
        random: Random,
        wall: Moment,
    ) -> Result<BridgeAnswer, BridgeError> {
        let peer = self.identify(chain, wall)?;
        let half = half.checked()?;
        // Their network is our remote one.
        if self.bridge_id(&peer, &half.remote_network, &half.network) != Some(id) {
            return Err(BridgeError::Id);
        }
        let known = self.ledger.read(|book| book.bridge(peer.id, id).cloned());
        let is_known = known.is_some_and(|row| row.theirs.as_ref().is_some_and(|theirs| theirs.half == half));
        if !is_known {
            let now = self.ledger.read(|book| book.now(wall));
            if !self.quota.take(peer.id, now) {
                return Err(BridgeError::TooMuch);
            }
            self.ledger
                .transact(wall, |draft| self.take_in(draft, peer.id, id, half, random))?;
            self.bridges_changed();
        }
        Ok(self.ledger.read(|book| self.bridge_answer(book, &peer, id)))
    }

    fn take_in(
        &self,
        draft: &mut Draft<'_>,
        peer: PeerId,
        id: BridgeId,
        half: Half,
        random: Random,
    ) -> Result<(), BridgeError> {
        still_calls(draft, peer)?;
        let mut row = draft
            .bridge(peer, id)
            .cloned()
            .unwrap_or_else(|| BridgeRow::new(peer, id));
        let offered = draft
            .bridges()
            .filter(|row| row.peer == peer && row.is_offered())
            .count();
        let fleet = self.fleet();
        let is_wanted = fleet.is_some_and(|fleet| {
            let wanted = self.negotiated(&fleet).into_iter();
            wanted
                .filter(|bridge| {
                    bridge.network == half.remote_network && bridge.remote_network == half.network
                })
                .any(|bridge| draft.peer(&peer).is_some_and(|peer| peer.alias == bridge.peer))
        });
        if !is_wanted && !row.is_offered() && offered >= MAX_OFFERED {
            return Err(BridgeError::Offers);
        }
        let seen = row.seen;
        let now = draft.now();
        match row.take(half, now, |addresses| self.may_call(addresses)) {
            Taken::Late => return Err(BridgeError::Sequence(seen)),
            Taken::Unchanged => {}
            Taken::News => {
                note_said(draft, &row);
                draft.put_bridge(row);
                self.settle_in(draft, Some(peer), Some(random));
            }
        }
        Ok(())
    }

    /// Takes that a peer doesn't want a bridge any more.
    ///
    /// # Errors
    /// It is nobody's, is late, or the ledger can't be written.
    pub fn bridge_withdrawn(
        &self,
        chain: &[CertificateDer<'_>],
        id: BridgeId,
        sequence: u64,
        wall: Moment,
    ) -> Result<BridgeAnswer, BridgeError> {
        let peer = self.identify(chain, wall)?;
        let known = self.ledger.read(|book| book.bridge(peer.id, id).cloned());
        if let Some(mut row) = known.map(|row| (*row).clone()) {
            match row.withdraw(sequence) {
                Taken::Late => return Err(BridgeError::Sequence(row.seen)),
                Taken::Unchanged => {}
                Taken::News => {
                    let now = self.ledger.read(|book| book.now(wall));
                    if !self.quota.take(peer.id, now) {
                        return Err(BridgeError::TooMuch);
                    }
                    self.ledger.transact(wall, |draft| {
                        still_calls(draft, peer.id)?;
                        if let Some(mut row) = draft.bridge(peer.id, id).cloned() {
                            if row.withdraw(sequence) == Taken::Late {
                                return Err(BridgeError::Sequence(row.seen));
                            }
                            draft.put_bridge(row);
                            // A new row, if the fleet still wants it, is the driver's to begin.
                            self.settle_peer_in(draft, peer.id);
                        }
                        Ok(())
                    })?;
                    self.bridges_changed();
                }
            }
        }
        Ok(self.ledger.read(|book| self.bridge_answer(book, &peer, id)))
    }

    fn bridge_answer(&self, book: &Book, peer: &Peer, id: BridgeId) -> BridgeAnswer {
        let row = book.bridge(peer.id, id);
        let live = row.and_then(|row| row.live());
        let state = match live {
            Some(ours) => ours.state.as_str(),
            None if row.is_some_and(|row| row.is_offered()) => "offered",
            None => "revoked",
        };
        let tells = self.bridge_obstacle(peer).is_none();
        BridgeAnswer {
            id,
            state: state.to_owned(),
            half: live.filter(|_| tells).and_then(|ours| ours.half.clone()),
        }
    }

    /// The bridges of which a peer is told with a beat; none while the fleet isn't known, or there are too many.
    #[must_use]
    pub fn tell_bridges(&self, id: PeerId) -> Option<Vec<BridgeMark>> {
        self.fleet()?;
        self.ledger.read(|book| {
            let peer = book.peer(&id)?;
            if self.bridge_obstacle(peer).is_some() {
                return Some(Vec::new());
            }
            let halves = book.bridges_of(id).filter_map(|row| {
                row.live()
                    .and_then(|ours| ours.half.as_ref())
                    .map(|half| (row.id, half))
            });
            let marks: Vec<BridgeMark> = halves
                .map(|(id, half)| BridgeMark {
                    id,
                    sequence: half.sequence,
                })
                .collect();
            (marks.len() <= MAX_MARKS).then_some(marks)
        })
    }

    /// What a peer has said with a beat, or in the answer to one.
    pub(in crate::federation) fn hear_bridges(&self, id: PeerId, marks: Option<&[BridgeMark]>) {
        let Some(marks) = marks.filter(|marks| marks.len() <= MAX_MARKS) else {
            return;
        };
        let said: BTreeMap<BridgeId, u64> = marks.iter().map(|mark| (mark.id, mark.sequence)).collect();
        let is_behind = |said: &BTreeMap<BridgeId, u64>| {
            self.ledger.read(|book| {
                let mut rows = book.bridges_of(id);
                rows.any(|row| said.get(&row.id).copied() != number_of(row))
            })
        };
        // Nearly all say what is known, and wake nobody.
        let wakes = is_behind(&said);
        self.bridging.marks().insert(id, said);
        if wakes {
            self.bridges_changed();
        }
    }

    /// Who is to be called about which bridge: who can be called, and hasn't our latest word, or has said that it has
    /// another one than we know.
    #[must_use]
    pub fn bridge_calls(&self) -> Vec<DueCall> {
        let marks = self.bridging.marks();
        let call = |row: &BridgeRow, is_to_resolve| DueCall {
            peer: row.peer,
            id: row.id,
            said: row.said,
            is_to_resolve,
        };
        self.ledger.read(|book| {
            let due = book.bridges().filter_map(|row| {
                let peer = book.peer(&row.peer)?;
                if self.bridge_obstacle(peer).is_some() {
                    return None;
                }
                // A peer that has said nothing with a beat yet may have whatever it has.
                let is_behind = marks
                    .get(&row.peer)
                    .is_some_and(|said| said.get(&row.id).copied() != number_of(row));
                let is_unresolved = row.theirs.as_ref().is_some_and(|theirs| theirs.unresolved);
                if peer.declared.is_dialable() && is_due(row, is_behind) {
                    Some(call(row, false))
                } else if is_unresolved && row.live().is_some() {
                    Some(call(row, true))
                } else {
                    None
                }
            });
            due.collect()
        })
    }

    /// A row as it is, for a call.
    pub(in crate::federation) fn bridge_row(&self, peer: PeerId, id: BridgeId) -> Option<Arc<BridgeRow>> {
        self.ledger.read(|book| book.bridge(peer, id).cloned())
    }

    /// Takes what a peer answered to our word `sent`; `seen` is what we had seen of it when we called.
    ///
    /// # Errors
    /// The answer isn't sound, or the ledger can't be written.
    pub(in crate::federation) fn bridge_answered(
        &self,
        (peer, id): (PeerId, BridgeId),
        (sent, seen): (u64, u64),
        half: Option<Half>,
        random: Random,
        wall: Moment,
    ) -> Result<(), BridgeError> {
        let known = self.ledger.read(|book| book.peer(&peer).cloned());
        let known = known.ok_or(Stranger::NotNow(peer))?;
        let half = half.map(Half::checked).transpose()?;
        if let Some(half) = &half
            && self.bridge_id(&known, &half.remote_network, &half.network) != Some(id)
        {
            return Err(BridgeError::Id);
        }
        // What it has answered stands for what it would say with a beat.
        if let Some(marks) = self.bridging.marks().get_mut(&peer) {
            match &half {
                Some(half) => marks.insert(id, half.sequence),
                None => marks.remove(&id),
            };
        }
        let now = self.ledger.read(|book| book.now(wall));
        let take = |row: &mut BridgeRow, half: Option<Half>| {
            row.acknowledged = row.acknowledged.max(sent);
            match half {
                Some(half) => drop(row.take(half, now, |addresses| self.may_call(addresses))),
                // It hasn't said anything later meanwhile.
                None if row.seen == seen => row.theirs = None,
                None => {}
            }
        };
        let row = self.bridge_row(peer, id);
        let (is_news, says_more) = row.map_or((false, false), |row| {
            let mut after = (*row).clone();
            take(&mut after, half.clone());
            (after != *row, after.theirs != row.theirs)
        });
        if !is_news {
            return Ok(());
        }
        if says_more && !self.quota.take(peer, now) {
            return Err(BridgeError::TooMuch);
        }
        self.ledger.transact(wall, |draft| {
            still_calls(draft, peer)?;
            if let Some(mut row) = draft.bridge(peer, id).cloned() {
                take(&mut row, half);
                if says_more {
                    note_said(draft, &row);
                }
                draft.put_bridge(row);
                self.settle_in(draft, Some(peer), Some(random));
            }
            Ok::<_, BridgeError>(())
        })?;
        self.bridges_changed();
        Ok(())
    }

    /// A peer has seen a later number of ours than we know: the next one is later still.
    ///
    /// # Errors
    /// The ledger can't be written.
    pub(in crate::federation) fn bridge_overtaken(
        &self,
        peer: PeerId,
        id: BridgeId,
        wall: Moment,
    ) -> Result<(), BridgeError> {
        self.change_bridge(peer, id, wall, BridgeRow::renumber)
    }

    /// Notes where names of a half lead; those that aren't among them are looked for again, and lead where they last led. What
    /// is known already isn't written.
    ///
    /// # Errors
    /// The ledger can't be written.
    pub(in crate::federation) fn bridge_resolved(
        &self,
        (peer, id): (PeerId, BridgeId),
        of: &Half,
        found: &BTreeMap<String, Vec<SocketAddr>>,
        wall: Moment,
    ) -> Result<(), BridgeError> {
        let resolve = |row: &mut BridgeRow| {
            if let Some(theirs) = row.theirs.as_mut().filter(|theirs| theirs.half == *of) {
                theirs.resolved.extend(found.clone());
                theirs.endpoints = self.may_call(&theirs.addresses());
                let is_missing = theirs.names().any(|name| !found.contains_key(name));
                theirs.unresolved = is_missing;
            }
        };
        let is_news = self.bridge_row(peer, id).is_some_and(|row| {
            let mut after = (*row).clone();
            resolve(&mut after);
            after != *row
        });
        if is_news {
            self.change_bridge(peer, id, wall, |row, _| resolve(row))?;
        }
        Ok(())
    }

    fn change_bridge(
        &self,
        peer: PeerId,
        id: BridgeId,
        wall: Moment,
        change: impl FnOnce(&mut BridgeRow, Moment),
    ) -> Result<(), BridgeError> {
        self.ledger.transact(wall, |draft| {
            if let Some(mut row) = draft.bridge(peer, id).cloned() {
                change(&mut row, draft.now());
                draft.put_bridge(row);
            }
            Ok::<_, BridgeError>(())
        })?;
        self.bridges_changed();
        Ok(())
    }
}

/// The number of the peer's half, as far as we know.
fn number_of(row: &BridgeRow) -> Option<u64> {
    row.theirs.as_ref().map(|theirs| theirs.half.sequence)
}

/// `is_behind` says that the peer has another half than we know.
fn is_due(row: &BridgeRow, is_behind: bool) -> bool {
    if row.live().is_none() {
        // What is over is said once; what was only offered isn't ours to speak of.
        return row.ours.is_some() && row.acknowledged < row.said;
    }
    row.acknowledged < row.said || is_behind
}

/// Another word of the peer's about a bridge that is agreed, for the audit; what moves the bridge is noted with that.
fn note_said(draft: &mut Draft<'_>, row: &BridgeRow) {
    let agreed = row.live().filter(|ours| ours.state == State::Active);
    if let Some(ours) = agreed.filter(|_| row.theirs.is_some()) {
        draft.note(happening(row, &Change::Amended(Box::new(ours.clone()))));
    }
}

/// The peer may have been stopped since it was known.
fn still_calls(draft: &Draft<'_>, peer: PeerId) -> Result<(), Stranger> {
    let may = draft.peer(&peer).is_some_and(|peer| peer.status.may_call());
    may.then_some(()).ok_or(Stranger::NotNow(peer))
}
