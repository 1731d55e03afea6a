//! Devices in memory that follow the kernel's rules (`drivers/net/wireguard/netlink.c`, `set_peer`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{DeviceInfo, DeviceUpdate, Key, PeerInfo, PeerUpdate, Secret, WgError};

/// Devices in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    devices: Arc<Mutex<BTreeMap<String, DeviceInfo>>>,
}

impl Memory {
    /// Adds an empty device; one that is there stays.
    pub fn create(&self, name: &str) {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.entry(name.to_owned()).or_default();
    }

    /// Removes a device.
    pub fn remove(&self, name: &str) {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.remove(name);
    }

    /// Reads a device.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn read(&self, name: &str) -> Result<DeviceInfo, WgError> {
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let device = devices.get(name).cloned();
        device.ok_or_else(|| WgError::NoDevice(name.to_owned()))
    }

    /// Changes a device.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn set(&self, name: &str, update: &DeviceUpdate) -> Result<(), WgError> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let device = devices
            .get_mut(name)
            .ok_or_else(|| WgError::NoDevice(name.to_owned()))?;
        update_device(device, update);
        Ok(())
    }
}

/// What the kernel makes of an update.
pub fn update_device(device: &mut DeviceInfo, update: &DeviceUpdate) {
    if let Some(private_key) = &update.private_key {
        device.public_key = public_half(private_key);
        if let Some(own) = device.public_key {
            device.peers.remove(&own);
        }
    }
    if let Some(port) = update.listen_port {
        device.listen_port = port;
    }
    if let Some(mark) = update.fwmark {
        device.fwmark = mark;
    }
    for peer in &update.peers {
        update_peer(device, peer);
    }
}

fn update_peer(device: &mut DeviceInfo, update: &PeerUpdate) {
    if update.remove {
        device.peers.remove(&update.public_key);
        return;
    }
    let known = device.peers.contains_key(&update.public_key);
    if (update.update_only && !known) || device.public_key == Some(update.public_key) {
        return;
    }
    if !update.allowed_ips.is_empty() && (device.peers.len() > usize::from(known)) {
        for (key, other) in &mut device.peers {
            if *key != update.public_key {
                for net in &update.allowed_ips {
                    other.allowed_ips.remove(&net.trunc());
                }
            }
        }
    }
    let peer: &mut PeerInfo = device.peers.entry(update.public_key).or_default();
    if let Some(secret) = &update.preshared_key {
        peer.preshared_key = (!secret.is_zero()).then(|| secret.clone());
    }
    if update.endpoint.is_some() {
        peer.endpoint = update.endpoint;
    }
    if let Some(keepalive) = update.keepalive {
        peer.keepalive = keepalive;
    }
    if update.replace_allowed_ips {
        peer.allowed_ips.clear();
    }
    peer.allowed_ips
        .extend(update.allowed_ips.iter().map(ipnet::IpNet::trunc));
}

/// The public half of a private key; none of the zero key, which unsets it.
pub(super) fn public_half(private_key: &Secret) -> Option<Key> {
    if private_key.is_zero() {
        return None;
    }
    let secret = x25519_dalek::StaticSecret::from(*private_key.expose());
    Some(x25519_dalek::PublicKey::from(&secret).to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowed_ip_belongs_to_one_peer() {
        let memory = Memory::default();
        memory.create("wg0");
        let give = |key: u8, net: &str| DeviceUpdate {
            peers: vec![PeerUpdate {
                public_key: [key; 32],
                allowed_ips: vec![net.parse().unwrap()],
                ..PeerUpdate::default()
            }],
            ..DeviceUpdate::default()
        };
        memory.set("wg0", &give(1, "fd00::/64")).unwrap();
        memory.set("wg0", &give(2, "fd00::/64")).unwrap();
        let device = memory.read("wg0").unwrap();
        assert!(device.peers[&[1; 32]].allowed_ips.is_empty());
        assert_eq!(device.peers[&[2; 32]].allowed_ips.len(), 1);
        assert!(
            memory
                .set("wg1", &give(1, "fd00::/64"))
                .unwrap_err()
                .is_no_device()
        );
    }

    #[test]
    fn update_only_adds_nothing() {
        let mut device = DeviceInfo::default();
        let update = DeviceUpdate {
            peers: vec![PeerUpdate {
                update_only: true,
                ..PeerUpdate::default()
            }],
            ..DeviceUpdate::default()
        };
        update_device(&mut device, &update);
        assert!(device.peers.is_empty());
    }
}
