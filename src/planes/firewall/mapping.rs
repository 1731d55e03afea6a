//! Port mappings: from a port of the underlay into a network, and back.
//!
//! ```text
//! underlay ─▶ prerouting −300  port-zones    answers will come in the network's conntrack zone
//!             prerouting −150  port-marks    a flow that was let in, or `ports` ─▶ n<id>-p-<mapping>: guards, mark A(id)
//!             prerouting −100  port-targets  dnat to the target
//!             routing          fwmark A(id)  the network's table (plane l3)
//!             forward 0        n<id>-to      what is for a target passes
//!             postrouting 100  port-sources  snat to this host's overlay address: the link carries no other source
//! link ─────▶ prerouting −150  port-marks    an answer: mark R, so that its route is the main table's
//!             forward 0        n<id>-from    it passes
//! ```
//!
//! The marks are in [`crate::model::ownership`]. On the target's host, [`MapStep::Admit`] lets in what comes from the
//! mapping's hub. Guards are in a chain for each mapping, which is rewritten only when they change: what `limit` and
//! `ct count` remember lives in their rules.

mod lift;
mod lower;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::line::{Links, Side, ip, protocol};
use super::policy::{Class, Family};
use super::state::names;
use crate::intent::AdmissionIntent;
use crate::model::network::{NetworkId, Protocol};
use crate::model::ownership::{MARK_MASK, REPLY_MARK, mapping_mark};
use crate::model::{LinkName, Name};

pub(super) use lift::{
    Admitted, lift_admissions, lift_mappings, meet_admissions, meet_mappings, named_admissions,
};
pub(super) use lower::{admissions, back, base_chains, guards, into};

/// A line of a base chain, or of the chain `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapLine {
    /// Answers to what comes in by these ports are tracked in the network's zone.
    Zone {
        /// The network.
        network: NetworkId,
        /// Its conntrack zone.
        zone: u16,
        /// What isn't the underlay.
        ours: Arc<BTreeSet<LinkName>>,
        /// TCP or UDP.
        class: Class,
    },
    /// What belongs to a connection that was let in goes to the network.
    Flow {
        /// The network.
        network: NetworkId,
        /// What isn't the underlay.
        ours: Arc<BTreeSet<LinkName>>,
    },
    /// An answer to a connection that was let in goes back to the underlay.
    Reply {
        /// The network.
        network: NetworkId,
        /// Its links.
        links: BTreeSet<LinkName>,
    },
    /// Addresses on overlay links aren't the underlay's, also where no VRF keeps them apart.
    Overlay {
        /// The network.
        network: NetworkId,
        /// What isn't the underlay.
        ours: Arc<BTreeSet<LinkName>>,
        /// The family.
        family: Family,
    },
    /// New connections to an address of this host: which mapping is it?
    New {
        /// What isn't the underlay.
        ours: Arc<BTreeSet<LinkName>>,
    },
    /// A port that is mapped.
    Port {
        /// The network.
        network: NetworkId,
        /// The mapping.
        name: Name,
        /// TCP or UDP.
        class: Class,
        /// The port.
        port: u16,
    },
    /// Where a mapping leads in one family.
    Target {
        /// The network.
        network: NetworkId,
        /// The mapping.
        name: Name,
        /// TCP or UDP.
        class: Class,
        /// The port that is mapped.
        listen_port: u16,
        /// The address that it leads to.
        target: IpAddr,
        /// The port there.
        port: u16,
    },
    /// What goes to a target comes from this host's overlay address.
    Source {
        /// The network.
        network: NetworkId,
        /// Its links.
        links: BTreeSet<LinkName>,
        /// The address.
        hub: IpAddr,
    },
}

/// A line of a network's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapStep {
    /// Who isn't among a mapping's sources is refused.
    From(Name, Family),
    /// What goes beyond so many new connections a second is refused.
    Rate(Name, u32),
    /// What goes beyond so many connections at once is refused.
    Count(Name, u32),
    /// The rest is let in.
    Mark(Name),
    /// What belongs to a connection that was let in passes towards the network.
    Known,
    /// What a mapping sends to its target passes.
    Into {
        /// TCP or UDP.
        class: Class,
        /// The target.
        target: IpAddr,
        /// The port there.
        port: u16,
    },
    /// Answers from these links pass.
    Back(Side, BTreeSet<LinkName>),
    /// What a mapping of another host sends here, or through here, passes.
    Admit(AdmissionIntent),
}

fn text(protocol: Protocol) -> &'static str {
    Class::from(protocol).word()
}

/// A protocol and a port, as nft matches them.
fn port_match(class: Class, family: Family, port: u16) -> String {
    format!("{}th dport {port}", protocol(class, family))
}

/// Whether the connection is one that was let in.
struct Marked(NetworkId);

impl fmt::Display for Marked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ct mark & {MARK_MASK:#010x} == {:#010x}", mapping_mark(self.0))
    }
}

/// Sets our bits of a mark, and leaves the others.
fn set_mark(key: &str, mark: u32) -> String {
    format!("{key} mark set {key} mark & {:#010x} | {mark:#010x}", !MARK_MASK)
}

impl MapLine {
    /// The stable part of the rule's tag.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Zone { network, class, .. } => format!("port-zone {} {network}", class.word()),
            Self::Flow { network, .. } => format!("port-flow {network}"),
            Self::Reply { network, .. } => format!("port-reply {network}"),
            Self::Overlay { network, family, .. } => format!("port-overlay{} {network}", family.digit()),
            Self::New { .. } => "port-new".to_owned(),
            Self::Port {
                network,
                name,
                class,
                port,
            } => format!("port {network} {} {port} {name}", class.word()),
            Self::Target {
                network,
                name,
                target,
                port,
                ..
            } => format!("target {network} {target} {port} {name}"),
            Self::Source { network, hub, .. } => format!("hub {network} {hub}"),
        }
    }
}

impl MapLine {
    /// The lines that say where a mapping leads.
    fn leads(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port {
                network,
                name,
                class,
                port,
            } => write!(
                f,
                "{} goto {}",
                port_match(*class, Family::V6, *port),
                names::mapping(*network, name.as_str())
            ),
            Self::Target {
                network,
                class,
                listen_port,
                target,
                port,
                ..
            } => {
                let family = Family::of(*target);
                write!(
                    f,
                    "meta mark & {MARK_MASK:#010x} == {:#010x} {} dnat {} to {}",
                    mapping_mark(*network),
                    port_match(*class, family, *listen_port),
                    ip(family),
                    std::net::SocketAddr::new(*target, *port)
                )
            }
            Self::Source { network, links, hub } => write!(
                f,
                "oifname {} {} ct direction original ct status dnat snat {} to {hub}",
                Links(links),
                Marked(*network),
                ip(Family::of(*hub))
            ),
            Self::Zone { .. }
            | Self::Flow { .. }
            | Self::Reply { .. }
            | Self::Overlay { .. }
            | Self::New { .. } => Ok(()),
        }
    }
}

impl fmt::Display for MapLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zone {
                network,
                zone,
                ours,
                class,
            } => write!(
                f,
                "iifname != {} {}th dport @{} fib daddr type local ct reply zone set {zone}",
                Links(ours),
                protocol(*class, Family::V6),
                names::ports(*network, *class),
            ),
            Self::Flow { network, ours } => write!(
                f,
                "iifname != {} ct direction original {} {} return",
                Links(ours),
                Marked(*network),
                set_mark("meta", mapping_mark(*network))
            ),
            Self::Reply { network, links } => write!(
                f,
                "iifname {} ct direction reply {} {} return",
                Links(links),
                Marked(*network),
                set_mark("meta", REPLY_MARK)
            ),
            Self::Overlay {
                network,
                ours,
                family,
            } => write!(
                f,
                "iifname != {} {} daddr @{} return",
                Links(ours),
                ip(*family),
                names::nets(*network, "guarded", *family)
            ),
            Self::New { ours } => write!(
                f,
                "iifname != {} ct state new fib daddr type local goto {}",
                Links(ours),
                names::PORTS
            ),
            Self::Port { .. } | Self::Target { .. } | Self::Source { .. } => self.leads(f),
        }
    }
}

impl MapStep {
    /// The stable part of the rule's tag.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::From(_, family) => format!("sources{}", family.digit()),
            Self::Rate(_, rate) => format!("rate {rate}"),
            Self::Count(_, count) => format!("count {count}"),
            Self::Mark(_) => "mark".to_owned(),
            Self::Known => "known".to_owned(),
            Self::Into { .. } => "into".to_owned(),
            Self::Back(..) => "back".to_owned(),
            Self::Admit(a) => format!("admit {} {} {} {}", text(a.protocol), a.port, a.from, a.to),
        }
    }

    /// The nft text, without the comment.
    pub(super) fn text(&self, id: NetworkId, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refuse = |what: &str, name: &Name| {
            format!("counter name \"{}\" drop", names::guard(id, what, name.as_str()))
        };
        match self {
            Self::From(name, family) => write!(
                f,
                "{} saddr != @{} {}",
                ip(*family),
                names::sources(id, *family, name.as_str()),
                refuse(names::REFUSED_SOURCE, name)
            ),
            // A second's worth may come at once.
            Self::Rate(name, rate) => write!(
                f,
                "limit rate over {rate}/second burst {rate} packets {}",
                refuse(names::REFUSED_RATE, name)
            ),
            Self::Count(name, count) => {
                write!(f, "ct count over {count} {}", refuse(names::REFUSED_COUNT, name))
            }
            Self::Mark(name) => write!(
                f,
                "{} {} counter name \"{}\"",
                set_mark("ct", mapping_mark(id)),
                set_mark("meta", mapping_mark(id)),
                names::guard(id, names::LET_IN, name.as_str())
            ),
            Self::Known => write!(f, "{} ct state established,related return", Marked(id)),
            Self::Into { class, target, port } => {
                let family = Family::of(*target);
                write!(
                    f,
                    "{} ct direction original ct status dnat {} daddr {target} {} return",
                    Marked(id),
                    ip(family),
                    port_match(*class, family, *port)
                )
            }
            Self::Back(side, links) => {
                write!(
                    f,
                    "{side} {} ct direction reply {} return",
                    Links(links),
                    Marked(id)
                )
            }
            Self::Admit(a) => {
                let family = Family::of(a.to);
                write!(
                    f,
                    "{ip} saddr {} {ip} daddr {} {} counter name \"{}\" return",
                    a.from,
                    a.to,
                    port_match(a.protocol.into(), family, a.port),
                    names::guard(id, names::LET_IN, a.name.as_str()),
                    ip = ip(family),
                )
            }
        }
    }
}
