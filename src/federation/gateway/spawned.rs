//! Being a child: keys that wait for a parent's signature, the certificates that it has signed, and their renewal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use zeroize::Zeroizing;

use super::{Gateway, OperatorError};
use crate::federation::moment::Moment;
use crate::federation::peer::{Peer, PeerId, SpawnMode, SpawnRole};
use crate::federation::pki::Leaf;
use crate::federation::pki::authority::StoreError;
use crate::federation::pki::issued::Issued;
use crate::federation::pki::request::{Signed, draw_key, request_of};
use crate::federation::token::TokenDigest;
use crate::federation::wire::RenewRequest;

/// How long after a renewal that failed another is tried.
const AGAIN: Duration = Duration::from_secs(600);

/// Private keys are in it: it has no `Debug`.
#[derive(Default)]
pub(super) struct Holdings(Mutex<BTreeMap<PeerId, Holding>>);

#[derive(Default)]
struct Holding {
    /// A key without a certificate, where there is no folder to keep it in.
    waits: Option<Zeroizing<String>>,
    issued: Option<Arc<Issued>>,
    /// Whether it was looked for what is kept.
    looked: bool,
    tried: Option<Moment>,
}

/// Whether a parent signs for us: that is what being managed means.
pub(super) const fn is_signed_for(peer: &Peer) -> bool {
    matches!(
        (peer.role, peer.mode),
        (SpawnRole::Child, SpawnMode::ManagedChild)
    )
}

impl Gateway {
    fn holdings(&self) -> MutexGuard<'_, BTreeMap<PeerId, Holding>> {
        self.holdings.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key that waits for this parent's signature: the same until it has signed.
    fn waiting_key(&self, id: PeerId) -> Result<Zeroizing<String>, StoreError> {
        if let Some(store) = &self.store {
            return store.waiting_key(id);
        }
        let mut holdings = self.holdings();
        let holding = holdings.entry(id).or_default();
        if let Some(key) = &holding.waits {
            return Ok(key.clone());
        }
        Ok(holding.waits.insert(draw_key()?).clone())
    }

    /// What we ask a parent to sign.
    ///
    /// # Errors
    /// The key can't be kept.
    pub fn asking(&self, id: PeerId) -> Result<String, StoreError> {
        Ok(request_of(&self.waiting_key(id)?, &self.site, &self.node)?)
    }

    /// Reads what a parent has signed. Nothing is kept yet.
    pub(super) fn read_signed(&self, id: PeerId, signed: &Signed, now: Moment) -> Result<Issued, StoreError> {
        Ok(Issued::of(signed, &self.waiting_key(id)?, now)?)
    }

    /// Keeps what a parent has signed: it is what we show from now on.
    pub(super) fn keep_signed(&self, id: PeerId, issued: Issued) -> Result<(), StoreError> {
        let key = self.waiting_key(id)?;
        if let Some(store) = &self.store {
            store.keep_issued(id, &issued, &key)?;
        }
        let mut holdings = self.holdings();
        let holding = holdings.entry(id).or_default();
        (holding.issued, holding.looked, holding.tried) = (Some(Arc::new(issued)), true, None);
        Ok(())
    }

    /// The key has its certificate, and waits no longer.
    pub(super) fn forget_waiting(&self, id: PeerId) {
        if let Some(holding) = self.holdings().get_mut(&id) {
            holding.waits = None;
        }
        if let Some(Err(error)) = self.store.as_ref().map(|store| store.forget_waiting(id)) {
            // The next request is made with the same key: no harm is done.
            tracing::warn!(peer = %id, %error, "a key that was signed for stays where keys wait");
        }
    }

    /// Notes that a payload's token is for this parent: whatever becomes of the row, it is known whose errand it was.
    ///
    /// # Errors
    /// No such peer, or the ledger can't be written.
    pub fn entrust(&self, id: PeerId, token: TokenDigest, wall: Moment) -> Result<(), OperatorError> {
        let entrusted = |peer: &Peer| peer.errand == Some(token);
        if self
            .ledger
            .read(|book| book.peer(&id).is_some_and(|peer| entrusted(peer)))
        {
            return Ok(());
        }
        self.ledger.transact(wall, |draft| {
            let mut peer = draft.peer(&id).cloned().ok_or(OperatorError::Unknown(id))?;
            peer.errand = Some(token);
            draft.put_peer(peer)?;
            Ok::<_, OperatorError>(())
        })?;
        Ok(())
    }

    /// What a parent has signed for us.
    fn issued(&self, id: PeerId) -> Option<Arc<Issued>> {
        let mut holdings = self.holdings();
        let holding = holdings.entry(id).or_default();
        if !holding.looked {
            holding.looked = true;
            let kept = self.store.as_ref().map(|store| store.read_issued(id));
            holding.issued = match kept.transpose() {
                Ok(kept) => kept.flatten().map(Arc::new),
                Err(error) => {
                    tracing::error!(peer = %id, %error, "what the parent signed can't be read: our own CA signs");
                    None
                }
            };
        }
        holding.issued.clone()
    }

    /// What we show to a parent: what it has signed, while it is good. One that manages us no longer is shown it only until
    /// it knows our own CA.
    pub(super) fn issued_leaf(&self, peer: &Peer, subject: &str, wall: Moment) -> Option<Arc<Leaf>> {
        match peer.role {
            SpawnRole::Child => {}
            SpawnRole::Symmetric | SpawnRole::Parent => return None,
        }
        let issued = self.issued(peer.id)?;
        let is_good = issued.since <= wall && wall < issued.leaf.not_after && issued.subject == subject;
        let is_needed = is_signed_for(peer) || !self.knows_us(peer.id);
        (is_good && is_needed).then(|| Arc::clone(&issued.leaf))
    }

    /// When what parents have signed for us ends, and who they are.
    pub(super) fn issued_until<'a>(&self, peers: impl Iterator<Item = &'a Peer>) -> Vec<(PeerId, Moment)> {
        peers
            .filter(|peer| is_signed_for(peer) && peer.status.is_live())
            .filter_map(|peer| Some((peer.id, self.issued(peer.id)?.leaf.not_after)))
            .collect()
    }

    /// The parents that should sign anew: each is asked again only after a while.
    #[must_use]
    pub fn renewals(&self, wall: Moment) -> Vec<Arc<Peer>> {
        let parents: Vec<Arc<Peer>> = self.ledger.read(|book| {
            let due = |peer: &&Arc<Peer>| is_signed_for(peer) && peer.status.may_call();
            book.peers().filter(due).cloned().collect()
        });
        // Who was revoked is told by what was shown when that began.
        let ended = self.ended();
        self.holdings().retain(|id, _| !ended.contains(id));
        let is_due = |peer: &Arc<Peer>| {
            let Some(issued) = self.issued(peer.id).filter(|issued| wall >= issued.leaf.renew_at) else {
                return false;
            };
            let mut holdings = self.holdings();
            let holding = holdings.entry(peer.id).or_default();
            let is_early = holding
                .tried
                .is_some_and(|tried| tried <= wall && wall.since(tried) < AGAIN);
            if !is_early && issued.leaf.renew_at <= wall {
                holding.tried = Some(wall);
            }
            !is_early
        };
        parents.into_iter().filter(is_due).collect()
    }

    /// What we ask a parent for when a certificate must be renewed.
    ///
    /// # Errors
    /// The key can't be kept.
    pub fn renewing(&self, id: PeerId) -> Result<RenewRequest, StoreError> {
        Ok(RenewRequest {
            csr_pem: Some(self.asking(id)?),
            ..RenewRequest::default()
        })
    }

    /// Takes over what the parent answered.
    ///
    /// # Errors
    /// It isn't what was asked for, and the old one stays; or it can't be kept.
    pub fn take_renewed(&self, id: PeerId, signed: &Signed, wall: Moment) -> Result<(), StoreError> {
        let issued = self.read_signed(id, signed, self.ledger.read(|book| book.now(wall)))?;
        self.keep_signed(id, issued)?;
        self.forget_waiting(id);
        self.erase_if_revoked(id);
        Ok(())
    }

    /// A parent was revoked: what it has signed for us is erased, and the keys. It stays in memory until the parent is told,
    /// since that is what it knows us by; see [`Self::renewals`].
    pub(super) fn retire(&self, id: PeerId) {
        drop(self.issued(id));
        self.erase_if_revoked(id);
    }

    /// Whoever was revoked keeps nothing here: also where it was while the parent signed.
    pub(super) fn erase_if_revoked(&self, id: PeerId) {
        let Some(store) = &self.store else { return };
        let found = self.ledger.read(|book| book.peer(&id).cloned());
        if found.is_none_or(|peer| peer.status.is_live()) {
            return;
        }
        match store.erase_issued(id) {
            Ok(true) => tracing::info!(peer = %id, "what the parent had signed is erased, and the key"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(peer = %id, %error, "what the parent signed can't be erased: the next start tries again");
            }
        }
    }

    /// Erases what is left of parents that were revoked while nobody served, or when it couldn't be erased. What is of no
    /// peer that the ledger knows stays: the ledger that knows it may be put back.
    pub fn erase_revoked(&self) {
        for id in self.ended() {
            self.erase_if_revoked(id);
        }
    }

    fn ended(&self) -> BTreeSet<PeerId> {
        self.ledger.read(|book| {
            let ended = book.peers().filter(|peer| !peer.status.is_live());
            ended.map(|peer| peer.id).collect()
        })
    }
}
