//! What an operator means: the site, its nodes, its networks and their rules.
//!
//! Pure data and pure functions: no I/O, no clock, no randomness. Everything here is the same on every host of a site;
//! what one particular host must do follows from it in [`crate::intent`].
//!
//! | file | holds |
//! |---|---|
//! | `name` | names as `fleet.md` spells them, link names as the kernel takes them |
//! | `key` | WireGuard keys; private and preshared ones never print |
//! | `fleet` | the whole site: the merged fragments |
//! | `network` | one overlay network, its members, LANs and rules |
//! | `routing` | BGP settings, route policies, leaks, bridges |
//! | `service` | services offered and subscribed over bridges |
//! | `ovn` | logical switches, ports, ACLs, tenants |
//! | `agreement` | what other sites have agreed to |
//! | `host` | this host's own `sdwand.toml` |
//! | `reach` | which addresses are of the Internet |
//! | `version` | versions of the program, and ranges of them |
//! | `naming` | every derived name, number and address |
//! | `ownership` | every marker that says "ours" |
//! | `check` | invariants across objects, as typed findings |

pub mod address;
pub mod agreement;
pub mod check;
pub mod fleet;
pub mod host;
pub mod key;
pub mod name;
pub mod naming;
pub mod network;
pub mod ovn;
pub mod ownership;
pub mod reach;
pub mod routing;
pub mod service;
pub mod url;
pub mod version;

pub use address::AddressSet;
pub use agreement::{Agreement, Agreements};
pub use fleet::{Fleet, FleetDigest, Node, Site};
pub use key::{PresharedKey, PrivateKey, PublicKey};
pub use name::{LinkName, Name};
pub use network::{Member, Network, NetworkId, Role, Rule, Topology};
