//! Time, chaos and the timers; and what must hold after every step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sdwand::federation::gateway::{Gateway, Proposal, Settings};
use sdwand::federation::ledger::{AuditRecord, Ledger};
use sdwand::federation::liveness::Probes;
use sdwand::federation::moment::Moment;
use sdwand::federation::peer::{Peer, PeerId, SpawnMode, SpawnRole, Status};
use sdwand::federation::pki::{SiteCa, Usage};
use sdwand::federation::pulse::Pulse;
use sdwand::federation::token::{AcceptanceToken, Fingerprint};
use sdwand::federation::url::PeerUrl;
use serde_json::Value;

use crate::site::{
    BOUND, Dice, FAIR, FLUSH, Flight, MOST_WRONG, Out, Request, Running, Side, Site, TICK, Weather, node,
    standing,
};

pub(crate) struct Sim {
    pub(crate) seed: u64,
    pub(crate) dice: Dice,
    pub(crate) origin: Instant,
    pub(crate) now: Duration,
    pub(crate) weather: Weather,
    pub(crate) flights: Vec<Flight>,
    pub(crate) calls: u64,
    pub(crate) sites: [Site; 2],
    pub(crate) token: Option<AcceptanceToken>,
    /// What the token was answered with, and to whose key.
    pub(crate) consumed: Option<(Fingerprint, Value)>,
    /// How many answers were to another beat than the one that waited.
    pub(crate) misled: usize,
    /// How often an answer to the acceptance was told again.
    pub(crate) retold: usize,
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut site = |name, n| Site::new(name, n, dice.below(2 * MOST_WRONG + 1));
        let sites = [site("site-a", 1), site("site-b", 2)];
        let mut sim = Self {
            seed,
            dice,
            origin: Instant::now(),
            now: Duration::ZERO,
            weather: FAIR,
            flights: Vec::new(),
            calls: 0,
            sites,
            token: None,
            consumed: None,
            misled: 0,
            retold: 0,
        };
        for side in Side::BOTH {
            sim.boot(side);
            let proposal = Proposal {
                url: url(side.other()),
                alias: None,
                role: SpawnRole::default(),
                mode: SpawnMode::default(),
                token_ttl_seconds: None,
                expect_ca: None,
            };
            let wall = sim.wall(side);
            let n = side as u8 + 1;
            let proposed = sim.sites[side as usize]
                .up()
                .gateway
                .propose(&proposal, [n; 32], [n; 10], wall);
            let proposed = proposed.unwrap();
            if side == Side::A {
                sim.token = Some(proposed.token);
            }
            sim.check(side, false);
        }
        sim
    }

    pub(crate) fn wall(&self, side: Side) -> Moment {
        self.sites[side as usize].wall(self.now)
    }

    pub(crate) fn mono(&self) -> Instant {
        self.origin + self.now
    }

    pub(crate) fn peer(&self, side: Side) -> Peer {
        self.sites[side as usize].only_peer()
    }

    pub(crate) fn is_up(&self, side: Side) -> bool {
        self.sites[side as usize].running.is_some()
    }

    pub(crate) fn boot(&mut self, side: Side) {
        let (wall, now) = (self.wall(side), self.now);
        let site = &mut self.sites[side as usize];
        let ledger = Arc::new(Ledger::open(&site.ledger(), wall).unwrap());
        assert_eq!(ledger.doubt(), None, "seed {}", self.seed);
        let settings = Settings {
            url: Some(url(side)),
            ..Settings::default()
        };
        let (beat, stale) = (settings.heartbeat, settings.stale_after);
        let ca = SiteCa::load(&site.ca.0, &site.ca.1).unwrap();
        let gateway = Gateway::new(site.id.clone(), node(), ca, ledger, settings);
        let served = gateway.ca.issue(&site.id, &node(), Usage::Serve, wall);
        site.running = Some(Running {
            pulse: Pulse::new(beat, stale).of_start(gateway.ledger.starts()),
            probes: Probes::new(beat, stale),
            served: served.unwrap().chain,
            waiting: Vec::new(),
            flushed: now,
            gateway,
        });
    }

    /// Ends a start: in order, or as by a power cut.
    pub(crate) fn stop(&mut self, side: Side) {
        let (wall, in_order) = (self.wall(side), self.dice.one_in(2));
        let down = self.dice.millis(30_000);
        let site = &mut self.sites[side as usize];
        if in_order {
            site.up().gateway.flush(wall).unwrap();
        }
        site.running = None;
        site.starts_at = self.now + down;
    }

    /// What the timers do.
    pub(crate) fn tick(&mut self, side: Side) {
        let (wall, mono, now) = (self.wall(side), self.mono(), self.now);
        if !self.is_up(side) {
            if now >= self.sites[side as usize].starts_at {
                self.boot(side);
                self.check(side, false);
            }
            return;
        }
        while let Some(late) = {
            let waiting = &mut self.sites[side as usize].up().waiting;
            let late = waiting.iter().position(|waiting| waiting.until <= now);
            late.map(|late| waiting.remove(late))
        } {
            self.end(side, late.out, None, true);
        }
        let peers = self.sites[side as usize].peers();
        let standing = standing(&peers);
        let site = &mut self.sites[side as usize];
        let running = site.running.as_mut().unwrap();
        let silent = running.pulse.silent(&standing, mono);
        let probes = running.probes.due(&silent, mono);
        let beats = running.pulse.due(&standing, mono);
        if now.checked_sub(running.flushed).unwrap() >= FLUSH {
            running.flushed = now;
            running.gateway.flush(wall).unwrap();
        }
        let subject = |id: PeerId| {
            let trust = peers.iter().find(|peer| peer.id == id).unwrap().trust.as_ref();
            trust.unwrap().outbound_subject.clone()
        };
        let chain = |gateway: &Gateway, id| gateway.call_leaf(id, &subject(id), wall).unwrap().chain.clone();
        let mut calls = Vec::new();
        for id in probes {
            calls.push((Out::Probe(id), Request::Probe, chain(&running.gateway, id)));
        }
        for (id, sequence) in beats {
            assert!(
                sequence > site.last_beat,
                "seed {}: beats are numbered on",
                self.seed
            );
            site.last_beat = sequence;
            let mut nonce = [0; 16];
            nonce[..8].copy_from_slice(&self.dice.next().to_be_bytes());
            let request = Box::new(running.gateway.beating(id, nonce, sequence));
            let out = Out::Beat(id, request.clone());
            calls.push((out, Request::Beat(request), chain(&running.gateway, id)));
        }
        for (out, request, chain) in calls {
            self.call(side, out, request, chain);
        }
        self.check(side, false);
    }

    /// What must hold after every step at `side`.
    pub(crate) fn check(&mut self, side: Side, exchanged: bool) {
        let (seed, now) = (self.seed, self.now);
        let site = &mut self.sites[side as usize];
        let peers = site.peers();
        let ledger = Arc::clone(&site.up().gateway.ledger);
        let head = ledger.head();
        let news = usize::try_from(head.sequence - site.sequence).unwrap();
        // Most steps write nothing, and a look at the audit opens the file.
        let records = if news == 0 {
            Vec::new()
        } else {
            ledger.audit_tail(news).unwrap()
        };
        site.sequence = head.sequence;
        assert!(
            site.statuses
                .keys()
                .all(|id| peers.iter().any(|peer| peer.id == *id)),
            "seed {seed} at {now:?}: rows stay"
        );
        for peer in peers {
            let (id, after) = (peer.id, peer.status);
            assert!(
                !after.may_call() || peer.trust.is_some(),
                "seed {seed} at {now:?}"
            );
            let before = site.statuses.insert(id, after);
            if before == Some(after) {
                continue;
            }
            let what = format!("seed {seed} at {now:?}, {side:?}: {before:?} to {after}");
            let is_allowed = match before {
                None => after == Status::Proposed,
                // In one step by `accepted`.
                Some(Status::Proposed | Status::Suspended) if after == Status::Enrolled => true,
                Some(before) => before.allowed().contains(&after),
            };
            assert!(is_allowed, "{what}");
            assert!(
                after != Status::Active || exchanged,
                "{what}: nobody was heard of"
            );
            let kind = format!("federation.peer.{after}");
            let is_told = |record: &AuditRecord| record.kind == kind && record.peer == Some(id.to_string());
            assert!(
                records.iter().any(is_told),
                "{what}: the audit says nothing of it"
            );
        }
    }

    pub(crate) fn step(&mut self) {
        self.now += TICK;
        loop {
            let due = self
                .flights
                .iter()
                .enumerate()
                .filter(|(_, flight)| flight.at <= self.now);
            let Some(next) = due.min_by_key(|(_, flight)| flight.at).map(|(n, _)| n) else {
                break;
            };
            let flight = self.flights.remove(next);
            self.deliver(flight);
        }
        for side in Side::BOTH {
            self.tick(side);
        }
    }

    pub(crate) fn is_active(&self) -> bool {
        let is_active = |side: Side| self.is_up(side) && self.peer(side).status == Status::Active;
        Side::BOTH.into_iter().all(is_active)
    }

    pub(crate) fn statuses(&self) -> Vec<Status> {
        let known = self.sites.iter().flat_map(|site| site.statuses.values());
        known.copied().collect()
    }

    /// Lets everything go wrong for a while.
    pub(crate) fn chaos(&mut self, span: Duration, mut act: impl FnMut(&mut Self)) {
        let end = self.now + span;
        while self.now < end {
            // It begins badly.
            if self.now + span == end || self.dice.one_in(120) {
                self.weather = Weather {
                    lost: self.dice.below(6),
                    doubled: self.dice.below(4),
                    late: self.dice.below(15_000),
                    cut: [self.dice.one_in(3), self.dice.one_in(3)],
                };
            }
            for side in Side::BOTH {
                if self.is_up(side) && self.dice.one_in(700) {
                    self.stop(side);
                }
                if self.dice.one_in(400) {
                    self.sites[side as usize].ahead = self.dice.below(2 * MOST_WRONG + 1);
                }
            }
            act(self);
            self.step();
        }
        self.weather = FAIR;
        // Whoever is down is started again.
        for site in &mut self.sites {
            site.starts_at = site.starts_at.min(self.now);
        }
    }

    /// In a whole network, nobody touches anything.
    pub(crate) fn calm(&mut self, span: Duration, mut act: impl FnMut(&mut Self)) {
        let end = self.now + span;
        while self.now < end {
            act(self);
            self.step();
        }
    }

    /// Both become active by themselves, and stay so.
    pub(crate) fn heals(&mut self) {
        self.calm(BOUND, |_| {});
        let seed = self.seed;
        self.calm(Duration::from_secs(200), |sim| {
            assert!(
                sim.is_active(),
                "seed {seed} at {:?}: {:?}",
                sim.now,
                sim.statuses()
            );
        });
    }

    pub(crate) fn operate(&mut self, side: Side, act: impl FnOnce(&Gateway, PeerId, Moment)) {
        let (id, wall) = (self.peer(side).id, self.wall(side));
        act(&self.sites[side as usize].up().gateway, id, wall);
        self.check(side, false);
    }
}

pub(crate) fn url(side: Side) -> PeerUrl {
    let host = match side {
        Side::A => "a",
        Side::B => "b",
    };
    PeerUrl::new(&format!("https://{host}.example:8443")).unwrap()
}
