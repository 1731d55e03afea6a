//! The certificates that we show to peers: one per peer, until it is time for another. Of a few they are kept: another is drawn
//! in a fraction of the time that the handshake takes in which it is shown.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Gateway;
use crate::federation::moment::Moment;
use crate::federation::peer::PeerId;
use crate::federation::pki::{Leaf, PkiError, Usage};
use crate::federation::token::Fingerprint;

/// How many are kept. Beyond, only those of connections that there are.
const MOST: usize = 1_024;

/// Private keys are in it: it has no `Debug`, and never leaves the memory.
#[derive(Default)]
pub(super) struct Leaves(Mutex<BTreeMap<PeerId, Kept>>);

struct Kept {
    subject: String,
    /// What the wall clock said when it was drawn.
    since: Moment,
    leaf: Arc<Leaf>,
}

impl Kept {
    fn is_good(&self, subject: &str, signs: Fingerprint, wall: Moment) -> bool {
        // One that a clock far ahead has dated isn't good yet once that clock is put right.
        let is_in_time = self.since <= wall && wall < self.leaf.renew_at;
        is_in_time && self.subject == subject && self.leaf.issuer == signs
    }
}

impl Gateway {
    /// What we show to a peer when we call it, under the name that it gave us: the same again until it should be renewed,
    /// another CA signs, or the name is another. Only for peers that may be called is it kept.
    ///
    /// # Errors
    /// Signing failed.
    pub fn call_leaf(&self, id: PeerId, subject: &str, wall: Moment) -> Result<Arc<Leaf>, PkiError> {
        let parent = self.ledger.read(|book| book.peer(&id).cloned());
        let issued = parent.and_then(|peer| self.issued_leaf(&peer, subject, wall));
        if let Some(issued) = issued {
            return Ok(issued);
        }
        let signs = self.ca.fingerprint();
        let may_call = |id: &PeerId| {
            self.ledger
                .read(|book| book.peer(id).is_some_and(|peer| peer.status.may_call()))
        };
        let mut leaves = self.leaves.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !may_call(&id) {
            leaves.remove(&id);
        }
        if let Some(kept) = leaves.get(&id).filter(|kept| kept.is_good(subject, signs, wall)) {
            return Ok(Arc::clone(&kept.leaf));
        }
        let usage = Usage::Call { subject };
        let leaf = Arc::new(self.ca.issue(&self.site, &self.node, usage, wall)?);
        let kept = Kept {
            subject: subject.to_owned(),
            since: wall,
            leaf: Arc::clone(&leaf),
        };
        if leaves.len() >= MOST {
            leaves.retain(|_, kept| Arc::strong_count(&kept.leaf) > 1);
        }
        leaves.insert(id, kept);
        // Whoever is gone is forgotten, and with it the key. Both are in the order of their ids.
        let standing = self.ledger.read(|book| Arc::clone(book.standing()));
        let mut standing = standing.iter().peekable();
        leaves.retain(|id, _| {
            while standing.next_if(|(other, _)| other < id).is_some() {}
            standing
                .peek()
                .is_some_and(|(other, status)| other == id && status.may_call())
        });
        Ok(leaf)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::federation::gateway::Settings;
    use crate::federation::ledger::Ledger;
    use crate::federation::peer::tests::proposed;
    use crate::federation::peer::{Peer, Status};
    use crate::federation::pki::{LEAF_LIFE, SiteCa};
    use crate::federation::site::SiteId;
    use crate::model::Name;
    use uuid::Uuid;

    fn gateway(folder: &std::path::Path, wall: Moment) -> Gateway {
        let site = SiteId::new("site-a.fd1234abcd42").unwrap();
        let ledger = Arc::new(Ledger::open(&folder.join("ledger.db"), wall).unwrap());
        let ca = SiteCa::generate(&site, wall).unwrap().0;
        let node = Name::new("hub-a1").unwrap();
        Gateway::new(site, node, ca, ledger, Settings::default())
    }

    fn put(gateway: &Gateway, n: u8, status: Status, wall: Moment) -> PeerId {
        let id = PeerId(Uuid::from_u128(u128::from(n)));
        let put = gateway.ledger.transact(wall, |draft| {
            draft.put_peer(Peer {
                id,
                status,
                alias: Name::new(&format!("peer-{n}")).unwrap(),
                url: format!("https://peer-{n}.example"),
                offer: None,
                ..proposed()
            })
        });
        put.unwrap();
        id
    }

    #[test]
    fn a_leaf_is_shown_until_its_time_name_or_issuer_is_another() {
        let (folder, wall) = (
            tempfile::tempdir().unwrap(),
            Moment::from_millis(1_800_000_000_000),
        );
        let gateway = gateway(folder.path(), wall);
        let (b, c) = (
            put(&gateway, 1, Status::Active, wall),
            put(&gateway, 2, Status::Active, wall),
        );
        let draw = |id, subject, at| gateway.call_leaf(id, subject, at).unwrap();
        let first = draw(b, "fed:b", wall);
        let nearly = first.renew_at.before(Duration::from_millis(1));
        assert!(Arc::ptr_eq(&first, &draw(b, "fed:b", nearly)));
        assert!(!Arc::ptr_eq(&first, &draw(c, "fed:b", wall)), "one per peer");
        assert!(Arc::ptr_eq(&first, &draw(b, "fed:b", wall)));
        let renewed = draw(b, "fed:b", first.renew_at);
        assert!(!Arc::ptr_eq(&first, &renewed));
        // Its clock was wrong by months: what it dated then isn't good yet.
        let back = draw(b, "fed:b", wall);
        assert!(!Arc::ptr_eq(&renewed, &back) && back.not_after == wall.after(LEAF_LIFE));
        let named = draw(b, "fed:other", wall);
        assert!(!Arc::ptr_eq(&back, &named));
        let next = SiteCa::generate(&gateway.site, wall).unwrap().0;
        gateway.ca.announce(next);
        assert!(
            Arc::ptr_eq(&named, &draw(b, "fed:other", wall)),
            "the old CA signs on"
        );
        gateway.ca.promote();
        let signed = draw(b, "fed:other", wall);
        assert!(!Arc::ptr_eq(&named, &signed) && signed.issuer == gateway.ca.fingerprint());
    }

    #[test]
    fn of_many_only_those_in_use_are_kept() {
        let (folder, wall) = (
            tempfile::tempdir().unwrap(),
            Moment::from_millis(1_800_000_000_000),
        );
        let gateway = gateway(folder.path(), wall);
        let ids: Vec<PeerId> = (0..=MOST as u128).map(|n| PeerId(Uuid::from_u128(n))).collect();
        let put = gateway.ledger.transact(wall, |draft| {
            for id in &ids {
                draft.put_peer(Peer {
                    id: *id,
                    status: Status::Active,
                    alias: Name::new(&format!("peer-{}", id.0.simple())).unwrap(),
                    url: format!("https://{id}.example"),
                    offer: None,
                    ..proposed()
                })?;
            }
            Ok::<_, crate::federation::ledger::Conflict>(())
        });
        put.unwrap();
        let used = gateway.call_leaf(ids[7], "fed:x", wall).unwrap();
        for id in &ids {
            gateway.call_leaf(*id, "fed:x", wall).unwrap();
        }
        let kept: Vec<PeerId> = gateway.leaves.0.lock().unwrap().keys().copied().collect();
        assert_eq!(kept, [ids[7], ids[MOST]]);
        let again = gateway.call_leaf(ids[7], "fed:x", wall).unwrap();
        assert!(Arc::ptr_eq(&used, &again));
    }

    #[test]
    fn who_may_not_be_called_any_more_is_forgotten() {
        let (folder, wall) = (
            tempfile::tempdir().unwrap(),
            Moment::from_millis(1_800_000_000_000),
        );
        let gateway = gateway(folder.path(), wall);
        let ids: Vec<PeerId> = (1..5).map(|n| put(&gateway, n, Status::Active, wall)).collect();
        let kept = || {
            gateway
                .leaves
                .0
                .lock()
                .unwrap()
                .keys()
                .copied()
                .collect::<Vec<_>>()
        };
        for id in &ids {
            gateway.call_leaf(*id, "fed:x", wall).unwrap();
        }
        assert_eq!(kept(), ids);
        gateway.revoke(ids[0], "for good", wall).unwrap();
        gateway.suspend(ids[1], "maintenance", wall).unwrap();
        // It is told of that with a leaf of its own, which isn't kept.
        gateway.call_leaf(ids[0], "fed:x", wall).unwrap();
        assert_eq!(kept(), ids[2..]);
    }
}
