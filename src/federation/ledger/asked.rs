//! What operators asked for and wait for another's word about: in the book, and in a draft.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Book, Draft};
use crate::federation::approval::{Approval, ApprovalId, Event, State};

impl Book {
    /// An approval.
    #[must_use]
    pub fn approval(&self, id: &ApprovalId) -> Option<&Arc<Approval>> {
        self.approvals.get(id)
    }

    /// All approvals that are kept, oldest first.
    pub fn approvals(&self) -> impl Iterator<Item = &Arc<Approval>> {
        self.approvals.values()
    }
}

impl Draft<'_> {
    /// An approval, as it is after what was changed so far.
    #[must_use]
    pub fn approval(&self, id: &ApprovalId) -> Option<&Approval> {
        match self.changes.approvals.get(id) {
            Some(changed) => changed.as_ref(),
            None => self.book.approval(id).map(AsRef::as_ref),
        }
    }

    /// All approvals, as they are after what was changed so far, oldest first.
    pub fn approvals(&self) -> impl Iterator<Item = &Approval> {
        let kept = self.book.approvals.keys();
        let ids: BTreeSet<&ApprovalId> = kept.chain(self.changes.approvals.keys()).collect();
        ids.into_iter().filter_map(|id| self.approval(id))
    }

    /// Writes an approval.
    pub fn put_approval(&mut self, approval: Approval) {
        self.changes.approvals.insert(approval.id, Some(approval));
    }

    /// Forgets an approval; the audit has it.
    pub fn forget_approval(&mut self, id: ApprovalId) {
        self.changes.approvals.insert(id, None);
    }

    /// Makes void what waits for approval, and says how many that were: nobody knows any more what was asked for.
    pub(super) fn void_approvals(&mut self, reason: &str) -> usize {
        let now = self.now();
        let open: Vec<Approval> = { self.approvals() }
            .filter(|approval| !approval.standing.state().is_over())
            .cloned()
            .collect();
        let mut void = 0;
        for mut approval in open {
            let event = match approval.state(now) {
                State::Expired => Event::Expire,
                State::Pending
                | State::Performing
                | State::Approved
                | State::Denied
                | State::Failed
                | State::Void => Event::Void {
                    reason: reason.to_owned(),
                },
            };
            if approval.happen(event, now).is_ok() {
                void += 1;
                self.put_approval(approval);
            }
        }
        void
    }
}
