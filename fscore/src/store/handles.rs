//! Open handles of a branch. A handle follows the name by which it was opened through renames, as
//! the kernel's dcache does, and keeps its object when the last name is removed.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::lower::Held;
use crate::model::event::Name;
use crate::model::flags::OpenFlags;
use crate::model::id::NodeId;
use crate::model::names::{Found, Names};
use crate::model::stamp::Stamp;
use crate::sync::Mutex;

/// An open file or directory of one branch. A number is never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct HandleId(pub u64);

/// The name by which a handle was opened, where it is now.
#[derive(Clone, Debug)]
pub(crate) struct Dentry {
    pub(crate) parent: NodeId,
    pub(crate) name: Name,
    /// Once the name is removed, the path that its directory had at that moment, because the
    /// directory may be removed too.
    pub(crate) gone_from: Option<Arc<[u8]>>,
}

/// The entries of a directory by cookie.
pub(crate) type Listing = Arc<Vec<(u64, Found)>>;

#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) node: NodeId,
    pub(crate) flags: OpenFlags,
    pub(crate) dentry: Option<Dentry>,
    /// Where the next `read` or `write` without an offset begins.
    pub(crate) position: Mutex<u64>,
    /// A merged directory as it was when its reading began.
    pub(crate) listing: Mutex<Option<Listing>>,
    /// The version of the host's file on which it was opened, if the branch had no content of its
    /// own then.
    pub(crate) opened: Option<Stamp>,
    /// Keeps that file usable when the host replaces or removes it.
    pub(crate) held: Option<Arc<Held>>,
    /// Whether anything was written or truncated through it.
    pub(crate) written: bool,
    /// Where it is among the handles of its node.
    at: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Handles {
    handles: FxHashMap<HandleId, Handle>,
    by_node: FxHashMap<NodeId, Vec<HandleId>>,
    last: u64,
    /// What is needed to take an operation back, while there is one that may be.
    before: Option<Before>,
}

/// How the handles were that an operation has changed.
#[derive(Debug)]
struct Before {
    last: u64,
    changed: Vec<(HandleId, Option<Dentry>, u64, bool)>,
}

impl Handles {
    pub(crate) fn len(&self) -> u64 {
        self.handles.len() as u64
    }

    pub(crate) fn is_open(&self, node: NodeId) -> bool {
        self.by_node.contains_key(&node)
    }

    pub(crate) fn get(&self, id: HandleId) -> Option<&Handle> {
        self.handles.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: HandleId) -> Option<&mut Handle> {
        self.note(id);
        self.handles.get_mut(&id)
    }

    /// Remembers from now on what [`take_back`](Self::take_back) needs. No handle is closed meanwhile.
    pub(crate) fn begin(&mut self) {
        self.before = Some(Before {
            last: self.last,
            changed: Vec::new(),
        });
    }

    /// Keeps what was changed since [`begin`](Self::begin).
    pub(crate) fn keep(&mut self) {
        self.before = None;
    }

    /// Makes the handles what they were at [`begin`](Self::begin). Numbers that were given since are not
    /// given again.
    pub(crate) fn take_back(&mut self) {
        let Some(before) = self.before.take() else {
            return;
        };
        for (id, dentry, position, written) in before.changed.into_iter().rev() {
            if let Some(handle) = self.handles.get_mut(&id) {
                handle.dentry = dentry;
                *handle.position.get_mut() = position;
                handle.written = written;
            }
        }
        for id in before.last + 1..=self.last {
            self.remove(HandleId(id));
        }
    }

    fn note(&mut self, id: HandleId) {
        if let (Some(before), Some(handle)) = (&mut self.before, self.handles.get(&id)) {
            let (dentry, position) = (handle.dentry.clone(), *handle.position.lock());
            let was = (id, dentry, position, handle.written);
            before.changed.push(was);
        }
    }

    pub(crate) fn open_nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.by_node.keys().copied()
    }

    pub(crate) fn insert(
        &mut self,
        node: NodeId,
        flags: OpenFlags,
        dentry: Option<Dentry>,
        (opened, held): (Option<Stamp>, Option<Arc<Held>>),
    ) -> HandleId {
        self.last += 1;
        let id = HandleId(self.last);
        let of_node = self.by_node.entry(node).or_default();
        of_node.push(id);
        let at = of_node.len() - 1;
        self.handles.insert(
            id,
            Handle {
                node,
                flags,
                dentry,
                position: Mutex::new(0),
                listing: Mutex::new(None),
                opened,
                held,
                written: false,
                at,
            },
        );
        id
    }

    pub(crate) fn remove(&mut self, id: HandleId) -> Option<Handle> {
        let handle = self.handles.remove(&id)?;
        if let Some(all) = self.by_node.get_mut(&handle.node) {
            // However many handles the node has, only the last one takes the place that is free now.
            all.swap_remove(handle.at);
            let last = all
                .get(handle.at)
                .and_then(|last| self.handles.get_mut(last));
            if let Some(last) = last {
                last.at = handle.at;
            }
            if all.is_empty() {
                self.by_node.remove(&handle.node);
            }
        }
        Some(handle)
    }

    /// Calls `change` with the name of every handle of `node` that was opened by this name.
    pub(crate) fn for_name(
        &mut self,
        node: NodeId,
        parent: NodeId,
        name: &[u8],
        mut change: impl FnMut(&mut Dentry),
    ) {
        let Some(ids) = self.by_node.get(&node).cloned() else {
            return;
        };
        for id in ids {
            self.note(id);
            if let Some(handle) = self.handles.get_mut(&id)
                && let Some(dentry) = &mut handle.dentry
                && dentry.gone_from.is_none()
                && dentry.parent == parent
                && *dentry.name == *name
            {
                change(dentry);
            }
        }
    }

    /// Updates the names of handles after a restore: a handle keeps its name if the object still
    /// has it, and otherwise gets another of the object's names. `gone_from` says that the object
    /// has no names any more.
    pub(crate) fn follow(&mut self, node: NodeId, names: &Names, gone_from: Option<Arc<[u8]>>) {
        for id in self.by_node.get(&node).cloned().unwrap_or_default() {
            self.note(id);
            let Some(dentry) = self.handles.get_mut(&id).and_then(|h| h.dentry.as_mut()) else {
                continue;
            };
            if gone_from.is_some() {
                dentry.gone_from = dentry.gone_from.take().or_else(|| gone_from.clone());
            } else if !names.contains(dentry.parent, &dentry.name)
                && let Some((parent, name)) = names.first()
            {
                *dentry = Dentry {
                    parent,
                    name: name.clone(),
                    gone_from: None,
                };
            }
        }
    }
}
