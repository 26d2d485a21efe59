//! Jobs: requests that may take long run in threads of their own, so that other sessions are
//! answered meanwhile.
//!
//! A bounded number runs at a time; the others wait for their turn, in the order in which they
//! came. A session waits with one request at most, so none can fill the queue. Jobs that may take
//! very long leave room for short ones.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use agentfs_core::id::{BranchId, SessionId};
use agentfs_proto::message::Code;
use parking_lot::Mutex;

use crate::base::refusal::Refusal;
use crate::base::reply::{LateReply, ReplyWithFds};
use crate::base::wake::{Wake, WakeQueue};

/// Jobs at a time: they wait for disks more than they compute.
const MAX_JOBS: usize = 16;

/// Of these, jobs that go through everything that a branch has.
const MAX_LONG: usize = 12;

/// How much a job has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Size {
    /// The job ends soon.
    Short,
    /// The job grows with what a branch has: to minutes, if that is much.
    Long,
    /// The job only waits until something happens. It takes no turn from the jobs that work; every
    /// session has at most one such job.
    Wait,
    /// The job ends the daemon, and waits for no turn: the jobs before it could take longer than
    /// the program waits that asked for the end.
    End,
}

/// What is done for one request.
pub(crate) struct Job {
    pub(crate) run: Box<dyn FnOnce() -> Result<ReplyWithFds, Refusal> + Send>,
    pub(crate) size: Size,
    /// The branch that cannot be changed while the job runs.
    pub(crate) holds: Option<BranchId>,
}

/// What became of a job that was to be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Started {
    /// It is under way.
    Running,
    /// It waits for its turn, behind this many.
    Waiting(usize),
}

/// The jobs under way, and those that wait for their turn.
pub(crate) struct Jobs {
    running: Arc<Mutex<Running>>,
    waiting: Mutex<VecDeque<Waiting>>,
    held: Arc<Mutex<Vec<BranchId>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    wakes: Arc<WakeQueue>,
}

/// How many jobs are under way.
#[derive(Clone, Copy, Default, Debug)]
struct Running {
    short: usize,
    long: usize,
}

impl Running {
    fn has_room(self, size: Size) -> bool {
        match size {
            Size::Wait | Size::End => true,
            Size::Short => self.short + self.long < MAX_JOBS,
            Size::Long => self.short + self.long < MAX_JOBS && self.long < MAX_LONG,
        }
    }

    fn count(&mut self, size: Size) -> Option<&mut usize> {
        match size {
            Size::Wait | Size::End => None,
            Size::Short => Some(&mut self.short),
            Size::Long => Some(&mut self.long),
        }
    }

    fn begins(&mut self, size: Size) {
        self.count(size).into_iter().for_each(|count| *count += 1);
    }

    fn ends(&mut self, size: Size) {
        self.count(size).into_iter().for_each(|count| *count -= 1);
    }
}

/// A job that waits for its turn. It holds nothing.
struct Waiting {
    session: SessionId,
    request: u64,
    job: Job,
}

fn release(held: &Mutex<Vec<BranchId>>, branch: Option<BranchId>) {
    let mut held = held.lock();
    if let Some(at) = held.iter().position(|one| Some(*one) == branch) {
        held.swap_remove(at);
    }
}

/// Creates the wake for a job that has ended.
fn late(session: SessionId, request: u64, result: Result<ReplyWithFds, Refusal>) -> Wake {
    Wake::LateReply(Box::new(LateReply {
        session,
        request,
        result,
    }))
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs")
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl Jobs {
    pub(crate) fn new(wakes: &Arc<WakeQueue>) -> Self {
        Self {
            running: Arc::default(),
            waiting: Mutex::default(),
            held: Arc::default(),
            threads: Mutex::default(),
            wakes: Arc::clone(wakes),
        }
    }

    /// Starts a job for a request of a session that has no other, or puts it behind those that
    /// wait. Only the event loop may call this: no other thread knows that it does not wait for the
    /// branch.
    pub(crate) fn start(
        &self,
        session: SessionId,
        request: u64,
        job: Job,
    ) -> Result<Started, Refusal> {
        let ahead = {
            let waiting = self.waiting.lock();
            let is_ahead = |it: &&Waiting| it.job.size == job.size;
            waiting.iter().filter(is_ahead).count()
        };
        if ahead == 0 && self.running.lock().has_room(job.size) {
            return self.run(session, request, job).map(|()| Started::Running);
        }
        let waiting = Waiting {
            session,
            request,
            job,
        };
        self.waiting.lock().push_back(waiting);
        Ok(Started::Waiting(ahead + 1))
    }

    /// Starts the waiting jobs that have their turn. Only the event loop may call this.
    pub(crate) fn start_waiting(&self) {
        while let Some(next) = self.next() {
            let (session, request) = (next.session, next.request);
            if let Err(refusal) = self.run(session, request, next.job) {
                let result = Err(refusal);
                self.wakes.send(late(session, request, result));
            }
        }
    }

    fn next(&self) -> Option<Waiting> {
        let running = *self.running.lock();
        let mut waiting = self.waiting.lock();
        let at = waiting
            .iter()
            .position(|it| running.has_room(it.job.size))?;
        waiting.remove(at)
    }

    /// Returns whether a session's job waits for its turn.
    pub(crate) fn is_waiting(&self, session: SessionId) -> bool {
        self.waiting.lock().iter().any(|it| it.session == session)
    }

    /// Forgets the job of a session that has ended, unless it is under way.
    pub(crate) fn cancel(&self, session: SessionId) {
        let mut waiting = self.waiting.lock();
        let at = waiting.iter().position(|it| it.session == session);
        let gone = at.and_then(|at| waiting.remove(at));
        drop(waiting);
        // This may close a descriptor and release a branch, so the lock is not held.
        drop(gone);
    }

    fn run(&self, session: SessionId, request: u64, job: Job) -> Result<(), Refusal> {
        let (wakes, running) = (Arc::clone(&self.wakes), Arc::clone(&self.running));
        let all_held = Arc::clone(&self.held);
        let Job { run, size, holds } = job;
        // The branch is held before the job begins: from here on only the job waits for it.
        self.held.lock().extend(holds);
        self.running.lock().begins(size);
        let run = move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            let result = result.unwrap_or_else(|_| {
                Err(Refusal::new(
                    Code::RESOURCES,
                    "the request failed; the daemon's log says where",
                ))
            });
            release(&all_held, holds);
            running.lock().ends(size);
            wakes.send(late(session, request, result));
        };
        self.spawn(run).map_err(|error| {
            self.running.lock().ends(size);
            release(&self.held, holds);
            let text = format!("no thread for the request: {error}");
            Refusal::new(Code::RESOURCES, text)
        })
    }

    /// Runs something that may have to wait for a branch or takes long, and that no session waits
    /// for. Returns whether it is under way.
    pub(crate) fn clear_up(&self, work: impl FnOnce() + Send + 'static) -> bool {
        let started = self.spawn(work);
        if let Err(error) = &started {
            tracing::error!(%error, "no thread to clear up; some files stay open");
        }
        started.is_ok()
    }

    fn spawn(&self, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new()
            .name("agentfs-job".to_owned())
            .spawn(run)?;
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Returns the branches that jobs keep as they are: a change to one of them waits for its job.
    pub(crate) fn held(&self) -> Vec<BranchId> {
        self.held.lock().clone()
    }

    /// Waits until nothing is under way, so that nothing is left half done.
    pub(crate) fn finish(&self) {
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a long request failed");
            }
        }
    }
}
