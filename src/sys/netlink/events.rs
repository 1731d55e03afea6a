//! The stream of changes.
//!
//! ```text
//! socket ─▶ connection task ─▶ (unbounded) ─▶ forwarder ─▶ bounded channel ─▶ Events::next
//! ```
//!
//! The forwarder always drains, so that memory is bounded: what doesn't fit is dropped and becomes one
//! [`Event::Resync`], as does an overrun of the socket itself.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the message enums are non-exhaustive, with dozens of variants that never come here"
)]

use std::io;

use futures::StreamExt as _;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::{AsyncSocket as _, SocketAddr};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::types::Event;
use super::wire;

/// The socket's receive buffer in bytes; the kernel caps it at `net.core.rmem_max`.
const RECEIVE_BUFFER: usize = 4 << 20;
/// How many events wait for their reader.
const QUEUE: usize = 4_096;

type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// Changes of links, addresses, routes and rules, foreign ones included.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    tasks: [JoinHandle<()>; 2],
}

impl Events {
    pub(super) fn subscribe() -> io::Result<Self> {
        let (mut connection, _, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ])?;
        connection
            .socket_mut()
            .socket_mut()
            .set_rx_buf_sz(RECEIVE_BUFFER)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        Ok(Self {
            receiver,
            tasks: [tokio::spawn(connection), tokio::spawn(forward(messages, sender))],
        })
    }

    /// The next change; none when the socket is gone.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }

    /// The next event, if it has come already.
    pub fn pending(&mut self) -> Option<Event> {
        self.receiver.try_recv().ok()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn forward(mut messages: Messages, sender: mpsc::Sender<Event>) {
    let mut lost = false;
    loop {
        let message = if lost {
            tokio::select! {
                permit = sender.reserve() => {
                    let Ok(permit) = permit else { return };
                    permit.send(Event::Resync);
                    lost = false;
                    continue;
                }
                message = messages.next() => message,
            }
        } else {
            messages.next().await
        };
        let Some((message, _)) = message else { return };
        if lost {
            continue;
        }
        if let Some(event) = decode(message) {
            match sender.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => lost = true,
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    }
}

fn decode(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Event> {
    let message = match message.payload {
        NetlinkPayload::InnerMessage(message) => message,
        NetlinkPayload::Overrun(_) => return Some(Event::Resync),
        _ => return None,
    };
    let link = |message, gone| wire::decode_link(message).map(|link| Event::Link { link, gone });
    let address =
        |message, gone| wire::decode_address(message).map(|address| Event::Address { address, gone });
    let route = |message, gone| wire::decode_route(message).map(|route| Event::Route { route, gone });
    let rule = |message, gone| wire::decode_rule(message).map(|rule| Event::Rule { rule, gone });
    match &message {
        RouteNetlinkMessage::NewLink(message) => link(message, false),
        RouteNetlinkMessage::DelLink(message) => link(message, true),
        RouteNetlinkMessage::NewAddress(message) => address(message, false),
        RouteNetlinkMessage::DelAddress(message) => address(message, true),
        RouteNetlinkMessage::NewRoute(message) => route(message, false),
        RouteNetlinkMessage::DelRoute(message) => route(message, true),
        RouteNetlinkMessage::NewRule(message) => rule(message, false),
        RouteNetlinkMessage::DelRule(message) => rule(message, true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};
    use rtnetlink::packet_core::NetlinkHeader;

    use super::*;

    fn link(name: &str) -> (NetlinkMessage<RouteNetlinkMessage>, SocketAddr) {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let message = NetlinkMessage::from(RouteNetlinkMessage::NewLink(message));
        (message, SocketAddr::new(0, 0))
    }

    #[tokio::test]
    async fn a_reader_that_lags_gets_a_resync_and_then_news() {
        let (input, messages) = futures::channel::mpsc::unbounded();
        let (sender, mut receiver) = mpsc::channel(2);
        tokio::spawn(forward(messages, sender));
        for _ in 0..50 {
            input.unbounded_send(link("old")).unwrap();
        }
        let mut seen = Vec::new();
        while seen.last() != Some(&Event::Resync) {
            seen.push(receiver.recv().await.unwrap());
        }
        assert!(seen.len() < 50, "{}", seen.len());
        input.unbounded_send(link("new")).unwrap();
        assert!(matches!(receiver.recv().await, Some(Event::Link { link, .. }) if link.name == "new"));
    }

    #[test]
    fn an_overrun_is_a_resync() {
        let message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::Overrun(Vec::new()));
        assert_eq!(decode(message), Some(Event::Resync));
    }
}
