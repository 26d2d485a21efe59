//! All mounts of a filesystem.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentfs_core::event::{Change, Envelope, EventKind, EventSink, Origin};
use agentfs_core::id::{BranchId, MountId};
use agentfs_core::{Branch, EventsDisabled, FsCore, SubscriptionId};
use parking_lot::RwLock;

use crate::adapter::Adapter;
use crate::echo::{Echo, MountPoint};
use crate::error::{LeaveError, MountError, UnmountError};
use crate::kept::Kept;
use crate::kernel_cache::KernelCache;
use crate::options::MountOptions;
use crate::other_namespace::{self, Unserved};
use crate::server::{Ending, Server};
use crate::session::{self, Opened};

/// A mount, as listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountInfo {
    /// Its number: what [`Origin::Mount`] carries for changes made through it.
    pub id: MountId,
    /// Which branch it shows.
    pub branch: BranchId,
    /// Where it is, in the mount namespace in which it was made.
    pub point: PathBuf,
    /// The device number of its files: `st_dev`.
    pub device: u64,
}

/// The mounts of one filesystem.
///
/// It subscribes to the changes and takes what they made wrong out of the kernel's caches, so it has to
/// be made **before** any other sink subscribes: events are delivered to sinks in the order in which
/// these subscribed, and a program that is notified of a change must find it when it looks.
#[derive(Debug)]
pub struct Mounts {
    fs: FsCore,
    table: Arc<Table>,
    subscription: SubscriptionId,
    at_end: AtEnd,
}

/// What is called when a mount has ended.
#[derive(Clone)]
struct AtEnd(Arc<dyn Fn(MountId) + Send + Sync>);

impl fmt::Debug for AtEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtEnd")
    }
}

#[derive(Debug, Default)]
struct Table {
    last: AtomicU64,
    mounts: RwLock<Arc<Vec<Entry>>>,
}

#[derive(Clone, Debug)]
struct Entry {
    info: MountInfo,
    cache: Arc<KernelCache>,
    echo: Arc<Echo>,
}

impl Entry {
    fn mount_point<'a>(&'a self, processes: &'a [u32]) -> MountPoint<'a> {
        MountPoint {
            device: self.info.device,
            point: &self.info.point,
            processes,
        }
    }
}

impl Mounts {
    /// Returns an empty table of mounts.
    ///
    /// # Errors
    ///
    /// [`EventsDisabled`] when the filesystem does not track events.
    pub fn new(fs: &FsCore) -> Result<Self, EventsDisabled> {
        Self::with_end(fs, |_| {})
    }

    /// Returns an empty table of mounts. `at_end` is called, in some thread, with each mount that has
    /// ended: it was unmounted through its handle, or by any program.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_end(
        fs: &FsCore,
        at_end: impl Fn(MountId) + Send + Sync + 'static,
    ) -> Result<Self, EventsDisabled> {
        let table = Arc::new(Table::default());
        let sink = Arc::new(Invalidator(Arc::clone(&table)));
        let subscription = fs.subscribe_events(sink)?;
        Ok(Self {
            fs: fs.clone(),
            table,
            subscription,
            at_end: AtEnd(Arc::new(at_end)),
        })
    }

    /// Mounts a branch on a directory. A dead mount that is there is cleared away first.
    ///
    /// # Errors
    ///
    /// [`MountError`]; nothing is mounted then.
    pub fn mount(
        &self,
        branch: BranchId,
        point: &Path,
        options: &MountOptions,
    ) -> Result<MountHandle, MountError> {
        self.start(branch, options, false, |adapter| {
            session::open(adapter, point, options)
        })
    }

    /// Goes on with a mount that another server [left](MountHandle::leave), or that a
    /// [keeper](crate::take) has because the server died. Programs that use it notice a pause. Requests
    /// that were not answered are answered now, and names are looked up again.
    ///
    /// No other process may be reading from the descriptor. The branch must know the nodes by the numbers
    /// that they had. A change that was made since the earlier server ended, and not through this mount,
    /// must be emitted by the filesystem after this call: the kernel may still have what was before.
    ///
    /// A request that the earlier server carried out but did not answer is answered as done, except for an
    /// exchange of two names, which is carried out again.
    ///
    /// # Errors
    ///
    /// [`MountError`]; the mount is as it was then, and waits for another server as long as somebody has
    /// its descriptor.
    pub fn take_over(&self, kept: Kept, options: &MountOptions) -> Result<MountHandle, MountError> {
        let branch = self.fs.branch(kept.saved.branch);
        let branch = branch.map_err(|_| MountError::NoBranch)?;
        // What a program removes from now on may be open by a handle of the earlier server.
        branch.keep_nameless(true);
        let handle = self.start(branch.id(), options, true, |adapter| {
            session::resume(adapter, kept, options)
        })?;
        // Asked while it is served: the kernel may wait for a page that is being read.
        if let Some(entry) = self.table.find(handle.info.id) {
            for node in branch.nameless() {
                entry.cache.drop_unless_known(&branch, node);
            }
        }
        Ok(handle)
    }

    /// Forgets what no mount needs any more: objects without a name in branches that no mount shows.
    fn drop_unneeded(table: &Table, branch: &Branch) {
        if table.all().iter().any(|it| it.info.branch == branch.id()) {
            return;
        }
        branch.keep_nameless(false);
        for node in branch.nameless() {
            if let Err(error) = branch.drop_nameless(node) {
                tracing::warn!(%error, "a removed file goes on to take space");
            }
        }
    }

    /// Forgets the objects without a name in all branches that no mount shows. Called when all mounts of an
    /// earlier process are taken over.
    pub fn all_taken_over(&self) {
        for info in self.fs.branches() {
            if let Ok(branch) = self.fs.branch(info.id) {
                Self::drop_unneeded(&self.table, &branch);
            }
        }
    }

    /// Shows a branch in a mount that another process [made](crate::mount_elsewhere), in a mount
    /// namespace of its own, where it has the name `point`. The mount ends with the last process
    /// there. It cannot be unmounted from here, and dropping the handle cuts it off: programs that use
    /// it get errors from then on. Of the options only `threads` and `guarded` count.
    ///
    /// Users and groups are those of the user namespace in which the mount was made: that should map
    /// the ids of its user to themselves.
    ///
    /// # Errors
    ///
    /// [`MountError`]; the mount fails everything then.
    pub fn serve(
        &self,
        branch: BranchId,
        unserved: Unserved,
        point: &Path,
        options: &MountOptions,
    ) -> Result<MountHandle, MountError> {
        self.start(branch, options, false, |adapter| {
            other_namespace::open(adapter, unserved, point, options)
        })
    }

    fn start(
        &self,
        branch: BranchId,
        options: &MountOptions,
        is_taken_over: bool,
        open: impl FnOnce(Adapter) -> Result<Opened, MountError>,
    ) -> Result<MountHandle, MountError> {
        let branch = self.fs.branch(branch).map_err(|_| MountError::NoBranch)?;
        let id = MountId(self.table.last.fetch_add(1, Ordering::Relaxed) + 1);
        let cache = Arc::new(KernelCache::new(id, is_taken_over));
        let case = self.fs.config().case_sensitivity;
        let echo = Arc::new(Echo::new());
        let adapter = Adapter::new(branch.clone(), case, Arc::clone(&cache), Arc::clone(&echo));
        let open_files = Arc::clone(&adapter.open_files);
        let opened = open(adapter)?;
        cache.connect(opened.session.notifier());
        let info = MountInfo {
            id,
            branch: branch.id(),
            point: opened.location.point().to_owned(),
            device: opened.location.device(),
        };
        // From here on changes are invalidated; no request has been answered yet.
        self.table.change(|all| {
            all.push(Entry {
                info: info.clone(),
                cache,
                echo,
            });
        });
        let table = Arc::clone(&self.table);
        let at_end = self.at_end.clone();
        let served = Server::start(opened, id, options, move |ending| {
            if ending == Ending::Unmounted {
                open_files.close_all(&branch, id);
            }
            table.remove(id);
            if ending == Ending::Unmounted {
                Self::drop_unneeded(&table, &branch);
                at_end.0(id);
            }
        });
        let server = served.map_err(|error| {
            self.table.remove(id);
            MountError::Refused(info.point.clone(), error)
        })?;
        tracing::info!(mount = %id, branch = %info.branch, point = %info.point.display(), "mounted");
        Ok(MountHandle { info, server })
    }

    /// Makes the kernel forget what it remembers of all branches, when it is not known what changed.
    /// The kernel asks again when it needs something.
    pub fn forget_all(&self) {
        for entry in self.table.all().iter() {
            if let Ok(branch) = self.fs.branch(entry.info.branch) {
                entry.cache.forget_all(&branch);
            }
        }
    }

    /// Returns the echoes, by which the kernel notifies of changes of other origins.
    #[must_use]
    pub fn echoes(&self) -> Echoes {
        Echoes {
            fs: self.fs.clone(),
            table: Arc::clone(&self.table),
        }
    }

    /// Returns what other event sinks need before they deliver a change.
    #[must_use]
    pub fn settler(&self) -> Settler {
        Settler(Arc::clone(&self.table))
    }

    /// Returns what is mounted now, in the order of mounting.
    #[must_use]
    pub fn list(&self) -> Vec<MountInfo> {
        let all = self.table.all();
        all.iter().map(|entry| entry.info.clone()).collect()
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        if let Err(error) = self.fs.unsubscribe_events(self.subscription) {
            tracing::debug!(%error, "the mounts had no subscription");
        }
    }
}

impl Table {
    fn all(&self) -> Arc<Vec<Entry>> {
        self.mounts.read().clone()
    }

    fn find(&self, id: MountId) -> Option<Entry> {
        self.all().iter().find(|it| it.info.id == id).cloned()
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Entry>)) {
        let mut mounts = self.mounts.write();
        change(Arc::make_mut(&mut mounts));
    }

    fn remove(&self, id: MountId) {
        self.change(|all| all.retain(|entry| entry.info.id != id));
    }
}

/// The first of the event sinks: every other one gets a change when no mount hides it any more.
#[derive(Debug)]
struct Invalidator(Arc<Table>);

impl EventSink for Invalidator {
    fn on_event(&self, _: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        // No lock is held while invalidating: it may wait for requests.
        for entry in self.0.all().iter() {
            let is_own = envelope.origin == Origin::Mount(entry.info.id);
            if entry.info.branch == envelope.branch && !is_own {
                entry.cache.invalidate(&envelope.change);
            }
        }
    }
}

/// Lets a change be seen on the mount through which it was made.
///
/// The kernel carries such a change out after FsCore, in the thread of the program that asked for it.
/// It notifies the watchers on that mount itself, in due time; a sink that delivers the change to
/// others has to wait.
#[derive(Clone, Debug)]
pub struct Settler(Arc<Table>);

impl Settler {
    /// Waits until a change is seen on every mount of its branch: usually some microseconds.
    ///
    /// Event sinks call it before they deliver the change. Those that deliver it to no one need not
    /// wait.
    pub fn settle(&self, envelope: &Envelope) {
        let Origin::Mount(id) = envelope.origin else {
            return;
        };
        for entry in self.0.all().iter().filter(|entry| entry.info.id == id) {
            entry.cache.settle(&envelope.change);
        }
    }
}

/// Replays changes of other origins on a mount, so that the kernel notifies every watcher there: for
/// programs that the library cannot be preloaded into.
#[derive(Clone, Debug)]
pub struct Echoes {
    fs: FsCore,
    table: Arc<Table>,
}

impl Echoes {
    /// Replays a change on one mount; the caller's thread makes a system call there, and must not be
    /// one that the kernel waits for. Changes have to come in their order. The opening of a file is
    /// replayed together with its closing, and reading not at all. A mount in another mount namespace
    /// is reached through the root directories of `processes` there.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such mount or the change is overtaken by others, so that its
    /// directory is gone or cannot be reached by a path that stays in the mount; `Unsupported` when the
    /// mount cannot be reached; otherwise the error of the system call. Nobody was notified then.
    pub fn replay(&self, mount: MountId, processes: &[u32], change: &Change) -> io::Result<()> {
        let (entry, branch) = self.find(mount)?;
        let point = entry.mount_point(processes);
        entry.echo.replay(&branch, &entry.cache, point, change)
    }

    /// Returns whether changes can be replayed on a mount.
    #[must_use]
    pub fn can_replay(&self, mount: MountId, processes: &[u32]) -> bool {
        self.find(mount).is_ok_and(|(entry, branch)| {
            let point = entry.mount_point(processes);
            entry.echo.can_replay(&branch, &entry.cache, point)
        })
    }

    fn find(&self, mount: MountId) -> io::Result<(Entry, Branch)> {
        let all = self.table.all();
        let entry = all.iter().find(|entry| entry.info.id == mount);
        let entry = entry.ok_or(ErrorKind::NotFound)?.clone();
        let branch = self.fs.branch(entry.info.branch)?;
        Ok((entry, branch))
    }
}

/// A mount. It is taken away when this is dropped, in use or not.
#[derive(Debug)]
pub struct MountHandle {
    info: MountInfo,
    server: Server,
}

impl MountHandle {
    /// Returns the mount as [`Mounts::list`] does.
    #[must_use]
    pub fn info(&self) -> &MountInfo {
        &self.info
    }

    /// Returns whether it is still mounted: `umount` may have been used on it.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        !self.server.wait(Duration::ZERO)
    }

    /// Waits until it is unmounted, by any program; returns whether it is.
    #[must_use]
    pub fn wait_unmounted(&self, at_most: Duration) -> bool {
        self.server.wait(at_most)
    }

    /// Returns a copy of its descriptor and what another server has to know, to be kept for the case that
    /// this process dies. While the copy is open, programs wait for another server.
    ///
    /// # Errors
    ///
    /// `NotConnected` when it is mounted no more; otherwise those of dup(2).
    pub fn kept(&self) -> io::Result<Kept> {
        self.server.kept()
    }

    /// Stops serving it without unmounting it, so that another process can take it over: every request is
    /// carried out here and answered, or left to the other one. Programs wait until then. What they have
    /// open in the branch stays open, because this process is about to end; only then may the other one
    /// [take it over](Mounts::take_over), because threads that wait for a request go on to wait for one.
    ///
    /// # Errors
    ///
    /// [`LeaveError`].
    pub fn leave(self) -> Result<Kept, LeaveError> {
        self.server.leave()
    }

    /// Unmounts it if nothing uses it. With `detach` programs that use it may go on: it only loses its
    /// name. A mount of [another namespace](Mounts::serve) always counts as used, and with `detach` it
    /// is cut off.
    ///
    /// # Errors
    ///
    /// [`UnmountError`]; it is still mounted then.
    pub fn unmount(&self, detach: bool) -> Result<(), UnmountError> {
        self.server.unmount(detach)
    }
}

impl Drop for MountHandle {
    fn drop(&mut self) {
        let result = match self.unmount(false) {
            Err(UnmountError::Busy(_)) => self.unmount(true),
            other => other,
        };
        match result {
            Ok(()) | Err(UnmountError::NotMounted(_)) => {}
            Err(error) => tracing::warn!(%error, "a mount stays"),
        }
    }
}
