//! The execution of a plan: writing to the host what a branch changed, step by step.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno as HostErrno;

use super::attributes::{set_differing, set_owner_and_times, set_times};
use super::cancel::is_set;
use super::outcome::Action;
use super::plan::{Item, Plan, display, path_of, relative};
use super::release::show_applied;
use super::staging::Staged;
use super::swap::{At, Expected, Swap};
use crate::branch::Branch;
use crate::branch::served_versions::ServedVersions;
use crate::branch::state::Hold;
use crate::diff::steps::{Differs, Named, Step};
use crate::lower::{Fingerprint, Lower, beneath, split};
use crate::model::attr::Nanos;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Name, ObjectKind};
use crate::model::id::{BranchId, NodeId};
use crate::store::tree::Tree;

/// Why a step was not made. What the step had done is taken back.
#[derive(Debug)]
pub(super) enum Stop {
    /// The host has something else there than the comparison found.
    Surprise,
    Cancelled,
    Host(Errno),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Host(errno)
    }
}

impl From<HostErrno> for Stop {
    fn from(errno: HostErrno) -> Self {
        Self::Host(errno.into())
    }
}

/// Returns a surprise, unless the step was done.
pub(super) fn done(is_done: Result<bool>) -> Result<(), Stop> {
    if is_done? {
        Ok(())
    } else {
        Err(Stop::Surprise)
    }
}

pub(super) struct Executor<'a> {
    pub(super) lower: &'a Lower,
    /// What an untouched branch shows: the host as it is.
    pub(super) old: &'a Tree,
    pub(super) new: &'a Tree,
    /// The branch is held, and locked for each step: a reader finds each object either before or
    /// after its step.
    pub(super) hold: &'a Hold<'a>,
    pub(super) branch: BranchId,
    /// The versions that the branch has shown.
    pub(super) served: &'a ServedVersions,
    pub(super) cancelled: &'a AtomicBool,
    pub(super) swap: Swap,
    pub(super) expected: HashMap<NodeId, Expected>,
    /// How many steps are still to be made for each object.
    pending: HashMap<NodeId, usize>,
    /// The objects that were written to the host already.
    pub(super) made: HashSet<NodeId>,
    /// When the host last changed the directories in which there are steps to make.
    changed: HashMap<NodeId, Nanos>,
    /// The directories whose times were set.
    pub(super) stamped: Vec<Action>,
}

impl<'a> Executor<'a> {
    pub(super) fn new(
        lower: &'a Lower,
        old: &'a Tree,
        new: &'a Tree,
        plan: &Plan,
        hold: &'a Hold<'a>,
        branch: &'a Branch,
        cancelled: &'a AtomicBool,
    ) -> Self {
        let mut pending = HashMap::new();
        for item in &plan.items {
            *pending.entry(item.step.node()).or_default() += 1;
        }
        let own = new.inodes().iter().filter(|(_, inode)| inode.is_dir());
        let changed = own.filter_map(|(key, _)| {
            let node = NodeId(key);
            Some((node, lower.inode(node).ok()?.times.mtime))
        });
        Self {
            lower,
            old,
            new,
            hold,
            branch: branch.id(),
            served: &branch.inner.served,
            cancelled,
            swap: Swap::default(),
            expected: plan.expected.clone(),
            pending,
            made: HashSet::new(),
            changed: changed.collect(),
            stamped: Vec::new(),
        }
    }

    /// Makes the steps in their order, and adds each one that was made to `actions`.
    pub(super) fn run_all(
        &mut self,
        plan: &Plan,
        actions: &mut Vec<Action>,
    ) -> Result<(), (Stop, PathBuf)> {
        for (name, node) in &plan.already_there {
            self.release_already_there(name.as_ref(), *node, true);
        }
        for item in &plan.items {
            let path = || item.action.path().to_owned();
            if is_set(self.cancelled) {
                return Err((Stop::Cancelled, path()));
            }
            self.run(item).map_err(|stop| (stop, path()))?;
            actions.push(item.action.clone());
        }
        self.stamp_dirs()
    }

    fn run(&mut self, item: &Item) -> Result<(), Stop> {
        let node = item.step.node();
        if let (Some(only), Some(on_host)) = (item.only, item.replaces) {
            return self.complete(&item.step, on_host, only);
        }
        match &item.step {
            Step::Added(named) => self.add(named, item.replaces)?,
            Step::Removed(named) => self.remove(named)?,
            Step::Renamed(from, to) => self.rename(from, to, item.replaces)?,
            Step::Modified(_, differs) if differs.content => self.rewrite(node)?,
            Step::Modified(_, differs) => {
                let path = path_of(self.new, node).ok_or(Errno::ESTALE)?;
                self.set_attributes((&path, node), node, *differs)?;
            }
        }
        self.made.insert(node);
        if let Some(expected) = self.expected.get_mut(&node) {
            expected.exact = false;
        }
        let is_last = self.is_last(node);
        let is_dir = self.new.inode(node).is_ok_and(|inode| inode.is_dir());
        let mut state = self.hold.state();
        if is_last && !is_dir && !matches!(item.step, Step::Removed(_)) {
            show_applied(self.served, self.lower, self.new, node);
            state.tree.release_object(node);
        } else {
            state.tree.record_own_move(node);
        }
        Ok(())
    }

    /// Counts a step that was made for an object; returns whether it was the last one.
    fn is_last(&mut self, node: NodeId) -> bool {
        self.pending.get_mut(&node).is_none_or(|left| {
            *left -= 1;
            *left == 0
        })
    }

    /// Sets the attributes of an object of the host that already has the content of the branch's.
    fn complete(&mut self, step: &Step, on_host: NodeId, only: Differs) -> Result<(), Stop> {
        let node = step.node();
        let (path, name) = match step {
            Step::Added(named) => {
                let name = (named.dir, named.name.clone());
                (relative(&named.path()), Some(name))
            }
            Step::Removed(_) | Step::Renamed(..) | Step::Modified(..) => {
                (path_of(self.new, node).ok_or(Errno::ESTALE)?, None)
            }
        };
        self.set_attributes((&path, on_host), node, only)?;
        if let (Some(now), Some(expected)) = (
            self.lower.fingerprint_of(on_host),
            self.expected.get_mut(&on_host),
        ) && now.is_same_content(&expected.fingerprint)
        {
            expected.fingerprint = now;
            expected.exact = false;
        }
        let is_last = self.is_last(node);
        self.release_already_there(name.as_ref(), node, is_last);
        Ok(())
    }

    pub(super) fn dir(&self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(beneath::open(self.lower.root(), path, flags)?)
    }

    pub(super) fn expected(&self, node: NodeId) -> Result<Expected, Stop> {
        // An object that the host had removed before the comparison is not touched.
        self.expected.get(&node).copied().ok_or(Stop::Surprise)
    }

    /// From here on the object is expected as applying has left it.
    pub(super) fn expect_as_left(&mut self, node: NodeId) {
        if let Some(fingerprint) = self.lower.fingerprint_of(node) {
            let exact = false;
            self.expected.insert(node, Expected { fingerprint, exact });
        }
    }

    /// Replaces the content of a file under all of its names, or under none.
    fn rewrite(&mut self, node: NodeId) -> Result<(), Stop> {
        let mut expected = self.expected(node)?;
        let names = self.new.inode(node)?.names.all();
        let mut staged: Vec<(Staged, NodeId, Name)> = Vec::new();
        let mut dirs: HashMap<NodeId, Rc<OwnedFd>> = HashMap::new();
        for (dir, name) in names {
            // A name that lies too deep for a path stays in the branch.
            let Some(path) = self.new.path_in(dir, &name) else {
                continue;
            };
            let path = relative(&path);
            let one = match staged.first() {
                Some((first, ..)) => {
                    let to = match dirs.get(&dir) {
                        Some(known) => known.clone(),
                        None => Rc::new(self.dir(split(&path).0)?),
                    };
                    self.link_at(&first.dir, &first.temporary, to)?
                }
                None => self.stage(&path, node, Some(node))?,
            };
            let was = Some((node, self.new.inode(node)?.kind()));
            self.lower
                .own_writes
                .record_removal(self.branch, &path, was);
            dirs.entry(dir).or_insert_with(|| one.dir.clone());
            staged.push((one, dir, name));
        }
        let mut state = self.hold.state();
        for at in 0..staged.len() {
            let (one, _, name) = &staged[at];
            let to = At {
                dir: &one.dir,
                name,
            };
            let is_done = self.swap.exchange((one.ready(), None), (to, &expected));
            if let Err(stop) = done(is_done) {
                for (one, _, name) in staged[..at].iter().rev() {
                    let to = At {
                        dir: &one.dir,
                        name,
                    };
                    self.swap.exchange_back(one.at(), to)?;
                }
                return Err(stop);
            }
            // The exchange of one name has changed the ctime of the object, which has the other
            // names too.
            expected.exact = false;
        }
        for (one, dir, name) in &staged {
            one.is_placed.set(true);
            self.lower.adopt(node, *dir, name)?;
        }
        if let Some((one, ..)) = staged.first() {
            self.record_placed(&mut state, node, one);
        }
        drop(state);
        self.expect_as_left(node);
        Ok(())
    }

    fn remove(&self, named: &Named) -> Result<(), Stop> {
        let path = relative(&named.path());
        let (dir, name) = split(&path);
        let was = self.lower.seen_with_kind(named.dir, &named.name);
        let dir = match self.dir(dir) {
            // The directory is gone already, and the name with it.
            Err(Errno::ENOENT) => None,
            other => Some(other?),
        };
        if let Some(dir) = &dir {
            let at = At { dir, name };
            self.lower
                .own_writes
                .record_removal(self.branch, &path, was);
            if named.is_dir {
                self.remove_dir(at, named.node)?;
            } else if let Some(expected) = self.expected.get(&named.node) {
                done(self.swap.remove(at, expected))?;
            } else if Fingerprint::at(dir, name).is_some() {
                return Err(Stop::Surprise);
            }
        }
        let mut state = self.hold.state();
        self.lower.forget_name(named.dir, &named.name, false);
        state.tree.release_whiteout(named.dir, &named.name);
        Ok(())
    }

    /// Removes a directory. If another program has put something into it meanwhile, both stay.
    fn remove_dir(&self, at: At<'_>, node: NodeId) -> Result<(), Stop> {
        let Some(now) = Fingerprint::at(at.dir, at.name) else {
            return Ok(());
        };
        if !self.expected(node)?.fingerprint.is_same_content(&now) {
            return Err(Stop::Surprise);
        }
        match rustix::fs::unlinkat(at.dir, at.name, AtFlags::REMOVEDIR) {
            Err(HostErrno::NOTEMPTY | HostErrno::EXIST | HostErrno::NOTDIR) => Err(Stop::Surprise),
            Ok(()) | Err(HostErrno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn rename(&self, from: &Named, to: &Named, replaces: Option<NodeId>) -> Result<(), Stop> {
        let (old, new) = (relative(&from.path()), relative(&to.path()));
        let ((old_dir, old), (new_dir, new)) = (split(&old), split(&new));
        let (old_dir, new_dir) = (self.dir(old_dir)?, self.dir(new_dir)?);
        let (dir, name) = (&old_dir, old);
        let source = At { dir, name };
        let (dir, name) = (&new_dir, new);
        let target = At { dir, name };
        let expected = self.expected(to.node)?;
        let mut state = self.hold.state();
        if let Some(replaced) = replaces {
            let kind = self.lower.kind_of(replaced).unwrap_or(ObjectKind::File);
            let was = Some((replaced, kind));
            let path = relative(&to.path());
            self.lower
                .own_writes
                .record_removal(self.branch, &path, was);
            let other = self.expected(replaced)?;
            done(self.swap.replace((source, &expected), (target, &other)))?;
            self.lower.forget_name(to.dir, &to.name, false);
            state.tree.record_own_move(replaced);
        } else {
            done(self.swap.rename((source, &expected), target))?;
        }
        self.lower.forget_name(from.dir, &from.name, true);
        self.lower.adopt(to.node, to.dir, &to.name)?;
        self.has_moved(&mut state, to.node);
        state.tree.release_whiteout(from.dir, &from.name);
        state.tree.release_name(to.dir, &to.name, to.node);
        let is_aside = {
            let dir = self.new.inode(to.dir);
            let found = dir.and_then(|dir| self.new.lookup(to.dir, &dir, &to.name));
            !found.is_ok_and(|found| found.is_some_and(|found| found.node == to.node))
        };
        if is_aside {
            state.tree.hide_aside(to.dir, &to.name);
        }
        Ok(())
    }

    /// Sets those attributes of the host's object at `path` that differ from the ones of `node` in
    /// the branch.
    fn set_attributes(
        &self,
        (path, on_host): (&[u8], NodeId),
        node: NodeId,
        differs: Differs,
    ) -> Result<(), Stop> {
        let inode = self.new.inode(node)?;
        let seen = self.new.seen().get(on_host.0);
        let (dir, name) = split(path);
        let dir = self.dir(dir)?;
        let is_open = matches!(inode.kind(), ObjectKind::File | ObjectKind::Directory);
        let now = if name.is_empty() {
            None
        } else {
            let now = Fingerprint::at(&dir, name).ok_or(Stop::Surprise)?;
            if !self.expected(on_host)?.fingerprint.is_same_content(&now) {
                return Err(Stop::Surprise);
            }
            Some(now)
        };
        if !is_open {
            return Ok(set_owner_and_times(&dir, name, &inode.attr(node))?);
        }
        let fd = if name.is_empty() {
            dir
        } else {
            let (fd, stat) = match beneath::open_content(&dir, name) {
                // It is gone, or is neither a file nor a directory any more.
                Err(HostErrno::NOENT | HostErrno::STALE | HostErrno::LOOP) => {
                    return Err(Stop::Surprise);
                }
                other => other?,
            };
            let opened = Fingerprint::of(&stat);
            if now.is_some_and(|now| !now.is_same_content(&opened)) {
                return Err(Stop::Surprise);
            }
            fd
        };
        let xattrs = self.new.xattrs(node, &inode)?;
        Ok(set_differing(&fd, &inode, seen, xattrs.as_ref(), differs)?)
    }

    /// Sets the times of directories, which come last because adding names moves them. A directory
    /// that the host has changed after the branch did keeps its times: otherwise a program that
    /// compares them would miss that change.
    fn stamp_dirs(&mut self) -> Result<(), (Stop, PathBuf)> {
        let new = self.new;
        for (key, inode) in new.inodes().iter().filter(|(_, inode)| inode.is_dir()) {
            let node = NodeId(key);
            let Some(path) = path_of(new, node) else {
                continue;
            };
            let before = self.changed.get(&node);
            if before.is_some_and(|before| inode.times.mtime < *before) {
                continue;
            }
            self.dir(&path)
                .and_then(|fd| set_times(&fd, inode))
                .map_err(|errno| (errno.into(), display(&path)))?;
            self.stamped.push(Action::SetAttributes(display(&path)));
        }
        Ok(())
    }
}
