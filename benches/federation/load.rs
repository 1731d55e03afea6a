//! Beats, as fast as a few callers make them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use sdwand::federation::pki::tls::{Callee, client_config};
use sdwand::federation::site::SiteId;
use sdwand::federation::wire::API;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::daemon::Layout;
use crate::sites::{Site, Sites, nowhere};

/// Whom the callers call.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) anchor: CertificateDer<'static>,
    pub(crate) site: SiteId,
}

impl Target {
    pub(crate) fn of(layout: &Layout) -> Self {
        Self {
            address: ([127, 0, 0, 1], layout.port).into(),
            anchor: layout.anchor(),
            site: layout.site.clone(),
        }
    }
}

/// A site's connection to the gateway.
pub(crate) struct Caller {
    sender: SendRequest<Full<Bytes>>,
}

impl Caller {
    pub(crate) async fn open(target: &Target, site: &Site) -> Result<Self, String> {
        let callee = Callee::Known {
            anchors: vec![target.anchor.clone()],
            site: target.site.clone(),
        };
        let config = client_config(callee, Some(&site.leaf)).map_err(|error| error.to_string())?;
        let stream = TcpStream::connect(target.address)
            .await
            .map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// One beat; its status.
    pub(crate) async fn beat(&mut self, body: Vec<u8>) -> Result<u16, String> {
        self.sender.ready().await.map_err(|error| error.to_string())?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{API}/heartbeat"))
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = self
            .sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        response
            .into_body()
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        Ok(status)
    }
}

/// What was done, and what it cost the other side.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    done: u64,
    cpu: Duration,
}

impl Cost {
    pub(crate) fn per_core(self) -> f64 {
        self.done as f64 / self.cpu.as_secs_f64()
    }
}

/// Beats for `span`, each site over the one connection that it has.
pub(crate) async fn kept(target: &Target, sites: &Sites, span: Duration, cpu: &dyn Fn() -> Duration) -> Cost {
    let mut callers = Vec::new();
    for (n, site) in sites.0.iter().enumerate() {
        let mut caller = Caller::open(target, site).await.unwrap();
        assert_eq!(caller.beat(Site::beat(&nowhere(n), 1)).await.unwrap(), 200);
        callers.push(caller);
    }
    let (before, until) = (cpu(), Instant::now() + span);
    let tasks = callers.into_iter().enumerate().map(|(n, mut caller)| {
        tokio::spawn(async move {
            let mut done = 0;
            while Instant::now() < until {
                done += 1;
                let status = caller.beat(Site::beat(&nowhere(n), done)).await.unwrap();
                assert_eq!(status, 200);
            }
            done
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.unwrap();
    }
    Cost {
        done,
        cpu: cpu().saturating_sub(before),
    }
}

/// Beats for `span`, each over a connection of its own.
pub(crate) async fn fresh(
    target: &Target,
    sites: &Sites,
    span: Duration,
    cpu: &dyn Fn() -> Duration,
) -> Cost {
    let (before, until) = (cpu(), Instant::now() + span);
    let tasks = sites.0.iter().enumerate().map(|(n, site)| {
        let (target, site) = (target.clone(), Arc::clone(site));
        tokio::spawn(async move {
            let mut done = 0;
            while Instant::now() < until {
                done += 1;
                let mut caller = Caller::open(&target, &site).await.unwrap();
                let status = caller.beat(Site::beat(&nowhere(n), done)).await.unwrap();
                assert_eq!(status, 200);
            }
            done
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.unwrap();
    }
    Cost {
        done,
        cpu: cpu().saturating_sub(before),
    }
}
