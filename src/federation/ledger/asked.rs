//! What operators asked for and wait for another's word about, and whether they have paused: in the book, and in a draft.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Book, Draft};
use crate::federation::approval::{Approval, ApprovalId, Event, State};
use crate::federation::moment::Moment;

/// Nothing new is begun with other sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Pause {
    /// Who paused: `uid:<user id>`, or `sub:<name>`.
    pub by: String,
    /// Since when.
    pub at: Moment,
    /// Why, if they said so.
    pub reason: Option<String>,
}

/// What a transaction changes about it.
#[derive(Debug)]
pub(super) enum Pausing {
    /// Nothing new is begun from now on.
    Begins(Pause),
    /// It goes on.
    Ends,
}

impl Book {
    /// Who paused, if somebody has.
    #[must_use]
    pub const fn pause(&self) -> Option<&Pause> {
        self.pause.as_ref()
    }

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
    /// Who paused, as it is after what was changed so far.
    #[must_use]
    pub fn pause(&self) -> Option<&Pause> {
        match &self.changes.pausing {
            Some(Pausing::Begins(pause)) => Some(pause),
            Some(Pausing::Ends) => None,
            None => self.book.pause(),
        }
    }

    /// Pauses, or ends that.
    pub fn put_pause(&mut self, pause: Option<Pause>) {
        self.changes.pausing = Some(pause.map_or(Pausing::Ends, Pausing::Begins));
    }

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
