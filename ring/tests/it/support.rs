//! What several modules need.
#![expect(
    unsafe_code,
    reason = "forks, and pokes at shared memory as a hostile peer would"
)]

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use agentfs_ring::{Bell, Capacity, Claim, Consumer, OwnerId, Producer, Reserve, create};
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// Offsets of docs/ring-abi.md.
pub(crate) const TAIL: usize = 128;
pub(crate) const REFILL_AT: usize = 256;
pub(crate) const HEAD: usize = 64 << 10;
pub(crate) const WAKE_AT: usize = HEAD + 128;
pub(crate) const OWNER: usize = HEAD + 256;
pub(crate) const DATA: usize = 128 << 10;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The smallest ring: both ends, and its memory as a peer that follows no rule sees it.
pub(crate) fn ring() -> (Producer, Consumer, Memory) {
    let (producer, fd) = create(Capacity::MIN).expect("a ring");
    let memory = Memory::map(&fd);
    (producer, Consumer::open(fd).expect("our own ring"), memory)
}

/// A writable mapping of a whole ring.
#[derive(Debug)]
pub(crate) struct Memory(MmapRaw);

impl Memory {
    pub(crate) fn map(fd: &OwnedFd) -> Self {
        let len = DATA + Capacity::MIN.bytes();
        Self(MmapOptions::new().len(len).map_raw(fd).expect("mapped"))
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset + len <= self.0.len());
        // SAFETY: inside the mapping (asserted).
        unsafe { self.0.as_mut_ptr().add(offset) }
    }

    pub(crate) fn poke(&self, offset: usize, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            let at = self.at(offset + index, 1);
            // SAFETY: a byte of the mapping; no other thread uses this ring.
            unsafe { at.write_volatile(*byte) };
        }
    }

    pub(crate) fn poke_word(&self, offset: usize, word: u64) {
        self.poke(offset, &word.to_ne_bytes());
    }

    pub(crate) fn peek(&self, offset: usize, len: usize) -> Vec<u8> {
        let byte = |at| {
            let at = self.at(at, 1);
            // SAFETY: a byte of the mapping.
            unsafe { at.read_volatile() }
        };
        (offset..offset + len).map(byte).collect()
    }

    pub(crate) fn peek_word(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.peek(offset, 8).try_into().expect("eight bytes"))
    }
}

pub(crate) fn push(producer: &mut Producer, bytes: &[u8]) -> bool {
    let Reserve::Slot(mut slot) = producer.reserve(bytes.len()).expect("an honest consumer") else {
        return false;
    };
    slot.put(bytes);
    slot.commit();
    let _: Bell = producer.publish().expect("an honest consumer");
    true
}

pub(crate) fn claim(consumer: &Consumer) -> Claim<'_> {
    consumer
        .claim(OwnerId::this_process(), |_| true)
        .expect("nobody else pops")
}

/// Everything that is there, released.
pub(crate) fn drain(claim: &mut Claim<'_>) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some(record) = claim.next().expect("an honest producer") {
        records.push(record.to_vec());
    }
    let _: Bell = claim.release();
    records
}

/// A forked process that can be stopped at a step and killed there.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    link: UnixStream,
}

/// The child's end of the link: it tells where it is. Its other end is the parent's lifeline.
#[derive(Debug)]
pub(crate) struct Steps {
    link: UnixStream,
    stop_at: usize,
    next: usize,
}

impl Steps {
    /// Passes a step. At the one asked for, tells so and never returns.
    pub(crate) fn pass(&mut self) {
        if self.next == self.stop_at {
            self.link.write_all(b"!").expect("a parent that listens");
            loop {
                nix::unistd::pause();
            }
        }
        self.next += 1;
    }
}

impl Child {
    /// Runs `body` in a forked process, which exits with 0 when it returns.
    pub(crate) fn spawn(stop_at: usize, body: impl FnOnce(&mut Steps)) -> Self {
        let (parent, child) = UnixStream::pair().expect("a socket pair");
        parent.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        // SAFETY: the child runs nothing but `body`, on the one thread that it has; glibc makes
        // allocation usable after a fork of a threaded process.
        match unsafe { fork() }.expect("a process") {
            ForkResult::Parent { child: pid } => Self { pid, link: parent },
            ForkResult::Child => {
                drop(parent);
                let mut steps = Steps {
                    link: child,
                    stop_at,
                    next: 0,
                };
                let outcome =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&mut steps)));
                // SAFETY: ends the process without running the parent's exit handlers.
                unsafe { nix::libc::_exit(i32::from(outcome.is_err())) }
            }
        }
    }

    /// Waits until the child stands at its step. False when it ended without coming there.
    pub(crate) fn reached(&mut self) -> bool {
        let mut byte = [0];
        match self.link.read(&mut byte) {
            Ok(n) => n == 1,
            Err(error) => panic!("the child neither stops nor ends: {error}"),
        }
    }

    /// What the child's exit closes.
    pub(crate) fn lifeline(&self) -> &impl AsFd {
        &self.link
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn kill(&self) {
        kill(self.pid, Signal::SIGKILL).expect("a process to kill");
        let status = waitpid(self.pid, None).expect("its status");
        assert_eq!(
            status,
            WaitStatus::Signaled(self.pid, Signal::SIGKILL, false)
        );
    }

    pub(crate) fn finish(&self) {
        assert_eq!(
            waitpid(self.pid, None),
            Ok(WaitStatus::Exited(self.pid, 0)),
            "the child failed"
        );
    }
}
