//! TOML → typed model: `sdwand.toml` and the fleet's fragments, every error collected with its place.
//!
//! ```text
//! sdwand.toml ──────▶ host ─────────────┐
//! fleet.d/*.toml ─▶ tree ─▶ draft ─▶ Fleet ┼─ check (model) ─ locate ─▶ Loaded | Diagnostics
//! node.key ─────────▶ PrivateKey ───────┘
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `load` | the disk: folder, limits, files that aren't what they seem |
//! | `document` | text → spanned tree, inside limits of size and depth |
//! | `reader` | a typed cursor over a tree; notes every error and goes on |
//! | `values` | how each type is written |
//! | `host`, `fleet`, `network`, `rules`, `routing`, `services`, `ovn` | the tables |
//! | `locate` | from a finding of `model::check` to its line |
//! | `files` | texts and places in them |
//! | `diag` | diagnostics and notices, as people and programs read them |
//! | `keys` | the private key |
//! | `init`, `defaults` | documents that we write |
//! | `bridge` | the editor of a bridge |
//! | `service_fragment` | the editor of services |
//! | `rotate` | the files of a key rotation |
//!
//! Nothing is applied of a configuration with any error. [`parse_fleet`] and [`parse_host`] need no disk.

pub mod bridge;
pub mod defaults;
mod diag;
mod document;
mod files;
mod fleet;
mod host;
pub mod init;
mod keys;
mod load;
mod locate;
mod network;
mod ovn;
mod reader;
pub mod rotate;
mod routing;
mod rules;
pub mod service_fragment;
mod services;
mod suggest;
mod values;

pub use diag::{Diagnostic, DiagnosticKind, Diagnostics, MAX_DIAGNOSTICS, Notice, Related};
pub use document::{MAX_DEPTH, MAX_FILE_BYTES, MAX_FLEET_BYTES, MAX_FRAGMENTS};
pub use fleet::{ParsedFleet, parse_fleet};
pub use host::parse_host;
pub use keys::{PrivateKeyError, read_private_key};
pub use load::{Loaded, ReadError, is_fragment, load, load_fleet, load_host, load_host_anyway};
