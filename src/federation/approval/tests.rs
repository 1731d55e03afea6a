use super::*;
use crate::model::host::Approvals;

const AT: Moment = Moment::EPOCH;

fn by() -> String {
    "uid:1".to_owned()
}

fn events() -> [Event; 6] {
    let reason = || "test".to_owned();
    [
        Event::Approve { by: by() },
        Event::Done,
        Event::Fail { reason: reason() },
        Event::Deny {
            by: by(),
            reason: Some(reason()),
        },
        Event::Expire,
        Event::Void { reason: reason() },
    ]
}

fn standings() -> [Standing; 7] {
    let reason = || "test".to_owned();
    [
        Standing::Pending,
        Standing::Performing { by: by(), at: AT },
        Standing::Approved { by: by(), at: AT },
        Standing::Denied {
            by: by(),
            at: AT,
            reason: None,
        },
        Standing::Expired { at: AT },
        Standing::Failed {
            by: by(),
            at: AT,
            reason: reason(),
        },
        Standing::Void {
            at: AT,
            reason: reason(),
        },
    ]
}

#[test]
fn the_whole_table() {
    use State::{Approved, Denied, Expired, Failed, Pending, Performing, Void};
    let no = None;
    //                  approve           done            fail          deny          expire         void
    let table = [
        (
            Pending,
            [Some(Performing), no, no, Some(Denied), Some(Expired), Some(Void)],
        ),
        (
            Performing,
            [no, Some(Approved), Some(Failed), no, no, Some(Failed)],
        ),
        (Approved, [no; 6]),
        (Denied, [no; 6]),
        (Expired, [no; 6]),
        (Failed, [no; 6]),
        (Void, [no; 6]),
    ];
    for (standing, (state, becomes)) in standings().into_iter().zip(table) {
        assert_eq!(standing.state(), state);
        for (event, expected) in events().into_iter().zip(becomes) {
            let after = standing.after(event.clone(), AT).map(|after| after.state());
            assert_eq!(after, expected.ok_or(NotNow(state)), "{state} {event:?}");
        }
        assert_eq!(state.is_over(), becomes == [no; 6], "{state}");
    }
}

#[test]
fn who_approved_is_known_to_the_end() {
    let later = AT.after(std::time::Duration::from_secs(5));
    let standing = Standing::Performing { by: by(), at: AT };
    let done = Standing::Approved { by: by(), at: AT };
    assert_eq!(standing.after(Event::Done, later), Ok(done));
    let reason = "unreachable".to_owned();
    let failed = Standing::Failed {
        by: by(),
        at: later,
        reason: reason.clone(),
    };
    assert_eq!(standing.after(Event::Fail { reason }, later), Ok(failed));
}

#[test]
fn each_key_gates_its_action_and_no_other() {
    type Key = fn(&mut Approvals) -> &mut bool;
    let keys: [Key; 6] = [
        |all| &mut all.propose,
        |all| &mut all.accept,
        |all| &mut all.bridge,
        |all| &mut all.anchor,
        |all| &mut all.tenant,
        |all| &mut all.compose,
    ];
    for (at, key) in keys.into_iter().enumerate() {
        let mut approvals = Approvals::default();
        *key(&mut approvals) = true;
        for (other, action) in Action::ALL.into_iter().enumerate() {
            assert_eq!(action.is_gated(&approvals), at == other, "{action}");
            assert!(!action.is_gated(&Approvals::default()));
        }
    }
}

#[test]
fn each_operator_but_who_asked_may_approve() {
    let approval = |requested_by: &Principal| Approval {
        id: ApprovalId(Uuid::nil()),
        deed: Deed::RotateCa,
        summary: String::new(),
        has_token: false,
        requested_by: requested_by.to_string(),
        requested_at: AT,
        expires_at: AT,
        standing: Standing::Pending,
    };
    let all = [
        Principal::Uid(0),
        Principal::Uid(1_000),
        Principal::Subject("alice".to_owned()),
        Principal::Subject("Alice".to_owned()),
        // Nobody passes for another by their name.
        Principal::Subject("uid:0".to_owned()),
        Principal::Subject("sub:alice".to_owned()),
    ];
    for (at, one) in all.iter().enumerate() {
        for (other, by) in all.iter().enumerate() {
            assert_eq!(approval(one).may_be_approved_by(by), at != other, "{one} {by}");
        }
    }
}
