//! Mounts that another process made, in a mount namespace of its own.
//!
//! Such a process opens `/dev/fuse`, mounts, and passes the descriptor on: [`mount_elsewhere`]. The
//! process that [serves](crate::Mounts::serve) the mount sees nothing of that namespace. The mount ends
//! with the last process there, and the kernel then closes the connection.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use fuser::Session;
use rustix::fs::CWD;

use crate::adapter::Adapter;
use crate::error::MountError;
use crate::kept::SavedMount;
use crate::kernel_mount;
use crate::location::Location;
use crate::options::MountOptions;
use crate::session::{Opened, check_mount_point};

/// How long to wait for the first request of a kernel that has already mounted.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// A mount that waits for a process to serve it.
#[derive(Debug)]
pub struct Unserved {
    /// `/dev/fuse`, to be passed on. While a copy is open the mount answers nothing and fails
    /// nothing, so the process that mounted should close its own.
    pub device: OwnedFd,
    /// The device number of the mount's files: `st_dev`.
    pub st_dev: u64,
    /// The one group that the user namespace of the mount knows; `None` when it knows all. All
    /// files are shown as this group's: the kernel lets no program, not even the owner's, write to a
    /// file whose group is unknown there (`inode_permission`).
    pub group: Option<u32>,
}

/// Mounts on a directory in the calling thread's mount namespace, for another process to
/// [serve](crate::Mounts::serve) it: until then everything there waits.
///
/// Asks only for what a user namespace of its own is allowed. The options `threads`, `others` and
/// `guarded` have no effect: every program in the user namespace of the mount may enter, and no other
/// one.
///
/// # Errors
///
/// [`MountError`]; nothing is mounted then.
pub fn mount_elsewhere(point: &Path, options: &MountOptions) -> Result<Unserved, MountError> {
    check_mount_point(point)?;
    let refused = |error: io::Error| MountError::Refused(point.to_owned(), error);
    // With allow_other the kernel lets in the processes of the mount's user namespace; without, those
    // that have the mount's user and group (fuse_allow_current_process). An ordinary user's namespace
    // has no others, and the daemon, which makes the echo, is outside of it.
    let options = MountOptions {
        others: None,
        ..options.clone()
    };
    let device = kernel_mount::mount(point, &options)?;
    let device = device.ok_or_else(|| refused(rustix::io::Errno::PERM.into()))?;
    // The server is not asked, because it is not there yet.
    let st_dev = match kernel_mount::connection_of(&device) {
        Some(st_dev) => st_dev,
        None => kernel_mount::top(CWD, point).map_err(refused)?,
    };
    Ok(Unserved {
        device,
        st_dev,
        group: only_group(),
    })
}

/// Returns the group of this process, if its user namespace does not know all others
/// (user_namespaces(7)).
fn only_group() -> Option<u32> {
    let map = std::fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
    let counts = map
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2));
    let knows_all = counts
        .filter_map(|it| it.parse::<u32>().ok())
        .any(|it| it > 1);
    (!knows_all).then(|| rustix::process::getgid().as_raw())
}

/// Opens a session of a mount that is already made.
pub(crate) fn open(
    mut adapter: Adapter,
    unserved: Unserved,
    point: &Path,
    options: &MountOptions,
) -> Result<Opened, MountError> {
    let Unserved {
        device,
        st_dev,
        group,
    } = unserved;
    adapter.group = group;
    if !kernel_mount::is_fuse(&device) || kernel_mount::says_otherwise(&device, st_dev) {
        return Err(MountError::NoSuchMount);
    }
    let fuse = device.try_clone().map_err(MountError::Io)?;
    let (branch, negotiated) = (adapter.branch.id(), Arc::clone(&adapter.negotiated));
    let mut config = options.config();
    // The kernel decides by the options of the mount which programs may enter.
    config.acl = fuser::SessionACL::All;
    // The kernel's first request is there when something is mounted. The process that passed the
    // descriptor may have lied about that: then only the thread waits in vain.
    let (opened, opens) = mpsc::channel();
    let open = move || {
        // The receiver may be gone.
        drop(opened.send(Session::from_fd(adapter, device, config.acl, config)));
    };
    std::thread::Builder::new()
        .name("agentfs-first-word".to_owned())
        .spawn(open)
        .map_err(MountError::Io)?;
    let session = match opens.recv_timeout(FIRST_WORD) {
        Ok(session) => session.map_err(MountError::Io)?,
        Err(_) => return Err(MountError::NoSuchMount),
    };
    let saved = SavedMount {
        branch,
        point: point.to_owned(),
        device: st_dev,
        is_elsewhere: true,
        group,
        lets_others_in: true,
        negotiated: negotiated.get().copied().unwrap_or_default(),
        generation: 0,
    };
    Ok(Opened {
        session,
        location: Location::OtherNamespace(point.to_owned(), st_dev),
        fuse,
        saved,
        keeper: None,
    })
}
