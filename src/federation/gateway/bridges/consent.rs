//! Bridges that wait for a second operator: who is asked what, and what their word does.
//!
//! The fleet asks, by whoever may write its documents: as long as it wants more than is approved, there is one request that
//! waits, or a denial. One that expired is made anew; one that doesn't say what the fleet wants any more is void.

use super::{BridgeRow, Gateway, Random, Scene, Settled, Want};
use crate::federation::approval::{
    Action, Approval, ApprovalId, Deed, Event, MOST, MOST_OF_FLEET, Opening, State,
};
use crate::federation::bridge::{Scope, WaitsFor};
use crate::federation::gateway::Order;
use crate::federation::gateway::approvals::end;
use crate::federation::gateway::pause::{Paused, may_begin};
use crate::federation::ledger::{Aborted, Draft, LedgerError};
use crate::federation::moment::Moment;
use crate::federation::peer::PeerId;
use crate::model::Name;

/// What was asked for isn't what the fleet wants.
const MOOT: &str = "the fleet wants something else now";

/// A bridge isn't let open anything.
#[derive(Debug, thiserror::Error)]
pub enum AllowError {
    /// There is no such bridge any more.
    #[error("the fleet doesn't want bridge {0} any more, or its peer is gone")]
    NotWanted(Name),
    /// Nothing new is begun.
    #[error(transparent)]
    Paused(#[from] Paused),
    /// The ledger can't be written.
    #[error("the ledger can't be written")]
    Ledger(#[source] LedgerError),
}

impl From<Aborted<Self>> for AllowError {
    fn from(aborted: Aborted<Self>) -> Self {
        match aborted {
            Aborted::ByCaller(error) => error,
            Aborted::ByLedger(error) => Self::Ledger(error),
        }
    }
}

/// Whether it is the fleet's, and nobody has decided.
pub(super) fn is_waiting(approval: &Approval) -> bool {
    matches!(approval.deed, Deed::Bridge(_)) && approval.standing.state() == State::Pending
}

/// How many more may be asked for.
pub(super) fn room<'a>(approvals: impl Iterator<Item = &'a Approval>, now: Moment) -> usize {
    let (mut all, mut fleets) = (0, 0);
    for approval in approvals.filter(|approval| approval.state(now) == State::Pending) {
        all += 1;
        fleets += usize::from(is_waiting(approval));
    }
    MOST.saturating_sub(all).min(MOST_OF_FLEET.saturating_sub(fleets))
}

/// What is asked for, where all of `all` is wanted.
pub(super) fn opening(row: &BridgeRow, want: &Want, all: Scope) -> Opening {
    Opening {
        peer: row.peer,
        id: row.id,
        name: want.name.clone(),
        network: want.network.clone(),
        remote_network: want.remote_network.clone(),
        new: row.consent.beyond(&all),
        all,
    }
}

/// Of what is to be asked, leaves what isn't asked yet, and says what is asked in vain.
pub(super) fn sort_out(scene: &Scene<'_>, of: Option<PeerId>, settled: &mut Settled) {
    let mut asks = std::mem::take(&mut settled.asks);
    for approval in &scene.waiting {
        let Deed::Bridge(opening) = &approval.deed else {
            continue;
        };
        if of.is_some_and(|of| of != opening.peer) || approval.state(scene.now) != State::Pending {
            continue;
        }
        let before = asks.len();
        asks.retain(|asked| asked != &**opening);
        let is_live = scene
            .peers
            .get(&opening.peer)
            .is_some_and(|peer| peer.status.is_live());
        // What the fleet wants isn't known at the start.
        let is_unknown = scene.fleet.is_none() && is_live;
        if asks.len() == before && !is_unknown {
            settled.moot.push((*approval).clone());
        }
    }
    asks.truncate(scene.room);
    settled.asks = asks;
}

/// Makes void what is asked in vain.
pub(super) fn drop_moot_in(draft: &mut Draft<'_>, moot: Vec<Approval>) {
    for mut approval in moot {
        let reason = MOOT.to_owned();
        end(draft, &mut approval, Event::Void { reason });
    }
}

/// Notes that somebody said no, as part of the transaction that says so.
pub(in crate::federation::gateway) fn denied_in(draft: &mut Draft<'_>, opening: &Opening) {
    let mut row = draft
        .bridge(opening.peer, opening.id)
        .cloned()
        .unwrap_or_else(|| BridgeRow::new(opening.peer, opening.id));
    row.consent.denied = Some(opening.all.clone());
    draft.put_bridge(row);
}

impl Gateway {
    /// Asks for what the fleet wants.
    pub(super) fn ask_for_bridges_in(&self, draft: &mut Draft<'_>, asks: Vec<Opening>, random: Random) {
        for opening in asks {
            let mut id = [0; 10];
            random(&mut id);
            let (deed, id) = (Deed::Bridge(Box::new(opening)), ApprovalId(draft.now().uuid(id)));
            self.ask_in(draft, &deed, None, &self.settings.fleet_by, id);
        }
    }

    /// Whether the fleet still wants this bridge.
    ///
    /// # Errors
    /// It doesn't.
    pub(in crate::federation::gateway) fn may_open(&self, opening: &Opening) -> Result<(), AllowError> {
        let alias = self
            .ledger
            .read(|book| book.peer(&opening.peer).map(|peer| peer.alias.clone()));
        self.is_wanted(opening, alias.as_ref())
    }

    fn is_wanted(&self, opening: &Opening, alias: Option<&Name>) -> Result<(), AllowError> {
        let fleet = self.fleet();
        let is_wanted = fleet.is_some_and(|fleet| {
            let mut wanted = self.negotiated(&fleet).into_iter();
            wanted.any(|bridge| {
                Some(&bridge.peer) == alias
                    && bridge.network == opening.network
                    && bridge.remote_network == opening.remote_network
            })
        });
        let gone = || AllowError::NotWanted(opening.name.clone());
        is_wanted.then_some(()).ok_or_else(gone)
    }

    /// Lets a bridge open what was asked for: never what the fleet added since, nor what it doesn't want any more.
    ///
    /// # Errors
    /// The fleet doesn't want the bridge any more, everything new is paused, or the ledger can't be written.
    pub fn allow_bridge(&self, opening: &Opening, random: Random, order: &Order) -> Result<(), AllowError> {
        self.ledger.transact(order.wall, |draft| {
            may_begin(draft)?;
            let peer = draft.peer(&opening.peer).filter(|peer| peer.status.is_live());
            self.is_wanted(opening, peer.map(|peer| &peer.alias))?;
            let mut row = draft
                .bridge(opening.peer, opening.id)
                .cloned()
                .unwrap_or_else(|| BridgeRow::new(opening.peer, opening.id));
            row.allow(&opening.all);
            draft.put_bridge(row);
            self.settle_in(draft, Some(opening.peer), Some(random));
            Ok::<_, AllowError>(())
        })?;
        self.bridges_changed();
        Ok(())
    }

    /// What operators' words keep a bridge from that hasn't begun: none where nobody is asked, or it is approved.
    pub(super) fn bridge_consent(&self, row: Option<&BridgeRow>) -> Option<WaitsFor> {
        if !Action::Bridge.is_gated(&self.settings.approvals) {
            return None;
        }
        let consent = row.map(|row| &row.consent);
        match consent {
            Some(consent) if consent.denied.is_some() => Some(WaitsFor::Denied),
            Some(consent) if consent.approved.is_some() => None,
            Some(_) | None => Some(WaitsFor::Approval),
        }
    }
}
