//! What differs between two trees, found in time of the difference: subtrees that both share are
//! never looked at.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::dir::Dir;
use crate::errno::Result;
use crate::event::{Name, ObjectKind, Place};
use crate::id::NodeId;
use crate::inode::Inode;
use crate::order::{Entry, order};
use crate::tree::Tree;
use crate::trie;

/// A name in a tree, with the path of its directory at the moment of the step.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Named {
    pub(crate) dir_path: Arc<[u8]>,
    pub(crate) name: Name,
    pub(crate) dir: NodeId,
    pub(crate) node: NodeId,
    pub(crate) is_dir: bool,
}

impl Named {
    pub(crate) fn path(&self) -> Vec<u8> {
        let mut path = self.dir_path.to_vec();
        path.push(b'/');
        path.extend_from_slice(&self.name);
        path
    }
}

/// In what an object that both trees show differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Differs {
    /// The bytes of a file or the text of a symbolic link.
    pub content: bool,
    /// The permission bits.
    pub mode: bool,
    /// The owner or group.
    pub owner: bool,
    /// The modification time, of a file whose bytes are the same.
    pub mtime: bool,
    /// The extended attributes.
    pub xattrs: bool,
}

/// One step from the old tree to the new one.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Removed(Named),
    Renamed(Named, Named),
    Added(Named),
    Modified(NodeId, Differs),
}

struct Collector<'a> {
    old: &'a Tree,
    new: &'a Tree,
    seen: HashSet<(bool, NodeId, Name)>,
    removed: Vec<Entry>,
    added: Vec<Entry>,
    modified: Vec<(NodeId, Differs)>,
}

/// The steps from `old` to `new`, in an order in which they could be made: what is in the way goes
/// first, and parents come before children; what only changed comes last, by its path.
pub(crate) fn steps(old: &Tree, new: &Tree) -> Result<Vec<Step>> {
    let mut collector = Collector {
        old,
        new,
        seen: HashSet::new(),
        removed: Vec::new(),
        added: Vec::new(),
        modified: Vec::new(),
    };
    let mut changed = Vec::new();
    trie::diff(old.inodes(), new.inodes(), &mut |key, a, b| {
        let same = matches!((a, b), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
        if !same {
            changed.push(NodeId(key));
        }
    });
    for node in changed {
        collector.compare(node)?;
    }
    Ok(collector.order())
}

/// The object, when names lead to it.
pub(crate) fn visible(tree: &Tree, node: NodeId) -> Option<Cow<'_, Inode>> {
    let inode = tree.inode(node).ok()?;
    if inode.nlink == 0 || (!tree.is_own(node) && !is_reached(tree, node, &inode)) {
        return None;
    }
    Some(inode)
}

/// Whether an object of the lower layer shows: its names may all be hidden by the branch.
fn is_reached(tree: &Tree, node: NodeId, inode: &Inode) -> bool {
    inode.names.all().iter().any(|(dir, name)| {
        let Ok(parent) = tree.inode(*dir) else {
            return false;
        };
        let found = tree.lookup(*dir, &parent, name).ok().flatten();
        found.is_some_and(|found| found.node == node)
            && (tree.is_own(*dir) || is_reached(tree, *dir, &parent))
    })
}

/// By any name; `None` for the root.
pub(crate) fn place_of(tree: &Tree, inode: &Inode) -> Option<Place> {
    let (parent, name) = inode.names.first()?;
    Some(Place {
        parent,
        dir: tree.dir_path(parent)?.into(),
        name: name.clone(),
    })
}

impl Collector<'_> {
    fn compare(&mut self, node: NodeId) -> Result<()> {
        let (Some(old), Some(new)) = (visible(self.old, node), visible(self.new, node)) else {
            // Only one tree shows it: its directory's entries differ and lead here.
            if let Some(new) = visible(self.new, node).filter(|inode| inode.is_dir()) {
                return self.walk(true, node, &new);
            }
            return Ok(());
        };
        if let (Some(a), Some(b)) = (old.as_dir(), new.as_dir()) {
            self.compare_entries(node, (&old, a), (&new, b))?;
        }
        let differs = differs(self.old, self.new, node, &old, &new)?;
        if differs != Differs::default() {
            self.modified.push((node, differs));
        }
        Ok(())
    }

    fn compare_entries(
        &mut self,
        dir: NodeId,
        old: (&Inode, &Dir),
        new: (&Inode, &Dir),
    ) -> Result<()> {
        let mut names: Vec<Name> = Vec::new();
        trie::diff(old.1.entries(), new.1.entries(), &mut |_, a, b| {
            if a != b {
                names.extend(
                    a.into_iter()
                        .chain(b)
                        .map(|entry: &crate::dir::Entry| entry.name.clone()),
                );
            }
        });
        names.sort();
        names.dedup();
        for name in names {
            let before = self.old.lookup(dir, old.0, &name)?;
            let after = self.new.lookup(dir, new.0, &name)?;
            if before == after {
                continue;
            }
            if let Some(found) = before {
                self.add(false, dir, found.name, found.node, found.kind)?;
            }
            if let Some(found) = after {
                self.add(true, dir, found.name, found.node, found.kind)?;
            }
        }
        Ok(())
    }

    /// Notes a name that only one of the trees has, with everything below a directory that only this
    /// tree shows.
    fn add(
        &mut self,
        is_new: bool,
        dir: NodeId,
        name: Name,
        node: NodeId,
        kind: ObjectKind,
    ) -> Result<()> {
        if !self.seen.insert((is_new, dir, name.clone())) {
            return Ok(());
        }
        let (here, there) = if is_new {
            (self.new, self.old)
        } else {
            (self.old, self.new)
        };
        let list = if is_new {
            &mut self.added
        } else {
            &mut self.removed
        };
        list.push(Entry {
            dir,
            name,
            node,
            kind,
        });
        if kind.is_dir() && visible(there, node).is_none() {
            let inode = here.inode(node)?;
            self.walk(is_new, node, &inode)?;
        }
        Ok(())
    }

    fn walk(&mut self, is_new: bool, dir: NodeId, inode: &Inode) -> Result<()> {
        let tree = if is_new { self.new } else { self.old };
        for (_, found) in tree.list(dir, inode)? {
            self.add(is_new, dir, found.name, found.node, found.kind)?;
        }
        Ok(())
    }

    fn order(mut self) -> Vec<Step> {
        let new = self.new;
        let path = |node: NodeId| Some(place_of(new, &*new.inode(node).ok()?)?.path());
        self.modified
            .sort_by_cached_key(|(node, _)| path(*node).map(PathBuf::into_os_string));
        let modified = self.modified.into_iter();
        let mut steps = order(self.old, self.new, self.removed, self.added);
        steps.extend(modified.map(|(node, how)| Step::Modified(node, how)));
        steps
    }
}

fn differs(
    old_tree: &Tree,
    new_tree: &Tree,
    node: NodeId,
    old: &Inode,
    new: &Inode,
) -> Result<Differs> {
    use crate::inode::Body;
    let content = match (&old.body, &new.body) {
        (Body::File(a), Body::File(b)) => !a.same_content(b),
        (Body::Symlink(a), Body::Symlink(b)) => a != b,
        _ => false,
    };
    let is_file = matches!(new.body, Body::File(_));
    Ok(Differs {
        content,
        mode: old.mode != new.mode,
        owner: (old.uid, old.gid) != (new.uid, new.gid),
        mtime: is_file && !content && old.times.mtime != new.times.mtime,
        xattrs: old_tree.xattrs(node, old)? != new_tree.xattrs(node, new)?,
    })
}
