//! What the kernel dumps → a table, where all of it is of kinds that we make. Pure.
//!
//! Anything else is for nft's own listing to say: then there is no table here, and [`super::observe`] asks nft. What both
//! read is the same, but for the hashes of what the rules say: those are of the kernel's bytes here.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest as _, Sha256};

use super::observe::{Actual, Count};
use super::policy::Family;
use super::state::{Base, Chain, Key, Rule, Set, SetKind, Table, Value};
use crate::model::network::PortRange;
use crate::sys::nft_dump::{Attributes, Dump};

/// `NFTA_…` of `linux/netfilter/nf_tables.h`, where a number means the same in several kinds of objects once.
mod attribute {
    pub(super) const TABLE_FLAGS: u16 = 2;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const CHAIN_FLAGS: u16 = 10;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const HOOK_DEVICES: [u16; 2] = [3, 4];
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const RULE_USERDATA: u16 = 7;
    pub(super) const SET_NAME: u16 = 2;
    pub(super) const SET_FLAGS: u16 = 3;
    pub(super) const SET_KEY_TYPE: u16 = 4;
    pub(super) const SET_DATA_TYPE: u16 = 6;
    pub(super) const SET_DATA_LENGTH: u16 = 7;
    pub(super) const SET_DESCRIPTION: u16 = 9;
    /// Policy, timeout, interval of collection, kind of object, expressions: we never say any of them.
    pub(super) const SET_MORE: [u16; 6] = [8, 11, 12, 15, 17, 18];
    pub(super) const DESCRIPTION_SIZE: u16 = 1;
    pub(super) const ELEMENT_KEY: u16 = 1;
    pub(super) const ELEMENT_DATA: u16 = 2;
    pub(super) const ELEMENT_FLAGS: u16 = 3;
    pub(super) const ELEMENT_KEY_END: u16 = 10;
    /// Timeout, expiration, user data, expressions, object: as with sets.
    pub(super) const ELEMENT_MORE: [u16; 6] = [4, 5, 6, 7, 9, 11];
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
    pub(super) const VERDICT_CHAIN: u16 = 2;
    pub(super) const OBJECT_NAME: u16 = 2;
    pub(super) const OBJECT_TYPE: u16 = 3;
    pub(super) const OBJECT_DATA: u16 = 4;
    pub(super) const COUNTER_BYTES: u16 = 1;
    pub(super) const COUNTER_PACKETS: u16 = 2;
}
use attribute as a;

/// `NFT_CHAIN_BASE`; `NF_ACCEPT`.
const CHAIN_BASE: u32 = 1;
const POLICY_ACCEPT: u32 = 1;
/// The hooks of `inet`, by number (`enum nf_inet_hooks`).
const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];
/// `NFT_SET_…`
const ANONYMOUS: u32 = 0x1;
const CONSTANT: u32 = 0x2;
const INTERVAL: u32 = 0x4;
const MAP: u32 = 0x8;
const CONCATENATED: u32 = 0x80;
/// `NFT_SET_ELEM_INTERVAL_END`
const INTERVAL_END: u32 = 1;
/// What nft calls the type of a key (`enum datatypes` of its `datatype.h`), six bits for each part.
const TYPE_V4: u32 = 7;
const TYPE_V6: u32 = 8;
const TYPE_SERVICE: u32 = 13;
const TYPE_IFNAME: u32 = 41;
/// `NFT_DATA_VERDICT`; `NF_DROP`, `NFT_JUMP`, `NFT_GOTO`.
const DATA_IS_VERDICT: u32 = 0xffff_ff00;
const DROP: i32 = 0;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
/// `NFT_OBJECT_COUNTER`
const OBJECT_COUNTER: u32 = 1;
/// `NFTNL_UDATA_RULE_COMMENT`
const COMMENT: u8 = 0;

/// Whether the elements of a set are wanted: those without a name of their own belong to a rule and never change.
pub(super) fn is_named(set: &Attributes<'_>) -> bool {
    set.number(a::SET_FLAGS).unwrap_or_default() & ANONYMOUS == 0
}

/// The table, if nothing in it is of a kind that we never make.
pub(super) fn decode(dump: &Dump) -> Option<Actual> {
    if dump.table.number(a::TABLE_FLAGS).unwrap_or_default() != 0 || dump.flowtables > 0 {
        return None;
    }
    let mut actual = Actual::default();
    let mut table = Table::default();
    for chain in &dump.chains {
        let base = match chain.nested(a::CHAIN_HOOK) {
            Some(hook) => Some(decode_base(chain, &hook)?),
            None => None,
        };
        let name = chain.text(a::CHAIN_NAME)?.to_owned();
        let rules = Vec::new();
        table.chains.insert(name, Chain { base, rules });
    }
    let mut bodies: BTreeMap<&str, Sha256> = BTreeMap::new();
    for rule in &dump.rules {
        let chain = rule.text(a::RULE_CHAIN)?;
        let tag = rule.bytes(a::RULE_USERDATA).and_then(comment).unwrap_or_default();
        let rules = &mut table.chains.get_mut(chain)?.rules;
        rules.push(Rule { tag, line: None });
        let hash = bodies.entry(chain).or_default();
        hash.update(rule.bytes(a::RULE_EXPRESSIONS).unwrap_or_default());
        hash.update([0]);
    }
    for (chain, hash) in bodies {
        let mut body = [0; 8];
        body.copy_from_slice(&hash.finalize()[..8]);
        actual.bodies.insert(chain.to_owned(), body);
    }
    for set in dump.sets.iter().filter(|set| is_named(set)) {
        let name = set.text(a::SET_NAME)?;
        let elements = dump.elements.get(name)?;
        table.sets.insert(name.to_owned(), decode_set(set, elements)?);
    }
    for object in &dump.objects {
        let name = object.text(a::OBJECT_NAME)?;
        actual.counters.insert(name.to_owned(), decode_counter(object)?);
        table.counters.insert(name.to_owned());
    }
    actual.table = Some(table);
    Some(actual)
}

/// The comment of a rule, in what nft keeps beside it: type, length, bytes, one after another.
fn comment(mut userdata: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = userdata {
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return Some(std::str::from_utf8(value.strip_suffix(&[0])?).ok()?.to_owned());
        }
        userdata = &rest[value.len()..];
    }
    None
}

fn decode_base(chain: &Attributes<'_>, hook: &Attributes<'_>) -> Option<Base> {
    let plain = chain.number(a::CHAIN_POLICY) == Some(POLICY_ACCEPT)
        && chain.number(a::CHAIN_FLAGS).unwrap_or(CHAIN_BASE) == CHAIN_BASE
        && !a::HOOK_DEVICES.iter().any(|devices| hook.has(*devices));
    let number = usize::try_from(hook.number(a::HOOK_NUMBER)?).ok()?;
    let priority = hook.number(a::HOOK_PRIORITY)?.cast_signed();
    let hook = HOOKS.get(number).filter(|_| plain)?;
    match chain.text(a::CHAIN_TYPE)? {
        "filter" => Some(Base::Filter { hook, priority }),
        "nat" => Some(Base::Nat { hook, priority }),
        _ => None,
    }
}

fn decode_counter(object: &Attributes<'_>) -> Option<Count> {
    let data = object.nested(a::OBJECT_DATA)?;
    (object.number(a::OBJECT_TYPE)? == OBJECT_COUNTER).then_some(Count {
        packets: data.long(a::COUNTER_PACKETS)?,
        bytes: data.long(a::COUNTER_BYTES)?,
    })
}

fn decode_kind(set: &Attributes<'_>) -> Option<SetKind> {
    let sized = set
        .nested(a::SET_DESCRIPTION)
        .is_some_and(|description| description.has(a::DESCRIPTION_SIZE));
    if sized || a::SET_MORE.iter().any(|more| set.has(*more)) {
        return None;
    }
    let pair = |part: u32| (part << 6) | part;
    let pair_ports = |part: u32| (pair(part) << 6) | TYPE_SERVICE;
    let key = set.number(a::SET_KEY_TYPE)?;
    let to_verdict = set.number(a::SET_DATA_TYPE) == Some(DATA_IS_VERDICT);
    // The zone of a connection is two bytes of no type of its own.
    let to_zone = !to_verdict && set.number(a::SET_DATA_LENGTH) == Some(2);
    let kinds = [
        (SetKind::Nets(Family::V4), INTERVAL, TYPE_V4),
        (SetKind::Nets(Family::V6), INTERVAL, TYPE_V6),
        (SetKind::Ports, INTERVAL, TYPE_SERVICE),
        (
            SetKind::Pairs(Family::V4),
            MAP | INTERVAL | CONCATENATED,
            pair(TYPE_V4),
        ),
        (
            SetKind::Pairs(Family::V6),
            MAP | INTERVAL | CONCATENATED,
            pair(TYPE_V6),
        ),
        (
            SetKind::PairsPorts(Family::V4),
            MAP | INTERVAL | CONCATENATED,
            pair_ports(TYPE_V4),
        ),
        (
            SetKind::PairsPorts(Family::V6),
            MAP | INTERVAL | CONCATENATED,
            pair_ports(TYPE_V6),
        ),
        (SetKind::Dispatch, MAP, TYPE_IFNAME),
        (SetKind::Zones, MAP, TYPE_IFNAME),
    ];
    let flags = set.number(a::SET_FLAGS).unwrap_or_default() & !CONSTANT;
    let mut found = kinds.into_iter().filter(|(kind, wanted, parts)| {
        let data = match kind {
            SetKind::Nets(_) | SetKind::Ports | SetKind::Strange(_) => !set.has(a::SET_DATA_TYPE),
            SetKind::Pairs(_) | SetKind::PairsPorts(_) | SetKind::Dispatch => to_verdict,
            SetKind::Zones => to_zone,
        };
        *wanted == flags && *parts == key && data
    });
    found.next().map(|(kind, _, _)| kind)
}

fn decode_set(set: &Attributes<'_>, elements: &[Attributes<'_>]) -> Option<Set> {
    let kind = decode_kind(set)?;
    let is_plain = |element: &Attributes<'_>| !a::ELEMENT_MORE.iter().any(|more| element.has(*more));
    if !elements.iter().all(is_plain) {
        return None;
    }
    let elements: Option<BTreeMap<Key, Value>> = match &kind {
        SetKind::Nets(_) | SetKind::Ports => intervals(elements)?
            .into_iter()
            .map(|(first, last)| Some((decode_range(&first, &last, &kind)?, Value::None)))
            .collect(),
        SetKind::Pairs(_) | SetKind::PairsPorts(_) | SetKind::Dispatch | SetKind::Zones => elements
            .iter()
            .map(|element| Some((decode_key(element, &kind)?, decode_value(element)?)))
            .collect(),
        SetKind::Strange(_) => None,
    };
    Some(Set {
        elements: elements?,
        kind,
    })
}

fn value(element: &Attributes<'_>, kind: u16) -> Option<Vec<u8>> {
    let data = element.nested(kind)?;
    data.bytes(a::DATA_VALUE).map(<[u8]>::to_vec)
}

/// The intervals of a set of single values, both ends included: the kernel keeps where each begins and, as an element of
/// its own, what follows its end.
fn intervals(elements: &[Attributes<'_>]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut ends = Vec::new();
    for element in elements {
        let is_end = element.number(a::ELEMENT_FLAGS).unwrap_or_default() & INTERVAL_END != 0;
        // Where one ends and another begins, the end comes first.
        ends.push((value(element, a::ELEMENT_KEY)?, !is_end));
    }
    ends.sort();
    let mut found = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    for (at, begins) in ends {
        match (open.take(), begins) {
            (None, true) => open = Some(at),
            (Some(first), false) => found.push((first, before(&at)?)),
            // What begins before the last one has ended is none of ours; an end alone is the lower border of the space.
            (Some(_), true) => return None,
            (None, false) => {}
        }
    }
    if let Some(first) = open {
        let last = vec![0xff; first.len()];
        found.push((first, last));
    }
    Some(found)
}

/// The number before, network order.
fn before(at: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = at.to_vec();
    for byte in bytes.iter_mut().rev() {
        let (less, borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !borrowed {
            return Some(bytes);
        }
    }
    None
}

fn decode_range(first: &[u8], last: &[u8], kind: &SetKind) -> Option<Key> {
    match kind {
        SetKind::Nets(family) => net(first, last, *family).map(Key::Net),
        SetKind::Ports => ports(first, last).map(Key::Ports),
        SetKind::Pairs(_)
        | SetKind::PairsPorts(_)
        | SetKind::Dispatch
        | SetKind::Zones
        | SetKind::Strange(_) => None,
    }
}

/// The prefix from a first to a last address; none if it is no prefix.
fn net(first: &[u8], last: &[u8], family: Family) -> Option<IpNet> {
    match family {
        Family::V4 => {
            let (first, last): ([u8; 4], [u8; 4]) = (first.try_into().ok()?, last.try_into().ok()?);
            let length = (u32::from_be_bytes(first) ^ u32::from_be_bytes(last)).leading_zeros();
            let net = Ipv4Net::new(Ipv4Addr::from(first), u8::try_from(length).ok()?).ok()?;
            (net.network().octets() == first && net.broadcast().octets() == last).then_some(net.into())
        }
        Family::V6 => {
            let (first, last): ([u8; 16], [u8; 16]) = (first.try_into().ok()?, last.try_into().ok()?);
            let length = (u128::from_be_bytes(first) ^ u128::from_be_bytes(last)).leading_zeros();
            let net = Ipv6Net::new(Ipv6Addr::from(first), u8::try_from(length).ok()?).ok()?;
            (net.network().octets() == first && net.broadcast().octets() == last).then_some(net.into())
        }
    }
}

fn ports(first: &[u8], last: &[u8]) -> Option<PortRange> {
    let port = |bytes: &[u8]| Some(u16::from_be_bytes(bytes.try_into().ok()?));
    Some(PortRange {
        first: port(first)?,
        last: port(last)?,
    })
}

/// Parts of a key begin at multiples of four bytes.
fn decode_key(element: &Attributes<'_>, kind: &SetKind) -> Option<Key> {
    let first = value(element, a::ELEMENT_KEY)?;
    let last = value(element, a::ELEMENT_KEY_END).unwrap_or_else(|| first.clone());
    let pair = |family: Family| {
        let width = match family {
            Family::V4 => 4,
            Family::V6 => 16,
        };
        let part = |at: usize| net(first.get(at..at + width)?, last.get(at..at + width)?, family);
        Some((part(0)?, part(width)?, 2 * width))
    };
    match kind {
        SetKind::Pairs(family) => pair(*family).map(|(from, to, _)| Key::Pair(from, to)),
        SetKind::PairsPorts(family) => {
            let (from, to, at) = pair(*family)?;
            let ports = ports(first.get(at..at + 2)?, last.get(at..at + 2)?)?;
            Some(Key::PairPorts(from, to, ports))
        }
        SetKind::Dispatch | SetKind::Zones => {
            let name = first.split(|byte| *byte == 0).next()?;
            Some(Key::Link(std::str::from_utf8(name).ok()?.to_owned()))
        }
        SetKind::Nets(_) | SetKind::Ports | SetKind::Strange(_) => None,
    }
}

fn decode_value(element: &Attributes<'_>) -> Option<Value> {
    let data = element.nested(a::ELEMENT_DATA)?;
    let Some(verdict) = data.nested(a::DATA_VERDICT) else {
        let zone = data.bytes(a::DATA_VALUE)?;
        return Some(Value::Zone(u16::from_ne_bytes(zone.try_into().ok()?)));
    };
    let chain = verdict.text(a::VERDICT_CHAIN);
    match verdict.number(a::VERDICT_CODE)?.cast_signed() {
        DROP => Some(Value::Drop),
        JUMP => chain.map(|chain| Value::Jump(chain.into())),
        GOTO => chain.map(|chain| Value::Goto(chain.into())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::from(u16::try_from(bytes.len() + 4).unwrap().to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(bytes);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn end(at: u16, flags: u32) -> Attributes<'static> {
        let key = attribute(a::ELEMENT_KEY, &attribute(a::DATA_VALUE, &at.to_be_bytes()));
        let flags = attribute(a::ELEMENT_FLAGS, &flags.to_be_bytes());
        Attributes::parse(&[key, flags].concat()).unwrap().into_owned()
    }

    #[test]
    fn intervals_are_what_lies_between_their_ends() {
        let found = |ends: &[(u16, u32)]| {
            let elements: Vec<Attributes> = ends.iter().map(|(at, flags)| end(*at, *flags)).collect();
            let found = intervals(&elements)?.into_iter();
            found
                .map(|(first, last)| ports(&first, &last).map(|range| (range.first, range.last)))
                .collect::<Option<Vec<_>>>()
        };
        // In whatever order, with the lower border of the space, and two that touch.
        assert_eq!(
            found(&[(90, 1), (80, 0), (0, 1), (443, 0), (90, 0), (100, 1), (444, 1)]),
            Some(vec![(80, 89), (90, 99), (443, 443)])
        );
        // Up to the last number nothing follows.
        assert_eq!(found(&[(8000, 0)]), Some(vec![(8000, 65535)]));
        assert_eq!(found(&[(1, 0), (2, 0), (3, 1)]), None);
        assert_eq!(found(&[]), Some(vec![]));
    }

    #[test]
    fn a_comment_is_found_among_other_things() {
        assert_eq!(comment(&[1, 1, 9, 0, 3, b'a', b'#', 0]), Some("a#".to_owned()));
        assert_eq!(comment(&[0, 9, b'a', 0]), None);
        assert_eq!(comment(&[]), None);
    }
}
