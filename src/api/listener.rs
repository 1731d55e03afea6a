//! The listeners: TLS first, then HTTP/1.1, each within its time; and who is on the other end goes with every request.
//!
//! Before it is known who calls, connections are few for each source and for all together, and short. A site that is
//! known keeps its connection between beats, if there aren't too many such already, and no longer counts. Where there are,
//! its connection ends with its first answer.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt as _;

use super::federation_api::{Caller, Serving};
use super::limits::{Limits, Source};
use super::pace::{Pace, Paced};
use crate::federation::gateway::Refused;
use crate::federation::overlay::Post;
use crate::federation::peer::{PeerId, Status};
use crate::model::Name;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the head of a request may take, and an idle connection may stay.
pub(super) const HEADERS: Duration = Duration::from_secs(5);
/// The same for a known peer whose connection is kept: longer than it is between two beats (60 s, and less than 90 s at the
/// other end), so that who has beaten ends it.
const KEPT: Duration = Duration::from_secs(100);
/// How long a peer that was stopped may hear so over the connection that it has.
const HEARS: Duration = Duration::from_secs(1);
/// How long a request that is under way may take to end once its connection is told to.
const LAST: Duration = Duration::from_secs(15);
/// How long a connection of somebody unknown may last in all.
const STRANGERS: Duration = Duration::from_secs(30);
/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Serves peers until `stop` says true.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    serving: Serving,
    stop: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let router = super::federation_api::router(serving.clone());
    let limits = Arc::clone(&serving.limits);
    accept(listener, limits, stop, |stream, counted, stop| {
        peer(
            stream,
            counted,
            acceptor.clone(),
            router.clone(),
            serving.clone(),
            stop,
        )
    })
    .await;
}

/// Serves the peers whose bridges lead here, from inside a network, until `stop` says true. What the post says holds for the
/// connections that are there, too: one whose bridge leads here no more ends, and all of them do when the post is dropped.
pub async fn serve_within(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    serving: Serving,
    post: watch::Receiver<Post>,
    stop: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let router = super::federation_api::router(serving.clone());
    let limits = Arc::clone(&serving.limits);
    accept(listener, limits, stop, |stream, counted, stop| {
        within(
            stream,
            counted,
            acceptor.clone(),
            router.clone(),
            serving.clone(),
            (post.clone(), stop),
        )
    })
    .await;
}

/// Takes connections until `stop` says true: few from each source, and each for itself.
pub(super) async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    limits: Arc<Limits>,
    mut stop: watch::Receiver<bool>,
    connection: impl Fn(TcpStream, Counted, watch::Receiver<bool>) -> F,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, source)) => {
                if !limits.may_connect(source.ip()) {
                    tracing::debug!(source = %source.ip(), "too many connections from there");
                    continue;
                }
                let counted = Counted {
                    limits: Arc::clone(&limits),
                    source,
                };
                // Small messages both ways: Nagle's algorithm would hold the second one back.
                let _ = stream.set_nodelay(true);
                tokio::spawn(connection(stream, counted, stop.clone()));
            }
            Err(error) => {
                // Out of descriptors, most likely: give others the time to close some.
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Waits until it is said that all should stop, or nobody is left to say so.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Counts a connection down, however it ends.
pub(super) struct Counted {
    limits: Arc<Limits>,
    /// Where it is from.
    pub(super) source: SocketAddr,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.limits.closed(self.source.ip());
    }
}

/// The TLS of a connection, within its time.
pub(super) async fn handshake(
    stream: TcpStream,
    source: SocketAddr,
    acceptor: &TlsAcceptor,
) -> Option<TlsStream<TcpStream>> {
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(source = %source.ip(), %error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// The HTTP of a connection: `who` goes with every request. `idle` is how long each may be waited for; once it begins, its
/// head has [`HEADERS`]. Once `enough` is there, the request under way is the last.
pub(super) async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    who: impl Clone + Send + Sync + 'static,
    idle: Duration,
    enough: impl Future<Output = ()>,
) {
    speak(stream, router, who, Some(idle), enough).await;
}

/// The same; without `idle`, the connection ends with its first answer, which says so.
async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    who: impl Clone + Send + Sync + 'static,
    idle: Option<Duration>,
    enough: impl Future<Output = ()>,
) {
    let pace = Pace::default();
    let service = hyper::service::service_fn(|request| {
        pace.turn();
        let (answered, pace) = (answer(router.clone(), who.clone(), request), pace.clone());
        async move {
            let response = answered.await;
            pace.turn();
            response
        }
    });
    let stream = Paced::new(stream, pace.clone(), HEADERS);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(idle.is_some())
        .header_read_timeout(idle.unwrap_or(HEADERS))
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = enough => {
            connection.as_mut().graceful_shutdown();
            // Who doesn't read its answer, or end its request, isn't waited for.
            tokio::time::timeout(LAST, connection.as_mut()).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// A connection from inside a network: of the peer whose bridge its source is behind, or of nobody.
async fn within(
    stream: TcpStream,
    counted: Counted,
    acceptor: TlsAcceptor,
    router: Router,
    serving: Serving,
    (mut post, mut stop): (watch::Receiver<Post>, watch::Receiver<bool>),
) {
    let source = counted.source;
    let refused = |reason| {
        let counts_as = Source::from(source.ip());
        let wall = (serving.wall)();
        serving
            .gateway
            .refused(Refused::Stranger, counts_as.into(), reason, wall);
    };
    let expected = post.borrow().caller(source.ip());
    let Some(expected) = expected else {
        return refused("outside_bridge");
    };
    let Some(stream) = handshake(stream, source, &acceptor).await else {
        return;
    };
    let caller = caller(&stream, source, Some(post.borrow().seat.network.clone()));
    let known = serving.gateway.identify(&caller.chain, (serving.wall)());
    match known {
        Ok(known) if known.id == expected => {}
        Ok(_) => return refused("another_peers_bridge"),
        Err(stranger) => return refused(stranger.code()),
    }
    let leads_elsewhere = async {
        // An error is the end of the post, and of the listener.
        let _ = post
            .wait_for(|post| post.caller(source.ip()) != Some(expected))
            .await;
    };
    let enough = async {
        tokio::select! {
            () = stopped(&mut stop) => {}
            () = turned_away(&serving, expected) => {}
            () = leads_elsewhere => {}
        }
    };
    stay(stream, counted, expected, (router, caller), enough).await;
}

/// Who is on the other end of a connection.
fn caller(stream: &TlsStream<TcpStream>, source: SocketAddr, network: Option<Name>) -> Caller {
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Caller {
        chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
        source,
        network,
    }
}

/// A connection of a peer, or of a stranger.
async fn peer(
    stream: TcpStream,
    counted: Counted,
    acceptor: TlsAcceptor,
    router: Router,
    serving: Serving,
    mut stop: watch::Receiver<bool>,
) {
    let source = counted.source;
    let Some(stream) = handshake(stream, source, &acceptor).await else {
        return;
    };
    // Bridges bring listeners of their own.
    let caller = caller(&stream, source, None);
    let Ok(known) = serving.gateway.identify(&caller.chain, (serving.wall)()) else {
        tokio::select! {
            () = http(stream, router, caller, HEADERS, stopped(&mut stop)) => {}
            () = tokio::time::sleep(STRANGERS) => {}
        }
        return;
    };
    let enough = async {
        tokio::select! {
            () = stopped(&mut stop) => {}
            () = turned_away(&serving, known.id) => {}
        }
    };
    stay(stream, counted, known.id, (router, caller), enough).await;
}

/// The HTTP of a peer that is known: it no longer counts as somebody unknown.
async fn stay(
    stream: TlsStream<TcpStream>,
    counted: Counted,
    peer: PeerId,
    (router, caller): (Router, Caller),
    enough: impl Future<Output = ()>,
) {
    let limits = Arc::clone(&counted.limits);
    drop(counted);
    if !limits.may_stay(peer) {
        tracing::debug!(%peer, "it has too many connections");
        return;
    }
    let staying = Staying {
        is_kept: limits.may_keep(),
        limits,
        peer,
    };
    // Who would have to open another for its next beat anyhow isn't waited for.
    let idle = staying.is_kept.then_some(KEPT);
    speak(stream, router, caller, idle, enough).await;
}

/// Counts a known peer's connection down, however it ends.
struct Staying {
    limits: Arc<Limits>,
    peer: PeerId,
    is_kept: bool,
}

impl Drop for Staying {
    fn drop(&mut self) {
        self.limits.left(self.peer);
        if self.is_kept {
            self.limits.unkept();
        }
    }
}

/// Waits until a peer may no longer call, and has had the time to hear so: its connections end then, whatever they are in the
/// middle of. Nobody is woken while all may.
async fn turned_away(serving: &Serving, id: PeerId) {
    let ledger = &serving.gateway.ledger;
    // From before the first look on: nothing that comes between is missed.
    let mut stops = ledger.stops();
    let may_call = || {
        let status = ledger.read(|book| book.peer(&id).map(|peer| peer.status));
        status.is_some_and(Status::may_call)
    };
    while may_call() {
        if stops.changed().await.is_err() {
            return;
        }
        // All are woken, whoever was stopped.
        if !may_call() {
            tokio::time::sleep(HEARS).await;
        }
    }
}

/// One request, with who makes it.
async fn answer(
    router: Router,
    who: impl Clone + Send + Sync + 'static,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    request.extensions_mut().insert(who);
    router.oneshot(request.map(Body::new)).await
}
