//! How an object of the host is shown, from a look at it.

use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::fs::Stat;

use super::acl::{self, Taken};
use super::index::Known;
use super::stat::{inode, mode_of, nanos, number, object_of, stamp_of};
use super::{Lower, vanished};
use crate::model::attr::Nanos;
use crate::model::attr::now;
use crate::model::errno::Result;
use crate::model::event::ObjectKind;
use crate::model::id::NodeId;
use crate::store::content::File;
use crate::store::dir::Dir;
use crate::store::inode::{Body, Inode};

/// How long after a change another one may have the same time: the kernel's clock for files ticks a
/// hundred times a second at least.
const TICK: Nanos = 20_000_000;

impl Lower {
    /// An object of the host, in the directory where it was looked at.
    pub(super) fn inode_in(
        &self,
        (dir, name): (&OwnedFd, &[u8]),
        stat: &Stat,
        (node, known): (NodeId, &Known),
    ) -> Result<Inode> {
        let body = match known.kind {
            ObjectKind::File => Body::File(File::over_lower(stamp_of(stat))),
            ObjectKind::Directory => Body::Dir(Box::new(Dir::merging())),
            ObjectKind::Symlink => {
                let text = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(vanished)?;
                Body::Symlink(Arc::from(text.as_bytes()))
            }
            ObjectKind::Fifo => Body::Fifo,
            ObjectKind::Socket => Body::Socket,
            ObjectKind::CharDevice => Body::CharDevice(number(stat.st_rdev)),
            ObjectKind::BlockDevice => Body::BlockDevice(number(stat.st_rdev)),
        };
        let mode = self.mode_shown((dir, name), stat, (node, known));
        Ok(inode(stat, mode, known.names.clone(), body))
    }

    /// The permission bits, less what the object's ACL takes from them. The host is asked for it once
    /// for each state of an object, and not at all where only the owner has rights.
    pub(super) fn mode_shown(
        &self,
        (dir, name): (&OwnedFd, &[u8]),
        stat: &Stat,
        (node, known): (NodeId, &Known),
    ) -> u32 {
        let mode = mode_of(stat);
        if known.kind == ObjectKind::Symlink || mode & 0o077 == 0 {
            return mode;
        }
        // Whoever sets an ACL moves the time of change.
        let ctime = nanos(stat.st_ctime, stat.st_ctime_nsec);
        if let Some((at, taken)) = known.acl
            && at == ctime
        {
            return mode & !u32::from(taken);
        }
        let (device, _) = object_of(stat);
        if self.without_acls.lock().contains(&device) {
            return mode;
        }
        let taken = match acl::taken(dir, name, mode) {
            Taken::Bits(taken) => taken,
            Taken::Unsupported => {
                self.without_acls.lock().push(device);
                return mode;
            }
            Taken::Unknown => return mode & !0o077,
        };
        if ctime < now() - TICK {
            let taken = u16::try_from(taken).unwrap_or(0o077);
            self.index.lock().note_acl(node, (ctime, taken));
        }
        mode & !taken
    }
}
