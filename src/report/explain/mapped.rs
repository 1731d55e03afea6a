//! What comes from the underlay by a port mapping: into the network on the hub that listens, and the answers back.
//!
//! ```text
//! client ─▶ hub: port_mapping ▶ source_cidrs ▶ limits ▶ forwarding ▶ route (fwmark A) ▶ firewall ▶ allowed_ips ─▶ … target
//! client ◀─ hub: firewall ◀ route (fwmark R) ◀ source_validation ◀─ … the target answers the hub
//! ```

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::view::{Routed, View};
use super::walk::{Arrival, Next, Step, is_link, member};
use super::{Check, Flow, Passes};
use crate::intent::{MappedWay, MappingIntent, NetworkIntent};
use crate::model::network::{Network, PortMapping, Protocol};
use crate::model::ownership::{REPLY_MARK, mapping_mark};
use crate::model::{LinkName, Name};
use crate::planes::firewall::{Connection, Hook, Packet};

/// A way in, with the packet that takes it.
pub(super) struct Mapped {
    /// The host that listens.
    pub(super) hub: Name,
    pub(super) mapping: MappingIntent,
    pub(super) way: MappedWay,
    /// The packet as its client sends it.
    pub(super) packet: Packet,
}

impl Mapped {
    /// The way in as the hub has it: by the fleet, or on a host that is looked at, by its table.
    pub(super) fn of(
        view: &View,
        network: &Network,
        asked: &PortMapping,
        (sender, packet): (Option<&Name>, Packet),
    ) -> Result<Self, Check> {
        let wanted = member(view, network)?;
        if sender == Some(&asked.hub) {
            return Err(sent_to_itself(packet.source));
        }
        let policies = view
            .policies()
            .map_err(|error| check(Passes::Unknown, error.to_owned(), "run as root".to_owned()))?;
        let is_it = |mapping: &&MappingIntent| {
            (mapping.protocol, mapping.listen_port) == (asked.protocol, asked.listen_port)
        };
        let there = policies
            .get(&network.id)
            .and_then(|policy| policy.mappings.iter().find(is_it));
        let Some(mapping) = there else {
            let (text, fix) = if !asked.enabled {
                let fix = format!("give it enabled = true in network {}", network.name);
                (format!("port mapping {} is disabled", asked.name), fix)
            } else if wanted.firewall.mappings.iter().any(|mapping| is_it(&mapping)) {
                let (port, name) = (asked.listen_port, &network.name);
                let text = format!("the firewall here leads no port {port} into network {name}");
                (text, "sdwand apply".to_owned())
            } else {
                let text = format!("port mapping {} leads nowhere from here", asked.name);
                (text, "sdwand check".to_owned())
            };
            return Err(check(Passes::Blocked, text, fix));
        };
        let is_v4 = packet.source.is_ipv4();
        let Some(way) = mapping.ways.iter().find(|way| way.target.is_ipv4() == is_v4) else {
            let family = if is_v4 { "IPv4" } else { "IPv6" };
            let text = format!(
                "port mapping {} has no {family} way: its target or its hub has no such address",
                mapping.name
            );
            let fix =
                "connect over the other family, or lead it to a node or virtual IP with such an address";
            return Err(check(Passes::Blocked, text, fix.to_owned()));
        };
        Ok(Self {
            hub: asked.hub.clone(),
            mapping: mapping.clone(),
            way: *way,
            packet,
        })
    }

    /// What is sent in the network.
    pub(super) const fn flow(&self) -> Flow {
        match self.mapping.protocol {
            Protocol::Udp => Flow::Udp(self.mapping.target_port),
            Protocol::Tcp | Protocol::Any | Protocol::Icmp => Flow::Tcp(self.mapping.target_port),
        }
    }

    /// Where it is for, by then.
    pub(super) const fn target(&self) -> SocketAddr {
        SocketAddr::new(self.way.target, self.mapping.target_port)
    }

    /// What goes beyond the limits is dropped; none where there are none.
    fn limits(&self) -> Option<String> {
        let count = self.mapping.max_connections;
        let rate = self.mapping.rate_limit_per_second;
        let limits = [
            count.map(|count| format!("{count} connections at once")),
            rate.map(|rate| format!("{rate} new connections a second")),
        ];
        let limits: Vec<String> = limits.into_iter().flatten().collect();
        (!limits.is_empty()).then(|| format!("at most {}: what goes beyond is dropped", limits.join(", ")))
    }
}

fn check(passes: Passes, text: String, fix: String) -> Check {
    Check {
        check: "port_mapping",
        passes,
        text,
        fix: Some(fix),
    }
}

fn sent_to_itself(own: IpAddr) -> Check {
    let text = format!("{own} is the hub's own, and what a host sends itself isn't mapped");
    check(
        Passes::Blocked,
        text,
        "connect to the target's own address".to_owned(),
    )
}

impl Step<'_> {
    /// On the hub that listens: from the client, towards the target.
    pub(super) fn enter_from_underlay(&mut self, network: &NetworkIntent, mapped: &Mapped) -> Next {
        let (name, target, sees) = (&mapped.mapping.name, mapped.target(), mapped.way.hub);
        self.ok(
            "port_mapping",
            format!("{name} sends it to {target}, from {sees}"),
        );
        if !self.may_connect(mapped) || !self.forwards(network, mapped) {
            return Next::Ended;
        }
        let from = match self.client_side(network, mapped) {
            Ok(device) => device,
            Err(next) => return next,
        };
        let mark = mapping_mark(network.id);
        let ends = (mapped.packet.source, mapped.way.target);
        let routed = self.view.marked(network, ends, from.as_ref(), mark);
        let (link, mtu, by) = match routed {
            Routed::Unknown(text) => return self.unknown("route", text),
            Routed::Nowhere(text) => return self.no_route(text),
            Routed::Out { device, mtu, by, .. } if is_link(network, &device) => (device, mtu, by),
            Routed::Out { device, .. } => {
                let text = format!(
                    "{} goes out by {device}, not into network {}",
                    ends.1, network.name
                );
                return self.not_by_its_mark(text);
            }
            Routed::Local => {
                return self.not_by_its_mark(format!("{} is taken for this host's own", ends.1));
            }
        };
        self.ok("route", format!("{by} dev {link}"));
        self.hop.goes_out = Some(link.clone());
        self.hop.comes_in.clone_from(&from);
        if !self.fits(&link, mtu) {
            return Next::Ended;
        }
        let packet = Packet {
            destination: mapped.way.target,
            port: mapped.mapping.target_port,
            ..mapped.packet
        };
        let hook = Hook::Forward(from.unwrap_or_else(|| self.view.outside()), link);
        if !self.may_pass(network, &hook, &packet, Connection::Mapped(network.id)) {
            return Next::Ended;
        }
        self.leave(network)
    }

    /// On the same hub: from the target, back to the client.
    pub(super) fn return_to_underlay(
        &mut self,
        network: &NetworkIntent,
        mapped: &Mapped,
        arrival: &Arrival,
    ) -> Next {
        let link = match self.enter(network, arrival) {
            Ok(Some(link)) => link,
            Ok(None) => return self.block("route", "the target is this host itself".to_owned(), None),
            Err(next) => return next,
        };
        self.hop.comes_in = Some(link.clone());
        let (target, client) = (mapped.way.target, mapped.packet.source);
        let mut out = None;
        if self.view.eyes().is_some() {
            match self
                .view
                .marked(network, (target, client), Some(&link), REPLY_MARK)
            {
                Routed::Unknown(text) => return self.unknown("route", text),
                Routed::Nowhere(text) => return self.no_route(text),
                Routed::Out { device, .. } if !is_link(network, &device) && !self.is_lan(&device) => {
                    self.ok("route", format!("{client} dev {device}"));
                    out = Some(device);
                }
                Routed::Out { device, .. } => {
                    let text = format!("{client} goes out by {device}, not back to the underlay");
                    return self.not_by_its_mark(text);
                }
                Routed::Local => {
                    return self.not_by_its_mark(format!("{client} is taken for this host's own"));
                }
            }
        } else {
            self.ok("route", format!("{client} by the underlay's own routes"));
        }
        self.hop.goes_out.clone_from(&out);
        let packet = Packet {
            destination: client,
            ..*self.trip.packet
        };
        let hook = Hook::Forward(link, out.unwrap_or_else(|| self.view.outside()));
        if !self.may_pass(network, &hook, &packet, Connection::MappedBack(network.id)) {
            return Next::Ended;
        }
        Next::Arrived
    }

    /// Whether the mapping's guards let the client in.
    fn may_connect(&mut self, mapped: &Mapped) -> bool {
        let (client, name) = (mapped.packet.source, &mapped.mapping.name);
        if !mapped.mapping.sources.contains(client) {
            let text = format!("port mapping {name} doesn't let {client} in");
            let fix = format!(
                "add \"{}\" to source_cidrs of port mapping {name} in network {}",
                IpNet::from(client),
                self.trip.network.name
            );
            self.block("source_cidrs", text, Some(fix));
            return false;
        }
        self.ok("source_cidrs", format!("{client} is among them"));
        if let Some(limits) = mapped.limits() {
            self.note("limits", limits, None);
        }
        true
    }

    /// Whether the underlay's interfaces forward, on a host that is looked at.
    fn forwards(&mut self, network: &NetworkIntent, mapped: &Mapped) -> bool {
        let is_v4 = mapped.packet.source.is_ipv4();
        if self.view.forwards(network.id, is_v4) != Some(false) {
            return true;
        }
        let (family, path) = if is_v4 {
            ("IPv4", "net.ipv4.ip_forward")
        } else {
            ("IPv6", "net.ipv6.conf.all.forwarding")
        };
        let text = format!("no interface of the underlay forwards {family}");
        let fix = format!("sysctl -w {path}=1, and a file in /etc/sysctl.d that says so");
        self.block("forwarding", text, Some(fix));
        false
    }

    /// The interface of the underlay by which the client is reached, on a host that is looked at.
    fn client_side(&mut self, network: &NetworkIntent, mapped: &Mapped) -> Result<Option<LinkName>, Next> {
        if self.view.eyes().is_none() {
            return Ok(None);
        }
        let (own, client) = (mapped.packet.destination, mapped.packet.source);
        // The fleet may know this host by an address that somebody in front of it has.
        let unspecified = match own {
            IpAddr::V4(_) => IpAddr::from([0; 4]),
            IpAddr::V6(_) => IpAddr::from([0_u16; 8]),
        };
        let is_own = self.view.underlay().any(|address| address == own);
        let own = if is_own { own } else { unspecified };
        match self.view.marked(network, (own, client), None, REPLY_MARK) {
            Routed::Out { device, .. } => Ok(Some(device)),
            Routed::Unknown(text) => Err(self.unknown("route", text)),
            Routed::Nowhere(text) => {
                let fix = "give the underlay a route to it".to_owned();
                Err(self.block("route", format!("back to the client: {text}"), Some(fix)))
            }
            Routed::Local => {
                self.hop.checks.push(sent_to_itself(client));
                Err(Next::Ended)
            }
        }
    }

    fn not_by_its_mark(&mut self, text: String) -> Next {
        let fix = "sdwand apply, and look at `ip rule`: ours for fwmark come first".to_owned();
        self.block("route", text, Some(fix))
    }
}
