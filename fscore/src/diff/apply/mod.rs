//! Applying a branch: writing what it changed to the host's directory below it.
//!
//! Only one process at a time applies to a directory ([`ApplyLock`]), from the comparison with the
//! host to the last step. All steps are one [transaction](crate::lower::transaction) on the host:
//! new objects are staged beside the directory, and then exchanged with what is there. What the
//! exchange returns must be what the comparison found; otherwise everything is taken back. So
//! nothing is overwritten that the host changed before or changes meanwhile, and the directory is
//! either as it was or has all changes of the branch. Only then does the branch release them.

mod attributes;
mod cancel;
mod execute;
mod frozen;
mod merge_dirs;
mod outcome;
mod plan;
mod prepare;
mod release;
mod staging;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use self::execute::{Executor, Stop};
pub use self::outcome::{Action, Applied, ApplyError, ApplyMode};
use self::plan::{Plan, display, relative};
use self::release::show_applied;
use crate::branch::Branch;
use crate::branch::fs::FsCore;
use crate::branch::state::Hold;
use crate::diff::steps::{Step, steps};
use crate::lower::Lower;
use crate::lower::transaction::{ApplyLock, recover, recover_if_idle};
use crate::model::attr::now;
use crate::model::errno::Result;
use crate::model::id::NodeId;
use crate::ops::look_again;
use crate::ops::lower_change::AppliedChange;
use crate::store::dir_paths::DirPaths;
use crate::store::tree::Tree;

/// How often a forced call compares again because the host changed something meanwhile.
const MAX_COMPARISONS: usize = 16;

/// Merges the directories that both the branch and the host have created, as applying does.
pub(crate) fn merge_with_host(tree: &mut Tree, lower: &Lower) -> Result<()> {
    merge_dirs::merge_dirs(tree, lower).map(drop)
}

impl FsCore {
    /// Takes back what a process that was killed has left half applied to the lower directory, unless
    /// another one is applying at this moment. Opening the filesystem and applying do this, too.
    ///
    /// # Errors
    ///
    /// Those of the system calls. The rest is taken back by the next call.
    pub fn recover_lower(&self) -> Result<()> {
        match &self.core.shared.lower {
            Some(lower) => recover_if_idle(lower.root()).map(drop),
            None => Ok(()),
        }
    }
}

impl Branch {
    /// Writes what the branch changed to the host's directory, and lets it show through from there:
    /// afterwards the branch looks the same and holds nothing of its own. Meanwhile the branch can
    /// be read, and an operation that would change it waits.
    ///
    /// The host's directory is below all branches, so the others show what is applied, where they
    /// have changed nothing. If a file is replaced on the host of which a snapshot shows a part,
    /// the snapshot can no longer read that part (`ESTALE`). Owner and group are set only where
    /// this process may set them.
    ///
    /// A directory that the host has as well is merged: what others put there stays, even if the
    /// branch removed the directory. Objects that lie too deep for a path stay in the branch: see
    /// [`Applied::too_deep`].
    ///
    /// # Errors
    ///
    /// [`ApplyError`]. With [`ApplyMode::Refuse`], conflicts are an error before anything is done.
    pub fn apply(&self, mode: ApplyMode) -> Result<Applied, ApplyError> {
        self.apply_unless(mode, &AtomicBool::new(false))
    }

    /// Applies as [`apply`](Self::apply) does, until `cancelled` is set. It then ends between two
    /// steps, or between two pieces of a file, and leaves no temporary file.
    ///
    /// # Errors
    ///
    /// Those of [`apply`](Self::apply), and [`ApplyError::Cancelled`].
    pub fn apply_unless(
        &self,
        mode: ApplyMode,
        cancelled: &AtomicBool,
    ) -> Result<Applied, ApplyError> {
        let shared = &self.core.shared;
        let lower = shared.lower.as_ref().ok_or(ApplyError::NoLower)?;
        if mode == ApplyMode::DryRun {
            let new = self.inner.read().tree.without_orphans();
            let new = new.over_lower().map_err(ApplyError::Diff)?;
            return self.dry_run(lower, new);
        }
        if self.is_frozen() {
            return self.apply_frozen(lower, mode, cancelled);
        }
        let mut changes = Vec::new();
        let applied = self.apply_alone(lower, mode, cancelled, &mut changes);
        // No lock is held any more: a sink may ask and change the branches.
        let fs = FsCore {
            core: self.core.clone(),
        };
        fs.applied(self.id(), &changes);
        applied
    }

    /// Applies the branch while no other process applies anything to the directory. Adds to
    /// `changes` what other branches are to hear.
    fn apply_alone(
        &self,
        lower: &Lower,
        mode: ApplyMode,
        cancelled: &AtomicBool,
        changes: &mut Vec<AppliedChange>,
    ) -> Result<Applied, ApplyError> {
        // The lock is taken before the comparison, so that no other process writes between it and
        // the last step, and before the hold, so that the branch can be changed while others are
        // applied. One deadline is for the turn and the lock together, so that branches which wait
        // for their turn do not each wait for the lock in addition.
        let until = ApplyLock::deadline();
        let _in_turn = lower.own_writes.turn();
        let _alone = ApplyLock::take_until(lower.root(), cancelled, until)?;
        recover(lower.root()).map_err(ApplyError::Recovery)?;
        let hold = self.inner.hold();
        let mut applied = Applied::default();
        for attempt in 1.. {
            match self.apply_once(lower, &hold, (mode, cancelled), (&mut applied, changes)) {
                Err(Stopped::Surprise(_))
                    if mode == ApplyMode::Force && attempt < MAX_COMPARISONS => {}
                Err(Stopped::Surprise(path)) => {
                    let new = hold.state().tree.without_orphans();
                    let again = self.dry_run(lower, new)?;
                    let mut conflicts = again.conflicts;
                    conflicts.push(path);
                    conflicts.sort();
                    conflicts.dedup();
                    return Err(ApplyError::Conflicts(conflicts));
                }
                Err(Stopped::With(error)) => return Err(error),
                Ok(()) => break,
            }
        }
        Ok(applied)
    }

    /// Returns what applying this tree would do.
    fn dry_run(&self, lower: &Lower, mut new: Tree) -> Result<Applied, ApplyError> {
        merge_dirs::merge_dirs(&mut new, lower).map_err(ApplyError::Diff)?;
        let old = Tree::new(self.core.shared.clone(), now()).map_err(ApplyError::Diff)?;
        let steps = look_again(|| steps(&old, &new)).map_err(ApplyError::Diff)?;
        let (steps, too_deep) = with_paths(&new, steps)?;
        let plan = Plan::new(lower, &old, &new, &steps);
        Ok(Applied {
            actions: plan.items.into_iter().map(|item| item.action).collect(),
            conflicts: plan.conflicts,
            kept: plan.kept,
            too_deep,
        })
    }

    /// Compares the branch with the host once, and makes the steps that follow, as far as they can
    /// be made.
    fn apply_once(
        &self,
        lower: &Lower,
        hold: &Hold<'_>,
        (mode, cancelled): (ApplyMode, &AtomicBool),
        (applied, changes): (&mut Applied, &mut Vec<AppliedChange>),
    ) -> Result<(), Stopped> {
        let shared = &self.core.shared;
        let mut whole = hold.state().tree.clone();
        let merged = merge_dirs::merge_dirs(&mut whole, lower).map_err(ApplyError::Diff)?;
        let new = whole.without_orphans();
        let old = Tree::new(shared.clone(), now()).map_err(ApplyError::Diff)?;
        let steps = look_again(|| steps(&old, &new)).map_err(ApplyError::Diff)?;
        let (steps, too_deep) = with_paths(&new, steps)?;
        let plan = Plan::new(lower, &old, &new, &steps);
        if mode == ApplyMode::Refuse && !plan.conflicts.is_empty() {
            return Err(ApplyError::Conflicts(plan.conflicts).into());
        }
        if !plan.blocked.is_empty() {
            return Err(ApplyError::InTheWay(plan.blocked).into());
        }
        applied.conflicts.extend(plan.conflicts.iter().cloned());
        applied.kept.clone_from(&plan.kept);
        applied.too_deep = too_deep;
        merge_dirs::install(&mut hold.state(), whole, &merged);
        self.inner.forget_dir_paths();

        let applying = lower.own_writes.applying();
        let executor = Executor::new(lower, &old, &new, &plan, hold, self, cancelled);
        let mut executor = executor.map_err(|errno| ApplyError::Host {
            path: PathBuf::from("."),
            errno,
        })?;
        let ended = executor.run_all(&plan);
        lower.own_writes.record(lower, executor.paths());
        drop(applying);
        ended.map_err(|(stop, path)| match stop {
            Stop::Surprise => Stopped::Surprise(path),
            Stop::Cancelled => Stopped::With(ApplyError::Cancelled),
            Stop::Host(errno) => Stopped::With(ApplyError::Host { path, errno }),
        })?;
        *changes = executor.changes();
        let mut state = hold.state();
        applied.actions = executor.release(&plan, &mut state);
        if too_deep > 0 {
            // The branch still has changes that the host has not. It no longer holds what was
            // applied.
            return Ok(());
        }
        let mut fresh = Tree::new(shared.clone(), now()).map_err(ApplyError::Diff)?;
        for (key, _) in state.tree.without_orphans().inodes().iter() {
            // This includes objects that had no step of their own: they show what is on the host,
            // too.
            show_applied(&self.inner.served, lower, &new, NodeId(key));
        }
        for (node, linkable) in state.tree.orphans().iter() {
            if let Ok(inode) = state.tree.inode(NodeId(node)) {
                fresh.add(NodeId(node), inode.into_owned());
                fresh.set_orphan(NodeId(node), *linkable);
            }
        }
        state.tree.replace(fresh);
        Ok(())
    }
}

/// Leaves out the steps that are about names without a path, and returns how many those are.
fn with_paths(new: &Tree, mut steps: Vec<Step>) -> Result<(Vec<Step>, usize), ApplyError> {
    let mut paths = DirPaths::default();
    let all = steps.len();
    let mut moved = None;
    steps.retain(|step| {
        let is_kept = step.has_path(&mut paths, new);
        if let Step::Renamed(from, _) = step
            && !is_kept
        {
            // An object that takes its old name would remove it from the host.
            moved.get_or_insert_with(|| display(&relative(&from.path())));
        }
        is_kept
    });
    match moved {
        Some(path) => Err(ApplyError::TooDeep(path)),
        None => {
            let too_deep = all - steps.len();
            Ok((steps, too_deep))
        }
    }
}

/// Why one round was not completed.
enum Stopped {
    /// The host changed this path since the comparison.
    Surprise(PathBuf),
    With(ApplyError),
}

impl From<ApplyError> for Stopped {
    fn from(error: ApplyError) -> Self {
        Self::With(error)
    }
}
