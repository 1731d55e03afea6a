//! What waits for a second operator, and what becomes of it.
//!
//! ```text
//! gate ─ needs none ─▶ Go
//!   └─ weigh ─ plainly wrong ─▶ refused
//!        └─ the ledger's row (all but a token) + the token in memory ─▶ Parked
//! approve ─▶ performing, in the ledger first ─▶ the caller performs it ─▶ performed: approved, or failed and why
//! ```
//!
//! One lock goes around the tokens and each step in the ledger: of two who decide at once, one does.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::bridges::denied_in;
use super::pause::may_begin;
use super::{AllowError, Gateway, OperatorError, Paused, RotateError, TakeError};
use crate::federation::approval::{
    Approval, ApprovalId, Deed, Event, KEPT, MOST, MOST_OF_ONE, NotNow, Standing, State,
};
use crate::federation::ledger::{Aborted, Draft, Happening, LedgerError};
use crate::federation::moment::Moment;
use crate::federation::operators::Principal;
use crate::federation::token::AcceptanceToken;

/// Whether an action goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum Gate {
    /// At once: it needs no approval here.
    Go,
    /// Once another operator approves.
    Parked(Box<Approval>),
}

/// Why something isn't asked for.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// As things stand it can't be done, whoever approves.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The token can't be taken to its site.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// Another CA can't be drawn.
    #[error(transparent)]
    Rotate(#[from] RotateError),
    /// The fleet doesn't want it any more.
    #[error(transparent)]
    Bridge(#[from] AllowError),
    /// It can't wait for approval.
    #[error(transparent)]
    Approval(#[from] ApprovalError),
}

/// Why something isn't parked, approved or denied.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalError {
    /// No such approval.
    #[error("there is no approval {0}, or it is long over: `sdwand audit tail` has it")]
    Unknown(ApprovalId),
    /// It was decided already.
    #[error(transparent)]
    NotNow(#[from] NotNow),
    /// Its time is over.
    #[error("this approval expired at {0}: ask again")]
    Expired(Moment),
    /// Its token is gone.
    #[error("{LOST}")]
    Lost,
    /// Nothing new is begun: it waits on.
    #[error(transparent)]
    Paused(#[from] Paused),
    /// Who asked can't approve.
    #[error("{0} asked for this: another operator must approve it")]
    SamePrincipal(Principal),
    /// Too much waits.
    #[error("{MOST} requests wait for approval: decide some of them first, `sdwand approvals list`")]
    TooMany,
    /// Too much of this operator's waits.
    #[error("{MOST_OF_ONE} requests of {0} wait for approval: have some of them decided first")]
    TooManyOfOne(Principal),
    /// The ledger can't be written.
    #[error("the ledger can't be written")]
    Ledger(#[source] LedgerError),
}

/// A token that nobody has any more.
const LOST: &str = "its token was lost with a restart: ask again";

/// A deed that was under way.
const CUT_OFF: &str = "the gateway stopped while it was performed: look whether it was done";

impl<E: Into<Self>> From<Aborted<E>> for ApprovalError {
    fn from(aborted: Aborted<E>) -> Self {
        match aborted {
            Aborted::ByCaller(error) => error.into(),
            Aborted::ByLedger(error) => Self::Ledger(error),
        }
    }
}

/// What is known of what waits, and stands nowhere else.
#[derive(Default)]
pub(super) struct Parked(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    tokens: BTreeMap<ApprovalId, AcceptanceToken>,
    /// What deeds came to that the ledger wasn't told yet.
    outcomes: BTreeMap<ApprovalId, Event>,
}

impl Parked {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is approved, and shall be performed now.
#[derive(Debug)]
pub struct Approved {
    /// It.
    pub approval: Approval,
    /// The token that goes with it.
    pub token: Option<AcceptanceToken>,
}

impl Gateway {
    /// Whether what an operator asks for goes on at once. Where it needs approval it is parked, unless it is plainly wrong;
    /// asked twice by the same operator it is parked once. `random` is for its id.
    ///
    /// # Errors
    /// It can't be done as things stand, or too much waits: nothing is parked.
    pub fn gate(
        &self,
        deed: &Deed,
        token: Option<&AcceptanceToken>,
        by: &Principal,
        random: [u8; 10],
        wall: Moment,
    ) -> Result<Gate, GateError> {
        if !deed.is_gated(&self.settings.approvals) {
            return Ok(Gate::Go);
        }
        self.weigh(deed, token, wall)?;
        let approval = self.park(deed, token, by, random, wall)?;
        Ok(Gate::Parked(Box::new(approval)))
    }

    fn park(
        &self,
        deed: &Deed,
        token: Option<&AcceptanceToken>,
        by: &Principal,
        random: [u8; 10],
        wall: Moment,
    ) -> Result<Approval, ApprovalError> {
        let mut kept = self.parked.lock();
        let parked = self.ledger.transact(wall, |draft| {
            let now = draft.now();
            let waits = |approval: &&Approval| approval.state(now) == State::Pending;
            let mine = |approval: &&Approval| !approval.may_be_approved_by(by);
            let same = |approval: &&Approval| {
                let digest = kept.tokens.get(&approval.id).map(AcceptanceToken::digest);
                approval.deed == *deed && digest == token.map(AcceptanceToken::digest)
            };
            if let Some(found) = draft.approvals().filter(waits).filter(mine).find(same) {
                return Ok(found.clone());
            }
            if draft.approvals().filter(waits).count() >= MOST {
                return Err(ApprovalError::TooMany);
            }
            // What the fleet asks for has a bound of its own.
            let asked = |approval: &&Approval| !matches!(approval.deed, Deed::Bridge(_));
            if draft.approvals().filter(waits).filter(asked).filter(mine).count() >= MOST_OF_ONE {
                return Err(ApprovalError::TooManyOfOne(by.clone()));
            }
            Ok(self.ask_in(draft, deed, token, by, ApprovalId(wall.uuid(random))))
        })?;
        if let Some(token) = token {
            kept.tokens.insert(parked.id, token.clone());
        }
        Ok(parked)
    }

    /// Writes that something waits, as part of a transaction.
    pub(super) fn ask_in(
        &self,
        draft: &mut Draft<'_>,
        deed: &Deed,
        token: Option<&AcceptanceToken>,
        by: &Principal,
        id: ApprovalId,
    ) -> Approval {
        let now = draft.now();
        let approval = Approval {
            id,
            deed: deed.clone(),
            summary: self.summary(draft, deed, token),
            has_token: token.is_some(),
            requested_by: by.to_string(),
            requested_at: now,
            expires_at: now.after(self.settings.approvals.timeout),
            standing: Standing::Pending,
        };
        note(
            draft,
            &approval,
            "requested",
            "medium",
            json!({ "by": approval.requested_by }),
        );
        draft.put_approval(approval.clone());
        forget_old(draft);
        approval
    }

    /// Approves what waits. From then on it is under way, and the caller's to perform at once and to tell of:
    /// [`Gateway::performed`]. Of several who approve at once, one does.
    ///
    /// # Errors
    /// It doesn't wait any more, its token is lost, this operator asked for it, or the ledger can't be written.
    pub fn approve(&self, id: ApprovalId, by: &Principal, wall: Moment) -> Result<Approved, ApprovalError> {
        let mut kept = self.parked.lock();
        let approved = self.ledger.transact(wall, |draft| {
            let now = draft.now();
            let mut approval = pending(draft, id)?;
            if let Some(over) = end_if_over(draft, &mut approval, &kept) {
                return Ok(Err(over));
            }
            if !approval.may_be_approved_by(by) {
                return Err(ApprovalError::SamePrincipal(by.clone()));
            }
            if approval.deed.action().is_new() {
                may_begin(draft)?;
            }
            approval.happen(Event::Approve { by: by.to_string() }, now)?;
            note(
                draft,
                &approval,
                "approved",
                "medium",
                json!({ "by": by.to_string() }),
            );
            draft.put_approval(approval.clone());
            Ok(Ok(approval))
        })?;
        let token = kept.tokens.remove(&id);
        Ok(Approved {
            approval: approved?,
            token,
        })
    }

    /// Tells what an approved action came to: done, or why not. Where the ledger can't be written it is told with the next
    /// [`Gateway::expire_approvals`].
    ///
    /// # Errors
    /// The ledger can't be written.
    pub fn performed(
        &self,
        id: ApprovalId,
        outcome: Result<(), String>,
        wall: Moment,
    ) -> Result<(), LedgerError> {
        let event = outcome.map_or_else(|reason| Event::Fail { reason }, |()| Event::Done);
        let mut kept = self.parked.lock();
        kept.outcomes.insert(id, event);
        self.tell_outcomes(&mut kept, wall)
    }

    fn tell_outcomes(&self, kept: &mut Kept, wall: Moment) -> Result<(), LedgerError> {
        if kept.outcomes.is_empty() {
            return Ok(());
        }
        let told = self.ledger.transact(wall, |draft| {
            for (id, event) in &kept.outcomes {
                // One that was made void meanwhile stays so.
                if let Some(mut approval) = draft.approval(id).cloned()
                    && approval.happen(event.clone(), draft.now()).is_ok()
                {
                    if let Standing::Failed { by, reason, .. } = &approval.standing {
                        note(
                            draft,
                            &approval,
                            "failed",
                            "medium",
                            json!({ "by": by, "reason": reason }),
                        );
                    }
                    draft.put_approval(approval);
                }
            }
            Ok::<_, std::convert::Infallible>(())
        });
        match told {
            Ok(()) => {
                kept.outcomes.clear();
                Ok(())
            }
            Err(Aborted::ByCaller(never)) => match never {},
            Err(Aborted::ByLedger(error)) => Err(error),
        }
    }

    /// Denies what waits: it is never performed. Who asked may take it back so.
    ///
    /// # Errors
    /// It doesn't wait any more, or the ledger can't be written.
    pub fn deny(
        &self,
        id: ApprovalId,
        reason: Option<String>,
        by: &Principal,
        wall: Moment,
    ) -> Result<Approval, ApprovalError> {
        let mut kept = self.parked.lock();
        let denied = self.ledger.transact(wall, |draft| {
            let now = draft.now();
            let mut approval = pending(draft, id)?;
            if let Some(over) = end_if_over(draft, &mut approval, &kept) {
                return Ok(Err(over));
            }
            let said = json!({ "by": by.to_string(), "reason": reason });
            let by = by.to_string();
            approval.happen(Event::Deny { by, reason }, now)?;
            note(draft, &approval, "denied", "medium", said);
            draft.put_approval(approval.clone());
            if let Deed::Bridge(opening) = &approval.deed {
                denied_in(draft, opening);
            }
            Ok::<_, ApprovalError>(Ok(approval))
        })?;
        kept.tokens.remove(&id);
        self.bridges_changed();
        denied
    }

    /// Ends what has waited too long, and tells what was performed and isn't told yet. Where there is neither, nothing is
    /// written.
    ///
    /// # Errors
    /// The ledger can't be written: it is done another time.
    pub fn expire_approvals(&self, wall: Moment) -> Result<(), LedgerError> {
        self.tell_outcomes(&mut self.parked.lock(), wall)?;
        self.end_approvals(wall, |draft, approval, _| {
            let overdue =
                approval.standing == Standing::Pending && approval.state(draft.now()) == State::Expired;
            overdue.then_some(Event::Expire)
        })
    }

    /// At the start: what waited with a token can't be performed any more, and of what was under way nobody knows whether
    /// it was done.
    ///
    /// # Errors
    /// The ledger can't be written.
    pub fn void_lost_approvals(&self, wall: Moment) -> Result<(), LedgerError> {
        self.end_approvals(wall, |draft, approval, kept| match approval.standing.state() {
            State::Pending if approval.state(draft.now()) == State::Expired => Some(Event::Expire),
            State::Pending if is_lost(approval, kept) => Some(Event::Void {
                reason: LOST.to_owned(),
            }),
            State::Performing => Some(Event::Void {
                reason: CUT_OFF.to_owned(),
            }),
            State::Pending
            | State::Approved
            | State::Denied
            | State::Expired
            | State::Failed
            | State::Void => None,
        })
    }

    /// Ends each approval of which `which` says how.
    fn end_approvals(
        &self,
        wall: Moment,
        which: impl Fn(&Draft<'_>, &Approval, &Kept) -> Option<Event>,
    ) -> Result<(), LedgerError> {
        let mut kept = self.parked.lock();
        let found = |draft: &Draft<'_>| -> Vec<(Approval, Event)> {
            let each = draft.approvals();
            each.filter_map(|approval| Some((approval.clone(), which(draft, approval, &kept)?)))
                .collect()
        };
        let rehearsed = self.ledger.rehearse(wall, |draft| found(draft).is_empty());
        if rehearsed {
            return Ok(());
        }
        let ended = self.ledger.transact(wall, |draft| {
            let mut ended = Vec::new();
            for (mut approval, event) in found(draft) {
                ended.push(approval.id);
                end(draft, &mut approval, event);
            }
            Ok::<_, std::convert::Infallible>(ended)
        });
        match ended {
            Ok(ended) => {
                kept.tokens.retain(|id, _| !ended.contains(id));
                Ok(())
            }
            Err(Aborted::ByCaller(never)) => match never {},
            Err(Aborted::ByLedger(error)) => Err(error),
        }
    }

    /// How many requests wait for approval.
    #[must_use]
    pub fn pending_approvals(&self, wall: Moment) -> usize {
        self.ledger.read(|book| {
            let now = book.now(wall);
            let waits = |approval: &&std::sync::Arc<Approval>| approval.state(now) == State::Pending;
            book.approvals().filter(waits).count()
        })
    }
}

/// One that can be decided on, as far as it stands in the ledger.
fn pending(draft: &Draft<'_>, id: ApprovalId) -> Result<Approval, ApprovalError> {
    let approval = draft.approval(&id).cloned().ok_or(ApprovalError::Unknown(id))?;
    match approval.standing.state() {
        State::Pending => Ok(approval),
        state @ (State::Performing
        | State::Approved
        | State::Denied
        | State::Expired
        | State::Failed
        | State::Void) => Err(NotNow(state).into()),
    }
}

/// Whether it needs a token that nobody has.
fn is_lost(approval: &Approval, kept: &Kept) -> bool {
    approval.has_token && !kept.tokens.contains_key(&approval.id)
}

/// Ends what can't be decided on any more, and says why: that is written, whoever asks.
fn end_if_over(draft: &mut Draft<'_>, approval: &mut Approval, kept: &Kept) -> Option<ApprovalError> {
    if approval.state(draft.now()) == State::Expired {
        end(draft, approval, Event::Expire);
        Some(ApprovalError::Expired(approval.expires_at))
    } else if is_lost(approval, kept) {
        let reason = LOST.to_owned();
        end(draft, approval, Event::Void { reason });
        Some(ApprovalError::Lost)
    } else {
        None
    }
}

/// Ends one, with a word for the audit.
pub(super) fn end(draft: &mut Draft<'_>, approval: &mut Approval, event: Event) {
    if approval.happen(event, draft.now()).is_err() {
        return;
    }
    match &approval.standing {
        Standing::Expired { .. } => note(draft, approval, "expired", "low", Value::Null),
        Standing::Void { reason, .. } => note(draft, approval, "voided", "low", json!({ "reason": reason })),
        Standing::Failed { by, reason, .. } => {
            note(
                draft,
                approval,
                "failed",
                "medium",
                json!({ "by": by, "reason": reason }),
            );
        }
        Standing::Pending
        | Standing::Performing { .. }
        | Standing::Approved { .. }
        | Standing::Denied { .. } => {}
    }
    draft.put_approval(approval.clone());
}

/// For the audit: everything but a token.
fn note(draft: &mut Draft<'_>, approval: &Approval, what: &str, severity: &'static str, said: Value) {
    let mut payload = json!({
        "approval": approval.id, "action": approval.deed.action(), "summary": approval.summary,
        "requested_by": approval.requested_by, "expires_at": approval.expires_at,
    });
    if let (Value::Object(payload), Value::Object(said)) = (&mut payload, said) {
        payload.extend(said);
    }
    draft.note(Happening {
        kind: format!("federation.approval.{what}"),
        severity,
        peer: approval.deed.peer(),
        payload,
    });
}

/// Forgets the oldest of those that are over, beyond what is kept.
fn forget_old(draft: &mut Draft<'_>) {
    let over: Vec<ApprovalId> = { draft.approvals() }
        .filter(|approval| approval.standing.state().is_over())
        .map(|approval| approval.id)
        .collect();
    for id in over.iter().take(over.len().saturating_sub(KEPT)) {
        draft.forget_approval(*id);
    }
}

#[cfg(test)]
mod tests;
