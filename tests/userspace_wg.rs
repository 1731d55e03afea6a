//! The embedded WireGuard device, where others of its kind failed: each fault that was found in one is a test here.
//!
//! ```text
//!  own network namespace
//!  ┌────────────────────────────────────────────────────────────────────────┐
//!  │ wg-sdwan-1 (TUN) 10.9.0.1/24 ── embedded device ── UDP 127.0.0.1:51820 │
//!  │                                       ▲                  ▲       ▲     │
//!  │ wg(8) ── /run/wireguard/….sock ───────┘          Caller A    Caller B  │
//!  └────────────────────────────────────────────────────10.9.0.2──10.9.0.3──┘
//! ```

#![expect(clippy::disallowed_methods, reason = "tests look at the clock")]

mod wg_lab;

use std::io::{Read as _, Write as _};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use sdwand::sys::wg::{Backend, DeviceUpdate, PeerUpdate, Secret, Userspace, WgError};
use wg_lab::{Caller, Need, base64, eventually, hex, in_namespace, public, sh};

const LINK: &str = "wg-sdwan-1";
const PORT: u16 = 51_820;
const OWN: [u8; 32] = [0x41; 32];
const A: [u8; 32] = [0x42; 32];
const B: [u8; 32] = [0x43; 32];
const C: [u8; 32] = [0x44; 32];
const HUB: [u8; 4] = [10, 9, 0, 1];
const SOON: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_millis(700);

fn inside(test: &str, body: impl AsyncFnOnce()) {
    in_namespace(test, &[Need::Tun], body);
}

fn nets(nets: &[&str]) -> Vec<IpNet> {
    nets.iter().map(|net| net.parse().expect("a prefix")).collect()
}

fn peer(private: [u8; 32], allowed: &[&str]) -> PeerUpdate {
    PeerUpdate {
        public_key: public(private),
        allowed_ips: nets(allowed),
        ..PeerUpdate::default()
    }
}

fn peers(peers: impl IntoIterator<Item = PeerUpdate>) -> DeviceUpdate {
    DeviceUpdate {
        peers: peers.into_iter().collect(),
        ..DeviceUpdate::default()
    }
}

/// A device without a key, up.
async fn bare() -> Userspace {
    let userspace = Userspace::default();
    userspace.create(LINK, 1_420).await.expect("created");
    sh(&format!(
        "ip addr add 10.9.0.1/24 dev {LINK}; ip link set {LINK} up"
    ));
    userspace
}

/// A device with a key, a port and peer A.
async fn ready() -> (Userspace, Caller) {
    let userspace = bare().await;
    let update = DeviceUpdate {
        private_key: Some(Secret::new(OWN)),
        listen_port: Some(PORT),
        peers: vec![peer(A, &["10.9.0.2/32"])],
        ..DeviceUpdate::default()
    };
    userspace.set(LINK, update).await.expect("set up");
    (userspace, caller(A, None, 2))
}

fn caller(private: [u8; 32], preshared: Option<[u8; 32]>, host: u8) -> Caller {
    Caller::new(private, preshared, [10, 9, 0, host], public(OWN), PORT)
}

/// Packets that entered the host through the TUN interface.
fn entered() -> u64 {
    let text = sh(&format!("ip -s -j link show {LINK}"));
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    value[0]["stats64"]["rx"]["packets"].as_u64().expect("a counter")
}

/// One request of the configuration protocol, word by word.
fn uapi(request: &str) -> String {
    let mut socket =
        std::os::unix::net::UnixStream::connect(format!("/var/run/wireguard/{LINK}.sock")).expect("socket");
    socket.write_all(request.as_bytes()).expect("sent");
    socket.shutdown(std::net::Shutdown::Write).expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("answered");
    answer
}

#[test]
fn an_existing_peer_changes_while_traffic_flows() {
    inside("an_existing_peer_changes_while_traffic_flows", async || {
        let (userspace, mut a) = ready().await;
        assert!(a.ping(HUB, SOON));
        let handshakes = a.handshakes;
        let key = base64(public(A));
        for round in 0..40_u16 {
            match round % 4 {
                0 => drop(sh(&format!(
                    "wg set {LINK} peer {key} persistent-keepalive {}",
                    round + 10
                ))),
                1 => drop(sh(&format!(
                    "wg set {LINK} peer {key} allowed-ips 10.9.0.2/32,10.77.{round}.0/24"
                ))),
                2 => {
                    let update = PeerUpdate {
                        update_only: true,
                        keepalive: Some(round),
                        ..peer(A, &["10.78.0.0/24"])
                    };
                    userspace.set(LINK, peers([update])).await.expect("set");
                }
                _ => drop(uapi(&format!(
                    "set=1\npublic_key={}\nallowed_ip=10.79.0.0/24\n\n",
                    hex(public(A))
                ))),
            }
            assert!(a.ping(HUB, SOON), "round {round}");
        }
        assert_eq!(a.handshakes, handshakes, "the session was thrown away");
        let info = userspace.read(LINK).await.expect("read");
        assert_eq!(info.peers[&public(A)].keepalive, 38);
        assert!(
            info.peers[&public(A)]
                .allowed_ips
                .contains(&nets(&["10.79.0.0/24"])[0])
        );
    });
}

#[test]
fn a_removed_peer_gets_nothing_through() {
    inside("a_removed_peer_gets_nothing_through", async || {
        let (userspace, mut a) = ready().await;
        assert!(a.ping(HUB, SOON));
        assert_eq!(uapi("set=1\nreplace_peers=true\n\n"), "errno=0\n\n");
        assert!(userspace.read(LINK).await.expect("read").peers.is_empty());
        let before = entered();
        for _ in 0..10 {
            assert!(!a.ping(HUB, Duration::from_millis(50)));
        }
        assert_eq!(entered(), before, "packets of a removed peer entered");

        userspace
            .set(LINK, peers([peer(B, &["10.9.0.3/32"])]))
            .await
            .expect("add");
        let mut b = caller(B, None, 3);
        assert!(b.ping(HUB, SOON));
        let gone = PeerUpdate::removal(public(B));
        userspace.set(LINK, peers([gone])).await.expect("remove");
        let before = entered();
        assert!(!b.ping(HUB, NEVER));
        assert_eq!(entered(), before, "packets of a removed peer entered");
    });
}

#[test]
fn with_another_key_the_sessions_that_there_are_are_still_heard() {
    inside(
        "with_another_key_the_sessions_that_there_are_are_still_heard",
        async || {
            let (userspace, mut a) = ready().await;
            assert!(a.ping(HUB, SOON));
            let update = DeviceUpdate {
                private_key: Some(Secret::new(C)),
                ..DeviceUpdate::default()
            };
            userspace.set(LINK, update).await.expect("another key");
            let info = userspace.read(LINK).await.expect("read");
            assert_eq!((info.public_key, info.listen_port), (Some(public(C)), PORT));
            assert!(info.peers[&public(A)].last_handshake.is_none());
            let before = entered();
            assert!(!a.ping(HUB, NEVER), "nothing is sent by the former key");
            assert!(entered() > before, "what came by its session was lost");

            let mut renewed = Caller::new(A, None, [10, 9, 0, 2], public(C), PORT);
            assert!(renewed.ping(HUB, SOON));
            // Who is removed is heard by neither.
            let gone = PeerUpdate::removal(public(A));
            userspace.set(LINK, peers([gone])).await.expect("remove");
            let before = entered();
            assert!(!a.ping(HUB, NEVER) && !renewed.ping(HUB, NEVER));
            assert_eq!(entered(), before, "packets of a removed peer entered");
        },
    );
}

#[test]
fn a_peer_is_called_at_once_when_it_is_asked() {
    inside("a_peer_is_called_at_once_when_it_is_asked", async || {
        let (userspace, _) = ready().await;
        let listener = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
        listener.set_read_timeout(Some(SOON)).expect("set");
        let update = PeerUpdate {
            endpoint: Some(listener.local_addr().expect("an address")),
            keepalive: Some(0),
            call: true,
            ..peer(B, &["10.9.0.3/32"])
        };
        userspace.set(LINK, peers([update])).await.expect("add");
        let mut message = [0; 200];
        let length = listener.recv(&mut message).expect("called");
        assert_eq!((length, message[0]), (148, 1), "a handshake initiation");
    });
}

#[test]
fn a_peer_inherits_nothing_from_the_one_before_it() {
    inside("a_peer_inherits_nothing_from_the_one_before_it", async || {
        let (userspace, _) = ready().await;
        let request = format!(
            "set=1\nreplace_peers=true\npublic_key={}\npreshared_key={}\nendpoint=127.0.0.1:9\n\
             persistent_keepalive_interval=25\nallowed_ip=10.9.0.3/32\npublic_key={}\nallowed_ip=10.9.0.4/32\n\n",
            hex(public(B)),
            hex([9; 32]),
            hex(public(C))
        );
        assert_eq!(uapi(&request), "errno=0\n\n");
        let info = userspace.read(LINK).await.expect("read");
        let (b, c) = (&info.peers[&public(B)], &info.peers[&public(C)]);
        assert_eq!(
            (b.preshared_key.clone(), b.keepalive),
            (Some(Secret::new([9; 32])), 25)
        );
        assert_eq!(
            (c.preshared_key.clone(), c.endpoint, c.keepalive),
            (None, None, 0)
        );
        assert!(caller(C, None, 4).ping(HUB, SOON));
    });
}

#[test]
fn one_request_removes_one_peer_and_adds_another() {
    inside("one_request_removes_one_peer_and_adds_another", async || {
        let (userspace, _) = ready().await;
        let request = format!(
            "set=1\npublic_key={}\nremove=true\npublic_key={}\nallowed_ip=10.9.0.4/32\n\n",
            hex(public(A)),
            hex(public(C))
        );
        assert_eq!(uapi(&request), "errno=0\n\n");
        let info = userspace.read(LINK).await.expect("read");
        assert_eq!(info.peers.keys().copied().collect::<Vec<_>>(), [public(C)]);
        assert!(caller(C, None, 4).ping(HUB, SOON));
    });
}

#[test]
fn what_comes_before_the_key_does_no_harm() {
    inside("what_comes_before_the_key_does_no_harm", async || {
        let userspace = bare().await;
        assert_eq!(uapi(&format!("set=1\nlisten_port={PORT}\n\n")), "errno=0\n\n");
        let mut a = caller(A, None, 2);
        assert!(!a.ping(HUB, NEVER), "nobody listens yet");
        let early = userspace.set(LINK, peers([peer(A, &["10.9.0.2/32"])])).await;
        assert!(matches!(early, Err(WgError::NoPrivateKey(_))), "{early:?}");
        assert!(uapi(&format!("set=1\npublic_key={}\n\n", hex(public(A)))).starts_with("errno=-"));

        let key = DeviceUpdate {
            private_key: Some(Secret::new(OWN)),
            ..peers([peer(A, &["10.9.0.2/32"])])
        };
        userspace.set(LINK, key).await.expect("set");
        assert_eq!(userspace.read(LINK).await.expect("read").listen_port, PORT);
        assert!(caller(A, None, 2).ping(HUB, SOON));
    });
}

#[test]
fn handshake_times_are_times_of_day() {
    inside("handshake_times_are_times_of_day", async || {
        let (userspace, mut a) = ready().await;
        assert_eq!(
            userspace.read(LINK).await.expect("read").peers[&public(A)].last_handshake,
            None
        );
        assert!(sh(&format!("wg show {LINK} latest-handshakes")).ends_with("\t0\n"));
        assert!(a.ping(HUB, SOON));
        let info = userspace.read(LINK).await.expect("read");
        let age =
            SystemTime::now().duration_since(info.peers[&public(A)].last_handshake.expect("a handshake"));
        assert!(age.expect("in the past") < SOON);
        assert!(info.peers[&public(A)].rx_bytes > 0 && info.peers[&public(A)].tx_bytes > 0);
        let shown = sh(&format!("wg show {LINK}"));
        assert!(shown.contains("second") || shown.contains("Now"), "{shown}");
    });
}

#[test]
fn stock_wg_reads_and_writes_it() {
    inside("stock_wg_reads_and_writes_it", async || {
        let (userspace, _) = ready().await;
        assert_eq!(sh("wg show interfaces").trim(), LINK);
        let shown = sh(&format!("wg show {LINK}"));
        for part in [
            format!("public key: {}", base64(public(OWN))),
            format!("listening port: {PORT}"),
            format!("peer: {}", base64(public(A))),
            "allowed ips: 10.9.0.2/32".to_owned(),
        ] {
            assert!(shown.contains(&part), "{part} in {shown}");
        }
        let buffers = sh(&format!("ss -lunm sport = :{PORT}"));
        assert!(
            buffers.contains(&format!("rb{}", 2 * 7 * 1024 * 1024)),
            "7 MiB, which the kernel doubles: {buffers}"
        );
        let mode = sh(&format!("stat -c %a /var/run/wireguard/{LINK}.sock"));
        assert_eq!(mode.trim(), "600", "the socket gives away the private key");
        sh(&format!("wg set {LINK} listen-port 51999 fwmark 0x10"));
        let info = userspace.read(LINK).await.expect("read");
        assert_eq!((info.listen_port, info.fwmark), (51_999, 16));
        let text = sh(&format!("wg showconf {LINK}"));
        std::fs::write("/run/conf", text).expect("written");
        sh(&format!("wg setconf {LINK} /run/conf"));
        assert_eq!(userspace.read(LINK).await.expect("read"), info);
    });
}

#[test]
fn a_peer_that_roams_is_followed() {
    inside("a_peer_that_roams_is_followed", async || {
        let (userspace, mut a) = ready().await;
        let endpoint = async || userspace.read(LINK).await.expect("read").peers[&public(A)].endpoint;
        assert!(a.ping(HUB, SOON));
        let first = a.local();
        assert_eq!(endpoint().await, Some(first));
        a.roam();
        assert!(a.ping(HUB, SOON), "replies go to where it called from last");
        assert_ne!(a.local(), first);
        assert_eq!(endpoint().await, Some(a.local()));
        assert!(sh(&format!("wg show {LINK} endpoints")).contains(&a.local().to_string()));
    });
}

#[test]
fn a_moved_allowed_ip_stays_moved() {
    inside("a_moved_allowed_ip_stays_moved", async || {
        let (userspace, mut a) = ready().await;
        userspace
            .set(LINK, peers([peer(B, &["10.9.0.3/32"])]))
            .await
            .expect("add");
        assert!(a.ping(HUB, SOON));
        userspace
            .set(LINK, peers([peer(B, &["10.9.0.2/32"])]))
            .await
            .expect("move");
        let check = async || {
            let info = userspace.read(LINK).await.expect("read");
            let allowed = |private| info.peers[&public(private)].allowed_ips.clone();
            assert_eq!(allowed(A), [].into());
            assert_eq!(
                allowed(B),
                nets(&["10.9.0.2/32", "10.9.0.3/32"]).into_iter().collect()
            );
        };
        check().await;
        // A change of the old owner must not give it the chance to take the prefix back.
        let touch = PeerUpdate {
            keepalive: Some(5),
            ..peer(A, &[])
        };
        userspace.set(LINK, peers([touch])).await.expect("touch");
        check().await;
        assert!(!a.ping(HUB, NEVER), "the old owner may not use it");
        assert!(caller(B, None, 2).ping(HUB, SOON), "the new one may");
    });
}

#[test]
fn a_withdrawn_allowed_ip_is_on_no_peer() {
    inside("a_withdrawn_allowed_ip_is_on_no_peer", async || {
        let (userspace, mut a) = ready().await;
        assert!(a.ping(HUB, SOON));
        let throw_away = peer([0x77; 32], &["10.9.0.2/32"]);
        let gone = PeerUpdate::removal(throw_away.public_key);
        userspace
            .set(LINK, peers([throw_away, gone]))
            .await
            .expect("withdraw");
        let info = userspace.read(LINK).await.expect("read");
        assert_eq!(info.peers.len(), 1);
        assert!(info.peers[&public(A)].allowed_ips.is_empty());
        assert!(!a.ping(HUB, NEVER));
    });
}

#[test]
fn a_wrong_preshared_key_keeps_a_peer_out() {
    inside("a_wrong_preshared_key_keeps_a_peer_out", async || {
        let (userspace, _) = ready().await;
        let key = PeerUpdate {
            preshared_key: Some(Secret::new([9; 32])),
            ..peer(A, &[])
        };
        userspace.set(LINK, peers([key])).await.expect("set");
        assert!(!caller(A, None, 2).ping(HUB, NEVER));
        assert!(!caller(A, Some([8; 32]), 2).ping(HUB, NEVER));
        assert!(caller(A, Some([9; 32]), 2).ping(HUB, SOON));
    });
}

#[test]
fn a_taken_port_is_said_and_the_old_one_stays() {
    inside("a_taken_port_is_said_and_the_old_one_stays", async || {
        let (userspace, mut a) = ready().await;
        let taken = std::net::UdpSocket::bind("[::]:0").expect("a port");
        let port = taken.local_addr().expect("bound").port();
        let update = DeviceUpdate {
            listen_port: Some(port),
            ..DeviceUpdate::default()
        };
        let refused = userspace.set(LINK, update.clone()).await;
        assert!(matches!(refused, Err(WgError::PortTaken { .. })), "{refused:?}");
        assert_eq!(userspace.read(LINK).await.expect("read").listen_port, PORT);
        assert!(a.ping(HUB, SOON));
        drop(taken);
        userspace.set(LINK, update).await.expect("free now");
        assert_eq!(userspace.read(LINK).await.expect("read").listen_port, port);
    });
}

#[test]
fn refused_ports_never_leave_the_device_deaf() {
    inside("refused_ports_never_leave_the_device_deaf", async || {
        let (userspace, mut a) = ready().await;
        let taken = std::net::UdpSocket::bind("[::]:0").expect("a port");
        let update = DeviceUpdate {
            listen_port: Some(taken.local_addr().expect("bound").port()),
            ..DeviceUpdate::default()
        };
        // A busy runtime closes what was given up late.
        for _ in 0..8 {
            tokio::spawn(async {
                loop {
                    std::hint::black_box((0..200_000_u64).sum::<u64>());
                    tokio::task::yield_now().await;
                }
            });
        }
        for round in 0..20 {
            let refused = userspace.set(LINK, update.clone()).await;
            assert!(matches!(refused, Err(WgError::PortTaken { .. })), "{refused:?}");
            assert!(a.ping(HUB, SOON), "no answer after {round} refusals");
        }
    });
}

#[test]
fn a_device_whose_interface_was_deleted_can_come_back() {
    inside("a_device_whose_interface_was_deleted_can_come_back", async || {
        let (userspace, _) = ready().await;
        let again = userspace.create(LINK, 1_420).await;
        assert!(matches!(again, Err(WgError::Exists(_))), "{again:?}");
        sh(&format!("ip link del {LINK}"));
        let gone = userspace.read(LINK).await;
        assert!(gone.as_ref().is_err_and(WgError::is_no_device), "{gone:?}");
        userspace.create(LINK, 1_300).await.expect("created again");
        assert!(sh(&format!("ip link show {LINK}")).contains("mtu 1300"));
        userspace.remove(LINK).await.expect("removed");
        assert!(!sh("ip link show").contains(LINK));
        assert_eq!(sh("wg show interfaces").trim(), "");
        userspace.remove(LINK).await.expect("nothing to do");
    });
}

#[test]
fn thousands_of_peers_come_in_one_update() {
    inside("thousands_of_peers_come_in_one_update", async || {
        let (userspace, _) = ready().await;
        let backend = Backend::Userspace(userspace);
        let many = (0..2_000_u32).map(|i| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&i.to_be_bytes());
            let [_, b, c, d] = (0x0a10_0000 + i).to_be_bytes();
            let net = format!("10.{b}.{c}.{d}/32");
            PeerUpdate {
                public_key: key,
                allowed_ips: nets(&[&net]),
                ..PeerUpdate::default()
            }
        });
        backend.set(LINK, peers(many)).await.expect("2,000 peers");
        assert_eq!(backend.read(LINK).await.expect("read").peers.len(), 2_001);
        let mut a = caller(A, None, 2);
        eventually("ping among 2,000 peers", async || a.ping(HUB, NEVER)).await;
    });
}

#[test]
fn packets_as_large_as_the_interface_takes_pass_whole() {
    inside("packets_as_large_as_the_interface_takes_pass_whole", async || {
        let (userspace, mut a) = ready().await;
        assert!(a.ping_with(1_420, HUB, SOON));
        for mtu in [4_098, 9_000, 34_736] {
            sh(&format!("ip link set {LINK} mtu {mtu}"));
            // The device asks every 3 s.
            eventually("a larger packet", async || a.ping_with(mtu, HUB, NEVER)).await;
            assert!(a.ping_with(1_420, HUB, SOON), "after {mtu}");
        }
        // One that is as large from the start.
        userspace.remove(LINK).await.expect("removed");
        userspace.create(LINK, 9_000).await.expect("created");
        sh(&format!(
            "ip addr add 10.9.0.1/24 dev {LINK}; ip link set {LINK} up"
        ));
        let update = DeviceUpdate {
            private_key: Some(Secret::new(OWN)),
            listen_port: Some(PORT),
            peers: vec![peer(B, &["10.9.0.3/32"])],
            ..DeviceUpdate::default()
        };
        userspace.set(LINK, update).await.expect("set up");
        assert!(caller(B, None, 3).ping_with(9_000, HUB, SOON));
    });
}

#[test]
fn garbage_and_a_downed_interface_do_no_harm() {
    inside("garbage_and_a_downed_interface_do_no_harm", async || {
        let (userspace, mut a) = ready().await;
        for kind in 0..=5_u8 {
            for length in [1, 3, 4, 32, 64, 92, 148, 149, 1_500, 9_000] {
                let mut datagram = vec![0xa5; length];
                datagram[0] = kind;
                datagram.iter_mut().skip(1).take(3).for_each(|byte| *byte = 0);
                a.send_datagram(&datagram);
            }
        }
        assert!(a.ping(HUB, SOON));
        for version in [0x00_u8, 0x45, 0x4f, 0x60, 0x65, 0xf0] {
            for length in [1, 19, 20, 21, 40, 41, 1_400] {
                let mut payload = vec![0xff; length];
                payload[0] = version;
                a.send_payload(&payload);
            }
        }
        assert!(a.ping(HUB, SOON));

        sh(&format!("ip link set {LINK} down"));
        assert!(!a.ping(HUB, NEVER), "down is down");
        sh(&format!("ip link set {LINK} up"));
        assert!(a.ping(HUB, SOON));
        assert_eq!(userspace.read(LINK).await.expect("read").peers.len(), 1);
    });
}

#[test]
fn a_device_that_moves_between_ports_lives_on() {
    inside("a_device_that_moves_between_ports_lives_on", async || {
        let (userspace, _) = ready().await;
        for port in PORT..PORT + 30 {
            let update = DeviceUpdate {
                listen_port: Some(port),
                ..DeviceUpdate::default()
            };
            userspace.set(LINK, update).await.expect("moved");
            assert_eq!(userspace.read(LINK).await.expect("still there").listen_port, port);
            let mut a = Caller::new(A, None, [10, 9, 0, 2], public(OWN), port);
            // Handshakes of one peer that follow each other closely may be ignored as replays.
            eventually("ping on the new port", async || a.ping(HUB, NEVER)).await;
        }
    });
}
