//! 10,000 peers at one beat a minute, in real time: each beats the gateway, and the gateway each of them.
//!
//! Every peer has an address of its own in 127.1.0.0/16, where this process answers for it; or nobody does, as for sites that
//! can't be dialled.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use sdwand::federation::peer::Status;
use sdwand::federation::pki::tls::{CurrentLeaf, PossessionOnly, server_config};
use sdwand::federation::version::{self, Rules};
use sdwand::federation::wire::{HeartbeatAnswer, HeartbeatRequest, TrustNews};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio_rustls::TlsAcceptor;

use crate::audit::{ask, millis};
use crate::daemon::{Daemon, Layout, wall};
use crate::figure;
use crate::load::{Caller, Target};
use crate::sites::{Site, Sites};

const PEERS: usize = 10_000;
const INTERVAL: Duration = Duration::from_secs(60);
/// Everyone is heard of once, with all that a start brings, before anything is measured.
const BEFORE: Duration = Duration::from_secs(80);
const MEASURED: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Counts {
    beats: AtomicU64,
    opened: AtomicU64,
    failed: AtomicU64,
    answered: AtomicU64,
    accepted: AtomicU64,
}

impl Counts {
    fn take(&self) -> [u64; 5] {
        [
            &self.beats,
            &self.opened,
            &self.failed,
            &self.answered,
            &self.accepted,
        ]
        .map(|count| count.swap(0, Ordering::Relaxed))
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// Who can be called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ways {
    /// Everyone.
    Both,
    /// The gateway alone: its own calls are refused where the peers should be.
    Inbound,
}

pub(crate) async fn ten_thousand(ways: Ways) {
    let layout = Layout::new("hub", 1);
    let sites = Arc::new(Sites::draw(PEERS));
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let urls: Arc<Vec<String>> = Arc::new(
        (0..PEERS)
            .map(|n| format!("https://127.1.{}.{}:{port}", n >> 8, n & 0xff))
            .collect(),
    );
    sites.write_into(&layout, &urls);
    let counts = Arc::new(Counts::default());
    let what = match ways {
        Ways::Both => {
            let (sites, urls) = (Arc::clone(&sites), Arc::clone(&urls));
            tokio::spawn(answer_all(listener, sites, urls, Arc::clone(&counts)));
            "10,000 peers, a beat a minute each way"
        }
        Ways::Inbound => {
            drop(listener);
            "10,000 peers that can't be dialled, a beat a minute"
        }
    };
    let daemon = Daemon::start(&layout).await;
    let beating = tokio::spawn(beat_all(Target::of(&layout), sites, urls, Arc::clone(&counts)));
    tokio::time::sleep(BEFORE).await;
    counts.take();
    let (cpu, begun) = (daemon.cpu(), Instant::now());
    tokio::time::sleep(MEASURED).await;
    let (cpu, took) = (daemon.cpu().saturating_sub(cpu), begun.elapsed());
    let [beats, opened, failed, answered, accepted] = counts.take();
    figure(
        &format!("{what}: CPU of the gateway, of one core"),
        &format!("{:.1} %", 100.0 * cpu.as_secs_f64() / took.as_secs_f64()),
    );
    figure(
        "the same: resident memory, and its peak",
        &format!("{:.0} MiB, {:.0} MiB", daemon.resident(), daemon.peak()),
    );
    figure(
        "the same: beats taken (over new connections), beats made (over new connections) a second, open files",
        &format!(
            "{:.0} ({:.0}), {:.0} ({:.0}), {}",
            per_second(beats, took),
            per_second(opened, took),
            per_second(answered, took),
            per_second(accepted, took),
            daemon.open_files()
        ),
    );
    let (spans, _) = ask(&daemon, "/api/v1/system/platform/peers", 100).await;
    figure(
        "the same: list all peers meanwhile, p50 and p99",
        &format!("{:.1} ms, {:.1} ms", millis(spans[50]), millis(spans[99])),
    );
    assert_eq!(failed, 0, "every beat is answered");
    assert_eq!(daemon.count("active").await, PEERS, "everyone is active");
    beating.abort();
}

fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// Beats, spread evenly over the interval; each site over the connection that it has, or a new one where that has ended.
async fn beat_all(target: Target, sites: Arc<Sites>, urls: Arc<Vec<String>>, counts: Arc<Counts>) {
    let callers: Arc<Vec<Mutex<Option<Caller>>>> = Arc::new((0..PEERS).map(|_| Mutex::default()).collect());
    // One source may have 8 connections before it is known who calls.
    let opening = Arc::new(Semaphore::new(6));
    let mut sequence = 0;
    loop {
        let begun = Instant::now();
        sequence += 1;
        for n in 0..PEERS {
            let at = begun + INTERVAL.mul_f64(n as f64 / PEERS as f64);
            tokio::time::sleep_until(at.into()).await;
            let (target, site, url) = (target.clone(), Arc::clone(&sites.0[n]), urls[n].clone());
            let (callers, counts, opening) =
                (Arc::clone(&callers), Arc::clone(&counts), Arc::clone(&opening));
            tokio::spawn(async move {
                let body = Site::beat(&url, sequence);
                let mut caller = callers[n].lock().await;
                if let Some(kept) = caller.as_mut()
                    && kept.beat(body.clone()).await == Ok(200)
                {
                    add(&counts.beats);
                    return;
                }
                let _turn = opening.acquire().await.unwrap();
                *caller = None;
                add(&counts.opened);
                match Caller::open(&target, &site).await {
                    Ok(mut fresh) => match fresh.beat(body).await {
                        Ok(200) => {
                            add(&counts.beats);
                            *caller = Some(fresh);
                        }
                        bad => {
                            eprintln!("a beat of {n}: {bad:?}");
                            add(&counts.failed);
                        }
                    },
                    Err(error) => {
                        eprintln!("a connection of {n}: {error}");
                        add(&counts.failed);
                    }
                }
            });
        }
        tokio::time::sleep_until((begun + INTERVAL).into()).await;
    }
}

/// Answers the gateway's beats, as the site whose address it has called.
async fn answer_all(listener: TcpListener, sites: Arc<Sites>, urls: Arc<Vec<String>>, counts: Arc<Counts>) {
    let verifier = Arc::new(PossessionOnly::default());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let n = number(stream.local_addr().unwrap());
        add(&counts.accepted);
        let leaf = Arc::new(CurrentLeaf::new(&sites.0[n].serves).unwrap());
        let tls = server_config(leaf, Arc::clone(&verifier)).unwrap();
        let (urls, counts) = (Arc::clone(&urls), Arc::clone(&counts));
        tokio::spawn(answer(stream, TlsAcceptor::from(Arc::new(tls)), n, urls, counts));
    }
}

fn number(address: SocketAddr) -> usize {
    match address.ip() {
        IpAddr::V4(address) => (address.to_bits() & 0xffff) as usize,
        IpAddr::V6(_) => unreachable!("it listens on IPv4 alone"),
    }
}

async fn answer(stream: TcpStream, tls: TlsAcceptor, n: usize, urls: Arc<Vec<String>>, counts: Arc<Counts>) {
    stream.set_nodelay(true).unwrap();
    let Ok(stream) = tls.accept(stream).await else {
        return;
    };
    let service = service_fn(|request: Request<Incoming>| {
        let (urls, counts) = (Arc::clone(&urls), Arc::clone(&counts));
        async move {
            let bytes = request.into_body().collect().await.unwrap().to_bytes();
            let asked: HeartbeatRequest = serde_json::from_slice(&bytes).unwrap();
            let own = env!("CARGO_PKG_VERSION");
            let answer = HeartbeatAnswer {
                status: Status::Active,
                last_heartbeat_at: wall(),
                our_endpoints: Site::endpoints(&urls[n]),
                schema_compatibility: version::compatibility(own, Some(own), &Rules::default()),
                nonce: asked.nonce,
                sequence: asked.sequence,
                ledger_epoch: 1,
                audit_head: format!("1:{}", "0".repeat(64)),
                witnessed: None,
                cluster: None,
                spawn_mode: None,
                bridges: None,
                trust: TrustNews {
                    trust_sequence: Some(1),
                    known_trust_sequence: Some(1),
                    ca_bundle_pem: None,
                },
                said: sdwand::federation::wire::Said::default(),
            };
            add(&counts.answered);
            let body = json!({ "success": true, "data": answer }).to_string();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body))))
        }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ = connection.await;
}
