//! Who uses what is offered: told by the peer's gateway, and withdrawn with what it rests on.

use hyper::Method;
use sdwand::federation::dial::DialError;
use sdwand::federation::gateway::{Granted, Granting};
use sdwand::federation::grant::Terms;
use sdwand::federation::ledger::Ledger;
use sdwand::federation::peer::PeerId;
use sdwand::federation::subscription::MOST_OF_ONE;
use serde_json::{Value, json};

use crate::site::{Connection, Site, enrolled, wall};

fn give(site: &Site, peer: PeerId, n: u8, resource_id: Option<&str>) -> Granted {
    let granting = Granting {
        peer,
        terms: Terms {
            remote_subject: "operator@there".to_owned(),
            resource_kind: "service".to_owned(),
            resource_id: resource_id.map(str::to_owned),
            ..Terms::default()
        },
        days: None,
    };
    site.gateway.grant(granting, [n; 32], [n; 10], wall()).unwrap()
}

fn called(site: &Site, peer: PeerId, alias: &str) {
    let alias = sdwand::model::Name::new(alias).unwrap();
    site.change(peer, |peer| peer.alias = alias);
}

fn bridge(peer: &str, import: &str) -> String {
    format!(
        "[[bridges]]\nname = \"prod-x\"\npeer = \"{peer}\"\nnetwork = \"prod\"\ngateways = [\"hub-1\"]\nimport = [\"{import}\"]\n"
    )
}

fn offer(name: &str, vip: &str) -> String {
    format!("[[offers]]\nname = \"{name}\"\nbridge = \"prod-x\"\nvip = \"{vip}\"\nports = [\"443\"]\n")
}

fn offers(a: &Site, names: &[(&str, &str)]) {
    let offers: String = names.iter().map(|(name, vip)| offer(name, vip)).collect();
    a.tell_fleet_with(&(bridge("site-b", "fd00:0:2:1::/64") + &offers));
}

fn uses(b: &Site, services: &[&str]) {
    let each = services.iter().enumerate().map(|(n, service)| {
        format!(
            "[[subscriptions]]\nname = \"use-{service}\"\nbridge = \"prod-x\"\nservice = \"{service}\"\naddress = \"fd00:0:1:1::10{n}\"\nports = [\"443\"]\n"
        )
    });
    b.tell_fleet_with(&(bridge("site-a", "fd00:0:1:1::/64") + &each.collect::<String>()));
}

/// A offers `pages` and `data` to B.
async fn sites() -> (Site, Site, PeerId, PeerId) {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    called(&a, b_at_a.id, "site-b");
    called(&b, a_at_b.id, "site-a");
    offers(&a, &[("pages", "web"), ("data", "db")]);
    (a, b, b_at_a.id, a_at_b.id)
}

/// Which of A's offers are used, and by whom.
fn used(a: &Site) -> Vec<(String, Vec<String>)> {
    let offers = a.gateway.offers().into_iter();
    let used = offers.map(|offer| {
        let by = offer.subscribers.iter().map(|one| one.peer.to_string());
        (offer.service.to_string(), by.collect())
    });
    used.filter(|(_, by): &(String, Vec<String>)| !by.is_empty())
        .collect()
}

fn by_b(services: &[&str]) -> Vec<(String, Vec<String>)> {
    let each = services.iter();
    each.map(|service| ((*service).to_owned(), vec!["site-b".to_owned()]))
        .collect()
}

fn kinds(a: &Site) -> Vec<String> {
    let tail = a.gateway.ledger.audit_tail(1_000).unwrap();
    let all = tail.into_iter().map(|record| record.kind);
    all.filter_map(|kind| kind.strip_prefix("federation.subscription.").map(str::to_owned))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_tells_what_its_fleet_uses_and_no_longer_uses() {
    let (a, b, b_at_a, a_at_b) = sites().await;
    uses(&b, &["data", "pages"]);
    let tell = async || b.gateway.tell_subscriptions(a_at_b, wall()).await;
    assert!(b.gateway.subscription_calls().contains_key(&a_at_b));
    let refused = tell().await.unwrap_err();
    assert!(
        matches!(refused, DialError::Refused { status: 403, .. }),
        "without a grant: {refused}"
    );
    give(&a, b_at_a, 1, Some("pages"));
    tell().await.unwrap_err();
    assert_eq!(
        used(&a),
        by_b(&["pages"]),
        "what the grant lets it see, and no more"
    );
    give(&a, b_at_a, 2, None);
    tell().await.unwrap();
    assert_eq!(used(&a), by_b(&["data", "pages"]));
    let (head, since) = (a.gateway.ledger.head(), a.gateway.offers());
    tell().await.unwrap();
    assert_eq!(
        (a.gateway.ledger.head(), a.gateway.offers()),
        (head, since.clone())
    );
    uses(&b, &["pages"]);
    tell().await.unwrap();
    assert_eq!(used(&a), by_b(&["pages"]));
    assert_eq!(kinds(&a), ["subscribed", "subscribed", "unsubscribed"]);
    // A restart of A forgets nothing.
    let again = Ledger::open(&a.folder.path().join("ledger.db"), wall()).unwrap();
    let kept = again.read(|book| book.subscriptions().map(|one| one.since).collect::<Vec<_>>());
    assert_eq!(kept, [since[1].subscribers[0].since]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_goes_with_its_offer_its_grant_and_its_peer() {
    let (a, b, b_at_a, a_at_b) = sites().await;
    let first = give(&a, b_at_a, 1, None);
    uses(&b, &["data", "pages"]);
    b.gateway.tell_subscriptions(a_at_b, wall()).await.unwrap();
    assert!(
        !a.gateway.settle_subscriptions(wall()).unwrap(),
        "all of it stands"
    );
    offers(&a, &[("pages", "web")]);
    assert!(a.gateway.settle_subscriptions(wall()).unwrap());
    assert_eq!(used(&a), by_b(&["pages"]));
    offers(&a, &[("pages", "web"), ("data", "db")]);
    assert_eq!(
        used(&a),
        by_b(&["pages"]),
        "an offer of the same name is another one"
    );
    a.gateway
        .revoke_grant(b_at_a, first.grant.id, "over", wall())
        .unwrap();
    assert!(a.gateway.settle_subscriptions(wall()).unwrap());
    assert_eq!(used(&a), []);
    give(&a, b_at_a, 2, None);
    b.gateway.tell_subscriptions(a_at_b, wall()).await.unwrap();
    assert_eq!(used(&a).len(), 2, "the driver heals it");
    a.gateway.revoke(b_at_a, "over", wall()).unwrap();
    assert_eq!(used(&a), [], "at once");
    a.gateway.settle_subscriptions(wall()).unwrap();
    assert_eq!(a.gateway.ledger.read(|book| book.subscriptions().count()), 0);
    assert_eq!(kinds(&a).iter().filter(|kind| *kind == "withdrawn").count(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_says_of_subscriptions_is_bounded_idempotent_and_its_own() {
    let (a, b, b_at_a, _) = sites().await;
    let c = Site::new("site-c", 3).await;
    let (c_at_a, _) = enrolled(&a, &c).await;
    give(&a, b_at_a, 1, None);
    give(&a, c_at_a.id, 2, None);
    let mut names: Vec<(String, &str)> = (0..MOST_OF_ONE).map(|n| (format!("more-{n:03}"), "db")).collect();
    names.push(("pages".to_owned(), "web"));
    let names: Vec<(&str, &str)> = names.iter().map(|(name, vip)| (name.as_str(), *vip)).collect();
    offers(&a, &names);
    let (of_b, of_c) = (
        b.leaf(&format!("fed:{b_at_a}")),
        c.leaf(&format!("fed:{}", c_at_a.id)),
    );
    let ask =
        async |leaf: Option<&sdwand::federation::pki::Leaf>, method: Method, path: &str, body: Value| {
            let mut connection = Connection::open(&a, leaf).await.unwrap();
            let body = if body.is_null() {
                Vec::new()
            } else {
                body.to_string().into_bytes()
            };
            connection.send(method, path, &[], body).await.unwrap()
        };
    let pages = || json!({ "service": "pages" });
    // Strangers are told nothing.
    for (method, path) in [
        (Method::GET, "subscriptions"),
        (Method::POST, "subscriptions"),
        (Method::DELETE, "subscriptions/pages"),
        (Method::GET, "service_catalog"),
    ] {
        assert_eq!(ask(None, method, path, Value::Null).await.0, 401, "{path}");
    }
    let (status, first) = ask(Some(&of_b), Method::POST, "subscriptions", pages()).await;
    assert_eq!((status, &first["data"]["service"]), (200, &json!("pages")));
    let again = ask(Some(&of_b), Method::POST, "subscriptions", pages()).await;
    assert_eq!(again, (200, first.clone()), "the same again is the same");
    let (_, listed) = ask(Some(&of_b), Method::GET, "subscriptions", Value::Null).await;
    assert_eq!(listed["data"], json!([first["data"]]));
    // What is offered to another peer is nothing to this one.
    let (status, told) = ask(Some(&of_c), Method::POST, "subscriptions", pages()).await;
    assert_eq!((status, &told["code"]), (404, &json!("unknown_service")));
    let (_, listed) = ask(Some(&of_c), Method::GET, "subscriptions", Value::Null).await;
    assert_eq!(listed["data"], json!([]));
    let (status, _) = ask(Some(&of_c), Method::DELETE, "subscriptions/pages", Value::Null).await;
    assert_eq!((status, used(&a)), (200, by_b(&["pages"])), "nor its to end");
    for (body, code) in [
        (json!([]), 400),
        (json!({}), 400),
        (json!({ "service": "nobody" }), 404),
    ] {
        let (status, _) = ask(Some(&of_b), Method::POST, "subscriptions", body.clone()).await;
        assert_eq!(status, code, "{body}");
    }
    // Nobody fills our disk: so much in a minute.
    let mut connection = Connection::open(&a, Some(&of_b)).await.unwrap();
    let mut refused = None;
    for n in 0..MOST_OF_ONE {
        let body = json!({ "service": format!("more-{n:03}") })
            .to_string()
            .into_bytes();
        let (status, told) = connection
            .send(Method::POST, "subscriptions", &[], body)
            .await
            .unwrap();
        if status != 200 {
            refused = Some((status, told["code"].clone()));
            break;
        }
    }
    assert_eq!(refused, Some((429, json!("too_many"))));
    let (status, _) = connection
        .send(Method::DELETE, "subscriptions/no-such", &[], Vec::new())
        .await
        .unwrap();
    assert_eq!(status, 200, "what isn't there is gone");
}
