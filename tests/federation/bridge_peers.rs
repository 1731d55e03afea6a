//! Peers that say of bridges what isn't theirs to say, or take it back: nobody else's bridge is touched, and nothing is left.

use sdwand::federation::bridge::{BridgeId, WaitsFor};
use sdwand::federation::peer::{PeerId, Status};
use sdwand::federation::wire::Notice;
use sdwand::model::{Name, PrivateKey, PublicKey};
use serde_json::json;

use crate::bridges::{agreed, bridged, called, drive, prod_bridge, random, state, tell_fleet, tell_fleet_at};
use crate::site::{Connection, Site, enrolled, wall};

fn key(byte: u8) -> PublicKey {
    PrivateKey::from_random([byte; 32]).public()
}

/// Who carries something at a site, and with which WireGuard key.
fn carried(site: &Site) -> Vec<(String, PublicKey)> {
    let all = agreed(site);
    let each = all.bridges.iter();
    each.map(|(name, agreement)| (name.to_string(), agreement.public_key))
        .collect()
}

/// A peer that says whatever it likes about its bridge to `prod` of site a.
struct Liar {
    connection: Connection,
    id: BridgeId,
    sequence: u64,
}

impl Liar {
    async fn new(a: &Site, c: &Site, c_at_a: &str) -> Self {
        let prod = Name::new("prod").unwrap();
        Self {
            connection: Connection::open(a, Some(&c.leaf(c_at_a))).await.unwrap(),
            id: BridgeId::of((&c.gateway.site, &prod), (&a.gateway.site, &prod)),
            sequence: 0,
        }
    }

    /// Says that its gateway has this key; what its bridge is then.
    async fn names(&mut self, key: PublicKey) -> String {
        self.sequence += 1;
        let half = json!({
            "network": "prod", "remote_network": "prod", "sequence": self.sequence, "endpoints": [],
            "prefixes": ["fd00:0:3:1::/64"], "gateway_public_key": key,
            "preshared_half": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
        });
        let path = format!("bridges/{}", self.id);
        let body = serde_json::to_vec(&half).unwrap();
        let put = self.connection.send(hyper::Method::PUT, &path, &[], body);
        let (status, answer) = put.await.unwrap();
        assert_eq!(status, 200, "{answer}");
        answer["data"]["state"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_names_anothers_key_neither_suspends_nor_gets_its_bridge() {
    // Whichever of the two comes first in the ledger.
    for is_later in [true, false] {
        let a = Site::new("site-a", 1).await;
        let (b, c) = (Site::new("site-b", 2).await, Site::new("site-c", 3).await);
        let mut ids = Vec::new();
        for site in if is_later { [&b, &c] } else { [&c, &b] } {
            ids.push(enrolled(&a, site).await);
        }
        assert!(ids[0].0.id < ids[1].0.id);
        let of = |site: &Site| {
            ids.iter()
                .find(|(at_a, _)| at_a.url == site.url.to_string())
                .unwrap()
        };
        let ((b_at_a, a_at_b), (c_at_a, _)) = (of(&b), of(&c));
        called(&a, b_at_a.id, "site-b");
        called(&a, c_at_a.id, "site-c");
        called(&b, a_at_b.id, "site-a");
        let to_b = prod_bridge("site-b", "\"fd00:0:2::/48\"", "\"fd00:0:1:1::/64\"");
        let to_c = prod_bridge("site-c", "\"fd00:0:3::/48\"", "");
        tell_fleet(&a, 1, &format!("{to_b}{to_c}"));
        let to_a = prod_bridge("site-a", "\"fd00:0:1::/48\"", "\"fd00:0:2:1::/64\"");
        tell_fleet(&b, 2, &to_a);
        b.gateway.settle_bridges(random, wall()).unwrap();
        drive(&a).await;
        let only = vec![("to-site-b".to_owned(), key(2))];
        let both = [&only[..], &[("to-site-c".to_owned(), key(3))]].concat();
        assert_eq!(carried(&a), only);

        let mut liar = Liar::new(&a, &c, &c_at_a.id.subject()).await;
        assert_eq!(
            liar.names(key(2)).await,
            "proposed",
            "it never had one of its own"
        );
        assert_eq!(carried(&a), only);
        assert_eq!(liar.names(key(3)).await, "active");
        assert_eq!(carried(&a), both);
        assert_eq!(liar.names(key(2)).await, "suspended", "in place of its own");
        assert_eq!(carried(&a), only);
        a.gateway.settle_bridges(random, wall()).unwrap();
        assert_eq!(carried(&a), only, "nor by the driver's next look");
        let waits: Vec<_> = a
            .gateway
            .bridges_of(c_at_a.id)
            .iter()
            .map(|view| view.waits_for)
            .collect();
        assert_eq!(waits, [Some(WaitsFor::Key)], "and our operator is told");

        // Who had it keeps it, also while its own bridge waits for something else.
        a.gateway.suspend(b_at_a.id, "maintenance", wall()).unwrap();
        a.gateway.settle_bridges(random, wall()).unwrap();
        assert_eq!(carried(&a), [], "nobody has its key meanwhile");
        a.gateway.resume(b_at_a.id, wall()).unwrap();
        a.gateway.settle_bridges(random, wall()).unwrap();
        assert_eq!(carried(&a), only);
        assert_eq!(liar.names(key(3)).await, "active");
        assert_eq!(carried(&a), both);
    }
}

fn rows(site: &Site, peer: PeerId) -> usize {
    site.gateway.ledger.read(|book| book.bridges_of(peer).count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_only_offered_leaves_nothing_when_it_is_taken_back() {
    let (a, b, b_at_a, _) = bridged().await;
    tell_fleet(&a, 1, "");
    let wanted = prod_bridge("site-a", "\"fd00:0:1::/48\"", "\"fd00:0:2:1::/64\"");
    for _ in 0..3 {
        tell_fleet(&b, 2, &wanted);
        assert_eq!(drive(&b).await, 0);
        assert_eq!(
            (state(&a, b_at_a), rows(&a, b_at_a)),
            (vec!["offered".to_owned()], 1)
        );
        tell_fleet(&b, 2, "");
        assert_eq!(drive(&b).await, 0);
        assert_eq!((state(&a, b_at_a), rows(&a, b_at_a)), (Vec::new(), 0));
    }
    // Nor with the peer.
    tell_fleet(&b, 2, &wanted);
    assert_eq!(drive(&b).await, 0);
    assert_eq!(rows(&a, b_at_a), 1);
    a.gateway.revoke(b_at_a, "over", wall()).unwrap();
    assert_eq!(rows(&a, b_at_a), 0);
    assert!(
        !a.gateway.settle_bridges(random, wall()).unwrap(),
        "nothing is left to write"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_ends_what_is_agreed_also_before_the_first_beat() {
    for notice in [Notice::Suspended, Notice::Revoked] {
        let (a, b, b_at_a, a_at_b) = bridged().await;
        b.gateway.settle_bridges(random, wall()).unwrap();
        assert_eq!(drive(&a).await, 0);
        assert_eq!(
            b.peer(a_at_b).status,
            Status::Enrolled,
            "no beat has come through"
        );
        assert_eq!(agreed(&b).bridges.len(), 1);
        a.gateway.notify(&a.peer(b_at_a), notice, wall()).await.unwrap();
        assert_eq!(b.peer(a_at_b).status, Status::Enrolled);
        assert!(agreed(&b).bridges.is_empty(), "{notice:?}: at once");
        assert_eq!(state(&b, a_at_b), ["suspended"]);
        let waits: Vec<_> = b
            .gateway
            .bridges_of(a_at_b)
            .iter()
            .map(|view| view.waits_for)
            .collect();
        assert_eq!(waits, [Some(WaitsFor::PeerOperator)]);
        b.gateway.settle_bridges(random, wall()).unwrap();
        assert!(agreed(&b).bridges.is_empty(), "and it stays so");
        assert_eq!(b.gateway.bridge_calls(), [], "nor is the peer called about it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_named_is_called_where_its_name_last_led() {
    let a = Site::with("site-a", 1, |settings| {
        settings.policy.allow_dial = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    })
    .await;
    let b = Site::new("site-b", 2).await;
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    called(&a, b_at_a.id, "site-b");
    called(&b, a_at_b.id, "site-a");
    tell_fleet(
        &a,
        1,
        &prod_bridge("site-b", "\"fd00:0:2::/48\"", "\"fd00:0:1:1::/64\""),
    );
    let to_a = |export: &str| prod_bridge("site-a", "\"fd00:0:1::/48\"", export);
    // One of its names leads nowhere (RFC 6761, section 6.4).
    let names = ["nowhere.invalid", "localhost"];
    tell_fleet_at(&b, 2, &names, &to_a("\"fd00:0:2:1::/64\""));
    b.gateway.settle_bridges(random, wall()).unwrap();
    drive(&a).await;
    let endpoints = || agreed(&a).bridges.values().next().unwrap().endpoints.clone();
    assert_eq!(endpoints(), [], "nothing was looked up yet");
    let resolve = async || {
        let due = a.gateway.bridge_calls();
        assert!(due.len() == 1 && due[0].is_to_resolve, "{due:?}");
        a.gateway.resolve_bridge(due[0].peer, due[0].id, wall()).await
    };
    assert!(resolve().await.is_err(), "one leads nowhere, and is tried again");
    let found = endpoints();
    assert!(
        !found.is_empty()
            && found
                .iter()
                .all(|at| at.ip().is_loopback() && at.port() == 51_820),
        "{found:?}"
    );
    let head = a.gateway.ledger.head();
    assert!(resolve().await.is_err());
    assert_eq!(
        (endpoints(), a.gateway.ledger.head()),
        (found.clone(), head),
        "what is known isn't written"
    );

    // It says something else, and nothing can be looked up: it is called where it was.
    tell_fleet_at(&b, 2, &names, &to_a("{ vip = \"web\" }"));
    drive(&b).await;
    let all = agreed(&a);
    let now = all.bridges.values().next().unwrap();
    assert_eq!(now.prefixes, ["fd00:0:2:1::100/128".parse().unwrap()]);
    assert_eq!(now.endpoints, found);
    // What it doesn't name any more isn't called.
    tell_fleet(&b, 2, &to_a("{ vip = \"web\" }"));
    drive(&b).await;
    assert_eq!(endpoints(), []);
    assert_eq!(a.gateway.bridge_calls(), []);
}
