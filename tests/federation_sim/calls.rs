//! The network, and what both ends of a call do.

use sdwand::federation::client::PATIENCE;
use sdwand::federation::dial::DialError;
use sdwand::federation::liveness::{Probe, Remedy, patience};
use sdwand::federation::peer::{PeerId, Status};
use sdwand::federation::pki::verify::{Purpose, fingerprint_of, verify_path};
use sdwand::federation::pki::{SiteCa, Usage, certificates_of};
use sdwand::federation::wire::{AcceptAnswer, AcceptRequest};

use crate::sim::Sim;
use crate::site::{Answer, Chain, Flight, Out, Packet, Request, Side, Site, Waiting, node, standing};

impl Sim {
    pub(crate) fn send(&mut self, to: Side, call: u64, packet: &Packet) {
        let copies = 1 + u64::from(self.dice.one_in(self.weather.doubled));
        for _ in 0..copies {
            if self.weather.cut[to as usize] || self.dice.one_in(self.weather.lost) {
                continue;
            }
            let at = self.now + self.dice.millis(self.weather.late);
            let packet = packet.clone();
            self.flights.push(Flight { at, to, call, packet });
        }
    }

    pub(crate) fn call(&mut self, from: Side, out: Out, request: Request, chain: Chain) {
        self.calls += 1;
        let (call, now) = (self.calls, self.now);
        let running = self.sites[from as usize].up();
        let patience = match &out {
            Out::Accept(_) | Out::Beat(..) => PATIENCE,
            Out::Probe(_) => patience(running.gateway.settings.stale_after),
        };
        let until = now + patience;
        running.waiting.push(Waiting { call, until, out });
        self.send(from.other(), call, &Packet::Request { request, chain });
    }

    /// B's operator takes the token to A, unless a call is out or it is done.
    pub(crate) fn take(&mut self) {
        if !self.is_up(Side::B) || self.peer(Side::B).status != Status::Proposed {
            return;
        }
        let (id, wall) = (self.peer(Side::B).id, self.wall(Side::B));
        let token = self.token.as_ref().unwrap().reveal();
        let running = self.sites[Side::B as usize].up();
        if running
            .waiting
            .iter()
            .any(|waiting| matches!(waiting.out, Out::Accept(_)))
        {
            return;
        }
        let gateway = &running.gateway;
        let accepting = gateway.accepting(id, &token).unwrap();
        let usage = Usage::Call { subject: "accept" };
        let leaf = gateway.ca.issue(&gateway.site, &node(), usage, wall).unwrap();
        let request = Request::Accept(Box::new(accepting.request.clone()));
        self.call(Side::B, Out::Accept(Box::new(accepting)), request, leaf.chain);
    }

    /// Somebody has seen the token, and comes with a CA of its own.
    pub(crate) fn steal(&mut self) {
        if !self.is_up(Side::A) {
            return;
        }
        let wall = self.wall(Side::A);
        let thief = Site::new("site-e", 5, 0);
        let ca = SiteCa::load(&thief.ca.0, &thief.ca.1).unwrap();
        let usage = Usage::Call { subject: "accept" };
        let chain = ca.issue(&thief.id, &node(), usage, wall).unwrap().chain;
        let request = AcceptRequest {
            acceptance_token: Some(self.token.as_ref().unwrap().reveal()),
            contract_version: Some(serde_json::json!(1)),
            peer_ca_bundle_pem: Some(thief.ca.0.clone()),
            caller_inbound_subject: Some(PeerId(wall.uuid([9; 10])).subject()),
            ..AcceptRequest::default()
        };
        let _ = self.serve(Side::A, Request::Accept(Box::new(request)), &chain);
    }

    /// What the listener does with a request.
    pub(crate) fn serve(&mut self, side: Side, request: Request, chain: &Chain) -> Answer {
        let (wall, mono) = (self.wall(side), self.mono());
        let running = self.sites[side as usize].up();
        let gateway = &running.gateway;
        let mut exchanged = false;
        let answer = match request {
            Request::Accept(request) => {
                let accepted = gateway.accept(*request, chain, [0; 32], wall);
                accepted.map_err(|error| error.status().0).inspect(|answer| {
                    let root = fingerprint_of(&chain[1]).unwrap();
                    self.retold += usize::from(self.consumed.is_some());
                    let given = self.consumed.get_or_insert((root, answer.clone()));
                    assert_eq!(
                        *given,
                        (root, answer.clone()),
                        "seed {}: one token, one site",
                        self.seed
                    );
                })
            }
            Request::Beat(request) => gateway.identify(chain, wall).map_err(|_| 401).and_then(|peer| {
                let (_, answer) = gateway.beaten(chain, *request, wall).map_err(|_| 401_u16)?;
                running.pulse.heard(peer.id, mono);
                exchanged = true;
                Ok(serde_json::to_value(answer).unwrap())
            }),
            Request::Probe => gateway
                .identify(chain, wall)
                .map(|_| serde_json::to_value(gateway.trust_bundle(wall)).unwrap())
                .map_err(|_| 401),
        };
        self.check(side, exchanged);
        answer
    }

    pub(crate) fn deliver(&mut self, flight: Flight) {
        let Flight { to, call, packet, .. } = flight;
        if !self.is_up(to) {
            return;
        }
        match packet {
            Packet::Request { request, chain } => {
                let answer = self.serve(to, request, &chain);
                let served = self.sites[to as usize].up().served.clone();
                self.send(to.other(), call, &Packet::Answer { answer, served });
            }
            Packet::Answer { answer, served } => {
                let waiting = &mut self.sites[to as usize].up().waiting;
                let own = waiting.iter().position(|waiting| waiting.call == call);
                // An answer that comes too late is taken to the next beat: its nonce must tell.
                let next = || {
                    waiting
                        .iter()
                        .position(|waiting| matches!(waiting.out, Out::Beat(..)))
                };
                let is_beats = answer.as_ref().is_ok_and(|answer| answer.get("nonce").is_some());
                let found = own.or_else(|| if is_beats { next() } else { None });
                if let Some(found) = found {
                    let out = waiting.remove(found).out;
                    self.end(to, out, Some((answer, served)), own.is_some());
                }
            }
        }
    }

    /// What the caller does when its call has ended, with an answer or without.
    pub(crate) fn end(&mut self, side: Side, out: Out, came: Option<(Answer, Chain)>, is_own: bool) {
        let (wall, mono, seed) = (self.wall(side), self.mono(), self.seed);
        let jitter = f64::from(u8::try_from(self.dice.below(256)).unwrap()) / 255.0;
        let peers = self.sites[side as usize].peers();
        let running = self.sites[side as usize].up();
        let gateway = &running.gateway;
        let mut exchanged = false;
        // As TLS does: whoever answers must be the peer, by its anchors alone.
        let is_peer = |id: PeerId, served: &Chain| {
            let trust = peers
                .iter()
                .find(|peer| peer.id == id)
                .and_then(|peer| peer.trust.as_ref());
            let anchors: Chain = trust
                .into_iter()
                .flat_map(|trust| trust.anchors_at(wall))
                .flat_map(|anchor| certificates_of(&anchor.pem).unwrap())
                .collect();
            verify_path(served, &anchors, Purpose::Server, wall).is_ok()
        };
        match (out, came) {
            (Out::Accept(_), None | Some((Err(_), _))) => {}
            (Out::Accept(accepting), Some((Ok(answer), served))) => {
                let answer: AcceptAnswer = serde_json::from_value(answer).unwrap();
                gateway.accepted(&accepting, &answer, &served, wall).unwrap();
            }
            (Out::Beat(id, request), came) => {
                let outcome = match came {
                    Some((answer, served)) if is_peer(id, &served) => Some(answer),
                    Some(_) | None => None,
                };
                let answered = match outcome {
                    Some(Ok(answer)) => gateway.beat_answered(id, &request, answer, wall),
                    Some(Err(status)) => Err(DialError::Refused {
                        status,
                        error: String::new(),
                    }),
                    None => Err(DialError::Unsound("nothing came")),
                };
                if !is_own {
                    assert!(
                        answered.is_err(),
                        "seed {seed}: an answer to another beat was taken"
                    );
                    self.misled += 1;
                }
                exchanged = answered.is_ok();
                running.pulse.ended(id, exchanged, jitter, mono);
                if answered.is_err_and(|error| error.is_refusal()) {
                    gateway.degrade(id, "refused_by_peer", wall).unwrap();
                }
            }
            (Out::Probe(id), came) => {
                let probe = match came {
                    Some((_, served)) if !is_peer(id, &served) => Probe::Tls,
                    Some((Ok(_), _)) => Probe::Answers,
                    Some((Err(_), _)) => Probe::RefusedByPeer,
                    None => Probe::Unreachable,
                };
                let is_silent = running.pulse.silent(&standing(&peers), mono).contains(&id);
                match running.probes.ended(id, probe, is_silent, mono) {
                    Some(Remedy::Degrade) => drop(gateway.degrade(id, &probe.reason(), wall).unwrap()),
                    Some(Remedy::Rehandshake) => drop(gateway.rehandshaked(id, wall).unwrap()),
                    None => {}
                }
            }
        }
        self.check(side, exchanged);
    }
}
