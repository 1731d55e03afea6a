//! One change → one transport call. Nothing is decided here.
//!
//! Left as they are for good: `net.ipv6.conf.all.forwarding`, `accept_ra` and `*_l3mdev_accept`, once set. Others on
//! the host may rely on them by then, and nothing tells.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::model::LinkName;
use crate::model::ownership::LINK_ALIAS;
use crate::sys::netlink::{self as nl, AddMode, Netlink, NetlinkError, Write, errno};
use crate::sys::sysctl::{SysctlError, Sysctls};

use super::change::{Change, Op};
use super::encode;
use super::observe::decode_host_address;
use super::state::{Backend, Family, HostAddress, LINK_GROUP, LinkType, RouteKey, RouteTo, link_sysctl};

/// Why a userspace device couldn't be made or removed.
pub type UserspaceError = Box<dyn Error + Send + Sync>;

/// Who makes WireGuard links where the kernel has none: TUN devices of this process, which end with it.
pub trait UserspaceLinks: Send + Sync {
    /// Makes the device, down, with this MTU in bytes; it is there when the future ends well.
    fn create<'a>(&'a self, name: &'a LinkName, mtu: u32) -> BoxFuture<'a, Result<(), UserspaceError>>;
    /// Removes the device; one that isn't there is removed.
    fn remove<'a>(&'a self, name: &'a LinkName) -> BoxFuture<'a, Result<(), UserspaceError>>;
}

/// For processes that can't hold devices: commands without a daemon.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoUserspaceLinks;

impl UserspaceLinks for NoUserspaceLinks {
    fn create<'a>(&'a self, _: &'a LinkName, _: u32) -> BoxFuture<'a, Result<(), UserspaceError>> {
        Box::pin(async { Err("userspace WireGuard lives in the daemon, which isn't running".into()) })
    }

    fn remove<'a>(&'a self, _: &'a LinkName) -> BoxFuture<'a, Result<(), UserspaceError>> {
        // Its process is gone, and so is the device.
        Box::pin(async { Ok(()) })
    }
}

/// What went wrong in this plane.
#[derive(Debug, thiserror::Error)]
pub enum L3Error {
    /// A section of the host can't be read.
    #[error("can't read the kernel's {section}")]
    Read {
        /// Which.
        section: &'static str,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// The kernel refused a change.
    #[error("{change}")]
    Refused {
        /// The change, as a command.
        change: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Something that isn't ours is where a route or rule of ours belongs.
    #[error("{change}: something of another owner is there already")]
    Foreign {
        /// The change, as a command.
        change: String,
    },
    /// A link is gone that the change needs.
    #[error("{change}: there is no {link}")]
    NoLink {
        /// The change, as a command.
        change: String,
        /// The link.
        link: LinkName,
    },
    /// A kernel parameter can't be read or written.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The userspace device can't be made or removed.
    #[error("userspace WireGuard link {link}")]
    Userspace {
        /// The link.
        link: LinkName,
        /// Why.
        #[source]
        source: UserspaceError,
    },
}

impl L3Error {
    /// Whether a new plan may succeed without anyone changing anything: the host changed under this one, or was busy.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::Refused { source, .. } => {
                source.is_retryable()
                    || matches!(
                        source.errno(),
                        Some(errno::ENODEV | errno::ENETDOWN | errno::ENETUNREACH | errno::EEXIST)
                    )
            }
            Self::NoLink { .. } | Self::Userspace { .. } => true,
            Self::Foreign { .. } | Self::Sysctl(_) => false,
        }
    }
}

/// Applies changes to this host.
#[derive(Clone)]
pub struct Applier {
    netlink: Netlink,
    sysctls: Sysctls,
    userspace: Arc<dyn UserspaceLinks>,
}

/// Interface indexes that were asked for already.
type Indexes = BTreeMap<LinkName, u32>;

impl Applier {
    /// Applies through these.
    #[must_use]
    pub fn new(netlink: Netlink, sysctls: Sysctls, userspace: Arc<dyn UserspaceLinks>) -> Self {
        Self {
            netlink,
            sysctls,
            userspace,
        }
    }

    /// Applies one change.
    ///
    /// # Errors
    /// See [`L3Error`].
    pub async fn apply(&self, change: &Change) -> Result<(), L3Error> {
        let refused = |source| L3Error::Refused {
            change: change.to_string(),
            source,
        };
        match &change.op {
            Op::AddLink {
                link,
                kind: LinkType::Wireguard {
                    backend: Backend::Userspace,
                },
                mtu,
            } => {
                let created = self.userspace.create(link, mtu.unwrap_or(1_420)).await;
                created.map_err(|source| userspace(link, source))
            }
            Op::DeleteLink {
                link,
                kind: LinkType::Wireguard {
                    backend: Backend::Userspace,
                },
            } => {
                let removed = self.userspace.remove(link).await;
                removed.map_err(|source| userspace(link, source))?;
                // One that another process left: `remove` knows only its own.
                let write = Write::DeleteLink {
                    name: link.to_string(),
                };
                tolerate(&change.op, self.netlink.write(&write).await).map_err(refused)
            }
            Op::SetSysctl { path, value } => Ok(self.sysctls.write(path, &value.to_string())?),
            Op::JoinLan {
                interface,
                master,
                keep,
            } => {
                let index = self.index(change, master, &mut Indexes::new()).await?;
                self.move_lan(change, interface, Some(index), keep).await
            }
            Op::ReleaseLan { interface, keep } => self.move_lan(change, interface, None, keep).await,
            Op::AddLink { .. }
            | Op::SetAlias { .. }
            | Op::SetMtu { .. }
            | Op::SetMaster { .. }
            | Op::SetUp { .. }
            | Op::SetDown { .. }
            | Op::DeleteLink { .. }
            | Op::AddAddress { .. }
            | Op::DeleteAddress { .. }
            | Op::AddRoute { .. }
            | Op::ReplaceRoute { .. }
            | Op::DeleteRoute { .. }
            | Op::AddRule { .. }
            | Op::DeleteRule { .. } => {
                let write = self.encode(change, &mut Indexes::new()).await?;
                settle(change, self.netlink.write(&write).await)
            }
        }
    }

    /// Applies changes in their order and returns what became of each; one that fails stops none. Routes, rules and
    /// addresses in a row are in flight together, so that ten thousand take a fraction of a second.
    pub async fn apply_all(&self, changes: &[Change]) -> Vec<Result<(), L3Error>> {
        let mut results = Vec::with_capacity(changes.len());
        let mut rest = changes;
        while let Some(first) = rest.first() {
            let run = rest.iter().take_while(|change| is_bulk(&change.op)).count();
            if run < 2 {
                results.push(self.apply(first).await);
                rest = &rest[1..];
                continue;
            }
            let (bulk, after) = rest.split_at(run);
            results.extend(self.apply_bulk(bulk).await);
            rest = after;
        }
        results
    }

    async fn apply_bulk(&self, changes: &[Change]) -> Vec<Result<(), L3Error>> {
        let mut indexes = Indexes::new();
        let mut writes = Vec::with_capacity(changes.len());
        let mut encoded = Vec::with_capacity(changes.len());
        for change in changes {
            let write = self.encode(change, &mut indexes).await;
            encoded.push(write.map(|write| writes.push(write)));
        }
        let mut answers = self.netlink.write_all(&writes).await.into_iter();
        let settled = changes.iter().zip(encoded);
        settled
            .map(|(change, encoded)| {
                encoded?;
                settle(change, answers.next().expect("one answer to each write"))
            })
            .collect()
    }

    async fn index(&self, change: &Change, name: &LinkName, known: &mut Indexes) -> Result<u32, L3Error> {
        if let Some(index) = known.get(name) {
            return Ok(*index);
        }
        let link = self.netlink.link(name.as_str()).await;
        let link = link.map_err(|source| L3Error::Refused {
            change: change.to_string(),
            source,
        })?;
        let index = link
            .ok_or_else(|| L3Error::NoLink {
                change: change.to_string(),
                link: name.clone(),
            })?
            .index;
        known.insert(name.clone(), index);
        Ok(index)
    }

    async fn encode(&self, change: &Change, known: &mut Indexes) -> Result<Write, L3Error> {
        let name = LinkName::to_string;
        Ok(match &change.op {
            Op::AddLink { link, kind, mtu } => Write::CreateLink(nl::NewLink {
                name: name(link),
                kind: match kind {
                    LinkType::Vrf { table } => nl::NewLinkKind::Vrf { table: *table },
                    LinkType::Wireguard { .. } => nl::NewLinkKind::Wireguard,
                    LinkType::Dummy => nl::NewLinkKind::Dummy,
                },
                mtu: *mtu,
                group: LINK_GROUP,
            }),
            Op::SetAlias { link } => Write::SetAlias {
                name: name(link),
                alias: LINK_ALIAS.to_owned(),
            },
            Op::SetMtu { link, mtu } => Write::SetMtu {
                name: name(link),
                mtu: *mtu,
            },
            Op::SetMaster { link, master } => {
                let master = match master {
                    Some(master) => Some(self.index(change, master, known).await?),
                    None => None,
                };
                Write::SetMaster {
                    name: name(link),
                    master,
                }
            }
            Op::SetUp { link } => Write::SetUp {
                name: name(link),
                up: true,
            },
            Op::SetDown { link } => Write::SetUp {
                name: name(link),
                up: false,
            },
            Op::DeleteLink { link, .. } => Write::DeleteLink { name: name(link) },
            Op::AddAddress { link, address } => {
                let index = self.index(change, link, known).await?;
                Write::AddAddress(encode::own_address(index, *address), AddMode::Replace)
            }
            Op::DeleteAddress { link, address } => {
                let index = self.index(change, link, known).await?;
                Write::DeleteAddress(encode::own_address(index, *address))
            }
            Op::AddRoute { key, to } => {
                Write::AddRoute(self.route(change, key, to, known).await?, AddMode::Create)
            }
            Op::ReplaceRoute { key, to } => {
                Write::AddRoute(self.route(change, key, to, known).await?, AddMode::Replace)
            }
            // By key alone: the link may be gone already.
            Op::DeleteRoute { key, to } => Write::DeleteRoute(encode::route(key, to, None)),
            Op::AddRule { rule } => Write::AddRule(encode::rule(rule)),
            Op::DeleteRule { rule } => Write::DeleteRule(encode::rule(rule)),
            Op::JoinLan { .. } | Op::ReleaseLan { .. } | Op::SetSysctl { .. } => {
                unreachable!("these are more than one netlink message, or none")
            }
        })
    }

    async fn route(
        &self,
        change: &Change,
        key: &RouteKey,
        to: &RouteTo,
        known: &mut Indexes,
    ) -> Result<nl::Route, L3Error> {
        let device = match to.device() {
            Some(device) => Some(self.index(change, device, known).await?),
            None => None,
        };
        Ok(encode::route(key, to, device))
    }

    /// Moves an interface into a VRF or out of it. The kernel takes it down and up for that, and with it go IPv6
    /// addresses: most stay by `keep_addr_on_down`, even if this process is killed here; the rest is put back.
    async fn move_lan(
        &self,
        change: &Change,
        interface: &LinkName,
        master: Option<u32>,
        keep: &BTreeSet<HostAddress>,
    ) -> Result<(), L3Error> {
        let refused = |source| L3Error::Refused {
            change: change.to_string(),
            source,
        };
        let index = self.index(change, interface, &mut Indexes::new()).await?;
        let keep_on_down = link_sysctl(Family::V6, interface, "keep_addr_on_down");
        let before = self.sysctls.read(&keep_on_down)?;
        if before.as_deref().is_some_and(|value| value != "1") {
            self.sysctls.write(&keep_on_down, "1")?;
        }
        let write = Write::SetMaster {
            name: interface.to_string(),
            master,
        };
        let moved = self.netlink.write(&write).await;
        if let Some(before) = before.as_deref().filter(|value| *value != "1") {
            self.sysctls.write(&keep_on_down, before)?;
        }
        moved.map_err(refused)?;
        let addresses = self.netlink.addresses().await.map_err(refused)?;
        let there: BTreeSet<_> = addresses
            .iter()
            .filter(|address| address.index == index)
            .filter_map(decode_host_address)
            .map(|address| address.address)
            .collect();
        for address in keep.iter().filter(|keep| !there.contains(&keep.address)) {
            let write = Write::AddAddress(encode::host_address(index, address), AddMode::Create);
            match self.netlink.write(&write).await {
                Ok(()) => {}
                // The kernel made its link-local again.
                Err(error) if error.errno() == Some(errno::EEXIST) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        Ok(())
    }
}

fn userspace(link: &LinkName, source: UserspaceError) -> L3Error {
    L3Error::Userspace {
        link: link.clone(),
        source,
    }
}

/// Whether a change is one message that depends on no answer before it.
const fn is_bulk(op: &Op) -> bool {
    matches!(
        op,
        Op::AddAddress { .. }
            | Op::DeleteAddress { .. }
            | Op::AddRoute { .. }
            | Op::ReplaceRoute { .. }
            | Op::DeleteRoute { .. }
            | Op::AddRule { .. }
            | Op::DeleteRule { .. }
    )
}

fn settle(change: &Change, answer: Result<(), NetlinkError>) -> Result<(), L3Error> {
    tolerate(&change.op, answer).map_err(|source| match (&change.op, source.errno()) {
        (Op::AddRoute { .. } | Op::AddRule { .. }, Some(errno::EEXIST)) => L3Error::Foreign {
            change: change.to_string(),
        },
        _ => L3Error::Refused {
            change: change.to_string(),
            source,
        },
    })
}

/// What shall go may have gone by itself: with its link, or by another hand.
fn tolerate(op: &Op, answer: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    let gone: &[i32] = match op {
        Op::DeleteLink { .. } => &[errno::ENODEV],
        Op::DeleteAddress { .. } => &[errno::EADDRNOTAVAIL, errno::ENODEV],
        Op::DeleteRoute { .. } => &[errno::ESRCH, errno::ENOENT],
        Op::DeleteRule { .. } => &[errno::ENOENT],
        Op::AddLink { .. }
        | Op::SetAlias { .. }
        | Op::SetMtu { .. }
        | Op::SetMaster { .. }
        | Op::SetUp { .. }
        | Op::SetDown { .. }
        | Op::JoinLan { .. }
        | Op::ReleaseLan { .. }
        | Op::AddAddress { .. }
        | Op::AddRoute { .. }
        | Op::ReplaceRoute { .. }
        | Op::AddRule { .. }
        | Op::SetSysctl { .. } => &[],
    };
    match answer {
        Err(error) if error.errno().is_some_and(|errno| gone.contains(&errno)) => Ok(()),
        other => other,
    }
}
