//! rtnetlink: links, addresses, routes and rules, read and written with plain types, and the stream of their changes.
//!
//! ```text
//! Netlink ──▶ one socket, a task that owns it ──▶ kernel      every request is answered, or it is an error
//!        ├──▶ another one, for whole tables ────▶
//!        └──▶ and one for many writes at once ──▶
//! Events  ◀── another socket, multicast groups ◀── kernel     lost events become one Event::Resync
//! ```
//!
//! Sockets belong to the network namespace of the thread that makes them.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the message enums are non-exhaustive, with dozens of variants that never come here"
)]

mod bulk;
mod dump;
mod events;
mod fib;
mod types;
mod wire;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use netlink_packet_route::rule::RuleMessage;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};

use bulk::Bulk;
use dump::Dumps;
pub use events::Events;
pub use fib::{FibHop, FibRoute};
pub use types::{
    AddMode, Address, Event, Family, Hop, Link, NewLink, NewLinkKind, Route, RouteAnswer, RouteFilter,
    RouteKind, RouteQuestion, Rule, Write, address_flag, scope,
};

/// How many questions are in flight in [`Netlink::hops`].
const PIPELINE: usize = 64;
/// How long the kernel may take for one answer. A VRF's deletion waits for RCU; nothing waits for the network.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The answers to one request.
trait Answers: Stream<Item = NetlinkMessage<RouteNetlinkMessage>> {}
impl<T: Stream<Item = NetlinkMessage<RouteNetlinkMessage>>> Answers for T {}

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("can't open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("{what}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The socket's task is gone.
    #[error("{what}: the netlink socket is closed")]
    Closed {
        /// What was asked.
        what: &'static str,
    },
    /// No answer.
    #[error("{what}: the kernel didn't answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout {
        /// What was asked.
        what: &'static str,
    },
    /// The table changed each time it was read.
    #[error("{what}: the table changed during each of {} reads", dump::ATTEMPTS)]
    Interrupted {
        /// What was asked.
        what: &'static str,
    },
}

impl NetlinkError {
    /// The errno, where the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open(source) | Self::Refused { source, .. } => source.raw_os_error(),
            Self::Closed { .. } | Self::Timeout { .. } | Self::Interrupted { .. } => None,
        }
    }

    /// Whether the same request may succeed later without anyone changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Interrupted { .. } => true,
            Self::Refused { .. } => matches!(
                self.errno(),
                Some(errno::EAGAIN | errno::EBUSY | errno::ENOBUFS | errno::ENOMEM | errno::EINTR)
            ),
            Self::Open(_) | Self::Closed { .. } => false,
        }
    }
}

/// The errno values that callers ask for, by name (`errno(3)`, the generic numbers of Linux).
pub mod errno {
    /// No such entry.
    pub const ENOENT: i32 = 2;
    /// No such process: netlink's word for a route that isn't there.
    pub const ESRCH: i32 = 3;
    /// Interrupted.
    pub const EINTR: i32 = 4;
    /// Try again.
    pub const EAGAIN: i32 = 11;
    /// Out of memory.
    pub const ENOMEM: i32 = 12;
    /// Not allowed.
    pub const EACCES: i32 = 13;
    /// Busy.
    pub const EBUSY: i32 = 16;
    /// It exists.
    pub const EEXIST: i32 = 17;
    /// Another device: the reverse path filter refuses the source.
    pub const EXDEV: i32 = 18;
    /// No such device.
    pub const ENODEV: i32 = 19;
    /// Invalid argument.
    pub const EINVAL: i32 = 22;
    /// Not supported.
    pub const EOPNOTSUPP: i32 = 95;
    /// The address isn't there.
    pub const EADDRNOTAVAIL: i32 = 99;
    /// The link is down.
    pub const ENETDOWN: i32 = 100;
    /// The router isn't reachable.
    pub const ENETUNREACH: i32 = 101;
    /// No buffer space.
    pub const ENOBUFS: i32 = 105;
    /// The host isn't reachable.
    pub const EHOSTUNREACH: i32 = 113;
}

/// A connection to the kernel's routing tables. Clones share one socket.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    dumps: Dumps,
    bulk: Bulk,
}

impl Netlink {
    /// Opens sockets in the network namespace of this thread and spawns the task that owns one of them.
    ///
    /// # Errors
    /// No socket can be made.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        // Strict checking makes the kernel filter dumps; kernels before 4.20 don't know it, and we filter again.
        let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check()
            .or_else(|_| rtnetlink::new_connection())
            .map_err(NetlinkError::Open)?;
        // Without these, a dead task would look like success: the end of the answers.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        tokio::spawn(connection);
        let dumps = Dumps::open().map_err(NetlinkError::Open)?;
        let bulk = Bulk::open().map_err(NetlinkError::Open)?;
        Ok(Self { handle, dumps, bulk })
    }

    /// Subscribes to changes of links, addresses, routes and rules, from now on.
    ///
    /// # Errors
    /// No socket can be made.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn subscribe() -> Result<Events, NetlinkError> {
        Events::subscribe().map_err(NetlinkError::Open)
    }

    /// All links.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        self.dumps
            .read(
                "list links",
                RouteNetlinkMessage::GetLink(message),
                |message| match message {
                    RouteNetlinkMessage::NewLink(link) => wire::decode_link(&link),
                    _ => None,
                },
            )
            .await
    }

    /// All addresses of all links.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dumps
            .read("list addresses", message, |message| match message {
                RouteNetlinkMessage::NewAddress(address) => wire::decode_address(&address),
                _ => None,
            })
            .await
    }

    /// Routes of one family.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn routes(&self, family: Family, filter: RouteFilter) -> Result<Vec<Route>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = wire::family(family);
        message.header.protocol = filter.protocol.map_or(RouteProtocol::Unspec, RouteProtocol::from);
        message.attributes.extend(filter.table.map(RouteAttribute::Table));
        message.attributes.extend(filter.device.map(RouteAttribute::Oif));
        let result = self
            .dumps
            .read(
                "list routes",
                RouteNetlinkMessage::GetRoute(message),
                |message| match message {
                    RouteNetlinkMessage::NewRoute(route) => wire::decode_route(&route),
                    _ => None,
                },
            )
            .await;
        let mut routes = match result {
            // A table that was never used.
            Err(error) if filter.table.is_some() && error.errno() == Some(errno::ENOENT) => Vec::new(),
            other => other?,
        };
        routes.retain(|route| {
            filter.protocol.is_none_or(|protocol| route.protocol == protocol)
                && filter.table.is_none_or(|table| route.table == table)
                && (route.other || filter.device.is_none_or(|device| route.device == Some(device)))
        });
        Ok(routes)
    }

    /// The routes to addresses, in their order; none where nothing leads there.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn hops(&self, addresses: &[IpAddr]) -> Result<Vec<Option<Hop>>, NetlinkError> {
        const WHAT: &str = "look a route up";
        let refuses = [
            errno::ENETUNREACH,
            errno::EHOSTUNREACH,
            errno::EACCES,
            errno::EINVAL,
        ];
        let answers = futures::stream::iter(addresses).map(|address| {
            let answers = self.send(WHAT, wire::encode_hop(*address));
            async move { collect(WHAT, answers?).await }
        });
        let answers: Vec<_> = answers.buffered(PIPELINE).collect().await;
        answers
            .into_iter()
            .map(|answer| match answer {
                Ok(messages) => Ok(messages.into_iter().find_map(|message| match message {
                    RouteNetlinkMessage::NewRoute(route) => wire::decode_hop(&route),
                    _ => None,
                })),
                Err(error) if error.errno().is_some_and(|errno| refuses.contains(&errno)) => Ok(None),
                Err(error) => Err(error),
            })
            .collect()
    }

    /// Where the kernel sends one packet (`RTM_GETROUTE`, as `ip route get` asks).
    ///
    /// # Errors
    /// See [`NetlinkError`]. That it goes nowhere is an answer.
    pub async fn route_of(&self, asked: &RouteQuestion) -> Result<RouteAnswer, NetlinkError> {
        const WHAT: &str = "look a route up";
        let nowhere = [
            errno::EACCES,
            errno::EXDEV,
            errno::EINVAL,
            errno::ENETUNREACH,
            errno::EHOSTUNREACH,
        ];
        match self.exchange(WHAT, wire::encode_question(asked)).await {
            Ok(messages) => {
                let answer = messages.into_iter().find_map(|message| match message {
                    RouteNetlinkMessage::NewRoute(route) => wire::decode_answer(&route),
                    _ => None,
                });
                answer.ok_or(NetlinkError::Closed { what: WHAT })
            }
            Err(error) => match error.errno() {
                Some(errno) if nowhere.contains(&errno) => Ok(RouteAnswer::Nowhere(errno)),
                Some(_) | None => Err(error),
            },
        }
    }

    /// All rules of one family.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn rules(&self, family: Family) -> Result<Vec<Rule>, NetlinkError> {
        let mut message = RuleMessage::default();
        message.header.family = wire::family(family);
        self.dumps
            .read(
                "list rules",
                RouteNetlinkMessage::GetRule(message),
                |message| match message {
                    RouteNetlinkMessage::NewRule(rule) => wire::decode_rule(&rule),
                    _ => None,
                },
            )
            .await
    }

    /// The link of this name, if there is one.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetLink(message));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        match self.exchange("read a link", message).await {
            Ok(messages) => Ok(messages.into_iter().find_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => wire::decode_link(&link),
                _ => None,
            })),
            Err(error) if error.errno() == Some(errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the kernel can make links of this kind (`wireguard`, `vrf`, `dummy`); it may load a module for it.
    /// Nothing is created: the request is one that every kernel refuses after it looked the kind up.
    ///
    /// # Errors
    /// The kernel doesn't let us ask (no `CAP_NET_ADMIN`), or see [`NetlinkError`].
    pub async fn supports_link_kind(&self, kind: &str) -> Result<bool, NetlinkError> {
        match self.exchange("probe a link kind", wire::encode_probe(kind)).await {
            Ok(_) => Ok(true),
            Err(error) => match error.errno() {
                Some(errno::EINVAL) => Ok(true),
                Some(errno::EOPNOTSUPP) => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Performs one write and waits for the kernel's acknowledgment.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn write(&self, write: &Write) -> Result<(), NetlinkError> {
        let answers = self.send(what(write), wire::encode(write))?;
        collect(what(write), answers).await.map(|_| ())
    }

    /// Performs writes in their order, many at once, and returns what became of each. One that fails stops none.
    pub async fn write_all(&self, writes: &[Write]) -> Vec<Result<(), NetlinkError>> {
        let encoded = writes.iter().map(|write| (what(write), wire::encode(write)));
        self.bulk.write(encoded.collect()).await
    }

    async fn exchange(
        &self,
        what: &'static str,
        request: NetlinkMessage<RouteNetlinkMessage>,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let answers = self.send(what, request)?;
        collect(what, answers).await
    }

    fn send(
        &self,
        what: &'static str,
        request: NetlinkMessage<RouteNetlinkMessage>,
    ) -> Result<impl Answers + use<>, NetlinkError> {
        let mut handle = self.handle.clone();
        handle.request(request).map_err(|_| NetlinkError::Closed { what })
    }
}

/// Collects the answers up to the acknowledgment.
async fn collect(
    what: &'static str,
    answers: impl Answers,
) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
    let mut answers = std::pin::pin!(answers);
    let mut messages = Vec::new();
    loop {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, answers.next())
            .await
            .map_err(|_| NetlinkError::Timeout { what })?
            .ok_or(NetlinkError::Closed { what })?;
        let code = match answer.payload {
            NetlinkPayload::InnerMessage(message) => {
                messages.push(message);
                continue;
            }
            NetlinkPayload::Done(done) => done.code,
            NetlinkPayload::Error(error) => error.raw_code(),
            _ => continue,
        };
        return match code {
            0 => Ok(messages),
            code => Err(NetlinkError::Refused {
                what,
                source: io::Error::from_raw_os_error(code.abs()),
            }),
        };
    }
}

const fn what(write: &Write) -> &'static str {
    match write {
        Write::CreateLink(_) => "create a link",
        Write::SetAlias { .. } => "set a link's alias",
        Write::SetMtu { .. } => "set a link's MTU",
        Write::SetMaster { .. } => "set a link's master",
        Write::SetUp { up: true, .. } => "set a link up",
        Write::SetUp { .. } => "set a link down",
        Write::DeleteLink { .. } => "delete a link",
        Write::AddAddress(..) => "add an address",
        Write::DeleteAddress(_) => "delete an address",
        Write::AddRoute(..) => "add a route",
        Write::DeleteRoute(_) => "delete a route",
        Write::AddRule(_) => "add a rule",
        Write::DeleteRule(_) => "delete a rule",
    }
}
