//! One operation on the state of a branch: what it reads, what it changes, and what it emits.

use std::time::Duration;

use super::Branch;
use super::event_bus::{Delivery, EventBus, EventContext};
use super::served_versions::ServedVersions;
use super::state::{BranchInner, State};
use crate::log::{Purpose, Room};
use crate::model::attr::{Nanos, now};
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Change, Name, NodeRef, Origin, Place};
use crate::model::id::NodeId;
use crate::model::stamp::Stamp;
use crate::store::handles::{Dentry, Handle, HandleId, Handles};
use crate::store::tree::bring_up::Content;
use crate::store::tree::{Based, Tree};

/// How many changes of other threads a thread delivers at most that has to serve all branches: the
/// daemon's event loop, say. Any other goes on as long as others commit, and so makes no changes
/// meanwhile that would wait as well.
const MAX_OF_OTHERS: u64 = 4096;

/// How long a committer waits when very many changes wait to be delivered. It is not until they are
/// fewer: what delivers them may need the committer.
const CROWDED_PAUSE: Duration = Duration::from_millis(5);

/// The state of a branch during one operation that only reads it.
pub(crate) struct View<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) handles: &'a Handles,
    pub(crate) caller: &'a Caller,
    branch: &'a BranchInner,
    bus: &'a EventBus,
}

/// The state of a branch during one operation that changes it. The operation does everything that
/// can fail before its first change.
pub(crate) struct Txn<'a> {
    pub(crate) tree: &'a mut Tree,
    pub(crate) handles: &'a mut Handles,
    pub(crate) caller: &'a Caller,
    pub(crate) now: Nanos,
    content: &'a mut Content,
    branch: &'a BranchInner,
    bus: &'a EventBus,
}

/// How often an operation begins anew because the host goes on changing a file.
const MOST_ATTEMPTS: u32 = 8;

/// What an operation does to a branch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// It changes only what is open.
    Opens,
    /// It changes files.
    Changes,
    /// The same, and what the log has to say of it may be long.
    ChangesMuch,
    /// It changes files and gives space back, so it is made even when the disk is nearly full.
    Frees,
}

impl Branch {
    /// Runs an operation that changes the branch, then delivers its events.
    ///
    /// If content of the host's files has to be brought up for it, the operation fails, and runs
    /// again once that was done. The branch is not locked meanwhile.
    pub(crate) fn change<T>(
        &self,
        caller: &Caller,
        operation: impl FnMut(&mut Txn<'_>) -> Result<T>,
    ) -> Result<T> {
        self.run(caller, Effect::Changes, operation)
    }

    /// Runs an operation as [`change`](Self::change) does. One that only opens is not refused when
    /// the filesystem is [sealed](crate::FsCore::seal).
    pub(crate) fn run<T>(
        &self,
        caller: &Caller,
        effect: Effect,
        mut operation: impl FnMut(&mut Txn<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut content = Content::default();
        let mut result = self.run_with(caller, effect, &mut content, &mut operation);
        if matches!(result, Err(Errno::ENOSPC)) && self.core.reclaim() {
            // What others have freed was not free yet.
            result = self.run_with(caller, effect, &mut content, &mut operation);
        }
        let Some(mut missing) = content.missing.take() else {
            return result;
        };
        let bring_ups = &self.inner.bring_ups;
        let (mut turn, mut is_first) = bring_ups.begin(missing.node);
        for _ in 0..MOST_ATTEMPTS {
            content.ready = None;
            // Otherwise another operation has brought it up by now.
            if is_first {
                match missing.bring_up(&self.core.shared) {
                    Ok(ready) => content.ready = Some(ready),
                    // The host has changed the file: the operation looks again.
                    Err(Errno::ESTALE) => {}
                    Err(errno) => return Err(errno),
                }
            }
            let result = self.run_with(caller, effect, &mut content, &mut operation);
            let node = missing.node;
            missing = match content.missing.take() {
                Some(missing) => missing,
                None => return result,
            };
            is_first = true;
            if missing.node != node {
                drop(turn);
                (turn, is_first) = bring_ups.begin(missing.node);
            }
        }
        Err(Errno::ESTALE)
    }

    fn run_with<T>(
        &self,
        caller: &Caller,
        effect: Effect,
        content: &mut Content,
        operation: &mut impl FnMut(&mut Txn<'_>) -> Result<T>,
    ) -> Result<T> {
        let room = match effect {
            Effect::Opens => None,
            Effect::Changes | Effect::ChangesMuch => self.inner.reserve(Purpose::Ordinary)?,
            Effect::Frees => self.inner.reserve(Purpose::Freeing)?,
        };
        let mut state = self.inner.write();
        if effect != Effect::Opens {
            self.core.check_seal()?;
        }
        // A record that is longer than its room may find no more on a nearly full disk.
        let is_long = content.ready.is_some()
            || effect == Effect::ChangesMuch
            || !state.is_in_log()
            || !room.as_ref().is_none_or(Room::is_ample);
        let before = (is_long && room.is_some()).then(|| state.begin());
        let result = self.commit(caller, &mut state, content, operation);
        let written = state.write_changes(room);
        match before {
            Some(before) if written.is_err() => state.take_back(before),
            Some(before) => state.keep(before),
            None => {}
        }
        drop(state);
        self.deliver_for(caller);
        match effect {
            // A store whose disk has failed can still be read, and that an object is gone which
            // only a handle held needs no record.
            Effect::Opens => result,
            Effect::Changes | Effect::ChangesMuch | Effect::Frees => written.and(result),
        }
    }

    /// Runs an operation on a state that is locked. The caller delivers the events after unlocking.
    pub(crate) fn commit<T>(
        &self,
        caller: &Caller,
        state: &mut State,
        content: &mut Content,
        operation: impl FnOnce(&mut Txn<'_>) -> Result<T>,
    ) -> Result<T> {
        let State { tree, handles, .. } = state;
        operation(&mut Txn {
            tree,
            handles,
            caller,
            now: now(),
            content,
            branch: &self.inner,
            bus: &self.core.bus,
        })
    }

    /// Runs an operation that does not change the branch. It may still emit activity.
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
            self.deliver_from(caller.origin);
        }
    }

    /// Delivers after an operation that does not come through the kernel.
    pub(crate) fn deliver_from(&self, origin: Origin) {
        let is_shared = match origin {
            Origin::Session(_) | Origin::Lower | Origin::Restore => true,
            Origin::Local | Origin::Mount(_) => false,
        };
        let _crowd = self.deliver_some(if is_shared { MAX_OF_OTHERS } else { u64::MAX });
    }

    /// Delivers to the event sinks what was committed and not yet delivered, unless another thread
    /// is delivering.
    ///
    /// Only a caller [behind a kernel](Caller::behind_kernel) needs this, after each of its
    /// operations, once the kernel has the answer. All other operations deliver themselves.
    ///
    /// If very many changes wait for another thread, this waits for a moment, so that a program that
    /// makes changes more quickly than they are delivered does not fill the memory with them.
    pub fn deliver(&self) {
        if self.deliver_some(u64::MAX) == Delivery::Crowded {
            std::thread::sleep(CROWDED_PAUSE);
        }
    }

    /// Delivers as [`deliver`](Self::deliver) does, but waits for nothing. Of the changes that other
    /// threads commit meanwhile it delivers at most `more`.
    fn deliver_some(&self, more: u64) -> Delivery {
        if !self.core.bus.is_listening() {
            return Delivery::Over;
        }
        let left = self.inner.outbox.deliver(&self.core.bus, more);
        if left == Delivery::HandOver {
            let branch = self.clone();
            let take_over = move || branch.inner.outbox.take_over(&branch.core.bus);
            let thread = std::thread::Builder::new().name("agentfs-deliver".to_owned());
            if let Err(error) = thread.spawn(take_over) {
                tracing::warn!(%error, "no thread to deliver changes; the committer goes on");
                self.inner.outbox.take_over(&self.core.bus);
            }
        }
        left
    }
}

fn place(branch: &BranchInner, tree: &Tree, dir: NodeId, name: &Name) -> Place {
    Place {
        parent: dir,
        dir: branch.dir_path(tree, dir).unwrap_or_default(),
        name: name.clone(),
    }
}

/// Returns where a handle's name is, or where it was when it was removed.
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

/// Returns the object as it is now. If the host has removed it meanwhile, it is returned as one
/// without a name.
fn node_ref(tree: &Tree, handles: &Handles, node: NodeId) -> Result<NodeRef> {
    let (kind, nlink) = match tree.inode(node) {
        Ok(inode) => (inode.kind(), inode.nlink),
        Err(errno) => {
            let lower = tree.shared.lower.as_ref();
            let kind = lower.and_then(|lower| lower.kind_of(node));
            (kind.ok_or(errno)?, 0)
        }
    };
    Ok(NodeRef {
        id: node,
        kind,
        nlink,
        open: handles.is_open(node),
    })
}

impl View<'_> {
    pub(crate) fn handle(&self, id: HandleId) -> Result<&Handle> {
        self.handles.get(id).ok_or(Errno::EBADF)
    }

    pub(crate) fn served(&self) -> &ServedVersions {
        &self.branch.served
    }

    /// Emits that something was read through the handle, if a sink wants to know; returns whether
    /// there is something to deliver.
    pub(crate) fn emit_read(&self, handle: &Handle) -> Result<bool> {
        if !self.bus.wants_activity(self.branch.id) {
            return Ok(false);
        }
        let at = handle.dentry.as_ref();
        self.branch.outbox.push(
            context(self.caller, now()),
            Change::Read {
                node: node_ref(self.tree, self.handles, handle.node)?,
                at: at.map(|dentry| handle_place(self.branch, self.tree, dentry)),
            },
        );
        Ok(true)
    }
}

fn context(caller: &Caller, now: Nanos) -> EventContext {
    EventContext {
        time_ns: now.unsigned_abs(),
        pid: caller.pid,
        origin: caller.origin,
    }
}

impl Txn<'_> {
    pub(crate) fn handle(&self, id: HandleId) -> Result<&Handle> {
        self.handles.get(id).ok_or(Errno::EBADF)
    }

    pub(crate) fn wants_activity(&self) -> bool {
        self.bus.wants_activity(self.branch.id)
    }

    /// Copies the object up: see [`Tree::copy_up`]. The change is based on the version that the
    /// branch has shown.
    pub(crate) fn copy_up(&mut self, node: NodeId) -> Result<()> {
        self.copy_up_as(node, None)
    }

    /// Copies a file up of which parts stay as they are, so it must still have the version that the
    /// caller has opened.
    ///
    /// # Errors
    ///
    /// `ESTALE` when the host has changed it since.
    pub(crate) fn copy_up_as(&mut self, node: NodeId, opened: Option<Stamp>) -> Result<()> {
        if self.tree.is_own(node) {
            return Ok(());
        }
        let lower = self.tree.shared.lower.as_ref();
        let before = lower.map_or_else(Vec::new, |lower| lower.predecessors(node));
        let based = Based {
            shown: self.branch.served.base(node, &before),
            must_be: opened,
        };
        self.tree.copy_up(node, based)
    }

    /// Copies an object up whose metadata or names are about to change, and [keeps its
    /// content](Tree::keep_content).
    pub(crate) fn copy_up_whole(&mut self, node: NodeId) -> Result<()> {
        if self.tree.is_own(node) {
            return Ok(());
        }
        self.copy_up(node)?;
        self.tree.keep_content(node)
    }

    /// Copies a file up as [`copy_up_as`](Self::copy_up_as) does, and makes its bytes before `end`
    /// the branch's own, so that they can be changed and nothing that the host does changes them.
    ///
    /// # Errors
    ///
    /// Those of [`copy_up_as`](Self::copy_up_as); `EAGAIN` if the bytes have to be brought up first,
    /// which [`Branch::run`] does; `ENOSPC` at the limit.
    pub(crate) fn bring_up(&mut self, node: NodeId, end: u64, opened: Option<Stamp>) -> Result<()> {
        if !self.tree.is_own(node)
            && let Some(needed) = self.tree.needed(node, end)?
        {
            if opened.is_some_and(|opened| opened != needed.stamp) {
                return Err(Errno::ESTALE);
            }
            self.content.require(&needed)?;
        }
        self.copy_up_as(node, opened)?;
        self.tree.take_content(node, end, self.content)
    }

    /// Records that a version of the host's file was opened to be read.
    pub(crate) fn has_served(&self, node: NodeId, stamp: Stamp) {
        self.branch.served.content(node, stamp);
    }

    /// Puts a change into the outbox. `change` is only called if there is a sink.
    pub(crate) fn emit(&self, change: impl FnOnce(&Self) -> Result<Change>) -> Result<()> {
        if !self.bus.is_listening() {
            return Ok(());
        }
        let change = change(self)?;
        let context = context(self.caller, self.now);
        self.branch.outbox.push(context, change);
        Ok(())
    }

    /// Puts a change into the outbox, with another origin than the caller's.
    pub(crate) fn emit_from(&self, origin: Origin, change: Change) {
        if self.bus.is_listening() {
            let context = context(self.caller, self.now);
            self.branch
                .outbox
                .push(EventContext { origin, ..context }, change);
        }
    }

    pub(crate) fn place(&self, dir: NodeId, name: &Name) -> Place {
        place(self.branch, self.tree, dir, name)
    }

    /// Returns the current name of a handle.
    pub(crate) fn handle_place(&self, handle: &Handle) -> Option<Place> {
        match &handle.dentry {
            Some(dentry) => Some(handle_place(self.branch, self.tree, dentry)),
            // The file was opened without a name (`O_TMPFILE`), and may have got one since.
            None => {
                let inode = self.tree.inode(handle.node).ok()?;
                let (dir, name) = inode.names.first()?;
                Some(self.place(dir, name))
            }
        }
    }

    pub(crate) fn node_ref(&self, node: NodeId) -> Result<NodeRef> {
        node_ref(self.tree, self.handles, node)
    }

    /// Forgets the paths of all directories.
    pub(crate) fn forget_dir_paths(&self) {
        self.branch.forget_dir_paths();
    }

    /// Forgets the paths of a directory that has moved, and of all below it.
    pub(crate) fn forget_moved_dir(&self, dir: NodeId) {
        self.branch.forget_moved_dir(dir);
    }

    /// Forgets the path of an empty directory that was removed.
    pub(crate) fn forget_dir_path(&self, dir: NodeId) {
        self.branch.forget_dir_path(dir);
    }

    /// Marks the name as removed in all handles that were opened by it.
    pub(crate) fn detach_handles(&mut self, node: NodeId, dir: NodeId, name: &[u8]) {
        if !self.handles.is_open(node) {
            return;
        }
        let path = self.branch.dir_path(self.tree, dir).unwrap_or_default();
        self.handles.for_name(node, dir, name, |dentry| {
            dentry.gone_from = Some(path.clone());
        });
    }

    /// Forgets an object whose last name was removed, unless a handle holds it.
    pub(crate) fn drop_if_gone(&mut self, node: NodeId) -> Result<()> {
        if self.tree.inode(node)?.nlink > 0 {
            return Ok(());
        }
        if self.handles.is_open(node) {
            self.tree.set_orphan(node, false);
        } else {
            self.forget_or_keep(node);
        }
        Ok(())
    }

    /// Forgets an object that has no name and no handle, unless
    /// [it is kept](crate::Branch::keep_nameless).
    pub(crate) fn forget_or_keep(&mut self, node: NodeId) {
        if self.branch.keeps_nameless() && self.tree.is_own(node) {
            self.tree.set_orphan(node, false);
        } else {
            self.tree.forget(node);
        }
    }
}
