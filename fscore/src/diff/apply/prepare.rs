//! Prepares the steps of a plan: stages what is new, and lists the operations on the host.
//!
//! Nothing is at its place yet. So the host's objects are found where they are before all steps, and
//! the paths of the operations are those that are valid when their turn comes.

use std::path::PathBuf;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, OFlags};

use super::attributes::change_of;
use super::execute::{Executor, IndexStep, Prepared, Stop};
use super::plan::{Item, display, path_of, relative};
use crate::diff::steps::{Differs, Named, Step};
use crate::lower::transaction::{AttributeChange, Slot};
use crate::lower::{Fingerprint, HostObject, beneath, split};
use crate::model::errno::{Errno, Result};
use crate::model::event::Name;
use crate::model::id::NodeId;

/// What a step was prepared as, apart from its operations.
#[derive(Default)]
struct Parts {
    staged: Option<Fingerprint>,
    is_link: bool,
    index: Vec<IndexStep>,
}

impl<'a> Executor<'a> {
    /// Prepares a step.
    pub(super) fn prepare(&mut self, item: &'a Item) -> Result<(), Stop> {
        let node = item.step.node();
        let parts = if let (Some(only), Some(on_host)) = (item.only, item.replaces) {
            let path = match &item.step {
                Step::Added(named) => relative(&named.path()),
                Step::Removed(_) | Step::Renamed(..) | Step::Modified(..) => {
                    path_of(self.new, node).ok_or(Errno::ESTALE)?
                }
            };
            self.set(&path, on_host, node, only)?;
            Parts::default()
        } else {
            match &item.step {
                Step::Added(named) if named.is_dir => self.add_dir(named)?,
                Step::Added(named) => self.add(named, item.replaces)?,
                Step::Removed(named) => self.remove(named),
                Step::Renamed(from, to) => self.rename(from, to, item.replaces)?,
                Step::Modified(_, differs) if differs.content => self.rewrite(node)?,
                Step::Modified(_, differs) => {
                    let path = path_of(self.new, node).ok_or(Errno::ESTALE)?;
                    self.set(&path, node, node, *differs)?;
                    Parts::default()
                }
            }
        };
        if let Some(expected) = self.expected.get_mut(&node) {
            expected.exact = false;
        }
        self.prepared.push(Prepared {
            item: Some(item),
            path: item.action.path().to_owned(),
            end: self.transaction.len(),
            staged: parts.staged,
            is_link: parts.is_link,
            index: parts.index,
        });
        Ok(())
    }

    fn adopt(node: NodeId, named: &Named) -> IndexStep {
        IndexStep::Adopt(node, named.dir, named.name.clone())
    }

    fn forget(named: &Named, moved: bool) -> IndexStep {
        IndexStep::Forget(named.dir, named.name.clone(), moved)
    }

    /// Opens a directory where it is before all steps: on the host, or where it is staged.
    pub(super) fn dir_now(&self, dir: NodeId) -> Result<OwnedFd, Stop> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        if let Some((slot, _)) = self.staged.get(&dir) {
            return Ok(beneath::open(
                self.transaction.staging(),
                &slot.name(),
                flags,
            )?);
        }
        let path = self.lower.path_of(dir).ok_or(Stop::Surprise)?;
        match beneath::open_on_mount(self.lower.root(), &path, flags) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Err(Stop::Surprise),
            other => Ok(other?),
        }
    }

    /// Stages a new object, or a further name of one that the host has or gets.
    fn add(&mut self, named: &Named, replaces: Option<NodeId>) -> Result<Parts, Stop> {
        let (node, path) = (named.node, relative(&named.path()));
        let staged = self.staged.get(&node).copied();
        let existing = self.lower.path_of(node);
        let existing = existing.filter(|_| staged.is_none() && self.old.inode(node).is_ok());
        let slot = match (staged, &existing) {
            (Some((slot, _)), _) => self.link_staged(slot)?,
            (None, Some(existing)) => self.link_existing(node, existing)?,
            (None, None) => self.stage(named.dir, node, replaces)?,
        };
        let mut index = Vec::new();
        let placed = match replaces {
            Some(replaced) => {
                let old = self.expected(replaced)?;
                index.push(Self::forget(named, false));
                self.transaction.replace(slot, &path, old)?
            }
            None => self.transaction.place(slot, &path)?,
        };
        index.push(Self::adopt(node, named));
        if existing.is_none() && staged.is_none() {
            self.staged.insert(node, (slot, placed));
        }
        Ok(Parts {
            staged: Some(placed),
            is_link: existing.is_some(),
            index,
        })
    }

    fn link_staged(&mut self, from: Slot) -> Result<Slot, Stop> {
        let slot = self.transaction.slot();
        let dir = self.transaction.staging();
        rustix::fs::linkat(dir, from.name(), dir, slot.name(), AtFlags::empty())?;
        Ok(slot)
    }

    fn link_existing(&mut self, node: NodeId, existing: &[u8]) -> Result<Slot, Stop> {
        let slot = self.transaction.slot();
        let (dir, name) = split(existing);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = beneath::open_on_mount(self.lower.root(), dir, flags)?;
        let staging = self.transaction.staging();
        rustix::fs::linkat(&dir, name, staging, slot.name(), AtFlags::empty())?;
        let arrived = Fingerprint::at(staging, &slot.name());
        if let Some(expected) = self.expected.get_mut(&node) {
            if !arrived.is_some_and(|is| is.is_same_content(&expected.fingerprint)) {
                return Err(Stop::Surprise);
            }
            // The link has changed its ctime.
            expected.exact = false;
            self.transaction.has_linked(expected.fingerprint);
        }
        Ok(slot)
    }

    fn add_dir(&mut self, named: &Named) -> Result<Parts, Stop> {
        let (slot, is_closing) = self.stage_dir(named.dir, named.node)?;
        if is_closing {
            self.closing.insert(named.node);
        }
        let placed = self.transaction.place(slot, &relative(&named.path()))?;
        self.staged.insert(named.node, (slot, placed));
        Ok(Parts {
            staged: Some(placed),
            is_link: false,
            index: vec![Self::adopt(named.node, named)],
        })
    }

    fn remove(&mut self, named: &Named) -> Parts {
        let path = relative(&named.path());
        let mode = self.old.inode(named.node).map_or(0, |inode| inode.mode);
        let expected = self.expected.get(&named.node).copied();
        self.transaction.remove(&path, expected, mode);
        Parts {
            index: vec![Self::forget(named, false)],
            ..Parts::default()
        }
    }

    fn rename(
        &mut self,
        from: &Named,
        to: &Named,
        replaces: Option<NodeId>,
    ) -> Result<Parts, Stop> {
        let (old, new) = (relative(&from.path()), relative(&to.path()));
        let expected = self.expected(to.node)?;
        let mut index = Vec::new();
        if let Some(replaced) = replaces {
            let other = self.expected(replaced)?;
            self.transaction.rename_over(&old, &new, expected, other);
            index.push(Self::forget(to, false));
        } else {
            self.transaction.rename(&old, &new, expected);
        }
        index.push(Self::forget(from, true));
        index.push(Self::adopt(to.node, to));
        Ok(Parts {
            index,
            ..Parts::default()
        })
    }

    /// Returns the names that an object has in the branch: those that the branch gave it, and those by
    /// which the host's object was seen.
    pub(super) fn names_of(&self, node: NodeId) -> Vec<(NodeId, Name)> {
        let own = self.new.inode(node).map(|inode| inode.names.all());
        let mut names = own.unwrap_or_default();
        for (dir, name) in self.lower.names_of(node) {
            let found = self.new.inode(dir);
            let found = found.and_then(|inode| self.new.lookup(dir, &inode, &name));
            let is_it = found.is_ok_and(|found| found.is_some_and(|found| found.node == node));
            if is_it && !names.contains(&(dir, name.clone())) {
                names.push((dir, name));
            }
        }
        names
    }

    /// Replaces the content of a file under all of its names.
    fn rewrite(&mut self, node: NodeId) -> Result<Parts, Stop> {
        let mut expected = self.expected(node)?;
        let names = self.names_of(node);
        let mut parts = Parts::default();
        let mut first = None;
        for (dir, name) in names {
            // A name that lies too deep for a path stays in the branch.
            let Some(path) = self.new.path_in(dir, &name) else {
                continue;
            };
            let slot = match first {
                Some(first) => self.link_staged(first)?,
                None => self.stage(dir, node, Some(node))?,
            };
            first.get_or_insert(slot);
            let placed = self.transaction.replace(slot, &relative(&path), expected)?;
            parts.staged.get_or_insert(placed);
            parts.index.push(IndexStep::Adopt(node, dir, name));
            // The exchange of one name changes the ctime of the object, which has the other names
            // too.
            expected.exact = false;
        }
        Ok(parts)
    }

    /// Sets those attributes of the host's object `on_host`, by then at `path`, that differ from the
    /// ones of `node` in the branch.
    fn set(
        &mut self,
        path: &[u8],
        on_host: NodeId,
        node: NodeId,
        differs: Differs,
    ) -> Result<(), Stop> {
        let inode = self.new.inode(node)?;
        let seen = self.new.seen().get(on_host.0);
        let now = self.lower.path_of(on_host).ok_or(Stop::Surprise)?;
        let object = match HostObject::at(self.lower.root(), &now) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
                return Err(Stop::Surprise);
            }
            other => other?,
        };
        let stat = object.stat()?;
        let found = Fingerprint::of(&stat);
        if !path.is_empty() && !self.expected(on_host)?.fingerprint.is_same_content(&found) {
            return Err(Stop::Surprise);
        }
        let xattrs = self.new.xattrs(node, &inode)?;
        let after = change_of(&inode, seen, xattrs.as_ref(), differs, &stat);
        let before = after.reverse(&object)?;
        self.transaction.set(path, found, before, after);
        Ok(())
    }

    /// Sets the times of directories, which come last because adding names moves them. A directory
    /// that the host has changed after the branch did keeps its times: otherwise a program that
    /// compares them would miss that change.
    pub(super) fn prepare_dirs(&mut self) -> Result<(), (Stop, PathBuf)> {
        let new = self.new;
        for (key, inode) in new.inodes().iter().filter(|(_, inode)| inode.is_dir()) {
            let node = NodeId(key);
            let Some(path) = path_of(new, node) else {
                continue;
            };
            let before = self.changed.get(&node);
            let is_older = before.is_some_and(|before| inode.times.mtime < *before);
            let after = AttributeChange {
                mode: self.closing.contains(&node).then_some(inode.mode),
                times: (!is_older).then_some((inode.times.atime, inode.times.mtime)),
                ..AttributeChange::default()
            };
            if after.is_empty() {
                continue;
            }
            self.set_dir(node, &path, after)
                .map_err(|stop| (stop, display(&path)))?;
        }
        Ok(())
    }

    fn set_dir(&mut self, node: NodeId, path: &[u8], after: AttributeChange) -> Result<(), Stop> {
        let (found, before) = match self.staged.get(&node) {
            Some((_, staged)) => (*staged, AttributeChange::default()),
            None => {
                let Some(now) = self.lower.path_of(node) else {
                    return Ok(());
                };
                let Ok(object) = HostObject::at(self.lower.root(), &now) else {
                    return Ok(());
                };
                (Fingerprint::of(&object.stat()?), after.reverse(&object)?)
            }
        };
        self.transaction.set(path, found, before, after);
        self.prepared.push(Prepared {
            item: None,
            path: display(path),
            end: self.transaction.len(),
            staged: None,
            is_link: false,
            index: Vec::new(),
        });
        Ok(())
    }
}
