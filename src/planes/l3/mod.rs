//! The l3 plane.
