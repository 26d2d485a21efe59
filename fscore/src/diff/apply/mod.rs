//! Bringing what a branch changed onto the host directory below it.
//!
//! All who write to one directory do so one after the other ([`ApplyLock`]), from the look at what the
//! host changed to the last step. Each file arrives whole: it is written beside its place under a
//! temporary name, synchronised, and then exchanged with what is there; what comes out must be what
//! the look found, else it is put back. So neither what the host changed before nor what it changes
//! meanwhile is overwritten. What a step has done, the branch no longer holds: whatever stops the
//! work, the next call goes on where it stopped.

mod attributes;
mod execute;
mod lock;
mod merge_dirs;
mod outcome;
mod plan;
mod release;
mod staging;
mod swap;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use self::execute::{Executor, Stop};
pub use self::lock::{ApplyLock, LockError};
pub use self::outcome::{Action, Applied, ApplyError, ApplyMode};
use self::plan::{Plan, display, relative};
use self::release::show_applied;
pub use self::swap::{is_temporary, temporary_name};

/// Merges the directories that both the branch and the host made, as applying does.
pub(crate) fn merge_with_host(tree: &mut Tree, lower: &Lower) -> Result<()> {
    merge_dirs::merge_dirs(tree, lower).map(drop)
}

use crate::branch::Branch;
use crate::branch::state::Hold;
use crate::diff::steps::{Step, steps};
use crate::lower::Lower;
use crate::model::attr::now;
use crate::model::errno::Result;
use crate::model::id::NodeId;
use crate::store::dir_paths::DirPaths;
use crate::store::tree::Tree;

/// How often a forced call looks again because the host changed something meanwhile.
const MAX_LOOKS: usize = 16;

impl Branch {
    /// Brings what the branch changed onto the host directory, and lets it show through from there:
    /// the branch looks the same afterwards and holds nothing of its own. Meanwhile it can be read,
    /// and whatever would change it waits.
    ///
    /// The host directory is below all branches: what they have not touched shows what is applied.
    /// A snapshot that shows part of a file which is replaced on the host cannot read that part any
    /// more (`ESTALE`). Owner and group are only brought over where this process may set them.
    ///
    /// A directory that the host has, too, is merged: what others put there stays, also when the
    /// branch removed the directory. What lies too deep for a path stays in the branch: see
    /// [`Applied::too_deep`].
    ///
    /// # Errors
    ///
    /// [`ApplyError`]; with [`ApplyMode::Refuse`] conflicts, before anything is done.
    pub fn apply(&self, mode: ApplyMode) -> Result<Applied, ApplyError> {
        self.apply_unless(mode, &AtomicBool::new(false))
    }

    /// As [`apply`](Self::apply), until `cancelled` is set: it then ends between two steps, or
    /// between two pieces of a file, and leaves no temporary file.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply), and [`ApplyError::Cancelled`].
    pub fn apply_unless(
        &self,
        mode: ApplyMode,
        cancelled: &AtomicBool,
    ) -> Result<Applied, ApplyError> {
        let shared = &self.core.shared;
        let lower = shared.lower.as_ref().ok_or(ApplyError::NoLower)?;
        if mode == ApplyMode::DryRun {
            let new = self.inner.read().tree.without_orphans();
            return self.foresee(lower, new);
        }
        // In front of the look, so that nobody writes between it and the last step; and in front of
        // the hold, so that the branch can be changed while others are at it.
        // Those who wait for their turn wait for the lock as well, and not one after the other.
        let until = ApplyLock::deadline();
        let _in_turn = lower.own_writes.turn();
        let _alone = ApplyLock::take_until(lower.root(), cancelled, until)?;
        let hold = self.inner.hold();
        let mut applied = Applied::default();
        for look in 1.. {
            match self.apply_once(lower, &hold, mode, cancelled, &mut applied) {
                Err(Stopped::Surprise(_)) if mode == ApplyMode::Force && look < MAX_LOOKS => {}
                Err(Stopped::Surprise(path)) => {
                    let new = hold.state().tree.without_orphans();
                    let again = self.foresee(lower, new)?;
                    let mut conflicts = again.conflicts;
                    conflicts.push(path);
                    conflicts.sort();
                    conflicts.dedup();
                    return Err(ApplyError::Changed {
                        done: applied.actions,
                        conflicts,
                    });
                }
                Err(Stopped::With(error)) => return Err(error),
                Ok(()) => break,
            }
        }
        Ok(applied)
    }

    /// What applying this tree would do.
    fn foresee(&self, lower: &Lower, mut new: Tree) -> Result<Applied, ApplyError> {
        merge_dirs::merge_dirs(&mut new, lower).map_err(ApplyError::Diff)?;
        let old = Tree::new(self.core.shared.clone(), now()).map_err(ApplyError::Diff)?;
        let steps = steps(&old, &new).map_err(ApplyError::Diff)?;
        let (steps, too_deep) = with_paths(&new, steps)?;
        let plan = Plan::new(lower, &old, &new, &steps);
        Ok(Applied {
            actions: plan.items.into_iter().map(|item| item.action).collect(),
            conflicts: plan.conflicts,
            kept: plan.kept,
            too_deep,
        })
    }

    /// With force, takes out the steps about files that cannot be read any more, and returns the paths
    /// of those. Without force they are conflicts.
    fn leave_unreadable(
        &self,
        mode: ApplyMode,
        new: &Tree,
        steps: &mut Vec<Step>,
    ) -> Result<Vec<PathBuf>, ApplyError> {
        if mode != ApplyMode::Force {
            return Ok(Vec::new());
        }
        let mut unreadable = self.unreadable_in(new);
        unreadable.retain(|node, _| steps.iter().any(|step| step.node() == *node));
        if let Some(path) = moved_of(steps, &unreadable) {
            // What takes its old name would overwrite the host's version of it.
            return Err(ApplyError::Changed {
                done: Vec::new(),
                conflicts: vec![below_root(&path)],
            });
        }
        steps.retain(|step| !unreadable.contains_key(&step.node()));
        let mut paths: Vec<PathBuf> = unreadable.values().map(|it| below_root(it)).collect();
        paths.sort();
        Ok(paths)
    }

    /// One look, and the steps that follow from it, as far as they can be made.
    fn apply_once(
        &self,
        lower: &Lower,
        hold: &Hold<'_>,
        mode: ApplyMode,
        cancelled: &AtomicBool,
        applied: &mut Applied,
    ) -> Result<(), Stopped> {
        let shared = &self.core.shared;
        let mut whole = hold.state().tree.clone();
        let merged = merge_dirs::merge_dirs(&mut whole, lower).map_err(ApplyError::Diff)?;
        let new = whole.without_orphans();
        let old = Tree::new(shared.clone(), now()).map_err(ApplyError::Diff)?;
        let steps = steps(&old, &new).map_err(ApplyError::Diff)?;
        let (mut steps, too_deep) = with_paths(&new, steps)?;
        let unreadable = self.leave_unreadable(mode, &new, &mut steps)?;
        let plan = Plan::new(lower, &old, &new, &steps);
        if mode == ApplyMode::Refuse && !plan.conflicts.is_empty() {
            let conflicts = plan.conflicts;
            return Err(match std::mem::take(&mut applied.actions) {
                none if none.is_empty() => ApplyError::Conflicts(conflicts),
                done => ApplyError::Changed { done, conflicts },
            }
            .into());
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
        let mut executor = Executor::new(lower, &old, &new, &plan, hold, self, cancelled);
        let before = applied.actions.len();
        let ended = executor.run_all(&plan, &mut applied.actions);
        let left = applied.actions[before..].iter().chain(&executor.stamped);
        lower
            .own_writes
            .record(lower, self.id(), left.flat_map(Action::paths));
        drop(applying);
        ended.map_err(|(stop, path)| match stop {
            Stop::Surprise => Stopped::Surprise(path),
            Stop::Cancelled => Stopped::With(ApplyError::Cancelled {
                done: applied.actions.len(),
                left: plan.items.len() - (applied.actions.len() - before),
            }),
            Stop::Host(errno) => Stopped::With(ApplyError::Host {
                path,
                errno,
                done: applied.actions.len(),
            }),
        })?;

        if !unreadable.is_empty() {
            return Err(Stopped::With(ApplyError::Changed {
                done: std::mem::take(&mut applied.actions),
                conflicts: unreadable,
            }));
        }
        if too_deep > 0 {
            // The branch has more than the host. What was applied, it no longer holds.
            return Ok(());
        }
        let mut fresh = Tree::new(shared.clone(), now()).map_err(ApplyError::Diff)?;
        let mut state = hold.state();
        for (key, _) in state.tree.without_orphans().inodes().iter() {
            // What was no step of its own, too: it shows what is on the host.
            show_applied(&self.inner.served, lower, &new, NodeId(key));
        }
        for (node, linkable) in state.tree.orphans().iter() {
            if let Ok(inode) = state.tree.inode(NodeId(node)) {
                fresh.add(NodeId(node), inode.into_owned());
                fresh.set_orphan(NodeId(node), *linkable);
            }
        }
        state.tree = fresh;
        Ok(())
    }
}

fn below_root(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_owned()
}

/// The path of an object that cannot be read and that the branch has moved as well.
fn moved_of(steps: &[Step], unreadable: &HashMap<NodeId, PathBuf>) -> Option<PathBuf> {
    let moved = steps.iter().find_map(|step| match step {
        Step::Renamed(_, to) => unreadable.get(&to.node),
        Step::Added(_) | Step::Removed(_) | Step::Modified(..) => None,
    });
    moved.cloned()
}

/// Leaves out the steps that are about names without a path. Returns how many those are.
fn with_paths(new: &Tree, mut steps: Vec<Step>) -> Result<(Vec<Step>, usize), ApplyError> {
    let mut paths = DirPaths::default();
    let all = steps.len();
    let mut moved = None;
    steps.retain(|step| {
        let is_kept = step.has_path(&mut paths, new);
        if let Step::Renamed(from, _) = step
            && !is_kept
        {
            // What comes to its old name would take it away from the host.
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

/// Why one round did not get to its end.
enum Stopped {
    /// The host changed this path since the look.
    Surprise(PathBuf),
    With(ApplyError),
}

impl From<ApplyError> for Stopped {
    fn from(error: ApplyError) -> Self {
        Self::With(error)
    }
}

fn is_set(flag: &AtomicBool) -> bool {
    // Relaxed: nothing but the flag itself is looked at.
    flag.load(Ordering::Relaxed)
}
