//! One change → one call, or a run of changes → one call for each device.

use sha2::{Digest as _, Sha256};

use super::WireguardError;
use super::state::{Change, NewPeer};
use crate::model::{LinkName, PresharedKey, PrivateKey, PublicKey};
use crate::sys::wg::{Backend, DeviceUpdate, Key, PeerUpdate, Secret};

/// Does one change.
///
/// # Errors
/// The device refused, or `private_key` isn't the one that the change was planned for.
pub async fn apply(
    change: &Change,
    backend: &Backend,
    private_key: &PrivateKey,
) -> Result<(), WireguardError> {
    apply_all(std::slice::from_ref(change), backend, private_key).await
}

/// Does changes in order, those for one device that follow each other in one call: ten thousand peers take a few
/// hundred messages.
///
/// # Errors
/// As [`apply`]. Changes of other devices before the one that failed are done; of its own, an unknown part.
pub async fn apply_all(
    changes: &[Change],
    backend: &Backend,
    private_key: &PrivateKey,
) -> Result<(), WireguardError> {
    for run in changes.chunk_by(|one, next| one.target() == next.target()) {
        let link = &run[0].target().link;
        let update = device_update(link, run, private_key)?;
        let result = backend.set(link.as_str(), update).await;
        result.map_err(|source| WireguardError::Set {
            link: link.clone(),
            source,
        })?;
    }
    Ok(())
}

/// What a run of changes asks of the device `link`.
///
/// # Errors
/// `private_key` isn't the one that the changes were planned for.
pub fn device_update(
    link: &LinkName,
    changes: &[Change],
    private_key: &PrivateKey,
) -> Result<DeviceUpdate, WireguardError> {
    let mut update = DeviceUpdate::default();
    for change in changes {
        match change {
            Change::RemovePeer { public_key, .. } => update.peers.push(PeerUpdate::removal(public_key.0)),
            Change::WithdrawIps { allowed_ips, .. } => {
                let throw_away = throw_away_key(link);
                update.peers.push(PeerUpdate {
                    public_key: throw_away,
                    allowed_ips: allowed_ips.iter().copied().collect(),
                    ..PeerUpdate::default()
                });
                update.peers.push(PeerUpdate::removal(throw_away));
            }
            Change::SetKey {
                public_key, calls, ..
            } => {
                if private_key.public() != *public_key {
                    return Err(WireguardError::KeyChanged);
                }
                update.private_key = Some(Secret::new(*private_key.expose()));
                update
                    .peers
                    .extend(calls.iter().map(|(peer, keepalive)| PeerUpdate {
                        public_key: peer.0,
                        update_only: true,
                        keepalive: Some(*keepalive),
                        call: true,
                        ..PeerUpdate::default()
                    }));
            }
            Change::SetListenPort { port, .. } => update.listen_port = Some(*port),
            Change::AddPeer { public_key, peer, .. } => update.peers.push(new_peer(*public_key, peer)),
            // What it carries is for it alone to send, once there is a session: it is called at once.
            Change::ReplacePeer { public_key, peer, .. } => update.peers.extend([
                PeerUpdate::removal(public_key.0),
                PeerUpdate {
                    call: peer.endpoint.is_some() && !peer.allowed_ips.is_empty(),
                    ..new_peer(*public_key, peer)
                },
            ]),
            Change::UpdatePeer {
                public_key, delta, ..
            } => update.peers.push(PeerUpdate {
                public_key: public_key.0,
                update_only: true,
                preshared_key: delta.preshared_key.as_ref().map(secret),
                endpoint: delta.endpoint,
                keepalive: delta.keepalive,
                allowed_ips: delta.allowed_ips.iter().copied().collect(),
                ..PeerUpdate::default()
            }),
        }
    }
    Ok(update)
}

fn new_peer(public_key: PublicKey, peer: &NewPeer) -> PeerUpdate {
    PeerUpdate {
        public_key: public_key.0,
        preshared_key: Some(secret(&peer.preshared_key)),
        endpoint: peer.endpoint,
        keepalive: Some(peer.keepalive),
        replace_allowed_ips: true,
        allowed_ips: peer.allowed_ips.iter().copied().collect(),
        ..PeerUpdate::default()
    }
}

fn secret(key: &PresharedKey) -> Secret {
    Secret::new(*key.expose())
}

/// The key of the peer that withdrawn AllowedIPs are given to, to be removed with them. Nobody has its private half.
fn throw_away_key(link: &LinkName) -> Key {
    let mut hash = Sha256::new();
    hash.update(b"sdwand throw-away\0");
    hash.update(link.as_str().as_bytes());
    hash.finalize().into()
}
