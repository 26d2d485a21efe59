//! What the kernel may remember of a branch through one mount, and how it is made to forget.
//!
//! The kernel may remember names and attributes for a long time, so what a change of another origin made
//! wrong has to be taken out of the kernel's caches. The kernel itself keeps an old answer from coming
//! after an invalidation in these cases:
//!
//! * *Names and listings*: the kernel looks up and lists under the lock of the directory, and
//!   invalidating an entry takes that lock (`fs/fuse/dir.c: fuse_reverse_inval_entry`), so it comes
//!   after every answer that was given before. Listings are dropped after that.
//! * *Content*: pages are locked while a read is answered, and invalidating waits for them.
//! * *Attributes of an inode that it has*: invalidating moves the inode's `attr_version` on, and an
//!   answer to a request that is older is thrown away (`fuse_change_attributes`).
//!
//! One case is left: an answer that makes a new inode and is on its way while the change happens. To
//! invalidate an inode that does not exist yet does nothing, so every such answer is
//! [admitted](KernelCache::admit): the node is registered first, and looked at again if anything was
//! invalidated since. The invalidation of a node that was registered since the last one first waits
//! for the lock of the directory through which the node was answered.
//!
//! The kernel itself has one gap: it declares attributes fresh before it has copied all of them
//! (`fuse_change_attributes_common`), and stat does not lock. A stat on another processor at that
//! very instant can see an attribute that is older; the next stat does not.

pub(crate) mod page_versions;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use agentfs_core::event::{Change, Place, RenameHow, ResizedBy};
use agentfs_core::id::{MountId, NodeId};
use agentfs_core::{Attr, Branch, Caller, SetAttr, SetTime, Shown, Stamp};
use fuser::{INodeNo, Notifier};
use parking_lot::{Mutex, MutexGuard};

use crate::convert::nanos;
use crate::kernel_cache::page_versions::PageVersion;

/// Shards of the table of known nodes: more than there are worker threads.
const SHARDS: usize = 16;

/// A name that hardly any directory has: invalidating it only waits for the directory's lock, and
/// harms nothing if it is there.
const NO_NAME: &str = "\u{1}";

/// How many invalidations there were before an answer was looked for: see [`KernelCache::mark`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(u64);

#[derive(Debug)]
pub(crate) struct KernelCache {
    mount: MountId,
    /// Whether the kernel may have nodes of which an earlier server told it.
    is_taken_over: bool,
    notifier: OnceLock<Notifier>,
    /// Changes of other origins that were or are being invalidated.
    changes: AtomicU64,
    nodes: [Mutex<HashMap<NodeId, CachedNode>>; SHARDS],
    /// Opens at which the kernel drops older pages and may not have done so yet.
    pub(crate) openings: AtomicUsize,
    /// Held by the one request that waits until pages are dropped.
    pub(crate) dropping: Mutex<()>,
}

/// A node that the kernel has, or is about to have.
#[derive(Debug, Default)]
pub(crate) struct CachedNode {
    /// Answers that named it, less what the kernel forgot.
    lookups: u64,
    /// The directory of the last such answer, until the kernel has certainly taken it in.
    arriving_in: Option<NodeId>,
    /// The attributes of a removed object, which programs may still have as their working directory, or
    /// open as a directory or with `O_PATH`.
    orphan: Option<Box<Attr>>,
    /// The version of the host's file that was answered last.
    pub(crate) version: Option<Stamp>,
    /// The pages of a file that the branch shows as the host has it.
    pub(crate) pages: Option<Box<PageVersion>>,
}

impl KernelCache {
    pub(crate) fn new(mount: MountId, is_taken_over: bool) -> Self {
        Self {
            mount,
            is_taken_over,
            notifier: OnceLock::new(),
            changes: AtomicU64::new(0),
            nodes: std::array::from_fn(|_| Mutex::default()),
            openings: AtomicUsize::new(0),
            dropping: Mutex::new(()),
        }
    }

    pub(crate) fn mount(&self) -> MountId {
        self.mount
    }

    /// Sets how the kernel is made to forget: from now on there is one that remembers.
    pub(crate) fn connect(&self, notifier: Notifier) {
        // Called once, when the session is made.
        drop(self.notifier.set(notifier));
    }

    pub(crate) fn notifier(&self) -> Option<&Notifier> {
        self.notifier.get()
    }

    pub(crate) fn shard(&self, node: NodeId) -> MutexGuard<'_, HashMap<NodeId, CachedNode>> {
        let index = usize::try_from(node.0).unwrap_or_default() % SHARDS;
        self.nodes[index].lock()
    }

    fn is_known(&self, node: NodeId) -> bool {
        node == NodeId::ROOT || self.shard(node).contains_key(&node)
    }

    /// Returns whether an earlier server served this mount.
    pub(crate) fn is_taken_over(&self) -> bool {
        self.is_taken_over
    }

    /// Forgets an object without a name if the kernel does not have it, so that no program has it open.
    pub(crate) fn drop_unless_known(&self, branch: &Branch, node: NodeId) {
        let Some(notifier) = self.notifier() else {
            return;
        };
        // The kernel answers ENOENT for an inode that it does not have. Nothing is made to be forgotten: a
        // negative offset stands for the attributes alone.
        let known = notifier.inval_inode(INodeNo(node.0), -1, 0);
        if known.is_err_and(|error| error.kind() == ErrorKind::NotFound)
            && let Err(error) = branch.drop_nameless(node)
        {
            tracing::warn!(%error, "a removed file goes on to take space");
        }
    }

    /// Returns whether the kernel may have the node.
    fn may_be_known(&self, node: NodeId) -> bool {
        self.is_taken_over || self.is_known(node)
    }

    /// Returns the mark for an answer that will be [admitted](Self::admit). Called before the branch is
    /// asked for it.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.changes.load(Ordering::SeqCst))
    }

    /// Counts an answer that names a node of `parent`, and returns its attributes as they may be
    /// answered.
    pub(crate) fn admit(&self, mark: Mark, branch: &Branch, parent: NodeId, shown: Shown) -> Shown {
        let node = shown.attr.node;
        {
            let mut shard = self.shard(node);
            let known = shard.entry(node).or_default();
            known.lookups += 1;
            known.arriving_in = Some(parent);
            known.orphan = None;
        }
        // An invalidation counts first and looks for the node then. So either it finds the node, or
        // its count is seen here; and the change that it was about is in what is read now.
        let shown = if self.changes.load(Ordering::SeqCst) == mark.0 {
            shown
        } else {
            branch.show_node(node).unwrap_or(shown)
        };
        self.before_attributes_reply(&shown);
        shown
    }

    /// Carries out FORGET: the kernel drops this many lookups of the node.
    pub(crate) fn forget(&self, node: NodeId, lookups: u64) {
        let mut shard = self.shard(node);
        if let Some(known) = shard.get_mut(&node) {
            known.lookups = known.lookups.saturating_sub(lookups);
            if known.lookups == 0 {
                let known = shard.remove(&node);
                self.no_longer_opening(known.and_then(|it| it.pages));
            }
        }
    }

    /// Remembers an object that is gone from the branch while the kernel still has it.
    pub(crate) fn keep_orphan(&self, attr: &Attr) {
        if let Some(known) = self.shard(attr.node).get_mut(&attr.node) {
            known.orphan = Some(Box::new(Attr { nlink: 0, ..*attr }));
        }
    }

    pub(crate) fn orphan(&self, node: NodeId) -> Option<Attr> {
        self.shard(node).get(&node)?.orphan.as_deref().copied()
    }

    /// Changes what is remembered of a removed object, as the kernel allowed it.
    pub(crate) fn change_orphan(&self, node: NodeId, set: &SetAttr) -> Option<Attr> {
        let now = nanos(SystemTime::now());
        let moment = |time| match time {
            SetTime::Now => now,
            SetTime::To(moment) => moment,
        };
        let mut shard = self.shard(node);
        let attr = shard.get_mut(&node)?.orphan.as_deref_mut()?;
        attr.mode = set.mode.unwrap_or(attr.mode);
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.atime = set.atime.map_or(attr.atime, moment);
        attr.mtime = set.mtime.map_or(attr.mtime, moment);
        attr.ctime = now;
        Some(*attr)
    }

    /// Makes the kernel forget what a change of another origin made wrong. When it returns, every
    /// program that looks sees the change.
    ///
    /// May wait for locks that requests in flight hold, so it must not be called by a thread whose
    /// answer the kernel waits for. Another thread has to be there to answer them.
    pub(crate) fn invalidate(&self, change: &Change) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        match change {
            Change::Created { node, at, .. } | Change::Removed { node, at } => {
                self.drop_entry(at);
                self.drop_attributes(node.id);
            }
            Change::Written { node, .. } | Change::Resized { node, .. } => {
                self.drop_content(node.id);
            }
            Change::Attributes { node, .. } | Change::Xattr { node, .. } => {
                self.drop_attributes(node.id);
            }
            Change::Renamed {
                node,
                from,
                to,
                how,
            } => {
                self.drop_entry(from);
                self.drop_entry(to);
                self.drop_attributes(node.id);
                match how {
                    RenameHow::Replaced(other)
                    | RenameHow::ExchangeFirst(other)
                    | RenameHow::ExchangeSecond(other) => self.drop_attributes(other.id),
                    RenameHow::Free => {}
                }
            }
            Change::BranchCreated { .. }
            | Change::SnapshotCreated { .. }
            | Change::Opened { .. }
            | Change::Read { .. }
            | Change::Closed { .. } => {}
        }
    }

    /// Waits until the kernel has carried out a change that came through this mount. The kernel does
    /// that when it has the answer, in the thread of the program that asked. That thread may run later
    /// than ours, so another program could look and still find the state before the change. The kernel
    /// keeps the inode locked all the time, and a request to invalidate an entry "in" the inode waits
    /// for that lock, even if the inode is no directory.
    ///
    /// Must not be called by a thread whose answer the kernel waits for.
    pub(crate) fn settle(&self, change: &Change) {
        match change {
            Change::Created { at, .. } | Change::Removed { at, .. } => self.wait_for(at.parent),
            Change::Resized {
                node,
                by: ResizedBy::OpenTruncate,
                ..
            } => {
                // The exception: the kernel opens a file, and cuts its pages, without the lock.
                self.drop_content(node.id);
            }
            Change::Written { node, .. }
            | Change::Resized { node, .. }
            | Change::Attributes { node, .. }
            | Change::Xattr { node, .. } => self.wait_for(node.id),
            Change::Renamed { from, to, .. } => {
                self.wait_for(from.parent);
                if to.parent != from.parent {
                    self.wait_for(to.parent);
                }
            }
            Change::BranchCreated { .. }
            | Change::SnapshotCreated { .. }
            | Change::Opened { .. }
            | Change::Read { .. }
            | Change::Closed { .. } => {}
        }
    }

    /// Makes the kernel look again at every node it has, and at the names that it may believe to be
    /// free. Those of nodes that are gone are looked up again when that turns out (`ESTALE`).
    ///
    /// As with [`invalidate`](Self::invalidate), no answer may wait for the caller.
    pub(crate) fn forget_all(&self, branch: &Branch) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        let mut nodes = vec![NodeId::ROOT];
        for shard in &self.nodes {
            let shard = shard.lock();
            nodes.extend(shard.keys());
        }
        for node in nodes {
            self.drop_content(node);
            let is_dir = branch.getattr(node).is_ok_and(|attr| attr.kind.is_dir());
            let Some(path) = branch.path_of(node).filter(|_| is_dir) else {
                continue;
            };
            let entries = branch.list(&Caller::root(), path).unwrap_or_default();
            for entry in entries.iter().filter(|entry| !self.is_known(entry.node)) {
                self.forget_name(node, &entry.name);
            }
        }
    }

    /// Makes the kernel look a name up again.
    pub(crate) fn forget_name(&self, parent: NodeId, name: &[u8]) {
        if let Some(notifier) = self.notifier.get() {
            report(notifier.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name)));
        }
    }

    /// Counts an answer that names a node, without regard to what may have happened to it since: the
    /// kernel may not remember it.
    pub(crate) fn count(&self, parent: NodeId, node: NodeId) {
        let mut shard = self.shard(node);
        let known = shard.entry(node).or_default();
        known.lookups += 1;
        known.arriving_in = Some(parent);
    }

    /// Waits until the requests that hold the lock of the inode now have given it back.
    pub(crate) fn wait_for(&self, node: NodeId) {
        if let Some(notifier) = self.notifier.get() {
            let waited = notifier.inval_entry(INodeNo(node.0), OsStr::new(NO_NAME));
            if !matches!(&waited, Err(error) if error.kind() == ErrorKind::NotADirectory) {
                report(waited);
            }
        }
    }

    /// Drops a name, and the listing and the attributes of its directory. The kernel has nothing of a
    /// directory that it does not have.
    fn drop_entry(&self, place: &Place) {
        let Some(notifier) = self.notifier.get() else {
            return;
        };
        if !self.may_be_known(place.parent) {
            return;
        }
        let parent = INodeNo(place.parent.0);
        report(notifier.inval_entry(parent, OsStr::from_bytes(&place.name)));
        self.drop_content(place.parent);
    }

    fn drop_attributes(&self, node: NodeId) {
        // A negative offset leaves the pages.
        self.drop_inode(node, -1);
    }

    /// Drops the pages and the attributes of a node. The caller must not hold up an answer.
    pub(crate) fn drop_content(&self, node: NodeId) {
        self.drop_inode(node, 0);
    }

    fn drop_inode(&self, node: NodeId, offset: i64) {
        let Some(notifier) = self.notifier.get() else {
            return;
        };
        if let Some(parent) = self.arriving_in(node) {
            self.wait_for(parent);
        }
        if self.may_be_known(node) {
            report(notifier.inval_inode(INodeNo(node.0), offset, 0));
        }
    }

    fn arriving_in(&self, node: NodeId) -> Option<NodeId> {
        self.shard(node).get_mut(&node)?.arriving_in.take()
    }
}

/// Logs the error of an invalidation. What the kernel does not have is no error; otherwise only a
/// connection that ended gives one, and with it went the caches.
pub(crate) fn report(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "the kernel did not take an invalidation");
    }
}
