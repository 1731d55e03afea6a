//! How long peers that don't answer have been called where they are called now. The one memory of this plane: the
//! device says where a peer is called, never since when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use super::diff::is_fresh;
use super::rotation::with_next_keys;
use super::state::{Actual, ActualPeer, Desired, DesiredPeer};
use crate::model::network::EndpointHost;
use crate::model::{LinkName, PublicKey};

/// How long an address is tried before the next one is: three handshake initiations (`REKEY_TIMEOUT` of the protocol
/// is 5 s). The protocol itself would go on for `REKEY_ATTEMPT_TIME`, 90 s.
pub const ATTEMPT: Duration = Duration::from_secs(15);

/// A peer of a link.
pub type PeerKey = (LinkName, PublicKey);

/// The peers that are called without an answer, and for how long at the endpoint that they have now.
pub type Calls = BTreeMap<PeerKey, Duration>;

#[derive(Clone, Copy, Debug)]
struct Attempt {
    endpoint: SocketAddr,
    since: Instant,
}

/// What is remembered between two looks at the devices.
#[derive(Clone, Debug, Default)]
pub struct Attempts(BTreeMap<PeerKey, Attempt>);

impl Attempts {
    /// Takes a look at the devices. `now` is what handshakes are told in, `at` what waiting is measured in.
    ///
    /// Only peers that may be called at several addresses are remembered, and only while they are called: a peer
    /// without traffic sends no handshake, unless it is kept alive.
    pub fn note(&mut self, desired: &Desired, actual: &Actual, now: SystemTime, at: Instant) -> Calls {
        let mut attempts = BTreeMap::new();
        for (link, device) in &with_next_keys(desired, actual, now).devices {
            let Some(found) = actual.devices.get(link) else {
                continue;
            };
            for (public_key, _) in device.peers.iter().filter(|(_, peer)| has_choice(peer)) {
                let Some(endpoint) = found
                    .peers
                    .get(public_key)
                    .and_then(|found| called_at(found, now))
                else {
                    continue;
                };
                let key = (link.clone(), *public_key);
                let before = self.0.get(&key).filter(|before| before.endpoint == endpoint);
                let since = before.map_or(at, |before| before.since);
                attempts.insert(key, Attempt { endpoint, since });
            }
        }
        self.0 = attempts;
        let calls = self.0.iter();
        calls
            .map(|(key, attempt)| (key.clone(), at.saturating_duration_since(attempt.since)))
            .collect()
    }

    /// How long until one of them has been tried for long enough; none while nobody is called in vain.
    #[must_use]
    pub fn due(&self, at: Instant) -> Option<Duration> {
        let tried = |attempt: &Attempt| at.saturating_duration_since(attempt.since).as_millis();
        let rest = |attempt: &Attempt| {
            let rest = ATTEMPT.as_millis() - tried(attempt) % ATTEMPT.as_millis();
            Duration::from_millis(u64::try_from(rest).unwrap_or(u64::MAX))
        };
        self.0.values().map(rest).min()
    }
}

/// Whether there is more than one address to try, as far as the fleet tells.
fn has_choice(peer: &DesiredPeer) -> bool {
    let is_name = peer.endpoints.iter().any(|endpoint| match endpoint.host {
        EndpointHost::Dns(_) => true,
        EndpointHost::Address(_) => false,
    });
    peer.keepalive > 0 && (is_name || peer.endpoints.len() > 1)
}

/// Where a peer is called that hasn't answered.
fn called_at(peer: &ActualPeer, now: SystemTime) -> Option<SocketAddr> {
    peer.endpoint.filter(|_| !is_fresh(peer.last_handshake, now))
}
