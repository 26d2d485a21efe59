//! Where a mount is, and how it is taken away from there.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{CWD, Dev, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::kernel_mount;
use crate::session;

/// Where the kernel lets connections be aborted, one directory for each.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Where a mount is, and the device of its files.
#[derive(Debug)]
pub(crate) enum Location {
    /// In the mount namespace of this process.
    OwnNamespace(PathBuf, Dev),
    /// In another mount namespace, where it has this name.
    OtherNamespace(PathBuf, Dev),
}

impl Location {
    pub(crate) fn point(&self) -> &Path {
        match self {
            Self::OwnNamespace(point, _) | Self::OtherNamespace(point, _) => point,
        }
    }

    pub(crate) fn device(&self) -> Dev {
        match self {
            Self::OwnNamespace(_, device) | Self::OtherNamespace(_, device) => *device,
        }
    }
}

/// A copy of a `/dev/fuse`, to see whether the mount is still there, and to be passed on. It is closed
/// when this process does not serve the mount any more: as long as a copy is open, the kernel waits for
/// answers.
#[derive(Debug)]
pub(crate) struct Live(Mutex<Option<OwnedFd>>);

impl From<OwnedFd> for Live {
    fn from(fuse: OwnedFd) -> Self {
        Self(Mutex::new(Some(fuse)))
    }
}

impl Live {
    pub(crate) fn has_ended(&self) -> bool {
        self.0.lock().as_ref().is_none_or(kernel_mount::has_ended)
    }

    /// Returns another copy.
    pub(crate) fn copy(&self) -> io::Result<OwnedFd> {
        let fuse = self.0.lock();
        fuse.as_ref().ok_or(ErrorKind::NotConnected)?.try_clone()
    }

    pub(crate) fn close(&self) {
        self.0.lock().take();
    }
}

/// A mount that is there.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) location: Location,
    pub(crate) live: Live,
    /// The file whose writing ends the connection, whatever becomes of its number. `None` if this
    /// process may not do that.
    pub(crate) connection: Option<File>,
}

impl Located {
    pub(crate) fn new(location: Location, fuse: OwnedFd) -> Self {
        let device = location.device();
        session::raise_read_ahead(device);
        let connection = connection(device);
        if let Err(error) = &connection {
            tracing::debug!(%error, "the connection of a mount cannot be ended by hand");
        }
        Self {
            location,
            live: fuse.into(),
            connection: connection.ok(),
        }
    }

    /// Returns whether another mount lies over this one, and would be taken away in its stead.
    pub(crate) fn is_covered(&self) -> bool {
        match &self.location {
            Location::OwnNamespace(point, device) => {
                !self.live.has_ended()
                    && kernel_mount::top(CWD, point).is_ok_and(|top| top != *device)
            }
            Location::OtherNamespace(..) => false,
        }
    }

    /// Takes the mount away when no process serves it any more, unless the kernel has ended it.
    pub(crate) fn end(&self) {
        if let Location::OwnNamespace(point, device) = &self.location
            && !self.live.has_ended()
        {
            session::detach(point, *device);
        }
        self.live.close();
    }

    pub(crate) fn unmount(&self, detach: bool) -> io::Result<()> {
        match &self.location {
            // A mount that has ended may have left its number to another one at the same place.
            Location::OwnNamespace(..) if self.live.has_ended() => {
                Err(ErrorKind::InvalidInput.into())
            }
            Location::OwnNamespace(point, device) => kernel_mount::unmount(point, *device, detach),
            // Whether it is in use cannot be seen from here.
            Location::OtherNamespace(..) if !detach => Err(ErrorKind::ResourceBusy.into()),
            Location::OtherNamespace(..) => match &self.connection {
                Some(connection) => {
                    let mut connection = connection;
                    connection.write_all(b"1")
                }
                None => Err(ErrorKind::PermissionDenied.into()),
            },
        }
    }
}

fn connection(device: Dev) -> io::Result<File> {
    let file = format!("{}/abort", rustix::fs::minor(device));
    let usual = Path::new(CONNECTIONS).join(&file);
    match OpenOptions::new().write(true).open(usual) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => return other,
    }
    // The control filesystem is not mounted; root can have one that nobody else sees.
    let context = rustix::mount::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let connections = rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(connections, file, flags, Mode::empty())?;
    Ok(file.into())
}
