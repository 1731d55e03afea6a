//! An approval: what an operator asked for, and waits for another's word.
//!
//! ```text
//!            approve              done
//!   pending ─────────▶ performing ────▶ approved
//!      │                    │ fail, void
//!      │                    └─────────▶ failed
//!      ├─ deny ───▶ denied      (nothing of it is ever performed)
//!      ├─ expire ─▶ expired     (the same)
//!      └─ void ───▶ void        (the same: its token is lost, or the ledger was put back)
//! ```
//!
//! The action is performed with the approver's call, as if it were asked for then: the world may have changed. To revoke
//! needs no approval: what must stop waits for nobody.

mod deed;

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use deed::{Action, Deed, Opening};

use super::moment::Moment;
use super::operators::Principal;

/// How many may wait at a time.
pub const MOST: usize = 100;
/// How many of them may be one operator's.
pub const MOST_OF_ONE: usize = 10;
/// How many of them may be the fleet's: with more of them, the rest is asked for once there is room.
pub const MOST_OF_FLEET: usize = 50;
/// How many that have ended are kept to be shown; the audit has all.
pub const KEPT: usize = 1_000;

/// The id of an approval: a UUID of version 7 (RFC 9562).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ApprovalId(pub Uuid);

impl fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an approval stands, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ApprovalState)]
pub enum State {
    /// It waits.
    Pending,
    /// It is approved, and under way.
    Performing,
    /// It was performed.
    Approved,
    /// Somebody said no.
    Denied,
    /// Nobody said anything in time.
    Expired,
    /// It was approved, and failed.
    Failed,
    /// It can't be performed any more.
    Void,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Performing,
        Self::Approved,
        Self::Denied,
        Self::Expired,
        Self::Failed,
        Self::Void,
    ];

    /// The word that stands in requests and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Performing => "performing",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Void => "void",
        }
    }

    /// Whether nothing becomes of it any more.
    #[must_use]
    pub const fn is_over(self) -> bool {
        match self {
            Self::Pending | Self::Performing => false,
            Self::Approved | Self::Denied | Self::Expired | Self::Failed | Self::Void => true,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where an approval stands, with what is true there. Operators are written as [`Principal`] is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Standing {
    /// It waits.
    Pending,
    /// It is approved, and under way.
    Performing {
        /// Who approved.
        by: String,
        /// When.
        at: Moment,
    },
    /// It was performed.
    Approved {
        /// Who approved.
        by: String,
        /// When.
        at: Moment,
    },
    /// It was never performed.
    Denied {
        /// Who said no.
        by: String,
        /// When.
        at: Moment,
        /// Why, if they said so.
        reason: Option<String>,
    },
    /// It was never performed.
    Expired {
        /// When that was found.
        at: Moment,
    },
    /// It was approved; what it did, its reason says.
    Failed {
        /// Who approved.
        by: String,
        /// When it ended.
        at: Moment,
        /// Why.
        reason: String,
    },
    /// It was never performed.
    Void {
        /// Since when.
        at: Moment,
        /// Why.
        reason: String,
    },
}

/// What happens to an approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Another operator says yes.
    Approve {
        /// Who.
        by: String,
    },
    /// What was asked for is done.
    Done,
    /// It isn't.
    Fail {
        /// Why.
        reason: String,
    },
    /// An operator says no.
    Deny {
        /// Who.
        by: String,
        /// Why, if they say so.
        reason: Option<String>,
    },
    /// Its time is over.
    Expire,
    /// It can't be performed any more.
    Void {
        /// Why.
        reason: String,
    },
}

/// It can't happen to the approval as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this approval is {0}: it is only decided while it is pending")]
pub struct NotNow(pub State);

impl Standing {
    /// In a word.
    #[must_use]
    pub const fn state(&self) -> State {
        match self {
            Self::Pending => State::Pending,
            Self::Performing { .. } => State::Performing,
            Self::Approved { .. } => State::Approved,
            Self::Denied { .. } => State::Denied,
            Self::Expired { .. } => State::Expired,
            Self::Failed { .. } => State::Failed,
            Self::Void { .. } => State::Void,
        }
    }

    /// Where it stands after `event`.
    ///
    /// # Errors
    /// It can't happen to it.
    pub fn after(&self, event: Event, at: Moment) -> Result<Self, NotNow> {
        let not_now = Err(NotNow(self.state()));
        match (self, event) {
            (Self::Pending, Event::Approve { by }) => Ok(Self::Performing { by, at }),
            (Self::Pending, Event::Deny { by, reason }) => Ok(Self::Denied { by, at, reason }),
            (Self::Pending, Event::Expire) => Ok(Self::Expired { at }),
            (Self::Pending, Event::Void { reason }) => Ok(Self::Void { at, reason }),
            (Self::Performing { by, at }, Event::Done) => Ok(Self::Approved {
                by: by.clone(),
                at: *at,
            }),
            (Self::Performing { by, .. }, Event::Fail { reason } | Event::Void { reason }) => {
                Ok(Self::Failed {
                    by: by.clone(),
                    at,
                    reason,
                })
            }
            (Self::Pending, Event::Done | Event::Fail { .. })
            | (Self::Performing { .. }, Event::Approve { .. } | Event::Deny { .. } | Event::Expire)
            | (
                Self::Approved { .. }
                | Self::Denied { .. }
                | Self::Expired { .. }
                | Self::Failed { .. }
                | Self::Void { .. },
                Event::Approve { .. }
                | Event::Done
                | Event::Fail { .. }
                | Event::Deny { .. }
                | Event::Expire
                | Event::Void { .. },
            ) => not_now,
        }
    }
}

/// What an operator asked for, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    /// Its id.
    pub id: ApprovalId,
    /// What was asked for: all but a token.
    pub deed: Deed,
    /// The same in words.
    pub summary: String,
    /// Whether a token goes with it. That is in memory alone, and gone with a restart.
    pub has_token: bool,
    /// Who asked, as [`Principal`] is written.
    pub requested_by: String,
    /// When.
    pub requested_at: Moment,
    /// Until when it can be approved.
    pub expires_at: Moment,
    /// Where it stands.
    pub standing: Standing,
}

impl Approval {
    /// Where it stands at this time: one that nobody has looked at since is over all the same.
    #[must_use]
    pub fn state(&self, now: Moment) -> State {
        let state = self.standing.state();
        let is_overdue = state == State::Pending && self.expires_at <= now;
        if is_overdue { State::Expired } else { state }
    }

    /// Whether this operator may approve it: anyone but who asked.
    #[must_use]
    pub fn may_be_approved_by(&self, by: &Principal) -> bool {
        self.requested_by != by.to_string()
    }

    /// Something happens to it.
    ///
    /// # Errors
    /// It can't, and it is as it was.
    pub fn happen(&mut self, event: Event, now: Moment) -> Result<(), NotNow> {
        self.standing = self.standing.after(event, now)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
