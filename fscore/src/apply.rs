//! Bringing what a branch changed onto the host directory below it.
//!
//! Each file arrives whole: it is written beside its place under a temporary name, synchronised, and
//! renamed over it. Before anything is written, everything that would be touched is compared with
//! what the branch saw: what the host changed in the meantime is a conflict.

mod host;
mod traces;

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use self::host::Job;
pub(crate) use self::traces::{HostState, Traces};
use crate::branch::{Branch, now};
use crate::changes::has_path;
use crate::diff::{Named, Step, steps};
use crate::errno::{Errno, Result};
use crate::event::ObjectKind;
use crate::id::NodeId;
use crate::lower::Lower;
use crate::paths::DirPaths;
use crate::tree::Tree;

/// How [`Branch::apply`] shall go about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApplyMode {
    /// Only say what would be done.
    DryRun,
    /// Do it, unless something conflicts.
    Refuse,
    /// Do it, also where the host changed what the branch changed.
    Force,
}

/// One thing to do on the host. Paths are relative to the lower directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// A new directory, link or special file.
    Create(PathBuf, ObjectKind),
    /// A file, written whole.
    Write(PathBuf),
    /// Permissions, owner, times and extended attributes.
    SetAttributes(PathBuf),
    /// A name moves.
    Rename(PathBuf, PathBuf),
    /// A name goes away.
    Remove(PathBuf, ObjectKind),
}

/// What applying did, or would do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// In the order in which it is done.
    pub actions: Vec<Action>,
    /// What the host changed since the branch saw it.
    pub conflicts: Vec<PathBuf>,
    /// How many changes lie too deep for a path (4,095 bytes). They are left out and stay in the
    /// branch.
    pub too_deep: usize,
}

/// Why nothing, or not everything, was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ApplyError {
    /// There is no lower directory.
    NoLower,
    /// The host changed what the branch changed; nothing was done.
    Conflicts(Vec<PathBuf>),
    /// The host refused; what comes before in the list of a dry run is done.
    Host {
        /// What was being done.
        path: PathBuf,
        /// Why not.
        errno: Errno,
    },
    /// The branch moved this to where it has no path; nothing was done.
    TooDeep(PathBuf),
    /// The difference could not be found.
    Diff(Errno),
}

impl std::fmt::Display for ApplyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoLower => {
                f.write_str("there is no lower directory; set overlay in the FsConfig")
            }
            Self::Conflicts(paths) => {
                let first = paths.first().cloned().unwrap_or_default();
                let more = paths.len().saturating_sub(1);
                let first = first.display();
                write!(
                    f,
                    "the host changed {first} and {more} more since the branch saw them; \
                     force it or resolve them in the branch"
                )
            }
            Self::Host { path, errno } => write!(f, "{}: {errno}", path.display()),
            Self::TooDeep(path) => write!(
                f,
                "{} was moved deeper than a path can lead (4,095 bytes), so nothing was applied; \
                 move it up in the branch",
                path.display()
            ),
            Self::Diff(errno) => write!(f, "the changes of the branch cannot be read: {errno}"),
        }
    }
}

impl std::error::Error for ApplyError {}

fn relative(bytes: &[u8]) -> Vec<u8> {
    bytes.strip_prefix(b"/").unwrap_or(bytes).to_vec()
}

fn display(path: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(path.to_vec()))
}

impl Branch {
    /// Brings what the branch changed onto the host directory, and lets it show through from there:
    /// the branch looks the same afterwards and holds nothing of its own. Meanwhile it can be read,
    /// and whatever would change it waits.
    ///
    /// The host directory is below all branches: what they have not touched shows what is applied.
    /// A snapshot that shows part of a file which is replaced on the host cannot read that part any
    /// more (`ESTALE`). Owner and group are only brought over where this process may set them.
    ///
    /// What lies too deep for a path stays in the branch: see [`Applied::too_deep`].
    ///
    /// # Errors
    ///
    /// [`ApplyError`]; with [`ApplyMode::Refuse`] conflicts, before anything is done.
    pub fn apply(&self, mode: ApplyMode) -> Result<Applied, ApplyError> {
        let shared = self.core.shared.clone();
        let lower = shared.lower.as_ref().ok_or(ApplyError::NoLower)?;
        let hold = (mode != ApplyMode::DryRun).then(|| self.inner.hold());
        let new = self.inner.read().tree.without_orphans();
        let old = Tree::new(shared.clone(), now()).map_err(ApplyError::Diff)?;
        let steps = steps(&old, &new).map_err(ApplyError::Diff)?;
        let (steps, too_deep) = with_paths(&new, steps)?;
        let plan = Plan {
            lower,
            old: &old,
            new: &new,
        };
        let result = Applied {
            actions: steps.iter().filter_map(|step| plan.action(step)).collect(),
            conflicts: plan.conflicts(&steps),
            too_deep,
        };
        let Some(hold) = hold else { return Ok(result) };
        if mode == ApplyMode::Refuse && !result.conflicts.is_empty() {
            return Err(ApplyError::Conflicts(result.conflicts));
        }
        let applying = lower.traces.applying();
        let mut job = Job {
            plan,
            hold: &hold,
            branch: self.id(),
            made: HashSet::new(),
            stamped: Vec::new(),
        };
        let done = steps.iter().try_for_each(|step| job.run(step));
        let done = done.and_then(|()| job.stamp_dirs());
        let left = result.actions.iter().chain(&job.stamped);
        lower.traces.leave(lower, self.id(), left);
        drop(applying);
        let mut state = hold.state();
        match done.and_then(|()| Tree::new(shared.clone(), now()).map_err(ApplyError::Diff)) {
            // The branch has more than the host.
            Ok(_) if too_deep > 0 => {
                state.tree.show_applied(lower);
                self.show_applied(lower, &new);
                Ok(result)
            }
            Ok(mut fresh) => {
                for (node, linkable) in state.tree.orphans().iter() {
                    if let Ok(inode) = state.tree.inode(NodeId(node)) {
                        fresh.add(NodeId(node), inode.into_owned());
                        fresh.set_orphan(NodeId(node), *linkable);
                    }
                }
                state.tree = fresh;
                self.show_applied(lower, &new);
                Ok(result)
            }
            Err(error) => Err(error),
        }
    }
}

impl Branch {
    /// What the branch put on the host is what it has shown last: its next change is based on that.
    fn show_applied(&self, lower: &Lower, new: &Tree) {
        for (key, own) in new.inodes().iter().filter(|(_, own)| !own.is_dir()) {
            let node = NodeId(key);
            if let Ok(now) = lower.inode(node)
                && now.stamp().has_bytes_of(&own.stamp())
            {
                self.inner.served.content(node, now.stamp());
            }
        }
    }
}

/// Leaves out the steps that are about names without a path; gives how many.
fn with_paths(new: &Tree, mut steps: Vec<Step>) -> Result<(Vec<Step>, usize), ApplyError> {
    let mut paths = DirPaths::default();
    let all = steps.len();
    let mut moved = None;
    steps.retain(|step| {
        let is_kept = has_path(&mut paths, new, step);
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

#[derive(Clone, Copy)]
struct Plan<'a> {
    lower: &'a Lower,
    /// What an untouched branch shows: the host as it is.
    old: &'a Tree,
    new: &'a Tree,
}

impl Plan<'_> {
    fn path_of(&self, node: NodeId) -> Option<Vec<u8>> {
        let inode = self.new.inode(node).ok()?;
        let (dir, name) = inode.names.first()?;
        Some(relative(&self.new.path_in(dir, name)?))
    }

    fn action(&self, step: &Step) -> Option<Action> {
        let path = |named: &Named| display(&relative(&named.path()));
        Some(match step {
            Step::Added(named) => {
                let kind = self.new.inode(named.node).ok()?.kind();
                if kind == ObjectKind::File {
                    Action::Write(path(named))
                } else {
                    Action::Create(path(named), kind)
                }
            }
            Step::Removed(named) => {
                Action::Remove(path(named), self.old.inode(named.node).ok()?.kind())
            }
            Step::Renamed(from, to) => Action::Rename(path(from), path(to)),
            Step::Modified(node, differs) if differs.content => {
                Action::Write(display(&self.path_of(*node)?))
            }
            Step::Modified(node, _) => Action::SetAttributes(display(&self.path_of(*node)?)),
        })
    }

    /// What the branch changed or took away must be what it saw, and what it made must not be in the
    /// way of something it never saw.
    fn conflicts(&self, steps: &[Step]) -> Vec<PathBuf> {
        let mut conflicts: Vec<PathBuf> = steps
            .iter()
            .filter_map(|step| {
                let (node, path) = match step {
                    Step::Removed(named) => (named.node, relative(&named.path())),
                    Step::Renamed(_, to) => (to.node, relative(&to.path())),
                    Step::Modified(node, _) => (*node, self.path_of(*node)?),
                    // Made by the branch, unless the host removed what the branch changed.
                    Step::Added(named) => {
                        self.new.seen().get(named.node.0)?;
                        (named.node, relative(&named.path()))
                    }
                };
                (!self.is_as_seen(node)).then(|| display(&path))
            })
            .collect();
        conflicts.sort();
        conflicts.dedup();
        conflicts
    }

    fn is_as_seen(&self, node: NodeId) -> bool {
        if node == NodeId::ROOT {
            return true;
        }
        let seen = self.new.seen().get(node.0);
        let now = self.lower.inode(node).ok().map(|inode| inode.stamp());
        seen.is_some() && seen.copied() == now
    }
}
