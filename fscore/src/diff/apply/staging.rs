//! Staging: new objects are written as a whole, under temporary names beside their places.

use std::cell::Cell;
use std::rc::Rc;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno as HostErrno;

use super::attributes::{self, ReplacedFile, set_owner_and_times};
use super::cancel::is_set;
use super::execute::{Executor, Stop};
use super::swap::{At, temporary_name};
use crate::disk::write_all;
use crate::lower::{Fingerprint, beneath, mode_of, split};
use crate::model::errno::{Errno, Result};
use crate::model::id::NodeId;
use crate::store::inode::{Body, Inode};

/// How many bytes are copied at a time.
const PIECE: usize = 1 << 20;

/// A new object on the host under a temporary name. In the end that name is removed, with the
/// object that has it then: the one that was replaced. If the host has put another object there,
/// the name stays.
#[derive(Debug)]
pub(super) struct Staged {
    /// Shared by all that is staged there, so that a file of many names does not take as many
    /// descriptors.
    pub(super) dir: Rc<OwnedFd>,
    pub(super) temporary: Vec<u8>,
    /// What the new object is, recorded when it is about to get its place.
    own: Cell<Option<Fingerprint>>,
    /// Whether it got its place, so that the temporary name now leads to an object which the branch
    /// has seen.
    pub(super) is_placed: Cell<bool>,
}

impl Staged {
    pub(super) fn new(dir: Rc<OwnedFd>) -> Self {
        Self {
            dir,
            temporary: temporary_name(),
            own: Cell::default(),
            is_placed: Cell::default(),
        }
    }

    pub(super) fn at(&self) -> At<'_> {
        At {
            dir: &self.dir,
            name: &self.temporary,
        }
    }

    /// Returns whether `now` is the new object, and not one that another program has put or written
    /// there since.
    pub(super) fn is_own(&self, now: &Fingerprint) -> bool {
        self.own.get().is_some_and(|own| now.is_same_content(&own))
    }

    /// Returns the temporary name of an object that is about to get its place, and records what the
    /// object is.
    pub(super) fn ready(&self) -> At<'_> {
        self.own.set(Fingerprint::at(&self.dir, &self.temporary));
        self.at()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let is_strange = self.own.get().is_some()
            && Fingerprint::at(&self.dir, &self.temporary).is_some_and(|now| !self.is_own(&now));
        if self.is_placed.get() || !is_strange {
            // The name may be gone already.
            let _ = rustix::fs::unlinkat(&self.dir, &*self.temporary, AtFlags::empty());
        }
    }
}

impl Executor<'_> {
    /// Writes the object beside `path`. It gets the attributes of the object it replaces that the
    /// branch does not show.
    pub(super) fn stage(
        &self,
        path: &[u8],
        node: NodeId,
        replaces: Option<NodeId>,
    ) -> Result<Staged, Stop> {
        let inode = self.new.inode(node)?;
        let (dir, name) = split(path);
        let staged = Staged::new(Rc::new(self.dir(dir)?));
        let (dir, at) = (&*staged.dir, &*staged.temporary);
        match &inode.body {
            Body::File(_) => {
                let old_file = replaces
                    .map(|replaced| self.open_replaced(dir, name, node, replaced))
                    .transpose()?
                    .flatten();
                let seen = self.new.seen().get(replaces.unwrap_or(node).0);
                self.write(&staged, node, &inode, seen, old_file.as_ref())?;
                return Ok(staged);
            }
            Body::Symlink(text) => rustix::fs::symlinkat(&**text, dir, at)?,
            Body::Fifo => special(dir, at, FileType::Fifo, &inode, 0)?,
            Body::Socket => special(dir, at, FileType::Socket, &inode, 0)?,
            Body::CharDevice(rdev) => special(dir, at, FileType::CharacterDevice, &inode, *rdev)?,
            Body::BlockDevice(rdev) => special(dir, at, FileType::BlockDevice, &inode, *rdev)?,
            // A directory is created in its place.
            Body::Dir(_) => return Err(Stop::Host(Errno::EISDIR)),
        }
        set_owner_and_times(dir, at, &inode.attr(node))?;
        Ok(staged)
    }

    /// Opens the host's file that is replaced; `None` when it is no file.
    fn open_replaced(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        node: NodeId,
        replaced: NodeId,
    ) -> Result<Option<ReplacedFile>, Stop> {
        let expected = self.expected(replaced)?.fingerprint;
        if !expected.is_file() {
            return Ok(None);
        }
        let (fd, stat) = match beneath::open_content(dir, name) {
            // It is gone, or is no file any more.
            Err(HostErrno::NOENT | HostErrno::STALE | HostErrno::LOOP) => {
                return Err(Stop::Surprise);
            }
            other => other?,
        };
        if !Fingerprint::of(&stat).is_same_content(&expected) {
            return Err(Stop::Surprise);
        }
        let (mode, is_same) = (mode_of(&stat), replaced == node);
        Ok(Some(ReplacedFile { fd, mode, is_same }))
    }

    /// Writes the content, then sets the attributes, then calls fsync.
    fn write(
        &self,
        staged: &Staged,
        node: NodeId,
        inode: &Inode,
        seen: Option<&crate::store::inode::Seen>,
        old_file: Option<&ReplacedFile>,
    ) -> Result<(), Stop> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let flags = flags | OFlags::CLOEXEC;
        let own = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&staged.dir, &*staged.temporary, flags, own)?;
        self.fill(&file, node, inode)?;
        let xattrs = self.new.xattrs(node, inode)?;
        attributes::set_all(&staged.dir, &file, inode, seen, xattrs.as_ref(), old_file)?;
        Ok(rustix::fs::fsync(&file)?)
    }

    /// Writes the content. Holes of the branch and of the file below stay holes.
    fn fill(&self, file: &OwnedFd, node: NodeId, inode: &Inode) -> Result<(), Stop> {
        let size = inode.as_file().map_or(0, crate::store::content::File::size);
        rustix::fs::ftruncate(file, size)?;
        let mut buffer = Vec::new();
        let mut from = 0;
        while let Some(data) = self.new.next_data(node, from)? {
            let mut at = data.start;
            while at < data.end {
                if is_set(self.cancelled) {
                    return Err(Stop::Cancelled);
                }
                let len = usize::try_from(data.end - at).map_or(PIECE, |len| len.min(PIECE));
                buffer.resize(len, 0);
                let read = self.new.read(node, at, &mut buffer)?;
                let part = &buffer[..read];
                if part.iter().any(|byte| *byte != 0) {
                    write_all(file, part, at)?;
                }
                if read == 0 {
                    break;
                }
                at += read as u64;
            }
            from = data.end;
        }
        Ok(())
    }
}

#[cfg(not(target_vendor = "apple"))]
fn special(dir: &OwnedFd, name: &[u8], kind: FileType, inode: &Inode, rdev: u64) -> Result<()> {
    let mode = attributes::mode_for_host(inode, None, None);
    rustix::fs::mknodat(dir, name, kind, mode, device(rdev))?;
    // The umask has removed some bits. The temporary name is known only here, so it is no link.
    Ok(rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?)
}

/// Fails: macOS creates such files by path only, which would follow links on the way.
#[cfg(target_vendor = "apple")]
fn special(_: &OwnedFd, _: &[u8], _: FileType, _: &Inode, _: u64) -> Result<()> {
    Err(rustix::io::Errno::OPNOTSUPP.into())
}

/// Converts a device number to the host's type.
#[cfg(not(target_vendor = "apple"))]
fn device<T: TryFrom<u64> + Default>(rdev: u64) -> T {
    T::try_from(rdev).unwrap_or_default()
}
