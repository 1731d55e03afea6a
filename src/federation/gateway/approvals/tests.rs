use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::federation::approval::Action;
use crate::federation::gateway::{Proposal, Settings};
use crate::federation::ledger::{Ledger, backup, restore};
use crate::federation::peer::{PeerId, SpawnMode, SpawnRole, Status};
use crate::federation::pki::SiteCa;
use crate::federation::site::SiteId;
use crate::federation::token::Fingerprint;
use crate::federation::url::PeerUrl;
use crate::model::Name;
use crate::model::host::Approvals;

const HOUR: Duration = Duration::from_secs(3_600);

/// 2026-01-01.
fn wall() -> Moment {
    Moment::from_millis(1_767_225_600_000)
}

fn all() -> Approvals {
    Approvals {
        propose: true,
        accept: true,
        bridge: true,
        anchor: true,
        tenant: true,
        compose: true,
        timeout: 4 * HOUR,
    }
}

fn start_with(folder: &Path, approvals: Approvals, at: Moment) -> Gateway {
    let site = SiteId::new("site-a.fd1234abcd42").unwrap();
    let ledger = Arc::new(Ledger::open(&folder.join("ledger.db"), at).unwrap());
    let ca = SiteCa::generate(&site, wall()).unwrap().0;
    let settings = Settings {
        approvals,
        ..Settings::default()
    };
    let gateway = Gateway::new(site, Name::new("hub-a1").unwrap(), ca, ledger, settings);
    gateway.void_lost_approvals(at).unwrap();
    gateway
}

fn start(folder: &Path) -> Gateway {
    start_with(folder, all(), wall())
}

fn proposal(n: usize) -> Proposal {
    Proposal {
        url: PeerUrl::new(&format!("https://site-{n}.example:8443")).unwrap(),
        alias: None,
        role: SpawnRole::Symmetric,
        mode: SpawnMode::OutOfBand,
        token_ttl_seconds: None,
        expect_ca: None,
    }
}

fn id(n: usize) -> [u8; 10] {
    let mut id = [0; 10];
    id[2..].copy_from_slice(&n.to_be_bytes());
    id
}

fn alice() -> Principal {
    Principal::Subject("alice".to_owned())
}

fn bob() -> Principal {
    Principal::Uid(1_000)
}

/// A peer that is proposed, and another site's token for it.
fn registered(gateway: &Gateway, n: u8) -> (PeerId, AcceptanceToken) {
    let proposed = gateway.propose(&proposal(usize::from(n)), [n; 32], [n; 10], wall());
    let token = AcceptanceToken::new([n; 32], Fingerprint([0xab; 32]));
    (proposed.unwrap().peer.id, token)
}

fn parked(gate: Result<Gate, GateError>) -> Approval {
    match gate.unwrap() {
        Gate::Parked(approval) => *approval,
        Gate::Go => panic!("it isn't parked"),
    }
}

fn standing(gateway: &Gateway, id: ApprovalId) -> Standing {
    gateway
        .ledger
        .read(|book| book.approval(&id).unwrap().standing.clone())
}

fn kinds(gateway: &Gateway) -> Vec<String> {
    let tail = gateway.ledger.audit_tail(10_000).unwrap();
    tail.into_iter().map(|record| record.kind).collect()
}

#[test]
fn each_deed_waits_where_its_key_says_so_whoever_asks() {
    for is_set in [false, true] {
        for gated in Action::ALL {
            let folder = tempfile::tempdir().unwrap();
            let mut approvals = Approvals::default();
            match gated {
                Action::Propose => approvals.propose = is_set,
                Action::Accept => approvals.accept = is_set,
                Action::Bridge => approvals.bridge = is_set,
                Action::Anchor => approvals.anchor = is_set,
                Action::Tenant => approvals.tenant = is_set,
                Action::Compose => approvals.compose = is_set,
            }
            let gateway = start_with(folder.path(), approvals, wall());
            let (peer, token) = registered(&gateway, 1);
            let deeds = [
                (Deed::Propose(proposal(2)), None),
                (
                    Deed::RotateToken {
                        peer,
                        token_ttl_seconds: None,
                    },
                    None,
                ),
                (Deed::Accept { peer }, Some(&token)),
                (Deed::RotateCa, None),
            ];
            let mut n = 0;
            for (deed, token) in &deeds {
                for by in [Principal::Uid(0), bob(), alice()] {
                    n += 1;
                    let gate = gateway.gate(deed, *token, &by, id(n), wall()).unwrap();
                    let waits = matches!(gate, Gate::Parked(_));
                    assert_eq!(waits, is_set && deed.action() == gated, "{gated} {deed:?} {by}");
                }
            }
        }
    }
}

#[test]
fn what_is_plainly_wrong_is_refused_and_not_parked() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    let (peer, token) = registered(&gateway, 1);
    let own = AcceptanceToken::new([9; 32], gateway.ca.fingerprint());
    let before = gateway.ledger.head();
    let nobody = PeerId(uuid::Uuid::nil());
    let ask =
        |deed: Deed, token: Option<&AcceptanceToken>| gateway.gate(&deed, token, &alice(), id(1), wall());
    let twice = ask(Deed::Propose(proposal(1)), None).unwrap_err();
    assert!(
        matches!(twice, GateError::Operator(OperatorError::Conflict(_))),
        "{twice}"
    );
    let own = ask(Deed::Accept { peer }, Some(&own)).unwrap_err();
    assert!(matches!(own, GateError::Take(TakeError::Own)), "{own}");
    let unknown = ask(Deed::Accept { peer: nobody }, Some(&token)).unwrap_err();
    assert!(
        matches!(unknown, GateError::Take(TakeError::Unknown(_))),
        "{unknown}"
    );
    let rotate = |peer| Deed::RotateToken {
        peer,
        token_ttl_seconds: None,
    };
    let unknown = ask(rotate(nobody), None).unwrap_err();
    assert!(
        matches!(unknown, GateError::Operator(OperatorError::Unknown(_))),
        "{unknown}"
    );
    assert_eq!(gateway.ledger.head(), before, "nothing is written");
    gateway.revoke(peer, "test", wall()).unwrap();
    let ended = ask(Deed::Accept { peer }, Some(&token)).unwrap_err();
    assert!(
        matches!(ended, GateError::Take(TakeError::Transition(_))),
        "{ended}"
    );
    let ended = ask(rotate(peer), None).unwrap_err();
    assert!(
        matches!(ended, GateError::Operator(OperatorError::Transition(_))),
        "{ended}"
    );
    assert_eq!(gateway.pending_approvals(wall()), 0);
}

#[test]
fn who_asks_twice_waits_once_and_nobody_fills_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    let (peer, token) = registered(&gateway, 1);
    let other = AcceptanceToken::new([2; 32], token.ca());
    let accept = Deed::Accept { peer };
    let first = parked(gateway.gate(&accept, Some(&token), &alice(), id(1), wall()));
    let later = wall().after(HOUR);
    let again = parked(gateway.gate(&accept, Some(&token), &alice(), id(2), later));
    assert_eq!(again, first, "the same is the same, and lives no longer");
    let with_another = parked(gateway.gate(&accept, Some(&other), &alice(), id(3), wall()));
    let of_another = parked(gateway.gate(&accept, Some(&token), &bob(), id(4), wall()));
    assert_eq!(
        gateway.pending_approvals(wall()),
        3,
        "{with_another:?} {of_another:?}"
    );
    for n in 2..MOST_OF_ONE {
        parked(gateway.gate(&Deed::Propose(proposal(n)), None, &alice(), id(10 + n), wall()));
    }
    let too_many = gateway.gate(&Deed::Propose(proposal(99)), None, &alice(), id(99), wall());
    let too_many = too_many.unwrap_err();
    assert!(
        matches!(too_many, GateError::Approval(ApprovalError::TooManyOfOne(_))),
        "{too_many}"
    );
    let mut n = 1_000;
    while gateway.pending_approvals(wall()) < MOST {
        n += 1;
        let by = Principal::Uid(u32::try_from(n / 10).unwrap());
        parked(gateway.gate(&Deed::Propose(proposal(n)), None, &by, id(n), wall()));
    }
    let full = gateway.gate(&Deed::RotateCa, None, &bob(), id(9_999), wall());
    assert!(matches!(full, Err(GateError::Approval(ApprovalError::TooMany))));
    // What nobody decides makes room; the ledger's time is that of the latest request.
    let over = later.after(4 * HOUR);
    parked(gateway.gate(&Deed::RotateCa, None, &bob(), id(9_999), over));
    assert_eq!(gateway.pending_approvals(over), 1);
}

#[test]
fn another_operator_approves_and_what_it_came_to_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    let (peer, token) = registered(&gateway, 1);
    let deed = Deed::Accept { peer };
    for (n, outcome) in [(1, Ok(())), (2, Err("unreachable".to_owned()))] {
        let waits = parked(gateway.gate(&deed, Some(&token), &alice(), id(n), wall()));
        let own = gateway.approve(waits.id, &alice(), wall()).unwrap_err();
        assert!(matches!(own, ApprovalError::SamePrincipal(_)), "{own}");
        let approved = gateway.approve(waits.id, &bob(), wall()).unwrap();
        assert_eq!(approved.token.as_ref(), Some(&token));
        assert_eq!(approved.approval.standing.state(), State::Performing);
        let twice = gateway.approve(waits.id, &bob(), wall()).unwrap_err();
        assert!(
            matches!(twice, ApprovalError::NotNow(NotNow(State::Performing))),
            "{twice}"
        );
        let late = gateway.deny(waits.id, None, &alice(), wall()).unwrap_err();
        assert!(
            matches!(late, ApprovalError::NotNow(NotNow(State::Performing))),
            "{late}"
        );
        gateway.performed(waits.id, outcome.clone(), wall()).unwrap();
        let (by, at) = (bob().to_string(), wall());
        let expected = match outcome {
            Ok(()) => Standing::Approved { by, at },
            Err(reason) => Standing::Failed { by, at, reason },
        };
        assert_eq!(standing(&gateway, waits.id), expected);
    }
    let told: Vec<String> = { kinds(&gateway) }
        .into_iter()
        .filter_map(|kind| kind.strip_prefix("federation.approval.").map(str::to_owned))
        .collect();
    assert_eq!(told, ["requested", "approved", "requested", "approved", "failed"]);
}

#[test]
fn what_is_denied_is_never_performed_and_who_asked_may_take_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    for (n, by) in [(1, alice()), (2, bob())] {
        let waits = parked(gateway.gate(&Deed::RotateCa, None, &alice(), id(n), wall()));
        let denied = gateway
            .deny(waits.id, Some("no".to_owned()), &by, wall())
            .unwrap();
        assert_eq!(denied.standing.state(), State::Denied);
        let late = gateway.approve(waits.id, &bob(), wall()).unwrap_err();
        assert!(
            matches!(late, ApprovalError::NotNow(NotNow(State::Denied))),
            "{late}"
        );
    }
}

#[test]
fn an_approval_is_over_at_its_last_moment() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    let ask = |n: usize| {
        let (peer, token) = registered(&gateway, u8::try_from(n).unwrap());
        parked(gateway.gate(&Deed::Accept { peer }, Some(&token), &alice(), id(n), wall()))
    };
    let [first, second, third] = [1, 2, 3].map(ask);
    let last = Moment::from_millis(first.expires_at.millis() - 1);
    assert_eq!(first.expires_at, wall().after(4 * HOUR));
    gateway.expire_approvals(last).unwrap();
    let head = gateway.ledger.head();
    gateway.approve(first.id, &bob(), last).unwrap();
    let late = gateway.approve(second.id, &bob(), first.expires_at).unwrap_err();
    assert!(matches!(late, ApprovalError::Expired(_)), "{late}");
    assert_eq!(
        standing(&gateway, second.id).state(),
        State::Expired,
        "and that is written"
    );
    assert_eq!(standing(&gateway, third.id).state(), State::Pending);
    assert_ne!(gateway.ledger.head(), head);
    gateway.expire_approvals(first.expires_at).unwrap();
    assert_eq!(
        standing(&gateway, third.id).state(),
        State::Expired,
        "also if nobody looks"
    );
    assert_eq!(
        gateway.parked.lock().tokens.len(),
        0,
        "no token outlives its approval"
    );
    let head = gateway.ledger.head();
    let records = kinds(&gateway).len();
    gateway.expire_approvals(first.expires_at.after(HOUR)).unwrap();
    assert_eq!(
        (gateway.ledger.head(), kinds(&gateway).len()),
        (head, records),
        "a no-op writes nothing"
    );
}

#[test]
fn a_restart_loses_tokens_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (with_token, without, under_way);
    {
        let gateway = start(folder.path());
        let (peer, token) = registered(&gateway, 1);
        let ask = |deed: Deed, token: Option<&AcceptanceToken>, n: usize| {
            parked(gateway.gate(&deed, token, &alice(), id(n), wall())).id
        };
        with_token = ask(Deed::Accept { peer }, Some(&token), 1);
        without = ask(Deed::Propose(proposal(2)), None, 2);
        under_way = ask(Deed::RotateCa, None, 3);
        gateway.approve(under_way, &bob(), wall()).unwrap();
    }
    let gateway = start(folder.path());
    let (at, reason) = (wall(), LOST.to_owned());
    assert_eq!(standing(&gateway, with_token), Standing::Void { at, reason });
    let (by, reason) = (bob().to_string(), CUT_OFF.to_owned());
    assert_eq!(standing(&gateway, under_way), Standing::Failed { by, at, reason });
    let approved = gateway.approve(without, &bob(), wall()).unwrap();
    assert_eq!(approved.approval.deed, Deed::Propose(proposal(2)));
    let head = gateway.ledger.head();
    gateway.performed(without, Ok(()), wall()).unwrap();
    drop(gateway);
    let gateway = start(folder.path());
    assert_eq!(gateway.ledger.head(), head, "nothing is left to be said");
    assert_eq!(standing(&gateway, without).state(), State::Approved);
}

#[test]
fn a_token_that_is_lost_all_the_same_is_found_out_when_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    let (peer, token) = registered(&gateway, 1);
    let waits = parked(gateway.gate(&Deed::Accept { peer }, Some(&token), &alice(), id(1), wall()));
    gateway.parked.lock().tokens.clear();
    let lost = gateway.approve(waits.id, &bob(), wall()).unwrap_err();
    assert_eq!(lost.to_string(), LOST);
    assert_eq!(standing(&gateway, waits.id).state(), State::Void);
}

#[test]
fn of_many_who_decide_at_once_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    for n in 1..=8 {
        let (peer, token) = registered(&gateway, n);
        let n = usize::from(n);
        let waits = parked(gateway.gate(&Deed::Accept { peer }, Some(&token), &alice(), id(n), wall()));
        let (gateway, waits) = (&gateway, waits.id);
        let won = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..16_u32)
                .map(|n| {
                    scope.spawn(move || {
                        let by = Principal::Uid(n);
                        if n % 4 == 3 {
                            gateway.deny(waits, None, &by, wall()).is_ok()
                        } else {
                            let approved = gateway.approve(waits, &by, wall());
                            approved.is_ok_and(|approved| approved.token.is_some())
                        }
                    })
                })
                .collect();
            let won = tries.into_iter().map(|one| one.join().unwrap());
            won.filter(|won| *won).count()
        });
        assert_eq!(won, 1);
    }
}

#[test]
fn nothing_of_a_token_is_written_or_printed() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    let mut secrets = Vec::new();
    for n in 0x61..0x6a_u8 {
        let (peer, _) = registered(&gateway, n - 0x60);
        // Readable, so that it is found wherever it is.
        let token = AcceptanceToken::new([n; 32], Fingerprint([0xab; 32]));
        let deed = Deed::Accept { peer };
        let by = Principal::Uid(u32::from(n));
        let waits = parked(gateway.gate(&deed, Some(&token), &by, id(usize::from(n)), wall()));
        let printed = format!("{waits:?} {deed:?}");
        let mut approved = String::new();
        if n % 3 == 0 {
            let one = gateway.approve(waits.id, &bob(), wall()).unwrap();
            approved = format!("{one:?}");
            let words = token.redacted(&format!("refused: {}", token.reveal()));
            gateway.performed(waits.id, Err(words), wall()).unwrap();
        } else if n % 3 == 1 {
            gateway.deny(waits.id, None, &bob(), wall()).unwrap();
        }
        let revealed = token.reveal();
        let text = revealed.split('.').nth(1).unwrap().to_owned();
        for shown in [&printed, &approved] {
            assert!(!shown.contains(&text) && !shown.contains("97, 97"), "{shown}");
        }
        secrets.extend([text.into_bytes(), vec![n; 32], token.digest().0.to_vec()]);
        secrets.push(Fingerprint(token.digest().0).to_string().into_bytes());
    }
    let mut looked = 0;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        looked += bytes.len();
        for secret in &secrets {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
    }
    assert!(looked > 10_000, "the ledger was looked at");
    let told = format!("{:?}", gateway.ledger.audit_tail(10_000).unwrap());
    for secret in secrets
        .iter()
        .filter_map(|secret| std::str::from_utf8(secret).ok())
    {
        assert!(!told.contains(secret));
    }
}

#[test]
fn a_ledger_that_is_put_back_wakes_nothing_that_waited() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let copy = folder.path().join("copy");
    let (waits, under_way);
    {
        let gateway = start(folder.path());
        waits = parked(gateway.gate(&Deed::Propose(proposal(1)), None, &alice(), id(1), wall())).id;
        under_way = parked(gateway.gate(&Deed::RotateCa, None, &alice(), id(2), wall())).id;
        gateway.approve(under_way, &bob(), wall()).unwrap();
    }
    backup(&path, &copy).unwrap();
    restore(&copy, &path, wall()).unwrap();
    let gateway = start(folder.path());
    let Standing::Void { reason, .. } = standing(&gateway, waits) else {
        panic!("{:?}", standing(&gateway, waits));
    };
    assert!(reason.contains("restored from a backup"), "{reason}");
    assert_eq!(standing(&gateway, under_way).state(), State::Failed);
    let late = gateway.approve(waits, &bob(), wall()).unwrap_err();
    assert!(
        matches!(late, ApprovalError::NotNow(NotNow(State::Void))),
        "{late}"
    );
    let of_restore = gateway.ledger.audit_tail(10_000).unwrap();
    let record = of_restore
        .iter()
        .find(|record| record.kind == "federation.ledger.restored");
    assert_eq!(record.unwrap().payload["approvals_void"], 2);
}

#[test]
fn to_revoke_waits_for_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    let (peer, _) = registered(&gateway, 1);
    let revoked = gateway.revoke(peer, "test", wall()).unwrap();
    assert_eq!(revoked.status, Status::Revoked, "whatever needs approval");
}

#[test]
fn only_so_many_that_are_over_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start(folder.path());
    let mut first = None;
    // A few more than are kept; written in one go, since what counts is what goes.
    let over = |n: usize| Approval {
        id: ApprovalId(wall().uuid(id(n))),
        deed: Deed::RotateCa,
        summary: String::new(),
        has_token: false,
        requested_by: alice().to_string(),
        requested_at: wall(),
        expires_at: wall(),
        standing: Standing::Expired { at: wall() },
    };
    let written = gateway.ledger.transact(wall(), |draft| {
        for n in 0..KEPT + 5 {
            first = first.or(Some(over(n).id));
            draft.put_approval(over(n));
        }
        Ok::<_, std::convert::Infallible>(())
    });
    written.unwrap();
    let waits = parked(gateway.gate(&Deed::RotateCa, None, &alice(), id(9_999), wall()));
    let (count, has_first) = gateway.ledger.read(|book| {
        let has_first = book.approval(&first.unwrap()).is_some();
        (book.approvals().count(), has_first)
    });
    assert_eq!((count, has_first), (KEPT + 1, false));
    assert_eq!(standing(&gateway, waits.id), Standing::Pending);
}
