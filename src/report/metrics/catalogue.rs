//! Every metric: its name, what it is, and its help. Alert rules and dashboards may name these only.

use prometheus::proto::MetricType;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It goes up and down.
    Gauge,
    /// It only grows, until what counts starts anew.
    Counter,
    /// Observations in buckets.
    Histogram,
}

impl From<Kind> for MetricType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Gauge => Self::GAUGE,
            Kind::Counter => Self::COUNTER,
            Kind::Histogram => Self::HISTOGRAM,
        }
    }
}

/// A metric: one name, whatever its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, by Prometheus' conventions: the unit, and `_total` for counters, at its end.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it says.
    pub help: &'static str,
}

macro_rules! catalogue {
    ($(#[$doc:meta])* $all:ident: $($constant:ident $kind:ident $name:literal $help:literal)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric { name: $name, kind: Kind::$kind, help: $help };
        )*
        $(#[$doc])*
        pub const $all: &[Metric] = &[$($constant),*];
    };
}

catalogue! {
    /// Those of both daemons.
    SHARED_METRICS:
    BUILD Gauge "sdwand_build_info" "The running program; always 1."
    EVENTS Counter "sdwand_events_total" "What has happened to the daemon since it started, by the id of the event: see sdwand events --catalogue."
}

catalogue! {
    /// Those of `sdwand run`.
    METRICS:
    FLEET Gauge "sdwand_fleet_info" "The fleet in force, by its digest, the same on all hosts of a site; always 1."
    BACKENDS Gauge "sdwand_backends_info" "Whose WireGuard runs, and what keeps networks apart; always 1."
    CONFIG_ERRORS Gauge "sdwand_config_errors" "Errors of the configuration as it lies there; 0 when it is good."
    CONFIG_BAD_SINCE Gauge "sdwand_config_bad_since_timestamp_seconds" "Since when the configuration has been bad; absent when it is good."
    PENDING Gauge "sdwand_config_pending" "1 while a changed configuration waits for sdwand apply."
    DOWN Gauge "sdwand_down" "1 while an operator has taken everything down."
    OBSERVED Gauge "sdwand_observation_timestamp_seconds" "When the host was last read: all that follows is as of then."
    SERIES_DROPPED Gauge "sdwand_series_dropped" "Peers, rules or bridges that are left out here, as there are too many."
    CONDITION Gauge "sdwand_condition" "1 for the state that a plane of a network is in, 0 for the others; without a network: of the whole host."
    ROUNDS Counter "sdwand_rounds_total" "Rounds by what became of them: converged, incomplete, or failed."
    ROUND_SECONDS Histogram "sdwand_round_duration_seconds" "How long rounds took: reading, changing, and reading back."
    CHANGES Counter "sdwand_changes_total" "Changes that were made to this host."
    FAILURES Counter "sdwand_change_failures_total" "Changes that failed, by plane; they are tried again."
    DRIFT Counter "sdwand_drift_healed_total" "Rounds that changed a plane although neither fleet nor configuration had changed, and left nothing to do in it."
    LINKS Gauge "sdwand_network_links" "Overlay links of this host in the network."
    PEERS Gauge "sdwand_network_peers" "Peers of this host in the network."
    PEERS_UP Gauge "sdwand_network_peers_up" "Of these, those with a handshake in the last 180 s."
    UPLINKS Gauge "sdwand_network_uplinks" "Links to hubs, on a spoke."
    UPLINKS_UP Gauge "sdwand_network_uplinks_up" "Of these, those whose hub has made a handshake in the last 180 s."
    PEER_UP Gauge "sdwand_peer_up" "1 if the peer has made a handshake in the last 180 s."
    LINK_MTU Gauge "sdwand_link_mtu_bytes" "The largest packet that the overlay link takes."
    PEER_PASSES Gauge "sdwand_peer_black_hole_bytes" "The largest packet that reaches the peer, where larger ones that should vanish without a word; absent where none do."
    PEER_HANDSHAKE Gauge "sdwand_peer_last_handshake_timestamp_seconds" "When the peer's last handshake was completed; absent before the first."
    PEER_RX Counter "sdwand_peer_received_bytes_total" "Bytes received from the peer."
    PEER_TX Counter "sdwand_peer_sent_bytes_total" "Bytes sent to the peer."
    BRIDGE_STATE Gauge "sdwand_bridge_state" "1 for how a bridge to another site is on this host, 0 for the other states: carrying or waiting on its gateway, elsewhere on other hosts, refused where a network that this host is in is in its way, `revoke_incomplete` while something is left of one that carries nothing."
    BRIDGE_PREFIXES Gauge "sdwand_bridge_prefixes" "Prefixes that this host lets the bridge carry, by direction: import, from the other site, and export, from this one."
    BRIDGE_HANDSHAKE Gauge "sdwand_bridge_last_handshake_timestamp_seconds" "When the last handshake with the other site's gateway was completed; absent before the first, and on other hosts than the bridge's gateway."
    BRIDGE_RX Counter "sdwand_bridge_received_bytes_total" "Bytes received over the bridge."
    BRIDGE_TX Counter "sdwand_bridge_sent_bytes_total" "Bytes sent over the bridge."
    RULE_PACKETS Counter "sdwand_rule_packets_total" "Packets that the rule matched: of an allowed connection only the first."
    RULE_BYTES Counter "sdwand_rule_bytes_total" "Bytes of them."
    DROPPED_PACKETS Counter "sdwand_dropped_packets_total" "Packets that were dropped without a rule, by reason."
    DROPPED_BYTES Counter "sdwand_dropped_bytes_total" "Bytes of them."
}

catalogue! {
    /// Those of `sdwand serve`.
    GATEWAY_METRICS:
    SITE Gauge "sdwand_gateway_info" "The site, the gateway's node in it, and the fleet that peers are told of; always 1."
    GATEWAY_OBSERVED Gauge "sdwand_gateway_observation_timestamp_seconds" "When the gateway was last looked at: all that is told is as of then."
    CERTIFICATE Gauge "sdwand_gateway_certificate_expiry_timestamp_seconds" "When a certificate of this site ends; with a peer: what that parent signed for us."
    GATEWAY_PEERS Gauge "sdwand_gateway_peers" "Peers by status."
    GATEWAY_BRIDGES Gauge "sdwand_gateway_bridges" "Bridges by state, as they stand in the ledger."
    GATEWAY_PEER_DEGRADED Gauge "sdwand_gateway_peer_degraded" "1 while a peer is degraded; of peers that may call."
    GATEWAY_PEER_HEARD Gauge "sdwand_gateway_peer_last_heartbeat_timestamp_seconds" "When a heartbeat was last exchanged with the peer, whoever began it; absent before the first."
    GATEWAY_SERIES_DROPPED Gauge "sdwand_gateway_series_dropped" "Peers that are left out here, as there are too many."
    BEATS_SENT Counter "sdwand_gateway_heartbeats_sent_total" "Heartbeats to peers by what became of them: answered, refused, or failed."
    BEATS_RECEIVED Counter "sdwand_gateway_heartbeats_received_total" "Heartbeats of peers that were taken."
    REFUSED Counter "sdwand_gateway_refused_total" "Calls that were refused, by what was asked and by the reason; `too_many` is the limit of attempts."
    CONNECTIONS_REFUSED Counter "sdwand_gateway_connections_refused_total" "Connections that were closed at once, as there were too many from there or at all."
    GRANTS Gauge "sdwand_gateway_grants" "Grants in force."
    PROPOSALS Gauge "sdwand_gateway_proposals" "Proposals whose token can still be taken."
    APPROVALS_PENDING Gauge "sdwand_gateway_approvals_pending" "Requests that wait for a second operator."
    PAUSED Gauge "sdwand_gateway_paused" "1 while nothing new is begun with other sites."
    AUDIT_RECORDS Gauge "sdwand_gateway_audit_records" "Records in the audit."
    LEDGER_EPOCH Gauge "sdwand_gateway_ledger_epoch" "How often the ledger was begun anew: 1 until it is put back."
    LEDGER_BYTES Gauge "sdwand_gateway_ledger_bytes" "Size of the ledger's files; absent where they can't be looked at."
    CLOCK_BEHIND Gauge "sdwand_gateway_clock_behind" "1 while the ledger's time is ahead of this host's clock."
}
