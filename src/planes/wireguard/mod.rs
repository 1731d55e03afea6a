//! The wireguard plane.
