//! Transport only: netlink, WireGuard, nft, processes, sysctls. Nothing of ours, no policy.
