//! Applies one step of a list to the host.
//!
//! A new object is made whole beside its place, under a name that no other program uses, and then gets
//! its own name in one call, which fails if another program was quicker. A name that must be free is
//! taken without replacing anything. When the name is in use, both objects exchange their names, so that
//! the old one can be checked once more before it is removed.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::AsFd;

use agentfs_core::event::ObjectKind;
use agentfs_core::{kind_of_mode, temporary_name};
use agentfs_proto::message::DiffKind;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::cancel::CancelToken;
use crate::changes::{Object, Step};
use crate::content;
use crate::error::{StepError, StepResult};
use crate::import::hard_links::{self, Names};
use crate::import::source::Source;
use crate::import::survey::object_of;
use crate::import::target::{Location, Metadata, Target};
use crate::platform::HostObject;
use crate::rename::{exchange, rename_between, rename_new};

/// The set-user-ID and the set-group-ID bit.
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
/// The owner may write.
const WRITABLE: u32 = 0o200;

/// Applies steps, one after the other.
pub(crate) struct StepApplier<'a> {
    pub(crate) source: &'a Source,
    pub(crate) target: &'a Target,
    pub(crate) stop: &'a CancelToken,
    /// Whether an object is replaced that another program changed.
    pub(crate) force: bool,
    /// The files that have several names and get new contents.
    pub(crate) linked: HashSet<u64>,
    /// The names of those files, once a step has needed them.
    pub(crate) names: Option<Names>,
    /// The directories that get their attributes when everything is in them.
    pub(crate) directories: Vec<(&'a [u8], &'a Object)>,
}

impl<'a> StepApplier<'a> {
    /// Applies one step. `seen` is what the survey found there.
    pub(crate) fn apply(&mut self, step: &'a Step, seen: Option<Metadata>) -> StepResult {
        self.stop.check()?;
        let path = relative(&step.path);
        match step.change {
            // No path leads to the object.
            DiffKind::TooDeep => Ok(()),
            DiffKind::Removed => self.remove(path, seen),
            DiffKind::Renamed => self.rename(relative(&step.from), path, seen),
            DiffKind::Attributes => {
                let object = object_of(self.source, step)?;
                self.change_attributes(path, object)
            }
            DiffKind::Added | DiffKind::Content => {
                let object = object_of(self.source, step)?;
                if object.is_directory() {
                    return self.make_directory(path, object);
                }
                self.put(path, object, seen)
            }
        }
    }

    /// Sets the attributes of the directories, the innermost first.
    pub(crate) fn finish(&mut self) -> Result<(), (&'a [u8], StepError)> {
        for (path, object) in self.directories.drain(..).rev() {
            let location = self.target.locate(path).map_err(StepError::from);
            let set = location.and_then(|it| set_attributes(&it.dir, it.name, object));
            set.map_err(|error| (path, error))?;
        }
        Ok(())
    }

    /// Removes a name.
    fn remove(&self, path: &[u8], seen: Option<Metadata>) -> StepResult {
        let location = self.target.locate(path)?;
        let Some(found) = location.look()? else {
            return Ok(());
        };
        self.expect(Some(found), seen)?;
        let flags = if found.is_dir() {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        match rustix::fs::unlinkat(&location.dir, location.name, flags) {
            Err(Errno::NOENT) => Ok(()),
            // What others put into it stays, and so does the directory.
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.force => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(StepError::Changed),
            result => Ok(result?),
        }
    }

    fn rename(&self, from: &[u8], to: &[u8], seen: Option<Metadata>) -> StepResult {
        let (from, to) = (self.target.locate(from)?, self.target.locate(to)?);
        // Even when forced: another object that has the name by now is not what the branch moved.
        if !is_unchanged(from.look()?, seen) {
            return Err(StepError::Changed);
        }
        match rename_between(&from.dir, from.name, &to.dir, to.name) {
            Err(Errno::EXIST) if self.force => {}
            // The filesystem cannot do it in one step.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if to.look()?.is_none() => {}
            Err(Errno::EXIST | Errno::NOENT) => return Err(StepError::Changed),
            result => return Ok(result?),
        }
        Ok(rustix::fs::renameat(
            &from.dir, from.name, &to.dir, to.name,
        )?)
    }

    /// Checks that something still is what the survey found.
    fn expect(&self, found: Option<Metadata>, seen: Option<Metadata>) -> StepResult {
        if self.force || is_unchanged(found, seen) {
            return Ok(());
        }
        Err(StepError::Changed)
    }

    fn change_attributes(&mut self, path: &'a [u8], object: &'a Object) -> StepResult {
        let location = self.target.locate(path)?;
        let found = location.look()?.ok_or(StepError::Changed)?;
        if found.kind() != object.mode & 0o170_000 {
            return Err(StepError::Changed);
        }
        if found.is_dir() {
            self.directories.push((path, object));
            if object.mode & WRITABLE == 0 {
                // Something may still have to be put into it.
                return Ok(());
            }
        }
        set_attributes(&location.dir, location.name, object)
    }

    fn make_directory(&mut self, path: &'a [u8], object: &'a Object) -> StepResult {
        let location = self.target.locate(path)?;
        match rustix::fs::mkdirat(&location.dir, location.name, Mode::RWXU) {
            Err(Errno::EXIST) if location.look()?.is_some_and(|it| it.is_dir()) => {}
            Err(Errno::EXIST) => return Err(StepError::Changed),
            other => other?,
        }
        self.directories.push((path, object));
        Ok(())
    }

    /// Creates an object, or gives a file its new content under all its names.
    fn put(&mut self, path: &[u8], object: &Object, seen: Option<Metadata>) -> StepResult {
        let location = self.target.locate(path)?;
        let temporary = temporary_name();
        let staged = self
            .stage(&location, &temporary, object)
            .and_then(|()| set_attributes(&location.dir, &temporary, object))
            .and_then(|()| self.place(&location, &temporary, seen));
        if staged.is_err() {
            location.forget(&temporary);
        }
        staged?;
        if let Some(old) = seen.filter(|it| it.is_file() && it.nlink > 1) {
            self.link_others(path, &location, old)?;
        }
        Ok(())
    }

    fn stage(&self, location: &Location<'_>, temporary: &[u8], object: &Object) -> StepResult {
        let Some(content) = &object.content else {
            if kind_of_mode(object.mode) == Some(ObjectKind::Symlink) {
                return Ok(rustix::fs::symlinkat(
                    &*object.target.0,
                    &location.dir,
                    temporary,
                )?);
            }
            return make_special(location, temporary, object);
        };
        let from = self.source.content(content)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let flags = flags | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&location.dir, temporary, flags, mode)?;
        content::copy(&from, &File::from(file), self.stop)?;
        Ok(())
    }

    /// Moves what has a temporary name to its own.
    fn place(
        &self,
        location: &Location<'_>,
        temporary: &[u8],
        seen: Option<Metadata>,
    ) -> StepResult {
        let (dir, name) = (&location.dir, location.name);
        let taken = if seen.is_some() || self.force {
            location.look()?
        } else {
            None
        };
        let Some(taken) = taken else {
            self.expect(None, seen)?;
            return match rename_new(dir, temporary, name) {
                Err(Errno::EXIST) => Err(StepError::Changed),
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                    self.expect(location.look()?, None)?;
                    Ok(rustix::fs::renameat(dir, temporary, dir, name)?)
                }
                result => Ok(result?),
            };
        };
        if taken.is_dir() {
            return Err(Errno::ISDIR.into());
        }
        match exchange(dir, temporary, name) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Err(StepError::Changed),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                self.expect(location.look()?, seen)?;
                return Ok(rustix::fs::renameat(dir, temporary, dir, name)?);
            }
            Err(errno) => return Err(errno.into()),
        }
        let old = Location {
            dir: location.dir.try_clone()?,
            name: temporary,
        };
        let displaced = old.look()?;
        let is_directory = displaced.is_some_and(|it| it.is_dir());
        if is_directory || self.expect(displaced, seen).is_err() {
            // Somebody else was quicker: their object gets its name back.
            exchange(dir, temporary, name)?;
            return Err(StepError::Changed);
        }
        Ok(rustix::fs::unlinkat(dir, temporary, AtFlags::empty())?)
    }

    /// Links the other names that the file had in the project to the new file.
    fn link_others(&mut self, path: &[u8], new: &Location<'_>, old: Metadata) -> StepResult {
        if self.names.is_none() {
            self.names = Some(hard_links::find(self.target, &self.linked, self.stop)?);
        }
        let names = self.names.as_ref().and_then(|all| all.get(&old.ino));
        for other in names.into_iter().flatten().filter(|it| *it != path) {
            let location = self.target.locate(other)?;
            let is_old = |it: Metadata| (it.dev, it.ino) == (old.dev, old.ino);
            let Some(found) = location.look()?.filter(|it| is_old(*it)) else {
                continue;
            };
            let temporary = temporary_name();
            let flags = AtFlags::empty();
            rustix::fs::linkat(&new.dir, new.name, &location.dir, &*temporary, flags)?;
            let placed = self.place(&location, &temporary, Some(found));
            if placed.is_err() {
                location.forget(&temporary);
            }
            placed?;
        }
        Ok(())
    }
}

/// Returns whether an object is the same as the survey found it.
fn is_unchanged(found: Option<Metadata>, seen: Option<Metadata>) -> bool {
    match (found, seen) {
        (None, None) => true,
        (Some(found), Some(seen)) => {
            let (found, seen) = (found.stamp(), seen.stamp());
            found == seen
        }
        _ => false,
    }
}

pub(crate) fn relative(path: &[u8]) -> &[u8] {
    path.strip_prefix(b"/").unwrap_or(path)
}

#[cfg(not(target_vendor = "apple"))]
fn make_special(location: &Location<'_>, name: &[u8], object: &Object) -> StepResult {
    let kind = rustix::fs::FileType::from_raw_mode(object.mode);
    let (mode, rdev) = (Mode::RUSR | Mode::WUSR, object.rdev);
    Ok(rustix::fs::mknodat(&location.dir, name, kind, mode, rdev)?)
}

/// Fails: macOS creates such files by path only, which would follow links on the way.
#[cfg(target_vendor = "apple")]
fn make_special(_: &Location<'_>, _: &[u8], _: &Object) -> StepResult {
    Err(std::io::Error::from(std::io::ErrorKind::Unsupported).into())
}

/// Sets the owner and the group if this is root, then extended attributes, permissions and times.
fn set_attributes(dir: impl AsFd, name: &[u8], object: &Object) -> StepResult {
    let made = HostObject::at(&dir, name)?;
    let is_link = kind_of_mode(object.mode) == Some(ObjectKind::Symlink);
    if Metadata::of(&made.stat()?).kind() != object.mode & 0o170_000 {
        return Err(StepError::Changed);
    }
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(object.uid), Gid::from_raw(object.gid));
        made.set_owner(uid, gid)?;
    }
    if !is_link {
        for (name, value) in &object.xattrs {
            made.set_xattr(name, value)?;
        }
        let mode = permissions(object, Metadata::of(&made.stat()?));
        made.set_mode(Mode::from_raw_mode(mode as rustix::fs::RawMode))?;
    }
    let time = Timespec {
        tv_sec: object.mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: object.mtime_ns.rem_euclid(1_000_000_000),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    if name.is_empty() {
        return Ok(rustix::fs::utimensat(&dir, c".", &times, AtFlags::empty())?);
    }
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
    use super::{Metadata, Object, permissions, temporary_name};
    use agentfs_proto::bytes::Bytes;

    #[test]
    fn a_temporary_name_fits_beside_the_longest_one() {
        assert!(temporary_name().len() <= 255);
        assert_ne!(temporary_name(), temporary_name());
    }

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
