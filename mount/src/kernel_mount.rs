//! Attaching a FUSE mount to a directory, and taking it away.
//!
//! fuser can do both, but it unmounts by path when a session has ended, whatever is mounted there by
//! then: it takes the error that the device has after an unmount for a sign that it is still mounted
//! (`mnt/mod.rs: is_mounted`, 0.18.0). So sessions are made from a descriptor, and fuser has nothing to
//! take away. Here a mount is taken away only if it is the one on top.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Dev, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::error::MountError;
use crate::options::MountOptions;
use crate::session::{DEVICE, device_error};

/// The device number of `/dev/fuse` (Documentation/admin-guide/devices.txt).
const DEVICE_NUMBER: (u32, u32) = (10, 229);
/// Mounts and unmounts for ordinary users.
const HELPER: &str = "fusermount3";

/// A mount that was made.
#[derive(Debug)]
pub(crate) struct Attached {
    /// `/dev/fuse`.
    pub(crate) fuse: OwnedFd,
    /// Where: the path that the directory had when it was opened, without symbolic links.
    pub(crate) point: PathBuf,
    /// The device number of its files.
    pub(crate) device: Dev,
}

/// Mounts on a directory, by system call or by the helper.
pub(crate) fn attach(point: &Path, options: &MountOptions) -> Result<Attached, MountError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(point, flags, Mode::empty())
        .map_err(|error| MountError::NotADirectory(point.to_owned(), error.into()))?;
    // What is checked here is what is mounted on, whatever becomes of the path.
    let pinned = format!("/proc/self/fd/{}", dir.as_raw_fd());
    let refused = |error: io::Error| MountError::Refused(point.to_owned(), error);
    let named = std::fs::read_link(&pinned).map_err(refused)?;
    let fuse = match mount(Path::new(&pinned), options)? {
        Some(fuse) => fuse,
        None => mount_by_helper(&named, options)?,
    };
    let device = match connection_of(fuse.as_fd()) {
        Some(device) => device,
        None => top(CWD, &named).map_err(refused)?,
    };
    Ok(Attached {
        fuse,
        point: named,
        device,
    })
}

/// Mounts by system call. Returns `None` when an ordinary user may not do that.
pub(crate) fn mount(point: &Path, options: &MountOptions) -> Result<Option<OwnedFd>, MountError> {
    let fuse = OpenOptions::new().read(true).write(true).open(DEVICE);
    let fuse = OwnedFd::from(fuse.map_err(device_error)?);
    let others = if options.lets_others_in() {
        ",allow_other"
    } else {
        ""
    };
    // The kernel's parser of options: fs/fuse/inode.c, fuse_fs_parameters. 40000 is S_IFDIR.
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions,subtype=agentfs{others}",
        fuse.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    // The text has no zero byte.
    let data = CString::new(data).unwrap_or_default();
    let data = Some(data.as_c_str());
    match rustix::mount::mount("agentfs", point, "fuse", options.flags(), data) {
        Ok(()) => Ok(Some(fuse)),
        Err(Errno::PERM) => Ok(None),
        Err(error) => Err(MountError::Refused(point.to_owned(), error.into())),
    }
}

/// Mounts by fusermount3, which sends the descriptor over the socket that is its standard input.
fn mount_by_helper(point: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let refused = |error: io::Error| MountError::Refused(point.to_owned(), error);
    let (ours, theirs) = UnixStream::pair().map_err(MountError::Io)?;
    let mut command = Command::new(HELPER);
    command
        .args(["-o", &options.for_helper(), "--"])
        .arg(point)
        .env("_FUSE_COMMFD", "0")
        .env("LC_ALL", "C")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            MountError::NoHelper
        } else {
            MountError::Io(error)
        }
    })?;
    // The other end is the helper's alone from now on, so its end is seen.
    drop(command);
    let received = receive(&ours);
    let ended = child.wait_with_output().map_err(MountError::Io)?;
    match received.map_err(MountError::Io)? {
        Some(fuse) => Ok(fuse),
        None => {
            let text = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
            Err(refused(io::Error::new(ErrorKind::PermissionDenied, text)))
        }
    }
}

/// Receives the descriptor that comes with a byte.
pub(crate) fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::io::retry_on_intr(|| {
        let parts = &mut [IoSliceMut::new(&mut byte)];
        recvmsg(socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return Ok(descriptors.next());
        }
    }
    Ok(None)
}

/// Unmounts what has this device, if it lies on top at `point`; `detach` takes away what is in use
/// too. `InvalidInput` when something else, or nothing, is there.
pub(crate) fn unmount(point: &Path, device: Dev, detach: bool) -> io::Result<()> {
    let flags = if detach {
        UnmountFlags::DETACH | UnmountFlags::NOFOLLOW
    } else {
        UnmountFlags::NOFOLLOW
    };
    // The directory in which the mount point lies is held, so whoever may rename directories above
    // it cannot have another mount looked at, or taken away. The mount point itself the kernel holds.
    let (above, name) = match (point.parent(), point.file_name()) {
        // The directory above a relative path of one name has the empty path.
        (Some(above), Some(name)) if above.as_os_str().is_empty() => {
            (Path::new("."), Path::new(name))
        }
        (Some(above), Some(name)) => (above, Path::new(name)),
        _ => (point, Path::new(".")),
    };
    let opened = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = rustix::fs::open(above, opened, Mode::empty())?;
    if top(&above, name)? != device {
        return Err(ErrorKind::InvalidInput.into());
    }
    let held = format!("/proc/self/fd/{}", above.as_raw_fd());
    match rustix::mount::unmount(Path::new(&held).join(name), flags) {
        Err(Errno::PERM) => unmount_by_helper(point, detach),
        other => Ok(other?),
    }
}

/// Unmounts by fusermount3, which itself looks whether the mount is this user's.
fn unmount_by_helper(point: &Path, detach: bool) -> io::Result<()> {
    let mut command = Command::new(HELPER);
    command.arg("-u");
    if detach {
        command.arg("-z");
    }
    let output = command
        .arg("--")
        .arg(point)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let is_busy = text.contains("busy");
    let kind = if is_busy {
        ErrorKind::ResourceBusy
    } else {
        ErrorKind::PermissionDenied
    };
    Err(io::Error::new(kind, text))
}

/// Returns the device of what lies on top at a path, as the kernel knows it: a server is not asked.
pub(crate) fn top(at: impl AsFd, path: &Path) -> io::Result<Dev> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
    let seen = rustix::fs::statx(at, path, flags, StatxFlags::empty())?;
    Ok(rustix::fs::makedev(seen.stx_dev_major, seen.stx_dev_minor))
}

/// Returns whether the kernel has ended the connection of a `/dev/fuse`: as long as it has not, no
/// other mount has the device number.
pub(crate) fn has_ended(fuse: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(fuse, PollFlags::empty())];
    let ready = rustix::io::retry_on_intr(|| poll(&mut polled, Some(&Timespec::default())));
    // fuse_dev_poll (fs/fuse/dev.c).
    ready.is_err() || polled[0].revents().contains(PollFlags::ERR)
}

/// Returns the device number of the mount to which a `/dev/fuse` belongs, if the kernel says it.
pub(crate) fn connection_of(fuse: impl AsFd) -> Option<Dev> {
    let path = format!("/proc/self/fdinfo/{}", fuse.as_fd().as_raw_fd());
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    let number = text
        .lines()
        .find_map(|line| line.strip_prefix("fuse_connection:"))?;
    let number: u32 = number.trim().parse().ok()?;
    // The kernel's own encoding (include/linux/kdev_t.h).
    Some(rustix::fs::makedev(number >> 20, number & 0xF_FFFF))
}

/// Returns whether a descriptor is a `/dev/fuse`.
pub(crate) fn is_fuse(device: &OwnedFd) -> bool {
    let Ok(found) = rustix::fs::fstat(device) else {
        return false;
    };
    let number = (
        rustix::fs::major(found.st_rdev),
        rustix::fs::minor(found.st_rdev),
    );
    rustix::fs::FileType::from_raw_mode(found.st_mode).is_char_device() && number == DEVICE_NUMBER
}

/// Returns whether the kernel says that the descriptor belongs to another mount; older kernels say
/// nothing.
pub(crate) fn says_otherwise(device: &OwnedFd, st_dev: u64) -> bool {
    connection_of(device).is_some_and(|it| it != st_dev)
}
