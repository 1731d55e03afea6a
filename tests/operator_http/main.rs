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

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use ipnet::Ipv6Net;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use sdwand::api::limits::Limits;
use sdwand::api::operator::{Arrival, DOCUMENT, Operating, listen, router};
use sdwand::federation::gateway::{Gateway, Settings};
use sdwand::federation::ledger::Ledger;
use sdwand::federation::moment::Moment;
use sdwand::federation::operators::{Issue, OperatorKey, Operators, Permission, Principal};
use sdwand::federation::pki::tls::{CurrentLeaf, operator_config};
use sdwand::federation::pki::{SiteCa, Usage};
use sdwand::federation::site::SiteId;
use sdwand::model::Name;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

const PEERS: &str = "/api/v1/system/platform/peers";
const FEDERATION: &str = "/api/v1/system/federation";
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

fn wall() -> Moment {
    SystemTime::now().into()
}

fn random(bytes: &mut [u8]) {
    getrandom::fill(bytes).unwrap();
}

struct Site {
    operators: Arc<Operators>,
    ca: Vec<u8>,
    https: SocketAddr,
    http: SocketAddr,
    folder: tempfile::TempDir,
    _stop: watch::Sender<bool>,
}

impl Site {
    async fn new(name: &str, number: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let prefix: Ipv6Net = format!("fd00:0:{number:x}::/48").parse().unwrap();
        let site = SiteId::of(&Name::new(name).unwrap(), prefix);
        let (ca, _) = SiteCa::generate(&site, wall()).unwrap();
        let root = ca.der().to_vec();
        let ledger = Arc::new(Ledger::open(&folder.path().join("ledger.db"), wall()).unwrap());
        let (key, _) = OperatorKey::generate().unwrap();
        let operators = Arc::new(Operators::new(site.clone(), key, Arc::clone(&ledger)));
        let node = Name::new("hub-1").unwrap();
        let gateway = Arc::new(Gateway::new(site, node, ca, ledger, Settings::default()));
        let names = NAMES.map(str::to_owned);
        let usage = Usage::Operate { names: &names };
        let leaf = gateway
            .ca
            .issue(&gateway.site, &gateway.node, usage, wall())
            .unwrap();
        let tls = operator_config(Arc::new(CurrentLeaf::new(&leaf).unwrap())).unwrap();
        let router = router(Operating {
            gateway,
            operators: Arc::clone(&operators),
            wall,
            random,
        });
        let (stop, stopped) = watch::channel(false);
        let https = tcp(Some(Arc::new(tls)), &router, &stopped).await;
        let http = tcp(None, &router, &stopped).await;
        let unix = |name: &str, way: fn(u32) -> Arrival| {
            let listener = UnixListener::bind(folder.path().join(name)).unwrap();
            tokio::spawn(listen::unix(listener, way, router.clone(), stopped.clone()));
        };
        unix("api.sock", |uid| Arrival::Api { uid });
        unix("status.sock", |uid| Arrival::Status { uid });
        Self {
            operators,
            ca: root,
            https,
            http,
            folder,
            _stop: stop,
        }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn token(&self, permissions: &[Permission]) -> String {
        let (_, token) = self.issue(permissions, None);
        token
    }

    fn issue(&self, permissions: &[Permission], life: Option<Duration>) -> (uuid::Uuid, String) {
        let asked = Issue {
            sub: "alice".to_owned(),
            permissions: permissions.iter().copied().collect(),
            life,
        };
        let mut id = [0; 10];
        random(&mut id);
        let (issued, token) = self
            .operators
            .issue(asked, &Principal::Uid(0), id, wall())
            .unwrap();
        (issued.jti, token.to_string())
    }

    /// By https, judged as an operator's curl with `--cacert` does.
    async fn https(&self, request: &str) -> (u16, String) {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone().into()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.https).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap();
        ask(stream, request).await
    }

    async fn http(&self, request: &str) -> (u16, String) {
        ask(TcpStream::connect(self.http).await.unwrap(), request).await
    }

    async fn unix(&self, name: &str, request: &str) -> (u16, String) {
        ask(UnixStream::connect(self.socket(name)).await.unwrap(), request).await
    }
}

async fn tcp(
    tls: Option<Arc<rustls::ServerConfig>>,
    router: &Router,
    stopped: &watch::Receiver<bool>,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Arc::new(Limits::new(Instant::now));
    tokio::spawn(listen::tcp(
        listener,
        tls,
        router.clone(),
        limits,
        stopped.clone(),
    ));
    address
}

/// Sends a request as it is, and reads all that comes back: status, and the whole answer.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Some end a connection without a word of TLS: what came before counts.
    let _ = stream.read_to_end(&mut answer).await;
    // The ledger is no text.
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer: {text:?}")), text)
}

fn json_of(answer: &str) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    if head
        .to_ascii_lowercase()
        .contains("\r\ntransfer-encoding: chunked")
    {
        return serde_json::from_str(&joined(body)).unwrap();
    }
    serde_json::from_str(body).unwrap()
}

/// What came in chunks (RFC 9112, section 7.1), to the last one.
fn joined(mut chunks: &str) -> String {
    let mut whole = String::new();
    loop {
        let (length, rest) = chunks.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.push_str(&rest[..length]);
        chunks = rest[length..].strip_prefix("\r\n").unwrap();
    }
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

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
        ("GET", peer("/grants"), read),
        ("POST", peer("/grants"), manage),
        ("POST", peer(&format!("/grants/{id}/revoke")), manage),
        ("GET", peer("/capabilities"), read),
        ("POST", peer("/capabilities"), manage),
        ("DELETE", peer(&format!("/capabilities/{id}")), manage),
        ("POST", peer("/call"), manage),
        ("GET", federation("audit"), read),
        ("GET", federation("audit/export"), read),
        ("GET", federation("site"), read),
        ("GET", federation("governance"), read),
        ("POST", federation("pki/rotate"), manage),
        ("POST", federation("sweep"), manage),
        ("POST", federation("ledger/backup"), None),
        ("GET", federation("tokens"), None),
        ("POST", federation("tokens"), None),
        ("POST", federation(&format!("tokens/{id}/revoke")), None),
    ]
}

fn document() -> Value {
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
                match inner {
                    Value::Array(parts) if key == "allOf" => {
                        parts.iter_mut().for_each(|part| close(part, true))
                    }
                    inner => close(inner, false),
                }
            }
            let is_closed = ["$ref", "allOf", "properties"]
                .iter()
                .any(|key| object.contains_key(*key));
            if is_closed && !is_part {
                object.insert("unevaluatedProperties".to_owned(), json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| close(item, false)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether an answer is what the document says of it, and nothing besides.
fn is_described(
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
