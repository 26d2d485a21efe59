//! The directory in which a transaction stages.
//!
//! It lies beside the project, where no watcher of the project hears of it. Where that cannot be
//! (the directory above belongs to somebody else, or the project is a mount of its own), it lies
//! in the project, under a name that branches and watchers of AgentFS leave out, and with a
//! `.gitignore` by which git leaves it out, too.

use std::cell::RefCell;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, XattrFlags};
use rustix::io::Errno as HostErrno;

use super::faults;
use super::names::{area_name, kept_name};
use crate::disk::write_all;
use crate::lower::stat::{mode_of, number, object_of};
use crate::model::errno::{Errno, Result};

/// How many names are tried. Another user may have taken one.
const ATTEMPTS: u32 = 4;

/// The list of the renames.
const INTENT: &[u8] = b"intent";

/// The ACL that new objects of a directory get.
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// What is created in a directory with this bit gets the directory's group.
const SET_GID: u32 = 0o2000;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

#[derive(Debug)]
pub(super) struct Area {
    /// The directory that it is in.
    above: OwnedFd,
    name: Vec<u8>,
    dir: OwnedFd,
    /// The default ACL that it has now, and the group that it passes on.
    inherited: RefCell<(Option<Vec<u8>>, Option<u32>)>,
}

impl Area {
    pub(super) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Creates the directory beside the project, or in it.
    pub(super) fn create(root: &OwnedFd) -> Result<Self> {
        match Self::create_beside(root) {
            Err(Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::EXDEV | Errno::EEXIST) => {}
            other => return other,
        }
        let inside = Self::create_in(root, rustix::io::dup(root)?)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let ignored = rustix::fs::openat(&inside.dir, c".gitignore", flags, Mode::RUSR)
            .map_err(Errno::from)
            .and_then(|file| write_all(&file, b"*\n", 0));
        if let Err(errno) = ignored {
            inside.clear(root)?;
            return Err(errno);
        }
        Ok(inside)
    }

    fn create_beside(root: &OwnedFd) -> Result<Self> {
        let area = Self::create_in(root, above(root)?)?;
        // A name that does not exist is moved: nothing happens and nothing is heard, but the kernel
        // says first whether the two directories are of one mount.
        let none = area_name(0, 0);
        match rustix::fs::renameat(root, &*none, &area.dir, &*none) {
            Err(HostErrno::NOENT) => Ok(area),
            other => {
                area.clear(root)?;
                Err(other.err().map_or(Errno::EXDEV, Errno::from))
            }
        }
    }

    fn create_in(root: &OwnedFd, above: OwnedFd) -> Result<Self> {
        let project = object_of(&rustix::fs::fstat(root)?).1;
        for attempt in 0..ATTEMPTS {
            let name = area_name(project, attempt);
            faults::point()?;
            match rustix::fs::mkdirat(&above, &*name, Mode::RWXU) {
                Err(HostErrno::EXIST) => continue,
                other => other?,
            }
            let dir = rustix::fs::openat(&above, &*name, DIRECTORY, Mode::empty())?;
            // The directory above may have given it a group and an ACL, which what is staged here
            // would get as well.
            rustix::fs::fchmod(&dir, Mode::RWXU)?;
            let _ = rustix::fs::fremovexattr(&dir, DEFAULT_ACL);
            return Ok(Self {
                above,
                name,
                dir,
                inherited: RefCell::default(),
            });
        }
        Err(Errno::EEXIST)
    }

    /// Returns those that a process of this user has left behind.
    pub(super) fn left_behind(root: &OwnedFd) -> Result<Vec<Self>> {
        let project = object_of(&rustix::fs::fstat(root)?).1;
        let mut found = Vec::new();
        for attempt in 0..ATTEMPTS {
            for above in [above(root).ok(), Some(rustix::io::dup(root)?)] {
                let Some(above) = above else { continue };
                let name = area_name(project, attempt);
                let Ok(dir) = rustix::fs::openat(&above, &*name, DIRECTORY, Mode::empty()) else {
                    continue;
                };
                let stat = rustix::fs::fstat(&dir)?;
                let is_own = stat.st_uid == rustix::process::geteuid().as_raw();
                if is_own && mode_of(&stat) & 0o077 == 0 {
                    found.push(Self {
                        above,
                        name,
                        dir,
                        inherited: RefCell::default(),
                    });
                } else {
                    tracing::warn!(
                        name = %String::from_utf8_lossy(&name),
                        uid = stat.st_uid,
                        "another user has left an apply unfinished here; a command of that user \
                         takes it back"
                    );
                }
            }
        }
        Ok(found)
    }

    /// Gives what is staged next the ACL and the group that it would get in this directory.
    pub(super) fn inherit(&self, dir: &OwnedFd) -> Result<()> {
        let mut acl = vec![0; 1 << 16];
        let acl = match rustix::fs::fgetxattr(dir, DEFAULT_ACL, acl.as_mut_slice()) {
            Ok(len) => {
                acl.truncate(len);
                Some(acl)
            }
            // There is none, or the system has no such ACLs.
            Err(_) => None,
        };
        let stat = rustix::fs::fstat(dir)?;
        let group = (mode_of(&stat) & SET_GID != 0).then_some(stat.st_gid);
        let mut own = self.inherited.borrow_mut();
        if own.1 != group {
            // A user who is not in the group cannot pass it on.
            let gid = group.unwrap_or_else(|| rustix::process::getegid().as_raw());
            let passed = rustix::fs::fchown(&self.dir, None, Some(Gid::from_raw(gid)));
            let is_passed = passed.is_ok() && group.is_some();
            let mode = if is_passed { 0o700 | SET_GID } else { 0o700 };
            rustix::fs::fchmod(&self.dir, Mode::from_raw_mode(mode as rustix::fs::RawMode))?;
            own.1 = group;
        }
        if own.0 != acl {
            match &acl {
                Some(acl) => {
                    rustix::fs::fsetxattr(&self.dir, DEFAULT_ACL, acl, XattrFlags::empty())?;
                }
                None => rustix::fs::fremovexattr(&self.dir, DEFAULT_ACL)?,
            }
            own.0 = acl;
        }
        Ok(())
    }

    /// Writes the list of the renames.
    pub(super) fn write_intent(&self, bytes: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        faults::point()?;
        let file = rustix::fs::openat(&self.dir, INTENT, flags, mode)?;
        faults::point()?;
        write_all(&file, bytes, 0)
    }

    /// Reads the list of the renames; `None` where it was never begun.
    pub(super) fn read_intent(&self) -> Result<Option<Vec<u8>>> {
        use std::io::Read as _;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.dir, INTENT, flags, Mode::empty()) {
            Err(HostErrno::NOENT) => return Ok(None),
            other => other?,
        };
        let mut bytes = Vec::new();
        let read = std::fs::File::from(file).read_to_end(&mut bytes);
        read.map_err(|error| HostErrno::from_io_error(&error).map_or(Errno::EIO, Errno::from))?;
        Ok(Some(bytes))
    }

    /// Removes the list: from here on there is nothing to take back.
    pub(super) fn remove_intent(&self) -> Result<()> {
        faults::point()?;
        match rustix::fs::unlinkat(&self.dir, INTENT, AtFlags::empty()) {
            Ok(()) | Err(HostErrno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until everything that was changed on this filesystem is on the disk.
    pub(super) fn sync(&self) -> Result<()> {
        faults::point()?;
        sync_filesystem(&self.dir)
    }

    /// Removes the directory with everything in it. A directory that another program has put
    /// something into goes to the project, under a name that says so.
    pub(super) fn clear(&self, root: &OwnedFd) -> Result<()> {
        for entry in Dir::read_from(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let is_dir = if entry.file_type() == FileType::Unknown {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                let stat = rustix::fs::statat(&self.dir, name, flags)?;
                FileType::from_raw_mode(stat.st_mode).is_dir()
            } else {
                entry.file_type().is_dir()
            };
            let flags = if is_dir {
                AtFlags::REMOVEDIR
            } else {
                AtFlags::empty()
            };
            faults::point()?;
            match rustix::fs::unlinkat(&self.dir, name, flags) {
                Ok(()) | Err(HostErrno::NOENT) => {}
                Err(HostErrno::NOTEMPTY | HostErrno::EXIST) => {
                    let kept = kept_name();
                    rustix::fs::renameat(&self.dir, name, root, &*kept)?;
                    tracing::error!(
                        kept_as = %String::from_utf8_lossy(&kept),
                        "files were put into a directory while it was removed; they are in the \
                         project"
                    );
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        faults::point()?;
        match rustix::fs::unlinkat(&self.above, &*self.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(HostErrno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Opens the directory that the project is in. For the root of all it is `EXDEV`.
fn above(root: &OwnedFd) -> Result<OwnedFd> {
    let above = rustix::fs::openat(root, c"..", DIRECTORY, Mode::empty())?;
    let (here, there) = (rustix::fs::fstat(root)?, rustix::fs::fstat(&above)?);
    let is_same = number(here.st_dev) == number(there.st_dev);
    if !is_same || object_of(&here) == object_of(&there) {
        return Err(Errno::EXDEV);
    }
    Ok(above)
}

#[cfg(target_os = "linux")]
fn sync_filesystem(of: impl AsFd) -> Result<()> {
    Ok(rustix::fs::syncfs(of)?)
}

/// Waits until the directory is on the disk: other systems cannot wait for a whole filesystem.
#[cfg(not(target_os = "linux"))]
fn sync_filesystem(of: impl AsFd) -> Result<()> {
    Ok(rustix::fs::fsync(of)?)
}
