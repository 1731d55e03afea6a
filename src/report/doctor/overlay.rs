//! Checks of what the fleet wants of this host: forwarding, handshakes, packets of full size, listeners.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::{Entrance, Found, ROOT};
use crate::intent::{HostIntent, IsolationMode};
use crate::model::network::{Action, PortRange, Protocol};
use crate::model::{LinkName, Name};
use crate::planes::wireguard::{self, HANDSHAKE_STALE};
use crate::reconcile::holes::Hole;

/// How many peers, and listeners, are named in one line.
const NAMED: usize = 8;

/// What was found of the overlay on this host.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// Where its networks meet the chains of others.
    pub entrances: Vec<Entrance>,
    /// The kernel parameters that make this host forward and are off, as `sysctl(8)` takes them.
    pub not_forwarding: Vec<String>,
    /// Peers without a fresh handshake.
    pub silent: Vec<Silent>,
    /// Ways that swallow large packets.
    pub holes: Vec<Hole>,
    /// Of how many ways that isn't known: too many to ask, no answer, or asking isn't allowed here.
    pub unknown_ways: usize,
    /// Listeners on every address that no VRF is bound to.
    pub listeners: Result<Vec<Listener>, String>,
    /// Which of them a rule of the fleet would let be reached.
    pub unreached: Vec<Unreached>,
}

impl Default for Overlay {
    /// Nothing amiss.
    fn default() -> Self {
        Self {
            entrances: Vec::new(),
            not_forwarding: Vec::new(),
            silent: Vec::new(),
            holes: Vec::new(),
            unknown_ways: 0,
            listeners: Ok(Vec::new()),
            unreached: Vec::new(),
        }
    }
}

/// A peer that has not shaken hands lately.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Silent {
    /// The network.
    pub network: Name,
    /// The peer.
    pub peer: Name,
    /// Since when; none where it never has.
    pub age: Option<Duration>,
    /// Where it is called, if it can be.
    pub endpoint: Option<String>,
    /// The port by which it finds this host.
    pub port: u16,
}

/// A socket that listens on every address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// The program, where it may be known.
    pub program: Option<String>,
}

/// A listener that a rule lets through, and that no overlay address leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unreached {
    /// The listener.
    pub listener: Listener,
    /// The rule.
    pub rule: Name,
    /// The network's VRF.
    pub vrf: LinkName,
}

impl Listener {
    fn text(&self) -> String {
        let protocol = match self.protocol {
            Protocol::Udp => "udp",
            Protocol::Tcp | Protocol::Any | Protocol::Icmp => "tcp",
        };
        match &self.program {
            Some(program) => format!("{protocol} {} ({program})", self.port),
            None => format!("{protocol} {}", self.port),
        }
    }
}

/// Peers of the devices that are there, and that something keeps alive, whose handshake is stale.
#[must_use]
pub fn silent(
    intent: &HostIntent,
    wanted: &wireguard::Desired,
    actual: &wireguard::Actual,
    kept_alive: &BTreeMap<Name, u16>,
    now: SystemTime,
) -> Vec<Silent> {
    let mut silent = Vec::new();
    for (link, device) in &actual.devices {
        let Some(wanted) = wanted.devices.get(link) else {
            continue;
        };
        if !intent.networks.contains_key(&wanted.network)
            || kept_alive
                .get(&wanted.network_name)
                .is_none_or(|every| *every == 0)
        {
            continue;
        }
        for (key, peer) in &device.peers {
            let age = peer
                .last_handshake
                .map(|when| now.duration_since(when).unwrap_or_default());
            if let Some(known) = wanted.peers.get(key)
                && age.is_none_or(|age| age > HANDSHAKE_STALE)
            {
                silent.push(Silent {
                    network: wanted.network_name.clone(),
                    peer: known.node.clone(),
                    age,
                    endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
                    port: device.listen_port,
                });
            }
        }
    }
    silent.sort();
    silent
}

/// Listeners that a rule names by their port and that don't listen in the network's VRF.
#[must_use]
pub fn unreached(intent: &HostIntent, listeners: &[Listener]) -> Vec<Unreached> {
    let mut found = Vec::new();
    let isolated = intent.networks.values();
    for network in isolated.filter(|network| network.isolation == IsolationMode::Vrf) {
        let Some(vrf) = &network.vrf else {
            continue;
        };
        let own = [
            Some(IpAddr::V6(network.overlay_v6)),
            network.overlay_v4.map(IpAddr::V4),
        ];
        for rule in &network.firewall.rules {
            let for_this_host = own.into_iter().flatten().any(|own| rule.to.contains(own));
            if rule.action != Action::Accept || !for_this_host || rule.ports.is_empty() {
                continue;
            }
            let named = |listener: &&Listener| {
                let within = |range: &PortRange| (range.first..=range.last).contains(&listener.port);
                listener.protocol == rule.protocol && rule.ports.iter().any(within)
            };
            found.extend(listeners.iter().filter(named).map(|listener| Unreached {
                listener: listener.clone(),
                rule: rule.name.clone(),
                vrf: vrf.clone(),
            }));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The first few of many.
fn listed(texts: &[String]) -> String {
    let shown = texts.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match texts.len().checked_sub(NAMED) {
        Some(more @ 1..) => format!("{shown} and {more} more"),
        Some(0) | None => shown,
    }
}

pub(super) fn judge(overlay: &Result<Overlay, String>, found: &mut Found) {
    let overlay = match overlay {
        Ok(overlay) => overlay,
        Err(error) => return found.fail("overlay", error, ROOT),
    };
    if overlay.not_forwarding.is_empty() {
        found.ok("forwarding", "on where this host carries what is others'");
    } else {
        let settings: Vec<String> = overlay
            .not_forwarding
            .iter()
            .map(|name| format!("{name}=1"))
            .collect();
        let text = format!(
            "off: {}: what this host should carry for others is dropped; /etc/sysctl.d may say who turns it off",
            listed(&overlay.not_forwarding)
        );
        found.fail("forwarding", text, format!("sysctl -w {}", settings.join(" ")));
    }
    handshakes(&overlay.silent, found);
    mtu(&overlay.holes, overlay.unknown_ways, found);
    match &overlay.listeners {
        Err(error) => found.warn("listeners", error, "apt install iproute2"),
        Ok(listeners) => listening(listeners, &overlay.unreached, found),
    }
}

fn handshakes(silent: &[Silent], found: &mut Found) {
    if silent.is_empty() {
        return found.ok("handshakes", "every peer has shaken hands lately");
    }
    let texts: Vec<String> = silent
        .iter()
        .map(|silent| {
            let age = silent
                .age
                .map_or_else(|| "never".to_owned(), |age| format!("{} s ago", age.as_secs()));
            format!("{} of {}: {age}", silent.peer, silent.network)
        })
        .collect();
    let fixes: Vec<String> = silent
        .iter()
        .take(NAMED)
        .map(|silent| match &silent.endpoint {
            Some(endpoint) => format!("is {} up, and does UDP get through to {endpoint}", silent.peer),
            None => format!(
                "is {} up, and does UDP get through from it to port {} here",
                silent.peer, silent.port
            ),
        })
        .collect();
    let text = format!(
        "no handshake within {} s: {}",
        HANDSHAKE_STALE.as_secs(),
        listed(&texts)
    );
    found.warn("handshakes", text, format!("{}?", fixes.join("; ")));
}

fn mtu(holes: &[Hole], unknown: usize, found: &mut Found) {
    if holes.is_empty() {
        let text = "packets of full size reach every peer that has shaken hands lately";
        return match unknown {
            0 => found.ok("mtu", text),
            more => found.ok("mtu", format!("{text}, but for {more} of which nothing is known")),
        };
    }
    let texts: Vec<String> = holes
        .iter()
        .map(|hole| format!("network {}: {}", hole.network, hole.text()))
        .collect();
    let mut fixes: Vec<String> = holes.iter().map(Hole::fix).collect();
    fixes.dedup();
    fixes.truncate(NAMED);
    found.warn("mtu", listed(&texts), fixes.join("; "));
}

fn listening(listeners: &[Listener], unreached: &[Unreached], found: &mut Found) {
    if let Some(first) = unreached.first() {
        let texts: Vec<String> = unreached
            .iter()
            .map(|found| format!("{} (rule {})", found.listener.text(), found.rule))
            .collect();
        let text = format!(
            "in no VRF, so that overlay users don't reach what a rule lets them: {}",
            listed(&texts)
        );
        let fix = format!(
            "bind it to the VRF: `ip vrf exec {vrf} …`, or BindToDevice={vrf} of its systemd.socket(5); for all services: [isolation] host_services_in_vrf = true",
            vrf = first.vrf
        );
        return found.warn("listeners", text, fix);
    }
    let texts: Vec<String> = listeners.iter().map(Listener::text).collect();
    if texts.is_empty() {
        found.ok("listeners", "none that overlay users would miss");
    } else {
        found.ok(
            "listeners",
            format!("on the underlay only, and no rule names them: {}", listed(&texts)),
        );
    }
}

/// The oldest kernel whose nftables tell by which slave of a VRF a packet came in (`meta sdifname`), and that has WireGuard.
const OLDEST: (u32, u32) = (5, 6);

pub(super) fn kernel(release: &str, found: &mut Found) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        let text =
            format!("Linux {release} is too old: 5.6 brought WireGuard, and `meta sdifname` to nftables");
        found.fail(
            "kernel",
            text,
            "install a kernel of this decade: Debian 12 has 6.1",
        );
    } else {
        found.ok("kernel", format!("Linux {release}"));
    }
}
