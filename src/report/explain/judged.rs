//! What judges a packet on one host: our table, and the chains of others.

use super::Passes;
use super::walk::{Step, is_link};
use crate::intent::NetworkIntent;
use crate::model::LinkName;
use crate::model::network::{Action, DefaultAction};
use crate::planes::firewall::{self, Connection, Guard, Hook, Packet, Ruling};
use crate::report::doctor::Entrance;
use crate::report::foreign::{Fate, Seen};

impl Step<'_> {
    /// Whether our table lets it pass at a hook, and the chains of others.
    pub(super) fn may_pass(
        &mut self,
        network: &NetworkIntent,
        hook: &Hook,
        packet: &Packet,
        connection: Connection,
    ) -> bool {
        self.hop.hook = Some(hook.name());
        self.firewall(hook, packet, connection) && self.foreign(network, hook, packet, connection)
    }

    fn firewall(&mut self, hook: &Hook, packet: &Packet, connection: Connection) -> bool {
        let policies = match self.view.policies() {
            Ok(policies) => policies,
            Err(error) => {
                self.unknown("firewall", error.to_owned());
                return true;
            }
        };
        let ruling = firewall::judge(policies, hook, packet, connection);
        let at = hook.name();
        let name = &self.trip.network.name;
        let (text, fix) = match &ruling {
            Ruling::NotJudged => (format!("{at}: not judged"), None),
            Ruling::Established => (format!("{at}: the answer to what was let pass"), None),
            Ruling::Mapping(mapping) => {
                // Of several to one target, any lets it pass.
                let mapping = self.trip.mapped.map_or(mapping, |mapped| &mapped.mapping.name);
                (format!("{at}: port mapping {mapping} sends it"), None)
            }
            Ruling::Rule(rule, action) => {
                self.hop.rule = Some(rule.clone());
                match action {
                    Action::Accept => (format!("{at}: rule {rule} accepts"), None),
                    Action::Drop => (
                        format!("{at}: rule {rule} drops it"),
                        Some(self.trip.advice.to_owned()),
                    ),
                    Action::Reject => (
                        format!("{at}: rule {rule} rejects it"),
                        Some(self.trip.advice.to_owned()),
                    ),
                }
            }
            Ruling::Default(DefaultAction::Accept) => {
                (format!("{at}: no rule names it, {name} accepts the rest"), None)
            }
            Ruling::Default(DefaultAction::Drop) => (
                format!("{at}: no rule names it, {name} drops the rest"),
                Some(self.trip.advice.to_owned()),
            ),
            Ruling::Guard(guard) => (format!("{at}: {guard}"), Some(guard_fix(guard))),
        };
        let passes = if ruling.passes() {
            Passes::Ok
        } else {
            Passes::Blocked
        };
        self.add("firewall", passes, text, fix);
        ruling.passes()
    }

    /// Whether the chains of others let it pass, on a host that is looked at.
    fn foreign(
        &mut self,
        network: &NetworkIntent,
        hook: &Hook,
        packet: &Packet,
        connection: Connection,
    ) -> bool {
        let Some(eyes) = self.view.eyes() else {
            return true;
        };
        let rules = match &eyes.foreign {
            Ok(rules) => rules,
            Err(error) => {
                self.unknown("foreign_chains", error.clone());
                return true;
            }
        };
        // Under a VRF, what comes in bears the VRF's name from here on.
        let is_ours = |link: &LinkName| is_link(network, link) || self.is_lan(link);
        let seen_as = |link: &LinkName| match &network.vrf {
            Some(vrf) if is_ours(link) => vrf.as_str().to_owned(),
            Some(_) | None => link.as_str().to_owned(),
        };
        let (iif, oif) = match hook {
            Hook::Input(from) => (seen_as(from), ""),
            Hook::Output(to) => (String::new(), to.as_str()),
            Hook::Forward(from, to) => (seen_as(from), to.as_str()),
        };
        let (established, mapped) = match connection {
            Connection::New => (false, false),
            Connection::Known => (true, false),
            Connection::Mapped(_) => (false, true),
            Connection::MappedBack(_) => (true, true),
        };
        let fate = rules.fate(&Seen {
            hook: hook.name(),
            iif: &iif,
            oif,
            source: packet.source,
            destination: packet.destination,
            protocol: Some(packet.protocol),
            port: Some(packet.port),
            established,
            mapped,
        });
        match fate {
            Fate::Passes => {
                self.ok("foreign_chains", "no chain of others drops it".to_owned());
                true
            }
            Fate::Dropped(chain) => {
                let fix = rules.way_through(&chain.dropping(), &[Entrance::of(network)]);
                self.block("foreign_chains", format!("{chain} drops it"), fix);
                false
            }
            Fate::Unclear(chain) => {
                let text = format!("{chain} drops it or not: it asks what can't be told from here");
                let fix = rules.way_through(&chain.dropping(), &[Entrance::of(network)]);
                self.add("foreign_chains", Passes::Unknown, text, fix);
                true
            }
        }
    }
}

fn guard_fix(guard: &Guard) -> String {
    match guard {
        Guard::OwnDestination | Guard::LinkLocal => {
            "send to an overlay address, a virtual IP or a LAN address of that host".to_owned()
        }
        Guard::OwnSource => "send from the overlay address: bind to the network's VRF".to_owned(),
        Guard::LanSource(lan) => {
            format!("add the source's subnet to this member's `lans`, on {lan} or via its router")
        }
        Guard::BoundSource | Guard::BoundDestination => {
            "add the subnet to the `lans` of the member that it is behind".to_owned()
        }
        Guard::NoTransit => "only hubs carry what is others': look at the routes".to_owned(),
        Guard::LeavesThrough(_) | Guard::CameFrom(_) | Guard::Entry(_) => {
            "a network is reached through its own interfaces only".to_owned()
        }
    }
}
