//! The connections to peers that are kept for beats: one per peer.
//!
//! A connection is used only by what it was opened by: the same certificate of ours, anchors and addresses of the peer's. It
//! ends at once when its peer may no longer be called.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Gateway;
use crate::federation::client::{Room, Session};
use crate::federation::peer::PeerId;
use crate::federation::pki::Leaf;
use crate::federation::token::Fingerprint;
use crate::federation::url::PeerUrl;

/// How many connections are kept. A site with more peers than that opens one for each further beat: an idle connection has
/// its price in memory, and a handshake every minute has little.
const MOST: usize = 256;

pub(super) struct Lines {
    kept: Mutex<BTreeMap<PeerId, (Basis, Session)>>,
    room: Room,
}

impl Lines {
    /// A connection without a beat for one and a half times the interval ends.
    pub(super) fn new(heartbeat: Duration) -> Self {
        Self {
            kept: Mutex::default(),
            room: Room::new(MOST, heartbeat * 3 / 2),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, (Basis, Session)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a connection was opened by.
#[derive(Clone)]
pub(in crate::federation) struct Basis {
    /// What we have shown.
    pub(in crate::federation) leaf: Arc<Leaf>,
    /// What the peer's certificate has led to.
    pub(in crate::federation) anchors: Vec<Fingerprint>,
    /// Where the peer is, its operator-given URL first.
    pub(in crate::federation) urls: Vec<PeerUrl>,
}

impl PartialEq for Basis {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.leaf, &other.leaf) && self.anchors == other.anchors && self.urls == other.urls
    }
}

impl Gateway {
    pub(in crate::federation) const fn room(&self) -> &Room {
        &self.lines.room
    }

    /// Takes the connection that is kept for a peer, if it is good for another call.
    pub(in crate::federation) fn line(&self, id: PeerId, basis: &Basis) -> Option<Session> {
        let (was, session) = self.lines.lock().remove(&id)?;
        Some(session).filter(|session| was == *basis && session.is_good())
    }

    /// Keeps a connection whose peer has just answered, unless it was stopped meanwhile.
    pub(in crate::federation) fn keep_line(&self, id: PeerId, basis: Basis, session: Session) {
        let mut kept = self.lines.lock();
        let may_call = self
            .ledger
            .read(|book| book.peer(&id).is_some_and(|peer| peer.status.may_call()));
        if may_call {
            kept.insert(id, (basis, session));
        }
    }

    /// Ends the connection that is kept for a peer: it may no longer be called, as the ledger says by now, or what came over
    /// it made no sense.
    pub(in crate::federation) fn hang_up(&self, id: PeerId) {
        self.lines.lock().remove(&id);
    }

    /// Whether a connection is kept for a peer now.
    #[must_use]
    pub fn has_line(&self, id: PeerId) -> bool {
        let kept = self.lines.lock();
        kept.get(&id).is_some_and(|(_, session)| session.is_good())
    }
}
