//! Transport only: netlink, WireGuard, nft, processes, sysctls. Nothing of ours, no policy.

pub mod conntrack;
pub mod exec;
pub mod lock;
pub mod neighbour;
pub mod netlink;
pub mod nft;
pub mod nft_batch;
pub mod nft_dump;
pub mod nft_events;
pub mod nft_query;
pub mod sysctl;
pub mod wg;
