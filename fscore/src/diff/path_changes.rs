//! The difference of two versions of a branch: for people as path changes, for event sinks as if
//! somebody had made it step by step.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use crate::branch::Branch;
use crate::branch::fs::FsCore;
use crate::diff::apply::merge_with_host;
use crate::diff::steps::{Differs, Named, Step, steps};
use crate::model::attr::Nanos;
use crate::model::errno::{Errno, Result};
use crate::model::event::{
    Attributes, Change, CreatedBy, NodeRef, ObjectKind, Place, RenameHow, ResizedBy, SizeChange,
};
use crate::model::id::{BranchId, NodeId, Seq, SnapshotId};
use crate::store::dir_paths::DirPaths;
use crate::store::inode::Inode;
use crate::store::tree::Tree;
use crate::store::visibility::Visibility;

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

/// A branch as it was at one moment, for a reader that wants to catch up later. Costs as little as a
/// snapshot, and is neither listed nor counted nor told of.
#[derive(Clone, Debug)]
pub struct Frozen {
    tree: Tree,
    branch: BranchId,
    seq: Seq,
}

impl Frozen {
    /// The last change it shows.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// When what the step is about was changed last.
    fn last_change(&self, step: &Step) -> Option<Nanos> {
        let Step::Modified(node, _) = step else {
            return None;
        };
        self.tree.inode(*node).ok().map(|inode| inode.times.ctime)
    }
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

impl Branch {
    /// Keeps the branch as it is now.
    #[must_use]
    pub fn freeze(&self) -> Frozen {
        let state = self.inner.read();
        Frozen {
            tree: state.tree.without_orphans(),
            branch: self.id(),
            seq: self.last_seq(),
        }
    }

    /// What changed since, as if made step by step: the net changes, in an order in which they could
    /// be made, parents before children. What was only modified comes last, in the order of the last
    /// changes: who waits for a file that is written after others is told of those first. Also gives the moment up to which this holds.
    ///
    /// # Errors
    ///
    /// `EINVAL` for another branch's; what the host says of the lower layer.
    pub fn changes_since(&self, old: &Frozen) -> Result<(Vec<Change>, Frozen)> {
        let new = self.freeze();
        Ok((self.changes_between(old, &new)?, new))
    }

    /// As [`changes_since`](Self::changes_since), but only what the branch itself changed, as
    /// [`apply`](Self::apply) would bring it to the host. A directory that the host has made as well
    /// is merged with it, and what others put into a directory that the branch removed or made anew
    /// is not among the removed: the branch never saw it.
    ///
    /// # Errors
    ///
    /// As [`changes_since`](Self::changes_since).
    pub fn own_changes_since(&self, old: &Frozen) -> Result<Vec<Change>> {
        let mut new = self.freeze();
        if let Some(lower) = &self.core.shared.lower {
            merge_with_host(&mut new.tree, lower)?;
        }
        let is_unseen =
            |node: NodeId| !old.tree.is_own(node) && new.tree.seen().get(node.0).is_none();
        let mut steps = self.steps_between(old, &new)?;
        steps.retain(|step| !matches!(step, Step::Removed(named) if is_unseen(named.node)));
        let is_open = |node| self.inner.read().handles.is_open(node);
        Ok(changes(&old.tree, &new.tree, steps, &is_open))
    }

    /// As [`changes_since`](Self::changes_since), up to a moment that was kept before.
    ///
    /// # Errors
    ///
    /// `EINVAL` for another branch's; what the host says of the lower layer.
    pub fn changes_between(&self, old: &Frozen, new: &Frozen) -> Result<Vec<Change>> {
        let steps = self.steps_between(old, new)?;
        let is_open = |node| self.inner.read().handles.is_open(node);
        Ok(changes(&old.tree, &new.tree, steps, &is_open))
    }

    /// What is only modified comes last, in the order of the last changes.
    fn steps_between(&self, old: &Frozen, new: &Frozen) -> Result<Vec<Step>> {
        if old.branch != self.id() || new.branch != self.id() {
            return Err(Errno::EINVAL);
        }
        let mut steps = steps(&old.tree, &new.tree)?;
        let modified = steps.partition_point(|step| !matches!(step, Step::Modified(..)));
        steps[modified..].sort_by_cached_key(|step| new.last_change(step));
        Ok(steps)
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

fn place(named: &Named) -> Place {
    Place {
        parent: named.dir,
        dir: named.dir_path.text.clone(),
        name: named.name.clone(),
    }
}

/// The events that tell of the steps.
pub(crate) fn changes(
    old: &Tree,
    new: &Tree,
    steps: Vec<Step>,
    is_open: &dyn Fn(NodeId) -> bool,
) -> Vec<Change> {
    let (shown_before, shown_now) = (Visibility::of(old), Visibility::of(new));
    let node_ref = |node: NodeId| {
        let now = shown_now.visible(node);
        let inode = now.or_else(|| shown_before.visible(node));
        NodeRef {
            id: node,
            kind: inode
                .as_ref()
                .map_or(ObjectKind::File, |inode| inode.kind()),
            nlink: shown_now.visible(node).map_or(0, |inode| inode.nlink),
            open: is_open(node),
        }
    };
    let mut paths = DirPaths::default();
    let mut all = Vec::new();
    for step in steps {
        match step {
            Step::Removed(named) => all.push(Change::Removed {
                node: node_ref(named.node),
                at: place(&named),
            }),
            Step::Added(named) => all.push(Change::Created {
                node: node_ref(named.node),
                at: place(&named),
                by: match shown_before.visible(named.node) {
                    Some(_) => CreatedBy::Link,
                    None => CreatedBy::New,
                },
            }),
            Step::Renamed(from, to) => all.push(Change::Renamed {
                node: node_ref(to.node),
                from: place(&from),
                to: place(&to),
                how: RenameHow::Free,
            }),
            Step::Modified(node, differs) => {
                let node_ref = node_ref(node);
                let before = shown_before.visible(node);
                let after = shown_now.visible(node);
                if let (Some(before), Some(after)) = (before, after) {
                    let at = paths.place_of(new, &after);
                    modified(&mut all, node_ref, at, differs, (&before, &after));
                }
            }
        }
    }
    all
}

fn modified(
    all: &mut Vec<Change>,
    node: NodeRef,
    at: Option<Place>,
    differs: Differs,
    (before, after): (&Inode, &Inode),
) {
    if differs.content {
        let size = |inode: &Inode| inode.as_file().map_or(0, crate::store::content::File::size);
        let at = at.clone();
        all.push(match size(after).cmp(&size(before)) {
            std::cmp::Ordering::Less => Change::Resized {
                node,
                at,
                size: SizeChange::Shrank,
                by: ResizedBy::Truncate,
            },
            std::cmp::Ordering::Equal => Change::Written {
                node,
                at,
                size: SizeChange::Same,
            },
            std::cmp::Ordering::Greater => Change::Written {
                node,
                at,
                size: SizeChange::Grew,
            },
        });
    }
    if differs.mode || differs.owner || differs.mtime {
        all.push(Change::Attributes {
            node,
            at: at.clone(),
            set: Attributes {
                mode: differs.mode,
                owner: differs.owner,
                atime: false,
                mtime: differs.mtime,
            },
        });
    }
    if differs.xattrs {
        let removed = after.xattrs.is_none();
        all.push(Change::Xattr { node, at, removed });
    }
}
