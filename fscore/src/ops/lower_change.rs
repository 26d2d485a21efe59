//! Changes that others make to the lower directory, as a watcher of the host reports them.
//!
//! A watcher may be late: by the time it reports a change, the host may have changed the same names
//! again, and the objects may be elsewhere or gone. So what is emitted follows from the changes in
//! their order and from what the index knows. The host is asked only which object has a name, and a
//! change is emitted whatever the answer is.

mod host_entry;

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use self::host_entry::HostEntry;
use crate::branch::Branch;
use crate::branch::fs::FsCore;
use crate::branch::transaction::Effect;
use crate::lower::{Loss, Lower};
use crate::model::caller::Caller;
use crate::model::errno::Result;
use crate::model::event::{
    Attributes, Change, CreatedBy, NodeRef, ObjectKind, Origin, Place, RenameHow, SizeChange,
};
use crate::model::id::{BranchId, NodeId};
use crate::store::tree::Tree;
use crate::store::visibility::visible;

/// What happened on the host; paths are relative to the lower directory, as they were then.
///
/// Nobody can ask the host later whether a name was that of a directory, so a change says it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LowerChange {
    /// A name was created.
    Created {
        /// The name.
        path: PathBuf,
        /// Whether it is that of a directory.
        is_dir: bool,
    },
    /// A name was removed.
    Removed {
        /// The name.
        path: PathBuf,
        /// Whether it was that of a directory.
        is_dir: bool,
    },
    /// Content changed.
    Written(PathBuf),
    /// Permissions, owner or times changed.
    Attributes(PathBuf),
    /// A name moved within the lower directory.
    Renamed {
        /// The old name.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
        /// Whether it is that of a directory.
        is_dir: bool,
    },
    /// Two names were exchanged.
    Exchanged {
        /// One name.
        one: PathBuf,
        /// The other name.
        other: PathBuf,
    },
}

impl LowerChange {
    /// Returns the path at which the change can be seen: of a move or exchange, the second one.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Created { path, .. }
            | Self::Removed { path, .. }
            | Self::Written(path)
            | Self::Attributes(path)
            | Self::Exchanged { other: path, .. }
            | Self::Renamed { to: path, .. } => path,
        }
    }
}

impl FsCore {
    /// Emits a change of the lower directory in every branch that does not hide it, with
    /// [`Origin::Lower`]. The watcher of the host calls this after the change, and for all changes in
    /// their order. What [applying](Branch::apply) a branch wrote there is not emitted again.
    pub fn lower_changed(&self, change: &LowerChange) {
        let Some(lower) = &self.core.shared.lower else {
            return;
        };
        let path = change.path();
        let bytes = path.as_os_str().as_bytes();
        if lower.own_writes.has_left(lower, bytes) {
            return;
        }
        let emitter = Emitter {
            fs: self,
            lower,
            except: None,
        };
        let entry = emitter.entry(path);
        match change {
            LowerChange::Created { is_dir, .. } => emitter.created(&entry, *is_dir),
            LowerChange::Removed { is_dir, .. } => emitter.removed(&entry, *is_dir),
            LowerChange::Written(_) => emitter.modified(&entry, &written),
            LowerChange::Attributes(_) => emitter.modified(&entry, &attributes),
            LowerChange::Renamed { from, is_dir, .. } => {
                emitter.renamed(&emitter.entry(from), &entry, *is_dir);
            }
            LowerChange::Exchanged { one, .. } => emitter.exchanged(&emitter.entry(one), &entry),
        }
    }

    /// Emits what applying the branch `by` has changed in every other branch that does not hide it.
    pub(crate) fn applied(&self, by: BranchId, changes: &[AppliedChange]) {
        let Some(lower) = &self.core.shared.lower else {
            return;
        };
        let emitter = Emitter {
            fs: self,
            lower,
            except: Some(by),
        };
        for change in changes {
            let entry = emitter.entry(change.path());
            match change {
                AppliedChange::Created(_, gone, kind) => {
                    if let Some(gone) = gone {
                        emitter.gone(&entry, *gone);
                    }
                    emitter.created(&entry, kind.is_dir());
                }
                AppliedChange::Written(_) => emitter.modified(&entry, &written),
                AppliedChange::Attributes(_) => emitter.modified(&entry, &attributes),
                AppliedChange::Removed(_, gone) => emitter.gone(&entry, *gone),
                AppliedChange::Renamed(from, _, gone, kind) => {
                    if let Some(gone) = gone {
                        emitter.gone(&entry, *gone);
                    }
                    emitter.renamed(&emitter.entry(from), &entry, kind.is_dir());
                }
            }
        }
    }
}

/// What applying a branch has changed at a path, and the object that is gone from there.
#[derive(Debug)]
pub(crate) enum AppliedChange {
    Created(PathBuf, Option<Object>, ObjectKind),
    Written(PathBuf),
    Attributes(PathBuf),
    Removed(PathBuf, Object),
    Renamed(PathBuf, PathBuf, Option<Object>, ObjectKind),
}

impl AppliedChange {
    fn path(&self) -> &Path {
        match self {
            Self::Created(path, ..)
            | Self::Written(path)
            | Self::Attributes(path)
            | Self::Removed(path, _)
            | Self::Renamed(_, path, ..) => path,
        }
    }
}

fn attributes(node: NodeRef, at: Place) -> Change {
    let set = Attributes {
        mode: true,
        ..Attributes::default()
    };
    Change::Attributes {
        node,
        at: Some(at),
        set,
    }
}

fn written(node: NodeRef, at: Place) -> Change {
    Change::Written {
        node,
        at: Some(at),
        size: SizeChange::Same,
    }
}

/// Emits one change of the lower directory in the branches.
struct Emitter<'a> {
    fs: &'a FsCore,
    lower: &'a Lower,
    /// The branch that made it, by being applied.
    except: Option<BranchId>,
}

/// An object of the host, as a change names it.
pub(crate) type Object = (NodeId, ObjectKind);

impl Emitter<'_> {
    fn entry<'p>(&self, path: &'p Path) -> HostEntry<'p> {
        HostEntry::find(self.lower, path, || self.fs.core.shared.new_node())
    }

    /// Returns an object that nobody ever saw. It had a name all the same, which a watch of a tree
    /// reports.
    fn unseen(&self, is_dir: bool) -> Object {
        let kind = if is_dir {
            ObjectKind::Directory
        } else {
            ObjectKind::File
        };
        (self.fs.core.shared.new_node(), kind)
    }

    /// Returns what the host has by this name now, if it is of that kind.
    fn found(&self, entry: &HostEntry<'_>, is_dir: bool) -> Option<Object> {
        let found = entry.lookup(self.lower)?;
        (found.kind.is_dir() == is_dir).then_some((found.node, found.kind))
    }

    fn created(&self, entry: &HostEntry<'_>, is_dir: bool) {
        let found = self.found(entry, is_dir);
        let object = found.unwrap_or_else(|| self.unseen(is_dir));
        self.in_branches(|tree, is_open| {
            let at = entry.shown(tree, Some(object.0))?;
            let node = node_ref(tree, object, is_open);
            let by = if node.nlink > 1 && !is_dir {
                CreatedBy::Link
            } else {
                CreatedBy::New
            };
            Some(Change::Created { node, at, by })
        });
    }

    fn removed(&self, entry: &HostEntry<'_>, is_dir: bool) {
        let lost = |dir| self.lower.lose_name((dir, entry.name), Loss::Removed);
        let object = entry.dir().and_then(lost);
        let object = object.filter(|(_, kind)| kind.is_dir() == is_dir);
        self.gone(entry, object.unwrap_or_else(|| self.unseen(is_dir)));
    }

    /// Emits that the name no longer leads to this object.
    fn gone(&self, entry: &HostEntry<'_>, (node, kind): Object) {
        self.in_branches(|tree, is_open| {
            if tree.is_own(node) {
                return None;
            }
            let at = entry.shown(tree, None)?;
            let nlink = visible(tree, node).map_or(0, |inode| inode.nlink);
            let node = NodeRef {
                id: node,
                kind,
                nlink,
                open: is_open(node),
            };
            Some(Change::Removed { node, at })
        });
    }

    fn modified(&self, entry: &HostEntry<'_>, change: &dyn Fn(NodeRef, Place) -> Change) {
        let found = entry.lookup(self.lower).map(|it| (it.node, it.kind));
        let object = found.or_else(|| entry.seen(self.lower));
        let object = object.unwrap_or_else(|| self.unseen(false));
        self.in_branches(|tree, is_open| {
            if tree.is_own(object.0) {
                return None;
            }
            let at = entry.shown(tree, Some(object.0))?;
            Some(change(node_ref(tree, object, is_open), at))
        });
    }

    /// Emits a move. A branch that shows only one end of it gets a removal or a creation.
    fn renamed(&self, from: &HostEntry<'_>, to: &HostEntry<'_>, is_dir: bool) {
        let lower = self.lower;
        let lose = |entry: &HostEntry<'_>, loss| lower.lose_name((entry.dir()?, entry.name), loss);
        let moved = lose(from, Loss::Moved).filter(|(_, kind)| kind.is_dir() == is_dir);
        let there = to.seen(lower);
        let replaced = match moved {
            Some((node, _)) if there.is_some_and(|(other, _)| other == node) => None,
            // If a branch was applied, the right node is there already.
            _ if self.except.is_some() => there,
            _ => lose(to, Loss::Replaced),
        };
        // The object may never have been looked at while it had its old name.
        let object = moved
            .or_else(|| self.found(to, is_dir))
            .unwrap_or_else(|| self.unseen(is_dir));
        if let Some(dir) = to.dir() {
            lower.gain_name(object.0, from.path, (dir, to.name, to.path));
        }
        let replaced = replaced.filter(|(other, _)| *other != object.0);
        if is_dir {
            self.forget_dir_paths();
        }
        self.in_branches(|tree, is_open| {
            let how = match replaced {
                Some(other) if !tree.is_own(other.0) => {
                    let nlink = visible(tree, other.0).map_or(0, |inode| inode.nlink);
                    let other = node_ref(tree, other, is_open);
                    RenameHow::Replaced(NodeRef { nlink, ..other })
                }
                Some(_) | None => RenameHow::Free,
            };
            moved_in(tree, is_open, object, (from, to), how)
        });
    }

    /// Emits an exchange of two names, as its two halves.
    fn exchanged(&self, one: &HostEntry<'_>, other: &HostEntry<'_>) {
        let lower = self.lower;
        let lose = |entry: &HostEntry<'_>| lower.lose_name((entry.dir()?, entry.name), Loss::Moved);
        let (first, second) = (lose(one), lose(other));
        let now = |entry: &HostEntry<'_>| entry.lookup(lower).map(|it| (it.node, it.kind));
        let first = first.or_else(|| now(other));
        let second = second.or_else(|| now(one));
        let first = first.unwrap_or_else(|| self.unseen(false));
        let second = second.unwrap_or_else(|| self.unseen(false));
        for (node, from, to) in [(first.0, one, other), (second.0, other, one)] {
            if let Some(dir) = to.dir() {
                lower.gain_name(node, from.path, (dir, to.name, to.path));
            }
        }
        self.forget_dir_paths();
        self.in_branches(|tree, is_open| {
            let how = RenameHow::ExchangeFirst(node_ref(tree, second, is_open));
            moved_in(tree, is_open, first, (one, other), how)
        });
        self.in_branches(|tree, is_open| {
            let how = RenameHow::ExchangeSecond(node_ref(tree, first, is_open));
            moved_in(tree, is_open, second, (other, one), how)
        });
    }

    fn branches(&self) -> Vec<Branch> {
        let core = &self.fs.core;
        let all: Vec<_> = core.registry.read().branches.values().cloned().collect();
        let all = all.into_iter().filter(|it| Some(it.id) != self.except);
        all.map(|inner| Branch {
            core: core.clone(),
            inner,
        })
        .collect()
    }

    fn forget_dir_paths(&self) {
        for branch in self.branches() {
            branch.inner.forget_dir_paths();
        }
    }

    fn in_branches(&self, change: impl Fn(&Tree, &dyn Fn(NodeId) -> bool) -> Option<Change>) {
        for branch in self.branches() {
            branch.emit_lower(&change);
            branch.deliver_from(Origin::Lower);
        }
    }
}

/// Returns a move as a branch shows it.
fn moved_in(
    tree: &Tree,
    is_open: &dyn Fn(NodeId) -> bool,
    object: Object,
    (from, to): (&HostEntry<'_>, &HostEntry<'_>),
    how: RenameHow,
) -> Option<Change> {
    if tree.is_own(object.0) {
        return None;
    }
    let old = from.shown(tree, None);
    let new = to.shown(tree, Some(object.0));
    let node = node_ref(tree, object, is_open);
    match (old, new) {
        (Some(from), Some(to)) => Some(Change::Renamed {
            node,
            from,
            to,
            how,
        }),
        (Some(at), None) => Some(Change::Removed { node, at }),
        (None, Some(at)) => Some(Change::Created {
            node,
            at,
            by: CreatedBy::New,
        }),
        (None, None) => None,
    }
}

impl Branch {
    fn emit_lower(&self, change: impl Fn(&Tree, &dyn Fn(NodeId) -> bool) -> Option<Change>) {
        // The write lock is needed so that the event is delivered in the order of its number.
        let caller = Caller::root().with_origin(Origin::Lower);
        let result: Result<()> = self.run(&caller, Effect::Opens, |txn| {
            let handles = &*txn.handles;
            if let Some(change) = change(txn.tree, &|node| handles.is_open(node)) {
                txn.emit_from(Origin::Lower, change);
            }
            Ok(())
        });
        debug_assert!(result.is_ok(), "emitting cannot fail");
    }
}

/// Returns an object with a name. Its links are counted as far as the host still has it.
fn node_ref(tree: &Tree, (node, kind): Object, is_open: &dyn Fn(NodeId) -> bool) -> NodeRef {
    NodeRef {
        id: node,
        kind,
        nlink: tree.inode(node).map_or(1, |inode| inode.nlink),
        open: is_open(node),
    }
}
