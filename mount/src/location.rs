//! Where a mount is, and how it is taken away from there.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dev, Mode, OFlags, StatxFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::session;

/// Where the kernel lets connections be aborted, one directory for each.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Where a mount is.
#[derive(Clone, Debug)]
pub(crate) enum Location {
    /// In this process's mount namespace.
    Here(PathBuf),
    /// In another one: its name there, and the device of its files.
    Elsewhere(PathBuf, Dev),
}

impl Location {
    pub(crate) fn point(&self) -> &Path {
        match self {
            Self::Here(point) | Self::Elsewhere(point, _) => point,
        }
    }
}

/// A mount that is there.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) location: Location,
    pub(crate) device: Dev,
    /// A write to it ends the connection, whatever becomes of the number. `None` if that is not
    /// for this process to do.
    pub(crate) connection: Option<File>,
}

impl Located {
    pub(crate) fn find(location: Location) -> io::Result<Self> {
        let (location, device) = match location {
            Location::Here(point) => {
                let point = point.canonicalize()?;
                let device = rustix::fs::stat(&point)?.st_dev;
                (Location::Here(point), device)
            }
            Location::Elsewhere(_, device) => (location, device),
        };
        session::raise_read_ahead(device);
        let connection = connection(device);
        if let Err(error) = &connection {
            tracing::debug!(%error, "the connection of a mount cannot be ended by hand");
        }
        Ok(Self {
            location,
            device,
            connection: connection.ok(),
        })
    }

    /// Whether another mount lies over this one, and would be taken away in its stead.
    pub(crate) fn is_covered(&self) -> bool {
        let Location::Here(point) = &self.location else {
            return false;
        };
        // What the kernel knows without asking anybody.
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let seen = rustix::fs::statx(CWD, point, flags, StatxFlags::empty());
        seen.is_ok_and(|it| rustix::fs::makedev(it.stx_dev_major, it.stx_dev_minor) != self.device)
    }

    pub(crate) fn unmount(&self, detach: bool) -> io::Result<()> {
        match &self.location {
            Location::Here(point) => session::unmount(point, detach),
            // Nobody can tell from here whether it is in use.
            Location::Elsewhere(..) if !detach => Err(ErrorKind::ResourceBusy.into()),
            Location::Elsewhere(..) => match &self.connection {
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
