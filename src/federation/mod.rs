//! Federation: two sovereign sites that share nothing but a pasted token.
//!
//! ```text
//! operator A ─ propose ─▶ token ─ out of band ─▶ operator B ─ accept ─▶ A's API ─▶ both enrolled ─ beats ─▶ both active
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `peer` | a peer, where it stands, and the whole transition table |
//! | `token` | the acceptance token and the six words |
//! | `anchors` | how a peer's anchors move on |
//! | `bridge` | what is agreed with a peer about one network of each |
//! | `approval` | what waits for a second operator, and the whole transition table |
//! | `capability` | what is agreed with a peer about kinds of resources |
//! | `grant` | what a peer may read here, and from where |
//! | `resources` | what can be granted to be read |
//! | `site` | the name under which peers know a site |
//! | `gateway` | what operators and peers ask, and what becomes of it in the ledger |
//! | `identity` | the one place where a certificate becomes a peer |
//! | `ledger` | peers, kept answers and the audit, on disk and in memory |
//! | `operators` | who may operate this site, and the tokens that say so |
//! | `moment` | points in time as they are stored and sent |
//! | `dial`, `client` | calls to peers |
//! | `overlay` | where this gateway is inside its overlays, and who may come to it there |
//! | `endpoints` | where a peer may lead us |
//! | `wire`, `version`, `url` | what sites say to each other |
//! | `pulse`, `liveness` | when peers are beaten for, and what becomes of a silent one |
//! | `policy`, `residency` | what the operator has decided about peers in general |
//! | `governance` | what an operator should know about the peers |
//! | `pki` | the site's CA, its certificates, and what others' are worth |
//!
//! Nothing here touches the host: it only changes data.

pub mod anchors;
pub mod approval;
pub mod bridge;
pub mod capability;
pub mod client;
pub mod dial;
pub mod endpoints;
pub mod gateway;
pub mod governance;
pub mod grant;
pub mod identity;
pub mod ledger;
pub mod liveness;
pub mod moment;
pub mod number;
pub mod operators;
pub mod overlay;
pub mod peer;
pub mod pki;
pub mod policy;
pub mod pulse;
pub mod residency;
pub mod resources;
mod schema;
pub mod site;
pub mod spawn;
pub mod subscription;
pub mod token;
pub mod version;
pub mod wire;
pub mod witness;

pub use crate::model::url;
