//! Chains of others that stand in the overlay's way.
//!
//! A chain that drops what it doesn't know is in the way until it lets all of the overlay pass: what comes to the ports on the
//! underlay, what comes out of the links for this host, and what goes through it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Facts, Found, ROOT};
use crate::intent::NetworkIntent;
use crate::model::ownership;
use crate::report::foreign::{BaseChain, Ruleset, Seen, UNKNOWN};

/// UDP's protocol number.
const UDP: u8 = 17;

/// A chain of nftables: one that hangs on no hook is called by others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// `ip`, `ip6`, `inet`.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where it hangs: `input`, `forward`, `output`; empty where it does not.
    pub hook: String,
    /// Whether what no rule of it accepts is dropped.
    pub drops: bool,
}

/// Where a network's packets meet the chains of others on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrance {
    /// The UDP ports of its links on the underlay.
    pub ports: Vec<u16>,
    /// The interfaces that its packets come in by, as chains see them: its VRF, or where it has none, its links and LANs.
    pub comes_by: Vec<String>,
    /// Its overlay links.
    pub links: Vec<String>,
    /// Its LAN interfaces.
    pub lans: Vec<String>,
    /// This host's addresses in it.
    pub addresses: Vec<IpAddr>,
}

impl Entrance {
    /// That of a network of this host.
    #[must_use]
    pub fn of(network: &NetworkIntent) -> Self {
        let links: Vec<String> = network.links.iter().map(|link| link.name.to_string()).collect();
        let mut lans: Vec<String> = network.lans.iter().map(|lan| lan.interface.to_string()).collect();
        lans.sort();
        lans.dedup();
        let v4 = network.overlay_v4.map(IpAddr::V4);
        Self {
            ports: network.links.iter().filter_map(|link| link.listen_port).collect(),
            comes_by: match &network.vrf {
                Some(vrf) => vec![vrf.to_string()],
                None => links.iter().chain(&lans).cloned().collect(),
            },
            links,
            lans,
            addresses: std::iter::once(IpAddr::V6(network.overlay_v6))
                .chain(v4)
                .collect(),
        }
    }

    /// The packets of the overlay that a hook sees. Of any protocol: a chain that lets only some pass is in the way.
    fn packets<'a>(&'a self, hook: &'a str) -> Vec<Seen<'a>> {
        let inside = |address: IpAddr, iif: &'a str, oif: &'a str| Seen {
            hook,
            iif,
            oif,
            source: address,
            destination: address,
            protocol: None,
            port: None,
            established: false,
            mapped: false,
        };
        let mut packets = Vec::new();
        match hook {
            "input" => {
                for port in &self.ports {
                    let any = [
                        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                    ];
                    packets.extend(any.map(|address| Seen {
                        protocol: Some(UDP),
                        port: Some(*port),
                        ..inside(address, UNKNOWN, "")
                    }));
                }
                for address in &self.addresses {
                    packets.extend(self.comes_by.iter().map(|iif| inside(*address, iif, "")));
                }
            }
            "forward" => {
                for address in &self.addresses {
                    for iif in &self.comes_by {
                        let is_transit =
                            |oif: &&String| !(self.lans.contains(iif) && self.lans.contains(oif));
                        let ways = self.links.iter().chain(&self.lans).filter(is_transit);
                        packets.extend(ways.map(|oif| inside(*address, iif, oif)));
                    }
                }
            }
            _ => {}
        }
        packets
    }
}

pub(super) fn judge(facts: &Facts, found: &mut Found) {
    let ruleset = match &facts.foreign {
        Ok(ruleset) => ruleset,
        Err(error) => return found.fail("foreign_chains", error, ROOT),
    };
    let entrances: &[Entrance] = match &facts.overlay {
        Some(Ok(overlay)) => &overlay.entrances,
        Some(Err(_)) | None => &[],
    };
    let before = found.0.len();
    for base in ruleset.bases() {
        if let Some(fix) = ruleset.way_through(base, entrances)
            && !lets_pass(ruleset, base, entrances)
        {
            let text = format!("{base} drops what no rule of its own accepts: the overlay's packets, too");
            found.warn("foreign_chains", text, fix);
        }
    }
    match &facts.legacy {
        Err(error) => found.fail("foreign_chains", error, ROOT),
        Ok(tables) if tables.is_empty() => {}
        Ok(tables) => {
            let text = format!(
                "iptables-legacy is in use ({}), which nft doesn't show",
                tables.join(", ")
            );
            found.warn(
                "foreign_chains",
                text,
                "iptables-legacy -S FORWARD; better: update-alternatives --set iptables /usr/sbin/iptables-nft",
            );
        }
    }
    if found.0.len() == before {
        found.ok("foreign_chains", "none drops what is the overlay's");
    }
}

/// Whether everything of the overlay passes a chain for sure. Of an unknown overlay nothing is sure.
fn lets_pass(ruleset: &Ruleset, base: &BaseChain, entrances: &[Entrance]) -> bool {
    let mut packets = entrances.iter().flat_map(|entrance| entrance.packets(&base.hook));
    !entrances.is_empty() && packets.all(|seen| ruleset.lets_pass(base, &seen))
}

/// How the overlay gets through a chain that drops what it doesn't know, with what made the chain; none where it isn't in the
/// way. The wildcards are those of our links and VRFs.
pub(in crate::report) fn way_through(chain: &Chain, all: &[Chain], entrances: &[Entrance]) -> Option<String> {
    if (chain.family.as_str(), chain.table.as_str()) == ("inet", ownership::NFT_TABLE) {
        return None;
    }
    let hook = chain.hook.as_str();
    let (is_input, is_forward) = (hook == "input", hook == "forward");
    let is_firewalld = chain.table == "firewalld" && chain.name.starts_with("filter_");
    if (!chain.drops && !is_firewalld) || !(is_input || is_forward) {
        return None;
    }
    let beside = |name: &str| {
        let same = |other: &&Chain| other.family == chain.family && other.table == chain.table;
        all.iter().filter(same).any(|other| other.name == name)
    };
    let ports: Vec<String> = entrances
        .iter()
        .flat_map(|entrance| &entrance.ports)
        .map(ToString::to_string)
        .collect();
    if is_firewalld {
        return Some(by_firewalld(entrances, &ports));
    }
    if beside("ufw-before-forward") || beside("ufw6-before-forward") {
        return Some(by_ufw(entrances, &ports, is_input));
    }
    let at = format!("nft insert rule {} {} {}", chain.family, chain.table, chain.name);
    let from_us = format!("{at} iifname {{ \"sdwan-*\", \"wg-sdwan-*\" }} accept");
    if is_forward && beside("DOCKER-USER") {
        let tool = if chain.family == "ip6" {
            "ip6tables"
        } else {
            "iptables"
        };
        let ways = ["-i sdwan-+", "-i wg-sdwan-+", "-o wg-sdwan-+"];
        let ways = ways.map(|way| format!("{tool} -I DOCKER-USER {way} -j ACCEPT"));
        return Some(ways.join("; "));
    }
    if is_forward {
        return Some(format!("{from_us}; {at} oifname \"wg-sdwan-*\" accept"));
    }
    (!ports.is_empty()).then(|| format!("{at} udp dport {{ {} }} accept; {from_us}", ports.join(", ")))
}

/// ufw(8) takes no wildcards.
fn by_ufw(entrances: &[Entrance], ports: &[String], is_input: bool) -> String {
    let mut lines: Vec<String> = Vec::new();
    if is_input {
        lines.extend(ports.iter().map(|port| format!("ufw allow {port}/udp")));
    }
    for entrance in entrances {
        let (verb, out) = if is_input {
            ("allow", &[][..])
        } else {
            ("route allow", &entrance.links[..])
        };
        lines.extend(
            entrance
                .comes_by
                .iter()
                .map(|name| format!("ufw {verb} in on {name}")),
        );
        lines.extend(out.iter().map(|name| format!("ufw {verb} out on {name}")));
    }
    lines.join("; ")
}

/// firewall-cmd(1): an interface is in one zone, and takes no wildcards. A LAN's may be in another one.
fn by_firewalld(entrances: &[Entrance], ports: &[String]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for entrance in entrances {
        let mut names: Vec<&String> = entrance.comes_by.iter().chain(&entrance.links).collect();
        names.sort();
        names.dedup();
        for name in names {
            let verb = if entrance.lans.contains(name) {
                "change"
            } else {
                "add"
            };
            lines.push(format!(
                "firewall-cmd --permanent --zone=trusted --{verb}-interface={name}"
            ));
        }
    }
    let ports = ports.iter();
    lines.extend(ports.map(|port| format!("firewall-cmd --permanent --add-port={port}/udp")));
    lines.push("firewall-cmd --reload".to_owned());
    lines.join("; ")
}
