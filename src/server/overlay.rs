//! The listeners inside the overlays: one in each network with a bridge that is active. The address and the VRF are
//! `sdwand run`'s to give and to take, at any time: it is looked once a second, and at once when bridges change.
//!
//! ```text
//! bridges ─ posts ─▶ round ─┬─▶ listener, for as long as its place is there ─▶ connections, until their bridge ends
//! once a second ────────────┘
//! ```

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::monotonic;
use crate::api::federation_api::Serving;
use crate::api::listener;
use crate::federation::overlay::{OverlayListener, Post};
use crate::log::Event;
use crate::model::Name;

/// Where this gateway is to listen, by network.
pub(super) type Posts = BTreeMap<Name, Post>;

/// How many connections may wait to be taken.
pub(super) const BACKLOG: u32 = 1024;

/// How often it is looked whether a place is there.
const LOOK: Duration = Duration::from_secs(1);

/// How long a listener may be missing before that is told.
const PATIENCE: Duration = Duration::from_secs(30);

/// A listener at its post. Dropped, it ends, and its connections with it.
struct Listening {
    post: watch::Sender<Post>,
    /// The index of its VRF.
    vrf: Option<u32>,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What has become of a post.
struct Manned {
    listening: Option<Listening>,
    missing: Missing,
}

/// Since when a listener is missing, and whether that was told. Pure: the clock is an argument.
#[derive(Debug, Default)]
struct Missing {
    since: Option<Instant>,
    is_told: bool,
    why: Option<String>,
}

/// What an operator is told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Listening,
    Missing(String),
}

impl Missing {
    /// Takes how it is at this moment.
    fn seen(&mut self, found: Result<bool, String>, now: Instant) -> Told {
        match found {
            Ok(is_new) => {
                *self = Self::default();
                if is_new { Told::Listening } else { Told::Nothing }
            }
            Err(why) => {
                let since = *self.since.get_or_insert(now);
                self.why = Some(why.clone());
                if self.is_told || now.duration_since(since) < PATIENCE {
                    return Told::Nothing;
                }
                self.is_told = true;
                Told::Missing(why)
            }
        }
    }
}

/// Goes on until it is dropped, or `stop` says true.
pub(super) async fn follow(
    tls: Arc<rustls::ServerConfig>,
    serving: Serving,
    mut wanted: watch::Receiver<Posts>,
    mut stop: watch::Receiver<bool>,
) {
    let mut manned: BTreeMap<Name, Manned> = BTreeMap::new();
    loop {
        let posts = wanted.borrow_and_update().clone();
        manned.retain(|network, _| posts.contains_key(network));
        for (network, post) in &posts {
            let here = manned.entry(network.clone()).or_insert_with(|| Manned {
                listening: None,
                missing: Missing::default(),
            });
            let found = man(here, post, &tls, &serving, &stop);
            let told = here
                .missing
                .seen(found.map_err(|error| error.to_string()), monotonic());
            tell(post, told);
        }
        let listeners = posts
            .values()
            .map(|post| told_of(post, manned.get(&post.seat.network)));
        serving.gateway.tell_overlay(listeners.collect());
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Has the post manned as long as its place is there: says whether its listener is new.
fn man(
    here: &mut Manned,
    post: &Post,
    tls: &Arc<rustls::ServerConfig>,
    serving: &Serving,
    stop: &watch::Receiver<bool>,
) -> io::Result<bool> {
    // A socket that is bound now finds the address where it is now; one that was bound before says nothing of that.
    let place = post.seat.socket();
    if let Some(listening) = &here.listening {
        let is_there = match &place {
            Ok(place) => place.vrf == listening.vrf,
            // Sockets that have run out say nothing of the place.
            Err(error) => !says_gone(error),
        };
        let is_same = {
            let known = listening.post.borrow();
            known.seat == post.seat && known.port == post.port
        };
        if is_there && is_same && !listening.task.is_finished() {
            listening.post.send_if_modified(|known| {
                let is_news = known != post;
                known.clone_from(post);
                is_news
            });
            return Ok(false);
        }
        here.listening = None;
    }
    drop(place?);
    let seated = post.seat.listening_socket(post.port)?;
    let socket = seated.socket.listen(BACKLOG)?;
    let (sender, receiver) = watch::channel(post.clone());
    let serve = listener::serve_within(socket, Arc::clone(tls), serving.clone(), receiver, stop.clone());
    here.listening = Some(Listening {
        post: sender,
        vrf: seated.vrf,
        task: tokio::spawn(serve),
    });
    Ok(true)
}

/// Whether an error says that the address or the VRF isn't there (`bind(2)`: `EADDRNOTAVAIL`; `SO_BINDTODEVICE` of `socket(7)`:
/// `ENODEV`).
fn says_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn tell(post: &Post, told: Told) {
    let (network, address) = (post.seat.network.to_string(), post.address().to_string());
    match told {
        Told::Nothing => {}
        Told::Listening => Event::OverlayListening { network, address }.emit(),
        Told::Missing(error) => Event::OverlayNotListening {
            network,
            address,
            error,
        }
        .emit(),
    }
}

fn told_of(post: &Post, here: Option<&Manned>) -> OverlayListener {
    OverlayListener {
        network: post.seat.network.clone(),
        address: post.address(),
        is_listening: here.is_some_and(|here| here.listening.is_some()),
        reason: here.and_then(|here| here.missing.why.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_have_run_out_say_nothing_of_the_place() {
        let of = |errno: rustix::io::Errno| io::Error::from(errno);
        assert!(says_gone(&of(rustix::io::Errno::NODEV)));
        assert!(says_gone(&of(rustix::io::Errno::ADDRNOTAVAIL)));
        for errno in [
            rustix::io::Errno::MFILE,
            rustix::io::Errno::NFILE,
            rustix::io::Errno::NOBUFS,
        ] {
            assert!(!says_gone(&of(errno)), "{errno}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a point to count from")]
    fn a_listener_that_is_missing_for_long_is_told_once_and_when_it_is_back() {
        let start = Instant::now();
        let mut missing = Missing::default();
        let gone = || Err("no such address".to_owned());
        assert_eq!(missing.seen(Ok(true), start), Told::Listening);
        assert_eq!(missing.seen(Ok(false), start), Told::Nothing);
        assert_eq!(missing.seen(gone(), start), Told::Nothing, "a restart of run");
        assert_eq!(missing.seen(Ok(true), start + LOOK), Told::Listening);
        let start = start + PATIENCE;
        assert_eq!(missing.seen(gone(), start), Told::Nothing, "counted anew");
        assert_eq!(
            missing.seen(gone(), start + PATIENCE),
            Told::Missing("no such address".to_owned())
        );
        assert_eq!(missing.seen(gone(), start + PATIENCE * 2), Told::Nothing, "once");
        assert_eq!(missing.why.as_deref(), Some("no such address"));
        assert_eq!(missing.seen(Ok(true), start + PATIENCE * 3), Told::Listening);
        assert_eq!(missing.why, None);
    }
}
