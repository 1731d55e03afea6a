//! Our anchors as peers know them, theirs as we do, and how either moves on.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::json;

use super::children::signed_here;
use super::{ANCHOR_CHANGED, BeatError, Gateway};
use crate::federation::anchors::{OVERLAP, take};
use crate::federation::identity::Stranger;
use crate::federation::ledger::{Aborted, Happening, OwnTrust, Rotation};
use crate::federation::moment::Moment;
use crate::federation::peer::{Anchor, Peer, PeerId};
use crate::federation::pki::SiteCa;
use crate::federation::pki::authority::StoreError;
use crate::federation::token::Fingerprint;
use crate::federation::wire::{TrustBundle, TrustNews};

/// A rotation can't begin or end.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// One is under way.
    #[error("a rotation is under way since {0}: peers are being told of the next CA")]
    UnderWay(Moment),
    /// The CA can't be drawn or kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger can't be written.
    #[error(transparent)]
    Ledger(#[from] crate::federation::ledger::LedgerError),
}

/// How far a rotation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Rotating {
    /// How often our anchors have changed.
    pub trust_sequence: u64,
    /// The CA that is about to sign.
    pub next_ca_fingerprint: Option<Fingerprint>,
    /// Since when.
    pub since: Option<Moment>,
    /// From when on it signs, whoever hasn't heard of it.
    pub at_the_latest: Option<Moment>,
    /// The peers that haven't said yet that they know it.
    pub waits_for: Vec<String>,
    /// How many tokens are out that name the old CA: they are worthless once the new one signs.
    pub open_tokens: usize,
}

impl Gateway {
    /// How often our anchors have changed.
    #[must_use]
    pub fn trust_sequence(&self) -> u64 {
        self.ledger.read(|book| book.own_trust().sequence)
    }

    /// Our roots, for peers that refresh theirs.
    #[must_use]
    pub fn trust_bundle(&self, now: Moment) -> TrustBundle {
        let (sequence, ca_bundle_pem) = self.told();
        TrustBundle {
            ca_bundle_pem,
            generated_at: now,
            sequence,
            refresh_hint: 300,
        }
    }

    /// Our anchors and how often they have changed, of the same moment: who was told a later number with earlier anchors
    /// would never ask for the later ones.
    fn told(&self) -> (u64, String) {
        let _turn = self.turn();
        (self.trust_sequence(), self.ca.bundle_pem())
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.rotating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<PeerId, u64>> {
        self.informed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a peer has said that it knows our present anchors.
    pub(super) fn knows_us(&self, id: PeerId) -> bool {
        let own = self.trust_sequence();
        self.known().get(&id).is_some_and(|known| *known >= own)
    }

    /// A parent has signed for us and knows no anchor of ours: the first beat brings it, so that it can call us, too.
    pub(super) fn lacks_us(&self, id: PeerId) {
        self.known().entry(id).or_insert(0);
    }

    /// What goes with every beat and every answer: the anchors themselves only to who has said that it lacks them.
    #[must_use]
    pub fn tell_trust(&self, id: PeerId) -> TrustNews {
        let (own, bundle) = self.told();
        let theirs = self.ledger.read(|book| {
            let theirs = book.peer(&id).and_then(|peer| peer.trust.as_ref());
            theirs.map(|trust| trust.sequence)
        });
        let lacks = self.known().get(&id).is_some_and(|known| *known < own);
        TrustNews {
            trust_sequence: Some(own),
            known_trust_sequence: theirs,
            ca_bundle_pem: lacks.then_some(bundle),
        }
    }

    /// What came with a beat or an answer.
    pub(super) fn hear_trust(&self, id: PeerId, news: &TrustNews, wall: Moment) -> Result<(), BeatError> {
        if let Some(known) = news.known_trust_sequence {
            self.known().insert(id, known);
        }
        if let (Some(bundle), Some(sequence)) = (&news.ca_bundle_pem, news.trust_sequence) {
            match self.learn(id, bundle, sequence, wall) {
                // It lives all the same, by the anchors that it has.
                Err(BeatError::Anchors(error)) => {
                    tracing::warn!(peer = %id, error, "the peer's new anchors can't be taken over");
                }
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether another CA can be drawn as things stand.
    pub(super) fn may_rotate(&self) -> Result<(), RotateError> {
        let rotation = self.ledger.read(|book| book.own_trust().rotation.clone());
        rotation.map_or(Ok(()), |rotation| Err(RotateError::UnderWay(rotation.since)))
    }

    /// Draws the CA that shall sign next, and begins to tell peers of it.
    ///
    /// # Errors
    /// A rotation is under way, or the CA can't be kept.
    pub fn rotate(&self, wall: Moment) -> Result<Rotating, RotateError> {
        // One at a time: the files are written ahead of the ledger.
        let _turn = self.turn();
        self.may_rotate()?;
        let (next, secret) = SiteCa::generate(&self.site, wall).map_err(StoreError::Pki)?;
        if let Some(store) = &self.store {
            store.keep_next(self.ca.fingerprint(), &next, &secret)?;
        }
        let (fingerprint, current) = (next.fingerprint(), self.ca.fingerprint());
        let moved = self.move_trust(wall, "federation.pki.rotation_began", move |trust, now| {
            trust.sequence += 1;
            trust.signs = Some(current);
            trust.rotation = Some(Rotation {
                since: now,
                next: fingerprint,
            });
        });
        // What was committed is in force, even where its writer was told otherwise.
        let rotation = self.ledger.read(|book| book.own_trust().rotation.clone());
        if rotation.is_some_and(|rotation| rotation.next == fingerprint) {
            self.ca.announce(next);
        }
        moved?;
        Ok(self.rotation(wall))
    }

    /// How far a rotation is.
    #[must_use]
    pub fn rotation(&self, wall: Moment) -> Rotating {
        let informed = self.known().clone();
        self.ledger.read(|book| {
            let (trust, now) = (book.own_trust(), book.now(wall));
            let rotation = trust.rotation.as_ref();
            // Who is suspended goes on one day, by the anchors that it knows.
            let lacks = |peer: &&Arc<Peer>| {
                let is_due = peer.status.is_live() && peer.trust.is_some();
                is_due && informed.get(&peer.id).is_none_or(|known| *known < trust.sequence)
            };
            let waits_for = rotation.map(|_| {
                book.peers()
                    .filter(lacks)
                    .map(|peer| peer.alias.to_string())
                    .collect()
            });
            let is_open = |peer: &&Arc<Peer>| peer.offer.as_ref().is_some_and(|offer| now < offer.expires_at);
            Rotating {
                trust_sequence: trust.sequence,
                next_ca_fingerprint: rotation.map(|rotation| rotation.next),
                since: rotation.map(|rotation| rotation.since),
                at_the_latest: rotation.map(|rotation| rotation.since.after(OVERLAP)),
                waits_for: waits_for.unwrap_or_default(),
                open_tokens: book.peers().filter(is_open).count(),
            }
        })
    }

    /// Lets the next CA sign once every peer knows it and no token names the old one, or time is up; says whether it does
    /// now.
    ///
    /// # Errors
    /// The ledger or the files can't be written: the old CA signs on.
    pub fn promote(&self, wall: Moment) -> Result<bool, RotateError> {
        let _turn = self.turn();
        let rotation = self.rotation(wall);
        let (Some(next), Some(latest)) = (rotation.next_ca_fingerprint, rotation.at_the_latest) else {
            return Ok(false);
        };
        let is_late = self.ledger.read(|book| book.now(wall)) >= latest;
        let is_awaited = !rotation.waits_for.is_empty() || rotation.open_tokens > 0;
        if is_awaited && !is_late {
            return Ok(false);
        }
        if self.ca.next().map(|ca| ca.fingerprint()) != Some(next) {
            // Its files are gone: nobody could sign with it, at the next start either.
            self.move_trust(wall, "federation.pki.rotation_abandoned", |trust, _| {
                trust.sequence += 1;
                trust.rotation = None;
            })?;
            tracing::error!(ca = %next, "the next CA isn't there: the present one signs on");
            return Ok(false);
        }
        let moved = self.move_trust(wall, "federation.pki.rotated", move |trust, _| {
            trust.sequence += 1;
            trust.signs = Some(next);
            trust.rotation = None;
        });
        if self.ledger.read(|book| book.own_trust().signs) != Some(next) {
            return moved.map(|()| false).map_err(Into::into);
        }
        // The ledger has decided: what fails from here on is made up for at the next start.
        self.ca.promote();
        if let Some(store) = &self.store {
            store.promote()?;
        }
        Ok(true)
    }

    fn move_trust(
        &self,
        wall: Moment,
        kind: &str,
        change: impl FnOnce(&mut OwnTrust, Moment),
    ) -> Result<(), crate::federation::ledger::LedgerError> {
        let moved = self.ledger.transact(wall, |draft| {
            let mut trust = draft.own_trust().clone();
            change(&mut trust, draft.now());
            draft.note(Happening {
                kind: kind.to_owned(),
                severity: "high",
                peer: None,
                payload: json!(trust),
            });
            draft.put_own_trust(trust);
            Ok::<_, std::convert::Infallible>(())
        });
        match moved {
            Ok(()) => Ok(()),
            Err(Aborted::ByCaller(never)) => match never {},
            Err(Aborted::ByLedger(error)) => Err(error),
        }
    }

    /// Takes over what a peer says of its anchors, over a connection that its present ones have proved.
    ///
    /// # Errors
    /// It can't be taken over: the present anchors stay.
    pub fn learn(&self, id: PeerId, bundle: &str, sequence: u64, wall: Moment) -> Result<bool, BeatError> {
        let (is_news, now) = self.ledger.read(|book| {
            let trust = book.peer(&id).and_then(|peer| peer.trust.as_ref());
            (
                trust.is_some_and(|trust| trust.sequence < sequence),
                book.now(wall),
            )
        });
        // What is too much now is told again with the next beats: the peer hears which anchors we know.
        if !is_news || !self.quota.take(id, now) {
            return Ok(false);
        }
        let learned = self.ledger.transact(wall, |draft| {
            let found = draft.peer(&id).filter(|peer| peer.status.may_call());
            let mut peer = found.cloned().ok_or(Stranger::NotNow(id))?;
            let now = draft.now();
            let Some(trust) = &mut peer.trust else {
                return Err(Stranger::NotNow(id).into());
            };
            let before: Vec<Fingerprint> = trust.anchors.iter().map(|anchor| anchor.fingerprint).collect();
            let changed =
                take(trust, bundle, sequence, now).map_err(|error| BeatError::Anchors(error.to_string()))?;
            let ours: Vec<Fingerprint> = signed_here(draft.peers()).collect();
            let is_ours = |anchor: &Anchor| self.is_ours(anchor.fingerprint, ours.iter().copied());
            if trust.anchors.iter().any(is_ours) {
                return Err(BeatError::Anchors("one of them is ours".to_owned()));
            }
            if changed {
                let anchors: Vec<_> = trust
                    .anchors
                    .iter()
                    .map(|anchor| json!({ "fingerprint": anchor.fingerprint, "until": anchor.until }))
                    .collect();
                draft.note(Happening {
                    kind: ANCHOR_CHANGED.to_owned(),
                    severity: "high",
                    peer: Some(id),
                    payload: json!({ "previous": before, "anchors": anchors, "sequence": sequence }),
                });
            }
            draft
                .put_peer(peer)
                .map_err(|conflict| BeatError::Anchors(conflict.to_string()))?;
            Ok(changed)
        });
        learned.map_err(|aborted| match aborted {
            Aborted::ByCaller(error) => error,
            Aborted::ByLedger(error) => error.into(),
        })
    }
}
