//! Operators over real TCP on loopback, with real TLS and without: who may what, and everyone who may nothing.
//!
//! ```text
//! a gateway ◀── https by the site's CA, or plain http ── JWT
//!           ◀── api.sock, status.sock ────────────────── user id
//! ```

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests look at the clock, and say so when they fail"
)]

mod approvals;
mod described;
mod site;

use std::time::{Duration, Instant};

use sdwand::federation::operators::{Permission, Principal};
use serde_json::{Value, json};

use site::{APPROVALS, FEDERATION, PEERS, Site, bearer, json_of, request, wall};

/// What a route needs: a permission, or to be asked over `api.sock`.
type Need = Option<Permission>;

/// Every route of the operators' API. A new one is listed here.
fn routes() -> Vec<(&'static str, String, Need)> {
    let (read, invite, manage) = (
        Some(Permission::Read),
        Some(Permission::Invite),
        Some(Permission::Manage),
    );
    let id = "00000000-0000-7000-8000-000000000001";
    let peer = |rest: &str| format!("{PEERS}/{id}{rest}");
    let federation = |rest: &str| format!("{FEDERATION}/{rest}");
    let approvals = |rest: &str| format!("{APPROVALS}{rest}");
    vec![
        ("GET", PEERS.to_owned(), read),
        ("GET", peer(""), read),
        ("PATCH", peer(""), manage),
        ("POST", PEERS.to_owned(), invite),
        ("POST", peer("/accept"), invite),
        ("POST", peer("/rotate-token"), invite),
        ("POST", peer("/verify"), manage),
        ("POST", peer("/suspend"), manage),
        ("POST", peer("/resume"), manage),
        ("POST", peer("/revoke"), manage),
        ("POST", peer("/retry"), manage),
        ("GET", peer("/bridges"), read),
        ("GET", peer("/grants"), read),
        ("POST", peer("/grants"), manage),
        ("POST", peer(&format!("/grants/{id}/revoke")), manage),
        ("GET", peer("/capabilities"), read),
        ("POST", peer("/capabilities"), manage),
        ("DELETE", peer(&format!("/capabilities/{id}")), manage),
        ("POST", peer("/call"), manage),
        ("GET", approvals(""), read),
        ("GET", approvals(&format!("/{id}")), read),
        ("POST", approvals(&format!("/{id}/approve")), manage),
        ("POST", approvals(&format!("/{id}/deny")), manage),
        ("GET", FEDERATION.to_owned(), read),
        ("POST", federation("acceptances"), invite),
        ("POST", federation("pause"), manage),
        ("POST", federation("resume"), manage),
        ("GET", federation("audit"), read),
        ("GET", federation("audit/export"), read),
        ("GET", federation("site"), read),
        ("GET", federation("offers"), read),
        ("GET", federation("governance"), read),
        ("POST", federation("pki/rotate"), manage),
        ("POST", federation("sweep"), manage),
        ("POST", federation("ledger/backup"), None),
        ("GET", federation("tokens"), None),
        ("POST", federation("tokens"), None),
        ("POST", federation(&format!("tokens/{id}/revoke")), None),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_route_needs_its_own_permission_and_no_other() {
    let site = Site::new("site-a", 1).await;
    for (method, path, need) in routes() {
        let of = |headers: &str| request(method, &path, headers, "{}");
        let route = format!("{method} {path}");
        let (status, answer) = site.https(&of("")).await;
        assert_eq!(status, 401, "{route}: nobody");
        assert_eq!(json_of(&answer)["code"], "UNAUTHORIZED");
        assert!(
            answer
                .to_ascii_lowercase()
                .contains("www-authenticate: bearer\r\n")
        );
        for given in Permission::ALL {
            let (status, answer) = site.https(&of(&bearer(&site.token(&[given])))).await;
            let is_refused = need != Some(given);
            assert_eq!(status == 403, is_refused, "{route} with {given}: {answer}");
            assert_ne!(status, 401, "{route} with {given}");
            assert_ne!(status, 405, "{route}: no such route");
        }
        let others: Vec<_> = Permission::ALL
            .into_iter()
            .filter(|may| Some(*may) != need)
            .collect();
        let (status, _) = site.https(&of(&bearer(&site.token(&others)))).await;
        assert_eq!(status, 403, "{route}: all others together");
        let (status, _) = site.unix("status.sock", &of("")).await;
        assert_eq!(
            status == 403,
            need != Some(Permission::Read),
            "{route} over status.sock"
        );
        let (status, answer) = site.unix("api.sock", &of("")).await;
        assert!(
            ![401, 403, 405].contains(&status),
            "{route} over api.sock: {answer}"
        );
        for origin in ["https://evil.example", "null", ""] {
            let headers = format!("Origin: {origin}\r\n{}", bearer(&site.token(&Permission::ALL)));
            assert_eq!(site.https(&of(&headers)).await.0, 403, "{route}");
            assert_eq!(site.unix("api.sock", &of(&headers)).await.0, 403, "{route}");
            assert_eq!(site.unix("status.sock", &of(&headers)).await.0, 403, "{route}");
        }
    }
    // Paths that aren't there are nobody's business, either.
    assert_eq!(site.https(&request("GET", "/", "", "")).await.0, 401);
    let all = bearer(&site.token(&Permission::ALL));
    assert_eq!(site.https(&request("GET", "/", &all, "")).await.0, 404);
    assert_eq!(site.https(&request("PUT", PEERS, &all, "")).await.0, 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_token_that_is_good_now_is_one() {
    let (site, other) = (Site::new("site-a", 1).await, Site::new("site-b", 2).await);
    let list = |headers: &str| request("GET", PEERS, headers, "");
    let good = site.token(&[Permission::Read]);
    assert_eq!(site.https(&list(&bearer(&good))).await.0, 200);
    assert_eq!(site.http(&list(&bearer(&good))).await.0, 200);

    let (jti, revoked) = site.issue(&[Permission::Read], None);
    assert_eq!(site.https(&list(&bearer(&revoked))).await.0, 200);
    site.operators.revoke(jti, &Principal::Uid(0), wall()).unwrap();
    let (_, expired) = site.issue(&[Permission::Read], Some(Duration::from_secs(1)));
    let deadline = Instant::now() + Duration::from_secs(10);
    while site.https(&list(&bearer(&expired))).await.0 != 401 {
        assert!(Instant::now() < deadline, "it never expires");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let [head, body, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("three parts")
    };
    // {"typ":"JWT","alg":"none"}
    let none = "eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0";
    let foreign = other.token(&[Permission::Read]);
    let stranger = foreign.rsplit('.').next().unwrap();
    let bad = [
        bearer(&revoked),
        bearer(&expired),
        bearer(&foreign),
        bearer(&format!("{none}.{body}.")),
        bearer(&format!("{none}.{body}.{signature}")),
        bearer(&format!("{head}.{body}.{stranger}")),
        bearer(&format!("{head}.{body}.")),
        bearer(""),
        format!("Authorization: Basic {good}\r\n"),
        format!("Authorization: {good}\r\n"),
        format!("{}{}", bearer(&good), bearer(&good)),
        format!("Cookie: token={good}\r\n"),
    ];
    let (_, nobody) = site.http(&list("")).await;
    for headers in bad {
        for (status, answer) in [
            site.https(&list(&headers)).await,
            site.http(&list(&headers)).await,
        ] {
            assert_eq!(status, 401, "{headers}");
            assert_eq!(json_of(&answer), json_of(&nobody), "everyone hears the same");
        }
    }
    // No token makes another, whatever it may.
    let mint = json!({ "sub": "eve", "permissions": ["read"] }).to_string();
    let all = bearer(&site.token(&Permission::ALL));
    let tokens = format!("{FEDERATION}/tokens");
    assert_eq!(site.https(&request("POST", &tokens, &all, &mint)).await.0, 403);
    let (status, answer) = site.unix("api.sock", &request("POST", &tokens, "", &mint)).await;
    assert_eq!(status, 201, "{answer}");
    let token = json_of(&answer)["data"]["token"].as_str().unwrap().to_owned();
    assert_eq!(site.https(&list(&bearer(&token))).await.0, 200);
    let (_, answer) = site.unix("api.sock", &request("GET", &tokens, "", "")).await;
    assert!(
        !answer.contains(token.rsplit('.').next().unwrap()),
        "it is shown once"
    );
    assert!(answer.contains("\"eve\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runbooks_proposal_is_answered_as_it_says() {
    let site = Site::new("site-a", 1).await;
    let token = site.token(&[Permission::Invite, Permission::Read]);
    let body = r#"{
    "remote_instance_url": "https://platform-b.example.com",
    "spawn_role":          "symmetric",
    "spawn_mode":          "out_of_band",
    "token_ttl_seconds":   604800
  }"#;
    // What curl sends.
    let length = body.len();
    let propose = format!(
        "POST {PEERS} HTTP/1.1\r\nHost: localhost:3000\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let (status, answer) = site.http(&propose).await;
    assert_eq!(status, 201, "{answer}");
    let data = &json_of(&answer)["data"];
    assert_eq!(data["peer"]["peer_kind"], "platform");
    assert_eq!(data["peer"]["status"], "proposed");
    let secret = data["acceptance_token"].as_str().unwrap();
    assert!(secret.starts_with("sdw1."));
    let (status, answer) = site.http(&request("GET", PEERS, &bearer(&token), "")).await;
    assert_eq!(status, 200);
    assert!(!answer.contains(secret), "shown once");
    let list = json_of(&answer);
    assert_eq!(list["data"].as_array().unwrap().len(), 1, "`data` is the array");
    assert_eq!(
        list["data"][0]["remote_instance_url"],
        "https://platform-b.example.com"
    );
    // An alias that reads like an id could be taken for one.
    let id = list["data"][0]["id"].as_str().unwrap();
    for (url, alias, status) in [
        ("https://evil.example.com", id, 422),
        ("https://good.example.com", "good", 201),
    ] {
        let body = serde_json::json!({ "remote_instance_url": url, "alias": alias }).to_string();
        let (found, answer) = site.http(&request("POST", PEERS, &bearer(&token), &body)).await;
        assert_eq!(found, status, "{answer}");
    }
}

/// Line 100 and 101 of the contract: one change at a time, and what can't happen leaves the row as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_changes_one_thing_about_a_peer() {
    let site = Site::new("site-a", 1).await;
    let all = bearer(&site.token(&Permission::ALL));
    let send = async |method: &str, path: &str, body: Value| {
        let (status, answer) = site.https(&request(method, path, &all, &body.to_string())).await;
        (status, json_of(&answer))
    };
    let propose = async |url: &str| {
        let (_, answer) = send("POST", PEERS, json!({ "remote_instance_url": url })).await;
        answer["data"]["peer"]["id"].as_str().unwrap().to_owned()
    };
    let (b, _c) = (
        propose("https://b.example:8443").await,
        propose("https://c.example:8443").await,
    );
    let path = format!("{PEERS}/{b}");
    for (body, status) in [
        (json!({}), 400),
        (json!({ "status": "suspended", "data_residency": "JP" }), 422),
        (json!({ "status": "active" }), 422),
        (json!({ "status": "accepted" }), 422),
        (json!({ "status": "gone" }), 400),
        (json!({ "data_residency": "x".repeat(65) }), 422),
        (json!({ "remote_instance_url": "http://b.example" }), 422),
        (json!({ "remote_instance_url": "https://c.example:8443" }), 409),
    ] {
        let (found, answer) = send("PATCH", &path, body.clone()).await;
        assert_eq!(found, status, "{body}: {answer}");
        let (_, shown) = send("GET", &path, Value::Null).await;
        assert_eq!(shown["data"]["status"], "proposed", "{body}");
        assert_eq!(shown["data"]["data_residency"], Value::Null, "{body}");
        assert_eq!(
            shown["data"]["remote_instance_url"], "https://b.example:8443",
            "{body}"
        );
    }
    for _ in 0..2 {
        let (status, answer) = send("PATCH", &path, json!({ "data_residency": "JP" })).await;
        assert_eq!(
            (status, &answer["data"]["peer"]["data_residency"]),
            (200, &json!("JP"))
        );
    }
    let moved = json!({ "remote_instance_url": "https://b2.example" });
    assert_eq!(send("PATCH", &path, moved).await.0, 200);
    let (_, audit) = send("GET", &format!("{FEDERATION}/audit"), Value::Null).await;
    let records = audit["data"]["records"].as_array().unwrap();
    let told: Vec<&Value> = records
        .iter()
        .filter(|record| record["kind"] == "federation.peer.data_residency_changed")
        .collect();
    assert_eq!(told.len(), 1, "the same again is no news");
    assert_eq!(
        told[0]["payload"],
        json!({ "previous": null, "new": "JP", "declared_by": "operator", "by": "sub:alice" })
    );
    let (status, answer) = send("PATCH", &path, json!({ "status": "revoked" })).await;
    assert_eq!(
        (status, &answer["data"]["peer"]["status"]),
        (200, &json!("revoked"))
    );
    for body in [json!({ "status": "revoked" }), json!({ "status": "suspended" })] {
        assert_eq!(send("PATCH", &path, body).await.0, 422);
    }
    assert_eq!(
        send("PATCH", &path, json!({ "data_residency": "DE" })).await.0,
        409
    );
}
