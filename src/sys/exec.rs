//! The only place that starts processes.
//!
//! A program runs with arguments, an optional standard input and a time limit; what it prints is captured up to a
//! limit. When the time is over, or the caller stops waiting, it gets SIGKILL. Secrets go through standard input, never
//! through arguments: those are visible to every user of the host.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

/// One run of one program.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// The program: a path, or a name to look up in `PATH` and in the usual `sbin` folders behind it.
    pub program: &'a str,
    /// Its arguments; never secrets.
    pub args: &'a [&'a str],
    /// What it reads; nothing if none.
    pub stdin: Option<&'a [u8]>,
    /// How long it may take.
    pub timeout: Duration,
    /// How many bytes of standard output are taken; more is an error.
    pub stdout_limit: usize,
}

/// How a program ended, and what it printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; none if a signal ended it.
    pub status: Option<i32>,
    /// Its standard output, all of it.
    pub stdout: Vec<u8>,
    /// The first [`STDERR_LIMIT`] bytes of its standard error, as text.
    pub stderr: String,
}

impl Output {
    /// Whether it exited with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status == Some(0)
    }
}

/// How much of standard error is kept, in bytes; the rest is read and dropped.
pub const STDERR_LIMIT: usize = 16 * 1024;

/// Why a program didn't run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The program isn't installed.
    #[error("{program} isn't installed")]
    Missing {
        /// The program.
        program: String,
    },
    /// The program can't be started.
    #[error("can't start {program}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The program's pipes failed.
    #[error("can't talk to {program}")]
    Pipe {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The program took too long, and was killed.
    #[error("{program} took more than {} ms and was killed", timeout.as_millis())]
    Timeout {
        /// The program.
        program: String,
        /// The limit.
        timeout: Duration,
    },
    /// The program printed too much, and was killed.
    #[error("{program} printed more than {limit} bytes and was killed")]
    TooMuch {
        /// The program.
        program: String,
        /// The limit in bytes.
        limit: usize,
    },
}

impl ExecError {
    /// Whether the same run may succeed later without anyone's help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::TooMuch { .. } => false,
            Self::Start { .. } | Self::Pipe { .. } | Self::Timeout { .. } => true,
        }
    }
}

/// Runs a program to its end, whatever its exit status.
///
/// # Errors
/// It couldn't be started, took too long or printed too much: [`ExecError`].
pub async fn run(run: Run<'_>) -> Result<Output, ExecError> {
    match tokio::time::timeout(run.timeout, to_end(run)).await {
        Ok(result) => result,
        // Dropping the future dropped the child, which killed it.
        Err(_) => Err(ExecError::Timeout {
            program: run.program.to_owned(),
            timeout: run.timeout,
        }),
    }
}

async fn to_end(run: Run<'_>) -> Result<Output, ExecError> {
    let program = || run.program.to_owned();
    let pipe = |source| ExecError::Pipe {
        program: program(),
        source,
    };
    let mut child = command(run).spawn().map_err(|source| {
        let program = program();
        if source.kind() == std::io::ErrorKind::NotFound {
            ExecError::Missing { program }
        } else {
            ExecError::Start { program, source }
        }
    })?;
    let stdin = child.stdin.take();
    let stdout = child.stdout.take().expect("standard output is piped");
    let stderr = child.stderr.take().expect("standard error is piped");
    let write = async {
        if let (Some(mut stdin), Some(text)) = (stdin, run.stdin) {
            // A program may end without reading everything: its exit status says what that means.
            match stdin.write_all(text).await {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    };
    let ((), (stdout, over), (stderr, _)) = tokio::try_join!(
        write,
        read_limited(stdout, run.stdout_limit, true),
        read_limited(stderr, STDERR_LIMIT, false)
    )
    .map_err(pipe)?;
    if over {
        return Err(ExecError::TooMuch {
            program: program(),
            limit: run.stdout_limit,
        });
    }
    let status = child.wait().await.map_err(pipe)?;
    Ok(Output {
        status: status.code(),
        stdout,
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

#[expect(clippy::disallowed_methods, reason = "this is sys::exec")]
fn command(run: Run<'_>) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(run.program);
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .args(run.args)
        .env(
            "PATH",
            format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"),
        )
        // Messages are read by us: they must not depend on the operator's language.
        .env("LC_ALL", "C")
        .stdin(if run.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Reads up to `limit` bytes, and whether there was more. With `stop`, reading ends there; else the rest is dropped.
async fn read_limited(
    mut from: impl AsyncRead + Unpin,
    limit: usize,
    stop: bool,
) -> std::io::Result<(Vec<u8>, bool)> {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut over = false;
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return Ok((kept, over));
        }
        let room = limit.saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(&buffer[..room]);
        over |= room < n;
        if over && stop {
            return Ok((kept, over));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh<'a>(args: &'a [&'a str], stdin: Option<&'a [u8]>) -> Run<'a> {
        Run {
            program: "sh",
            args,
            stdin,
            timeout: Duration::from_secs(10),
            stdout_limit: 1000,
        }
    }

    #[tokio::test]
    async fn captures_both_streams_and_the_status() {
        let output = run(sh(&["-c", "cat; echo bad >&2; exit 3"], Some(b"text")))
            .await
            .unwrap();
        assert_eq!(
            (output.status, output.stdout.as_slice(), output.stderr.as_str()),
            (Some(3), b"text".as_slice(), "bad\n")
        );
        assert!(!output.success());
    }

    #[tokio::test]
    async fn a_program_that_ignores_its_input_is_no_error() {
        let text = vec![b'x'; 1 << 20];
        assert!(run(sh(&["-c", "exit 0"], Some(&text))).await.unwrap().success());
    }

    #[tokio::test]
    async fn limits_time_and_output() {
        let mut slow = sh(&["-c", "exec sleep 60"], None);
        slow.timeout = Duration::from_millis(50);
        assert!(matches!(run(slow).await, Err(ExecError::Timeout { .. })));
        let endless = run(sh(&["-c", "exec yes"], None)).await;
        assert!(matches!(endless, Err(ExecError::TooMuch { limit: 1000, .. })));
    }

    #[tokio::test]
    async fn a_missing_program_is_told_apart() {
        let mut missing = sh(&[], None);
        missing.program = "no-such-program-here";
        let error = run(missing).await.unwrap_err();
        assert!(matches!(error, ExecError::Missing { .. }) && !error.is_retryable());
    }
}
