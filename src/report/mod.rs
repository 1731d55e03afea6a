//! Read-only views for people and scripts.

pub mod bridges;
pub mod doctor;
pub mod explain;
pub mod foreign;
pub mod metrics;
pub mod plan;
pub mod status;

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
