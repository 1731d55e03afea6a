//! What a scenario is made of: a site between its starts, and what is on its way.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use sdwand::federation::gateway::{Accepting, Gateway};
use sdwand::federation::liveness::Probes;
use sdwand::federation::moment::Moment;
use sdwand::federation::peer::{Peer, PeerId, Status};
use sdwand::federation::pki::SiteCa;
use sdwand::federation::pulse::Pulse;
use sdwand::federation::site::SiteId;
use sdwand::federation::wire::{AcceptRequest, HeartbeatRequest};
use sdwand::model::Name;
use serde_json::Value;

/// As the gateway's timers.
pub(crate) const TICK: Duration = Duration::from_millis(250);
pub(crate) const FLUSH: Duration = Duration::from_secs(10);
/// Both clocks together are wrong by at most 4 min 50 s; certificates bear 5 min.
pub(crate) const MOST_WRONG: u64 = 145_000;
/// By then both are active in a whole network: a call that was lost, the longest wait after failures, and a beat.
pub(crate) const BOUND: Duration = Duration::from_secs(10 + 60 + 20);

pub(crate) type Chain = Vec<CertificateDer<'static>>;

/// `SplitMix64` (Steele, Lea and Flood, 2014).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Once in so many times; 0 is never.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    pub(crate) fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.below(most + 1))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::A, Self::B];

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// A request, as the other side's listener hands it on.
#[derive(Clone)]
pub(crate) enum Request {
    Accept(Box<AcceptRequest>),
    Beat(Box<HeartbeatRequest>),
    Probe,
}

/// An HTTP answer: what it tells, or that the caller is refused.
pub(crate) type Answer = Result<Value, u16>;

#[derive(Clone)]
pub(crate) enum Packet {
    Request { request: Request, chain: Chain },
    Answer { answer: Answer, served: Chain },
}

/// What is on its way, to whom, and about which call.
#[derive(Clone)]
pub(crate) struct Flight {
    pub(crate) at: Duration,
    pub(crate) to: Side,
    pub(crate) call: u64,
    pub(crate) packet: Packet,
}

/// How bad the network is. Each packet is lost or doubled once in so many; 0 is never.
#[derive(Clone, Copy, Default)]
pub(crate) struct Weather {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    /// The longest that a packet takes, in milliseconds.
    pub(crate) late: u64,
    /// Which way nothing goes through: to A, to B.
    pub(crate) cut: [bool; 2],
}

pub(crate) const FAIR: Weather = Weather {
    lost: 0,
    doubled: 0,
    late: 40,
    cut: [false, false],
};

pub(crate) enum Out {
    Accept(Box<Accepting>),
    Beat(PeerId, Box<HeartbeatRequest>),
    Probe(PeerId),
}

pub(crate) struct Waiting {
    pub(crate) call: u64,
    pub(crate) until: Duration,
    pub(crate) out: Out,
}

/// What runs between a start and its end.
pub(crate) struct Running {
    pub(crate) gateway: Gateway,
    pub(crate) pulse: Pulse,
    pub(crate) probes: Probes,
    pub(crate) served: Chain,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) flushed: Duration,
}

pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) id: SiteId,
    pub(crate) ca: (String, String),
    /// What its wall clock is ahead, in milliseconds, from the farthest behind on.
    pub(crate) ahead: u64,
    pub(crate) running: Option<Running>,
    /// When it starts again.
    pub(crate) starts_at: Duration,
    pub(crate) statuses: BTreeMap<PeerId, Status>,
    pub(crate) sequence: i64,
    pub(crate) last_beat: u64,
}

impl Site {
    pub(crate) fn new(name: &str, n: u16, ahead: u64) -> Self {
        let id = SiteId::of(
            &Name::new(name).unwrap(),
            format!("fd00:0:{n:x}::/48").parse().unwrap(),
        );
        let (ca, key) = SiteCa::generate(&id, start()).unwrap();
        Self {
            folder: tempfile::tempdir().unwrap(),
            id,
            ca: (ca.pem().to_owned(), key.to_string()),
            ahead,
            running: None,
            starts_at: Duration::ZERO,
            statuses: BTreeMap::new(),
            sequence: 0,
            last_beat: 0,
        }
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.folder.path().join("ledger.db")
    }

    pub(crate) fn wall(&self, now: Duration) -> Moment {
        start()
            .before(Duration::from_millis(MOST_WRONG))
            .after(now + Duration::from_millis(self.ahead))
    }

    pub(crate) fn up(&mut self) -> &mut Running {
        self.running.as_mut().unwrap()
    }

    pub(crate) fn peers(&self) -> Vec<Peer> {
        let running = self.running.as_ref().unwrap();
        running
            .gateway
            .ledger
            .read(|book| book.peers().map(|peer| (**peer).clone()).collect())
    }

    pub(crate) fn only_peer(&self) -> Peer {
        let mut peers = self.peers();
        assert_eq!(peers.len(), 1);
        peers.remove(0)
    }
}

pub(crate) fn start() -> Moment {
    Moment::from_millis(1_800_000_000_000)
}

pub(crate) fn node() -> Name {
    Name::new("hub-1").unwrap()
}

pub(crate) fn standing(peers: &[Peer]) -> Vec<(PeerId, Status)> {
    peers.iter().map(|peer| (peer.id, peer.status)).collect()
}
