//! Read-only views for people and scripts.

pub mod plan;
pub mod status;
