//! The listeners for operators. Each says by which way a request came; what that allows, [`super::ways`] says.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::ways::Arrival;
use crate::api::limits::Limits;
use crate::api::listener::{HEADERS, accept, handshake, http, stopped};

/// How long a connection over TCP takes requests: who sends nothing sound can't keep it.
const LIFE: Duration = Duration::from_secs(30);

/// Serves the router over TCP until `stop` says true: by https, or without `tls` by plain http.
pub async fn tcp(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    limits: Arc<Limits>,
    stop: watch::Receiver<bool>,
) {
    let tls = tls.map(TlsAcceptor::from);
    accept(listener, limits, stop, |stream, counted, mut stop| {
        let (tls, router) = (tls.clone(), router.clone());
        async move {
            let enough = async {
                tokio::select! {
                    () = stopped(&mut stop) => {}
                    () = tokio::time::sleep(LIFE) => {}
                }
            };
            match tls {
                None => http(stream, router, Arrival::Tcp, HEADERS, enough).await,
                Some(tls) => {
                    if let Some(stream) = handshake(stream, counted.source, &tls).await {
                        http(stream, router, Arrival::Tcp, HEADERS, enough).await;
                    }
                }
            }
            drop(counted);
        }
    })
    .await;
}

/// Serves the router on a socket of this host until `stop` says true. `way` says what a user who may open it came by.
pub async fn unix(
    listener: UnixListener,
    way: fn(uid: u32) -> Arrival,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut stop) => return,
            accepted = listener.accept() => accepted,
        };
        let known = accepted.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream)));
        match known {
            Ok((uid, stream)) => {
                let (router, mut stop) = (router.clone(), stop.clone());
                tokio::spawn(
                    async move { http(stream, router, way(uid), HEADERS, stopped(&mut stop)).await },
                );
            }
            Err(error) => {
                // Out of descriptors, most likely: give others the time to close some.
                tracing::warn!(%error, "can't accept an operator's connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
