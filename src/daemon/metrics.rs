//! Tells a monitoring system how the host is: `[metrics] listen`.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::limits::Limits;
use crate::api::metrics::{Page, serve};
use crate::log::Event;
use crate::reconcile::{Observation, Round};
use crate::report::metrics::{Tallies, View, page};

/// How many connections may wait to be taken.
const BACKLOG: u32 = 64;

/// What is told, and where. Off until an address is given; what is counted is counted in any case.
pub(super) struct Exporter {
    /// What was counted since the daemon began.
    pub(super) tallies: Tallies,
    /// What the last round read; only while it is told.
    pub(super) seen: Option<Observation>,
    /// When the firewall's counters were last read anew.
    pub(super) counted: Option<Instant>,
    pages: watch::Sender<Page>,
    server: Option<Server>,
    /// The address that couldn't be listened on: said once.
    refused: Option<SocketAddr>,
}

/// The listener. Dropped, it ends, and its connections with it.
struct Server {
    listen: SocketAddr,
    _stop: watch::Sender<bool>,
}

impl Exporter {
    /// Tells nobody yet.
    pub(super) fn new() -> Self {
        Self {
            tallies: Tallies::default(),
            seen: None,
            counted: None,
            pages: watch::Sender::new(Page::from("")),
            server: None,
            refused: None,
        }
    }

    /// Keeps what a round read, where somebody is told of it.
    pub(super) fn note(&mut self, round: &Round, seen: Observation, was_settled: bool, began: Instant) {
        self.tallies.count(round, was_settled, began.elapsed());
        self.seen = self.server.is_some().then_some(seen);
    }

    /// Listens where the configuration says, and puts the page as it is now where scrapes find it. An address that can't
    /// be had is tried again with the next page: the data plane doesn't wait for who watches it.
    pub(super) fn publish(&mut self, listen: Option<SocketAddr>, view: impl FnOnce(&Self) -> Option<String>) {
        let Some(listen) = listen else {
            self.server = None;
            self.seen = None;
            return;
        };
        if self.server.as_ref().is_none_or(|server| server.listen != listen) {
            self.server = None;
            match bind(listen) {
                Ok(listener) => self.start(listen, listener),
                Err(error) => {
                    if self.refused.replace(listen) != Some(listen) {
                        let (listen, error) = (listen.to_string(), error.to_string());
                        Event::MetricsNotServed { listen, error }.emit();
                    }
                    return;
                }
            }
        }
        if let Some(text) = view(self) {
            self.pages.send_replace(Page::from(text));
        }
    }

    fn start(&mut self, listen: SocketAddr, listener: TcpListener) {
        let (stop, stopped) = watch::channel(false);
        let limits = Arc::new(Limits::new(monotonic));
        tokio::spawn(serve(listener, self.pages.subscribe(), limits, stopped));
        let address = listen.to_string();
        Event::MetricsServed { listen: address }.emit();
        self.refused = None;
        self.server = Some(Server { listen, _stop: stop });
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

fn bind(listen: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if listen.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    socket.listen(BACKLOG)
}

fn monotonic() -> std::time::Instant {
    Instant::now().into_std()
}
