use super::half::tests::half;
use super::*;

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
    let nowhere = |_: &Half| (Vec::new(), false);
    let said = |sequence, byte| half("prod", "prod", byte, sequence);
    assert_eq!(row.withdraw(0), Taken::Unchanged);
    assert_eq!(row.take(said(5, 1), nowhere), Taken::News);
    assert_eq!(row.take(said(5, 1), nowhere), Taken::Unchanged);
    assert_eq!(
        row.take(said(5, 2), nowhere),
        Taken::Late,
        "the same number twice"
    );
    assert_eq!(row.take(said(4, 2), nowhere), Taken::Late);
    assert_eq!(row.withdraw(5), Taken::Late, "its end has a number of its own");
    assert_eq!(row.take(said(6, 2), nowhere), Taken::News);
    assert_eq!(row.withdraw(7), Taken::News);
    assert_eq!(row.withdraw(7), Taken::Unchanged);
    assert_eq!(row.take(said(6, 2), nowhere), Taken::Late, "it was on the way");
    assert_eq!(row.theirs, None);
    assert_eq!(row.take(said(u64::MAX, 2), nowhere), Taken::News);
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
