//! A gateway's files, and the process that serves them.

use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use ipnet::Ipv6Net;
use sdwand::federation::moment::Moment;
use sdwand::federation::pki::{SiteCa, certificates_of};
use sdwand::federation::site::SiteId;
use sdwand::model::Name;
use serde_json::{Value, json};
use tokio::net::UnixStream;

const PEERS: &str = "/api/v1/system/platform/peers";

pub(crate) fn wall() -> Moment {
    std::time::SystemTime::now().into()
}

/// Where a gateway has its files.
pub(crate) struct Layout {
    folder: tempfile::TempDir,
    pub(crate) port: u16,
    pub(crate) site: SiteId,
}

impl Layout {
    /// A gateway that was never started: its CA is drawn here, so that callers know it.
    pub(crate) fn new(name: &str, number: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Free a moment ago; nothing else here takes ports.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let prefix: Ipv6Net = format!("fd00:0:{number:x}::/48").parse().unwrap();
        let root = folder.path();
        std::fs::create_dir(root.join("fleet.d")).unwrap();
        std::fs::write(
            root.join("fleet.d/00-site.toml"),
            format!(
                "format = 1\n[site]\nname = \"{name}\"\nprefix = \"{prefix}\"\ngateways = [\"gw\"]\n[[nodes]]\nname = \"gw\"\n\
                 public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nhost_id = 1\n"
            ),
        )
        .unwrap();
        std::fs::write(
            root.join("sdwand.toml"),
            format!(
                "format = 1\nnode = \"gw\"\nstate_dir = \"{0}/state\"\nrun_dir = \"{0}/run\"\n\
                 [federation]\nlisten = \"127.0.0.1:{port}\"\nurl = \"https://127.0.0.1:{port}\"\njurisdiction = \"JP\"\n\
                 [fleet]\ndir = \"{0}/fleet.d\"\n[log]\nlevel = \"error\"\n",
                root.display()
            ),
        )
        .unwrap();
        let site = SiteId::of(&Name::new(name).unwrap(), prefix);
        let layout = Self { folder, port, site };
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(layout.state())
            .unwrap();
        let (ca, key) = SiteCa::generate(&layout.site, wall()).unwrap();
        std::fs::write(layout.state().join("ca.key"), key.as_bytes()).unwrap();
        std::fs::write(layout.state().join("ca.pem"), ca.pem()).unwrap();
        layout
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state-serve")
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.state().join("ledger.db")
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn anchor(&self) -> rustls::pki_types::CertificateDer<'static> {
        let pem = std::fs::read_to_string(self.state().join("ca.pem")).unwrap();
        certificates_of(&pem).unwrap().remove(0)
    }

    /// What the gateway's certificates are made of.
    pub(crate) fn ca(&self) -> SiteCa {
        let read = |name: &str| std::fs::read_to_string(self.state().join(name)).unwrap();
        SiteCa::load(&read("ca.pem"), &read("ca.key")).unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

/// CPU time of a process since it began, all threads.
pub(crate) fn cpu_of(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name, in parentheses, may have spaces: fields 14 and 15, counted from 1.
    let rest = stat.rsplit_once(')').unwrap().1;
    let field = |n: usize| -> u64 { rest.split_whitespace().nth(n - 3).unwrap().parse().unwrap() };
    Duration::from_millis((field(14) + field(15)) * 10)
}

/// A line of `/proc/<pid>/status`, in MiB.
fn memory_of(pid: u32, line: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    let kib: f64 = value
        .trim_start_matches(':')
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib / 1024.0
}

/// What a process has resident, in MiB.
pub(crate) fn resident_of(pid: u32) -> f64 {
    memory_of(pid, "VmRSS")
}

/// `sdwand serve`, until it is dropped.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
    /// From its start until it has answered an operator.
    pub(crate) took: Duration,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    pub(crate) async fn start(layout: &Layout) -> Self {
        let begun = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_sdwand"))
            .arg("--config")
            .arg(layout.root().join("sdwand.toml"))
            .arg("serve")
            // As in systemd/sdwand-serve.service.
            .env("MALLOC_ARENA_MAX", "2")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut daemon = Self {
            child,
            socket: layout.root().join("run-serve/api.sock"),
            took: Duration::ZERO,
        };
        // An operator's read: the ledger is open, and its sockets are.
        while daemon
            .ask(Method::GET, "/api/v1/system/federation/site", None)
            .await
            .is_none()
        {
            assert!(daemon.child.try_wait().unwrap().is_none(), "it has ended");
            assert!(begun.elapsed() < Duration::from_secs(60), "it doesn't answer");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        daemon.took = begun.elapsed();
        daemon
    }

    pub(crate) fn cpu(&self) -> Duration {
        cpu_of(self.child.id())
    }

    /// Resident, in MiB.
    pub(crate) fn resident(&self) -> f64 {
        resident_of(self.child.id())
    }

    /// The most that was ever resident, in MiB.
    pub(crate) fn peak(&self) -> f64 {
        memory_of(self.child.id(), "VmHWM")
    }

    /// How many files and sockets it has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    /// One request of an operator; the answer's bytes. None where nobody listens yet.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Option<Bytes> {
        let stream = UnixStream::connect(&self.socket).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .ok()?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .body(Full::new(Bytes::from(
                body.map(|body| body.to_string()).unwrap_or_default(),
            )))
            .unwrap();
        let response = sender.send_request(request).await.ok()?;
        let status = response.status();
        let bytes = response.into_body().collect().await.ok()?.to_bytes();
        assert!(
            status.is_success(),
            "{path}: {status} {}",
            String::from_utf8_lossy(&bytes)
        );
        connection.abort();
        Some(bytes)
    }

    async fn data(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let bytes = self.ask(method, path, body).await.expect("it answers");
        let mut answer: Value = serde_json::from_slice(&bytes).unwrap();
        answer["data"].take()
    }

    pub(crate) async fn propose(&self, url: &str) -> Value {
        let body = json!({ "remote_instance_url": url });
        self.data(Method::POST, PEERS, Some(body)).await
    }

    pub(crate) async fn accept(&self, id: &str, token: &str) {
        let body = json!({ "acceptance_token": token });
        self.data(Method::POST, &format!("{PEERS}/{id}/accept"), Some(body))
            .await;
    }

    pub(crate) async fn revoke(&self, id: &str) {
        self.data(Method::POST, &format!("{PEERS}/{id}/revoke"), None)
            .await;
    }

    pub(crate) async fn status(&self, id: &str) -> String {
        let peer = self.data(Method::GET, &format!("{PEERS}/{id}"), None).await;
        peer["status"].as_str().unwrap().to_owned()
    }

    /// How many peers have this status.
    pub(crate) async fn count(&self, status: &str) -> usize {
        let peers = self
            .data(Method::GET, &format!("{PEERS}?status={status}"), None)
            .await;
        peers.as_array().unwrap().len()
    }
}
