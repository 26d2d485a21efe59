//! Which branch a process sees: its own binding, or the nearest ancestor's.

use crate::errno::{Errno, Result};
use crate::fs::FsCore;
use crate::id::BranchId;

/// A process that was bound, known by number and start so that a later process of the same number
/// is not taken for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bound {
    pub(crate) branch: BranchId,
    started: Option<u64>,
}

/// Parents that are asked before giving up.
const MAX_GENERATIONS: u32 = 4096;

impl FsCore {
    /// From now on the process, and its children from when they are first asked for, see `branch`.
    ///
    /// # Errors
    ///
    /// `ENOENT` without such a branch.
    pub fn bind_process(&self, pid: u32, branch: BranchId) -> Result<()> {
        let started = stat_of(pid).map(|(_, started)| started);
        let mut registry = self.core.registry_mut();
        if !registry.branches.contains_key(&branch) {
            return Err(Errno::ENOENT);
        }
        registry.processes.insert(pid, Bound { branch, started });
        Ok(())
    }

    /// Ends a binding; children that were asked for in the meantime keep theirs.
    pub fn unbind_process(&self, pid: u32) {
        self.core.registry_mut().processes.remove(&pid);
    }

    /// The branch of a process: its own binding or the nearest ancestor's. What is inherited is
    /// remembered, so that it outlives the parent.
    #[must_use]
    pub fn branch_of_process(&self, pid: u32) -> Option<BranchId> {
        let mut at = pid;
        for generation in 0..MAX_GENERATIONS {
            let stat = stat_of(at);
            let started = stat.map(|(_, started)| started);
            let bound = self.core.registry().processes.get(&at).copied();
            match bound {
                Some(bound) if bound.started == started => {
                    if generation > 0 {
                        let _ = self.bind_process(pid, bound.branch);
                    }
                    return Some(bound.branch);
                }
                Some(_) => self.unbind_process(at),
                None => {}
            }
            at = stat
                .map(|(parent, _)| parent)
                .filter(|parent| *parent != 0)?;
        }
        None
    }
}

/// Parent and start time of a process: fields 4 and 22 of proc_pid_stat(5). `None` when there is no
/// such process, or no such file system.
fn stat_of(pid: u32) -> Option<(u32, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field may hold spaces and parentheses of its own.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let parent = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some((parent, started))
}
