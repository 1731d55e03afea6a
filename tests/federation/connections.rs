//! How many connections a known peer may have, and how long.

use std::time::{Duration, Instant};

use sdwand::api::limits::{CONNECTIONS_KEPT, CONNECTIONS_PER_PEER};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::site::{Connection, Site, ask, enrolled, wall};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_peer_has_a_few_connections_and_none_once_it_is_revoked() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let leaf = b.leaf(&b_at_a.id.subject());
    let mut open = Vec::new();
    for n in 0..=CONNECTIONS_PER_PEER {
        let mut connection = Connection::open(&a, Some(&leaf)).await.unwrap();
        let answered = connection.post("heartbeat", b"{}".to_vec()).await;
        assert_eq!(answered.is_ok(), n < CONNECTIONS_PER_PEER, "{n}");
        open.push(connection);
    }
    open.truncate(3);
    // One that ends makes room for another, once that is noticed.
    let late = Instant::now() + Duration::from_secs(10);
    while Connection::open(&a, Some(&leaf))
        .await
        .unwrap()
        .post("heartbeat", b"{}".to_vec())
        .await
        .is_err()
    {
        assert!(Instant::now() < late, "no room again");
    }

    // In the middle of a request, too: half a body, and then nothing.
    let mut half = a.stream(&leaf).await;
    let head =
        "POST /api/v1/system/federation_api/heartbeat HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n{";
    half.write_all(head.as_bytes()).await.unwrap();
    a.gateway.revoke(b_at_a.id, "test", wall()).unwrap();
    let ended = async {
        for mut connection in open {
            // Either it is told, once, or it is gone already.
            while connection.post("heartbeat", b"{}".to_vec()).await.is_ok() {}
        }
        let mut rest = Vec::new();
        // Whether it hears why, or is cut off, it ends.
        let _ = half.read_to_end(&mut rest).await;
    };
    tokio::time::timeout(Duration::from_secs(25), ended)
        .await
        .expect("its connections end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_too_many_are_kept_a_connection_ends_with_its_first_answer() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    let leaf = b.leaf(&b_at_a.id.subject());
    let taken = (0..CONNECTIONS_KEPT).filter(|_| a.limits.may_keep()).count();
    assert_eq!(taken, CONNECTIONS_KEPT);
    let mut connection = Connection::open(&a, Some(&leaf)).await.unwrap();
    assert_eq!(connection.post("heartbeat", b"{}".to_vec()).await.unwrap().0, 200);
    assert!(connection.post("heartbeat", b"{}".to_vec()).await.is_err());
    // Our own client is told by the answer, and doesn't try it again.
    b.gateway.beat_to(&a_at_b, [1; 16], 1, wall()).await.unwrap();
    assert!(!b.gateway.has_line(a_at_b.id));
    a.limits.unkept();
    b.gateway.beat_to(&a_at_b, [1; 16], 2, wall()).await.unwrap();
    assert!(b.gateway.has_line(a_at_b.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_is_known_is_told_what_a_beat_looks_like() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    let nonsense = [("heartbeat", b"no beat".to_vec())];
    let known = b.leaf(&b_at_a.id.subject());
    let told = ask(&a, Some(&known), &nonsense).await.unwrap();
    assert_eq!((told[0].0, told[0].1["code"].as_str()), (400, Some("malformed")));
    assert_eq!(a.peer(b_at_a.id).last_heartbeat_at, None, "that was none");
    let stranger = b.leaf("fed:somebody");
    for leaf in [None, Some(&stranger)] {
        let told = ask(&a, leaf, &nonsense).await.unwrap();
        assert_eq!(
            (told[0].0, told[0].1["code"].as_str()),
            (401, Some("UNAUTHORIZED"))
        );
    }
}
