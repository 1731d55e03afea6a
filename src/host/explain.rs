//! Looks at this host for `sdwand explain`. It reads, and changes nothing.

use super::{HostError, Owner, RealHost, system_now};
use crate::intent::{HostIntent, IntentError, IsolationMode};
use crate::model::host::HostConfig;
use crate::model::{Fleet, LinkName};
use crate::planes::firewall;
use crate::reconcile::Target;
use crate::reconcile::holes::Known;
use crate::report::chain;
use crate::report::explain::{Found, Live, Lookup};
use crate::sys::netlink::{RouteAnswer, RouteQuestion, errno};

/// Why a host can't be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// It can't be opened.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The fleet doesn't know it.
    #[error(transparent)]
    Intent(#[from] IntentError),
}

/// A host that is looked at.
pub struct Sight {
    host: RealHost,
    intent: HostIntent,
}

impl Sight {
    /// Opens this host, of which the daemon knows these `ways` to peers.
    ///
    /// # Errors
    /// It can't be opened, or the fleet doesn't know it.
    pub async fn open(
        own: &HostConfig,
        fleet: &Fleet,
        ways: Result<Known, String>,
    ) -> Result<(Self, Live), LookError> {
        let mut host = RealHost::open(own, Owner::Command).await?;
        host.look_at_underlay(fleet).await;
        let target = host.wanted(own, fleet)?;
        let live = look(&host, &target, ways).await;
        let intent = target.intent;
        Ok((Self { host, intent }, live))
    }

    /// Asks the kernel for routes, one packet each.
    pub async fn routes(
        &self,
        lookups: impl IntoIterator<Item = Lookup>,
    ) -> Vec<(Lookup, Result<Found, String>)> {
        let mut found = Vec::new();
        for lookup in lookups {
            let answer = self.route(&lookup).await;
            found.push((lookup, answer));
        }
        found
    }

    async fn route(&self, lookup: &Lookup) -> Result<Found, String> {
        let links = self.host.netlink.links().await.map_err(|error| chain(&error))?;
        let index = |name: &str| links.iter().find(|link| link.name == name).map(|link| link.index);
        let network = self.intent.networks.get(&lookup.network);
        let came_in = match &lookup.came_in {
            None => None,
            Some(name) => match index(name.as_str()) {
                Some(index) => Some(index),
                None => return Ok(Found::Nowhere(format!("there is no link {name}"))),
            },
        };
        let vrf = network
            .filter(|network| network.isolation == IsolationMode::Vrf)
            .filter(|_| came_in.is_none() && lookup.mark.is_none())
            .and_then(|network| network.vrf.as_ref());
        let bound_to = match vrf {
            None => None,
            Some(name) => match index(name.as_str()) {
                Some(index) => Some(index),
                None => return Ok(Found::Nowhere(format!("there is no VRF {name}"))),
            },
        };
        let question = RouteQuestion {
            source: lookup.source,
            destination: lookup.destination,
            came_in,
            bound_to,
            mark: lookup.mark,
        };
        let answer = self
            .host
            .netlink
            .route_of(&question)
            .await
            .map_err(|error| chain(&error))?;
        Ok(match answer {
            RouteAnswer::Local => Found::Local,
            RouteAnswer::Nowhere(errno) => Found::Nowhere(nowhere(lookup, errno)),
            RouteAnswer::Route(route) => {
                let device = route
                    .device
                    .and_then(|device| links.iter().find(|link| link.index == device));
                match device.and_then(|link| LinkName::new(&link.name).ok()) {
                    Some(device) => Found::Out {
                        device,
                        gateway: route.gateway,
                        mtu: route.mtu,
                    },
                    None => Found::Nowhere(format!("its route to {} has no link", lookup.destination)),
                }
            }
        })
    }
}

/// In words, what the kernel answers with a number.
fn nowhere(lookup: &Lookup, number: i32) -> String {
    let Lookup {
        source, destination, ..
    } = lookup;
    match number {
        errno::EXDEV => format!("the reverse path filter refuses {source} here"),
        errno::EACCES => format!("a route prohibits {destination}"),
        errno::EINVAL => format!("the kernel refuses {source} as a source here"),
        errno::EHOSTUNREACH if lookup.came_in.is_some() => {
            format!("no route to {destination}, or no forwarding")
        }
        _ => format!("no route to {destination}"),
    }
}

async fn look(host: &RealHost, target: &Target, ways: Result<Known, String>) -> Live {
    let ((l3, wireguard), firewall, foreign) = tokio::join!(
        host.observe_links(target),
        firewall::observe(&host.nft),
        super::doctor::foreign()
    );
    Live {
        intent: target.intent.clone(),
        l3,
        wireguard,
        firewall: firewall.map_err(|error| chain(&error)),
        foreign,
        ways,
        now: system_now(),
    }
}
