//! nftables through the `nft` tool: scripts in, JSON out.
//!
//! One script is one transaction: it takes effect as a whole or not at all. (nft 1.0.6: 10,000 elements load in
//! 0.3 s, one element is added in some milliseconds; only one table is ever listed, as foreign rulesets may be huge.)

use std::time::Duration;

use crate::sys::exec::{self, ExecError, Output, Run};

/// The `nft` tool.
#[derive(Clone, Debug)]
pub struct Nft {
    timeout: Duration,
}

/// Why nft did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// nft didn't run.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// nft or the kernel refused.
    #[error("nft refused: {stderr}")]
    Refused {
        /// What nft said, its first lines.
        stderr: String,
    },
}

impl NftError {
    /// Whether the same call may succeed later without anyone's help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Exec(error) => error.is_retryable(),
            // The generation moved under us, or an interrupted dump: the next try starts from a fresh look.
            Self::Refused { .. } => true,
        }
    }
}

/// How much of a listing is read, in bytes (10,000 rules take about 5 MB).
const LISTING_LIMIT: usize = 512 * 1024 * 1024;

/// How many bytes of nft's complaint are kept.
const COMPLAINT_LIMIT: usize = 2_000;

impl Default for Nft {
    fn default() -> Self {
        Self::new(Duration::from_secs(60))
    }
}

impl Nft {
    /// A tool whose runs take at most `timeout` each.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self { timeout }
    }

    /// Applies a script, as one transaction.
    ///
    /// # Errors
    /// nft didn't run, or refused: then nothing changed.
    pub async fn run(&self, script: &str) -> Result<(), NftError> {
        let output = self.nft(&["-f", "-"], Some(script)).await?;
        if output.success() {
            Ok(())
        } else {
            Err(refused(&output))
        }
    }

    /// Checks a script against the kernel without applying it.
    ///
    /// # Errors
    /// nft didn't run, or would refuse.
    pub async fn check(&self, script: &str) -> Result<(), NftError> {
        let output = self.nft(&["-c", "-f", "-"], Some(script)).await?;
        if output.success() {
            Ok(())
        } else {
            Err(refused(&output))
        }
    }

    /// One table as nft's JSON (libnftables-json(5)); none if there is no such table.
    ///
    /// # Errors
    /// nft didn't run, or failed for any reason other than that the table doesn't exist.
    pub async fn list_table(&self, family: &str, table: &str) -> Result<Option<Vec<u8>>, NftError> {
        let listing = self.nft(&["-j", "list", "table", family, table], None).await?;
        if listing.success() {
            return Ok(Some(listing.stdout));
        }
        if !listing.stderr.contains("No such file or directory") {
            return Err(refused(&listing));
        }
        // The same words could mean something else that is missing: absent is only what isn't among the tables.
        let tables = self.nft(&["list", "tables", family], None).await?;
        if !tables.success() {
            return Err(refused(&tables));
        }
        let wanted = format!("table {family} {table}");
        let text = String::from_utf8_lossy(&tables.stdout);
        if text.lines().any(|line| line.trim() == wanted) {
            return Err(refused(&listing));
        }
        Ok(None)
    }

    async fn nft(&self, args: &[&str], script: Option<&str>) -> Result<Output, ExecError> {
        exec::run(Run {
            program: "nft",
            args,
            stdin: script.map(str::as_bytes),
            timeout: self.timeout,
            stdout_limit: LISTING_LIMIT,
        })
        .await
    }
}

fn refused(output: &Output) -> NftError {
    let mut stderr = output.stderr.trim().to_owned();
    if let Some((at, _)) = stderr.char_indices().find(|(at, _)| *at >= COMPLAINT_LIMIT) {
        stderr.truncate(at);
        stderr.push('…');
    }
    if stderr.is_empty() {
        stderr = match output.status {
            Some(status) => format!("exit status {status}"),
            None => "a signal ended it".to_owned(),
        };
    }
    NftError::Refused { stderr }
}
