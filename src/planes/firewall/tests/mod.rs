//! The compiled table against a naive reading of the intent, and what stands between two tables against both.

mod cases;
pub(crate) mod interpreter;
mod kernel;
mod properties;
