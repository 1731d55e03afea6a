//! Changes as commands that a person could type: `ip(8)` and `sysctl(8)`.

use std::collections::BTreeSet;
use std::fmt;

use crate::model::ownership::{LINK_ALIAS, MARK_MASK, ROUTE_PROTOCOL};

use super::change::{Change, Op};
use super::state::{
    Backend, Family, HostAddress, LINK_GROUP, LinkType, MAIN_TABLE, RouteKey, RouteTo, Rule, Selector,
};

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.op.fmt(f)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLink { link, kind, mtu } => add_link(f, link.as_str(), *kind, *mtu),
            Self::SetAlias { link } => write!(f, "ip link set {link} alias {LINK_ALIAS}"),
            Self::SetMtu { link, mtu } => write!(f, "ip link set {link} mtu {mtu}"),
            Self::SetMaster {
                link,
                master: Some(master),
            } => write!(f, "ip link set {link} master {master}"),
            Self::SetMaster { link, master: None } => write!(f, "ip link set {link} nomaster"),
            Self::SetUp { link } => write!(f, "ip link set {link} up"),
            Self::SetDown { link } => write!(f, "ip link set {link} down"),
            Self::DeleteLink { link, .. } => write!(f, "ip link delete {link}"),
            Self::JoinLan {
                interface,
                master,
                keep,
            } => {
                write!(f, "ip link set {interface} master {master}")?;
                kept(f, keep)
            }
            Self::ReleaseLan { interface, keep } => {
                write!(f, "ip link set {interface} nomaster")?;
                kept(f, keep)
            }
            Self::AddAddress { link, address } => {
                write!(f, "ip address replace {address} dev {link}")?;
                match address {
                    ipnet::IpNet::V4(_) => Ok(()),
                    ipnet::IpNet::V6(_) => f.write_str(" nodad"),
                }
            }
            Self::DeleteAddress { link, address } => write!(f, "ip address delete {address} dev {link}"),
            Self::AddRoute { key, to } => route(f, "add", key, to),
            Self::ReplaceRoute { key, to } => route(f, "replace", key, to),
            Self::DeleteRoute { key, to } => route(f, "delete", key, to),
            Self::AddRule { rule } => rule_line(f, "add", rule),
            Self::DeleteRule { rule } => rule_line(f, "delete", rule),
            Self::SetSysctl { path, value } => write!(f, "sysctl -w {path}={value}"),
        }
    }
}

fn add_link(f: &mut fmt::Formatter<'_>, link: &str, kind: LinkType, mtu: Option<u32>) -> fmt::Result {
    if let LinkType::Wireguard {
        backend: Backend::Userspace,
    } = kind
    {
        return write!(f, "ip tuntap add {link} mode tun");
    }
    write!(f, "ip link add {link}")?;
    if let Some(mtu) = mtu {
        write!(f, " mtu {mtu}")?;
    }
    write!(f, " group {LINK_GROUP} type ")?;
    match kind {
        LinkType::Vrf { table } => write!(f, "vrf table {table}"),
        LinkType::Wireguard { .. } => f.write_str("wireguard"),
        LinkType::Dummy => f.write_str("dummy"),
    }
}

fn kept(f: &mut fmt::Formatter<'_>, keep: &BTreeSet<HostAddress>) -> fmt::Result {
    for (index, address) in keep.iter().enumerate() {
        f.write_str(if index == 0 { " # keeps " } else { ", " })?;
        write!(f, "{}", address.address)?;
    }
    Ok(())
}

fn route(f: &mut fmt::Formatter<'_>, verb: &str, key: &RouteKey, to: &RouteTo) -> fmt::Result {
    let family = match Family::of(&key.destination) {
        Family::V4 => "",
        Family::V6 => " -6",
    };
    write!(f, "ip{family} route {verb} ")?;
    if *to == RouteTo::Unreachable {
        f.write_str("unreachable ")?;
    }
    match key.destination.prefix_len() {
        0 => f.write_str("default")?,
        _ => write!(f, "{}", key.destination)?,
    }
    if let RouteTo::Link {
        device,
        gateway,
        source,
        mtu,
    } = to
    {
        if let Some(gateway) = gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " dev {device}")?;
        if let Some(source) = source {
            write!(f, " src {source}")?;
        }
        if let Some(mtu) = mtu {
            write!(f, " mtu {mtu}")?;
        }
    }
    if key.table != MAIN_TABLE {
        write!(f, " table {}", key.table)?;
    }
    write!(f, " proto {ROUTE_PROTOCOL} metric {}", key.metric)
}

fn rule_line(f: &mut fmt::Formatter<'_>, verb: &str, rule: &Rule) -> fmt::Result {
    let family = match rule.family {
        Family::V4 => "",
        Family::V6 => " -6",
    };
    write!(f, "ip{family} rule {verb} priority {} ", rule.priority)?;
    match &rule.selector {
        Selector::Iif(link) => write!(f, "iif {link} lookup {}", rule.table)?,
        Selector::Oif(link) => write!(f, "oif {link} lookup {}", rule.table)?,
        Selector::From(address) => write!(f, "from {address} lookup {}", rule.table)?,
        Selector::Own(net) => write!(f, "from {net} iif lo lookup {}", rule.table)?,
        Selector::Mark(mark) => {
            let table = match rule.table {
                MAIN_TABLE => "main".to_owned(),
                table => table.to_string(),
            };
            write!(f, "fwmark {mark:#x}/{MARK_MASK:#x} lookup {table}")?;
        }
        Selector::L3mdev => f.write_str("l3mdev")?,
    }
    write!(f, " protocol {ROUTE_PROTOCOL}")
}
