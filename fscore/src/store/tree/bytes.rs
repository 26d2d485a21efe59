//! The bytes of a tree's files: the branch's own, or those of a file of the host.

use std::ops::Range;
use std::sync::Arc;

use super::{Shared, Tree};
use crate::model::errno::{Errno, Result};
use crate::model::id::NodeId;
use crate::model::stamp::Stamp;
use crate::store::content::File;
use crate::store::extents::Extents;

impl Tree {
    /// Changes a file's content, and updates the count of pages. The file must have been
    /// [brought up](Self::take_content).
    pub(crate) fn change_file<T>(
        &mut self,
        node: NodeId,
        change: impl FnOnce(&mut File, &Arc<Extents>) -> Result<T>,
    ) -> Result<T> {
        let shared = self.shared.clone();
        let file = self.inode_mut(node)?.as_file_mut().ok_or(Errno::EINVAL)?;
        let before = file.counted();
        let result = change(file, &shared.extents);
        let after = file.counted();
        self.pages = self.pages - before + after;
        result
    }

    pub(crate) fn read(&self, node: NodeId, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let inode = self.inode_or_held(node)?;
        if inode.is_dir() {
            return Err(Errno::EISDIR);
        }
        let file = inode.as_file().ok_or(Errno::EINVAL)?;
        let lower = read_lower(&self.shared, node, self.is_own(node));
        file.read(offset, buffer, &lower)
    }

    /// Finds the next data or hole of a file: see [`File::seek`].
    pub(crate) fn seek(&self, node: NodeId, offset: u64, data: bool) -> Result<Option<u64>> {
        let inode = self.inode_or_held(node)?;
        let file = inode.as_file().ok_or(Errno::EINVAL)?;
        file.seek(
            offset,
            data,
            &seek_lower(&self.shared, node, self.is_own(node)),
        )
    }

    /// Returns the next range of a file that may hold data: see [`File::next_data`].
    pub(crate) fn next_data(&self, node: NodeId, from: u64) -> Result<Option<Range<u64>>> {
        let inode = self.inode_or_held(node)?;
        let file = inode.as_file().ok_or(Errno::EINVAL)?;
        file.next_data(from, &seek_lower(&self.shared, node, self.is_own(node)))
    }
}

/// Returns a function that reads the lower file of `node`. If the branch has copied the file up,
/// reading fails once the host has changed it.
fn read_lower(
    shared: &Shared,
    node: NodeId,
    is_own: bool,
) -> impl Fn(&Stamp, u64, &mut [u8]) -> Result<usize> {
    move |stamp, offset, buffer| match &shared.lower {
        Some(lower) if is_own => lower.read_base(node, stamp, offset, buffer),
        Some(lower) => lower.read(node, stamp, offset, buffer),
        None => Err(Errno::ESTALE),
    }
}

/// Returns a function that finds data and holes of the lower file of `node`, under the same
/// condition as [`read_lower`].
fn seek_lower(
    shared: &Shared,
    node: NodeId,
    is_own: bool,
) -> impl Fn(&Stamp, u64, bool) -> Result<Option<u64>> {
    move |stamp, offset, data| match &shared.lower {
        Some(lower) if is_own => lower.seek_base(node, stamp, offset, data),
        Some(lower) => lower.seek(node, stamp, offset, data),
        None => Err(Errno::ESTALE),
    }
}
