//! Bringing content of the host's files up: copying it into extents of the branch, before the branch
//! changes a part of it.
//!
//! Copying may take long, so it is done while the branch is not locked: an operation that finds
//! that it needs content says what it [needs](Needed) and begins anew once that was
//! [brought up](BroughtUp).

use std::ops::Range;

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
        let seek = |at, data| source.seek(at, data);
        let mut at = 0;
        while let Some(range) = next_range(&seek, at, end)? {
            let pages = file.counted() + (range.end - range.start).div_ceil(PAGE);
            if pages > self.quota {
                return Err(Errno::EDQUOT);
            }
            if pages > self.room {
                return Err(Errno::ENOSPC);
            }
            file.bring_up(&shared.extents, range.clone(), |extent| {
                extent.copy_from(source.fd(), range.clone(), 0)
            })?;
            at = range.end;
        }
        source.require_unchanged()?;
        Ok(BroughtUp { needed: self, file })
    }

    fn is_met_by(&self, other: &Self) -> bool {
        self.node == other.node && self.end <= other.end && self.stamp.has_bytes_of(&other.stamp)
    }
}

/// Returns the next range of whole pages, not before `at` and cut off at `end`, in which a file of the
/// host holds data; `at` is a multiple of [`PAGE`]. `seek` finds the first data (`true`) or hole that is
/// not before an offset.
pub(crate) fn next_range(
    seek: &dyn Fn(u64, bool) -> Result<Option<u64>>,
    at: u64,
    end: u64,
) -> Result<Option<Range<u64>>> {
    let Some(data) = seek(at, true)?.filter(|data| *data < end) else {
        return Ok(None);
    };
    // The hole is looked for from the data on, because a page may begin with a hole where the blocks of
    // the host are smaller. The host may also have punched the data out meanwhile.
    let hole = seek(data, false)?.unwrap_or(end).max(data + 1);
    let start = data / PAGE * PAGE;
    let stop = hole.next_multiple_of(PAGE).min(end).min(start + STEP);
    Ok(Some(start..stop))
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
        self.hold_content(node, MOST_KEPT).or(Ok(()))
    }

    /// Keeps the content of a file up to a size as [`keep_content`](Self::keep_content) does.
    ///
    /// # Errors
    ///
    /// `ESTALE` when the host has changed the file; those of the store.
    pub(crate) fn hold_content(&mut self, node: NodeId, most: u64) -> Result<()> {
        let inode = self.inode(node)?;
        let below = inode.as_file().and_then(File::read_below);
        if below.is_none_or(|stamp| stamp.size > most) {
            return Ok(());
        }
        let Some(needed) = self.needed(node, u64::MAX)? else {
            return Ok(());
        };
        let BroughtUp { file: own, .. } = needed.bring_up(&self.shared)?;
        self.room_for_pages(own.counted())?;
        self.change_file(node, |file, _| {
            file.keep(own);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the ranges of a file whose data are these bytes.
    fn ranges(data: &[Range<u64>], end: u64) -> Vec<Range<u64>> {
        let seek = |at: u64, is_data: bool| {
            let here = data.iter().find(|it| it.end > at);
            Ok(match here {
                Some(it) if is_data => Some(it.start.max(at)),
                Some(it) if it.contains(&at) => Some(it.end),
                Some(_) => Some(at),
                None => (!is_data).then_some(at).filter(|_| at < end),
            })
        };
        let (mut all, mut at) = (Vec::new(), 0);
        while let Some(range) = next_range(&seek, at, end).unwrap() {
            assert!(range.end > at, "{range:?} goes on from {at}");
            at = range.end;
            all.push(range);
        }
        all
    }

    #[test]
    fn a_page_that_begins_with_a_hole_is_one_range() {
        // A filesystem with blocks of 1 KiB.
        let data = [5120..6144, 7168..9216];
        assert_eq!(ranges(&data, 20_000), [4096..8192, 8192..12_288]);
        assert_eq!(ranges(&data, 9000), [4096..8192, 8192..9000]);
        assert_eq!(ranges(&[], 9000), []);
        let large = 40 << 20;
        assert_eq!(
            ranges(&[0..STEP, STEP..large], large),
            [0..STEP, STEP..2 * STEP, 2 * STEP..large]
        );
    }

    #[test]
    fn data_that_the_host_punches_out_meanwhile_ends_no_copy() {
        // Data is found where a hole is found right after.
        let seek = |at: u64, _| Ok((at < 8192).then_some(at));
        assert_eq!(next_range(&seek, 4096, 9000), Ok(Some(4096..8192)));
    }
}
