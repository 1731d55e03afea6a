//! What takes how long: `[log] level = "debug"` tells it.

use tokio::time::Instant;

/// Tells when it ends how long it took.
#[must_use = "it ends where it is dropped"]
pub struct Lap {
    what: &'static str,
    began: Instant,
}

/// Begins a part of the work.
pub fn lap(what: &'static str) -> Lap {
    let began = Instant::now();
    Lap { what, began }
}

impl Drop for Lap {
    fn drop(&mut self) {
        let microseconds = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(what = self.what, microseconds, "took");
    }
}
