//! A native subscriber, as a program writes one.

use std::os::fd::AsFd as _;
use std::time::Instant;

use agentfs_proto::client::Client;
use agentfs_proto::message::{QueueKind, QueueOpen, WatchRegisterTree};
use agentfs_proto::record::{EventRef, Kind};
use agentfs_ring::doorbell::{BellKind, Ringer, Waiter, Woken};
use agentfs_ring::{ArmOutcome, Bell, Consumer, OwnerId};

use crate::support::{PATIENCE, soon};

/// A watch of a tree with its ring.
pub(crate) struct Subscriber {
    client: Client,
    consumer: Consumer,
    refill: Ringer,
    doorbell: Waiter,
}

/// One event as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Heard {
    pub(crate) kind: Kind,
    pub(crate) seq: u64,
    pub(crate) path: String,
    pub(crate) new_path: String,
}

impl Subscriber {
    pub(crate) fn new(mut client: Client, path: &str, capacity: u32) -> Self {
        let open = QueueOpen {
            kind: QueueKind::Native,
            capacity,
        };
        let queue = client.open_queue(open, soon()).unwrap();
        let number = queue.opened.queue;
        let watch = WatchRegisterTree {
            queue: number,
            watch: 1,
            path: path.into(),
            activity: false,
        };
        client.call(watch, soon()).unwrap();
        Self {
            client,
            consumer: Consumer::open(queue.ring).unwrap(),
            refill: Ringer::from_fd(queue.refill, BellKind::EventFd),
            doorbell: Waiter::from_fd(queue.doorbell, BellKind::Pipe),
        }
    }

    /// What is in the ring, without waiting. Arms the doorbell.
    fn take(&self) -> (Vec<Heard>, ArmOutcome) {
        let mut claim = self
            .consumer
            .claim(OwnerId::this_process(), |_| true)
            .unwrap();
        let mut heard = Vec::new();
        while let Some(record) = claim.next().unwrap() {
            let event = EventRef::parse(&record).unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            heard.push(Heard {
                kind: event.head().kind,
                seq: event.head().seqno,
                path: text(event.path()),
                new_path: text(event.aux()),
            });
        }
        if claim.release() == Bell::Ring {
            self.refill.ring().unwrap();
        }
        let outcome = claim.arm().unwrap();
        (heard, outcome)
    }

    /// Events until `is_last` says so of one, or the daemon is gone.
    pub(crate) fn until(&self, mut is_last: impl FnMut(&Heard) -> bool) -> Vec<Heard> {
        let deadline = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        loop {
            let (heard, outcome) = self.take();
            let is_done = heard.iter().any(&mut is_last);
            all.extend(heard);
            if is_done {
                return all;
            }
            if outcome == ArmOutcome::WorkPending {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self
                .doorbell
                .wait(Some(self.client.as_fd()), Some(left))
                .unwrap()
            {
                Woken::Rung => assert!(self.doorbell.clear().unwrap()),
                Woken::PeerGone => {
                    all.extend(self.take().0);
                    return all;
                }
                Woken::TimedOut => panic!("nothing more came after {all:?}"),
            }
        }
    }

    /// Everything up to the creation of this path.
    pub(crate) fn until_created(&self, path: &str) -> Vec<Heard> {
        self.until(|heard| heard.kind == Kind::CREATED && heard.path == path)
    }
}

/// `kind path` or `renamed path -> path`, one a line.
pub(crate) fn lines(heard: &[Heard]) -> Vec<String> {
    let line = |it: &Heard| match it.new_path.as_str() {
        "" => format!("{} {}", it.kind, it.path),
        new => format!("{} {} -> {new}", it.kind, it.path),
    };
    heard.iter().map(line).collect()
}
