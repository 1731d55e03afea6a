//! This host's own `sdwand.toml`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::name::Name;
use super::version::VersionRange;

/// Where sockets are unless `run_dir` says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/sdwand";

/// `sdwand.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// Who this host is in the fleet.
    pub node: Name,
    /// Where its WireGuard key is.
    pub private_key_file: PathBuf,
    /// What survives a reboot.
    pub state_dir: PathBuf,
    /// Sockets.
    pub run_dir: PathBuf,
    /// The folder of fleet fragments.
    pub fleet_dir: PathBuf,
    /// `[reconcile]`
    pub reconcile: Reconcile,
    /// `[wireguard] backend`
    pub wireguard_backend: WireguardBackend,
    /// `[isolation]`
    pub isolation: IsolationSettings,
    /// `[frr]`
    pub frr: Frr,
    /// `[ovn]`, if given.
    pub ovn: Option<Ovn>,
    /// `[federation]`, if given: only on a gateway.
    pub federation: Option<Federation>,
    /// `[api]`
    pub api: Api,
    /// `[metrics] listen`: where `sdwand run` is scraped, a loopback address.
    pub metrics_listen: Option<SocketAddr>,
    /// `[approvals]`
    pub approvals: Approvals,
    /// `[log]`
    pub log: Log,
}

impl HostConfig {
    /// Where `sdwand serve` hands over what other sites have agreed to: a folder of its own beside the state folder, whose
    /// user is another.
    #[must_use]
    pub fn agreements_dir(&self) -> PathBuf {
        let mut name = self.state_dir.clone().into_os_string();
        name.push("-agreements");
        name.into()
    }
}

/// `[reconcile]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconcile {
    /// Whether a changed fleet is applied or only planned.
    pub mode: Mode,
    /// Time between full rounds.
    pub interval: Duration,
    /// Time that file events are collected for.
    pub debounce: Duration,
}

/// Whether a changed fleet is applied at once. Drift is healed in both modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// At once.
    #[default]
    Auto,
    /// On `sdwand apply`.
    Manual,
}

/// Which WireGuard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireguardBackend {
    /// The kernel's where it has one.
    #[default]
    Auto,
    /// The kernel's.
    Kernel,
    /// The embedded one.
    Userspace,
}

/// `[isolation]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IsolationSettings {
    /// Which mechanism.
    pub backend: IsolationBackend,
    /// Whether unbound services of the host answer on overlay addresses (`*_l3mdev_accept`).
    pub host_services_in_vrf: bool,
}

/// What keeps networks apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IsolationBackend {
    /// VRFs where the kernel has them.
    #[default]
    Auto,
    /// VRFs.
    Vrf,
    /// Tables and rules.
    Rules,
}

/// `[frr]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frr {
    /// The `vtysh` to use.
    pub vtysh: PathBuf,
    /// Which daemons it talks to.
    pub instance: FrrInstance,
}

/// Which FRR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrrInstance {
    /// The one with its sockets in this folder.
    VtySocket(PathBuf),
    /// The one of this path space.
    Pathspace(String),
}

/// `[ovn]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ovn {
    /// The northbound database.
    pub northbound: String,
    /// The southbound database.
    pub southbound: String,
    /// The local `Open_vSwitch` database.
    pub open_vswitch: String,
    /// Tunnel encapsulation.
    pub encap: String,
    /// Client certificate for `ssl:`.
    pub tls: Option<TlsFiles>,
}

/// A client certificate on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Trust anchors.
    pub ca: PathBuf,
    /// Certificate.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// `[federation]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Federation {
    /// Where the peer-facing API listens.
    pub listen: SocketAddr,
    /// The URL that peers dial, if they can.
    pub url: Option<String>,
    /// Whether peers can dial us.
    pub dialable: bool,
    /// How long bridges forward without `serve`.
    pub grace: Duration,
    /// Private ranges that peers may name as endpoints.
    pub allow_dial: Vec<IpNet>,
    /// What must be verified before grants and bridges.
    pub verify: Verify,
    /// Whether `[]` is refused on a grant's axis.
    pub require_explicit_axes: bool,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// When a silent peer is degraded.
    pub stale_after: Duration,
    /// Whom peers may ask.
    pub operator_contact: Option<String>,
    /// Where data resides.
    pub jurisdiction: Option<String>,
    /// What becomes of a peer whose data resides elsewhere.
    pub residency: Residency,
    /// Versions of peers that get along with ours, whatever the program thinks.
    pub compatible_versions: Vec<VersionRange>,
    /// Versions of peers that don't; they win over `compatible_versions`.
    pub incompatible_versions: Vec<VersionRange>,
    /// Where `sdwand serve` is scraped, a loopback address.
    pub metrics_listen: Option<SocketAddr>,
    /// What a parent left for us to read at the first start, if it did.
    pub payload: PathBuf,
    /// The cluster that our children join.
    pub cluster: Option<Cluster>,
}

/// A cluster's store, which this program doesn't run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Cluster {
    /// What it speaks.
    pub kind: ClusterKind,
    /// Where it is: a host and a port.
    pub address: String,
    /// Where its credential is kept: a reference, never the credential.
    pub credential: Option<String>,
}

impl Cluster {
    /// The longest address, and the longest reference, in bytes.
    pub const MOST: usize = 255;

    /// Whether it is one that can be handed on.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        Self::is_address(&self.address) && self.credential.as_deref().is_none_or(Self::is_word)
    }

    /// Whether a text is a host and a port.
    #[must_use]
    pub fn is_address(text: &str) -> bool {
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        let parts = text.rsplit_once(':');
        Self::is_word(text) && parts.is_some_and(|(host, port)| !host.is_empty() && is_port(port))
    }

    /// Whether a text is one word that isn't too long.
    #[must_use]
    pub fn is_word(text: &str) -> bool {
        let is_short = !text.is_empty() && text.len() <= Self::MOST;
        is_short && text.chars().all(|c| c.is_ascii_graphic())
    }
}

/// What a cluster's store speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClusterKind {
    /// etcd's API, version 3.
    Etcd,
    /// `PostgreSQL`'s protocol.
    Postgresql,
}

/// What becomes of a peer whose data resides elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Residency {
    /// It is told to the operator.
    #[default]
    Permissive,
    /// It gets no grants and no bridges.
    Refuse,
}

/// What must be verified before grants and bridges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// Nothing more than the token.
    #[default]
    None,
    /// The six-word code.
    Code,
}

/// `[api]`: the operators' API over TCP. Its sockets are always there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Api {
    /// Where it listens.
    pub listen: Option<SocketAddr>,
    /// Whether it speaks plain http: on a loopback address only.
    pub plain_http: bool,
}

/// `[approvals]`: which actions need a second operator. To revoke isn't among them: it needs none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approvals {
    /// Propose a peer.
    pub propose: bool,
    /// Accept a peer.
    pub accept: bool,
    /// Bridge a network.
    pub bridge: bool,
    /// Rotate a trust anchor.
    pub anchor: bool,
    /// Create or delete a tenant.
    pub tenant: bool,
    /// Compose a topology.
    pub compose: bool,
    /// How long a request waits.
    pub timeout: Duration,
}

impl Default for Approvals {
    fn default() -> Self {
        Self {
            propose: false,
            accept: false,
            bridge: false,
            anchor: false,
            tenant: false,
            compose: false,
            timeout: Duration::from_secs(4 * 3_600),
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// The least important level shown.
    pub level: LogLevel,
    /// How lines look.
    pub format: LogFormat,
}

/// A log level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Someone must act.
    Error,
    /// Someone should look.
    Warn,
    /// What changed.
    #[default]
    Info,
    /// What was decided.
    Debug,
    /// Everything.
    Trace,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Text.
    Text,
    /// JSON.
    Json,
}
