//! Opens the directories and files of one mount by path, and nothing outside of that mount.
//!
//! A program that works in a mount can put a symbolic link in the place of a directory, or mount
//! something over it, at any moment. So each descriptor that is returned here was compared with the device of
//! the mount after it was opened, and holds the mount: what is done relative to it stays there.
//! Opening with `O_PATH` does nothing to what is opened.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use agentfs_core::id::NodeId;
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2,
};
use rustix::io::Errno;

/// A directory, without opening what is there.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// The same, or any other object, symbolic links included.
const OBJECT: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// No way out of the mount in which the walk begins.
const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// A path at which the root of a mount may be found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RootSeen<'a> {
    /// In the mount namespace of this process.
    FromHere(&'a Path),
    /// As the process of this number sees it.
    FromProcess(u32, &'a Path),
}

/// Opens what is at a mount point, if it has the device of the mount. It may still be another
/// directory than the root, or a mount that got the number of one that is gone.
pub(crate) fn root(point: RootSeen<'_>, device: Dev) -> io::Result<OwnedFd> {
    let opened = match point {
        RootSeen::FromHere(path) => {
            let how = ResolveFlags::NO_MAGICLINKS;
            openat2(CWD, path, DIRECTORY, Mode::empty(), how).or_else(|errno| {
                if_missing(errno, || openat(CWD, path, DIRECTORY, Mode::empty()))
            })?
        }
        RootSeen::FromProcess(process, path) => {
            let theirs = format!("/proc/{process}/root");
            let theirs = openat(CWD, theirs, DIRECTORY, Mode::empty())?;
            let below = path.strip_prefix("/").unwrap_or(path);
            let how = ResolveFlags::NO_MAGICLINKS | ResolveFlags::IN_ROOT;
            openat2(&theirs, below, DIRECTORY, Mode::empty(), how).or_else(|errno| {
                if_missing(errno, || openat(&theirs, below, DIRECTORY, Mode::empty()))
            })?
        }
    };
    of_device(opened, device)
}

/// Opens the directory that is a node, by its path in the mount. `NotFound` when another object is
/// at that path by now.
pub(crate) fn dir(root: &OwnedFd, device: Dev, path: &[u8], node: NodeId) -> io::Result<OwnedFd> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    let opened = openat2(root, path, DIRECTORY, Mode::empty(), INSIDE).or_else(|errno| {
        if_missing(errno, || {
            stepwise(root, device, path, DIRECTORY | OFlags::NOFOLLOW)
        })
    })?;
    let (found, inode) = identity(&opened)?;
    if found != device || inode != node.0 {
        return Err(ErrorKind::NotFound.into());
    }
    Ok(opened)
}

/// Opens the object that has a name in a directory of the mount, itself: neither where it leads to nor
/// what is mounted on it.
pub(crate) fn object(dir: &OwnedFd, device: Dev, name: &[u8]) -> io::Result<OwnedFd> {
    let opened = openat2(dir, name, OBJECT, Mode::empty(), INSIDE)
        .or_else(|errno| if_missing(errno, || stepwise(dir, device, name, OBJECT)))?;
    of_device(opened, device)
}

/// Returns whether something is mounted on a name.
pub(crate) fn is_covered(dir: &OwnedFd, device: Dev, name: &[u8]) -> bool {
    match object(dir, device, name) {
        Ok(_) => false,
        Err(error) => error.raw_os_error() == Some(Errno::XDEV.raw_os_error()),
    }
}

/// Opens a regular file for writing. Nothing else is opened, which a reader or a driver would notice.
pub(crate) fn for_writing(object: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let seen = rustix::fs::statx(object, "", flags, StatxFlags::TYPE)?;
    if FileType::from_raw_mode(seen.stx_mode.into()) != FileType::RegularFile {
        return Err(ErrorKind::NotFound.into());
    }
    // The descriptor is the object, whatever has its name by now.
    let path = format!("/proc/self/fd/{}", object.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Returns a descriptor if it is of this device.
fn of_device(opened: OwnedFd, device: Dev) -> io::Result<OwnedFd> {
    if identity(&opened)?.0 == device {
        Ok(opened)
    } else {
        Err(Errno::XDEV.into())
    }
}

/// Returns device and inode number as the kernel has them: a server is not asked.
fn identity(opened: impl AsFd) -> io::Result<(Dev, u64)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let seen = rustix::fs::statx(opened, "", flags, StatxFlags::INO)?;
    let device = rustix::fs::makedev(seen.stx_dev_major, seen.stx_dev_minor);
    Ok((device, seen.stx_ino))
}

/// Tries another way on kernels before 5.6, and where a filter of system calls forbids openat2.
fn if_missing<T>(errno: Errno, other: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    match errno {
        Errno::NOSYS | Errno::PERM => other(),
        errno => Err(errno),
    }
}

/// Opens one component after the other: none of them is a symbolic link, and each is of the device.
fn stepwise(root: &OwnedFd, device: Dev, path: &[u8], last: OFlags) -> Result<OwnedFd, Errno> {
    let mut at: Option<OwnedFd> = None;
    let mut rest = path.split(|byte| *byte == b'/').peekable();
    while let Some(name) = rest.next() {
        if name == b".." {
            return Err(Errno::XDEV);
        }
        let flags = if rest.peek().is_some() {
            DIRECTORY | OFlags::NOFOLLOW
        } else {
            last
        };
        let from = at.as_ref().unwrap_or(root);
        let next = openat(from, name, flags, Mode::empty())?;
        let (found, _) = identity(&next).map_err(|_| Errno::IO)?;
        if found != device {
            return Err(Errno::XDEV);
        }
        at = Some(next);
    }
    at.ok_or(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::path::PathBuf;

    use super::*;

    struct Tree {
        dir: tempfile::TempDir,
        root: OwnedFd,
        device: Dev,
    }

    impl Tree {
        /// `a/b/f`, and `link` to `a`.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("a/b")).unwrap();
            fs::write(dir.path().join("a/b/f"), "").unwrap();
            symlink("a", dir.path().join("link")).unwrap();
            let root = openat(CWD, dir.path(), DIRECTORY, Mode::empty()).unwrap();
            let (device, _) = identity(&root).unwrap();
            Self { dir, root, device }
        }

        fn node(&self, path: &str) -> NodeId {
            let path: PathBuf = self.dir.path().join(path);
            NodeId(fs::symlink_metadata(path).unwrap().ino())
        }
    }

    #[test]
    fn a_directory_is_reached_by_its_own_path_alone() {
        let tree = Tree::new();
        let (root, device, node) = (&tree.root, tree.device, tree.node("a/b"));
        dir(root, device, b"/a/b", node).unwrap();
        dir(root, device, b"/link/b", node).unwrap_err();
        dir(root, device, b"/a/../a/b", node).unwrap();
        dir(root, device, b"/a/../../a/b", node).unwrap_err();
        dir(root, device, b"/a/b", tree.node("a")).unwrap_err();
        dir(root, device + 1, b"/a/b", node).unwrap_err();
        dir(root, device, b"/", tree.node("")).unwrap();
    }

    #[test]
    fn without_openat2_it_is_the_same() {
        let tree = Tree::new();
        let walk =
            |path: &[u8], device| stepwise(&tree.root, device, path, DIRECTORY | OFlags::NOFOLLOW);
        let reached = walk(b"a/b", tree.device).unwrap();
        assert_eq!(identity(&reached).unwrap().1, tree.node("a/b").0);
        walk(b".", tree.device).unwrap();
        assert_eq!(walk(b"link/b", tree.device).unwrap_err(), Errno::NOTDIR);
        assert_eq!(walk(b"a/../a", tree.device).unwrap_err(), Errno::XDEV);
        assert_eq!(walk(b"a/b", tree.device + 1).unwrap_err(), Errno::XDEV);
        let link = stepwise(&tree.root, tree.device, b"link", OBJECT).unwrap();
        assert_eq!(identity(&link).unwrap().1, tree.node("link").0);
        // Everything below /proc is of another device than the root.
        let top = openat(CWD, "/", DIRECTORY, Mode::empty()).unwrap();
        let (device, _) = identity(&top).unwrap();
        let walked = stepwise(&top, device, b"proc/self", DIRECTORY);
        assert_eq!(walked.unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn only_a_regular_file_is_opened_for_writing() {
        let tree = Tree::new();
        let at = |name: &[u8]| object(&tree.root, tree.device, name).unwrap();
        let dir = dir(&tree.root, tree.device, b"a/b", tree.node("a/b")).unwrap();
        let file = object(&dir, tree.device, b"f").unwrap();
        for_writing(&file).unwrap();
        let kind = FileType::Fifo;
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(&tree.root, "fifo", kind, mode, 0).unwrap();
        for name in [&b"fifo"[..], b"link", b"a"] {
            let refused = for_writing(&at(name)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::NotFound);
        }
    }

    #[test]
    fn what_is_mounted_on_a_name_is_seen() {
        let top = openat(CWD, "/", DIRECTORY, Mode::empty()).unwrap();
        let (device, _) = identity(&top).unwrap();
        assert!(is_covered(&top, device, b"proc"));
        let tree = Tree::new();
        assert!(!is_covered(&tree.root, tree.device, b"a"));
        assert!(!is_covered(&tree.root, tree.device, b"link"));
        assert!(!is_covered(&tree.root, tree.device, b"nothing"));
    }
}
