//! The site's fleet, as it changes.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::{FLUSH, TICK};
use crate::config;
use crate::federation::gateway::Gateway;
use crate::federation::site::SiteId;
use crate::host::files::ConfigFiles;
use crate::log::Event;

/// Reads the fleet again when its files change. A bad one changes nothing: peers are told of the last good one.
pub(super) async fn follow(gateway: Arc<Gateway>, config: PathBuf, folder: PathBuf) {
    // No key is read here.
    let mut files = ConfigFiles::watch(&config, &folder, &config);
    let mut reload = match signal(SignalKind::hangup()) {
        Ok(reload) => reload,
        Err(error) => {
            tracing::error!(%error, "SIGHUP can't be heard: the fleet isn't followed");
            return;
        }
    };
    loop {
        let wait = async {
            tokio::select! {
                () = files.changed() => {}
                _ = reload.recv() => {}
            }
        };
        let _ = tokio::time::timeout(FLUSH, wait).await;
        // Files are often written several at a time: all of them are waited for.
        let quiet = async { while tokio::time::timeout(TICK, files.changed()).await.is_ok() {} };
        let _ = tokio::time::timeout(FLUSH, quiet).await;
        if !files.differ() {
            continue;
        }
        match config::load_fleet(&folder) {
            Ok(loaded) if SiteId::of(&loaded.fleet.site.name, loaded.fleet.site.prefix) == gateway.site => {
                let digest = loaded.fleet.digest.to_string();
                gateway.tell_fleet(loaded.fleet);
                Event::FleetTold { digest }.emit();
            }
            Ok(_) => Event::FleetOfAnotherSite.emit(),
            Err(errors) => {
                let (count, first) = (errors.len() as u64, errors.first());
                Event::FleetBad { count, first }.emit();
            }
        }
    }
}
