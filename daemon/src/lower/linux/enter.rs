//! Directories that are not watched yet.
//!
//! The events name a directory, and the host is asked for what has that name now. That is the same
//! directory if all events up to now were applied, and none of them has come meanwhile that concerns
//! a name on the way to it. Otherwise those events are applied first.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use agentfs_core::LowerChange;
use agentfs_core::beneath;
use rustix::fs::{AtFlags, Dir, FileType, OFlags};
use rustix::io::{Errno, Result};

use super::Task;
use super::coverage::Gap;
use super::queue::Wd;
use super::tree::{Key, Place};

const LISTING: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// The names in a directory, and whether they are those of directories.
type Names = HashMap<OsString, bool>;

/// A directory that was looked at.
struct Entered {
    names: Names,
    watched: std::result::Result<Wd, Gap>,
    is_local: bool,
}

impl Task {
    /// Watches a directory and lists it, in this order: so nothing that is created in it is missed.
    pub(super) fn enter(&mut self, key: Key) {
        let is_new = match self.dirs.get(key) {
            Some(dir) if !dir.is_entered => dir.is_new,
            Some(_) | None => return,
        };
        let Some(path) = self.dirs.path(key) else {
            return;
        };
        let way = self.dirs.way(key);
        let entered = self.look_into(&path);
        self.fill();
        if self.queue.has_lost() || self.queue.concerns(&way) {
            self.try_later(key, entered);
            return;
        }
        let entered = match entered {
            Ok(entered) => entered,
            // The event that says so is on its way.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return,
            Err(_) => Entered {
                names: Names::new(),
                watched: Err(Gap::Refused),
                is_local: true,
            },
        };
        let watched = match entered.watched {
            // It is watched under another name, which it had before events that still wait, or which
            // it has as well because it is mounted there.
            Ok(wd) if self.dirs.watched(wd).is_some() => {
                if !self.queue.is_empty() {
                    self.unentered.push_back(key);
                    return;
                }
                Err(Gap::Refused)
            }
            other => other,
        };
        let gap = match watched {
            Err(gap) => Some(gap),
            Ok(_) => (!entered.is_local).then_some(Gap::Remote),
        };
        self.dirs.entered(key, watched.ok());
        self.coverage.add(key, &path, gap);
        if watched.is_ok_and(|wd| self.queue.has_names_of(wd)) {
            self.dirs.compare(key, entered.names.clone());
        }
        self.find(key, &path, is_new, entered.names);
    }

    /// Forgets a look at a directory, and looks again when the events that wait were applied.
    fn try_later(&mut self, key: Key, entered: Result<Entered>) {
        if let Ok(wd) = entered.map_or(Err(Gap::Refused), |it| it.watched)
            && self.dirs.watched(wd).is_none()
        {
            self.queue.unwatch(wd);
        }
        self.unentered.push_back(key);
    }

    fn look_into(&mut self, path: &Path) -> Result<Entered> {
        let directory = beneath::open(&self.root_fd, path.as_os_str().as_bytes(), LISTING)?;
        let is_local = match rustix::fs::fstat(&directory) {
            Ok(stat) => self.coverage.is_local(stat.st_dev, path),
            Err(_) => false,
        };
        let watched = self.queue.watch(&directory, &self.root.join(path));
        let names = list(&directory)?;
        Ok(Entered {
            names,
            watched: watched.map_err(Gap::of),
            is_local,
        })
    }

    /// Adds what was found in a directory.
    fn find(&mut self, dir: Key, path: &Path, is_new: bool, names: Names) {
        for (name, is_dir) in names {
            if is_dir {
                let key = self.dirs.add((dir, name.clone()), is_new);
                self.unentered.push_back(key);
            }
            if is_new {
                let path = path.join(name);
                self.emit(&LowerChange::Created { path, is_dir });
            }
        }
    }

    /// Looks whether the host has a name that is in doubt.
    pub(super) fn look_at(&mut self, place: Place) {
        if !self.dirs.is_doubted(&place) {
            return;
        }
        let kind = self.kind_now(&place);
        self.fill();
        let mut names = self.dirs.way(place.0);
        let name = self.dirs.watched_name(&place);
        names.extend(name.map(|(wd, name)| (wd, name.to_owned())));
        if self.queue.concerns(&names) {
            self.doubtful.push(place);
            return;
        }
        if let Some(is_dir) = kind {
            self.came(place, is_dir);
        } else {
            self.dirs.gains(&place, false);
        }
    }

    /// Returns whether the host has a directory by this name now, or something else; `None` if it has
    /// nothing.
    pub(super) fn kind_now(&self, (dir, name): &Place) -> Option<bool> {
        let dir = self.dirs.path(*dir)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let dir = beneath::open(&self.root_fd, dir.as_os_str().as_bytes(), flags).ok()?;
        is_dir_in(&dir, name)
    }
}

fn is_dir_in(dir: &OwnedFd, name: &OsStr) -> Option<bool> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn list(directory: &OwnedFd) -> Result<Names> {
    let mut names = Names::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let is_dir = if entry.file_type() == FileType::Unknown {
            is_dir_in(directory, name).unwrap_or(false)
        } else {
            entry.file_type() == FileType::Directory
        };
        names.insert(name.to_owned(), is_dir);
    }
    Ok(names)
}
