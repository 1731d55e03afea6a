//! Calls about what we use of a peer.

use std::collections::BTreeSet;

use hyper::Method;

use super::DialError;
use crate::federation::client::Call;
use crate::federation::gateway::Gateway;
use crate::federation::moment::Moment;
use crate::federation::peer::PeerId;
use crate::federation::wire::{SubscriptionEntry, SubscriptionRequest};
use crate::model::Name;

/// Where they are.
const PATH: &str = "subscriptions";

impl Gateway {
    /// Makes what a peer knows of our subscriptions what our fleet has: asks what it knows, and tells it the difference.
    ///
    /// # Errors
    /// It wasn't reached, or refused some of it; it was told the rest.
    pub async fn tell_subscriptions(&self, id: PeerId, wall: Moment) -> Result<(), DialError> {
        let known = self.ledger.read(|book| book.peer(&id).cloned());
        let Some(peer) = known else { return Ok(()) };
        if !peer.status.may_call() {
            return Err(DialError::Standing(peer.status));
        }
        let Some(wanted) = self.wanted_services(&peer) else {
            return Ok(());
        };
        let data = match self.call_peer(&peer, call(Method::GET, PATH, None), wall).await {
            Ok(data) => data,
            // One that knows of no subscriptions has none of ours.
            Err(DialError::Refused { status: 404, .. }) if wanted.is_empty() => return Ok(()),
            Err(error) => return Err(error),
        };
        let told: Vec<SubscriptionEntry> =
            serde_json::from_value(data).map_err(|_| DialError::Unsound("it tells of no subscriptions"))?;
        let told: BTreeSet<Name> = told.into_iter().map(|entry| entry.service).collect();
        let mut outcome = Ok(());
        for service in wanted.difference(&told) {
            let body = serde_json::to_vec(&SubscriptionRequest {
                service: service.clone(),
            })?;
            let said = self
                .call_peer(&peer, call(Method::POST, PATH, Some(body)), wall)
                .await;
            outcome = outcome.and(said.map(|_| ()));
        }
        for service in told.difference(&wanted) {
            let path = format!("{PATH}/{service}");
            let said = self
                .call_peer(&peer, call(Method::DELETE, &path, None), wall)
                .await;
            outcome = outcome.and(said.map(|_| ()));
        }
        outcome
    }
}

const fn call(method: Method, path: &str, body: Option<Vec<u8>>) -> Call<'_> {
    Call {
        method,
        path,
        bearer: None,
        body,
    }
}
