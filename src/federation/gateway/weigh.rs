//! What an operator asks for, before it waits for another's word: whether it is plainly wrong, and how it reads.

use super::bridges::brief;
use super::operator::{propose_in, rotate_token_in};
use super::{GateError, Gateway, Paused, Proposal, TakeError};
use crate::federation::approval::{Deed, Opening};
use crate::federation::ledger::Draft;
use crate::federation::moment::Moment;
use crate::federation::peer::{Event, PeerId};
use crate::federation::token::{AcceptanceToken, TokenDigest, TokenError};

/// A token that is nobody's: what is only weighed has no secret.
const NOBODYS: TokenDigest = TokenDigest([0; 32]);

impl Gateway {
    /// Whether it could be done as things stand. Nothing changes, and nobody is called.
    pub(super) fn weigh(
        &self,
        deed: &Deed,
        token: Option<&AcceptanceToken>,
        wall: Moment,
    ) -> Result<(), GateError> {
        match deed {
            Deed::Propose(proposal) => self.weigh_proposal(proposal, wall),
            Deed::Join(proposal) => {
                let token = token.ok_or(TakeError::Token(TokenError::Shape))?;
                if self.ca.is_own(token.ca()) {
                    return Err(TakeError::Own.into());
                }
                self.weigh_proposal(proposal, wall)
            }
            Deed::RotateToken {
                peer,
                token_ttl_seconds,
            } => {
                let weighed = |draft: &mut Draft<'_>| {
                    rotate_token_in(draft, *peer, *token_ttl_seconds, NOBODYS, "").map(|_| ())
                };
                Ok(self.ledger.rehearse(wall, weighed)?)
            }
            Deed::Accept { peer } => {
                let token = token.ok_or(TakeError::Token(TokenError::Shape))?;
                self.takeable(*peer, token)?;
                Ok(())
            }
            // Whether its token is good was looked up already; the rest is judged when it is redeemed.
            Deed::Redeem { peer, .. } => {
                let found = self.ledger.read(|book| book.peer(peer).cloned());
                let found = found.ok_or(TakeError::Unknown(*peer))?;
                if let Some(pause) = self.paused() {
                    return Err(TakeError::from(Paused(pause)).into());
                }
                let accepted = (*found).clone().happen(Event::Accept, None, found.since);
                Ok(accepted.map_err(TakeError::from)?)
            }
            Deed::RotateCa => Ok(self.may_rotate()?),
            Deed::Bridge(opening) => Ok(self.may_open(opening)?),
        }
    }

    fn weigh_proposal(&self, proposal: &Proposal, wall: Moment) -> Result<(), GateError> {
        let id = PeerId(wall.uuid([0; 10]));
        let weighed = |draft: &mut Draft<'_>| propose_in(draft, proposal, id, NOBODYS, "").map(|_| ());
        Ok(self.ledger.rehearse(wall, weighed)?)
    }

    /// What is asked for, in words: never a token.
    pub(super) fn summary(&self, draft: &Draft<'_>, deed: &Deed, token: Option<&AcceptanceToken>) -> String {
        let peer = |id: &PeerId| {
            let found = draft.peer(id);
            found.map_or_else(
                || format!("peer {id}"),
                |peer| format!("peer {} at {}", peer.alias, peer.url),
            )
        };
        match deed {
            Deed::Propose(proposal) => proposed(proposal),
            Deed::RotateToken { peer: id, .. } => format!("draw the token of {} anew", peer(id)),
            Deed::Accept { peer: id } => format!("accept {}{}", peer(id), by(token)),
            Deed::Join(proposal) => format!("register and accept {}{}", proposal.url, by(token)),
            Deed::Redeem { peer: id, .. } => format!("redeem our own token for {}", peer(id)),
            Deed::RotateCa => {
                format!("draw another CA in place of {}", self.ca.fingerprint())
            }
            Deed::Bridge(opening) => opened(opening, &peer(&opening.peer)),
        }
    }
}

/// Whose token it is.
fn by(token: Option<&AcceptanceToken>) -> String {
    let ca = token.map(|token| format!(", by a token of the CA {}", token.ca()));
    ca.unwrap_or_default()
}

fn proposed(proposal: &Proposal) -> String {
    let alias = proposal.alias.as_ref().map(|alias| format!(" as {alias}"));
    let role = match proposal.role {
        crate::federation::peer::SpawnRole::Symmetric => "",
        crate::federation::peer::SpawnRole::Parent => ", which this site spawns",
        crate::federation::peer::SpawnRole::Child => ", which spawned this site",
    };
    format!(
        "propose {}{}{role} ({})",
        proposal.url,
        alias.unwrap_or_default(),
        proposal.mode.as_str()
    )
}

/// What is new of a bridge.
fn opened(opening: &Opening, peer: &str) -> String {
    let Opening {
        name,
        network,
        remote_network,
        new,
        ..
    } = opening;
    let nets = |nets: &[ipnet::IpNet]| match nets {
        [] => "nothing new".to_owned(),
        nets => brief(nets).join(", "),
    };
    format!(
        "open bridge {name} between {network} and {remote_network} of {peer}: import {}, export {}",
        nets(&new.import),
        nets(&new.export)
    )
}
