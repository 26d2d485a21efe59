//! Byte strings: paths, names, contents.

use std::ffi::OsStr;
use std::fmt;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::ssz::{Ssz, SszError};

/// Bytes of any kind, on the wire an SSZ list of bytes. In JSON a text when they are UTF-8, else an
/// array of numbers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// Returns the bytes as a path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl<const N: usize> From<&[u8; N]> for Bytes {
    fn from(bytes: &[u8; N]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<&OsStr> for Bytes {
    fn from(text: &OsStr) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<&Path> for Bytes {
    fn from(path: &Path) -> Self {
        path.as_os_str().into()
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// As text: what is not UTF-8 becomes replacement characters, control characters are escaped.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        for character in String::from_utf8_lossy(&self.0).chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

impl Ssz for Bytes {
    const FIXED_LEN: Option<usize> = None;

    fn ssz_len(&self) -> usize {
        self.0.len()
    }

    fn ssz_append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        Ok(bytes.into())
    }
}

#[cfg(feature = "json")]
mod json {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Bytes;

    impl Serialize for Bytes {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match std::str::from_utf8(&self.0) {
                Ok(text) => serializer.serialize_str(text),
                Err(_) => self.0.serialize(serializer),
            }
        }
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum TextOrNumbers {
        Text(String),
        Numbers(Vec<u8>),
    }

    impl<'de> Deserialize<'de> for Bytes {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Ok(Self(match TextOrNumbers::deserialize(deserializer)? {
                TextOrNumbers::Text(text) => text.into_bytes(),
                TextOrNumbers::Numbers(bytes) => bytes,
            }))
        }
    }
}
