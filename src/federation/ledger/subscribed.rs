//! Who uses what we offer: in the book, and in a draft.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Book, Draft};
use crate::federation::peer::PeerId;
use crate::federation::subscription::Subscription;
use crate::model::Name;

/// A peer, and the name of our offer.
pub(super) type Key = (PeerId, Name);

impl Book {
    /// All subscriptions, by peer.
    pub fn subscriptions(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.subscriptions.values()
    }
}

impl Draft<'_> {
    /// A peer's subscription, as it is after what was changed so far.
    #[must_use]
    pub fn subscription(&self, key: &(PeerId, Name)) -> Option<&Subscription> {
        match self.changes.subscriptions.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.book.subscriptions.get(key).map(AsRef::as_ref),
        }
    }

    /// All subscriptions, as they are after what was changed so far, by peer.
    pub fn subscriptions(&self) -> impl Iterator<Item = &Subscription> {
        let kept = self.book.subscriptions.keys();
        let keys: BTreeSet<&Key> = kept.chain(self.changes.subscriptions.keys()).collect();
        keys.into_iter().filter_map(|key| self.subscription(key))
    }

    /// Writes a subscription.
    pub fn put_subscription(&mut self, subscription: Subscription) {
        let key = (subscription.peer, subscription.service.clone());
        self.changes.subscriptions.insert(key, Some(subscription));
    }

    /// Forgets a subscription.
    pub fn remove_subscription(&mut self, key: Key) {
        self.changes.subscriptions.insert(key, None);
    }
}
