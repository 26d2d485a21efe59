//! Random changes of a directory of the host, and what a program knows of it that replays events.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::random::Random;

/// A change of the host. Paths are relative to the directory.
#[derive(Clone, Debug)]
pub enum Op {
    File(String),
    Dir(String),
    Link(String, String),
    Rename(String, String),
    Exchange(String, String),
    Unlink(String),
    RemoveDir(String),
    RemoveAll(String),
    /// Moves to a place outside of the directory.
    Out(String),
    /// Moves back from there.
    In(String),
    /// Makes a tree elsewhere, which takes the place of another one.
    Switch(String),
}

impl Op {
    /// Returns any change, of few names so that the changes meet.
    pub fn any(random: &mut Random) -> Self {
        match random.below(22) {
            0..3 => Self::File(path(random)),
            3..7 => Self::Dir(path(random)),
            7 => Self::Link(path(random), path(random)),
            8..14 => Self::Rename(path(random), path(random)),
            14..16 => Self::Exchange(path(random), path(random)),
            16 => Self::Unlink(path(random)),
            17 => Self::RemoveDir(path(random)),
            18 => Self::RemoveAll(path(random)),
            19 => Self::Out(path(random)),
            20 => Self::In(path(random)),
            _ => Self::Switch(path(random)),
        }
    }

    /// Makes the change, as far as it can be made.
    pub fn make(&self, root: &Path, outside: &Path) {
        let at = |path: &str| root.join(path);
        let out = outside.join("out");
        match self {
            Self::File(path) => drop(fs::write(at(path), path)),
            Self::Dir(path) => drop(fs::create_dir_all(at(path))),
            Self::Link(from, to) => drop(fs::hard_link(at(from), at(to))),
            Self::Rename(from, to) => drop(fs::rename(at(from), at(to))),
            Self::Exchange(one, other) => {
                let _ = renameat_with(CWD, at(one), CWD, at(other), RenameFlags::EXCHANGE);
            }
            Self::Unlink(path) => drop(fs::remove_file(at(path))),
            Self::RemoveDir(path) => drop(fs::remove_dir(at(path))),
            Self::RemoveAll(path) => drop(fs::remove_dir_all(at(path))),
            Self::Out(path) => drop(fs::rename(at(path), out)),
            Self::In(path) => drop(fs::rename(out, at(path))),
            Self::Switch(path) => {
                let (new, old) = (at(&format!("{path}.new")), at(&format!("{path}.old")));
                drop(fs::create_dir_all(new.join("a")));
                drop(fs::write(new.join("f"), "new"));
                drop(fs::rename(at(path), &old));
                drop(fs::rename(new, at(path)));
                drop(fs::remove_dir_all(old));
            }
        }
    }
}

/// Returns any of the few paths that the changes are about.
pub fn path(random: &mut Random) -> String {
    let depth = 1 + random.below(3);
    let names: Vec<&str> = (0..depth).map(|_| random.pick(&["a", "b", "c"])).collect();
    names.join("/")
}

/// The paths of a tree, each after a slash, and whether they are those of directories.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Paths(BTreeMap<PathBuf, bool>);

impl Paths {
    /// Returns the paths below a directory of the host.
    pub fn of(root: &Path) -> Self {
        let mut paths = Self::default();
        let mut open = vec![root.to_owned()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let is_dir = entry.file_type().is_ok_and(|it| it.is_dir());
                let path = Path::new("/").join(entry.path().strip_prefix(root).unwrap());
                paths.0.insert(path, is_dir);
                if is_dir {
                    open.push(entry.path());
                }
            }
        }
        paths
    }

    pub fn created(&mut self, path: &Path, is_dir: bool) {
        self.removed(path);
        self.0.insert(path.to_owned(), is_dir);
    }

    pub fn removed(&mut self, path: &Path) {
        drop(self.take(path));
    }

    pub fn renamed(&mut self, from: &Path, to: &Path) {
        let moved = self.take(from);
        self.removed(to);
        self.put(moved, from, to);
    }

    pub fn exchanged(&mut self, one: &Path, other: &Path) {
        let (first, second) = (self.take(one), self.take(other));
        self.put(first, one, other);
        self.put(second, other, one);
    }

    /// Returns what differs from the true paths, if anything does.
    pub fn difference(&self, truth: &Self) -> Option<String> {
        let left = |one: &Self, other: &Self| -> Vec<PathBuf> {
            let all = one.0.iter();
            let left = all.filter(|(path, is_dir)| other.0.get(*path) != Some(*is_dir));
            left.map(|(path, _)| path.clone()).collect()
        };
        let (missing, ghosts) = (left(truth, self), left(self, truth));
        let is_same = missing.is_empty() && ghosts.is_empty();
        (!is_same).then(|| format!("missing {missing:?}, ghosts {ghosts:?}"))
    }

    /// Takes a path out, with everything below it.
    fn take(&mut self, at: &Path) -> BTreeMap<PathBuf, bool> {
        let all = std::mem::take(&mut self.0);
        let (taken, left) = all.into_iter().partition(|(path, _)| path.starts_with(at));
        self.0 = left;
        taken
    }

    /// Puts what was taken from one path to another one.
    fn put(&mut self, taken: BTreeMap<PathBuf, bool>, from: &Path, to: &Path) {
        self.0.extend(taken.into_iter().map(|(path, is_dir)| {
            let rest = path.strip_prefix(from).unwrap();
            let is_itself = rest == Path::new("");
            let path = if is_itself {
                to.to_owned()
            } else {
                to.join(rest)
            };
            (path, is_dir)
        }));
    }
}
