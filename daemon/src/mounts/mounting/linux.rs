//! Branches as mounts of this process.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use agentfs_core::event::Envelope;
use agentfs_core::id::{BranchId, MountId};
use agentfs_core::{EventsDisabled, FsCore};
use agentfs_mount::{MountError, MountHandle, MountOptions, Mounts, UnmountError, Unserved};
use agentfs_proto::message::{Code, MountServe};
use parking_lot::Mutex;

use crate::base::echo_mode::EchoMode;
use crate::base::refusal::Refusal;
use crate::base::wake::{Wake, WakeQueue};
use crate::mounts::echo::Echoing;
use crate::mounts::table::{Mount, MountTable};

/// The mounts of this daemon. They are taken away with it.
#[derive(Debug)]
pub(crate) struct Mounting {
    core: FsCore,
    mounts: Mounts,
    table: MountTable,
    /// Several may have one path, each in a mount namespace of its own.
    handles: Mutex<BTreeMap<MountId, MountHandle>>,
}

impl Mounting {
    /// No mounts yet. To be made before any event sink subscribes: see [`Mounts`].
    pub(crate) fn new(
        core: &FsCore,
        table: &MountTable,
        wakes: &Arc<WakeQueue>,
    ) -> Result<Self, EventsDisabled> {
        let (ended, wakes) = (table.clone(), Arc::clone(wakes));
        let at_end = move |id| {
            ended.remove(id);
            wakes.send(Wake::MountEnded);
        };
        Ok(Self {
            core: core.clone(),
            mounts: Mounts::with_end(core, at_end)?,
            table: table.clone(),
            handles: Mutex::default(),
        })
    }

    /// What has the kernel tell on these mounts.
    pub(crate) fn echo(&self, mode: EchoMode) -> io::Result<Echoing> {
        Echoing::start(mode, &self.table, self.mounts.echoes())
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
        self.keep(handle)
    }

    /// Shows a branch in a mount that another process made, in a mount namespace of its own.
    pub(crate) fn serve(
        &self,
        branch: BranchId,
        device: OwnedFd,
        request: &MountServe,
    ) -> Result<(MountId, Mount), Refusal> {
        let unserved = Unserved {
            device,
            st_dev: request.st_dev,
            group: Some(request.group).filter(|it| *it != u32::MAX),
        };
        let point = request.path.as_path();
        let handle = self
            .mounts
            .serve(branch, unserved, point, &MountOptions::default())
            .map_err(refused)?;
        self.keep(handle)
    }

    /// Remembers a mount, unless its branch was deleted while it was made.
    fn keep(&self, handle: MountHandle) -> Result<(MountId, Mount), Refusal> {
        let info = handle.info().clone();
        self.table
            .insert(info.id, info.branch, info.device, &info.point);
        if !handle.is_mounted() {
            // It ended before it was in the table.
            self.table.remove(info.id);
        }
        // From here on it is in the way of whoever deletes the branch.
        if self.core.branch(info.branch).is_err() {
            self.table.remove(info.id);
            return Err(refused(MountError::NoBranch));
        }
        let mut handles = self.handles.lock();
        handles.retain(|_, handle| handle.is_mounted());
        handles.insert(info.id, handle);
        let mount = Mount {
            branch: info.branch,
            st_dev: info.device,
            path: info.point,
        };
        Ok((info.id, mount))
    }

    /// Takes a mount away, also one that a daemon left which was killed.
    pub(crate) fn unmount(&self, point: &Path, detach: bool) -> Result<(), Refusal> {
        match self.unmount_own(point, detach) {
            Err(UnmountError::NotMounted(_)) if agentfs_mount::clear_dead(point) => Ok(()),
            other => other.map_err(still_mounted),
        }
    }

    fn unmount_own(&self, point: &Path, detach: bool) -> Result<(), UnmountError> {
        let mut handles = self.handles.lock();
        handles.retain(|_, handle| handle.is_mounted());
        let missing = || UnmountError::NotMounted(point.to_owned());
        let found = handles
            .values()
            .find(|handle| handle.info().point == point)
            .ok_or_else(missing);
        let unmounted = found.and_then(|handle| {
            handle.unmount(detach)?;
            Ok(handle.info().id)
        });
        handles.remove(&unmounted?);
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
        UnmountError::Busy(_) | UnmountError::Covered(_) => Code::BUSY,
        UnmountError::NotMounted(_) => Code::NOT_FOUND,
        UnmountError::Refused(..) => Code::RESOURCES,
    };
    Refusal::new(code, error.to_string())
}
