//! The power goes at a gateway while a bridge changes: before the ledger's commit, after it, or once the peer was told; at the
//! end that changes it, or at the other one. Nothing is more open than what was said last, and both go on to the same end.

use sdwand::federation::peer::PeerId;
use sdwand::federation::wire::Notice;

use crate::bridges::{agreed, bridged, drive, prod_bridge, random, tell_fleet};
use crate::site::{Site, wall};

/// What site a does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Bridge,
    Narrow,
    Remove,
    Suspend,
    Revoke,
}

/// How far it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cut {
    Asked,
    Committed,
    Told,
}

const WIDE: &str = "\"fd00:0:2::/48\"";
const NARROW: &str = "\"fd00:0:2:1::/64\"";

fn fleet_of_a(site: &Site, change: Option<Change>) {
    let bridge = match change {
        Some(Change::Remove) => String::new(),
        Some(Change::Narrow) => prod_bridge("site-b", NARROW, ""),
        Some(Change::Bridge | Change::Suspend | Change::Revoke) | None => {
            prod_bridge("site-b", WIDE, "\"fd00:0:1:1::/64\"")
        }
    };
    tell_fleet(site, 1, &bridge);
}

fn fleet_of_b(site: &Site) {
    tell_fleet(site, 2, &prod_bridge("site-a", "\"fd00:0:1::/48\"", NARROW));
}

/// Does it, as far as `cut`; what was done before is left as it is.
async fn change(a: &Site, b_at_a: PeerId, change: Change, cut: Cut) {
    let notice = match change {
        Change::Bridge | Change::Narrow | Change::Remove => None,
        Change::Suspend => Some(Notice::Suspended),
        Change::Revoke => Some(Notice::Revoked),
    };
    fleet_of_a(a, Some(change));
    if cut >= Cut::Committed {
        let is_open = a.peer(b_at_a).status.may_call();
        match notice {
            None => drop(a.gateway.settle_bridges(random, wall()).unwrap()),
            Some(Notice::Suspended) if is_open => drop(a.gateway.suspend(b_at_a, "test", wall()).unwrap()),
            Some(Notice::Revoked) if is_open => drop(a.gateway.revoke(b_at_a, "test", wall()).unwrap()),
            Some(_) => {}
        }
    }
    if cut >= Cut::Told {
        match notice {
            None => drop(drive(a).await),
            Some(notice) => a.gateway.notify(&a.peer(b_at_a), notice, wall()).await.unwrap(),
        }
    }
}

/// What each end has in force: what it imports, and what the other end gives it.
fn in_force(site: &Site) -> Vec<(String, String)> {
    let text = |nets: &[ipnet::IpNet]| {
        let nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
        nets.join(" ")
    };
    let all = agreed(site);
    let each = all.bridges.values();
    each.map(|agreement| (text(&agreement.import), text(&agreement.prefixes)))
        .collect()
}

fn pair(import: &str, given: &str) -> Vec<(String, String)> {
    vec![(import.to_owned(), given.to_owned())]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_the_power_goes_both_ends_come_to_what_was_said_last() {
    let given_b = "fd00:0:1:1::/64";
    let narrow = "fd00:0:2:1::/64";
    for made in [
        Change::Bridge,
        Change::Narrow,
        Change::Remove,
        Change::Suspend,
        Change::Revoke,
    ] {
        for cut in [Cut::Asked, Cut::Committed, Cut::Told] {
            for a_crashes in [true, false] {
                let case = format!("{made:?}, {cut:?}, {}", if a_crashes { "a" } else { "b" });
                let (mut a, mut b, b_at_a, _) = bridged().await;
                fleet_of_b(&b);
                b.gateway.settle_bridges(random, wall()).unwrap();
                if made == Change::Bridge {
                    tell_fleet(&a, 1, "");
                } else {
                    fleet_of_a(&a, None);
                    assert_eq!(drive(&a).await, 0);
                    assert_eq!(in_force(&a), pair("fd00:0:2::/48", narrow), "{case}");
                }
                change(&a, b_at_a, made, cut).await;
                if a_crashes {
                    a = a.after_a_crash().await;
                    fleet_of_a(&a, Some(made));
                } else {
                    b = b.after_a_crash().await;
                    fleet_of_b(&b);
                }
                // Before anybody is asked: what `serve` writes first.
                let may_be = match made {
                    Change::Bridge => vec![Vec::new(), pair("fd00:0:2::/48", narrow)],
                    Change::Narrow => vec![pair(narrow, narrow)],
                    Change::Suspend | Change::Revoke if cut == Cut::Asked => {
                        vec![pair("fd00:0:2::/48", narrow)]
                    }
                    Change::Remove | Change::Suspend | Change::Revoke => vec![Vec::new()],
                };
                assert!(may_be.contains(&in_force(&a)), "{case}: {:?}", in_force(&a));
                let at_b = in_force(&b);
                let was = [
                    Vec::new(),
                    pair("fd00:0:1::/48", given_b),
                    pair("fd00:0:1::/48", ""),
                ];
                assert!(was.contains(&at_b), "{case}: {at_b:?}");
                if cut == Cut::Told && !matches!(made, Change::Bridge | Change::Narrow) {
                    assert_eq!(at_b, [], "{case}: it was told");
                }

                // It goes on.
                change(&a, b_at_a, made, Cut::Told).await;
                for _ in 0..3 {
                    drive(&b).await;
                    drive(&a).await;
                }
                let (at_a, at_b) = match made {
                    Change::Bridge => (pair("fd00:0:2::/48", narrow), pair("fd00:0:1::/48", given_b)),
                    Change::Narrow => (pair(narrow, narrow), pair("fd00:0:1::/48", "")),
                    Change::Remove | Change::Suspend | Change::Revoke => (Vec::new(), Vec::new()),
                };
                assert_eq!((in_force(&a), in_force(&b)), (at_a, at_b), "{case}");
                let (of_a, of_b) = (agreed(&a), agreed(&b));
                let keys = [of_a, of_b].map(|all| {
                    let key = all.bridges.values().next();
                    key.map(|agreement| agreement.preshared_key.clone())
                });
                assert_eq!(keys[0], keys[1], "{case}: one key");
            }
        }
    }
}
