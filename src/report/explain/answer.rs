//! What an answer is: hosts on the way, what was looked at on each, and what comes of it.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::Serialize;

use super::asked::Flow;
use super::mapped::Mapped;
use super::resolve::owner;
use super::view::View;
use crate::model::network::Network;
use crate::model::{Fleet, LinkName, Name};

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It arrives, and is answered.
    Allow,
    /// A firewall refuses it, or the answer.
    Deny,
    /// It has no way there, or the answer none back.
    Unreachable,
    /// Something on the way can't be read.
    Unknown,
}

/// How one check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Passes {
    /// It goes on.
    Ok,
    /// It ends here.
    Blocked,
    /// It can't be told.
    Unknown,
    /// It goes on, and something is worth knowing.
    Note,
}

/// One thing that decides on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Which: `network`, `bridge`, `source_validation`, `route`, `firewall`, `foreign_chains`, `allowed_ips`, `handshake`, `mtu`; and of
    /// a port mapping `port_mapping`, `source_cidrs`, `limits`, `forwarding`.
    pub check: &'static str,
    /// How it came out.
    pub passes: Passes,
    /// What was found.
    pub text: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// One host on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// The host.
    pub node: Name,
    /// Whether this is what is really there; else it is what the fleet says.
    pub live: bool,
    /// The nftables hook that judges it here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<&'static str>,
    /// By which interface it came in; none on the host that sends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comes_in: Option<LinkName>,
    /// By which interface it goes out; none on the host that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goes_out: Option<LinkName>,
    /// The WireGuard peer that it goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Name>,
    /// The rule that names it here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Name>,
    /// What was looked at, in order. The last one is what blocks, if anything does.
    pub checks: Vec<Check>,
}

impl Hop {
    /// A host, before anything was looked at.
    pub(super) fn on(view: &View) -> Self {
        Self {
            node: view.intent.node.clone(),
            live: view.eyes().is_some(),
            hook: None,
            comes_in: None,
            goes_out: None,
            peer: None,
            rule: None,
            checks: Vec::new(),
        }
    }

    pub(super) fn blocks(&self) -> Option<&Check> {
        self.checks.iter().find(|check| check.passes == Passes::Blocked)
    }
}

/// What is in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blocker {
    /// On which host; none where it is the fleet.
    pub node: Option<Name>,
    /// Whether it is the answer that ends there.
    pub of_answer: bool,
    /// The check.
    pub check: &'static str,
    /// What was found.
    pub text: String,
    /// What to do.
    pub fix: Option<String>,
}

/// Something that isn't on this host as the fleet says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disagreement {
    /// What: a check.
    pub check: &'static str,
    /// What is there.
    pub live: String,
    /// What the fleet says.
    pub fleet: String,
}

/// One end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// As it was asked.
    pub asked: String,
    /// Its address.
    pub address: IpAddr,
    /// The host that has it, or that its LAN is behind; none where the fleet knows nobody.
    pub node: Option<Name>,
    /// The bridge that it is behind, if it is another site's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<Name>,
    /// What names it in a rule.
    #[serde(skip)]
    pub(super) named: Named,
}

/// What names an end in a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Node(Name),
    VirtualIp(Name),
    /// Another site, by its alias.
    Federation(Name),
    Address,
}

impl End {
    pub(super) fn selector(&self) -> String {
        match &self.named {
            Named::Node(name) => format!("{{ node = \"{name}\" }}"),
            Named::VirtualIp(name) => format!("{{ vip = \"{name}\" }}"),
            Named::Federation(peer) => format!("{{ federation = \"{peer}\" }}"),
            Named::Address => format!("{{ cidr = \"{}\" }}", IpNet::from(self.address)),
        }
    }
}

/// Where a port mapping leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MappedTo {
    /// The mapping.
    pub name: Name,
    /// The address and port of the underlay that were asked for.
    pub listens: SocketAddr,
    /// The address and port that it becomes.
    pub target: SocketAddr,
    /// The host that has it.
    pub node: Option<Name>,
    /// The source that the target sees, and answers: the hub's overlay address.
    pub seen_source: IpAddr,
    /// Connections at once, if limited.
    pub max_connections: Option<u32>,
    /// New connections a second, if limited.
    pub rate_limit_per_second: Option<u32>,
}

impl MappedTo {
    pub(super) fn of(fleet: &Fleet, network: &Network, mapped: &Mapped) -> Self {
        Self {
            name: mapped.mapping.name.clone(),
            listens: SocketAddr::new(mapped.packet.destination, mapped.packet.port),
            target: mapped.target(),
            node: owner(fleet, network, mapped.way.target),
            seen_source: mapped.way.hub,
            max_connections: mapped.mapping.max_connections,
            rate_limit_per_second: mapped.mapping.rate_limit_per_second,
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What comes of it.
    pub verdict: Verdict,
    /// The rule that decides; none where none does.
    pub rule: Option<Name>,
    /// The network; none where no network has both ends.
    pub network: Option<Name>,
    /// Where it comes from.
    pub source: Option<End>,
    /// Where it goes.
    pub destination: Option<End>,
    /// What is sent.
    pub flow: Flow,
    /// The port mapping by which it comes from the underlay; none where it starts in the network.
    pub mapping: Option<MappedTo>,
    /// The first thing in the way.
    pub blocker: Option<Blocker>,
    /// The largest packet that gets through, in bytes: the smallest MTU of the links and routes on the way, or less where the
    /// way from this host to a peer is known to swallow more.
    pub mtu: Option<u32>,
    /// The hosts on the way.
    pub hops: Vec<Hop>,
    /// The hosts on the way of the answer; empty where there is none.
    pub answers: Vec<Hop>,
    /// What isn't on this host as the fleet says.
    pub disagreements: Vec<Disagreement>,
}

impl Explanation {
    pub(super) fn of(flow: Flow) -> Self {
        Self {
            verdict: Verdict::Allow,
            rule: None,
            network: None,
            source: None,
            destination: None,
            flow,
            mapping: None,
            blocker: None,
            mtu: None,
            hops: Vec::new(),
            answers: Vec::new(),
            disagreements: Vec::new(),
        }
    }

    pub(super) fn ends(&mut self, network: &Network, source: &End, destination: &End) {
        self.network = Some(network.name.clone());
        self.source = Some(source.clone());
        self.destination = Some(destination.clone());
    }

    pub(super) fn block(
        &mut self,
        node: Option<Name>,
        of_answer: bool,
        check: &'static str,
        text: String,
        fix: Option<String>,
    ) {
        self.verdict = match check {
            "firewall" | "foreign_chains" | "source_cidrs" => Verdict::Deny,
            _ => Verdict::Unreachable,
        };
        self.blocker = Some(Blocker {
            node,
            of_answer,
            check,
            text,
            fix,
        });
    }

    /// Takes the verdict from the hops of the request, or of the answer.
    pub(super) fn conclude(&mut self, of_answer: bool) {
        let hops = if of_answer { &self.answers } else { &self.hops };
        let blocked = hops
            .iter()
            .find_map(|hop| Some((hop.node.clone(), hop.rule.clone(), hop.blocks()?.clone())));
        let unknown = hops
            .iter()
            .flat_map(|hop| &hop.checks)
            .any(|check| check.passes == Passes::Unknown);
        let first_rule = hops.iter().find_map(|hop| hop.rule.clone());
        if let Some((node, rule, check)) = blocked {
            self.rule = rule.filter(|_| check.check == "firewall");
            self.block(Some(node), of_answer, check.check, check.text, check.fix);
            return;
        }
        if !of_answer {
            self.rule = first_rule;
        }
        if unknown {
            self.verdict = Verdict::Unknown;
        }
    }
}
