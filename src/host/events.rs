//! What happens to the host.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::Notify;

use super::{HostError, RealHost};
use crate::model::ownership;
use crate::sys::netlink::{self, Netlink};
use crate::sys::nft_events::NftEvents;

/// How long events of the host are collected before it is looked at: a change by `ip` comes in several.
const DEBOUNCE: Duration = Duration::from_millis(10);

/// What happens to the host, as far as it can concern us.
pub struct Events {
    netlink: netlink::Events,
    nft: NftEvents,
    resolved: Arc<Notify>,
}

impl RealHost {
    /// Subscribes to what happens to the host.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn subscribe(&self) -> Result<Events, HostError> {
        Ok(Events {
            netlink: Netlink::subscribe()?,
            nft: NftEvents::subscribe(ownership::NFT_TABLE).map_err(HostError::Nft)?,
            resolved: Arc::clone(&self.resolver.late),
        })
    }
}

impl Events {
    /// Waits until something happens that may concern us, and says how long more of it may be waited for. When a stream
    /// is lost, rounds at their interval go on.
    ///
    /// Whatever else has been told by then is taken along: a change of ten thousand rules is one change, also where the
    /// kernel tells it in thousands of messages.
    pub async fn changed(&mut self) -> Duration {
        let patience = self.first().await;
        while let Some(Ok(_)) = tokio::task::unconstrained(self.nft.next()).now_or_never() {}
        while self.netlink.pending().is_some() {}
        patience
    }

    async fn first(&mut self) -> Duration {
        loop {
            tokio::select! {
                () = self.resolved.notified() => return DEBOUNCE,
                event = self.nft.next() => match event {
                    // A transaction is told as a whole, and without our table everything is open.
                    Ok(_) => return Duration::ZERO,
                    Err(error) => {
                        tracing::warn!(%error, "events are lost: changes are seen at the next round");
                        std::future::pending::<()>().await;
                    }
                },
                event = self.netlink.next() => match event {
                    Some(event) if concerns(&event) => return DEBOUNCE,
                    Some(_) => {}
                    None => {
                        tracing::warn!("events are lost: changes are seen at the next round");
                        std::future::pending::<()>().await;
                    }
                },
            }
        }
    }
}

/// Whether an event can be about something of ours, or about a LAN interface. Routes that others own are many (a full
/// BGP table), and never ours.
fn concerns(event: &netlink::Event) -> bool {
    match event {
        netlink::Event::Route { route, .. } => route.protocol == ownership::ROUTE_PROTOCOL,
        netlink::Event::Link { .. }
        | netlink::Event::Address { .. }
        | netlink::Event::Rule { .. }
        | netlink::Event::Resync => true,
    }
}
