//! Names of endpoints, looked up beside the rounds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::Owner;
use crate::planes::wireguard;

/// How long a name may take to resolve before the plan goes on without it.
const RESOLVE_TIME: Duration = Duration::from_secs(3);

/// How long a round of the daemon waits for names: a resolver that doesn't answer must not keep the firewall open.
const RESOLVE_PATIENCE: Duration = Duration::from_millis(50);

/// Resolves names without keeping anyone waiting longer than it may.
pub(super) struct Resolver {
    patience: Duration,
    running: Option<JoinHandle<wireguard::Names>>,
    pub(super) late: Arc<Notify>,
}

impl Resolver {
    pub(super) fn new(owner: Owner) -> Self {
        Self::patient(match owner {
            Owner::Daemon => RESOLVE_PATIENCE,
            Owner::Command => RESOLVE_TIME,
        })
    }

    fn patient(patience: Duration) -> Self {
        Self {
            patience,
            running: None,
            late: Arc::new(Notify::new()),
        }
    }

    /// What is known of `names` within the patience. An answer that comes later is told by `late`, and given to who
    /// asks next.
    pub(super) async fn resolve(&mut self, names: BTreeSet<String>) -> wireguard::Names {
        if names.is_empty() {
            return wireguard::Names::new();
        }
        let late = Arc::clone(&self.late);
        let patience = self.patience;
        let running = self.running.get_or_insert_with(|| {
            tokio::spawn(async move {
                let lookup = wireguard::resolve_names(names, RESOLVE_TIME);
                tokio::pin!(lookup);
                if let Ok(found) = tokio::time::timeout(patience, &mut lookup).await {
                    return found;
                }
                let found = lookup.await;
                late.notify_one();
                found
            })
        });
        // A little longer than the task's own patience: who was told nothing late must get it now.
        match tokio::time::timeout(patience * 2, running).await {
            Ok(done) => {
                self.running = None;
                done.unwrap_or_default()
            }
            Err(_) => wireguard::Names::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[tokio::test]
    async fn a_slow_lookup_is_told_later_and_keeps_nobody_waiting() {
        let mut resolver = Resolver::patient(Duration::from_millis(20));
        let late = Arc::clone(&resolver.late);
        let (sender, answer) = tokio::sync::oneshot::channel();
        let told = Arc::clone(&late);
        resolver.running = Some(tokio::spawn(async move {
            let found = answer.await.unwrap();
            told.notify_one();
            found
        }));
        let names = || BTreeSet::from(["hub.example.invalid".to_owned()]);
        assert!(resolver.resolve(names()).await.is_empty());
        let found = wireguard::Names::from([(
            "hub.example.invalid".to_owned(),
            vec![IpAddr::from([192, 0, 2, 1])],
        )]);
        sender.send(found.clone()).unwrap();
        late.notified().await;
        assert_eq!(resolver.resolve(names()).await, found);
        assert!(resolver.running.is_none());
    }
}
