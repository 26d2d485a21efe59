//! The list of an export: what changed, in an order in which the changes can be applied, and what the
//! project had at each place.

use agentfs_core::event::ObjectKind;
use agentfs_core::kind_of_mode;
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::DiffKind;
use serde::{Deserialize, Serialize};

pub(crate) const LIST: &str = "changes.json";
pub(crate) const FILES: &str = "files";
pub(crate) const PARTS: &str = "parts";
/// What the list says that it is. Lists of format 1, which have no identities, are read as well.
pub(crate) const FORMAT: u32 = 2;

/// The list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct List {
    pub(crate) format: u32,
    /// The name of the branch.
    pub branch: String,
    /// The directory below the branch; empty without one.
    pub project: Bytes,
    /// Which directory that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Paths that had been changed there, too, when this was written.
    pub(crate) conflicts: Vec<Bytes>,
    pub(crate) changes: Vec<Step>,
    /// Files that could not be read; their changes are not in the list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<UnreadFile>,
}

/// One change. Paths are absolute in the branch, as they are at this step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) change: DiffKind,
    pub(crate) path: Bytes,
    /// The old path, if this is a rename.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub(crate) from: Bytes,
    /// Type and permissions of an object that is removed.
    pub(crate) mode: u32,
    /// Where the project has the object, or would have it, before any step; for a rename, where the
    /// object is that moves.
    pub(crate) original: Bytes,
    /// What the project had there.
    pub(crate) before: Option<Stamp>,
    /// What is there afterwards, unless the object is removed or only moves.
    pub(crate) after: Option<Object>,
}

impl Step {
    /// Returns the paths at which the step changes something.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &[u8]> {
        let from = (self.change == DiffKind::Renamed).then_some(&*self.from);
        [&*self.path].into_iter().chain(from)
    }
}

/// A file of the branch that could not be read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnreadFile {
    /// Where it is in the branch.
    pub path: Bytes,
    /// Why it cannot be read, for people.
    pub why: String,
    /// Where that is what the branch itself wrote of it, with holes elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<Bytes>,
}

pub(crate) fn is_empty(bytes: &Bytes) -> bool {
    bytes.0.is_empty()
}

/// Identifies a directory among all others of a system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The device.
    pub dev: u64,
    /// The inode number.
    pub ino: u64,
}

/// Identifies a state of an object: another state has another stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) kind: u32,
    /// 0 for a directory, as the time.
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    /// Which object it is. An equal one with another number is no change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ino: Option<u64>,
    /// When that object was created: a new object may get the inode number of a deleted one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) born_ns: Option<i64>,
}

impl Stamp {
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.kind, it.size, it.mtime_ns);
        of(self) == of(other)
    }

    /// Returns whether the two are the same object of one directory, possibly edited in between.
    pub(crate) fn is_same_object(&self, other: &Self) -> bool {
        let is_same_number = self.ino.is_some() && self.ino == other.ino;
        let is_same_birth = match (self.born_ns, other.born_ns) {
            (Some(one), Some(other)) => one == other,
            _ => self.is_like(other),
        };
        self.kind == other.kind && is_same_number && is_same_birth
    }
}

pub(crate) fn alike(one: Option<Stamp>, other: Option<Stamp>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => one.is_like(&other),
        _ => false,
    }
}

/// An object as the branch has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Object {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Type and permissions.
    pub(crate) mode: u32,
    pub(crate) mtime_ns: i64,
    /// Of a symbolic link.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub(crate) target: Bytes,
    /// Of a device.
    pub(crate) rdev: u64,
    /// Extended attributes.
    pub(crate) xattrs: Vec<(Bytes, Bytes)>,
    /// Where the new content is, below the directory.
    pub(crate) content: Option<Bytes>,
}

impl Object {
    pub(crate) fn is_directory(&self) -> bool {
        kind_of_mode(self.mode) == Some(ObjectKind::Directory)
    }
}

/// Returns the path after what is at `from` has moved to `to`; `None` if the path does not move along.
pub(crate) fn moved(path: &[u8], from: &[u8], to: &[u8]) -> Option<Bytes> {
    let rest = path.strip_prefix(from)?;
    (rest.is_empty() || rest.first() == Some(&b'/')).then(|| Bytes([to, rest].concat()))
}

/// Returns a path of a list relative to the directory that the list is for. `None` for a path
/// that leads out of it.
pub(crate) fn inside(path: &[u8]) -> Option<&[u8]> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let is_name = |name: &[u8]| !name.is_empty() && name != b"." && name != b"..";
    let is_inside = path.is_empty() || path.split(|byte| *byte == b'/').all(is_name);
    (is_inside && !path.contains(&0)).then_some(path)
}

/// Splits a path into its directory and the name in it.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::inside;

    #[test]
    fn a_path_that_leads_out_is_none() {
        for path in ["/../x", "../x", "/a/../../x", "/a//b", "/./a", "/a/\0"] {
            assert_eq!(inside(path.as_bytes()), None, "{path:?}");
        }
        assert_eq!(inside(b"/a/b"), Some(&b"a/b"[..]));
        assert_eq!(inside(b"/"), Some(&b""[..]));
        assert_eq!(inside(b"/..a/b.."), Some(&b"..a/b.."[..]));
    }
}
