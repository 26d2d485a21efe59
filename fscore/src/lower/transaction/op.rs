//! One operation of a transaction: how it is performed, so that nothing which the host changed
//! meanwhile is overwritten.
//!
//! Each returns whether it was performed. It is not performed when the host has something else
//! there than was expected; then the host is as it was.

use std::cell::Cell;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, OFlags};
use rustix::io::Errno as HostErrno;

use super::attributes::AttributeChange;
use super::faults;
use super::names::kept_name;
use crate::lower::host_object::HostObject;
use crate::lower::stat::Fingerprint;
use crate::lower::{beneath, split};
use crate::model::errno::{Errno, Result};

/// A name in the staging directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Slot(pub(super) u64);

impl Slot {
    /// Returns the name.
    #[must_use]
    pub fn name(self) -> Vec<u8> {
        self.0.to_string().into_bytes()
    }
}

/// What is expected at a name: the object, and whether the time of its last change of any kind
/// counts. It does not count if this process has moved or linked the object since it was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// The object.
    pub fingerprint: Fingerprint,
    /// Whether the time of its last change of any kind counts.
    pub exact: bool,
}

impl Expected {
    /// Returns whether the object is still there, untouched.
    fn is_at(&self, at: &At<'_>) -> Result<bool> {
        Ok(at.look()?.is_some_and(|now| {
            if self.exact {
                now == self.fingerprint
            } else {
                now.is_same_content(&self.fingerprint)
            }
        }))
    }
}

/// An operation. Paths are relative to the project, as they are when the operation's turn comes.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Op {
    /// A staged object gets a name that is free.
    Place {
        slot: Slot,
        new: Fingerprint,
        path: Vec<u8>,
    },
    /// A staged object takes the place of another one, which goes to its slot.
    Replace {
        slot: Slot,
        new: Fingerprint,
        path: Vec<u8>,
        old: Expected,
    },
    /// An object goes to a slot, or nothing is there. A directory must be empty.
    Remove {
        slot: Slot,
        path: Vec<u8>,
        old: Option<Expected>,
        /// The permissions of a directory.
        mode: u32,
    },
    /// An object gets another name, which is free.
    Rename {
        from: Vec<u8>,
        to: Vec<u8>,
        object: Expected,
    },
    /// An object gets other attributes.
    Set {
        path: Vec<u8>,
        object: Fingerprint,
        before: AttributeChange,
        after: AttributeChange,
    },
}

/// A name in an open directory.
pub(super) struct At<'a> {
    pub(super) dir: &'a OwnedFd,
    pub(super) name: &'a [u8],
}

impl At<'_> {
    pub(super) fn look(&self) -> Result<Option<Fingerprint>> {
        if self.name.is_empty() {
            return Ok(Some(Fingerprint::of(&rustix::fs::fstat(self.dir)?)));
        }
        match rustix::fs::statat(self.dir, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Fingerprint::of(&stat))),
            Err(HostErrno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Where operations are performed.
#[derive(Debug)]
pub(super) struct Host<'a> {
    pub(super) root: &'a OwnedFd,
    /// The staging directory.
    pub(super) area: &'a OwnedFd,
    /// Whether the filesystem cannot exchange two names, or cannot rename without replacing. Then
    /// each name is looked at right before the rename, and a change that the host makes in between
    /// is lost.
    pub(super) plain: &'a Cell<bool>,
}

impl Host<'_> {
    /// Opens the directory of a path; `None` where there is none any more.
    pub(super) fn dir<'p>(&self, path: &'p [u8]) -> Result<Option<(OwnedFd, &'p [u8])>> {
        let (dir, name) = split(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match beneath::open_on_mount(self.root, dir, flags) {
            Ok(dir) => Ok(Some((dir, name))),
            Err(HostErrno::NOENT | HostErrno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Performs an operation.
    pub(super) fn perform(&self, op: &Op) -> Result<bool> {
        let path = match op {
            Op::Place { path, .. }
            | Op::Replace { path, .. }
            | Op::Remove { path, .. }
            | Op::Set { path, .. } => path,
            Op::Rename { from, to, object } => return self.rename(from, to, object),
        };
        let Some((dir, name)) = self.dir(path)? else {
            // What was to be removed is gone with its directory.
            return Ok(matches!(op, Op::Remove { .. }));
        };
        let at = At { dir: &dir, name };
        match op {
            Op::Place { slot, .. } => {
                let slot = slot.name();
                self.no_replace(&self.staged(&slot), &at)
            }
            Op::Replace { slot, new, old, .. } => self.replace(*slot, new, &at, old),
            Op::Remove {
                slot,
                old: Some(old),
                mode,
                ..
            } => self.remove(*slot, &at, old, *mode),
            Op::Remove { old: None, .. } => Ok(at.look()?.is_none()),
            Op::Set { object, after, .. } => set(&at, object, after),
            Op::Rename { .. } => Ok(false),
        }
    }

    pub(super) fn staged<'n>(&'n self, name: &'n [u8]) -> At<'n> {
        At {
            dir: self.area,
            name,
        }
    }

    /// Lets a staged object and the old one exchange their names. What is in the slot then must be
    /// what was expected; otherwise it is put back.
    fn replace(&self, slot: Slot, new: &Fingerprint, at: &At<'_>, old: &Expected) -> Result<bool> {
        if !old.is_at(at)? {
            return Ok(false);
        }
        let slot = slot.name();
        let staged = self.staged(&slot);
        if !self.plain.get() {
            faults::point()?;
            match exchange(&staged, at) {
                Ok(()) => {
                    let came = |at: &At<'_>, what: &Fingerprint| {
                        Ok::<_, Errno>(at.look()?.is_some_and(|now| now.is_same_content(what)))
                    };
                    if came(&staged, &old.fingerprint) == Ok(true) && came(at, new) == Ok(true) {
                        return Ok(true);
                    }
                    self.exchange_back(&staged, at)?;
                    return Ok(false);
                }
                Err(HostErrno::NOENT) => return Ok(false),
                Err(errno) => self.fall_back_to_plain(errno)?,
            }
        }
        self.replace_plainly(&staged, at, old)
    }

    /// Replaces an object on a filesystem that cannot exchange two names. The old one is kept in
    /// the staging directory under another name.
    fn replace_plainly(&self, staged: &At<'_>, at: &At<'_>, old: &Expected) -> Result<bool> {
        let name = old_name(staged.name);
        let kept = self.staged(&name);
        faults::point()?;
        match rustix::fs::linkat(at.dir, at.name, kept.dir, kept.name, AtFlags::empty()) {
            Ok(()) => {}
            // It has no links either, so the name is free for a moment.
            Err(HostErrno::PERM | HostErrno::OPNOTSUPP | HostErrno::MLINK | HostErrno::NOSYS) => {
                rename_plainly(at, &kept)?;
            }
            Err(errno) => return Err(errno.into()),
        }
        let is_it = |now: Fingerprint| now.is_same_content(&old.fingerprint);
        if !kept.look()?.is_some_and(is_it) {
            self.put_back(&kept, at)?;
            return Ok(false);
        }
        rename_plainly(staged, at)?;
        rename_plainly(&kept, staged)?;
        Ok(true)
    }

    /// Takes an exchange back.
    pub(super) fn exchange_back(&self, staged: &At<'_>, at: &At<'_>) -> Result<()> {
        match exchange(staged, at) {
            Ok(()) => Ok(()),
            // The host has removed what was put there, so its own object gets its name back.
            Err(HostErrno::NOENT) => self.put_back(staged, at),
            Err(errno) => Err(errno.into()),
        }
    }

    fn remove(&self, slot: Slot, at: &At<'_>, old: &Expected, mode: u32) -> Result<bool> {
        if at.look()?.is_none() {
            return Ok(true);
        }
        if !old.is_at(at)? {
            return Ok(false);
        }
        let slot = slot.name();
        let staged = self.staged(&slot);
        let moved = match self.no_replace(at, &staged) {
            // To move a directory, its own `..` is written.
            Err(Errno::EACCES) if old.fingerprint.is_dir() && mode & 0o200 == 0 => {
                let object = HostObject::at(at.dir, at.name)?;
                let mode = rustix::fs::Mode::from_raw_mode((mode | 0o700) as rustix::fs::RawMode);
                object.set_mode(mode)?;
                self.no_replace(at, &staged)
            }
            Err(Errno::ENOENT) => return Ok(true),
            moved => moved,
        };
        moved?;
        let now = staged.look()?;
        let is_it = now.is_some_and(|now| now.is_same_content(&old.fingerprint));
        if is_it && (!old.fingerprint.is_dir() || is_empty(&staged)?) {
            return Ok(true);
        }
        self.put_back(&staged, at)?;
        Ok(false)
    }

    fn rename(&self, from: &[u8], to: &[u8], object: &Expected) -> Result<bool> {
        let (Some(from), Some(to)) = (self.dir(from)?, self.dir(to)?) else {
            return Ok(false);
        };
        let (from, to) = (
            At {
                dir: &from.0,
                name: from.1,
            },
            At {
                dir: &to.0,
                name: to.1,
            },
        );
        if !object.is_at(&from)? {
            return Ok(false);
        }
        match self.no_replace(&from, &to) {
            Ok(true) => {}
            Err(Errno::ENOENT) => return Ok(false),
            other => return other,
        }
        let is_it = |now: Fingerprint| now.is_same_content(&object.fingerprint);
        if to.look()?.is_some_and(is_it) {
            return Ok(true);
        }
        self.put_back(&to, &from)?;
        Ok(false)
    }

    /// Moves an object to a name that is free; returns whether the name was free.
    pub(super) fn no_replace(&self, from: &At<'_>, to: &At<'_>) -> Result<bool> {
        faults::point()?;
        if !self.plain.get() {
            match no_replace(from, to) {
                Ok(()) => return Ok(true),
                Err(HostErrno::EXIST) => return Ok(false),
                Err(errno) => self.fall_back_to_plain(errno)?,
            }
        }
        if to.look()?.is_some() {
            return Ok(false);
        }
        rename_plainly(from, to)?;
        Ok(true)
    }

    /// Moves the host's own object back to its name. If the host has created another object there
    /// since, or the directory is gone, it gets a name that says so.
    pub(super) fn put_back(&self, from: &At<'_>, to: &At<'_>) -> Result<()> {
        match self.no_replace(from, to) {
            Ok(false) | Err(Errno::ENOENT) => {}
            other => return other.map(drop),
        }
        let name = kept_name();
        let beside = At {
            dir: to.dir,
            name: &name,
        };
        self.no_replace(from, &beside)?;
        tracing::error!(
            name = %String::from_utf8_lossy(to.name),
            kept_as = %String::from_utf8_lossy(&name),
            "a file was changed and made anew on the host while it was applied; both are there"
        );
        Ok(())
    }

    /// Records that the filesystem has no such renames. Any other error is returned.
    fn fall_back_to_plain(&self, errno: HostErrno) -> Result<()> {
        if !matches!(
            errno,
            HostErrno::INVAL | HostErrno::NOSYS | HostErrno::OPNOTSUPP
        ) {
            return Err(errno.into());
        }
        if !self.plain.replace(true) {
            tracing::warn!(
                "the filesystem cannot exchange names; each path is looked at right before it is \
                 replaced, and what is changed between the two is overwritten"
            );
        }
        Ok(())
    }
}

/// Returns the name of what was replaced, until it can have the one of the slot.
pub(super) fn old_name(slot: &[u8]) -> Vec<u8> {
    [slot, b"-old"].concat()
}

/// Returns the name of what takes an object's place while that is taken back.
pub(super) fn new_name(slot: &[u8]) -> Vec<u8> {
    [slot, b"-new"].concat()
}

fn set(at: &At<'_>, expected: &Fingerprint, after: &AttributeChange) -> Result<bool> {
    let object = match HostObject::at(at.dir, at.name) {
        Ok(object) => object,
        Err(HostErrno::NOENT | HostErrno::LOOP) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    };
    if !Fingerprint::of(&object.stat()?).is_same_content(expected) {
        return Ok(false);
    }
    faults::point()?;
    after.set(&object, at.dir, at.name)?;
    Ok(true)
}

/// Returns whether a directory has nothing in it.
pub(super) fn is_empty(at: &At<'_>) -> Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let dir = beneath::open_on_mount(at.dir, at.name, flags)?;
    for entry in Dir::new(dir)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn rename_plainly(from: &At<'_>, to: &At<'_>) -> Result<()> {
    faults::point()?;
    Ok(rustix::fs::renameat(from.dir, from.name, to.dir, to.name)?)
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn renamed(from: &At<'_>, to: &At<'_>, flags: rustix::fs::RenameFlags) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(from.dir, from.name, to.dir, to.name, flags)
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn exchange(one: &At<'_>, other: &At<'_>) -> rustix::io::Result<()> {
    renamed(one, other, rustix::fs::RenameFlags::EXCHANGE)
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn no_replace(from: &At<'_>, to: &At<'_>) -> rustix::io::Result<()> {
    renamed(from, to, rustix::fs::RenameFlags::NOREPLACE)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn exchange(_: &At<'_>, _: &At<'_>) -> rustix::io::Result<()> {
    Err(HostErrno::NOSYS)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn no_replace(_: &At<'_>, _: &At<'_>) -> rustix::io::Result<()> {
    Err(HostErrno::NOSYS)
}
