//! The API says of itself what it does.

use sdwand::api::operator::DOCUMENT;
use sdwand::federation::operators::Permission;
use serde_json::{Value, json};

use crate::routes;
use crate::site::{FEDERATION, PEERS, Site, bearer, json_of, request};

pub(crate) fn document() -> Value {
    serde_json::to_value(sdwand::api::openapi::operators()).unwrap()
}

/// Every route of the router, as it says of itself: method, path, and what it needs.
#[test]
fn every_route_is_listed_with_what_it_says_that_it_needs() {
    let of_words = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    let mut listed: Vec<_> = routes()
        .into_iter()
        .map(|(method, path, need)| {
            let need = need.map_or("api.sock", Permission::as_str);
            (method.to_lowercase(), of_words(&path), json!([need]))
        })
        .collect();
    listed.push(("get".to_owned(), of_words(DOCUMENT), json!([])));
    let mut described = 0;
    for (path, item) in document()["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            described += 1;
            let words = of_words(path);
            let is_this = |listed: &[String]| {
                let pairs = listed.iter().zip(&words);
                listed.len() == words.len() && { pairs }
                    .all(|(one, other)| one == other || other.starts_with('{'))
            };
            let needs = &operation["security"][0]["operator"];
            let found = listed
                .iter()
                .any(|(listed, path, need)| listed == method && is_this(path) && need == needs);
            assert!(
                found,
                "{method} {path} needs {needs}: it isn't in this test's table so"
            );
        }
    }
    assert_eq!(described, listed.len(), "a route is gone");
}

/// Lets nothing be in an object but what is described: callers must take more, and what more there is, is a mistake. The
/// parts of an `allOf` are closed together, where they are used (JSON Schema, core 11.3).
fn close(schema: &mut Value, is_part: bool) {
    match schema {
        Value::Object(object) => {
            for (key, inner) in object.iter_mut() {
                if let Value::Array(parts) = inner
                    && key == "allOf"
                {
                    for part in parts {
                        close(part, true);
                    }
                } else {
                    close(inner, false);
                }
            }
            let is_closed = ["$ref", "allOf", "properties"]
                .iter()
                .any(|key| object.contains_key(*key));
            if is_closed && !is_part {
                object.insert("unevaluatedProperties".to_owned(), json!(false));
            }
        }
        Value::Array(items) => {
            for item in items {
                close(item, false);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether an answer is what the document says of it, and nothing besides.
pub(crate) fn is_described(
    document: &Value,
    method: &str,
    path: &str,
    status: u16,
    answer: &Value,
) -> Result<(), String> {
    let described = &document["paths"][path][method.to_lowercase()]["responses"][status.to_string()];
    let mut schema = described["content"]["application/json"]["schema"].clone();
    if !schema.is_object() {
        return Err(format!("{method} {path}: {status} isn't described"));
    }
    close(&mut schema, false);
    schema["components"] = document["components"].clone();
    for component in schema["components"]["schemas"]
        .as_object_mut()
        .unwrap()
        .values_mut()
    {
        // Where it is used it is closed, and what it is made of.
        close(component, true);
    }
    jsonschema::validate(&schema, answer).map_err(|error| format!("{method} {path}: {status}: {error}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_is_what_the_served_document_says() {
    let site = Site::new("site-a", 1).await;
    let served = |headers: String| request("GET", DOCUMENT, &headers, "");
    assert_eq!(site.https(&served(String::new())).await.0, 401);
    for may in Permission::ALL {
        assert_eq!(site.https(&served(bearer(&site.token(&[may])))).await.0, 200);
    }
    let (status, answer) = site.unix("status.sock", &served(String::new())).await;
    assert_eq!(status, 200);
    let document = json_of(&answer);
    let of = |rest: &str| format!("{PEERS}/{{peer}}{rest}");
    let body = r#"{"remote_instance_url":"https://b.example.com","alias":"b"}"#;
    let kind = r#"{"resource_kind":"network","direction":"bidirectional"}"#;
    let tokens = format!("{FEDERATION}/tokens");
    for (method, path, query, body, expected) in [
        ("POST", PEERS.to_owned(), "", body, 201),
        ("POST", PEERS.to_owned(), "", body, 409),
        ("POST", PEERS.to_owned(), "", "{}", 400),
        ("POST", PEERS.to_owned(), "", r#"["https://b.example.com"]"#, 400),
        ("GET", PEERS.to_owned(), "", "", 200),
        ("GET", PEERS.to_owned(), "?status=x", "", 400),
        ("GET", of(""), "", "", 200),
        ("PATCH", of(""), "", r#"{"data_residency":"JP"}"#, 200),
        ("PATCH", of(""), "", "{}", 400),
        ("POST", of("/rotate-token"), "", "", 200),
        ("POST", of("/retry"), "", r#"{"step":"governance"}"#, 200),
        ("POST", of("/capabilities"), "", kind, 201),
        ("GET", of("/capabilities"), "", "", 200),
        ("GET", of("/grants"), "", "", 200),
        ("GET", format!("{FEDERATION}/audit"), "?verify=true", "", 200),
        ("GET", format!("{FEDERATION}/site"), "", "", 200),
        ("GET", format!("{FEDERATION}/governance"), "", "", 200),
        ("POST", format!("{FEDERATION}/sweep"), "", "", 200),
        (
            "POST",
            tokens.clone(),
            "",
            r#"{"sub":"a","permissions":["read"]}"#,
            201,
        ),
        ("GET", tokens, "", "", 200),
        ("POST", of("/revoke"), "", "", 200),
        ("POST", of("/revoke"), "", "", 409),
        ("POST", format!("{FEDERATION}/pki/rotate"), "", "", 202),
    ] {
        let asked = request(
            method,
            &format!("{}{query}", path.replace("{peer}", "b")),
            "",
            body,
        );
        let (status, answer) = site.unix("api.sock", &asked).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        let judged = is_described(&document, method, &path, status, &json_of(&answer));
        assert_eq!(judged, Ok(()), "{answer}");
        for place in ["", "/data", "/data/peer"] {
            let mut more = json_of(&answer);
            if let Some(Value::Object(object)) = more.pointer_mut(place) {
                object.insert("more".to_owned(), json!(1));
                let judged = is_described(&document, method, &path, status, &more);
                assert!(judged.is_err(), "{method} {path}: anything may be at {place:?}");
            }
        }
    }
    let (_, answer) = site.https(&request("GET", PEERS, "", "")).await;
    let judged = is_described(&document, "GET", PEERS, 401, &json_of(&answer));
    assert_eq!(judged, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_document_takes_the_parser_does() {
    let (site, document) = (Site::new("site-a", 1).await, document());
    for (value, is_good) in [
        (
            json!({ "remote_instance_url": "https://c.example.com:08443/%7Ex" }),
            true,
        ),
        (
            json!({ "remote_instance_url": "https://d.example.com", "alias": null, "x": 1 }),
            true,
        ),
        (json!({ "remote_instance_url": "http://b.example.com" }), false),
        (json!({ "remote_instance_url": "https://b.example.com/<" }), false),
        (
            json!({ "remote_instance_url": "https://b.example.com:65536" }),
            false,
        ),
        (json!({ "remote_instance_url": null }), false),
        (
            json!({ "remote_instance_url": "https://e.example.com", "spawn_role": "boss" }),
            false,
        ),
        (
            json!({ "remote_instance_url": "https://e.example.com", "token_ttl_seconds": 1.5 }),
            false,
        ),
        (
            json!({ "remote_instance_url": "https://e.example.com", "token_ttl_seconds": 60.0 }),
            true,
        ),
        (json!([]), false),
        (json!({}), false),
    ] {
        let mut schema = document["components"]["schemas"]["Propose"].clone();
        schema["components"] = document["components"].clone();
        assert_eq!(jsonschema::is_valid(&schema, &value), is_good, "{value}");
        let asked = request("POST", PEERS, "", &value.to_string());
        let (status, answer) = site.unix("api.sock", &asked).await;
        assert_eq!(status == 201, is_good, "{value}: {answer}");
    }
}
