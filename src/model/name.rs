//! Names: of objects in the fleet, and of links in the kernel.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name of the fleet: `[a-z0-9][a-z0-9-]*`, at most [`Name::MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is no [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a name can't be empty")]
    Empty,
    /// The text is longer than [`Name::MAX`] bytes.
    #[error("a name has at most {max} bytes, this one has {0}", max = Name::MAX)]
    TooLong(usize),
    /// The text has a character that names don't have.
    #[error("a name is [a-z0-9][a-z0-9-]*: {0:?} can't stand here")]
    Character(char),
}

impl Name {
    /// The longest name, in bytes.
    pub const MAX: usize = 48;

    /// Parses `text`.
    ///
    /// # Errors
    /// [`NameError`] says which rule the text breaks.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let Some(first) = text.chars().next() else {
            return Err(NameError::Empty);
        };
        if first == '-' {
            return Err(NameError::Character('-'));
        }
        if let Some(c) = text
            .chars()
            .find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-'))
        {
            return Err(NameError::Character(c));
        }
        if text.len() > Self::MAX {
            return Err(NameError::TooLong(text.len()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The text of the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// The name of a network interface: 1 to 15 bytes (`IFNAMSIZ` − 1), no `/`, no white space, not `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName(String);

/// Why a text is no [`LinkName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} can't name an interface: 1 to 15 bytes of printable ASCII without '/', ':', '\"' or white space, and not \".\" or \"..\""
)]
pub struct LinkNameError(String);

impl LinkName {
    /// Parses `text`.
    ///
    /// # Errors
    /// The kernel would refuse the name, or it can't be quoted safely in an nft script.
    pub fn new(text: &str) -> Result<Self, LinkNameError> {
        let fits = !text.is_empty() && text.len() <= 15 && text != "." && text != "..";
        let clean = text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'"' | b'*' | b'\\'));
        if fits && clean {
            Ok(Self(text.to_owned()))
        } else {
            Err(LinkNameError(text.to_owned()))
        }
    }

    /// The text of the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for LinkName {
    type Error = LinkNameError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<LinkName> for String {
    fn from(name: LinkName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for good in ["a", "hub-a1", "0", "a-", &"x".repeat(48)] {
            assert_eq!(Name::new(good).map(|n| n.to_string()).as_deref(), Ok(good));
        }
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(Name::new("-a"), Err(NameError::Character('-')));
        assert_eq!(Name::new("Hub"), Err(NameError::Character('H')));
        assert_eq!(Name::new("a b"), Err(NameError::Character(' ')));
        assert_eq!(Name::new(&"x".repeat(49)), Err(NameError::TooLong(49)));
    }

    #[test]
    fn link_names_are_what_the_kernel_takes() {
        for good in ["eth0", "eth1.20", "wg-sdwan-9999-2"] {
            assert!(LinkName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "0123456789abcdef",
            "a\"b",
            "a:1",
            "wg*",
        ] {
            assert!(LinkName::new(bad).is_err(), "{bad}");
        }
    }
}
