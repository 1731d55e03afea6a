//! Tells a monitoring system how the host is: `[metrics] listen`.

use std::net::SocketAddr;

use tokio::time::Instant;

use crate::api::metrics::Outlet;
use crate::reconcile::{Observation, Round};
use crate::report::metrics::{Tallies, View, page};

/// What is told, and where. What is counted is counted in any case.
pub(super) struct Exporter {
    /// What was counted since the daemon began.
    pub(super) tallies: Tallies,
    /// What the last round read; only while it is told.
    pub(super) seen: Option<Observation>,
    /// When the firewall's counters were last read anew.
    pub(super) counted: Option<Instant>,
    outlet: Outlet,
}

impl Exporter {
    /// Tells nobody yet.
    pub(super) fn new() -> Self {
        Self {
            tallies: Tallies::default(),
            seen: None,
            counted: None,
            outlet: Outlet::new(monotonic),
        }
    }

    /// Keeps what a round read, where somebody is told of it.
    pub(super) fn note(&mut self, round: &Round, seen: Observation, was_settled: bool, began: Instant) {
        self.tallies.count(round, was_settled, began.elapsed());
        self.seen = self.outlet.is_open().then_some(seen);
    }

    /// Listens where the configuration says, and puts the page as it is now where scrapes find it.
    pub(super) fn publish(&mut self, listen: Option<SocketAddr>, view: impl FnOnce(&Self) -> Option<String>) {
        if listen.is_none() {
            self.seen = None;
        }
        if self.outlet.open(listen)
            && let Some(text) = view(self)
        {
            self.outlet.put(text);
        }
    }
}

/// The page's text.
pub(super) fn text(view: &View<'_>) -> Option<String> {
    match page(view) {
        Ok(text) => Some(text),
        Err(error) => {
            tracing::error!(%error, "metrics can't be written");
            None
        }
    }
}

fn monotonic() -> std::time::Instant {
    Instant::now().into_std()
}
