use super::*;

pub(crate) fn proposed() -> Peer {
    let now = Moment::from_millis(1_000_000);
    Peer {
        offer: Some(Offer {
            digest: TokenDigest([1; 32]),
            expires_at: now.after(std::time::Duration::from_secs(3_600)),
            expect_ca: None,
        }),
        ..Peer::new(
            PeerId(Uuid::from_u128(1)),
            Name::new("site-b").unwrap(),
            "https://site-b.example.com:8443".to_owned(),
            now,
        )
    }
}

/// Rows: from; columns: `Event::ALL`. `.` is "can't".
const TABLE: [(Status, [&str; 7]); 7] = [
    (Status::Proposed, ["accepted", ".", ".", ".", ".", ".", "revoked"]),
    (
        Status::Accepted,
        [".", "enrolled", ".", ".", "suspended", ".", "revoked"],
    ),
    (
        Status::Enrolled,
        [".", ".", "active", ".", "suspended", ".", "revoked"],
    ),
    (
        Status::Active,
        [".", ".", "active", "degraded", "suspended", ".", "revoked"],
    ),
    (
        Status::Degraded,
        [".", ".", "active", "degraded", "suspended", ".", "revoked"],
    ),
    (
        Status::Suspended,
        [".", ".", ".", ".", ".", "accepted", "revoked"],
    ),
    (Status::Revoked, [".", ".", ".", ".", ".", ".", "."]),
];

#[test]
fn the_whole_transition_table() {
    for (from, row) in TABLE {
        for (event, expected) in Event::ALL.into_iter().zip(row) {
            let to = from.after(event).map_or(".", Status::as_str);
            assert_eq!(to, expected, "{from} {event:?}");
            let mut peer = Peer {
                status: from,
                ..proposed()
            };
            let before = peer.clone();
            let happened = peer.happen(event, Some("why"), Moment::from_millis(2_000_000));
            assert_eq!(happened.is_ok(), expected != ".");
            if happened.is_err() {
                assert_eq!(peer, before, "a refused event changes nothing");
            } else {
                assert_eq!(peer.status.as_str(), expected);
                assert_eq!(peer.offer, None, "its token is dead");
            }
        }
    }
}

#[test]
fn events_lead_just_where_the_contract_allows() {
    for from in Status::ALL {
        let mut reached: Vec<Status> = Event::ALL.iter().filter_map(|event| from.after(*event)).collect();
        reached.retain(|to| *to != from);
        reached.sort();
        let mut allowed = from.allowed().to_vec();
        allowed.sort();
        assert_eq!(reached, allowed, "{from}");
    }
}

#[test]
fn only_who_exchanged_trust_and_was_not_stopped_may_call() {
    let may: Vec<Status> = Status::ALL
        .into_iter()
        .filter(|status| status.may_call())
        .collect();
    assert_eq!(may, [Status::Enrolled, Status::Active, Status::Degraded]);
}

#[test]
fn subjects_lead_back_in_one_spelling_only() {
    let id = PeerId(Uuid::from_u128(0xabcd));
    assert_eq!(PeerId::of_subject(&id.subject()), Some(id));
    for other in ["", "fed:", "fed:x", "FED:00000000-0000-0000-0000-00000000abcd"] {
        assert_eq!(PeerId::of_subject(other), None);
    }
    assert_eq!(
        PeerId::of_subject(&id.subject().to_uppercase().replace("FED", "fed")),
        None
    );
    assert_eq!(PeerId::of_subject(&format!("fed:{}", id.0.simple())), None);
}

#[test]
fn a_peer_survives_being_written() {
    let peer = proposed();
    let text = serde_json::to_string(&peer).unwrap();
    assert_eq!(serde_json::from_str::<Peer>(&text).unwrap(), peer);
}
