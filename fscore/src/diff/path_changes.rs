//! The differences between two versions, as paths that people read.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use super::steps::{Differs, Named, Step, steps};
use crate::branch::fs::FsCore;
use crate::model::errno::Result;
use crate::model::event::ObjectKind;
use crate::model::id::{BranchId, NodeId, SnapshotId};
use crate::store::dir_paths::DirPaths;
use crate::store::tree::Tree;

/// One end of a [`diff`](FsCore::diff).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Version {
    /// A branch as it is now.
    Branch(BranchId),
    /// A snapshot.
    Snapshot(SnapshotId),
}

/// One difference between two versions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PathChange {
    /// Only the new version has this name.
    Added {
        /// The name.
        path: PathBuf,
        /// What it leads to.
        node: NodeId,
        /// Of which kind.
        kind: ObjectKind,
    },
    /// Only the old version has this name.
    Removed {
        /// The name.
        path: PathBuf,
        /// What it led to.
        node: NodeId,
        /// Of which kind.
        kind: ObjectKind,
    },
    /// An object has another name. What lies below a renamed directory is not listed.
    Renamed {
        /// In the old version.
        from: PathBuf,
        /// In the new version.
        to: PathBuf,
        /// The object.
        node: NodeId,
        /// Of which kind.
        kind: ObjectKind,
    },
    /// An object that both have is not the same.
    Modified {
        /// Its name in the new version.
        path: PathBuf,
        /// The object.
        node: NodeId,
        /// Of which kind.
        kind: ObjectKind,
        /// What is different.
        differs: Differs,
    },
}

/// The differences, in an order in which they could be made. See [`FsCore::diff`].
///
/// What lies too deep for a path (4,095 bytes) is not among them: see
/// [`too_deep`](Self::too_deep).
#[derive(Debug)]
pub struct Diff {
    old: Tree,
    new: Tree,
    paths: DirPaths,
    too_deep: usize,
    steps: std::vec::IntoIter<Step>,
}

impl FsCore {
    /// What is different in `new`. Costs time and memory of the difference, however much the two
    /// have in common; both versions are as at the call, whatever happens during the iteration.
    ///
    /// # Errors
    ///
    /// `ENOENT` when a version does not exist; what the host says of the lower layer.
    pub fn diff(&self, old: Version, new: Version) -> Result<Diff> {
        let (old, new) = (self.version(old)?, self.version(new)?);
        let steps = steps(&old, &new)?.into_iter();
        Ok(Diff {
            old,
            new,
            paths: DirPaths::default(),
            too_deep: 0,
            steps,
        })
    }

    fn version(&self, version: Version) -> Result<Tree> {
        match version {
            Version::Branch(id) => Ok(self.branch(id)?.inner.read().tree.without_orphans()),
            Version::Snapshot(id) => Ok(self.snapshot(id)?.tree.clone()),
        }
    }
}

impl Iterator for Diff {
    type Item = PathChange;

    fn next(&mut self) -> Option<PathChange> {
        loop {
            let step = self.steps.next()?;
            if !step.has_path(&mut self.paths, &self.new) {
                self.too_deep += 1;
            } else if let Some(change) = self.path_change(step) {
                return Some(change);
            }
        }
    }
}

fn path(named: &Named) -> PathBuf {
    PathBuf::from(OsString::from_vec(named.path()))
}

impl Diff {
    /// How many of the differences that were passed over by now lie too deep for a path.
    #[must_use]
    pub fn too_deep(&self) -> usize {
        self.too_deep
    }

    fn path_change(&mut self, step: Step) -> Option<PathChange> {
        Some(match step {
            Step::Added(named) => PathChange::Added {
                kind: self.new.inode(named.node).ok()?.kind(),
                path: path(&named),
                node: named.node,
            },
            Step::Removed(named) => PathChange::Removed {
                kind: self.old.inode(named.node).ok()?.kind(),
                path: path(&named),
                node: named.node,
            },
            Step::Renamed(from, to) => PathChange::Renamed {
                kind: self.new.inode(to.node).ok()?.kind(),
                from: path(&from),
                to: path(&to),
                node: to.node,
            },
            Step::Modified(node, differs) => {
                let inode = self.new.inode(node).ok()?;
                let place = self.paths.place_of(&self.new, &inode);
                PathChange::Modified {
                    path: place.map_or_else(|| PathBuf::from("/"), |place| place.path()),
                    kind: inode.kind(),
                    node,
                    differs,
                }
            }
        })
    }
}
