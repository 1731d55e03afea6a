//! What the WireGuard tests share: a private network namespace for each test, stock tools, and a scripted peer.
//!
//! A test runs twice: outside it starts itself again under `unshare --net --mount`; inside it does its work. What the
//! machine lacks skips a test with a reason; under `SDWAND_NETNS_REQUIRE=all` that is a failure.

#![expect(
    clippy::disallowed_methods,
    reason = "tests start stock tools and look at the clock"
)]
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::noise::{Tunn, TunnResult};
use gotatun::packet::{Packet, WgKind};
use gotatun::tun::MtuWatcher;
use gotatun::x25519::{PublicKey, StaticSecret};
use sdwand::model::PrivateKey;
use sdwand::planes::Ways;
use sdwand::planes::wireguard::{Calls, Desired, Facts, Names, apply, diff, observe};
use sdwand::sys::wg::Backend;

const INSIDE: &str = "SDWAND_TEST_INSIDE";

/// What a test needs beside root.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// `/dev/net/tun`
    Tun,
    /// WireGuard in the kernel.
    KernelWireguard,
}

/// Runs `body` in a network and mount namespace of its own, with loopback up and an empty `/run`.
pub fn in_namespace(test: &str, needs: &[Need], body: impl AsyncFnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(body());
        return;
    }
    if let Some(reason) = lacking(needs) {
        assert!(
            std::env::var("SDWAND_NETNS_REQUIRE").as_deref() != Ok("all"),
            "{test} may not be skipped: {reason}"
        );
        println!("SKIP {test}: {reason}");
        return;
    }
    let script = "mount -t tmpfs run /run && mkdir -p /run/wireguard /run/netns && ip link set lo up && exec \"$0\" \"$@\"";
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--", "sh", "-ec", script])
        .arg(std::env::current_exe().expect("the test's own path"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare");
    assert!(status.success(), "{test} failed inside its namespace");
}

fn lacking(needs: &[Need]) -> Option<String> {
    let works = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !works("unshare", &["--net", "--mount", "true"]) {
        return Some("unshare --net --mount is refused: not root?".to_owned());
    }
    if !works("wg", &["--version"]) {
        return Some("wg (wireguard-tools) isn't installed".to_owned());
    }
    for need in needs {
        let lacks = match need {
            Need::Tun => !std::path::Path::new("/dev/net/tun").exists(),
            Need::KernelWireguard => !works(
                "unshare",
                &["--net", "ip", "link", "add", "wg0", "type", "wireguard"],
            ),
        };
        if lacks {
            return Some(match need {
                Need::Tun => "there is no /dev/net/tun".to_owned(),
                Need::KernelWireguard => "the kernel has no WireGuard".to_owned(),
            });
        }
    }
    None
}

/// Runs a command line and returns its output.
pub fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().expect("sh");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {text}{errors}");
    text
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !condition().await {
        assert!(Instant::now() < deadline, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Observes, plans and applies; returns how many changes it took. A second plan must be empty.
pub async fn converge(backend: &Backend, desired: &Desired, own_key: &PrivateKey) -> usize {
    let own = own_key.public();
    let names = Names::new();
    let plan = async || {
        let actual = observe(backend, desired.devices.keys()).await.expect("observed");
        let facts = Facts {
            own_key: &own,
            names: &names,
            ways: &Ways::new(),
            calls: &Calls::new(),
            now: SystemTime::now(),
        };
        let difference = diff(desired, &actual, facts);
        assert_eq!(difference.blocked, []);
        difference.changes
    };
    let changes = plan().await;
    for change in &changes {
        apply(change, backend, own_key).await.expect("applied");
    }
    assert_eq!(plan().await, []);
    changes.len()
}

/// Base64, as `wg` spells keys.
pub fn base64(bytes: [u8; 32]) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Hexadecimal, as the configuration protocol spells keys.
pub fn hex(bytes: [u8; 32]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).concat()
}

/// The public half of a private key.
pub fn public(private: [u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(private)).to_bytes()
}

/// A WireGuard peer on loopback that does only what a test tells it.
pub struct Caller {
    tunnel: Tunn,
    socket: UdpSocket,
    device: SocketAddr,
    address: Ipv4Addr,
    sequence: u16,
    /// Handshake messages that came from the device or were sent to it.
    pub handshakes: usize,
}

impl Caller {
    /// A peer with this private key and overlay address, of the device with this public key and UDP port.
    pub fn new(
        private: [u8; 32],
        preshared: Option<[u8; 32]>,
        address: [u8; 4],
        device: [u8; 32],
        port: u16,
    ) -> Self {
        let own = StaticSecret::from(private);
        let limiter = RateLimiter::new(&PublicKey::from(&own), 1_000);
        let tunnel = Tunn::new(
            own,
            PublicKey::from(device),
            preshared,
            None,
            IndexTable::from_os_rng(),
            limiter.into(),
        );
        Self {
            tunnel,
            socket: socket(),
            device: SocketAddr::from(([127, 0, 0, 1], port)),
            address: address.into(),
            sequence: 0,
            handshakes: 0,
        }
    }

    /// Where it calls from.
    pub fn local(&self) -> SocketAddr {
        self.socket.local_addr().expect("bound")
    }

    /// Calls from another port from now on, with the session that it has.
    pub fn roam(&mut self) {
        self.socket = socket();
    }

    /// Pings an address behind the device; says whether a reply comes within `patience`.
    pub fn ping(&mut self, to: [u8; 4], patience: Duration) -> bool {
        self.ping_with(36, to, patience)
    }

    /// The same with a packet of `size` bytes, 28 at least: the reply has as many.
    pub fn ping_with(&mut self, size: u16, to: [u8; 4], patience: Duration) -> bool {
        self.sequence += 1;
        let request = echo_request(self.address, to.into(), self.sequence, size);
        if let Some(packet) = self
            .tunnel
            .handle_outgoing_packet(Packet::copy_from(&request[..]), None)
        {
            self.transmit(packet);
        }
        let deadline = Instant::now() + patience;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            for packet in self.receive(left) {
                let (kind, sequence) = (packet[20], u16::from_be_bytes([packet[26], packet[27]]));
                if kind == 0 && sequence == self.sequence {
                    let length = u16::from_be_bytes([packet[2], packet[3]]);
                    return length == size && packet.len() >= usize::from(size);
                }
            }
        }
        false
    }

    /// Sends a payload through the tunnel, whatever it is.
    pub fn send_payload(&mut self, payload: &[u8]) {
        if let Some(packet) = self
            .tunnel
            .handle_outgoing_packet(Packet::copy_from(payload), None)
        {
            self.transmit(packet);
        }
    }

    /// Sends a datagram to the device's port, whatever it is.
    pub fn send_datagram(&mut self, datagram: &[u8]) {
        let _ = self.socket.send_to(datagram, self.device);
    }

    fn transmit(&mut self, packet: WgKind) {
        let is_handshake = matches!(packet, WgKind::HandshakeInit(_) | WgKind::HandshakeResp(_));
        self.handshakes += usize::from(is_handshake);
        let bytes: Packet = packet.into();
        // A closed port answers with an error that a later call reports.
        let _ = self.socket.send_to(&bytes, self.device);
    }

    fn receive(&mut self, patience: Duration) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        let patience = patience.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(patience)).expect("a timeout");
        let Ok(length) = self.socket.recv(&mut buffer) else {
            return Vec::new();
        };
        let Ok(packet) = Packet::copy_from(&buffer[..length]).try_into_wg() else {
            return Vec::new();
        };
        let is_handshake = matches!(packet, WgKind::HandshakeInit(_) | WgKind::HandshakeResp(_));
        self.handshakes += usize::from(is_handshake);
        match self.tunnel.handle_incoming_packet(packet) {
            TunnResult::WriteToNetwork(packet) => {
                self.transmit(packet);
                let queued: Vec<_> = self
                    .tunnel
                    .get_queued_packets(&mut MtuWatcher::new(1_420))
                    .collect();
                for packet in queued {
                    self.transmit(packet);
                }
                Vec::new()
            }
            TunnResult::WriteToTunnel(packet) if packet.len() >= 28 => vec![packet.to_vec()],
            TunnResult::WriteToTunnel(_) | TunnResult::Done | TunnResult::Err(_) => Vec::new(),
        }
    }
}

fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").expect("a UDP socket")
}

/// An ICMP echo request in IPv4 (RFC 791, RFC 792) of `size` bytes.
fn echo_request(from: Ipv4Addr, to: Ipv4Addr, sequence: u16, size: u16) -> Vec<u8> {
    let [high, low] = size.to_be_bytes();
    let mut header = vec![0x45, 0, high, low, 0, 0, 0, 0, 64, 1, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    let mut echo = vec![8, 0, 0, 0, 0x5d, 0x3a];
    echo.extend(sequence.to_be_bytes());
    echo.resize(usize::from(size) - 20, 0x55);
    let sum = checksum(&echo);
    echo[2..4].copy_from_slice(&sum);
    header.extend(echo);
    header
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let folded = u16::try_from(sum).expect("folded to 16 bits");
    (!folded).to_be_bytes()
}
