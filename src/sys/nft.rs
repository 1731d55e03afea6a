//! nftables through the `nft` tool: scripts in, JSON out.
//!
//! One script is one transaction: it takes effect as a whole or not at all. (nft 1.0.6: 10,000 elements load in
//! 0.3 s, one element is added in some milliseconds; only one table is ever listed, as foreign rulesets may be huge.)

use std::time::Duration;

use crate::sys::exec::{self, ExecError, Output, Run};
use crate::sys::nft_query::has_table;

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
    /// The kernel doesn't say what is there.
    #[error("nftables can't be asked")]
    Kernel(#[source] std::io::Error),
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
            Self::Kernel(_) | Self::Refused { .. } => true,
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

    /// A table `inet <table>` as nft's JSON (libnftables-json(5)); none if there is no such table.
    ///
    /// # Errors
    /// nft didn't run, or failed for any reason other than that the table doesn't exist.
    pub async fn list_table(&self, table: &str) -> Result<Option<Vec<u8>>, NftError> {
        let is_there = || has_table(table).map_err(NftError::Kernel);
        if !is_there()? {
            return Ok(None);
        }
        let listing = self.nft(&["-j", "list", "table", "inet", table], None).await?;
        if listing.success() {
            return Ok(Some(listing.stdout));
        }
        // It may have gone in between.
        if is_there()? {
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
