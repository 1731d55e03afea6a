//! What an operator does to peers.

use std::time::Duration;

use super::pause::may_begin;
use super::{Gateway, Order, Paused, note_status};
use crate::federation::ledger::{Aborted, Conflict, Draft, Happening, LedgerError};
use crate::federation::moment::Moment;
use crate::federation::peer::{Event, Offer, Peer, PeerId, SpawnMode, SpawnRole, Status, TransitionError};
use crate::federation::token::{AcceptanceToken, DEFAULT_TTL_SECONDS, Fingerprint, TokenDigest};
use crate::federation::url::PeerUrl;
use crate::federation::wire::{Said, TooLong};
use crate::model::Name;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The longest that a token may live: a year.
const MAX_TTL_SECONDS: u64 = 365 * 86_400;

/// A new peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Where its API is.
    pub url: PeerUrl,
    /// What it shall be called; else after its host.
    pub alias: Option<Name>,
    /// What it is to us.
    pub role: SpawnRole,
    /// How it came about.
    pub mode: SpawnMode,
    /// How long the token lives, in seconds; none or 0 is 7 days.
    pub token_ttl_seconds: Option<u64>,
    /// Whose CA alone may answer.
    pub expect_ca: Option<Fingerprint>,
}

/// What came of a proposal.
#[derive(Clone, Debug)]
pub struct Proposed {
    /// The peer.
    pub peer: Peer,
    /// Its token: shown once.
    pub token: AcceptanceToken,
}

/// An operator is refused.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No such peer.
    #[error("there is no peer {0}")]
    Unknown(PeerId),
    /// It can't happen to the peer as it stands.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// Another live peer has what this one claims.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// There is nothing yet that both operators could compare.
    #[error("peer {0} has no words to compare: no trust was exchanged with it yet")]
    NoWords(PeerId),
    /// It is revoked: nothing of it changes any more.
    #[error("peer {0} is revoked: nothing of it changes any more")]
    Ended(PeerId),
    /// Something is too long.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// Nothing new is begun.
    #[error(transparent)]
    Paused(#[from] Paused),
    /// Its host makes no alias.
    #[error("give this peer an alias: its host makes none")]
    Alias,
    /// The ledger can't be written.
    #[error("the ledger can't be written")]
    Ledger(#[source] LedgerError),
}

impl<E: Into<Self>> From<Aborted<E>> for OperatorError {
    fn from(aborted: Aborted<E>) -> Self {
        match aborted {
            Aborted::ByCaller(error) => error.into(),
            Aborted::ByLedger(error) => Self::Ledger(error),
        }
    }
}

impl Gateway {
    /// Writes a new peer and draws its token. Nobody is contacted.
    ///
    /// # Errors
    /// Another live peer has this URL or alias, or the ledger can't be written.
    pub fn propose(
        &self,
        proposal: &Proposal,
        secret: [u8; 32],
        id_random: [u8; 10],
        order: impl Into<Order>,
    ) -> Result<Proposed, OperatorError> {
        let Order { wall, by } = order.into();
        let token = AcceptanceToken::new(secret, self.ca.fingerprint());
        let id = PeerId(wall.uuid(id_random));
        let peer = self
            .ledger
            .transact(wall, |draft| propose_in(draft, proposal, id, token.digest(), &by))?;
        Ok(Proposed { peer, token })
    }

    /// Draws another token for a peer that is still proposed; the old one is dead.
    ///
    /// # Errors
    /// No such peer, it is no longer proposed, or the ledger can't be written.
    pub fn rotate_token(
        &self,
        id: PeerId,
        ttl: Option<u64>,
        secret: [u8; 32],
        order: impl Into<Order>,
    ) -> Result<Proposed, OperatorError> {
        let Order { wall, by } = order.into();
        let token = AcceptanceToken::new(secret, self.ca.fingerprint());
        let peer = self
            .ledger
            .transact(wall, |draft| rotate_token_in(draft, id, ttl, token.digest(), &by))?;
        Ok(Proposed { peer, token })
    }

    /// Stops a peer for the time being: its certificates are good for nothing from now on.
    ///
    /// # Errors
    /// No such peer, it can't be suspended as it stands, or the ledger can't be written.
    pub fn suspend(&self, id: PeerId, reason: &str, order: impl Into<Order>) -> Result<Peer, OperatorError> {
        self.move_on(id, order.into(), |peer, now| {
            Ok(peer.happen(Event::Suspend, Some(reason), now)?)
        })
    }

    /// Lets a suspended peer go on: enrolled at once where the trust that was exchanged is still good.
    ///
    /// # Errors
    /// No such peer, it isn't suspended, or the ledger can't be written.
    pub fn resume(&self, id: PeerId, order: impl Into<Order>) -> Result<Peer, OperatorError> {
        self.forget_head(id);
        self.move_on(id, order.into(), |peer, now| {
            peer.happen(Event::Resume, None, now)?;
            // What it showed before its operators talked doesn't count any more.
            (peer.shown, peer.regressed) = (None, None);
            let is_good = peer
                .trust
                .as_ref()
                .is_some_and(|trust| trust.callers_at(now).next().is_some());
            if is_good {
                peer.happen(Event::Enroll, None, now)?;
            } else {
                peer.reason = Some("no trust was exchanged: revoke it and propose anew".to_owned());
            }
            Ok(())
        })
    }

    /// Ends a peer. The row stays, as history.
    ///
    /// # Errors
    /// No such peer, it is ended already, or the ledger can't be written.
    pub fn revoke(&self, id: PeerId, reason: &str, order: impl Into<Order>) -> Result<Peer, OperatorError> {
        let peer = self.move_on(id, order.into(), |peer, now| {
            Ok(peer.happen(Event::Revoke, Some(reason), now)?)
        })?;
        self.retire(id);
        Ok(peer)
    }

    /// Notes where a peer's data resides, as our operator knows it; what the peer itself says later counts again.
    ///
    /// # Errors
    /// No such peer, it is too long, or the ledger can't be written.
    pub fn declare_residency(
        &self,
        id: PeerId,
        residency: &str,
        order: impl Into<Order>,
    ) -> Result<Peer, OperatorError> {
        let said = Said {
            data_residency: Some(residency.to_owned()),
            ..Said::default()
        };
        said.check()?;
        let Order { wall, by } = order.into();
        self.amend(id, wall, |draft, peer| {
            let previous = peer.declared.data_residency.clone();
            let is_news = said.update(&mut peer.declared);
            if is_news {
                draft.note(Happening {
                    kind: "federation.peer.data_residency_changed".to_owned(),
                    severity: "medium",
                    peer: Some(id),
                    payload: json!({ "previous": previous, "new": residency, "declared_by": "operator", "by": by }),
                });
            }
            is_news
        })
    }

    /// A peer has moved: it is called there from now on.
    ///
    /// # Errors
    /// No such peer, another one is there, or the ledger can't be written.
    pub fn relocate(
        &self,
        id: PeerId,
        url: &PeerUrl,
        order: impl Into<Order>,
    ) -> Result<Peer, OperatorError> {
        let Order { wall, by } = order.into();
        self.amend(id, wall, |draft, peer| {
            let previous = std::mem::replace(&mut peer.url, url.to_string());
            let is_news = previous != peer.url;
            if is_news {
                draft.note(Happening {
                    kind: "federation.peer.moved".to_owned(),
                    severity: "medium",
                    peer: Some(id),
                    payload: json!({ "previous": previous, "new": peer.url, "by": by }),
                });
            }
            is_news
        })
    }

    /// Changes what is known of a live peer; what is no news isn't written.
    fn amend(
        &self,
        id: PeerId,
        wall: Moment,
        change: impl FnOnce(&mut Draft<'_>, &mut Peer) -> bool,
    ) -> Result<Peer, OperatorError> {
        let peer = self.ledger.transact(wall, |draft| {
            let mut peer = draft.peer(&id).cloned().ok_or(OperatorError::Unknown(id))?;
            if !peer.status.is_live() {
                return Err(OperatorError::Ended(id));
            }
            if change(draft, &mut peer) {
                draft.put_peer(peer.clone())?;
                self.settle_peer_in(draft, id);
            }
            Ok::<_, OperatorError>(peer)
        })?;
        self.bridges_changed();
        Ok(peer)
    }

    /// Notes that the operators have compared the six words.
    ///
    /// # Errors
    /// No such peer, it has no words yet, or the ledger can't be written.
    pub fn verify(&self, id: PeerId, order: impl Into<Order>) -> Result<Peer, OperatorError> {
        self.move_on(id, order.into(), |peer, _| {
            if peer.words.is_none() {
                return Err(OperatorError::NoWords(id));
            }
            peer.verified = true;
            Ok(())
        })
    }

    fn move_on(
        &self,
        id: PeerId,
        Order { wall, by }: Order,
        change: impl FnOnce(&mut Peer, Moment) -> Result<(), OperatorError>,
    ) -> Result<Peer, OperatorError> {
        let peer = self.ledger.transact(wall, |draft| {
            let mut peer = draft.peer(&id).cloned().ok_or(OperatorError::Unknown(id))?;
            let now = draft.now();
            change(&mut peer, now)?;
            note_status(
                draft,
                &peer,
                json!({ "reason": peer.reason, "verified": peer.verified, "by": by }),
            );
            draft.put_peer(peer.clone())?;
            self.settle_peer_in(draft, id);
            Ok::<_, OperatorError>(peer)
        })?;
        self.bridges_changed();
        if !peer.status.may_call() {
            self.hang_up(id);
        }
        Ok(peer)
    }
}

/// A new peer, as it stands in the ledger.
pub(super) fn propose_in(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    id: PeerId,
    digest: TokenDigest,
    by: &str,
) -> Result<Peer, OperatorError> {
    may_begin(draft)?;
    let now = draft.now();
    let alias = alias_of(draft, proposal)?;
    let peer = Peer {
        role: proposal.role,
        mode: proposal.mode,
        offer: Some(Offer {
            digest,
            expires_at: now.after(life(proposal.token_ttl_seconds)),
            expect_ca: proposal.expect_ca,
        }),
        ..Peer::new(id, alias, proposal.url.to_string(), now)
    };
    note_status(draft, &peer, json!({ "url": peer.url, "by": by }));
    draft.put_peer(peer.clone())?;
    Ok(peer)
}

/// Another token for a peer that is still proposed.
pub(super) fn rotate_token_in(
    draft: &mut Draft<'_>,
    id: PeerId,
    ttl: Option<u64>,
    digest: TokenDigest,
    by: &str,
) -> Result<Peer, OperatorError> {
    may_begin(draft)?;
    let now = draft.now();
    let mut peer = draft.peer(&id).cloned().ok_or(OperatorError::Unknown(id))?;
    if peer.status != Status::Proposed {
        return Err(TransitionError {
            from: peer.status,
            event: Event::Accept,
        }
        .into());
    }
    let expect_ca = peer.offer.as_ref().and_then(|offer| offer.expect_ca);
    peer.offer = Some(Offer {
        digest,
        expires_at: now.after(life(ttl)),
        expect_ca,
    });
    draft.note(Happening {
        kind: "federation.peer.token_rotated".to_owned(),
        severity: "medium",
        peer: Some(id),
        payload: json!({ "by": by }),
    });
    draft.put_peer(peer.clone())?;
    Ok(peer)
}

fn life(ttl: Option<u64>) -> Duration {
    let seconds = ttl.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_TTL_SECONDS);
    Duration::from_secs(seconds.min(MAX_TTL_SECONDS))
}

/// The alias that was asked for, or one after the host that no live peer has.
fn alias_of(draft: &Draft<'_>, proposal: &Proposal) -> Result<Name, OperatorError> {
    if let Some(alias) = &proposal.alias {
        return Ok(alias.clone());
    }
    let base = proposal.url.suggested_alias().ok_or(OperatorError::Alias)?;
    let is_free = |name: &Name| {
        draft
            .peers()
            .all(|peer| !peer.status.is_live() || peer.alias != *name)
    };
    let numbered = (2..1_000).filter_map(|n| Name::new(&format!("{base}-{n}")).ok());
    std::iter::once(base.clone())
        .chain(numbered)
        .find(is_free)
        .ok_or(OperatorError::Alias)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::gateway::Settings;
    use crate::federation::ledger::Ledger;
    use crate::federation::pki::SiteCa;
    use crate::federation::site::SiteId;
    use std::sync::Arc;

    #[test]
    fn a_peer_without_words_cant_be_verified() {
        let wall = Moment::EPOCH;
        let folder = tempfile::tempdir().unwrap();
        let site = SiteId::new("site-a.fd1234abcd42").unwrap();
        let ledger = Arc::new(Ledger::open(&folder.path().join("ledger.db"), wall).unwrap());
        let ca = SiteCa::generate(&site, wall).unwrap().0;
        let gateway = Gateway::new(
            site,
            Name::new("hub-a1").unwrap(),
            ca,
            ledger,
            Settings::default(),
        );
        let proposal = Proposal {
            url: PeerUrl::new("https://site-b.example.com:8443").unwrap(),
            alias: None,
            role: SpawnRole::default(),
            mode: SpawnMode::default(),
            token_ttl_seconds: None,
            expect_ca: None,
        };
        let id = gateway
            .propose(&proposal, [1; 32], [1; 10], wall)
            .unwrap()
            .peer
            .id;
        assert!(matches!(gateway.verify(id, wall), Err(OperatorError::NoWords(found)) if found == id));
        let peer = gateway.ledger.read(|book| (**book.peer(&id).unwrap()).clone());
        assert!(!peer.verified, "nothing has been compared");
    }
}
