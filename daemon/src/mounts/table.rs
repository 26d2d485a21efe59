//! The table of mounts.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentfs_core::id::{BranchId, MountId};
use parking_lot::{Condvar, Mutex};

/// The mounts of this daemon's branches. Programs name the objects that they watch by the device of
/// the mount.
#[derive(Clone, Debug, Default)]
pub struct MountTable(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    /// A mount is gone.
    shrunk: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    mounts: BTreeMap<MountId, Mount>,
    last: u64,
    /// No thread is to wait any more.
    is_closing: bool,
}

/// One mount of a branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// The branch that the mount shows.
    pub branch: BranchId,
    /// Its device, as `st_dev`.
    pub st_dev: u64,
    /// The mount point, in the mount namespace of the process that mounted it.
    pub path: PathBuf,
}

impl MountTable {
    /// Returns the number of a mount that is about to be made. Its operations have this number as
    /// their origin from the first on.
    #[must_use]
    pub fn reserve(&self) -> MountId {
        let mut table = self.0.table.lock();
        table.last += 1;
        MountId(table.last)
    }

    /// Adds a mount.
    pub fn insert(&self, id: MountId, branch: BranchId, st_dev: u64, path: &Path) {
        let mount = Mount {
            branch,
            st_dev,
            path: path.to_owned(),
        };
        self.0.table.lock().mounts.insert(id, mount);
    }

    /// Removes a mount that is gone.
    pub fn remove(&self, id: MountId) {
        self.0.table.lock().mounts.remove(&id);
        self.0.shrunk.notify_all();
    }

    /// Waits until a mount is gone. Returns whether it is.
    #[must_use]
    pub fn wait_gone(&self, id: MountId, at_most: Duration) -> bool {
        let mut table = self.0.table.lock();
        let is_there = |table: &mut Table| !table.is_closing && table.mounts.contains_key(&id);
        // The table shows how the waiting ended.
        let _ = self.0.shrunk.wait_while_for(&mut table, is_there, at_most);
        !table.mounts.contains_key(&id)
    }

    /// Ends all waiting.
    pub(crate) fn close(&self) {
        self.0.table.lock().is_closing = true;
        self.0.shrunk.notify_all();
    }

    /// Returns whether some mount shows a branch, or any branch.
    #[must_use]
    pub fn shows(&self, branch: Option<BranchId>) -> bool {
        let table = self.0.table.lock();
        let mut mounts = table.mounts.values();
        mounts.any(|mount| branch.is_none_or(|branch| mount.branch == branch))
    }

    /// Calls `with` while no mount can begin to show a branch, unless one shows it already.
    pub(crate) fn unless_shown<T>(&self, branch: BranchId, with: impl FnOnce() -> T) -> Option<T> {
        let table = self.0.table.lock();
        let is_shown = table.mounts.values().any(|mount| mount.branch == branch);
        (!is_shown).then(with)
    }

    /// Returns the mount that has this device.
    #[must_use]
    pub fn by_device(&self, st_dev: u64) -> Option<(MountId, BranchId)> {
        let table = self.0.table.lock();
        let found = table
            .mounts
            .iter()
            .find(|(_, mount)| mount.st_dev == st_dev);
        found.map(|(id, mount)| (*id, mount.branch))
    }

    /// Returns whether there is no mount.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.table.lock().mounts.is_empty()
    }

    /// Returns the mounts that show a branch.
    #[must_use]
    pub fn of_branch(&self, branch: BranchId) -> Vec<MountId> {
        let table = self.0.table.lock();
        let shown = table.mounts.iter().filter(|(_, it)| it.branch == branch);
        shown.map(|(id, _)| *id).collect()
    }

    /// Returns the mounts and their branches by their devices.
    #[must_use]
    pub fn devices(&self) -> HashMap<u64, (MountId, BranchId)> {
        let table = self.0.table.lock();
        let all = table.mounts.iter();
        all.map(|(id, mount)| (mount.st_dev, (*id, mount.branch)))
            .collect()
    }

    /// Returns the mounts numbered higher than `after`.
    #[must_use]
    pub fn after(&self, after: MountId) -> Vec<(MountId, Mount)> {
        let table = self.0.table.lock();
        let rest = table.mounts.range(MountId(after.0.saturating_add(1))..);
        rest.map(|(id, mount)| (*id, mount.clone())).collect()
    }
}
