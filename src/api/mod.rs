//! How others talk to this host: commands over a local socket, peers over mTLS, operators over a socket of their own.

pub mod control;
pub mod error;
pub mod federation_api;
pub mod limits;
pub mod listener;
pub mod metrics;
pub mod openapi;
pub mod operator;
mod pace;
