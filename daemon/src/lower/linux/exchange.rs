//! Two names that are exchanged (`RENAME_EXCHANGE`).
//!
//! The kernel reports an exchange as two renames, one after the other: exactly what it reports of an
//! object that replaces another one and then moves back. Where the events do not tell one from the
//! other, the host does, as long as nothing has happened to the names since.

use std::ffi::OsStr;

use agentfs_core::LowerChange;
use rustix::fs::inotify::ReadFlags;

use super::tree::Place;
use super::{Task, is_own};

/// What two renames there and back are.
enum Pair {
    Exchange,
    /// The first replaced what the second name led to.
    ThereAndBack,
    /// The host has changed the names since.
    Unknown,
}

impl Task {
    /// Applies the rename whose halves were just taken, together with the next one, if they may be
    /// an exchange. Returns whether they were.
    pub(super) fn is_exchange(&mut self, from: &Place, to: &Place, is_dir: bool) -> bool {
        let (Some(one), Some(other)) = (self.dirs.watched_name(from), self.dirs.watched_name(to))
        else {
            return false;
        };
        let Some(back) = self.queue.peek_way_back(one, other) else {
            return false;
        };
        let (cookie, back_is_dir) = (back.cookie, back.is(ReadFlags::ISDIR));
        match self.judge(from, to, cookie) {
            Pair::ThereAndBack => return false,
            Pair::Exchange => {
                self.queue.drop_rename(cookie);
                self.exchange(from, to, (is_dir, back_is_dir));
            }
            Pair::Unknown => {
                // Both names are looked at when that is safe.
                self.queue.drop_rename(cookie);
                for (place, is_dir) in [(from, is_dir), (to, back_is_dir)] {
                    self.exclude(place, is_dir);
                }
            }
        }
        true
    }

    fn judge(&mut self, from: &Place, to: &Place, cookie: u32) -> Pair {
        if is_own(&from.1) != is_own(&to.1) {
            // Applying moves nothing to a temporary name and back.
            return Pair::Exchange;
        }
        if self.dirs.is_doubted(from) || self.dirs.is_doubted(to) {
            return Pair::Unknown;
        }
        let target = self.dirs.child(to).and_then(|dir| self.dirs.get(dir)?.wd);
        if let Some(wd) = target {
            // A directory that is replaced loses its last link, and says so.
            return if self.queue.reports_itself_before(wd, cookie) {
                Pair::ThereAndBack
            } else {
                Pair::Exchange
            };
        }
        if !self.dirs.is_exact([from.0, to.0]) {
            return Pair::Unknown;
        }
        let is_there = |place: &Place| self.kind_now(place).is_some();
        let are_there = (is_there(from), is_there(to));
        self.queue.fill();
        let names = [from, to].map(|place| {
            let mut way = self.dirs.way(place.0);
            let name = self.dirs.watched_name(place);
            way.extend(name.map(|(wd, name): (_, &OsStr)| (wd, name.to_owned())));
            way
        });
        if self.queue.concerns_after(&names.concat(), cookie) {
            return Pair::Unknown;
        }
        match are_there {
            (true, true) => Pair::Exchange,
            (true, false) => Pair::ThereAndBack,
            (false, _) => Pair::Unknown,
        }
    }

    /// Exchanges two names, and emits it. `are_dirs` says which of the objects are directories.
    fn exchange(&mut self, from: &Place, to: &Place, are_dirs: (bool, bool)) {
        let (Some(one), Some(other)) = (self.path(from), self.path(to)) else {
            return;
        };
        let writing = (self.writing.remove(from), self.writing.remove(to));
        for (place, until) in [(to, writing.0), (from, writing.1)] {
            if let Some(until) = until {
                self.writing.insert(place.clone(), until);
            }
        }
        self.dirs.exchange(from, to);
        let old = [one.clone(), other.clone()];
        self.coverage.rename(&old, &[]);
        let dirs = [self.dirs.child(from), self.dirs.child(to)];
        for key in dirs.into_iter().flatten() {
            self.follow(&[], key);
        }
        match (is_own(&from.1), is_own(&to.1)) {
            (true, false) => self.bring_back(from, to.clone(), are_dirs.0),
            (false, true) => self.bring_back(to, from.clone(), are_dirs.1),
            (true, true) => {}
            (false, false) => self.emit(&LowerChange::Exchanged { one, other }),
        }
    }
}
