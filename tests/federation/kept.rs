//! Beats go over one connection per peer, which is kept only as long as it is what a new one would be.

use std::time::{Duration, Instant};

use sdwand::federation::peer::{Endpoint, PeerId};
use serde_json::json;

use crate::relay::Relay;
use crate::site::{Connection, Site, ask, enrolled, wall};

/// `b` beats `a` over a relay; who each is at the other.
struct Pair {
    a: Site,
    b: Site,
    relay: Relay,
    b_at_a: PeerId,
    a_at_b: PeerId,
    sequence: u64,
}

impl Pair {
    async fn new() -> Self {
        Self::beating_every(Duration::from_secs(60)).await
    }

    async fn beating_every(interval: Duration) -> Self {
        let a = Site::new("site-a", 1).await;
        let b = Site::with("site-b", 2, |settings| settings.heartbeat = interval).await;
        let (b_at_a, a_at_b) = enrolled(&a, &b).await;
        let relay = Relay::to(a.address).await;
        b.change(a_at_b.id, |peer| {
            peer.url = relay.url.to_string();
            // What it will be told: no news.
            peer.declared.endpoints = a.gateway.endpoints();
        });
        Self {
            a,
            b,
            relay,
            b_at_a: b_at_a.id,
            a_at_b: a_at_b.id,
            sequence: 0,
        }
    }

    async fn beat(&mut self) -> Result<(), String> {
        self.sequence += 1;
        let peer = self.b.peer(self.a_at_b);
        let beat = self.b.gateway.beat_to(&peer, [1; 16], self.sequence, wall());
        beat.await.map_err(|error| error.to_string())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beats_go_over_one_connection() {
    let mut pair = Pair::new().await;
    assert!(!pair.b.gateway.has_line(pair.a_at_b));
    for _ in 0..10 {
        pair.beat().await.unwrap();
    }
    assert_eq!(pair.relay.opened(), 1);
    assert!(pair.b.gateway.has_line(pair.a_at_b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_at_once_when_the_peer_may_no_longer_be_called() {
    for stop in ["suspend", "revoke"] {
        let mut pair = Pair::new().await;
        pair.beat().await.unwrap();
        let gateway = &pair.b.gateway;
        let stopped = if stop == "suspend" {
            gateway.suspend(pair.a_at_b, "test", wall())
        } else {
            gateway.revoke(pair.a_at_b, "test", wall())
        };
        stopped.unwrap();
        assert!(!gateway.has_line(pair.a_at_b), "{stop}");
        // Well before the other side would end it.
        pair.relay.all_closed(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_called_side_ends_it_when_it_revokes_the_caller() {
    let mut pair = Pair::new().await;
    pair.beat().await.unwrap();
    pair.a.gateway.revoke(pair.b_at_a, "test", wall()).unwrap();
    // It is given a second.
    pair.relay.all_closed(Duration::from_secs(5)).await;
    assert!(!pair.b.gateway.has_line(pair.a_at_b));
    assert!(pair.beat().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_refused_over_it_keeps_it_no_longer() {
    let mut pair = Pair::new().await;
    pair.beat().await.unwrap();
    pair.a.gateway.suspend(pair.b_at_a, "test", wall()).unwrap();
    let refused = pair.beat().await.unwrap_err();
    assert!(refused.contains("401"), "{refused}");
    assert!(!pair.b.gateway.has_line(pair.a_at_b));
    pair.a.gateway.resume(pair.b_at_a, wall()).unwrap();
    pair.beat().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_beat_that_is_lost_with_it_is_made_again() {
    let mut pair = Pair::new().await;
    pair.beat().await.unwrap();
    pair.relay.breaks();
    pair.beat().await.unwrap();
    assert_eq!(pair.relay.opened(), 2);
    // Nobody says that this one is gone.
    pair.relay.mute();
    pair.beat().await.unwrap();
    assert_eq!(pair.relay.opened(), 3);
    pair.beat().await.unwrap();
    assert_eq!(pair.relay.opened(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_and_no_more() {
    let mut pair = Pair::new().await;
    pair.beat().await.unwrap();
    pair.relay.breaks_for_good();
    assert!(pair.beat().await.is_err());
    assert_eq!(pair.relay.opened(), 2);
    assert!(!pair.b.gateway.has_line(pair.a_at_b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_beat_that_comes_twice_is_no_news() {
    let pair = Pair::new().await;
    let leaf = pair.b.leaf(&pair.b_at_a.subject());
    let beat = pair.b.gateway.beating(pair.a_at_b, [7; 16], 9);
    let body = serde_json::to_vec(&beat).unwrap();
    let mut connection = Connection::open(&pair.a, Some(&leaf)).await.unwrap();
    let (status, first) = connection.post("heartbeat", body.clone()).await.unwrap();
    assert_eq!(status, 200);
    let (head, row) = (pair.a.gateway.ledger.head(), pair.a.peer(pair.b_at_a));
    let again = ask(&pair.a, Some(&leaf), &[("heartbeat", body)]).await.unwrap();
    assert_eq!(again[0].0, 200);
    for field in ["status", "nonce", "sequence", "ledger_epoch", "audit_head"] {
        assert_eq!(again[0].1["data"][field], first["data"][field], "{field}");
    }
    assert_eq!(again[0].1["data"]["sequence"], json!(9));
    assert_eq!(pair.a.gateway.ledger.head(), head, "nothing is written");
    assert_eq!(pair.a.peer(pair.b_at_a), row);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_place_another_connection() {
    let mut pair = Pair::new().await;
    pair.beat().await.unwrap();
    // It is told of with the answers: what it says last stays.
    let elsewhere = Endpoint {
        url: "https://198.51.100.7:8443".to_owned(),
        scope: "wan".to_owned(),
        priority: 1,
        cidr_hint: None,
    };
    pair.b
        .change(pair.a_at_b, |peer| peer.declared.endpoints = vec![elsewhere]);
    pair.beat().await.unwrap();
    assert_eq!(pair.relay.opened(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_certificates_another_connection() {
    let mut pair = Pair::new().await;
    pair.beat().await.unwrap();
    assert_eq!(pair.relay.opened(), 1);
    // The peer's anchors: it is told of the next one once it has said that it lacks it.
    pair.a.gateway.rotate(wall()).unwrap();
    for _ in 0..3 {
        pair.beat().await.unwrap();
    }
    assert_eq!(pair.b.peer(pair.a_at_b).trust.unwrap().anchors.len(), 2);
    assert_eq!(pair.relay.opened(), 2);
    // Ours: once the next CA signs, another leaf is shown.
    let before = pair.relay.opened();
    pair.b.gateway.rotate(wall()).unwrap();
    for _ in 0..3 {
        pair.beat().await.unwrap();
    }
    assert_eq!(pair.relay.opened(), before, "the old one signs on");
    assert!(pair.b.gateway.promote(wall()).unwrap());
    pair.beat().await.unwrap();
    assert_eq!(pair.relay.opened(), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_one_ends() {
    let mut pair = Pair::beating_every(Duration::from_millis(200)).await;
    // Whoever looks late sees less of the time that it was idle.
    let used = Instant::now();
    pair.beat().await.unwrap();
    pair.relay.all_closed(Duration::from_secs(5)).await;
    assert!(
        used.elapsed() >= Duration::from_millis(250),
        "not before its time"
    );
    assert!(!pair.b.gateway.has_line(pair.a_at_b));
    pair.beat().await.unwrap();
    assert_eq!(pair.relay.opened(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_called_side_keeps_it_between_beats() {
    let mut pair = Pair::new().await;
    pair.beat().await.unwrap();
    // Longer than a connection may be idle of whose caller nothing is known.
    tokio::time::sleep(Duration::from_secs(7)).await;
    pair.beat().await.unwrap();
    assert_eq!(pair.relay.opened(), 1);
}
