//! Owner, permissions, times and extended attributes of what is written to the host.
//!
//! A branch shows no ACLs, and no extended attributes of the host but `user.`, so it cannot change
//! the others: a file that replaces one of the host gets them from that.

use std::sync::Arc;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno as HostErrno;

use crate::diff::steps::Differs;
use crate::lower::mode_of;
use crate::lower::transaction::AttributeChange;
use crate::model::attr::{Attr, Xattrs};
use crate::model::errno::Result;
use crate::model::event::ObjectKind;
use crate::store::inode::{Inode, Seen};

/// The access ACL.
const ACL: &[u8] = b"system.posix_acl_access";

/// Attributes that are valid for one content only: capabilities, which the kernel removes from a
/// file that is written to, and hashes of the content.
const OF_CONTENT: [&[u8]; 3] = [b"security.capability", b"security.ima", b"security.evm"];

/// The host's file that a new one replaces.
#[derive(Debug)]
pub(super) struct ReplacedFile {
    pub(super) fd: OwnedFd,
    pub(super) mode: u32,
    /// Whether the new file is the same object with other content. Otherwise only the ACL is taken
    /// over, which the program that created the new file in the branch could neither see nor keep.
    pub(super) is_same: bool,
}

/// Returns the permissions that the host's object gets. A class whose permissions the branch did
/// not change keeps those of the host, because with an ACL the branch shows fewer than there are.
pub(super) fn mode_for_host(inode: &Inode, seen: Option<&Seen>, host: Option<u32>) -> Mode {
    Mode::from_raw_mode(bits_for_host(inode, seen, host) as rustix::fs::RawMode)
}

fn bits_for_host(inode: &Inode, seen: Option<&Seen>, host: Option<u32>) -> u32 {
    let mut mode = inode.mode;
    if let (Some(seen), Some(host)) = (seen, host) {
        for class in [0o700, 0o070, 0o007] {
            if inode.mode & class == seen.mode & class {
                mode = mode & !class | host & class;
            }
        }
    }
    mode
}

/// Sets all attributes of a new file or directory in `dir`, except for a directory's times, which
/// its entries will move.
pub(super) fn set_all(
    dir: &OwnedFd,
    fd: &OwnedFd,
    inode: &Inode,
    seen: Option<&Seen>,
    xattrs: Option<&Arc<Xattrs>>,
    replaced: Option<&ReplacedFile>,
) -> Result<()> {
    set_owner(fd, inode)?;
    if let Some(replaced) = replaced {
        copy_from_replaced(replaced, fd)?;
    }
    let was = seen.filter(|_| replaced.is_some_and(|replaced| replaced.is_same));
    set_changed(fd, was.and_then(|seen| seen.xattrs.as_deref()), xattrs)?;
    let host = replaced.map(|replaced| replaced.mode);
    let mut mode = mode_for_host(inode, seen, host);
    if replaced.is_none() {
        // A new object has the default ACL of its directory, which chmod(2) would widen.
        let most = crate::lower::most_for_new(dir);
        mode &= Mode::from_raw_mode(most as rustix::fs::RawMode);
    }
    rustix::fs::fchmod(fd, mode)?;
    if !inode.is_dir() {
        rustix::fs::futimens(fd, &times_of(inode))?;
    }
    Ok(())
}

/// Returns the change by which an object of the host that has this stat gets those attributes that
/// differ.
pub(super) fn change_of(
    inode: &Inode,
    seen: Option<&Seen>,
    xattrs: Option<&Arc<Xattrs>>,
    differs: Differs,
    stat: &Stat,
) -> AttributeChange {
    // The owner and the times are all that a symbolic link has.
    let is_open = matches!(inode.kind(), ObjectKind::File | ObjectKind::Directory);
    let has_owner = differs.owner || !is_open;
    let has_mode = differs.mode || has_owner;
    let mode = has_mode.then(|| {
        let host = seen.map(|_| mode_of(stat));
        bits_for_host(inode, seen, host)
    });
    let before = seen.and_then(|seen| seen.xattrs.as_deref());
    AttributeChange {
        owner: has_owner.then_some((inode.uid, inode.gid)),
        mode: mode.filter(|_| inode.kind() != ObjectKind::Symlink),
        times: (differs.mtime || !is_open).then_some((inode.times.atime, inode.times.mtime)),
        xattrs: if differs.xattrs && is_open {
            changed(before, xattrs)
        } else {
            Vec::new()
        },
    }
}

/// Sets the owner and the group, where this process may.
fn set_owner(fd: impl AsFd, inode: &Inode) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(inode.uid), Gid::from_raw(inode.gid));
    match rustix::fs::fchown(fd, Some(uid), Some(gid)) {
        Ok(()) | Err(HostErrno::PERM) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Sets the owner, the group and the times of an object that cannot be opened.
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

/// Copies the attributes of the host's object. Failing to set the ACL is an error; others are set
/// where this process may.
fn copy_from_replaced(replaced: &ReplacedFile, to: &OwnedFd) -> Result<()> {
    for name in names(&replaced.fd)? {
        let is_acl = *name == *ACL;
        if !is_acl && (!replaced.is_same || OF_CONTENT.contains(&&*name)) {
            continue;
        }
        let copied = value(&replaced.fd, &name)
            .and_then(|value| rustix::fs::fsetxattr(to, &*name, &value, XattrFlags::empty()));
        match copied {
            Err(errno) if is_acl => return Err(errno.into()),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Sets and removes what the branch has changed since it saw the object.
fn set_changed(fd: &OwnedFd, seen: Option<&Xattrs>, own: Option<&Arc<Xattrs>>) -> Result<()> {
    for (name, to) in changed(seen, own) {
        match to {
            Some(to) => rustix::fs::fsetxattr(fd, &*name, &to, XattrFlags::empty())?,
            None if value(fd, &name).is_ok() => rustix::fs::fremovexattr(fd, &*name)?,
            None => {}
        }
    }
    Ok(())
}

/// Returns what the branch has changed since it saw the object; what it removed has no value.
fn changed(seen: Option<&Xattrs>, own: Option<&Arc<Xattrs>>) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let before = |name: &[u8]| seen.and_then(|seen| seen.get(name));
    let own = own.map(|own| &**own);
    let set = own.into_iter().flatten();
    let set = set.filter(|(name, value)| before(name) != Some(value));
    let set = set.map(|(name, value)| (name.to_vec(), Some(value.to_vec())));
    let removed = seen.into_iter().flat_map(|seen| seen.keys());
    let removed = removed.filter(|name| !own.is_some_and(|own| own.contains_key(*name)));
    set.chain(removed.map(|name| (name.to_vec(), None)))
        .collect()
}

/// Returns the names of all attributes; none where the filesystem has no attributes.
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
