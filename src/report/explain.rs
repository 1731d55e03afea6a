//! Whether one packet gets from here to there, and what decides: one verdict over routes, WireGuard and the firewall of
//! every host on its way, and on the way of the answer.
//!
//! ```text
//! Asked ─ resolve ─▶ network, ends ─ walk ─▶ hops: [AllowedIPs ▶ route ▶ firewall ▶ AllowedIPs ▶ handshake], host by host
//!                                      ▲
//!            View: what the planes compile for a host, or on this host what is really there
//! ```
//!
//! Nothing is judged anew here: the routes are those of the l3 plane, AllowedIPs those of the WireGuard plane, rulings those
//! of [`firewall::judge`](crate::planes::firewall::judge).

mod asked;
mod live;
mod mapped;
mod resolve;
mod show;
mod swallowed;
mod underlay;
mod view;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use ipnet::IpNet;
use serde::Serialize;

use crate::intent::{self, Facts};
use crate::model::network::Network;
use crate::model::{Fleet, LinkName, Name};
pub use asked::{AskError, Asked, Flow};
pub use live::{Found, Live, Lookup};
use mapped::Mapped;
use resolve::{Resolved, owner, resolve};
use view::View;
use walk::{Size, Trip, Way};

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
    /// Which: `network`, `source_validation`, `route`, `firewall`, `foreign_chains`, `allowed_ips`, `handshake`, `mtu`; and of
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
    fn on(view: &View) -> Self {
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

    fn blocks(&self) -> Option<&Check> {
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
    /// What names it in a rule.
    #[serde(skip)]
    named: Named,
}

/// What names an end in a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Named {
    Node(Name),
    VirtualIp(Name),
    Address,
}

impl End {
    fn selector(&self) -> String {
        match &self.named {
            Named::Node(name) => format!("{{ node = \"{name}\" }}"),
            Named::VirtualIp(name) => format!("{{ vip = \"{name}\" }}"),
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
    fn of(fleet: &Fleet, network: &Network, mapped: &Mapped) -> Self {
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

/// Explains questions about one fleet. What it compiles for a host serves all of them.
pub struct Explainer<'a> {
    fleet: &'a Fleet,
    facts: Facts,
    views: BTreeMap<Name, Rc<View>>,
    here: Option<Rc<View>>,
}

impl<'a> Explainer<'a> {
    /// What every host of the fleet would do, if each were as `facts` say.
    #[must_use]
    pub const fn offline(fleet: &'a Fleet, facts: Facts) -> Self {
        Self {
            fleet,
            facts,
            views: BTreeMap::new(),
            here: None,
        }
    }

    /// The same, but for the host that was looked at.
    #[must_use]
    pub fn live(fleet: &'a Fleet, facts: Facts, live: Live) -> Self {
        Self {
            here: Some(Rc::new(View::of_host(live))),
            ..Self::offline(fleet, facts)
        }
    }

    /// The routes of this host that an explanation would have needed; explain again once they are known.
    #[must_use]
    pub fn missing(&self) -> BTreeSet<Lookup> {
        self.here
            .as_ref()
            .map(|view| view.take_missing())
            .unwrap_or_default()
    }

    /// Takes what the kernel said.
    pub fn learn(&mut self, lookup: Lookup, found: Result<Found, String>) {
        if let Some(view) = &self.here {
            view.learn(lookup, found);
        }
    }

    /// Follows the packet and its answer.
    ///
    /// # Errors
    /// It isn't clear what is asked.
    pub fn explain(&mut self, asked: &Asked) -> Result<Explanation, AskError> {
        let by_fleet = self.trip(asked, None)?;
        let Some(here) = self.here.clone() else {
            return Ok(by_fleet);
        };
        let mut explanation = self.trip(asked, Some(&here))?;
        explanation.disagreements = compare(&here.intent.node, &by_fleet, &explanation);
        Ok(explanation)
    }

    fn trip(&mut self, asked: &Asked, here: Option<&Rc<View>>) -> Result<Explanation, AskError> {
        let mut explanation = Explanation::of(asked.flow);
        match resolve(self.fleet, self.here.as_deref(), asked)? {
            Resolved::Apart { check, text, fix } => explanation.block(None, false, check, text, Some(fix)),
            Resolved::Within {
                network,
                source,
                destination,
            } => {
                explanation.ends(network, &source, &destination);
                let Some(start) = &source.node else {
                    let text = format!(
                        "nobody in network {} has the address {}",
                        network.name, source.address
                    );
                    explanation.block(None, false, "network", text, None);
                    return Ok(explanation);
                };
                let journey = Journey {
                    network,
                    start,
                    flow: asked.flow,
                    ends: (source.address, destination.address),
                    advice: &add_a_rule(network, &source, &destination, asked.flow),
                    answer_advice: "let the answer come the way of the request, or add a rule that lets it pass",
                    mapped: None,
                    size: asked.size,
                };
                self.there_and_back(&mut explanation, &journey, here)?;
            }
            Resolved::Mapped {
                network,
                mapping,
                source,
                destination,
            } => {
                explanation.ends(network, &source, &destination);
                let packet = asked.flow.packet(source.address, destination.address);
                let view = self.view(&mapping.hub, here)?;
                let mapped = match Mapped::of(&view, network, mapping, (source.node.as_ref(), packet)) {
                    Ok(mapped) => mapped,
                    Err(check) => {
                        let mut hop = Hop::on(&view);
                        hop.checks.push(check);
                        explanation.hops.push(hop);
                        explanation.conclude(false);
                        return Ok(explanation);
                    }
                };
                explanation.mapping = Some(MappedTo::of(self.fleet, network, &mapped));
                let advice = "`sdwand apply` there: the mapping itself lets it pass";
                let journey = Journey {
                    network,
                    start: &mapping.hub,
                    flow: mapped.flow(),
                    ends: (mapped.way.hub, mapped.way.target),
                    advice,
                    answer_advice: advice,
                    mapped: Some(&mapped),
                    size: asked.size,
                };
                self.there_and_back(&mut explanation, &journey, here)?;
            }
        }
        Ok(explanation)
    }

    fn there_and_back(
        &mut self,
        explanation: &mut Explanation,
        journey: &Journey<'_>,
        here: Option<&Rc<View>>,
    ) -> Result<(), AskError> {
        let Journey {
            network,
            flow,
            ends: (source, destination),
            ..
        } = *journey;
        let request = Trip {
            network,
            packet: &flow.packet(source, destination),
            passed: &BTreeSet::new(),
            advice: journey.advice,
            mapped: journey.mapped,
            size: journey.size.map(|bytes| Size {
                bytes,
                may_be_cut: false,
            }),
        };
        let way = self.follow(&request, journey.start, here)?;
        explanation.mtu = way.mtu;
        let passed: BTreeSet<Name> = way.hops.iter().map(|hop| hop.node.clone()).collect();
        explanation.hops = way.hops;
        explanation.conclude(false);
        if let (Some(end), None) = (way.end, &explanation.blocker) {
            let answer = Trip {
                network,
                packet: &flow.answer().packet(destination, source),
                passed: &passed,
                advice: journey.answer_advice,
                mapped: journey.mapped,
                // An echo reply is as large as its request; what else is answered isn't known.
                size: journey.size.filter(|_| flow == Flow::Icmp).map(|bytes| Size {
                    bytes,
                    may_be_cut: true,
                }),
            };
            explanation.answers = self.follow(&answer, &end, here)?.hops;
            explanation.conclude(true);
        }
        Ok(())
    }

    fn follow(&mut self, trip: &Trip<'_>, start: &Name, here: Option<&Rc<View>>) -> Result<Way, AskError> {
        trip.follow(&mut |node| self.view(node, here), start)
    }

    /// A host: as it is where it was looked at, else as the fleet wants it.
    fn view(&mut self, node: &Name, here: Option<&Rc<View>>) -> Result<Rc<View>, AskError> {
        if let Some(here) = here
            && here.intent.node == *node
        {
            return Ok(Rc::clone(here));
        }
        if let Some(view) = self.views.get(node) {
            return Ok(Rc::clone(view));
        }
        let view = Rc::new(View::of_fleet(intent::compile(self.fleet, node, &self.facts)?));
        self.views.insert(node.clone(), Rc::clone(&view));
        Ok(view)
    }
}

/// One way, and back.
struct Journey<'a> {
    network: &'a Network,
    start: &'a Name,
    /// What is sent in the network.
    flow: Flow,
    /// From where to where, in the network.
    ends: (IpAddr, IpAddr),
    advice: &'a str,
    answer_advice: &'a str,
    mapped: Option<&'a Mapped>,
    size: Option<u32>,
}

/// Where what is on this host decides otherwise than what the fleet says.
fn compare(node: &Name, by_fleet: &Explanation, there: &Explanation) -> Vec<Disagreement> {
    let hops = |explanation: &Explanation| -> Vec<(bool, Hop)> {
        let requests = explanation.hops.iter().map(|hop| (false, hop.clone()));
        let answers = explanation.answers.iter().map(|hop| (true, hop.clone()));
        requests
            .chain(answers)
            .filter(|(_, hop)| hop.node == *node)
            .collect()
    };
    let mut found = Vec::new();
    for (of_answer, hop) in hops(there) {
        let wanted = hops(by_fleet);
        let Some((_, wanted)) = wanted.into_iter().find(|(answer, _)| *answer == of_answer) else {
            continue;
        };
        for check in &wanted.checks {
            let Some(here) = hop.checks.iter().find(|here| here.check == check.check) else {
                continue;
            };
            let same = match check.check {
                "route" => {
                    // By which interface the underlay sends it, the fleet doesn't know.
                    let is_known = wanted.hook != Some("forward") || wanted.goes_out.is_some();
                    here.passes == check.passes && (hop.goes_out == wanted.goes_out || !is_known)
                }
                _ => here.passes == check.passes && here.text == check.text,
            };
            let disagreement = Disagreement {
                check: check.check,
                live: here.text.clone(),
                fleet: check.text.clone(),
            };
            if !same && here.passes != Passes::Unknown && !found.contains(&disagreement) {
                found.push(disagreement);
            }
        }
    }
    found
}

impl Explanation {
    fn of(flow: Flow) -> Self {
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

    fn ends(&mut self, network: &Network, source: &End, destination: &End) {
        self.network = Some(network.name.clone());
        self.source = Some(source.clone());
        self.destination = Some(destination.clone());
    }

    fn block(
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
    fn conclude(&mut self, of_answer: bool) {
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

/// The rule that an operator would add.
fn add_a_rule(network: &Network, source: &End, destination: &End, flow: Flow) -> String {
    let (protocol, ports) = match flow {
        Flow::Icmp => ("icmp", String::new()),
        Flow::Tcp(port) => ("tcp", format!(", ports = [\"{port}\"]")),
        Flow::Udp(port) => ("udp", format!(", ports = [\"{port}\"]")),
    };
    format!(
        "add to [[networks.rules]] of {}, before what refuses it: {{ name = \"…\", from = {}, to = {}, protocol = \"{protocol}\"{ports}, action = \"accept\" }}",
        network.name,
        source.selector(),
        destination.selector()
    )
}

#[cfg(test)]
mod tests;
