//! What the fleet says that the peer shall know of a bridge.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::half::{covers, ordered};
use crate::model::agreement::{MAX_ENDPOINTS, MAX_PREFIXES, fit};
use crate::model::network::{Endpoint, EndpointHost};
use crate::model::routing::{Bridge, Export};
use crate::model::{Fleet, Name, PublicKey, naming};

/// A half but for what isn't the fleet's: its secret and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The gateway's WireGuard key.
    pub gateway_public_key: PublicKey,
    /// Where it is reached, `<host>:<port>`.
    pub endpoints: Vec<String>,
    /// What it exports.
    pub prefixes: Vec<IpNet>,
    /// Where it listens in the overlay.
    pub listener: Option<SocketAddr>,
}

/// What `node`, the gateway of `bridge`, has to say; none where it is no member of the network, or exports what no site may.
/// `listen` is the port of its listener.
#[must_use]
pub fn share(fleet: &Fleet, node: &Name, bridge: &Bridge, listen: Option<u16>) -> Option<Content> {
    let network = fleet.networks.get(&bridge.network)?;
    let members = fleet.members(network);
    let member = members.iter().find(|member| member.node.name == *node)?;
    let mut exported = Vec::new();
    for export in &bridge.export {
        match export {
            Export::Prefix(net) => exported.push(*net),
            Export::Vip(name) => {
                let vip = network.virtual_ips.iter().find(|vip| vip.name == *name)?;
                exported.push(IpNet::from(vip.address));
            }
        }
    }
    let prefixes = ordered(&exported);
    if prefixes.len() > MAX_PREFIXES || prefixes.iter().any(|net| fit(net).is_err()) {
        return None;
    }
    let endpoints = member.endpoints.iter().take(MAX_ENDPOINTS);
    let address = naming::address_v6(network.prefix, member.node.host_part());
    let listener = listen.map(|port| SocketAddr::new(address.into(), port));
    Some(Content {
        gateway_public_key: member.node.public_key,
        endpoints: endpoints
            .map(|endpoint| place(endpoint, member.listen_port))
            .collect(),
        listener: listener.filter(|at| covers(&prefixes, at)),
        prefixes,
    })
}

fn place(endpoint: &Endpoint, port: u16) -> String {
    let port = endpoint.port.unwrap_or(port);
    match &endpoint.host {
        EndpointHost::Address(address) => SocketAddr::new(*address, port).to_string(),
        EndpointHost::Dns(name) => format!("{name}:{port}"),
    }
}
