//! A ledger of 10,000 peers and 1,000,000 audit records: how long it takes to open it, and to answer operators.

use std::time::{Duration, Instant};

use hyper::Method;
use sdwand::federation::ledger::{Conflict, Happening, Ledger};
use sdwand::federation::peer::Status;
use serde_json::json;

use crate::daemon::{Daemon, Layout, wall};
use crate::figure;
use crate::sites::Sites;

const PEERS: usize = 10_000;
const RECORDS: usize = 1_000_000;
/// How many of them one transaction writes.
const AT_ONCE: usize = 5_000;

pub(crate) async fn large_ledger() {
    let layout = Layout::new("hub", 1);
    let sites = Sites::draw(PEERS);
    // Suspended: nobody is called, so that what is measured is the ledger alone.
    sites.write_as(&layout, &[], Status::Suspended);
    write_records(&layout, &sites);
    let tail = |path: &str| format!("/api/v1/system/{path}");
    let (mut starts, mut firsts) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let daemon = Daemon::start(&layout).await;
        starts.push(daemon.took);
        firsts.extend(ask(&daemon, &tail("platform/peers"), 1).await.0);
    }
    starts.sort_unstable();
    firsts.sort_unstable();
    figure(
        "10,000 peers, 1,000,000 audit records: from the start of `sdwand serve` to its first answer, median and worst of 5",
        &format!("{:.0} ms, {:.0} ms", millis(starts[2]), millis(starts[4])),
    );
    figure(
        "the same ledger: list all peers for the first time, with each row to be written, median and worst of 5",
        &format!("{:.1} ms, {:.1} ms", millis(firsts[2]), millis(firsts[4])),
    );
    let daemon = Daemon::start(&layout).await;
    let show = tail("platform/peers/site-5000");
    for (what, path, times) in [
        ("list all peers", tail("platform/peers"), 200),
        ("show a peer by its alias", show, 1_000),
        (
            "the last 50 audit records",
            tail("federation/audit?limit=50"),
            1_000,
        ),
    ] {
        let (spans, bytes) = ask(&daemon, &path, times).await;
        figure(
            &format!("the same ledger: {what} ({bytes} bytes), p50 and p99"),
            &format!(
                "{:.1} ms, {:.1} ms",
                millis(spans[times / 2]),
                millis(spans[times * 99 / 100])
            ),
        );
    }
    figure(
        "the same ledger: resident memory",
        &format!("{:.0} MiB", daemon.resident()),
    );
}

pub(crate) fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// How long a read takes, the shortest first, and how long its answer is.
pub(crate) async fn ask(daemon: &Daemon, path: &str, times: usize) -> (Vec<Duration>, usize) {
    let (mut spans, mut bytes) = (Vec::new(), 0);
    for _ in 0..times {
        let begun = Instant::now();
        bytes = daemon
            .ask(Method::GET, path, None)
            .await
            .expect("it answers")
            .len();
        spans.push(begun.elapsed());
    }
    spans.sort_unstable();
    (spans, bytes)
}

fn write_records(layout: &Layout, sites: &Sites) {
    let ledger = Ledger::open(&layout.ledger(), wall()).unwrap();
    for from in (0..RECORDS).step_by(AT_ONCE) {
        let written = ledger.transact(wall(), |draft| {
            for n in from..from + AT_ONCE {
                draft.note(Happening {
                    kind: "federation.peer.degraded".to_owned(),
                    severity: "medium",
                    peer: Some(sites.0[n % PEERS].id),
                    payload: json!({ "degraded_reason": "heartbeat_stale: unreachable" }),
                });
            }
            Ok::<_, Conflict>(())
        });
        written.unwrap();
    }
}
