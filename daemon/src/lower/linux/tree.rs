//! The directories below the lower directory as the events have left them so far, which is not as
//! they are now: their names change here when the event of the change is applied.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::queue::Wd;

/// A directory here, whatever its name is.
pub(super) type Key = u64;

/// A name in a directory.
pub(super) type Place = (Key, OsString);

#[derive(Debug)]
pub(super) struct Dir {
    pub(super) parent: Key,
    pub(super) name: OsString,
    children: HashMap<OsString, Key>,
    pub(super) wd: Option<Wd>,
    /// Whether it was listed, and is watched if that can be done.
    pub(super) is_entered: bool,
    /// Whether what is found in it was never emitted.
    pub(super) is_new: bool,
    /// The names that it has, and whether they are those of directories, while events wait that may
    /// be older than its listing. Afterwards the events alone say what happens.
    listed: Option<HashMap<OsString, bool>>,
}

/// The directories.
#[derive(Debug)]
pub(super) struct Dirs {
    dirs: HashMap<Key, Dir>,
    by_wd: HashMap<Wd, Key>,
    next: Key,
    /// Those that have a listing to compare events with.
    recent: Vec<Key>,
    /// Names that are not emitted, although the host may have them.
    unsure: HashSet<Place>,
}

impl Dirs {
    pub(super) const ROOT: Key = 0;

    /// Creates the root, which was not entered.
    pub(super) fn new() -> Self {
        let mut dirs = Self {
            dirs: HashMap::new(),
            by_wd: HashMap::new(),
            next: Self::ROOT,
            recent: Vec::new(),
            unsure: HashSet::new(),
        };
        dirs.insert(Self::ROOT, OsString::new(), false);
        dirs
    }

    fn insert(&mut self, parent: Key, name: OsString, is_new: bool) -> Key {
        let key = self.next;
        self.next += 1;
        let dir = Dir {
            parent,
            name,
            children: HashMap::new(),
            wd: None,
            is_entered: false,
            is_new,
            listed: None,
        };
        self.dirs.insert(key, dir);
        key
    }

    /// Adds a directory under a free name.
    pub(super) fn add(&mut self, (parent, name): Place, is_new: bool) -> Key {
        let key = self.insert(parent, name.clone(), is_new);
        if let Some(parent) = self.dirs.get_mut(&parent) {
            parent.children.insert(name, key);
        }
        key
    }

    pub(super) fn get(&self, key: Key) -> Option<&Dir> {
        self.dirs.get(&key)
    }

    pub(super) fn watched(&self, wd: Wd) -> Option<Key> {
        self.by_wd.get(&wd).copied()
    }

    pub(super) fn child(&self, (parent, name): &Place) -> Option<Key> {
        self.dirs.get(parent)?.children.get(name).copied()
    }

    /// Records that a directory was entered, and is watched under this number.
    pub(super) fn entered(&mut self, key: Key, wd: Option<Wd>) {
        if let Some(dir) = self.dirs.get_mut(&key) {
            dir.is_entered = true;
            dir.wd = wd;
            if let Some(wd) = wd {
                self.by_wd.insert(wd, key);
            }
        }
    }

    /// Records that a directory is no longer watched.
    pub(super) fn lost(&mut self, key: Key) {
        if let Some(wd) = self.dirs.get_mut(&key).and_then(|dir| dir.wd.take()) {
            self.by_wd.remove(&wd);
        }
    }

    /// Returns the path from the root; `None` for a directory that is gone.
    pub(super) fn path(&self, key: Key) -> Option<PathBuf> {
        let mut names = Vec::new();
        let mut at = key;
        while at != Self::ROOT {
            let dir = self.dirs.get(&at)?;
            names.push(&dir.name);
            at = dir.parent;
        }
        Some(names.into_iter().rev().collect())
    }

    /// Returns the names that lead to a directory, with the watched directories they are in.
    pub(super) fn way(&self, key: Key) -> Vec<(Wd, OsString)> {
        let mut way = Vec::new();
        let mut at = key;
        while let Some(dir) = self.dirs.get(&at).filter(|_| at != Self::ROOT) {
            if let Some(wd) = self.dirs.get(&dir.parent).and_then(|parent| parent.wd) {
                way.push((wd, dir.name.clone()));
            }
            at = dir.parent;
        }
        way
    }

    /// Returns a directory with all that are below it, each before those in it.
    pub(super) fn subtree(&self, key: Key) -> Vec<Key> {
        let mut all = vec![key];
        let mut at = 0;
        while let Some(dir) = all.get(at) {
            let children = self.dirs.get(dir).map(|dir| &dir.children);
            all.extend(children.into_iter().flat_map(HashMap::values));
            at += 1;
        }
        all
    }

    /// Removes a directory with all that are below it, and returns them.
    pub(super) fn remove(&mut self, key: Key) -> Vec<(Key, Dir)> {
        self.detach(key);
        let mut removed = Vec::new();
        for key in self.subtree(key) {
            if let Some(dir) = self.dirs.remove(&key) {
                if let Some(wd) = dir.wd {
                    self.by_wd.remove(&wd);
                }
                removed.push((key, dir));
            }
        }
        removed
    }

    fn detach(&mut self, key: Key) {
        let Some((parent, name)) = self.dirs.get(&key).map(|it| (it.parent, &it.name)) else {
            return;
        };
        let name = name.clone();
        if let Some(parent) = self.dirs.get_mut(&parent)
            && parent.children.get(&name) == Some(&key)
        {
            parent.children.remove(&name);
        }
    }

    /// Renames a directory. No other directory has the new name, or the caller renames that one
    /// next.
    pub(super) fn rename(&mut self, key: Key, (parent, name): Place) {
        self.detach(key);
        if let Some(parent) = self.dirs.get_mut(&parent) {
            parent.children.insert(name.clone(), key);
        }
        if let Some(dir) = self.dirs.get_mut(&key) {
            dir.parent = parent;
            dir.name = name;
        }
    }

    /// Exchanges the directories of two names, one of which may be no directory.
    pub(super) fn exchange(&mut self, one: &Place, other: &Place) {
        let (first, second) = (self.child(one), self.child(other));
        for key in [first, second].into_iter().flatten() {
            self.detach(key);
        }
        if let Some(key) = first {
            self.rename(key, other.clone());
        }
        if let Some(key) = second {
            self.rename(key, one.clone());
        }
    }

    /// Compares the events that wait with what was listed just now.
    pub(super) fn compare(&mut self, key: Key, listed: HashMap<OsString, bool>) {
        if let Some(dir) = self.dirs.get_mut(&key) {
            dir.listed = Some(listed);
            self.recent.push(key);
        }
    }

    /// Records that all events were applied that may be older than a listing.
    pub(super) fn is_settled(&mut self) {
        for key in self.recent.drain(..) {
            if let Some(dir) = self.dirs.get_mut(&key) {
                dir.listed = None;
            }
        }
    }

    /// Returns whether the events alone say what happens in these directories.
    pub(super) fn is_exact(&self, keys: [Key; 2]) -> bool {
        let is_exact = |key| self.dirs.get(&key).is_some_and(|dir| dir.listed.is_none());
        keys.into_iter().all(is_exact)
    }

    /// Records that a name is not emitted although the host may have it.
    pub(super) fn doubt(&mut self, place: Place) {
        self.unsure.insert(place);
    }

    pub(super) fn is_doubted(&self, place: &Place) -> bool {
        self.unsure.contains(place)
    }

    /// Records that a name has come. Returns whether that is to be emitted: not if the name was
    /// listed, so that the event is older than the listing.
    pub(super) fn gains(&mut self, place: &Place, is_dir: bool) -> bool {
        self.unsure.remove(place);
        let dir = self.dirs.get_mut(&place.0);
        let Some(listed) = dir.and_then(|dir| dir.listed.as_mut()) else {
            return true;
        };
        if listed.contains_key(&place.1) {
            return false;
        }
        listed.insert(place.1.clone(), is_dir);
        true
    }

    /// Returns whether the name was listed as one of the other kind, so that an event of it is older
    /// than the listing.
    pub(super) fn is_older(&self, place: &Place, is_dir: bool) -> bool {
        let listed = self.dirs.get(&place.0).and_then(|dir| dir.listed.as_ref());
        let kind = listed.and_then(|listed| listed.get(&place.1));
        kind.is_some_and(|kind| *kind != is_dir)
    }

    /// Records that a name is gone. Returns whether that is to be emitted: not if the name was
    /// never emitted, because it came and went before the listing.
    pub(super) fn loses(&mut self, place: &Place, is_dir: bool) -> bool {
        if self.unsure.remove(place) {
            return false;
        }
        let dir = self.dirs.get_mut(&place.0);
        let Some(listed) = dir.and_then(|dir| dir.listed.as_mut()) else {
            return true;
        };
        let is_listed = listed.get(&place.1) == Some(&is_dir);
        if is_listed {
            listed.remove(&place.1);
        }
        is_listed
    }

    /// Returns the number of the watched directory of a name, with the name.
    pub(super) fn watched_name<'a>(&self, (dir, name): &'a Place) -> Option<(Wd, &'a OsStr)> {
        Some((self.dirs.get(dir)?.wd?, name))
    }
}
