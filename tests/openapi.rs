//! What the APIs say of themselves is whole. That it is so, `operator_http` and `netns-tests/19-openapi.sh` hold.

#![expect(clippy::unwrap_used, reason = "tests say so when they fail")]

use std::collections::BTreeSet;

use sdwand::api::openapi;
use serde_json::{Value, json};

fn documents() -> [Value; 2] {
    [openapi::operators(), openapi::peers()].map(|document| serde_json::to_value(document).unwrap())
}

#[test]
fn a_document_is_whole() {
    for document in documents() {
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let text = document.to_string();
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap();
            let schema = &document["components"]["schemas"][name];
            assert!(schema.is_object(), "{name} isn't described");
        }
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for operation in item.as_object().unwrap().values() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id.to_owned()), "{id} twice");
                assert!(operation["summary"].is_string(), "{id}: what does it do?");
                // Who has a token but no certificate yet, calls these two.
                let is_open = path.ends_with("/federation_api/accept") || path.ends_with("/renew");
                assert_ne!(operation["security"].is_array(), is_open, "{id}: who may?");
                let said = operation["parameters"].as_array().into_iter().flatten();
                let said = said.filter(|parameter| parameter["in"] == "path").count();
                assert_eq!(said, path.matches('{').count(), "{id}");
                for (status, response) in operation["responses"].as_object().unwrap() {
                    assert_ne!(response["description"], "", "{id}: {status}");
                    let refusal = &response["content"]["application/json"]["schema"]["$ref"];
                    let is_refusal = refusal == "#/components/schemas/Refusal";
                    assert_eq!(is_refusal, status.as_str() >= "400", "{id}: {status}");
                }
                assert!(operation["responses"]["500"].is_object(), "{id}");
            }
        }
    }
}

#[test]
fn a_schema_says_what_it_should() {
    let [document, _] = documents();
    let judge = |name: &str, value: &Value| {
        let mut schema = document["components"]["schemas"][name].clone();
        assert!(schema.is_object(), "{name} isn't described");
        schema["components"] = document["components"].clone();
        jsonschema::is_valid(&schema, value)
    };
    let url = "https://platform-b.example.com:8443";
    for (name, value, is_good) in [
        ("Propose", json!({ "remote_instance_url": url }), true),
        (
            "Propose",
            json!({ "remote_instance_url": url, "alias": null, "x": 1 }),
            true,
        ),
        (
            "Propose",
            json!({ "remote_instance_url": "http://b.example.com" }),
            false,
        ),
        ("Propose", json!({ "remote_instance_url": null }), false),
        (
            "Propose",
            json!({ "remote_instance_url": url, "spawn_role": "boss" }),
            false,
        ),
        ("Propose", json!({}), false),
        ("ChangeReason", json!({}), true),
        ("ChangeReason", json!({ "reason": 1 }), false),
        ("SweepAsked", json!({ "stale_after_seconds": -1 }), false),
        ("Retry", json!({ "step": "attach" }), true),
        ("Retry", json!({}), false),
        (
            "Refusal",
            json!({ "success": false, "error": "e", "code": "c" }),
            true,
        ),
        ("Refusal", json!({ "error": "e" }), false),
    ] {
        assert_eq!(judge(name, &value), is_good, "{name}: {value}");
    }
}
