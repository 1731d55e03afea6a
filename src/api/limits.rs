//! Who may ask how often: per source, never for all together, so that a flood from one place is that place's alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::federation::peer::PeerId;

use ipnet::IpNet;

/// How many acceptances a source may try in [`WINDOW`].
const ACCEPTS: u32 = 30;
/// For how long they count.
const WINDOW: Duration = Duration::from_secs(60);
/// How many connections a source may have.
pub const CONNECTIONS_PER_SOURCE: usize = 8;
/// How many connections a known peer may have.
pub const CONNECTIONS_PER_PEER: usize = 16;
/// How many there may be of callers who aren't known.
pub const CONNECTIONS: usize = 256;
/// How many known peers' connections may stay between beats: each has its price in memory (some 35 KiB), and who finds none
/// opens another, which costs 0.4 ms a minute.
pub const CONNECTIONS_KEPT: usize = 256;
/// How many sources are remembered; beyond, the oldest are forgotten.
const SOURCES: usize = 16_384;

/// A source: an IPv4 address, or the /64 that an IPv6 one is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        })
    }
}

impl From<Source> for IpNet {
    fn from(Source(address): Source) -> Self {
        let bits = if address.is_ipv4() { 32 } else { 64 };
        Self::new(address, bits).unwrap_or_else(|_| address.into())
    }
}

#[derive(Debug, Default)]
struct Counts {
    accepts: BTreeMap<Source, (u32, Instant)>,
    connections: BTreeMap<Source, usize>,
    known: BTreeMap<PeerId, usize>,
    kept: usize,
    all: usize,
    /// Connections that there might not be, since the start.
    turned_away: u64,
}

/// The counts.
pub struct Limits {
    clock: fn() -> Instant,
    counts: Mutex<Counts>,
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Limits")
    }
}

impl Limits {
    /// Nobody has asked yet.
    #[must_use]
    pub fn new(clock: fn() -> Instant) -> Self {
        Self {
            clock,
            counts: Mutex::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an acceptance; says whether it may be judged.
    pub fn may_accept(&self, source: IpAddr) -> bool {
        let now = (self.clock)();
        let mut counts = self.lock();
        if counts.accepts.len() >= SOURCES {
            counts
                .accepts
                .retain(|_, (_, since)| now.duration_since(*since) < WINDOW);
            if counts.accepts.len() >= SOURCES
                && let Some(oldest) = counts
                    .accepts
                    .iter()
                    .min_by_key(|(_, (_, since))| *since)
                    .map(|(source, _)| *source)
            {
                counts.accepts.remove(&oldest);
            }
        }
        let (count, since) = counts.accepts.entry(source.into()).or_insert((0, now));
        if now.duration_since(*since) >= WINDOW {
            (*count, *since) = (0, now);
        }
        *count = count.saturating_add(1);
        *count <= ACCEPTS
    }

    /// Counts a connection, until it is [`Limits::closed`]; says whether there may be one more.
    pub fn may_connect(&self, source: IpAddr) -> bool {
        let mut counts = self.lock();
        let source = Source::from(source);
        let here = counts.connections.get(&source).copied().unwrap_or(0);
        if here >= CONNECTIONS_PER_SOURCE || counts.all >= CONNECTIONS {
            counts.turned_away += 1;
            return false;
        }
        counts.connections.insert(source, here + 1);
        counts.all += 1;
        true
    }

    /// How many connections there might not be, since the start.
    pub fn turned_away(&self) -> u64 {
        self.lock().turned_away
    }

    /// Counts a connection of a known peer, until it has [`Limits::left`]; says whether there may be one more.
    pub fn may_stay(&self, peer: PeerId) -> bool {
        let mut counts = self.lock();
        let here = counts.known.entry(peer).or_insert(0);
        let may = *here < CONNECTIONS_PER_PEER;
        *here += usize::from(may);
        counts.turned_away += u64::from(!may);
        may
    }

    /// A connection of this peer has ended.
    pub fn left(&self, peer: PeerId) {
        let mut counts = self.lock();
        if let Some(here) = counts.known.get_mut(&peer) {
            *here -= 1;
            if *here == 0 {
                counts.known.remove(&peer);
            }
        }
    }

    /// Counts a connection that stays between beats, until it is [`Limits::unkept`]; says whether there may be one more.
    pub fn may_keep(&self) -> bool {
        let mut counts = self.lock();
        let may = counts.kept < CONNECTIONS_KEPT;
        counts.kept += usize::from(may);
        may
    }

    /// A connection that stayed between beats has ended.
    pub fn unkept(&self) {
        let mut counts = self.lock();
        counts.kept = counts.kept.saturating_sub(1);
    }

    /// A connection of this source has ended, or its caller is known.
    pub fn closed(&self, source: IpAddr) {
        let mut counts = self.lock();
        let source = Source::from(source);
        if let Some(here) = counts.connections.get_mut(&source) {
            *here -= 1;
            if *here == 0 {
                counts.connections.remove(&source);
            }
            counts.all = counts.all.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the tests' clock")]
    fn clock() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_flood_from_one_place_is_that_places_alone() {
        let limits = Limits::new(clock);
        let (flood, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let passed = (0..1_000).filter(|_| limits.may_accept(flood)).count();
        assert_eq!(passed, 30);
        assert!(limits.may_accept(other));
    }

    #[test]
    fn a_64_is_one_place() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        let net = |text| IpNet::from(source(text)).to_string();
        assert_eq!(net("2001:db8:0:1::1"), "2001:db8:0:1::/64");
        assert_eq!(net("::ffff:192.0.2.1"), "192.0.2.1/32");
    }

    #[test]
    fn connections_are_counted_down_again() {
        let limits = Limits::new(clock);
        let source = "192.0.2.1".parse().unwrap();
        for _ in 0..3 {
            let open = (0..20).filter(|_| limits.may_connect(source)).count();
            assert_eq!(open, CONNECTIONS_PER_SOURCE);
            (0..open).for_each(|_| limits.closed(source));
        }
        let all = (0..1_000_u32)
            .filter(|n| limits.may_connect(IpAddr::V4((0xc000_0200 + n).into())))
            .count();
        assert_eq!(all, CONNECTIONS);
        let refused = 3 * (20 - CONNECTIONS_PER_SOURCE) + (1_000 - CONNECTIONS);
        assert_eq!(limits.turned_away(), refused as u64);
    }

    #[test]
    fn so_many_connections_are_kept_and_no_more() {
        let limits = Limits::new(clock);
        let kept = (0..CONNECTIONS_KEPT + 10).filter(|_| limits.may_keep()).count();
        assert_eq!(kept, CONNECTIONS_KEPT);
        limits.unkept();
        assert!(limits.may_keep());
        assert!(!limits.may_keep());
    }

    #[test]
    fn many_sources_are_forgotten_in_time() {
        let limits = Limits::new(clock);
        for n in 0..40_000_u32 {
            limits.may_accept(IpAddr::V4(n.into()));
        }
        assert!(limits.lock().accepts.len() <= SOURCES);
    }
}
