//! The session that asks: its interface must not be taken away under it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::LinkName;
use crate::sys::netlink::Netlink;

/// The interfaces that the session which started this process comes through (`SSH_CONNECTION` of `sshd(8)`).
pub async fn session_interfaces() -> BTreeSet<LinkName> {
    let Some(address) = std::env::var("SSH_CONNECTION")
        .ok()
        .and_then(|text| session_address(&text))
    else {
        return BTreeSet::new();
    };
    let Ok(netlink) = Netlink::open() else {
        return BTreeSet::new();
    };
    let (Ok(links), Ok(addresses)) = (netlink.links().await, netlink.addresses().await) else {
        return BTreeSet::new();
    };
    let on: BTreeSet<u32> = addresses
        .iter()
        .filter(|found| found.local == address)
        .map(|found| found.index)
        .collect();
    let names = links.iter().filter(|link| on.contains(&link.index));
    names.filter_map(|link| LinkName::new(&link.name).ok()).collect()
}

/// The server's address in `SSH_CONNECTION`: client, its port, server, its port.
fn session_address(text: &str) -> Option<IpAddr> {
    text.split_ascii_whitespace().nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_address_is_the_servers() {
        assert_eq!(
            session_address("192.0.2.9 51000 192.0.2.1 22"),
            Some("192.0.2.1".parse().unwrap())
        );
        assert_eq!(
            session_address("fe80::1 51000 fd00::1 22"),
            Some("fd00::1".parse().unwrap())
        );
        assert_eq!(session_address(""), None);
        assert_eq!(session_address("a b c d"), None);
    }
}
