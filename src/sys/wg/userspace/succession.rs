//! A device with another private key: the one before it still hears what peers send to the sessions that it has, as the
//! kernel does (`wg_noise_expire_current_peer_keypairs` leaves them their receiving half), and begins none.
//!
//! ```text
//!   TUN interface ◀──────── writes ──────── former ◀─── data, copied ───┐
//!         │       ◀──────── writes ──┐                                  │
//!         └──────── reads ──────▶ its successor ◀── reads ── UDP socket ┘
//! ```
//!
//! The embedded device itself would forget its sessions with its key, and what it has read but not yet handled.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;
use gotatun::device::{DeviceBuilder, Error};
use gotatun::x25519::{PublicKey, StaticSecret};

use super::{Control, Embedded, Key, Ledger, PeerUpdate, Secret, Tunnel};

/// The longest that a session lasts: `REJECT_AFTER_TIME` of the protocol.
const SESSION: Duration = Duration::from_secs(180);

/// How often it is looked at whether the former device has anything left to hear.
const LOOK: Duration = Duration::from_secs(1);

/// How long a handshake is waited for, and so the longest that this keeps a device which is removed; a device itself goes on
/// trying.
const CALL: Duration = Duration::from_secs(1);

/// The device that had the former key.
pub(super) struct Former {
    tunnel: Arc<Tunnel>,
    ledger: Ledger,
    end: tokio::task::AbortHandle,
}

impl Drop for Former {
    fn drop(&mut self) {
        self.end.abort();
    }
}

impl Former {
    /// Takes what changes for peers: whoever may no longer send something may not send it to a former session either.
    pub(super) async fn follow(&mut self, peers: &[PeerUpdate]) -> Result<(), Error> {
        let ledger = &mut self.ledger;
        self.tunnel
            .write(async |device| {
                for peer in peers {
                    ledger.update(device, peer.clone()).await;
                }
            })
            .await
    }

    /// Whether a peer that it has a session with has none with `successor`.
    async fn is_needed(&self, successor: &Tunnel) -> bool {
        let with_session = async |tunnel: &Tunnel| -> Vec<PublicKey> {
            let peers = tunnel.peers().await.into_iter();
            let answering = peers.filter(|entry| entry.stats.last_handshake.is_some());
            answering.map(|entry| entry.peer.public_key).collect()
        };
        let renewed = with_session(successor).await;
        let sessions = with_session(&self.tunnel).await;
        sessions.iter().any(|peer| !renewed.contains(peer))
    }
}

impl Embedded {
    /// Puts a device with another private key in the place of the one that there is.
    pub(super) async fn succeed(
        self: &Arc<Self>,
        control: &mut Control,
        private_key: &Secret,
    ) -> Result<(), Error> {
        let (port, fwmark, peers) = control
            .tunnel
            .read(async |device| (device.listen_port(), device.fwmark(), device.peers().await))
            .await;
        if peers.is_empty() {
            // It has no session, and listens only once it has a peer.
            return Ok(());
        }
        let (sockets, hearing) = control.sockets.hand_over();
        let interface = control.interface.hand_over();
        let mut builder = DeviceBuilder::new()
            .with_udp(sockets.clone())
            .with_ip(interface.clone())
            .with_private_key(StaticSecret::from(*private_key.expose()))
            .with_peers(peers.into_iter().map(|entry| entry.peer))
            .with_listen_port(port)
            .suspended(true);
        if let Some(mark) = fwmark {
            builder = builder.with_fwmark(mark);
        }
        // What takes long is done before anything changes hands; what arrives in between waits in the kernel.
        let successor = Arc::new(builder.build().await?);
        control.sockets.retire(hearing);
        control.interface.retire();
        successor.resume().await?;
        (control.sockets, control.interface) = (sockets, interface);
        let former = std::mem::replace(&mut control.tunnel, successor);
        control.former = Some(Former {
            tunnel: former,
            ledger: control.ledger.clone(),
            end: tokio::spawn(end(Arc::downgrade(self))).abort_handle(),
        });
        Ok(())
    }
}

/// Ends the former device once all its sessions are renewed or over.
async fn end(device: Weak<Embedded>) {
    let renewed = async {
        loop {
            // The library has no event for it.
            tokio::time::sleep(LOOK).await;
            let Some(device) = device.upgrade() else {
                return;
            };
            let control = device.control.lock().await;
            match &control.former {
                Some(former) if former.is_needed(&control.tunnel).await => {}
                Some(_) | None => return,
            }
        }
    };
    // Over at the latest when the last of them is too old to be used.
    let _ = tokio::time::timeout(SESSION, renewed).await;
    if let Some(device) = device.upgrade() {
        device.control.lock().await.former = None;
    }
}

/// Begins handshakes with peers that there is no session with; not waited for.
pub(super) fn call(tunnel: &Arc<Tunnel>, name: &str, peers: Vec<Key>) {
    if peers.is_empty() {
        return;
    }
    let (tunnel, name) = (Arc::clone(tunnel), name.to_owned());
    tokio::spawn(async move {
        let calls = peers.into_iter().map(|peer| {
            let (tunnel, name) = (&tunnel, &name);
            async move {
                let handshake = tunnel.force_handshake(&PublicKey::from(peer)).await;
                if let Err(error) = handshake {
                    tracing::debug!(device = name, %error, "a peer isn't called");
                }
            }
        });
        // One that doesn't come about in time is tried again by the device, and shows as no handshake.
        let _ = tokio::time::timeout(CALL, join_all(calls)).await;
    });
}
