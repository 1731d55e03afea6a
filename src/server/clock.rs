//! A wall clock that isn't set yet.

use std::time::Duration;

use super::{ServeError, until_told, wall};
use crate::log::Event;
use crate::notify;

/// Waits until the wall clock is set: what would be dated, judged and written by another is worth nothing, and what expires
/// would live again. Says whether it is; it isn't where the gateway is told to stop meanwhile.
pub(super) async fn is_set() -> Result<bool, ServeError> {
    const WHY: &str = "clock_unset: federation waits for the wall clock to be set (NTP, or `date -s`)";
    if wall().is_plausible() {
        return Ok(true);
    }
    let now = || wall().to_string();
    Event::ClockUnset { wall: now() }.emit();
    let set = async {
        while !wall().is_plausible() {
            notify::waiting(WHY);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        told = until_told() => told.map(|()| false),
        () = set => {
            Event::ClockSet { wall: now() }.emit();
            Ok(true)
        }
    }
}
