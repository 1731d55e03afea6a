//! `control.sock`: how commands talk to a running `sdwand run`.
//!
//! One request a connection: a line of JSON each way. The socket is the root user's alone (0600), and its owner can do
//! to the host whatever the daemon can.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::model::LinkName;

/// The socket's name in the run folder.
pub const SOCKET: &str = "control.sock";

/// The longest request line in bytes.
const REQUEST_LIMIT: u64 = 64 * 1024;
/// The longest answer in bytes: the plan of a very large first apply.
const ANSWER_LIMIT: u64 = 256 * 1024 * 1024;
/// How long a client has for its one line.
const REQUEST_TIME: Duration = Duration::from_secs(5);

/// What a command asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// How everything is.
    Status,
    /// What would be done.
    Plan {
        /// Interfaces that the asking session comes through.
        protected: Vec<LinkName>,
    },
    /// Read the configuration again and make it true.
    Apply {
        /// Only if the plan still has this fingerprint.
        expect: Option<String>,
        /// Interfaces that the asking session comes through.
        protected: Vec<LinkName>,
    },
    /// Remove everything of ours, and leave it so until the next apply or restart.
    Down,
    /// What happened lately.
    Events,
    /// What is known of the ways to peers: how large the packets are that arrive.
    Ways,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It was done.
    Done {
        /// For `--json`.
        json: Value,
        /// For people.
        text: String,
        /// Whether everything is as it should be now.
        ok: bool,
        /// How many changes the plan has or had.
        changes: usize,
    },
    /// It was not.
    Refused {
        /// Why.
        reason: String,
    },
    /// It was not: the configuration is bad.
    BadConfig {
        /// Every error, for people.
        text: String,
        /// The same for `--json`, as `check` prints it.
        diagnostics: Value,
    },
}

/// Why a daemon couldn't be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no daemon listens on {path}")]
    NoDaemon {
        /// The socket.
        path: String,
    },
    /// Somebody listens, and the talk failed.
    #[error("talking to the daemon on {path}")]
    Talk {
        /// The socket.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A request, and where its answer goes.
pub type Call = (Request, oneshot::Sender<Answer>);

/// Asks the daemon behind `path`.
///
/// # Errors
/// Nobody listens there, or the talk failed.
pub async fn ask(path: &Path, request: &Request) -> Result<Answer, ControlError> {
    let talk = |source| ControlError::Talk {
        path: path.display().to_string(),
        source,
    };
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Err(ControlError::NoDaemon {
                path: path.display().to_string(),
            });
        }
        Err(error) => return Err(talk(error)),
    };
    let mut line = serde_json::to_vec(request).map_err(|error| talk(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).await.map_err(talk)?;
    let mut answer = String::new();
    BufReader::new(stream)
        .take(ANSWER_LIMIT)
        .read_line(&mut answer)
        .await
        .map_err(talk)?;
    serde_json::from_str(&answer).map_err(|error| talk(error.into()))
}

/// Listens on `path`, with a socket of this mode: who may write to it may use it. A stale socket of a dead daemon is replaced: the
/// caller holds the lock that proves it dead.
///
/// # Errors
/// The socket can't be made.
pub fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Serves connections for ever: each request goes to `calls`, its answer back to the client.
pub async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    if let Err(error) = connection(stream, calls).await {
                        tracing::debug!(%error, "a control connection ended early");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: give others the time to close some.
                tracing::warn!(%error, "can't accept a control connection");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut limited = BufReader::new(reader).take(REQUEST_LIMIT);
    tokio::time::timeout(REQUEST_TIME, limited.read_line(&mut line)).await??;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => {
            let (sender, receiver) = oneshot::channel();
            if calls.send((request, sender)).await.is_err() {
                Answer::Refused {
                    reason: "the daemon is stopping".to_owned(),
                }
            } else {
                receiver.await.unwrap_or_else(|_| Answer::Refused {
                    reason: "the daemon is stopping".to_owned(),
                })
            }
        }
        Err(error) => Answer::Refused {
            reason: format!("not a request: {error}"),
        },
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    writer.write_all(&bytes).await?;
    writer.shutdown().await
}
