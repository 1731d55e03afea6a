//! `sdwand.toml`: this host's own document.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diag::{DiagnosticKind, Diagnostics, Notice};
use super::fleet::Session;
use super::reader::{Bad, Cursor};
use super::values::{Approval, Encap};
use crate::model::Name;
use crate::model::check::Object;
use crate::model::host::{
    Api, Approvals, Cluster, DEFAULT_RUN_DIR, Federation, Frr, FrrInstance, HostConfig, IsolationBackend,
    IsolationSettings, Log, LogFormat, LogLevel, Mode, Ovn, Reconcile, Residency, TlsFiles, Verify,
    WireguardBackend,
};
use crate::model::url::PeerUrl;

/// Tables whose plane isn't there yet.
const LATER: [&str; 2] = ["frr", "ovn"];

/// Keys of `[approvals]` whose actions aren't there yet, and whether they are set.
const fn unasked(approvals: &Approvals) -> [(&'static str, bool); 2] {
    [("tenant", approvals.tenant), ("compose", approvals.compose)]
}

/// Reads `sdwand.toml`. Relative paths in it begin at its folder.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn parse_host(path: &Path, text: &str) -> Result<(HostConfig, Vec<Notice>), Diagnostics> {
    let mut session = Session::default();
    let host = session.read_host(path, text);
    match host {
        Some(read) if !session.has_errors() => Ok((read.host, session.notices)),
        _ => Err(session.into_diagnostics()),
    }
}

/// A host's document, as far as it could be read.
pub(super) struct ReadHost {
    pub host: HostConfig,
    /// Whether it is known which file holds the key.
    pub knows_key: bool,
    /// Whether it is known which folder holds the fleet.
    pub knows_fleet: bool,
}

impl Session {
    /// Reads `sdwand.toml`; `None` where it doesn't even say which node this is.
    pub fn read_host(&mut self, path: &Path, text: &str) -> Option<ReadHost> {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut host = None;
        self.read_document(path, text, |session, root| {
            session.spots.insert(Object::Host, root.spot());
            for table in LATER.into_iter().filter(|table| root.has(table)) {
                let spot = root.spot_of(table);
                session.notices.push(
                    session
                        .files
                        .notice(spot, None, format!("not yet applied: [{table}]")),
                );
            }
            host = read_root(root, &folder);
            let approvals = host.as_ref().map(|host: &HostConfig| &host.approvals);
            if let (Some(approvals), Some(cursor)) = (approvals, root.child("approvals")) {
                for (key, _) in unasked(approvals).into_iter().filter(|(_, is_set)| *is_set) {
                    let message = format!("not yet applied: {key} in [approvals]");
                    let notice = session.files.notice(cursor.spot_of(key), None, message);
                    session.notices.push(notice);
                }
            }
        });
        let file = self.files.last();
        let is_wrong = |object: &str| {
            let mut problems = self.problems.iter().filter(|problem| problem.spot.file == file);
            problems.any(|p| p.kind == DiagnosticKind::Syntax || p.object.as_deref() == Some(object))
        };
        let (knows_key, knows_fleet) = (
            !is_wrong("private_key_file"),
            !is_wrong("fleet.dir") && !is_wrong("fleet"),
        );
        host.map(|host| ReadHost {
            host,
            knows_key,
            knows_fleet,
        })
    }
}

/// A path that begins at the document's folder, unless it is absolute.
fn path(cursor: &Cursor<'_>, key: &'static str, default: &str, folder: &Path) -> PathBuf {
    folder.join(cursor.or(key, PathBuf::from(default)))
}

fn seconds(
    cursor: &Cursor<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<u64>,
    default: u64,
) -> Duration {
    Duration::from_secs(cursor.within_or(key, &range, default))
}

fn read_root(root: &Cursor<'_>, folder: &Path) -> Option<HostConfig> {
    let node: Option<Name> = root.need("node");
    let private_key_file = path(root, "private_key_file", "/etc/sdwand/node.key", folder);
    if root
        .get::<String>("private_key_file")
        .is_some_and(|text| super::files::looks_like_key(&text))
    {
        let bad = Bad::new("this looks like a key, not like the path of a file that holds it");
        root.fail(
            "private_key_file",
            bad.hint("put the key into a file of mode 0600, and draw a new one if this file was shared"),
        );
    }
    let state_dir = path(root, "state_dir", "/var/lib/sdwand", folder);
    let run_dir = path(root, "run_dir", DEFAULT_RUN_DIR, folder);
    let fleet = root.child("fleet");
    let fleet_dir = match &fleet {
        Some(fleet) => {
            let dir = path(fleet, "dir", "/etc/sdwand/fleet.d", folder);
            fleet.finish();
            dir
        }
        None => PathBuf::from("/etc/sdwand/fleet.d"),
    };
    let wireguard_backend = section(root, "wireguard", WireguardBackend::Auto, |c| {
        c.or("backend", WireguardBackend::Auto)
    });
    let host = HostConfig {
        node: node
            .clone()
            .unwrap_or_else(|| Name::new("unnamed").expect("it follows the grammar")),
        private_key_file,
        state_dir,
        run_dir,
        fleet_dir,
        reconcile: read_reconcile(root),
        wireguard_backend,
        isolation: section(root, "isolation", IsolationSettings::default(), |c| {
            IsolationSettings {
                backend: c.or("backend", IsolationBackend::Auto),
                host_services_in_vrf: c.or("host_services_in_vrf", false),
            }
        }),
        frr: read_frr(root, folder),
        ovn: root.child("ovn").map(|cursor| read_ovn(&cursor, folder)),
        federation: root
            .child("federation")
            .map(|cursor| read_federation(&cursor, folder)),
        api: section(root, "api", Api::default(), read_api),
        metrics_listen: section(root, "metrics", None, |cursor| {
            read_loopback(cursor, "listen", "127.0.0.1:9586")
        }),
        approvals: read_approvals(root),
        log: section(root, "log", Log::default(), |c| Log {
            level: c.or("level", LogLevel::Info),
            format: c.or("format", LogFormat::Auto),
        }),
    };
    node.map(|_| host)
}

fn section<T>(root: &Cursor<'_>, key: &'static str, default: T, read: impl FnOnce(&Cursor<'_>) -> T) -> T {
    let Some(cursor) = root.child(key) else {
        return default;
    };
    let read = read(&cursor);
    cursor.finish();
    read
}

fn read_reconcile(root: &Cursor<'_>) -> Reconcile {
    let default = Reconcile {
        mode: Mode::Auto,
        interval: Duration::from_secs(30),
        debounce: Duration::from_millis(200),
    };
    section(root, "reconcile", default, |cursor| Reconcile {
        mode: cursor.or("mode", Mode::Auto),
        interval: seconds(cursor, "interval_seconds", 1..=86_400, 30),
        debounce: Duration::from_millis(cursor.within_or("debounce_ms", &(0..=60_000), 200)),
    })
}

fn read_frr(root: &Cursor<'_>, folder: &Path) -> Frr {
    let socket = |folder: PathBuf| FrrInstance::VtySocket(folder);
    let default = Frr {
        vtysh: PathBuf::from("/usr/bin/vtysh"),
        instance: socket(PathBuf::from("/var/run/frr")),
    };
    section(root, "frr", default, |cursor| {
        let pathspace: Option<String> = cursor.get("pathspace");
        if pathspace
            .as_ref()
            .is_some_and(|name| name.contains('/') || name.contains(".."))
        {
            cursor.fail("pathspace", Bad::new("a path space is a name, not a path"));
        }
        if pathspace.is_some() && cursor.has("vty_socket") {
            cursor.fail(
                "pathspace",
                Bad::new("either vty_socket or pathspace can be given"),
            );
        }
        let vty_socket = path(cursor, "vty_socket", "/var/run/frr", folder);
        Frr {
            vtysh: path(cursor, "vtysh", "/usr/bin/vtysh", folder),
            instance: pathspace.map_or(socket(vty_socket), FrrInstance::Pathspace),
        }
    })
}

fn read_ovn(cursor: &Cursor<'_>, folder: &Path) -> Ovn {
    let remote = |key: &'static str, default: &str, schemes: &[&str]| {
        let remote: String = cursor.or(key, default.to_owned());
        let (scheme, rest) = remote.split_once(':').unwrap_or((&remote, ""));
        if !schemes.contains(&scheme) || rest.is_empty() {
            let bad = Bad::new(format!("{} is no OVSDB remote", super::values::quoted(&remote)));
            cursor.fail(
                key,
                bad.hint(format!("one of {}, like {default:?}", schemes.join(", "))),
            );
        }
        remote
    };
    let any = ["tcp", "ssl", "unix"];
    let ovn = Ovn {
        northbound: remote("northbound", "tcp:127.0.0.1:6641", &any),
        southbound: remote("southbound", "tcp:127.0.0.1:6642", &any),
        open_vswitch: remote("open_vswitch", "unix:/var/run/openvswitch/db.sock", &any),
        encap: cursor.or("encap", Encap("geneve")).0.to_owned(),
        tls: cursor.child("tls").and_then(|tls| {
            let (ca, cert, key) = (tls.need("ca"), tls.need("cert"), tls.need("key"));
            tls.finish();
            let join = |path: PathBuf| folder.join(path);
            Some(TlsFiles {
                ca: join(ca?),
                cert: join(cert?),
                key: join(key?),
            })
        }),
    };
    let wants_tls = [&ovn.northbound, &ovn.southbound]
        .iter()
        .any(|remote| remote.starts_with("ssl:"));
    if wants_tls && !cursor.has("tls") {
        cursor.missing("tls");
    }
    cursor.finish();
    ovn
}

fn read_cluster(cursor: &Cursor<'_>) -> Option<Cluster> {
    let (kind, address) = (cursor.need("kind"), cursor.need::<String>("address"));
    let credential: Option<String> = cursor.get("credential");
    if address
        .as_deref()
        .is_some_and(|address| !Cluster::is_address(address))
    {
        let bad = Bad::new("this is no host with a port");
        cursor.fail("address", bad.hint("like \"etcd.site-a.example:2379\""));
    }
    if credential.as_deref().is_some_and(|word| !Cluster::is_word(word)) {
        let bad = Bad::new(format!(
            "a reference has at most {} bytes, and no spaces",
            Cluster::MOST
        ));
        cursor.fail(
            "credential",
            bad.hint("where the credential is kept, never the credential itself"),
        );
    }
    cursor.finish();
    Some(Cluster {
        kind: kind?,
        address: address?,
        credential,
    })
}

fn read_federation(cursor: &Cursor<'_>, folder: &Path) -> Federation {
    let url: Option<String> = cursor.get("url");
    if let Some(Err(error)) = url.as_deref().map(PeerUrl::new) {
        let bad = Bad::new(error.to_string());
        cursor.fail("url", bad.hint("like \"https://site-a.example.com:8443\""));
    }
    let dialable = cursor.or("dialable", true);
    if dialable && !cursor.has("url") {
        cursor.missing("url");
    }
    let hour = 3_600;
    let federation = Federation {
        listen: cursor.or(
            "listen",
            SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 8_443)),
        ),
        url,
        dialable,
        grace: seconds(cursor, "grace_hours", 0..=8_760, 24) * hour,
        allow_dial: cursor.list("allow_dial").unwrap_or_default(),
        verify: cursor.or("verify", Verify::None),
        require_explicit_axes: cursor.or("require_explicit_axes", false),
        heartbeat: seconds(cursor, "heartbeat_seconds", 1..=3_600, 60),
        stale_after: seconds(cursor, "stale_after_seconds", 1..=86_400, 150),
        operator_contact: cursor.get("operator_contact"),
        jurisdiction: cursor.get("jurisdiction"),
        residency: cursor.or("residency", Residency::Permissive),
        compatible_versions: cursor.set("compatible_versions"),
        incompatible_versions: cursor.set("incompatible_versions"),
        metrics_listen: read_loopback(cursor, "metrics_listen", "127.0.0.1:9587"),
        payload: path(cursor, "payload", "/etc/sdwand/federation-payload.json", folder),
        cluster: cursor.child("cluster").and_then(|cluster| read_cluster(&cluster)),
    };
    if federation.residency == Residency::Refuse && federation.jurisdiction.is_none() {
        let bad = Bad::new("without a jurisdiction nothing is ever refused");
        cursor.fail(
            "residency",
            bad.hint("say where data resides: jurisdiction = \"JP\""),
        );
    }
    if federation
        .jurisdiction
        .as_deref()
        .is_some_and(|place| !(1..=64).contains(&place.chars().count()))
    {
        let bad = Bad::new("peers take a place of 1 to 64 characters, and refuse heartbeats with another");
        cursor.fail("jurisdiction", bad.hint("a country's code, like \"JP\""));
    }
    if federation.stale_after <= federation.heartbeat {
        let key = if cursor.has("stale_after_seconds") {
            "stale_after_seconds"
        } else {
            "heartbeat_seconds"
        };
        cursor.fail(
            key,
            Bad::new("a peer would be stale before its next heartbeat")
                .hint("stale_after_seconds is usually 2.5 heartbeats"),
        );
    }
    cursor.finish();
    federation
}

fn read_api(cursor: &Cursor<'_>) -> Api {
    let api = Api {
        listen: cursor.get("listen"),
        plain_http: cursor.or("plain_http", false),
    };
    let is_loopback = |listen: SocketAddr| listen.ip().to_canonical().is_loopback();
    if api.plain_http && !api.listen.is_some_and(is_loopback) {
        let bad = Bad::new("over plain http, operators' tokens would cross a network for all to read");
        cursor.fail(
            "plain_http",
            bad.hint("listen on a loopback address, like \"[::1]:8444\", or leave plain_http out: it is https then"),
        );
    }
    api
}

/// Where metrics are served. Whoever can send packets to the process with the capability finds no parser in it, and names
/// of peers are for nobody to read from a network: a loopback address only.
fn read_loopback(cursor: &Cursor<'_>, key: &'static str, like: &str) -> Option<SocketAddr> {
    let listen: Option<SocketAddr> = cursor.get(key);
    if listen.is_some_and(|listen| !listen.ip().to_canonical().is_loopback()) {
        let bad = Bad::new("metrics are served on a loopback address only");
        let hint =
            format!("listen on \"{like}\", or on [::1], and scrape through an agent or a proxy of this host");
        cursor.fail(key, bad.hint(hint));
    }
    listen
}

fn read_approvals(root: &Cursor<'_>) -> Approvals {
    section(root, "approvals", Approvals::default(), |cursor| {
        let requires = |key: &'static str| cursor.or(key, Approval(false)).0;
        if requires("revoke") {
            let bad = Bad::new("to revoke needs no approval: what must stop waits for nobody");
            cursor.fail("revoke", bad.hint("leave it out, or \"none\""));
        }
        Approvals {
            propose: requires("propose"),
            accept: requires("accept"),
            bridge: requires("bridge"),
            anchor: requires("anchor"),
            tenant: requires("tenant"),
            compose: requires("compose"),
            timeout: seconds(cursor, "timeout_hours", 1..=720, 4) * 3_600,
        }
    })
}
