//! What follows from each event.
//!
//! The host reports system calls; what is emitted is meant for programs that watch. So the writes
//! to an open file are emitted when it is closed, or after a moment when it stays open, and the two
//! halves of a rename are put together.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use agentfs_core::LowerChange;
use rustix::fs::inotify::ReadFlags;

use super::queue::Raw;
use super::tree::{Key, Place};
use super::{Task, is_own};

/// How long a file is written before that is emitted although it is still open.
const WRITING: Duration = Duration::from_millis(50);

impl Task {
    /// Applies an event to the tree, and emits what it means.
    pub(super) fn apply(&mut self, raw: Raw) {
        // A directory that is gone from the tree may have reported something before.
        let Some(dir) = self.dirs.watched(raw.wd) else {
            if raw.is(ReadFlags::IGNORED) {
                self.gone.push(raw.wd);
            }
            return;
        };
        if raw.is(ReadFlags::IGNORED) {
            // The directory is gone, and the event of its name follows.
            self.dirs.lost(dir);
            self.ending.push(dir);
            return;
        }
        let is_dir = raw.is(ReadFlags::ISDIR);
        let Some(name) = raw.name.clone() else {
            return;
        };
        let place = (dir, name);
        if raw.is(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            // A second half without a first came from outside. It may have taken the place of an object
            // that left in the same call, as when `agentfs apply` replaces a file.
            if !is_dir && raw.is(ReadFlags::MOVED_TO) && self.kind_now(&place) == Some(false) {
                self.queue.drop_leaving(&raw);
            }
            self.came(place, is_dir);
        } else if raw.is(ReadFlags::DELETE) {
            self.went(&place, is_dir);
        } else if raw.is(ReadFlags::MOVED_FROM) {
            self.left(&raw, place, is_dir);
        } else if raw.is(ReadFlags::ATTRIB) {
            self.emit_at(&place, LowerChange::Attributes);
        } else if raw.is(ReadFlags::MODIFY) {
            self.writing
                .entry(place)
                .or_insert_with(|| Instant::now() + WRITING);
        } else if raw.is(ReadFlags::CLOSE_WRITE) && self.writing.remove(&place).is_some() {
            self.emit_at(&place, LowerChange::Written);
        }
    }

    /// Emits that files were written which stay open for long.
    pub(super) fn emit_written(&mut self, now: Instant) {
        let written: Vec<Place> = self
            .writing
            .extract_if(|_, until| *until <= now)
            .map(|(place, _)| place)
            .collect();
        for place in written {
            self.emit_at(&place, LowerChange::Written);
        }
    }

    fn emit_at(&self, place: &Place, change: impl FnOnce(PathBuf) -> LowerChange) {
        if let Some(path) = self.path(place) {
            self.emit(&change(path));
        }
    }

    /// Takes in a name that has come.
    pub(super) fn came(&mut self, place: Place, is_dir: bool) {
        if self.dirs.gains(&place, is_dir) {
            self.add(place, is_dir);
        }
    }

    /// Adds a name, and emits that it has come.
    pub(super) fn add(&mut self, place: Place, is_dir: bool) {
        if let Some(old) = self.dirs.child(&place) {
            self.drop_dir(old);
        }
        if is_dir {
            let key = self.dirs.add(place.clone(), true);
            self.unentered.push_back(key);
        }
        self.emit_at(&place, |path| LowerChange::Created { path, is_dir });
    }

    /// Takes out a name that has gone.
    pub(super) fn went(&mut self, place: &Place, is_dir: bool) {
        if self.dirs.loses(place, is_dir) {
            self.remove(place, is_dir);
        }
    }

    /// Removes a name with everything below it, and emits that it has gone.
    pub(super) fn remove(&mut self, place: &Place, is_dir: bool) {
        self.writing.remove(place);
        if let Some(dir) = self.dirs.child(place) {
            self.drop_dir(dir);
        }
        match self.aside.remove(place) {
            Some(path) => self.emit(&LowerChange::Removed { path, is_dir }),
            None => self.emit_at(place, |path| LowerChange::Removed { path, is_dir }),
        }
    }

    /// Forgets a directory with all that are below it.
    pub(super) fn drop_dir(&mut self, key: Key) {
        let Some(path) = self.dirs.path(key) else {
            return;
        };
        let gone = self.dirs.remove(key);
        for wd in gone.iter().filter_map(|(_, dir)| dir.wd) {
            self.queue.unwatch(wd);
        }
        self.coverage
            .remove(&path, gone.into_iter().map(|(key, _)| key));
    }

    /// Takes in the first half of a rename.
    fn left(&mut self, raw: &Raw, from: Place, is_dir: bool) {
        let second = self.queue.take_second_half(raw);
        let to = second.and_then(|to| Some((self.dirs.watched(to.wd)?, to.name?)));
        let Some(to) = to else {
            return self.exclude(&from, is_dir);
        };
        if self.is_exchange(&from, &to, is_dir) {
            return;
        }
        self.rename(from, to, is_dir);
    }

    /// Takes out a name, and looks at it later: if it was exchanged with one that is not watched, it
    /// leads to something else since.
    pub(super) fn exclude(&mut self, place: &Place, is_dir: bool) {
        if self.dirs.is_older(place, is_dir) {
            return;
        }
        self.went(place, is_dir);
        self.dirs.doubt(place.clone());
        self.doubtful.push(place.clone());
    }

    pub(super) fn rename(&mut self, from: Place, to: Place, is_dir: bool) {
        if self.dirs.is_older(&to, is_dir) {
            // What was moved is no longer there.
            return self.went(&from, is_dir);
        }
        if !self.dirs.loses(&from, is_dir) {
            return self.came(to, is_dir);
        }
        self.dirs.gains(&to, is_dir);
        self.writing.remove(&to);
        if let Some(until) = self.writing.remove(&from) {
            self.writing.insert(to.clone(), until);
        }
        let paths = (self.path(&from), self.path(&to));
        self.rename_dir(&from, &to, is_dir);
        let (Some(old), Some(new)) = paths else {
            return;
        };
        match (is_own(&from.1), is_own(&to.1)) {
            (true, false) => self.bring_back(&from, to, is_dir),
            (false, true) => drop(self.aside.insert(to, old)),
            (true, true) => {
                if let Some(was) = self.aside.remove(&from) {
                    self.aside.insert(to, was);
                }
            }
            (false, false) => self.emit(&LowerChange::Renamed {
                from: old,
                to: new,
                is_dir,
            }),
        }
    }

    /// Emits that a temporary name of an apply got its place.
    pub(super) fn bring_back(&mut self, temporary: &Place, to: Place, is_dir: bool) {
        let Some(path) = self.path(&to) else {
            return;
        };
        match self.aside.remove(temporary) {
            Some(from) if from == path => {}
            Some(from) => self.emit(&LowerChange::Renamed {
                from,
                to: path,
                is_dir,
            }),
            // What is in a directory was hidden with it.
            None => self.add(to, is_dir),
        }
    }

    /// Moves a directory in the tree, with everything below it.
    fn rename_dir(&mut self, from: &Place, to: &Place, is_dir: bool) {
        let moved = self.dirs.child(from).filter(|_| is_dir);
        if let Some(old) = self.dirs.child(to)
            && moved != Some(old)
        {
            self.drop_dir(old);
        }
        match moved {
            Some(key) => {
                let old = self.dirs.path(key);
                self.dirs.rename(key, to.clone());
                self.follow(old.as_slice(), key);
            }
            None if is_dir => {
                let key = self.dirs.add(to.clone(), true);
                self.unentered.push_back(key);
            }
            None => {}
        }
    }

    /// Records the new paths below a directory that was moved from `old`, and looks again at what
    /// could not be entered by the old ones.
    pub(super) fn follow(&mut self, old: &[PathBuf], key: Key) {
        let mut paths = Vec::new();
        for key in self.dirs.subtree(key) {
            let is_entered = self.dirs.get(key).is_some_and(|dir| dir.is_entered);
            match self.dirs.path(key) {
                Some(path) if is_entered => paths.push((key, path)),
                Some(_) => self.unentered.push_back(key),
                None => {}
            }
        }
        self.coverage.rename(old, &paths);
    }
}
