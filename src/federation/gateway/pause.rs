//! New peerings are paused, and go on: what is there goes on in any case.

use serde_json::json;

use super::Gateway;
use crate::federation::ledger::{Aborted, Draft, Happening, LedgerError, Pause};
use crate::federation::moment::Moment;
use crate::federation::operators::Principal;

/// Nothing new is begun with other sites: nobody is proposed or accepted, and no network is bridged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("federation is paused, by {} since {}{}: `sdwand federation resume` ends that", .0.by, .0.at, why(.0))]
pub struct Paused(pub Pause);

fn why(pause: &Pause) -> String {
    pause
        .reason
        .as_ref()
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default()
}

/// It isn't paused, or doesn't go on.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// It is paused already.
    #[error(transparent)]
    Already(#[from] Paused),
    /// It isn't paused.
    #[error("federation isn't paused")]
    NotPaused,
    /// The ledger can't be written.
    #[error("the ledger can't be written")]
    Ledger(#[source] LedgerError),
}

impl From<Aborted<Self>> for PauseError {
    fn from(aborted: Aborted<Self>) -> Self {
        match aborted {
            Aborted::ByCaller(error) => error,
            Aborted::ByLedger(error) => Self::Ledger(error),
        }
    }
}

/// Whether something new may be begun.
pub(super) fn may_begin(draft: &Draft<'_>) -> Result<(), Paused> {
    draft.pause().map_or(Ok(()), |pause| Err(Paused(pause.clone())))
}

impl Gateway {
    /// Who paused, when and why; none where nothing is paused.
    #[must_use]
    pub fn paused(&self) -> Option<Pause> {
        self.ledger.read(|book| book.pause().cloned())
    }

    /// Whether nothing new is begun.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.ledger.read(|book| book.pause().is_some())
    }

    /// Begins nothing new from now on, also after a restart. What is there goes on: heartbeats, revocations, suspensions,
    /// reads.
    ///
    /// # Errors
    /// It is paused already, or the ledger can't be written.
    pub fn pause(&self, reason: Option<String>, by: &Principal, wall: Moment) -> Result<Pause, PauseError> {
        let paused = self.ledger.transact(wall, |draft| {
            may_begin(draft)?;
            let pause = Pause {
                by: by.to_string(),
                at: draft.now(),
                reason,
            };
            draft.note(Happening {
                kind: "federation.paused".to_owned(),
                severity: "medium",
                peer: None,
                payload: json!({ "by": pause.by, "reason": pause.reason }),
            });
            draft.put_pause(Some(pause.clone()));
            Ok::<_, PauseError>(pause)
        });
        Ok(paused?)
    }

    /// Goes on.
    ///
    /// # Errors
    /// It isn't paused, or the ledger can't be written.
    pub fn unpause(&self, by: &Principal, wall: Moment) -> Result<(), PauseError> {
        let resumed = self.ledger.transact(wall, |draft| {
            let pause = draft.pause().cloned().ok_or(PauseError::NotPaused)?;
            draft.note(Happening {
                kind: "federation.resumed".to_owned(),
                severity: "low",
                peer: None,
                payload: json!({ "by": by.to_string(), "paused_by": pause.by, "paused_at": pause.at }),
            });
            draft.put_pause(None);
            Ok::<_, PauseError>(())
        });
        Ok(resumed?)
    }
}
