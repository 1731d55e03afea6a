use super::half::tests::half;
use super::*;
use crate::model::PublicKey;

fn site(text: &str) -> SiteId {
    SiteId::new(text).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

#[test]
fn both_ends_find_the_same_id_and_no_other_bridge_has_it() {
    let (a, b) = (site("site-a.fd0000000001"), site("site-b.fd0000000002"));
    let id = BridgeId::of((&a, &name("prod")), (&b, &name("dev")));
    assert_eq!(id, BridgeId::of((&b, &name("dev")), (&a, &name("prod"))));
    for other in [
        BridgeId::of((&a, &name("dev")), (&b, &name("prod"))),
        BridgeId::of((&a, &name("prod")), (&b, &name("prod"))),
        BridgeId::of((&a, &name("prod")), (&a, &name("dev"))),
    ] {
        assert_ne!(id, other);
    }
}

#[test]
fn of_what_a_peer_says_the_later_counts() {
    let peer = PeerId(Uuid::from_u128(1));
    let mut row = BridgeRow::new(peer, BridgeId(Uuid::from_u128(2)));
    let nowhere = |_: &[SocketAddr]| Vec::new();
    let said = |sequence, byte| half("prod", "prod", byte, sequence);
    assert_eq!(row.withdraw(0), Taken::Unchanged);
    assert_eq!(row.take(said(5, 1), Moment::EPOCH, nowhere), Taken::News);
    assert_eq!(row.take(said(5, 1), Moment::EPOCH, nowhere), Taken::Unchanged);
    assert_eq!(
        row.take(said(5, 2), Moment::EPOCH, nowhere),
        Taken::Late,
        "the same number twice"
    );
    assert_eq!(row.take(said(4, 2), Moment::EPOCH, nowhere), Taken::Late);
    assert_eq!(row.withdraw(5), Taken::Late, "its end has a number of its own");
    assert_eq!(row.take(said(6, 2), Moment::EPOCH, nowhere), Taken::News);
    assert_eq!(row.withdraw(7), Taken::News);
    assert_eq!(row.withdraw(7), Taken::Unchanged);
    assert_eq!(
        row.take(said(6, 2), Moment::EPOCH, nowhere),
        Taken::Late,
        "it was on the way"
    );
    assert_eq!(row.theirs, None);
    assert_eq!(row.take(said(u64::MAX, 2), Moment::EPOCH, nowhere), Taken::News);
}

#[test]
fn a_name_leads_where_it_last_led_until_it_can_be_resolved_again() {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let all = |addresses: &[SocketAddr]| addresses.to_vec();
    let mut row = BridgeRow::new(PeerId(Uuid::from_u128(1)), BridgeId(Uuid::from_u128(2)));
    let said = |sequence, endpoints: &[&str]| Half {
        endpoints: endpoints.iter().map(|text| (*text).to_owned()).collect(),
        ..half("prod", "prod", 1, sequence)
    };
    let at = Moment::from_millis;
    row.take(said(1, &["hub.example:51820", "1.1.1.7:1"]), at(1), all);
    let theirs = row.theirs.as_mut().unwrap();
    assert_eq!(
        (theirs.endpoints.clone(), theirs.unresolved),
        (vec![address("1.1.1.7:1")], true)
    );
    theirs
        .resolved
        .insert("hub.example:51820".to_owned(), vec![address("1.1.1.5:51820")]);
    // Another half, of which nothing could be resolved yet.
    row.take(said(2, &["new.example:51820", "hub.example:51820"]), at(2), all);
    let theirs = row.theirs.as_ref().unwrap();
    assert_eq!(
        (theirs.endpoints.clone(), theirs.unresolved),
        (vec![address("1.1.1.5:51820")], true)
    );
    assert_eq!(theirs.key_since, at(1), "the key is the same");
    // What it doesn't name any more is forgotten, and what may not be called isn't called.
    row.take(said(3, &["1.1.1.7:1"]), at(3), |_| Vec::new());
    let theirs = row.theirs.as_ref().unwrap();
    assert!(theirs.endpoints.is_empty() && !theirs.unresolved && theirs.resolved.is_empty());
    let other = Half {
        gateway_public_key: PublicKey([9; 32]),
        ..said(4, &[])
    };
    row.take(other, at(4), all);
    assert_eq!(row.theirs.as_ref().unwrap().key_since, at(4));
}

#[test]
fn an_intersection_is_within_both() {
    let nets = |texts: &[&str]| -> Vec<IpNet> { texts.iter().map(|text| text.parse().unwrap()).collect() };
    let both = |a: &[&str], b: &[&str]| intersection(&nets(a), &nets(b));
    assert_eq!(
        both(&["fd00::/48"], &["fd00:0:0:1::/64", "fd01::/64"]),
        nets(&["fd00:0:0:1::/64"])
    );
    assert_eq!(
        both(&["fd00:0:0:1::/64"], &["fd00::/48"]),
        nets(&["fd00:0:0:1::/64"])
    );
    assert_eq!(both(&["10.0.0.0/16"], &["10.0.0.0/16"]), nets(&["10.0.0.0/16"]));
    assert_eq!(both(&["10.0.0.0/16"], &["fd00::/48"]), []);
    assert_eq!(both(&[], &["fd00::/48"]), []);
}

/// One end of a bridge, and every export that it has ever told.
struct End {
    row: BridgeRow,
    want: Option<Want>,
    told: Vec<Vec<IpNet>>,
    drawn: u8,
}

/// What is on the way: a word and, where it is the answer to one, what was said and seen when that was sent.
#[derive(Clone)]
struct Word {
    half: Option<Half>,
    /// The number that it ends with, where it takes something back.
    end: Option<u64>,
    answers: Option<(u64, u64)>,
    /// Its own number, and what its sender had seen by then.
    number: u64,
    seen: u64,
}

impl End {
    fn new(byte: u8) -> Self {
        Self {
            row: BridgeRow::new(PeerId(Uuid::from_u128(byte.into())), BridgeId(Uuid::from_u128(9))),
            want: None,
            told: Vec::new(),
            drawn: byte,
        }
    }

    fn settle(&mut self) {
        let drawn = &mut self.drawn;
        let mut draw = || {
            *drawn = drawn.wrapping_add(2);
            Some(PresharedHalf::new([*drawn; 32]))
        };
        let before = self.row.clone();
        let changes = step(
            &mut self.row,
            self.want.as_ref(),
            "not wanted",
            &mut draw,
            Moment::EPOCH,
        );
        assert!(self.row.said >= before.said && self.row.seen >= before.seen);
        // Every move is one that the table allows, and a new row begins as proposed.
        let mut state = before.live().map(|ours| ours.state);
        for change in changes {
            let Change::Moved(ours) = change else { continue };
            let events = [Event::Agree, Event::Suspend, Event::Resume, Event::Revoke];
            match state {
                Some(from) => assert!(events.iter().any(|event| from.after(*event) == Some(ours.state))),
                None => assert_eq!(ours.state, State::Proposed),
            }
            state = Some(ours.state).filter(|state| *state != State::Revoked);
        }
        let twice = self.row.clone();
        let again = step(
            &mut self.row,
            self.want.as_ref(),
            "not wanted",
            &mut || None,
            Moment::EPOCH,
        );
        assert!(
            again.is_empty() && self.row == twice,
            "a second step changes nothing"
        );
        if let Some(half) = self.row.live().and_then(|ours| ours.half.as_ref()) {
            self.told.push(half.prefixes.clone());
        }
    }

    fn word(&self) -> Word {
        let half = self.row.live().and_then(|ours| ours.half.clone());
        Word {
            end: half.is_none().then_some(self.row.said),
            half,
            answers: None,
            number: self.row.said,
            seen: self.row.seen,
        }
    }

    /// Takes a word of the other end; what it answers.
    fn hear(&mut self, word: &Word) -> Option<Word> {
        let nowhere = |_: &[SocketAddr]| Vec::new();
        if let Some((sent, seen)) = word.answers {
            self.row.acknowledged = self.row.acknowledged.max(sent);
            match &word.half {
                Some(half) => drop(self.row.take(half.clone(), Moment::EPOCH, nowhere)),
                None if self.row.seen == seen => self.row.theirs = None,
                None => {}
            }
            self.settle();
            return None;
        }
        match (&word.half, word.end) {
            (Some(half), _) => drop(self.row.take(half.clone(), Moment::EPOCH, nowhere)),
            (None, Some(end)) => drop(self.row.withdraw(end)),
            (None, None) => {}
        }
        self.settle();
        let half = self.row.live().and_then(|ours| ours.half.clone());
        Some(Word {
            half,
            end: None,
            answers: None,
            number: self.row.said,
            seen: self.row.seen,
        })
    }

    fn agreement(&self) -> Option<Agreement> {
        let want = self.want.as_ref()?;
        self.row.agreement(
            &Bridge {
                name: want.name.clone(),
                peer: name("peer"),
                network: want.network.clone(),
                remote_network: want.remote_network.clone(),
                gateways: Vec::new(),
                import: want.import.clone(),
                export: Vec::new(),
                enabled: true,
            },
            false,
        )
    }
}

fn want(byte: u8, export: u8, obstacle: Option<WaitsFor>) -> Want {
    Want {
        name: name("bridge"),
        network: name("prod"),
        remote_network: name("prod"),
        import: vec!["fd00::/48".parse().unwrap()],
        content: Some(Content {
            gateway_public_key: crate::model::PublicKey([byte; 32]),
            endpoints: Vec::new(),
            prefixes: vec![format!("fd00:0:0:{byte:x}{export:x}::/64").parse().unwrap()],
            listener: None,
        }),
        obstacle,
        is_paused: false,
    }
}

/// Either end may be in force only by what the other has told, and its own fleet wants now.
fn hold(ends: &[End; 2]) {
    for (at, end) in ends.iter().enumerate() {
        let Some(agreement) = end.agreement() else {
            continue;
        };
        assert!(
            ends[1 - at].told.contains(&agreement.prefixes),
            "never more than was told"
        );
        let want = end.want.as_ref().unwrap();
        assert_eq!((want.obstacle, &agreement.import), (None, &want.import));
        assert_eq!(end.row.live().unwrap().state, State::Active);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(512))]

    /// Whatever is wanted, lost, repeated or late: nothing is in force beyond what both have said, and once words come
    /// through again, both ends agree.
    #[test]
    fn what_is_lost_repeated_or_late_opens_nothing_and_heals(
        acts in proptest::collection::vec((0_usize..2, 0_u8..8, proptest::prelude::any::<u8>()), 0..60),
    ) {
        let mut ends = [End::new(1), End::new(2)];
        // To each end.
        let mut ways: [Vec<Word>; 2] = [Vec::new(), Vec::new()];
        for (at, act, n) in acts {
            match act {
                0 => ends[at].want = None,
                1 => ends[at].want = Some(want(u8::try_from(at).unwrap() + 1, n % 4, None)),
                2 => if let Some(want) = &mut ends[at].want {
                    want.obstacle = (n % 2 == 0).then_some(WaitsFor::Resume);
                },
                3 | 4 => {
                    let word = ends[at].word();
                    ways[1 - at].push(word);
                }
                _ => {
                    let count = ways[at].len();
                    if count > 0 {
                        let which = usize::from(n) % count;
                        let word = if act == 5 { ways[at].remove(which) } else { ways[at][which].clone() };
                        if let Some(answer) = ends[at].hear(&word) {
                            // A call that takes something back is answered, too.
                            ways[1 - at].push(Word {
                                answers: Some((word.number, word.seen)),
                                ..answer
                            });
                        }
                    }
                    if act == 7 { ways[at].clear(); }
                }
            }
            ends[at].settle();
            hold(&ends);
        }
        // Nothing stands against it any more, and words come through: one end alone can call, as with NAT.
        for end in &mut ends {
            if let Some(want) = &mut end.want {
                want.obstacle = None;
            }
            end.settle();
        }
        for _ in 0..6 {
            let (sent, seen) = (ends[0].row.said, ends[0].row.seen);
            let word = ends[0].word();
            let mut answer = ends[1].hear(&word).unwrap();
            answer.answers = Some((sent, seen));
            ends[0].hear(&answer);
            hold(&ends);
        }
        let both = ends.iter().all(|end| end.want.is_some());
        let [one, other] = [ends[0].agreement(), ends[1].agreement()];
        proptest::prop_assert_eq!((one.is_some(), other.is_some()), (both, both));
        if let (Some(one), Some(other)) = (one, other) {
            proptest::prop_assert_eq!(one.preshared_key, other.preshared_key);
            let exported = |end: &End| end.want.as_ref().unwrap().content.as_ref().unwrap().prefixes.clone();
            proptest::prop_assert_eq!((one.prefixes, other.prefixes), (exported(&ends[1]), exported(&ends[0])));
        }
    }
}

#[test]
fn while_it_is_paused_nothing_new_is_agreed_and_what_is_agreed_goes_on() {
    let mut row = BridgeRow::new(PeerId(Uuid::from_u128(1)), BridgeId(Uuid::from_u128(2)));
    let free = want(1, 1, None);
    let paused = Want {
        is_paused: true,
        ..want(1, 1, None)
    };
    let mut draw = || Some(PresharedHalf::new([7; 32]));
    let state = |row: &BridgeRow| row.ours.as_ref().unwrap().state;
    step(&mut row, Some(&paused), "", &mut draw, Moment::from_millis(1_000));
    let theirs = row.ours.as_ref().unwrap().half.clone().unwrap();
    row.take(theirs, Moment::EPOCH, |_| Vec::new());
    step(&mut row, Some(&paused), "", &mut draw, Moment::from_millis(2_000));
    assert_eq!(state(&row), State::Proposed);
    step(&mut row, Some(&free), "", &mut draw, Moment::from_millis(3_000));
    assert_eq!(state(&row), State::Active);
    step(&mut row, Some(&paused), "", &mut draw, Moment::from_millis(4_000));
    assert_eq!(state(&row), State::Active);
}
