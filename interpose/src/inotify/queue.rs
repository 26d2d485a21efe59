//! What serves one inotify instance: the ring, the doorbells, and the way to register watches.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use agentfs_proto::registration::Registration;
use agentfs_ring::requests::{RequestWriter, Sent};
use agentfs_ring::{Armed, Consumer, Look, RecordBuffer};

use crate::connection::{self, NewQueue};
use crate::hidden_fd::HiddenFd;
use crate::process;

/// A queue of the daemon, as this process has it.
#[derive(Debug)]
pub(crate) struct Queue {
    ring: Consumer,
    refill: HiddenFd,
    bell: HiddenFd,
    name: QueueName,
    pub(crate) session: u64,
    pub(crate) instance: u64,
    /// Which of the instance's queues it is; see [`Shared::generation`].
    ///
    /// [`Shared::generation`]: super::shared::Shared::generation
    pub(crate) generation: u32,
}

impl Queue {
    /// Maps a new queue and hides its descriptors.
    pub(crate) fn new(new: NewQueue, generation: u32) -> Option<Self> {
        Some(Self {
            ring: Consumer::open(new.queue.ring).ok()?,
            refill: HiddenFd::new(new.queue.refill)?,
            bell: HiddenFd::new(new.queue.doorbell)?,
            name: QueueName {
                requests: new.requests,
                number: new.queue.opened.queue,
            },
            session: new.session,
            instance: new.instance,
            generation,
        })
    }

    /// Returns how far the daemon has come with the changes that this process waits for; 0 if it does not
    /// say so.
    pub(crate) fn delivered(&self) -> u64 {
        self.name.requests.delivered()
    }

    /// Returns whether nothing is in the ring that was not read. A ring that is broken counts as read.
    pub(crate) fn is_read(&self) -> bool {
        let mut copy = RecordBuffer::new();
        !matches!(self.ring.peek(&mut copy), Ok(Some(_)))
    }

    /// Returns the ring.
    pub(crate) fn ring_memory(&self) -> &Consumer {
        &self.ring
    }

    /// Asks to be rung for whatever comes, and rings for what came at that very moment. Returns false when
    /// something is there.
    pub(crate) fn arm(&self) -> bool {
        match self.ring.arm() {
            // Nothing more comes out of a broken ring until the queue is made anew.
            Ok(Armed::MaySleep) | Err(_) => true,
            Ok(Armed::Pending) => false,
            Ok(Armed::Crossed) => {
                self.ring();
                true
            }
        }
    }

    /// Makes sure that a read of the program's descriptor does not sleep over a record. A record whose bell
    /// was lost is one that a read finds no bell for: another process has read the bell where no hook saw
    /// it, or its reader ended before it popped. Then the bell is rung once more.
    pub(crate) fn restore_bell(&self, fd: BorrowedFd<'_>) {
        loop {
            match self.ring.look() {
                Look::Quiet | Look::Ringing => return,
                Look::Waiting => {
                    if rustix::io::ioctl_fionread(fd).is_ok_and(|bytes| bytes == 0) {
                        self.ring();
                    }
                    return;
                }
                Look::Unarmed => {
                    if self.arm() {
                        return;
                    }
                }
            }
        }
    }

    /// Returns the file that the daemon reads to ring.
    pub(crate) fn bell_file(&self) -> &HiddenFd {
        &self.bell
    }

    /// Makes the program's descriptor readable, as the daemon does.
    pub(crate) fn ring(&self) {
        if let Some(bell) = self.bell.get() {
            let _ = rustix::io::retry_on_intr(|| rustix::io::pread(bell, &mut [0_u8; 1], 0));
        }
    }

    /// Rings the daemon's refill doorbell: a full ring has room again.
    pub(crate) fn ask_for_more(&self) {
        if let Some(refill) = self.refill.get() {
            let _ = rustix::io::retry_on_intr(|| ring_eventfd(refill));
        }
    }

    /// Sends a registration of this queue to the daemon.
    pub(crate) fn register(&self, make: impl FnOnce(u32) -> Registration) {
        self.name.register(make);
    }

    /// Returns what it takes to close the queue.
    pub(crate) fn name(&self) -> QueueName {
        self.name.clone()
    }
}

/// The number of a queue, and the way to say something of it to the daemon.
#[derive(Clone, Debug)]
pub(crate) struct QueueName {
    requests: Arc<RequestWriter>,
    number: u32,
}

impl QueueName {
    /// Has the daemon close the queue.
    pub(crate) fn close(&self) {
        self.register(|queue| Registration::Close { queue });
    }

    fn register(&self, make: impl FnOnce(u32) -> Registration) {
        const TRIES: u32 = 1000;
        let words = make(self.number).to_words();
        let mut is_flushed = false;
        for _ in 0..TRIES {
            let me = process::this_thread();
            match self.requests.send(words, me, process::is_owner_alive) {
                Sent::Sent | Sent::Reentered => return,
                Sent::Busy => rustix::thread::sched_yield(),
                // The channel is still full after the daemon has looked: it is another daemon.
                Sent::Full if is_flushed => return,
                // The daemon does not answer. The program has the kernel's watch.
                Sent::Full if !connection::flush_requests() => return,
                Sent::Full => is_flushed = true,
            }
        }
    }
}

fn ring_eventfd(fd: BorrowedFd<'_>) -> rustix::io::Result<usize> {
    rustix::io::write(fd, &1_u64.to_ne_bytes())
}
