//! One change → one nft transaction, or the connections that it cuts.

use super::change::{Change, Cut};
use super::flows;
use super::observe::ObserveError;
use super::render::unmark_text;
use crate::sys::conntrack::{Conntrack, ConntrackError, Flow};
use crate::sys::nft::{Nft, NftError};

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
    #[error("can't list the tracked connections of zone {zone}")]
    ListFlows {
        /// The zone.
        zone: u16,
        /// Why.
        #[source]
        source: ConntrackError,
    },
    /// Tracked connections can't be deleted.
    #[error("can't cut tracked connections of zone {zone}")]
    CutFlows {
        /// The zone.
        zone: u16,
        /// Why.
        #[source]
        source: ConntrackError,
    },
}

impl FirewallError {
    /// Whether the next try may succeed without anyone's help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Observe(error) => error.is_retryable(),
            Self::Transaction(error) => error.is_retryable(),
            Self::ListFlows { source, .. } | Self::CutFlows { source, .. } => source.is_retryable(),
        }
    }
}

/// What a change did, beside what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The connections that were cut.
    pub cut: Vec<Flow>,
}

/// Makes one change.
///
/// # Errors
/// It failed: [`FirewallError`]. A transaction that fails leaves everything as it was.
pub async fn apply(change: &Change, nft: &Nft, conntrack: &Conntrack) -> Result<Applied, FirewallError> {
    match change {
        Change::Install(t) | Change::Narrow(t) | Change::Widen(t) | Change::Remove(t) => {
            nft.run(&t.script).await.map_err(FirewallError::Transaction)?;
            Ok(Applied::default())
        }
        Change::CutFlows(cut) => {
            let applied = cut_flows(cut, conntrack).await?;
            if cut.marked {
                let script = unmark_text(cut.network);
                nft.run(&script).await.map_err(FirewallError::Transaction)?;
            }
            Ok(applied)
        }
    }
}

async fn cut_flows(cut: &Cut, conntrack: &Conntrack) -> Result<Applied, FirewallError> {
    let zone = cut.zone;
    let listed = conntrack.list(zone).await;
    let flows = listed.map_err(|source| FirewallError::ListFlows { zone, source })?;
    let refused = flows::refused(cut, flows);
    let deleted = conntrack.delete(&refused).await;
    deleted.map_err(|source| FirewallError::CutFlows { zone, source })?;
    Ok(Applied { cut: refused })
}
