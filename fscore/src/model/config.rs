//! The configuration of a filesystem.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::errno::Errno;
use super::store_error::StoreError;

/// What [`FsCore::new`](crate::FsCore::new) needs to know. Every field has a default.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FsConfig {
    /// Whether changes are delivered to event sinks. If not, subscribing fails, and events cost an
    /// operation one branch instruction.
    pub track_events: bool,
    /// How names compare.
    pub case_sensitivity: CaseSensitivity,
    /// Where a branch keeps what was written to it.
    pub backstore: BackstoreMode,
    /// Whether a damaged store is opened to be read: with what can be read of it, and nothing is written
    /// to it. Every change of a file fails with `EROFS`. [`FsCore::lost`](crate::FsCore::lost) says what
    /// could not be read.
    pub salvage: bool,
    /// Whether objects without a name, which programs had open when the process with the store ended, are
    /// kept when the store is opened: a mount may outlive the process that serves it. What is not needed is
    /// forgotten with [`Branch::drop_nameless`](crate::Branch::drop_nameless).
    pub keep_nameless: bool,
    /// What may not be exceeded.
    pub limits: FsLimits,
    /// Whether and how rights are checked.
    pub permissions: Permissions,
    /// The host directory below, if any.
    pub overlay: Option<Overlay>,
}

impl Default for FsConfig {
    fn default() -> Self {
        Self {
            track_events: true,
            case_sensitivity: CaseSensitivity::default(),
            backstore: BackstoreMode::default(),
            salvage: false,
            keep_nameless: false,
            limits: FsLimits::default(),
            permissions: Permissions::default(),
            overlay: None,
        }
    }
}

/// How names compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaseSensitivity {
    /// Byte for byte.
    #[default]
    Sensitive,
    /// Letters of either case are equal; a name keeps the spelling it was made with. Letters are
    /// those of Unicode in names that are UTF-8, otherwise those of ASCII.
    InsensitivePreserving,
}

impl CaseSensitivity {
    /// Returns whether two names are the same one.
    pub(crate) fn is_same(self, a: &[u8], b: &[u8]) -> bool {
        a == b || (self == Self::InsensitivePreserving && fold(a) == fold(b))
    }
}

/// Returns the form in which names that differ only in case are equal.
pub(crate) fn fold(name: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(name) {
        Ok(text) => text
            .chars()
            .flat_map(char::to_lowercase)
            .collect::<String>()
            .into_bytes(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

/// Where a branch keeps what was written to it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackstoreMode {
    /// In memory: it is gone when the process ends, unless it was applied to the host.
    #[default]
    Memory,
    /// In this directory, which is created if it is not there. No process may have it at the same
    /// time. What an operation has returned for is there again after the process has ended in
    /// whatever way.
    Disk(PathBuf),
}

/// The limits of a filesystem. An operation that would exceed one fails as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FsLimits {
    /// Nodes that one branch may hold. Objects of the lower layer count once they are copied up.
    /// Beyond: `ENOSPC`.
    pub nodes: u64,
    /// Bytes of content that one branch may hold, in pages of 4096, shared or not. A file of the
    /// lower layer counts as a whole once its content is changed, but for its holes. Beyond: `ENOSPC`.
    pub bytes: u64,
    /// Open handles of one branch. Beyond: `EMFILE`.
    pub open_handles: u64,
    /// Branches. Beyond: `ENOSPC`.
    pub branches: u64,
    /// Snapshots. Beyond: `ENOSPC`.
    pub snapshots: u64,
    /// Bytes in a name, at most 255. Beyond: `ENAMETOOLONG`.
    pub name_length: u32,
}

impl Default for FsLimits {
    fn default() -> Self {
        Self {
            nodes: 16 << 20,
            bytes: 64 << 30,
            open_handles: 1 << 20,
            branches: 1 << 16,
            snapshots: 1 << 20,
            name_length: NAME_MAX,
        }
    }
}

/// Whether and how rights are checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Permissions {
    /// Whether the caller's rights are checked. A mount with `default_permissions` does not need
    /// it, because the kernel checks them.
    pub enforce: bool,
    /// Owner of the root directory when there is no lower layer.
    pub root_uid: u32,
    /// Its group.
    pub root_gid: u32,
    /// Its permission bits.
    pub root_mode: u32,
}

impl Default for Permissions {
    fn default() -> Self {
        Self {
            enforce: true,
            root_uid: 0,
            root_gid: 0,
            root_mode: 0o755,
        }
    }
}

/// The host directory below every branch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// The path of the directory. It is read and never written, except by
    /// [`Branch::apply`](crate::Branch::apply). Where a branch has changed nothing, it shows the
    /// directory as it is now.
    pub lower: PathBuf,
}

/// Linux's longest name.
pub(crate) const NAME_MAX: u32 = 255;
/// Linux's longest path, with the NUL that ends it.
pub(crate) const PATH_MAX: usize = 4096;
/// Bytes of the longest path.
pub(crate) const LONGEST_PATH: usize = PATH_MAX - 1;

/// Why a configuration is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// A limit that leaves nothing.
    ZeroLimit(&'static str),
    /// `limits.name_length` is longer than a name can be.
    NameLength(u32),
    /// `permissions.root_mode` has bits beyond 0o7777.
    RootMode(u32),
    /// The lower directory cannot be opened.
    Lower {
        /// Its path.
        path: PathBuf,
        /// What the host answered.
        errno: Errno,
    },
    /// The store cannot be opened.
    Store(StoreError),
}

impl From<StoreError> for ConfigError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ZeroLimit(name) => write!(f, "limits.{name} is 0; it must be at least 1"),
            Self::NameLength(length) => {
                write!(f, "limits.name_length is {length}; the most is {NAME_MAX}")
            }
            Self::RootMode(mode) => {
                write!(f, "permissions.root_mode is {mode:#o}; the most is 0o7777")
            }
            Self::Lower { path, errno } => write!(
                f,
                "overlay.lower {} cannot be opened: {errno}; give an existing, readable directory",
                path.display()
            ),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ConfigError {}

impl FsConfig {
    /// Checks everything that can be checked without looking at the host.
    ///
    /// # Errors
    ///
    /// Returns the first value that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        for (name, value) in [
            ("nodes", limits.nodes),
            ("bytes", limits.bytes),
            ("open_handles", limits.open_handles),
            ("branches", limits.branches),
            ("snapshots", limits.snapshots),
            ("name_length", u64::from(limits.name_length)),
        ] {
            if value == 0 {
                return Err(ConfigError::ZeroLimit(name));
            }
        }
        if limits.name_length > NAME_MAX {
            return Err(ConfigError::NameLength(limits.name_length));
        }
        if self.permissions.root_mode > 0o7777 {
            return Err(ConfigError::RootMode(self.permissions.root_mode));
        }
        Ok(())
    }
}
