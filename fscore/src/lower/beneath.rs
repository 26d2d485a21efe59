//! Opening a path beneath a directory, so that nothing leads out of it (`RESOLVE_BENEATH` of
//! openat2(2)): no symbolic link on the way is followed, and no `..` is accepted.
//!
//! All code that acts on the host by a path which other programs may change opens that path here.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, Result};

use super::path::split;

/// The flags for opening an object for its bytes, attributes or entries.
const READING: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// Opens `path`, relative to `root` and without leading slash; the root itself is the empty path.
///
/// # Errors
///
/// Those of openat2(2): `ELOOP` for a symbolic link on the way, `EXDEV` for a path that leads out.
pub fn open(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    at_once(root, path, flags, false)
}

/// Opens `path` as [`open`] does, and enters nothing that is mounted below `root`.
///
/// # Errors
///
/// Those of [`open`]; `EXDEV` also where something is mounted.
pub fn open_on_mount(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    at_once(root, path, flags, true)
}

#[cfg(target_os = "linux")]
fn at_once(root: impl AsFd, path: &[u8], flags: OFlags, one_mount: bool) -> Result<OwnedFd> {
    use rustix::fs::ResolveFlags;
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    how.set(ResolveFlags::NO_XDEV, one_mount);
    match rustix::fs::openat2(&root, path, flags, Mode::empty(), how) {
        Err(Errno::NOSYS | Errno::PERM) => stepwise(root, path, flags, one_mount),
        result => result,
    }
}

#[cfg(not(target_os = "linux"))]
fn at_once(root: impl AsFd, path: &[u8], flags: OFlags, one_mount: bool) -> Result<OwnedFd> {
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    stepwise(root, path, flags, one_mount)
}

/// Opens a path as [`open_stepwise`] does, and refuses `..`. A mount is recognised by its device,
/// so a bind mount of the same device is not noticed.
fn stepwise(root: impl AsFd, path: &[u8], flags: OFlags, one_mount: bool) -> Result<OwnedFd> {
    if path.split(|byte| *byte == b'/').any(|name| name == b"..") {
        return Err(Errno::XDEV);
    }
    let opened = open_stepwise(&root, path, flags)?;
    if one_mount && rustix::fs::fstat(&opened)?.st_dev != rustix::fs::fstat(&root)?.st_dev {
        return Err(Errno::XDEV);
    }
    Ok(opened)
}

/// Opens an object of any kind without the right to use it (`O_PATH`), which keeps it from being freed.
#[cfg(target_os = "linux")]
pub(crate) fn open_unread(root: impl AsFd, path: &[u8]) -> Result<OwnedFd> {
    open(root, path, OFlags::PATH)
}

/// Fails with `EOPNOTSUPP`: other systems open no object without the right to read it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn open_unread(_: impl AsFd, _: &[u8]) -> Result<OwnedFd> {
    Err(Errno::OPNOTSUPP)
}

/// Opens a regular file or a directory for reading, and returns its stat as well. Anything else is
/// `ESTALE` and is not opened: opening a FIFO would release a writer that then has no reader, and
/// opening a device does whatever its driver does.
#[cfg(target_os = "linux")]
pub(crate) fn open_content(root: impl AsFd, path: &[u8]) -> Result<(OwnedFd, Stat)> {
    use std::os::fd::AsRawFd as _;
    // `O_PATH` does not open the object, but holds it: what is opened below is what was looked at.
    let object = open(&root, path, OFlags::PATH)?;
    let stat = content(rustix::fs::fstat(&object)?)?;
    let itself = format!("/proc/self/fd/{}", object.as_raw_fd());
    match rustix::fs::open(itself, READING, Mode::empty()) {
        Ok(opened) => Ok((opened, stat)),
        // There is no /proc.
        Err(Errno::NOENT) => look_and_open(root, path),
        Err(errno) => Err(errno),
    }
}

/// Opens a regular file or a directory for reading, and returns its stat as well. Anything else is
/// `ESTALE` and is not opened, unless it replaces the object between the look and the opening.
#[cfg(not(target_os = "linux"))]
pub(crate) fn open_content(root: impl AsFd, path: &[u8]) -> Result<(OwnedFd, Stat)> {
    look_and_open(root, path)
}

fn look_and_open(root: impl AsFd, path: &[u8]) -> Result<(OwnedFd, Stat)> {
    let (dir, name) = split(path);
    let dir = open(root, dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let name: &[u8] = if name.is_empty() { b"." } else { name };
    content(rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?)?;
    let opened = rustix::fs::openat(&dir, name, READING | OFlags::NOFOLLOW, Mode::empty())?;
    let stat = content(rustix::fs::fstat(&opened)?)?;
    Ok((opened, stat))
}

/// Returns the stat of an object that has bytes or entries, and `ESTALE` for any other.
fn content(stat: Stat) -> Result<Stat> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::Directory => Ok(stat),
        FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Err(Errno::STALE),
    }
}

/// Opens one component after the other: for kernels without openat2, and where a filter of system
/// calls forbids it.
fn open_stepwise(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let step = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else {
        return rustix::fs::openat(&root, path, flags, Mode::empty());
    };
    let mut dir: Option<OwnedFd> = None;
    for component in path[..slash].split(|byte| *byte == b'/') {
        let next = match &dir {
            Some(dir) => rustix::fs::openat(dir, component, step, Mode::empty())?,
            None => rustix::fs::openat(&root, component, step, Mode::empty())?,
        };
        dir = Some(next);
    }
    let last = &path[slash + 1..];
    match &dir {
        Some(dir) => rustix::fs::openat(dir, last, flags, Mode::empty()),
        None => rustix::fs::openat(&root, last, flags, Mode::empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::{OFlags, open, open_on_mount, stepwise};
    use rustix::fd::OwnedFd;
    use rustix::fs::Mode;
    use rustix::io::Errno;

    fn root(path: &std::path::Path) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).expect("a directory")
    }

    #[test]
    fn nothing_leads_out_at_once_or_stepwise() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("in")).expect("a directory");
        std::os::unix::fs::symlink("/etc", directory.path().join("out")).expect("a link");
        let root = root(directory.path());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        for path in [&b"out/passwd"[..], b"in/../../etc", b"out"] {
            open(&root, path, flags).expect_err("it leads out");
            open_on_mount(&root, path, flags).expect_err("it leads out");
            stepwise(&root, path, flags, true).expect_err("it leads out");
        }
        open_on_mount(&root, b"in", flags).expect("it is in there");
        stepwise(&root, b"in", flags, true).expect("it is in there");
    }

    #[test]
    fn what_is_mounted_below_is_not_entered() {
        let root = root("/".as_ref());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        assert!(open(&root, b"proc", flags).is_ok(), "/proc is mounted");
        let entered = open_on_mount(&root, b"proc", flags);
        assert_eq!(entered.err(), Some(Errno::XDEV));
        let entered = stepwise(&root, b"proc", flags, true);
        assert_eq!(entered.err(), Some(Errno::XDEV));
    }
}
