//! The firewall plane: one nftables table, `inet sdwand`.
//!
//! ```text
//! HostIntent ─ policy ─▶ Policy ─ compile (layers, line) ─▶ Table ┐            ┌▶ Narrow ─▶ Widen ─▶ CutFlows
//!                          ▲                                      ├─ diff, meet ┤
//! the kernel ─── observe ───┼──────────────────────────────▶ Table ┘            └▶ apply: nft -f -, conntrack
//!                          └──────────── lift ◀──────────────┘
//! ```
//!
//! The table is created when it is absent and amended in place otherwise; counters survive. A change goes over what
//! neither the old nor the new rules refuse, so nothing is ever more open than both, and what both allow keeps passing.

mod amend;
mod apply;
mod change;
mod compile;
mod diff;
mod dump;
mod flows;
mod judge;
mod layers;
mod line;
mod mapping;
mod meet;
mod observe;
mod policy;
mod render;
mod state;
mod strays;

pub use apply::{FirewallError, apply, apply_all};
pub use change::{Change, Cut, Transaction};
pub use compile::compile;
pub use diff::{Verified, diff};
pub use judge::{Connection, Guard, Hook, Ruling, judge};
pub use meet::observed;
pub use observe::{Actual, Count, Listing, ObserveError, decode, observe, observe_since};
pub use policy::{Packet, Policy};
pub use render::render_script;
pub use state::{State, Table};

/// What a port mapping counts.
pub use state::names as guard;

#[cfg(test)]
pub(crate) use state::names;

#[cfg(test)]
pub(crate) mod tests;
