//! A peer that isn't where its operator-given URL says, and names where it is.

use sdwand::federation::client::CallError;
use sdwand::federation::dial::DialError;
use sdwand::federation::peer::{Endpoint, Peer};
use tokio::net::TcpListener;

use crate::site::{Site, enrolled, wall};

fn at(url: &str, priority: u32) -> Endpoint {
    Endpoint {
        url: url.to_owned(),
        scope: "wan".to_owned(),
        priority,
        cidr_hint: None,
    }
}

/// `b` as `a` knows it, but at a URL where nobody listens any more, and with these endpoints.
async fn moved(b_at_a: Peer, named: &[Endpoint]) -> Peer {
    let gone = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let mut peer = b_at_a;
    peer.url = format!("https://{gone}");
    peer.declared.endpoints = named.to_vec();
    peer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_leads_us_only_where_the_operator_lets_it() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let url = b.url.to_string();
    let peer = moved(b_at_a, &[at(&url, 1)]).await;
    // It is there, but that is this very host, and loopback.
    let barred = a.gateway.beat_to(&peer, [1; 16], 1, wall()).await.unwrap_err();
    let DialError::Call(CallError::Everywhere { first, others }) = &barred else {
        panic!("{barred}");
    };
    assert!(matches!(**first, CallError::Connect { .. }), "{first}");
    assert!(others.contains("allow_dial"), "{others}");

    let allow = |settings: &mut sdwand::federation::gateway::Settings| {
        settings.policy.allow_dial = vec!["127.0.0.0/8".parse().unwrap()];
    };
    let (a, b) = (Site::with("site-a", 1, allow).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let stranger = Site::new("site-c", 3).await;
    // Who answers at the first of them isn't the peer, at the second there is nobody, and some are no URLs at all.
    let named = [
        at("http://127.0.0.1", 1),
        at(&stranger.url.to_string(), 2),
        at("https://nobody.invalid", 3),
        at(&b.url.to_string(), 4),
    ];
    let peer = moved(b_at_a, &named).await;
    a.gateway.beat_to(&peer, [2; 16], 2, wall()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_url_goes_first() {
    let allow = |settings: &mut sdwand::federation::gateway::Settings| {
        settings.policy.allow_dial = vec!["127.0.0.0/8".parse().unwrap()];
    };
    let (a, b) = (Site::with("site-a", 1, allow).await, Site::new("site-b", 2).await);
    let (mut peer, _) = enrolled(&a, &b).await;
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    peer.declared.endpoints = vec![at(&format!("https://{}", trap.local_addr().unwrap()), 0)];
    a.gateway.beat_to(&peer, [3; 16], 3, wall()).await.unwrap();
    let knocked = tokio::time::timeout(std::time::Duration::ZERO, trap.accept()).await;
    assert!(knocked.is_err(), "nobody knocks where there is no need");
}
