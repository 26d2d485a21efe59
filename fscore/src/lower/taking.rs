//! Looking at everything in a directory of the host, to take it as it is.

use std::sync::Arc;

use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::bytes::seek;
use super::index::IndexedObject;
use super::stat::stamp_of;
use super::{HostInode, Lower, stat_at, xattrs_of};
use crate::model::attr::Xattrs;
use crate::model::errno::{Errno, Result};
use crate::model::event::Name;
use crate::model::id::NodeId;
use crate::model::names::Found;
use crate::model::stamp::Stamp;

/// A directory of the host, opened to be taken.
#[derive(Debug)]
pub(crate) struct TakingDir<'l> {
    lower: &'l Lower,
    node: NodeId,
    known: IndexedObject,
    fd: OwnedFd,
}

/// A file of the host in one version, opened to be taken.
#[derive(Debug)]
pub(crate) struct TakingFile {
    fd: OwnedFd,
    stamp: Stamp,
}

impl Lower {
    /// Opens a directory to be taken; `None` when the host no longer has it.
    pub(crate) fn take_dir(&self, node: NodeId) -> Result<Option<TakingDir<'_>>> {
        let opened = self.same_dir(node)?;
        Ok(opened.map(|(fd, known)| TakingDir {
            lower: self,
            node,
            known,
            fd,
        }))
    }

    /// Returns the version of a directory as the host has it now; `None` when the host no longer has it.
    pub(crate) fn dir_version(&self, node: NodeId) -> Result<Option<Stamp>> {
        let opened = self.same_dir(node)?;
        let version = |(fd, _): (OwnedFd, IndexedObject)| rustix::fs::fstat(fd);
        Ok(opened.map(version).transpose()?.map(|stat| stamp_of(&stat)))
    }
}

impl TakingDir<'_> {
    /// Returns the path, relative to the root.
    pub(crate) fn path(&self) -> &[u8] {
        &self.known.path
    }

    /// Returns the version, which is another one as soon as a name in the directory has changed.
    pub(crate) fn version(&self) -> Result<Stamp> {
        Ok(stamp_of(&rustix::fs::fstat(&self.fd)?))
    }

    /// Looks at the directory itself.
    pub(crate) fn inode(&self) -> Result<HostInode> {
        self.lower.inode(self.node)
    }

    pub(crate) fn xattrs(&self) -> Option<Arc<Xattrs>> {
        xattrs_of(&self.fd)
    }

    /// Returns the names in the directory.
    pub(crate) fn names(&self) -> Result<Vec<Name>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(Name::from(name));
            }
        }
        Ok(names)
    }

    /// Looks at what has a name; `None` when the name is gone.
    pub(crate) fn look(&self, name: &[u8]) -> Result<Option<(Found, HostInode)>> {
        let stat = match stat_at(&self.fd, name) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let at = (&self.fd, &self.known);
        let Some(found) = self.lower.register(at, self.node, name, &stat) else {
            return Ok(None);
        };
        let known = self.lower.known(found.node)?;
        let inode = self
            .lower
            .inode_in((&self.fd, name), &stat, (found.node, &known))?;
        Ok(Some((found, inode)))
    }

    /// Opens a file that was just looked at.
    ///
    /// # Errors
    ///
    /// `ESTALE` when it has another version by now.
    pub(crate) fn open(&self, name: &[u8], stamp: Stamp) -> Result<TakingFile> {
        // A FIFO or device that has taken the name is not opened.
        let opened = super::beneath::open_content(&self.fd, name);
        let (fd, _) = opened.map_err(super::vanished)?;
        let file = TakingFile { fd, stamp };
        file.require_version()?;
        Ok(file)
    }
}

impl TakingFile {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn xattrs(&self) -> Option<Arc<Xattrs>> {
        xattrs_of(&self.fd)
    }

    /// Finds the first data (`true`) or hole that is not before an offset.
    pub(crate) fn seek(&self, offset: u64, data: bool) -> Result<Option<u64>> {
        seek(&self.fd, offset, data)
    }

    /// Fails with `ESTALE` when the file has another version by now. Called before and after the
    /// file is read, so that all that was read is of one version.
    pub(crate) fn require_version(&self) -> Result<()> {
        match stamp_of(&rustix::fs::fstat(&self.fd)?) == self.stamp {
            true => Ok(()),
            false => Err(Errno::ESTALE),
        }
    }
}
