//! What nftables' chains of others (docker, ufw, firewalld, an operator's own) do to a packet, as far as it can be told from
//! libnftables-json(5). Three answers: it passes, it is dropped and by which chain, or it depends on what isn't known.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::doctor;
use crate::model::ownership::NFT_TABLE;

/// How deep chains call each other at most (the kernel's own limit is 16).
const DEPTH: usize = 16;

/// The name of an interface that isn't known.
pub const UNKNOWN: &str = "?";

/// A packet as these chains see it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The hook: `input`, `forward`, `output`.
    pub hook: &'a str,
    /// The name of the interface that it comes in by: under a VRF, the VRF's. Empty in `output`; [`UNKNOWN`] where it may be
    /// any.
    pub iif: &'a str,
    /// The name of the interface that it goes out by; empty in `input`.
    pub oif: &'a str,
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// The number of its IP protocol; none where it is of any.
    pub protocol: Option<u8>,
    /// The destination port of TCP and UDP; none where it is any.
    pub port: Option<u16>,
    /// Whether it belongs to a connection that was let pass.
    pub established: bool,
    /// Whether a port mapping of ours let its connection in: its destination is translated by then, and once it is known,
    /// its source.
    pub mapped: bool,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// No chain drops it.
    Passes,
    /// This base chain drops it, by a rule or at its end.
    Dropped(BaseChain),
    /// This base chain may drop it: a rule asks what isn't known.
    Unclear(BaseChain),
}

/// A chain on a hook.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BaseChain {
    /// `ip`, `ip6`, `inet`.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its hook.
    pub hook: String,
    /// Whether what no rule of it accepts is dropped.
    pub drops: bool,
    priority: i64,
}

impl BaseChain {
    fn chain(&self) -> doctor::Chain {
        doctor::Chain {
            family: self.family.clone(),
            table: self.table.clone(),
            name: self.name.clone(),
            hook: self.hook.clone(),
            drops: self.drops,
        }
    }

    /// The same as one that drops at its end: where a rule of it does.
    #[must_use]
    pub fn dropping(&self) -> Self {
        Self {
            drops: true,
            ..self.clone()
        }
    }

    fn sees(&self, seen: &Seen<'_>) -> bool {
        let family = if seen.source.is_ipv4() { "ip" } else { "ip6" };
        self.hook == seen.hook && (self.family == "inet" || self.family == family)
    }
}

impl fmt::Display for BaseChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            family,
            table,
            name,
            hook,
            ..
        } = self;
        write!(f, "{family} {table} {name} ({hook})")
    }
}

type Key = (String, String, String);

/// The chains of others, with their rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ruleset {
    bases: Vec<BaseChain>,
    chains: Vec<doctor::Chain>,
    rules: BTreeMap<Key, Vec<Value>>,
}

/// What a chain may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ways {
    accepts: bool,
    drops: bool,
    /// Whether it drops by what can be read of it: no rule that may not apply, nor behind one that may have left.
    refuses: bool,
    goes_on: bool,
}

impl Ways {
    fn with(self, other: Self) -> Self {
        Self {
            accepts: self.accepts || other.accepts,
            drops: self.drops || other.drops,
            refuses: self.refuses || other.refuses,
            goes_on: self.goes_on || other.goes_on,
        }
    }
}

impl Ruleset {
    /// Reads nft's JSON: any number of listings of tables or of the whole ruleset. Our own table is left out.
    ///
    /// # Errors
    /// It is no such JSON.
    pub fn decode(listings: &[Vec<u8>]) -> Result<Self, String> {
        let mut ruleset = Self::default();
        for listing in listings {
            let listing: Value =
                serde_json::from_slice(listing).map_err(|error| format!("nft's listing: {error}"))?;
            let objects = listing["nftables"]
                .as_array()
                .ok_or("nft's listing has no array `nftables`")?;
            for object in objects {
                ruleset.take(object);
            }
        }
        ruleset
            .bases
            .sort_by(|a, b| (a.priority, a).cmp(&(b.priority, b)));
        Ok(ruleset)
    }

    fn take(&mut self, object: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if let Some(chain) = object.get("chain") {
            let base = BaseChain {
                family: text(&chain["family"]),
                table: text(&chain["table"]),
                name: text(&chain["name"]),
                hook: text(&chain["hook"]),
                drops: chain["policy"] == "drop",
                priority: chain["prio"].as_i64().unwrap_or_default(),
            };
            self.chains.push(base.chain());
            let is_ours = base.family == "inet" && base.table == NFT_TABLE;
            if !is_ours && !base.hook.is_empty() && chain["type"] == "filter" {
                self.bases.push(base);
            }
        } else if let Some(rule) = object.get("rule") {
            let key = (text(&rule["family"]), text(&rule["table"]), text(&rule["chain"]));
            let expressions = rule.get("expr").cloned().unwrap_or_default();
            self.rules.entry(key).or_default().push(expressions);
        }
    }

    /// The chains on hooks, in the order in which packets meet them.
    #[must_use]
    pub fn bases(&self) -> &[BaseChain] {
        &self.bases
    }

    /// How the overlay gets through a chain that drops, with what is there: the tool that made it, or nft. None where it isn't
    /// in the way.
    #[must_use]
    pub fn way_through(&self, chain: &BaseChain, entrances: &[doctor::Entrance]) -> Option<String> {
        doctor::way_through(&chain.chain(), &self.chains, entrances)
    }

    /// Whether a chain lets a packet pass as far as its rules can be read: what `iptables` asks by its extensions can't. One
    /// that doesn't see it does.
    #[must_use]
    pub fn lets_pass(&self, base: &BaseChain, seen: &Seen<'_>) -> bool {
        !base.sees(seen) || !self.through(base, seen).refuses
    }

    fn through(&self, base: &BaseChain, seen: &Seen<'_>) -> Ways {
        let mut ways = self.run(base, &base.name, seen, 0);
        if ways.goes_on {
            ways.accepts |= !base.drops;
            ways.drops |= base.drops;
            ways.refuses |= base.drops;
        }
        ways
    }

    /// What becomes of a packet: the first chain that drops it, else the first that may.
    #[must_use]
    pub fn fate(&self, seen: &Seen<'_>) -> Fate {
        let mut unclear = None;
        for base in self.bases.iter().filter(|base| base.sees(seen)) {
            let ways = self.through(base, seen);
            match (ways.accepts, ways.drops) {
                (_, false) => {}
                (false, true) => return Fate::Dropped(base.clone()),
                (true, true) => unclear = unclear.or_else(|| Some(base.clone())),
            }
        }
        unclear.map_or(Fate::Passes, Fate::Unclear)
    }

    fn run(&self, base: &BaseChain, chain: &str, seen: &Seen<'_>, depth: usize) -> Ways {
        let key = (base.family.clone(), base.table.clone(), chain.to_owned());
        let mut ways = Ways::default();
        // Whether a rule that can't be read may have left the chain.
        let mut in_doubt = false;
        let on = Ways {
            goes_on: true,
            ..Ways::default()
        };
        if depth > DEPTH {
            return Ways {
                accepts: true,
                drops: true,
                refuses: false,
                goes_on: true,
            };
        }
        for rule in self.rules.get(&key).into_iter().flatten() {
            let (sure, verdict) = judge(rule, seen);
            if sure == Some(false) {
                continue;
            }
            let found = match verdict {
                None => on,
                Some(Verdict::Accept) => Ways {
                    accepts: true,
                    ..Ways::default()
                },
                Some(Verdict::Drop) => Ways {
                    drops: true,
                    refuses: true,
                    ..Ways::default()
                },
                Some(Verdict::Return) => {
                    ways = ways.with(on);
                    if sure == Some(true) {
                        return ways;
                    }
                    in_doubt = true;
                    continue;
                }
                Some(Verdict::Jump(to)) => self.run(base, &to, seen, depth + 1),
                Some(Verdict::Goto(to)) => {
                    let mut found = self.run(base, &to, seen, depth + 1);
                    found.refuses &= sure == Some(true) && !in_doubt;
                    ways = ways.with(found);
                    if sure == Some(true) {
                        return ways;
                    }
                    in_doubt = true;
                    continue;
                }
                Some(Verdict::Unknown) => Ways {
                    accepts: true,
                    drops: true,
                    refuses: false,
                    goes_on: true,
                },
            };
            ways.accepts |= found.accepts;
            ways.drops |= found.drops;
            ways.refuses |= found.refuses && sure == Some(true) && !in_doubt;
            if sure == Some(true) && !found.goes_on {
                return ways;
            }
        }
        ways.with(on)
    }
}

enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// A verdict map, a queue.
    Unknown,
}

/// Whether a rule's conditions hold, none where that isn't known, and what it then does.
fn judge(rule: &Value, seen: &Seen<'_>) -> (Option<bool>, Option<Verdict>) {
    let mut sure = Some(true);
    let mut verdict = None;
    for expression in rule.as_array().into_iter().flatten() {
        let Some((kind, body)) = expression.as_object().and_then(|object| object.iter().next()) else {
            sure = sure.filter(|sure| !sure);
            continue;
        };
        let target = || body["target"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "match" => match (condition(body, seen), sure) {
                (Some(false), _) | (_, Some(false)) => sure = Some(false),
                (None, _) | (_, None) => sure = None,
                (Some(true), Some(true)) => {}
            },
            "accept" => verdict = Some(Verdict::Accept),
            "drop" | "reject" => verdict = Some(Verdict::Drop),
            "return" => verdict = Some(Verdict::Return),
            "jump" => verdict = Some(Verdict::Jump(target())),
            "goto" => verdict = Some(Verdict::Goto(target())),
            "counter" | "log" | "mangle" | "notrack" | "comment" => {}
            "vmap" | "queue" => verdict = Some(Verdict::Unknown),
            // Limits, sets, what iptables' extensions ask.
            _ => sure = sure.filter(|sure| !sure),
        }
    }
    (sure, verdict)
}

/// Whether a condition holds; none where that isn't known.
fn condition(body: &Value, seen: &Seen<'_>) -> Option<bool> {
    let (left, right) = (&body["left"], &body["right"]);
    let holds = if let Some(key) = left["meta"]["key"].as_str() {
        match key {
            "iifname" | "iif" => named(right, seen.iif),
            "oifname" | "oif" => named(right, seen.oif),
            "l4proto" => protocol(right, seen),
            "nfproto" => one_of(right, &|value| {
                Some(value == if seen.source.is_ipv4() { "ipv4" } else { "ipv6" })
            }),
            _ => None,
        }
    } else if let Some(key) = left["ct"]["key"].as_str() {
        match key {
            "state" => {
                let state = if seen.established { "established" } else { "new" };
                one_of(right, &|value| Some(value == state))
            }
            // Nothing of the overlay is translated before it is judged, but by port mappings.
            "status" => one_of(right, &|value| match value {
                "dnat" => Some(seen.mapped),
                "snat" => Some(seen.mapped && seen.established),
                _ => None,
            }),
            _ => None,
        }
    } else {
        payload(&left["payload"], right, seen)
    };
    match body["op"].as_str() {
        Some("==" | "in") => holds,
        Some("!=") => holds.map(|holds| !holds),
        _ => None,
    }
}

fn payload(left: &Value, right: &Value, seen: &Seen<'_>) -> Option<bool> {
    let of = left["protocol"].as_str()?;
    let is_v4 = seen.source.is_ipv4();
    if (of == "ip" && !is_v4) || (of == "ip6" && is_v4) {
        return Some(false);
    }
    let number = match of {
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmp" => Some(1),
        "icmpv6" => Some(58),
        _ => None,
    };
    if let (Some(number), Some(protocol)) = (number, seen.protocol)
        && number != protocol
    {
        return Some(false);
    }
    match (of, left["field"].as_str()?) {
        ("ip" | "ip6", "saddr") => within(right, seen.source),
        ("ip" | "ip6", "daddr") => within(right, seen.destination),
        ("ip", "protocol") | ("ip6", "nexthdr") => protocol(right, seen),
        ("tcp" | "udp" | "th", "dport") => {
            seen.protocol?;
            let port = u64::from(seen.port?);
            one_of_values(right, &|value| {
                if let Some(number) = value.as_u64() {
                    return Some(number == port);
                }
                let range = value["range"].as_array()?;
                Some((range.first()?.as_u64()?..=range.get(1)?.as_u64()?).contains(&port))
            })
        }
        ("icmp" | "icmpv6", "type") => {
            let is = if seen.established {
                "echo-reply"
            } else {
                "echo-request"
            };
            seen.protocol?;
            one_of(right, &|value| Some(value == is))
        }
        _ => None,
    }
}

fn protocol(right: &Value, seen: &Seen<'_>) -> Option<bool> {
    let number = u64::from(seen.protocol?);
    one_of_values(right, &|value| {
        if let Some(is) = value.as_u64() {
            return Some(is == number);
        }
        match value.as_str()? {
            "tcp" => Some(number == 6),
            "udp" => Some(number == 17),
            "icmp" => Some(number == 1),
            "icmpv6" | "ipv6-icmp" => Some(number == 58),
            // A set by name.
            text if text.starts_with('@') => None,
            _ => Some(false),
        }
    })
}

/// An interface's name; nft writes a wildcard as a star at the end.
fn named(right: &Value, name: &str) -> Option<bool> {
    if name == UNKNOWN {
        return None;
    }
    one_of(right, &|value| {
        Some(match value.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => value == name,
        })
    })
}

fn within(right: &Value, address: IpAddr) -> Option<bool> {
    one_of_values(right, &|value| {
        if let Some(text) = value.as_str() {
            // A set by name isn't an address.
            return Some(text.parse::<IpAddr>().ok()? == address);
        }
        let prefix = &value["prefix"];
        let length = u8::try_from(prefix["len"].as_u64()?).ok()?;
        let net = IpNet::new(prefix["addr"].as_str()?.parse().ok()?, length).ok()?;
        Some(net.contains(&address))
    })
}

fn one_of(right: &Value, is: &dyn Fn(&str) -> Option<bool>) -> Option<bool> {
    one_of_values(right, &|value| match value.as_str() {
        Some(text) if !text.starts_with('@') => is(text),
        Some(_) | None => None,
    })
}

/// Whether any of a value, a list or an anonymous set is it.
fn one_of_values(right: &Value, is: &dyn Fn(&Value) -> Option<bool>) -> Option<bool> {
    let values = right.get("set").unwrap_or(right);
    match values.as_array() {
        None => is(values),
        Some(values) => {
            let found: Vec<Option<bool>> = values.iter().map(is).collect();
            if found.contains(&Some(true)) {
                Some(true)
            } else if found.contains(&None) {
                None
            } else {
                Some(false)
            }
        }
    }
}

#[cfg(test)]
mod tests;
