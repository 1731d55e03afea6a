//! What is to be done to our table, as data: printed, stored and applied from one value.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::policy::Policy;
use crate::model::network::NetworkId;
use crate::planes::Phase;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The table comes, as a whole; where anything else changes too, it allows nothing new yet.
    Install(Transaction),
    /// The table allows what both the old and the new rules allow.
    Narrow(Transaction),
    /// The table allows what the new rules allow.
    Widen(Transaction),
    /// The table goes.
    Remove(Transaction),
    /// Tracked connections that the new rules refuse are cut.
    CutFlows(Cut),
}

/// One nft transaction: it takes effect as a whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transaction {
    /// The networks that it touches.
    pub networks: BTreeSet<NetworkId>,
    /// What it does, in a few lines.
    pub summary: Vec<String>,
    /// The nft script.
    pub script: String,
    /// The table afterwards: a host in memory takes it without reading nft's language.
    #[cfg(test)]
    #[serde(skip)]
    pub result: Option<Arc<super::Table>>,
}

/// Which tracked connections are cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// The network.
    pub network: NetworkId,
    /// Its conntrack zone.
    pub zone: u16,
    /// Whether port mappings lead, or led, into the network.
    pub mapped: bool,
    /// Whether the table holds a mark that this is still to be done.
    pub marked: bool,
    /// What may go on; none cuts everything in the zone.
    #[serde(skip)]
    pub allowed: Option<Arc<Policy>>,
}

impl Change {
    /// When it is done.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self {
            Self::Install(_) | Self::Narrow(_) => Phase::Narrow,
            Self::Widen(_) | Self::Remove(_) => Phase::Widen,
            Self::CutFlows(_) => Phase::Cut,
        }
    }

    /// The network it concerns; none if several, or the table itself.
    #[must_use]
    pub fn network(&self) -> Option<NetworkId> {
        match self {
            Self::Install(t) | Self::Narrow(t) | Self::Widen(t) | Self::Remove(t) => {
                let mut networks = t.networks.iter();
                networks.next().copied().filter(|_| networks.next().is_none())
            }
            Self::CutFlows(cut) => Some(cut.network),
        }
    }

    /// What it does, in a few lines.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        match self {
            Self::Install(t) | Self::Narrow(t) | Self::Widen(t) | Self::Remove(t) => t.summary.clone(),
            Self::CutFlows(cut) => vec![cut.to_string()],
        }
    }
}

impl fmt::Display for Change {
    /// The exact nft script, or what is cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Install(t) | Self::Narrow(t) | Self::Widen(t) | Self::Remove(t) => {
                f.write_str(t.script.trim_end())
            }
            Self::CutFlows(cut) => cut.fmt(f),
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = if self.allowed.is_some() {
            "that the rules refuse"
        } else {
            "of the removed network"
        };
        write!(
            f,
            "conntrack zone {}: cut tracked connections {which} (network id {})",
            self.zone, self.network
        )
    }
}
