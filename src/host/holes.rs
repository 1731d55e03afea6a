//! Looks for ways that swallow large packets: peers are asked with packets of all sizes, beside the rounds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream;
use tokio::task::JoinHandle;

use super::instant;
use crate::log::Event;
use crate::model::{LinkName, PublicKey};
use crate::planes::wireguard;
use crate::reconcile::Target;
use crate::reconcile::holes::{self, Hole, Holes, Known, Question, questions};
use crate::sys::neighbour::{Heard, reaches};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a packet is sent before it counts as swallowed.
const TRIES: u32 = 3;
/// A packet that any way takes, in bytes.
const SMALL: u32 = 128;
/// Messages are multiples of so many bytes.
const GRAIN: u32 = 8;
/// How many peers are asked at the same time.
const AT_ONCE: usize = 16;
/// How many peers are asked in one go: each takes a packet of full size.
pub(super) const MOST: usize = 64;

/// What was found on one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Packets of full size arrive.
    Whole,
    /// They don't, and smaller ones do, up to so many bytes.
    Hole(u32),
    /// Nothing is answered: nothing can be said.
    Unknown,
    /// This process may not ask.
    NotAllowed,
}

/// The looks at ways, and what came of them.
#[derive(Debug, Default)]
pub(super) struct Looks {
    holes: Holes,
    /// The ways by which packets of full size arrived.
    whole: BTreeMap<(LinkName, PublicKey), holes::Heard>,
    running: Option<JoinHandle<Vec<(Question, Found)>>>,
    last: Option<Instant>,
    turn: usize,
    is_forbidden: bool,
}

impl Looks {
    /// What is known.
    pub(super) const fn holes(&self) -> &Holes {
        &self.holes
    }

    /// What is known of the ways, also of those that swallow nothing.
    pub(super) fn known(&self) -> Known {
        let holes = self.holes.iter();
        let holes = holes.map(|((link, _), hole)| holes::Heard::of(link, hole.clone()));
        Known {
            may_ask: !self.is_forbidden,
            ways: holes.chain(self.whole.values().cloned()).collect(),
        }
    }

    /// Takes what the last look found, and begins another one if `every` has passed since it began.
    pub(super) async fn go_on(
        &mut self,
        target: &Target,
        actual: &wireguard::Actual,
        now: (std::time::SystemTime, Instant),
        every: Duration,
    ) {
        if self
            .running
            .as_ref()
            .is_some_and(|running| !running.is_finished())
        {
            return;
        }
        if let Some(running) = self.running.take() {
            match running.await {
                Ok(found) => self.take(found),
                Err(error) => tracing::error!(%error, "looking for black holes"),
            }
        }
        let is_due = self.last.is_none_or(|last| now.1.duration_since(last) >= every);
        if self.holes.is_empty() && (self.is_forbidden || !is_due) {
            return;
        }
        let mut questions = questions(&target.intent, actual, now.0);
        // Of a peer that is silent or elsewhere by now nothing is known.
        let is_asked = |(link, key): &(LinkName, PublicKey), endpoint: SocketAddr| {
            let is_it =
                |asked: &Question| (&asked.link, &asked.public_key, asked.endpoint) == (link, key, endpoint);
            questions.iter().any(is_it)
        };
        self.holes.retain(|key, hole| is_asked(key, hole.endpoint));
        self.whole.retain(|key, way| is_asked(key, way.endpoint));
        if self.is_forbidden || !is_due {
            return;
        }
        if questions.is_empty() {
            return;
        }
        self.turn %= questions.len();
        questions.rotate_left(self.turn);
        questions.truncate(MOST);
        self.turn += questions.len();
        self.last = Some(now.1);
        self.running = Some(tokio::spawn(look(questions)));
    }

    fn take(&mut self, found: Vec<(Question, Found)>) {
        for (question, found) in found {
            let key = (question.link.clone(), question.public_key);
            match found {
                Found::Unknown => {
                    self.whole.remove(&key);
                }
                Found::NotAllowed if self.is_forbidden => {}
                Found::NotAllowed => {
                    Event::PathNotAsked.emit();
                    self.is_forbidden = true;
                }
                Found::Whole => {
                    self.whole.insert(key.clone(), holes::Heard::whole(&question));
                    if let Some(hole) = self.holes.remove(&key) {
                        let (network, peer) = (hole.network.to_string(), hole.node.to_string());
                        Event::PathWhole { network, peer }.emit();
                    }
                }
                Found::Hole(passes) => {
                    self.whole.remove(&key);
                    let hole = Hole::new(&question, passes);
                    if self.holes.get(&key) != Some(&hole) {
                        told(&hole).emit();
                        self.holes.insert(key, hole);
                    }
                }
            }
        }
    }
}

fn told(hole: &Hole) -> Event {
    Event::PathBlackHole {
        network: hole.network.to_string(),
        peer: hole.node.to_string(),
        endpoint: hole.endpoint.to_string(),
        size: hole.size.into(),
        passes: hole.passes.into(),
    }
}

/// Asks each peer, several at the same time.
pub(super) async fn look(questions: Vec<Question>) -> Vec<(Question, Found)> {
    let asked = questions.into_iter().map(|question| async move {
        let found = judge(&question).await;
        (question, found)
    });
    stream::iter(asked).buffer_unordered(AT_ONCE).collect().await
}

async fn judge(question: &Question) -> Found {
    let ask = |size| {
        let (link, neighbour, target) = (question.link.clone(), question.link_local, question.target);
        async move {
            let asked = move || reaches((link.as_str(), neighbour), target, size, PATIENCE, instant);
            let heard = tokio::task::spawn_blocking(asked).await;
            heard.unwrap_or(Heard::NotSent(rustix::io::Errno::CANCELED))
        }
    };
    find(question.size, ask).await
}

/// The largest packet that is answered, if not all are. `ask` sends one of so many bytes.
async fn find<F: Future<Output = Heard>>(full: u32, ask: impl Fn(u32) -> F) -> Found {
    let several = async |size: u32| {
        for _ in 1..TRIES {
            match ask(size).await {
                Heard::Nothing => {}
                heard @ (Heard::Answer | Heard::NotSent(_) | Heard::NotAllowed) => return heard,
            }
        }
        ask(size).await
    };
    // Hosts that aren't ours have other addresses, and answer to nothing.
    match ask(SMALL).await {
        Heard::Answer => {}
        Heard::NotAllowed => return Found::NotAllowed,
        Heard::NotSent(_) | Heard::Nothing => return Found::Unknown,
    }
    match several(full).await {
        Heard::Answer => return Found::Whole,
        Heard::NotAllowed => return Found::NotAllowed,
        Heard::NotSent(_) => return Found::Unknown,
        Heard::Nothing => {}
    }
    let (mut passes, mut vanishes) = (SMALL, full / GRAIN * GRAIN);
    while vanishes.saturating_sub(passes) > GRAIN {
        let middle = passes.midpoint(vanishes) / GRAIN * GRAIN;
        if several(middle).await == Heard::Answer {
            passes = middle;
        } else {
            vanishes = middle;
        }
    }
    // A way that was down for a moment is none that swallows large packets.
    match several(full).await {
        Heard::Nothing => Found::Hole(passes),
        Heard::Answer => Found::Whole,
        Heard::NotSent(_) | Heard::NotAllowed => Found::Unknown,
    }
}

/// The holes among what was found, and of how many ways nothing is known.
pub(super) fn holes(found: Vec<(Question, Found)>) -> (Vec<Hole>, usize) {
    let is_unknown = |found: &Found| matches!(found, Found::Unknown | Found::NotAllowed);
    let unknown = found.iter().filter(|(_, found)| is_unknown(found)).count();
    let holes = found.into_iter().filter_map(|(question, found)| match found {
        Found::Hole(passes) => Some(Hole::new(&question, passes)),
        Found::Whole | Found::Unknown | Found::NotAllowed => None,
    });
    let by_peer: BTreeMap<_, _> = holes
        .map(|hole| ((hole.network.clone(), hole.node.clone()), hole))
        .collect();
    (by_peer.into_values().collect(), unknown)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A way that takes packets of `takes` bytes, and loses every `loses`-th of them.
    async fn found(takes: u32, loses: u32) -> Found {
        let sent = Cell::new(0_u32);
        let ask = |size: u32| {
            sent.set(sent.get() + 1);
            let arrives = size / 8 * 8 <= takes && (loses == 0 || !sent.get().is_multiple_of(loses));
            std::future::ready(if arrives { Heard::Answer } else { Heard::Nothing })
        };
        find(1_420, ask).await
    }

    #[tokio::test]
    async fn what_passes_is_found_to_eight_bytes() {
        assert_eq!(found(1_420, 0).await, Found::Whole);
        assert_eq!(found(0, 0).await, Found::Unknown);
        for takes in [128, 500, 1_280, 1_319, 1_320, 1_412] {
            for loses in [0, 2, 3] {
                let Found::Hole(passes) = found(takes, loses).await else {
                    panic!("{takes} bytes, one of {loses} lost: no hole");
                };
                assert!(passes <= takes && passes + GRAIN > takes, "{passes} of {takes}");
            }
        }
    }

    #[test]
    fn what_was_heard_of_a_way_is_what_was_heard_last() {
        let question = Question {
            network: crate::model::Name::new("prod").unwrap(),
            link: LinkName::new("wg-sdwan-1").unwrap(),
            public_key: PublicKey([1; 32]),
            node: crate::model::Name::new("hub").unwrap(),
            endpoint: "192.0.2.1:51820".parse().unwrap(),
            link_local: "fe80::1".parse().unwrap(),
            target: "fd00::1".parse().unwrap(),
            size: 1_420,
        };
        let mut looks = Looks::default();
        let mut passes = |found| {
            looks.take(vec![(question.clone(), found)]);
            let known = looks.known();
            let passes: Vec<u32> = known.ways.iter().map(|way| way.passes).collect();
            (known.may_ask, passes)
        };
        assert_eq!(passes(Found::Unknown), (true, vec![]));
        assert_eq!(passes(Found::Whole), (true, vec![1_420]));
        assert_eq!(passes(Found::Hole(1_312)), (true, vec![1_312]));
        assert_eq!(passes(Found::Whole), (true, vec![1_420]));
        assert_eq!(passes(Found::Unknown), (true, vec![]));
        assert_eq!(passes(Found::NotAllowed), (false, vec![]));
    }

    #[tokio::test]
    async fn loss_is_no_hole() {
        assert_eq!(found(1_420, 2).await, Found::Whole);
        assert_eq!(found(1_420, 3).await, Found::Whole);
    }

    #[tokio::test]
    async fn what_cannot_be_asked_is_no_hole() {
        let ask = |_| std::future::ready(Heard::NotAllowed);
        assert_eq!(find(1_420, ask).await, Found::NotAllowed);
        let ask = |_| std::future::ready(Heard::NotSent(rustix::io::Errno::DESTADDRREQ));
        assert_eq!(find(1_420, ask).await, Found::Unknown);
    }
}
