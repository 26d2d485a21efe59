//! Moves the threads that answer requests to the processors of the programs that make them.
//!
//! A program waits for the answer to its request, so both can share a processor, and neither has to
//! wake an idle one: that takes longer than the answer itself, most of all on a virtual machine. The
//! scheduler does not know that they take turns and may leave them apart for as long as the mount
//! lives. A thread that is moved once mostly stays.

use std::cell::Cell;
use std::fs;

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Requests of a thread between two looks: a look takes about as long as an answer.
const EVERY: u32 = 64;

thread_local! {
    static SINCE: Cell<u32> = const { Cell::new(0) };
}

/// Moves the calling thread, now and then, to the processor of the process whose request it answers.
/// The scheduler may move it away again, as any other thread.
pub(crate) fn follow_cpu(process: u32) {
    let since = SINCE.get();
    SINCE.set((since + 1) % EVERY);
    if since == 0
        && let Some(processor) = processor_of(process)
        && processor != sched_getcpu()
        && let Err(error) = move_to(processor)
    {
        tracing::debug!(%error, "a thread stays where it is");
    }
}

fn move_to(processor: usize) -> rustix::io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    if processor >= CpuSet::MAX_CPU || !allowed.is_set(processor) {
        return Ok(());
    }
    let mut there = CpuSet::new();
    there.set(processor);
    sched_setaffinity(None, &there)?;
    sched_setaffinity(None, &allowed)
}

/// Returns the processor on which a process ran last: field 39 of its stat file (proc_pid_stat(5)).
/// A name in parentheses, with whatever characters, precedes it.
fn processor_of(process: u32) -> Option<usize> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    rest.split(' ').nth(36)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

    use super::{move_to, processor_of};

    #[test]
    fn a_thread_is_moved_and_may_go_anywhere_afterwards() {
        let allowed = sched_getaffinity(None).unwrap();
        for processor in (0..CpuSet::MAX_CPU).filter(|it| allowed.is_set(*it)) {
            move_to(processor).unwrap();
            assert_eq!(sched_getaffinity(None).unwrap(), allowed);
        }
    }

    #[test]
    fn the_processor_of_a_process_is_found() {
        let here = sched_getcpu();
        let mut only = CpuSet::new();
        only.set(here);
        // This thread is not the process's first one, which is the one that is asked for.
        let process = std::process::id();
        assert!(processor_of(process).is_some_and(|it| it < CpuSet::MAX_CPU));
        let thread = u32::try_from(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
        sched_setaffinity(None, &only).unwrap();
        assert_eq!(processor_of(thread), Some(here));
    }
}
