//! Requests that may take long: each on a thread of its own, so that the sessions that wait for
//! nothing of the kind are answered meanwhile.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use agentfs_core::id::{BranchId, SessionId};
use agentfs_proto::message::Code;

use super::answer::Answer;
use super::event_loop::Control;
use super::refusal::Refusal;
use super::services::lock;

/// Jobs at a time. They wait for disks more than they compute.
const MAX_JOBS: usize = 16;

/// What is done for one request.
pub(crate) struct Job {
    pub(crate) run: Box<dyn FnOnce() -> Result<Answer, Refusal> + Send>,
    /// The branch that cannot be changed meanwhile.
    pub(crate) holds: Option<BranchId>,
}

/// The jobs under way, and what came of the others.
pub(crate) struct Jobs {
    done: Arc<Mutex<Vec<Done>>>,
    running: Arc<AtomicUsize>,
    held: Arc<Mutex<Vec<BranchId>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    control: Arc<Control>,
    /// The daemon is to end: what can be left in the middle without loss is left.
    ending: Arc<AtomicBool>,
}

fn release(held: &Mutex<Vec<BranchId>>, branch: Option<BranchId>) {
    let mut held = lock(held);
    if let Some(at) = held.iter().position(|one| Some(*one) == branch) {
        held.swap_remove(at);
    }
}

/// A job that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) session: SessionId,
    pub(crate) request: u64,
    pub(crate) result: Result<Answer, Refusal>,
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs")
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl Jobs {
    pub(crate) fn new(control: &Arc<Control>) -> Self {
        Self {
            done: Arc::default(),
            running: Arc::default(),
            held: Arc::default(),
            threads: Mutex::default(),
            control: Arc::clone(control),
            ending: Arc::default(),
        }
    }

    /// Starts a job for a request.
    pub(crate) fn start(&self, session: SessionId, request: u64, job: Job) -> Result<(), Refusal> {
        // AcqRel here and below: a place that is free again is seen after what the job did.
        if self.running.fetch_add(1, Ordering::AcqRel) >= MAX_JOBS {
            self.running.fetch_sub(1, Ordering::AcqRel);
            let text = format!("{MAX_JOBS} long requests are under way; try again later");
            return Err(Refusal::new(Code::LIMIT, text));
        }
        let (done, running) = (Arc::clone(&self.done), Arc::clone(&self.running));
        let (control, all_held) = (Arc::clone(&self.control), Arc::clone(&self.held));
        let Job { run, holds } = job;
        // Before the job begins: from here on nobody but it waits for the branch.
        lock(&self.held).extend(holds);
        let run = move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            let result = result.unwrap_or_else(|_| {
                Err(Refusal::new(
                    Code::RESOURCES,
                    "the request failed; the daemon's log says where",
                ))
            });
            release(&all_held, holds);
            lock(&done).push(Done {
                session,
                request,
                result,
            });
            running.fetch_sub(1, Ordering::AcqRel);
            control.wake();
        };
        self.spawn(run).map_err(|error| {
            self.running.fetch_sub(1, Ordering::AcqRel);
            release(&self.held, holds);
            let text = format!("no thread for the request: {error}");
            Refusal::new(Code::RESOURCES, text)
        })
    }

    /// Does something that may have to wait for a branch, and that nobody waits for.
    pub(crate) fn clear_up(&self, work: impl FnOnce() + Send + 'static) {
        if let Err(error) = self.spawn(work) {
            tracing::error!(%error, "no thread to clear up; some files stay open");
        }
    }

    fn spawn(&self, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new()
            .name("agentfs-job".to_owned())
            .spawn(run)?;
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// The branches that a job keeps as they are: who changes one of them waits for the job.
    pub(crate) fn held(&self) -> Vec<BranchId> {
        lock(&self.held).clone()
    }

    /// What has ended since the last call.
    pub(crate) fn done(&self) -> Vec<Done> {
        std::mem::take(&mut *lock(&self.done))
    }

    /// Set once the daemon is to end: a job that may take very long looks at it, and ends where
    /// nothing is lost.
    pub(crate) fn ending(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.ending)
    }

    /// Waits until nothing is under way, so that nothing is left half done.
    pub(crate) fn finish(&self) {
        // Relaxed: nothing but the flag itself is looked at.
        self.ending.store(true, Ordering::Relaxed);
        for thread in lock(&self.threads).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a long request failed");
            }
        }
    }
}
