//! A gateway under load: the program's own `sdwand serve`, and as many sites as it takes, each with a CA of its own.
//!
//! ```text
//! this process: sites that beat, and are beaten for ── mTLS, loopback ──▶ sdwand serve: CPU and memory as the kernel counts them
//! ```
//!
//! The gateway is a process of its own, so that what its callers cost isn't in its figures: its CPU time is `utime + stime`
//! of `/proc/<pid>/stat` (proc(5)), of all its threads, at 1/100 s; a figure "per core" is what was done by a second of
//! that. Words on the command line choose among the parts. `netns-tests/figures.sh` prints the lines for the README.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a bench measures time, starts what it measures, says so when it fails, and divides"
)]

mod audit;
mod daemon;
mod load;
mod sites;
mod steady;
mod web;

use std::time::{Duration, Instant};

use daemon::{Daemon, Layout};
use sdwand::federation::peer::Status;
use sites::Sites;
use steady::Ways;

/// One line of the README's table.
fn figure(what: &str, figure: &str) {
    println!("| {what} | {figure} |");
}

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|word| word == part);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        if is_wanted("beats") {
            beats().await;
        }
        if is_wanted("active") {
            active().await;
        }
        if is_wanted("ledger") {
            audit::large_ledger().await;
        }
        if is_wanted("memory") {
            memory().await;
        }
        if is_wanted("steady") {
            steady::ten_thousand(Ways::Both).await;
        }
        if is_wanted("inbound") {
            steady::ten_thousand(Ways::Inbound).await;
        }
    });
}

/// How long each kind of beat is measured.
const SPAN: Duration = Duration::from_secs(5);
/// How many callers there are: what one source may have before it is known, and a few beats at a time.
const CALLERS: usize = 4;

/// Beats and handshakes per second of the gateway's CPU time, and what a bare web server does with the same connections.
async fn beats() {
    let layout = Layout::new("hub", 1);
    let sites = Sites::draw(CALLERS);
    sites.write_into(&layout, &[]);
    let daemon = Daemon::start(&layout).await;
    let server = load::Target::of(&layout);
    let kept = load::kept(&server, &sites, SPAN, &|| daemon.cpu()).await;
    figure(
        "beats over kept connections, per second of the gateway's CPU",
        &format!("{:.0}", kept.per_core()),
    );
    let fresh = load::fresh(&server, &sites, SPAN, &|| daemon.cpu()).await;
    figure(
        "mTLS handshake and a beat, per second of the gateway's CPU",
        &format!("{:.0}", fresh.per_core()),
    );
    drop(daemon);
    // Without nginx the script says so.
    let Some(nginx) = web::Nginx::start(&layout, &sites).await else {
        return;
    };
    let server = nginx.target();
    let static_kept = load::kept(&server, &sites, SPAN, &|| nginx.cpu()).await;
    let static_fresh = load::fresh(&server, &sites, SPAN, &|| nginx.cpu()).await;
    for (what, ours, theirs) in [
        ("kept connections", kept, static_kept),
        ("a handshake each", fresh, static_fresh),
    ] {
        let ratio = ours.per_core() / theirs.per_core();
        let text = format!("{:.0} ({ratio:.2} of it here)", theirs.per_core());
        figure(
            &format!("nginx, mTLS with one CA, a static answer: {what}, per second of its CPU"),
            &text,
        );
    }
}

/// What a connection that is kept costs in memory, on either side.
async fn memory() {
    const OPEN: usize = 1_000;
    let layout = Layout::new("hub", 1);
    let sites = Sites::draw(OPEN);
    sites.write_as(&layout, &[], Status::Enrolled);
    let daemon = Daemon::start(&layout).await;
    let server = load::Target::of(&layout);
    // Everybody once: what a gateway knows of its peers isn't what a connection costs.
    for (n, site) in sites.0.iter().enumerate() {
        let mut caller = load::Caller::open(&server, site).await.unwrap();
        assert_eq!(
            caller
                .beat(sites::Site::beat(&sites::nowhere(n), 1))
                .await
                .unwrap(),
            200
        );
    }
    let own = || daemon::resident_of(std::process::id());
    let (before, own_before) = (daemon.resident(), own());
    let mut callers = Vec::new();
    for (n, site) in sites.0.iter().enumerate() {
        let mut caller = load::Caller::open(&server, site).await.unwrap();
        assert_eq!(
            caller
                .beat(sites::Site::beat(&sites::nowhere(n), 2))
                .await
                .unwrap(),
            200
        );
        callers.push(caller);
    }
    let each = |grown: f64| format!("{:.1} KiB", grown * 1024.0 / OPEN as f64);
    figure(
        "a kept connection in memory: where it is called, and (the same libraries) where it calls",
        &format!(
            "{}, {}",
            each(daemon.resident() - before),
            each(own() - own_before)
        ),
    );
    drop(callers);
}

/// From a proposal until both sites are active.
async fn active() {
    let (a, b) = (Layout::new("hub-a", 1), Layout::new("hub-b", 2));
    let (one, other) = (Daemon::start(&a).await, Daemon::start(&b).await);
    let mut spans = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let proposed = one.propose(&b.url()).await;
        let registered = other.propose(&a.url()).await;
        let token = proposed["acceptance_token"].as_str().unwrap().to_owned();
        let (at_one, at_other) = (id_of(&proposed), id_of(&registered));
        other.accept(&at_other, &token).await;
        while one.status(&at_one).await != "active" || other.status(&at_other).await != "active" {
            assert!(begun.elapsed() < Duration::from_secs(30), "never active");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        spans.push(begun.elapsed());
        one.revoke(&at_one).await;
        other.revoke(&at_other).await;
    }
    spans.sort_unstable();
    figure(
        "from a proposal until both sites are active, median and worst of 5",
        &format!("{:.2} s, {:.2} s", spans[2].as_secs_f64(), spans[4].as_secs_f64()),
    );
}

fn id_of(proposed: &serde_json::Value) -> String {
    proposed["peer"]["id"].as_str().unwrap().to_owned()
}
