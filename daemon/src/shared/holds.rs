//! The branches of runs: each belongs to its run from before its mount exists until its changes are
//! settled.
//!
//! A run whose daemon is killed goes on, and connects to the next one. Until it has, its branch belongs
//! to its process, which a list in the store names.

use std::collections::HashMap;
use std::path::Path;

use agentfs_core::FsCore;
use agentfs_core::id::{BranchId, SessionId};
use parking_lot::Mutex;

use crate::base::process_start::start_of;
use crate::shared::session_list::SessionList;

/// The name of the list in a store: a line for each run, with its branch, its process, and when that
/// started.
const LIST: &str = "holds";

/// The run that has a branch.
#[derive(Clone, Copy, Debug)]
struct Holder {
    /// `None` if the run has not connected to this daemon yet.
    session: Option<SessionId>,
    pid: u32,
    /// When the process started, if that is known.
    started: Option<u64>,
}

impl Holder {
    /// Returns whether the run goes on. One that is connected ends with its session.
    fn is_there(&self) -> bool {
        self.session.is_some() || self.is_process(self.pid)
    }

    /// Returns whether this process is the run.
    fn is_process(&self, pid: u32) -> bool {
        self.pid == pid && self.started.is_some() && start_of(pid) == self.started
    }
}

/// The branches that runs have.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    all: Mutex<HashMap<BranchId, Holder>>,
    /// `None` if the branches end with the daemon.
    list: Option<SessionList>,
}

impl Holds {
    /// Returns the branches of the runs that outlived an earlier daemon.
    pub(crate) fn recover(core: &FsCore, store: Option<&Path>) -> Self {
        let Some(store) = store else {
            return Self::default();
        };
        let list = SessionList::new(store, LIST);
        let text = list.read();
        let all = text.lines().filter_map(read_line);
        let is_there = |(branch, holder): &(BranchId, Holder)| {
            core.branch(*branch).is_ok() && holder.is_there()
        };
        Self {
            all: Mutex::new(all.filter(is_there).collect()),
            list: Some(list),
        }
    }

    /// Reserves a branch for a session. The next daemon knows it when this returns.
    ///
    /// # Errors
    ///
    /// The process of the run that has the branch, if that is another one.
    pub(crate) fn take(&self, branch: BranchId, session: SessionId, pid: u32) -> Result<(), u32> {
        let mut all = self.all.lock();
        if let Some(holder) = all.get(&branch) {
            if holder.session == Some(session) {
                return Ok(());
            }
            let is_its_run = holder.session.is_none() && holder.is_process(pid);
            if holder.is_there() && !is_its_run {
                return Err(holder.pid);
            }
        }
        let holder = Holder {
            session: Some(session),
            pid,
            started: start_of(pid),
        };
        all.insert(branch, holder);
        self.write(&all);
        Ok(())
    }

    /// Returns the process of the run that has a branch.
    pub(crate) fn pid_of(&self, branch: BranchId) -> Option<u32> {
        let all = self.all.lock();
        let holder = all.get(&branch).filter(|holder| holder.is_there());
        holder.map(|holder| holder.pid)
    }

    /// Releases the branch of a session that has settled its changes.
    pub(crate) fn release(&self, branch: BranchId, session: SessionId) {
        self.retain(|of, holder| of != branch || holder.session != Some(session));
    }

    /// Forgets a branch that is gone.
    pub(crate) fn forget(&self, branch: BranchId) {
        self.retain(|of, _| of != branch);
    }

    /// Releases the branches of a session that has ended. Returns whether it had one.
    pub(crate) fn end(&self, session: SessionId) -> bool {
        self.retain(|_, holder| holder.session != Some(session))
    }

    /// Keeps the branches of which that is said. Returns whether there were others.
    fn retain(&self, is_kept: impl Fn(BranchId, &Holder) -> bool) -> bool {
        let mut all = self.all.lock();
        let before = all.len();
        all.retain(|branch, holder| is_kept(*branch, holder));
        let is_changed = all.len() < before;
        if is_changed {
            self.write(&all);
        }
        is_changed
    }

    fn write(&self, all: &HashMap<BranchId, Holder>) {
        let Some(list) = &self.list else { return };
        let line = |(branch, holder): (&BranchId, &Holder)| {
            let (branch, pid) = (branch.0, holder.pid);
            // A process of which the start is not known could be told from no other one.
            let started = holder.started?;
            Some(format!("{branch} {pid} {started}\n"))
        };
        list.write(&all.iter().filter_map(line).collect::<String>());
    }
}

fn read_line(line: &str) -> Option<(BranchId, Holder)> {
    let mut numbers = line.split(' ');
    let branch = BranchId(numbers.next()?.parse().ok()?);
    let holder = Holder {
        session: None,
        pid: numbers.next()?.parse().ok()?,
        started: Some(numbers.next()?.parse().ok()?),
    };
    Some((branch, holder))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Child, Command, Stdio};

    use agentfs_core::FsConfig;

    use super::*;

    const MAIN: BranchId = FsCore::MAIN;

    /// A process that lives until it is ended.
    struct Run(Child);

    impl Run {
        fn start() -> Self {
            let mut command = Command::new("cat");
            Self(command.stdin(Stdio::piped()).spawn().expect("a process"))
        }

        fn pid(&self) -> u32 {
            self.0.id()
        }

        fn end(&mut self) {
            self.0.kill().expect("it is killed");
            self.0.wait().expect("it has ended");
        }
    }

    fn core() -> FsCore {
        FsCore::new(FsConfig::default()).expect("a filesystem")
    }

    #[test]
    fn a_run_takes_its_branch_again_from_the_next_daemon_and_no_other_run_does() {
        let (store, core) = (tempfile::tempdir().unwrap(), core());
        let (mut run, other) = (Run::start(), std::process::id());
        let before = Holds::recover(&core, Some(store.path()));
        before.take(MAIN, SessionId(7), run.pid()).unwrap();
        drop(before);

        let holds = Holds::recover(&core, Some(store.path()));
        assert_eq!(holds.pid_of(MAIN), Some(run.pid()));
        assert_eq!(holds.take(MAIN, SessionId(1), other), Err(run.pid()));
        // The sessions of this daemon have numbers of their own.
        assert!(!holds.end(SessionId(7)));
        holds.take(MAIN, SessionId(2), run.pid()).unwrap();
        assert_eq!(holds.take(MAIN, SessionId(3), run.pid()), Err(run.pid()));
        assert!(holds.end(SessionId(2)));
        assert_eq!(holds.pid_of(MAIN), None);
        drop(holds);
        let last = Holds::recover(&core, Some(store.path()));
        assert_eq!(last.pid_of(MAIN), None, "the list knows the end");
        run.end();
    }

    #[test]
    fn the_branch_of_a_run_that_ended_without_a_daemon_is_free() {
        let (store, core) = (tempfile::tempdir().unwrap(), core());
        let (mut first, mut second) = (Run::start(), Run::start());
        let before = Holds::recover(&core, Some(store.path()));
        before.take(MAIN, SessionId(7), first.pid()).unwrap();
        drop(before);
        let holds = Holds::recover(&core, Some(store.path()));
        first.end();
        assert_eq!(holds.pid_of(MAIN), None);
        holds.take(MAIN, SessionId(1), second.pid()).unwrap();
        drop(holds);
        second.end();
        let last = Holds::recover(&core, Some(store.path()));
        last.take(MAIN, SessionId(1), std::process::id()).unwrap();
    }

    #[test]
    fn another_process_with_the_number_of_a_run_is_not_that_run() {
        let (store, core) = (tempfile::tempdir().unwrap(), core());
        let own = std::process::id();
        let line = format!("{} {own} 1\nnonsense\n", MAIN.0);
        SessionList::new(store.path(), LIST).write(&line);
        let holds = Holds::recover(&core, Some(store.path()));
        assert_eq!(holds.pid_of(MAIN), None);
    }
}
