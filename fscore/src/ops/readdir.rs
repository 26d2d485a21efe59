//! Reading directories.

use std::path::Path;
use std::sync::Arc;

use super::bytes;
use crate::branch::Branch;
use crate::branch::transaction::View;
use crate::model::attr::DirEntry;
use crate::model::caller::Caller;
use crate::model::errno::{Errno, Result};
use crate::model::event::ObjectKind;
use crate::model::flags::Access;
use crate::model::id::NodeId;
use crate::model::names::Found;
use crate::store::dir::{FIRST_KEY, Link};
use crate::store::handles::{Handle, HandleId, Listing};

/// The cookies after `.` and `..`.
const AFTER_DOT: u64 = 1;
const AFTER_DOT_DOT: u64 = 2;

/// The state of reading a directory by its node from start to end. The host is asked only at the
/// start.
#[derive(Clone, Default, Debug)]
pub struct Pass(Option<Listing>);

impl Pass {
    /// Returns whether there is anything to continue with.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

impl Branch {
    /// Returns up to `max` entries after `cookie` (0 is the start), `.` and `..` included:
    /// [getdents(2)](https://man7.org/linux/man-pages/man2/getdents.2.html). At the end it returns
    /// none. An entry that stays is returned exactly once in a pass, whatever is added or removed
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// `EBADF`, `ENOTDIR`; `ENOENT` in a directory that is removed.
    pub fn readdir(
        &self,
        caller: &Caller,
        handle: HandleId,
        cookie: u64,
        max: usize,
    ) -> Result<Vec<DirEntry>> {
        self.read_by_handle(caller, handle, |view, handle| {
            let mut listing = handle.listing.lock();
            view.read_entries(handle.node, &mut listing, cookie, max)
        })
    }

    /// Returns the same, with the state that the last call of the same pass left, perhaps through
    /// another handle.
    ///
    /// # Errors
    ///
    /// Those of [`readdir`](Self::readdir).
    pub fn readdir_in_pass(
        &self,
        caller: &Caller,
        handle: HandleId,
        pass: &mut Pass,
        cookie: u64,
        max: usize,
    ) -> Result<Vec<DirEntry>> {
        self.read_by_handle(caller, handle, |view, handle| {
            view.read_entries(handle.node, &mut pass.0, cookie, max)
        })
    }

    fn read_by_handle(
        &self,
        caller: &Caller,
        handle: HandleId,
        read: impl FnOnce(&View<'_>, &Handle) -> Result<Vec<DirEntry>>,
    ) -> Result<Vec<DirEntry>> {
        let (entries, is_emitted) = self.view(caller, |view| {
            let handle = view.handle(handle)?;
            let entries = read(view, handle)?;
            let is_emitted = !entries.is_empty() && view.emit_read(handle)?;
            Ok((entries, is_emitted))
        })?;
        if is_emitted {
            self.deliver_for(caller);
        }
        Ok(entries)
    }

    /// Returns the same without a handle, and emits no activity. `pass` is the state that the last
    /// call of the same pass left.
    ///
    /// # Errors
    ///
    /// Those of [`readdir`](Self::readdir); `ESTALE` when there is no such node any more.
    pub fn readdir_node(
        &self,
        caller: &Caller,
        node: NodeId,
        pass: &mut Pass,
        cookie: u64,
        max: usize,
    ) -> Result<Vec<DirEntry>> {
        self.view(caller, |view| {
            view.read_entries(node, &mut pass.0, cookie, max)
        })
    }

    /// Returns all entries of the directory at a path, without `.` and `..`, in no particular
    /// order.
    ///
    /// # Errors
    ///
    /// Those of opening the directory for reading.
    pub fn list(&self, caller: &Caller, path: impl AsRef<Path>) -> Result<Vec<DirEntry>> {
        self.view(caller, |view| {
            let walk = view.walk();
            let node = walk.resolve(bytes(path.as_ref()), true)?.node;
            let inode = view.tree.inode(node)?;
            if !inode.is_dir() {
                return Err(Errno::ENOTDIR);
            }
            walk.rights.check(&inode, Access::READ)?;
            let all = view.tree.list(node, &inode)?;
            Ok(all
                .into_iter()
                .map(|(cookie, found)| entry(cookie, found))
                .collect())
        })
    }
}

fn entry(cookie: u64, found: Found) -> DirEntry {
    DirEntry {
        name: found.name,
        node: found.node,
        kind: found.kind,
        cookie,
    }
}

impl View<'_> {
    fn read_entries(
        &self,
        node: NodeId,
        listing: &mut Option<Listing>,
        cookie: u64,
        max: usize,
    ) -> Result<Vec<DirEntry>> {
        let inode = self.tree.inode(node)?;
        let dir = inode.as_dir().ok_or(Errno::ENOTDIR)?;
        if inode.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        let mut entries = self.dots(node, cookie)?;
        entries.truncate(max);
        let left = max - entries.len();
        let from = cookie.max(FIRST_KEY - 1).saturating_add(1);
        if dir.merges_lower {
            let listing = self.listing(node, listing, cookie == 0)?;
            let start = listing.partition_point(|(key, _)| *key < from);
            let part = listing[start..].iter().take(left);
            entries.extend(part.map(|(key, found)| entry(*key, found.clone())));
            return Ok(entries);
        }
        let visible =
            dir.entries()
                .range_from(from)
                .filter_map(|(key, stored)| match stored.link {
                    Link::To(node, kind) => Some(DirEntry {
                        name: stored.name.clone(),
                        node,
                        kind,
                        cookie: key,
                    }),
                    Link::Whiteout => None,
                });
        entries.extend(visible.take(left));
        Ok(entries)
    }

    fn dots(&self, node: NodeId, cookie: u64) -> Result<Vec<DirEntry>> {
        let dot = |name: &[u8], node, cookie| DirEntry {
            name: Arc::from(name),
            node,
            kind: ObjectKind::Directory,
            cookie,
        };
        let mut dots = Vec::new();
        if cookie < AFTER_DOT {
            dots.push(dot(b".", node, AFTER_DOT));
        }
        if cookie < AFTER_DOT_DOT {
            dots.push(dot(b"..", self.walk().parent_of(node)?, AFTER_DOT_DOT));
        }
        Ok(dots)
    }

    /// Returns the listing of a directory. A merged directory is listed once a pass, so that the
    /// host is not asked for every part of it.
    fn listing(&self, node: NodeId, kept: &mut Option<Listing>, anew: bool) -> Result<Listing> {
        if let Some(listing) = kept.as_ref().filter(|_| !anew) {
            return Ok(listing.clone());
        }
        let inode = self.tree.inode(node)?;
        let listing = Arc::new(self.tree.list(node, &inode)?);
        *kept = Some(listing.clone());
        Ok(listing)
    }
}
