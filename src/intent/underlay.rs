//! What a bridge imports, held against the networks that this host is in itself: the fleet doesn't know them.
//!
//! | isolation | an import that overlaps a network of the host |
//! |---|---|
//! | VRF | is harmless: it is in the table of the VRF, which the host's own packets don't look into |
//! | rules | is left out: its end in the main table would be that of a wider network of the host, and ICMP errors about packets in transit would leave by a narrower one, in the clear |
//! | none | is left out: its route would take a wider network of the host away, and what it is for would leave by a narrower one, in the clear |

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{Blocked, IsolationMode, NetworkIntent, UnderlayClash, bridges};
use crate::model::address::overlaps;
use crate::model::fleet::Fleet;
use crate::model::network::Network;
use crate::model::{LinkName, Name};

/// The networks that this host is in: the destinations that it reaches without a router, and its own addresses, each with its
/// interface. Links and addresses of ours aren't among them.
pub type Underlay = BTreeMap<IpNet, LinkName>;

/// Whether the fleet has a bridge for which the networks of a host matter that keeps its networks apart by `isolation`.
#[must_use]
pub fn matters(fleet: &Fleet, isolation: IsolationMode) -> bool {
    let mut networks = fleet.networks.values();
    networks.any(|network| {
        isolation.of(network) != IsolationMode::Vrf && bridges::into(fleet, network).next().is_some()
    })
}

/// The bridges into a network that this host leaves out, by name; none where nothing stands in their way.
pub(super) fn clashes(
    fleet: &Fleet,
    network: &Network,
    isolation: IsolationMode,
    underlay: Option<&Underlay>,
) -> BTreeMap<Name, UnderlayClash> {
    match isolation {
        IsolationMode::Vrf => return BTreeMap::new(),
        IsolationMode::Rules | IsolationMode::Main => {}
    }
    let clash = |import: &[IpNet]| {
        let Some(underlay) = underlay else {
            return import.first().map(|_| UnderlayClash::Unknown);
        };
        let mut pairs = import.iter().flat_map(|import| {
            let found = underlay.iter().filter(|(net, _)| overlaps(import, net));
            found.map(|(net, link)| (import.trunc(), *net, link))
        });
        pairs.next().map(|(import, net, link)| UnderlayClash::Overlaps {
            import,
            net,
            link: link.clone(),
        })
    };
    bridges::into(fleet, network)
        .filter_map(|bridge| Some((bridge.name.clone(), clash(&bridge.import)?)))
        .collect()
}

/// Names what is left out of a network, for whoever can do something about it.
pub(super) fn blocked(network: &NetworkIntent) -> impl Iterator<Item = Blocked> {
    let apart = match network.isolation {
        IsolationMode::Rules => "use a kernel with VRF (CONFIG_NET_VRF, `modprobe vrf`)",
        IsolationMode::Vrf | IsolationMode::Main => "give the network `isolation = \"vrf\"`",
    };
    network.bridges.iter().filter_map(move |bridge| {
        let clash = bridge.clash.as_ref()?;
        Some(Blocked {
            network: Some(network.id),
            reason: format!(
                "ImportOverlapsUnderlay: bridge {} is left out: {clash}",
                bridge.name
            ),
            fix: match clash {
                UnderlayClash::Overlaps { .. } => format!("import less, or {apart}"),
                UnderlayClash::Unknown => "see what keeps the main routing table from being read".to_owned(),
            },
        })
    })
}
