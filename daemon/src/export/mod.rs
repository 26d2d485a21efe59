//! What a branch changed as a directory of the host: for when nobody decides at once what becomes of
//! it.
//!
//! `changes.json` is the list, in an order in which the changes can be made, and `files/` has the new
//! contents under their paths. What the project had at each place is in the list too, so that
//! whoever carries it over later sees what was changed meanwhile.

mod carry;
mod write;

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use agentfs_core::Errno;
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::DiffKind;
use serde::{Deserialize, Serialize};

pub(crate) use self::carry::{Carried, Mode, carry};
pub(crate) use self::write::write;

const LIST: &str = "changes.json";
const FILES: &str = "files";
/// What the list says that it is.
const FORMAT: u32 = 1;
const TYPE_MASK: u32 = 0o170_000;

/// The list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct List {
    format: u32,
    branch: String,
    /// The directory below the branch.
    project: Bytes,
    /// Paths that had been changed there, too, when this was written.
    conflicts: Vec<Bytes>,
    changes: Vec<Step>,
}

/// One change. Paths are absolute in the branch, as they are at this step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Step {
    change: DiffKind,
    path: Bytes,
    /// Of a rename: the old path.
    #[serde(default, skip_serializing_if = "is_empty")]
    from: Bytes,
    /// Of what goes away: type and permissions.
    mode: u32,
    /// Where the project has it, or would have it, before any step; of a rename, what moves.
    original: Bytes,
    /// What the project had there.
    before: Option<Stamp>,
    /// What is there afterwards, unless it goes away or only moves.
    after: Option<Object>,
}

fn is_empty(bytes: &Bytes) -> bool {
    bytes.0.is_empty()
}

/// What tells one state of an object from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Stamp {
    kind: u32,
    /// 0 for a directory, as the time.
    size: u64,
    mtime_ns: i64,
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        let kind = found.mode() & TYPE_MASK;
        let (size, mtime_ns) = if found.is_dir() {
            (0, 0)
        } else {
            let seconds = found.mtime().saturating_mul(1_000_000_000);
            (found.len(), seconds.saturating_add(found.mtime_nsec()))
        };
        Self {
            kind,
            size,
            mtime_ns,
        }
    }

    fn at(path: &Path) -> Option<Self> {
        path.symlink_metadata().ok().as_ref().map(Self::of)
    }
}

/// An object as the branch has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Object {
    uid: u32,
    gid: u32,
    /// Type and permissions.
    mode: u32,
    mtime_ns: i64,
    /// Of a symbolic link.
    #[serde(default, skip_serializing_if = "is_empty")]
    target: Bytes,
    /// Of a device.
    rdev: u64,
    /// Extended attributes.
    xattrs: Vec<(Bytes, Bytes)>,
    /// Where the new content is, below the directory.
    content: Option<Bytes>,
}

/// Why changes are not written or carried over.
#[derive(Debug)]
pub(crate) enum ExportError {
    /// The host refused.
    Io(PathBuf, io::Error),
    /// The branch cannot be read.
    Branch(PathBuf, Errno),
    /// This is no list of changes.
    List(PathBuf, String),
}

impl fmt::Display for ExportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Branch(path, errno) => {
                write!(
                    f,
                    "{} of the branch cannot be read: {errno}",
                    path.display()
                )
            }
            Self::List(path, why) => write!(
                f,
                "{} is no list of changes as this agentfs writes it: {why}",
                path.display()
            ),
        }
    }
}

impl std::error::Error for ExportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            Self::Branch(_, errno) => Some(errno),
            Self::List(..) => None,
        }
    }
}

/// A path of the branch below a directory of the host. The list may come from anywhere: nothing in it
/// leads out of the directory.
fn below(directory: &Path, path: &Bytes) -> PathBuf {
    let names = path.as_path().components().filter_map(|part| match part {
        std::path::Component::Normal(name) => Some(name),
        std::path::Component::Prefix(_)
        | std::path::Component::RootDir
        | std::path::Component::CurDir
        | std::path::Component::ParentDir => None,
    });
    directory.join(names.collect::<PathBuf>())
}
