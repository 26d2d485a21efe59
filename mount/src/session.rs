//! Making and taking away mounts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use fuser::Session;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Dev, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::adapter::Adapter;
use crate::error::MountError;
use crate::kernel_mount::{self, Attached};
use crate::location::Location;
use crate::options::MountOptions;

pub(crate) const DEVICE: &str = "/dev/fuse";
/// Dead mounts on top of each other that are cleared away.
const DEAD_MOUNTS: usize = 16;
/// How long a guardian may take.
const GUARDIAN: Duration = Duration::from_secs(1);
/// Sequential reads of the page cache, in KiB; the kernel would limit FUSE to 128.
const READ_AHEAD: &str = "1024";

/// Mounts, and returns the session to be run, and where it is.
pub(crate) fn open(
    adapter: Adapter,
    point: &Path,
    options: &MountOptions,
) -> Result<(Session<Adapter>, Location), MountError> {
    check_device()?;
    clear_dead_mounts(point);
    check_mount_point(point)?;
    let Attached {
        fuse,
        point,
        device,
    } = kernel_mount::attach(point, options)?;
    let config = options.config();
    // The copy shows whether the mount has ended.
    let copy = fuse.try_clone().map_err(MountError::Io);
    let session = copy.and_then(|copy| {
        let session = Session::from_fd(adapter, fuse, config.acl, config);
        Ok((session.map_err(MountError::Io)?, copy))
    });
    match session {
        Ok((session, copy)) => Ok((session, Location::OwnNamespace(point, device, copy.into()))),
        Err(error) => {
            detach(&point, device);
            Err(error)
        }
    }
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
/// and would be in the way of a new one. Usually its guardian is about to take it away, so this waits for
/// the guardian first: two that unmount at the same time could hit the new mount.
fn clear_dead_mounts(point: &Path) {
    if is_dead(point)
        && let Err(error) = wait_for_guardian(point)
    {
        tracing::debug!(%error, "the end of a mount cannot be waited for");
    }
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

/// Waits a little until the mount is not there any more.
fn wait_for_guardian(point: &Path) -> io::Result<()> {
    // proc_pid_mountinfo(5): a change of the mounts is an exceptional condition.
    let mounts = File::open("/proc/self/mountinfo")?;
    let end = Instant::now() + GUARDIAN;
    while is_dead(point) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut polled = [PollFd::new(&mounts, PollFlags::PRI)];
        rustix::event::poll(&mut polled, Some(&left))?;
    }
    Ok(())
}

/// Lets the kernel read further ahead than FUSE's default; only root can, and nothing depends on it.
pub(crate) fn raise_read_ahead(device: u64) {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = fs::write(path, READ_AHEAD) {
        tracing::debug!(%error, "read-ahead stays as it is");
    }
}
