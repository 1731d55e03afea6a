//! A connection to a peer, over which calls go one after another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Call, CallError, Line, Reply};
use crate::federation::url::PeerUrl;
use crate::federation::wire::{API, MAX_BODY};

/// How long a connection is kept, however often it is used: the certificates that were shown on it, and where the peer's
/// name leads, are looked at again.
const LIFE: Duration = Duration::from_secs(3_600);

/// How many connections are kept, and how long one without a call.
#[derive(Clone, Debug)]
pub struct Room {
    places: Arc<Semaphore>,
    idle: Duration,
}

impl Room {
    /// For `most` connections, each of which ends when it had no call for `idle`.
    #[must_use]
    pub fn new(most: usize, idle: Duration) -> Self {
        Self {
            places: Arc::new(Semaphore::new(most)),
            idle,
        }
    }

    /// A place for one more, until it has ended.
    pub(super) fn place(&self) -> Option<Place> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Place {
            permit,
            idle: self.idle,
        })
    }
}

/// A connection's place among those that are kept.
pub(super) struct Place {
    permit: OwnedSemaphorePermit,
    idle: Duration,
}

/// A connection on whose other end is who was to be called. It ends when it is dropped.
pub struct Session {
    address: SocketAddr,
    /// What the listener showed, until an answer has told of it.
    chain: Vec<CertificateDer<'static>>,
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    since: Instant,
    /// When it last had a call; none where it isn't kept.
    used: Option<watch::Sender<Instant>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.address)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    /// Begins to speak HTTP/1.1. With a place, the connection can be kept, and ends by itself once it is idle.
    pub(super) async fn begin(line: Line, place: Option<Place>) -> Result<Self, CallError> {
        let Line { address, stream } = line;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain = shown.iter().map(|der| der.clone().into_owned()).collect();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| CallError::Http { address, source })?;
        let since = Instant::now();
        let (used, last_use) = watch::channel(since);
        let is_kept = place.is_some();
        let driver = tokio::spawn(async move {
            let Some(Place { permit, idle }) = place else {
                // Whoever awaits the answer hears how it ended.
                let _ = connection.await;
                return;
            };
            tokio::select! {
                _ = connection => {}
                () = unused_for(idle, last_use) => {}
            }
            drop(permit);
        });
        Ok(Self {
            address,
            chain,
            sender,
            driver,
            since,
            used: Some(used).filter(|_| is_kept),
        })
    }

    /// Whether it has a place among those that are kept, and the other side hasn't ended it.
    pub(super) fn is_kept(&self) -> bool {
        self.used.is_some() && !self.sender.is_closed()
    }

    /// Whether it is good for another call.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.is_kept() && self.since.elapsed() < LIFE
    }

    /// Makes a call, and waits for all of its answer.
    pub(super) async fn ask(&mut self, url: &PeerUrl, call: &Call<'_>) -> Result<Reply, CallError> {
        let address = self.address;
        let http = |source| CallError::Http { address, source };
        let request = written(url, call)?;
        if let Some(used) = &self.used {
            used.send_replace(Instant::now());
        }
        self.sender.ready().await.map_err(http)?;
        let response = self.sender.send_request(request).await.map_err(http)?;
        let status = response.status().as_u16();
        let unsound = |reason: String| CallError::Answer { address, reason };
        let limited = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let bytes = limited.map_err(|error| unsound(error.to_string()))?.to_bytes();
        let mut body: Value = serde_json::from_slice(&bytes).map_err(|error| unsound(error.to_string()))?;
        let error = body.get("error").and_then(Value::as_str).map(str::to_owned);
        let data = body.get_mut("data").map(Value::take);
        Ok(Reply {
            status,
            data: data.unwrap_or(body),
            error,
            chain: std::mem::take(&mut self.chain),
        })
    }
}

/// Waits until the last use was `idle` ago.
async fn unused_for(idle: Duration, last_use: watch::Receiver<Instant>) {
    loop {
        let until = *last_use.borrow() + idle;
        if until <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

fn written(url: &PeerUrl, call: &Call<'_>) -> Result<Request<Full<Bytes>>, CallError> {
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(format!("{}{API}/{}", url.path(), call.path))
        .header("host", url.authority())
        .header("user-agent", concat!("sdwand/", env!("CARGO_PKG_VERSION")))
        .header("accept", "application/json")
        .header("content-type", "application/json");
    if let Some(bearer) = call.bearer {
        let own = |_| CallError::Own("the token has bytes that a header can't carry".to_owned());
        let mut value = HeaderValue::try_from(format!("Bearer {bearer}")).map_err(own)?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request
        .body(Full::new(Bytes::from(call.body.clone().unwrap_or_default())))
        .map_err(|error| CallError::Own(error.to_string()))
}
