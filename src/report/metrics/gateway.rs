//! What a monitoring system is told of a site's gateway. Labels are what this site calls its peers, and words of ours.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::{MOST_PEERS, Page, catalogue, count, number, shared, timestamp};
use crate::model::Name;

/// What a page is made of.
#[derive(Clone, Debug)]
pub struct GatewayView<'a> {
    /// Whose gateway it is.
    pub site: String,
    /// Where it runs.
    pub node: &'a Name,
    /// Which fleet peers are told of.
    pub fleet_digest: Option<String>,
    /// When this was looked at.
    pub now: SystemTime,
    /// The certificates of this site, and when they end.
    pub certificates: Vec<Certificate>,
    /// How many peers have each status; a status that none has, too.
    pub peers: BTreeMap<&'static str, u64>,
    /// How many bridges have each state; a state that none has, too.
    pub bridges: BTreeMap<&'static str, u64>,
    /// The peers that may call.
    pub callers: Vec<Caller>,
    /// Heartbeats.
    pub beats: Beats,
    /// How many calls were refused, by what was asked and why.
    pub refused: BTreeMap<(&'static str, &'static str), u64>,
    /// How many connections were closed at once.
    pub connections_refused: u64,
    /// How many grants are in force.
    pub grants: usize,
    /// How many proposals can still be taken.
    pub proposals: usize,
    /// How many requests wait for a second operator.
    pub approvals: usize,
    /// Whether nothing new is begun with other sites.
    pub is_paused: bool,
    /// How many records the audit has.
    pub audit_records: u64,
    /// How often the ledger was begun anew.
    pub ledger_epoch: u64,
    /// How large its files are, where they can be looked at.
    pub ledger_bytes: Option<u64>,
    /// Whether its time is ahead of the clock.
    pub is_clock_behind: bool,
    /// How often each event was said.
    pub events: Vec<(&'static str, u64)>,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Which: `listener`, `ca`, `next_ca`, `from_parent`.
    pub which: &'static str,
    /// The parent that signed it, where one did.
    pub parent: Option<String>,
    /// When it ends.
    pub until: SystemTime,
}

/// A peer that may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What this site calls it.
    pub alias: String,
    /// Whether it is degraded.
    pub is_degraded: bool,
    /// When a heartbeat was last exchanged.
    pub heard: Option<SystemTime>,
}

/// Heartbeats since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beats {
    /// Ours that were answered.
    pub answered: u64,
    /// Ours that the peer refused.
    pub refused: u64,
    /// Ours that weren't answered.
    pub failed: u64,
    /// Theirs that were taken.
    pub received: u64,
}

/// The page.
///
/// # Errors
/// The text format can't say it: a fault of ours.
pub fn page(view: &GatewayView<'_>) -> Result<String, prometheus::Error> {
    let mut page = Page::default();
    shared(&mut page, &view.events);
    let digest = view.fleet_digest.as_deref().unwrap_or_default();
    let labels = [
        ("site", &*view.site),
        ("node", view.node.as_str()),
        ("digest", digest),
    ];
    page.set(&catalogue::SITE, &labels, 1.0);
    page.set(&catalogue::GATEWAY_OBSERVED, &[], timestamp(view.now));
    for certificate in &view.certificates {
        let parent = certificate.parent.as_deref().unwrap_or_default();
        let labels = [("certificate", certificate.which), ("peer", parent)];
        page.set(&catalogue::CERTIFICATE, &labels, timestamp(certificate.until));
    }
    peers(&mut page, view);
    let beats = [
        ("answered", view.beats.answered),
        ("refused", view.beats.refused),
        ("failed", view.beats.failed),
    ];
    for (outcome, sent) in beats {
        page.set(&catalogue::BEATS_SENT, &[("outcome", outcome)], count(sent));
    }
    page.set(&catalogue::BEATS_RECEIVED, &[], count(view.beats.received));
    for ((what, reason), refused) in &view.refused {
        let labels = [("what", *what), ("reason", *reason)];
        page.set(&catalogue::REFUSED, &labels, count(*refused));
    }
    page.set(
        &catalogue::CONNECTIONS_REFUSED,
        &[],
        count(view.connections_refused),
    );
    page.set(&catalogue::GRANTS, &[], number(view.grants));
    page.set(&catalogue::PROPOSALS, &[], number(view.proposals));
    page.set(&catalogue::APPROVALS_PENDING, &[], number(view.approvals));
    page.set(&catalogue::PAUSED, &[], f64::from(view.is_paused));
    page.set(&catalogue::AUDIT_RECORDS, &[], count(view.audit_records));
    page.set(&catalogue::LEDGER_EPOCH, &[], count(view.ledger_epoch));
    if let Some(bytes) = view.ledger_bytes {
        page.set(&catalogue::LEDGER_BYTES, &[], count(bytes));
    }
    page.set(&catalogue::CLOCK_BEHIND, &[], f64::from(view.is_clock_behind));
    page.text()
}

fn peers(page: &mut Page, view: &GatewayView<'_>) {
    for (status, many) in &view.peers {
        page.set(&catalogue::GATEWAY_PEERS, &[("status", status)], count(*many));
    }
    for (state, many) in &view.bridges {
        page.set(&catalogue::GATEWAY_BRIDGES, &[("state", state)], count(*many));
    }
    for caller in view.callers.iter().take(MOST_PEERS) {
        let labels = [("peer", &*caller.alias)];
        let is_degraded = f64::from(caller.is_degraded);
        page.set(&catalogue::GATEWAY_PEER_DEGRADED, &labels, is_degraded);
        if let Some(heard) = caller.heard {
            page.set(&catalogue::GATEWAY_PEER_HEARD, &labels, timestamp(heard));
        }
    }
    let dropped = view.callers.len().saturating_sub(MOST_PEERS);
    page.set(&catalogue::GATEWAY_SERIES_DROPPED, &[], number(dropped));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::report::metrics::{GATEWAY_METRICS, SHARED_METRICS};

    fn view(node: &Name) -> GatewayView<'_> {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let caller = |alias: &str, heard: Option<SystemTime>| Caller {
            alias: alias.to_owned(),
            is_degraded: heard.is_none(),
            heard,
        };
        GatewayView {
            site: "site-a".to_owned(),
            node,
            fleet_digest: Some("ab12".to_owned()),
            now: at(1_700_000_000),
            certificates: vec![Certificate {
                which: "listener",
                parent: None,
                until: at(1_800_000_000),
            }],
            peers: [("active", 1), ("degraded", 1), ("revoked", 0)].into(),
            bridges: [("active", 3), ("proposed", 0)].into(),
            callers: vec![caller("site-b", Some(at(1_699_999_999))), caller("site-c", None)],
            beats: Beats {
                answered: 5,
                refused: 1,
                failed: 2,
                received: 9,
            },
            refused: [(("accept", "too_many"), 3)].into(),
            connections_refused: 4,
            grants: 6,
            proposals: 1,
            approvals: 2,
            is_paused: true,
            audit_records: 77,
            ledger_epoch: 1,
            ledger_bytes: Some(4_096),
            is_clock_behind: false,
            events: vec![("certificate.not_renewed", 0)],
        }
    }

    #[test]
    fn a_page_tells_all_that_there_is_and_what_is_unknown_is_absent() {
        let node = Name::new("hub-a1").unwrap();
        let page = page(&view(&node)).unwrap();
        let told: BTreeSet<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let all = SHARED_METRICS.iter().chain(GATEWAY_METRICS);
        assert_eq!(told, all.map(|metric| metric.name).collect());
        for series in [
            r#"sdwand_events_total{event="certificate.not_renewed"} 0"#,
            r#"sdwand_gateway_certificate_expiry_timestamp_seconds{certificate="listener",peer=""} 1800000000"#,
            r#"sdwand_gateway_info{site="site-a",node="hub-a1",digest="ab12"} 1"#,
            r#"sdwand_gateway_peer_degraded{peer="site-c"} 1"#,
            r#"sdwand_gateway_peer_degraded{peer="site-b"} 0"#,
            r#"sdwand_gateway_peer_last_heartbeat_timestamp_seconds{peer="site-b"} 1699999999"#,
            r#"sdwand_gateway_peers{status="revoked"} 0"#,
            r#"sdwand_gateway_bridges{state="active"} 3"#,
            r#"sdwand_gateway_bridges{state="proposed"} 0"#,
            r#"sdwand_gateway_heartbeats_sent_total{outcome="failed"} 2"#,
            r#"sdwand_gateway_refused_total{what="accept",reason="too_many"} 3"#,
            "sdwand_gateway_ledger_bytes 4096",
            "sdwand_gateway_approvals_pending 2",
            "sdwand_gateway_paused 1",
        ] {
            assert!(page.lines().any(|line| line == series), "{series} in {page}");
        }
        assert!(!page.contains(r#"last_heartbeat_timestamp_seconds{peer="site-c"}"#));
    }

    #[test]
    fn a_site_with_many_peers_has_a_bounded_page() {
        let node = Name::new("hub-a1").unwrap();
        let mut view = view(&node);
        view.callers = (0..MOST_PEERS + 7)
            .map(|n| Caller {
                alias: format!("site-{n}"),
                is_degraded: false,
                heard: None,
            })
            .collect();
        let page = page(&view).unwrap();
        let has = |start: &str| page.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(has("sdwand_gateway_peer_degraded{"), MOST_PEERS);
        assert!(page.contains("sdwand_gateway_series_dropped 7\n"));
    }
}
