//! Bringing content of the host's files up: copying it into extents of the branch, before the branch
//! changes a part of it.
//!
//! Copying may take long, so it is done while the branch is not locked: an operation that finds
//! that it needs content says what it [needs](Needed) and begins anew once that was
//! [brought up](BroughtUp).

use super::{Shared, Tree};
use crate::model::errno::{Errno, Result};
use crate::model::id::NodeId;
use crate::model::stamp::Stamp;
use crate::store::content::{File, PAGE};

/// How many bytes are brought up into one extent at most.
const STEP: u64 = 16 << 20;

/// Up to which size the content of a file is kept when the branch changes only its metadata or its
/// names.
const MOST_KEPT: u64 = 1 << 20;

/// The bytes of a lower file that an operation needs as the branch's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needed {
    pub(crate) node: NodeId,
    /// The version of the lower file that the branch shows.
    pub(crate) stamp: Stamp,
    /// Where the bytes end that are needed.
    end: u64,
    /// How many pages the limit of all branches allows.
    room: u64,
    /// How many the quota of the branch allows.
    quota: u64,
}

/// Bytes of a lower file that no branch refers to yet. They are freed when this is dropped.
#[derive(Debug)]
pub(crate) struct BroughtUp {
    needed: Needed,
    file: File,
}

/// What content an operation needs and has.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// What was brought up before the operation began.
    pub(crate) ready: Option<BroughtUp>,
    /// What the operation has found to be missing. It has failed, without having changed more than
    /// what it has copied up.
    pub(crate) missing: Option<Needed>,
}

impl Needed {
    /// Copies the bytes. Holes stay holes, and blocks are shared where the filesystem can.
    ///
    /// # Errors
    ///
    /// `ESTALE` when the host has changed the file, `ENOSPC` at the limit.
    pub(crate) fn bring_up(self, shared: &Shared) -> Result<BroughtUp> {
        let Self {
            node, stamp, end, ..
        } = self;
        let lower = shared.lower.as_ref().ok_or(Errno::ESTALE)?;
        let source = lower.version(node, &stamp)?;
        let mut file = File::default();
        file.resize(stamp.size);
        let mut at = 0;
        while let Some(start) = source.seek(at, true)?.filter(|start| *start < end) {
            let start = start / PAGE * PAGE;
            let hole = source.seek(start.max(at), false)?.unwrap_or(end).min(end);
            let stop = hole.next_multiple_of(PAGE).min(end).min(start + STEP);
            let pages = file.counted() + (stop - start).div_ceil(PAGE);
            if pages > self.quota {
                return Err(Errno::EDQUOT);
            }
            if pages > self.room {
                return Err(Errno::ENOSPC);
            }
            file.bring_up(&shared.extents, start..stop, |extent| {
                extent.copy_from(source.fd(), start..stop, 0)
            })?;
            at = stop;
        }
        source.require_unchanged()?;
        Ok(BroughtUp { needed: self, file })
    }

    fn is_met_by(&self, other: &Self) -> bool {
        self.node == other.node && self.end <= other.end && self.stamp.has_bytes_of(&other.stamp)
    }
}

impl Content {
    /// Checks that what an operation needs was brought up, and records what is missing.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if it is missing: the operation is run again once it is there.
    pub(crate) fn require(&mut self, needed: &Needed) -> Result<()> {
        let ready = self.ready.as_ref();
        if ready.is_some_and(|ready| needed.is_met_by(&ready.needed)) {
            return Ok(());
        }
        self.missing = Some(*needed);
        Err(Errno::EAGAIN)
    }
}

impl Tree {
    /// Returns which bytes of the lower layer have to be brought up, so that nothing that the host
    /// does later changes the bytes before `end` of a file; `None` if there are none.
    pub(crate) fn needed(&self, node: NodeId, end: u64) -> Result<Option<Needed>> {
        let inode = self.inode(node)?;
        let file = inode.as_file().ok_or(Errno::EINVAL)?;
        let most = self.shared.config.limits.bytes / PAGE;
        let quota = self.quota.unwrap_or(u64::MAX);
        Ok(file.read_below().map(|stamp| Needed {
            node,
            stamp: *stamp,
            end: end.min(file.size()),
            room: most.saturating_sub(self.pages),
            quota: quota.saturating_sub(self.pages),
        }))
        .map(|needed| needed.filter(|needed| needed.end > 0))
    }

    /// Makes the bytes before `end` of a file the branch's own, from what was brought up. The object
    /// must have been copied up; if the branch has its own content already, there is nothing to do.
    ///
    /// # Errors
    ///
    /// Those of [`Content::require`]; `ENOSPC` at the limit.
    pub(crate) fn take_content(
        &mut self,
        node: NodeId,
        end: u64,
        content: &mut Content,
    ) -> Result<()> {
        let own = if let Some(needed) = self.needed(node, end)? {
            content.require(&needed)?;
            content.ready.take().ok_or(Errno::EAGAIN)?.file
        } else {
            let inode = self.inode(node)?;
            let file = inode.as_file().ok_or(Errno::EINVAL)?;
            if file.lower().is_none() {
                return Ok(());
            }
            if file.is_kept() {
                return self.change_file(node, |file, _| {
                    file.own_kept();
                    Ok(())
                });
            }
            let mut empty = File::default();
            empty.resize(file.size());
            empty
        };
        self.room_for_pages(own.counted())?;
        self.change_file(node, |file, _| {
            *file = own;
            Ok(())
        })
    }

    /// Keeps the content of a small file that was copied up for a change of its metadata or names,
    /// so that it can still be read when the host has changed or removed its file. It counts as
    /// unchanged all the same. A large file, and one that cannot be copied, is read from the host as
    /// long as that has it.
    pub(crate) fn keep_content(&mut self, node: NodeId) -> Result<()> {
        let inode = self.inode(node)?;
        let below = inode.as_file().and_then(File::read_below);
        if below.is_none_or(|stamp| stamp.size > MOST_KEPT) {
            return Ok(());
        }
        let Some(needed) = self.needed(node, u64::MAX)? else {
            return Ok(());
        };
        let Ok(BroughtUp { file: own, .. }) = needed.bring_up(&self.shared) else {
            return Ok(());
        };
        self.change_file(node, |file, _| {
            file.keep(own);
            Ok(())
        })
    }
}
