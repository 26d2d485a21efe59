//! A branch: a tree, its open handles, one lock over both, and the way out for events.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::attr::Nanos;
use crate::bus::{Circumstances, EventBus, Outbox, lock};
use crate::caller::Caller;
use crate::errno::{Errno, Result};
use crate::event::{Change, Name, NodeRef, Origin, Place};
use crate::fs::Core;
use crate::handle::{Dentry, Handle, HandleId, Handles};
use crate::id::{BranchId, NodeId, Seq};
use crate::id_map::IdMap;
use crate::inode::Inode;
use crate::tree::Tree;
use crate::walk::{Target, Walk};

/// A writable view of the filesystem, and all operations on it.
///
/// Cheap to clone. Operations come in two forms: by path, walked from the branch's root (relative
/// paths too), and by [`NodeId`], as FUSE needs them; the names of the latter end in `_at` (a name in
/// a directory) or `_node` (an object). Each fails with the [`Errno`] that Linux gives for the
/// system call, or `ESTALE` when a node is not in the branch (any more).
#[derive(Clone, Debug)]
pub struct Branch {
    pub(crate) core: Arc<Core>,
    pub(crate) inner: Arc<BranchInner>,
}

#[derive(Debug)]
pub(crate) struct BranchInner {
    pub(crate) id: BranchId,
    pub(crate) name: Arc<str>,
    pub(crate) outbox: Outbox,
    state: RwLock<State>,
    /// Paths of directories that events name, until a directory moves.
    dir_paths: Mutex<IdMap<NodeId, Arc<[u8]>>>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) tree: Tree,
    pub(crate) handles: Handles,
}

/// Directory paths that are remembered before all are forgotten.
const MAX_DIR_PATHS: usize = 1 << 16;

impl BranchInner {
    pub(crate) fn new(id: BranchId, name: Arc<str>, tree: Tree) -> Self {
        Self {
            id,
            name,
            outbox: Outbox::new(id),
            state: RwLock::new(State {
                tree,
                handles: Handles::default(),
            }),
            dir_paths: Mutex::default(),
        }
    }

    /// Nothing under this lock panics half-way through a change, so a poisoned one is sound.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn dir_path(&self, tree: &Tree, dir: NodeId) -> Option<Arc<[u8]>> {
        let mut paths = lock(&self.dir_paths);
        if let Some(path) = paths.get(&dir) {
            return Some(path.clone());
        }
        let path: Arc<[u8]> = tree.dir_path(dir)?.into();
        if paths.len() >= MAX_DIR_PATHS {
            paths.clear();
        }
        paths.insert(dir, path.clone());
        Some(path)
    }

    pub(crate) fn forget_dir_paths(&self) {
        lock(&self.dir_paths).clear();
    }
}

/// The state of a branch during one operation that only reads it.
pub(crate) struct View<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) handles: &'a Handles,
    pub(crate) caller: &'a Caller,
    branch: &'a BranchInner,
    bus: &'a EventBus,
}

/// The state of a branch during one operation that changes it. Everything that can fail comes
/// before the first change.
pub(crate) struct Txn<'a> {
    pub(crate) tree: &'a mut Tree,
    pub(crate) handles: &'a mut Handles,
    pub(crate) caller: &'a Caller,
    pub(crate) now: Nanos,
    branch: &'a BranchInner,
    bus: &'a EventBus,
}

impl Branch {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> BranchId {
        self.inner.id
    }

    /// Its name, or an empty text.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The number of the last change that was committed to it.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.inner.outbox.last_seq()
    }

    /// Runs an operation that changes the branch, then tells the sinks.
    pub(crate) fn change<T>(
        &self,
        caller: &Caller,
        operation: impl FnOnce(&mut Txn<'_>) -> Result<T>,
    ) -> Result<T> {
        let result = {
            let mut state = self.inner.write();
            let State { tree, handles } = &mut *state;
            operation(&mut Txn {
                tree,
                handles,
                caller,
                now: now(),
                branch: &self.inner,
                bus: &self.core.bus,
            })
        };
        self.deliver_for(caller);
        result
    }

    /// Runs an operation that does not change the branch; it may still tell of activity.
    pub(crate) fn view<T>(
        &self,
        caller: &Caller,
        operation: impl FnOnce(&View<'_>) -> Result<T>,
    ) -> Result<T> {
        let state = self.inner.read();
        operation(&View {
            tree: &state.tree,
            handles: &state.handles,
            caller,
            branch: &self.inner,
            bus: &self.core.bus,
        })
    }

    pub(crate) fn deliver_for(&self, caller: &Caller) {
        if !caller.behind_kernel {
            self.deliver();
        }
    }

    /// Tells the event sinks what was committed and not yet told, unless another thread is at it.
    ///
    /// Only for who asks [behind a kernel](Caller::behind_kernel): after every operation, when the
    /// kernel has its answer. Every other operation does this itself.
    pub fn deliver(&self) {
        if self.core.bus.is_listening() {
            self.inner.outbox.deliver(&self.core.bus);
        }
    }
}

/// The time as files have it.
pub(crate) fn now() -> Nanos {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn place(branch: &BranchInner, tree: &Tree, dir: NodeId, name: &Name) -> Place {
    Place {
        parent: dir,
        dir: branch.dir_path(tree, dir).unwrap_or_default(),
        name: name.clone(),
    }
}

/// Where a handle's name is now, or was when it went.
fn handle_place(branch: &BranchInner, tree: &Tree, dentry: &Dentry) -> Place {
    Place {
        parent: dentry.parent,
        dir: branch
            .dir_path(tree, dentry.parent)
            .or_else(|| dentry.gone_from.clone())
            .unwrap_or_default(),
        name: dentry.name.clone(),
    }
}

fn node_ref(handles: &Handles, node: NodeId, inode: &Inode) -> NodeRef {
    NodeRef {
        id: node,
        kind: inode.kind(),
        nlink: inode.nlink,
        open: handles.is_open(node),
    }
}

impl View<'_> {
    pub(crate) fn walk(&self) -> Walk<'_> {
        Walk::new(self.tree, self.caller)
    }

    pub(crate) fn handle(&self, id: HandleId) -> Result<&Handle> {
        self.handles.get(id).ok_or(Errno::EBADF)
    }

    /// Tells that something was read through the handle; gives whether there is something to
    /// deliver.
    pub(crate) fn tell_read(&self, handle: &Handle) -> Result<bool> {
        if !self.bus.wants_activity() {
            return Ok(false);
        }
        let inode = self.tree.inode(handle.node)?;
        let at = handle.dentry.as_ref();
        self.branch.outbox.push(
            circumstances(self.caller, now()),
            Change::Read {
                node: node_ref(self.handles, handle.node, &inode),
                at: at.map(|dentry| handle_place(self.branch, self.tree, dentry)),
            },
        );
        Ok(true)
    }
}

fn circumstances(caller: &Caller, now: Nanos) -> Circumstances {
    Circumstances {
        time_ns: now.unsigned_abs(),
        pid: caller.pid,
        origin: caller.origin,
    }
}

impl Txn<'_> {
    pub(crate) fn walk(&self) -> Walk<'_> {
        Walk::new(self.tree, self.caller)
    }

    pub(crate) fn handle(&self, id: HandleId) -> Result<&Handle> {
        self.handles.get(id).ok_or(Errno::EBADF)
    }

    pub(crate) fn wants_activity(&self) -> bool {
        self.bus.wants_activity()
    }

    /// Puts a change into the outbox. What it says is only worked out when somebody listens.
    pub(crate) fn emit(&self, change: impl FnOnce(&Self) -> Result<Change>) -> Result<()> {
        if !self.bus.is_listening() {
            return Ok(());
        }
        let change = match change(self) {
            // The host took the object away meanwhile: there is nothing to tell of it.
            Err(Errno::ESTALE) => return Ok(()),
            change => change?,
        };
        let circumstances = circumstances(self.caller, self.now);
        self.branch.outbox.push(circumstances, change);
        Ok(())
    }

    /// As [`emit`](Self::emit), with another origin than the caller's.
    pub(crate) fn emit_from(&self, origin: Origin, change: Change) {
        if self.bus.is_listening() {
            let circumstances = circumstances(self.caller, self.now);
            self.branch.outbox.push(
                Circumstances {
                    origin,
                    ..circumstances
                },
                change,
            );
        }
    }

    pub(crate) fn place(&self, dir: NodeId, name: &Name) -> Place {
        place(self.branch, self.tree, dir, name)
    }

    /// Where a node was reached.
    pub(crate) fn place_of(&self, target: &Target) -> Option<Place> {
        let (dir, name) = target.at.as_ref()?;
        Some(self.place(*dir, name))
    }

    /// The current name of a handle.
    pub(crate) fn handle_place(&self, handle: &Handle) -> Option<Place> {
        match &handle.dentry {
            Some(dentry) => Some(handle_place(self.branch, self.tree, dentry)),
            // Opened without a name (`O_TMPFILE`): by the one it may have got since.
            None => self
                .walk()
                .target(handle.node)
                .ok()
                .and_then(|target| self.place_of(&target)),
        }
    }

    pub(crate) fn node_ref(&self, node: NodeId) -> Result<NodeRef> {
        Ok(node_ref(
            self.handles,
            node,
            self.tree.inode(node)?.as_ref(),
        ))
    }

    /// A directory moved or went: paths are looked up anew.
    pub(crate) fn forget_dir_paths(&self) {
        self.branch.forget_dir_paths();
    }

    /// The handles opened by this name keep it, as one that is gone.
    pub(crate) fn detach_handles(&mut self, node: NodeId, dir: NodeId, name: &[u8]) {
        if !self.handles.is_open(node) {
            return;
        }
        let path = self.branch.dir_path(self.tree, dir).unwrap_or_default();
        self.handles.for_name(node, dir, name, |dentry| {
            dentry.gone_from = Some(path.clone());
        });
    }

    /// Forgets an object whose last name went, unless a handle holds it; tells of it as it was.
    pub(crate) fn drop_if_gone(&mut self, node: NodeId) -> Result<()> {
        if self.tree.inode(node)?.nlink > 0 {
            return Ok(());
        }
        if self.handles.is_open(node) {
            self.tree.set_orphan(node, false);
        } else {
            self.tree.forget(node);
        }
        Ok(())
    }
}
