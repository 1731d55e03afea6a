//! Looks at the overlay on this host: parameters, devices, listeners.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Loaded;
use crate::host::{Owner, RealHost, holes, system_now};
use crate::model::Name;
use crate::model::network::Protocol;
use crate::planes::l3;
use crate::planes::wireguard::Names;
use crate::reconcile::holes::questions;
use crate::report::chain;
use crate::report::doctor::{Entrance, Listener, Overlay, silent, unreached};

use super::{run, text_of};

pub(super) async fn look(loaded: &Loaded) -> Result<Overlay, String> {
    let mut host = RealHost::open(&loaded.host, Owner::Command)
        .await
        .map_err(|error| chain(&error))?;
    host.look_at_underlay(&loaded.fleet).await;
    let wanted = host
        .wanted(&loaded.host, &loaded.fleet)
        .map_err(|error| chain(&error))?;
    let (l3, wireguard) = host.observe_links(&wanted).await;
    let (l3, wireguard) = (l3?, wireguard?);
    let now = system_now();
    host.look_at_ways(&wanted, &wireguard, &Names::new(), now).await;
    let wanted = host.fitted(&wanted).unwrap_or(wanted);
    let mut questions = questions(&wanted.intent, &wireguard, now);
    let unasked = questions.len().saturating_sub(holes::MOST);
    questions.truncate(holes::MOST);
    for question in &mut questions {
        // The daemon may be asking, too.
        question.target = question.link_local;
    }
    let (holes, unanswered) = holes::holes(holes::look(questions).await);
    let networks = loaded.fleet.networks.values();
    let kept_alive: BTreeMap<Name, u16> = networks
        .map(|network| (network.name.clone(), network.keepalive_seconds))
        .collect();
    let ours: BTreeSet<u16> = wireguard
        .devices
        .values()
        .map(|device| device.listen_port)
        .collect();
    let listeners = listeners().await.map(|mut listeners| {
        listeners.retain(|listener| listener.protocol != Protocol::Udp || !ours.contains(&listener.port));
        listeners
    });
    let unreached = match &listeners {
        Ok(listeners) => unreached(&wanted.intent, listeners),
        Err(_) => Vec::new(),
    };
    let networks = wanted.intent.networks.values();
    Ok(Overlay {
        entrances: networks.map(Entrance::of).collect(),
        not_forwarding: not_forwarding(&wanted.l3, &l3),
        silent: silent(&wanted.intent, &wanted.wireguard, &wireguard, &kept_alive, now),
        holes,
        unknown_ways: unasked + unanswered,
        listeners,
        unreached,
    })
}

/// The parameters of forwarding that should be on and are there, but off.
fn not_forwarding(wanted: &l3::State, actual: &l3::Actual) -> Vec<String> {
    let forwards = |name: &str| name.ends_with("forwarding") || name.ends_with("ip_forward");
    let off = wanted.sysctls.iter().filter(|(path, value)| {
        let name = path.components().last();
        **value == 1 && name.is_some_and(|name| forwards(name)) && actual.state.sysctls.get(*path) == Some(&0)
    });
    off.map(|(path, _)| path.to_string()).collect()
}

/// What listens on every address and is bound to no device; none where the kernel gives it to VRFs as well.
async fn listeners() -> Result<Vec<Listener>, String> {
    let mut found = Vec::new();
    for (protocol, option) in [(Protocol::Tcp, "-t"), (Protocol::Udp, "-u")] {
        let word = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
        let accept = format!("/proc/sys/net/ipv4/{word}_l3mdev_accept");
        let accepts = text_of(accept.as_ref())?;
        if accepts.is_none_or(|accepts| accepts.trim() == "1") {
            continue;
        }
        let listing = run("ss", &["-H", "-l", "-n", "-p", option]).await?;
        found.extend(decode_listeners(protocol, &String::from_utf8_lossy(&listing)));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// From ss(8): state, two queues, the local end, the remote end, the program. `%` before the port names a device.
fn decode_listeners(protocol: Protocol, listing: &str) -> Vec<Listener> {
    let lines = listing.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(3);
        let (address, port) = words.next()?.rsplit_once(':')?;
        let everywhere = ["0.0.0.0", "*", "[::]"].contains(&address);
        let program = words.nth(1).and_then(|users| users.split('"').nth(1));
        everywhere.then(|| {
            Some(Listener {
                protocol,
                port: port.parse().ok()?,
                program: program.map(str::to_owned),
            })
        })?
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_on_every_address_are_read_unless_they_are_bound_to_a_device() {
        let listing = "\
LISTEN 0 128        0.0.0.0:22      0.0.0.0:* users:((\"sshd\",pid=7,fd=3))
LISTEN 0 128           [::]:22         [::]:*
LISTEN 0 64  0.0.0.0%sdwan-1:7000   0.0.0.0:*
LISTEN 0 64  *%sdwan-1:7001            *:*
LISTEN 0 64       127.0.0.1:631     0.0.0.0:*
LISTEN 0 64               *:8080          *:* users:((\"web\",pid=9,fd=4))
";
        let found = decode_listeners(Protocol::Tcp, listing);
        let read: Vec<_> = found
            .iter()
            .map(|listener| (listener.port, listener.program.as_deref()))
            .collect();
        assert_eq!(read, [(22, Some("sshd")), (22, None), (8080, Some("web"))]);
    }
}
