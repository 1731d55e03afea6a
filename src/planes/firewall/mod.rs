//! The firewall plane.
