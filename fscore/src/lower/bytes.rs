//! The bytes of the host's files, and where they have holes.

use std::sync::Arc;

use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::SeekFrom;

use super::Lower;
use super::stat::stamp_of;
use crate::disk::read_full;
use crate::model::errno::{Errno, Result};
use crate::model::id::NodeId;
use crate::model::stamp::Stamp;

/// A file of the host that is open in one version.
#[derive(Debug)]
pub(crate) struct HostVersion<'l> {
    lower: &'l Lower,
    node: NodeId,
    stamp: Stamp,
    fd: Arc<OwnedFd>,
}

impl HostVersion<'_> {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Finds data or a hole: see [`Lower::seek`].
    pub(crate) fn seek(&self, offset: u64, data: bool) -> Result<Option<u64>> {
        seek(&self.fd, offset, data)
    }

    /// Fails with `ESTALE` when the file has other bytes by now. Called after the bytes were read.
    pub(crate) fn require_unchanged(&self) -> Result<()> {
        self.lower.require_bytes(self.node, &self.fd, &self.stamp)
    }
}

impl Lower {
    /// Opens a lower file of which a branch shows the version `stamp`.
    ///
    /// # Errors
    ///
    /// `ESTALE` when it has other bytes by now.
    pub(crate) fn version(&self, node: NodeId, stamp: &Stamp) -> Result<HostVersion<'_>> {
        let fd = self.file(node)?;
        self.require_bytes(node, &fd, stamp)?;
        Ok(HostVersion {
            lower: self,
            node,
            stamp: *stamp,
            fd,
        })
    }

    /// Reads bytes of a lower file that was just found to have this stamp; returns how many there
    /// are.
    pub(crate) fn read(
        &self,
        node: NodeId,
        stamp: &Stamp,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize> {
        read_full(&*self.file_as(node, stamp)?, buffer, offset)
    }

    /// Fills the buffer with bytes of a lower file, of which a branch shows the version `stamp`.
    ///
    /// # Errors
    ///
    /// `ESTALE` when it has other bytes by now.
    pub(crate) fn read_base(
        &self,
        node: NodeId,
        stamp: &Stamp,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let fd = self.file(node)?;
        let read = read_full(&fd, buffer, offset)?;
        self.require_bytes(node, &fd, stamp)?;
        if read < buffer.len() {
            self.close(node);
            return Err(Errno::ESTALE);
        }
        Ok(read)
    }

    /// Finds the first data (`true`) or hole of a lower file that is not before `offset`; the end
    /// of the file is a hole. The file was just found to have this stamp. Where the host's
    /// filesystem does not report holes, everything is data.
    pub(crate) fn seek(
        &self,
        node: NodeId,
        stamp: &Stamp,
        offset: u64,
        data: bool,
    ) -> Result<Option<u64>> {
        seek(&*self.file_as(node, stamp)?, offset, data)
    }

    /// Finds data or a hole as [`seek`](Self::seek) does, in a lower file of which a branch shows
    /// the version `stamp`.
    ///
    /// # Errors
    ///
    /// `ESTALE` when it has other bytes by now.
    pub(crate) fn seek_base(
        &self,
        node: NodeId,
        stamp: &Stamp,
        offset: u64,
        data: bool,
    ) -> Result<Option<u64>> {
        let fd = self.file(node)?;
        let found = seek(&fd, offset, data)?;
        self.require_bytes(node, &fd, stamp)?;
        Ok(found)
    }

    /// Fails with `ESTALE` when an open file does not have the bytes of the version `stamp`. Called
    /// after the bytes were read, so that a change while they were read is found as well.
    fn require_bytes(&self, node: NodeId, fd: &OwnedFd, stamp: &Stamp) -> Result<()> {
        if stamp_of(&rustix::fs::fstat(fd)?).has_bytes_of(stamp) {
            return Ok(());
        }
        self.close(node);
        Err(Errno::ESTALE)
    }

    /// Returns a lower file that was just found to have this stamp, opened.
    fn file_as(&self, node: NodeId, stamp: &Stamp) -> Result<Arc<OwnedFd>> {
        let fd = self.file(node)?;
        if stamp_of(&rustix::fs::fstat(&fd)?) == *stamp {
            return Ok(fd);
        }
        // The file was changed just now, or another object got the number of the one that is kept
        // open.
        self.close(node);
        self.file(node)
    }
}

/// Finds the first data (`true`) or hole that is not before `offset`. This moves the position of
/// the descriptor, which nothing else uses: all reads here are by offset.
pub(super) fn seek(fd: &OwnedFd, offset: u64, data: bool) -> Result<Option<u64>> {
    let to = if data {
        SeekFrom::Data(offset)
    } else {
        SeekFrom::Hole(offset)
    };
    match rustix::fs::seek(fd, to) {
        Ok(found) => Ok(Some(found)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(data.then_some(offset)),
        Err(errno) => Err(errno.into()),
    }
}
