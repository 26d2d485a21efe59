//! Staging: new objects are written as a whole in the directory of the transaction.

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno as HostErrno;

use super::attributes::{self, ReplacedFile, set_owner_and_times};
use super::cancel::is_set;
use super::execute::{Executor, Stop};
use crate::disk::write_all;
use crate::lower::transaction::{Slot, faults};
use crate::lower::{Fingerprint, beneath, mode_of};
use crate::model::errno::{Errno, Result};
use crate::model::id::NodeId;
use crate::store::inode::{Body, Inode, Seen};

/// How many bytes are copied at a time.
const PIECE: usize = 1 << 20;

/// The owner may read, write and search.
const OPEN: u32 = 0o700;

impl Executor<'_> {
    /// Writes an object that will be in `dir`. It gets the attributes of the object it replaces that
    /// the branch does not show.
    pub(super) fn stage(
        &mut self,
        dir: NodeId,
        node: NodeId,
        replaces: Option<NodeId>,
    ) -> Result<Slot, Stop> {
        let inode = self.new.inode(node)?;
        let dir = self.dir_now(dir)?;
        let slot = self.transaction.slot();
        let (area, at) = (self.transaction.staging(), &*slot.name());
        faults::point()?;
        match &inode.body {
            Body::File(_) => {
                let old_file = replaces
                    .map(|replaced| self.open_replaced(node, replaced))
                    .transpose()?
                    .flatten();
                self.transaction.inherit(&dir)?;
                let seen = self.new.seen().get(replaces.unwrap_or(node).0);
                self.write((&dir, at), node, &inode, seen, old_file.as_ref())?;
                return Ok(slot);
            }
            Body::Symlink(text) => rustix::fs::symlinkat(&**text, area, at)?,
            Body::Fifo => special(area, at, FileType::Fifo, &inode, 0)?,
            Body::Socket => special(area, at, FileType::Socket, &inode, 0)?,
            Body::CharDevice(rdev) => special(area, at, FileType::CharacterDevice, &inode, *rdev)?,
            Body::BlockDevice(rdev) => special(area, at, FileType::BlockDevice, &inode, *rdev)?,
            Body::Dir(_) => return Err(Stop::Host(Errno::EISDIR)),
        }
        set_owner_and_times(area, at, &inode.attr(node))?;
        Ok(slot)
    }

    /// Creates a directory that will be in `dir`; returns whether it gets permissions in the end by
    /// which nothing could be put into it.
    pub(super) fn stage_dir(&mut self, dir: NodeId, node: NodeId) -> Result<(Slot, bool), Stop> {
        let inode = self.new.inode(node)?;
        let dir = self.dir_now(dir)?;
        self.transaction.inherit(&dir)?;
        let slot = self.transaction.slot();
        let area = self.transaction.staging();
        faults::point()?;
        rustix::fs::mkdirat(area, slot.name(), Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let made = beneath::open(area, &slot.name(), flags)?;
        let xattrs = self.new.xattrs(node, &inode)?;
        attributes::set_all(&dir, &made, &inode, None, xattrs.as_ref(), None)?;
        let mode = mode_of(&rustix::fs::fstat(&made)?);
        let is_closing = mode & OPEN != OPEN;
        if is_closing {
            let open = Mode::from_raw_mode((mode | OPEN) as rustix::fs::RawMode);
            rustix::fs::fchmod(&made, open)?;
        }
        Ok((slot, is_closing))
    }

    /// Opens the host's file that is replaced; `None` when it is no file.
    fn open_replaced(&self, node: NodeId, replaced: NodeId) -> Result<Option<ReplacedFile>, Stop> {
        let expected = self.expected(replaced)?.fingerprint;
        if !expected.is_file() {
            return Ok(None);
        }
        let path = self.lower.path_of(replaced).ok_or(Stop::Surprise)?;
        let (fd, stat) = match beneath::open_content(self.lower.root(), &path) {
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

    /// Writes the content, then sets the attributes. One sync of the transaction is for all files.
    fn write(
        &self,
        (dir, at): (&OwnedFd, &[u8]),
        node: NodeId,
        inode: &Inode,
        seen: Option<&Seen>,
        old_file: Option<&ReplacedFile>,
    ) -> Result<(), Stop> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let flags = flags | OFlags::CLOEXEC;
        let own = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(self.transaction.staging(), at, flags, own)?;
        self.fill(&file, node, inode)?;
        let xattrs = self.new.xattrs(node, inode)?;
        Ok(attributes::set_all(
            dir,
            &file,
            inode,
            seen,
            xattrs.as_ref(),
            old_file,
        )?)
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
                    faults::point()?;
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
    // The umask has removed some bits. Nobody else may write to the staging directory, so it is no
    // link.
    Ok(rustix::fs::chmodat(
        dir,
        name,
        mode,
        rustix::fs::AtFlags::empty(),
    )?)
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
