//! Peers of which some fail, each in its own way: the rest go on as if it weren't there (line 124 of the contract).

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use sdwand::federation::client::PATIENCE;
use sdwand::federation::liveness::Probe;
use sdwand::federation::peer::{PeerId, Status};
use sdwand::federation::pki::Usage;
use sdwand::federation::pki::tls::{CurrentLeaf, PossessionOnly, server_config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::site::{Site, enrolled, node, wall};

/// How a peer's listener, which is itself, takes a call.
#[derive(Clone, Copy)]
enum Answer {
    Rubbish,
    Nothing,
}

async fn take(stream: TcpStream, acceptor: TlsAcceptor, answer: Answer) {
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    let mut head = [0; 1_024];
    let _ = stream.read(&mut head).await;
    if let Answer::Rubbish = answer {
        let rubbish = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"data\":7";
        let _ = stream.write_all(rubbish).await;
    }
    // Until the caller has had enough.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

/// A listener with the site's own certificate; where it is.
async fn answering(site: &Site, answer: Answer) -> String {
    let served = site
        .gateway
        .ca
        .issue(&site.gateway.site, &node(), Usage::Serve, wall());
    let current = Arc::new(CurrentLeaf::new(&served.unwrap()).unwrap());
    let tls = server_config(current, Arc::new(PossessionOnly::default())).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(take(stream, acceptor.clone(), answer));
        }
    });
    url
}

async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("https://{}", listener.local_addr().unwrap())
}

/// What became of a beat to each peer, all of them at once; each has as long as it may take.
async fn beaten(a: &Site, ids: &[PeerId], round: u8) -> Vec<bool> {
    let beat = async |id: &PeerId| {
        let peer = a.peer(*id);
        a.gateway
            .beat_to(&peer, [round; 16], round.into(), wall())
            .await
            .is_ok()
    };
    join_all(ids.iter().map(beat)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failing_peer_doesnt_stop_the_rest() {
    let a = Site::new("site-a", 1).await;
    let mut sites = Vec::new();
    for n in 2..8 {
        sites.push(Site::new("site-b", n).await);
    }
    let (mut at_a, mut of_a) = (Vec::new(), Vec::new());
    for site in &sites {
        let (here, there) = enrolled(&a, site).await;
        at_a.push(here.id);
        of_a.push(there.id);
    }
    assert_eq!(beaten(&a, &at_a, 1).await, [true; 6]);
    // In the middle of those who fail, and at both ends, one that doesn't.
    let places = [
        (1, answering(&sites[1], Answer::Rubbish).await),
        (2, answering(&sites[2], Answer::Nothing).await),
        (4, nobody().await),
    ];
    for (n, url) in places {
        a.change(at_a[n], |peer| {
            peer.url = url;
            peer.declared.endpoints.clear();
        });
    }
    // One refuses; it stands between the two that are left.
    sites[5].gateway.suspend(of_a[5], "maintenance", wall()).unwrap();
    let sound = [0, 3];

    // What the others say of themselves is taken over all the same: their next CA, here.
    for n in sound {
        sites[n].gateway.rotate(wall()).unwrap();
    }
    let began = Instant::now();
    let outcome = beaten(&a, &at_a, 2).await;
    assert_eq!(outcome, [true, false, false, true, false, false]);
    let bound = PATIENCE + Duration::from_secs(5);
    assert!(began.elapsed() < bound, "nobody waits for the mute one twice");
    for n in sound {
        assert_eq!(a.peer(at_a[n]).trust.unwrap().anchors.len(), 2, "{n}");
        assert_eq!(a.peer(at_a[n]).status, Status::Active, "{n}");
    }

    // All are silent for too long: each is asked, and judged by what it answers alone.
    let late = wall().after(Duration::from_secs(200));
    let began = Instant::now();
    let swept = a.gateway.sweep(false, None, late).await.unwrap();
    assert!(began.elapsed() < bound, "{:?}", began.elapsed());
    let probes: Vec<_> = swept.silent.iter().map(|silent| silent.probe.unwrap()).collect();
    assert_eq!(
        probes,
        [
            Probe::Answers,
            Probe::Unreachable,
            Probe::Unreachable,
            Probe::Answers,
            Probe::Unreachable,
            Probe::RefusedByPeer,
        ]
    );
    assert_eq!(swept.rehandshaked_ids, sound.map(|n| at_a[n]));
    assert_eq!(swept.degraded_ids, [1, 2, 4, 5].map(|n| at_a[n]));
    for n in sound {
        assert_eq!(a.peer(at_a[n]).status, Status::Active, "{n}");
    }
    // Who was degraded comes back by its own beat, though we still can't call it.
    for n in [1, 2, 4] {
        let (site, id) = (&sites[n], of_a[n]);
        let beat = site.gateway.beat_to(&site.peer(id), [9; 16], 9, wall()).await;
        beat.unwrap();
        assert_eq!(a.peer(at_a[n]).status, Status::Active, "{n}");
    }
    assert_eq!(a.gateway.ledger.audit_verify().unwrap(), a.gateway.ledger.head());
}
