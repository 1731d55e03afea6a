//! The listener for peers: TLS first, then HTTP/1.1, each within its time; and who is on the other end goes with every
//! request.
//!
//! Before it is known who calls, connections are few for each source and for all together, and short. A site that is
//! known keeps its connection, and no longer counts.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::federation_api::{Caller, Serving};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the head of a request may take, and an idle connection may stay.
const HEADERS: Duration = Duration::from_secs(5);
/// How long a connection of somebody unknown may last in all.
const STRANGERS: Duration = Duration::from_secs(30);
/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Serves until `stop` says true.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    serving: Serving,
    mut stop: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let router = super::federation_api::router(serving.clone());
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, source)) => {
                if !serving.limits.may_connect(source.ip()) {
                    tracing::debug!(source = %source.ip(), "too many connections from there");
                    continue;
                }
                let connection = Connection {
                    acceptor: acceptor.clone(),
                    router: router.clone(),
                    serving: serving.clone(),
                    source,
                };
                let stop = stop.clone();
                tokio::spawn(async move { connection.run(stream, stop).await });
            }
            Err(error) => {
                // Out of descriptors, most likely: give others the time to close some.
                tracing::warn!(%error, "can't accept a connection of a peer");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Waits until it is said that all should stop, or nobody is left to say so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

struct Connection {
    acceptor: TlsAcceptor,
    router: Router,
    serving: Serving,
    source: SocketAddr,
}

/// Counts a connection down, however it ends.
struct Counted<'a>(&'a Serving, SocketAddr);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.limits.closed(self.1.ip());
    }
}

impl Connection {
    async fn run(self, stream: TcpStream, mut stop: watch::Receiver<bool>) {
        let counted = Counted(&self.serving, self.source);
        // Small messages both ways: Nagle's algorithm would hold the second one back.
        let _ = stream.set_nodelay(true);
        let stream = match tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(source = %self.source.ip(), %error, "a TLS handshake failed");
                return;
            }
            Err(_) => return,
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let caller = Caller {
            chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
            source: self.source,
            // Bridges bring listeners of their own.
            network: None,
        };
        let wall = (self.serving.wall)();
        let is_known = self.serving.gateway.identify(&caller.chain, wall).is_ok();
        let counted = if is_known {
            drop(counted);
            None
        } else {
            Some(counted)
        };
        let service =
            hyper::service::service_fn(|request| answer(self.router.clone(), caller.clone(), request));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let late = tokio::time::sleep(STRANGERS);
        tokio::pin!(late);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = late.as_mut(), if counted.is_some() => Ok(()),
            () = stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(source = %self.source.ip(), %error, "a connection of a peer broke off");
        }
    }
}

/// One request, with who makes it.
async fn answer(
    router: Router,
    caller: Caller,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    request.extensions_mut().insert(caller);
    router.oneshot(request.map(Body::new)).await
}
