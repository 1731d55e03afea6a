//! Where this gateway is inside its overlays: one place per bridged network, and who may come to it there.
//!
//! A place is the gateway's own overlay address, in the network's VRF where the kernel has VRFs. There the socket is
//! bound to the VRF (`SO_BINDTODEVICE`, socket(7): unprivileged since Linux 5.7). Without, it has the address alone, which the
//! kernel gives to no such socket while the address is in a VRF.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::netdevice::name_to_index;
use serde::Serialize;
use tokio::net::TcpSocket;

use super::peer::PeerId;
use crate::model::host::IsolationBackend;
use crate::model::network::{Isolation, Network};
use crate::model::{AddressSet, LinkName, Name, naming};

/// What keeps a network apart from the others on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Domain {
    /// This VRF.
    Vrf(LinkName),
    /// This VRF; rules, where the kernel has no VRFs.
    VrfOrRules(LinkName),
    /// Rules, or nothing: the address alone leads there.
    Address,
}

impl Domain {
    /// Of a network, on a host whose operator wants this mechanism.
    #[must_use]
    pub fn of(network: &Network, backend: IsolationBackend) -> Self {
        match (network.isolation, backend) {
            (Isolation::None, _) | (Isolation::Vrf, IsolationBackend::Rules) => Self::Address,
            (Isolation::Vrf, IsolationBackend::Vrf) => Self::Vrf(naming::vrf(network.id)),
            (Isolation::Vrf, IsolationBackend::Auto) => Self::VrfOrRules(naming::vrf(network.id)),
        }
    }
}

/// This gateway's place in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The network.
    pub network: Name,
    /// The gateway's overlay address there.
    pub address: IpAddr,
    /// What keeps it apart.
    pub domain: Domain,
}

/// A socket in a network.
#[derive(Debug)]
pub struct Seated {
    /// The socket, bound.
    pub socket: TcpSocket,
    /// The index of the VRF that it is bound to. One that was made anew under the same name has another.
    pub vrf: Option<u32>,
}

impl Seat {
    /// A socket that is bound there, to connect with.
    ///
    /// # Errors
    /// The VRF or the address isn't there, or the kernel refuses.
    pub fn socket(&self) -> io::Result<Seated> {
        self.bound(0, false)
    }

    /// A socket that is bound there, to listen with. Its port may be that of a listener on every address, if that has
    /// `SO_REUSEPORT`, too (socket(7)): the kernel gives a connection to the one that says more.
    ///
    /// # Errors
    /// As [`Seat::socket`], or the port is taken.
    pub fn listening_socket(&self, port: u16) -> io::Result<Seated> {
        self.bound(port, true)
    }

    fn bound(&self, port: u16, listens: bool) -> io::Result<Seated> {
        let socket = match self.address {
            IpAddr::V4(_) => TcpSocket::new_v4()?,
            IpAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if listens {
            socket.set_reuseaddr(true)?;
            socket.set_reuseport(true)?;
        }
        let vrf = match &self.domain {
            Domain::Address => None,
            Domain::Vrf(vrf) => Some(bind_to(&socket, vrf)?),
            Domain::VrfOrRules(vrf) => match bind_to(&socket, vrf) {
                Ok(index) => Some(index),
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => None,
                Err(error) => return Err(error),
            },
        };
        socket.bind(SocketAddr::new(self.address, port))?;
        Ok(Seated { socket, vrf })
    }
}

/// Binds a socket to a VRF: its index before that, so that a VRF that is made anew meanwhile is noticed.
fn bind_to(socket: &TcpSocket, vrf: &LinkName) -> io::Result<u32> {
    let index = name_to_index(socket, vrf.as_str())?;
    socket.bind_device(Some(vrf.as_str().as_bytes()))?;
    Ok(index)
}

/// Where this gateway is to listen, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// Its place.
    pub seat: Seat,
    /// The port.
    pub port: u16,
    /// What each peer's bridge carries here: it calls from there, and from nowhere else.
    pub callers: BTreeMap<PeerId, AddressSet>,
}

impl Post {
    /// Where.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        SocketAddr::new(self.seat.address, self.port)
    }

    /// Whose bridge leads to a source; none where no bridge does, or more than one.
    #[must_use]
    pub fn caller(&self, source: IpAddr) -> Option<PeerId> {
        let source = source.to_canonical();
        let mut found = self.callers.iter().filter(|(_, nets)| nets.contains(source));
        let (peer, _) = found.next()?;
        found.next().is_none().then_some(*peer)
    }
}

/// How the listener in a network is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct OverlayListener {
    /// The network.
    pub network: Name,
    /// Where it listens, or shall.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// Whether it does.
    pub is_listening: bool,
    /// Why it doesn't.
    pub reason: Option<String>,
}

/// A peer can't be called over a bridge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// There is no such network.
    #[error("this site's fleet has no network {0}")]
    Network(Name),
    /// No bridge leads there.
    #[error(
        "no bridge leads to {peer} in network {network}: `sdwand peer bridge {peer} --network {network}` makes one"
    )]
    NoBridge {
        /// To whom.
        peer: Name,
        /// From which network.
        network: Name,
    },
    /// It isn't active.
    #[error(
        "bridge {bridge} to {peer} is {state}, not active: `sdwand peer show {peer}` says what it waits for"
    )]
    Inactive {
        /// Which.
        bridge: Name,
        /// To whom.
        peer: Name,
        /// How it stands.
        state: &'static str,
    },
    /// Our own address isn't the peer's to answer.
    #[error(
        "bridge {bridge} doesn't export this gateway's own address in network {network}, from which it calls"
    )]
    OwnAddress {
        /// Which.
        bridge: Name,
        /// From which network.
        network: Name,
    },
    /// The peer doesn't listen in its overlay.
    #[error(
        "{peer} announces no listener inside its network: what it exports doesn't hold its gateway's address"
    )]
    NoListener {
        /// Who.
        peer: Name,
    },
    /// The peer names an address that isn't its to name.
    #[error("{peer} says that it listens on {listener}, which is outside what bridge {bridge} carries")]
    Outside {
        /// Who.
        peer: Name,
        /// Where.
        listener: SocketAddr,
        /// What would lead there.
        bridge: Name,
    },
}

/// A way to a peer's gateway through a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayWay {
    /// From where.
    pub seat: Seat,
    /// To where.
    pub to: SocketAddr,
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn seat(address: &str, domain: Domain) -> Seat {
        Seat {
            network: Name::new("prod").unwrap(),
            address: address.parse().unwrap(),
            domain,
        }
    }

    fn nets(texts: &[&str]) -> AddressSet {
        texts
            .iter()
            .map(|text| text.parse::<ipnet::IpNet>().unwrap())
            .collect()
    }

    #[test]
    fn a_source_is_the_peers_whose_bridge_leads_there_and_nobodys_else() {
        let [b, c] = [1, 2].map(|n| PeerId(Uuid::from_u128(n)));
        let mut post = Post {
            seat: seat("fd00:1::1", Domain::Address),
            port: 8443,
            callers: [
                (b, nets(&["fd00:2::/48"])),
                (c, nets(&["fd00:3::/48", "10.3.0.0/16"])),
            ]
            .into(),
        };
        let caller = |post: &Post, source: &str| post.caller(source.parse().unwrap());
        assert_eq!(caller(&post, "fd00:2::9"), Some(b));
        assert_eq!(caller(&post, "fd00:3::9"), Some(c));
        assert_eq!(caller(&post, "::ffff:10.3.0.9"), Some(c));
        for source in ["fd00:4::1", "fd00:1::1", "::1", "10.4.0.1"] {
            assert_eq!(caller(&post, source), None, "{source}");
        }
        post.callers.insert(c, nets(&["fd00:2:0:1::/64"]));
        assert_eq!(caller(&post, "fd00:2:0:1::1"), None, "two claim it");
    }

    #[tokio::test]
    async fn a_place_that_is_not_there_gives_no_socket() {
        let none = LinkName::new("sdwan-9876").unwrap();
        let error = seat("::1", Domain::Vrf(none.clone())).socket().unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::NODEV.raw_os_error())
        );
        let seated = seat("::1", Domain::VrfOrRules(none)).socket().unwrap();
        assert_eq!(seated.vrf, None, "no kernel's VRF: the address alone");
        let error = seat("fd00:9:8:7::6", Domain::Address).socket().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[tokio::test]
    async fn a_listener_may_have_the_port_of_one_on_every_address() {
        let every = TcpSocket::new_v6().unwrap();
        every.set_reuseport(true).unwrap();
        every.bind("[::]:0".parse().unwrap()).unwrap();
        let every = every.listen(8).unwrap();
        let port = every.local_addr().unwrap().port();
        let here = seat("::1", Domain::Address).listening_socket(port).unwrap();
        let here = here.socket.listen(8).unwrap();
        let caller = tokio::net::TcpStream::connect(("::1", port)).await.unwrap();
        let (_, source) = here.accept().await.unwrap();
        assert_eq!(source, caller.local_addr().unwrap());
    }
}
