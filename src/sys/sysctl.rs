//! Kernel parameters under `/proc/sys`, of the network namespace of the calling process.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A parameter: the components of its path below `/proc/sys`. Interface names may contain dots, so the dotted form
/// of `sysctl(8)` is for people only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SysctlPath(Vec<String>);

/// A component could leave `/proc/sys`, or isn't a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} can't be part of a kernel parameter's name")]
pub struct SysctlPathError(String);

impl SysctlPath {
    /// Takes components, each one file name: not empty, not `.` or `..`, without `/` or NUL.
    ///
    /// # Errors
    /// A component is none.
    pub fn new(components: &[&str]) -> Result<Self, SysctlPathError> {
        let bad = |text: &&&str| matches!(**text, "" | "." | "..") || text.contains(['/', '\0']);
        match components.iter().find(bad) {
            Some(text) => Err(SysctlPathError((*text).to_owned())),
            None if components.is_empty() => Err(SysctlPathError(String::new())),
            None => Ok(Self(components.iter().map(|&text| text.to_owned()).collect())),
        }
    }

    /// The components.
    #[must_use]
    pub fn components(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for SysctlPath {
    /// As `sysctl(8)` takes it: dotted, or with slashes where a component contains a dot.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dotted = !self.0.iter().any(|text| text.contains('.'));
        f.write_str(&self.0.join(if dotted { "." } else { "/" }))
    }
}

/// What went wrong with a parameter.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// It can't be read.
    #[error("can't read {path}")]
    Read {
        /// The parameter.
        path: SysctlPath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It can't be written.
    #[error("can't write {value:?} to {path}")]
    Write {
        /// The parameter.
        path: SysctlPath,
        /// The value.
        value: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Access to the parameters.
#[derive(Clone, Debug)]
pub struct Sysctls {
    root: PathBuf,
}

impl Default for Sysctls {
    fn default() -> Self {
        Self::at(Path::new("/proc/sys"))
    }
}

impl Sysctls {
    /// The parameters below another folder, for tests.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    fn file(&self, path: &SysctlPath) -> PathBuf {
        let mut file = self.root.clone();
        file.extend(&path.0);
        file
    }

    /// The value, trimmed; none where the kernel has no such parameter (or the interface is gone).
    ///
    /// # Errors
    /// It is there and can't be read.
    pub fn read(&self, path: &SysctlPath) -> Result<Option<String>, SysctlError> {
        match std::fs::read_to_string(self.file(path)) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SysctlError::Read {
                path: path.clone(),
                source,
            }),
        }
    }

    /// Sets the value.
    ///
    /// # Errors
    /// There is no such parameter, or the kernel refuses the value.
    pub fn write(&self, path: &SysctlPath, value: &str) -> Result<(), SysctlError> {
        // Opened without `create`: a missing parameter is an error, on any file system.
        let write = || -> io::Result<()> {
            use std::io::Write as _;
            let mut file = std::fs::OpenOptions::new().write(true).open(self.file(path))?;
            file.write_all(value.as_bytes())
        };
        write().map_err(|source| SysctlError::Write {
            path: path.clone(),
            value: value.to_owned(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_its_root() {
        for bad in [
            &[][..],
            &[""],
            &["net", ".."],
            &["net", "."],
            &["net/ipv4"],
            &["a\0"],
        ] {
            assert!(SysctlPath::new(bad).is_err(), "{bad:?}");
        }
        let path = SysctlPath::new(&["net", "ipv4", "conf", "eth1.20", "forwarding"]).unwrap();
        assert_eq!(path.to_string(), "net/ipv4/conf/eth1.20/forwarding");
        let path = SysctlPath::new(&["net", "ipv4", "ip_forward"]).unwrap();
        assert_eq!(path.to_string(), "net.ipv4.ip_forward");
    }

    #[test]
    fn what_is_missing_reads_as_none_and_is_not_created() {
        let folder = tempfile::tempdir().unwrap();
        let sysctls = Sysctls::at(folder.path());
        let path = SysctlPath::new(&["value"]).unwrap();
        assert_eq!(sysctls.read(&path).unwrap(), None);
        assert!(matches!(
            sysctls.write(&path, "1"),
            Err(SysctlError::Write { .. })
        ));
        std::fs::write(folder.path().join("value"), "0\n").unwrap();
        sysctls.write(&path, "1\n").unwrap();
        assert_eq!(sysctls.read(&path).unwrap().as_deref(), Some("1"));
    }
}
