//! A site with a listener of its own, and calls to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use ipnet::Ipv6Net;
use rustls::pki_types::ServerName;
use sdwand::api::federation_api::Serving;
use sdwand::api::limits::Limits;
use sdwand::api::listener;
use sdwand::federation::gateway::{Gateway, Proposal, Proposed, Settings};
use sdwand::federation::ledger::Ledger;
use sdwand::federation::moment::Moment;
use sdwand::federation::overlay::Post;
use sdwand::federation::peer::{Peer, PeerId, SpawnMode, SpawnRole};
use sdwand::federation::pki::tls::{Callee, CurrentLeaf, PossessionOnly, client_config, server_config};
use sdwand::federation::pki::{Leaf, SiteCa, Usage};
use sdwand::federation::site::SiteId;
use sdwand::federation::url::PeerUrl;
use sdwand::federation::wire::API;
use sdwand::model::Name;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) fn wall() -> Moment {
    SystemTime::now().into()
}

fn random(bytes: &mut [u8]) {
    getrandom::fill(bytes).unwrap();
}

pub(crate) fn node() -> Name {
    Name::new("hub-1").unwrap()
}

pub(crate) struct Site {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) address: SocketAddr,
    pub(crate) url: PeerUrl,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) limits: Arc<Limits>,
    ca: [String; 2],
    stop: watch::Sender<bool>,
}

impl Site {
    pub(crate) async fn new(name: &str, number: u16) -> Self {
        Self::with(name, number, |_| {}).await
    }

    /// A site whose operator has set something else.
    pub(crate) async fn with(name: &str, number: u16, set: impl FnOnce(&mut Settings)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let prefix: Ipv6Net = format!("fd00:0:{number:x}::/48").parse().unwrap();
        let site = SiteId::of(&Name::new(name).unwrap(), prefix);
        let (ca, key) = SiteCa::generate(&site, wall()).unwrap();
        let ca = [ca.pem().to_owned(), key.to_string()];
        Self::open(tempfile::tempdir().unwrap(), listener, site, ca, set)
    }

    /// The power goes: what was on the disk by now, opened anew at the same address. The fleet is to be told again.
    pub(crate) async fn after_a_crash(self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        let (site, settings) = (self.gateway.site.clone(), self.gateway.settings.clone());
        let (address, ca) = (self.address, self.ca.clone());
        drop(self);
        let free = async {
            loop {
                if let Ok(listener) = TcpListener::bind(address).await {
                    return listener;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let listener = tokio::time::timeout(Duration::from_secs(10), free).await.unwrap();
        Self::open(folder, listener, site, ca, |fresh| *fresh = settings)
    }

    fn open(
        folder: tempfile::TempDir,
        listener: TcpListener,
        site: SiteId,
        pems: [String; 2],
        set: impl FnOnce(&mut Settings),
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let url = PeerUrl::new(&format!("https://{address}")).unwrap();
        let ca = SiteCa::load(&pems[0], &pems[1]).unwrap();
        let ledger = Arc::new(Ledger::open(&folder.path().join("ledger.db"), wall()).unwrap());
        let mut settings = Settings {
            url: Some(url.clone()),
            jurisdiction: Some("JP".to_owned()),
            ..Settings::default()
        };
        set(&mut settings);
        let gateway = Arc::new(Gateway::new(site, node(), ca, ledger, settings));
        let (stop, _) = watch::channel(false);
        let site = Self {
            gateway,
            address,
            url,
            folder,
            limits: Arc::new(Limits::new(Instant::now)),
            ca: pems,
            stop,
        };
        let (tls, serving) = site.serving();
        tokio::spawn(listener::serve(listener, tls, serving, site.stop.subscribe()));
        site
    }

    /// What its listeners need.
    fn serving(&self) -> (Arc<rustls::ServerConfig>, Serving) {
        let gateway = &self.gateway;
        let leaf = gateway
            .ca
            .issue(&gateway.site, &gateway.node, Usage::Serve, wall())
            .unwrap();
        let verifier = Arc::new(PossessionOnly::unless(|| true));
        let tls = server_config(Arc::new(CurrentLeaf::new(&leaf).unwrap()), verifier).unwrap();
        let serving = Serving {
            gateway: Arc::clone(gateway),
            wall,
            heard: Arc::new(|_| {}),
            limits: Arc::clone(&self.limits),
            random,
        };
        (Arc::new(tls), serving)
    }

    /// Listens as if inside a network, on loopback: where.
    pub(crate) async fn listen_within(&self, post: watch::Receiver<Post>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tls, serving) = self.serving();
        let stop = self.stop.subscribe();
        tokio::spawn(listener::serve_within(listener, tls, serving, post, stop));
        address
    }

    pub(crate) fn propose(&self, url: &PeerUrl, n: u8) -> Proposed {
        self.propose_as(url, SpawnRole::Symmetric, SpawnMode::OutOfBand, n)
    }

    pub(crate) fn propose_as(&self, url: &PeerUrl, role: SpawnRole, mode: SpawnMode, n: u8) -> Proposed {
        let proposal = Proposal {
            url: url.clone(),
            alias: None,
            role,
            mode,
            token_ttl_seconds: None,
            expect_ca: None,
        };
        self.gateway.propose(&proposal, [n; 32], [n; 10], wall()).unwrap()
    }

    /// Its fleet: a hub, two networks and their virtual IPs.
    pub(crate) fn tell_fleet(&self) {
        self.tell_fleet_with("");
    }

    /// The same with these tables, too.
    pub(crate) fn tell_fleet_with(&self, tables: &str) {
        let prefix = self.gateway.site.prefix().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            r#"
format = 1
[site]
name = "{}"
prefix = "{prefix}"
gateways = ["hub-1"]
[[nodes]]
name = "hub-1"
public_key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
endpoints = ["203.0.113.5"]
[[networks]]
name = "prod"
id = 1
members = [ {{ node = "hub-1", role = "hub" }} ]
[[networks.virtual_ips]]
name = "web"
address = "::100"
holders = ["hub-1"]
[[networks.virtual_ips]]
name = "db"
address = "::101"
holders = ["hub-1"]
[[networks]]
name = "dev"
id = 2
members = [ {{ node = "hub-1", role = "hub" }} ]
{tables}
"#,
            self.gateway.site.name()
        );
        std::fs::write(folder.path().join("00-site.toml"), text).unwrap();
        let loaded = sdwand::config::load_fleet(folder.path()).unwrap_or_else(|bad| panic!("{bad}"));
        self.gateway.tell_fleet(loaded.fleet);
    }

    /// A connection to it, with this certificate, on which nothing was said yet.
    pub(crate) async fn stream(&self, leaf: &Leaf) -> TlsStream<TcpStream> {
        self.stream_of(Some(leaf)).await.unwrap()
    }

    async fn stream_of(&self, leaf: Option<&Leaf>) -> Result<TlsStream<TcpStream>, String> {
        self.stream_at(self.address, leaf).await
    }

    /// The same to another listener of its own.
    pub(crate) async fn stream_at(
        &self,
        address: SocketAddr,
        leaf: Option<&Leaf>,
    ) -> Result<TlsStream<TcpStream>, String> {
        let callee = Callee::Known {
            anchors: vec![self.gateway.ca.der()],
            site: self.gateway.site.clone(),
        };
        let tls = TlsConnector::from(Arc::new(client_config(callee, leaf).map_err(|e| e.to_string())?));
        let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        let name = ServerName::try_from("localhost").unwrap();
        tls.connect(name, stream).await.map_err(|e| e.to_string())
    }

    /// A number that none of its proposals had.
    fn next(&self) -> u8 {
        u8::try_from(self.gateway.ledger.read(|book| book.peers().count())).unwrap() + 1
    }

    pub(crate) fn peer(&self, id: PeerId) -> Peer {
        self.gateway
            .ledger
            .read(|book| (**book.peer(&id).unwrap()).clone())
    }

    /// Changes what it has of a peer.
    pub(crate) fn change(&self, id: PeerId, change: impl FnOnce(&mut Peer)) {
        let changed = self.gateway.ledger.transact(wall(), |draft| {
            let mut peer = draft.peer(&id).cloned().unwrap();
            change(&mut peer);
            draft.put_peer(peer)
        });
        changed.unwrap();
    }

    /// What this site's certificates for calls to a peer are made of.
    pub(crate) fn leaf(&self, subject: &str) -> Leaf {
        self.gateway
            .ca
            .issue(&self.gateway.site, &node(), Usage::Call { subject }, wall())
            .unwrap()
    }
}

/// `a` has proposed `b`, and `b` has taken the token: both rows.
pub(crate) async fn enrolled(a: &Site, b: &Site) -> (Peer, Peer) {
    let proposed = a.propose(&b.url, a.next());
    let registered = b.propose(&a.url, 100 + b.next());
    let taken = b
        .gateway
        .take(registered.peer.id, &proposed.token.reveal(), wall())
        .await
        .unwrap();
    (a.peer(proposed.peer.id), taken)
}

/// Requests over one connection to `site`, shown this certificate: their statuses and bodies.
pub(crate) async fn ask(
    site: &Site,
    leaf: Option<&Leaf>,
    requests: &[(&str, Vec<u8>)],
) -> Result<Vec<(u16, Value)>, String> {
    let mut connection = Connection::open(site, leaf).await?;
    let mut answers = Vec::new();
    for (path, body) in requests {
        answers.push(connection.post(path, body.clone()).await?);
    }
    Ok(answers)
}

pub(crate) struct Connection {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
}

impl Connection {
    pub(crate) async fn open(site: &Site, leaf: Option<&Leaf>) -> Result<Self, String> {
        Self::over(site.stream_of(leaf).await?).await
    }

    /// HTTP over a connection that is there.
    pub(crate) async fn over(stream: TlsStream<TcpStream>) -> Result<Self, String> {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    pub(crate) async fn post(&mut self, path: &str, body: Vec<u8>) -> Result<(u16, Value), String> {
        self.send(Method::POST, path, &[], body).await
    }

    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<(u16, Value), String> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{API}/{path}"))
            .header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        // A connection that was just answered may not be through with that yet.
        self.sender.ready().await.map_err(|e| e.to_string())?;
        let response = self
            .sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let bytes = response
            .into_body()
            .collect()
            .await
            .map_err(|e| e.to_string())?
            .to_bytes();
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }
}

/// The status of one beat with this certificate.
pub(crate) async fn beat(site: &Site, leaf: Option<&Leaf>) -> u16 {
    let answers = ask(site, leaf, &[("heartbeat", b"{}".to_vec())]).await.unwrap();
    if answers[0].0 == 401 {
        // Every stranger hears the same, and nothing of whom we know.
        assert_eq!(answers[0].1["code"], "UNAUTHORIZED");
        assert_eq!(
            answers[0].1["error"],
            "a client certificate of an enrolled peer is required"
        );
    }
    answers[0].0
}
