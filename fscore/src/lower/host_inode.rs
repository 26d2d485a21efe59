//! An object of the host, as a look at it found it.

use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::fs::Stat;

use super::acl::{self, Taken};
use super::held::body_of;
use super::index::IndexedObject;
use super::path::vanished;
use super::stat::{mode_of, nanos, object_of, small};
use super::{Lower, stat_at};
use crate::model::attr::{Nanos, Times, now};
use crate::model::errno::{Errno, Result};
use crate::model::event::ObjectKind;
use crate::model::id::NodeId;
use crate::model::names::Names;

/// For how long after a change another one may get the same time: the kernel's clock for files
/// ticks at least a hundred times a second.
const TICK: Nanos = 20_000_000;

/// An object of the host, as branches show it before they change it.
#[derive(Clone, Debug)]
pub(crate) struct HostInode {
    /// The permission bits (`mode & 0o7777`), less what the object's ACL takes from them.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    pub(crate) times: Times,
    pub(crate) names: Names,
    pub(crate) body: HostBody,
}

/// What an object of the host is.
#[derive(Clone, Debug)]
pub(crate) enum HostBody {
    File { size: u64, inode: u64 },
    Directory,
    Symlink(Arc<[u8]>),
    CharDevice(u64),
    BlockDevice(u64),
    Fifo,
    Socket,
}

impl HostInode {
    /// Returns the object that the host describes by `stat`, shown with the permission bits `mode`.
    pub(super) fn new(stat: &Stat, mode: u32, names: Names, body: HostBody) -> Self {
        let mtime = nanos(stat.st_mtime, stat.st_mtime_nsec);
        let ctime = nanos(stat.st_ctime, stat.st_ctime_nsec);
        Self {
            mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            nlink: small(stat.st_nlink),
            times: Times {
                atime: nanos(stat.st_atime, stat.st_atime_nsec),
                mtime,
                ctime,
                // Not every host records the birth time; no object is younger than its last
                // changes.
                btime: mtime.min(ctime),
            },
            names,
            body,
        }
    }
}

impl Lower {
    /// Returns an object of the host that was looked at by its name in `dir`.
    pub(super) fn inode_in(
        &self,
        (dir, name): (&OwnedFd, &[u8]),
        stat: &Stat,
        (node, known): (NodeId, &IndexedObject),
    ) -> Result<HostInode> {
        let body = match body_of(known.kind, stat) {
            Some(body) => body,
            None => HostBody::Symlink(link_text((dir, name), known)?),
        };
        let mode = self.mode_shown((dir, name), stat, (node, known));
        Ok(HostInode::new(stat, mode, known.names.clone(), body))
    }

    /// Returns the permission bits, less what the object's ACL takes from them. The ACL is read
    /// once for each state of an object, and never where only the owner has rights.
    pub(super) fn mode_shown(
        &self,
        (dir, name): (&OwnedFd, &[u8]),
        stat: &Stat,
        (node, known): (NodeId, &IndexedObject),
    ) -> u32 {
        let mode = mode_of(stat);
        if known.kind == ObjectKind::Symlink || mode & 0o077 == 0 {
            return mode;
        }
        // Setting an ACL moves the time of change.
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

/// Returns the text of a symbolic link that was just looked at.
///
/// # Errors
///
/// `ESTALE` when the host has put another object in its place meanwhile.
fn link_text((dir, name): (&OwnedFd, &[u8]), known: &IndexedObject) -> Result<Arc<[u8]>> {
    use rustix::io::Errno as Host;
    let text = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(|errno| match errno {
        Host::INVAL => Errno::ESTALE,
        other => vanished(other),
    })?;
    let now = stat_at(dir, name).map_err(vanished)?;
    if object_of(&now) != known.object {
        return Err(Errno::ESTALE);
    }
    Ok(Arc::from(text.as_bytes()))
}
