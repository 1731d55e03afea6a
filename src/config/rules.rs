//! `[[networks.rules]]`: the firewall.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::network::{Parts, unique};
use super::reader::{Bad, Cursor, FromToml};
use super::values::quoted;
use crate::model::Name;
use crate::model::check::Object;
use crate::model::network::{Action, PortRange, Protocol, Rule, Selector};

/// The most ports or ranges of one rule.
pub(super) const MAX_PORTS: usize = 256;

/// The rules of a network, in order of `(priority, name)`.
pub(super) fn read(cursor: &Cursor<'_>, parts: &mut Parts) -> Vec<Rule> {
    let mut seen = BTreeMap::new();
    let mut rules = Vec::new();
    for rule in cursor.children("rules") {
        let read = read_rule(&rule);
        rule.finish();
        let Some(read) = read.filter(|read| unique(&rule, "rule of this network", &read.name, &mut seen))
        else {
            continue;
        };
        let network = parts.network.clone();
        parts.spots.push((
            Object::Rule {
                network,
                name: read.name.clone(),
            },
            rule.spot(),
        ));
        rules.push(read);
    }
    rules.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    rules
}

fn read_rule(cursor: &Cursor<'_>) -> Option<Rule> {
    let name: Option<Name> = cursor.need("name");
    let priority = cursor.or("priority", 1_000);
    let action: Option<Action> = cursor.need("action");
    let (from, to) = (read_selector(cursor, "from"), read_selector(cursor, "to"));
    let protocol = cursor.or("protocol", Protocol::Any);
    let ports: Vec<PortRange> = cursor.list("ports").unwrap_or_default();
    if ports.len() > MAX_PORTS {
        cursor.fail(
            "ports",
            Bad::new(format!("a rule has at most {MAX_PORTS} ports or ranges")),
        );
    } else if cursor.has("ports") && !matches!(protocol, Protocol::Tcp | Protocol::Udp) {
        let bad = Bad::new("only TCP and UDP have ports");
        cursor.fail(
            "ports",
            bad.hint("protocol = \"tcp\" or \"udp\"; for both, write two rules"),
        );
    } else if cursor.has("ports") && ports.is_empty() {
        cursor.fail(
            "ports",
            Bad::new("no port is left").hint("leave `ports` out for all ports"),
        );
        return None;
    }
    let (log, enabled) = (cursor.or("log", false), cursor.or("enabled", true));
    let (name, action) = (name?, action?);
    Some(Rule {
        name,
        priority,
        action,
        from: from?,
        to: to?,
        protocol,
        ports,
        log,
        enabled,
    })
}

/// The word for everything in a network.
struct Any;

impl FromToml for Any {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, Bad> {
        const WANTED: &str = "\"any\" or a table";
        let hint = "like { node = \"db-1\" }, { tag = \"web\" }, { lan_of = \"spoke-1\" }, { vip = \"api\" }, { cidr = \"10.0.0.0/8\" } or \"any\"";
        match value.as_str() {
            Some("any") => Ok(Self),
            Some(other) => Err(Bad::new(format!("expected {WANTED}, found {}", quoted(other))).hint(hint)),
            None => Err(Bad::wrong_type(WANTED, value).hint(hint)),
        }
    }
}

/// Who one side of a rule is.
pub(super) fn read_selector(cursor: &Cursor<'_>, key: &'static str) -> Option<Selector> {
    if !cursor.is_table(key) {
        return cursor.need::<Any>(key).map(|Any| Selector::Any);
    }
    let table = cursor.child(key)?;
    let selector = match table.one_of(&["node", "tag", "lan_of", "vip", "cidr", "federation"]) {
        Some("node") => table.get("node").map(Selector::Node),
        Some("tag") => table.get("tag").map(Selector::Tag),
        Some("lan_of") => table.get("lan_of").map(Selector::LanOf),
        Some("vip") => table.get("vip").map(Selector::Vip),
        Some("cidr") => table.get("cidr").map(Selector::Cidr),
        Some(_) => table.get("federation").map(Selector::Federation),
        None => None,
    };
    table.finish();
    selector
}
