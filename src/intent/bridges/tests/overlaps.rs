//! What a bridge may not import since somebody has it: by containment in either direction, in whatever spelling.

use ipnet::IpNet;
use proptest::prelude::*;

use super::{SITE_A, net, network_a};
use crate::config;

/// What a site has already, and a bridge into the network imports.
const TAKEN: [&str; 7] = [
    "fd12:34ab:cd42::/48",
    "10.10.0.0/24",
    "100.64.1.0/24",
    "203.0.113.5/32",
    "203.0.113.6/32",
    "fd88:1:2:8000::/50",
    "172.20.128.0/18",
];

/// A prefix around, in, or beside one of those, as wide as a fleet may import at most.
fn beside() -> impl Strategy<Value = IpNet> {
    let base = prop::sample::select(TAKEN.to_vec()).prop_map(net);
    (base, 0_u8..=128, any::<u128>()).prop_map(|(base, length, noise)| match base {
        IpNet::V4(base) => {
            let length = 16 + length % 17;
            // Bits behind the taken length, or one in front of it.
            let noise = u32::try_from(noise >> 96).unwrap() >> (base.prefix_len() - 2).min(31);
            let address = u32::from(base.addr()) ^ noise;
            ipnet::Ipv4Net::new(address.into(), length)
                .unwrap()
                .trunc()
                .into()
        }
        IpNet::V6(base) => {
            let length = 48 + length % 81;
            let noise = noise >> (base.prefix_len() - 2);
            let address = u128::from(base.addr()) ^ noise;
            ipnet::Ipv6Net::new(address.into(), length)
                .unwrap()
                .trunc()
                .into()
        }
    })
}

/// The same prefix, otherwise written.
fn spelled(net: &IpNet, long: bool) -> String {
    match net {
        IpNet::V6(net) if long => {
            let groups = net.addr().segments().map(|group| format!("{group:04X}"));
            format!("{}/{}", groups.join(":"), net.prefix_len())
        }
        IpNet::V4(_) | IpNet::V6(_) => net.to_string(),
    }
}

proptest! {
    #[test]
    fn what_overlaps_is_refused_with_both_ranges_named_and_the_rest_is_taken(import in beside(), long in any::<bool>()) {
        let bridge = |name: &str, import: &str| format!(
            "[[bridges]]\nname = \"to-{name}\"\npeer = \"site-{name}\"\nnetwork = \"prod\"\ngateways = [\"hub\"]\nimport = [{import}]\n"
        );
        let mut fragments = vec![SITE_A.to_owned(), network_a("drop", "")];
        fragments.push(bridge("b", &format!("\"{}\", \"{}\"", TAKEN[5], TAKEN[6])));
        fragments.push(bridge("c", &format!("\"{}\"", spelled(&import, long))));
        let read = config::parse_fleet(&[("fleet.d/00.toml".into(), fragments.join("\n"))]);
        let overlaps = |taken: &&IpNet| taken.contains(&import) || import.contains(*taken);
        let taken = TAKEN.map(net);
        let others: Vec<&IpNet> = taken.iter().filter(overlaps).collect();
        match read {
            Ok(_) => prop_assert!(others.is_empty(), "{import} was taken, beside {others:?}"),
            Err(refused) => {
                let text = refused.to_string();
                prop_assert!(!others.is_empty(), "{text}");
                let is_named = others.iter().any(|other| {
                    text.contains(&format!("{import} overlaps {other}")) || text.contains(&format!("{other} overlaps {import}"))
                });
                prop_assert!(is_named, "{import} and one of {others:?}: {text}");
            }
        }
    }
}
