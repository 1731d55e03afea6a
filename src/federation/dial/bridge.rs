//! Calls about bridges.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use hyper::Method;
use serde_json::json;

use super::{CallError, DialError};
use crate::federation::bridge::{BridgeId, Place};
use crate::federation::client::{Call, PATIENCE};
use crate::federation::gateway::{Gateway, Random};
use crate::federation::ledger::Book;
use crate::federation::moment::Moment;
use crate::federation::peer::PeerId;
use crate::federation::wire::BridgeAnswer;
use crate::model::agreement::MAX_ENDPOINTS;

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
    /// something else. A name that can't be resolved leads where it last led.
    ///
    /// # Errors
    /// Some can't be resolved at present, or the ledger can't be written.
    pub async fn resolve_bridge(&self, peer: PeerId, id: BridgeId, wall: Moment) -> Result<(), DialError> {
        let Some(row) = self.bridge_row(peer, id) else {
            return Ok(());
        };
        let Some(theirs) = row.theirs.as_ref().filter(|theirs| theirs.unresolved) else {
            return Ok(());
        };
        let (mut found, mut failed) = (BTreeMap::new(), None);
        for text in theirs.names() {
            let Some(Place::Name(host, port)) = Place::parse(text) else {
                continue;
            };
            match looked_up(&host, port).await {
                Ok(addresses) => drop(found.insert(text.clone(), addresses)),
                Err(source) => failed = Some(CallError::Resolve { host, source }),
            }
        }
        self.bridge_resolved((peer, id), &theirs.half, &found, wall)?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

async fn looked_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let looked_up = tokio::net::lookup_host((host, port));
    let found = tokio::time::timeout(PATIENCE, looked_up).await;
    let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    let found: Vec<SocketAddr> = found.take(MAX_ENDPOINTS).collect();
    if found.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(found)
}
