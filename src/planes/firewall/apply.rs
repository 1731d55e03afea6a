//! One change → one nft transaction, or the connections that it cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::change::{Change, Cut};
use super::flows;
use super::observe::ObserveError;
use super::state::names;
use crate::model::ownership::NFT_TABLE;
use crate::sys::conntrack::{Conntrack, ConntrackError, Flow};
use crate::sys::nft::{Nft, NftError};
use crate::sys::nft_batch;

/// Why the firewall can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The table can't be read.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// A transaction failed: nothing of it took effect.
    #[error("can't change the firewall")]
    Transaction(#[source] NftError),
    /// Tracked connections can't be listed.
    #[error("can't list tracked connections")]
    ListFlows(#[source] ConntrackError),
    /// The mark that they are to be cut can't be taken away.
    #[error("can't take away the mark that tracked connections are to be cut")]
    Unmark(#[source] io::Error),
    /// Tracked connections can't be deleted.
    #[error("can't cut tracked connections")]
    CutFlows(#[source] ConntrackError),
    /// Tracked connections are still there.
    #[error("{count} tracked connections that the rules refuse were not cut, the first of them {first:?}")]
    Uncut {
        /// How many.
        count: usize,
        /// One of them.
        first: Flow,
    },
}

impl FirewallError {
    /// Whether the next try may succeed without anyone's help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Observe(error) => error.is_retryable(),
            Self::Transaction(error) => error.is_retryable(),
            Self::ListFlows(source) | Self::CutFlows(source) => source.is_retryable(),
            Self::Unmark(_) | Self::Uncut { .. } => true,
        }
    }
}

/// Makes changes, in order. The answers are as many as the changes.
pub async fn apply_all(
    changes: &[&Change],
    nft: &Nft,
    conntrack: &Conntrack,
) -> Vec<Result<(), FirewallError>> {
    let cuts: Vec<&Cut> = changes.iter().filter_map(|change| cut_of(change)).collect();
    if cuts.len() > 1 && cuts.len() == changes.len() && cut_flows(&cuts, conntrack).await.is_ok() {
        return changes.iter().map(|_| Ok(())).collect();
    }
    // One by one: who was it?
    let mut results = Vec::new();
    for change in changes {
        results.push(apply(change, nft, conntrack).await);
    }
    results
}

/// Makes one change.
///
/// # Errors
/// It failed: [`FirewallError`]. A transaction that fails leaves everything as it was.
pub async fn apply(change: &Change, nft: &Nft, conntrack: &Conntrack) -> Result<(), FirewallError> {
    match change {
        Change::Install(t) | Change::Narrow(t) | Change::Widen(t) | Change::Remove(t) => {
            nft.run(&t.script).await.map_err(FirewallError::Transaction)
        }
        Change::CutFlows(cut) => cut_flows(&[cut], conntrack).await,
    }
}

fn cut_of(change: &Change) -> Option<&Cut> {
    match change {
        Change::CutFlows(cut) => Some(cut),
        Change::Install(_) | Change::Narrow(_) | Change::Widen(_) | Change::Remove(_) => None,
    }
}

/// The tracked connections that the rules of these networks refuse.
async fn refused(cuts: &[&Cut], conntrack: &Conntrack) -> Result<Vec<Flow>, FirewallError> {
    let zones = cuts.iter().map(|cut| cut.zone).collect();
    let listed = conntrack.list(&zones, cuts.iter().any(|cut| cut.mapped)).await;
    let mut by_zone: BTreeMap<u16, Vec<Flow>> = BTreeMap::new();
    for flow in listed.map_err(FirewallError::ListFlows)? {
        // A mapped connection is of the network's zone on the way back only.
        let zone = flow.translated.map_or(flow.zone, |answer| answer.zone);
        by_zone.entry(zone).or_default().push(flow);
    }
    let flows = |cut: &&Cut| by_zone.get(&cut.zone).cloned().unwrap_or_default();
    Ok(cuts
        .iter()
        .flat_map(|cut| flows::refused(cut, flows(cut)))
        .collect())
}

/// Cuts the connections of several networks, and takes their marks away when that is done.
async fn cut_flows(cuts: &[&Cut], conntrack: &Conntrack) -> Result<(), FirewallError> {
    let before = refused(cuts, conntrack).await?;
    if !before.is_empty() {
        let deleted = conntrack.delete(&before).await;
        deleted.map_err(FirewallError::CutFlows)?;
        // The tool doesn't say what it didn't find.
        let known: BTreeSet<Flow> = before.into_iter().collect();
        let left = refused(cuts, conntrack).await?;
        let left: Vec<Flow> = left.into_iter().filter(|flow| known.contains(flow)).collect();
        if let Some(first) = left.first() {
            return Err(FirewallError::Uncut {
                count: left.len(),
                first: *first,
            });
        }
    }
    let marked = cuts.iter().filter(|cut| cut.marked);
    let marks: Vec<String> = marked.map(|cut| names::cut_mark(cut.network)).collect();
    let unmark = move || nft_batch::delete_counters(NFT_TABLE, &marks);
    let unmarked = tokio::task::spawn_blocking(unmark).await;
    unmarked
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(FirewallError::Unmark)
}
