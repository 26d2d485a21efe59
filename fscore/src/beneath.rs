//! Opening below a directory so that nothing leads out of it: no symbolic link on the way is
//! followed, and no `..` is passed.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Result;

/// Opens `path`, relative to `root` and without leading slash; the root itself is the empty path.
#[cfg(target_os = "linux")]
pub(crate) fn open(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    use rustix::fs::ResolveFlags;
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&root, path, flags, Mode::empty(), how) {
        Err(rustix::io::Errno::NOSYS) => open_stepwise(root, path, flags),
        result => result,
    }
}

/// Opens `path`, relative to `root` and without leading slash; the root itself is the empty path.
#[cfg(not(target_os = "linux"))]
pub(crate) fn open(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    open_stepwise(root, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW)
}

/// One component at a time, for kernels that cannot do it at once.
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
