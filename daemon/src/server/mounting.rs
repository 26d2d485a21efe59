//! Branches as mounts of this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use agentfs_core::event::Envelope;
use agentfs_core::id::{BranchId, MountId};
use agentfs_core::{EventsDisabled, FsCore};
use agentfs_mount::{MountError, MountHandle, MountOptions, Mounts, UnmountError};
use agentfs_proto::message::Code;

use super::mounts::{Mount, MountTable};
use super::refusal::Refusal;
use super::services::lock;

/// The mounts of this daemon. They are taken away with it.
#[derive(Debug)]
pub(crate) struct Mounting {
    mounts: Mounts,
    table: MountTable,
    handles: Mutex<BTreeMap<PathBuf, MountHandle>>,
}

impl Mounting {
    /// No mounts yet. To be made before any event sink subscribes: see [`Mounts`].
    pub(crate) fn new(core: &FsCore, table: &MountTable) -> Result<Self, EventsDisabled> {
        let ended = table.clone();
        Ok(Self {
            mounts: Mounts::with_end(core, move |id| ended.remove(id))?,
            table: table.clone(),
            handles: Mutex::default(),
        })
    }

    /// What event sinks call before they tell somebody of a change.
    pub(crate) fn settler(&self) -> impl Fn(&Envelope) + Send + Sync + 'static {
        let settler = self.mounts.settler();
        move |envelope| settler.settle(envelope)
    }

    /// Makes the kernel ask again for everything, on all mounts.
    pub(crate) fn forget_all(&self) {
        self.mounts.forget_all();
    }

    /// Mounts a branch on a directory.
    pub(crate) fn mount(
        &self,
        branch: BranchId,
        point: &Path,
    ) -> Result<(MountId, Mount), Refusal> {
        let handle = self
            .mounts
            .mount(branch, point, &MountOptions::default())
            .map_err(refused)?;
        let info = handle.info().clone();
        self.table
            .insert(info.id, info.branch, info.device, &info.point);
        let mount = Mount {
            branch: info.branch,
            st_dev: info.device,
            path: info.point.clone(),
        };
        let mut handles = lock(&self.handles);
        handles.retain(|_, handle| handle.is_mounted());
        handles.insert(info.point, handle);
        Ok((info.id, mount))
    }

    /// Takes a mount away.
    pub(crate) fn unmount(&self, point: &Path, detach: bool) -> Result<(), Refusal> {
        let mut handles = lock(&self.handles);
        handles.retain(|_, handle| handle.is_mounted());
        let missing = || UnmountError::NotMounted(point.to_owned());
        let handle = handles.get(point).ok_or_else(missing);
        handle
            .and_then(|handle| handle.unmount(detach))
            .map_err(still_mounted)?;
        handles.remove(point);
        Ok(())
    }
}

fn refused(error: MountError) -> Refusal {
    let code = match error {
        MountError::NotADirectory(..) | MountError::NoBranch | MountError::NoSuchMount => {
            Code::NOT_FOUND
        }
        MountError::NoDevice | MountError::DeviceDenied(_) | MountError::NoHelper => {
            Code::UNSUPPORTED
        }
        MountError::Refused(..) | MountError::Io(_) => Code::RESOURCES,
    };
    Refusal::new(code, error.to_string())
}

fn still_mounted(error: UnmountError) -> Refusal {
    let code = match error {
        UnmountError::Busy(_) => Code::BUSY,
        UnmountError::NotMounted(_) => Code::NOT_FOUND,
        UnmountError::Refused(..) => Code::RESOURCES,
    };
    Refusal::new(code, error.to_string())
}
