//! Clusters whose members are spawned: where they are is said in acceptances and in the answers to beats.

use serde_json::{Value, json};

use super::{BeatError, Gateway};
use crate::federation::ledger::{Aborted, Conflict, Happening};
use crate::federation::moment::Moment;
use crate::federation::peer::{Peer, SpawnMode, SpawnRole};
use crate::model::host::Cluster;

impl Gateway {
    /// The cluster that a child of ours joins.
    pub(super) fn cluster_for(&self, peer: &Peer) -> Option<Value> {
        let is_member = peer.mode == SpawnMode::ClusterMember && peer.role != SpawnRole::Child;
        self.settings
            .cluster
            .as_ref()
            .filter(|_| is_member)
            .map(|cluster| json!(cluster))
    }

    /// A cluster's parent says where it is now. What it no longer says stays as it was said last.
    pub(super) fn hear_cluster(
        &self,
        peer: &Peer,
        said: Option<&Value>,
        wall: Moment,
    ) -> Result<(), BeatError> {
        let cluster = said.and_then(|said| cluster_of(peer, said));
        let now = self.ledger.read(|book| book.now(wall));
        if cluster.is_none() || cluster == peer.cluster || !self.quota.take(peer.id, now) {
            return Ok(());
        }
        let told = self.ledger.transact(wall, |draft| {
            if let Some(mut peer) = draft.peer(&peer.id).cloned() {
                draft.note(Happening {
                    kind: "federation.peer.cluster_changed".to_owned(),
                    severity: "medium",
                    peer: Some(peer.id),
                    payload: json!({ "previous": peer.cluster, "new": cluster }),
                });
                peer.cluster = cluster;
                draft.put_peer(peer)?;
            }
            Ok::<_, Conflict>(())
        });
        match told {
            Err(Aborted::ByLedger(error)) => Err(error.into()),
            Ok(()) | Err(Aborted::ByCaller(_)) => Ok(()),
        }
    }
}

/// The cluster that a peer lets us join, if we are to and what it says makes sense.
pub(super) fn cluster_of(peer: &Peer, said: &Value) -> Option<Cluster> {
    let is_member = peer.mode == SpawnMode::ClusterMember && peer.role == SpawnRole::Child;
    let cluster = serde_json::from_value::<Cluster>(said.clone()).ok();
    cluster.filter(|cluster| is_member && cluster.is_sound())
}
