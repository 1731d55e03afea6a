//! Calls about bridges.

use hyper::Method;
use serde_json::json;

use super::DialError;
use crate::federation::bridge::{BridgeId, Half, Place};
use crate::federation::client::{Call, PATIENCE};
use crate::federation::gateway::{Gateway, Random};
use crate::federation::ledger::Book;
use crate::federation::moment::Moment;
use crate::federation::peer::PeerId;
use crate::federation::wire::BridgeAnswer;

impl Gateway {
    /// Tells a peer our half of a bridge, or that it is over, and takes what it answers.
    ///
    /// # Errors
    /// It wasn't told, or what it answers can't be taken.
    pub async fn exchange_bridge(
        &self,
        peer: PeerId,
        id: BridgeId,
        random: Random,
        wall: Moment,
    ) -> Result<(), DialError> {
        let (row, known) = (
            self.bridge_row(peer, id),
            self.ledger.read(|book: &Book| book.peer(&peer).cloned()),
        );
        let (Some(row), Some(known)) = (row, known) else {
            return Ok(());
        };
        if !known.status.may_call() {
            return Err(DialError::Standing(known.status));
        }
        let half = row.live().and_then(|ours| ours.half.as_ref());
        let (method, sent, body) = match half {
            Some(half) => (Method::PUT, half.sequence, serde_json::to_vec(half)?),
            None => (
                Method::DELETE,
                row.said,
                serde_json::to_vec(&json!({ "sequence": row.said }))?,
            ),
        };
        let call = Call {
            method,
            path: &format!("bridges/{id}"),
            bearer: None,
            body: Some(body),
        };
        match self.call_peer(&known, call, wall).await {
            Ok(data) => {
                let answer: BridgeAnswer =
                    serde_json::from_value(data).map_err(|_| DialError::Unsound("it tells of no bridge"))?;
                Ok(self.bridge_answered((peer, id), (sent, row.seen), answer.half, random, wall)?)
            }
            Err(error) => {
                if matches!(error, DialError::Refused { status: 409, .. }) {
                    self.bridge_overtaken(peer, id, wall)?;
                }
                Err(error)
            }
        }
    }

    /// Resolves the names by which a peer's gateway is reached, once: what comes of that stands until the peer says
    /// something else.
    ///
    /// # Errors
    /// None of them can be resolved at present, or the ledger can't be written.
    pub async fn resolve_bridge(&self, peer: PeerId, id: BridgeId, wall: Moment) -> Result<(), DialError> {
        let Some(row) = self.bridge_row(peer, id) else {
            return Ok(());
        };
        let Some(theirs) = row.theirs.as_ref().filter(|theirs| theirs.unresolved) else {
            return Ok(());
        };
        let half: &Half = &theirs.half;
        let mut addresses = Vec::new();
        for place in half.endpoints.iter().filter_map(|text| Place::parse(text)) {
            match place {
                Place::Address(address) => addresses.push(address),
                Place::Name(host, port) => {
                    let looked_up = tokio::net::lookup_host((host.clone(), port));
                    let resolved = match tokio::time::timeout(PATIENCE, looked_up).await {
                        Ok(resolved) => resolved.map(Iterator::collect::<Vec<_>>),
                        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
                    };
                    addresses.extend(resolved.map_err(|source| super::CallError::Resolve { host, source })?);
                }
            }
        }
        Ok(self.bridge_resolved((peer, id), half, &addresses, wall)?)
    }
}
