//! The first start of a site that another one spawned: the payload that it left is read, and its token taken to it.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{random, wall};
use crate::federation::dial::DialError;
use crate::federation::gateway::{Gateway, OperatorError, Proposal, TakeError};
use crate::federation::peer::{PeerId, SpawnRole};
use crate::federation::spawn::{Errand, MAX_PAYLOAD, Step};
use crate::log::Event;
use crate::model::Name;
use crate::report::chain;

/// How long is waited after a try that failed, at first and at most.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Does what the payload says, if there is one, and if it wasn't done yet. What can't ever succeed is told once.
pub(super) async fn follow(gateway: Arc<Gateway>, path: std::path::PathBuf) {
    let Some(errand) = read(&path) else { return };
    let mut wait = WAITS[0];
    loop {
        let (parent, shown) = (errand.url.to_string(), path.display().to_string());
        match step(&gateway, &errand).await {
            Ok(Outcome::Nothing) => return,
            Ok(Outcome::Taken) => {
                Event::ParentTookUsUp { parent, path: shown }.emit();
                return;
            }
            Ok(Outcome::Revoked(id)) => {
                let peer = id.to_string();
                Event::ParentStaysRevoked {
                    parent,
                    peer,
                    path: shown,
                }
                .emit();
                return;
            }
            Err(error) if is_final(&error) => {
                let error = error.to_string();
                Event::ParentRefused { parent, error }.emit();
                return;
            }
            Err(error) => {
                let (error, again_s) = (chain(&error), wait.as_secs());
                Event::ParentNotReached {
                    parent,
                    error,
                    again_s,
                }
                .emit();
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAITS[1]);
    }
}

fn read(path: &Path) -> Option<Errand> {
    let mut text = zeroize::Zeroizing::new(String::new());
    let opened = std::fs::File::open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            not_read(path, &error);
            return None;
        }
    };
    if file.metadata().is_ok_and(|data| data.mode() & 0o007 != 0) {
        let path = path.display().to_string();
        Event::PayloadExposed { path }.emit();
    }
    if let Err(error) = file.take(MAX_PAYLOAD).read_to_string(&mut text) {
        not_read(path, &error);
        return None;
    }
    match Errand::parse(&text) {
        Ok(errand) => Some(errand),
        Err(error) => {
            not_read(path, &error);
            None
        }
    }
}

fn not_read(path: &Path, error: &dyn std::error::Error) {
    let (path, error) = (path.display().to_string(), error.to_string());
    Event::PayloadNotRead { path, error }.emit();
}

/// What an errand came to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Nothing was left to do.
    Nothing,
    /// The parent has taken us up.
    Taken,
    /// An operator had revoked the parent, or did so meanwhile.
    Revoked(PeerId),
}

/// One try. A row that an operator ends isn't written again, neither now nor at any later start.
async fn step(gateway: &Gateway, errand: &Errand) -> Result<Outcome, Failure> {
    let next = || {
        gateway
            .ledger
            .read(|book| errand.step(book.peers().map(AsRef::as_ref)))
    };
    if next() == Step::Register {
        register(gateway, errand)?;
    }
    match next() {
        Step::Take(id) => {
            gateway.entrust(id, errand.token.digest(), wall())?;
            let token = zeroize::Zeroizing::new(errand.token.reveal());
            gateway.take(id, &token, wall()).await?;
            Ok(Outcome::Taken)
        }
        Step::Revoked(id) => Ok(Outcome::Revoked(id)),
        Step::Register | Step::Done => Ok(Outcome::Nothing),
    }
}

fn register(gateway: &Gateway, errand: &Errand) -> Result<(), OperatorError> {
    let (mut secret, mut id) = ([0; 32], [0; 10]);
    random(&mut secret);
    random(&mut id);
    let mut proposal = Proposal {
        url: errand.url.clone(),
        alias: errand.name.clone(),
        role: SpawnRole::Child,
        mode: errand.mode,
        token_ttl_seconds: None,
        expect_ca: None,
    };
    let proposed = match gateway.propose(&proposal, secret, id, wall()) {
        Err(OperatorError::Alias) => {
            proposal.alias = Name::new("parent").ok();
            gateway.propose(&proposal, secret, id, wall())
        }
        proposed => proposed,
    };
    proposed.map(|_| ())
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Operator(#[from] OperatorError),
    #[error(transparent)]
    Dial(#[from] DialError),
}

/// Whether another try can't go otherwise.
fn is_final(failure: &Failure) -> bool {
    match failure {
        Failure::Operator(OperatorError::Ledger(_) | OperatorError::Paused(_)) => false,
        Failure::Operator(_) => true,
        // Too slow, too early, too many (RFC 9110, section 15.5.9; RFC 8470; RFC 6585): another time it may go well.
        Failure::Dial(DialError::Refused { status, .. }) => {
            (400..500).contains(status) && !matches!(status, 408 | 425 | 429)
        }
        Failure::Dial(DialError::Take(error)) => match error {
            TakeError::Token(_)
            | TakeError::Own
            | TakeError::Unknown(_)
            | TakeError::Transition(_)
            | TakeError::Conflict(_) => true,
            TakeError::Paused(_) | TakeError::Answer(_) | TakeError::Store(_) | TakeError::Ledger(_) => false,
        },
        Failure::Dial(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::gateway::Settings;
    use crate::federation::ledger::{Ledger, backup, restore};
    use crate::federation::peer::{Peer, Status};
    use crate::federation::pki::SiteCa;
    use crate::federation::site::SiteId;

    fn start(folder: &Path) -> Gateway {
        let site = SiteId::new("site-b.fd0000000002").unwrap();
        let ledger = Arc::new(Ledger::open(&folder.join("ledger.db"), wall()).unwrap());
        let (ca, _) = SiteCa::generate(&site, wall()).unwrap();
        let node = Name::new("hub-b1").unwrap();
        Gateway::new(site, node, ca, ledger, Settings::default())
    }

    /// An errand to a parent that nobody reaches.
    fn errand(folder: &Path) -> Errand {
        let (ca, _) = SiteCa::generate(&SiteId::new("site-a.fd0000000001").unwrap(), wall()).unwrap();
        let token = crate::federation::token::AcceptanceToken::new([7; 32], ca.fingerprint());
        let payload = serde_json::json!({
            "parent_url": "https://127.0.0.1:1", "acceptance_token": token.reveal(), "contract_version": "v1",
            "spawn_mode": "managed_child",
        });
        let path = folder.join("payload.json");
        std::fs::write(&path, payload.to_string()).unwrap();
        read(&path).unwrap()
    }

    fn rows(gateway: &Gateway) -> Vec<Peer> {
        let all =
            |book: &crate::federation::ledger::Book| book.peers().map(|peer| (**peer).clone()).collect();
        gateway.ledger.read(all)
    }

    async fn unreached(gateway: &Gateway, errand: &Errand) {
        let failed = step(gateway, errand).await.unwrap_err();
        assert!(!is_final(&failed), "{failed}");
    }

    #[test]
    fn what_a_busy_parent_says_isnt_final() {
        let refused = |status| {
            is_final(&Failure::Dial(DialError::Refused {
                status,
                error: String::new(),
            }))
        };
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert!(!refused(status), "{status}");
        }
        for status in [400, 401, 403, 404, 409, 422] {
            assert!(refused(status), "{status}");
        }
    }

    #[tokio::test]
    async fn a_parent_that_an_operator_has_revoked_stays_revoked_at_every_start() {
        let folder = tempfile::tempdir().unwrap();
        let errand = errand(folder.path());
        let gateway = start(folder.path());
        for _ in 0..2 {
            unreached(&gateway, &errand).await;
        }
        let waiting = rows(&gateway);
        assert_eq!(waiting.len(), 1, "registered once");
        let copy = folder.path().join("copy.db");
        backup(&folder.path().join("ledger.db"), &copy).unwrap();
        gateway.revoke(waiting[0].id, "not this one", wall()).unwrap();
        let revoked = rows(&gateway);
        assert_eq!(revoked[0].status, Status::Revoked);
        assert_eq!(
            step(&gateway, &errand).await.unwrap(),
            Outcome::Revoked(waiting[0].id)
        );
        drop(gateway);
        let again = start(folder.path());
        assert_eq!(
            step(&again, &errand).await.unwrap(),
            Outcome::Revoked(waiting[0].id)
        );
        assert_eq!(rows(&again), revoked);
        drop(again);

        // A restore revokes what was only proposed, and is no operator's word: the errand begins anew.
        restore(&copy, &folder.path().join("ledger.db"), wall()).unwrap();
        let restored = start(folder.path());
        unreached(&restored, &errand).await;
        let statuses: Vec<Status> = rows(&restored).iter().map(|peer| peer.status).collect();
        assert_eq!(statuses, [Status::Revoked, Status::Proposed]);
    }

    #[tokio::test]
    async fn a_row_that_an_operator_registered_for_it_is_known_as_its_errand() {
        let folder = tempfile::tempdir().unwrap();
        let errand = errand(folder.path());
        let gateway = start(folder.path());
        register(&gateway, &errand).unwrap();
        let id = rows(&gateway)[0].id;
        unreached(&gateway, &errand).await;
        assert_eq!(rows(&gateway)[0].errand, Some(errand.token.digest()));
        gateway.revoke(id, "not this one", wall()).unwrap();
        assert_eq!(step(&gateway, &errand).await.unwrap(), Outcome::Revoked(id));
    }
}
