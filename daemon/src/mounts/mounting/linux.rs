//! Branches as mounts of this process.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentfs_core::event::Envelope;
use agentfs_core::id::{BranchId, MountId};
use agentfs_core::{EventsDisabled, FsCore};
use agentfs_mount::{
    KeeperOptions, MountError, MountHandle, MountOptions, Mounts, TakeError, UnmountError, Unserved,
};
use agentfs_proto::message::{Code, MountServe};
use parking_lot::Mutex;

use crate::base::config::{Config, KeptMounts};
use crate::base::echo_mode::EchoMode;
use crate::base::refusal::Refusal;
use crate::base::wake::{Wake, WakeQueue};
use crate::mounts::echo::Echoing;
use crate::mounts::table::{Mount, MountTable};

/// How long the threads of a killed daemon may take to end.
const DYING: Duration = Duration::from_secs(20);

/// The mounts of this daemon. They end with it, unless it is killed and they are kept.
#[derive(Debug)]
pub(crate) struct Mounting {
    core: FsCore,
    mounts: Mounts,
    table: MountTable,
    /// The mounts by number: several may have one path, each in a mount namespace of its own.
    handles: Mutex<BTreeMap<MountId, MountHandle>>,
    /// How mounts are kept when this daemon is killed.
    keeper: Option<KeeperOptions>,
    /// What the next daemon has to reach before it can serve any mount.
    needed: Vec<PathBuf>,
}

impl Mounting {
    /// Creates a set without mounts. This has to come before any event sink subscribes: see
    /// [`Mounts`].
    pub(crate) fn new(
        core: &FsCore,
        table: &MountTable,
        wakes: &Arc<WakeQueue>,
        config: &Config,
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
            keeper: config.keeping.clone().map(keeper_options),
            needed: [&config.lower, &config.store]
                .into_iter()
                .flatten()
                .filter_map(|path| fs::canonicalize(path).ok())
                .collect(),
        })
    }

    /// Takes over the mounts of a daemon that was killed, if mounts are kept.
    ///
    /// # Errors
    ///
    /// Those of the directory in which they are found. A mount that cannot be taken over is reported,
    /// and stays with its keeper.
    pub(crate) fn take_over(&self) -> io::Result<()> {
        let Some(keeper) = &self.keeper else {
            return Ok(());
        };
        make_private(&keeper.directory)?;
        for socket in agentfs_mount::kept_in(&keeper.directory)? {
            self.take_over_from(&socket);
        }
        self.mounts.all_taken_over();
        Ok(())
    }

    fn take_over_from(&self, socket: &Path) {
        let kept = match agentfs_mount::take(socket, DYING) {
            Ok(kept) => kept,
            Err(TakeError::NoKeeper(_)) => {
                // The keeper was killed as well, and its mount has ended.
                return drop(fs::remove_file(socket));
            }
            Err(error) => return tracing::warn!(%error, "a mount is not taken over"),
        };
        let point = kept.saved.point.clone();
        let taken = self.mounts.take_over(kept, &self.options());
        let kept = taken.map_err(refused).and_then(|it| self.keep(it));
        if let Err(refusal) = kept {
            let (point, reason) = (point.display(), refusal.0.message);
            tracing::warn!(%point, reason, "a mount is not taken over");
        }
    }

    /// Returns the options of all mounts.
    fn options(&self) -> MountOptions {
        MountOptions {
            keeper: self.keeper.clone(),
            ..MountOptions::default()
        }
    }

    /// Returns the options of a mount at this path. It is not kept if the next daemon would have to wait
    /// for the mount before it can serve it.
    fn options_at(&self, point: &Path) -> MountOptions {
        let mut options = self.options();
        let point = fs::canonicalize(point).unwrap_or_else(|_| point.to_owned());
        if self.needed.iter().any(|path| path.starts_with(&point)) {
            options.keeper = None;
        }
        options
    }

    /// Starts the echo on these mounts.
    pub(crate) fn echo(&self, mode: EchoMode) -> io::Result<Echoing> {
        Echoing::start(mode, &self.table, self.mounts.echoes())
    }

    /// Returns what event sinks call before they deliver a change.
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
            .mount(branch, point, &self.options_at(point))
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
            .serve(branch, unserved, point, &self.options())
            .map_err(refused)?;
        self.keep(handle)
    }

    /// Keeps a mount, unless its branch was deleted while it was made.
    fn keep(&self, handle: MountHandle) -> Result<(MountId, Mount), Refusal> {
        let info = handle.info().clone();
        self.table
            .insert(info.id, info.branch, info.device, &info.point);
        if !handle.is_mounted() {
            // The mount ended before it was in the table.
            self.table.remove(info.id);
        }
        // From here on the mount keeps the branch from being deleted.
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

    /// Unmounts a mount point, also of a mount that a killed daemon left behind.
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

fn keeper_options(kept: KeptMounts) -> KeeperOptions {
    let KeptMounts {
        program,
        arguments,
        directory,
        patience,
        next_daemon,
    } = kept;
    KeeperOptions {
        program,
        arguments,
        directory,
        patience,
        next_server: next_daemon,
    }
}

/// Creates a directory for this user alone, or checks that it is one.
fn make_private(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    let found = fs::symlink_metadata(directory)?;
    let is_own = found.uid() == rustix::process::geteuid().as_raw();
    if !found.is_dir() || !is_own || found.mode() & 0o077 != 0 {
        let text = format!(
            "{} has to be a directory that only its user may enter; move it away",
            directory.display()
        );
        return Err(io::Error::other(text));
    }
    Ok(())
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
