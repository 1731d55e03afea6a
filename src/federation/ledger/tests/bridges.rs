//! A bridge and its peer move in one step, wherever the power goes.

use uuid::Uuid;

use super::*;
use crate::federation::bridge::{BridgeId, BridgeRow, Content, PresharedHalf, State, Theirs, Want, step};
use crate::model::{Name, PublicKey};

const ID: BridgeId = BridgeId(Uuid::from_u128(7));

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn want() -> Want {
    Want {
        name: name("prod-b"),
        network: name("prod"),
        remote_network: name("prod"),
        import: vec!["fd00:0:2::/48".parse().unwrap()],
        content: Some(Content {
            gateway_public_key: PublicKey([1; 32]),
            endpoints: Vec::new(),
            prefixes: Vec::new(),
            listener: None,
        }),
        obstacle: None,
        is_paused: false,
    }
}

/// One that both want.
fn active(peer: PeerId) -> BridgeRow {
    let mut row = BridgeRow::new(peer, ID);
    let mut draw = || Some(PresharedHalf::new([1; 32]));
    step(&mut row, Some(&want()), "", &mut draw, WALL);
    let half = row.live().unwrap().half.clone().unwrap();
    row.seen = half.sequence;
    row.theirs = Some(Theirs {
        half,
        key_since: WALL,
        endpoints: Vec::new(),
        unresolved: false,
        resolved: std::collections::BTreeMap::new(),
    });
    step(&mut row, Some(&want()), "", &mut draw, WALL);
    assert_eq!(row.live().unwrap().state, State::Active);
    row
}

/// What a step makes of a peer that is active and its bridge.
type Step = fn(&mut Peer, &mut BridgeRow);

const STEPS: [(Step, Option<State>); 3] = [
    (
        |_, row| {
            *row = BridgeRow::new(row.peer, row.id);
            step(
                row,
                Some(&want()),
                "",
                &mut || Some(PresharedHalf::new([2; 32])),
                WALL,
            );
        },
        Some(State::Proposed),
    ),
    (
        |peer, row| {
            peer.happen(Event::Suspend, None, WALL).unwrap();
            let mut want = want();
            want.obstacle = Some(crate::federation::bridge::WaitsFor::Resume);
            step(row, Some(&want), "", &mut || None, WALL);
        },
        Some(State::Suspended),
    ),
    (
        |peer, row| {
            peer.happen(Event::Revoke, None, WALL).unwrap();
            step(row, None, "revoked", &mut || None, WALL);
        },
        Some(State::Revoked),
    ),
];

#[test]
fn wherever_the_power_goes_a_bridge_moves_with_its_peer_or_not_at_all() {
    for (make, after) in STEPS {
        let mut ended = BTreeSet::new();
        for at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let mut peer = proposed();
            for event in [Event::Accept, Event::Enroll, Event::Beat] {
                peer.happen(event, None, WALL).unwrap();
            }
            let row = active(peer.id);
            let before = (peer.status, row.ours.as_ref().map(|ours| ours.state));
            let (mut then, mut moved) = (peer.clone(), row.clone());
            make(&mut then, &mut moved);
            let found = |ledger: &Ledger| {
                ledger.read(|book| {
                    let row = book.bridge(peer.id, ID).unwrap();
                    (
                        book.peer(&peer.id).unwrap().status,
                        row.ours.as_ref().map(|ours| ours.state),
                    )
                })
            };
            let is_through = {
                let ledger = ledger(&folder);
                let put = |peer: &Peer, row: &BridgeRow| {
                    let (peer, row) = (peer.clone(), row.clone());
                    ledger.transact(WALL, |draft| {
                        draft.put_bridge(row);
                        draft.put_peer(peer)
                    })
                };
                put(&peer, &row).unwrap();
                ledger.writer.lock().unwrap().fuse = Fuse(Some(at));
                let outcome = put(&then, &moved);
                let in_memory = found(&ledger);
                assert!(in_memory == before || in_memory == (then.status, after));
                outcome.is_ok()
            };
            let on_disk = found(&ledger(&folder));
            assert!(
                on_disk == before || on_disk == (then.status, after),
                "half a step: {on_disk:?}"
            );
            ended.insert(on_disk == before);
            if is_through {
                break;
            }
            assert!(at < 100);
        }
        assert_eq!(ended.len(), 2, "the power went on both sides of the step");
    }
}
