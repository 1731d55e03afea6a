//! Whether one packet gets from here to there, and what decides: one verdict over routes, WireGuard and the firewall of
//! every host on its way, and on the way of the answer.
//!
//! ```text
//! Asked ─ resolve ─▶ network, ends ─ walk ─▶ hops: [AllowedIPs ▶ route ▶ firewall ▶ AllowedIPs ▶ handshake], host by host
//!                                      ▲
//!            View: what the planes compile for a host, or on this host what is really there
//! ```
//!
//! What a port mapping lets in from the underlay has one end outside the network: its hub translates it, there and back.
//!
//! Nothing is judged anew here: the routes are those of the l3 plane, AllowedIPs those of the WireGuard plane, rulings those
//! of [`firewall::judge`](crate::planes::firewall::judge).

mod answer;
mod asked;
mod crossed;
mod judged;
mod live;
mod mapped;
mod resolve;
mod show;
mod swallowed;
mod underlay;
mod view;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use crate::intent::{self, Facts};
use crate::model::network::Network;
use crate::model::{Fleet, Name};
pub use answer::{Blocker, Check, Disagreement, End, Explanation, Hop, MappedTo, Passes, Verdict};
pub use asked::{AskError, Asked, Flow};
pub use live::{Found, Live, Lookup};
use mapped::Mapped;
use resolve::{Resolved, resolve};
use view::View;
use walk::{Arrival, Size, Trip, Way};

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
                    bridges: (source.bridge.as_ref(), destination.bridge.as_ref()),
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
                    bridges: (None, None),
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
        let from =
            |bridge: Option<&Name>| bridge.map_or(Arrival::Start, |name| Arrival::Bridge(name.clone()));
        let way = self.follow(&request, (journey.start, from(journey.bridges.0)), here)?;
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
            explanation.answers = self.follow(&answer, (&end, from(journey.bridges.1)), here)?.hops;
            explanation.conclude(true);
        }
        Ok(())
    }

    fn follow(
        &mut self,
        trip: &Trip<'_>,
        start: (&Name, Arrival),
        here: Option<&Rc<View>>,
    ) -> Result<Way, AskError> {
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
    /// The bridges that the source and the destination are behind.
    bridges: (Option<&'a Name>, Option<&'a Name>),
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
