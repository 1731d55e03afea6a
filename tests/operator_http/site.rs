//! A site with all its ways in, and how it is asked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use ipnet::Ipv6Net;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use sdwand::api::limits::Limits;
use sdwand::api::operator::{Arrival, Listing, Operating, listen, router};
use sdwand::federation::gateway::{Gateway, Settings};
use sdwand::federation::ledger::Ledger;
use sdwand::federation::moment::Moment;
use sdwand::federation::operators::{Issue, OperatorKey, Operators, Permission, Principal};
use sdwand::federation::pki::tls::{CurrentLeaf, operator_config};
use sdwand::federation::pki::{SiteCa, Usage};
use sdwand::federation::site::SiteId;
use sdwand::model::Name;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

pub(crate) const PEERS: &str = "/api/v1/system/platform/peers";
pub(crate) const APPROVALS: &str = "/api/v1/system/platform/approvals";
pub(crate) const FEDERATION: &str = "/api/v1/system/federation";
pub(crate) const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

pub(crate) fn wall() -> Moment {
    SystemTime::now().into()
}

pub(crate) fn random(bytes: &mut [u8]) {
    getrandom::fill(bytes).unwrap();
}

pub(crate) struct Site {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) router: Router,
    pub(crate) operators: Arc<Operators>,
    pub(crate) ca: Vec<u8>,
    pub(crate) https: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
    _stop: watch::Sender<bool>,
}

impl Site {
    pub(crate) async fn new(name: &str, number: u16) -> Self {
        Self::with(name, number, Settings::default()).await
    }

    /// A site whose operator has set something else.
    pub(crate) async fn with(name: &str, number: u16, settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let prefix: Ipv6Net = format!("fd00:0:{number:x}::/48").parse().unwrap();
        let site = SiteId::of(&Name::new(name).unwrap(), prefix);
        let (ca, _) = SiteCa::generate(&site, wall()).unwrap();
        let root = ca.der().to_vec();
        let ledger = Arc::new(Ledger::open(&folder.path().join("ledger.db"), wall()).unwrap());
        let (key, _) = OperatorKey::generate().unwrap();
        let operators = Arc::new(Operators::new(site.clone(), key, Arc::clone(&ledger)));
        let node = Name::new("hub-1").unwrap();
        let gateway = Arc::new(Gateway::new(site, node, ca, ledger, settings));
        let names = NAMES.map(str::to_owned);
        let usage = Usage::Operate { names: &names };
        let leaf = gateway
            .ca
            .issue(&gateway.site, &gateway.node, usage, wall())
            .unwrap();
        let tls = operator_config(Arc::new(CurrentLeaf::new(&leaf).unwrap())).unwrap();
        let router = router(Operating {
            gateway: Arc::clone(&gateway),
            operators: Arc::clone(&operators),
            wall,
            random,
            listing: Listing::default(),
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
            gateway,
            router,
            operators,
            ca: root,
            https,
            http,
            folder,
            _stop: stop,
        }
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn token(&self, permissions: &[Permission]) -> String {
        let (_, token) = self.issue(permissions, None);
        token
    }

    pub(crate) fn issue(&self, permissions: &[Permission], life: Option<Duration>) -> (uuid::Uuid, String) {
        self.issue_to("alice", permissions, life)
    }

    pub(crate) fn issue_to(
        &self,
        sub: &str,
        permissions: &[Permission],
        life: Option<Duration>,
    ) -> (uuid::Uuid, String) {
        let asked = Issue {
            sub: sub.to_owned(),
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
    pub(crate) async fn https(&self, request: &str) -> (u16, String) {
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

    pub(crate) async fn http(&self, request: &str) -> (u16, String) {
        ask(TcpStream::connect(self.http).await.unwrap(), request).await
    }

    pub(crate) async fn unix(&self, name: &str, request: &str) -> (u16, String) {
        ask(UnixStream::connect(self.socket(name)).await.unwrap(), request).await
    }
}

pub(crate) async fn tcp(
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
pub(crate) async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Some end a connection without a word of TLS: what came before counts.
    let _ = stream.read_to_end(&mut answer).await;
    // The ledger is no text.
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer: {text:?}")), text)
}

pub(crate) fn json_of(answer: &str) -> Value {
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
pub(crate) fn joined(mut chunks: &str) -> String {
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

pub(crate) fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}
