//! The lines that our chains consist of.
//!
//! Measured with nft 1.0.6 and kernels 6.12 and 6.18, and the reason for the form of some lines:
//! - `meta l4proto` as part of an interval key is refused by recent kernels (nft asks for a byte-order conversion of
//!   one byte): so each protocol has its own maps, and `meta l4proto` stands before the key.
//! - `th dport` of anything but TCP and UDP reads bytes that are no ports: never without the protocol before it.
//! - Under a VRF `iifname` is the VRF in input and forward, never the link: there `meta sdifname` is the key.
//! - A verdict `accept` in one network's chain would skip the other network's deny: allow is `return`.
//! - `maxseg size set` never raises the value, so it needs no comparison.
//!
//! `Display` is the nft text, without the comment.

use std::collections::BTreeSet;
use std::fmt;

use ipnet::IpNet;

use super::mapping::{MapLine, MapStep};
use super::policy::{Class, Family, Ingress};
use super::state::names;
use crate::model::network::{Action, NetworkId, PortRange};
use crate::model::{LinkName, Name};

/// Which header of a packet names an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Where it came in, where the kernel tells that by the VRF's slave.
    Slave,
    /// Where it came in.
    In,
    /// Where it goes out.
    Out,
}

impl From<Ingress> for Side {
    fn from(ingress: Ingress) -> Self {
        match ingress {
            Ingress::Slave => Self::Slave,
            Ingress::Name => Self::In,
        }
    }
}

/// A line of a base chain, or of a network's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The interface's map says which chain judges.
    Dispatch(Side, &'static str),
    /// The interface's map says which conntrack zone.
    Zone(Side),
    /// TCP over these links announces segments that fit the way out.
    SegmentsOut(BTreeSet<LinkName>),
    /// TCP from these links announces segments that fit the way back.
    SegmentsIn {
        /// What names the link.
        side: Side,
        /// The links.
        links: BTreeSet<LinkName>,
        /// The family.
        family: Family,
        /// The largest segment in bytes.
        size: u32,
    },
    /// Nobody but these interfaces and the host itself reaches these addresses. A VRF sees to that by itself; where
    /// there is none, the kernel takes a packet for any of its addresses from any interface.
    Entry {
        /// The network whose addresses they are.
        network: NetworkId,
        /// The interfaces.
        links: BTreeSet<LinkName>,
        /// The family.
        family: Family,
    },
    /// A line of port mappings.
    Map(MapLine),
    /// A line of a network's chain.
    Of(NetworkId, Step),
}

/// A line of a network's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// What isn't for this network's own addresses isn't for this network.
    OwnDestination(Family),
    /// What this host sends comes from this network's own addresses.
    OwnSource(Family),
    /// What comes from a LAN has a source of that LAN; to the host itself also a link-local one or none.
    LanSource {
        /// What names the interface.
        side: Side,
        /// The interface.
        interface: LinkName,
        /// The family.
        family: Family,
        /// The sources.
        nets: Vec<IpNet>,
        /// Whether it is for the host itself.
        host: bool,
    },
    /// What comes from the network leaves through the network.
    LeavesThrough(BTreeSet<LinkName>),
    /// A connection that was allowed goes on.
    Established,
    /// Neighbour discovery, of the same link only (RFC 4861: hop limit 255).
    Neighbours,
    /// Multicast listener discovery (RFC 2710, RFC 3810: link-local source, hop limit 1).
    Listeners,
    /// Sources are inside the network.
    BoundSource(Family),
    /// Destinations are inside the network.
    BoundDestination(Family),
    /// This host carries only its own: source or destination is local.
    NoTransit(Family),
    /// This host's own ICMP errors pass: one about the first packet of a connection, which went no further, belongs to
    /// none that is tracked. Those of others pass as related to what they are about.
    OwnErrors(Family),
    /// Nothing else is for link-local addresses and groups: no rule can name them.
    LinkLocal,
    /// A layer's map says which rule it is.
    Layer(Class, Family, usize),
    /// A rule whose sources and destinations are sets.
    Wide {
        /// The rule.
        rule: Name,
        /// Which part of it.
        part: usize,
        /// The class.
        class: Class,
        /// The family.
        family: Family,
    },
    /// What came from the network itself is judged already.
    CameFrom(Side, BTreeSet<LinkName>),
    /// What came from these interfaces is judged as coming from the network.
    JudgeFrom(BTreeSet<LinkName>),
    /// Everything else passes.
    AcceptRest,
    /// Everything else vanishes, and is counted by this counter (`in-deny`, `to-guard` …).
    DropRest(&'static str),
    /// A match of a rule is logged, ten times a second at most.
    Log(Name, Name),
    /// What a rule does, counted.
    Verdict {
        /// The rule.
        rule: Name,
        /// Its priority.
        priority: u32,
        /// What happens.
        action: Action,
        /// Whether a line before this one logs.
        log: bool,
    },
    /// The part of a rejection that is for TCP.
    Reset(Name),
    /// A line of port mappings.
    Map(MapStep),
}

impl Line {
    /// The stable part of the rule's tag: what kind of line it is, and of which rule.
    #[must_use]
    pub fn key(&self) -> String {
        let step = match self {
            Self::Dispatch(_, map) => return (*map).to_owned(),
            Self::Zone(_) => return names::ZONES.to_owned(),
            Self::SegmentsOut(_) => return "mss-out".to_owned(),
            Self::SegmentsIn { .. } => return "mss-in".to_owned(),
            Self::Entry { network, family, .. } => return format!("entry{} {network}", family.digit()),
            Self::Map(line) => return line.key(),
            Self::Of(_, step) => step,
        };
        match step {
            Step::OwnDestination(f) => format!("own-destination{}", f.digit()),
            Step::OwnSource(f) => format!("own-source{}", f.digit()),
            Step::LanSource {
                interface, family, ..
            } => {
                format!("lan-source{} {interface}", family.digit())
            }
            Step::LeavesThrough(_) => "leaves-through".to_owned(),
            Step::Established => "established".to_owned(),
            Step::Neighbours => "neighbours".to_owned(),
            Step::Listeners => "listeners".to_owned(),
            Step::BoundSource(f) => format!("bound-source{}", f.digit()),
            Step::BoundDestination(f) => format!("bound-destination{}", f.digit()),
            Step::NoTransit(f) => format!("no-transit{}", f.digit()),
            Step::OwnErrors(f) => format!("own-errors{}", f.digit()),
            Step::LinkLocal => "link-local".to_owned(),
            Step::Layer(class, f, n) => format!("layer {}{} {n}", class.word(), f.digit()),
            Step::Wide {
                rule,
                part,
                class,
                family,
            } => {
                format!("wide {}{} {part} {rule}", class.word(), family.digit())
            }
            Step::CameFrom(..) => "came-from".to_owned(),
            Step::JudgeFrom(_) => "judge-from".to_owned(),
            Step::AcceptRest => "accept-rest".to_owned(),
            Step::DropRest(_) => "drop-rest".to_owned(),
            Step::Log(..) => "log".to_owned(),
            Step::Verdict {
                priority,
                action,
                log,
                ..
            } => verdict_key(*priority, *action, *log),
            Step::Reset(_) => "reset".to_owned(),
            Step::Map(step) => step.key(),
        }
    }
}

fn verdict_key(priority: u32, action: Action, log: bool) -> String {
    let action = match action {
        Action::Accept => "accept",
        Action::Drop => "drop",
        Action::Reject => "reject",
    };
    format!("rule {priority} {action} {}", if log { "log" } else { "quiet" })
}

/// Reads [`Line::key`] of a [`Step::Verdict`]: priority, action, whether it logs.
#[must_use]
pub fn decode_verdict_key(key: &str) -> Option<(u32, Action, bool)> {
    let mut words = key.strip_prefix("rule ")?.split(' ');
    let priority = words.next()?.parse().ok()?;
    let action = match words.next()? {
        "accept" => Action::Accept,
        "drop" => Action::Drop,
        "reject" => Action::Reject,
        _ => return None,
    };
    let log = words.next()? == "log";
    Some((priority, action, log))
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slave => "meta sdifname",
            Self::In => "iifname",
            Self::Out => "oifname",
        })
    }
}

/// What is for a link alone (RFC 4291).
const LINK_LOCAL: &str = "{ fe80::/10, ff02::/16 }";

const SYN: &str = "tcp flags & (syn | rst) == syn tcp option maxseg size set";

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dispatch(side, map) => write!(f, "{side} vmap @{map}"),
            Self::Zone(side) => write!(f, "ct zone set {side} map @{}", names::ZONES),
            Self::SegmentsOut(links) => write!(f, "oifname {} {SYN} rt mtu", Links(links)),
            Self::SegmentsIn {
                side,
                links,
                family,
                size,
            } => {
                let nfproto = match family {
                    Family::V4 => "ipv4",
                    Family::V6 => "ipv6",
                };
                write!(f, "{side} {} meta nfproto {nfproto} {SYN} {size}", Links(links))
            }
            Self::Entry {
                network,
                links,
                family,
            } => {
                f.write_str("iifname != { \"lo\"")?;
                for link in links {
                    write!(f, ", \"{link}\"")?;
                }
                let (ip, nets) = (ip(*family), names::nets(*network, "guarded", *family));
                write!(f, " }} {ip} daddr @{nets} {}", Drop(*network, "in-guard"))
            }
            Self::Map(line) => line.fmt(f),
            Self::Of(id, step) => step.text(*id, f),
        }
    }
}

/// `ip` or `ip6`, as nft spells the header.
pub(super) fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The match on the protocol that a class needs before its key.
pub(super) fn protocol(class: Class, family: Family) -> &'static str {
    match (class, family) {
        (Class::Any, _) => "",
        (Class::Tcp, _) => "meta l4proto tcp ",
        (Class::Udp, _) => "meta l4proto udp ",
        (Class::Icmp, Family::V4) => "meta l4proto icmp ",
        (Class::Icmp, Family::V6) => "meta l4proto ipv6-icmp ",
    }
}

impl Step {
    /// The text of a step that is the same in every network; empty for others.
    fn fixed(&self) -> &'static str {
        match self {
            Self::Established => "ct state established,related return",
            Self::Neighbours => {
                "ip6 hoplimit 255 icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } return"
            }
            Self::Listeners => {
                "ip6 saddr fe80::/10 ip6 hoplimit 1 icmpv6 type { mld-listener-query, mld-listener-report, \
                 mld-listener-done, mld2-listener-report } return"
            }
            Self::OwnErrors(Family::V4) => {
                "icmp type { destination-unreachable, time-exceeded, parameter-problem } return"
            }
            Self::OwnErrors(Family::V6) => {
                "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } return"
            }
            Self::AcceptRest => "return",
            Self::OwnDestination(_)
            | Self::OwnSource(_)
            | Self::LanSource { .. }
            | Self::LeavesThrough(_)
            | Self::BoundSource(_)
            | Self::BoundDestination(_)
            | Self::NoTransit(_)
            | Self::LinkLocal
            | Self::Layer(..)
            | Self::Wide { .. }
            | Self::CameFrom(..)
            | Self::JudgeFrom(_)
            | Self::DropRest(_)
            | Self::Log(..)
            | Self::Verdict { .. }
            | Self::Reset(_)
            | Self::Map(_) => "",
        }
    }

    fn text(&self, id: NetworkId, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnDestination(family) => {
                let (ip, own) = (ip(*family), names::nets(id, "own", *family));
                write!(f, "{ip} daddr != @{own} ")?;
                if *family == Family::V6 {
                    write!(f, "ip6 daddr != {LINK_LOCAL} ")?;
                }
                write!(f, "{}", Drop(id, "in-guard"))
            }
            Self::OwnSource(family) => {
                let (ip, own) = (ip(*family), names::nets(id, "own", *family));
                write!(f, "{ip} saddr != @{own} {}", Drop(id, "out-guard"))
            }
            Self::LanSource { .. } => self.lan_source(id, f),
            Self::LeavesThrough(links) => {
                write!(f, "oifname != {} {}", Links(links), Drop(id, "from-guard"))
            }
            Self::Established
            | Self::Neighbours
            | Self::Listeners
            | Self::OwnErrors(_)
            | Self::AcceptRest => f.write_str(self.fixed()),
            Self::LinkLocal => write!(f, "ip6 daddr {LINK_LOCAL} {}", Drop(id, "in-guard")),
            Self::BoundSource(family) => bound(id, *family, "saddr", f),
            Self::BoundDestination(family) => bound(id, *family, "daddr", f),
            Self::NoTransit(family) => {
                let (ip, local) = (ip(*family), names::nets(id, "local", *family));
                let drop = Drop(id, "from-guard");
                write!(f, "{ip} saddr != @{local} {ip} daddr != @{local} {drop}")
            }
            Self::Layer(class, family, layer) => {
                let (ip, protocol) = (ip(*family), protocol(*class, *family));
                let port = if class.has_ports() { " . th dport" } else { "" };
                let map = names::layer(id, *class, *family, *layer);
                write!(f, "{protocol}{ip} saddr . {ip} daddr{port} vmap @{map}")
            }
            Self::Wide {
                rule,
                part,
                class,
                family,
            } => {
                let (ip, protocol) = (ip(*family), protocol(*class, *family));
                let set = |what| names::wide(id, what, *family, *part, rule.as_str());
                write!(f, "{protocol}{ip} saddr @{} {ip} daddr @{} ", set('s'), set('d'))?;
                if class.has_ports() {
                    write!(f, "th dport @{} ", set('p'))?;
                }
                write!(f, "goto {}", names::rule(id, rule.as_str()))
            }
            Self::Map(step) => step.text(id, f),
            Self::CameFrom(side, links) => write!(f, "{side} {} return", Links(links)),
            Self::JudgeFrom(links) => {
                write!(f, "iifname {} goto {}", Links(links), names::of(id, "from"))
            }
            Self::DropRest(counter) => write!(f, "{}", Drop(id, counter)),
            Self::Log(network, rule) => {
                write!(f, "limit rate 10/second log prefix \"sdwand {network}/{rule} \"")
            }
            Self::Reset(rule) => {
                let counter = names::rule(id, rule.as_str());
                write!(
                    f,
                    "meta l4proto tcp counter name \"{counter}\" reject with tcp reset"
                )
            }
            Self::Verdict { rule, action, .. } => {
                let verdict = match action {
                    Action::Accept => "return",
                    Action::Drop => "drop",
                    Action::Reject => "reject with icmpx port-unreachable",
                };
                write!(f, "counter name \"{}\" {verdict}", names::rule(id, rule.as_str()))
            }
        }
    }

    fn lan_source(&self, id: NetworkId, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::LanSource {
            side,
            interface,
            family,
            nets,
            host,
        } = self
        else {
            return Ok(());
        };
        let mut allowed: Vec<String> = nets.iter().map(ToString::to_string).collect();
        if *host && *family == Family::V6 {
            allowed.extend(["fe80::/10".to_owned(), "::".to_owned()]);
        }
        write!(f, "{side} \"{interface}\" ")?;
        if allowed.is_empty() {
            // The prefix of everything, so that the family alone decides.
            let everything = match family {
                Family::V4 => "meta nfproto ipv4",
                Family::V6 => "meta nfproto ipv6",
            };
            write!(f, "{everything} ")?;
        } else {
            write!(f, "{} saddr != {{ {} }} ", ip(*family), allowed.join(", "))?;
        }
        write!(f, "{}", Drop(id, "spoofed"))
    }
}

fn bound(id: NetworkId, family: Family, field: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let bound = names::nets(id, "bound", family);
    write!(f, "{} {field} != @{bound} {}", ip(family), Drop(id, "bound"))
}

/// Drops, and counts in one of the network's counters.
struct Drop(NetworkId, &'static str);

impl fmt::Display for Drop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "counter name \"{}\" drop", names::of(self.0, self.1))
    }
}

/// The counters of a network, beside those of its rules.
pub const COUNTERS: [&str; 9] = [
    "in-deny",
    "in-guard",
    "out-deny",
    "out-guard",
    "from-deny",
    "from-guard",
    "to-guard",
    "bound",
    "spoofed",
];

/// An anonymous set of interfaces.
pub(super) struct Links<'a>(pub(super) &'a BTreeSet<LinkName>);

impl fmt::Display for Links<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{ ")?;
        for (n, link) in self.0.iter().enumerate() {
            write!(f, "{}\"{link}\"", if n == 0 { "" } else { ", " })?;
        }
        f.write_str(" }")
    }
}

/// Ports as nft spells them.
#[must_use]
pub fn ports_text(range: PortRange) -> String {
    if range.first == range.last {
        range.first.to_string()
    } else {
        format!("{}-{}", range.first, range.last)
    }
}
