//! Making and taking away mounts.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use fuser::{Session, SessionACL};
use rustix::fs::{AtFlags, Dev, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::adapter::Adapter;
use crate::error::MountError;
use crate::kept::{Kept, SavedMount};
use crate::kernel_mount::{self, Attached};
use crate::location::Location;
use crate::notifications;
use crate::options::MountOptions;

pub(crate) const DEVICE: &str = "/dev/fuse";
/// Dead mounts on top of each other that are cleared away.
const DEAD_MOUNTS: usize = 16;
/// Sequential reads of the page cache, in KiB; the kernel would limit FUSE to 128.
const READ_AHEAD: &str = "1024";

/// A session that is to be run, and what its server needs.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) session: Session<Adapter>,
    pub(crate) location: Location,
    /// A copy of the session's `/dev/fuse`.
    pub(crate) fuse: OwnedFd,
    /// What the next server will have to know.
    pub(crate) saved: SavedMount,
    /// The connection to the keeper that has the mount already.
    pub(crate) keeper: Option<UnixStream>,
}

/// Mounts, and returns the session to be run, and where it is.
pub(crate) fn open(
    adapter: Adapter,
    point: &Path,
    options: &MountOptions,
) -> Result<Opened, MountError> {
    check_device()?;
    clear_dead_mounts(point);
    check_mount_point(point)?;
    let Attached {
        fuse,
        point,
        device,
    } = kernel_mount::attach(point, options)?;
    let config = options.config();
    let (branch, negotiated) = (adapter.branch.id(), Arc::clone(&adapter.negotiated));
    let copy = fuse.try_clone().map_err(MountError::Io);
    let session = copy.and_then(|copy| {
        let session = Session::from_fd(adapter, fuse, config.acl, config);
        Ok((session.map_err(MountError::Io)?, copy))
    });
    let (session, fuse) = session.inspect_err(|_| detach(&point, device))?;
    let saved = SavedMount {
        branch,
        point: point.clone(),
        device,
        is_elsewhere: false,
        group: None,
        lets_others_in: options.lets_others_in(),
        negotiated: negotiated.get().copied().unwrap_or_default(),
        generation: 0,
    };
    Ok(Opened {
        session,
        location: Location::OwnNamespace(point, device),
        fuse,
        saved,
        keeper: None,
    })
}

/// Goes on with a mount that an earlier server left. Requests that it did not answer are sent again.
pub(crate) fn resume(
    mut adapter: Adapter,
    kept: Kept,
    options: &MountOptions,
) -> Result<Opened, MountError> {
    let Kept {
        device: fuse,
        saved,
        keeper,
    } = kept;
    if !kernel_mount::is_fuse(&fuse)
        || kernel_mount::says_otherwise(&fuse, saved.device)
        || kernel_mount::has_ended(&fuse)
        || !saved.negotiated.can_resend()
    {
        return Err(MountError::NoSuchMount);
    }
    adapter.go_on(&saved);
    let mut config = options.config();
    config.acl = if saved.lets_others_in || saved.is_elsewhere {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    let copy = fuse.try_clone().map_err(MountError::Io)?;
    if let Err(error) = notifications::outdate_names(&fuse) {
        tracing::debug!(%error, "names that programs looked up before stay");
    }
    // No thread reads yet.
    notifications::resend(&fuse).map_err(MountError::Io)?;
    let point = saved.point.clone();
    Ok(Opened {
        session: Session::from_initialized_fd(adapter, fuse, config.acl, config),
        location: if saved.is_elsewhere {
            Location::OtherNamespace(point, saved.device)
        } else {
            Location::OwnNamespace(point, saved.device)
        },
        fuse: copy,
        saved,
        keeper,
    })
}

/// Takes away a mount that is not served.
pub(crate) fn detach(point: &Path, device: Dev) {
    if let Err(error) = kernel_mount::unmount(point, device, true)
        && error.kind() != ErrorKind::InvalidInput
    {
        tracing::warn!(point = %point.display(), %error, "a mount stays");
    }
}

/// Checks whether this process can mount at all, as far as `/dev/fuse` goes.
///
/// # Errors
///
/// [`MountError::NoDevice`] and [`MountError::DeviceDenied`], whose texts name the way out.
pub fn check_device() -> Result<(), MountError> {
    match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(_) => Ok(()),
        Err(error) => Err(device_error(error)),
    }
}

/// Returns why the device cannot be opened.
pub(crate) fn device_error(error: io::Error) -> MountError {
    if error.kind() == ErrorKind::NotFound {
        MountError::NoDevice
    } else {
        MountError::DeviceDenied(error)
    }
}

pub(crate) fn check_mount_point(point: &Path) -> Result<(), MountError> {
    let is_dir = fs::metadata(point).and_then(|found| {
        if found.is_dir() {
            Ok(())
        } else {
            Err(ErrorKind::NotADirectory.into())
        }
    });
    is_dir.map_err(|error| MountError::NotADirectory(point.to_owned(), error))
}

/// Takes away what is mounted on a directory if its server died; returns whether there was such a
/// mount, and is none any more. Waits for the answer of a server that lives.
#[must_use]
pub fn clear_dead(point: &Path) -> bool {
    let was_dead = is_dead(point);
    clear_dead_mounts(point);
    was_dead && !is_dead(point)
}

/// Takes dead mounts away from a directory. A mount whose server died answers everything with `ENOTCONN`,
/// and would be in the way of a new one.
fn clear_dead_mounts(point: &Path) {
    for _ in 0..DEAD_MOUNTS {
        let Some(device) = dead(point) else {
            return;
        };
        tracing::info!(point = %point.display(), "clearing away a dead mount");
        if let Err(error) = kernel_mount::unmount(point, device, true) {
            tracing::warn!(point = %point.display(), %error, "a dead mount stays");
            return;
        }
    }
}

fn is_dead(point: &Path) -> bool {
    dead(point).is_some()
}

/// Returns the device of what lies on top at a directory, if its server died.
fn dead(point: &Path) -> Option<Dev> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = rustix::fs::open(point, flags, Mode::empty()).ok()?;
    // Without this the kernel would answer from its cache, for a dead mount too.
    let flags = AtFlags::STATX_FORCE_SYNC | AtFlags::EMPTY_PATH;
    let asked = rustix::fs::statx(&opened, "", flags, StatxFlags::BASIC_STATS);
    if !matches!(asked, Err(Errno::NOTCONN | Errno::CONNABORTED)) {
        return None;
    }
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::EMPTY_PATH;
    let seen = rustix::fs::statx(&opened, "", flags, StatxFlags::empty()).ok()?;
    Some(rustix::fs::makedev(seen.stx_dev_major, seen.stx_dev_minor))
}

/// Lets the kernel read further ahead than FUSE's default; only root can, and nothing depends on it.
pub(crate) fn raise_read_ahead(device: u64) {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = fs::write(path, READ_AHEAD) {
        tracing::debug!(%error, "read-ahead stays as it is");
    }
}
