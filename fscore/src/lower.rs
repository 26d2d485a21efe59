//! The host directory below every branch: read lazily, never written.

use std::path::Path;

use crate::content::Stamp;
use crate::errno::{Errno, Result};
use crate::id::NodeId;
use crate::inode::Inode;
use crate::tree::{Found, Shared};

#[derive(Debug)]
pub(crate) struct Lower {}

impl Lower {
    pub(crate) fn open(_path: &Path) -> Result<Self> {
        Err(Errno::ENOSYS)
    }

    pub(crate) fn inode(&self, _node: NodeId, _shared: &Shared) -> Result<Inode> {
        Err(Errno::ESTALE)
    }

    pub(crate) fn lookup(
        &self,
        _dir: NodeId,
        _name: &[u8],
        _shared: &Shared,
    ) -> Result<Option<Found>> {
        Ok(None)
    }

    pub(crate) fn list(&self, _dir: NodeId, _shared: &Shared) -> Result<Vec<Found>> {
        Ok(Vec::new())
    }

    pub(crate) fn read(&self, _: NodeId, _: &Stamp, _: u64, _: &mut [u8]) -> Result<()> {
        Err(Errno::ESTALE)
    }
}
