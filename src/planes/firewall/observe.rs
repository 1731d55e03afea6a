//! What nft lists → a table. A thin read, and a pure decoder; what the kernel dumps is quicker, where it is enough.
//!
//! What nft prints differently from what was loaded (prefix or range, order, numbers) decodes to the same value; what
//! we would never have made decodes to a `Strange` value that equals nothing of ours, so it shows as drift.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::{fmt, io};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::{Deserializer as _, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::dump;
use super::policy::Family;
use super::state::{Base, Key, Rule, Set, SetKind, Table, Value, names};
use crate::model::network::{NetworkId, PortRange};
use crate::model::ownership::NFT_TABLE;
use crate::sys::nft::{Nft, NftError};
use crate::sys::nft_dump;
use crate::sys::nft_query::generation;

/// Our table, as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// Its objects; none if there is no table.
    pub table: Option<Table>,
    /// What was counted, by counter.
    pub counters: BTreeMap<String, Count>,
    /// What the kernel's rules say, chain by chain: a hash of nft's own listing, without counts and handles.
    pub bodies: BTreeMap<String, [u8; 8]>,
}

/// What a counter counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Count {
    /// Packets: of an allowed connection only the first, as what follows passes as established.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Why our table can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The kernel doesn't say what is in it.
    #[error("can't read the table inet {NFT_TABLE} from the kernel")]
    Dump(#[source] io::Error),
    /// nft failed.
    #[error("can't list the table inet {NFT_TABLE}")]
    List(#[source] NftError),
    /// nft printed what can't be read.
    #[error("can't read nft's listing of the table inet {NFT_TABLE}")]
    Decode(#[source] serde_json::Error),
}

impl ObserveError {
    /// Whether the next try may succeed without anyone's help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Dump(_) => true,
            Self::List(error) => error.is_retryable(),
            Self::Decode(_) => false,
        }
    }
}

/// Reads our table from the kernel: what it dumps, and where that holds what we never make, what nft makes of it. Only a
/// table that has drifted holds such: what the rules say differs then from what was verified, whoever reads it.
///
/// # Errors
/// It can't be read: that is not the same as not being there.
pub async fn observe(nft: &Nft) -> Result<Actual, ObserveError> {
    let read = || match nft_dump::dump(NFT_TABLE, dump::is_named) {
        Ok(found) => Ok(dump::decode(&found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(Actual::default())),
        Err(error) => Err(error),
    };
    let dumped = tokio::task::spawn_blocking(read).await;
    match dumped.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(Some(actual)) => Ok(actual),
        Ok(None) => listed(nft).await,
        Err(error) => Err(ObserveError::Dump(error)),
    }
}

/// What nft lists.
///
/// # Errors
/// As [`observe`].
pub(super) async fn listed(nft: &Nft) -> Result<Actual, ObserveError> {
    let listing = nft.list_table(NFT_TABLE).await.map_err(ObserveError::List)?;
    match listing {
        Some(json) => decode(&json).map_err(ObserveError::Decode),
        None => Ok(Actual::default()),
    }
}

/// Our table as it was read, and the kernel's generation of the ruleset then.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Our table: shared, as it may be large.
    pub actual: Arc<Actual>,
    generation: Option<u32>,
}

/// As [`observe`], without reading again what `last` says where the kernel tells that no transaction came in between,
/// of whoever. The counts are as old as the listing.
///
/// # Errors
/// As [`observe`].
pub async fn observe_since(nft: &Nft, last: Option<Listing>) -> Result<Listing, ObserveError> {
    // What the kernel doesn't tell is read again.
    let before = generation().ok();
    match last {
        Some(listing) if before.is_some() && listing.generation == before => Ok(listing),
        Some(_) | None => {
            let actual = Arc::new(observe(nft).await?);
            let unmoved = before.is_some() && generation().ok() == before;
            Ok(Listing {
                actual,
                generation: before.filter(|_| unmoved),
            })
        }
    }
}

impl Actual {
    /// What a rule of a network matched, over all hooks and both families.
    #[must_use]
    pub fn rule_counts(&self) -> BTreeMap<(NetworkId, String), Count> {
        self.of_networks()
            .filter_map(|(id, name, count)| Some(((id, name.strip_prefix("r-")?.to_owned()), count)))
            .collect()
    }

    /// What was dropped without a rule, by network and reason: `in-deny`, `out-deny`, `from-deny` are the default at
    /// the hooks input, output and forward; `…-guard`, `bound` and `spoofed` what could never be for the network.
    #[must_use]
    pub fn drop_counts(&self) -> BTreeMap<(NetworkId, String), Count> {
        self.of_networks()
            .filter(|(_, name, _)| {
                let of_mapping = names::GUARDS.iter().any(|what| is_guard(name, what).is_some());
                !name.starts_with("r-") && *name != names::CUT_MARK && !of_mapping
            })
            .map(|(id, name, count)| ((id, name.to_owned()), count))
            .collect()
    }

    /// What port mappings let in and refused, by network, mapping and [`names::GUARDS`].
    #[must_use]
    pub fn mapping_counts(&self) -> BTreeMap<(NetworkId, String, &'static str), Count> {
        self.of_networks()
            .filter_map(|(id, name, count)| {
                let mut guards = names::GUARDS.into_iter();
                let (what, mapping) = guards.find_map(|what| Some((what, is_guard(name, what)?)))?;
                Some(((id, mapping.to_owned(), what), count))
            })
            .collect()
    }

    fn of_networks(&self) -> impl Iterator<Item = (NetworkId, &str, Count)> {
        let counters = self.counters.iter();
        counters.filter_map(|(name, count)| names::split(name).map(|(id, rest)| (id, rest, *count)))
    }
}

/// The mapping whose counter of this kind it is.
fn is_guard<'a>(name: &'a str, what: &str) -> Option<&'a str> {
    name.strip_prefix('p')?.strip_prefix(what)?.strip_prefix('-')
}

/// Reads nft's JSON (libnftables-json(5)), object by object: a large listing is never held as a tree.
///
/// # Errors
/// It is no such JSON.
pub fn decode(json: &[u8]) -> Result<Actual, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let decoder = deserializer.deserialize_map(Document)?;
    deserializer.end()?;
    Ok(decoder.finish())
}

struct Document;

impl<'de> Visitor<'de> for Document {
    type Value = Decoder;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the array `nftables`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Decoder, A::Error> {
        let mut decoder = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == "nftables" {
                decoder = Some(map.next_value_seed(Objects)?);
            } else {
                map.next_value::<serde::de::IgnoredAny>()?;
            }
        }
        decoder.ok_or_else(|| A::Error::missing_field("nftables"))
    }
}

struct Objects;

impl<'de> serde::de::DeserializeSeed<'de> for Objects {
    type Value = Decoder;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Decoder, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Objects {
    type Value = Decoder;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of nftables objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut objects: A) -> Result<Decoder, A::Error> {
        let mut decoder = Decoder::default();
        while let Some(object) = objects.next_element::<Json>()? {
            decoder.object(&object);
        }
        Ok(decoder)
    }
}

#[derive(Default)]
struct Decoder {
    table: Table,
    found: bool,
    counters: BTreeMap<String, Count>,
    bodies: BTreeMap<String, Sha256>,
}

impl Decoder {
    fn finish(self) -> Actual {
        Actual {
            table: self.found.then_some(self.table),
            counters: self.counters,
            bodies: self
                .bodies
                .into_iter()
                .map(|(chain, hash)| {
                    let digest = hash.finalize();
                    let mut body = [0; 8];
                    body.copy_from_slice(&digest[..8]);
                    (chain, body)
                })
                .collect(),
        }
    }

    fn object(&mut self, object: &Json) {
        let Some((kind, body)) = object.as_object().and_then(|object| object.iter().next()) else {
            self.table.strangers.insert(object.to_string());
            return;
        };
        let name = body["name"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "metainfo" => {}
            "table" => {
                self.found = true;
                // A dormant table judges nothing.
                if body.get("flags").is_some() {
                    self.table
                        .strangers
                        .insert(format!("table flags {}", body["flags"]));
                }
            }
            "counter" => {
                let number = |key: &str| body[key].as_u64().unwrap_or(0);
                let count = Count {
                    packets: number("packets"),
                    bytes: number("bytes"),
                };
                self.counters.insert(name.clone(), count);
                self.table.counters.insert(name);
            }
            "chain" => {
                let chain = self.table.chains.entry(name).or_default();
                chain.base = decode_base(body);
            }
            "rule" => self.rule(body),
            "set" | "map" => {
                let set = decode_set(kind == "map", body);
                self.table.sets.insert(name, set);
            }
            other => {
                self.table.strangers.insert(format!("{other} {name}"));
            }
        }
    }

    fn rule(&mut self, body: &Json) {
        let chain = body["chain"].as_str().unwrap_or_default();
        let tag = body["comment"].as_str().unwrap_or_default().to_owned();
        let hash = self.bodies.entry(chain.to_owned()).or_default();
        let mut expr = body["expr"].clone();
        strip_counts(&mut expr);
        hash.update(expr.to_string());
        hash.update([0]);
        let chain = self.table.chains.entry(chain.to_owned()).or_default();
        chain.rules.push(Rule { tag, line: None });
    }
}

/// Counts change without anyone's doing: they are no part of what a rule says.
fn strip_counts(expr: &mut Json) {
    match expr {
        Json::Array(items) => items.iter_mut().for_each(strip_counts),
        Json::Object(fields) => {
            if let Some(counter @ Json::Object(_)) = fields.get_mut("counter") {
                *counter = Json::Null;
            }
            fields.values_mut().for_each(strip_counts);
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
    }
}

fn decode_base(body: &Json) -> Option<Base> {
    let hook = body["hook"].as_str()?;
    let known = ["prerouting", "input", "forward", "output", "postrouting"];
    let plain = body["policy"] == "accept" && body.get("dev").is_none();
    let priority = body["prio"]
        .as_i64()
        .and_then(|priority| i32::try_from(priority).ok());
    let hook = known.into_iter().find(|known| *known == hook && plain);
    Some(match (hook, priority, body["type"].as_str()) {
        (Some(hook), Some(priority), Some("filter")) => Base::Filter { hook, priority },
        (Some(hook), Some(priority), Some("nat")) => Base::Nat { hook, priority },
        (_, _, _) => Base::Strange(body.to_string()),
    })
}

fn decode_set(is_map: bool, body: &Json) -> Set {
    let kind = decode_kind(is_map, body);
    let elements = body["elem"].as_array().map(Vec::as_slice).unwrap_or_default();
    let elements = elements.iter().map(|element| match (is_map, element.as_array()) {
        (true, Some(pair)) if pair.len() == 2 => (decode_key(&pair[0], &kind), decode_value(&pair[1])),
        (false, _) => (decode_key(element, &kind), Value::None),
        (true, _) => (Key::Strange(element.to_string()), Value::None),
    });
    let elements = elements.collect();
    Set { kind, elements }
}

fn decode_kind(is_map: bool, body: &Json) -> SetKind {
    // What else a declaration may say (timeout, size, counters …), we never say.
    let ours = [
        "family", "name", "table", "type", "handle", "map", "flags", "elem",
    ];
    let plain = body
        .as_object()
        .is_some_and(|fields| fields.keys().all(|key| ours.contains(&key.as_str())));
    let interval = body["flags"] == serde_json::json!(["interval"]);
    let no_flags = body.get("flags").is_none();
    let types: Vec<&str> = match &body["type"] {
        Json::String(one) => vec![one],
        Json::Array(many) => many.iter().filter_map(Json::as_str).collect(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_) => Vec::new(),
    };
    let value = body["map"].as_str();
    let kind = match (is_map, types.as_slice(), value) {
        (false, ["ipv4_addr"], _) if interval => Some(SetKind::Nets(Family::V4)),
        (false, ["ipv6_addr"], _) if interval => Some(SetKind::Nets(Family::V6)),
        (false, ["inet_service"], _) if interval => Some(SetKind::Ports),
        (true, ["ipv4_addr", "ipv4_addr"], Some("verdict")) if interval => Some(SetKind::Pairs(Family::V4)),
        (true, ["ipv6_addr", "ipv6_addr"], Some("verdict")) if interval => Some(SetKind::Pairs(Family::V6)),
        (true, ["ipv4_addr", "ipv4_addr", "inet_service"], Some("verdict")) if interval => {
            Some(SetKind::PairsPorts(Family::V4))
        }
        (true, ["ipv6_addr", "ipv6_addr", "inet_service"], Some("verdict")) if interval => {
            Some(SetKind::PairsPorts(Family::V6))
        }
        (true, ["ifname"], Some("verdict")) if no_flags => Some(SetKind::Dispatch),
        // `ct zone` has no name of its own in listings.
        (true, ["ifname"], Some(_)) if no_flags => Some(SetKind::Zones),
        _ => None,
    };
    kind.filter(|_| plain).unwrap_or_else(|| {
        let mut declaration = body.clone();
        if let Some(fields) = declaration.as_object_mut() {
            fields.remove("elem");
            fields.remove("handle");
        }
        SetKind::Strange(declaration.to_string())
    })
}

fn decode_key(key: &Json, kind: &SetKind) -> Key {
    let decoded = match kind {
        SetKind::Nets(family) => decode_net(key, *family).map(Key::Net),
        SetKind::Ports => decode_ports(key).map(Key::Ports),
        SetKind::Pairs(family) => match concat(key) {
            Some([from, to]) => decode_net(from, *family)
                .zip(decode_net(to, *family))
                .map(|(from, to)| Key::Pair(from, to)),
            Some(_) | None => None,
        },
        SetKind::PairsPorts(family) => match concat(key) {
            Some([from, to, ports]) => decode_net(from, *family)
                .zip(decode_net(to, *family))
                .zip(decode_ports(ports))
                .map(|((from, to), ports)| Key::PairPorts(from, to, ports)),
            Some(_) | None => None,
        },
        SetKind::Dispatch | SetKind::Zones => key.as_str().map(|link| Key::Link(link.to_owned())),
        SetKind::Strange(_) => None,
    };
    decoded.unwrap_or_else(|| Key::Strange(key.to_string()))
}

fn concat(key: &Json) -> Option<&[Json]> {
    key.get("concat")?.as_array().map(Vec::as_slice)
}

/// An address, a prefix, or a range that is a prefix.
fn decode_net(json: &Json, family: Family) -> Option<IpNet> {
    let net = if let Some(prefix) = json.get("prefix") {
        let len = u8::try_from(prefix["len"].as_u64()?).ok()?;
        IpNet::new(prefix["addr"].as_str()?.parse().ok()?, len).ok()?
    } else if let Some([first, last]) = json.get("range").and_then(Json::as_array).map(Vec::as_slice) {
        prefix_of_range(first.as_str()?, last.as_str()?)?
    } else {
        IpNet::from(json.as_str()?.parse::<std::net::IpAddr>().ok()?)
    };
    (Family::of(net.addr()) == family).then_some(net)
}

fn prefix_of_range(first: &str, last: &str) -> Option<IpNet> {
    if let (Ok(first), Ok(last)) = (
        first.parse::<std::net::Ipv4Addr>(),
        last.parse::<std::net::Ipv4Addr>(),
    ) {
        let len = (u32::from(first) ^ u32::from(last)).leading_zeros();
        let net = Ipv4Net::new(first, u8::try_from(len).ok()?).ok()?;
        return (net.network() == first && net.broadcast() == last).then_some(IpNet::V4(net));
    }
    let first: std::net::Ipv6Addr = first.parse().ok()?;
    let last: std::net::Ipv6Addr = last.parse().ok()?;
    let len = (u128::from(first) ^ u128::from(last)).leading_zeros();
    let net = Ipv6Net::new(first, u8::try_from(len).ok()?).ok()?;
    (net.network() == first && net.broadcast() == last).then_some(IpNet::V6(net))
}

fn decode_ports(json: &Json) -> Option<PortRange> {
    let port = |json: &Json| u16::try_from(json.as_u64()?).ok();
    let (first, last) = match json.get("range").and_then(Json::as_array).map(Vec::as_slice) {
        Some([first, last]) => (port(first)?, port(last)?),
        Some(_) => return None,
        None => (port(json)?, port(json)?),
    };
    Some(PortRange { first, last })
}

fn decode_value(json: &Json) -> Value {
    let target = |verb: &str| json.get(verb).and_then(|verdict| verdict["target"].as_str());
    if let Some(chain) = target("jump") {
        Value::Jump(chain.into())
    } else if let Some(chain) = target("goto") {
        Value::Goto(chain.into())
    } else if json.get("drop").is_some() {
        Value::Drop
    } else if let Some(zone) = json.as_u64().and_then(|zone| u16::try_from(zone).ok()) {
        Value::Zone(zone)
    } else {
        Value::Strange(json.to_string())
    }
}
