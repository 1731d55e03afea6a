//! Two sovereign sites over real mTLS on loopback.
//!
//! ```text
//! site a: ledger, CA, listener 127.0.0.1:… ◀── accept, heartbeat, … ── site b: the same
//!                      ▲
//!                      └── forged, expired, stolen, revoked, mute: strangers
//! ```

#![expect(
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "tests look at the clock, say so when they fail, and are lists of cases"
)]

mod again;
mod answers;
mod audit;
mod bridge_crashes;
mod bridge_peers;
mod bridges;
mod children;
mod clock;
mod connections;
mod contract;
mod elsewhere;
mod emancipated;
mod erased;
mod failing;
mod flood;
mod gated;
mod governance;
mod grants;
mod heads;
mod kept;
mod liveness;
mod nat;
mod notices;
mod overlay;
mod parked;
mod pause;
mod relay;
mod rotation;
mod site;
mod subscriptions;
mod trust;
