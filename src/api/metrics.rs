//! Where a daemon is scraped: Prometheus' text format over plain HTTP/1.1, on a loopback address.
//!
//! ```text
//! round ─▶ page (rendered once) ─ Outlet ─ watch ─▶ GET /metrics: a copy of the latest page
//! ```
//!
//! A scrape reads nothing of the host and asks the daemon's task for nothing: however many come, and however slowly they
//! read, nobody waits. Only GET and HEAD of `/metrics` are answered, bodies aren't read, heads are at most 16 KiB and
//! have 5 s; there are at most [`CONNECTIONS_PER_SOURCE`](super::limits::CONNECTIONS_PER_SOURCE) connections, of at most 30 s.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use super::limits::Limits;
use super::listener::{HEADERS, accept, http, stopped};
use crate::log::Event;

/// What a scrape gets, as Prometheus' text format names itself.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// How many connections may wait to be taken.
const BACKLOG: u32 = 64;
/// How long a connection takes requests.
const LIFE: Duration = Duration::from_secs(30);

/// The latest page; replaced as a whole.
type Page = Arc<str>;

/// Where pages come out. Off until an address is given.
#[derive(Debug)]
pub struct Outlet {
    clock: fn() -> Instant,
    pages: watch::Sender<Page>,
    server: Option<Server>,
    /// The address that couldn't be listened on: said once.
    refused: Option<SocketAddr>,
}

/// The listener. Dropped, it ends, and its connections with it.
#[derive(Debug)]
struct Server {
    listen: SocketAddr,
    _stop: watch::Sender<bool>,
}

impl Outlet {
    /// Tells nobody yet. `clock` is monotonic.
    #[must_use]
    pub fn new(clock: fn() -> Instant) -> Self {
        Self {
            clock,
            pages: watch::Sender::new(Page::from("")),
            server: None,
            refused: None,
        }
    }

    /// Whether it listens.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.server.is_some()
    }

    /// Listens there, or nowhere; says whether it does. An address that can't be had is tried again with the next page: what
    /// the daemon does doesn't wait for who watches it.
    pub fn open(&mut self, listen: Option<SocketAddr>) -> bool {
        let Some(listen) = listen else {
            self.server = None;
            return false;
        };
        if self.server.as_ref().is_some_and(|server| server.listen == listen) {
            return true;
        }
        self.server = None;
        match bind(listen) {
            Ok(listener) => {
                self.start(listen, listener);
                true
            }
            Err(error) => {
                if self.refused.replace(listen) != Some(listen) {
                    let (listen, error) = (listen.to_string(), error.to_string());
                    Event::MetricsNotServed { listen, error }.emit();
                }
                false
            }
        }
    }

    /// Puts the page where scrapes find it.
    pub fn put(&self, page: String) {
        self.pages.send_replace(Page::from(page));
    }

    fn start(&mut self, listen: SocketAddr, listener: TcpListener) {
        let (stop, stopped) = watch::channel(false);
        let limits = Arc::new(Limits::new(self.clock));
        tokio::spawn(serve(listener, self.pages.subscribe(), limits, stopped));
        let address = listen.to_string();
        Event::MetricsServed { listen: address }.emit();
        self.refused = None;
        self.server = Some(Server { listen, _stop: stop });
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

/// Serves the latest page until `stop` says true.
async fn serve(
    listener: TcpListener,
    pages: watch::Receiver<Page>,
    limits: Arc<Limits>,
    stop: watch::Receiver<bool>,
) {
    let router = router(pages);
    accept(listener, limits, stop, |stream, counted, mut stop| {
        let router = router.clone();
        async move {
            let enough = async {
                tokio::select! {
                    () = stopped(&mut stop) => {}
                    () = tokio::time::sleep(LIFE) => {}
                }
            };
            http(stream, router, (), HEADERS, enough).await;
            drop(counted);
        }
    })
    .await;
}

fn router(pages: watch::Receiver<Page>) -> Router {
    let latest = move || {
        let page = pages.borrow().to_string();
        async move { ([(CONTENT_TYPE, TEXT)], page).into_response() }
    };
    Router::new().route("/metrics", get(latest))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(method: &str, path: &str) -> (StatusCode, String) {
        let (_sender, pages) = watch::channel(Page::from("sdwand_round 1\n"));
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::from("not read")).unwrap();
        let answer = router(pages).oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn one_page_is_read_and_nothing_is_written() {
        assert_eq!(
            ask("GET", "/metrics").await,
            (StatusCode::OK, "sdwand_round 1\n".to_owned())
        );
        assert_eq!(ask("HEAD", "/metrics").await, (StatusCode::OK, String::new()));
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
            assert_eq!(ask(method, "/metrics").await.0, StatusCode::METHOD_NOT_ALLOWED);
        }
        assert_eq!(ask("GET", "/").await.0, StatusCode::NOT_FOUND);
    }
}
