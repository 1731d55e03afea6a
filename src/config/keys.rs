//! The node's private key, and the only place where it is read.

use std::path::Path;

use zeroize::Zeroizing;

use super::load::{ReadError, open_regular, read_limited};
use crate::model::PrivateKey;

/// The most bytes of a key file: a key is 44 characters and a line break.
const MAX_KEY_BYTES: usize = 4_096;

/// Why there is no private key. Never says anything about the file's content.
#[derive(Debug, thiserror::Error)]
pub enum PrivateKeyError {
    /// The file can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Others may read the file.
    #[error("its mode is {mode:04o}: only its owner may read a private key")]
    Exposed {
        /// The file's permission bits.
        mode: u32,
    },
    /// The content is no key.
    #[error("its content isn't a WireGuard key: 32 bytes in base64, as `wg genkey` prints them")]
    Malformed,
}

impl PrivateKeyError {
    /// What to do.
    #[must_use]
    pub fn hint(&self, path: &Path) -> String {
        match self {
            Self::Exposed { .. } => format!("chmod 600 {}", path.display()),
            Self::Malformed | Self::Read(_) => {
                "`sdwand init` draws one; it is read as the user that runs sdwand".to_owned()
            }
        }
    }
}

/// Reads a private key file.
///
/// # Errors
/// It is missing or no regular file, anyone but its owner may read it, or it holds no key.
pub fn read_private_key(path: &Path) -> Result<PrivateKey, PrivateKeyError> {
    let (file, mode) = open_regular(path)?;
    if mode & 0o077 != 0 {
        return Err(PrivateKeyError::Exposed { mode: mode & 0o7777 });
    }
    let bytes = Zeroizing::new(read_limited(file, MAX_KEY_BYTES)?);
    let text = std::str::from_utf8(&bytes).map_err(|_| PrivateKeyError::Malformed)?;
    let key: PrivateKey = text.trim().parse().map_err(|_| PrivateKeyError::Malformed)?;
    if key.expose() == &[0; 32] {
        return Err(PrivateKeyError::Malformed);
    }
    Ok(key)
}
