//! Owner, permissions, times and extended attributes of what is written to the host.
//!
//! A branch shows no ACLs and none of the host's attributes but `user.`, so it cannot change them:
//! a file that is replaced hands them on to the one that takes its place.

use std::sync::Arc;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno as HostErrno;

use crate::diff::steps::Differs;
use crate::lower::mode_of;
use crate::model::attr::Attr;
use crate::model::attr::Xattrs;
use crate::model::errno::Result;
use crate::store::inode::{Inode, Seen};

/// The access ACL.
const ACL: &[u8] = b"system.posix_acl_access";

/// What holds for one content only: capabilities, which the kernel takes from a file that is written
/// to, and hashes of what was there.
const OF_CONTENT: [&[u8]; 3] = [b"security.capability", b"security.ima", b"security.evm"];

/// What the host had where something new takes its place.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) fd: OwnedFd,
    pub(super) mode: u32,
    /// Whether the new object is the same one with other content; else only the ACL counts, which
    /// the program that wrote the new file in the branch could neither see nor keep.
    pub(super) is_same: bool,
}

/// The permissions that the host's object gets. Those of a class that the branch did not change stay
/// as the host has them: with an ACL the branch shows less of them than there is.
pub(super) fn mode_for_host(inode: &Inode, seen: Option<&Seen>, host: Option<u32>) -> Mode {
    let mut mode = inode.mode;
    if let (Some(seen), Some(host)) = (seen, host) {
        for class in [0o700, 0o070, 0o007] {
            if inode.mode & class == seen.mode & class {
                mode = mode & !class | host & class;
            }
        }
    }
    Mode::from_raw_mode(mode as rustix::fs::RawMode)
}

/// Everything that a new file or directory in `dir` gets, but for a directory's times, which its entries move.
pub(super) fn furnish(
    dir: &OwnedFd,
    fd: &OwnedFd,
    inode: &Inode,
    seen: Option<&Seen>,
    xattrs: Option<&Arc<Xattrs>>,
    model: Option<&Model>,
) -> Result<()> {
    set_owner(fd, inode)?;
    if let Some(model) = model {
        hand_on(model, fd)?;
    }
    let was = seen.filter(|_| model.is_some_and(|model| model.is_same));
    set_changed(fd, was.and_then(|seen| seen.xattrs.as_deref()), xattrs)?;
    let host = model.map(|model| model.mode);
    let mut mode = mode_for_host(inode, seen, host);
    if model.is_none() {
        // What is new has the default ACL of its directory, which chmod(2) would widen.
        let most = crate::lower::most_for_new(dir);
        mode &= Mode::from_raw_mode(most as rustix::fs::RawMode);
    }
    rustix::fs::fchmod(fd, mode)?;
    if !inode.is_dir() {
        rustix::fs::futimens(fd, &times_of(inode))?;
    }
    Ok(())
}

/// What of an object that stays is different.
pub(super) fn adjust(
    fd: &OwnedFd,
    inode: &Inode,
    seen: Option<&Seen>,
    xattrs: Option<&Arc<Xattrs>>,
    differs: Differs,
) -> Result<()> {
    if differs.owner {
        set_owner(fd, inode)?;
    }
    if differs.xattrs {
        set_changed(fd, seen.and_then(|seen| seen.xattrs.as_deref()), xattrs)?;
    }
    if differs.mode || differs.owner {
        let host = mode_of(&rustix::fs::fstat(fd)?);
        let host = seen.map(|_| host);
        rustix::fs::fchmod(fd, mode_for_host(inode, seen, host))?;
    }
    if differs.mtime {
        rustix::fs::futimens(fd, &times_of(inode))?;
    }
    Ok(())
}

/// Owner and group where this process may.
fn set_owner(fd: impl AsFd, inode: &Inode) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(inode.uid), Gid::from_raw(inode.gid));
    match rustix::fs::fchown(fd, Some(uid), Some(gid)) {
        Ok(()) | Err(HostErrno::PERM) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Owner, group and times of what cannot be opened.
pub(super) fn set_owner_and_times(dir: &OwnedFd, name: &[u8], attr: &Attr) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(attr.uid), Gid::from_raw(attr.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    match rustix::fs::chownat(dir, name, Some(uid), Some(gid), flags) {
        Ok(()) | Err(HostErrno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let times = Timestamps {
        last_access: timespec(attr.atime),
        last_modification: timespec(attr.mtime),
    };
    Ok(rustix::fs::utimensat(dir, name, &times, flags)?)
}

/// Sets the times of a directory.
pub(super) fn set_times(fd: &OwnedFd, inode: &Inode) -> Result<()> {
    Ok(rustix::fs::futimens(fd, &times_of(inode))?)
}

fn times_of(inode: &Inode) -> Timestamps {
    Timestamps {
        last_access: timespec(inode.times.atime),
        last_modification: timespec(inode.times.mtime),
    }
}

fn timespec(moment: i64) -> Timespec {
    Timespec {
        tv_sec: moment.div_euclid(1_000_000_000),
        tv_nsec: moment.rem_euclid(1_000_000_000),
    }
}

/// Hands on what the host's object has. An ACL must arrive; the rest arrives where this process may
/// set it.
fn hand_on(model: &Model, to: &OwnedFd) -> Result<()> {
    for name in names(&model.fd)? {
        let is_acl = *name == *ACL;
        if !is_acl && (!model.is_same || OF_CONTENT.contains(&&*name)) {
            continue;
        }
        let handed = value(&model.fd, &name)
            .and_then(|value| rustix::fs::fsetxattr(to, &*name, &value, XattrFlags::empty()));
        match handed {
            Err(errno) if is_acl => return Err(errno.into()),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Sets and removes what the branch has changed since it saw the object.
fn set_changed(fd: &OwnedFd, seen: Option<&Xattrs>, own: Option<&Arc<Xattrs>>) -> Result<()> {
    let before = |name: &[u8]| seen.and_then(|seen| seen.get(name));
    for (name, value) in own.iter().flat_map(|all| all.iter()) {
        if before(name) != Some(value) {
            rustix::fs::fsetxattr(fd, &**name, value, XattrFlags::empty())?;
        }
    }
    for name in seen.iter().flat_map(|seen| seen.keys()) {
        let stays = own.is_some_and(|own| own.contains_key(name));
        if !stays && value(fd, name).is_ok() {
            rustix::fs::fremovexattr(fd, &**name)?;
        }
    }
    Ok(())
}

/// The names of all attributes; none where the filesystem has none.
fn names(fd: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let mut buffer = vec![0; 1 << 16];
    match rustix::fs::flistxattr(fd, buffer.as_mut_slice()) {
        Ok(len) => {
            let all = buffer[..len].split(|byte| *byte == 0);
            let all = all.filter(|name| !name.is_empty());
            Ok(all.map(<[u8]>::to_vec).collect())
        }
        Err(HostErrno::OPNOTSUPP) => Ok(Vec::new()),
        Err(errno) => Err(errno.into()),
    }
}

fn value(fd: &OwnedFd, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1 << 16];
    let len = rustix::fs::fgetxattr(fd, name, buffer.as_mut_slice())?;
    buffer.truncate(len);
    Ok(buffer)
}
