//! Changes that others make to the lower directory, as a watcher of the host reports them.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::branch::Branch;
use crate::branch::fs::FsCore;
use crate::lower::{Lower, split};
use crate::model::caller::Caller;
use crate::model::errno::Result;
use crate::model::event::{
    Attributes, Change, CreatedBy, NodeRef, ObjectKind, Origin, Place, RenameHow, SizeChange,
};
use crate::model::id::{BranchId, NodeId};
use crate::model::names::Found;
use crate::store::dir_paths::DirPaths;
use crate::store::tree::Tree;
use crate::store::visibility::visible;

/// What happened on the host; paths are relative to the lower directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LowerChange {
    /// A name was created.
    Created(PathBuf),
    /// A name was removed.
    Removed {
        /// The name.
        path: PathBuf,
        /// Whether it was that of a directory. The host can no longer be asked.
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
    },
}

/// A name on the host: its directory as a node, and the name in it.
struct HostEntry<'p> {
    dir: NodeId,
    name: &'p [u8],
}

impl FsCore {
    /// Emits a change of the lower directory in every branch that does not hide it, with
    /// [`Origin::Lower`]. The watcher of the host calls this after the change. What a branch wrote
    /// there when it was [applied](Branch::apply) is not emitted in that branch again.
    ///
    /// # Errors
    ///
    /// What the host answers when the object is looked at.
    pub fn lower_changed(&self, change: &LowerChange) -> Result<()> {
        let shared = &self.core.shared;
        let Some(lower) = &shared.lower else {
            return Ok(());
        };
        let at = match change {
            LowerChange::Created(path)
            | LowerChange::Removed { path, .. }
            | LowerChange::Written(path)
            | LowerChange::Attributes(path)
            | LowerChange::Renamed { to: path, .. } => path.as_os_str().as_bytes(),
        };
        let emitter = Emitter {
            fs: self,
            lower,
            except: lower.own_writes.author_of(lower, at),
        };
        match change {
            LowerChange::Created(path) => emitter.with_entry(path, |entry| {
                match emitter.except.and(lower.own_writes.take_removed(at)) {
                    // The applied object keeps its node and has new content.
                    Some((node, _)) if lower.seen_as(entry.dir, entry.name) == Some(node) => {
                        emitter.modified(&entry, &written)
                    }
                    // Another object took its place.
                    Some(gone) => {
                        emitter.gone(&entry, gone);
                        emitter.created(&entry)
                    }
                    None => emitter.created(&entry),
                }
            }),
            LowerChange::Removed { path, is_dir } => emitter.with_entry(path, |entry| {
                let was = lower.own_writes.take_removed(at);
                emitter.removed(&entry, *is_dir, was)
            }),
            LowerChange::Written(path) => {
                emitter.with_entry(path, |entry| emitter.modified(&entry, &written))
            }
            LowerChange::Attributes(path) => emitter.with_entry(path, |entry| {
                let set = Attributes {
                    mode: true,
                    ..Attributes::default()
                };
                emitter.modified(&entry, &|node, at| Change::Attributes {
                    node,
                    at: Some(at),
                    set,
                })
            }),
            LowerChange::Renamed { from, to } => emitter.with_entry(from, |from| {
                emitter.with_entry(to, |to| {
                    if let Some(gone) = emitter.except.and(lower.own_writes.take_removed(at)) {
                        emitter.gone(&to, gone);
                    }
                    emitter.renamed(&from, &to)
                })
            }),
        }
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
    /// The branch that made it.
    except: Option<BranchId>,
}

impl Emitter<'_> {
    /// Calls `then` with the name, once the node of its directory is found. A directory that is
    /// gone from the host by now has the node as which it was last seen.
    fn with_entry(
        &self,
        path: &Path,
        then: impl FnOnce(HostEntry<'_>) -> Result<()>,
    ) -> Result<()> {
        let (dir, name) = split(path.as_os_str().as_bytes());
        let mut at = NodeId::ROOT;
        for component in dir
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty())
        {
            let found = self.lookup(at, component)?;
            let node = found.map(|found| found.node);
            match node.or_else(|| self.lower.seen_as(at, component)) {
                Some(node) => at = node,
                // The directory was never looked into, and is gone.
                None => return Ok(()),
            }
        }
        then(HostEntry { dir: at, name })
    }

    fn lookup(&self, dir: NodeId, name: &[u8]) -> Result<Option<Found>> {
        self.lower.lookup(dir, name)
    }

    fn created(&self, entry: &HostEntry<'_>) -> Result<()> {
        let Some(found) = self.lookup(entry.dir, entry.name)? else {
            return Ok(());
        };
        self.in_branches(|branch| {
            branch.emit_lower(|tree, is_open| {
                let at = shown(tree, entry.dir, entry.name, Some(found.node))?;
                let node = node_ref(tree, &found, is_open)?;
                let by = if node.nlink > 1 && !found.kind.is_dir() {
                    CreatedBy::Link
                } else {
                    CreatedBy::New
                };
                Some(Change::Created { node, at, by })
            });
        });
        Ok(())
    }

    fn removed(
        &self,
        entry: &HostEntry<'_>,
        is_dir: bool,
        was: Option<(NodeId, ObjectKind)>,
    ) -> Result<()> {
        // An object that was never looked at had a name all the same, which a watch of a tree
        // reports.
        let kind = if is_dir {
            ObjectKind::Directory
        } else {
            ObjectKind::File
        };
        let seen = self.lower.seen_with_kind(entry.dir, entry.name).or(was);
        let (node, kind) = seen.unwrap_or_else(|| (self.fs.core.shared.new_node(), kind));
        self.lower.forget_name(entry.dir, entry.name, false);
        self.gone(entry, (node, kind));
        Ok(())
    }

    /// Emits that the name no longer leads to this object.
    fn gone(&self, entry: &HostEntry<'_>, (node, kind): (NodeId, ObjectKind)) {
        self.in_branches(|branch| {
            branch.emit_lower(|tree, is_open| {
                if tree.is_own(node) {
                    return None;
                }
                let at = shown(tree, entry.dir, entry.name, None)?;
                let nlink = visible(tree, node).map_or(0, |inode| inode.nlink);
                let node = NodeRef {
                    id: node,
                    kind,
                    nlink,
                    open: is_open(node),
                };
                Some(Change::Removed { node, at })
            });
        });
    }

    fn modified(
        &self,
        entry: &HostEntry<'_>,
        change: &dyn Fn(NodeRef, Place) -> Change,
    ) -> Result<()> {
        let Some(found) = self.lookup(entry.dir, entry.name)? else {
            return Ok(());
        };
        self.in_branches(|branch| {
            branch.emit_lower(|tree, is_open| {
                if tree.is_own(found.node) {
                    return None;
                }
                let at = shown(tree, entry.dir, entry.name, Some(found.node))?;
                Some(change(node_ref(tree, &found, is_open)?, at))
            });
        });
        Ok(())
    }

    /// Emits a move. A branch that shows only one end of it gets a removal or a creation.
    fn renamed(&self, from: &HostEntry<'_>, to: &HostEntry<'_>) -> Result<()> {
        let lower = self.lower;
        let seen = lower.seen_with_kind(from.dir, from.name);
        let replaced = lower.seen_with_kind(to.dir, to.name);
        lower.forget_name(from.dir, from.name, true);
        // If a branch was applied, the right node is there already.
        if self.except.is_none() {
            lower.forget_name(to.dir, to.name, false);
        }
        let (node, kind) = match seen {
            Some(seen) => seen,
            // The object was not looked at while it had its old name.
            None => match self.lookup(to.dir, to.name)? {
                Some(found) => (found.node, found.kind),
                None => return Ok(()),
            },
        };
        let replaced = replaced.filter(|(other, _)| *other != node);
        let found = self.lookup(to.dir, to.name)?;
        let found = found.filter(|found| found.node == node);
        self.in_branches(|branch| {
            branch.inner.forget_dir_paths();
            branch.emit_lower(|tree, is_open| {
                if tree.is_own(node) {
                    return None;
                }
                let old = shown(tree, from.dir, from.name, None);
                let new = found
                    .as_ref()
                    .and_then(|found| shown(tree, to.dir, to.name, Some(found.node)));
                let node = NodeRef {
                    id: node,
                    kind,
                    nlink: visible(tree, node).map_or(0, |inode| inode.nlink),
                    open: is_open(node),
                };
                match (old, new) {
                    (Some(from), Some(to)) => {
                        let how = match replaced {
                            Some((id, kind)) if !tree.is_own(id) => RenameHow::Replaced(NodeRef {
                                id,
                                kind,
                                nlink: visible(tree, id).map_or(0, |inode| inode.nlink),
                                open: is_open(id),
                            }),
                            Some(_) | None => RenameHow::Free,
                        };
                        Some(Change::Renamed {
                            node,
                            from,
                            to,
                            how,
                        })
                    }
                    (Some(at), None) => Some(Change::Removed { node, at }),
                    (None, Some(at)) => Some(Change::Created {
                        node,
                        at,
                        by: CreatedBy::New,
                    }),
                    (None, None) => None,
                }
            });
        });
        Ok(())
    }

    fn in_branches(&self, emit: impl Fn(&Branch)) {
        let core = &self.fs.core;
        let all: Vec<_> = core.registry.read().branches.values().cloned().collect();
        let all = all.into_iter().filter(|it| Some(it.id) != self.except);
        for inner in all {
            let branch = Branch {
                core: core.clone(),
                inner,
            };
            emit(&branch);
            branch.deliver_from(Origin::Lower);
        }
    }
}

impl Branch {
    fn emit_lower(&self, change: impl FnOnce(&Tree, &dyn Fn(NodeId) -> bool) -> Option<Change>) {
        // The write lock is needed so that the event is delivered in the order of its number.
        let caller = Caller::root().with_origin(Origin::Lower);
        let result = self.change_open(&caller, false, |txn| {
            let handles = &*txn.handles;
            if let Some(change) = change(txn.tree, &|node| handles.is_open(node)) {
                txn.emit_from(Origin::Lower, change);
            }
            Ok(())
        });
        debug_assert!(result.is_ok(), "emitting cannot fail");
    }
}

/// Returns the name that the host has in `dir` as the branch shows it; `None` if the branch hides
/// it, by an entry or whiteout of its own or by hiding the directory.
fn shown(tree: &Tree, dir: NodeId, name: &[u8], node: Option<NodeId>) -> Option<Place> {
    let inode = visible(tree, dir)?;
    let entries = inode.as_dir().filter(|dir| dir.merges_lower)?;
    let case = tree.shared.config.case_sensitivity;
    match (entries.find(name, case), node) {
        (None, _) => {}
        (Some((_, entry)), Some(node)) if entry.leads_to(node) => {}
        (Some(_), _) => return None,
    }
    Some(Place {
        parent: dir,
        dir: DirPaths::default().of(tree, dir)?.text,
        name: name.into(),
    })
}

fn node_ref(tree: &Tree, found: &Found, is_open: &dyn Fn(NodeId) -> bool) -> Option<NodeRef> {
    Some(NodeRef {
        id: found.node,
        kind: found.kind,
        nlink: tree.inode(found.node).ok()?.nlink,
        open: is_open(found.node),
    })
}
