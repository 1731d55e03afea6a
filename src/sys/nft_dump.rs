//! One table of nftables as the kernel has it, over netlink: without a process, and without a listing to print and parse.
//! (10,000 rules: some 40 ms, where `nft -j list table` takes half a second.)
//!
//! What comes is what `linux/netfilter/nf_tables.h` calls it, object by object; what it means is for others to say.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::nft_events::NFGENMSG;
use super::nft_query::{ERROR, INET, REQUEST, SUBSYSTEM, encode, generation, next_message, terminated};

/// `NFT_MSG_GET…` of `linux/netfilter/nf_tables.h`.
const GET_TABLE: u16 = SUBSYSTEM | 1;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_RULE: u16 = SUBSYSTEM | 7;
const GET_SET: u16 = SUBSYSTEM | 0xa;
const GET_ELEMENT: u16 = SUBSYSTEM | 0xd;
const GET_OBJECT: u16 = SUBSYSTEM | 0x13;
const GET_FLOWTABLE: u16 = SUBSYSTEM | 0x17;
/// `NLM_F_DUMP`, `NLM_F_DUMP_INTR`, `NLMSG_DONE` of `linux/netlink.h`.
const DUMP: u16 = 0x300;
const INTERRUPTED: u16 = 0x10;
const DONE: u16 = 3;
/// How often a dump that a transaction came across is read again.
const ATTEMPTS: usize = 8;
/// The longest message of a dump (`netlink_recvmsg` caps what it builds at 32 KiB).
const RECEIVE_BUFFER: usize = 64 * 1024;

/// The attributes of one object, by `NFTA_…` number, as they came: sound lengths, and each is looked for when it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a>(Cow<'a, [u8]>);

impl<'a> Attributes<'a> {
    /// The attributes that stand one after another in `bytes`; none where their lengths make no sense.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, _, rest) = split(rest)?;
        }
        Some(Self(Cow::Borrowed(bytes)))
    }

    /// The same, whatever becomes of where they came from.
    #[must_use]
    pub fn into_owned(self) -> Attributes<'static> {
        Attributes(Cow::Owned(self.0.into_owned()))
    }

    fn iter(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (kind, bytes, behind) = split(rest)?;
            rest = behind;
            Some((kind, bytes))
        })
    }

    /// The bytes of an attribute.
    #[must_use]
    pub fn bytes(&self, kind: u16) -> Option<&[u8]> {
        let mut found = self.iter().filter(|(known, _)| *known == kind);
        found.next().map(|(_, bytes)| bytes)
    }

    /// Whether an attribute is there.
    #[must_use]
    pub fn has(&self, kind: u16) -> bool {
        self.bytes(kind).is_some()
    }

    /// What is in an attribute that holds others.
    #[must_use]
    pub fn nested(&self, kind: u16) -> Option<Attributes<'_>> {
        Attributes::parse(self.bytes(kind)?)
    }

    /// The attributes of a list, in order, each with what it holds.
    pub fn list(&self) -> impl Iterator<Item = Option<Attributes<'_>>> {
        self.iter().map(|(_, bytes)| Attributes::parse(bytes))
    }

    /// A text, which ends in a zero byte.
    #[must_use]
    pub fn text(&self, kind: u16) -> Option<&str> {
        std::str::from_utf8(self.bytes(kind)?.strip_suffix(&[0])?).ok()
    }

    /// A number of 32 bits, network order.
    #[must_use]
    pub fn number(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(kind)?.try_into().ok()?))
    }

    /// A number of 64 bits, network order.
    #[must_use]
    pub fn long(&self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(self.bytes(kind)?.try_into().ok()?))
    }
}

/// The first attribute: its kind, what it holds, and what stands behind it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let header = bytes.get(..4)?;
    let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
    let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
    let held = bytes.get(4..length)?;
    Some((kind, held, &bytes[length.next_multiple_of(4).min(bytes.len())..]))
}

/// The objects of one table, each kind in the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// The table itself.
    pub table: Attributes<'static>,
    /// Its chains.
    pub chains: Vec<Attributes<'static>>,
    /// Its rules, chain by chain, in order.
    pub rules: Vec<Attributes<'static>>,
    /// Its sets and maps, those without a name of their own, too.
    pub sets: Vec<Attributes<'static>>,
    /// The elements of the sets that were asked for, by the set's name.
    pub elements: BTreeMap<String, Vec<Attributes<'static>>>,
    /// Its stateful objects.
    pub objects: Vec<Attributes<'static>>,
    /// How many flowtables it has.
    pub flowtables: usize,
    /// The generation of the ruleset that all of this is of.
    pub generation: u32,
}

/// `NFTA_…_TABLE`, `NFTA_TABLE_NAME`: 1 in all of them; `NFTA_SET_NAME`, `NFTA_SET_ELEM_LIST_SET`: 2 in both.
const TABLE: u16 = 1;
const SET: u16 = 2;
/// `NFTA_SET_ELEM_LIST_ELEMENTS`
const ELEMENTS: u16 = 3;

/// Reads a table `inet <table>`, with the elements of the sets that `wanted` picks by their declaration.
///
/// # Errors
/// The kernel refused, which for a table that isn't there is `ENOENT`, or transactions came in between each time.
pub fn dump(table: &str, wanted: impl Fn(&Attributes<'_>) -> bool) -> io::Result<Dump> {
    for _ in 0..ATTEMPTS {
        let before = generation()?;
        match dump_once(table, &wanted) {
            Ok(Some(found)) if generation()? == before => {
                return Ok(Dump {
                    generation: before,
                    ..found
                });
            }
            Ok(_) => {}
            // A set may have gone in between.
            Err(error) if error.kind() == io::ErrorKind::NotFound && generation()? != before => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// None if a transaction came in between.
fn dump_once(table: &str, wanted: impl Fn(&Attributes<'_>) -> bool) -> io::Result<Option<Dump>> {
    let mut reader = Reader::open(table)?;
    let mut found = Dump {
        table: reader.table()?,
        chains: reader.all(GET_CHAIN, None)?,
        rules: reader.all(GET_RULE, None)?,
        sets: reader.all(GET_SET, None)?,
        objects: reader.all(GET_OBJECT, None)?,
        flowtables: reader.all(GET_FLOWTABLE, None)?.len(),
        ..Dump::default()
    };
    for set in found.sets.iter().filter(|set| wanted(set)) {
        let Some(name) = set.text(SET) else { continue };
        let mut elements = Vec::new();
        for part in reader.all(GET_ELEMENT, Some(name))? {
            let list = part.nested(ELEMENTS).ok_or(io::ErrorKind::InvalidData)?;
            for element in list.list() {
                elements.push(element.ok_or(io::ErrorKind::InvalidData)?.into_owned());
            }
        }
        found.elements.insert(name.to_owned(), elements);
    }
    Ok((!reader.interrupted).then_some(found))
}

/// A socket that asks one thing at a time. The kernel builds each part of a dump while the one before is received: there is
/// nothing to wait for, and where there is nothing, that is an error.
struct Reader<'a> {
    socket: Socket,
    table: &'a str,
    interrupted: bool,
}

impl<'a> Reader<'a> {
    fn open(table: &'a str) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        Ok(Self {
            socket,
            table,
            interrupted: false,
        })
    }

    fn table(&mut self) -> io::Result<Attributes<'static>> {
        let table = terminated(self.table);
        self.socket
            .send(&encode(GET_TABLE, INET, REQUEST, &[(TABLE, &table)]), 0)?;
        let mut answers = Vec::new();
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        self.socket.recv(&mut buffer, 0)?;
        self.take(&buffer, &mut answers)?;
        answers.pop().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// All objects of a kind that are in the table, or all elements of one of its sets, part by part.
    fn all(&mut self, kind: u16, set: Option<&str>) -> io::Result<Vec<Attributes<'static>>> {
        let (table, set) = (terminated(self.table), set.map(terminated));
        let mut attributes = vec![(TABLE, table.as_slice())];
        attributes.extend(set.as_ref().map(|set| (SET, set.as_slice())));
        self.socket
            .send(&encode(kind, INET, REQUEST | DUMP, &attributes), 0)?;
        let mut found = Vec::new();
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            if self.take(&buffer, &mut found)? {
                return Ok(found);
            }
        }
    }

    /// Takes the messages of one datagram that are of our table; says whether the answer ends there.
    fn take(&mut self, mut datagram: &[u8], found: &mut Vec<Attributes<'static>>) -> io::Result<bool> {
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        while !datagram.is_empty() {
            let (message, behind) = next_message(datagram)?;
            datagram = behind;
            self.interrupted |= message.flags & INTERRUPTED != 0;
            if message.kind == ERROR || message.kind == DONE {
                let code = message.code().ok_or_else(malformed)?;
                if code < 0 {
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                return Ok(true);
            }
            let body = message.body;
            let attributes = Attributes::parse(body.get(NFGENMSG..).ok_or_else(malformed)?);
            let attributes = attributes.ok_or_else(malformed)?;
            // Not every kernel filters every kind by table, and none the family.
            if body[0] == INET && attributes.text(TABLE) == Some(self.table) {
                found.push(attributes.into_owned());
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_lie_about_their_length_are_none() {
        let bytes = [8, 0, 1, 0, 0, 0, 0, 7, 6, 0, 2, 0, b'a', 0, 0, 0];
        let found = Attributes::parse(&bytes).unwrap();
        assert_eq!((found.number(1), found.text(2)), (Some(7), Some("a")));
        assert!(!found.has(3) && found.long(1).is_none());
        for cut in [1, 3, 6, 13] {
            assert_eq!(Attributes::parse(&bytes[..cut]), None, "{cut}");
        }
        assert_eq!(Attributes::parse(&[3, 0, 1, 0]), None);
        assert_eq!(Attributes::parse(&[]), Some(Attributes::default()));
    }
}
