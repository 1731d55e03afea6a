//! Calls to a peer: resolved once, TLS 1.3 by that peer's anchors alone, no proxy, no redirect, 10 s and 64 KiB in all.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::url::PeerUrl;
use super::wire::{API, MAX_BODY};

/// How long a call may take, from the name to the last byte.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// What stands in `data`; the whole body where there is no such envelope.
    pub data: Value,
    /// What stands in `error`, if anything does.
    pub error: Option<String>,
    /// The chain that the listener showed.
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
    #[error("no answer of {url} within {} s", PATIENCE.as_secs())]
    Timeout {
        /// Where.
        url: PeerUrl,
    },
    /// The call can't be written: a fault of ours.
    #[error("the call can't be written: {0}")]
    Own(String),
}

/// Makes one call to the peer-facing API behind `url`.
///
/// # Errors
/// It didn't come through, at the step that the error names. Any HTTP status is a reply.
pub async fn call(tls: Arc<rustls::ClientConfig>, url: &PeerUrl, call: Call<'_>) -> Result<Reply, CallError> {
    match tokio::time::timeout(PATIENCE, exchange(tls, url, call)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(CallError::Timeout { url: url.clone() }),
    }
}

async fn exchange(tls: Arc<rustls::ClientConfig>, url: &PeerUrl, call: Call<'_>) -> Result<Reply, CallError> {
    let (address, stream) = connect(url).await?;
    let name =
        ServerName::try_from(url.host().to_owned()).map_err(|error| CallError::Own(error.to_string()))?;
    let tls_error = |source| CallError::Tls { address, source };
    let stream = TlsConnector::from(tls)
        .connect(name, stream)
        .await
        .map_err(tls_error)?;
    let chain = stream
        .get_ref()
        .1
        .peer_certificates()
        .unwrap_or_default()
        .to_vec();
    let http = |source| CallError::Http { address, source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(http)?;
    let mut request = Request::builder()
        .method(call.method)
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
    let request = request
        .body(Full::new(Bytes::from(call.body.unwrap_or_default())))
        .map_err(|error| CallError::Own(error.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(http)?;
        let status = response.status().as_u16();
        let limited = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let unsound = |reason: String| CallError::Answer { address, reason };
        let bytes = limited.map_err(|error| unsound(error.to_string()))?.to_bytes();
        let body: Value = serde_json::from_slice(&bytes).map_err(|error| unsound(error.to_string()))?;
        Ok((status, body))
    };
    // The connection is driven while the answer is awaited, and goes when both are done.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    let (status, mut body) = tokio::select! {
        answer = answer => answer?,
        () = driven => return Err(CallError::Answer { address, reason: "it ended early".to_owned() }),
    };
    let error = body.get("error").and_then(Value::as_str).map(str::to_owned);
    let data = body.get_mut("data").map(Value::take);
    Ok(Reply {
        status,
        data: data.unwrap_or(body),
        error,
        chain,
    })
}

async fn connect(url: &PeerUrl) -> Result<(SocketAddr, TcpStream), CallError> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((url.host(), url.port()))
        .await
        .map_err(|source| CallError::Resolve {
            host: url.host().to_owned(),
            source,
        })?
        .collect();
    let mut last = CallError::Resolve {
        host: url.host().to_owned(),
        source: io::ErrorKind::NotFound.into(),
    };
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Small messages both ways: Nagle's algorithm would hold the second one back.
                let _ = stream.set_nodelay(true);
                return Ok((address, stream));
            }
            Err(source) => last = CallError::Connect { address, source },
        }
    }
    Err(last)
}
