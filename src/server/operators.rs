//! The operators' ways in, as `sdwand serve` opens them.
//!
//! ```text
//! <run_dir>-serve/api.sock     0660, group sdwand ───────┐
//! <run_dir>-serve/status.sock  0660, group sdwand-read ──┼─▶ router
//! [api] listen                 https, or http on loopback┘
//! ```

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{ServeError, at, monotonic, random, renew, run_dir, wall};
use crate::api::control;
use crate::api::limits::Limits;
use crate::api::operator::{Arrival, Listing, Operating, listen, router};
use crate::federation::gateway::Gateway;
use crate::federation::operators::{OperatorKey, Operators};
use crate::federation::pki::Usage;
use crate::federation::pki::authority::write_whole;
use crate::federation::pki::tls::{CurrentLeaf, operator_config};
use crate::log::Event;
use crate::model::host::HostConfig;

/// The socket for everything, in [`run_dir`].
pub const SOCKET: &str = "api.sock";
/// The socket for who may only look.
pub const STATUS_SOCKET: &str = "status.sock";
/// Who may do everything, where there is such a group.
const OPERATORS: &str = "sdwand";
/// Who may look, where there is such a group.
const READERS: &str = "sdwand-read";

/// How often it is looked whether the listener's certificate is to be renewed.
const RENEWAL: Duration = Duration::from_secs(60);

/// Opens all of them. They are served until `stopped` says true.
pub(super) async fn open(
    own: &HostConfig,
    gateway: &Arc<Gateway>,
    folder: &Path,
    stopped: &watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let key = operator_key(folder)?;
    let operators = Operators::new(gateway.site.clone(), key, Arc::clone(&gateway.ledger));
    let router = router(Operating {
        gateway: Arc::clone(gateway),
        operators: Arc::new(operators),
        wall,
        random,
        listing: Listing::default(),
    });
    let open = |name: &str, group: &str, way: fn(u32) -> Arrival| {
        let path = run_dir(own).join(name);
        let listener = control::listen(&path, 0o660).map_err(at("listening on", &path))?;
        give(&path, group);
        tokio::spawn(listen::unix(listener, way, router.clone(), stopped.clone()));
        Ok::<_, ServeError>(())
    };
    open(SOCKET, OPERATORS, |uid| Arrival::Api { uid })?;
    open(STATUS_SOCKET, READERS, |uid| Arrival::Status { uid })?;
    let Some(address) = own.api.listen else {
        return Ok(());
    };
    let tcp = TcpListener::bind(address)
        .await
        .map_err(|error| ServeError::Runtime("listening on [api] listen", error))?;
    let tls = if own.api.plain_http {
        None
    } else {
        let current = certificate(gateway, names(address, gateway), stopped.clone())?;
        Some(Arc::new(operator_config(current)?))
    };
    let (listen, https) = (address.to_string(), tls.is_some());
    Event::OperatorsServed { listen, https }.emit();
    let limits = Arc::new(Limits::new(monotonic));
    tokio::spawn(listen::tcp(tcp, tls, router, limits, stopped.clone()));
    Ok(())
}

/// Removes the sockets.
pub(super) fn close(own: &HostConfig) {
    for name in [SOCKET, STATUS_SOCKET] {
        let _ = std::fs::remove_file(run_dir(own).join(name));
    }
}

/// The key of the operators' tokens, drawn at the first start.
fn operator_key(folder: &Path) -> Result<OperatorKey, ServeError> {
    let path = folder.join("operators.key");
    match std::fs::read_to_string(&path) {
        Ok(secret) => Ok(OperatorKey::load(&zeroize::Zeroizing::new(secret))?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let (key, secret) = OperatorKey::generate()?;
            write_whole(&path, &secret, 0o600).map_err(at("writing", &path))?;
            tracing::info!(kid = key.kid(), "drew the key of the operators' tokens");
            Ok(key)
        }
        Err(error) => Err(at("reading", &path)(error)),
    }
}

/// Gives a socket to a group, if there is one and we may. Otherwise nobody but our own user and group can open it.
fn give(socket: &Path, group: &str) {
    let shown = socket.display();
    match nix::unistd::Group::from_name(group) {
        Ok(Some(found)) => {
            if let Err(error) = std::os::unix::fs::chown(socket, None, Some(found.gid.as_raw())) {
                tracing::warn!(socket = %shown, group, %error, "the socket isn't the group's: run as a member of it");
            }
        }
        Ok(None) => {
            tracing::info!(socket = %shown, group, "there is no such group: the socket is our own group's");
        }
        Err(error) => tracing::warn!(socket = %shown, group, %error, "the group can't be looked up"),
    }
}

/// What operators call the listener: this host, the address where it listens, and the host that peers dial.
fn names(address: SocketAddr, gateway: &Gateway) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    let specific = (!address.ip().is_unspecified()).then(|| address.ip().to_canonical().to_string());
    let host = gateway.settings.url.as_ref().map(|url| url.host().to_owned());
    for name in specific.into_iter().chain(host) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The listener's certificate, renewed for as long as it is shown.
fn certificate(
    gateway: &Arc<Gateway>,
    names: Vec<String>,
    mut stopped: watch::Receiver<bool>,
) -> Result<Arc<CurrentLeaf>, ServeError> {
    let usage = Usage::Operate { names: &names };
    let mut leaf = gateway.ca.issue(&gateway.site, &gateway.node, usage, wall())?;
    let current = Arc::new(CurrentLeaf::new(&leaf)?);
    let (gateway, shown) = (Arc::clone(gateway), Arc::clone(&current));
    tokio::spawn(async move {
        let until_stopped = async { drop(stopped.wait_for(|stop| *stop).await) };
        tokio::pin!(until_stopped);
        while tokio::time::timeout(RENEWAL, &mut until_stopped).await.is_err() {
            renew(&gateway, Usage::Operate { names: &names }, &shown, &mut leaf);
        }
    });
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    #[test]
    fn the_key_is_drawn_once_and_is_our_users_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operators.key");
        std::fs::write(folder.path().join("operators.key.new"), "-----BEG").unwrap();
        let kid = operator_key(folder.path()).unwrap().kid().to_owned();
        assert_eq!(operator_key(folder.path()).unwrap().kid(), kid);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(!folder.path().join("operators.key.new").exists());
        // A damaged one isn't replaced: an operator may have a copy.
        std::fs::write(&path, "-----BEG").unwrap();
        assert!(matches!(
            operator_key(folder.path()),
            Err(ServeError::OperatorKey(_))
        ));
    }

    #[test]
    fn a_group_that_is_not_there_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        std::fs::write(&socket, "").unwrap();
        let before = std::fs::metadata(&socket).unwrap();
        give(&socket, "sdwand-no-such-group");
        let after = std::fs::metadata(&socket).unwrap();
        assert_eq!((after.gid(), after.mode()), (before.gid(), before.mode()));
    }
}
