//! What a monitoring system is told of this host, and in [`gateway`] of a site: one page in Prometheus' text format (0.0.4),
//! out of what the last round read. Labels are names of the fleet, never anything that a packet or a peer brings; peers, rules and bridges beyond [`MOST_PEERS`],
//! [`MOST_RULES`] and [`MOST_BRIDGES`] are left out, and counted.

mod bridges;
mod catalogue;
pub mod gateway;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::TextEncoder;
use prometheus::proto::{self, LabelPair, MetricFamily};

use super::status::{Backends, WireguardKind};
use crate::intent::{IsolationMode, LinkIntent, LinkKind, NetworkIntent};
use crate::model::{Name, NetworkId};
use crate::planes::wireguard::{ActualPeer, HANDSHAKE_STALE};
use crate::planes::{PlaneName, firewall, wireguard};
use crate::reconcile::{ConditionState, Conditions, Observation, Round, Target};
pub use catalogue::{GATEWAY_METRICS, Kind, METRICS, Metric, SHARED_METRICS};

/// How many peers have series of their own: four each.
pub const MOST_PEERS: usize = 2_000;
/// How many rules have series of their own: two each.
pub const MOST_RULES: usize = 2_000;

/// How many bridges have series of their own: ten each.
pub const MOST_BRIDGES: usize = 1_000;

/// Upper bounds of a round's time, in seconds.
const BUCKETS: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
const OUTCOMES: [&str; 3] = ["converged", "incomplete", "failed"];

/// What was counted since the daemon began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tallies {
    rounds: BTreeMap<&'static str, u64>,
    /// One for each bucket, and one for what took longer.
    took: [u64; BUCKETS.len() + 1],
    took_seconds: f64,
    changes: u64,
    failures: BTreeMap<PlaneName, u64>,
    drift: BTreeMap<PlaneName, u64>,
}

impl Tallies {
    /// Counts a round. `was_settled` says that the one before left nothing to do, and that since then neither fleet nor
    /// configuration has changed: what this one changed was drift.
    pub fn count(&mut self, round: &Round, was_settled: bool, took: Duration) {
        let outcome = if !round.execution.failures.is_empty() || !round.left.unreadable.is_empty() {
            "failed"
        } else if round.left.is_converged() {
            "converged"
        } else {
            "incomplete"
        };
        *self.rounds.entry(outcome).or_default() += 1;
        let seconds = took.as_secs_f64();
        self.took[BUCKETS.partition_point(|bound| *bound < seconds)] += 1;
        self.took_seconds += seconds;
        self.changes += round.execution.done as u64;
        for failure in &round.execution.failures {
            *self.failures.entry(failure.plane).or_default() += 1;
        }
        for plane in PlaneName::ALL {
            if was_settled && round.put_right(plane) {
                *self.drift.entry(plane).or_default() += 1;
            }
        }
    }
}

/// What a page is made of.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// This host.
    pub node: &'a Name,
    /// What is in force, if anything is.
    pub target: Option<&'a Target>,
    /// What was last read of the host, if it was.
    pub observation: Option<&'a Observation>,
    /// How everything is.
    pub conditions: &'a Conditions,
    /// Which mechanisms run.
    pub backends: Backends,
    /// How many errors the files have, and since when, in seconds since 1970; none where they are good.
    pub config_bad: Option<(usize, u64)>,
    /// Whether a changed configuration waits.
    pub is_pending: bool,
    /// Whether an operator took everything down.
    pub is_down: bool,
    /// What was counted.
    pub tallies: &'a Tallies,
    /// How often each event was said.
    pub events: &'a [(&'static str, u64)],
}

/// The page.
///
/// # Errors
/// The text format can't say it: a fault of ours.
pub fn page(view: &View<'_>) -> Result<String, prometheus::Error> {
    let mut page = Page::default();
    shared(&mut page, view.events);
    host(&mut page, view);
    conditions(&mut page, view);
    tallies(&mut page, view.tallies);
    if let Some(observation) = view.observation.filter(|_| !view.is_down) {
        page.set(&catalogue::OBSERVED, &[], timestamp(observation.now));
        let mut dropped = (0, 0);
        let mut room = (MOST_PEERS, MOST_RULES);
        let networks = view.target.iter();
        for network in networks.flat_map(|target| target.intent.networks.values()) {
            links(&mut page, network, observation, &mut room.0, &mut dropped.0);
            firewall_counts(&mut page, network, observation, &mut room.1, &mut dropped.1);
        }
        let bridges = view
            .target
            .map_or(0, |target| bridges::all(&mut page, target, observation));
        for (what, dropped) in [("peers", dropped.0), ("rules", dropped.1), ("bridges", bridges)] {
            page.set(&catalogue::SERIES_DROPPED, &[("of", what)], number(dropped));
        }
    }
    page.text()
}

fn shared(page: &mut Page, events: &[(&'static str, u64)]) {
    page.set(&catalogue::BUILD, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    for (id, said) in events {
        page.set(&catalogue::EVENTS, &[("event", id)], count(*said));
    }
}

fn host(page: &mut Page, view: &View<'_>) {
    if let Some(target) = view.target {
        let digest = target.intent.fleet_digest.to_string();
        page.set(
            &catalogue::FLEET,
            &[("node", view.node.as_str()), ("digest", &digest)],
            1.0,
        );
    }
    let wireguard = match view.backends.wireguard {
        WireguardKind::Kernel => "kernel",
        WireguardKind::Userspace => "userspace",
    };
    let isolation = match view.backends.isolation {
        IsolationMode::Vrf => "vrf",
        IsolationMode::Rules => "rules",
        IsolationMode::Main => "none",
    };
    let labels = [("wireguard", wireguard), ("isolation", isolation)];
    page.set(&catalogue::BACKENDS, &labels, 1.0);
    let errors = view.config_bad.map_or(0, |(errors, _)| errors);
    page.set(&catalogue::CONFIG_ERRORS, &[], number(errors));
    if let Some((_, since)) = view.config_bad {
        page.set(&catalogue::CONFIG_BAD_SINCE, &[], count(since));
    }
    page.set(&catalogue::PENDING, &[], f64::from(view.is_pending));
    page.set(&catalogue::DOWN, &[], f64::from(view.is_down));
}

fn conditions(page: &mut Page, view: &View<'_>) {
    let states = [
        (ConditionState::Converged, "converged"),
        (ConditionState::Drifted, "drifted"),
        (ConditionState::Blocked, "blocked"),
        (ConditionState::Failed, "failed"),
    ];
    let name = |id: &NetworkId| view.target.and_then(|target| target.intent.networks.get(id));
    for ((plane, id), condition) in view.conditions {
        let network = id
            .as_ref()
            .and_then(name)
            .map_or("", |network| network.name.as_str());
        if id.is_some() && network.is_empty() {
            continue;
        }
        for (state, text) in states {
            let labels = [
                ("plane", &*plane.to_string()),
                ("network", network),
                ("state", text),
            ];
            page.set(
                &catalogue::CONDITION,
                &labels,
                f64::from(condition.state == state),
            );
        }
    }
}

fn tallies(page: &mut Page, tallies: &Tallies) {
    for outcome in OUTCOMES {
        let rounds = tallies.rounds.get(outcome).copied().unwrap_or_default();
        page.set(&catalogue::ROUNDS, &[("outcome", outcome)], count(rounds));
    }
    page.set(&catalogue::CHANGES, &[], count(tallies.changes));
    for plane in PlaneName::ALL {
        let of = |counts: &BTreeMap<PlaneName, u64>| count(counts.get(&plane).copied().unwrap_or_default());
        let labels = [("plane", &*plane.to_string())];
        page.set(&catalogue::FAILURES, &labels, of(&tallies.failures));
        page.set(&catalogue::DRIFT, &labels, of(&tallies.drift));
    }
    let mut sum = 0;
    let buckets = BUCKETS.iter().zip(&tallies.took).map(|(bound, took)| {
        sum += took;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(sum);
        bucket
    });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(tallies.took.iter().sum());
    histogram.set_sample_sum(tallies.took_seconds);
    let mut metric = proto::Metric::default();
    metric.set_histogram(histogram);
    page.push(&catalogue::ROUND_SECONDS, metric);
}

fn links(
    page: &mut Page,
    network: &NetworkIntent,
    observation: &Observation,
    room: &mut usize,
    dropped: &mut usize,
) {
    // Unknown is not down: what can't be read has no series.
    let Ok(devices) = &observation.wireguard else {
        return;
    };
    let (mut peers, mut peers_up, mut uplinks, mut uplinks_up) = (0, 0, 0, 0);
    for link in &network.links {
        let seen = seen_peers(link, devices);
        let labels = [("network", network.name.as_str()), ("link", link.name.as_str())];
        page.set(&catalogue::LINK_MTU, &labels, f64::from(link.mtu));
        let up = seen
            .iter()
            .filter(|(_, peer)| is_up(**peer, observation.now))
            .count();
        peers += seen.len();
        peers_up += up;
        if matches!(link.kind, LinkKind::Uplink { .. }) {
            uplinks += 1;
            uplinks_up += usize::from(up > 0);
        }
        for (node, peer) in seen {
            if *room == 0 {
                *dropped += 1;
                continue;
            }
            *room -= 1;
            let labels = [
                ("network", network.name.as_str()),
                ("link", link.name.as_str()),
                ("peer", node.as_str()),
            ];
            let up = is_up(peer, observation.now);
            page.set(&catalogue::PEER_UP, &labels, f64::from(up));
            let Some(peer) = peer else { continue };
            if let Some(at) = peer.last_handshake {
                page.set(&catalogue::PEER_HANDSHAKE, &labels, timestamp(at));
            }
            page.set(&catalogue::PEER_RX, &labels, count(peer.rx_bytes));
            page.set(&catalogue::PEER_TX, &labels, count(peer.tx_bytes));
        }
    }
    let holes = observation
        .holes
        .values()
        .filter(|hole| hole.network == network.name);
    for hole in holes.take(MOST_PEERS) {
        let labels = [("network", network.name.as_str()), ("peer", hole.node.as_str())];
        page.set(&catalogue::PEER_PASSES, &labels, f64::from(hole.passes));
    }
    let labels = [("network", network.name.as_str())];
    page.set(&catalogue::LINKS, &labels, number(network.links.len()));
    page.set(&catalogue::PEERS, &labels, number(peers));
    page.set(&catalogue::PEERS_UP, &labels, number(peers_up));
    page.set(&catalogue::UPLINKS, &labels, number(uplinks));
    page.set(&catalogue::UPLINKS_UP, &labels, number(uplinks_up));
}

/// The peers that the fleet has on a link, each as it was seen, if it was; a node that is about to change its key is one.
/// Other sites' gateways have series of their bridges.
fn seen_peers<'a>(
    link: &'a LinkIntent,
    devices: &'a wireguard::Actual,
) -> BTreeMap<&'a Name, Option<&'a ActualPeer>> {
    let device = devices.devices.get(&link.name);
    let mut peers: BTreeMap<&Name, Option<&ActualPeer>> = BTreeMap::new();
    for (key, peer) in link.peers.iter().filter(|(_, peer)| peer.bridge.is_none()) {
        let seen = device.and_then(|device| device.peers.get(key));
        let known = peers.entry(&peer.node).or_default();
        let latest = |peer: Option<&ActualPeer>| peer.and_then(|peer| peer.last_handshake);
        if known.is_none() || latest(seen) > latest(*known) {
            *known = seen;
        }
    }
    peers
}

fn is_up(peer: Option<&ActualPeer>, now: SystemTime) -> bool {
    let last = peer.and_then(|peer| peer.last_handshake);
    // A clock that was put back makes a handshake of now look like one of later.
    last.is_some_and(|at| now.duration_since(at).unwrap_or_default() < HANDSHAKE_STALE)
}

fn firewall_counts(
    page: &mut Page,
    network: &NetworkIntent,
    observation: &Observation,
    room: &mut usize,
    dropped: &mut usize,
) {
    let Ok(actual) = &observation.firewall else {
        return;
    };
    let counts = firewall::Actual::rule_counts(actual);
    for rule in &network.firewall.rules {
        // A rule that the kernel doesn't have yet has counted nothing that could be told.
        let Some(counted) = counts.get(&(network.id, rule.name.to_string())) else {
            continue;
        };
        if *room == 0 {
            *dropped += 1;
            continue;
        }
        *room -= 1;
        let name = rule.name.to_string();
        let labels = [("network", network.name.as_str()), ("rule", &name)];
        page.set(&catalogue::RULE_PACKETS, &labels, count(counted.packets));
        page.set(&catalogue::RULE_BYTES, &labels, count(counted.bytes));
    }
    let drops = firewall::Actual::drop_counts(actual);
    for ((_, reason), counted) in drops.iter().filter(|((id, _), _)| *id == network.id) {
        let labels = [("network", network.name.as_str()), ("reason", reason)];
        page.set(&catalogue::DROPPED_PACKETS, &labels, count(counted.packets));
        page.set(&catalogue::DROPPED_BYTES, &labels, count(counted.bytes));
    }
}

/// Families, by name.
#[derive(Default)]
struct Page(BTreeMap<&'static str, MetricFamily>);

impl Page {
    fn set(&mut self, metric: &Metric, labels: &[(&str, &str)], value: f64) {
        let pairs = labels.iter().map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut one = proto::Metric::from_label(pairs.collect());
        match metric.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                one.set_counter(counter);
            }
            // A histogram comes whole, by `push`.
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                one.set_gauge(gauge);
            }
        }
        self.push(metric, one);
    }

    fn push(&mut self, metric: &Metric, one: proto::Metric) {
        let family = self.0.entry(metric.name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(metric.name.to_owned());
            family.set_help(metric.help.to_owned());
            family.set_field_type(metric.kind.into());
            family
        });
        family.mut_metric().push(one);
    }

    fn text(self) -> Result<String, prometheus::Error> {
        let families: Vec<MetricFamily> = self.0.into_values().collect();
        let mut text = String::new();
        TextEncoder::new().encode_utf8(&families, &mut text)?;
        Ok(text)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the format's numbers are f64: exact up to 2^53"
)]
fn count(value: u64) -> f64 {
    value as f64
}

fn number(value: usize) -> f64 {
    count(value as u64)
}

/// Seconds since 1970.
fn timestamp(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
