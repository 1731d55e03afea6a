//! Where ledgers are, ours and the peers': what they show us, what we have them keep, and what follows from it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::json;

use super::{BeatError, Gateway};
use crate::federation::ledger::{Aborted, Book, Conflict, Draft, Happening, Head, LedgerError};
use crate::federation::moment::Moment;
use crate::federation::peer::{Peer, PeerId};
use crate::federation::witness::{Mark, Shown, Verdict, judge};

/// Why a peer is degraded whose ledger has gone back.
pub const REGRESSED: &str = "ledger_regressed";

/// What was shown since the ledger was last told.
#[derive(Debug, Default)]
pub(super) struct Heads {
    theirs: Mutex<BTreeMap<PeerId, Shown>>,
    ours: Mutex<BTreeMap<PeerId, (Mark, Moment)>>,
}

/// A peer has seen our audit up to here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Witness {
    /// Which.
    pub peer_id: PeerId,
    /// What we call it.
    pub alias: String,
    /// The last record that it has seen.
    pub sequence: i64,
    /// When it said so.
    pub at: Moment,
}

/// What the audit's verification came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Where the chain ends.
    pub head: Head,
    /// Who has seen it, since this gateway started.
    pub witnessed: Vec<Witness>,
    /// Who has seen something else.
    pub contradicted: Vec<Witness>,
}

impl Gateway {
    fn theirs(&self) -> MutexGuard<'_, BTreeMap<PeerId, Shown>> {
        self.heads.theirs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ours(&self) -> MutexGuard<'_, BTreeMap<PeerId, (Mark, Moment)>> {
        self.heads.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where our ledger is.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.ledger.read(|book| Mark {
            epoch: Book::epoch(book),
            head: book.head(),
        })
    }

    /// What a peer has shown last: it is told that we keep it.
    #[must_use]
    pub fn seen_of(&self, id: PeerId) -> Option<Mark> {
        let kept = self.theirs().get(&id).copied();
        let kept = kept.or_else(|| self.ledger.read(|book| book.peer(&id)?.shown));
        kept.map(|shown| shown.mark())
    }

    fn shown_before(&self, peer: &Peer) -> Option<Shown> {
        self.theirs().get(&peer.id).copied().or(peer.shown)
    }

    /// Whether what a peer shows of its ledger goes into ours at once.
    pub(super) fn is_head_news(&self, peer: &Peer, shown: Option<Mark>, now: Moment) -> bool {
        let verdict = shown.map(|mark| judge(self.shown_before(peer).as_ref(), mark, now));
        match verdict {
            None | Some(Verdict::Forward | Verdict::Stray) => false,
            Some(Verdict::Restored | Verdict::Regressed) => true,
        }
    }

    /// Judges what a peer shows of its ledger, and takes over what it has seen of ours.
    pub(super) fn hear_heads(
        &self,
        peer: &Peer,
        shown: Option<Mark>,
        witnessed: Option<&str>,
        wall: Moment,
    ) -> Result<(), BeatError> {
        let now = self.ledger.read(|book| book.now(wall));
        if let Some(mark) = witnessed.and_then(|text| text.parse::<Mark>().ok()) {
            let ours = self.mark();
            if mark.epoch == ours.epoch {
                let is_ahead = |mark: &Mark| mark.head.sequence > ours.head.sequence;
                let before = self.ours().insert(peer.id, (mark, now));
                // Once, however often it says so; and no more often than it may have news, if it says something else between.
                let is_news = is_ahead(&mark) && !before.is_some_and(|(before, _)| is_ahead(&before));
                if is_news && self.quota.take(peer.id, now) {
                    tracing::error!(peer = %peer.id, seen = mark.head.sequence, ours = ours.head.sequence, "a peer has seen more of our audit than there is: records are gone, `sdwand audit verify`");
                }
            }
        }
        let Some(mark) = shown else { return Ok(()) };
        let before = self.shown_before(peer);
        match judge(before.as_ref(), mark, now) {
            Verdict::Forward => {}
            Verdict::Stray => {
                if let Some(mut before) = before {
                    before.backward = before.backward.saturating_add(1);
                    self.theirs().insert(peer.id, before);
                }
                return Ok(());
            }
            // What is too much now is told again with the next beats.
            Verdict::Restored if !self.quota.take(peer.id, now) => return Ok(()),
            Verdict::Restored => self.restored(peer.id, before, mark, wall)?,
            Verdict::Regressed if peer.regressed.is_some() => return Ok(()),
            Verdict::Regressed => return self.regressed(peer.id, before, mark, wall),
        }
        let noted = before.and_then(|before| before.noted);
        self.theirs().insert(
            peer.id,
            Shown {
                epoch: mark.epoch,
                head: mark.head,
                at: now,
                noted,
                backward: 0,
            },
        );
        Ok(())
    }

    fn restored(&self, id: PeerId, before: Option<Shown>, mark: Mark, wall: Moment) -> Result<(), BeatError> {
        self.note(wall, id, |draft, peer| {
            peer.regressed = None;
            draft.note(Happening {
                kind: "federation.peer.restored".to_owned(),
                severity: "medium",
                peer: Some(id),
                payload: json!({ "previous": before.map(|before| before.mark().to_string()), "shown": mark.to_string() }),
            });
        })
    }

    fn regressed(
        &self,
        id: PeerId,
        before: Option<Shown>,
        mark: Mark,
        wall: Moment,
    ) -> Result<(), BeatError> {
        self.note(wall, id, |draft, peer| {
            peer.regressed = Some(draft.now());
            draft.note(Happening {
                kind: "federation.peer.ledger_regressed".to_owned(),
                severity: "high",
                peer: Some(id),
                payload: json!({ "previous": before.map(|before| before.mark().to_string()), "shown": mark.to_string() }),
            });
        })?;
        self.degrade(id, REGRESSED, wall)?;
        Ok(())
    }

    fn note(
        &self,
        wall: Moment,
        id: PeerId,
        change: impl FnOnce(&mut Draft<'_>, &mut Peer),
    ) -> Result<(), BeatError> {
        let noted = self.ledger.transact(wall, |draft| {
            if let Some(mut peer) = draft.peer(&id).cloned() {
                change(draft, &mut peer);
                draft.put_peer(peer)?;
            }
            Ok::<_, Conflict>(())
        });
        match noted {
            Err(Aborted::ByLedger(error)) => Err(error.into()),
            Ok(()) | Err(Aborted::ByCaller(_)) => Ok(()),
        }
    }

    /// What peers have shown goes into a draft, and now and then into our own chain: so it vouches for theirs.
    pub(super) fn flush_heads(&self, draft: &mut Draft<'_>) -> Result<(), Conflict> {
        let now = draft.now();
        let shown: Vec<(PeerId, Shown)> = self.theirs().iter().map(|(id, shown)| (*id, *shown)).collect();
        for (id, mut shown) in shown {
            let found = draft.peer(&id).filter(|peer| peer.status.may_call());
            let Some(mut peer) = found.cloned() else { continue };
            if peer.shown == Some(shown) {
                continue;
            }
            let is_news = peer.shown.map(|kept| kept.mark()) != Some(shown.mark());
            if shown.is_due(now) && is_news {
                shown.noted = Some(now);
                draft.note(Happening {
                    kind: "federation.peer.audit_head".to_owned(),
                    severity: "low",
                    peer: Some(id),
                    payload: json!({ "shown": shown.mark().to_string(), "at": shown.at }),
                });
            }
            peer.shown = Some(shown);
            draft.put_peer(peer)?;
        }
        Ok(())
    }

    /// What was told to the ledger needs no place in memory.
    pub(super) fn forget_heads(&self) {
        self.ledger.read(|book| {
            self.theirs().retain(|id, shown| {
                let kept = book.peer(id).and_then(|peer| peer.shown);
                book.peer(id).is_some_and(|peer| peer.status.may_call())
                    && kept.is_none_or(|kept| kept.at < shown.at || kept.backward != shown.backward)
            });
        });
    }

    /// A peer begins anew: what it showed before doesn't count any more.
    pub(super) fn forget_head(&self, id: PeerId) {
        self.theirs().remove(&id);
    }

    /// Whether anything was shown since the ledger was last told.
    pub(super) fn has_heads(&self) -> bool {
        !self.theirs().is_empty()
    }

    /// Recomputes the whole chain of our audit, and compares it with what peers have seen of it.
    ///
    /// # Errors
    /// It can't be read, or it isn't consistent with itself.
    pub fn verify_audit(&self) -> Result<Verified, LedgerError> {
        let head = self.ledger.audit_verify()?;
        let epoch = self.ledger.read(Book::epoch);
        let seen: Vec<(PeerId, (Mark, Moment))> = self.ours().iter().map(|(id, seen)| (*id, *seen)).collect();
        let mut verified = Verified {
            head,
            witnessed: Vec::new(),
            contradicted: Vec::new(),
        };
        for (id, (mark, at)) in seen.into_iter().filter(|(_, (mark, _))| mark.epoch == epoch) {
            // Who is stopped is no witness, for us or against us.
            let alias = self.ledger.read(|book| {
                let peer = book.peer(&id).filter(|peer| peer.status.may_call());
                peer.map(|peer| peer.alias.to_string())
            });
            if alias.is_none() {
                continue;
            }
            let witness = Witness {
                peer_id: id,
                alias: alias.unwrap_or_default(),
                sequence: mark.head.sequence,
                at,
            };
            // Written since the chain was read: it is there, or it isn't.
            if self.ledger.audit_hash(mark.head.sequence)? == Some(mark.head.hash) {
                verified.witnessed.push(witness);
            } else {
                verified.contradicted.push(witness);
            }
        }
        Ok(verified)
    }
}
