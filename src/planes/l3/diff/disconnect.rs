//! What goes: before anything comes, and in the order in which one thing hangs on another.

use crate::model::{LinkName, NetworkId};
use crate::planes::Phase;
use crate::sys::sysctl::SysctlPath;

use super::Differ;
use crate::planes::l3::change::Op;
use crate::planes::l3::state::{
    Family, RouteKey, RouteTo, Rule, Selector, host_sysctl, link_sysctl, network_of_table,
};

impl Differ<'_> {
    pub(super) fn disconnect(&mut self) {
        self.reset_lans();
        self.drop_routes();
        self.drop_addresses();
        self.drop_lans();
        self.drop_links();
        self.drop_rules();
        self.drop_unreachable();
    }

    fn drop_routes(&mut self) {
        if self.same_routes {
            return;
        }
        for (key, route) in &self.actual.state.routes {
            let device = route.to.device();
            let by_itself = device.is_some_and(|device| self.gone.contains(device));
            let untouched = device.is_some_and(|device| self.unusable.contains(device));
            if self.desired.routes.contains_key(key) || by_itself || untouched {
                continue;
            }
            if route.to != RouteTo::Unreachable {
                self.delete_route(key, &route.to, route.network);
            }
        }
    }

    fn delete_route(&mut self, key: &RouteKey, to: &RouteTo, network: Option<NetworkId>) {
        let op = Op::DeleteRoute {
            key: key.clone(),
            to: to.clone(),
        };
        self.push(network, Phase::Disconnect, op);
    }

    fn drop_addresses(&mut self) {
        for (name, link) in &self.actual.state.links {
            if self.gone.contains(name) || self.unusable.contains(name) {
                continue;
            }
            let wanted = &self.desired.links[name];
            for address in link.addresses.difference(&wanted.addresses) {
                let op = Op::DeleteAddress {
                    link: name.clone(),
                    address: *address,
                };
                self.push(Some(link.network), Phase::Disconnect, op);
            }
        }
    }

    /// Gives back what is no LAN any more, or one of another network, or one whose VRF goes.
    fn drop_lans(&mut self) {
        for (name, lan) in &self.actual.state.lans {
            if !self.released(name) {
                continue;
            }
            let interface = self.actual.interfaces.get(name);
            let op = Op::ReleaseLan {
                interface: name.clone(),
                keep: interface.map(|i| i.addresses.clone()).unwrap_or_default(),
            };
            self.push(Some(lan.network), Phase::Disconnect, op);
        }
    }

    /// First of all: the VRF, the rule and the routes of an interface tell that it was a LAN, and a step that fails must
    /// be known to the next round.
    fn reset_lans(&mut self) {
        for name in self.actual.interfaces.keys() {
            if !self.desired.lans.contains_key(name) {
                self.reset_forwarding(name);
            }
        }
    }

    /// Whether an interface leaves the VRF that it is in.
    pub(super) fn released(&self, name: &LinkName) -> bool {
        let Some(lan) = self.actual.state.lans.get(name) else {
            return false;
        };
        let wanted = self.desired.lans.get(name);
        let stays = wanted.is_some_and(|wanted| wanted.master == lan.master)
            || (wanted.is_some() && self.unusable.contains(name));
        let vrf_goes = lan.master.as_ref().is_some_and(|vrf| self.gone.contains(vrf));
        !stays || vrf_goes
    }

    /// A former LAN interface forwards as the rest of the host does.
    fn reset_forwarding(&mut self, name: &LinkName) {
        let sysctls = &self.actual.state.sysctls;
        let host = sysctls.get(&host_sysctl(&["net", "ipv4", "ip_forward"])).copied();
        let network = self.network_of_lan(name);
        let v4 = link_sysctl(Family::V4, name, "forwarding");
        if let (Some(host), Some(value)) = (host, sysctls.get(&v4))
            && *value != host
        {
            self.set_sysctl(network, Phase::Disconnect, v4, host);
        }
        let v6 = link_sysctl(Family::V6, name, "force_forwarding");
        if sysctls.get(&v6).is_some_and(|value| *value != 0) {
            self.set_sysctl(network, Phase::Disconnect, v6, 0);
        }
    }

    fn network_of_lan(&self, name: &LinkName) -> Option<NetworkId> {
        let ours = &self.actual.state;
        let lan = ours.lans.get(name).map(|lan| lan.network);
        let mut rules = ours.rules.iter();
        let by_rule = |rule: &Rule| (rule.selector == Selector::Iif(name.clone())).then_some(rule.table);
        lan.or_else(|| network_of_table(rules.find_map(by_rule)?))
    }

    pub(super) fn set_sysctl(
        &mut self,
        network: Option<NetworkId>,
        phase: Phase,
        path: SysctlPath,
        value: u32,
    ) {
        self.push(network, phase, Op::SetSysctl { path, value });
    }

    /// Links first, VRFs last; what moves to another VRF goes down before.
    fn drop_links(&mut self) {
        for &name in &self.moved.clone() {
            let link = &self.actual.state.links[name];
            if link.up && !self.unusable.contains(name) {
                let op = Op::SetDown { link: name.clone() };
                self.push(Some(link.network), Phase::Disconnect, op);
            }
        }
        for vrfs in [false, true] {
            for &name in &self.gone.clone() {
                let link = &self.actual.state.links[name];
                if link.kind.is_vrf() == vrfs {
                    let op = Op::DeleteLink {
                        link: name.clone(),
                        kind: link.kind,
                    };
                    self.push(Some(link.network), Phase::Disconnect, op);
                }
            }
        }
    }

    /// After the links, so that nothing of a network is ever looked up in `main`.
    fn drop_rules(&mut self) {
        for rule in self.actual.state.rules.difference(&self.desired.rules) {
            if self.rule_stuck(rule) {
                continue;
            }
            let op = Op::DeleteRule { rule: rule.clone() };
            self.push(network_of_table(rule.table), Phase::Disconnect, op);
        }
    }

    pub(super) fn rule_stuck(&self, rule: &Rule) -> bool {
        match &rule.selector {
            Selector::Iif(link) | Selector::Oif(link) => self.unusable.contains(link),
            Selector::From(_) | Selector::Own(_) | Selector::Mark(_) | Selector::L3mdev => false,
        }
    }

    fn drop_unreachable(&mut self) {
        if self.same_routes {
            return;
        }
        for (key, route) in &self.actual.state.routes {
            if route.to == RouteTo::Unreachable && !self.desired.routes.contains_key(key) {
                self.delete_route(key, &route.to, route.network);
            }
        }
    }
}
