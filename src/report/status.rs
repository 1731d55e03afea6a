//! How everything is, for `sdwand status`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::intent::{IsolationMode, NetworkIntent, Notice};
use crate::model::fleet::FleetDigest;
use crate::model::host::Mode;
use crate::model::network::Protocol;
use crate::model::{LinkName, Name, NetworkId, PublicKey, naming};
use crate::planes::{PlaneName, firewall, l3, wireguard};
use crate::reconcile::uplinks::Standing;
use crate::reconcile::{self, ConditionState, Conditions, Observation, Target};
use crate::report::bridges::{self, BridgeStatus};

/// Whether the files are good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ConfigState {
    /// They are in force, or wait for `apply`.
    Good,
    /// They are not; the last good ones are in force.
    Bad {
        /// Every error, as `check` prints them.
        errors: String,
        /// Since when, in seconds since 1970.
        since: u64,
    },
}

/// How the daemon is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DaemonState {
    /// Whether the files are good.
    pub config: ConfigState,
    /// Whether a changed fleet is applied at once.
    pub mode: Mode,
    /// Whether an operator took everything down.
    pub is_down: bool,
    /// Changes that wait for `apply`.
    pub pending_changes: usize,
}

/// Which mechanisms run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backends {
    /// `kernel` or `userspace`.
    pub wireguard: WireguardKind,
    /// `vrf` or `rules`.
    pub isolation: IsolationMode,
}

/// Whose WireGuard runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WireguardKind {
    /// The kernel's.
    Kernel,
    /// The embedded one.
    Userspace,
}

/// How everything is.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    node: Name,
    fleet_digest: Option<FleetDigest>,
    /// Whether a daemon answered.
    daemon: Option<DaemonState>,
    backends: Backends,
    /// Whether every condition is `Converged`.
    converged: bool,
    networks: Vec<NetworkStatus>,
    conditions: Vec<ConditionStatus>,
    notices: Vec<Notice>,
}

#[derive(Clone, Debug, Serialize)]
struct NetworkStatus {
    name: Name,
    id: NetworkId,
    isolation: IsolationMode,
    overlay_v6: std::net::Ipv6Addr,
    overlay_v4: Option<std::net::Ipv4Addr>,
    links: Vec<LinkStatus>,
    virtual_ips: Vec<VipStatus>,
    /// Ports of this host's underlay that lead into the network.
    port_mappings: Vec<MappingStatus>,
    /// Bridges to other sites that lead into it.
    bridges: Vec<BridgeStatus>,
    /// On a spoke of several hubs, the one that carries what isn't a hub's own; none where there is no choice.
    active_hub: Option<Name>,
    rules: Vec<RuleStatus>,
    /// What no rule named and the default action dropped.
    default_drops: Counter,
}

#[derive(Clone, Debug, Serialize)]
struct LinkStatus {
    name: LinkName,
    listen_port: Option<u16>,
    /// How the hub at the other end is, where the choice is between several.
    hub: Option<Standing>,
    peers: Vec<PeerStatus>,
}

#[derive(Clone, Debug, Serialize)]
struct PeerStatus {
    node: Name,
    public_key: PublicKey,
    endpoint: Option<std::net::SocketAddr>,
    /// Seconds since the last handshake; none where there was none, or where it can't be read.
    handshake_age_seconds: Option<u64>,
    rx_bytes: u64,
    tx_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
struct VipStatus {
    name: Name,
    address: std::net::IpAddr,
    /// Who holds it by the fleet's order; several where it is anycast.
    holders: Vec<Name>,
    /// Whether it was found on this host's dummy; none where that can't be read.
    here: Option<bool>,
}

#[derive(Clone, Debug, Serialize)]
struct MappingStatus {
    name: Name,
    protocol: Protocol,
    listen_port: u16,
    target_port: u16,
    targets: Vec<std::net::IpAddr>,
    /// Connections that were let in.
    connections: u64,
    /// Packets refused for their source.
    refused_source: u64,
    /// Packets refused by `rate_limit_per_second`.
    refused_rate: u64,
    /// Packets refused by `max_connections`.
    refused_connections: u64,
}

#[derive(Clone, Debug, Serialize)]
struct RuleStatus {
    name: String,
    packets: u64,
    bytes: u64,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
struct ConditionStatus {
    plane: PlaneName,
    network: Option<Name>,
    state: ConditionState,
    reason: String,
    since: u64,
}

impl Status {
    /// Gathers everything. Without a target no configuration is in force; without a daemon state nobody keeps it so.
    #[must_use]
    pub fn new(
        node: &Name,
        target: Option<&Target>,
        observation: Option<&Observation>,
        conditions: &Conditions,
        backends: Backends,
        daemon: Option<DaemonState>,
        now: SystemTime,
    ) -> Self {
        let networks: BTreeMap<NetworkId, Name> = target
            .iter()
            .flat_map(|target| target.intent.networks.values())
            .map(|network| (network.id, network.name.clone()))
            .collect();
        let conditions: Vec<_> = conditions
            .iter()
            .map(|((plane, network), condition)| ConditionStatus {
                plane: *plane,
                network: network.and_then(|id| networks.get(&id).cloned()),
                state: condition.state,
                reason: condition.reason.clone(),
                since: condition.since,
            })
            .collect();
        let is_down = daemon.as_ref().is_some_and(|daemon| daemon.is_down);
        Self {
            node: node.clone(),
            fleet_digest: target.map(|target| target.intent.fleet_digest),
            converged: target.is_some()
                && !is_down
                && conditions
                    .iter()
                    .all(|condition| condition.state == ConditionState::Converged),
            daemon,
            backends,
            networks: target
                .iter()
                .flat_map(|target| {
                    target
                        .intent
                        .networks
                        .values()
                        .map(move |network| (target, network))
                })
                .map(|(target, network)| network_status(target, network, observation, now))
                .collect(),
            conditions,
            notices: match (target, observation) {
                (Some(target), Some(observation)) => reconcile::notices(target, observation),
                (Some(target), None) => target.intent.notices.clone(),
                (None, _) => Vec::new(),
            },
        }
    }
}

fn network_status(
    target: &Target,
    network: &NetworkIntent,
    observation: Option<&Observation>,
    now: SystemTime,
) -> NetworkStatus {
    let firewall = observation.and_then(|observation| observation.firewall.as_deref().ok());
    let devices = observation.and_then(|observation| observation.wireguard.as_ref().ok());
    let choice = observation.and_then(|observation| observation.uplinks.get(&network.id));
    let counts = firewall.map(firewall::Actual::rule_counts).unwrap_or_default();
    let rules = network.firewall.rules.iter().map(|rule| {
        let count = counts
            .get(&(network.id, rule.name.to_string()))
            .copied()
            .unwrap_or_default();
        RuleStatus {
            name: rule.name.to_string(),
            packets: count.packets,
            bytes: count.bytes,
        }
    });
    let drops = firewall.map(firewall::Actual::drop_counts).unwrap_or_default();
    let ours = drops.iter().filter(|((id, _), _)| *id == network.id);
    let default_drops = ours.fold(Counter::default(), |sum, (_, count)| Counter {
        packets: sum.packets + count.packets,
        bytes: sum.bytes + count.bytes,
    });
    NetworkStatus {
        name: network.name.clone(),
        id: network.id,
        isolation: network.isolation,
        overlay_v6: network.overlay_v6,
        overlay_v4: network.overlay_v4,
        links: network
            .links
            .iter()
            .map(|link| LinkStatus {
                hub: choice.and_then(|choice| Some(choice.hub(&link.name)?.standing)),
                ..link_status(link, devices, now)
            })
            .collect(),
        virtual_ips: vip_status(network, observation),
        port_mappings: mapping_status(network, firewall),
        bridges: bridges::of(target, network, observation, now),
        active_hub: choice.and_then(|choice| Some(choice.hub(&choice.carrier)?.hub.clone())),
        rules: rules.collect(),
        default_drops,
    }
}

fn mapping_status(network: &NetworkIntent, found: Option<&firewall::Actual>) -> Vec<MappingStatus> {
    let counts = found.map(firewall::Actual::mapping_counts).unwrap_or_default();
    let mappings = network.firewall.mappings.iter().map(|mapping| {
        let count = |what| {
            let key = (network.id, mapping.name.to_string(), what);
            counts.get(&key).map_or(0, |count| count.packets)
        };
        MappingStatus {
            name: mapping.name.clone(),
            protocol: mapping.protocol,
            listen_port: mapping.listen_port,
            target_port: mapping.target_port,
            targets: mapping.ways.iter().map(|way| way.target).collect(),
            connections: count(firewall::guard::LET_IN),
            refused_source: count(firewall::guard::REFUSED_SOURCE),
            refused_rate: count(firewall::guard::REFUSED_RATE),
            refused_connections: count(firewall::guard::REFUSED_COUNT),
        }
    });
    mappings.collect()
}

fn vip_status(network: &NetworkIntent, observation: Option<&Observation>) -> Vec<VipStatus> {
    let found = observation.and_then(|observation| observation.l3.as_ref().ok());
    let dummy = naming::vip_dummy(network.id);
    let is_here = |address: std::net::IpAddr| {
        let link = |actual: &l3::Actual| actual.state.links.get(&dummy).cloned();
        found.map(|actual| link(actual).is_some_and(|link| link.addresses.contains(&address.into())))
    };
    let vips = network.vips.iter().map(|vip| VipStatus {
        name: vip.name.clone(),
        address: vip.address,
        holders: vip.holders.clone(),
        here: is_here(vip.address),
    });
    vips.collect()
}

fn link_status(
    link: &crate::intent::LinkIntent,
    devices: Option<&wireguard::Actual>,
    now: SystemTime,
) -> LinkStatus {
    let device = devices.and_then(|actual| actual.devices.get(&link.name));
    let peers = link.peers.iter().map(|(key, peer)| {
        let in_use = device.map_or(*key, |device| device.key_in_use(*key, peer.next_public_key));
        let seen = device.and_then(|device| device.peers.get(&in_use));
        PeerStatus {
            node: peer.node.clone(),
            public_key: in_use,
            endpoint: seen.and_then(|seen| seen.endpoint),
            handshake_age_seconds: seen
                .and_then(|seen| seen.last_handshake)
                .map(|at| now.duration_since(at).map_or(0, |age| age.as_secs())),
            rx_bytes: seen.map_or(0, |seen| seen.rx_bytes),
            tx_bytes: seen.map_or(0, |seen| seen.tx_bytes),
        }
    });
    LinkStatus {
        name: link.name.clone(),
        listen_port: device.map(|device| device.listen_port),
        hub: None,
        peers: peers.collect(),
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = self
            .fleet_digest
            .map(|digest| digest.to_string())
            .unwrap_or_default();
        writeln!(
            f,
            "node {}  fleet {}",
            self.node,
            digest.get(..12).unwrap_or("none in force")
        )?;
        self.fmt_daemon(f)?;
        let isolation = match self.backends.isolation {
            IsolationMode::Vrf => "vrf",
            IsolationMode::Rules => "rules",
            IsolationMode::Main => "none",
        };
        let wireguard = match self.backends.wireguard {
            WireguardKind::Kernel => "kernel",
            WireguardKind::Userspace => "userspace",
        };
        writeln!(f, "backends: wireguard {wireguard}, isolation {isolation}")?;
        for network in &self.networks {
            network.fmt(f)?;
        }
        for condition in self
            .conditions
            .iter()
            .filter(|c| c.state != ConditionState::Converged)
        {
            let network = condition
                .network
                .as_ref()
                .map(|name| format!(" {name}"))
                .unwrap_or_default();
            writeln!(
                f,
                "{:?}: {}{network}: {}",
                condition.state, condition.plane, condition.reason
            )?;
        }
        for notice in &self.notices {
            let network = notice
                .network
                .as_ref()
                .map(|name| format!("network {name}: "))
                .unwrap_or_default();
            writeln!(f, "note: {network}{}: {}", notice.object, notice.text)?;
        }
        writeln!(
            f,
            "{}",
            if self.converged {
                "converged"
            } else {
                "not converged"
            }
        )
    }
}

impl Status {
    fn fmt_daemon(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(daemon) = &self.daemon else {
            return writeln!(f, "daemon: not running: nothing is kept true");
        };
        let mode = match daemon.mode {
            Mode::Auto => "auto",
            Mode::Manual => "manual",
        };
        writeln!(f, "daemon: running, mode {mode}")?;
        if daemon.is_down {
            writeln!(
                f,
                "DOWN: taken down by an operator; `sdwand apply` brings it back"
            )?;
        }
        if daemon.pending_changes > 0 {
            writeln!(
                f,
                "pending: {} changes wait for `sdwand apply`",
                daemon.pending_changes
            )?;
        }
        if let ConfigState::Bad { errors, .. } = &daemon.config {
            writeln!(f, "BAD CONFIGURATION: the last good one is in force\n{errors}")?;
        }
        Ok(())
    }
}

impl NetworkStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v4 = self
            .overlay_v4
            .map(|address| format!(" {address}"))
            .unwrap_or_default();
        writeln!(
            f,
            "network {} (id {})  {}{v4}",
            self.name, self.id, self.overlay_v6
        )?;
        if let Some(hub) = &self.active_hub {
            writeln!(f, "  over hub {hub}")?;
        }
        for link in &self.links {
            let port = link
                .listen_port
                .map(|port| format!(" port {port}"))
                .unwrap_or_default();
            let hub = link.hub.map(|hub| format!("  hub {hub}")).unwrap_or_default();
            writeln!(f, "  link {}{port}{hub}", link.name)?;
            for peer in &link.peers {
                let age = peer
                    .handshake_age_seconds
                    .map_or("no handshake".to_owned(), |age| format!("handshake {age} s ago"));
                let endpoint = peer
                    .endpoint
                    .map_or("-".to_owned(), |endpoint| endpoint.to_string());
                writeln!(
                    f,
                    "    peer {:<20} {endpoint:<28} {age:<20} rx {} tx {}",
                    peer.node, peer.rx_bytes, peer.tx_bytes
                )?;
            }
        }
        for vip in &self.virtual_ips {
            writeln!(f, "{vip}")?;
        }
        for mapping in &self.port_mappings {
            let targets: Vec<String> = mapping.targets.iter().map(ToString::to_string).collect();
            let refused = mapping.refused_source + mapping.refused_rate + mapping.refused_connections;
            writeln!(
                f,
                "  port {:<20} {} -> {} port {}: {} connections, {refused} packets refused",
                mapping.name,
                mapping.listen_port,
                targets.join(", "),
                mapping.target_port,
                mapping.connections
            )?;
        }
        for bridge in &self.bridges {
            writeln!(f, "{bridge}")?;
        }
        for rule in &self.rules {
            writeln!(
                f,
                "  rule {:<20} {} packets {} bytes",
                rule.name, rule.packets, rule.bytes
            )?;
        }
        let drops = self.default_drops;
        writeln!(
            f,
            "  default drop         {} packets {} bytes",
            drops.packets, drops.bytes
        )
    }
}

impl fmt::Display for VipStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holders: Vec<&str> = self.holders.iter().map(Name::as_str).collect();
        let here = match self.here {
            Some(true) => ", on this host",
            Some(false) | None => "",
        };
        let (name, address, holders) = (&self.name, self.address, holders.join(", "));
        write!(f, "  vip {name:<21} {address} held by {holders}{here}")
    }
}
