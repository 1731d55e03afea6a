//! What a table does to the first packet of a connection: our lines, as the kernel would run them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::LinkName;
use crate::model::network::{Action, NetworkId};
use crate::planes::firewall::line::{Line, Side, Step};
use crate::planes::firewall::mapping::MapStep;
use crate::planes::firewall::policy::{Class, Family, Packet};
use crate::planes::firewall::state::{Base, Key, Table, Value, names};

/// Where a packet is.
#[derive(Clone, Debug)]
pub(crate) enum Hook {
    /// For the host, from this interface.
    Input(String),
    /// From the host, over this interface.
    Output(String),
    /// From one interface to another.
    Forward(String, String),
}

/// A packet at a hook. ICMP is an echo request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) hook: Hook,
    pub(crate) packet: Packet,
    /// The network into which a port mapping has sent it, for what comes from the underlay.
    pub(crate) mapped: Option<NetworkId>,
}

enum Flow {
    Next,
    Return,
    Drop,
    Jump(String),
    Goto(String),
}

/// Whether the packet passes.
pub(crate) fn passes(table: Option<&Table>, slaves: &BTreeSet<String>, seen: &Seen) -> bool {
    let Some(table) = table else {
        return true;
    };
    let machine = Machine { table, slaves, seen };
    let wanted = match seen.hook {
        Hook::Input(_) => "input",
        Hook::Output(_) => "output",
        Hook::Forward(..) => "forward",
    };
    let mut chains: Vec<(i32, &str)> = Vec::new();
    for (name, chain) in &table.chains {
        match &chain.base {
            Some(Base::Filter { hook, priority }) if *hook == wanted => chains.push((*priority, name)),
            Some(_) | None => {}
        }
    }
    chains.sort_unstable();
    chains.into_iter().all(|(_, chain)| machine.run(chain))
}

struct Machine<'a> {
    table: &'a Table,
    slaves: &'a BTreeSet<String>,
    seen: &'a Seen,
}

impl Machine<'_> {
    /// Whether the packet survives a chain; what it calls by `goto` counts as itself.
    fn run(&self, chain: &str) -> bool {
        for rule in &self.table.chains[chain].rules {
            match self.line(rule.line.as_ref().expect("a compiled table")) {
                Flow::Next => {}
                Flow::Return => return true,
                Flow::Drop => return false,
                Flow::Goto(chain) => return self.run(&chain),
                Flow::Jump(chain) => {
                    if !self.run(&chain) {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn came_in(&self) -> Option<&str> {
        match &self.seen.hook {
            Hook::Input(link) | Hook::Forward(link, _) => Some(link),
            Hook::Output(_) => None,
        }
    }

    fn interface(&self, side: Side) -> Option<&str> {
        match (side, &self.seen.hook) {
            (Side::Out, Hook::Output(link) | Hook::Forward(_, link)) => Some(link),
            (Side::Out, Hook::Input(_)) => None,
            (Side::Slave, _) => self.came_in().filter(|link| self.slaves.contains(*link)),
            // Under a VRF the kernel names the VRF here.
            (Side::In, _) => self.came_in().filter(|link| !self.slaves.contains(*link)),
        }
    }

    fn named(&self, side: Side, links: &BTreeSet<LinkName>) -> bool {
        self.interface(side)
            .is_some_and(|link| links.iter().any(|l| l.as_str() == link))
    }

    fn line(&self, line: &Line) -> Flow {
        match line {
            Line::Dispatch(side, map) => {
                let value = self
                    .interface(*side)
                    .and_then(|link| self.table.sets[*map].elements.get(&Key::Link(link.to_owned())));
                value.map_or(Flow::Next, verdict)
            }
            // Ahead of the hooks that are judged here.
            Line::Map(_) | Line::Zone(_) | Line::SegmentsOut(_) | Line::SegmentsIn { .. } => Flow::Next,
            Line::Entry {
                network,
                links,
                family,
            } => {
                let stranger = self.came_in().is_some_and(|link| {
                    // The kernel names a slave's VRF here, which is none of them.
                    let is_ours = link == "lo" || links.iter().any(|l| l.as_str() == link);
                    self.slaves.contains(link) || !is_ours
                });
                if stranger && self.in_nets(*network, "guarded", *family, self.seen.packet.destination) {
                    Flow::Drop
                } else {
                    Flow::Next
                }
            }
            Line::Of(id, step) => self.step(*id, step),
        }
    }

    fn in_nets(&self, id: NetworkId, what: &str, family: Family, address: IpAddr) -> bool {
        let set = &self.table.sets[&names::nets(id, what, family)];
        set.elements
            .keys()
            .any(|key| matches!(key, Key::Net(net) if net.contains(&address)))
    }

    fn step(&self, id: NetworkId, step: &Step) -> Flow {
        let packet = &self.seen.packet;
        let (source, destination) = (packet.source, packet.destination);
        let here = Family::of(destination);
        let drop_if = |condition| if condition { Flow::Drop } else { Flow::Next };
        match step {
            Step::OwnDestination(family) => {
                drop_if(here == *family && !self.in_nets(id, "own", here, destination))
            }
            Step::OwnSource(family) => drop_if(here == *family && !self.in_nets(id, "own", here, source)),
            Step::LanSource {
                side,
                interface,
                family,
                nets,
                ..
            } => {
                let from_it = self.interface(*side) == Some(interface.as_str());
                drop_if(from_it && here == *family && !nets.iter().any(|net| net.contains(&source)))
            }
            Step::LeavesThrough(links) => drop_if(!self.named(Side::Out, links)),
            Step::BoundSource(family) => drop_if(here == *family && !self.in_nets(id, "bound", here, source)),
            Step::BoundDestination(family) => {
                drop_if(here == *family && !self.in_nets(id, "bound", here, destination))
            }
            Step::NoTransit(family) => drop_if(
                here == *family
                    && !self.in_nets(id, "local", here, source)
                    && !self.in_nets(id, "local", here, destination),
            ),
            Step::Layer(class, family, layer) if here == *family && class.matches(here, packet.protocol) => {
                self.layer(&names::layer(id, *class, *family, *layer))
            }
            Step::Wide {
                rule,
                part,
                class,
                family,
            } => self.wide(id, rule.as_str(), *part, *class, *family),
            Step::LinkLocal => drop_if(
                matches!(destination, IpAddr::V6(to) if to.is_unicast_link_local() || to.segments()[0] == 0xff02),
            ),
            Step::CameFrom(side, links) if self.named(*side, links) => Flow::Return,
            Step::JudgeFrom(links) if self.named(Side::In, links) => Flow::Goto(names::of(id, "from")),
            Step::Map(step) => self.mapping(id, step),
            Step::Established
            | Step::Neighbours
            | Step::Listeners
            | Step::OwnErrors(_)
            | Step::Layer(..)
            | Step::CameFrom(..)
            | Step::JudgeFrom(_)
            | Step::Log(..) => Flow::Next,
            Step::AcceptRest => Flow::Return,
            Step::DropRest(_) => Flow::Drop,
            Step::Reset(_) => drop_if(packet.protocol == 6),
            Step::Verdict { action, .. } => match action {
                Action::Accept => Flow::Return,
                Action::Drop | Action::Reject => Flow::Drop,
            },
        }
    }

    fn mapping(&self, id: NetworkId, step: &MapStep) -> Flow {
        let packet = &self.seen.packet;
        let to = |class: Class, target: IpAddr, port: u16| {
            class.matches(Family::of(packet.destination), packet.protocol)
                && (packet.destination, packet.port) == (target, port)
        };
        let passes = match step {
            MapStep::Into { class, target, port } => {
                self.seen.mapped == Some(id) && to(*class, *target, *port)
            }
            MapStep::Admit(a) => packet.source == a.from && to(a.protocol.into(), a.to, a.port),
            // The first packet of a connection is neither known nor an answer, and its guards are behind it.
            MapStep::From(..)
            | MapStep::Rate(..)
            | MapStep::Count(..)
            | MapStep::Mark(_)
            | MapStep::Known
            | MapStep::Back(..) => false,
        };
        if passes { Flow::Return } else { Flow::Next }
    }

    fn layer(&self, map: &str) -> Flow {
        let packet = &self.seen.packet;
        let within =
            |from: &IpNet, to: &IpNet| from.contains(&packet.source) && to.contains(&packet.destination);
        let hits: Vec<&Value> = self.table.sets[map]
            .elements
            .iter()
            .filter(|(key, _)| match key {
                Key::Pair(from, to) => within(from, to),
                Key::PairPorts(from, to, ports) => {
                    within(from, to) && (ports.first..=ports.last).contains(&packet.port)
                }
                Key::Net(_) | Key::Ports(_) | Key::Link(_) | Key::Strange(_) => panic!("{key:?} in {map}"),
            })
            .map(|(_, value)| value)
            .collect();
        assert!(hits.len() <= 1, "elements of {map} overlap");
        hits.first().map_or(Flow::Next, |value| verdict(value))
    }

    fn wide(&self, id: NetworkId, rule: &str, part: usize, class: Class, family: Family) -> Flow {
        let packet = &self.seen.packet;
        let here = Family::of(packet.destination);
        let has = |what, address: IpAddr| {
            let set = &self.table.sets[&names::wide(id, what, family, part, rule)];
            set.elements
                .keys()
                .any(|key| matches!(key, Key::Net(net) if net.contains(&address)))
        };
        let fits = || {
            let set = &self.table.sets[&names::wide(id, 'p', family, part, rule)];
            set.elements
                .keys()
                .any(|key| matches!(key, Key::Ports(r) if (r.first..=r.last).contains(&packet.port)))
        };
        let matches = here == family
            && class.matches(here, packet.protocol)
            && has('s', packet.source)
            && has('d', packet.destination)
            && (!class.has_ports() || fits());
        if matches {
            Flow::Goto(names::rule(id, rule))
        } else {
            Flow::Next
        }
    }
}

fn verdict(value: &Value) -> Flow {
    match value {
        Value::Jump(chain) => Flow::Jump(chain.to_string()),
        Value::Goto(chain) => Flow::Goto(chain.to_string()),
        Value::Drop => Flow::Drop,
        Value::None | Value::Zone(_) | Value::Strange(_) => panic!("{value:?} is no verdict of ours"),
    }
}
