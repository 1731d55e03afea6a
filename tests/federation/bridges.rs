//! Bridges between two sites: what each fleet wants, told over mTLS, and what comes of it for `sdwand run`.

use std::time::Instant;

use sdwand::federation::bridge::BridgeId;
use sdwand::federation::dial::DialError;
use sdwand::federation::peer::PeerId;
use sdwand::model::agreement::Agreements;
use serde_json::json;
use tokio::net::TcpListener;

use crate::site::{Connection, Site, enrolled, wall};

pub(crate) fn random(bytes: &mut [u8]) {
    getrandom::fill(bytes).unwrap();
}

/// A site's fleet: a hub, two networks, and these bridges.
pub(crate) fn tell_fleet(site: &Site, key: u8, bridges: &str) {
    let endpoint = format!("203.0.113.{}", site.gateway.site.name().len());
    tell_fleet_at(site, key, &[&endpoint], bridges);
}

/// The same, with a hub that is reached there.
pub(crate) fn tell_fleet_at(site: &Site, key: u8, endpoints: &[&str], bridges: &str) {
    let prefix = site.gateway.site.prefix().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let key = sdwand::model::PrivateKey::from_random([key; 32]).public();
    let text = format!(
        r#"
format = 1
[site]
name = "{}"
prefix = "{prefix}"
gateways = ["hub-1"]
[[nodes]]
name = "hub-1"
public_key = "{key}"
endpoints = {endpoints:?}
host_id = 1
[[networks]]
name = "prod"
id = 1
members = [ {{ node = "hub-1", role = "hub" }} ]
[[networks.virtual_ips]]
name = "web"
address = "::100"
holders = ["hub-1"]
[[networks]]
name = "dev"
id = 2
members = [ {{ node = "hub-1", role = "hub" }} ]
{bridges}
"#,
        site.gateway.site.name(),
    );
    std::fs::write(folder.path().join("00-site.toml"), text).unwrap();
    let loaded = sdwand::config::load_fleet(folder.path()).unwrap_or_else(|bad| panic!("{bad}"));
    site.gateway.tell_fleet(loaded.fleet);
}

/// A bridge of `prod`.
pub(crate) fn prod_bridge(peer: &str, import: &str, export: &str) -> String {
    format!(
        "[[bridges]]\nname = \"to-{peer}\"\npeer = \"{peer}\"\nnetwork = \"prod\"\ngateways = [\"hub-1\"]\nimport = [{import}]\nexport = [{export}]\n"
    )
}

/// What the driver of `sdwand serve` does, until nothing is due any more; how many calls came to nothing.
pub(crate) async fn drive(site: &Site) -> usize {
    let mut failed = 0;
    for _ in 0..10 {
        site.gateway.settle_bridges(random, wall()).unwrap();
        let due = site.gateway.bridge_calls();
        if due.is_empty() || failed > 0 {
            break;
        }
        for call in due {
            let made = site
                .gateway
                .exchange_bridge(call.peer, call.id, random, wall())
                .await;
            failed += usize::from(made.is_err());
        }
    }
    failed
}

pub(crate) fn agreed(site: &Site) -> Agreements {
    site.gateway.agreements(wall())
}

pub(crate) fn nets(texts: &[&str]) -> Vec<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(crate) fn state(site: &Site, peer: PeerId) -> Vec<String> {
    let views = site.gateway.bridges_of(peer);
    views.iter().map(|view| view.state.to_owned()).collect()
}

/// Has the site call a peer so: its fleet's bridges do.
pub(crate) fn called(site: &Site, peer: PeerId, alias: &str) {
    let alias = sdwand::model::Name::new(alias).unwrap();
    site.change(peer, |peer| peer.alias = alias);
}

/// Two sites whose fleets want the same bridge: each knows the other as the alias of its row.
pub(crate) async fn bridged() -> (Site, Site, PeerId, PeerId) {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    called(&a, b_at_a.id, "site-b");
    called(&b, a_at_b.id, "site-a");
    tell_fleet(
        &a,
        1,
        &prod_bridge("site-b", "\"fd00:0:2::/48\"", "\"fd00:0:1:1::/64\""),
    );
    tell_fleet(
        &b,
        2,
        &prod_bridge(
            "site-a",
            "\"fd00:0:1::/48\"",
            "\"fd00:0:2:1::/64\", { vip = \"web\" }",
        ),
    );
    (a, b, b_at_a.id, a_at_b.id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_fleets_agree_with_one_exchange_and_each_follows_the_other() {
    let (a, b, b_at_a, a_at_b) = bridged().await;
    let attached = |site: &Site, id| {
        let found = site.gateway.attachment(&site.peer(id));
        ["status", "bridge_state"].map(|key| found[key].as_str().unwrap_or("-").to_owned())
    };
    assert_eq!(
        attached(&a, b_at_a),
        ["attached", "proposed"],
        "with the acceptance, already"
    );
    let began = Instant::now();
    b.gateway.settle_bridges(random, wall()).unwrap();
    assert_eq!(drive(&a).await, 0);
    println!(
        "from two fragments to an agreement at both ends: {:?}",
        began.elapsed()
    );
    let (at_a, at_b) = (agreed(&a), agreed(&b));
    let (to_b, to_a) = (
        at_a.bridges.values().next().unwrap(),
        at_b.bridges.values().next().unwrap(),
    );
    assert_eq!(to_b.preshared_key, to_a.preshared_key);
    assert_eq!(to_b.prefixes, nets(&["fd00:0:2:1::/64", "fd00:0:2:1::100/128"]));
    assert_eq!(
        (to_a.import.clone(), to_a.prefixes.clone()),
        (nets(&["fd00:0:1::/48"]), nets(&["fd00:0:1:1::/64"]))
    );
    assert_eq!(
        to_b.public_key,
        sdwand::model::PrivateKey::from_random([2; 32]).public()
    );
    assert_eq!(
        to_b.endpoints,
        [],
        "203.0.113.0/24 is no address that a peer may name"
    );
    assert_eq!(
        (state(&a, b_at_a), state(&b, a_at_b)),
        (vec!["active".to_owned()], vec!["active".to_owned()])
    );
    assert_eq!(drive(&b).await, 0);
    assert_eq!(drive(&a).await, 0);
    assert_eq!(attached(&a, b_at_a), ["attached", "active"]);
    assert_eq!(a.gateway.bridge_calls(), [], "nothing is left to say");
    assert!(
        !a.gateway.settle_bridges(random, wall()).unwrap(),
        "a no-op writes nothing"
    );

    // A exports nothing any more, and imports less: B follows, and A needs nobody for it.
    tell_fleet(&a, 1, &prod_bridge("site-b", "\"fd00:0:2:1::/64\"", ""));
    assert_eq!(drive(&a).await, 0);
    assert_eq!(agreed(&b).bridges.values().next().unwrap().prefixes, []);
    assert_eq!(
        agreed(&a).bridges.values().next().unwrap().import,
        nets(&["fd00:0:2:1::/64"])
    );

    // A's fleet drops it: B has nothing, waits, and says so.
    tell_fleet(&a, 1, "");
    a.gateway.settle_bridges(random, wall()).unwrap();
    assert!(agreed(&a).bridges.is_empty(), "before anyone is asked");
    assert_eq!(drive(&a).await, 0);
    assert!(agreed(&b).bridges.is_empty());
    drive(&b).await;
    assert_eq!(state(&b, a_at_b), ["proposed"]);
    assert_eq!(
        state(&a, b_at_a),
        ["offered"],
        "what B still wants is there to be answered"
    );

    // And wants it again: a new row, and another key.
    tell_fleet(
        &a,
        1,
        &prod_bridge("site-b", "\"fd00:0:2::/48\"", "\"fd00:0:1:1::/64\""),
    );
    assert_eq!(drive(&a).await, 0);
    drive(&b).await;
    let (again_a, again_b) = (agreed(&a), agreed(&b));
    let key = |all: &Agreements| all.bridges.values().next().unwrap().preshared_key.clone();
    assert_eq!(key(&again_a), key(&again_b));
    assert_ne!(key(&again_a), key(&at_a));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspend_and_revoke_need_nobody() {
    let (a, b, b_at_a, a_at_b) = bridged().await;
    b.gateway.settle_bridges(random, wall()).unwrap();
    drive(&a).await;
    let key = || {
        let all = agreed(&a);
        all.bridges
            .values()
            .next()
            .map(|agreement| agreement.preshared_key.clone())
    };
    let before = key().unwrap();
    a.gateway.suspend(b_at_a, "maintenance", wall()).unwrap();
    assert!(agreed(&a).bridges.is_empty());
    assert_eq!(state(&a, b_at_a), ["suspended"]);
    assert_eq!(a.gateway.bridge_calls(), [], "who is suspended isn't called");
    a.gateway.resume(b_at_a, wall()).unwrap();
    // With another key: by that the other end finds out that its session is over.
    a.gateway.settle_bridges(random, wall()).unwrap();
    assert_ne!(key().unwrap(), before);
    a.gateway.revoke(b_at_a, "over", wall()).unwrap();
    assert!(agreed(&a).bridges.is_empty());
    assert_eq!(state(&a, b_at_a), ["revoked"]);
    let secrets = a.gateway.ledger.read(|book| {
        book.bridges()
            .any(|row| row.ours.as_ref().unwrap().half.is_some() || row.theirs.is_some())
    });
    assert!(!secrets, "what is over has no secret");
    // The peer hears of it by the refusals, and revokes on its own.
    assert_eq!(agreed(&b).bridges.len(), 1);
    b.gateway.revoke(a_at_b, "over", wall()).unwrap();
    assert!(agreed(&b).bridges.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cant_be_dialled_hears_and_is_heard_with_the_beats() {
    let a = Site::new("site-a", 1).await;
    let b = Site::with("site-b", 2, |settings| settings.url = None).await;
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    called(&a, b_at_a.id, "site-b");
    called(&b, a_at_b.id, "site-a");
    tell_fleet(
        &a,
        1,
        &prod_bridge("site-b", "\"fd00:0:2::/48\"", "\"fd00:0:1:1::/64\""),
    );
    tell_fleet(
        &b,
        2,
        &prod_bridge("site-a", "\"fd00:0:1::/48\"", "\"fd00:0:2:1::/64\""),
    );
    drive(&a).await;
    assert_eq!(a.gateway.bridge_calls(), []);
    assert_eq!(drive(&b).await, 0);
    assert_eq!((agreed(&a).bridges.len(), agreed(&b).bridges.len()), (1, 1));
    let beat = async |n: u8| {
        let peer = b.peer(a_at_b.id);
        b.gateway.beat_to(&peer, [n; 16], n.into(), wall()).await.unwrap();
        assert_eq!(drive(&b).await, 0);
    };
    // A says less: B hears it with the answer to its next beat.
    tell_fleet(
        &a,
        1,
        &prod_bridge("site-b", "\"fd00:0:2::/48\"", "{ vip = \"web\" }"),
    );
    drive(&a).await;
    beat(1).await;
    assert_eq!(
        agreed(&b).bridges.values().next().unwrap().prefixes,
        nets(&["fd00:0:1:1::100/128"])
    );
    // A takes it back.
    tell_fleet(&a, 1, "");
    drive(&a).await;
    beat(2).await;
    assert!(agreed(&b).bridges.is_empty());
    assert_eq!(state(&b, a_at_b.id), ["proposed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_may_not_say_is_refused_and_changes_nothing() {
    let (a, b, b_at_a, a_at_b) = bridged().await;
    tell_fleet(&b, 2, "");
    drive(&a).await;
    let leaf = b.leaf(&b_at_a.subject());
    let mut connection = Connection::open(&a, Some(&leaf)).await.unwrap();
    let mut put = async |id: BridgeId, body: serde_json::Value| {
        let path = format!("bridges/{id}");
        let bytes = serde_json::to_vec(&body).unwrap();
        let (status, answer) = connection
            .send(hyper::Method::PUT, &path, &[], bytes)
            .await
            .unwrap();
        (
            status,
            answer["code"].as_str().map(str::to_owned),
            answer["data"].clone(),
        )
    };
    let half = |network: &str, remote: &str, sequence: u64| {
        json!({
            "network": network, "remote_network": remote, "sequence": sequence, "endpoints": [], "prefixes": ["fd00:0:2:1::/64"],
            "gateway_public_key": sdwand::model::PrivateKey::from_random([2; 32]).public(),
            "preshared_half": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
        })
    };
    let name = |text: &str| sdwand::model::Name::new(text).unwrap();
    let id = |there: &str, here: &str| {
        BridgeId::of((&b.gateway.site, &name(there)), (&a.gateway.site, &name(here)))
    };
    let prod = id("prod", "prod");
    let code = |code: &str| Some(code.to_owned());
    // Of other networks, or a stranger's.
    assert_eq!(put(prod, half("prod", "dev", 1)).await.0, 422);
    let strangers = BridgeId::of((&a.gateway.site, &name("prod")), (&a.gateway.site, &name("prod")));
    assert_eq!(put(strangers, half("prod", "prod", 1)).await.1, code("id"));
    // What no site has.
    let mut wide = half("prod", "prod", 1);
    wide["prefixes"] = json!(["::/0"]);
    assert_eq!(put(prod, wide).await.1, code("half_refused"));
    let mut key = half("prod", "prod", 1);
    key["gateway_public_key"] = json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    assert_eq!(put(prod, key).await.1, code("half_refused"));
    assert!(agreed(&a).bridges.is_empty());
    // The numbers.
    let (status, _, answer) = put(prod, half("prod", "prod", 5)).await;
    assert_eq!((status, answer["state"].as_str()), (200, Some("active")));
    assert!(answer["half"]["preshared_half"].is_string());
    assert_eq!(put(prod, half("prod", "prod", 5)).await.0, 200, "the same again");
    assert_eq!(put(prod, half("prod", "prod", 4)).await.1, code("sequence"));
    let mut other = half("prod", "prod", 5);
    other["prefixes"] = json!([]);
    assert_eq!(
        put(prod, other).await.1,
        code("sequence"),
        "something else under the same number"
    );
    // A key of our own would take our own traffic.
    let mut own = half("prod", "prod", 6);
    own["gateway_public_key"] = json!(sdwand::model::PrivateKey::from_random([1; 32]).public());
    assert_eq!(put(prod, own).await.2["state"], "suspended");
    assert!(agreed(&a).bridges.is_empty());
    // The last number of all is that peer's own misfortune, and ends with the peering.
    assert_eq!(put(prod, half("prod", "prod", u64::MAX)).await.0, 200);
    assert_eq!(agreed(&a).bridges.len(), 1);
    assert_eq!(put(prod, half("prod", "prod", 7)).await.1, code("sequence"));
    // What our fleet hasn't is shown to our operator, and is nothing else.
    let (status, _, answer) = put(id("dev", "dev"), half("dev", "dev", 1)).await;
    assert_eq!(
        (status, answer["state"].as_str(), answer["half"].is_null()),
        (200, Some("offered"), true)
    );
    assert_eq!(agreed(&a).bridges.len(), 1);
    let mut refused = None;
    for n in 0..40 {
        let there = format!("net-{n}");
        let (status, word, _) = put(id(&there, "dev"), half(&there, "dev", 1)).await;
        if status != 200 {
            refused = Some((status, word));
            break;
        }
    }
    assert_eq!(refused, Some((429, code("too_many"))), "nobody fills our disk");
    // After another acceptance the numbers begin anew.
    a.gateway.revoke(b_at_a, "over", wall()).unwrap();
    b.gateway.revoke(a_at_b, "over", wall()).unwrap();
    let (b_again, a_again) = enrolled(&a, &b).await;
    called(&a, b_again.id, "site-b");
    called(&b, a_again.id, "site-a");
    tell_fleet(
        &b,
        2,
        &prod_bridge("site-a", "\"fd00:0:1::/48\"", "\"fd00:0:2:1::/64\""),
    );
    drive(&b).await;
    drive(&a).await;
    assert_eq!((agreed(&a).bridges.len(), agreed(&b).bridges.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_peer_is_told_nothing_of_bridges() {
    let (a, _b, _, _) = bridged().await;
    drive(&a).await;
    let mut connection = Connection::open(&a, None).await.unwrap();
    for (method, path) in [
        (hyper::Method::PUT, "bridges/not-an-id"),
        (
            hyper::Method::DELETE,
            "bridges/00000000-0000-0000-0000-000000000000",
        ),
    ] {
        let (status, _) = connection.send(method, path, &[], b"[]".to_vec()).await.unwrap();
        assert_eq!(status, 401);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_unverified_waits_and_tells_nothing_of_ours() {
    let (a, b) = (
        Site::with("site-a", 1, |settings| {
            settings.verify = sdwand::model::host::Verify::Code;
        })
        .await,
        Site::new("site-b", 2).await,
    );
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    called(&a, b_at_a.id, "site-b");
    called(&b, a_at_b.id, "site-a");
    tell_fleet(
        &a,
        1,
        &prod_bridge("site-b", "\"fd00:0:2::/48\"", "\"fd00:0:1:1::/64\""),
    );
    tell_fleet(
        &b,
        2,
        &prod_bridge("site-a", "\"fd00:0:1::/48\"", "\"fd00:0:2:1::/64\""),
    );
    drive(&a).await;
    drive(&b).await;
    assert_eq!((agreed(&a).bridges.len(), agreed(&b).bridges.len()), (0, 0));
    let waits: Vec<_> = a
        .gateway
        .bridges_of(b_at_a.id)
        .iter()
        .map(|view| view.waits_for)
        .collect();
    assert_eq!(waits, [Some(sdwand::federation::bridge::WaitsFor::Verification)]);
    a.gateway.verify(b_at_a.id, wall()).unwrap();
    drive(&a).await;
    assert_eq!((agreed(&a).bridges.len(), agreed(&b).bridges.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_gone_takes_nothing_with_it() {
    let (a, b, b_at_a, _) = bridged().await;
    b.gateway.settle_bridges(random, wall()).unwrap();
    drive(&a).await;
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    drop(b);
    a.change(b_at_a, |peer| {
        (peer.url, peer.declared.endpoints) = (format!("https://{closed}"), Vec::new());
    });
    let due = a.gateway.bridge_calls();
    assert!(due.is_empty());
    assert_eq!(agreed(&a).bridges.len(), 1);
    // Ours can be narrowed and ended all the same.
    tell_fleet(&a, 1, "");
    a.gateway.settle_bridges(random, wall()).unwrap();
    assert!(agreed(&a).bridges.is_empty());
    let due = a.gateway.bridge_calls();
    assert_eq!(due.len(), 1);
    let called = a.gateway.exchange_bridge(b_at_a, due[0].id, random, wall()).await;
    assert!(matches!(called, Err(DialError::Call(_))), "{called:?}");
    assert_eq!(
        state(&a, b_at_a),
        ["offered"],
        "it hasn't heard that we are through"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_called_inside_a_network_where_the_bridge_carries_what_it_announces_and_nowhere_else() {
    use sdwand::federation::overlay::OverlayError;
    let site = async |name, number| Site::with(name, number, |settings| settings.listen = Some(8_443)).await;
    let (a, b) = (site("site-a", 1).await, site("site-b", 2).await);
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    called(&a, b_at_a.id, "site-b");
    called(&b, a_at_b.id, "site-a");
    let name = |text: &str| sdwand::model::Name::new(text).unwrap();
    let way = |network: &str| a.gateway.overlay_way(&a.peer(b_at_a.id), &name(network));
    let tell = |site: &Site, key, peer: &str, import: &str, export: &str| {
        tell_fleet(site, key, &prod_bridge(peer, import, export));
    };
    tell(&a, 1, "site-b", "\"fd00:0:2::/48\"", "\"fd00:0:1:1::/64\"");
    assert_eq!(way("nowhere"), Err(OverlayError::Network(name("nowhere"))));
    assert!(matches!(way("prod"), Err(OverlayError::NoBridge { .. })));
    assert!(
        drive(&a).await == 0 && a.gateway.overlay_posts().is_empty(),
        "not agreed"
    );
    assert!(matches!(
        way("prod"),
        Err(OverlayError::Inactive {
            state: "proposed",
            ..
        })
    ));
    tell(&b, 2, "site-a", "\"fd00:0:1::/48\"", "\"fd00:0:2:1::/64\"");
    drive(&b).await;
    drive(&a).await;

    let posts = a.gateway.overlay_posts();
    let post = &posts[&name("prod")];
    assert_eq!(post.address().to_string(), "[fd00:0:1:1::1]:8443");
    assert_eq!(post.caller("fd00:0:2:1::1".parse().unwrap()), Some(b_at_a.id));
    assert_eq!(
        post.caller("fd00:0:2:2::1".parse().unwrap()),
        None,
        "imported, and not announced"
    );
    let found = way("prod").unwrap();
    assert_eq!(
        (
            found.seat.address.to_string().as_str(),
            found.to.to_string().as_str()
        ),
        ("fd00:0:1:1::1", "[fd00:0:2:1::1]:8443")
    );
    assert!(
        matches!(way("dev"), Err(OverlayError::NoBridge { .. })),
        "another network"
    );

    // What we import no more isn't called, whatever the peer announces.
    tell(&a, 1, "site-b", "\"fd00:0:2:1:8000::/65\"", "\"fd00:0:1:1::/64\"");
    drive(&a).await;
    let outside = way("prod");
    assert!(
        matches!(&outside, Err(OverlayError::Outside { listener, .. }) if listener.port() == 8_443),
        "{outside:?}"
    );
    tell(&a, 1, "site-b", "\"fd00:0:2::/48\"", "{ vip = \"web\" }");
    drive(&a).await;
    assert!(
        a.gateway.overlay_posts().is_empty(),
        "what isn't exported isn't listened on"
    );
    assert!(matches!(way("prod"), Err(OverlayError::OwnAddress { .. })));
    tell(&a, 1, "site-b", "\"fd00:0:2::/48\"", "\"fd00:0:1:1::/64\"");
    tell(&b, 2, "site-a", "\"fd00:0:1::/48\"", "{ vip = \"web\" }");
    drive(&a).await;
    drive(&b).await;
    assert!(matches!(way("prod"), Err(OverlayError::NoListener { .. })));
    assert_eq!(
        a.gateway.overlay_posts().len(),
        1,
        "its virtual IP may still be where it calls from"
    );

    a.gateway.suspend(b_at_a.id, "test", wall()).unwrap();
    assert!(a.gateway.overlay_posts().is_empty());
    assert!(matches!(
        way("prod"),
        Err(OverlayError::Inactive {
            state: "suspended",
            ..
        })
    ));
    a.gateway.revoke(b_at_a.id, "test", wall()).unwrap();
    assert!(matches!(way("prod"), Err(OverlayError::NoBridge { .. })));
}
