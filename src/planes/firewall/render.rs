//! Objects → nft scripts.
//!
//! Everything is one command a line on the table, so that a whole table and a change of it read alike.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::line::ports_text;
use super::policy::Family;
use super::state::{Base, Chain, Key, Rule, Set, SetKind, State, Table, Value};
use crate::model::ownership::NFT_TABLE;

/// The whole table as an nft script, which replaces the table if it is there, in one transaction. Without networks, it
/// removes it.
#[must_use]
pub fn render_script(state: &State) -> String {
    match &state.table {
        Some(table) => remove_text() + &render_table(table, &BTreeSet::new()),
        None => remove_text(),
    }
}

/// A table that isn't there comes, as a whole; fails where somebody else was quicker.
pub(super) fn create_text(table: &Table, marks: &BTreeSet<String>) -> String {
    format!("create table inet {NFT_TABLE}\n{}", render_table(table, marks))
}

/// The table goes, whether it is there or not. (The kernel makes whoever deletes wait for an RCU grace period, some
/// 15 ms: not where there is nothing to delete.)
pub(super) fn remove_text() -> String {
    format!("add table inet {NFT_TABLE}\ndelete table inet {NFT_TABLE}\n")
}

/// A table that isn't there yet, with counters that mark what is still to be done.
pub(super) fn render_table(table: &Table, marks: &BTreeSet<String>) -> String {
    let mut script = Script::default();
    script.line(format_args!("add table inet {NFT_TABLE}"));
    for counter in table.counters.union(marks) {
        script.add_counter(counter);
    }
    for (name, chain) in &table.chains {
        script.add_chain(name, chain);
    }
    for (name, set) in &table.sets {
        script.add_set(name, set);
        script.add_elements(name, set.elements.iter());
    }
    for (name, chain) in &table.chains {
        script.add_rules(name, &chain.rules);
    }
    script.text
}

/// How many elements go into one command.
const BATCH: usize = 512;

/// A script as it grows.
#[derive(Default)]
pub(super) struct Script {
    pub(super) text: String,
}

impl Script {
    pub(super) fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.text, "{line}");
    }

    pub(super) fn add_counter(&mut self, name: &str) {
        self.line(format_args!("add counter inet {NFT_TABLE} {name}"));
    }

    pub(super) fn add_chain(&mut self, name: &str, chain: &Chain) {
        match &chain.base {
            Some(Base::Filter { hook, priority }) => self.line(format_args!(
                "add chain inet {NFT_TABLE} {name} {{ type filter hook {hook} priority {priority}; policy accept; }}"
            )),
            Some(Base::Nat { hook, priority }) => self.line(format_args!(
                "add chain inet {NFT_TABLE} {name} {{ type nat hook {hook} priority {priority}; policy accept; }}"
            )),
            Some(Base::Strange(_)) | None => self.line(format_args!("add chain inet {NFT_TABLE} {name}")),
        }
    }

    pub(super) fn add_set(&mut self, name: &str, set: &Set) {
        let (what, declaration) = declaration(&set.kind);
        self.line(format_args!(
            "add {what} inet {NFT_TABLE} {name} {{ {declaration} }}"
        ));
    }

    pub(super) fn delete_set(&mut self, name: &str, set: &Set) {
        let (what, _) = declaration(&set.kind);
        self.line(format_args!("delete {what} inet {NFT_TABLE} {name}"));
    }

    pub(super) fn flush_set(&mut self, name: &str, set: &Set) {
        let (what, _) = declaration(&set.kind);
        self.line(format_args!("flush {what} inet {NFT_TABLE} {name}"));
    }

    pub(super) fn add_elements<'a>(
        &mut self,
        set: &str,
        elements: impl Iterator<Item = (&'a Key, &'a Value)>,
    ) {
        self.elements("add", set, elements, true);
    }

    pub(super) fn delete_elements<'a>(
        &mut self,
        set: &str,
        elements: impl Iterator<Item = (&'a Key, &'a Value)>,
    ) {
        self.elements("delete", set, elements, false);
    }

    fn elements<'a>(
        &mut self,
        verb: &str,
        set: &str,
        elements: impl Iterator<Item = (&'a Key, &'a Value)>,
        with_value: bool,
    ) {
        let mut open = 0;
        for (key, value) in elements {
            if open == 0 {
                let _ = write!(self.text, "{verb} element inet {NFT_TABLE} {set} {{ ");
            } else {
                self.text.push_str(", ");
            }
            write_key(&mut self.text, key);
            if with_value {
                write_value(&mut self.text, value);
            }
            open += 1;
            if open == BATCH {
                self.text.push_str(" }\n");
                open = 0;
            }
        }
        if open > 0 {
            self.text.push_str(" }\n");
        }
    }

    pub(super) fn add_rules(&mut self, chain: &str, rules: &[Rule]) {
        for rule in rules {
            if let Some(line) = &rule.line {
                self.line(format_args!(
                    "add rule inet {NFT_TABLE} {chain} {line} comment \"{}\"",
                    rule.tag
                ));
            }
        }
    }
}

/// Whether it is a set or a map, and what stands between its braces.
fn declaration(kind: &SetKind) -> (&'static str, &'static str) {
    match kind {
        SetKind::Nets(Family::V4) => ("set", "type ipv4_addr; flags interval;"),
        SetKind::Nets(Family::V6) => ("set", "type ipv6_addr; flags interval;"),
        SetKind::Ports => ("set", "type inet_service; flags interval;"),
        SetKind::Pairs(Family::V4) => ("map", "type ipv4_addr . ipv4_addr : verdict; flags interval;"),
        SetKind::Pairs(Family::V6) => ("map", "type ipv6_addr . ipv6_addr : verdict; flags interval;"),
        SetKind::PairsPorts(Family::V4) => (
            "map",
            "type ipv4_addr . ipv4_addr . inet_service : verdict; flags interval;",
        ),
        SetKind::PairsPorts(Family::V6) => (
            "map",
            "type ipv6_addr . ipv6_addr . inet_service : verdict; flags interval;",
        ),
        SetKind::Dispatch => ("map", "type ifname : verdict;"),
        SetKind::Zones => ("map", "typeof iifname : ct zone;"),
        // Never made by us: the caller replaces the whole table instead.
        SetKind::Strange(_) => ("set", ""),
    }
}

fn write_key(text: &mut String, key: &Key) {
    let _ = match key {
        Key::Net(net) => write!(text, "{net}"),
        Key::Ports(range) => write!(text, "{}", ports_text(*range)),
        Key::Pair(from, to) => write!(text, "{from} . {to}"),
        Key::PairPorts(from, to, range) => write!(text, "{from} . {to} . {}", ports_text(*range)),
        Key::Link(link) => write!(text, "\"{link}\""),
        Key::Strange(json) => write!(text, "{json}"),
    };
}

fn write_value(text: &mut String, value: &Value) {
    let _ = match value {
        Value::None => Ok(()),
        Value::Jump(chain) => write!(text, " : jump {chain}"),
        Value::Goto(chain) => write!(text, " : goto {chain}"),
        Value::Drop => write!(text, " : drop"),
        Value::Zone(zone) => write!(text, " : {zone}"),
        Value::Strange(json) => write!(text, " : {json}"),
    };
}
