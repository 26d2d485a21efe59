//! A transaction on the host: many changes of a project that are made as one.
//!
//! The new objects are staged in a directory of their own ([`area`]), from where one rename brings
//! each to its place, and what is replaced or removed goes there. It runs in this order:
//!
//! 1. Everything is staged, and the list of all operations is written beside it ([`intent`]). One
//!    sync of the filesystem brings both to the disk.
//! 2. The operations are performed: renames that replace nothing, exchanges with a second look
//!    ([`op`]), and changes of attributes.
//! 3. After another sync the list is removed. This is the moment from which on the changes stay.
//! 4. The staging directory is removed with what was replaced.
//!
//! If the host has something else in a place than was expected, or refuses an operation, everything
//! is taken back ([`take_back`]), and the project is as it was. After a crash, [`recover`] does the
//! same: as long as there is a list, its operations are taken back; without one only the staging
//! directory is removed.

mod area;
mod attributes;
#[cfg(test)]
pub(crate) mod faults;
#[cfg(not(test))]
#[path = "no_faults.rs"]
pub(crate) mod faults;
mod intent;
mod lock;
mod names;
mod op;
mod take_back;
#[cfg(test)]
mod tests;

use std::cell::Cell;

use rustix::fd::OwnedFd;
use rustix::fs::AtFlags;

use self::area::Area;
pub use self::attributes::AttributeChange;
pub use self::lock::{ApplyLock, LockError};
pub use self::names::is_temporary;
pub use self::op::{Expected, Slot};
use self::op::{Host, Op};
use crate::lower::stat::Fingerprint;
use crate::model::errno::Result;

/// Changes of a project that are made as one. Paths are relative to the project, as they are when
/// the turn of their operation comes. Dropping it takes back what was performed, unless it was
/// [committed](Self::commit).
#[derive(Debug)]
pub struct Transaction<'a> {
    root: &'a OwnedFd,
    area: Area,
    ops: Vec<Op>,
    /// How many of them were performed.
    performed: usize,
    slots: u64,
    linked: Vec<Fingerprint>,
    plain: Cell<bool>,
    is_over: bool,
}

impl<'a> Transaction<'a> {
    /// Begins a transaction of the project whose [lock](ApplyLock) the caller has, after what an
    /// earlier process left unfinished was [taken back](recover).
    ///
    /// # Errors
    ///
    /// Those of mkdir(2), if there is no place where files can be staged.
    pub fn begin(root: &'a OwnedFd) -> Result<Self> {
        Ok(Self {
            root,
            area: Area::create(root)?,
            ops: Vec::new(),
            performed: 0,
            slots: 0,
            linked: Vec::new(),
            plain: Cell::new(false),
            is_over: false,
        })
    }

    /// Returns the staging directory, in which the caller creates objects under the names of slots.
    #[must_use]
    pub fn staging(&self) -> &OwnedFd {
        self.area.dir()
    }

    /// Gives what is staged next the ACL and the group that it would get in this directory.
    ///
    /// # Errors
    ///
    /// Those of fsetxattr(2) and fchmod(2).
    pub fn inherit(&self, dir: &OwnedFd) -> Result<()> {
        self.area.inherit(dir)
    }

    /// Returns a slot that is free.
    pub fn slot(&mut self) -> Slot {
        self.slots += 1;
        Slot(self.slots)
    }

    /// Adds that the staged object gets a name which is free. Returns what was staged.
    ///
    /// # Errors
    ///
    /// Those of stat(2).
    pub fn place(&mut self, slot: Slot, path: &[u8]) -> Result<Fingerprint> {
        let new = self.staged(slot)?;
        let path = path.to_vec();
        self.ops.push(Op::Place { slot, new, path });
        Ok(new)
    }

    /// Adds that the staged object takes the place of another one. Returns what was staged.
    ///
    /// # Errors
    ///
    /// Those of stat(2).
    pub fn replace(&mut self, slot: Slot, path: &[u8], old: Expected) -> Result<Fingerprint> {
        let new = self.staged(slot)?;
        let path = path.to_vec();
        self.ops.push(Op::Replace {
            slot,
            new,
            path,
            old,
        });
        Ok(new)
    }

    /// Adds that a name is removed: of a file, or of a directory that is empty by then, whose
    /// permissions are `mode`. A name that is gone by then counts as removed. Without an expected
    /// object, nothing may be there.
    pub fn remove(&mut self, path: &[u8], old: Option<Expected>, mode: u32) {
        let (slot, path) = (self.slot(), path.to_vec());
        self.ops.push(Op::Remove {
            slot,
            path,
            old,
            mode,
        });
    }

    /// Adds that an object moves to a name which is free.
    pub fn rename(&mut self, from: &[u8], to: &[u8], object: Expected) {
        let (from, to) = (from.to_vec(), to.to_vec());
        self.ops.push(Op::Rename { from, to, object });
    }

    /// Adds that an object, which is no directory, moves to the place of another one. The name is
    /// never free meanwhile.
    pub fn rename_over(&mut self, from: &[u8], to: &[u8], object: Expected, old: Expected) {
        let slot = self.slot();
        self.ops.push(Op::Remove {
            slot,
            path: from.to_vec(),
            old: Some(object),
            mode: 0,
        });
        self.ops.push(Op::Replace {
            slot,
            new: object.fingerprint,
            path: to.to_vec(),
            old,
        });
    }

    /// Adds that an object gets other attributes; `before` are those that it has now.
    pub fn set(
        &mut self,
        path: &[u8],
        object: Fingerprint,
        before: AttributeChange,
        after: AttributeChange,
    ) {
        let path = path.to_vec();
        self.ops.push(Op::Set {
            path,
            object,
            before,
            after,
        });
    }

    /// Records that the caller has linked an object of the host, which has changed its ctime.
    pub fn has_linked(&mut self, object: Fingerprint) {
        self.linked.push(object);
    }

    /// Lets the ctime of what was linked not count.
    fn settle_links(&mut self) {
        let linked = std::mem::take(&mut self.linked);
        let is_linked = |it: &Expected| linked.iter().any(|one| one.is_object_of(&it.fingerprint));
        for op in &mut self.ops {
            match op {
                Op::Replace { old: it, .. }
                | Op::Remove { old: Some(it), .. }
                | Op::Rename { object: it, .. }
                    if is_linked(it) =>
                {
                    it.exact = false;
                }
                Op::Replace { .. }
                | Op::Remove { .. }
                | Op::Rename { .. }
                | Op::Place { .. }
                | Op::Set { .. } => {}
            }
        }
    }

    /// Returns how many operations were added.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Returns whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    fn staged(&self, slot: Slot) -> Result<Fingerprint> {
        faults::point()?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(self.area.dir(), slot.name(), flags)?;
        Ok(Fingerprint::of(&stat))
    }

    /// Brings what was staged and the list of the operations to the disk. Nothing is added after
    /// this.
    ///
    /// # Errors
    ///
    /// Those of write(2) and syncfs(2). Nothing was performed.
    pub fn seal(&mut self) -> Result<()> {
        self.settle_links();
        self.area.write_intent(&intent::encode(&self.ops))?;
        self.area.sync()
    }

    /// Performs the next operation. Returns false when the host has something else there than was
    /// expected; that is left as it is.
    ///
    /// # Errors
    ///
    /// Those of the system calls.
    pub fn perform_next(&mut self) -> Result<bool> {
        let Some(op) = self.ops.get(self.performed) else {
            return Ok(true);
        };
        let is_done = self.host().perform(op);
        // One that failed may have been performed in part.
        if is_done != Ok(false) {
            self.performed += 1;
        }
        is_done
    }

    /// Takes back the operation that was performed last. Returns false when there is none.
    ///
    /// # Errors
    ///
    /// Those of the system calls.
    pub fn take_back_last(&mut self) -> Result<bool> {
        let Some(last) = self.performed.checked_sub(1) else {
            return Ok(false);
        };
        if let Some(op) = self.ops.get(last) {
            self.host().take_back(op)?;
        }
        self.performed = last;
        Ok(true)
    }

    /// Returns how many operations were performed.
    #[must_use]
    pub fn performed(&self) -> usize {
        self.performed
    }

    /// Makes what was performed stay. Nothing can be taken back from then on.
    ///
    /// # Errors
    ///
    /// Those of syncfs(2) and unlink(2).
    pub fn commit(&mut self) -> Result<()> {
        self.area.sync()?;
        self.area.remove_intent()?;
        self.is_over = true;
        if let Err(errno) = self.area.clear(self.root) {
            tracing::warn!(%errno, "what was replaced cannot be removed yet; the next apply does that");
        }
        Ok(())
    }

    fn host(&self) -> Host<'_> {
        Host {
            root: self.root,
            area: self.area.dir(),
            plain: &self.plain,
        }
    }

    /// Takes back everything, and removes what is staged. Dropping the transaction does this, too.
    ///
    /// # Errors
    ///
    /// Those of the system calls. The rest is taken back by [`recover`].
    pub fn abandon(&mut self) -> Result<()> {
        if self.is_over {
            return Ok(());
        }
        while self.take_back_last()? {}
        self.area.remove_intent()?;
        self.area.clear(self.root)?;
        self.is_over = true;
        Ok(())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if faults::is_killed() {
            return;
        }
        if let Err(errno) = self.abandon() {
            tracing::error!(
                %errno,
                "what was applied in part cannot be taken back yet; the next command does that"
            );
        }
    }
}

/// Takes back what a process that was killed, or a machine that lost its power, left half applied
/// to this project. The caller has the project's [lock](ApplyLock). Returns whether there was
/// anything.
///
/// # Errors
///
/// Those of the system calls. The rest is taken back by the next call.
pub fn recover(root: &OwnedFd) -> Result<bool> {
    let mut is_found = false;
    for area in Area::left_behind(root)? {
        is_found = true;
        let bytes = area.read_intent()?;
        let ops = bytes.and_then(|bytes| intent::decode(&bytes));
        let plain = Cell::new(false);
        let host = Host {
            root,
            area: area.dir(),
            plain: &plain,
        };
        for op in ops.iter().flatten().rev() {
            host.take_back(op)?;
        }
        if ops.is_some_and(|ops| !ops.is_empty()) {
            area.sync()?;
        }
        area.remove_intent()?;
        area.clear(root)?;
    }
    Ok(is_found)
}

/// Takes back what an earlier process left unfinished, unless another process is applying to the
/// project at this moment. Returns whether there was anything.
///
/// # Errors
///
/// Those of [`recover`].
pub fn recover_if_idle(root: &OwnedFd) -> Result<bool> {
    if Area::left_behind(root)?.is_empty() {
        return Ok(false);
    }
    let cancelled = std::sync::atomic::AtomicBool::new(true);
    match ApplyLock::take(root, &cancelled) {
        Ok(_alone) => recover(root),
        Err(LockError::Cancelled | LockError::Busy) => Ok(false),
        Err(LockError::Host(errno)) => Err(errno),
    }
}
