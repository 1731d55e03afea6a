//! The first start of a site that another one spawned: the payload that it left is read, and its token taken to it.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{random, wall};
use crate::federation::dial::DialError;
use crate::federation::gateway::{Gateway, OperatorError, Proposal, TakeError};
use crate::federation::peer::SpawnRole;
use crate::federation::spawn::{Errand, MAX_PAYLOAD, Step};
use crate::model::Name;
use crate::report::chain;

/// How long is waited after a try that failed, at first and at most.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Does what the payload says, if there is one, and if it wasn't done yet. What can't ever succeed is told once.
pub(super) async fn follow(gateway: Arc<Gateway>, path: std::path::PathBuf) {
    let Some(errand) = read(&path) else { return };
    let (mut wait, mut is_registered) = (WAITS[0], false);
    loop {
        match step(&gateway, &errand, &mut is_registered).await {
            Ok(false) => return,
            Ok(true) => {
                tracing::info!(parent = %errand.url, path = %path.display(), "the parent has taken us up; the payload may be removed");
                return;
            }
            Err(error) if is_final(&error) => {
                tracing::error!(parent = %errand.url, %error, "the parent doesn't take us up: the payload is used, expired or another site's; have it make another");
                return;
            }
            Err(error) => {
                tracing::warn!(parent = %errand.url, error = %chain(&error), again_s = wait.as_secs(), "the parent wasn't reached");
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
            tracing::error!(path = %path.display(), %error, "what a parent left can't be read");
            return None;
        }
    };
    if file.metadata().is_ok_and(|data| data.mode() & 0o007 != 0) {
        tracing::warn!(path = %path.display(), "every user of this host can read the token in it: `chmod o= FILE`");
    }
    if let Err(error) = file.take(MAX_PAYLOAD).read_to_string(&mut text) {
        tracing::error!(path = %path.display(), %error, "what a parent left can't be read");
        return None;
    }
    match Errand::parse(&text) {
        Ok(errand) => Some(errand),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "what a parent left makes no sense");
            None
        }
    }
}

/// Says whether anything was left to do. A row that an operator ends meanwhile isn't written again.
async fn step(gateway: &Gateway, errand: &Errand, is_registered: &mut bool) -> Result<bool, Failure> {
    let next = || {
        gateway
            .ledger
            .read(|book| errand.step(book.peers().map(AsRef::as_ref)))
    };
    if next() == Step::Register && !*is_registered {
        register(gateway, errand)?;
    }
    *is_registered = true;
    match next() {
        Step::Take(id) => {
            let token = zeroize::Zeroizing::new(errand.token.reveal());
            gateway.take(id, &token, wall()).await?;
            Ok(true)
        }
        Step::Register | Step::Done => Ok(false),
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
        Failure::Operator(OperatorError::Ledger(_)) => false,
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
            TakeError::Answer(_) | TakeError::Store(_) | TakeError::Ledger(_) => false,
        },
        Failure::Dial(_) => false,
    }
}
