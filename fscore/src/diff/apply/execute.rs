//! The execution of a plan: one transaction on the host that makes what a branch changed.
//!
//! Everything is [prepared](super::prepare) first: new objects are staged, and the operations on the
//! host are listed. Then they are performed, with the branch locked, so that a reader finds its
//! objects either before or after all of them. The index of the host follows each step, and goes
//! back with it when a step is not made.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use rustix::io::Errno as HostErrno;

use super::cancel::is_set;
use super::outcome::Action;
use super::plan::{Item, Plan};
use crate::branch::Branch;
use crate::branch::served_versions::ServedVersions;
use crate::branch::state::Hold;
use crate::lower::transaction::{Expected, Slot, Transaction};
use crate::lower::{Fingerprint, Lower};
use crate::model::attr::Nanos;
use crate::model::errno::{Errno, Result};
use crate::model::event::Name;
use crate::model::id::NodeId;
use crate::store::inode::Seen;
use crate::store::tree::Tree;

/// Why nothing was made.
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

/// One step that is prepared.
#[derive(Debug)]
pub(super) struct Prepared<'a> {
    pub(super) item: Option<&'a Item>,
    pub(super) path: PathBuf,
    /// How many operations of the transaction are performed when this step is made.
    pub(super) end: usize,
    /// The object that was staged for it.
    pub(super) staged: Option<Fingerprint>,
    /// Whether that is another name of an object that the host has.
    pub(super) is_link: bool,
    pub(super) index: Vec<IndexStep>,
}

/// A change of the index of the host, which follows a step.
#[derive(Clone, Debug)]
pub(super) enum IndexStep {
    /// The name is gone; or the object has `moved` to another one.
    Forget(NodeId, Name, bool),
    /// What the host has by this name is this node.
    Adopt(NodeId, NodeId, Name),
}

impl IndexStep {
    /// Makes the change, and returns the one that takes it back.
    fn make(&self, lower: &Lower) -> Result<Option<Self>> {
        match self {
            Self::Forget(dir, name, moved) => {
                let was = lower.seen_as(*dir, name);
                lower.forget_name(*dir, name, *moved);
                Ok(was.map(|was| Self::Adopt(was, *dir, name.clone())))
            }
            Self::Adopt(node, dir, name) => {
                let was = lower.seen_as(*dir, name);
                lower.adopt(*node, *dir, name)?;
                Ok(Some(match was {
                    Some(was) => Self::Adopt(was, *dir, name.clone()),
                    None => Self::Forget(*dir, name.clone(), false),
                }))
            }
        }
    }
}

pub(super) struct Executor<'a> {
    pub(super) lower: &'a Lower,
    /// What an untouched branch shows: the host as it is.
    pub(super) old: &'a Tree,
    pub(super) new: &'a Tree,
    pub(super) hold: &'a Hold<'a>,
    /// The versions that the branch has shown.
    pub(super) served: &'a ServedVersions,
    pub(super) cancelled: &'a AtomicBool,
    pub(super) transaction: Transaction<'a>,
    pub(super) expected: HashMap<NodeId, Expected>,
    /// The same as the comparison has found it.
    found: HashMap<NodeId, Expected>,
    /// How many steps are still to be made for each object.
    pub(super) pending: HashMap<NodeId, usize>,
    /// The objects that are staged, and as what.
    pub(super) staged: HashMap<NodeId, (Slot, Fingerprint)>,
    /// The staged directories that get permissions in the end by which nothing could be put into
    /// them.
    pub(super) closing: HashSet<NodeId>,
    /// When the host last changed the directories in which there are steps to make.
    pub(super) changed: HashMap<NodeId, Nanos>,
    pub(super) prepared: Vec<Prepared<'a>>,
    /// How to take back what the index has followed, for each step.
    undo: Vec<Vec<IndexStep>>,
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
    ) -> Result<Self> {
        let mut pending = HashMap::new();
        for item in &plan.items {
            *pending.entry(item.step.node()).or_default() += 1;
        }
        let own = new.inodes().iter().filter(|(_, inode)| inode.is_dir());
        let changed = own.filter_map(|(key, _)| {
            let node = NodeId(key);
            Some((node, lower.inode(node).ok()?.times.mtime))
        });
        Ok(Self {
            lower,
            old,
            new,
            hold,
            served: &branch.inner.served,
            cancelled,
            transaction: Transaction::begin(lower.root())?,
            expected: plan.expected.clone(),
            found: plan.expected.clone(),
            pending,
            staged: HashMap::new(),
            closing: HashSet::new(),
            changed: changed.collect(),
            prepared: Vec::new(),
            undo: Vec::new(),
        })
    }

    /// Makes all steps of the plan, or none.
    pub(super) fn run_all(&mut self, plan: &'a Plan) -> Result<(), (Stop, PathBuf)> {
        let marked = self.mark(plan);
        let ended = self.run_marked(plan);
        if ended.is_err() {
            // What is staged may be links, whose removal changes the ctime once more.
            if let Err(errno) = self.transaction.abandon() {
                tracing::error!(%errno, "an apply cannot be taken back yet; the next command does that");
            }
            self.unmark(marked);
        }
        ended
    }

    /// Lets the ctime of the objects that are about to be touched not count as a change by the host:
    /// if this process is killed, they have another one when everything is taken back. Returns how the
    /// branch saw them.
    fn mark(&self, plan: &Plan) -> Vec<(NodeId, Seen)> {
        let both = |item: &Item| [Some(item.step.node()), item.replaces];
        let nodes = plan.items.iter().flat_map(both).flatten();
        let seen = nodes.filter_map(|node| Some((node, self.new.seen().get(node.0)?.clone())));
        let marked: Vec<_> = seen.filter(|(_, seen)| seen.ctime.is_some()).collect();
        let mut state = self.hold.state();
        for (node, _) in &marked {
            state.tree.record_own_move(*node);
        }
        marked
    }

    /// Lets the ctime count again. Of what was touched and taken back, it is the one that the object has
    /// now.
    fn unmark(&self, marked: Vec<(NodeId, Seen)>) {
        let mut state = self.hold.state();
        for (node, mut seen) in marked {
            let now = self.lower.fingerprint_of(node);
            let found = self.found.get(&node);
            if let (Some(now), Some(found)) = (now, found)
                && seen.ctime == Some(found.fingerprint.version().ctime)
                && now.is_same_content(&found.fingerprint)
            {
                seen.ctime = Some(now.version().ctime);
                seen.version.ctime = now.version().ctime;
            }
            state.tree.see_as(node, seen);
        }
    }

    fn run_marked(&mut self, plan: &'a Plan) -> Result<(), (Stop, PathBuf)> {
        let here = || PathBuf::from(".");
        for item in &plan.items {
            let path = item.action.path();
            if is_set(self.cancelled) {
                return Err((Stop::Cancelled, path.to_owned()));
            }
            self.prepare(item).map_err(|stop| (stop, path.to_owned()))?;
        }
        self.prepare_dirs()?;
        if self.transaction.is_empty() {
            return Ok(());
        }
        self.transaction
            .seal()
            .map_err(|errno| (errno.into(), here()))?;
        self.perform()?;
        if let Err(errno) = self.transaction.commit() {
            let state = self.hold.state();
            self.take_back();
            drop(state);
            return Err((errno.into(), here()));
        }
        Ok(())
    }

    /// Performs everything that is prepared, with the branch locked.
    fn perform(&mut self) -> Result<(), (Stop, PathBuf)> {
        let state = self.hold.state();
        for at in 0..self.prepared.len() {
            if let Err(stop) = self.perform_step(at) {
                let path = self.prepared[at].path.clone();
                self.take_back();
                return Err((stop, path));
            }
        }
        drop(state);
        Ok(())
    }

    fn perform_step(&mut self, at: usize) -> Result<(), Stop> {
        if is_set(self.cancelled) {
            return Err(Stop::Cancelled);
        }
        let end = self.prepared[at].end;
        while self.transaction.performed() < end {
            if !self.transaction.perform_next()? {
                return Err(Stop::Surprise);
            }
        }
        self.undo.push(Vec::new());
        for change in &self.prepared[at].index {
            let back = change.make(self.lower)?;
            if let Some(made) = self.undo.last_mut() {
                made.extend(back);
            }
        }
        Ok(())
    }

    /// Takes back everything, the last step first.
    fn take_back(&mut self) {
        loop {
            // The operations of a step that was made in part are those behind the last whole one.
            let whole = self.undo.len();
            let start = whole
                .checked_sub(1)
                .and_then(|last| last.checked_sub(1))
                .and_then(|before| self.prepared.get(before))
                .map_or(0, |before| before.end);
            while self.transaction.performed() > start {
                if let Err(errno) = self.transaction.take_back_last() {
                    tracing::error!(%errno, "what was applied in part cannot be taken back yet");
                    return;
                }
            }
            let Some(changes) = self.undo.pop() else {
                return;
            };
            for change in changes.into_iter().rev() {
                // A name that the host has changed meanwhile is found by the next look.
                drop(change.make(self.lower));
            }
        }
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

    /// Returns every path that the steps touch.
    pub(super) fn paths(&self) -> impl Iterator<Item = &std::path::Path> {
        let of_item = |step: &'_ Prepared<'a>| step.item.map(|item| &item.action);
        let items = self.prepared.iter().filter_map(of_item);
        let items = items.flat_map(Action::paths);
        let dirs = self.prepared.iter().filter(|step| step.item.is_none());
        items.chain(dirs.map(|step| &*step.path))
    }
}
