//! Interfaces to other processes.

pub mod control;
