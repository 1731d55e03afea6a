//! Calls to a peer: resolved once, TLS 1.3 by that peer's anchors alone, no proxy, no redirect, 10 s and 64 KiB in all.
//!
//! A connection is a [`Session`]. Most calls have one to themselves; beats go over one that is kept ([`call_over`]).

mod session;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hyper::Method;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use session::{Room, Session};

use super::overlay::OverlayWay;
use super::url::PeerUrl;
use super::wire::MAX_BODY;
use crate::model::Name;

/// How long a call may take, from the name to the last byte.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long one of several ways to a peer may take until it is found there.
const WAY: Duration = Duration::from_secs(3);

/// The start that an address has over the next (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// What stands in `data`; the whole body where there is no such envelope.
    pub data: Value,
    /// What stands in `error`, if anything does.
    pub error: Option<String>,
    /// The chain that the listener showed; empty where an earlier answer over the same connection had it.
    pub chain: Vec<CertificateDer<'static>>,
}

/// A call.
pub struct Call<'a> {
    /// GET or POST.
    pub method: Method,
    /// Behind the peer-facing API's path.
    pub path: &'a str,
    /// A grant's token.
    pub bearer: Option<&'a str>,
    /// JSON.
    pub body: Option<Vec<u8>>,
}

/// A call didn't come through. Each says at which step.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The name doesn't resolve.
    #[error("{host} doesn't resolve")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody listens there.
    #[error("can't connect to {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It isn't whom we want to talk to, or it doesn't want to talk to us.
    #[error("the TLS handshake with {address} failed")]
    Tls {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It broke off.
    #[error("{address} broke off")]
    Http {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// What came back is too long, cut, or no JSON.
    #[error("the answer of {address} is no JSON of at most {MAX_BODY} bytes: {reason}")]
    Answer {
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// It takes too long.
    #[error("no answer of {url} within {} s", within.as_secs())]
    Timeout {
        /// Where.
        url: PeerUrl,
        /// How long was waited.
        within: Duration,
    },
    /// The peer named a host that it may not lead us to.
    #[error(
        "{host} was named by the peer, and no address of it may be dialled: see allow_dial of [federation]"
    )]
    Barred {
        /// The host.
        host: String,
    },
    /// Not at its URL, and not where it says it is.
    #[error("not reached at its URL, and not where it says it is ({others})")]
    Everywhere {
        /// At its URL.
        #[source]
        first: Box<Self>,
        /// Elsewhere.
        others: String,
    },
    /// This gateway isn't in the network from which it is to call.
    #[error(
        "no socket at {address} in network {network}: `sdwand run` gives this host that address, see `sdwand status`"
    )]
    NoPlace {
        /// The network.
        network: Name,
        /// This gateway's address in it.
        address: IpAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The call can't be written: a fault of ours.
    #[error("the call can't be written: {0}")]
    Own(String),
}

impl CallError {
    /// Whether nothing of an answer had come: over another connection, the call may yet come through.
    const fn is_before_any_answer(&self) -> bool {
        match self {
            Self::Http { .. } | Self::Timeout { .. } => true,
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Answer { .. }
            | Self::Barred { .. }
            | Self::Everywhere { .. }
            | Self::NoPlace { .. }
            | Self::Own(_) => false,
        }
    }
}

/// Which of some addresses may be dialled.
pub type Filter<'f> = dyn Fn(&[SocketAddr]) -> Vec<SocketAddr> + Send + Sync + 'f;

/// Where a peer is called: at its operator-given URL, and where that fails, at those that it named itself.
pub struct Ways<'a> {
    /// What our operator has said.
    pub url: &'a PeerUrl,
    /// What the peer has said, the best first.
    pub named: &'a [PeerUrl],
    /// What of a named host's addresses may be dialled.
    pub may_dial: &'a Filter<'a>,
}

/// Makes one call to the peer-facing API behind `url`, and nowhere else.
///
/// # Errors
/// It didn't come through, at the step that the error names. Any HTTP status is a reply.
pub async fn call(tls: Arc<rustls::ClientConfig>, url: &PeerUrl, call: Call<'_>) -> Result<Reply, CallError> {
    let ways = Ways {
        url,
        named: &[],
        may_dial: &|_| Vec::new(),
    };
    call_by(tls, &ways, call).await
}

/// Makes one call to a peer's API, wherever it is reached first. Nothing is sent twice: another way is tried only until
/// one has led to the peer.
///
/// # Errors
/// It didn't come through, at the step that the error names. Any HTTP status is a reply.
pub async fn call_by(
    tls: Arc<rustls::ClientConfig>,
    ways: &Ways<'_>,
    call: Call<'_>,
) -> Result<Reply, CallError> {
    let whole = async {
        let (url, line) = reach(tls, ways).await?;
        Session::begin(line, None).await?.ask(url, &call).await
    };
    in_time(ways, whole).await
}

/// Makes one call over `kept`, if it comes through there, and else over a new connection, which is kept if `room` has a place
/// for it and the peer is at its operator-given URL. What is called must bear being called twice: a connection that has
/// gone stale may have carried the call before it broke.
///
/// # Errors
/// It didn't come through, at the step that the error names, and no connection is kept. Any HTTP status is a reply.
pub async fn call_over<E: From<CallError>>(
    kept: Option<Session>,
    tls: impl FnOnce() -> Result<Arc<rustls::ClientConfig>, E>,
    ways: &Ways<'_>,
    room: &Room,
    call: Call<'_>,
) -> Result<(Reply, Option<Session>), E> {
    let whole = async {
        if let Some(mut session) = kept {
            match within_a_way(ways.url, session.ask(ways.url, &call)).await {
                Ok(reply) => return Ok((reply, Some(session))),
                Err(error) if error.is_before_any_answer() => {
                    tracing::debug!(url = %ways.url, %error, "a kept connection has gone stale");
                }
                Err(error) => return Err(error.into()),
            }
        }
        let (url, line) = reach(tls()?, ways).await?;
        let is_at_its_url = url == ways.url;
        let mut session = Session::begin(line, room.place().filter(|_| is_at_its_url)).await?;
        let reply = session.ask(url, &call).await?;
        Ok((reply, Some(session).filter(Session::is_kept)))
    };
    in_time(ways, whole).await
}

/// Makes one call to a peer's API through a bridge: from this gateway's place in the network, to the address that the way
/// names and nowhere else.
///
/// # Errors
/// It didn't come through, at the step that the error names. Any HTTP status is a reply.
pub async fn call_within(
    tls: Arc<rustls::ClientConfig>,
    way: &OverlayWay,
    call: Call<'_>,
) -> Result<Reply, CallError> {
    let OverlayWay { seat, to } = way;
    let url = PeerUrl::new(&format!("https://{to}")).map_err(|error| CallError::Own(error.to_string()))?;
    let ways = Ways {
        url: &url,
        named: &[],
        may_dial: &|_| Vec::new(),
    };
    let whole = async {
        let seated = seat.socket().map_err(|source| CallError::NoPlace {
            network: seat.network.clone(),
            address: seat.address,
            source,
        })?;
        let stream = seated.socket.connect(*to).await;
        let stream = stream.map_err(|source| CallError::Connect { address: *to, source })?;
        // Small messages both ways: Nagle's algorithm would hold the second one back.
        let _ = stream.set_nodelay(true);
        let line = handshake(tls, &url, (*to, stream)).await?;
        Session::begin(line, None).await?.ask(&url, &call).await
    };
    in_time(&ways, whole).await
}

/// What takes longer than [`PATIENCE`] in all is given up.
async fn in_time<T, E: From<CallError>>(
    ways: &Ways<'_>,
    whole: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match tokio::time::timeout(PATIENCE, whole).await {
        Ok(outcome) => outcome,
        Err(_) => Err(CallError::Timeout {
            url: ways.url.clone(),
            within: PATIENCE,
        }
        .into()),
    }
}

/// A connection on whose other end is who was to be called.
struct Line {
    address: SocketAddr,
    stream: TlsStream<TcpStream>,
}

async fn reach<'a>(
    tls: Arc<rustls::ClientConfig>,
    ways: &Ways<'a>,
) -> Result<(&'a PeerUrl, Line), CallError> {
    if ways.named.is_empty() {
        return Ok((ways.url, open(tls, ways.url, None).await?));
    }
    let first = match within_a_way(ways.url, open(Arc::clone(&tls), ways.url, None)).await {
        Ok(line) => return Ok((ways.url, line)),
        Err(error) => error,
    };
    let mut others = Vec::new();
    for url in ways.named {
        match within_a_way(url, open(Arc::clone(&tls), url, Some(ways.may_dial))).await {
            Ok(line) => return Ok((url, line)),
            Err(error) => others.push(error.to_string()),
        }
    }
    Err(CallError::Everywhere {
        others: others.join("; "),
        first: Box::new(first),
    })
}

async fn within_a_way<T>(
    url: &PeerUrl,
    tried: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(WAY, tried).await {
        Ok(outcome) => outcome,
        Err(_) => Err(CallError::Timeout {
            url: url.clone(),
            within: WAY,
        }),
    }
}

/// Resolves once, and dials what that gave and nothing else.
async fn open(
    tls: Arc<rustls::ClientConfig>,
    url: &PeerUrl,
    may_dial: Option<&Filter<'_>>,
) -> Result<Line, CallError> {
    let unresolved = |source| CallError::Resolve {
        host: url.host().to_owned(),
        source,
    };
    let resolved = tokio::net::lookup_host((url.host(), url.port())).await;
    let mut addresses: Vec<SocketAddr> = resolved.map_err(unresolved)?.collect();
    if addresses.is_empty() {
        return Err(unresolved(io::ErrorKind::NotFound.into()));
    }
    if let Some(may_dial) = may_dial {
        addresses = may_dial(&addresses);
    }
    let (address, stream) = connect(&addresses).await.unwrap_or_else(|| {
        Err(CallError::Barred {
            host: url.host().to_owned(),
        })
    })?;
    handshake(tls, url, (address, stream)).await
}

async fn handshake(
    tls: Arc<rustls::ClientConfig>,
    url: &PeerUrl,
    (address, stream): (SocketAddr, TcpStream),
) -> Result<Line, CallError> {
    let name =
        ServerName::try_from(url.host().to_owned()).map_err(|error| CallError::Own(error.to_string()))?;
    let stream = TlsConnector::from(tls)
        .connect(name, stream)
        .await
        .map_err(|source| CallError::Tls { address, source })?;
    Ok(Line { address, stream })
}

/// Connects to the first of `addresses` that answers: each has a start of [`STAGGER`] over the next, and a refusal starts
/// the next at once (RFC 8305, section 5). None where there is no address.
async fn connect(addresses: &[SocketAddr]) -> Option<Result<(SocketAddr, TcpStream), CallError>> {
    let mut waiting = interleaved(addresses).into_iter();
    let mut last = None;
    let mut tries = FuturesUnordered::new();
    loop {
        let next = waiting.next();
        let is_last = next.is_none();
        if let Some(address) = next {
            tries.push(async move {
                match TcpStream::connect(address).await {
                    Ok(stream) => Ok((address, stream)),
                    Err(source) => Err(CallError::Connect { address, source }),
                }
            });
        } else if tries.is_empty() {
            return last.map(Err);
        }
        let head_start = async {
            if is_last {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(STAGGER).await;
        };
        tokio::select! {
            Some(outcome) = tries.next() => match outcome {
                Ok((address, stream)) => {
                    // Small messages both ways: Nagle's algorithm would hold the second one back.
                    let _ = stream.set_nodelay(true);
                    return Some(Ok((address, stream)));
                }
                Err(error) => last = Some(error),
            },
            () = head_start => {}
        }
    }
}

/// The families by turns, the first one first (RFC 8305, section 4): one that leads nowhere holds up the other only once.
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().partition(|address| address.is_ipv6() == is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut order = Vec::new();
    while order.len() < addresses.len() {
        order.extend(first.next());
        order.extend(second.next());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpSocket};

    /// A listener whose queue is full: what knocks there gets no answer (`net.ipv4.tcp_abort_on_overflow = 0`).
    async fn swallowing() -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        for _ in 0..64 {
            let knock = TcpStream::connect(address);
            match tokio::time::timeout(Duration::from_millis(300), knock).await {
                Ok(stream) => queue.push(stream.unwrap()),
                Err(_) => return (listener, queue),
            }
        }
        panic!("the queue of a listener with a backlog of 1 is never full");
    }

    #[tokio::test]
    async fn an_address_that_swallows_packets_holds_nobody_up() {
        let (swallows, _queue) = swallowing().await;
        let answers = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [swallows.local_addr().unwrap(), answers.local_addr().unwrap()];
        let reached = tokio::time::timeout(Duration::from_secs(5), connect(&addresses));
        let (address, _) = reached.await.expect("in time").unwrap().unwrap();
        assert_eq!(address, addresses[1]);
    }

    #[tokio::test]
    async fn a_refusal_starts_the_next_and_the_last_one_is_told() {
        let closed = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let answers = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let found = connect(&[closed, answers.local_addr().unwrap()]).await;
        assert_eq!(found.unwrap().unwrap().0, answers.local_addr().unwrap());
        let refused = connect(&[closed, closed]).await.unwrap();
        assert!(matches!(refused, Err(CallError::Connect { address, .. }) if address == closed));
        assert!(connect(&[]).await.is_none());
    }

    #[test]
    fn families_take_turns() {
        let of =
            |texts: &[&str]| -> Vec<SocketAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        assert_eq!(
            interleaved(&of(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"])),
            of(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"])
        );
        assert_eq!(
            interleaved(&of(&["1.1.1.1:1", "[::1]:1"])),
            of(&["1.1.1.1:1", "[::1]:1"])
        );
        assert_eq!(interleaved(&[]), []);
    }
}
