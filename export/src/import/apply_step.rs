//! Prepares the steps of a list: stages what is new, and lists the operations on the host.
//!
//! Nothing is at its place yet. So the host's objects are found where they are before all steps, and
//! the paths of the operations are those that are valid when their turn comes.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use agentfs_core::event::ObjectKind;
use agentfs_core::{
    AttributeChange, Expected, Fingerprint, HostObject, Slot, Transaction, beneath, kind_of_mode,
};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::DiffKind;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::cancel::CancelToken;
use crate::changes::{Object, Step, split};
use crate::content;
use crate::error::{StepError, StepResult};
use crate::import::hard_links::{self, Names};
use crate::import::source::Source;
use crate::import::survey::object_of;
use crate::import::target::{Metadata, Target};
use crate::moves::Moves;

/// The set-user-ID and the set-group-ID bit.
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;

/// Prepares steps, one after the other.
pub(crate) struct StepApplier<'a> {
    pub(crate) source: &'a Source,
    pub(crate) target: &'a Target,
    pub(crate) stop: &'a CancelToken,
    pub(crate) transaction: Transaction<'a>,
    /// Whether a rename replaces what it finds.
    pub(crate) force: bool,
    /// The files that have several names and get new contents.
    pub(crate) linked: HashSet<u64>,
    /// The names at which a file replaces one that an earlier step would remove.
    pub(crate) takers: HashSet<&'a [u8]>,
    pub(crate) prepared: Prepared<'a>,
}

/// What the steps have come to so far.
#[derive(Default)]
pub(crate) struct Prepared<'a> {
    /// The names of the files that have several, once a step has needed them.
    names: Option<Names>,
    /// The renames. Their steps are counted from 1.
    renames: Moves<'a>,
    /// The directories that are made, by their paths.
    made: HashMap<&'a [u8], (Slot, Fingerprint)>,
    /// The directories that get their attributes when everything is in them.
    directories: Vec<(usize, &'a Bytes, &'a Object)>,
    /// The contents that are staged.
    contents: HashMap<&'a Bytes, Slot>,
    /// The files that are removed only by their successors.
    replaced: HashMap<&'a [u8], Metadata>,
    /// The names that are free by now.
    freed: HashSet<&'a [u8]>,
    /// What other names of a file have got, by their paths.
    given: HashMap<Vec<u8>, Fingerprint>,
    /// The host's objects that were linked or moved, which changes their ctime.
    touched: HashSet<u64>,
    /// The directories in which something stays.
    occupied: HashSet<Vec<u8>>,
}

impl<'a> StepApplier<'a> {
    /// Prepares the step of this number. `seen` is what the survey found there.
    pub(crate) fn prepare(
        &mut self,
        index: usize,
        step: &'a Step,
        seen: Option<Metadata>,
    ) -> StepResult {
        self.stop.check()?;
        match step.change {
            // No path leads to the object.
            DiffKind::TooDeep => Ok(()),
            DiffKind::Removed => self.remove(step, seen),
            DiffKind::Renamed => self.rename(index, step, seen),
            DiffKind::Attributes => {
                let object = object_of(self.source, step)?;
                self.change_attributes((index, &step.path), object, seen)
            }
            DiffKind::Added | DiffKind::Content => {
                let object = object_of(self.source, step)?;
                if object.is_directory() {
                    return self.make_directory((index, &step.path), object, seen);
                }
                self.put((index, &step.path), object, seen)
            }
        }
    }

    /// Prepares the attributes of the directories, the innermost first.
    pub(crate) fn finish(&mut self) -> Result<(), (&'a [u8], StepError)> {
        for (index, path, object) in std::mem::take(&mut self.prepared.directories)
            .into_iter()
            .rev()
        {
            self.finish_directory(index, path, object)
                .map_err(|error| (relative(path), error))?;
        }
        Ok(())
    }

    fn finish_directory(&mut self, index: usize, path: &'a Bytes, object: &Object) -> StepResult {
        let last = self.prepared.renames.on(path, index + 1);
        if let Some((_, made)) = self.prepared.made.get(relative(path)) {
            let after = AttributeChange {
                // The owner is set already, and who it is decides on the permissions.
                mode: Some(object.mode & 0o7777 & !SET_UID),
                times: Some((object.mtime_ns, object.mtime_ns)),
                ..AttributeChange::default()
            };
            let before = AttributeChange::default();
            self.transaction.set(relative(&last), *made, before, after);
            return Ok(());
        }
        let now = self.now(path, index);
        self.set(relative(&last), relative(&now), object)
    }

    /// Returns where the host has what a step finds at this path.
    fn now(&self, path: &Bytes, index: usize) -> Bytes {
        self.prepared.renames.back(path, index + 1)
    }

    /// Opens the directory of a path where it is before all steps: on the host, or where it is
    /// staged.
    fn directory_now(&self, path: &Bytes, index: usize) -> StepResult<OwnedFd> {
        let parent = Bytes(split(path).0.to_vec());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        if let Some((slot, _)) = self.prepared.made.get(relative(&parent)) {
            let staging = self.transaction.staging();
            return Ok(beneath::open(staging, &slot.name(), flags)?);
        }
        let now = self.now(&parent, index);
        match beneath::open_on_mount(self.target.root(), relative(&now), flags) {
            Err(Errno::NOENT | Errno::NOTDIR) => Err(StepError::Changed),
            opened => Ok(opened?),
        }
    }

    fn expected(&self, seen: Metadata) -> Expected {
        Expected {
            fingerprint: seen.fingerprint,
            exact: !seen.is_dir() && !self.prepared.touched.contains(&seen.ino),
        }
    }

    /// Removes a name. When it is forced, a directory stays that holds what others put there.
    fn remove(&mut self, step: &'a Step, seen: Option<Metadata>) -> StepResult {
        let path = relative(&step.path);
        let Some(found) = seen else { return Ok(()) };
        self.prepared.freed.insert(path);
        if !found.is_dir() && self.takers.contains(path) {
            self.prepared.replaced.insert(path, found);
            return Ok(());
        }
        if found.is_dir() && self.force && self.has_others(step, path)? {
            self.prepared.occupied.insert(split(path).0.to_vec());
            return Ok(());
        }
        let expected = self.expected(found);
        let mode = found.mode & 0o7777;
        self.transaction.remove(path, Some(expected), mode);
        Ok(())
    }

    /// Returns whether a directory holds something that no step takes away.
    fn has_others(&self, step: &Step, path: &[u8]) -> StepResult<bool> {
        if self.prepared.occupied.contains(path) {
            return Ok(true);
        }
        let original = relative(&step.original);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = match beneath::open_on_mount(self.target.root(), original, flags) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
            opened => opened?,
        };
        for entry in rustix::fs::Dir::new(opened)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let inner = [path, b"/", name].concat();
            if !matches!(name, b"." | b"..") && !self.prepared.freed.contains(&*inner) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn rename(&mut self, index: usize, step: &'a Step, seen: Option<Metadata>) -> StepResult {
        let (from, to) = (relative(&step.from), relative(&step.path));
        // Even when forced: another object that has the name by now is not what the branch moved.
        let object = self.expected(seen.ok_or(StepError::Changed)?);
        let taken = if self.force && !self.prepared.freed.contains(to) {
            let now = self.now(&step.path, index);
            self.target.look(relative(&now))?.filter(|it| !it.is_dir())
        } else {
            None
        };
        match taken {
            Some(taken) => {
                let taken = self.expected(taken);
                self.transaction.rename_over(from, to, object, taken);
            }
            None => self.transaction.rename(from, to, object),
        }
        self.prepared.freed.insert(from);
        self.prepared.freed.remove(to);
        self.prepared.touched.extend(seen.map(|it| it.ino));
        self.prepared.renames.add(index + 1, &step.from, &step.path);
        Ok(())
    }

    fn change_attributes(
        &mut self,
        (index, path): (usize, &'a Bytes),
        object: &'a Object,
        seen: Option<Metadata>,
    ) -> StepResult {
        let found = seen.ok_or(StepError::Changed)?;
        if found.kind() != object.mode & 0o170_000 {
            return Err(StepError::Changed);
        }
        if found.is_dir() {
            self.prepared.directories.push((index, path, object));
            return Ok(());
        }
        let now = self.now(path, index);
        self.set(relative(path), relative(&now), object)
    }

    /// Adds that what the host has at `now` gets the attributes of an object, when it is at `path`.
    fn set(&mut self, path: &[u8], now: &[u8], object: &Object) -> StepResult {
        let found = HostObject::at(self.target.root(), now)?;
        let stat = found.stat()?;
        let made = Metadata::of(&stat);
        if made.kind() != object.mode & 0o170_000 {
            return Err(StepError::Changed);
        }
        let is_root = rustix::process::geteuid().is_root();
        let owner = is_root.then_some((object.uid, object.gid));
        let mut then = made;
        (then.uid, then.gid) = owner.unwrap_or((made.uid, made.gid));
        let after = AttributeChange {
            owner,
            mode: Some(permissions(object, then)),
            times: Some((object.mtime_ns, object.mtime_ns)),
            xattrs: object
                .xattrs
                .iter()
                .map(|(name, value)| (name.0.clone(), Some(value.0.clone())))
                .collect(),
        };
        let before = after.reverse(&found)?;
        let found = Fingerprint::of(&stat);
        self.transaction.set(path, found, before, after);
        Ok(())
    }

    fn make_directory(
        &mut self,
        (index, path): (usize, &'a Bytes),
        object: &'a Object,
        seen: Option<Metadata>,
    ) -> StepResult {
        match seen {
            Some(found) if found.is_dir() => {}
            Some(_) => return Err(StepError::Changed),
            None => {
                let dir = self.directory_now(path, index)?;
                self.transaction.inherit(&dir)?;
                let slot = self.transaction.slot();
                let staging = self.transaction.staging();
                rustix::fs::mkdirat(staging, slot.name(), Mode::RWXU)?;
                set_attributes(staging, &slot.name(), object, Mode::RWXU)?;
                let placed = self.transaction.place(slot, relative(path));
                let placed = placed?;
                self.prepared.made.insert(relative(path), (slot, placed));
            }
        }
        self.prepared.directories.push((index, path, object));
        Ok(())
    }

    /// Puts a new object at a name, or gives a file its new content under all its names.
    fn put(
        &mut self,
        (index, path): (usize, &'a Bytes),
        object: &'a Object,
        seen: Option<Metadata>,
    ) -> StepResult {
        let name = relative(path);
        let replaced = self.prepared.replaced.remove(name);
        // A file that took the place of another one has no more names than that.
        let is_rewritten = replaced.is_none();
        let seen = replaced.or(seen);
        if seen.is_some_and(|it| it.is_dir()) {
            return Err(Errno::ISDIR.into());
        }
        let known = object.content.as_ref();
        let known = known.and_then(|it| self.prepared.contents.get(it)).copied();
        let slot = match known {
            Some(first) => self.link(first)?,
            None => {
                let dir = self.directory_now(path, index)?;
                self.transaction.inherit(&dir)?;
                let slot = self.transaction.slot();
                self.stage(slot, object)?;
                set_attributes(
                    self.transaction.staging(),
                    &slot.name(),
                    object,
                    Mode::empty(),
                )?;
                slot
            }
        };
        if let Some(content) = &object.content {
            self.prepared.contents.insert(content, slot);
        }
        let given = self.prepared.given.get(name).copied();
        self.place(slot, name, seen, given)?;
        if let Some(old) = seen.filter(|it| it.is_file() && it.nlink > 1)
            && is_rewritten
            && given.is_none()
        {
            self.link_others(name, slot, old)?;
        }
        Ok(())
    }

    /// Adds that what is staged gets its name.
    fn place(
        &mut self,
        slot: Slot,
        path: &[u8],
        seen: Option<Metadata>,
        given: Option<Fingerprint>,
    ) -> StepResult<Fingerprint> {
        let old = match (seen, given) {
            (_, Some(fingerprint)) => Some(Expected {
                fingerprint,
                exact: false,
            }),
            (Some(seen), None) => Some(self.expected(seen)),
            (None, None) => None,
        };
        let placed = match old {
            Some(old) => self.transaction.replace(slot, path, old),
            None => self.transaction.place(slot, path),
        };
        self.prepared.touched.extend(seen.map(|it| it.ino));
        Ok(placed?)
    }

    /// Stages another name of what is staged.
    fn link(&mut self, from: Slot) -> StepResult<Slot> {
        let slot = self.transaction.slot();
        let staging = self.transaction.staging();
        let flags = AtFlags::empty();
        rustix::fs::linkat(staging, from.name(), staging, slot.name(), flags)?;
        Ok(slot)
    }

    fn stage(&self, slot: Slot, object: &Object) -> StepResult {
        let (staging, name) = (self.transaction.staging(), slot.name());
        let Some(content) = &object.content else {
            if kind_of_mode(object.mode) == Some(ObjectKind::Symlink) {
                return Ok(rustix::fs::symlinkat(&*object.target.0, staging, name)?);
            }
            return make_special(staging, &name, object);
        };
        let from = self.source.content(content)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let flags = flags | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(staging, name, flags, mode)?;
        content::copy(&from, &File::from(file), self.stop)?;
        Ok(())
    }

    /// Gives the other names that the file has in the project the new file.
    fn link_others(&mut self, path: &[u8], slot: Slot, old: Metadata) -> StepResult {
        if self.prepared.names.is_none() {
            let found = hard_links::find(self.target, &self.linked, self.stop)?;
            self.prepared.names = Some(found);
        }
        let names = self.prepared.names.as_ref();
        let names = names.and_then(|all| all.get(&old.ino)).cloned();
        for now in names.into_iter().flatten() {
            let is_old = |it: &Metadata| (it.dev, it.ino) == (old.dev, old.ino);
            let Some(found) = self.target.look(&now)?.filter(is_old) else {
                continue;
            };
            let then = self.prepared.renames.on(&Bytes([b"/", &*now].concat()), 0);
            let then = relative(&then).to_vec();
            if then == path || self.prepared.freed.contains(&*then) {
                continue;
            }
            let slot = self.link(slot)?;
            let placed = self.place(slot, &then, Some(found), None)?;
            self.prepared.given.insert(then, placed);
        }
        Ok(())
    }
}

pub(crate) fn relative(path: &[u8]) -> &[u8] {
    path.strip_prefix(b"/").unwrap_or(path)
}

#[cfg(not(target_vendor = "apple"))]
fn make_special(dir: &OwnedFd, name: &[u8], object: &Object) -> StepResult {
    let kind = rustix::fs::FileType::from_raw_mode(object.mode);
    let (mode, rdev) = (Mode::RUSR | Mode::WUSR, object.rdev);
    Ok(rustix::fs::mknodat(dir, name, kind, mode, rdev)?)
}

/// Fails: macOS creates such files by path only, which would follow links on the way.
#[cfg(target_vendor = "apple")]
fn make_special(_: &OwnedFd, _: &[u8], _: &Object) -> StepResult {
    Err(std::io::Error::from(std::io::ErrorKind::Unsupported).into())
}

/// Sets the owner and the group if this is root, then extended attributes, permissions (and those in
/// `also`) and times of what is staged.
fn set_attributes(dir: impl AsFd, name: &[u8], object: &Object, also: Mode) -> StepResult {
    let made = HostObject::at(&dir, name)?;
    let is_link = kind_of_mode(object.mode) == Some(ObjectKind::Symlink);
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(object.uid), Gid::from_raw(object.gid));
        made.set_owner(uid, gid)?;
    }
    if !is_link {
        for (name, value) in &object.xattrs {
            made.set_xattr(name, value)?;
        }
        let mode = permissions(object, Metadata::of(&made.stat()?));
        made.set_mode(Mode::from_raw_mode(mode as rustix::fs::RawMode) | also)?;
    }
    let time = Timespec {
        tv_sec: object.mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: object.mtime_ns.rem_euclid(1_000_000_000),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::utimensat(&dir, name, &times, flags)?)
}

/// Returns the permissions for an object. The set-user-ID and set-group-ID bits stay only where the
/// owner and the group are those that the branch had.
fn permissions(object: &Object, made: Metadata) -> u32 {
    let mut mode = object.mode & 0o7777;
    if made.uid != object.uid {
        mode &= !SET_UID;
    }
    if made.gid != object.gid && !made.is_dir() {
        mode &= !SET_GID;
    }
    mode
}

#[cfg(test)]
mod tests {
    use super::{Metadata, Object, permissions};
    use agentfs_proto::bytes::Bytes;

    #[test]
    fn a_program_that_runs_as_its_owner_stays_one_only_with_the_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let dir = std::fs::File::open(directory.path()).expect("opened");
        let file = tempfile::tempfile_in(directory.path()).expect("a file");
        let stat = |file: &std::fs::File| Metadata::of(&rustix::fs::fstat(file).expect("a stat"));
        let made = stat(&file);
        let mut object = Object {
            uid: made.uid,
            gid: made.gid,
            mode: 0o106_755,
            mtime_ns: 0,
            target: Bytes::default(),
            rdev: 0,
            xattrs: Vec::new(),
            content: None,
        };
        assert_eq!(permissions(&object, made), 0o6755);
        object.uid = made.uid + 1;
        object.gid = made.gid + 1;
        assert_eq!(permissions(&object, made), 0o755);
        assert_eq!(permissions(&object, stat(&dir)), 0o2755);
    }
}
