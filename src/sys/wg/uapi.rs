//! The socket over which `wg(8)` talks to embedded devices: the cross-platform configuration protocol
//! (<https://www.wireguard.com/xplatform/#configuration-protocol>).

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Weak};
use std::time::{Duration, UNIX_EPOCH};

use ipnet::IpNet;
use rustix::io::Errno;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use zeroize::Zeroizing;

use super::memory::public_half;
use super::userspace::Embedded;
use super::{DeviceInfo, DeviceUpdate, Key, PeerInfo, PeerUpdate, Secret, WgError};

/// How long another process may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Listens on `path`, for root only. A socket that nobody listens on is replaced.
pub(super) async fn listen(path: &Path) -> Result<UnixListener, WgError> {
    let name = path.display().to_string();
    let failed = |error: io::Error| WgError::io("listen on", &name, error);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(WgError::Exists(name));
    }
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Removes the sockets of `folder` that a process which was killed left behind: those of links that `is_ours` knows, and
/// that nobody listens on.
pub async fn sweep(folder: &Path, is_ours: impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let link = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".sock"));
        if !link.is_some_and(&is_ours) {
            continue;
        }
        let refused = UnixStream::connect(&path).await.err();
        if refused.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            tracing::debug!(socket = %path.display(), "left behind, and removed");
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Reads a device that another process embeds, over its socket.
///
/// # Errors
/// [`WgError::NoDevice`] where nobody listens.
pub(super) async fn ask(path: &Path, name: &str) -> Result<DeviceInfo, WgError> {
    let nobody = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
    let failed = |error: io::Error| {
        if nobody.contains(&error.kind()) {
            WgError::NoDevice(name.to_owned())
        } else {
            WgError::io("ask", &path.display().to_string(), error)
        }
    };
    let conversation = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(b"get=1\n\n").await?;
        let mut read = BufReader::new(stream);
        let mut lines = Zeroizing::new(String::new());
        // An empty line ends the answer.
        while read.read_line(&mut lines).await? > 0 && !lines.ends_with("\n\n") {}
        Ok(lines)
    };
    let answer = tokio::time::timeout(PATIENCE, conversation)
        .await
        .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
        .map_err(failed)?;
    decode(&answer).ok_or_else(|| WgError::Malformed {
        name: name.to_owned(),
        what: "the configuration",
        reason: "it isn't what the configuration protocol answers".to_owned(),
    })
}

/// The inverse of [`render`]; none where it is no such answer, or one that refuses.
fn decode(answer: &str) -> Option<DeviceInfo> {
    let mut info = DeviceInfo::default();
    let mut peer: Option<(Key, PeerInfo)> = None;
    let mut since = Duration::ZERO;
    let mut errno = None;
    for line in answer.lines().filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once('=')?;
        if key == "public_key" {
            info.peers
                .extend(peer.replace((decode_key(value)?, PeerInfo::default())));
            since = Duration::ZERO;
        } else if key == "errno" {
            errno = Some(value);
        } else if let Some((_, peer)) = &mut peer {
            decode_peer(peer, &mut since, key, value)?;
        } else {
            match key {
                "private_key" => info.public_key = public_half(&Secret::new(decode_key(value)?)),
                "listen_port" => info.listen_port = value.parse().ok()?,
                "fwmark" => info.fwmark = decode_mark(value)?,
                _ => {}
            }
        }
    }
    info.peers.extend(peer);
    (errno == Some("0")).then_some(info)
}

/// Keys that aren't known are of a later protocol.
fn decode_peer(peer: &mut PeerInfo, since: &mut Duration, key: &str, value: &str) -> Option<()> {
    match key {
        "preshared_key" => peer.preshared_key = Some(Secret::new(decode_key(value)?)),
        "endpoint" => peer.endpoint = Some(value.parse().ok()?),
        "last_handshake_time_sec" => *since = Duration::from_secs(value.parse().ok()?),
        "last_handshake_time_nsec" => *since += Duration::from_nanos(value.parse().ok()?),
        "tx_bytes" => peer.tx_bytes = value.parse().ok()?,
        "rx_bytes" => peer.rx_bytes = value.parse().ok()?,
        "persistent_keepalive_interval" => peer.keepalive = value.parse().ok()?,
        "allowed_ip" => {
            peer.allowed_ips.insert(value.parse().ok()?);
        }
        _ => {}
    }
    if !since.is_zero() {
        peer.last_handshake = Some(UNIX_EPOCH + *since);
    }
    Some(())
}

/// Answers until the device is gone.
pub(super) async fn serve(listener: UnixListener, device: Weak<Embedded>) {
    while let Ok((stream, _)) = listener.accept().await {
        if device.strong_count() == 0 {
            return;
        }
        let device = Weak::clone(&device);
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &device).await {
                tracing::debug!(%error, "a WireGuard configuration client went away");
            }
        });
    }
}

/// Answers requests until the client hangs up or the device is gone.
async fn converse(stream: UnixStream, device: &Weak<Embedded>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut request = Request::default();
    loop {
        let mut line = Zeroizing::new(String::new());
        let ended = read.read_line(&mut line).await? == 0;
        let text = line.trim_end_matches(['\n', '\r']);
        if !text.is_empty() {
            request.take(text);
            continue;
        }
        let complete = std::mem::take(&mut request);
        if !complete.is_empty() {
            let Some(device) = device.upgrade() else {
                return Ok(());
            };
            let answer = answer(complete, &device).await;
            write.write_all(answer.as_bytes()).await?;
        }
        if ended {
            return Ok(());
        }
    }
}

async fn answer(request: Request, device: &Arc<Embedded>) -> Zeroizing<String> {
    let outcome = match request {
        Request { invalid: true, .. } | Request { operation: None, .. } => Err(Errno::INVAL),
        Request {
            operation: Some(Operation::Get),
            ..
        } => {
            let (info, private_key) = device.read().await;
            return render(&info, private_key.as_ref());
        }
        Request {
            operation: Some(Operation::Set),
            mut update,
            replace_peers,
            ..
        } => {
            if replace_peers {
                let (info, _) = device.read().await;
                let removals = info.peers.into_keys().map(PeerUpdate::removal);
                update.peers.splice(0..0, removals);
            }
            device.set(update).await.map_err(|error| {
                tracing::debug!(%error, "a WireGuard configuration client was refused");
                errno(&error)
            })
        }
    };
    let code = outcome.map_or_else(|errno| -errno.raw_os_error(), |()| 0);
    Zeroizing::new(format!("errno={code}\n\n"))
}

fn errno(error: &WgError) -> Errno {
    match error {
        WgError::NoDevice(_) => Errno::NODEV,
        WgError::PortTaken { .. } => Errno::ADDRINUSE,
        WgError::Permission => Errno::PERM,
        WgError::NoPrivateKey(_) => Errno::NOKEY,
        WgError::NotWireguard(_)
        | WgError::Exists(_)
        | WgError::Unsupported
        | WgError::Interrupted(_)
        | WgError::Malformed { .. }
        | WgError::Io { .. }
        | WgError::Embedded { .. } => Errno::INVAL,
    }
}

#[derive(Clone, Copy)]
enum Operation {
    Get,
    Set,
}

/// A request, line by line.
#[derive(Default)]
struct Request {
    operation: Option<Operation>,
    update: DeviceUpdate,
    replace_peers: bool,
    invalid: bool,
}

impl Request {
    const fn is_empty(&self) -> bool {
        self.operation.is_none() && !self.invalid
    }

    fn take(&mut self, line: &str) {
        let taken = line
            .split_once('=')
            .and_then(|(key, value)| match self.operation {
                None => self.begin(key, value),
                Some(Operation::Get) => None,
                Some(Operation::Set) => self.set(key, value),
            });
        self.invalid |= taken.is_none();
    }

    fn begin(&mut self, key: &str, value: &str) -> Option<()> {
        self.operation = match (key, value) {
            ("get", "1") => Some(Operation::Get),
            ("set", "1") => Some(Operation::Set),
            _ => None,
        };
        self.operation.map(drop)
    }

    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        if key == "public_key" {
            self.update.peers.push(PeerUpdate {
                public_key: decode_key(value)?,
                ..PeerUpdate::default()
            });
            return Some(());
        }
        if let Some(peer) = self.update.peers.last_mut() {
            return set_peer(peer, key, value);
        }
        match key {
            "private_key" => self.update.private_key = Some(Secret::new(decode_key(value)?)),
            "listen_port" => self.update.listen_port = Some(value.parse().ok()?),
            "fwmark" if value.is_empty() => self.update.fwmark = Some(0),
            "fwmark" => self.update.fwmark = Some(decode_mark(value)?),
            "replace_peers" => self.replace_peers = decode_true(value)?,
            _ => return None,
        }
        Some(())
    }
}

fn set_peer(peer: &mut PeerUpdate, key: &str, value: &str) -> Option<()> {
    match key {
        "remove" => peer.remove = decode_true(value)?,
        "update_only" => peer.update_only = decode_true(value)?,
        "preshared_key" => peer.preshared_key = Some(Secret::new(decode_key(value)?)),
        "endpoint" => peer.endpoint = Some(SocketAddr::from_str(value).ok()?),
        "persistent_keepalive_interval" => peer.keepalive = Some(value.parse().ok()?),
        "replace_allowed_ips" => peer.replace_allowed_ips = decode_true(value)?,
        "allowed_ip" => peer.allowed_ips.push(IpNet::from_str(value).ok()?),
        "protocol_version" if value == "1" => {}
        _ => return None,
    }
    Some(())
}

fn decode_true(value: &str) -> Option<bool> {
    (value == "true").then_some(true)
}

fn decode_mark(value: &str) -> Option<u32> {
    match value.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
}

fn decode_key(value: &str) -> Option<Key> {
    let mut key = [0; 32];
    if value.len() != 64 || !value.is_ascii() {
        return None;
    }
    for (index, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&value[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(key)
}

fn push_key(text: &mut String, name: &str, key: &Key) {
    let _ = write!(text, "{name}=");
    for byte in key {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\n');
}

fn render(info: &DeviceInfo, private_key: Option<&Secret>) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    if let Some(private_key) = private_key {
        push_key(&mut text, "private_key", private_key.expose());
    }
    let _ = writeln!(text, "listen_port={}", info.listen_port);
    if info.fwmark != 0 {
        let _ = writeln!(text, "fwmark={}", info.fwmark);
    }
    for (key, peer) in &info.peers {
        push_key(&mut text, "public_key", key);
        if let Some(preshared_key) = &peer.preshared_key {
            push_key(&mut text, "preshared_key", preshared_key.expose());
        }
        let _ = writeln!(text, "protocol_version=1");
        if let Some(endpoint) = peer.endpoint {
            let _ = writeln!(text, "endpoint={endpoint}");
        }
        let since = peer
            .last_handshake
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let since = since.unwrap_or_default();
        let _ = write!(
            text,
            "last_handshake_time_sec={}\nlast_handshake_time_nsec={}\ntx_bytes={}\nrx_bytes={}\n\
             persistent_keepalive_interval={}\n",
            since.as_secs(),
            since.subsec_nanos(),
            peer.tx_bytes,
            peer.rx_bytes,
            peer.keepalive
        );
        for net in &peer.allowed_ips {
            let _ = writeln!(text, "allowed_ip={net}");
        }
    }
    text.push_str("errno=0\n\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request {
        let mut request = Request::default();
        text.lines().for_each(|line| request.take(line));
        request
    }

    #[test]
    fn a_set_request_keeps_peers_apart() {
        let (a, b) = ("aa".repeat(32), "bb".repeat(32));
        let text = format!(
            "set=1\nlisten_port=51820\nfwmark=0x10\nreplace_peers=true\npublic_key={a}\npreshared_key={b}\n\
             endpoint=[fd00::1]:51820\npersistent_keepalive_interval=25\nreplace_allowed_ips=true\n\
             allowed_ip=fd00::/64\npublic_key={b}\nupdate_only=true\n"
        );
        let request = request(&text);
        assert!(!request.invalid && request.replace_peers);
        assert_eq!(
            (request.update.listen_port, request.update.fwmark),
            (Some(51_820), Some(16))
        );
        let [first, second] = &request.update.peers[..] else {
            panic!("two peers")
        };
        assert_eq!(first.keepalive, Some(25));
        assert_eq!(first.allowed_ips.len(), 1);
        let fresh = PeerUpdate {
            public_key: [0xbb; 32],
            update_only: true,
            ..PeerUpdate::default()
        };
        assert_eq!(*second, fresh);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "set=2",
            "get=1\nlisten_port=1",
            "set=1\nlisten_port=70000",
            "set=1\npublic_key=aa",
            "set=1\nallowed_ip=fd00::/64",
            "set=1\nremove=true",
            "hello",
            "set=1\nprivate_key=ééééééééééééééééééééééééééééééééé",
        ] {
            assert!(request(text).invalid, "{text}");
        }
    }

    #[test]
    fn answers_are_what_wg_reads() {
        let mut info = DeviceInfo {
            listen_port: 51_820,
            ..DeviceInfo::default()
        };
        info.peers.insert(
            [0xaa; 32],
            super::super::PeerInfo {
                allowed_ips: ["fd00::/64".parse().unwrap()].into(),
                ..super::super::PeerInfo::default()
            },
        );
        let peer = super::super::PeerInfo {
            preshared_key: Some(Secret::new([7; 32])),
            endpoint: Some("[2001:db8::1]:51820".parse().unwrap()),
            keepalive: 25,
            allowed_ips: ["10.0.0.0/24".parse().unwrap()].into(),
            last_handshake: Some(UNIX_EPOCH + Duration::new(1_700_000_000, 5)),
            rx_bytes: 3,
            tx_bytes: 4,
        };
        info.peers.insert([0xbb; 32], peer);
        let private_key = Secret::new([9; 32]);
        let keyed = DeviceInfo {
            public_key: public_half(&private_key),
            ..info.clone()
        };
        assert_eq!(decode(&render(&info, None)), Some(info.clone()));
        assert_eq!(decode(&render(&keyed, Some(&private_key))), Some(keyed));
        for wrong in ["errno=-22\n\n", "", "listen_port=51820\n", "hello\nerrno=0\n\n"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
        let text = render(&info, None);
        assert!(
            text.starts_with("listen_port=51820\npublic_key=aaaa"),
            "{}",
            *text
        );
        assert!(text.ends_with("allowed_ip=10.0.0.0/24\nerrno=0\n\n"), "{}", *text);
    }
}
