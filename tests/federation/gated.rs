//! Bridges that a second operator must approve: what waits is told to nobody and in force nowhere.

use std::sync::Arc;
use std::time::Duration;

use sdwand::federation::approval::{Approval, ApprovalId, Deed, MOST_OF_FLEET, State};
use sdwand::federation::bridge::WaitsFor;
use sdwand::federation::gateway::{ApprovalError, BridgeView, Gateway, Settings};
use sdwand::federation::ledger::Ledger;
use sdwand::federation::moment::Moment;
use sdwand::federation::operators::Principal;
use sdwand::federation::peer::PeerId;
use sdwand::federation::pki::SiteCa;

use crate::bridges::{agreed, called, drive, nets, prod_bridge, random, state, tell_fleet};
use crate::site::{Site, enrolled, node, wall};

const B_IMPORT: &str = "\"fd00:0:2::/48\"";
const A_EXPORT: &str = "\"fd00:0:1:1::/64\"";

fn gated(settings: &mut Settings) {
    settings.approvals.bridge = true;
}

fn bob() -> Principal {
    Principal::Subject("bob".to_owned())
}

/// A, whose bridges need a second operator's word, and B; both fleets want a bridge.
async fn sites() -> (Site, Site, PeerId, PeerId) {
    let (a, b) = (Site::with("site-a", 1, gated).await, Site::new("site-b", 2).await);
    let (b_at_a, a_at_b) = enrolled(&a, &b).await;
    called(&a, b_at_a.id, "site-b");
    called(&b, a_at_b.id, "site-a");
    want(&a, B_IMPORT, A_EXPORT);
    tell_fleet(
        &b,
        2,
        &prod_bridge("site-a", "\"fd00:0:1::/48\"", "\"fd00:0:2:1::/64\""),
    );
    (a, b, b_at_a.id, a_at_b.id)
}

fn want(a: &Site, import: &str, export: &str) {
    tell_fleet(a, 1, &prod_bridge("site-b", import, export));
}

fn settle(a: &Site, at: Moment) {
    a.gateway.settle_bridges(random, at).unwrap();
}

async fn exchange(a: &Site, b: &Site) {
    for site in [a, b, a, b] {
        drive(site).await;
    }
}

fn waiting(gateway: &Gateway, at: Moment) -> Vec<Approval> {
    gateway.ledger.read(|book| {
        let now = book.now(at);
        let all = book.approvals().map(|approval| (**approval).clone());
        all.filter(|approval| approval.state(now) == State::Pending)
            .collect()
    })
}

fn the_one(gateway: &Gateway) -> Approval {
    let mut all = waiting(gateway, wall());
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// What the operators' API does with the call that approves.
fn approve(gateway: &Gateway, id: ApprovalId, by: &Principal) -> Result<(), ApprovalError> {
    let approved = gateway.approve(id, by, wall())?;
    let Deed::Bridge(opening) = &approved.approval.deed else {
        panic!("{approved:?}");
    };
    let done = gateway.allow_bridge(opening, random, &wall().into());
    let outcome = done.map_err(|error| error.to_string());
    gateway.performed(id, outcome, wall()).unwrap();
    Ok(())
}

fn reads(gateway: &Gateway, id: ApprovalId) -> State {
    gateway
        .ledger
        .read(|book| book.approval(&id).unwrap().standing.state())
}

fn view(site: &Site, peer: PeerId) -> BridgeView {
    let mut views = site.gateway.bridges_of(peer);
    assert_eq!(views.len(), 1, "{views:?}");
    views.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_bridge_waits_for_another_operator_and_the_peer_hears_nothing() {
    let (a, b, b_at_a, a_at_b) = sites().await;
    exchange(&a, &b).await;
    let asked = the_one(&a.gateway);
    assert_eq!(asked.requested_by, "uid:0", "whoever may write the fleet");
    let opens = asked.deed.opens().unwrap();
    assert_eq!(
        (&opens.import, &opens.export),
        (&nets(&["fd00:0:2::/48"]), &nets(&["fd00:0:1:1::/64"]))
    );
    assert!(
        asked
            .summary
            .contains("import fd00:0:2::/48, export fd00:0:1:1::/64"),
        "{}",
        asked.summary
    );
    let seen = view(&a, b_at_a);
    assert_eq!(
        (seen.state, seen.waits_for),
        ("proposed", Some(WaitsFor::Approval))
    );
    assert_eq!(
        seen.announced,
        nets(&["fd00:0:2:1::/64"]),
        "what the peer offers is seen"
    );
    assert_eq!(view(&b, a_at_b).announced, [], "it was told nothing");
    assert!(agreed(&a).bridges.is_empty() && agreed(&b).bridges.is_empty());
    let head = a.gateway.ledger.head();
    settle(&a, wall());
    assert_eq!(a.gateway.ledger.head(), head, "a no-op writes nothing");
    let own = approve(&a.gateway, asked.id, &Principal::Uid(0)).unwrap_err();
    assert!(matches!(own, ApprovalError::SamePrincipal(_)), "{own}");
    approve(&a.gateway, asked.id, &bob()).unwrap();
    assert_eq!(reads(&a.gateway, asked.id), State::Approved);
    exchange(&a, &b).await;
    assert_eq!(state(&a, b_at_a), ["active"]);
    let agreement = agreed(&a).bridges.into_values().next().unwrap();
    assert_eq!(agreement.import, nets(&["fd00:0:2::/48"]));
    assert_eq!(agreement.export, Some(nets(&["fd00:0:1:1::/64"])));
    assert_eq!(agreed(&b).bridges.len(), 1);
    assert!(waiting(&a.gateway, wall()).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_widening_waits_and_narrowing_and_the_end_do_not() {
    const FIRST: &str = "\"fd00:0:1:1:1::/80\"";
    let (a, b, b_at_a, a_at_b) = sites().await;
    want(&a, B_IMPORT, FIRST);
    exchange(&a, &b).await;
    approve(&a.gateway, the_one(&a.gateway).id, &bob()).unwrap();
    exchange(&a, &b).await;
    let in_force = |site: &Site| {
        let agreement = agreed(site).bridges.into_values().next();
        agreement.map(|agreement| (agreement.import, agreement.export))
    };
    let before = in_force(&a);
    // More of both: nothing of it leaves, before the rows are looked at and after.
    let wider = "\"fd00:0:1:1:1::/80\", \"fd00:0:1:1:2::/80\"";
    want(&a, "\"fd00:0:2::/48\", \"fd00:0:22::/48\"", wider);
    assert_eq!(in_force(&a), before);
    exchange(&a, &b).await;
    assert_eq!(in_force(&a), before);
    let asked = the_one(&a.gateway);
    let opens = asked.deed.opens().unwrap();
    assert_eq!(
        (&opens.import, &opens.export),
        (&nets(&["fd00:0:22::/48"]), &nets(&["fd00:0:1:1:2::/80"]))
    );
    let seen = view(&a, b_at_a);
    assert_eq!((seen.state, seen.waits_for), ("active", Some(WaitsFor::Approval)));
    assert_eq!(seen.unapproved.as_ref(), Some(opens));
    assert_eq!(view(&b, a_at_b).announced, nets(&["fd00:0:1:1:1::/80"]));
    // The fleet goes on: what was asked isn't what it wants, and what it added since was never asked.
    want(
        &a,
        B_IMPORT,
        "\"fd00:0:1:1:1::/80\", \"fd00:0:1:1:2::/80\", \"fd00:0:1:1:3::/80\"",
    );
    settle(&a, wall());
    assert_eq!(reads(&a.gateway, asked.id), State::Void);
    let asked = the_one(&a.gateway);
    want(
        &a,
        B_IMPORT,
        "\"fd00:0:1:1:1::/80\", \"fd00:0:1:1:3::/80\", \"fd00:0:1:1:4::/80\"",
    );
    approve(&a.gateway, asked.id, &bob()).unwrap();
    exchange(&a, &b).await;
    let told = nets(&["fd00:0:1:1:1::/80", "fd00:0:1:1:3::/80"]);
    assert_eq!(
        view(&b, a_at_b).announced,
        told,
        "what was asked and is still wanted, and nothing else"
    );
    assert_eq!(in_force(&a).unwrap().1, Some(told));
    // Narrower, at once; as wide as before only by another word.
    want(&a, "\"fd00:0:2:1::/64\"", FIRST);
    assert_eq!(in_force(&a).unwrap().0, nets(&["fd00:0:2:1::/64"]));
    exchange(&a, &b).await;
    assert_eq!(view(&b, a_at_b).announced, nets(&["fd00:0:1:1:1::/80"]));
    assert!(waiting(&a.gateway, wall()).is_empty());
    want(&a, B_IMPORT, FIRST);
    exchange(&a, &b).await;
    assert_eq!(in_force(&a).unwrap().0, nets(&["fd00:0:2:1::/64"]));
    let asked = the_one(&a.gateway);
    // To suspend, to resume, to remove and to revoke wait for nobody.
    a.gateway.suspend(b_at_a, "test", wall()).unwrap();
    assert_eq!(in_force(&a), None);
    a.gateway.resume(b_at_a, wall()).unwrap();
    exchange(&a, &b).await;
    assert_eq!(in_force(&a).unwrap().0, nets(&["fd00:0:2:1::/64"]));
    tell_fleet(&a, 1, "");
    assert_eq!(in_force(&a), None);
    settle(&a, wall());
    assert_eq!(reads(&a.gateway, asked.id), State::Void);
    assert_eq!(state(&a, b_at_a), ["offered"], "by the peer alone");
    // What is wanted again is new.
    want(&a, "\"fd00:0:2:1::/64\"", FIRST);
    exchange(&a, &b).await;
    assert_eq!(in_force(&a), None);
    let asked = the_one(&a.gateway);
    a.gateway.revoke(b_at_a, "test", wall()).unwrap();
    assert_eq!(reads(&a.gateway, asked.id), State::Void, "with the peer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_holds_until_the_fleets_row_changes_and_what_nobody_decides_is_asked_anew() {
    let (a, b, b_at_a, _) = sites().await;
    exchange(&a, &b).await;
    let asked = the_one(&a.gateway);
    // Nobody says anything in time.
    let late = asked.expires_at.after(Duration::from_secs(1));
    let too_late = a.gateway.approve(asked.id, &bob(), late).unwrap_err();
    assert!(matches!(too_late, ApprovalError::Expired(_)), "{too_late}");
    settle(&a, late);
    let again = waiting(&a.gateway, late).remove(0);
    assert_ne!(again.id, asked.id);
    assert_eq!(again.deed, asked.deed);
    // Who asked may take it back, as anybody may deny it.
    a.gateway.deny(again.id, None, &bob(), late).unwrap();
    for hours in 0..24 {
        settle(&a, late.after(Duration::from_secs(hours * 3_600)));
    }
    exchange(&a, &b).await;
    assert!(waiting(&a.gateway, late).is_empty());
    let seen = view(&a, b_at_a);
    assert_eq!((seen.state, seen.waits_for), ("proposed", Some(WaitsFor::Denied)));
    assert!(agreed(&a).bridges.is_empty() && agreed(&b).bridges.is_empty());
    want(&a, B_IMPORT, "\"fd00:0:1:1::1/128\"");
    settle(&a, late);
    assert_eq!(waiting(&a.gateway, late).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_forgets_neither_what_waits_nor_what_was_said() {
    let (a, b, b_at_a, _) = sites().await;
    exchange(&a, &b).await;
    approve(&a.gateway, the_one(&a.gateway).id, &bob()).unwrap();
    exchange(&a, &b).await;
    want(&a, "\"fd00:0:2::/48\", \"fd00:0:22::/48\"", A_EXPORT);
    settle(&a, wall());
    let (asked, in_force) = (the_one(&a.gateway), agreed(&a).bridges);
    let begin = |is_gated: bool| {
        let path = a.folder.path().join("ledger.db");
        let ledger = Arc::new(Ledger::open(&path, wall()).unwrap());
        let site = a.gateway.site.clone();
        let (ca, _) = SiteCa::generate(&site, wall()).unwrap();
        let mut settings = Settings::default();
        settings.approvals.bridge = is_gated;
        let gateway = Gateway::new(site, node(), ca, ledger, settings);
        gateway.void_lost_approvals(wall()).unwrap();
        gateway.settle_bridges(random, wall()).unwrap();
        assert_eq!(
            waiting(&gateway, wall()).len(),
            1,
            "as long as the fleet isn't known, nothing is decided"
        );
        gateway.tell_fleet((*a.gateway.fleet().unwrap()).clone());
        gateway.settle_bridges(random, wall()).unwrap();
        gateway
    };
    let gateway = begin(true);
    assert_eq!(the_one(&gateway), asked);
    let kept = |gateway: &Gateway| gateway.agreements(wall()).bridges.into_values().next().unwrap();
    assert_eq!(Some(kept(&gateway)), in_force.into_values().next());
    drop(gateway);
    // Where nobody is asked any more, the fleet's word is enough; then what is in force counts as approved.
    let gateway = begin(false);
    assert!(waiting(&gateway, wall()).is_empty());
    assert_eq!(kept(&gateway).import.len(), 2);
    assert_eq!(kept(&gateway).export, None);
    let row = gateway
        .ledger
        .read(|book| book.bridges_of(b_at_a).next().cloned().unwrap());
    assert!(row.consent.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fleet_fills_the_queue_no_further_than_its_part() {
    let (a, _b, _, _) = sites().await;
    let table = |n: usize| {
        format!(
            "[[networks]]\nname = \"net-{n}\"\nid = {n}\nmembers = [ {{ node = \"hub-1\", role = \"hub\" }} ]\n\
             [[bridges]]\nname = \"to-{n}\"\npeer = \"site-b\"\nnetwork = \"net-{n}\"\ngateways = [\"hub-1\"]\n\
             import = [\"fd00:0:2:{n}::/64\"]\nexport = [\"fd00:0:1:{n}::/64\"]\n"
        )
    };
    let tables: Vec<String> = (100..103 + MOST_OF_FLEET).map(table).collect();
    tell_fleet(&a, 1, &tables.concat());
    settle(&a, wall());
    let all = waiting(&a.gateway, wall());
    assert_eq!(all.len(), MOST_OF_FLEET);
    let head = a.gateway.ledger.head();
    settle(&a, wall());
    assert_eq!(a.gateway.ledger.head(), head);
    for asked in &all[..5] {
        approve(&a.gateway, asked.id, &bob()).unwrap();
    }
    settle(&a, wall());
    let all = waiting(&a.gateway, wall()).len();
    assert_eq!(all, MOST_OF_FLEET - 2, "the rest is asked once there is room");
}
