//! Strangers who knock as fast as they can, while a peer beats.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use sdwand::federation::pki::Leaf;
use sdwand::federation::pki::tls::{Callee, client_config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::site::{Site, enrolled, node, wall};

/// What a beat may take and still be on time: a thirtieth of the default interval.
const ON_TIME: Duration = Duration::from_secs(2);
const BEATS: u32 = 1_000;

/// Connects from another loopback address: another source.
async fn connect(from: u8, site: &Site) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, from], 0).into())?;
    socket.connect(site.address).await
}

async fn knock(site: &Site, from: u8, tls: &TlsConnector) -> std::io::Result<()> {
    let stream = connect(from, site).await?;
    let mut stream = tls
        .connect(ServerName::try_from("localhost").unwrap(), stream)
        .await?;
    let body = r#"{"acceptance_token":"sdw1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.AAAA.AAAA","contract_version":1}"#;
    let path = "/api/v1/system/federation_api/accept";
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 64];
    stream.read_exact(&mut answer).await?;
    // Whatever is answered, it is a refusal.
    assert!(
        answer.starts_with(b"HTTP/1.1 4"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_beats_on_time_while_strangers_flood() {
    let (a, b) = (
        Arc::new(Site::new("site-a", 1).await),
        Site::new("site-b", 2).await,
    );
    a.propose(&crate::site::Site::new("site-c", 3).await.url, 9);
    let (_, a_at_b) = enrolled(&a, &b).await;
    let peer = b.peer(a_at_b.id);
    let callee = Callee::Known {
        anchors: vec![a.gateway.ca.der()],
        site: a.gateway.site.clone(),
    };
    let stranger: Leaf = b
        .gateway
        .ca
        .issue(
            &b.gateway.site,
            &node(),
            sdwand::federation::pki::Usage::Call { subject: "x" },
            wall(),
        )
        .unwrap();
    let tls = TlsConnector::from(Arc::new(client_config(callee, Some(&stranger)).unwrap()));
    let (stop, knocks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let flood: Vec<_> = (0..64_u8)
        .map(|n| {
            let (a, tls) = (Arc::clone(&a), tls.clone());
            let (stop, knocks) = (Arc::clone(&stop), Arc::clone(&knocks));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    // Turned away at once, or in the handshake: it knocks again.
                    let _ = knock(&a, 2 + n % 8, &tls).await;
                    knocks.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut late = 0;
    for n in 0..BEATS {
        let began = Instant::now();
        let nonce = u128::from(n).to_be_bytes();
        let beaten = b.gateway.beat_to(&peer, nonce, u64::from(n) + 1, wall()).await;
        if beaten.is_err() || began.elapsed() > ON_TIME {
            late += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for knocking in flood {
        knocking.await.unwrap();
    }
    let knocks = knocks.load(Ordering::Relaxed);
    println!("{knocks} knocks, {late} of {BEATS} beats late");
    assert!(knocks > u64::from(BEATS), "that is no flood: {knocks}");
    assert!(late * 100 <= BEATS, "{late} of {BEATS} beats were late");
}
