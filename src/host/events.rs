//! What happens to the host.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{Notify, watch};

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
    /// The tables in which the routes of others matter.
    followed: watch::Receiver<BTreeSet<u32>>,
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
            followed: self.followed.subscribe(),
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
                        lost("nftables", Some(error.to_string()));
                        std::future::pending::<()>().await;
                    }
                },
                event = self.netlink.next() => match event {
                    Some(event) if concerns(&event, &self.followed.borrow()) => return DEBOUNCE,
                    Some(_) => {}
                    None => {
                        lost("links, addresses, routes and rules", None);
                        std::future::pending::<()>().await;
                    }
                },
            }
        }
    }
}

fn lost(what: &str, error: Option<String>) {
    let what = what.to_owned();
    crate::log::Event::WatchLost { what, error }.emit();
}

/// Whether an event can be about something of ours, about a LAN interface, or about a route that AllowedIPs follow. Other
/// routes of others are many (a full BGP table), and never ours.
fn concerns(event: &netlink::Event, followed: &BTreeSet<u32>) -> bool {
    match event {
        netlink::Event::Route { route, .. } => match route.protocol {
            ownership::ROUTE_PROTOCOL => true,
            ownership::KERNEL_PROTOCOL => false,
            _ => followed.contains(&route.table),
        },
        netlink::Event::Link { .. }
        | netlink::Event::Address { .. }
        | netlink::Event::Rule { .. }
        | netlink::Event::Resync => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_others_concern_where_they_are_followed() {
        let event = |protocol, table| netlink::Event::Route {
            route: netlink::Route {
                table,
                destination: "10.20.0.0/24".parse().unwrap(),
                metric: 0,
                protocol,
                kind: netlink::RouteKind::Unicast,
                device: Some(4),
                gateway: None,
                source: None,
                mtu: None,
                other: false,
            },
            gone: true,
        };
        let followed = BTreeSet::from([10_001]);
        let asked = [
            (241, 254),
            (4, 10_001),
            (186, 10_001),
            (186, 10_002),
            (186, 254),
            (2, 10_001),
        ];
        let concern = asked.map(|(protocol, table)| concerns(&event(protocol, table), &followed));
        assert_eq!(concern, [true, true, true, false, false, false]);
    }
}
