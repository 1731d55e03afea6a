//! `sdwand`: an SD-WAN overlay from TOML, made true on this host, without a controller.
//!
//! ```text
//! fleet.d/*.toml ─┐                                    ┌────────── for each plane, in phase order ──────────┐
//! sdwand.toml ────┴─ config ─▶ Fleet ─ intent ─▶ HostIntent ─ compile ─▶ desired ┐                          │
//!                                                      │                         ├─ diff ─▶ changes ─┐      │
//!                                                      │      kernel ─ observe ─▶ actual ┘           │      │
//!                                                      └─────────────────────────────────────────────┼──────┘
//!                                   reconcile: order ▶ guard ▶ Plan ▶ execute ▶ verify ▶ Report ◀────┘
//! ```
//!
//! Nothing flows backwards. The plan holds every choice; execution makes none.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod federation;
pub mod host;
pub mod intent;
pub mod log;
pub mod model;
mod notify;
pub mod planes;
pub mod reconcile;
pub mod report;
pub mod server;
pub mod sys;
