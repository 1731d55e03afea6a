//! `sdwand serve` under a service manager: what it says on `NOTIFY_SOCKET`, and when (`sd_notify(3)`).

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test starts the program, looks at the clock, and says so when it fails"
)]

use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const WATCHDOG: Duration = Duration::from_secs(1);

/// Ends the gateway, however the test ends.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Gateway {
    fn ended(&mut self) -> ExitStatus {
        let late = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < late, "still there 10 s after SIGTERM");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn next(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 512];
    let length = manager.recv(&mut buffer).expect("nothing is told within 20 s");
    String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
}

#[test]
fn systemd_is_told_when_it_is_ready_alive_and_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    std::fs::create_dir(at("fleet.d")).unwrap();
    std::fs::write(
        at("sdwand.toml"),
        format!(
            "format = 1\nnode = \"gw\"\nstate_dir = \"state\"\nrun_dir = \"run\"\n[fleet]\ndir = \"fleet.d\"\n\
             [federation]\nlisten = \"127.0.0.1:{port}\"\nurl = \"https://127.0.0.1:{port}\"\n"
        ),
    )
    .unwrap();
    std::fs::write(
        at("fleet.d/00-site.toml"),
        "format = 1\n[site]\nname = \"site-a\"\nprefix = \"fd0a:0:1::/48\"\ngateways = [\"gw\"]\n\
         [[nodes]]\nname = \"gw\"\nhost_id = 1\npublic_key = \"qyZM0n/nfE4oy3WbcOMEEEhHnPs+LsxOddSahMSLN2A=\"\n",
    )
    .unwrap();
    let manager = UnixDatagram::bind(at("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_sdwand"))
        .arg("--config")
        .arg(at("sdwand.toml"))
        .arg("serve")
        .env("NOTIFY_SOCKET", at("notify"))
        .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut gateway = Gateway(child);

    assert_eq!(next(&manager), "READY=1", "and nothing before it");
    TcpStream::connect(("127.0.0.1", port)).expect("ready, and peers are heard");
    UnixStream::connect(at("run-serve/api.sock")).expect("ready, and the operator is heard");
    assert!(!at("run").exists(), "the other daemon's folder isn't its own");
    assert_eq!(next(&manager), "STATUS=0 peers: 0 active, 0 degraded");
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(next(&manager), "WATCHDOG=1");
        assert!(start.elapsed() < WATCHDOG, "within the manager's patience");
    }

    let pid = rustix::process::Pid::from_child(&gateway.0);
    // A driver that stands still says nothing, and that is what the watchdog kills it for.
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    manager.set_read_timeout(Some(WATCHDOG * 2)).unwrap();
    let mut buffer = [0; 512];
    // One may have been under way.
    let _ = manager.recv(&mut buffer);
    assert!(manager.recv(&mut buffer).is_err(), "it is still said to be alive");
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();

    // The unit's reload: the fleet is read again, and nothing ends.
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    for _ in 0..2 {
        assert_eq!(next(&manager), "WATCHDOG=1");
    }

    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let stopping = (0..20).map(|_| next(&manager)).find(|told| told != "WATCHDOG=1");
    assert_eq!(stopping.as_deref(), Some("STOPPING=1"));
    assert!(gateway.ended().success());
    assert!(!at("run-serve/api.sock").exists());
}
