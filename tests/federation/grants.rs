//! What a peer may read, with a grant and without.

use hyper::Method;
use sdwand::federation::dial::{DialError, Wanted};
use sdwand::federation::gateway::{GrantError, Granted, Granting};
use sdwand::federation::grant::{BearerToken, GrantId, Terms};
use sdwand::federation::peer::{PeerId, Status};
use sdwand::federation::url::PeerUrl;
use serde_json::{Value, json};

use crate::site::{Connection, Site, enrolled, node, wall};

pub(crate) fn terms(kind: &str) -> Terms {
    Terms {
        remote_subject: "operator@site-b".to_owned(),
        resource_kind: kind.to_owned(),
        ..Terms::default()
    }
}

pub(crate) fn give(site: &Site, peer: PeerId, n: u8, terms: Terms) -> Granted {
    let granting = Granting {
        peer,
        terms,
        days: None,
    };
    site.gateway.grant(granting, [n; 32], [n; 10], wall()).unwrap()
}

/// Asks `site` over a connection of its own; headers as given.
async fn read(
    site: &Site,
    leaf: &sdwand::federation::pki::Leaf,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, Value) {
    let mut connection = Connection::open(site, Some(leaf)).await.unwrap();
    connection
        .send(Method::GET, path, headers, Vec::new())
        .await
        .unwrap()
}

/// What a peer's catalog tells, and whom.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_reads_what_it_is_offered_and_nobody_else_does() {
    let (a, b, c) = (
        Site::new("site-a", 1).await,
        Site::new("site-b", 2).await,
        Site::new("site-c", 3).await,
    );
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    let (c_at_a, a_at_c) = enrolled(&a, &c).await;
    a.tell_fleet_with(&format!(
        r#"
[[bridges]]
name = "prod-b"
peer = "{}"
network = "prod"
gateways = ["hub-1"]
export = [{{ vip = "db" }}]
[[offers]]
name = "pages"
bridge = "prod-b"
vip = "web"
ports = ["443", "8000-8010"]
description = "the intranet"
"#,
        b_at_a.alias
    ));
    let to_b = give(&a, b_at_a.id, 1, terms("service"));
    let to_c = give(&a, c_at_a.id, 2, terms("service"));
    let wanted = |id: Option<&str>, token: Option<&BearerToken>| Wanted {
        kind: "service".to_owned(),
        id: id.map(str::to_owned),
        after: None,
        bearer: token.map(BearerToken::reveal),
        network: None,
    };
    let told = b
        .gateway
        .fetch(a_at_b.id, &wanted(None, Some(&to_b.token)), wall())
        .await
        .unwrap();
    let (bare, offer) = (
        json!({
            "id": "prod.db", "network": "prod", "name": "db", "address": "fd00:0:1:1::101", "anycast": false, "bridge": "prod-b",
        }),
        json!({
            "id": "pages", "network": "prod", "name": "web", "address": "fd00:0:1:1::100", "anycast": false, "bridge": "prod-b",
            "protocol": "tcp", "ports": ["443", "8000-8010"], "description": "the intranet",
        }),
    );
    assert_eq!(told.resources, [offer.clone(), bare]);
    for id in ["pages", "prod.web"] {
        let one = b
            .gateway
            .fetch(a_at_b.id, &wanted(Some(id), Some(&to_b.token)), wall())
            .await
            .unwrap();
        assert_eq!(one.resources, std::slice::from_ref(&offer), "{id}");
    }
    // No bridge of site c's exports anything.
    let none = c
        .gateway
        .fetch(a_at_c.id, &wanted(None, Some(&to_c.token)), wall())
        .await
        .unwrap();
    assert!(!none.exists && none.resources.is_empty());
    let refusals = [
        (&b, a_at_b.id, None, "required"),
        (&b, a_at_b.id, Some(&to_c.token), "unknown"),
        (&c, a_at_c.id, Some(&to_b.token), "unknown"),
    ];
    for (site, peer, token, why) in refusals {
        let refused = site.gateway.fetch(peer, &wanted(None, token), wall()).await;
        let DialError::Refused { status, error } = refused.unwrap_err() else {
            panic!("it is no refusal");
        };
        assert_eq!(status, 401, "{error}");
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_reads_what_a_grant_allows_and_nothing_else() {
    let (a, b, c) = (
        Site::new("site-a", 1).await,
        Site::new("site-b", 2).await,
        Site::new("site-c", 3).await,
    );
    a.tell_fleet();
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    let (c_at_a, _) = enrolled(&a, &c).await;
    let granted = give(&a, b_at_a.id, 1, terms("network"));
    let wanted = |kind: &str, id: Option<&str>, token: &BearerToken| Wanted {
        kind: kind.to_owned(),
        id: id.map(str::to_owned),
        after: None,
        bearer: Some(token.reveal()),
        network: None,
    };
    let told = b
        .gateway
        .fetch(
            a_at_b.id,
            &wanted("network", Some("prod"), &granted.token),
            wall(),
        )
        .await
        .unwrap();
    assert!(told.exists);
    assert_eq!(told.resources[0]["prefix"], "fd00:0:1:1::/64");
    assert_eq!(
        (told.grant_id, &told.account_id),
        (granted.grant.id, &a.gateway.site)
    );
    let by_number = b
        .gateway
        .fetch(a_at_b.id, &wanted("network", Some("1"), &granted.token), wall())
        .await
        .unwrap();
    assert_eq!(by_number.resources, told.resources);
    let all = b
        .gateway
        .fetch(a_at_b.id, &wanted("network", None, &granted.token), wall())
        .await
        .unwrap();
    assert_eq!(all.resources.len(), 2);
    let none = b
        .gateway
        .fetch(
            a_at_b.id,
            &wanted("network", Some("../x y"), &granted.token),
            wall(),
        )
        .await
        .unwrap();
    assert!(!none.exists && none.resources.is_empty());

    // What is refused, and with which words.
    let narrow = give(
        &a,
        b_at_a.id,
        2,
        Terms {
            resource_id: Some("prod.web".to_owned()),
            ..terms("virtual_ip")
        },
    );
    let odd = give(&a, b_at_a.id, 3, terms("NodeModule"));
    let write = give(
        &a,
        b_at_a.id,
        4,
        Terms {
            scopes: [sdwand::federation::grant::Scope::Admin].into(),
            ..terms("node")
        },
    );
    let forged = BearerToken::new(granted.grant.id, [9; 32]);
    let unknown = BearerToken::new(GrantId(wall().uuid([5; 10])), [1; 32]);
    for (kind, id, token, status, text) in [
        ("node", Some("hub-1"), &granted.token, 403, "kind"),
        (
            "virtual_ip",
            Some("prod.db"),
            &narrow.token,
            403,
            "another resource",
        ),
        ("virtual_ip", None, &narrow.token, 403, "another resource"),
        ("node", Some("hub-1"), &write.token, 403, "read"),
        (
            "NodeModule",
            None,
            &odd.token,
            422,
            "network, virtual_ip, node, service",
        ),
        ("network", None, &forged, 401, "unknown"),
        ("network", None, &unknown, 401, "unknown"),
    ] {
        let refused = b
            .gateway
            .fetch(a_at_b.id, &wanted(kind, id, token), wall())
            .await
            .unwrap_err();
        let DialError::Refused { status: found, error } = refused else {
            panic!("{refused}");
        };
        assert_eq!(found, status, "{kind} {id:?}: {error}");
        assert!(error.contains(text), "{error}");
    }
    let vip = b
        .gateway
        .fetch(
            a_at_b.id,
            &wanted("virtual_ip", Some("prod.web"), &narrow.token),
            wall(),
        )
        .await
        .unwrap();
    assert_eq!(vip.resources[0]["address"], "fd00:0:1:1::100");

    // Another peer's grant, shown with one's own certificate.
    let leaf = c.leaf(&c_at_a.id.subject());
    let header = format!("Bearer {}", granted.token.reveal());
    let stolen = read(&a, &leaf, "resources/network", &[("authorization", &header)]).await;
    assert_eq!((stolen.0, &stolen.1["code"]), (401, &json!("UNAUTHORIZED")));

    // Ended in the middle: the next call is refused.
    let leaf = b.leaf(&b_at_a.id.subject());
    let mut connection = Connection::open(&a, Some(&leaf)).await.unwrap();
    let headers = [("authorization", header.as_str())];
    let good = connection
        .send(Method::GET, "resources/network", &headers, Vec::new())
        .await
        .unwrap();
    assert_eq!(good.0, 200);
    a.gateway
        .revoke_grant(b_at_a.id, granted.grant.id, "over", wall())
        .unwrap();
    let ended = connection
        .send(Method::GET, "resources/network", &headers, Vec::new())
        .await
        .unwrap();
    assert_eq!(ended.0, 401);
    assert!(matches!(
        a.gateway
            .revoke_grant(b_at_a.id, granted.grant.id, "again", wall()),
        Err(GrantError::Ended(_))
    ));
    assert!(matches!(
        a.gateway
            .revoke_grant(c_at_a.id, narrow.grant.id, "of another", wall()),
        Err(GrantError::Unknown(_))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_header_is_identity() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    a.tell_fleet();
    let (b_at_a, _) = enrolled(&a, &b).await;
    let restricted = |n, change: fn(&mut Terms)| {
        let mut terms = terms("network");
        terms.remote_subject = format!("subject-{n}");
        change(&mut terms);
        format!("Bearer {}", give(&a, b_at_a.id, n, terms).token.reveal())
    };
    let node_id = sdwand::model::naming::instance_id(b.gateway.site.prefix().unwrap(), &node()).to_string();
    let by_id = give(
        &a,
        b_at_a.id,
        9,
        Terms {
            node_instance_ids: vec![node_id],
            ..terms("network")
        },
    );
    let by_id = format!("Bearer {}", by_id.token.reveal());
    let leaf = b.leaf(&b_at_a.id.subject());
    let lies = [
        ("x-calling-instance", "hub-9"),
        ("x-sdwan-network", "prod"),
        ("x-forwarded-for", "10.9.9.9"),
        ("x-forwarded-tls-client-cert-info", "Subject=\"CN=fed:1\""),
        ("forwarded", "for=10.9.9.9"),
    ];
    for (token, status, word) in [
        (
            restricted(1, |terms| terms.node_instance_ids = vec!["hub-1".to_owned()]),
            200,
            "",
        ),
        (by_id, 200, ""),
        (
            restricted(2, |terms| terms.node_instance_ids = vec!["hub-9".to_owned()]),
            403,
            "NodeInstance",
        ),
        (
            restricted(3, |terms| terms.sdwan_network_ids = vec!["prod".to_owned()]),
            403,
            "SDWAN network",
        ),
        (
            restricted(4, |terms| terms.source_cidrs = vec!["127.0.0.0/8".to_owned()]),
            200,
            "",
        ),
        (
            restricted(5, |terms| terms.source_cidrs = vec!["10.0.0.0/8".to_owned()]),
            403,
            "CIDR",
        ),
    ] {
        let mut headers = lies.to_vec();
        headers.push(("authorization", &token));
        let (found, body) = read(&a, &leaf, "resources/network/prod", &headers).await;
        assert_eq!(found, status, "{body}");
        assert!(
            status == 200 || body["error"].as_str().unwrap().contains(word),
            "{body}"
        );
    }
    let good = restricted(6, |_| {});
    for (headers, status) in [
        (vec![], 401),
        (vec![("authorization", "Bearer")], 401),
        (vec![("authorization", "Bearer fg-")], 401),
        (vec![("authorization", "Basic Zm86YmFy")], 401),
        (
            vec![("authorization", good.as_str()), ("authorization", good.as_str())],
            401,
        ),
        (vec![("authorization", good.as_str())], 200),
    ] {
        let (found, body) = read(&a, &leaf, "resources/network/prod", &headers).await;
        assert_eq!(found, status, "{headers:?} {body}");
        assert!(status == 200 || body["code"] == "UNAUTHORIZED", "{body}");
    }
    // Without a fleet, nothing is said about what there is.
    let c = Site::new("site-c", 3).await;
    let (b_at_c, c_at_b) = enrolled(&c, &b).await;
    let token = give(&c, b_at_c.id, 1, terms("network")).token.reveal();
    let wanted = Wanted {
        kind: "network".to_owned(),
        id: None,
        after: None,
        bearer: Some(token),
        network: None,
    };
    let refused = b.gateway.fetch(c_at_b.id, &wanted, wall()).await.unwrap_err();
    assert!(
        matches!(refused, DialError::Refused { status: 503, .. }),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_can_be_given_what() {
    let (a, b) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let early = a
        .propose(&PeerUrl::new("https://192.0.2.9:8443").unwrap(), 7)
        .peer;
    let granting = |peer, terms| Granting {
        peer,
        terms,
        days: Some(1),
    };
    assert!(matches!(
        a.gateway
            .grant(granting(early.id, terms("network")), [1; 32], [1; 10], wall()),
        Err(GrantError::Standing(Status::Proposed))
    ));
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    let first = give(&a, b_at_a.id, 1, terms("network"));
    let again = a
        .gateway
        .grant(granting(b_at_a.id, terms("network")), [2; 32], [2; 10], wall());
    assert!(matches!(again, Err(GrantError::Twice(id)) if id == first.grant.id));
    let one = Terms {
        resource_id: Some("prod".to_owned()),
        ..terms("network")
    };
    give(&a, b_at_a.id, 3, one.clone());
    give(&a, b_at_a.id, 4, one);
    a.gateway
        .revoke_grant(b_at_a.id, first.grant.id, "over", wall())
        .unwrap();
    let anew = a
        .gateway
        .grant(granting(b_at_a.id, terms("network")), [5; 32], [5; 10], wall())
        .unwrap();
    let week = std::time::Duration::from_secs(7 * 86_400);
    assert_eq!(
        anew.grant.expires_at.since(anew.grant.issued_at),
        week,
        "at least"
    );

    // A suspended peer reads nothing, whatever it was given; a revoked one can't be given anything.
    a.tell_fleet();
    let wanted = Wanted {
        kind: "network".to_owned(),
        id: None,
        after: None,
        bearer: Some(anew.token.reveal()),
        network: None,
    };
    b.gateway.fetch(a_at_b.id, &wanted, wall()).await.unwrap();
    a.gateway.suspend(b_at_a.id, "test", wall()).unwrap();
    let refused = b.gateway.fetch(a_at_b.id, &wanted, wall()).await.unwrap_err();
    assert!(refused.is_refusal(), "{refused}");
    a.gateway.revoke(b_at_a.id, "test", wall()).unwrap();
    assert!(matches!(
        a.gateway
            .grant(granting(b_at_a.id, terms("node")), [6; 32], [6; 10], wall()),
        Err(GrantError::Standing(Status::Revoked))
    ));

    // What was revoked is put away after 90 days, once.
    let later = wall().after(std::time::Duration::from_secs(91 * 86_400));
    assert_eq!(a.gateway.archive_grants(later).unwrap(), 1);
    assert_eq!(a.gateway.archive_grants(later).unwrap(), 0);
    let tail = a.gateway.ledger.audit_tail(1).unwrap();
    assert_eq!(tail[0].kind, "federation.grant.archived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_sites_give_nothing_by_silence() {
    let strict = |settings: &mut sdwand::federation::gateway::Settings| {
        settings.require_explicit_axes = true;
        settings.verify = sdwand::model::host::Verify::Code;
    };
    let (a, b) = (
        Site::with("site-a", 1, strict).await,
        Site::new("site-b", 2).await,
    );
    a.tell_fleet();
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    let give = |terms, n| {
        let granting = Granting {
            peer: b_at_a.id,
            terms,
            days: None,
        };
        a.gateway.grant(granting, [n; 32], [n; 10], wall())
    };
    let error = give(terms("network"), 1).unwrap_err();
    assert!(
        matches!(&error, GrantError::Silent(axes) if axes.len() == 3),
        "{error}"
    );
    let everything = Terms {
        node_instance_ids: vec!["*".to_owned()],
        sdwan_network_ids: vec!["*".to_owned()],
        source_cidrs: vec!["*".to_owned()],
        ..terms("network")
    };
    assert!(matches!(give(everything.clone(), 2), Err(GrantError::Unverified)));
    a.gateway.verify(b_at_a.id, wall()).unwrap();
    let granted = give(everything, 3).unwrap();
    assert_eq!(
        granted.grant.unrestricted_axes().len(),
        3,
        "and the answer says so"
    );
    let wanted = Wanted {
        kind: "node".to_owned(),
        id: Some("hub-1".to_owned()),
        after: None,
        bearer: Some(granted.token.reveal()),
        network: None,
    };
    let refused = b.gateway.fetch(a_at_b.id, &wanted, wall()).await.unwrap_err();
    assert!(
        matches!(refused, DialError::Refused { status: 403, .. }),
        "{refused}"
    );
}
