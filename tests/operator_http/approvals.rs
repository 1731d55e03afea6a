//! What waits for a second operator, asked for and decided by every way in.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use sdwand::api::operator::Arrival;
use sdwand::federation::approval::State;
use sdwand::federation::gateway::Settings;
use sdwand::federation::operators::Permission;
use sdwand::federation::peer::Status;
use sdwand::federation::token::{AcceptanceToken, Fingerprint};
use sdwand::model::host::Approvals;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::described::{document, is_described};
use crate::site::{APPROVALS, FEDERATION, PEERS, Site, bearer, json_of, request, wall};

async fn site() -> Site {
    let approvals = Approvals {
        propose: true,
        accept: true,
        anchor: true,
        ..Approvals::default()
    };
    let settings = Settings {
        approvals,
        ..Settings::default()
    };
    Site::with("site-a", 1, settings).await
}

/// Asks as the holder of a token, and holds the answer against the document.
async fn ask(site: &Site, who: &str, path: [&str; 2], method: &str, body: &Value) -> (u16, Value) {
    let (_, token) = site.issue_to(who, &Permission::ALL, None);
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let [described, asked] = path;
    let (status, answer) = site.https(&request(method, asked, &bearer(&token), &body)).await;
    let answer = json_of(&answer);
    assert_eq!(
        is_described(&document(), method, described, status, &answer),
        Ok(()),
        "{answer}"
    );
    (status, answer)
}

async fn decide(site: &Site, who: &str, id: &Value, verb: &str, body: &Value) -> (u16, Value) {
    let described = format!("{APPROVALS}/{{approval}}/{verb}");
    let path = format!("{APPROVALS}/{}/{verb}", id.as_str().unwrap());
    ask(site, who, [&described, &path], "POST", body).await
}

async fn listed(site: &Site, query: &str) -> Vec<Value> {
    let path = format!("{APPROVALS}{query}");
    let (status, answer) = ask(site, "carol", [APPROVALS, &path], "GET", &Value::Null).await;
    assert_eq!(status, 200);
    answer["data"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_waits_until_another_operator_says_yes() {
    let site = site().await;
    let body = json!({ "remote_instance_url": "https://b.example.com", "alias": "b" });
    let (status, answer) = ask(&site, "alice", [PEERS; 2], "POST", &body).await;
    assert_eq!(status, 202, "{answer}");
    let parked = &answer["data"];
    let keys: Vec<&String> = parked.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        ["action", "expires_at", "pending_id", "requested_by", "summary"]
    );
    assert_eq!(
        (&parked["action"], &parked["requested_by"]),
        (&json!("propose"), &json!("sub:alice"))
    );
    let (_, peers) = ask(&site, "alice", [PEERS; 2], "GET", &Value::Null).await;
    assert_eq!(peers["data"], json!([]), "nothing else has happened");
    let (_, again) = ask(&site, "alice", [PEERS; 2], "POST", &body).await;
    assert_eq!(&again["data"], parked, "the same is the same");
    let id = &parked["pending_id"];
    let (status, answer) = decide(&site, "alice", id, "approve", &Value::Null).await;
    assert_eq!(
        (status, &answer["code"]),
        (403, &json!("same_principal")),
        "{answer}"
    );
    let (status, answer) = decide(&site, "bob", id, "approve", &Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["data"]["approval"]["state"], "approved");
    assert_eq!(answer["data"]["approval"]["decided_by"], "sub:bob");
    let result = &answer["data"]["result"];
    assert_eq!(result["peer"]["status"], "proposed");
    assert!(result["acceptance_token"].as_str().unwrap().starts_with("sdw1."));
    let (status, answer) = decide(&site, "carol", id, "approve", &Value::Null).await;
    assert_eq!(status, 409, "{answer}");
    assert_eq!(listed(&site, "?state=pending").await, Vec::<Value>::new());
    assert_eq!(listed(&site, "?state=approved").await.len(), 1);
    let token = result["acceptance_token"].as_str().unwrap();
    let shown = format!("{:?}", listed(&site, "").await);
    assert!(!shown.contains(token), "the token is shown once");
    let (status, answer) = ask(&site, "alice", [PEERS; 2], "POST", &body).await;
    assert_eq!(status, 409, "what is plainly wrong by now isn't parked: {answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_of_the_gateway_is_one_operator() {
    let site = site().await;
    let rotate = request("POST", &format!("{FEDERATION}/pki/rotate"), "", "");
    let (status, answer) = site.unix("api.sock", &rotate).await;
    assert_eq!(status, 202, "{answer}");
    let parked = json_of(&answer)["data"].clone();
    assert_eq!(parked["action"], "anchor");
    let approve = format!("{APPROVALS}/{}/approve", parked["pending_id"].as_str().unwrap());
    let (status, answer) = site.unix("api.sock", &request("POST", &approve, "", "")).await;
    assert_eq!(status, 403, "by whichever way they come again: {answer}");
    let (status, answer) = decide(&site, "bob", &parked["pending_id"], "approve", &Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["data"]["result"]["trust_sequence"], 2);
    let (status, answer) = site.unix("api.sock", &rotate).await;
    assert_eq!(status, 409, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_damaged_is_refused_before_anything_waits() {
    let site = site().await;
    let body = json!({ "remote_instance_url": "https://127.0.0.1:1", "alias": "b" });
    let (_, answer) = ask(&site, "alice", [PEERS; 2], "POST", &body).await;
    let proposed = decide(
        &site,
        "bob",
        &answer["data"]["pending_id"],
        "approve",
        &Value::Null,
    )
    .await;
    assert_eq!(proposed.0, 200);
    let accept = [&format!("{PEERS}/{{peer}}/accept"), &format!("{PEERS}/b/accept")];
    let accept = accept.map(String::as_str);
    let token = AcceptanceToken::new([7; 32], Fingerprint([9; 32])).reveal();
    let own = proposed.1["data"]["result"]["acceptance_token"].clone();
    for (token, expected) in [
        (json!(token[1..]), 422),
        (json!(format!("{token}x")), 422),
        (own, 422),
        (json!(""), 400),
        (Value::Null, 400),
    ] {
        let body = json!({ "acceptance_token": token });
        let (status, answer) = ask(&site, "alice", accept, "POST", &body).await;
        assert_eq!(status, expected, "{answer}");
    }
    assert_eq!(listed(&site, "?state=pending").await.len(), 0);

    // A sound one waits; that its site can't be reached is only known once it is approved.
    let body = json!({ "acceptance_token": token });
    let (status, answer) = ask(&site, "alice", accept, "POST", &body).await;
    assert_eq!(status, 202, "{answer}");
    let id = answer["data"]["pending_id"].clone();
    assert!(!answer.to_string().contains(token.split('.').nth(1).unwrap()));
    let (status, answer) = decide(&site, "bob", &id, "approve", &Value::Null).await;
    assert_eq!(
        (status, &answer["code"]),
        (502, &json!("unreachable")),
        "{answer}"
    );
    let failed = listed(&site, "?state=failed").await;
    assert_eq!(
        failed[0]["reason"], answer["error"],
        "its reason is what the approver heard"
    );
    let (status, _) = decide(&site, "bob", &id, "approve", &Value::Null).await;
    assert_eq!(status, 409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_no_ends_it() {
    let site = site().await;
    let body = json!({ "remote_instance_url": "https://b.example.com" });
    let (_, answer) = ask(&site, "alice", [PEERS; 2], "POST", &body).await;
    let id = &answer["data"]["pending_id"];
    let long = json!({ "reason": "x".repeat(257) });
    assert_eq!(decide(&site, "bob", id, "deny", &long).await.0, 422);
    let (status, answer) = decide(&site, "bob", id, "deny", &json!({ "reason": "no" })).await;
    assert_eq!(status, 200, "{answer}");
    let denied = &answer["data"]["approval"];
    assert_eq!(
        (&denied["state"], &denied["reason"]),
        (&json!("denied"), &json!("no"))
    );
    assert_eq!(decide(&site, "carol", id, "approve", &Value::Null).await.0, 409);
    let nobodys = json!("00000000-0000-7000-8000-000000000009");
    assert_eq!(
        decide(&site, "carol", &nobodys, "deny", &Value::Null).await.0,
        404
    );
    assert_eq!(
        decide(&site, "carol", &json!("x"), "approve", &Value::Null)
            .await
            .0,
        404
    );
    let (_, peers) = ask(&site, "alice", [PEERS; 2], "GET", &Value::Null).await;
    assert_eq!(peers["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_our_own_is_redeemed_here_and_another_sites_taken_there() {
    let site = site().await;
    let path = [&*format!("{FEDERATION}/acceptances"); 2].map(str::to_owned);
    let path = [path[0].as_str(), path[1].as_str()];
    let body = json!({ "remote_instance_url": "https://127.0.0.1:1", "alias": "b" });
    let (_, answer) = ask(&site, "alice", [PEERS; 2], "POST", &body).await;
    let (_, answer) = decide(
        &site,
        "bob",
        &answer["data"]["pending_id"],
        "approve",
        &Value::Null,
    )
    .await;
    let own = answer["data"]["result"]["acceptance_token"].clone();
    let unknown = AcceptanceToken::parse(own.as_str().unwrap()).unwrap().ca();
    let unknown = AcceptanceToken::new([5; 32], unknown).reveal();
    let foreign = AcceptanceToken::new([7; 32], Fingerprint([9; 32])).reveal();
    for (body, expected) in [
        (json!({ "contract_version": 1 }), 422),
        (json!({ "acceptance_token": own, "contract_version": 2 }), 422),
        (json!({ "acceptance_token": own }), 422),
        (
            json!({ "acceptance_token": "sdw1.x", "contract_version": 1 }),
            422,
        ),
        (json!({ "acceptance_token": unknown, "contract_version": 1 }), 401),
        (
            json!({ "acceptance_token": foreign, "contract_version": 1, "endpoints": [{ "url": "ftp://x" }] }),
            422,
        ),
    ] {
        let (status, answer) = ask(&site, "alice", path, "POST", &body).await;
        assert_eq!(status, expected, "{body}: {answer}");
    }
    let there = json!({ "acceptance_token": foreign, "contract_version": "v1" });
    let (status, answer) = ask(&site, "alice", path, "POST", &there).await;
    assert_eq!(status, 202, "it waits: {answer}");
    let (status, _) = decide(
        &site,
        "bob",
        &answer["data"]["pending_id"],
        "approve",
        &Value::Null,
    )
    .await;
    assert_eq!(status, 502, "it was taken to the site, which isn't there");
    let here = json!({ "acceptance_token": own, "contract_version": 1, "extension_slugs": ["x"] });
    let (status, answer) = ask(&site, "alice", path, "POST", &here).await;
    assert_eq!(status, 202, "{answer}");
    let (status, answer) = decide(
        &site,
        "bob",
        &answer["data"]["pending_id"],
        "approve",
        &Value::Null,
    )
    .await;
    assert_eq!(status, 200, "{answer}");
    let result = &answer["data"]["result"];
    assert_eq!(
        (&result["status"], &result["contract_version_agreed"]),
        (&json!("accepted"), &json!(1))
    );
    assert_eq!(result["peer"]["extension_slugs"], json!(["x"]));
    let (status, answer) = ask(&site, "alice", path, "POST", &here).await;
    assert_eq!(status, 401, "it is used: {answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_isnt_known_yet_is_registered_and_accepted_in_one() {
    let site = site().await;
    let path = [&*format!("{FEDERATION}/acceptances"); 2].map(str::to_owned);
    let path = [path[0].as_str(), path[1].as_str()];
    let foreign = AcceptanceToken::new([7; 32], Fingerprint([9; 32])).reveal();
    let endpoints = json!([
        { "url": "https://127.0.0.1:2", "scope": "lan", "priority": 200 },
        { "url": "https://127.0.0.1:1", "scope": "wan", "priority": 100 },
    ]);
    let body = json!({ "acceptance_token": foreign, "contract_version": 1, "endpoints": endpoints });
    let (status, answer) = ask(&site, "alice", path, "POST", &body).await;
    assert_eq!(status, 202, "{answer}");
    let parked = &answer["data"];
    assert_eq!(parked["action"], "accept");
    let summary = parked["summary"].as_str().unwrap();
    assert!(
        summary.starts_with("register and accept https://127.0.0.1:1"),
        "the first by priority: {summary}"
    );
    let (_, again) = ask(&site, "alice", path, "POST", &body).await;
    assert_eq!(again["data"], *parked, "the same is the same");
    let (_, peers) = ask(&site, "alice", [PEERS; 2], "GET", &Value::Null).await;
    assert_eq!(peers["data"], json!([]), "nobody is registered meanwhile");
    let (status, answer) = decide(&site, "bob", &parked["pending_id"], "approve", &Value::Null).await;
    assert_eq!(
        status, 502,
        "it was taken to the site, which isn't there: {answer}"
    );
    let (_, peers) = ask(&site, "alice", [PEERS; 2], "GET", &Value::Null).await;
    assert_eq!(peers["data"][0]["remote_instance_url"], "https://127.0.0.1:1");
    assert_eq!(peers["data"][0]["status"], "proposed");
    // Once more: the peer is there, and no other is registered.
    let (status, answer) = ask(&site, "alice", path, "POST", &body).await;
    assert_eq!(status, 202, "{answer}");
    assert!(
        answer["data"]["summary"]
            .as_str()
            .unwrap()
            .starts_with("accept peer"),
        "{answer}"
    );
    let (_, peers) = ask(&site, "alice", [PEERS; 2], "GET", &Value::Null).await;
    assert_eq!(peers["data"].as_array().unwrap().len(), 1);
}

/// What is approved begins in one task with the approval: whoever asked for it may be gone before either was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_whose_caller_hangs_up_is_performed_once() {
    let site = site().await;
    for n in 0..20 {
        let url = format!("https://b{n}.example.com");
        let body = json!({ "remote_instance_url": url, "alias": format!("b{n}") });
        let (status, answer) = ask(&site, "alice", [PEERS; 2], "POST", &body).await;
        assert_eq!(status, 202, "{answer}");
        let id = answer["data"]["pending_id"].as_str().unwrap();
        let request = Request::post(format!("{APPROVALS}/{id}/approve"))
            .extension(Arrival::Api { uid: 4_711 })
            .body(Body::empty())
            .unwrap();
        let mut asked = Box::pin(site.router.clone().oneshot(request));
        // As a server does whose caller hangs up: it has begun to answer, and stops.
        assert!(futures::poll!(&mut asked).is_pending());
        drop(asked);
        let is_over = || {
            site.gateway.ledger.read(|book| {
                let now = book.now(wall());
                let all = book.approvals().map(|approval| approval.state(now));
                all.filter(|state| *state == State::Approved).count() == n + 1
            })
        };
        let over = async {
            while !is_over() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), over)
            .await
            .expect("it goes on to its end");
        let (status, _) = decide(&site, "bob", &json!(id), "approve", &Value::Null).await;
        assert_eq!(status, 409, "once");
    }
    let peers = site.gateway.ledger.read(|book| book.peers().count());
    assert_eq!(peers, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_token_that_runs_out_while_it_waits_is_refused_and_the_next_one_is_taken() {
    let site = site().await;
    let path = [&*format!("{FEDERATION}/acceptances"); 2].map(str::to_owned);
    let path = [path[0].as_str(), path[1].as_str()];
    let body = json!({ "remote_instance_url": "https://127.0.0.1:1", "alias": "b" });
    let (_, answer) = ask(&site, "alice", [PEERS; 2], "POST", &body).await;
    let approve = async |answer: Value| {
        assert!(answer["data"]["pending_id"].is_string(), "{answer}");
        decide(
            &site,
            "bob",
            &answer["data"]["pending_id"],
            "approve",
            &Value::Null,
        )
        .await
    };
    let (_, proposed) = approve(answer).await;
    let redeem = async |token: &Value| {
        let body = json!({ "acceptance_token": token, "contract_version": 1 });
        ask(&site, "alice", path, "POST", &body).await.1
    };
    let parked = redeem(&proposed["data"]["result"]["acceptance_token"]).await;
    let run_out = site.gateway.ledger.transact(wall(), |draft| {
        let mut peer = draft.peers().next().cloned().unwrap();
        peer.offer.as_mut().unwrap().expires_at = wall();
        draft.put_peer(peer)
    });
    run_out.unwrap();
    let (status, answer) = approve(parked).await;
    assert_eq!(
        (status, &answer["code"]),
        (401, &json!("UNAUTHORIZED")),
        "{answer}"
    );
    assert_eq!(listed(&site, "?state=failed").await[0]["reason"], answer["error"]);
    let standing = || {
        site.gateway
            .ledger
            .read(|book| book.peers().next().unwrap().status)
    };
    assert_eq!(standing(), Status::Proposed);

    let anew = [
        &format!("{PEERS}/{{peer}}/rotate-token"),
        &format!("{PEERS}/b/rotate-token"),
    ];
    let (_, answer) = ask(&site, "alice", anew.map(String::as_str), "POST", &json!({})).await;
    let (_, drawn) = approve(answer).await;
    let (status, answer) = approve(redeem(&drawn["data"]["result"]["acceptance_token"]).await).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(standing(), Status::Accepted);
}
