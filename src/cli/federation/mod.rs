//! Commands of a site's gateway: `serve`, and what its operator asks it over `api.sock`.

pub(super) mod approvals;
pub(super) mod audit;
mod bridge;
pub(super) mod grant;
pub(super) mod ledger;
pub(super) mod pause;
pub(super) mod peer;
pub(super) mod service;
pub(super) mod site;
pub(super) mod sweep;
pub(super) mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use uuid::Uuid;

use super::{CliError, Global};
use crate::config;
use crate::model::Name;
use crate::server;

pub(super) async fn serve(global: &Global) -> Result<ExitCode, CliError> {
    match Box::pin(server::run(&global.config)).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(server::ServeError::Config(diagnostics)) => Err(CliError::Config(diagnostics)),
        Err(error) => Err(CliError::new(&error)),
    }
}

/// An alias or an id, as it may stand in a path.
fn which(text: &str) -> Result<String, String> {
    if Name::new(text).is_ok() || Uuid::try_parse(text).is_ok() {
        return Ok(text.to_owned());
    }
    Err("neither an alias nor an id".to_owned())
}

/// The operator's API of the gateway that runs here.
struct Api {
    socket: PathBuf,
    /// For who may only look.
    status: PathBuf,
}

impl Api {
    fn open(global: &Global) -> Result<Self, CliError> {
        let (own, _) = config::load_host(&global.config)?;
        let folder = server::run_dir(&own);
        Ok(Self {
            socket: folder.join(server::SOCKET),
            status: folder.join(server::STATUS_SOCKET),
        })
    }

    /// Whether a gateway listens.
    async fn is_there(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }

    /// Who may only look has a socket of its own, and reads there.
    async fn connect(&self, method: &Method) -> Result<UnixStream, CliError> {
        let refused = match UnixStream::connect(&self.socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let is_denied = refused.kind() == std::io::ErrorKind::PermissionDenied;
        if is_denied
            && *method == Method::GET
            && let Ok(stream) = UnixStream::connect(&self.status).await
        {
            return Ok(stream);
        }
        let what_to_do = if is_denied {
            "who operates is in the group of api.sock (`sdwand`), who looks in that of status.sock (`sdwand-read`)"
        } else {
            "start it on the site's gateway: `sdwand serve`"
        };
        Err(CliError::Other(format!(
            "no gateway listens to you on {}: {refused}; {what_to_do}",
            self.socket.display()
        )))
    }

    fn talking(&self) -> impl Fn(&dyn std::fmt::Display) -> CliError + use<> {
        let socket = self.socket.display().to_string();
        move |error| CliError::Other(format!("talking to the gateway on {socket}: {error}"))
    }

    /// What stands in `data` of the answer.
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, CliError> {
        let mut bytes = Vec::new();
        let mut keep = |chunk: &[u8]| {
            bytes.extend_from_slice(chunk);
            Ok(())
        };
        self.exchange(method, path, body, &mut keep).await?;
        let mut answer: Value = serde_json::from_slice(&bytes).map_err(|error| self.talking()(&error))?;
        Ok(answer["data"].take())
    }

    /// Takes an answer that is a file, piece by piece.
    async fn receive(
        &self,
        method: Method,
        path: &str,
        take: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), CliError> {
        self.exchange(method, path, None, take).await
    }

    /// Asks; what comes back goes to `take` as it comes, unless it is a refusal.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        take: &mut (dyn FnMut(&[u8]) -> std::io::Result<()> + Send),
    ) -> Result<(), CliError> {
        let stream = self.connect(&method).await?;
        let talking = self.talking();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| talking(&error))?;
        tokio::spawn(connection);
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "sdwand")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| talking(&error))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| talking(&error))?;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let bytes = body.collect().await.map_err(|error| talking(&error))?.to_bytes();
            let answer: Value = serde_json::from_slice(&bytes).map_err(|error| talking(&error))?;
            let error = answer["error"].as_str().unwrap_or("without a word").to_owned();
            return Err(CliError::Other(error));
        }
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| talking(&error))?;
            if let Some(chunk) = frame.data_ref() {
                take(chunk)
                    .map_err(|error| CliError::Other(format!("writing what was answered: {error}")))?;
            }
        }
        Ok(())
    }
}
