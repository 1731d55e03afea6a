//! The listener inside a network: whom it lets in, and what a grant that names the network gives there.

use std::collections::BTreeMap;

use hyper::Method;
use sdwand::federation::grant::Terms;
use sdwand::federation::overlay::{Domain, Post, Seat};
use sdwand::federation::peer::PeerId;
use sdwand::federation::pki::Leaf;
use sdwand::model::Name;
use serde_json::Value;
use tokio::sync::watch;

use crate::grants::{give, terms};
use crate::site::{Connection, Site, enrolled};

/// As if inside `prod`, on loopback; each peer's bridge leads to these addresses.
fn post(callers: &[(PeerId, &str)]) -> Post {
    let nets = |text: &str| std::iter::once(text.parse::<ipnet::IpNet>().unwrap()).collect();
    Post {
        seat: Seat {
            network: Name::new("prod").unwrap(),
            address: "127.0.0.1".parse().unwrap(),
            domain: Domain::Address,
        },
        port: 8_443,
        callers: callers.iter().map(|(peer, text)| (*peer, nets(text))).collect(),
    }
}

/// A read with a grant's token inside the network; none where the connection is refused.
async fn read(site: &Site, at: std::net::SocketAddr, leaf: &Leaf, token: &str) -> Option<(u16, Value)> {
    let stream = site.stream_at(at, Some(leaf)).await.ok()?;
    let mut connection = Connection::over(stream).await.ok()?;
    asked(&mut connection, token).await
}

async fn asked(connection: &mut Connection, token: &str) -> Option<(u16, Value)> {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    connection
        .send(Method::GET, "resources/node", &headers, Vec::new())
        .await
        .ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_names_a_network_is_good_inside_it_and_nowhere_else() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    a.tell_fleet();
    let leaf = b.leaf(&b_at_a.id.subject());
    let within = |network: &str| Terms {
        remote_subject: format!("ci@{network}"),
        sdwan_network_ids: vec![network.to_owned()],
        ..terms("node")
    };
    let token = |n: u8, network: &str| give(&a, b_at_a.id, n, within(network)).token.reveal();
    let [by_name, by_number, elsewhere] = [token(1, "prod"), token(2, "1"), token(3, "dev")];
    let (_kept, posts) = watch::channel(post(&[(b_at_a.id, "127.0.0.0/8")]));
    let inside = a.listen_within(posts).await;
    for (at, token, status) in [
        (inside, &by_name, 200),
        (inside, &by_number, 200),
        (inside, &elsewhere, 403),
        (a.address, &by_name, 403),
        (a.address, &by_number, 403),
    ] {
        let (answered, body) = read(&a, at, &leaf, token).await.unwrap();
        assert_eq!(answered, status, "{at} {body}");
    }
    // No header is a network.
    let mut connection = Connection::open(&a, Some(&leaf)).await.unwrap();
    let bearer = format!("Bearer {by_name}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-sdwan-network", "prod"),
        ("host", "127.0.0.1"),
    ];
    let sent = connection.send(Method::GET, "resources/node", &headers, Vec::new());
    assert_eq!(sent.await.unwrap().0, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_peer_whose_bridge_leads_to_the_source_is_let_in_and_others_are_counted() {
    let (a, b, c) = (
        Site::new("site-a", 1).await,
        Site::new("site-b", 2).await,
        Site::new("site-c", 3).await,
    );
    let (b_at_a, _) = enrolled(&a, &b).await;
    let (c_at_a, _) = enrolled(&a, &c).await;
    a.tell_fleet();
    let leaf = b.leaf(&b_at_a.id.subject());
    let token = give(&a, b_at_a.id, 1, terms("node")).token.reveal();
    let (posts, receiver) = watch::channel(post(&[(b_at_a.id, "127.0.0.0/8")]));
    let inside = a.listen_within(receiver).await;
    let stranger = b.leaf("fed:somebody");
    let refused = |reason: &'static str| {
        let counts: BTreeMap<_, _> = a.gateway.refusals();
        counts.get(&("call", reason)).copied().unwrap_or(0)
    };

    assert_eq!(read(&a, inside, &leaf, &token).await.unwrap().0, 200);
    // The source is behind b's bridge, and who shows itself is another peer, or nobody that is known.
    let leaf_of_c = c.leaf(&c_at_a.id.subject());
    assert_eq!(read(&a, inside, &leaf_of_c, &token).await, None);
    assert_eq!(refused("another_peers_bridge"), 1);
    assert_eq!(read(&a, inside, &stranger, &token).await, None);
    assert_eq!(a.gateway.refusals().values().sum::<u64>(), 2);
    // Nor is b let in from behind c's bridge, or from where no bridge leads, or where two would.
    posts.send_replace(post(&[(c_at_a.id, "127.0.0.0/8")]));
    assert_eq!(read(&a, inside, &leaf, &token).await, None);
    assert_eq!(refused("another_peers_bridge"), 2);
    posts.send_replace(post(&[(b_at_a.id, "10.0.0.0/8")]));
    assert_eq!(read(&a, inside, &leaf, &token).await, None);
    posts.send_replace(post(&[(b_at_a.id, "127.0.0.0/8"), (c_at_a.id, "127.0.0.1/32")]));
    assert_eq!(read(&a, inside, &leaf, &token).await, None);
    assert_eq!(refused("outside_bridge"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_with_the_bridge_that_leads_to_it() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, _) = enrolled(&a, &b).await;
    a.tell_fleet();
    let leaf = b.leaf(&b_at_a.id.subject());
    let token = give(&a, b_at_a.id, 1, terms("node")).token.reveal();
    let led = [(b_at_a.id, "127.0.0.0/8")];
    let (posts, receiver) = watch::channel(post(&led));
    let inside = a.listen_within(receiver).await;
    let stream = a.stream_at(inside, Some(&leaf)).await.unwrap();
    let mut connection = Connection::over(stream).await.unwrap();
    assert_eq!(asked(&mut connection, &token).await.unwrap().0, 200);
    // What changes for others changes nothing here.
    posts.send_replace(post(&[(b_at_a.id, "127.0.0.0/9")]));
    assert_eq!(asked(&mut connection, &token).await.unwrap().0, 200);
    let until_over = async |mut connection: Connection| {
        let ended = async { while asked(&mut connection, &token).await.is_some() {} };
        tokio::time::timeout(std::time::Duration::from_secs(5), ended).await
    };
    posts.send_replace(post(&[(b_at_a.id, "10.0.0.0/8")]));
    until_over(connection)
        .await
        .expect("its bridge carries it no more");
    posts.send_replace(post(&led));
    let stream = a.stream_at(inside, Some(&leaf)).await.unwrap();
    let mut connection = Connection::over(stream).await.unwrap();
    assert_eq!(asked(&mut connection, &token).await.unwrap().0, 200);
    drop(posts);
    until_over(connection).await.expect("the post was given up");
}
