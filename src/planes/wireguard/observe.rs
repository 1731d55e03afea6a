//! Reading devices, and resolving the names of endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;

use super::WireguardError;
use super::state::{Actual, ActualDevice, ActualPeer, Names};
use crate::model::{LinkName, PresharedKey, PublicKey};
use crate::sys::wg::{Backend, DeviceInfo, PeerInfo};

/// How many names are resolved at once.
const RESOLVERS: usize = 16;

/// Reads the devices of `links`. One whose link doesn't exist is left out.
///
/// # Errors
/// A device couldn't be read. That is not "empty": nothing may be concluded for any of them.
pub async fn observe<'a>(
    backend: &Backend,
    links: impl IntoIterator<Item = &'a LinkName>,
) -> Result<Actual, WireguardError> {
    let mut devices = BTreeMap::new();
    for link in links {
        match backend.read(link.as_str()).await {
            Ok(info) => {
                devices.insert(link.clone(), decode_device(info));
            }
            Err(error) if error.is_no_device() => {}
            Err(source) => {
                return Err(WireguardError::Read {
                    link: link.clone(),
                    source,
                });
            }
        }
    }
    Ok(Actual { devices })
}

/// What a transport read, in this plane's words.
#[must_use]
pub fn decode_device(info: DeviceInfo) -> ActualDevice {
    let peers = info.peers.into_iter();
    ActualDevice {
        public_key: info.public_key.map(PublicKey),
        listen_port: info.listen_port,
        peers: peers
            .map(|(key, peer)| (PublicKey(key), decode_peer(peer)))
            .collect(),
    }
}

fn decode_peer(info: PeerInfo) -> ActualPeer {
    ActualPeer {
        preshared_key: info
            .preshared_key
            .and_then(|key| PresharedKey::from_bytes(*key.expose())),
        endpoint: info.endpoint,
        keepalive: info.keepalive,
        allowed_ips: info.allowed_ips,
        last_handshake: info.last_handshake,
        rx_bytes: info.rx_bytes,
        tx_bytes: info.tx_bytes,
    }
}

/// Resolves names, several at once, each within `timeout`. Names that don't resolve are left out; the rest keep the
/// resolver's order (RFC 6724).
pub async fn resolve_names(names: BTreeSet<String>, timeout: Duration) -> Names {
    futures::stream::iter(names)
        .map(|name| async move {
            let lookup = tokio::net::lookup_host((name.as_str(), 0));
            let addresses = tokio::time::timeout(timeout, lookup).await.ok()?.ok()?;
            let mut found = Vec::new();
            for address in addresses {
                if !found.contains(&address.ip()) {
                    found.push(address.ip());
                }
            }
            (!found.is_empty()).then(|| (name.clone(), found))
        })
        .buffer_unordered(RESOLVERS)
        .filter_map(std::future::ready)
        .collect()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_that_do_not_resolve_are_left_out() {
        let names = ["localhost", "does-not-exist.invalid"].map(str::to_owned);
        let resolved = resolve_names(names.into(), Duration::from_secs(5)).await;
        assert!(resolved["localhost"].iter().all(std::net::IpAddr::is_loopback));
        assert_eq!(resolved.len(), 1);
    }
}
